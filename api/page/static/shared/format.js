// Numbers and times as people read them. A missing value is a dash.

export const NOTHING = "–";
const missing = (value) => value === null || value === undefined || Number.isNaN(value);

export function percent(value, digits = 2) {
  return missing(value) ? NOTHING : `${value.toFixed(digits)} %`;
}

/** A difference in points, with its sign. */
export function points(value) {
  if (missing(value)) return NOTHING;
  const sign = value > 0 ? "+" : value < 0 ? "−" : "±";
  return `${sign}${Math.abs(value).toFixed(2)}`;
}

export function times(value) {
  return missing(value) ? NOTHING : `${value >= 10 ? value.toFixed(1) : value.toFixed(2)}×`;
}

function scaled(value, base, units, digits = 1) {
  let unit = 0;
  let left = value;
  while (left >= base && unit < units.length - 1) {
    left /= base;
    unit += 1;
  }
  return `${unit === 0 ? left : left.toFixed(left >= 100 ? 0 : digits)}${units[unit]}`;
}

export function bytes(value) {
  return missing(value) ? NOTHING : scaled(value, 1000, [" B", " kB", " MB", " GB", " TB"]);
}

/** A count, such as of parameters or FLOPs. */
export function count(value) {
  return missing(value) ? NOTHING : scaled(value, 1000, ["", " k", " M", " G", " T"], 2);
}

export function milliseconds(value) {
  return missing(value) ? NOTHING : `${value >= 100 ? value.toFixed(0) : value.toFixed(2)} ms`;
}

/** A number of a training, with at most four digits. */
export function number(value) {
  if (missing(value)) return NOTHING;
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

export function duration(seconds) {
  if (missing(seconds)) return NOTHING;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** How long ago, in one unit. */
export function age(time) {
  const seconds = Math.max(0, (Date.now() - new Date(time)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export function dateAndTime(time) {
  return missing(time) ? NOTHING : new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** Blocks per section, such as 6·6·6. */
export function blocks(list) {
  return list?.length ? list.join("·") : NOTHING;
}

/** The end of an id, enough to tell jobs apart on a page. */
export function shortId(id) {
  return id.length > 12 ? `…${id.slice(-6)}` : id;
}

const SIGNS = { tau: "τ", alpha: "α", beta: "β" };
const SPELLED = { onnx: "ONNX", pt2: "PT2", int8: "int8", hugging_face: "Hugging Face", lit: "LIT" };

/** A name of a hyperparameter as it is written. */
export function sign(name) {
  return SIGNS[name] ?? name;
}

/** A word of the API as a label: `fine_tune` as "Fine tune". */
export function label(word) {
  if (SPELLED[word]) return SPELLED[word];
  const text = String(word).replaceAll("_", " ").replaceAll("-", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
