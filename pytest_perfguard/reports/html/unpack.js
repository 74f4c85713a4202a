// The data of the page: the list is there at once, details are unpacked when they are looked at.
"use strict";
const read = (id) => JSON.parse(byId(id).textContent);
const index = read("index");
const STATUSES = index.statuses;
const NAMES = ["id", "status", "why", "used", "closest", "sql", "cache", "http", "seconds", "time",
  "words", "facets", "place", "picture"];
const tests = index.tests.map((row, number) => {
  const test = Object.fromEntries(NAMES.map((name, at) => [name, row[at]]));
  test.number = number;
  test.haystack = `${test.id}\n${test.why}\n${test.words}`.toLowerCase();
  return test;
});

const packed = { details: null, pictures: null };
const unpacked = new Map();
function unpack(kind, number) {
  const key = `${kind} ${number}`;
  if (!unpacked.has(key)) {
    packed[kind] = packed[kind] || read(kind);
    const bytes = Uint8Array.from(atob(packed[kind][number]), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(key, new Response(stream).json());
  }
  return unpacked.get(key);
}
const detailsOf = async (test) =>
  test.place === -1 ? null : (await unpack("details", test.place[0]))[test.place[1]];
const picturesOf = async (test) => (test.picture === -1 ? [] : unpack("pictures", test.picture));
