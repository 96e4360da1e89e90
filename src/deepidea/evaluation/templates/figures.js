"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
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
    for (const [key, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure);
      Plotly.react("figure-" + key, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  const print = printing => { root.classList.toggle("print", printing); draw(); };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
