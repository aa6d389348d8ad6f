// The curves of a training, over the epochs of its phases.

import { get } from "../shared/api.js";
import { chart } from "../shared/charts.js";
import { h } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { isFinished } from "./facts.js";

const PHASES = ["lit", "fine_tune", "prune"];
const SECONDS_BETWEEN_LOOKS = 1;

const CHARTS = [
  { title: "Validation: accuracy and agreement, %", names: ["student_accuracy", "agreement", "teacher_accuracy", "psnr"] },
  {
    title: "Losses",
    names: [
      "loss", "kd_loss", "ir_loss", "label_loss", "attention_loss", "feature_loss", "adversarial_loss",
      "classification_loss", "reconstruction_loss", "discriminator_loss",
    ],
    log: true,
  },
  { title: "IR loss of each section", pattern: /^ir_loss_\d+$/, log: true },
  { title: "Learning rate", names: ["learning_rate"], log: true },
];

const NAMES = { student_accuracy: "student", teacher_accuracy: "teacher", agreement: "agreement with the teacher" };

export function curves(path, signal) {
  const charts = CHARTS.map((options) => ({ options, drawn: chart(options.title) }));
  const grid = h("div", { class: "charts" }, charts.map(({ drawn }) => drawn.node));
  const waiting = h("p", { class: "muted" }, "The curves begin with the first epoch.");
  const node = h("section", { class: "card" }, h("h2", null, "Curves"), waiting, grid);
  grid.hidden = true;
  signal.addEventListener("abort", () => charts.forEach(({ drawn }) => drawn.clear()));
  let seen = -1;
  let busy = false;

  async function refresh(job, epochs) {
    if (busy || epochs === seen) return;
    busy = true;
    seen = epochs;
    try {
      const { items } = await get(`${path}/metrics`, { signal });
      if (items.length) {
        waiting.hidden = true;
        grid.hidden = false;
        for (const { options, drawn } of charts) show(options, drawn, items);
      } else if (isFinished(job)) node.hidden = true;
    } catch {
      // The next epoch, or the end, asks again.
      seen = -1;
    }
    setTimeout(() => {
      busy = false;
      if (latest && !signal.aborted) refresh(...latest);
    }, SECONDS_BETWEEN_LOOKS * 1000);
  }

  let latest = null;
  function update(job, events) {
    if (job.spec.student?.plan) {
      node.hidden = true;
      return;
    }
    const epochs = events.filter((event) => event.type === "epoch").length + (isFinished(job) ? 0.5 : 0);
    if (epochs === 0) return;
    latest = [job, epochs];
    refresh(job, epochs);
  }
  return { node, update };
}

function show({ names, pattern, log }, drawn, items) {
  const offsets = phaseOffsets(items);
  const present = [...new Set(items.map((item) => item.name))].filter((name) => (names ? names.includes(name) : pattern.test(name)));
  present.sort((one, other) => (names ? names.indexOf(one) - names.indexOf(other) : one.localeCompare(other, "en", { numeric: true })));
  drawn.node.hidden = !present.length;
  if (!present.length) return;
  const traces = present.map((name, colour) => {
    const own = items
      .filter((item) => item.name === name)
      .map((item) => ({ x: offsets[item.phase].start + item.epoch, y: item.value, text: `${format.label(item.phase)}, epoch ${item.epoch}` }))
      .sort((one, other) => one.x - other.x);
    const dashed = name === "teacher_accuracy";
    return {
      x: own.map((point) => point.x),
      y: own.map((point) => point.y),
      text: own.map((point) => point.text),
      name: NAMES[name] ?? name.replaceAll("_", " ").replace(/^ir loss (\d+)$/, "section $1"),
      mode: dashed ? "lines" : "lines+markers",
      line: dashed ? { dash: "dash" } : {},
      hovertemplate: "%{y:.4~g} (%{text})<extra>%{fullData.name}</extra>",
      colour,
    };
  });
  const values = traces.flatMap((trace) => trace.y);
  const last = Math.max(...traces.flatMap((trace) => trace.x));
  const boundaries = Object.values(offsets).map(({ start }) => start + 0.5).filter((x) => x > 1 && x < last);
  const logarithmic = log && values.every((value) => value > 0) && Math.max(...values) > 20 * Math.min(...values);
  drawn.draw({
    traces,
    says: traces.map((trace) => `${trace.name} ${format.number(trace.y.at(-1))}`).join(", "),
    layout: {
      showlegend: traces.length > 1,
      boundaries,
      xaxis: { title: "epoch, over all phases", dtick: values.length / traces.length < 12 ? 1 : null },
      yaxis: logarithmic ? { type: "log", dtick: 1, exponentformat: "e" } : {},
    },
  });
}

/** After how many epochs each phase begins. */
function phaseOffsets(items) {
  const offsets = {};
  let start = 0;
  const known = [...new Set([...PHASES, ...items.map((item) => item.phase)])];
  for (const phase of known) {
    const epochs = Math.max(0, ...items.filter((item) => item.phase === phase).map((item) => item.epoch));
    if (epochs) offsets[phase] = { start, epochs };
    start += epochs;
  }
  return offsets;
}
