// The teacher's sections as a drawing: which blocks the student keeps, and the damage of leaving out each one alone.

import { h, put, svg } from "../shared/dom.js";

const WIDTH = 48;
const HEIGHT = 42;
const GAP = 6;

export function blockDrawing(signal) {
  const place = h("div", { class: "sections" });
  const node = h(
    "section",
    { class: "card", hidden: true },
    h("h2", null, "Blocks"),
    h(
      "p",
      { class: "legend muted" },
      h("span", { class: "swatch kept" }), " kept ",
      h("span", { class: "swatch dropped" }), " left out. ",
      h("span", { class: "damage-hint", hidden: true }, "The number is the damage of leaving out this block alone: how far the outputs are then from the teacher's (KL divergence)."),
    ),
    place,
  );
  let drawn = null;
  let width = 0;

  function draw() {
    if (!drawn) return;
    const worst = Math.max(...drawn.sections.flat().map((block) => block.value ?? 0), 1e-9);
    const perRow = Math.max(4, Math.floor((place.clientWidth || 640) / (WIDTH + GAP)));
    put(place, drawn.sections.map((section, i) => drawSection(section, i, perRow, worst, drawn.unit)));
  }

  const observer = new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    draw();
  });
  observer.observe(place);
  signal.addEventListener("abort", () => observer.disconnect());

  function update(job, events) {
    if (drawn?.final) return;
    const found = sectionsOf(job, events);
    if (!found || JSON.stringify(found) === JSON.stringify(drawn)) return;
    drawn = found;
    node.hidden = false;
    node.querySelector(".damage-hint").hidden = !found.unit;
    draw();
  }
  return { node, update };
}

/** Each section's blocks, as the result, the event `student_chosen` or the specification has them. */
function sectionsOf(job, events) {
  const teacher = job.spec.teacher?.architecture?.blocks;
  if (!teacher?.length) return null;
  const { result } = job;
  const chosen = events.findLast((event) => event.type === "student_chosen");
  const damages = result?.selection?.damages ?? result?.damages ?? null;
  const importance = result?.selection?.importance ?? null;
  const kept = result?.selection?.kept ?? chosen?.data.kept ?? job.spec.student?.kept;
  if (!kept && !damages) return null;
  const sections = teacher.map((count, section) =>
    Array.from({ length: count }, (_, index) => ({
      index,
      kept: kept ? kept[section].includes(index) : null,
      value: (damages ?? importance)?.[section]?.[index] ?? null,
      stays: damages !== null && damages[section]?.[index] === null,
    })),
  );
  return { sections, final: Boolean(result), unit: damages ? "damage" : importance ? "importance" : null };
}

function drawSection(blocks, number, perRow, worst, unit) {
  const rows = Math.ceil(blocks.length / perRow);
  const columns = Math.min(blocks.length, perRow);
  const size = [columns * (WIDTH + GAP), rows * (HEIGHT + GAP)];
  const kept = blocks.filter((block) => block.kept).length;
  const title = blocks.some((block) => block.kept !== null) ? `${kept} of ${blocks.length} blocks kept` : `${blocks.length} blocks`;
  return h(
    "figure",
    null,
    h("figcaption", null, `Section ${number + 1}: ${title}`),
    svg(
      "svg",
      { viewBox: `0 0 ${size[0]} ${size[1]}`, width: size[0], height: size[1], role: "img", "aria-label": describe(blocks, number, unit) },
      blocks.map((block) => drawBlock(block, perRow, worst, unit)),
    ),
  );
}

function drawBlock(block, perRow, worst, unit) {
  const x = (block.index % perRow) * (WIDTH + GAP) + 1;
  const y = Math.floor(block.index / perRow) * (HEIGHT + GAP) + 1;
  const words = [`Block ${block.index}`, block.kept === null ? "" : block.kept ? "kept" : "left out"];
  if (block.value !== null) words.push(`${unit} ${block.value}`);
  if (block.stays) words.push("can't be left out");
  const share = block.value === null ? 0 : Math.sqrt(Math.max(0, block.value) / worst);
  return svg(
    "g",
    { class: `block ${block.kept === false ? "dropped" : "kept"}` },
    svg("title", null, words.filter(Boolean).join(", ")),
    svg("rect", { x, y, width: WIDTH - 2, height: HEIGHT - 2, rx: 4 }),
    svg("rect", { class: "share", x: x + 4, y: y + HEIGHT - 9, width: share * (WIDTH - 10), height: 3, rx: 1.5 }),
    svg("text", { x: x + 5, y: y + 13, class: "index" }, String(block.index)),
    svg("text", { x: x + 5, y: y + 26, class: "value" }, valueText(block)),
  );
}

function valueText(block) {
  if (block.value === null) return block.stays ? "stays" : "";
  if (block.value === 0) return "0";
  return block.value < 1e-4 ? "< 1e-4" : String(Number(block.value.toPrecision(2)));
}

function describe(blocks, number, unit) {
  const kept = blocks.filter((block) => block.kept).map((block) => block.index);
  const values = unit ? `; ${unit} ${blocks.map((block) => block.value ?? "none").join(", ")}` : "";
  return `Section ${number + 1}: blocks ${kept.join(", ") || "none"} of ${blocks.length} are kept${values}`;
}
