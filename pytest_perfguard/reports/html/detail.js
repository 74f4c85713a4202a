// One test: what is wrong with it first, then what was measured, when it happened, and where.
"use strict";

const section = (title, ...content) => [el("h2", {}, title), ...content];
const lines = (found, name) => el("div", { class: `card ${name}` },
  el("div", { class: "lines" }, found.map(([kind, text]) => el("div", { class: kind }, text))));

function judged(rows) {
  const columns = [["budget", "Budget"], ["baseline", "Baseline"], ["times", "Stored times"]]
    .filter(([key]) => rows.some((row) => row[key]));
  const cell = ([key, title], row) => {
    const found = row[key];
    if (!found) return el("td", { class: "small" });
    return el("td", { "data-label": title },
      el("div", { class: "limit" },
        el("span", {}, key === "budget" ? `${found.sign} ${found.limit}` : `was ${found.limit}`),
        el("span", { class: `pill ${found.tone}` }, found.status)),
      key === "budget" ? meter(found.used) : null,
      el("div", { class: "small" }, found.reason || ""),
      el("div", { class: "small" }, soft(found.where)));
  };
  return el("div", { class: "card" }, el("table", { class: `grid judged of-${columns.length}` },
    el("thead", {}, el("tr", {}, el("th", {}, "Metric"), el("th", { class: "num" }, "Value"),
      columns.map(([, title]) => el("th", {}, title)))),
    el("tbody", {}, rows.map((row) => el("tr", { class: row.tone },
      el("td", {}, el("div", { class: "name", title: row.help }, row.name),
        row.span ? el("div", { class: "small" }, soft(`in ${row.span}`)) : null),
      el("td", { class: `num value-${row.tone}`, "data-label": "Value" }, row.value),
      columns.map((column) => cell(column, row)))))));
}

function judgedFolded(rows) {
  // What is kept in an even row of many says little: it waits until it is asked for.
  const first = rows.filter((row) => row.tone !== "ok"), rest = rows.filter((row) => row.tone === "ok");
  if (rows.length <= 12) return [judged(rows)];
  return [
    first.length ? judged(first) : null,
    el("details", { class: "card", open: !first.length },
      el("summary", {}, `${plural(rest.length, first.length ? "more metric" : "metric")} within ${rest.length === 1 ? "its limit" : "their limits"}`),
      judged(rest)),
  ];
}

const others = (rows) => el("details", { class: "card" },
  el("summary", {}, `${plural(rows.length, "metric")} without a limit`),
  el("dl", { class: "others" }, rows.map(([name, value, help]) =>
    el("div", { title: help }, el("dt", {}, name), el("dd", {}, value)))));

const SHOWN_ROWS = 60;
function timeline(found) {
  const card = el("div", { class: "card" });
  const { end } = found;
  let most = SHOWN_ROWS, view = null;
  const draw = () => {
    // What is looked at closer is complete.
    const rows = view ? found.timeline : found.timeline.slice(0, most);
    const left = found.timeline.length - rows.length;
    card.replaceChildren(...waterfall(rows, end, (row) => { view = row; draw(); }, view),
      ...(left > 0 ? [el("p", { class: "more" },
        el("button", { type: "button", onclick: () => { most = Infinity; draw(); } }, `Show ${plural(left, "more row")}`))] : []),
      ...(end.until ? [el("p", { class: "more" },
        `The test went on until ${end.until}: nothing more was recorded, as in timed rounds.`)] : []),
      ...(found.more_rows || found.cut ? [el("p", { class: "more" }, "What came later is counted below, and not drawn.")] : []));
  };
  draw();
  return card;
}

const SHOWN_OPERATIONS = 25;
function operations(found) {
  const card = el("div", { class: "card" });
  const row = (operation) => el("tr", {},
    el("td", { class: "num", "data-label": "times" }, operation.count.toLocaleString("en")),
    el("td", { class: "num", "data-label": "rows" }, operation.rows ? operation.rows.toLocaleString("en") : ""),
    el("td", { class: "num" }, operation.time),
    el("td", {},
      el("div", {}, el("span", { class: "badge" }, el("i", { class: KIND[operation.probe] || "" }), operation.probe),
        el("b", {}, operation.label)),
      operation.text ? (operation.text.length > 240
        ? el("details", {}, el("summary", {}, operation.text.slice(0, 240)), el("span", { class: "text" }, operation.text))
        : el("span", { class: "text muted" }, operation.text)) : null,
      el("div", { class: "site" }, soft(operation.site), operation.function ? ` in ${operation.function}` : ""),
      (operation.callers || []).map((caller) => el("div", { class: "small site" }, `from ${caller}`)),
      (operation.remarks || []).map((remark) => el("div", { class: "small" }, remark))));
  const draw = (most) => {
    const left = found.operations.length - most;
    card.replaceChildren(el("table", { class: "grid ops" },
      el("thead", {}, el("tr", {}, ["Count", "Rows", "Time"].map((title) => el("th", { class: "num" }, title)),
        el("th", {}, "Operation and line"))),
      el("tbody", {}, found.operations.slice(0, most).map(row))),
    ...(left > 0 ? [el("p", { class: "more" }, el("button", { type: "button", onclick: () => draw(Infinity) },
      `Show ${plural(left, "more operation")}`))] : []),
    ...(found.more_operations ? [el("p", { class: "more" },
      `${plural(found.more_operations, "more operation")}, done less often, in run.json only`)] : []));
  };
  draw(SHOWN_OPERATIONS);
  return card;
}
const KIND = { sql: "sql", cache: "cache", http: "http", tasks: "task" };

