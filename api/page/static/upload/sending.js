// Sends a file in pieces, as docs/api.md describes: announce, ask for the offset, send from there.

import { Problem, get, part, pause, post, send } from "../shared/api.js";
import { sha256Of } from "./sha256.js";

const PIECE_BYTES = 4 << 20;
const MOST_FAILURES = 8;
const WAIT_SECONDS = 30;

/**
 * The complete upload of a Blob with a name. `progress({step, done, total})` is told what happens: `step` is "reading"
 * (its sha256) or "sending".
 *
 * The service knows a file by its sha256, and an unfinished upload is found again by its sha256 and size in this
 * browser's storage. So after a reload the same file goes on where it stopped.
 */
export async function sendFile(file, kind, progress, signal) {
  const total = file.size;
  if (total === 0) throw new Problem(0, { title: "The file is empty", detail: `${file.name} has no bytes.` });
  const sha256 = await sha256Of(file, (done) => progress({ step: "reading", done, total }), signal);
  const upload = (await unfinished(kind, sha256, signal)) ?? (await announce(file, kind, sha256, signal));
  if (upload.state === "complete") return upload;
  remember(kind, sha256, upload.id);
  await sendBytes(upload, file, (done) => progress({ step: "sending", done, total }), signal);
  forget(kind, sha256);
  return get(`v1/uploads/${part(upload.id)}`, { signal });
}

/** The upload when its inspection is finished. `seen` gets each state on the way. */
export async function inspected(id, seen, signal) {
  for (;;) {
    const upload = await get(`v1/uploads/${part(id)}?wait=${WAIT_SECONDS}`, { signal });
    seen(upload);
    if (!["pending", "running"].includes(upload.inspection_state)) return upload;
  }
}

async function announce(file, kind, sha256, signal) {
  const filename = file.name.slice(-255) || "upload";
  return post("v1/uploads", { kind, filename, size: file.size, sha256 }, { signal });
}

const placeOf = (kind, sha256) => `lit.upload.${kind}.${sha256}`;

function remember(kind, sha256, id) {
  localStorage.setItem(placeOf(kind, sha256), id);
}

function forget(kind, sha256) {
  localStorage.removeItem(placeOf(kind, sha256));
}

async function unfinished(kind, sha256, signal) {
  const id = localStorage.getItem(placeOf(kind, sha256));
  if (id === null) return null;
  try {
    const upload = await get(`v1/uploads/${part(id)}`, { signal });
    if (upload.state === "uploading") return upload;
  } catch (problem) {
    if (problem.status !== 404) throw problem;
  }
  // Deleted, of another key, or complete: then announcing the file finds it.
  forget(kind, sha256);
  return null;
}

async function sendBytes(upload, file, progress, signal) {
  const path = `v1/uploads/${part(upload.id)}`;
  let offset = upload.received;
  let failures = 0;
  progress(offset);
  // At least once: an empty piece at the end completes an upload that has all its bytes.
  do {
    try {
      offset = await sendPiece(path, file, offset, signal);
      failures = 0;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      const lasting = problem.status > 0 && problem.status < 500 && problem.status !== 409;
      failures += 1;
      if (lasting || failures > MOST_FAILURES) throw problem;
      if (problem.status !== 409) await pause(Math.min(2 ** failures / 2, 15), signal);
      const answer = await send(path, { method: "HEAD", signal });
      offset = Number(answer.headers.get("Upload-Offset"));
      const now = await get(path, { signal });
      if (now.state === "complete") return;
    }
    progress(offset);
  } while (offset < file.size);
}

async function sendPiece(path, file, offset, signal) {
  const headers = { "Content-Type": "application/octet-stream", "Upload-Offset": String(offset) };
  const answer = await send(path, {
    method: "PATCH",
    headers,
    body: file.slice(offset, offset + PIECE_BYTES),
    signal,
  });
  return Number(answer.headers.get("Upload-Offset"));
}
