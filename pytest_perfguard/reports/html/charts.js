// Small plots. Text stands beside them in the flow of the page, so none of it can overlap.
"use strict";

function waterfall(rows, end, zoom, view) {
  const spans = { request: "http", task: "task" };
  const kinds = new Set(rows.map((row) => spans[row[1]] || row[1].split(" ")[1]).filter(Boolean));
  const names = { sql: "SQL", cache: "cache", http: "HTTP", task: "tasks", other: "other" };
  const [from, to] = view ? [view[3], view[3] + view[4]] : [0, end.seconds];
  const width = to - from || 1;
  const inside = ([, , , start, seconds]) => start <= to && start + seconds >= from;
  return [
    el("div", { class: "legend" },
      Object.keys(names).filter((kind) => kinds.has(kind))
        .map((kind) => el("span", {}, el("i", { class: kind }), names[kind])),
      view ? el("button", { type: "button", class: "whole", onclick: () => zoom(null) }, "Show all of the time") : null),
    el("div", { class: "fall" },
      el("div", { class: "axis" }, el("span", { class: "label" }), el("span", { class: "track" },
        el("span", {}, view ? `after ${view[5]}` : "0"), el("span", {}, view ? view[6] : end.text)), el("span", { class: "took" })),
      rows.filter((row) => !view || inside(row)).map((row) => {
        const [depth, kind, name, start, seconds, startShown, took] = row;
        const mark = el("i", {});
        const left = Math.max(0, Math.min(99.6, (start - from) / width * 100));
        const right = Math.min(100, (start + seconds - from) / width * 100);
        mark.style.left = `${left}%`;
        mark.style.width = `${Math.max(0, right - left)}%`;
        const isSpan = !kind.startsWith("m ");
        const label = isSpan && row !== view && seconds
          ? el("button", { type: "button", class: "label", title: `${name}: look closer`, onclick: () => zoom(row) }, name)
          : el("span", { class: "label" }, name);
        label.style.paddingLeft = `${depth * 14}px`;
        return el("div", { class: isSpan ? `span ${kind}` : kind, title: `${name}\nafter ${startShown}, took ${took}` },
          label, el("span", { class: "track" }, mark), el("span", { class: "num took" }, took));
      })),
  ];
}

const MOST_BINS = 30;
function histogram(timing) {
  const sample = timing.sample;
  const known = Object.fromEntries(timing.statistics.map(([name, value, text]) => [name, [value, text]]));
  const marks = ["median", "p95"].filter((name) => known[name]).map((name) => [name, ...known[name], name]);
  const limits = timing.limits.map(([name, value, text]) => ["limit", value, text, `limit of ${name}`]);
  // A limit far away would press all bars into one: it is told, and not drawn.
  const longest = Math.max(...sample, ...marks.map((mark) => mark[1]));
  const low = Math.min(...sample);
  const drawn = [...marks, ...limits.filter(([, value]) => value >= low && value <= longest * 1.6)];
  const high = Math.max(longest, ...drawn.map((mark) => mark[1]));
  const width = high - low || low || 1;
  const bins = Math.min(MOST_BINS, Math.max(5, Math.ceil(Math.sqrt(sample.length) * 2)));
  const counts = new Array(bins).fill(0);
  for (const value of sample) counts[Math.min(bins - 1, Math.floor((value - low) / width * bins))] += 1;
  const most = Math.max(...counts, 1);
  const plot = svg("svg", { class: "plot", viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img",
    "aria-label": `Distribution of ${plural(sample.length, "time")}` });
  counts.forEach((count, number) => {
    if (!count) return;
    const height = count / most * 94;
    plot.append(svg("rect", { x: number / bins * 600 + 1, width: 600 / bins - 2, y: 100 - height, height },
      svg("title", {}, `${count} of ${sample.length}`)));
  });
  for (const [name, value] of drawn) {
    const x = Math.max(1, Math.min(599, (value - low) / width * 600));
    plot.append(svg("line", { class: name, x1: x, x2: x, y1: 0, y2: 100 }));
  }
  const sign = (name) => svg("svg", { class: "sign", viewBox: "0 0 18 10", "aria-hidden": "true" },
    svg("line", { class: name, x1: 0, x2: 18, y1: 5, y2: 5 }));
  return [
    el("div", { class: "marks" }, [...marks, ...limits].map(([name, value, text, title]) =>
      el("span", { class: name }, sign(name), `${title} ${text}${drawn.some((mark) => mark[3] === title) ? "" : value < low ? ", below all of them" : ", far above"}`))),
    plot,
    el("div", { class: "ends" }, el("span", {}, `shortest ${timing.ends[0]}`), el("span", {}, `longest ${timing.ends[1]}`)),
  ];
}

function path(points, width, height) {
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  const left = Math.min(...xs), right = Math.max(...xs), low = Math.min(0, ...ys), high = Math.max(...ys);
  return points.map(([x, y]) => [
    right > left ? (x - left) / (right - left) * width : width / 2,
    height - (high > low ? (y - low) / (high - low) : 0.5) * height,
  ]);
}

function spark(sizes, values, tone) {
  const points = path(sizes.map((size, at) => [size, values[at]]), 104, 20).map(([x, y]) => [x + 3, y + 3]);
  return svg("svg", { class: `spark ${tone}`, viewBox: "0 0 110 26", "aria-hidden": "true" },
    svg("polyline", { points: points.map((point) => point.join(",")).join(" ") }),
    points.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.5 })));
}

function trend({ name, points, change }) {
  const line = path(points.map((point, at) => [at, point[1]]), 600, 92).map(([x, y]) => `${x},${y + 4}`);
  const [first, last] = [points[0], points[points.length - 1]];
  return el("div", { class: "card trend" }, el("h3", { class: "mono" }, name),
    svg("svg", { class: "plot", viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `${name} from ${first[2]} to ${last[2]}` }, svg("polyline", { points: line.join(" ") })),
    el("div", { class: "ends" }, [first, last].map(([label, , text]) => el("span", {}, `${text} · ${label}`))),
    change ? el("p", { class: "more" }, change) : null);
}
