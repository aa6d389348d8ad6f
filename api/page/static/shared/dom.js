// Builds elements. Text becomes text nodes, never HTML, so names from the service can't become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes: `on…` functions are listeners, true is an empty attribute, null and false none. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  const { value, ...others } = attributes ?? {};
  for (const [key, given] of Object.entries(others)) {
    if (given === null || given === undefined || given === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), given);
    else node.setAttribute(key, given === true ? "" : String(given));
  }
  node.append(...present(children));
  // After the children: a select takes only a value that one of its options has.
  if (value !== undefined && value !== null) node.value = value;
  return node;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replace what is in an element; what is null or false is left out. */
export function put(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** Change a text only if it differs, so that screen readers and selections aren't disturbed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A list that follows its items: `make(item)` returns {node, update(item)} once per key. Nodes keep their place in the
 * document, and with it the focus.
 */
export function keyedList(parent, keyOf, make) {
  const rows = new Map();
  return (items) => {
    const keys = new Set(items.map(keyOf));
    for (const [key, row] of rows) {
      if (!keys.has(key)) {
        row.node.remove();
        rows.delete(key);
      }
    }
    let place = parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      let row = rows.get(key);
      if (!row) {
        row = make(item);
        rows.set(key, row);
      }
      row.update(item);
      if (row.node === place) place = place.nextElementSibling;
      else parent.insertBefore(row.node, place);
    }
  };
}

/** A link to an address that the service names. Anything but http and https is shown as text. */
export function outsideLink(address, text) {
  let url = null;
  try {
    url = new URL(address);
  } catch {
    // It is no address, and shown as text.
  }
  if (!url || !["http:", "https:"].includes(url.protocol)) return h("span", null, text ?? String(address));
  return h("a", { href: url.href, rel: "noopener noreferrer", target: "_blank" }, text ?? url.href);
}

/** Tell screen readers something that is seen elsewhere on the page. */
export function announce(text) {
  setText(document.getElementById("announcer"), text);
}

export function badge(state, text = state) {
  return h("span", { class: `badge ${state}` }, text);
}

export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", null, title), ...children);
}

/** A box with what went wrong, and the fields that it names. */
export function problemBox(problem) {
  const errors = (problem.errors ?? []).filter((error) => error.field || error.message);
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", null, problem.title ?? "That did not work"),
    errors.length
      ? h("ul", null, errors.map((error) => h("li", null, h("code", null, error.field), ` ${error.message}`)))
      : h("p", null, problem.detail ?? problem.message),
  );
}

/** A button that can't be pressed twice while its action runs; what goes wrong is put into `place`. */
export function actionButton(text, action, place, attributes = {}) {
  const button = h("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    put(place);
    try {
      await action();
    } catch (problem) {
      if (problem.name !== "AbortError") put(place, problemBox(problem));
    } finally {
      button.disabled = false;
    }
  });
  return button;
}
