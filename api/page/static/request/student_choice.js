// How shallow the student should be: a depth, with what each would save, or a target that it must reach.

import { h, put } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { field } from "./schema_fields.js";

const TARGETS = {
  latency_ratio: ["times faster", 1.5],
  latency_ms: ["milliseconds at most", ""],
  parameters_ratio: ["times fewer parameters", 2],
  flops_ratio: ["times fewer FLOPs", 2],
  size_mb: ["megabytes at most", ""],
  max_accuracy_drop: ["points lost before training, at most", 2],
};

/** `given` is a student of an earlier request or of a plan, or null. */
export function studentChoice(given, changed) {
  const table = h("div");
  const byTarget = h("input", { type: "radio", name: "student", value: "target", id: "student-target" });
  const kind = h("select", { "aria-label": "Target" }, Object.entries(TARGETS).map(([name, [words]]) => h("option", { value: name }, words)));
  const value = h("input", { type: "number", step: "any", min: 0, id: "target-value", value: 1.5, "aria-label": "Value of the target", size: 6 });
  const asGiven = given && h("label", { class: "check" }, h("input", { type: "radio", name: "student", value: "given", checked: true }), "As chosen in the plan: ", h("code", null, JSON.stringify(given)));
  const target = h("div", { class: "row target" }, h("label", { class: "check" }, byTarget, "Reach a target:"), value, kind);
  const fault = h("span", { class: "fault", role: "alert" });
  const node = h("div", { class: "student" }, asGiven, table, target, fault);
  kind.addEventListener("change", () => {
    [, value.value] = TARGETS[kind.value];
  });
  for (const control of [kind, value]) control.addEventListener("input", () => { byTarget.checked = true; });
  node.addEventListener("input", () => {
    put(fault);
    changed();
  });

  function show(inspection) {
    const students = inspection?.students ?? [];
    const options = students.slice(0, -1);
    const whole = students.at(-1);
    if (!options.length) {
      put(table, h("p", { class: "muted" }, inspection ? "No shallower student is possible." : "The depths are listed once the teacher is recognised."));
      return;
    }
    const usual = options.findLast((option) => option.parameters_ratio >= 2) ?? options[0];
    const row = (option) => {
      const id = `depth-${option.depth}`;
      const checked = !given && !byTarget.checked && option === usual;
      return h(
        "tr",
        null,
        h("th", { scope: "row" }, h("label", { class: "check", for: id }, h("input", { type: "radio", name: "student", id, value: option.depth, checked }), `Depth ${option.depth}`)),
        h("td", null, format.blocks(option.blocks)),
        h("td", null, format.count(option.parameters)),
        h("td", null, format.times(option.parameters_ratio)),
        h("td", null, format.count(option.flops)),
        h("td", null, format.milliseconds(option.latency_ms)),
        h("td", null, option.latency_ms ? format.times(whole.latency_ms / option.latency_ms) : format.NOTHING),
      );
    };
    const teacherRow = h(
      "tr",
      { class: "muted" },
      h("th", { scope: "row" }, `Teacher, depth ${whole.depth}`),
      [format.blocks(whole.blocks), format.count(whole.parameters), "", format.count(whole.flops), format.milliseconds(whole.latency_ms), ""].map((text) => h("td", null, text)),
    );
    put(
      table,
      h(
        "div",
        { class: "scroller depths" },
        h(
          "table",
          { class: "compare" },
          h("thead", null, h("tr", null, ["Student", "Blocks", "Parameters", "Fewer", "FLOPs", "Latency", "Faster"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", null, options.map(row), teacherRow),
        ),
      ),
      h("p", { class: "muted" }, "With even shares of the blocks of each section. Latencies are expected ones, from the teacher's measured blocks."),
    );
    changed();
  }

  function read() {
    const chosen = node.querySelector('input[name="student"]:checked')?.value;
    if (chosen === "given") return given;
    if (chosen === "target") return { target: { [kind.value]: Number(value.value) } };
    return chosen ? { depth: Number(chosen) } : undefined;
  }

  show(null);
  return { path: "student", node, control: value, show, read, showError: (message) => put(fault, message) };
}

/** The options of the kinds of studies: their fields, and what they add to the request. */
export function studyOptions(methods) {
  const text = (path, label, value, hint) => {
    const control = h("input", { id: `study-${path}`, value, type: "text" });
    return field({ path, label, control, hint, read: () => list(control.value) });
  };
  const number = (path, label, value, hint) => {
    const control = h("input", { id: `study-${path}`, value, type: "number", step: "any", min: 0 });
    return field({ path, label, control, hint, read: () => (control.value === "" ? undefined : Number(control.value)) });
  };
  const seeds = (kind) => {
    const control = h("input", { id: `${kind}-seeds`, value: "0", type: "text" });
    return field({ path: "seeds", label: "Seeds", control, hint: "Each configuration is trained with each of them.", read: () => list(control.value) });
  };
  return {
    plan: [number("students", "Students", 6, "How many students to measure.")],
    compare: [text("methods", "Methods", "lit, kd", `All are compared with the first. ${methods.join(", ")}`), seeds("compare")],
    search: [
      text("taus", "τ", "2, 4, 8", "Temperatures."),
      text("alphas", "α", "0.25, 0.5, 0.95", "Weights of the labels."),
      text("betas", "β", "0.25, 0.5, 0.75", "Weights of the KD loss."),
      seeds("search"),
    ],
    depth: [
      number("max_accuracy_drop", "Points that may be lost", "", "Find the shallowest such student. Empty: try all depths and show the front."),
      text("depths", "Depths", "", "Empty: all below the teacher's."),
    ],
  };
}

function list(text) {
  const items = text.split(",").map((item) => item.trim()).filter(Boolean);
  if (!items.length) return undefined;
  return items.map((item) => (Number.isNaN(Number(item)) ? item : Number(item)));
}
