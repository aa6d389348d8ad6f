// A new job or study: teacher, data, student, options; then it is sent, and its own view is shown.

import { get, idempotencyKey, openapi, part, post, query } from "../shared/api.js";
import { announce, h, problemBox, put } from "../shared/dom.js";
import * as format from "../shared/format.js";
import { field, schemaChecks, schemaField, schemaReader, setAt, showErrors } from "../request/schema_fields.js";
import { studentChoice, studyOptions } from "../request/student_choice.js";
import { dropZone } from "../upload/drop_zone.js";
import { inspectionOf } from "../upload/inspection.js";

const KINDS = {
  job: ["One student", "Train one student and export it."],
  plan: ["Plan", "Measure a range of students without training: a minute or two."],
  depth: ["Depths", "Train several depths: accuracy against latency."],
  compare: ["Compare methods", "The same student by several methods and seeds."],
  search: ["Search τ, α, β", "Each chosen on the validation split, one after the other."],
};
const USUAL_EXPORTS = ["onnx", "pt2"];

export async function show(place, { parameters }, signal) {
  const [document_, uploads] = await Promise.all([openapi(), get("v1/uploads?limit=100", { signal })]);
  const read = schemaReader(document_);
  const given = parseStudent(parameters.get("student"));

  const teacher = uploadStep("teacher", "Teacher", "Drop a checkpoint here: safetensors, .pt, or the folder of a student.", uploads.items, read, parameters, update, signal);
  const data = uploadStep("dataset", "Data", "Drop a data set here: a folder, an archive, a table or .npz. Labels are not needed.", uploads.items, read, parameters, update, signal);
  const student = studentChoice(given, preview);
  const kind = kindChoice(() => {
    showKind();
    preview();
  });
  const studies = studyOptions(read("JobRequest", "method")?.enum ?? []);
  const options = jobOptions(read);
  const more = moreFields();
  const studyPlace = h("div", { class: "fields" });
  const studentStep = step(4, "Student", student.node);
  const fault = h("div");
  const button = h("button", { class: "primary", id: "start" }, "Start");
  const sentText = h("pre", { class: "json" });

  const form = h(
    "form",
    { novalidate: true, class: "new-job" },
    step(1, "Teacher", teacher.node),
    step(2, "Data", data.node),
    step(3, "What to do", kind.node, studyPlace),
    studentStep,
    step(5, "Options", h("p", { class: "muted" }, "An empty field keeps its default, or what the preset or the teacher's family has instead."), h("div", { class: "fields" }, options.map((one) => one.node)), more.node),
    h("div", { class: "submit" }, fault, h("div", { class: "row" }, button, h("details", { class: "sent" }, h("summary", null, "What is sent"), sentText))),
  );
  put(place, h("h1", null, "New job"), form);

  function showKind() {
    const now = kind.read();
    put(studyPlace, (studies[now] ?? []).map((one) => one.node));
    studentStep.hidden = now === "plan" || now === "depth";
  }

  function update() {
    student.show(teacher.upload()?.inspection ?? null);
    const chosen = query({ teacher: teacher.value(), dataset: data.value(), student: parameters.get("student") });
    // A reload keeps what was uploaded. This is no navigation, so the view isn't shown anew.
    history.replaceState(null, "", `#/new${chosen}`);
    preview();
  }

  function request() {
    const job = {};
    setAt(job, "teacher", teacher.value() || undefined);
    setAt(job, "dataset", data.source());
    const now = kind.read();
    if (now === "job" || now === "compare" || now === "search") setAt(job, "student", student.read());
    for (const one of options) setAt(job, one.path, one.read());
    Object.assign(job, more.read());
    if (now === "job") return { path: "v1/jobs", body: job };
    const { name, tags, ...trial } = job;
    const body = { kind: now, job: trial };
    setAt(body, "name", name);
    setAt(body, "tags", tags);
    for (const one of studies[now]) setAt(body, one.path, one.read());
    if (now === "depth" && body.max_accuracy_drop === undefined) body.front = true;
    return { path: "v1/studies", body };
  }

  function preview() {
    try {
      sentText.textContent = JSON.stringify(request().body, null, 2);
    } catch (failure) {
      sentText.textContent = failure.message;
    }
    button.textContent = kind.read() === "job" ? "Start job" : "Start study";
  }

  let last = { text: null, key: null };
  form.addEventListener("input", preview);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(fault);
    const fields = [teacher, data, student, ...options, more, ...(studies[kind.read()] ?? [])];
    showErrors(fields, []);
    button.disabled = true;
    try {
      const { path, body } = request();
      const missing = [];
      if (!body.teacher && !body.job?.teacher) missing.push({ field: "teacher", message: "Give a teacher first." });
      if (!body.dataset && !body.job?.dataset) missing.push({ field: "dataset", message: "Give data first." });
      if (missing.length) {
        showErrors(fields, missing);
        return;
      }
      const text = JSON.stringify([path, body]);
      // The same request sent again, after an answer was lost, makes no second job.
      if (text !== last.text) last = { text, key: idempotencyKey() };
      const made = await post(path, body, { headers: { "Idempotency-Key": last.key }, signal });
      announce(kind.read() === "job" ? "The job is queued" : "The study is started");
      location.hash = `#/${path.split("/")[1]}/${part(made.id)}`;
    } catch (problem) {
      if (signal.aborted) return;
      const left = showErrors(fields, problem.errors ?? []);
      if (left.length || !problem.errors?.length) {
        if (problem.errors) problem.errors = left;
        put(fault, problemBox(problem));
      }
    } finally {
      button.disabled = false;
    }
  });

  showKind();
  update();
}

