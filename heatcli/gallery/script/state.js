// ---- the state, which is the page's address

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  state = { ...EMPTY, ranges: {} };
  for (const [name, value] of given) {
    if (name in EMPTY) state[name] = value;
    else if (name in QUANTITIES) {
      const [low, high] = value.split("..").map((text) => (text === "" || text === undefined ? null : Number(text)));
      if (!Number.isNaN(low) && !Number.isNaN(high)) state.ranges[name] = [low ?? -Infinity, high ?? Infinity];
    }
  }
}

function address(changes = {}) {
  const next = { ...state, ...changes };
  const parts = new URLSearchParams();
  for (const name of Object.keys(EMPTY)) if (next[name] !== EMPTY[name]) parts.set(name, next[name]);
  for (const [name, [low, high]] of Object.entries(next.ranges))
    parts.set(name, `${low === -Infinity ? "" : low}..${high === Infinity ? "" : high}`);
  return `#${parts}`;
}

function go(changes) {
  const to = address(changes);
  if (to === (location.hash || "#")) return;
  history.replaceState(null, "", to);
  apply();
}

// ---- filtering and sorting

function chosen(i) {
  if (state.class && table.label[i] !== state.class) return false;
  if (!inGroup(i)) return false;
  if (state.method && table.method[i] !== state.method) return false;
  if (state.right === "right" && table.right[i] !== true) return false;
  if (state.right === "wrong" && table.right[i] !== false) return false;
  if (state.right === "changed" && (table.labelB[i] === null || table.labelB[i] === table.label[i])) return false;
  return words.every((word) => haystack[i].includes(word));
}

let words = [];
let groups = null; // the list and the scatter, of a page that has groups
let left = {}; // by quantity: the explanations that all but its own range let through

function filtered() {
  words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const ranges = known.filter((name) => state.ranges[name]);
  const found = [];
  left = Object.fromEntries(ranges.map((name) => [name, []]));
  for (let i = 0; i < count_; i++) {
    if (!chosen(i)) continue;
    let [out, only] = [0, ""];
    for (const name of ranges) {
      const value = table[name][i];
      if (value === null || value < state.ranges[name][0] || value > state.ranges[name][1]) {
        only = name;
        if (++out > 1) break;
      }
    }
    if (out === 0) found.push(i);
    if (out === 1) left[only].push(i);
  }
  for (const name of ranges) left[name] = left[name].concat(found);
  return found;
}

const inOrder = new Intl.Collator("en", { numeric: true }).compare;

function sorted(found) {
  const descending = state.sort.startsWith("-");
  const name = state.sort.replace("-", "");
  const values = table[name];
  if (!values) return found;
  const sign = descending ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? inOrder(a, b) : a - b);
  return found.sort((a, b) => {
    const [x, y] = [values[a], values[b]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * compare(x, y) || a - b;
  });
}

function apply() {
  readState();
  for (const name of ["q", "class", "method", "right", "sort", "view", "mix"]) if ($(name).value !== state[name]) $(name).value = state[name];
  rows = sorted(filtered());
  $("mixer").hidden = state.view === "";
  $("mixed").textContent = state.view === "maps" ? "A to B" : "Picture to map";
  $("grid").style.setProperty("--mix", `${state.mix}%`);
  $("shown").replaceChildren(count(rows.length), make("span", {}, ` of ${count(count_)}`));
  $("nothing").hidden = rows.length > 0;
  focused = Math.min(focused, Math.max(0, rows.length - 1));
  for (const histogram of histograms) histogram.draw();
  groups?.draw();
  layOut(true);
  open();
}
