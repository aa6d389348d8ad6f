// Charts by plotly, which is loaded only where one is shown.

import { BASE } from "./api.js";
import { h } from "./dom.js";

const COLOURS = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6"];
let loading = null;

/** plotly, loaded once. Raises Error if the service has no plotly. */
function plotly() {
  loading ??= load().catch((failure) => {
    loading = null;
    throw failure;
  });
  return loading;
}

/**
 * The page's Content-Security-Policy takes style sheets from the service only, and plotly writes styles in two other
 * ways. Its style attributes are set by CSSOM instead, which the policy allows and which does the same. The style
 * element of its maps, which this page doesn't show, is not added.
 */
function load() {
  const { setAttribute } = Element.prototype;
  Element.prototype.setAttribute = function setStyleByCssom(name, value) {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
  };
  const { head } = document;
  head.appendChild = (node) => (node instanceof HTMLStyleElement ? node : Node.prototype.appendChild.call(head, node));
  return new Promise((resolve, reject) => {
    const script = h("script", {
      src: new URL("page/plotly.min.js", BASE).href,
      onload: () => resolve(window.Plotly),
      onerror: () => reject(new Error("The service has no plotly, which draws the charts: pip install plotly")),
    });
    head.append(script);
  }).finally(() => delete head.appendChild);
}

/**
 * A chart with a fixed height, so that nothing moves when it is drawn. `draw({traces, layout, says})` changes it; `says`
 * is what a screen reader says of it. Traces and layout are plotly's; a trace's `colour` is the number of a colour.
 */
export function chart(title) {
  const plot = h("div", { class: "plot", role: "img" });
  const node = h("figure", { class: "chart" }, h("figcaption", null, title), plot);
  let last = null;

  async function draw(given) {
    last = given;
    plot.setAttribute("aria-label", `${title}: ${given.says}`);
    let library;
    try {
      library = await plotly();
    } catch (failure) {
      plot.textContent = failure.message;
      return;
    }
    // Others may have been asked for while plotly was loaded.
    if (last !== given || !plot.isConnected) return;
    const colour = coloursOf(plot);
    await library.react(plot, given.traces.map((trace) => styled(trace, colour)), layoutOf(given.layout, colour), {
      displayModeBar: false,
      responsive: true,
    });
  }

  const redraw = () => last && draw({ ...last });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("themechange", redraw);
  const clear = () => {
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", redraw);
    removeEventListener("themechange", redraw);
    window.Plotly?.purge(plot);
  };
  return { node, draw, clear };
}

/** The colour of a custom property, as the present theme has it. */
function coloursOf(place) {
  const probe = place.parentElement.appendChild(h("span"));
  return (name) => {
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    queueMicrotask(() => probe.remove());
    return found;
  };
}

function styled({ colour: number, ...trace }, colour) {
  const own = colour(COLOURS[number % COLOURS.length]);
  return { ...trace, line: { width: 2, ...trace.line, color: own }, marker: { size: 5, ...trace.marker, color: own } };
}

function layoutOf({ xaxis = {}, yaxis = {}, boundaries = [], ...given }, colour) {
  const text = colour("--muted");
  const axis = {
    gridcolor: colour("--border"),
    linecolor: colour("--border"),
    zeroline: false,
    automargin: true,
    tickfont: { size: 11 },
    title: { font: { size: 11 }, standoff: 6 },
  };
  const titled = (own) => ({ ...axis, ...own, title: { ...axis.title, text: own.title ?? "" } });
  return {
    height: 240,
    margin: { l: 44, r: 10, t: 8, b: 34 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: text },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--border"), font: { color: colour("--text") } },
    dragmode: false,
    ...given,
    xaxis: titled(xaxis),
    yaxis: titled(yaxis),
    shapes: boundaries.map((x) => ({
      type: "line",
      xref: "x",
      yref: "paper",
      x0: x,
      x1: x,
      y0: 0,
      y1: 1,
      line: { width: 1, dash: "dot", color: text },
    })),
  };
}
