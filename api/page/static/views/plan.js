// A plan: what a range of students would cost and keep, as a front and as a table.

import { query } from "../shared/api.js";
import { badge, h } from "../shared/dom.js";
import * as format from "../shared/format.js";

/** plotly's traces of a front: all students, those on the front joined, and the teacher. Rows need x, y and label. */
export function frontChart(rows, teacher, axes) {
  const front = rows.filter((row) => row.front).sort((one, other) => one.x - other.x);
  const others = rows.filter((row) => !row.front);
  const hovertemplate = "%{text}<extra></extra>";
  const trace = (points, more) => ({
    x: points.map((row) => row.x),
    y: points.map((row) => row.y),
    text: points.map((row) => row.label),
    hovertemplate,
    ...more,
  });
  const traces = [
    trace(front, { name: "front", mode: "lines+markers", colour: 0, marker: { size: 9 } }),
    trace(others, { name: "others", mode: "markers", colour: 5, marker: { size: 8 } }),
  ];
  if (teacher && typeof teacher.x === "number" && typeof teacher.y === "number") {
    traces.push(trace([teacher], { name: "teacher", mode: "markers", colour: 1, marker: { size: 11, symbol: "diamond" } }));
  }
  return {
    traces: traces.filter((one) => one.x.length),
    says: rows.map((row) => row.label).join("; "),
    layout: { height: 320, xaxis: { title: axes.x, rangemode: "tozero" }, yaxis: { title: axes.y } },
  };
}

/** Rows of a plan's table as points of the front. */
export function planChart(rows, teacher) {
  const points = rows.map((row) => {
    const y = Math.max(row.untrained ?? -1, row.repaired ?? -1);
    return {
      x: row.latency_ms,
      y,
      front: row.front,
      label: `depth ${row.depth}: ${format.percent(y)} before training, ${format.milliseconds(row.latency_ms)}`,
    };
  });
  const own = teacher && { x: teacher.latency_ms, y: teacher.validation, label: `teacher: ${format.percent(teacher.validation)}, ${format.milliseconds(teacher.latency_ms)}` };
  return frontChart(points, own, { x: "expected latency, ms", y: "validation before training, %" });
}

/** `job` is the plan's request of a job, which a training of one of its students starts from. */
export function planTable(rows, job) {
  const columns = ["Depth", "Kept blocks", "Parameters", "Fewer", "Latency", "Faster", "Damage", "Untrained", "Repaired", "", ""];
  const row = (student) => {
    const cells = [
      format.count(student.parameters),
      format.times(student.parameters_ratio),
      format.milliseconds(student.latency_ms),
      format.times(student.speedup),
      format.number(student.damage),
      format.percent(student.untrained),
      format.percent(student.repaired),
    ];
    const request = { kept: student.kept, ...(typeof student.repaired === "number" ? { repair: true } : {}) };
    const href = `#/new${query({ teacher: job?.teacher, dataset: datasetOf(job), student: JSON.stringify(request) })}`;
    return h(
      "tr",
      { class: student.front ? "chosen" : null },
      h("th", { scope: "row" }, String(student.depth)),
      h("td", null, h("span", { title: JSON.stringify(student.kept) }, format.blocks(student.kept.map((section) => section.length)))),
      cells.map((text) => h("td", null, text)),
      h("td", null, student.front ? badge("succeeded", "front") : null),
      h("td", null, h("a", { class: "button small", href, "aria-label": `Train the student of depth ${student.depth}` }, "Train it")),
    );
  };
  return h(
    "div",
    { class: "scroller" },
    h("table", { class: "compare" }, h("thead", null, h("tr", null, columns.map((name) => h("th", { scope: "col" }, name)))), h("tbody", null, rows.map(row))),
  );
}

/** As the view of a new job has it in its address. */
function datasetOf(job) {
  const { upload, builtin, mounted } = job?.dataset ?? {};
  return upload ?? (builtin ? `builtin:${builtin}` : mounted ? `mounted:${mounted}` : null);
}

/** The students of a plan job's result as the rows of a study's table. */
export function rowsOf(result) {
  const score = (scores) => scores?.[result.metric]?.val ?? null;
  return result.students.map((student) => ({
    ...student,
    parameters_ratio: result.teacher.parameters / student.parameters,
    speedup: student.latency_ms ? result.teacher.latency_ms / student.latency_ms : null,
    untrained: score(student.untrained),
    repaired: score(student.repaired),
  }));
}