const timings = (found) => el("div", { class: "timings" }, found.map((timing) => el("div", { class: "card" },
  el("h3", {}, timing.name),
  el("p", { class: "small muted" }, plural(timing.rounds, "round"),
    timing.at_once > 1 ? `, ${timing.at_once} at once` : "",
    timing.repeated ? `, measured ${timing.repeated + 1} times` : "", `; first, cold one: ${timing.cold}`),
  timing.sample.length ? histogram(timing) : el("p", { class: "muted" }, "No single times were kept."),
  el("p", { class: "statistics" }, timing.statistics.map(([name, , text]) => el("span", {}, `${name} `, el("b", {}, text)))))));

const growing = (rows) => rows.some((row) => row.tone !== "ok");
// What grows as it may is folded: it is asked for by few.
const growth = (found) => [...found].sort((a, b) => growing(b.rows) - growing(a.rows)).map(({ name, sizes, rows }) => el("details",
  { class: "card", open: growing(rows) || found.length < 3 },
  el("summary", {}, el("b", {}, soft(name)), growing(rows) ? "" : ": grows as it may"),
  el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Growth of ${name}` }, el("table", { class: "grid" },
    el("thead", {}, el("tr", {}, el("th", {}, "Metric"),
      sizes.map((size) => el("th", { class: "num" }, `n = ${size.toLocaleString("en")}`)),
      el("th", {}, ""), el("th", {}, "May grow as"), el("th", {}, "Verdict"))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      el("td", { class: "name" }, row.name),
      row.values.map((value) => el("td", { class: `num value-${row.tone}` }, value)),
      el("td", { class: "sparks" }, spark(sizes, row.raw, row.tone)),
      el("td", { class: "mono" }, row.limit),
      el("td", {}, row.status ? el("span", { class: `pill ${row.tone}` }, row.status) : ""))))))));

// Pictures are drawn by the same code as the files of profiles; only their script is called here.
function flames(found) {
  return found.map(({ name, seconds, svg: text }) => {
    const picture = document.adoptNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement);
    const open = el("details", { class: "card picture" }, el("summary", {}, soft(name), `, ${seconds}`));
    const draw = () => {
      if (!open.open || picture.isConnected) return;
      open.append(picture);
      flamegraph(picture);
    };
    open.addEventListener("toggle", draw);
    if (found[0].svg === text) open.open = true;
    return open;
  });
}

// The details, as soon as they are unpacked, unless another test was opened meanwhile.
async function showTest(test, article, controls, isCurrent) {
  const [path, name] = split(test.id);
  const found = await detailsOf(test);
  if (!isCurrent()) return;
  const status = STATUSES[test.status];
  const head = [
    controls,
    el("span", { class: `pill ${status.name}`, title: status.help }, status.title),
    el("h1", {}, soft(name)), el("div", { class: "path" }, soft(path)),
    el("div", { class: "facts" }, el("span", {}, `took ${test.time}`), found ? el("span", {}, found.outcome) : "",
      found && found.baseline ? el("span", {}, "baseline in ", soft(found.baseline)) : ""),
  ];
  if (!found) {
    article.replaceChildren(...head, el("p", { class: "card" },
      "There was no room for the details of this test in the report: they are in run.json."));
    return;
  }
  const parts = [
    found.lines ? section("Why", lines(found.lines, status.name === "warning" ? "warning" : "bad")) : [],
    found.candidates ? section("Candidates", found.candidates.map((each) => lines(each, "look"))) : [],
    found.metrics || found.others ? section("Metrics", found.metrics ? judgedFolded(found.metrics) : null,
      found.others ? others(found.others) : null) : [],
    found.changes ? section("Since the baseline", el("ul", { class: "card changes" },
      found.changes.map((change) => el("li", {}, change)))) : [],
    found.growth ? section("Growth", growth(found.growth)) : [],
    found.timings ? section("Times of rounds", timings(found.timings)) : [],
    found.trends ? section("Trend", found.trends.filter((each) => each.points.length).map(trend)) : [],
    found.timeline ? section("Time line", timeline(found)) : [],
    found.operations ? section("Operations", operations(found)) : [],
    found.notes ? section("Notes", el("ul", { class: "card" }, found.notes.map((note) => el("li", {}, note)))) : [],
  ];
  article.replaceChildren(...[...head, ...parts].flat(4).filter(Boolean));
}

async function showPictures(test, article, isCurrent) {
  const pictures = await picturesOf(test);
  if (pictures.length && isCurrent()) article.append(...section("Flame graphs", ...flames(pictures)));
}
