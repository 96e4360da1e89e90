// Theme, keyboard shortcuts, selection and live updates. Text from outside reaches the page only through the server's
// templates, which escape it; nothing here turns text into mark-up.
"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // --- theme and menu -----------------------------------------------------------------------------------------------

  const isDark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  one("#theme")?.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("deepidea-theme", root.dataset.theme); } catch { /* storage is off: the theme lasts for this page */ }
    dispatchEvent(new Event("deepidea:theme"));
  });

  const menu = one(".menu");
  menu?.addEventListener("click", () => {
    const shown = one("#rail").classList.toggle("shown");
    menu.setAttribute("aria-expanded", String(shown));
  });

  const keysDialog = one("#keys");
  one("#keys-button")?.addEventListener("click", () => keysDialog.showModal());

  // --- times --------------------------------------------------------------------------------------------------------

  const largest = seconds => {
    for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]])
      if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name}`;
    return `${Math.floor(seconds)} s`;
  };
  const tick = () => {
    for (const element of all("time.ago")) {
      const gone = (Date.now() - Date.parse(element.dateTime)) / 1000;
      element.textContent = gone < 2 ? "now" : `${largest(gone)} ago`;
    }
  };
  setInterval(tick, 5000);

  // --- rows of a list -----------------------------------------------------------------------------------------------

  const rows = () => all("table[data-keys] tbody tr[data-id]");
  const here = () => one("table[data-keys] tr.here");

  const goTo = row => {
    here()?.classList.remove("here");
    row.classList.add("here");
    one("a.main", row)?.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };
  const step = by => {
    const listed = rows();
    if (!listed.length) return;
    const at = listed.indexOf(here());
    goTo(listed[at < 0 ? (by > 0 ? 0 : listed.length - 1) : Math.min(listed.length - 1, Math.max(0, at + by))]);
  };
  document.addEventListener("focusin", event => {
    const row = event.target.closest?.("table[data-keys] tr[data-id]");
    if (row && row !== here()) { here()?.classList.remove("here"); row.classList.add("here"); }
  });

  const picks = () => all("input[data-pick]");
  const countPicked = () => {
    const n = picks().filter(box => box.checked).length;
    const count = one("[data-picked]");
    if (!count) return;
    count.textContent = n ? `${n} selected` : "None selected";
    for (const button of all("[data-needs-pick]")) button.disabled = n === 0;
    const whole = one("input[data-pick-all]");
    if (whole) { whole.checked = n > 0 && n === picks().length; whole.indeterminate = n > 0 && n < picks().length; }
  };
  document.addEventListener("change", event => {
    if (event.target.matches("[data-pick-all]")) for (const box of picks()) box.checked = event.target.checked;
    if (event.target.matches("[data-pick], [data-pick-all]")) countPicked();
    if (event.target.matches("form[data-auto] select")) event.target.form.requestSubmit();
  });
  countPicked();

  const acknowledge = () => {
    const form = one("form[data-bulk]");
    if (form) {
      if (!picks().some(box => box.checked)) {
        const box = here() && one("[data-pick]", here());
        if (!box) return;
        box.checked = true;
        countPicked();
      }
      form.requestSubmit(one("button[value=acknowledged]", form));
    } else one("button[data-acknowledge]")?.click();
  };

  // Empty filters stay out of the address.
  document.addEventListener("submit", event => {
    if (event.target.matches("form[method=get]"))
      for (const input of all("input, select", event.target)) if (!input.value) input.disabled = true;
  });
  addEventListener("pageshow", () => { for (const input of all("form[method=get] :disabled")) input.disabled = false; });

  // --- keys ---------------------------------------------------------------------------------------------------------

  const places = { o: "/", i: "/incidents", h: "/hosts", m: "/model", s: "/sources" };
  let waitsForPlace = 0;

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (typing) { if (event.key === "Escape") typing.blur(); return; }
    if (Date.now() - waitsForPlace < 1200 && places[event.key]) {
      location.assign(places[event.key]);
      event.preventDefault();
      return;
    }
    const arrows = event.target === document.body || event.target.id === "main" || event.target.closest("table[data-keys]");
    const does = {
      "/": () => { const box = one("input[data-search]"); box ? (box.focus(), box.select()) : location.assign("/incidents#search"); },
      "?": () => keysDialog?.showModal(),
      j: () => step(1),
      k: () => step(-1),
      ...(arrows && rows().length ? { ArrowDown: () => step(1), ArrowUp: () => step(-1) } : {}),
      x: () => { const box = here() && one("[data-pick]", here()); if (box) { box.checked = !box.checked; countPicked(); } },
      a: acknowledge,
      g: () => { waitsForPlace = Date.now(); },
    }[event.key];
    const opens = event.key === "Enter" && here() && !event.target.closest("a, button, input, summary");
    if (opens) one("a.main", here())?.click();
    if (does || opens) event.preventDefault();
    does?.();
  });
  if (location.hash === "#search") one("input[data-search]")?.focus();

  for (const button of all("[data-copy]"))
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(button.dataset.copy); say("Copied"); } catch { say("Copying failed"); }
    });

  // --- live ---------------------------------------------------------------------------------------------------------

  const speaker = document.createElement("div");
  speaker.className = "out";
  speaker.setAttribute("aria-live", "polite");
  speaker.id = "said";
  document.body.append(speaker);
  let saidAt = 0;
  const say = text => { if (Date.now() - saidAt > 15000 || text === "Copied") { saidAt = Date.now(); speaker.textContent = text; } };

  const state = one("#live");
  const source = document.body.dataset.events;
  const showState = (kind, text) => {
    state.hidden = false;
    one(".dot", state).classList.toggle("live", kind === "live");
    one(".text", state).textContent = text;
  };

  // Live parts are cut out of a fresh copy of the page, so that one template makes and escapes both.
  let asked = 0, waiting = 0;
  const refresh = async () => {
    waiting = 0;
    if (document.hidden) { asked = 0; return; }
    asked = Date.now();
    let page;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
      if (!answer.ok) return;
      page = new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch { return; }
    for (const fresh of all("[data-live]", page)) put(fresh);
    const figures = one("#figures", page), shown = one("#figures");
    if (figures && shown && figures.textContent !== shown.textContent) {
      shown.textContent = figures.textContent;
      dispatchEvent(new Event("deepidea:figures"));
    }
    countArrived(page);
  };
  const put = fresh => {
    const old = one(`[data-live="${CSS.escape(fresh.dataset.live)}"]`);
    if (!old || old.innerHTML === fresh.innerHTML || old.contains(document.activeElement)) return;
    if (one("details[open], .canvas", old)) return;
    old.replaceWith(document.importNode(fresh, true));
    const badge = one("#urgent");
    if (badge && fresh.dataset.live === "urgent") badge.hidden = fresh.textContent.trim() === "0";
  };

  // New rows wait behind one line, so that the list does not move while somebody reads.
  const known = new Set(rows().map(row => row.dataset.id));
  const showArrived = text => {
    const bar = one("#arrived");
    if (!bar.hidden && one("a", bar).textContent === `${text} – show`) return;
    one("a", bar).textContent = `${text} – show`;
    bar.hidden = false;
    say(text);
  };
  const countArrived = page => {
    if (!one("#arrived")) return;
    const n = all("table[data-keys] tbody tr[data-id]", page).filter(row => !known.has(row.dataset.id)).length;
    if (!n) return;
    const many = all("table[data-keys] tbody tr[data-id]", page).length === n ? `${n} or more` : String(n);
    showArrived(`${many} new ${n === 1 ? "incident" : "incidents"}`);
  };
  // Without filters the event alone shows the line; the next refresh counts the rows.
  const arrived = event => {
    const { incident, new: isNew } = JSON.parse(event.data);
    if (isNew && one("#arrived") && one("#arrived").hidden && !location.search && !known.has(incident.incident_id))
      showArrived("New incidents");
  };

  const changed = () => {
    if (waiting) return;
    waiting = setTimeout(refresh, Math.max(100, 4000 - (Date.now() - asked)));
  };

  const listen = () => {
    const stream = new EventSource(source);
    stream.addEventListener("open", () => showState("live", "Live"));
    stream.addEventListener("error", () => showState("away", "Disconnected, reconnecting"));
    for (const kind of ["incident", "alerts", "sources", "change", "rules", "models", "reset"]) stream.addEventListener(kind, changed);
    stream.addEventListener("store", event => JSON.parse(event.data).up ? (showState("live", "Live"), changed()) : showState("away", "Store unavailable"));
    stream.addEventListener("bye", () => { stream.close(); showState("away", "Logged out; reload the page"); });
    stream.addEventListener("incident", arrived);
    addEventListener("pagehide", () => stream.close());
  };
  if (source && state && (one("[data-live]") || one("#arrived"))) {
    listen();
    document.addEventListener("visibilitychange", () => { if (!document.hidden) changed(); });
  }
})();
