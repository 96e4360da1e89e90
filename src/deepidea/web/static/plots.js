// Draws the page's figures, which stand as JSON in #figures; "@name" is a colour of the page's style.
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

  const figures = () => {
    const element = document.getElementById("figures");
    return element ? JSON.parse(element.textContent) : {};
  };

  const draw = () => {
    if (typeof Plotly === "undefined") return;
    for (const [key, figure] of Object.entries(figures())) {
      const place = document.querySelector(`[data-plot="${CSS.escape(key)}"] .canvas`);
      if (!place || place.closest("details:not([open])")) continue;
      const { data, layout } = painted(figure);
      if (layout.xaxis.type === "date") Object.assign(layout.xaxis, { nticks: Math.max(2, Math.floor(place.clientWidth / 95)), tickangle: 0 });
      Plotly.react(place, data, layout, { displayModeBar: false, responsive: true, doubleClick: false });
    }
  };

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("deepidea:theme", draw);
  addEventListener("deepidea:figures", draw);
  document.addEventListener("toggle", event => { if (event.target.open) draw(); }, true);
  draw();
})();
