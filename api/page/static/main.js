// The page's frame: which view is shown, the theme, the key.

import * as api from "./shared/api.js";
import { announce, h, problemBox, put, setText } from "./shared/dom.js";
import { askForKey } from "./shared/key_prompt.js";

/** By the first part of the address after #/. A view's module has `show(place, {id, parameters}, signal)`. */
const VIEWS = {
  jobs: { one: "job", title: "Jobs" },
  new: { title: "New job" },
  uploads: { title: "Uploads" },
  studies: { one: "study", title: "Studies" },
  keys: { title: "Keys" },
};
const FILES = {
  jobs: () => import("./views/jobs.js"),
  job: () => import("./views/job.js"),
  new: () => import("./views/new_job.js"),
  uploads: () => import("./views/uploads.js"),
  studies: () => import("./views/studies.js"),
  study: () => import("./views/study.js"),
  keys: () => import("./views/keys.js"),
};
const THEMES = ["auto", "light", "dark"];

const main = document.getElementById("main");
const keyButton = document.getElementById("key");
const themeButton = document.getElementById("theme");
const connection = document.getElementById("connection");
let leaving = new AbortController();
let shown = false;

function address() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/").map(decoded);
  return { name: name in VIEWS ? name : "jobs", id, parameters: new URLSearchParams(search) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // Someone has cut the address within an escape.
    return text;
  }
}

async function showView() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { name, id, parameters } = address();
  const view = VIEWS[name];
  const file = id && view.one ? view.one : name;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view.title} · LIT`;
  const place = h("div", { class: "view" });
  put(main, place);
  try {
    const module = await FILES[file]();
    if (signal.aborted) return;
    // At the first visit the focus stays where the browser has it; later it follows what was asked for.
    if (shown) main.focus({ preventScroll: true });
    shown = true;
    scrollTo(0, 0);
    await module.show(place, { id, parameters }, signal);
  } catch (failure) {
    if (signal.aborted || failure.name === "AbortError") return;
    if (!(failure instanceof api.Problem)) console.error(failure);
    const back = h("a", { href: `#/${name}`, class: "button" }, `Back to ${view.title.toLowerCase()}`);
    put(place, problemBox(failure), h("p", null, back));
  }
}

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  setText(themeButton, `Theme: ${theme}`);
}

themeButton.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("lit.theme");
  } else {
    document.documentElement.dataset.theme = next;
    localStorage.setItem("lit.theme", next);
  }
  showTheme();
  announce(`Theme: ${next}`);
  dispatchEvent(new Event("themechange"));
});

function showKeyButton() {
  keyButton.hidden = api.storedKey() === null;
}

keyButton.addEventListener("click", () => {
  api.forgetKey();
  location.reload();
});

document.getElementById("skip").addEventListener("click", (event) => {
  // The address after # names the view, so this link can't be followed.
  event.preventDefault();
  main.focus();
});

api.installKeyPrompt(async (wrong) => {
  await askForKey(wrong);
  showKeyButton();
});
api.installConnectionNotice((text) => {
  connection.hidden = text === null;
  setText(connection, text ?? "");
});

async function showKeysLink() {
  const { paths } = await api.openapi();
  // Asked of the document first, because a service without keys would answer with an error.
  if (!paths["/v1/me"] || !paths["/v1/keys"]) return;
  const me = await api.get("v1/me");
  document.querySelector('[data-view="keys"]').hidden = !me.scopes?.includes("admin");
}

async function showVersion() {
  const { info } = await api.openapi();
  setText(document.getElementById("version"), `LIT ${info.version}`);
}

addEventListener("hashchange", showView);
showTheme();
showKeyButton();
showView();
showVersion().catch(() => {});
showKeysLink().catch(() => {});
