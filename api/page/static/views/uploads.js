// The teachers and data sets that the service has.

import { get, part, query, repeat, send } from "../shared/api.js";
import { actionButton, badge, h, keyedList, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { inspectionOf } from "../upload/inspection.js";

const PAGE = 50;

export async function show(place, { parameters }, signal) {
  const cursor = parameters.get("cursor") ?? "";
  const fault = h("div");
  const list = h("div", { class: "uploads" });
  const empty = h("div");
  const pages = h("nav", { class: "row pages", "aria-label": "Pages" });
  const rows = keyedList(list, (upload) => upload.id, (upload) => uploadCard(upload, fault));
  put(
    place,
    h("div", { class: "head" }, h("h1", null, "Uploads"), h("a", { class: "button", href: "#/new" }, "Upload files for a new job")),
    fault,
    list,
    empty,
    pages,
  );
  await repeat(signal, async () => {
    const page = await get(`v1/uploads${query({ limit: PAGE, cursor })}`, { signal });
    rows(page.items);
    put(empty, page.items.length ? null : h("div", { class: "empty" }, h("h2", null, "No uploads"), h("p", null, "Teachers and data sets that you send for a job are listed here.")));
    put(
      pages,
      cursor ? h("a", { class: "button", href: "#/uploads" }, "Newest") : null,
      page.next_cursor ? h("a", { class: "button", href: `#/uploads${query({ cursor: page.next_cursor })}` }, "Older") : null,
    );
    return page.items.some((upload) => upload.state !== "complete" || ["pending", "running"].includes(upload.inspection_state)) ? 2 : 10;
  });
}

function uploadCard(first, fault) {
  const path = `v1/uploads/${part(first.id)}`;
  const state = h("span");
  const facts = h("span", { class: "muted" });
  const details = h("div");
  const use = h("a", { class: "button small", href: `#/new${query({ [first.kind]: first.id })}` }, "Use in a new job");
  const remove = actionButton(
    "Delete",
    async () => {
      if (confirm(`Delete ${first.filename}? Jobs keep their results without it, but can't be run again.`)) await send(path, { method: "DELETE" });
    },
    fault,
    { class: "small danger", "aria-label": `Delete ${first.filename}` },
  );
  const node = h(
    "details",
    { class: "card upload" },
    h("summary", null, h("span", { class: "kind-name" }, format.label(first.kind)), h("strong", { class: "name" }, first.filename), state, facts),
    details,
    h("div", { class: "row" }, use, remove, h("code", { class: "muted" }, first.id)),
  );
  let shown = "";
  function update(upload) {
    setText(facts, `${format.bytes(upload.size)} · ${format.age(upload.created_at)}${summaryOf(upload)}`);
    const key = JSON.stringify([upload.state, upload.received, upload.inspection_state, upload.architecture, upload.teacher_weights]);
    if (key === shown) return;
    shown = key;
    put(state, stateOf(upload));
    put(details, inspectionOf(upload), upload.sha256 && h("p", { class: "muted" }, "sha256 ", h("code", { class: "sha" }, upload.sha256)));
    use.hidden = upload.state !== "complete" || upload.inspection_state === "failed";
  }
  return { node, update };
}

function summaryOf(upload) {
  const architecture = upload.inspection?.architecture;
  if (architecture) return ` · ${architecture.network?.name ?? architecture.family}, depth ${architecture.depth}`;
  const data = upload.dataset_inspection;
  const samples = Object.values(data?.splits ?? {}).reduce((sum, split) => sum + split.samples, 0);
  return data ? ` · ${samples} samples, ${data.number_of_classes} classes` : "";
}

function stateOf(upload) {
  if (upload.state !== "complete") return badge("queued", `${Math.floor((100 * upload.received) / upload.size)} % sent`);
  const states = { pending: ["running", "inspecting"], running: ["running", "inspecting"], done: ["succeeded", "recognised"], failed: ["failed", "can't be used"] };
  return upload.inspection_state ? badge(...states[upload.inspection_state]) : badge("queued", "complete");
}
