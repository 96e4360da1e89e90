// Draws the figures of a page or report, which stand as JSON in #figures; "@name" is a colour of its style.
"use strict";
(() => {
  const root = document.documentElement;
  const colour = name => getComputedStyle(root).getPropertyValue("--" + name).trim();

  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map(item => painted(item, key));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name)]));
    const named = typeof value === "string" && value.startsWith("@") && /color(scale)?$/.test(key || "");
    return named ? colour(value.slice(1)) : value;
  };

  const draw = () => {
    const element = document.getElementById("figures");
    if (typeof Plotly === "undefined" || !element) return;
    for (const [key, figure] of Object.entries(JSON.parse(element.textContent))) {
      const holder = document.querySelector(`[data-plot="${CSS.escape(key)}"]`);
      const place = holder && (holder.querySelector(".canvas") || holder);
      if (!place || place.closest("details:not([open])")) continue;
      const { data, layout } = painted(figure);
      if (layout.xaxis?.type === "date") Object.assign(layout.xaxis, { nticks: Math.max(2, Math.floor(place.clientWidth / 95)), tickangle: 0 });
      Plotly.react(place, data, layout, { displayModeBar: false, responsive: true, doubleClick: false });
    }
  };
  const print = printing => { root.classList.toggle("print", printing); draw(); };

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  for (const event of ["deepidea:theme", "deepidea:figures"]) addEventListener(event, draw);  // of the page's own scripts
  document.addEventListener("toggle", event => { if (event.target.open) draw(); }, true);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  draw();
})();
