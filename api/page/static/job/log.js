// The trainer's log, fetched while it is open.

import { pause, send } from "../shared/api.js";
import { h } from "../shared/dom.js";
import { isFinished } from "./facts.js";

const SECONDS_BETWEEN_LOOKS = 3;

export function trainerLog(path, signal) {
  const text = h("pre", { class: "log", tabindex: 0, "aria-label": "The trainer's log" });
  const follow = h("input", { type: "checkbox", checked: true });
  const node = h(
    "details",
    { class: "card" },
    h("summary", null, h("h2", null, "Log")),
    h("label", { class: "check" }, follow, "Scroll to the newest line"),
    text,
  );
  let job = null;
  let running = false;

  async function watch() {
    if (running) return;
    running = true;
    try {
      while (node.open && !signal.aborted) {
        const finished = isFinished(job);
        const log = await (await send(`${path}/log`, { signal })).text();
        if (log !== text.textContent) {
          text.textContent = log;
          if (follow.checked) text.scrollTop = text.scrollHeight;
        }
        if (!log) text.textContent = "The log is empty.";
        if (finished) break;
        await pause(SECONDS_BETWEEN_LOOKS, signal);
      }
    } catch (failure) {
      if (failure.name !== "AbortError") text.textContent = failure.message;
    } finally {
      running = false;
    }
  }

  node.addEventListener("toggle", () => node.open && watch());
  return {
    node,
    update: (now) => {
      job = now;
    },
  };
}