function parseStudent(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function step(number, title, ...children) {
  return h("section", { class: "card step", "aria-labelledby": `step-${number}` }, h("h2", { id: `step-${number}` }, h("span", { class: "step-number" }, number), title), ...children);
}

/** The choice of an upload: a place to drop one, or a list of those that are there. */
function uploadStep(kind, title, hint, uploads, read, parameters, changed, signal) {
  const own = uploads.filter((upload) => upload.kind === kind && upload.state === "complete" && upload.inspection_state !== "failed");
  const known = new Map(own.map((upload) => [upload.id, upload]));
  const wanted = parameters.get(kind) ?? "";
  const select = h("select", { id: `${kind}-select` }, options());
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
  const recognised = h("div", { class: "inspection", "aria-live": "polite" });
  const fault = h("span", { class: "fault", role: "alert" });
  const zone = dropZone(kind, title.toLowerCase(), hint, take, signal);
  const node = h(
    "div",
    { class: "columns" },
    h("div", null, zone, h("div", { class: "field" }, h("label", { for: select.id }, kind === "teacher" ? "Or take one that is already here" : "Or take what is already here"), select), fault),
    recognised,
  );

  function options() {
    const named = [...known.values()].map((upload) => h("option", { value: upload.id }, `${upload.filename} · ${format.bytes(upload.size)} · ${format.age(upload.created_at)}`));
    const list = [h("option", { value: "" }, named.length ? "choose…" : "nothing here yet"), named];
    if (kind === "dataset") {
      const builtin = read("DatasetRequest", "builtin");
      const mounted = read("DatasetRequest", "mounted");
      for (const name of builtin?.enum ?? [builtin?.const].filter(Boolean)) list.push(h("option", { value: `builtin:${name}` }, `${name}, built in`));
      for (const name of mounted?.enum ?? []) list.push(h("option", { value: `mounted:${name}` }, `${name}, if the operator has mounted it`));
      list[0].textContent = "choose…";
    }
    return list;
  }

  function take(upload) {
    put(fault);
    if (upload === null) put(recognised, nothingYet());
    else if (upload.inspection_state === "done" || upload.state === "complete") {
      put(recognised, inspectionOf(upload));
      if (upload.inspection_state !== "failed") {
        known.set(upload.id, upload);
        put(select, options());
        select.value = upload.id;
      }
    }
    changed();
  }

  select.addEventListener("change", () => {
    put(fault);
    showKnown();
    changed();
  });
  function showKnown() {
    const upload = known.get(select.value);
    put(recognised, upload ? inspectionOf(upload) : nothingYet());
  }
  function nothingYet() {
    if (select.value.startsWith("builtin:")) return h("p", { class: "muted" }, "1,797 handwritten digits of 8 × 8 pixels, with labels, from scikit-learn.");
    return h("p", { class: "muted" }, `What the service recognises in the ${title.toLowerCase()} is shown here.`);
  }
  showKnown();

  function source() {
    const [word, name] = select.value.split(":");
    if (!select.value) return undefined;
    return name === undefined ? { upload: word } : { [word]: name };
  }

  return {
    path: kind,
    node,
    control: select,
    upload: () => known.get(select.value) ?? null,
    value: () => select.value,
    source,
    showError: (message) => put(fault, message),
  };
}

function kindChoice(changed) {
  const radio = (name, i) => h("input", { type: "radio", name: "kind", value: name, checked: i === 0, id: `kind-${name}` });
  const node = h(
    "div",
    { class: "kinds", role: "radiogroup", "aria-label": "What to do" },
    Object.entries(KINDS).map(([name, [title, hint]], i) => h("label", { class: "kind", for: `kind-${name}` }, radio(name, i), h("span", null, h("strong", null, title), h("span", { class: "hint" }, hint)))),
  );
  node.addEventListener("change", changed);
  return { node, read: () => node.querySelector("input:checked").value };
}

function jobOptions(read) {
  const tags = h("input", { id: "field-tags", type: "text", placeholder: "none" });
  return [
    schemaField(read, "name", "Name"),
    field({ path: "tags", label: "Tags", control: tags, hint: "Separated by commas.", read: () => (tags.value.trim() ? tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) : undefined) }),
    schemaField(read, "preset", "Preset", "quick: few epochs, for a first look. few: for 50 to 2,000 samples. paper: the paper's values."),
    schemaField(read, "method", "Method", "lit is the service's own; kd is plain distillation; mimic needs no labels."),
    schemaField(read, "alpha", "α", "Weight of the labels against the teacher's output, 0 to 1. 0 without labels."),
    schemaField(read, "beta", "β", "Weight of the KD loss against the IR loss, 0 to 1."),
    schemaField(read, "tau", "τ", "Temperature of the KD loss."),
    schemaField(read, "schedule.lit.epochs", "Epochs of the LIT phase", ""),
    schemaField(read, "schedule.fine_tune.epochs", "Epochs of fine-tuning", ""),
    schemaField(read, "schedule.lit.learning_rate", "Learning rate of the LIT phase", ""),
    schemaField(read, "schedule.batch_size", "Batch size", ""),
    schemaField(read, "accept.max_accuracy_drop", "Accept a loss of at most", "Points of test accuracy. Empty: the student is not judged."),
    schemaField(read, "seed", "Seed", ""),
    schemaField(read, "device", "Device", ""),
    schemaField(read, "devices", "Processes on each worker", "They divide each batch: one on each GPU."),
    schemaField(read, "nodes", "Workers", "That train the student together."),
    schemaChecks(read, "exports", "Exports", USUAL_EXPORTS),
  ].filter(Boolean);
}

/** Any other field of a request, as JSON. */
function moreFields() {
  const control = h("textarea", { id: "field-more", rows: 4, spellcheck: "false", placeholder: '{"student": {"depth": 14, "select": "even"}}' });
  const made = field({ path: "", label: "Other fields of the request, as a JSON object", control, hint: "docs/jobs.md lists all of them. They replace what stands above.", read: null });
  const node = h("details", { class: "more" }, h("summary", null, "More fields"), made.node);
  function read() {
    const text = control.value.trim();
    if (!text) return {};
    let value = null;
    try {
      value = JSON.parse(text);
    } catch {
      // It is refused below.
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      const message = 'This is no JSON object: write one such as {"seed": 1}.';
      throw Object.assign(new Error(message), { errors: [{ field: "more", message }] });
    }
    return value;
  }
  return { ...made, path: "more", node, read };
}
