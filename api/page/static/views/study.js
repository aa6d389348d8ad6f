// One study: its table as it grows, its chart, and its result.

import { get, part, post, repeat, send } from "../shared/api.js";
import { chart } from "../shared/charts.js";
import { actionButton, announce, badge, h, problemBox, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { choiceText, trials } from "./studies.js";
import { frontChart, planChart, planTable } from "./plan.js";

const WAIT_SECONDS = 30;

export async function show(place, { id }, signal) {
  const path = `v1/studies/${part(id)}`;
  const title = h("h1");
  const state = h("span", { role: "status" });
  const facts = h("p", { class: "muted facts-line" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Finished trials" });
  const progress = h("span");
  const result = h("p", { class: "verdict" });
  const fault = h("div");
  const error = h("div");
  const charts = h("div", { class: "charts" });
  const table = h("div");
  const cancel = actionButton("Cancel study", () => post(`${path}/cancel`), fault);
  const resume = actionButton("Run failed trials again", () => post(`${path}/resume`).then(() => location.reload()), fault);
  const remove = actionButton(
    "Delete",
    async () => {
      if (!confirm("Delete this study with its jobs and their files? This can't be undone.")) return;
      await send(path, { method: "DELETE" });
      location.hash = "#/studies";
    },
    fault,
    { class: "danger" },
  );
  const request = h("pre", { class: "json", tabindex: 0 });
  put(
    place,
    h("p", { class: "crumbs" }, h("a", { href: "#/studies" }, "Studies"), " / ", h("code", null, id)),
    h("div", { class: "head" }, h("div", { class: "row" }, title, state), h("div", { class: "row" }, cancel, resume, remove)),
    facts,
    fault,
    error,
    h("section", { class: "card" }, h("div", { class: "progress-line" }, bar, progress), result),
    h("section", { class: "card" }, h("h2", null, "Chart"), charts),
    h("section", { class: "card" }, h("h2", null, "Table"), table),
    h("details", { class: "card" }, h("summary", null, h("h2", null, "Request")), request),
  );
  const draw = drawer(charts, signal);
  let etag = null;
  let before = null;

  await repeat(signal, async () => {
    const answer = await send(`${path}${etag ? `?wait=${WAIT_SECONDS}` : ""}`, { headers: etag ? { "If-None-Match": etag } : {}, signal });
    if (answer.status === 304) return 0;
    etag = answer.headers.get("ETag");
    const study = await answer.json();
    const finished = study.state !== "running";
    document.title = `${study.name ?? "Study"} · ${study.state} · LIT`;
    if (before && before !== study.state) announce(`The study is ${study.state}`);
    before = study.state;
    setText(title, study.name ?? format.shortId(study.id));
    put(state, badge(study.cancel_requested && !finished ? "cancelled" : study.state, study.cancel_requested && !finished ? "cancelling" : study.state));
    put(facts, [format.label(study.kind), ...study.tags.map((tag) => `#${tag}`), `created ${format.dateAndTime(study.created_at)}`].join(" · "), " · ", h("a", { href: `#/jobs?study=${part(study.id)}` }, "its jobs"));
    const done = study.progress.succeeded + study.progress.failed + study.progress.cancelled + study.progress.stopped;
    bar.value = finished ? 1 : done / Math.max(1, study.progress.planned);
    setText(progress, trials(study.progress));
    put(
      result,
      study.choice ? [h("strong", null, "Result: "), choiceText(study.choice), ". "] : finished ? null : "The result stands here when the study is finished. ",
      study.best_job ? h("a", { href: `#/jobs/${part(study.best_job)}` }, finished ? "Best job" : "Best job so far") : null,
    );
    put(error, study.error ? problemBox({ title: `The study failed: ${study.error.type}`, detail: study.error.detail }) : null);
    cancel.hidden = finished || study.cancel_requested;
    const lost = study.progress.failed + study.progress.cancelled > 0;
    resume.hidden = !finished || !(lost || study.state !== "succeeded");
    remove.hidden = !finished;
    setText(request, JSON.stringify(study.request, null, 2));
    if (study.table) {
      put(table, tableOf(study));
      draw(study);
    }
    return finished ? null : 1;
  });
}

function drawer(place, signal) {
  const made = new Map();
  signal.addEventListener("abort", () => made.forEach((one) => one.clear()));
  const at = (title) => {
    if (!made.has(title)) {
      made.set(title, chart(title));
      place.append(made.get(title).node);
    }
    return made.get(title);
  };
  return (study) => {
    const { rows, teacher } = study.table;
    if (study.kind === "plan" && rows.length) at("What each student costs and keeps").draw(planChart(rows, teacher));
    if (study.kind === "depth") {
      const points = rows
        .filter((row) => typeof row.validation_mean === "number" && typeof row.latency_ms === "number")
        .map((row) => ({ x: row.latency_ms, y: row.validation_mean, front: row.front ?? row.chosen, label: `depth ${row.depth}: ${format.percent(row.validation_mean)}, ${format.milliseconds(row.latency_ms)}` }));
      const own = teacher && { x: teacher.latency_ms, y: teacher.validation, label: `teacher: ${format.percent(teacher.validation)}, ${format.milliseconds(teacher.latency_ms)}` };
      if (points.length) at("Accuracy against latency").draw(frontChart(points, own, { x: "latency, ms", y: "validation, %" }));
    }
    if (study.kind === "search") for (const stage of new Set(rows.map((row) => row.stage))) at(`Stage ${format.sign(stage)}`).draw(stageChart(rows, stage));
    if (study.kind === "compare") at("Test score of each arm, with its 95 % interval").draw(armChart(rows, teacher));
  };
}

function stageChart(rows, stage) {
  const own = rows.filter((row) => row.stage === stage && typeof row.validation_mean === "number").sort((one, other) => one[stage] - other[stage]);
  return {
    traces: [
      {
        x: own.map((row) => row[stage]),
        y: own.map((row) => row.validation_mean),
        error_y: { type: "data", array: own.map((row) => row.validation_std ?? 0), thickness: 1 },
        mode: "lines+markers",
        name: "validation",
        marker: { size: own.map((row) => (row.chosen ? 11 : 6)) },
        hovertemplate: `${format.sign(stage)} %{x}: %{y:.2f} %<extra></extra>`,
        colour: 0,
      },
    ],
    says: own.map((row) => `${format.sign(stage)} ${row[stage]}: ${format.percent(row.validation_mean)}${row.chosen ? ", chosen" : ""}`).join("; "),
    layout: { showlegend: false, xaxis: { title: format.sign(stage) }, yaxis: { title: "validation, %" } },
  };
}

function armChart(rows, teacher) {
  const own = rows.filter((row) => typeof row.test_mean === "number");
  const traces = [
    {
      x: own.map((row) => row.arm),
      y: own.map((row) => row.test_mean),
      error_y: {
        type: "data",
        symmetric: false,
        array: own.map((row) => (row.test_high ?? row.test_mean) - row.test_mean),
        arrayminus: own.map((row) => row.test_mean - (row.test_low ?? row.test_mean)),
        thickness: 1.5,
      },
      mode: "markers",
      marker: { size: 10 },
      name: "students",
      hovertemplate: "%{x}: %{y:.2f} %<extra></extra>",
      colour: 0,
    },
  ];
  if (typeof teacher?.test === "number" && own.length) {
    traces.push({ x: own.map((row) => row.arm), y: own.map(() => teacher.test), mode: "lines", line: { dash: "dash" }, name: "teacher", hovertemplate: "teacher %{y:.2f} %<extra></extra>", colour: 1 });
  }
  return {
    traces,
    says: own.map((row) => `${row.arm} ${format.percent(row.test_mean)}`).join(", "),
    layout: { xaxis: { type: "category" }, yaxis: { title: "test, %" } },
  };
}

/** How a column is shown; what isn't here is shown as it is. */
const SHOWN = {
  parameters: format.count,
  flops: format.count,
  file_size: format.bytes,
  latency_ms: format.milliseconds,
  speedup: format.times,
  seconds: format.duration,
};
function heading(column) {
  const sign = format.sign(column);
  return sign === column ? format.label(column) : sign;
}

const HIDDEN = new Set(["job_id", "chosen"]);

function cellText(column, value) {
  if (value === null || value === undefined) return format.NOTHING;
  if (SHOWN[column]) return SHOWN[column](value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return /mean|std|low|high|drop/.test(column) ? value.toFixed(2) : format.number(value);
  return String(value);
}

function tableOf(study) {
  const { columns, rows, teacher } = study.table;
  if (!rows.length) return h("p", { class: "muted" }, "The rows come with the first trials.");
  if (study.kind === "plan") return planTable(rows, study.request.job);
  const shown = columns.filter((column) => !HIDDEN.has(column) && rows.some((row) => row[column] !== null && row[column] !== 0));
  const link = (row) => (row.job_id ? h("a", { href: `#/jobs/${part(row.job_id)}` }, "job") : null);
  return h(
    "div",
    { class: "scroller" },
    h(
      "table",
      { class: "compare" },
      h("thead", null, h("tr", null, shown.map((name) => h("th", { scope: "col" }, heading(name))), h("th", { scope: "col" }, "Best"))),
      h(
        "tbody",
        null,
        rows.map((row) =>
          h("tr", { class: row.chosen ? "chosen" : null }, shown.map((column, i) => h(i ? "td" : "th", i ? null : { scope: "row" }, cellText(column, row[column]))), h("td", null, link(row), row.chosen ? [" ", badge("succeeded", "best")] : null)),
        ),
      ),
    ),
    teacher && h("p", { class: "muted" }, `Teacher: validation ${format.percent(teacher.validation)}, test ${format.percent(teacher.test)}, ${format.count(teacher.parameters)} parameters, ${format.milliseconds(teacher.latency_ms)}.`),
  );
}
