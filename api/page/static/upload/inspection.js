// What an inspection has recognised in a teacher or a data set.

import { badge, h, problemBox } from "../shared/dom.js";
import * as format from "../shared/format.js";

/** Of any upload, in whatever state its inspection is. */
export function inspectionOf(upload) {
  if (upload.inspection_state === "failed") {
    return problemBox({
      title: `This ${upload.kind === "teacher" ? "file can't be a teacher" : "data can't be used"}`,
      detail: upload.inspection_error?.detail,
    });
  }
  if (upload.inspection_state === "pending" || upload.inspection_state === "running") {
    return h("p", { class: "muted" }, "A worker looks at the file…");
  }
  if (upload.inspection) return teacher(upload.inspection);
  if (upload.dataset_inspection) return dataset(upload.dataset_inspection);
  return h("p", { class: "muted" }, upload.state === "complete" ? "Not inspected." : "Not complete yet.");
}

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

function noteList(kind, notes) {
  return notes.length ? h("ul", { class: `notes ${kind}` }, notes.map((note) => h("li", null, note))) : null;
}

function teacher(found) {
  const { architecture } = found;
  const name = architecture.network?.name;
  const choices = Object.entries(architecture.choices ?? {}).map(
    ([option, values]) => `The tensors don't show "${option}" (${values.join(", ")}): ${values[0]} is assumed.`,
  );
  return h(
    "div",
    { class: "recognised" },
    facts([
      ["Network", name ? `${architecture.family}: ${name}` : architecture.family],
      ["Task", format.label(architecture.task)],
      ["Depth", architecture.depth],
      ["Blocks per section", format.blocks(architecture.blocks)],
      ["Classes", architecture.classes],
      ["Channels", architecture.channels],
      ["Parameters", format.count(found.parameters)],
      ["Latency", found.latency && `${format.milliseconds(found.latency.nanoseconds.total / 1e6)} (${found.latency.device})`],
      ["Weights", found.weights_choices?.length > 1 ? `${found.weights} of ${found.weights_choices.join(", ")}` : null],
    ]),
    noteList("doubt", choices),
    noteList("done", found.unwrapped ?? []),
  );
}

function dataset(found) {
  const { images, texts } = found;
  const range = ([least, most]) => (least === most ? String(least) : `${least} to ${most}`);
  const splits = Object.entries(found.splits).map(([name, split]) => {
    const unlabelled = split.samples - split.labelled;
    return `${name} ${split.samples}${unlabelled ? ` (${unlabelled} without a label)` : ""}`;
  });
  return h(
    "div",
    { class: "recognised" },
    facts([
      ["Format", format.label(found.format)],
      ["For teachers of", found.modalities.join(", ")],
      ["Samples", splits.join(", ")],
      ["Classes", found.number_of_classes || null],
      ["Labels", format.label(found.label_kind)],
      ["Images", images && `${range(images.height)} × ${range(images.width)} pixels${images.grey ? ", grey" : ""}`],
      ["Texts", texts && `${texts.shortest} to ${texts.longest} characters`],
    ]),
    found.needs && h("div", { class: "need" }, badge("waiting", "needed"), " ", h("code", null, found.needs.field), ` ${found.needs.why}`),
    noteList("doubt", found.notes),
    found.skipped.length ? h("p", { class: "muted" }, `Left out: ${found.skipped.slice(0, 5).join(", ")}`) : null,
    found.classes.length ? samplesPerClass(found) : null,
  );
}

function samplesPerClass(found) {
  const totals = found.classes.map((_, i) =>
    Object.values(found.splits).reduce((sum, split) => sum + (split.counts[i] ?? 0), 0),
  );
  const most = Math.max(...totals, 1);
  return h(
    "details",
    null,
    h("summary", null, "Samples per class"),
    h(
      "ul",
      { class: "classes" },
      found.classes.slice(0, 200).map((name, i) =>
        h("li", null, h("span", null, name), h("meter", { min: 0, max: most, value: totals[i] }), h("span", { class: "num" }, totals[i])),
      ),
    ),
  );
}
