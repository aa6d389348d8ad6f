// The list of jobs, as it changes.

import { get, part, post, query, repeat } from "../shared/api.js";
import { actionButton, h, keyedList, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { accuraciesOf, isFinished, nameOf, progressBar, progressText, sizesOf, stateBadge, timeLeft } from "../job/facts.js";

const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
const COLUMNS = ["State", "Job", "Blocks", "Progress", "Accuracy, %", "Smaller", "Faster", "Created", ""];
const PAGE = 25;

export async function show(place, { parameters }, signal) {
  const filters = Object.fromEntries(["state", "tag", "name", "study"].map((key) => [key, parameters.get(key) ?? ""]));
  const cursor = parameters.get("cursor") ?? "";
  const fault = h("div");
  const body = h("tbody");
  const table = h(
    "table",
    { class: "list jobs", hidden: true },
    h("thead", null, h("tr", null, COLUMNS.map((name) => h("th", { scope: "col" }, name)))),
    body,
  );
  const rows = keyedList(body, (job) => job.id, (job) => jobRow(job, fault));
  const empty = h("div");
  const pages = h("nav", { class: "row pages", "aria-label": "Pages" });
  put(
    place,
    h("div", { class: "head" }, h("h1", null, "Jobs"), filterForm(filters)),
    fault,
    h("div", { class: "scroller" }, table),
    empty,
    pages,
  );

  await repeat(signal, async () => {
    const page = await get(`v1/jobs${query({ ...filters, cursor, limit: PAGE })}`, { signal });
    rows(page.items);
    table.hidden = !page.items.length;
    put(empty, page.items.length ? null : emptyState(filters, cursor));
    const address = (other) => `#/jobs${query({ ...filters, cursor: other })}`;
    if (pages.dataset.next !== String(page.next_cursor)) {
      pages.dataset.next = String(page.next_cursor);
      put(
        pages,
        cursor ? h("a", { class: "button", href: address("") }, "Newest") : null,
        page.next_cursor ? h("a", { class: "button", href: address(page.next_cursor) }, "Older") : null,
      );
    }
    return page.items.some((job) => !isFinished(job)) ? 2 : 6;
  });
}

function filterForm(filters) {
  const state = h("select", { name: "state", value: filters.state }, h("option", { value: "" }, "All states"), STATES.map((name) => h("option", { value: name }, format.label(name))));
  const box = (name, label) => h("input", { name, value: filters[name], placeholder: label, "aria-label": label, size: 12, type: "search" });
  state.setAttribute("aria-label", "State");
  const form = h("form", { class: "row filters", role: "search" }, state, box("name", "Name"), box("tag", "Tag"), box("study", "Study id"), h("button", null, "Filter"));
  const apply = (event) => {
    event?.preventDefault();
    location.hash = `#/jobs${query(Object.fromEntries([...new FormData(form)].map(([key, value]) => [key, value.trim()])))}`;
  };
  form.addEventListener("submit", apply);
  state.addEventListener("change", () => apply());
  return form;
}

function emptyState(filters, cursor) {
  if (cursor || Object.values(filters).some(Boolean)) {
    return h("div", { class: "empty" }, h("p", null, "No job fits these filters."), h("a", { class: "button", href: "#/jobs" }, "Show all jobs"));
  }
  return h(
    "div",
    { class: "empty" },
    h("h2", null, "No jobs yet"),
    h("p", null, "A job takes a trained network (the teacher) and data, and makes a shallower network (the student) that answers like it."),
    h(
      "ol",
      null,
      h("li", null, "Give the teacher's checkpoint: safetensors, or a .pt file."),
      h("li", null, "Give data, with labels or without: a folder of images, an archive, a table, or .npz."),
      h("li", null, "Choose how shallow the student should be, and start."),
    ),
    h("a", { class: "button primary", href: "#/new" }, "Start the first job"),
    h("p", { class: "muted" }, "Or in a shell: ", h("code", null, "litc compress teacher.safetensors --dataset data.zip --depth 14")),
  );
}

function jobRow(first, fault) {
  const cells = Object.fromEntries(COLUMNS.map((name) => [name, h("td", { "data-label": name })]));
  const name = h("a", { class: "name", href: `#/jobs/${part(first.id)}` });
  const under = h("div", { class: "under" });
  cells.Job.append(name, under);
  const bar = progressBar("Progress");
  const at = h("div", { class: "under" });
  cells.Progress.append(bar, at);
  const cancel = actionButton("Cancel", () => post(`v1/jobs/${part(first.id)}/cancel`), fault, { class: "small" });
  cells[""].append(cancel);
  let state = null;

  function update(job) {
    const kind = `${job.state} ${job.cancel_requested} ${job.accepted}`;
    if (kind !== state) put(cells.State, stateBadge(job));
    state = kind;
    setText(name, nameOf(job));
    name.title = job.id;
    cancel.setAttribute("aria-label", `Cancel ${nameOf(job)}`);
    setText(under, [job.spec.method, ...job.tags.map((tag) => `#${tag}`), job.study_id ? "study" : ""].filter(Boolean).join("  "));
    setText(cells.Blocks, sizesOf(job));
    const finished = isFinished(job);
    bar.hidden = finished;
    bar.value = job.progress?.fraction ?? 0;
    const took = job.finished_at && job.started_at ? (new Date(job.finished_at) - new Date(job.started_at)) / 1000 : null;
    const running = [progressText(job), timeLeft(job)].filter(Boolean).join(" · ");
    setText(at, !finished ? running : took === null ? format.NOTHING : `took ${format.duration(took)}`);
    const accuracies = accuraciesOf(job);
    setText(cells["Accuracy, %"], accuracies ? `${accuracies.teacher.toFixed(1)} → ${accuracies.student.toFixed(1)}` : format.NOTHING);
    setText(cells.Smaller, format.times(job.result?.ratios?.parameters));
    setText(cells.Faster, format.times(job.result?.ratios?.latency_batch_1));
    setText(cells.Created, format.age(job.created_at));
    cells.Created.title = format.dateAndTime(job.created_at);
    cancel.hidden = finished || job.cancel_requested;
  }

  return { node: h("tr", null, COLUMNS.map((column) => cells[column])), update };
}
