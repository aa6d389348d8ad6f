// API keys of all owners, for administrators.

import { get, part, post, query, send } from "../shared/api.js";
import { actionButton, badge, h, problemBox, put } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { checks, field, showErrors } from "../request/schema_fields.js";

const SCOPES = ["read", "submit", "admin"];
const USUAL_SCOPES = ["read", "submit"];
const GRACE_SECONDS = 3600;
const COLUMNS = ["State", "Name", "Owner", "Scopes", "Begins with", "Last used", "Expires", ""];

export async function show(place, { parameters }, signal) {
  const cursor = parameters.get("cursor") ?? "";
  const fault = h("div");
  const secret = h("div", { "aria-live": "polite" });
  const body = h("tbody");
  const pages = h("nav", { class: "row pages", "aria-label": "Pages" });

  async function refresh() {
    const page = await get(`v1/keys${query({ limit: 50, cursor })}`, { signal });
    put(body, page.items.map((key) => keyRow(key, fault, secret, refresh)));
    put(pages, page.next_cursor ? h("a", { class: "button", href: `#/keys${query({ cursor: page.next_cursor })}` }, "Older") : null);
  }

  put(
    place,
    h("h1", null, "Keys"),
    newKey(secret, refresh),
    secret,
    fault,
    h("div", { class: "scroller" }, h("table", { class: "list" }, h("thead", null, h("tr", null, COLUMNS.map((name) => h("th", { scope: "col" }, name)))), body)),
    pages,
  );
  await refresh();
}

function newKey(secret, refresh) {
  const text = (path, label, hint) => {
    const control = h("input", { id: `key-${path}`, type: "text", autocomplete: "off" });
    return field({ path, label, control, hint, read: () => control.value.trim() || undefined });
  };
  const expires = h("input", { id: "key-expires_at", type: "datetime-local" });
  const fields = [
    text("name", "Name", "For people to read, such as ci."),
    text("owner", "Owner", "Keys of one owner see the same jobs. Empty: an owner of its own."),
    checks("scopes", "Scopes", SCOPES, USUAL_SCOPES),
    field({ path: "expires_at", label: "Expires", control: expires, hint: "Empty: never.", read: () => (expires.value ? new Date(expires.value).toISOString() : undefined) }),
  ];
  const fault = h("div");
  const form = h("form", { class: "fields", novalidate: true }, fields.map((one) => one.node), h("div", { class: "field" }, h("button", { class: "primary" }, "Make a key")), fault);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(fault);
    const asked = Object.fromEntries(fields.map((one) => [one.path, one.read()]).filter(([, value]) => value !== undefined));
    try {
      showSecret(secret, await post("v1/keys", asked));
      form.reset();
      await refresh();
    } catch (problem) {
      const left = showErrors(fields, problem.errors ?? []);
      if (left.length || !problem.errors?.length) put(fault, problemBox(problem));
    }
  });
  return h("section", { class: "card" }, h("h2", null, "New key"), form);
}

function showSecret(place, key) {
  const copy = h("button", { type: "button", class: "small", onclick: () => navigator.clipboard?.writeText(key.secret) }, "Copy");
  put(
    place,
    h("div", { class: "secret card" }, h("p", null, `The secret of ${key.name}. Nothing shows it again:`), h("div", { class: "row" }, h("code", null, key.secret), navigator.clipboard ? copy : null)),
  );
}

function stateOf(key) {
  if (key.revoked_at && new Date(key.revoked_at) <= new Date()) return ["cancelled", "revoked"];
  if (key.expires_at && new Date(key.expires_at) <= new Date()) return ["cancelled", "expired"];
  return ["succeeded", "valid"];
}

function keyRow(key, fault, secret, refresh) {
  const path = `v1/keys/${part(key.id)}`;
  const [state, words] = stateOf(key);
  const rotate = actionButton(
    "Rotate",
    async () => {
      showSecret(secret, await post(`${path}/rotate`, { grace_seconds: GRACE_SECONDS }));
      await refresh();
    },
    fault,
    { class: "small", title: "A new secret for the same owner and scopes; the old one stays valid for an hour", "aria-label": `Rotate ${key.name}` },
  );
  const revoke = actionButton(
    "Revoke",
    async () => {
      if (!confirm(`Revoke ${key.name}? The next request with it is refused.`)) return;
      await send(path, { method: "DELETE" });
      await refresh();
    },
    fault,
    { class: "small danger", "aria-label": `Revoke ${key.name}` },
  );
  const values = [
    badge(state, words),
    h("span", { class: "name", title: key.id }, key.name),
    key.owner,
    key.scopes.join(", "),
    h("code", null, `${key.prefix}…`),
    key.last_used_at ? format.age(key.last_used_at) : "never",
    key.expires_at ? format.dateAndTime(key.expires_at) : "never",
    state === "succeeded" ? h("div", { class: "row" }, rotate, revoke) : null,
  ];
  return h("tr", null, values.map((value, i) => h("td", { "data-label": COLUMNS[i] }, value)));
}
