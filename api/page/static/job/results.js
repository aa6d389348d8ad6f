// The teacher against the student, and what the report notes.

import { chart } from "../shared/charts.js";
import { badge, h, put } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { planChart, planTable, rowsOf } from "../views/plan.js";

export function resultPanel(signal) {
  const node = h("section", { class: "card result", hidden: true, "aria-label": "Result" });
  let shown = null;
  function update(job) {
    if (!job.result || shown === job.id) return;
    shown = job.id;
    node.hidden = false;
    if (job.result.students) showPlan(node, job, signal);
    else put(node, h("h2", null, "Teacher against student"), verdict(job), comparison(job.result), exportTable(job.result), notes(job.result.notes));
  }
  return { node, update };
}

function verdict(job) {
  const { result } = job;
  const drop = result.accuracy_drop;
  const interval = result.accuracy_drop_interval;
  const words = [];
  if (typeof drop === "number") {
    const bound = result.accuracy_drop_is === "bounded by agreement" ? "at most " : "";
    words.push(`The student loses ${bound}${drop.toFixed(2)} points of test accuracy`);
    if (interval) words.push(` (95 % interval ${interval[0].toFixed(2)} to ${interval[1].toFixed(2)}, ${result.accuracy_drop_samples} samples)`);
    words.push(". ");
  }
  const accepted = job.accepted ?? result.accepted;
  const most = job.spec.accept?.max_accuracy_drop;
  const least = job.spec.accept?.min_psnr;
  const asked = most !== null && most !== undefined ? `at most ${most} points were allowed` : `at least ${least} dB were asked for`;
  return h(
    "p",
    { class: "verdict" },
    accepted === true ? [badge("succeeded", "accepted"), " "] : null,
    accepted === false ? [badge("refused", "not accepted"), " "] : null,
    words,
    typeof accepted === "boolean" ? `${format.label(asked)}. ` : null,
    result.outcome === "no-better-than-untrained" ? "The training brought no gain over the untrained student. " : null,
    result.outcome === "at-chance" ? "The student's answers are hardly better than guessing. " : null,
  );
}

const SCORES = [
  ["accuracy", "Accuracy", format.percent],
  ["top5", "Top 5", format.percent],
  ["agreement", "Agreement with the teacher", format.percent],
  ["calibration_error", "Calibration error", format.percent],
  ["psnr", "PSNR against the teacher", (value) => (typeof value === "number" ? `${value.toFixed(2)} dB` : format.NOTHING)],
  ["ssim", "SSIM", format.number],
  ["l1", "L1", format.number],
  ["fid", "FID", format.number],
  ["reconstruction_l1", "Reconstruction L1", format.number],
];

/** Rows: name, value of the teacher, of the student, and what has been gained. */
function comparison(result) {
  const { teacher, student, ratios } = result;
  const rows = [];
  for (const [key, name, show] of SCORES) {
    for (const [split, splitName] of [["test", "test"], ["val", "validation"]]) {
      const [own, other] = [teacher[key]?.[split], student[key]?.[split]];
      if (typeof other !== "number" && typeof own !== "number") continue;
      if (key !== "accuracy" && split === "val" && typeof student[key]?.test === "number") continue;
      const difference = key === "accuracy" && typeof own === "number" && typeof other === "number" ? `${format.points(other - own)} points` : "";
      const shownTeacher = key === "agreement" || key === "psnr" ? "" : show(own);
      rows.push([`${name}, ${splitName}`, shownTeacher, show(other), difference]);
    }
  }
  const before = result.baselines?.untrained?.accuracy?.test;
  if (typeof before === "number") rows.push(["Accuracy before its training, test", "", format.percent(before), ""]);
  rows.push(
    ["Depth", teacher.depth, student.depth, ""],
    ["Blocks per section", format.blocks(teacher.blocks), format.blocks(student.blocks), ""],
    ["Parameters", format.count(teacher.parameters), format.count(student.parameters), fewer(ratios.parameters)],
    ["FLOPs for one input", format.count(teacher.flops), format.count(student.flops), fewer(ratios.flops)],
    ["File", format.bytes(teacher.file_size), format.bytes(student.file_size), fewer(ratios.file_size, "smaller")],
  );
  for (const [key, latency] of Object.entries(student.latency ?? {})) {
    const batch = key.replace("batch_", "");
    const own = teacher.latency?.[key];
    const speedup = own && latency.p50_ms ? own.p50_ms / latency.p50_ms : null;
    rows.push([`Latency, batch ${batch}, median`, format.milliseconds(own?.p50_ms), format.milliseconds(latency.p50_ms), fewer(speedup, "faster")]);
  }
  return h(
    "div",
    { class: "scroller" },
    h(
      "table",
      { class: "compare gains" },
      h("thead", null, h("tr", null, ["", "Teacher", "Student", "Gain"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, rows.map(([name, ...values]) => h("tr", null, h("th", { scope: "row" }, name), values.map((value) => h("td", null, String(value)))))),
    ),
  );
}

function fewer(ratio, word = "fewer") {
  return typeof ratio === "number" ? `${format.times(ratio)} ${word}` : "";
}

function exportTable(result) {
  const made = [
    ...(result.exports ?? []).map((one) => [one.kind, one.file, one.size, one.accuracy, one.top1_agreement, one.error, one.latency]),
    ...(result.then ?? []).map((one) => [one.step, one.file, one.file_size, one.accuracy?.test, one.agreement?.test, one.error]),
  ];
  if (!made.length) return null;
  const row = ([kind, file, size, accuracy, agreement, error, latency]) => {
    const times = ["batch_1", "batch_32"].map((batch) => format.milliseconds(latency?.[batch]?.p50_ms));
    const values = error
      ? [h("td", { colspan: 5, class: "fault" }, error)]
      : [format.bytes(size), format.percent(accuracy), format.percent(agreement), ...times].map((value) => h("td", null, value));
    return h("tr", null, h("th", { scope: "row" }, kind), h("td", null, file), values);
  };
  return h(
    "div",
    { class: "scroller" },
    h(
      "table",
      { class: "compare" },
      h("caption", null, "Formats, each compared with the student on the test split; latency on the CPU by the format's own runtime, median"),
      h("thead", null, h("tr", null, ["Format", "File", "Size", "Accuracy", "Same answers", "Latency, batch 1", "Batch 32"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, made.map(row)),
    ),
  );
}

function notes(list = []) {
  return list.length ? h("ul", { class: "notes doubt" }, list.map((note) => h("li", null, note))) : null;
}

function showPlan(node, job, signal) {
  const { result } = job;
  const rows = rowsOf(result);
  const front = chart("What each student costs and keeps");
  signal.addEventListener("abort", front.clear);
  const best = rows.filter((row) => row.front).length;
  put(
    node,
    h("h2", null, "Plan"),
    h("p", null, `${rows.length} students were measured without training, ${best} of them on the front.`),
    notes(result.notes),
    front.node,
    planTable(rows, job.request),
  );
  front.draw(planChart(rows, { latency_ms: result.teacher.latency_ms, validation: result.teacher.scores?.[result.metric]?.val }));
}
