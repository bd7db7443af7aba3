"use strict";
// The page's own script: it reads the data in the page, and nothing else. Names of files are only ever set as text.

const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
const tiles = 1 + meta.sides;
const EMPTY = { q: "", class: "", group: "", method: "", right: "", sort: "", view: "", mix: "50", open: "" };

function make(tag, set = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// ---- the data: packed text, opened when it is needed

async function unpacked(text) {
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const parsed = new Promise((done) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", done, { once: true });
  else done();
});
const blocks = new Map();

async function block(number) {
  if (!$(`block-${number}`)) await parsed; // the page's end may still be on its way
  const data = await unpacked($(`block-${number}`).textContent);
  const count = Math.min(meta.rows, count_ - number * meta.rows);
  const lengths = new Uint32Array(data, 0, count * tiles);
  const starts = [];
  let at = lengths.byteLength;
  for (let part = 0; part < tiles; part++) {
    for (let row = 0; row < count; row++) {
      const length = lengths[row * tiles + part];
      (starts[row] ??= [])[part] = [at, length];
      at += length;
    }
  }
  return { data, starts };
}

function blockOf(i) {
  const number = Math.floor(i / meta.rows);
  if (!blocks.has(number)) blocks.set(number, block(number));
  return blocks.get(number);
}

async function biasesOf(i) {
  const { data, starts } = await blockOf(i);
  return starts[i % meta.rows].slice(1).map(([at, length]) => {
    const view = new DataView(data, at, length);
    return Array.from({ length: length / 2 }, (_, k) => (view.getInt16(2 * k, true) / 32767) * table.scale[i]);
  });
}

const addresses = new Map(); // of small pictures, the oldest first
const KEPT = 800;

async function thumbnail(i) {
  if (meta.beside !== null) return `${encodeURIComponent(meta.beside)}/${i}.webp`;
  if (addresses.has(i)) return addresses.get(i);
  const { data, starts } = await blockOf(i);
  if (addresses.has(i)) return addresses.get(i);
  const [at, length] = starts[i % meta.rows][0];
  const address = length ? URL.createObjectURL(new Blob([new Uint8Array(data, at, length)], { type: "image/webp" })) : "";
  addresses.set(i, address);
  if (addresses.size > KEPT) {
    const [oldest, old] = addresses.entries().next().value;
    addresses.delete(oldest);
    URL.revokeObjectURL(old);
  }
  return address;
}

// ---- numbers and words

const QUANTITIES = {
  score: { title: "Score" },
  probability: { title: "Probability", percent: true },
  share: { title: "Bias share", percent: true },
  remainder: { title: "Remainder", log: true },
  mask: { title: "Inside the mask", percent: true },
  difference: { title: "Score, B − A" },
  correlation: { title: "Maps alike, A and B" },
};

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e-", "e−").replace(/^-/, "−");
  return value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
}
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(value < 0.1 && value ? 1 : 0)}%`);
const count = (value) => value.toLocaleString("en");
const shownAs = (name, value) => (QUANTITIES[name].percent ? percent(value) : number(value));

let table, count_, haystack, known, rows = [], prefix = "";
let state = { ...EMPTY };
