// The phases of a job as steps, with the bar of the whole.

import { h, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { isFinished, phaseName, progressBar, progressText, timeLeft } from "./facts.js";

const BEFORE = ["claimed", "preparing", "loading", "measuring_teacher", "choosing_blocks"];
const AFTER = ["measuring_student", "exporting", "storing"];
/** What an event says of the phase after it, for a service that names only the phases of training. */
const NEXT_PHASE = { claimed: "preparing", started: "loading", teacher_measured: "choosing_blocks" };

function phasesOf(job) {
  if (job.spec.student?.plan) return [...BEFORE, "plan", "storing"];
  const { schedule = {}, then = [] } = job.spec;
  const training = ["lit", "fine_tune"].filter((phase) => schedule[phase]?.epochs !== 0);
  if (then.some((step) => step.startsWith("prune"))) training.push("prune");
  return [...BEFORE, ...training, ...AFTER];
}

/** The index of the present phase; -1 before the first, and the number of phases when all are done. */
function present(job, events, phases) {
  if (job.state === "succeeded") return phases.length;
  const own = events.filter((event) => event.attempt === job.attempt);
  const told = [job.progress?.phase, ...own.map((event) => (event.type === "epoch" ? event.data.phase : NEXT_PHASE[event.type]))];
  if (own.some((event) => event.type === "student_chosen")) told.push(phases[BEFORE.length]);
  if (job.state === "queued") return -1;
  return Math.max(0, ...told.map((phase) => phases.indexOf(phase)));
}

export function progressPanel() {
  const steps = h("ol", { class: "steps", "aria-label": "Phases" });
  const bar = progressBar("Progress of the whole job");
  const words = h("span", { role: "status" });
  const left = h("span", { class: "muted" });
  const line = h("div", { class: "progress-line" }, bar, h("div", { class: "row between" }, words, left));
  const node = h("section", { class: "card", "aria-label": "Progress" }, steps, line);
  let shown = "";

  function update(job, events) {
    const phases = phasesOf(job);
    const now = present(job, events, phases);
    const finished = isFinished(job);
    const key = `${phases} ${now} ${job.state}`;
    if (key !== shown) {
      shown = key;
      put(steps, phases.map((phase, i) => stepOf(phase, i, now, job)));
    }
    bar.value = job.state === "succeeded" ? 1 : (job.progress?.fraction ?? 0);
    if (job.state === "queued" && job.waiting) setText(words, `Queued: ${job.waiting.detail}`);
    else if (finished) setText(words, endText(job));
    else if (job.progress && phases[now] === job.progress.phase) setText(words, progressText(job));
    else setText(words, phases[now] ? phaseName(phases[now], job) : "Waiting for a worker");
    const percent = finished ? "" : `${Math.round(100 * (job.progress?.fraction ?? 0))} %`;
    setText(left, [percent, timeLeft(job)].filter(Boolean).join(" · ") || " ");
  }
  return { node, update };
}

function stepOf(phase, i, now, job) {
  const failed = i === now && (job.state === "failed" || job.state === "cancelled");
  const state = failed ? "stopped" : i < now ? "done" : i === now ? "now" : "later";
  return h("li", { class: state, "aria-current": state === "now" ? "step" : null }, h("span", null, phaseName(phase, job)));
}

function endText(job) {
  const seconds = job.started_at ? (new Date(job.finished_at) - new Date(job.started_at)) / 1000 : null;
  const after = seconds === null ? "" : ` after ${format.duration(seconds)}`;
  if (job.state === "succeeded") return `Done${after}`;
  return `${format.label(job.state)}${after}`;
}
