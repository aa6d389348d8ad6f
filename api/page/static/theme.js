// Not a module: it runs before the first paint, so that the page doesn't flash in the other theme.
const chosen = localStorage.getItem("lit.theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
