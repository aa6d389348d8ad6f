// What several views show of a job, taken from the API's answer.

import { badge, h } from "../shared/dom.js";
import * as format from "../shared/format.js";

export const FINISHED = ["succeeded", "failed", "cancelled"];

export function isFinished(job) {
  return FINISHED.includes(job.state);
}

export function nameOf(job) {
  if (job.name) return job.name;
  // A trial's method is shown beside its name.
  const trial = Object.entries(job.trial ?? {})
    .filter(([key]) => key !== "method")
    .map(([key, value]) => (key === "arm" ? value : `${format.sign(key)} ${value}`));
  return trial.length ? trial.join(", ") : format.shortId(job.id);
}

/** Blocks of the teacher and of the student, or what the student was asked to be. */
export function sizesOf(job) {
  const teacher = format.blocks(job.spec.teacher?.architecture?.blocks);
  const { student = {} } = job.spec;
  const blocks = job.result?.student?.blocks ?? student.blocks;
  if (blocks) return `${teacher} → ${format.blocks(blocks)}`;
  if (student.plan) return `${teacher} → plan of ${student.plan.students}`;
  if (student.target) {
    const [[name, value]] = Object.entries(student.target).filter(([key, given]) => key !== "batch" && given !== null);
    return `${teacher} → ${format.label(name).toLowerCase()} ${value}`;
  }
  return `${teacher} → depth ${student.depth}`;
}

/** Accuracies of teacher and student on the test split, or on the validation split where that has no labels. */
export function accuraciesOf(job) {
  const { teacher, student } = job.result ?? {};
  for (const split of ["test", "val"]) {
    const pair = [teacher?.accuracy?.[split], student?.accuracy?.[split]];
    if (pair.every((value) => typeof value === "number")) return { split, teacher: pair[0], student: pair[1] };
  }
  return null;
}

export function stateBadge(job) {
  if (job.cancel_requested && !isFinished(job)) return badge("cancelled", "cancelling");
  if (job.state === "succeeded" && job.accepted === false) return badge("refused", "not accepted");
  return badge(job.state);
}

export function phaseName(phase, job) {
  if (phase === "lit") return job?.spec.method === "lit" || !job ? "LIT" : "First phase";
  return format.label(phase);
}

/** "LIT, epoch 3 of 10, step 12 of 34". */
export function progressText(job) {
  const { progress } = job;
  if (!progress) return job.state === "queued" ? "waiting" : "starting";
  const words = [phaseName(progress.phase, job)];
  // `epoch` counts finished epochs, and steps are those of the epoch after them.
  const epoch = progress.steps ? Math.min(progress.epoch + 1, progress.epochs) : progress.epoch;
  if (progress.epochs) words.push(`epoch ${epoch} of ${progress.epochs}`);
  if (progress.steps) words.push(`step ${progress.step ?? 0} of ${progress.steps}`);
  return words.join(", ");
}

/** When the job is expected to end, if the service says that. */
export function timeLeft(job) {
  if (!job.estimated_finish || isFinished(job)) return "";
  const seconds = (new Date(job.estimated_finish) - Date.now()) / 1000;
  return seconds < 5 ? "nearly done" : `about ${format.duration(seconds)} left`;
}

export function progressBar(label) {
  return h("progress", { max: 1, value: 0, "aria-label": label });
}
