// A place that takes a file or a folder: dropped, or chosen by a button.

import { h, problemBox, put, setText } from "../shared/dom.js";
import { bytes } from "../shared/format.js";
import { UnusableFolder, packed } from "./packing.js";
import { inspected, sendFile } from "./sending.js";

/**
 * `kind` is teacher or dataset. `changed(upload)` is called with each state of the upload, and with null when another
 * file is begun. `label` names the zone.
 */
export function dropZone(kind, label, hint, changed, viewSignal) {
  const file = h("input", { type: "file", id: `${kind}-file`, class: "unseen" });
  const folder = h("input", { type: "file", id: `${kind}-folder`, class: "unseen", webkitdirectory: true });
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of the ${label}` });
  const said = h("span", { role: "status" });
  const stop = h("button", { type: "button", class: "quiet" }, "Stop");
  const status = h("div", { class: "sending", hidden: true }, bar, said, stop);
  const fault = h("div");
  const zone = h(
    "div",
    { class: "drop", id: `${kind}-drop` },
    h("p", null, hint),
    h(
      "div",
      { class: "row" },
      file,
      h("label", { class: "button", for: file.id }, "Choose a file"),
      folder,
      h("label", { class: "button", for: folder.id }, "Choose a folder"),
    ),
    status,
    fault,
  );
  let running = null;

  async function take(load) {
    running?.abort();
    const own = (running = new AbortController());
    const signal = AbortSignal.any([own.signal, viewSignal]);
    put(fault);
    status.hidden = false;
    stop.hidden = false;
    bar.value = 0;
    setText(said, "Reading…");
    changed(null);
    try {
      const chosen = await load();
      const upload = await sendFile(chosen, kind, (news) => show(chosen, news), signal);
      bar.value = 1;
      setText(said, `${upload.filename}, ${bytes(upload.size)}: being inspected…`);
      stop.hidden = true;
      const done = await inspected(upload.id, changed, signal);
      setText(said, `${done.filename}, ${bytes(done.size)}`);
      changed(done);
    } catch (failure) {
      stop.hidden = true;
      if (own !== running) return;
      if (failure.name === "AbortError") setText(said, "Stopped. Choose the same file again to go on from here.");
      else {
        status.hidden = true;
        put(fault, problemBox(failure instanceof UnusableFolder ? { title: "This folder can't be sent", detail: failure.message } : failure));
      }
    }
  }

  function show(chosen, { step, done, total }) {
    bar.value = done / total;
    const verb = step === "reading" ? "Reading" : "Sending";
    setText(said, `${verb} ${chosen.name}: ${bytes(done)} of ${bytes(total)}`);
  }

  stop.addEventListener("click", () => running?.abort());
  file.addEventListener("change", () => {
    const [chosen] = file.files;
    if (chosen) take(async () => chosen);
    // So that choosing the same file once more is a change.
    file.value = "";
  });
  folder.addEventListener("change", () => {
    const entries = [...folder.files].map((found) => ({ path: found.webkitRelativePath, file: found }));
    if (entries.length) take(() => packedTree(entries, kind));
    folder.value = "";
  });
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", (event) => {
    if (!zone.contains(event.relatedTarget)) zone.classList.remove("over");
  });
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    // Read now: the entries are gone once this handler has returned.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (entries.length) take(() => fromEntries(entries, kind));
  });
  return zone;
}

/** Paths begin with the folder's own name. */
function packedTree(entries, kind) {
  const [name] = entries[0].path.split("/");
  return packed(name, entries.map(({ path, file }) => ({ path: path.slice(name.length + 1), file })), kind);
}

async function fromEntries(entries, kind) {
  const [only] = entries;
  if (entries.length === 1 && only.isFile) return fileOf(only);
  const found = [];
  for (const entry of entries) await collect(entry, found);
  if (entries.length === 1) return packedTree(found, kind);
  return packed("dropped", found, kind);
}

async function collect(entry, found, parent = "") {
  const path = parent + entry.name;
  if (entry.isFile) {
    found.push({ path, file: await fileOf(entry) });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // At most a hundred at a time, and none when all were given.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const child of some) await collect(child, found, `${path}/`);
  }
}

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}
