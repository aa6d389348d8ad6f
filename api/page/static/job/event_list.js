// What happened to a job, newest first.

import { h, keyedList } from "../shared/dom.js";
import * as format from "../shared/format.js";

const MOST_SHOWN = 200;

export function eventList() {
  const body = h("ol", { class: "events" });
  const rows = keyedList(body, (event) => event.seq, (event) => ({ node: eventRow(event), update: () => {} }));
  const count = h("span", { class: "muted" });
  const node = h("details", { class: "card", open: true }, h("summary", null, h("h2", null, "Events"), count), body);
  let shown = 0;

  function update(_job, events) {
    if (events.length === shown) return;
    shown = events.length;
    count.textContent = String(shown);
    rows(events.slice(-MOST_SHOWN).reverse());
  }
  return { node, update };
}

function eventRow(event) {
  return h(
    "li",
    null,
    h("time", { datetime: event.created_at, title: format.dateAndTime(event.created_at) }, format.clock(event.created_at)),
    h("span", { class: "event-type" }, format.label(event.type)),
    h("span", { class: "event-data" }, words(event)),
  );
}

function words({ type, data }) {
  switch (type) {
    case "epoch":
      return `${format.label(data.phase)} ${data.epoch} of ${data.epochs}: ${Object.entries(data.metrics ?? {})
        .filter(([name]) => ["loss", "student_accuracy", "agreement", "psnr"].includes(name))
        .map(([name, value]) => `${name.replaceAll("_", " ")} ${format.number(value)}`)
        .join(", ")}`;
    case "claimed":
      return `by ${data.worker} (${data.device})${data.resumes ? ", goes on from a checkpoint" : ""}`;
    case "joined":
      return `by ${data.worker}, node ${data.node}`;
    case "teacher_measured":
      return [`${format.percent(data.accuracy)} on ${data.split}, ${data.samples} samples`, data.note].filter(Boolean).join(". ");
    case "student_chosen":
      return `depth ${data.depth}, blocks ${format.blocks(data.blocks)}`;
    case "student_measured":
      return `${data.number} of ${data.students}: depth ${data.student?.depth ?? data.depth ?? format.NOTHING}`;
    case "checkpoint":
      return `${format.label(data.phase)}, after epoch ${data.epoch}`;
    case "failed":
    case "lost":
      return data.error?.detail ?? data.error?.type ?? "";
    case "released":
      return data.reason ?? "";
    case "succeeded":
      return data.accepted === false ? "the student is not accepted" : "";
    case "started":
      return data.versions ? `torch ${data.versions.torch ?? ""}` : "";
    default:
      return Object.keys(data ?? {}).length ? JSON.stringify(data) : "";
  }
}
