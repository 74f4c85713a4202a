// Makes elements. Text only ever gets into the page as text: nothing here parses HTML.
"use strict";
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const byId = (id) => document.getElementById(id);
const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// A bar of a share of its width: the page's policy forbids style attributes, and allows this.
function bar(share, name = "") {
  const inner = el("i", { class: name });
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return inner;
}

function meter(used) {
  if (used === null || used === undefined || used < 0) return null;
  const name = used > 1 ? "over" : used > 0.9 && used < 1 ? "near" : "";
  return el("span", { class: `meter ${name}`, "aria-hidden": "true" }, bar(used));
}

// Names and paths may break after their parts, not within a word.
const soft = (text) => text.split(/(?<=[/_:.,\[])(?=[^/_:.,\[\d])/).flatMap((part, at) => (at ? [el("wbr"), part] : [part]));

// The file and the rest of a node id.
function split(nodeid) {
  const at = nodeid.indexOf("::");
  return at < 0 ? ["", nodeid] : [nodeid.slice(0, at), nodeid.slice(at + 2)];
}
