// Zoom, search and the keyboard for a flame graph that is complete without them.
"use strict";
// Declared as a function, since a page may hold several pictures, each with this script.
function flamegraph(svg) {
  const chart = svg.querySelector(".chart");
  const bar = svg.querySelector(".bar");
  const details = [...svg.querySelectorAll(".details")];
  const XHTML = "http://www.w3.org/1999/xhtml";
  const HINT = ["Click or Enter: zoom in.  Esc: out again.", "/: search.  Arrows: from frame to frame."];
  const PAD = 4, FIRST_WIDE = 0x1100, PUNCTUATION = 0x2000, ARROWS = 0x2190, FEWEST = 3, TINY = 1e-3;

  const frames = [...chart.children].map((element) => {
    const lines = element.firstElementChild.textContent.split("\n");
    const root = element.classList.contains("root");
    // The name, the place, and whether it is new or gone; not times, which have a unit in common.
    const words = lines.slice(0, root || lines.length < 3 ? 1 : lines.length === 3 ? 2 : 3);
    return {
      element, lines, root,
      words: words.join("\n").toLowerCase(),
      x: parseFloat(element.getAttribute("x")),
      width: parseFloat(element.getAttribute("width")),
      row: Number(element.getAttribute("y")),
      text: element.querySelector("text"),
      // Frames of which more is worth a word than the name.
      telling: /\b(u\d|g\d|s\d)\b/.test(element.getAttribute("class")),
      hidden: false,
    };
  });
  const whole = { x: 0, width: 100, row: -1 };
  let view = whole;
  let current = frames[0];
  let found = [];
  let advance = 7.25;

  const end = (frame) => frame.x + frame.width;
  const contains = (outer, inner) => outer.x <= inner.x + TINY && end(outer) >= end(inner) - TINY;
  const columns = (text) => {
    let sum = 0;
    for (const character of text) {
      const code = character.codePointAt(0);
      sum += code < FIRST_WIDE || (code >= PUNCTUATION && code < ARROWS) ? 1 : 2;
    }
    return sum;
  };
  const fit = (text, room) => {
    if (columns(text) <= room) return text;
    if (room < FEWEST) return "";
    let taken = 1, kept = "";
    for (const character of text) {
      taken += columns(character);
      if (taken > room) break;
      kept += character;
    }
    return kept.trimEnd() + "…";
  };

  const fitName = (name, room) => {
    while (columns(name) > room) {
      const dot = name.indexOf(".");
      if (dot < 0 || dot === name.length - 1) break;
      name = name.slice(dot + 1);
    }
    return fit(name, room);
  };

  // Not what getBoundingClientRect says: that counts what is clipped.
  const pixels = () => chart.width.baseVal.value || 1;

  const measure = () => {
    const probe = details[0];
    const before = probe.textContent;
    probe.textContent = "M".repeat(50);
    advance = Math.max(probe.getComputedTextLength() / 50, 1);
    probe.textContent = before;
  };

  const label = (frame, room) => {
    const [name, more] = frame.lines;
    const both = `${name}  ${more}`;
    const shown = frame.telling && columns(both) <= room ? both : (frame.root ? fit : fitName)(name, room);
    if (!frame.text) {
      if (!shown) return;
      frame.text = document.createElementNS(svg.namespaceURI, "text");
      frame.text.setAttribute("x", PAD);
      frame.text.setAttribute("y", 13);
      frame.element.append(frame.text);
    }
    if (frame.text.textContent !== shown) frame.text.textContent = shown;
  };

  const draw = () => {
    const across = pixels();
    for (const frame of frames) {
      const above = frame.row < view.row && contains(frame, view);
      const inside = above || (frame.row >= view.row && contains(view, frame));
      frame.hidden = !inside;
      frame.element.style.display = inside ? "" : "none";
      if (!inside) continue;
      const left = Math.max(0, (frame.x - view.x) / view.width * 100);
      const right = Math.min(100, (end(frame) - view.x) / view.width * 100);
      frame.element.setAttribute("x", `${left}%`);
      frame.element.setAttribute("width", `${Math.max(0, right - left)}%`);
      frame.element.classList.toggle("a", above);
      label(frame, ((right - left) / 100 * across - 2 * PAD) / advance);
    }
    reset.disabled = view === whole;
    tell(null);
  };

  const tell = (frame) => {
    const texts = frame
      ? [frame.lines.slice(0, frame.lines.length > 2 ? 2 : 1), frame.lines.slice(frame.lines.length > 2 ? 2 : 1)]
          .map((lines) => lines.join("  "))
      : HINT;
    const room = pixels() / advance;
    details.forEach((line, number) => { line.textContent = fit(texts[number], room); });
  };

  const go = (frame, focus = true) => {
    current.element.setAttribute("tabindex", -1);
    current = frame;
    current.element.setAttribute("tabindex", 0);
    if (focus) current.element.focus();
  };

  const zoom = (frame) => {
    view = frame.width >= 100 - TINY ? whole : frame;
    draw();
    tell(frame);
  };

  const search = () => {
    const wanted = box.value.trim().toLowerCase();
    found = [];
    for (const frame of frames) {
      const hit = wanted !== "" && frame.words.includes(wanted);
      frame.element.classList.toggle("m", hit);
      if (hit) found.push(frame);
    }
    let covered = 0, reached = 0;
    for (const frame of [...found].sort((a, b) => a.x - b.x || b.width - a.width)) {
      covered += Math.max(0, end(frame) - Math.max(reached, frame.x));
      reached = Math.max(reached, end(frame));
    }
    status.textContent = wanted === "" ? "" : `${found.length} found, ${covered.toFixed(1)} %`;
  };

  // The control elements are made here: without scripts there are none that do nothing.
  const html = (name, properties) => Object.assign(document.createElementNS(XHTML, name), properties);
  const holder = document.createElementNS(svg.namespaceURI, "foreignObject");
  const row = html("div", {});
  const box = html("input", { type: "search", placeholder: "Search" });
  const reset = html("button", { type: "button", textContent: "Reset zoom" });
  const status = html("span", { className: "status" });
  box.setAttribute("aria-label", "Search for a function or file");
  status.setAttribute("role", "status");
  row.append(box, reset, status);
  for (const [name, value] of [["x", "1%"], ["y", bar.dataset.y], ["width", "98%"], ["height", 28]]) {
    holder.setAttribute(name, value);
  }
  holder.append(row);
  bar.replaceChildren(holder);

  for (const frame of frames) {
    frame.element.setAttribute("tabindex", frame === current ? 0 : -1);
    frame.element.setAttribute("role", "button");
    frame.element.addEventListener("click", () => { go(frame, false); zoom(frame); });
    frame.element.addEventListener("mouseenter", () => tell(frame));
    frame.element.addEventListener("mouseleave", () => tell(null));
    frame.element.addEventListener("focus", () => tell(frame));
  }
  const out = () => { view = whole; draw(); };
  reset.addEventListener("click", out);
  box.addEventListener("input", search);

  const middle = (frame) => frame.x + frame.width / 2;
  const near = (rowOffset, test) => frames.filter((frame) =>
    !frame.hidden && frame.row === current.row + rowOffset && test(frame));
  const moves = {
    ArrowUp: () => near(-18, (frame) => contains(frame, current))[0],
    ArrowDown: () => near(18, (frame) => contains(current, frame)).sort((a, b) => b.width - a.width)[0],
    ArrowLeft: () => near(0, (frame) => middle(frame) < middle(current)).sort((a, b) => b.x - a.x)[0],
    ArrowRight: () => near(0, (frame) => middle(frame) > middle(current)).sort((a, b) => a.x - b.x)[0],
  };
  const onKey = (event) => {
    const searching = event.target === box;
    const finding = event.key.toLowerCase() === "f" && (event.ctrlKey || event.metaKey);
    if (finding ? !searching : event.key === "/" && !searching) {
      box.focus();
      box.select();
    } else if (event.key === "Escape") {
      if (searching) {
        box.value = "";
        search();
        go(current);
      } else {
        out();
      }
    } else if (event.key === "Enter" && searching) {
      const shown = found.filter((frame) => !frame.hidden);
      if (shown.length) go(shown[0]);
    } else if (searching || event.target === reset || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (event.key === "Enter" || event.key === " ") {
      zoom(current);
    } else if (event.key in moves) {
      const next = moves[event.key]();
      if (next) go(next);
    } else {
      return;
    }
    event.preventDefault();
  };

  // With the script there, the text keeps its size and the frames take the width that there is.
  svg.classList.add("js");
  svg.removeAttribute("viewBox");
  svg.removeAttribute("style");
  svg.setAttribute("height", svg.dataset.height);
  const alone = document.documentElement === svg;
  (alone ? document : svg).addEventListener("keydown", onKey);
  measure();
  draw();
  // Also when a scroll bar takes its share of the window.
  let known = pixels();
  new ResizeObserver(() => {
    // What is not shown any more, as in a part of a page that was folded, has no width.
    if (!svg.getClientRects().length) return;
    const now = pixels();
    if (now !== known) draw();
    known = now;
  }).observe(svg);
}
