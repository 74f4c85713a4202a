// The list of tests: searched, filtered and sorted as a whole, shown page by page.
"use strict";
const PAGE = 100;
const FACETS = ["SQL", "cache", "HTTP", "tasks", "timed rounds", "growth", "waivers"];
const KEYS = {
  status: ["Status", (a, b) => a.status - b.status || b.used - a.used],
  id: ["Test", (a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)],
  used: ["Closest budget", (a, b) => b.used - a.used],
  sql: ["SQL", (a, b) => b.sql - a.sql],
  cache: ["Cache", (a, b) => b.cache - a.cache],
  http: ["HTTP", (a, b) => b.http - a.http],
  seconds: ["Time", (a, b) => b.seconds - a.seconds],
};
const COLUMNS = { status: "col-status", id: "", used: "col-closest", sql: "num col-num", cache: "num col-num",
  http: "num col-num", seconds: "num col-time" };

const state = { words: [], statuses: new Set(), facet: "", key: "status", reverse: false, page: 0, shown: [] };

function select() {
  state.shown = tests.filter((test) =>
    (!state.statuses.size || state.statuses.has(test.status)) &&
    (state.facet === "" || test.facets.includes(state.facet)) &&
    state.words.every((word) => test.haystack.includes(word)));
  // Rising names, falling numbers: what is looked for comes first.
  state.shown.sort(KEYS[state.key][1]);
  if (state.reverse) state.shown.reverse();
}

const link = (test) => `#test=${encodeURIComponent(test.id)}`;
const number = (value) => (value ? Math.round(value).toLocaleString("en") : "");

function row(test) {
  const [path, name] = split(test.id), status = STATUSES[test.status];
  return el("tr", {},
    el("td", {}, el("span", { class: `pill ${status.name}`, title: status.help }, status.title)),
    el("td", {}, el("a", { href: link(test), "data-number": test.number }, el("b", {}, soft(name))),
      path ? el("div", { class: "path" }, soft(path)) : null,
      test.why ? el("div", { class: "why" }, soft(test.why)) : null),
    el("td", { class: "closest" }, soft(test.closest), test.closest ? meter(test.used) : null),
    el("td", { class: "num", "data-label": "SQL" }, number(test.sql)),
    el("td", { class: "num", "data-label": "cache" }, number(test.cache)),
    el("td", { class: "num", "data-label": "HTTP" }, number(test.http)),
    el("td", { class: "num", "data-label": "time" }, test.time));
}

function drawRows(everything = false) {
  const from = everything ? 0 : state.page * PAGE, to = everything ? state.shown.length : from + PAGE;
  const rows = state.shown.slice(from, to).map(row);
  const nothing = tests.length ? "No test is like that." : "No test was measured: run pytest with --perfguard.";
  byId("rows").replaceChildren(...(rows.length ? rows
    : [el("tr", {}, el("td", { class: "empty", colspan: 7 }, nothing, " ",
      tests.length ? el("button", { type: "button", onclick: clear }, "Show all") : ""))]));
  const pages = Math.ceil(state.shown.length / PAGE);
  byId("count").textContent = state.shown.length === tests.length ? plural(tests.length, "test")
    : `${state.shown.length.toLocaleString("en")} of ${plural(tests.length, "test")}`;
  const turn = (by, text) => el("button", { type: "button", disabled: state.page + by < 0 || state.page + by >= pages,
    onclick: () => { state.page += by; drawRows(); byId("list").scrollIntoView(); } }, text);
  byId("pages").replaceChildren(...(pages > 1 ? [turn(-1, "Previous"),
    el("span", {}, `${(from + 1).toLocaleString("en")} to ${Math.min(to, state.shown.length).toLocaleString("en")}`
      + ` of ${state.shown.length.toLocaleString("en")}`), turn(1, "Next")] : []));
}

function drawHead() {
  byId("head").replaceChildren(el("tr", {}, Object.entries(KEYS).map(([key, [title]]) => el("th", {
    class: COLUMNS[key], scope: "col",
    "aria-sort": key !== state.key ? null : (key === "id" || key === "status") !== state.reverse ? "ascending" : "descending",
  }, el("button", { type: "button", "data-key": key, onclick: () => sortBy(key, key === state.key && !state.reverse) }, title)))));
  byId("sort").value = state.key;
}

function drawList() {
  state.page = 0;
  select();
  drawRows();
}

function sortBy(key, reverse = false) {
  Object.assign(state, { key, reverse });
  const focused = document.activeElement && document.activeElement.dataset.key;
  drawHead();
  if (focused) byId("head").querySelector(`[data-key="${focused}"]`).focus();
  drawList();
}

function search(text) {
  byId("search").value = text;
  state.words = text.toLowerCase().split(/\s+/).filter(Boolean);
  drawList();
}

function clear() {
  state.statuses.clear();
  state.facet = byId("facet").value = "";
  drawChips();
  search("");
}

function drawChips() {
  byId("chips").replaceChildren(...STATUSES.flatMap((status, at) => (status.count
    ? [el("button", { type: "button", "aria-pressed": String(state.statuses.has(at)), title: status.help, "data-status": status.name,
      onclick: () => {
        if (!state.statuses.delete(at)) state.statuses.add(at);
        for (const chip of byId("chips").children) {
          chip.setAttribute("aria-pressed", String(state.statuses.has(STATUSES.findIndex((s) => s.name === chip.dataset.status))));
        }
        drawList();
      } }, status.title, el("b", {}, status.count.toLocaleString("en")))]
    : [])));
}

function makeList() {
  byId("facet").append(el("option", { value: "" }, "everything"), ...FACETS.flatMap((name, at) =>
    (tests.some((test) => test.facets.includes(String(at))) ? [el("option", { value: String(at) }, name)] : [])));
  byId("sort").append(...Object.entries(KEYS).map(([key, [title]]) => el("option", { value: key }, title.toLowerCase())));
  byId("facet").addEventListener("change", (event) => { state.facet = event.target.value; drawList(); });
  byId("sort").addEventListener("change", (event) => sortBy(event.target.value));
  byId("search").addEventListener("input", (event) => search(event.target.value));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  drawChips();
  drawHead();
  drawList();
}
