// One job, live: what it does, what came out, and what can be done with it.

import { Problem, get, part, post, send } from "../shared/api.js";
import { actionButton, announce, h, outsideLink, problemBox, put, setText } from "../shared/dom.js";
import { followJob } from "../shared/events.js";
import * as format from "../shared/format.js";
import { blockDrawing } from "../job/blocks.js";
import { curves } from "../job/curves.js";
import { eventList } from "../job/event_list.js";
import { isFinished, nameOf, stateBadge } from "../job/facts.js";
import { fileList } from "../job/files.js";
import { trainerLog } from "../job/log.js";
import { progressPanel } from "../job/progress.js";
import { requestPanel } from "../job/request.js";
import { resultPanel } from "../job/results.js";

const SECONDS_BETWEEN_LOOKS = 0.5;

export async function show(place, { id }, signal) {
  const path = `v1/jobs/${part(id)}`;
  let job = await get(path, { signal });
  const events = [];
  const panels = [
    header(path),
    errorPanel(),
    progressPanel(),
    resultPanel(signal),
    curves(path, signal),
    blockDrawing(signal),
    fileList(path, signal),
    eventList(),
    trainerLog(path, signal),
    requestPanel(path),
  ];
  const [head, error, progress, result, curve, blocks, files, ...others] = panels.map((panel) => panel.node);
  const beside = h("div", { class: "beside" }, blocks, files);
  put(place, head, error, progress, h("div", { class: "job-grid" }, result, beside), curve, others);

  const update = () => {
    document.title = `${nameOf(job)} · ${job.state} · LIT`;
    for (const panel of panels) panel.update(job, events);
  };
  update();

  let looking = null;
  let again = false;
  // Of many changes in a short time, only the last needs a look.
  const look = () => {
    if (looking) {
      again = true;
      return;
    }
    looking = get(path, { signal })
      .then((found) => {
        if (found.state !== job.state) announce(`The job is ${found.state}`);
        job = found;
        update();
      })
      .catch(() => {})
      .finally(() => {
        setTimeout(() => {
          looking = null;
          if (again && !signal.aborted) {
            again = false;
            look();
          }
        }, SECONDS_BETWEEN_LOOKS * 1000);
      });
  };

  await followJob(id, {
    signal,
    onEvents: (fresh) => {
      events.push(...fresh);
      update();
    },
    onChange: (news) => {
      if (news?.progress && !isFinished(job) && news.state === job.state) {
        job = { ...job, progress: news.progress, estimated_finish: news.estimated_finish ?? null };
        update();
      } else look();
    },
  });
  look();
}

function header(path) {
  const title = h("h1");
  const state = h("span", { class: "state", role: "status" });
  const facts = h("p", { class: "muted facts-line" });
  const fault = h("div");
  const cancel = actionButton("Cancel job", () => post(`${path}/cancel`), fault);
  const remove = actionButton(
    "Delete",
    async () => {
      if (!confirm("Delete this job with its files? This can't be undone.")) return;
      await send(path, { method: "DELETE" });
      location.hash = "#/jobs";
    },
    fault,
    { class: "danger" },
  );
  const node = h(
    "div",
    { class: "job-head" },
    h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("code", null, path.split("/").pop())),
    h("div", { class: "head" }, h("div", { class: "row" }, title, state), h("div", { class: "row" }, cancel, remove)),
    facts,
    fault,
  );
  let shown = "";

  function update(job) {
    setText(title, nameOf(job));
    const finished = isFinished(job);
    cancel.hidden = finished || job.cancel_requested;
    remove.hidden = !finished;
    const now = JSON.stringify([job.state, job.accepted, job.cancel_requested, job.worker, job.attempt, job.tracking]);
    if (now === shown) return;
    shown = now;
    put(state, stateBadge(job));
    const parts = [
      ...job.tags.map((tag) => h("a", { href: `#/jobs?tag=${part(tag)}`, class: "tag" }, `#${tag}`)),
      `created ${format.dateAndTime(job.created_at)}`,
      job.worker && `on ${job.worker.id} (${job.worker.device})`,
      job.attempt > 1 && `attempt ${job.attempt}`,
      job.study_id && h("a", { href: `#/studies/${part(job.study_id)}` }, "part of a study"),
      ...trackers(job),
    ].filter(Boolean);
    put(facts, parts.flatMap((item, i) => (i ? [" · ", item] : [item])));
  }
  return { node, update };
}

function trackers(job) {
  return Object.entries(job.tracking ?? {})
    .filter(([, run]) => run?.url)
    .map(([name, run]) => outsideLink(run.url, `run in ${name === "mlflow" ? "MLflow" : name}`));
}

const WHAT_TO_DO = {
  "bad-dataset": "Correct the data, send it again, and start a new job.",
  "bad-teacher": "Send the teacher again, or do what the message says.",
  "bad-specification": "Change the field as the message says, under “Run again with changes”.",
  "teacher-near-chance": "Check size, mean, std and class_order of the data, and its labels.",
  "teacher-below-expected": "Check size, resize, mean and std of the data, then class_order and the labels.",
  diverged: "Look at the data, and run it again with lower learning rates.",
  "out-of-memory": "Run it again with a smaller schedule.batch_size, or on a larger worker.",
  "memory-limit": "Run it again with a smaller schedule.batch_size, or ask the operator for more memory.",
  "time-limit": "Run it again with a larger time_limit_s or fewer epochs.",
  "cpu-limit": "Run it again with fewer epochs, or ask the operator for more.",
  "worker-lost": "See the events and the worker's log, then run it again.",
  "too-few-workers": "Run it again with fewer nodes, or start more workers.",
  "trainer-crashed": "See the end of the log below, then run it again.",
  "device-unavailable": "Repair the worker, or run it again with device cpu.",
};

function errorPanel() {
  const node = h("div");
  let shown = false;
  function update(job) {
    if (!job.error || shown) return;
    shown = true;
    const { type, detail, field, member } = job.error;
    const where = [field && `field ${field}`, member && `member ${member}`].filter(Boolean).join(", ");
    put(
      node,
      problemBox(new Problem(0, { title: `The job failed: ${type}`, detail: where ? `${detail} (${where})` : detail })),
      WHAT_TO_DO[type] && h("p", { class: "todo" }, h("strong", null, "What to do: "), WHAT_TO_DO[type]),
    );
  }
  return { node, update };
}
