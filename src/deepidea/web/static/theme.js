// Runs before the page is painted, so that a chosen theme does not flash.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.replace("no-js", "js");
  try {
    const chosen = localStorage.getItem("deepidea-theme");
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  } catch { /* a browser that keeps nothing follows the system */ }
})();
