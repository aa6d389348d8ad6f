// The request and its specification, and running it again with changes.

import { idempotencyKey, part, post } from "../shared/api.js";
import { h, problemBox, put, setText } from "../shared/dom.js";

export function requestPanel(path) {
  const spec = h("pre", { class: "json", tabindex: 0, "aria-label": "Specification" });
  const editor = h("textarea", { rows: 16, spellcheck: "false", class: "json", id: "rerun-request" });
  const patchText = h("pre", { class: "json patch", "aria-live": "polite" });
  const fault = h("div");
  const button = h("button", { type: "button", class: "primary" }, "Run again");
  const node = h(
    "details",
    { class: "card" },
    h("summary", null, h("h2", null, "Request"), h("span", { class: "muted" }, "run again with changes")),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        null,
        h("label", { for: editor.id }, "The request, as it was sent. Change what should be different:"),
        editor,
        h("p", { class: "muted" }, "Changes that are sent (JSON merge patch, null removes a field):"),
        patchText,
        fault,
        button,
      ),
      h("div", null, h("p", { class: "muted" }, "The specification: the request with every value filled in"), spec),
    ),
  );
  let request = null;

  /** The merge patch from the request to the text; null if the text is no JSON object. */
  function changes() {
    try {
      const edited = JSON.parse(editor.value);
      if (edited === null || Array.isArray(edited) || typeof edited !== "object") throw new Error("Write a JSON object.");
      return { patch: mergePatch(request, edited) };
    } catch (failure) {
      return { failure };
    }
  }

  editor.addEventListener("input", () => {
    const { patch, failure } = changes();
    setText(patchText, failure ? failure.message : JSON.stringify(patch, null, 2));
    button.disabled = Boolean(failure);
  });
  button.addEventListener("click", async () => {
    button.disabled = true;
    put(fault);
    try {
      const job = await post(`${path}/rerun`, changes().patch, {
        type: "application/merge-patch+json",
        headers: { "Idempotency-Key": idempotencyKey() },
      });
      location.hash = `#/jobs/${part(job.id)}`;
    } catch (problem) {
      put(fault, problemBox(problem));
    } finally {
      button.disabled = false;
    }
  });

  function update(job) {
    if (request) return;
    ({ request } = job);
    editor.value = JSON.stringify(request, null, 2);
    setText(patchText, "{}");
    setText(spec, JSON.stringify(job.spec, null, 2));
  }
  return { node, update };
}

/** What has to be merged into `before` to get `after` (RFC 7396). */
export function mergePatch(before, after) {
  const patch = {};
  for (const key of Object.keys(before)) if (!(key in after)) patch[key] = null;
  for (const [key, value] of Object.entries(after)) {
    const old = before[key];
    if (isObject(old) && isObject(value)) {
      const inner = mergePatch(old, value);
      if (Object.keys(inner).length) patch[key] = inner;
    } else if (JSON.stringify(old) !== JSON.stringify(value)) patch[key] = value;
  }
  return patch;
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}
