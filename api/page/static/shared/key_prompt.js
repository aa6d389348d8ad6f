// Asks for an API key, in a dialog.

import { storeKey } from "./api.js";
import { h, setText } from "./dom.js";

/** Resolves when a key was given. `wrong`: the service has refused the key that this browser had. */
export function askForKey(wrong) {
  return new Promise((resolve) => {
    const key = h("input", {
      id: "api-key",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "api-key-hint api-key-fault",
    });
    const remember = h("input", { type: "checkbox", id: "remember-key" });
    const fault = h("p", { id: "api-key-fault", class: "fault", role: "alert" });
    if (wrong) setText(fault, "The service doesn't know this key, or it was revoked. Check it and try again.");
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", null, "API key"),
      h("p", { id: "api-key-hint", class: "muted" }, "This service needs a key. ", h("code", null, "litc keys create NAME"), " makes one."),
      h("label", { class: "field" }, "Key", key),
      h("label", { class: "check" }, remember, "Remember it on this device"),
      fault,
      h("div", { class: "row end" }, h("button", { class: "primary" }, "Use this key")),
    );
    const dialog = h("dialog", { class: "prompt", "aria-label": "API key" }, form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const given = key.value.trim();
      // What a header can carry; fetch would refuse anything else with an error of its own.
      if (!/^[\x21-\x7e]+$/.test(given)) {
        setText(fault, "A key has no blanks and only ASCII characters.");
        return;
      }
      storeKey(given, remember.checked);
      dialog.remove();
      resolve();
    });
    // Nothing works without a key, so Escape doesn't close it.
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    document.body.append(dialog);
    dialog.showModal();
    key.focus();
  });
}
