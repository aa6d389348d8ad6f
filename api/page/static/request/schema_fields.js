// Fields of a form, made from the JSON schema of a request: choices, limits, defaults and descriptions stand there.

import { h, put } from "../shared/dom.js";
import * as format from "../shared/format.js";

/** Looks into the OpenAPI document: the schema at a dotted path below a component, with references followed. */
export function schemaReader(document) {
  const { schemas } = document.components;
  function follow(schema) {
    if (schema?.$ref) return { ...follow(schemas[schema.$ref.split("/").pop()]), ...without(schema, "$ref") };
    const choices = schema?.anyOf ?? schema?.oneOf;
    if (!choices) return schema?.items ? { ...schema, items: follow(schema.items) } : schema;
    const given = choices.filter((choice) => choice.type !== "null");
    return given.length ? { ...follow(given[0]), ...without(schema, "anyOf", "oneOf") } : schema;
  }
  return (component, path) => {
    let schema = follow(schemas[component]);
    for (const name of path.split(".")) schema = follow(schema?.properties?.[name]);
    return schema ?? null;
  };
}

function without(object, ...keys) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}

/**
 * A field for one value, or null if the schema has none. An empty one isn't sent, so the preset's or the family's
 * value counts. `read()` is the value or undefined.
 */
export function schemaField(read, path, label, hint) {
  const schema = read("JobRequest", path);
  if (!schema) return null;
  const id = `field-${path}`;
  const control = schema.enum ? choice(schema, id) : box(schema, id);
  return field({
    path,
    label,
    control,
    hint: hint ?? schema.description?.split("\n\n")[0].replaceAll("\n", " "),
    read: () => valueOf(control, schema),
  });
}

function choice(schema, id) {
  const usual = schema.default ?? null;
  return h(
    "select",
    { id },
    h("option", { value: "" }, usual === null ? "none" : `default: ${usual}`),
    schema.enum.map((name) => h("option", { value: name }, name)),
  );
}

function box(schema, id) {
  const numeric = schema.type === "number" || schema.type === "integer";
  return h("input", {
    id,
    type: numeric ? "number" : "text",
    inputmode: numeric ? "decimal" : null,
    step: schema.type === "integer" ? 1 : numeric ? "any" : null,
    min: schema.minimum ?? null,
    max: schema.maximum ?? null,
    maxlength: schema.maxLength ?? null,
    placeholder: schema.default === undefined || schema.default === null ? "none" : `default: ${schema.default}`,
  });
}

function valueOf(control, schema) {
  const text = control.value.trim();
  if (!text) return undefined;
  return schema.type === "number" || schema.type === "integer" ? Number(text) : text;
}

/** A labelled control with its hint and a place for its error. */
export function field({ path, label, control, hint, read }) {
  const hintId = `${control.id}-hint`;
  const faultId = `${control.id}-fault`;
  const fault = h("span", { class: "fault", id: faultId, role: "alert" });
  control.setAttribute("aria-describedby", hint ? `${hintId} ${faultId}` : faultId);
  const node = h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, label),
    control,
    hint ? h("span", { class: "hint", id: hintId, title: hint.length > 110 ? hint : null }, hint.length > 110 ? `${hint.slice(0, 108)}…` : hint) : null,
    fault,
  );
  const showError = (message) => {
    put(fault, message);
    if (message) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  control.addEventListener("input", () => showError(null));
  return { path, node, control, read, showError };
}

/** Several boxes of an enumeration. Untouched, it isn't sent. */
export function schemaChecks(read, path, label, usual) {
  const schema = read("JobRequest", path);
  return schema?.items?.enum ? checks(path, label, schema.items.enum, usual) : null;
}

export function checks(path, label, names, usual) {
  const boxes = names.map((name) => h("input", { type: "checkbox", value: name, checked: usual.includes(name) }));
  const fault = h("span", { class: "fault", role: "alert" });
  let touched = false;
  const node = h(
    "fieldset",
    { class: "field" },
    h("legend", null, label),
    h("div", { class: "row" }, boxes.map((one, i) => h("label", { class: "check" }, one, format.label(names[i])))),
    fault,
  );
  node.addEventListener("change", () => {
    touched = true;
  });
  return {
    path,
    node,
    control: boxes[0],
    read: () => (touched ? boxes.filter((one) => one.checked).map((one) => one.value) : undefined),
    showError: (message) => put(fault, message),
  };
}

/** Set a value at a dotted path; undefined leaves everything as it is. */
export function setAt(object, path, value) {
  if (value === undefined) return;
  const names = path.split(".");
  const last = names.pop();
  let place = object;
  for (const name of names) place = place[name] ??= {};
  place[last] = value;
}

/** Show each error at the field that it names; those that no field takes are returned. */
export function showErrors(fields, errors) {
  for (const one of fields) one.showError(null);
  const left = [];
  for (const error of errors) {
    const path = error.field.replace(/^job\./, "");
    const target = fields.find((one) => path === one.path) ?? fields.find((one) => path.startsWith(`${one.path}.`));
    if (target) {
      target.showError(error.message);
      target.node.closest("details")?.setAttribute("open", "");
    } else left.push(error);
  }
  const first = fields.find((one) => one.node.querySelector(".fault")?.textContent);
  first?.control?.focus();
  return left;
}
