// The list of studies, as it changes.

import { get, part, query, repeat } from "../shared/api.js";
import { badge, h, keyedList, put, setText } from "../shared/dom.js";
import * as format from "../shared/format.js";

const COLUMNS = ["State", "Study", "Kind", "Trials", "Result", "Created"];
const PAGE = 25;

export async function show(place, { parameters }, signal) {
  const filters = { state: parameters.get("state") ?? "", tag: parameters.get("tag") ?? "", name: parameters.get("name") ?? "" };
  const cursor = parameters.get("cursor") ?? "";
  const body = h("tbody");
  const rows = keyedList(body, (study) => study.id, studyRow);
  const table = h("table", { class: "list", hidden: true }, h("thead", null, h("tr", null, COLUMNS.map((name) => h("th", { scope: "col" }, name)))), body);
  const empty = h("div");
  const pages = h("nav", { class: "row pages", "aria-label": "Pages" });
  put(
    place,
    h("div", { class: "head" }, h("h1", null, "Studies"), h("a", { class: "button", href: "#/new" }, "New study")),
    h("div", { class: "scroller" }, table),
    empty,
    pages,
  );
  await repeat(signal, async () => {
    const page = await get(`v1/studies${query({ ...filters, cursor, limit: PAGE })}`, { signal });
    rows(page.items);
    table.hidden = !page.items.length;
    put(
      empty,
      page.items.length
        ? null
        : h(
            "div",
            { class: "empty" },
            h("h2", null, "No studies"),
            h("p", null, "A study is a group of jobs with one table: methods side by side, a search for τ, α and β, several depths, or a plan of what a range of students would cost and keep."),
            h("a", { class: "button primary", href: "#/new" }, "Start a study"),
          ),
    );
    put(pages, cursor ? h("a", { class: "button", href: "#/studies" }, "Newest") : null, page.next_cursor ? h("a", { class: "button", href: `#/studies${query({ ...filters, cursor: page.next_cursor })}` }, "Older") : null);
    return page.items.some((study) => study.state === "running") ? 2 : 8;
  });
}

function studyRow(first) {
  const cells = Object.fromEntries(COLUMNS.map((name) => [name, h("td", { "data-label": name })]));
  const name = h("a", { class: "name", href: `#/studies/${part(first.id)}` });
  const tags = h("div", { class: "under" });
  cells.Study.append(name, tags);
  setText(cells.Kind, format.label(first.kind));
  let state = null;
  function update(study) {
    if (study.state !== state) put(cells.State, badge(study.state));
    ({ state } = study);
    setText(name, study.name ?? format.shortId(study.id));
    setText(tags, study.tags.map((tag) => `#${tag}`).join("  "));
    setText(cells.Trials, trials(study.progress));
    setText(cells.Result, choiceText(study.choice));
    setText(cells.Created, format.age(study.created_at));
  }
  return { node: h("tr", null, COLUMNS.map((column) => cells[column])), update };
}

export function trials(progress) {
  const done = progress.succeeded + progress.failed + progress.cancelled + progress.stopped;
  const words = [`${done} of ${progress.planned} done`];
  if (progress.running) words.push(`${progress.running} running`);
  if (progress.failed) words.push(`${progress.failed} failed`);
  return words.join(", ");
}

export function choiceText(choice) {
  if (!choice) return format.NOTHING;
  return Object.entries(choice)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${format.sign(key)} ${Array.isArray(value) ? value.join(", ") : value}`)
    .join(", ");
}
