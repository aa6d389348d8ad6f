// The files of a succeeded job: downloads, and the pictures among them.

import { get, openapi, part, query, send, storedKey, BASE } from "../shared/api.js";
import { h, problemBox, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { sha256Of } from "../upload/sha256.js";

const LARGE_BYTES = 64e6;
const MOST_PICTURE_BYTES = 20e6;
const PICTURES = [".png", ".svg", ".jpg", ".jpeg", ".webp"];
const ROUTE = "/v1/jobs/{job_id}/artifacts/{name}";

export function fileList(path, signal) {
  const node = h("section", { class: "card", hidden: true, "aria-label": "Files" });
  let shown = false;
  async function update(job) {
    if (shown || job.state !== "succeeded") return;
    shown = true;
    try {
      const { items } = await get(`${path}/artifacts`, { signal });
      const presigned = await offersPresigned();
      const status = h("div", { role: "status" });
      put(node, h("h2", null, "Files"), pictures(path, items, signal), table(path, items, status, presigned, signal), status);
      node.hidden = false;
    } catch (problem) {
      shown = false;
      if (!signal.aborted) put(node, problemBox(problem));
    }
  }
  return { node, update };
}

/** Whether downloads take `presigned`, which sends browsers to the store itself. */
async function offersPresigned() {
  try {
    const document = await openapi();
    return (document.paths[ROUTE]?.get?.parameters ?? []).some((parameter) => parameter.name === "presigned");
  } catch {
    return false;
  }
}

function table(path, items, status, presigned, signal) {
  const row = (file) =>
    h(
      "tr",
      null,
      h("th", { scope: "row" }, file.name),
      h("td", { class: "num" }, format.bytes(file.size)),
      h("td", null, h("code", { title: file.sha256, class: "sha" }, file.sha256.slice(0, 8))),
      h("td", null, download(path, file, status, presigned, signal)),
    );
  return h(
    "div",
    { class: "scroller" },
    h(
      "table",
      { class: "files" },
      h("thead", null, h("tr", null, ["File", "Size", "sha256", ""].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, items.map(row)),
    ),
  );
}

/**
 * Without a key the browser itself downloads a link: streamed to disk, resumed, with a progress bar. A link can't send a
 * key, so with one the file comes by fetch: a large file straight to disk where the browser can write one, otherwise as
 * a blob, which browsers keep on disk when it is large.
 */
function download(path, file, status, presigned, signal) {
  const route = `${path}/artifacts/${part(file.name)}`;
  if (storedKey() === null) {
    const href = new URL(route + query({ presigned: presigned ? "true" : "" }), BASE).href;
    return h("a", { class: "button small", href, download: file.name, "aria-label": `Download ${file.name}` }, "Download");
  }
  const button = h("button", { type: "button", class: "small", "aria-label": `Download ${file.name}` }, "Download");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      if (file.size > LARGE_BYTES && window.showSaveFilePicker) await toDisk(route, file, status, signal);
      else await asBlob(route, file, status, signal);
    } catch (failure) {
      if (failure.name !== "AbortError") put(status, problemBox(failure));
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

async function toDisk(route, file, status, signal) {
  const handle = await window.showSaveFilePicker({ suggestedName: file.name });
  const answer = await send(route, { signal });
  let done = 0;
  const counted = new TransformStream({
    transform(piece, controller) {
      done += piece.length;
      setText(status, `${file.name}: ${format.bytes(done)} of ${format.bytes(file.size)}`);
      controller.enqueue(piece);
    },
  });
  await answer.body.pipeThrough(counted).pipeTo(await handle.createWritable(), { signal });
  setText(status, `${file.name} is saved.`);
}

async function asBlob(route, file, status, signal) {
  setText(status, `Fetching ${file.name}…`);
  const blob = await (await send(route, { signal })).blob();
  if ((await sha256Of(blob, () => {}, signal)) !== file.sha256) {
    throw new Error(`${file.name} arrived with another sha256 than the service has: download it again.`);
  }
  const href = URL.createObjectURL(blob);
  const link = h("a", { href, download: file.name });
  document.body.append(link);
  link.click();
  link.remove();
  // The browser has taken the blob over by then.
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
  setText(status, `${file.name} was fetched, and its sha256 is right.`);
}

function pictures(path, items, signal) {
  const shown = items.filter((file) => PICTURES.some((ending) => file.name.endsWith(ending)) && file.size < MOST_PICTURE_BYTES);
  if (!shown.length) return null;
  return h(
    "div",
    { class: "pictures" },
    shown.map((file) => {
      const image = h("img", { alt: file.name });
      // By fetch, because an image's address can't send a key. In an image, an SVG runs no scripts.
      send(`${path}/artifacts/${part(file.name)}`, { signal })
        .then((answer) => answer.blob())
        .then((blob) => {
          image.src = URL.createObjectURL(blob);
          signal.addEventListener("abort", () => URL.revokeObjectURL(image.src));
        })
        .catch(() => image.remove());
      return h("figure", null, image, h("figcaption", null, file.name));
    }),
  );
}
