// Where one is in the report, the keyboard, light and dark, and paper.
"use strict";

// -- light and dark ------------------------------------------------------------------------------
const THEMES = ["auto", "light", "dark"];
let theme = "auto";
function setTheme(name) {
  theme = THEMES.includes(name) ? name : "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").querySelector("span").textContent = theme;
}
function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  // A browser may keep nothing for files.
  try { localStorage.setItem("perfguard-theme", theme); } catch { /* It is forgotten, then. */ }
}
try { setTheme(localStorage.getItem("perfguard-theme")); } catch { setTheme("auto"); }
byId("theme").addEventListener("click", nextTheme);

// -- the list and one test -----------------------------------------------------------------------
let current = null;
let left = { scroll: 0, number: -1 };

const go = (test) => { location.hash = link(test); };
const back = () => { location.hash = "#list"; };
function neighbour(by) {
  const at = state.shown.indexOf(current);
  return state.shown[at < 0 ? 0 : at + by];
}

function controls(test) {
  const at = state.shown.indexOf(test);
  const step = (by, text, key) => {
    const other = at < 0 ? undefined : state.shown[at + by];
    return el("button", { type: "button", disabled: !other, title: `${text} test (${key})`, onclick: () => go(other) }, text);
  };
  return el("nav", { class: "crumbs", "aria-label": "Tests" },
    el("button", { type: "button", id: "back", title: "Back to the list (Esc)", onclick: back }, "← All tests"),
    el("span", { class: "space" }),
    el("span", { class: "muted" }, at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${state.shown.length.toLocaleString("en")}`),
    step(-1, "Previous", "k"), step(1, "Next", "j"));
}

async function route() {
  const wanted = /^#test=(.*)$/s.exec(location.hash);
  let id = null;
  try { id = wanted && decodeURIComponent(wanted[1]); } catch { id = wanted[1]; }
  const test = id === null ? null : tests.find((each) => each.id === id) || null;
  if (!current) left.scroll = scrollY;
  current = test;
  const article = byId("detail");
  byId("overview").hidden = byId("list").hidden = Boolean(test) || id !== null;
  article.hidden = id === null;
  delete article.dataset.shown;
  if (id === null) {
    article.replaceChildren();
    const row = byId("rows").querySelector(`[data-number="${left.number}"]`);
    if (row) row.focus({ preventScroll: true });
    if (left.number >= 0) scrollTo(0, left.scroll);
    return;
  }
  if (!test) {
    article.replaceChildren(controls(null), el("h1", {}, "No such test"),
      el("p", { class: "path" }, id), el("p", {}, "This report has no test of that name."));
    return;
  }
  left.number = test.number;
  const isCurrent = () => current === test;
  try {
    await showTest(test, article, controls(test), isCurrent);
    if (!isCurrent()) return;
    scrollTo(0, 0);
    article.focus({ preventScroll: true });
    await showPictures(test, article, isCurrent);
  } catch (error) {
    article.replaceChildren(controls(test), el("p", { class: "card bad" },
      `The details cannot be unpacked: ${error.message}. They are in run.json; a newer browser may help.`));
  }
  if (isCurrent()) article.dataset.shown = test.id;
}
addEventListener("hashchange", route);

// -- the keyboard --------------------------------------------------------------------------------
function move(by) {
  const links = [...byId("rows").querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by];
  if (next) next.focus();
}
const ACTIONS = {
  "/": () => { if (location.hash.startsWith("#test=")) back(); byId("search").focus(); byId("search").select(); },
  j: () => step(1),
  k: () => step(-1),
  t: nextTheme,
  "?": () => byId("help").showModal(),
};
function step(by) {
  if (!current) return move(by);
  const other = neighbour(by);
  if (other) go(other);
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || byId("help").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if (event.target === byId("search")) { search(""); event.target.blur(); }
    else if (!byId("detail").hidden) back();
    else return;
  } else if (event.key === "Enter" && event.target === byId("search")) {
    move(1);
  } else if (!typing && event.key in ACTIONS) {
    ACTIONS[event.key]();
  } else if (!typing && !current && (event.key === "ArrowDown" || event.key === "ArrowUp")
    && event.target.matches("#rows a")) {
    move(event.key === "ArrowDown" ? 1 : -1);
  } else {
    return;
  }
  event.preventDefault();
});
byId("keys").addEventListener("click", ACTIONS["?"]);
for (const button of document.querySelectorAll(".find")) {
  button.addEventListener("click", () => { search(button.dataset.search); byId("list").scrollIntoView(); });
}

// -- paper: all that is listed, not one page of it ---------------------------------------------------
addEventListener("beforeprint", () => {
  drawRows(true);
  for (const each of document.querySelectorAll("#detail details")) each.open = true;
});
addEventListener("afterprint", () => drawRows());

document.documentElement.classList.add("js");
makeList();
route();
performance.mark("perfguard-ready");
