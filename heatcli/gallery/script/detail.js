// ---- one explanation

const detail = $("detail");
let opened = null;

async function open() {
  const i = state.open === "" ? null : Number(state.open);
  if (i === null || !(i >= 0 && i < count_)) {
    opened = null;
    if (detail.open) detail.close();
    return;
  }
  if (opened === i) return;
  opened = i;
  const biases = await biasesOf(i);
  if (opened !== i) return;
  const already = detail.open;
  detail.replaceChildren(page(i, biases));
  if (!already) detail.showModal();
  detail.scrollTop = 0;
}

const side = (name, s) => table[name + (s ? "B" : "")];

function page(i, biases) {
  const place = rows.indexOf(i);
  const step = (by, title, sign) => {
    const to = place < 0 ? undefined : rows[place + by];
    const button = make("button", { type: "button", disabled: to === undefined, title, "aria-label": title }, sign);
    button.addEventListener("click", () => go({ open: String(to) }));
    return button;
  };
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => go({ open: "" }));
  const sides = biases.map((_, s) => s).filter((s) => side("score", s)[i] !== null);
  const figures = make("div", { className: "figures" }, ...sides.map((s) => compare(i, s)));
  const ledgers = make("div", { className: "tables" }, ...(meta.conserves ? sides.map((s) => waterfall(i, s, biases[s], reach(i, sides, biases))) : []));
  return make("article", { className: meta.sides === 2 ? "detail pair" : "detail" },
    make("div", { className: "head" },
      make("div", {}, make("h2", { id: "detail-name" }, table.predicted[i] ?? table.label[i]), make("p", { className: "path" }, table.name[i])),
      make("div", { className: "moves" }, step(-1, "Previous", "←"), step(1, "Next", "→"), close)),
    make("div", { className: "two" }, figures,
      make("div", {}, facts(i), ledgers, each(sides, biases))));
}

function facts(i) {
  const list = make("dl", { className: "facts" });
  const add = (name, value, wrong = false) => list.append(make("div", wrong ? { className: "wrong" } : {}, make("dt", {}, name), make("dd", {}, value)));
  if (table.predicted[i] !== null) add("Predicted", table.predicted[i], table.right[i] === false);
  if (table.expected[i] !== null) add("Expected", table.expected[i]);
  if (table.label[i] !== table.predicted[i]) add("Explained", table.label[i]);
  add(meta.quantity === "output" ? "Score" : `Score (${meta.quantity})`, number(table.score[i], 5));
  if (table.probability[i] !== null) add("Probability", percent(table.probability[i]));
  if (meta.conserves && table.share[i] !== null) add("Bias share", percent(table.share[i]));
  if (meta.conserves) add("Remainder", number(table.remainder[i]));
  if (table.mask[i] !== null) add("Inside the mask", percent(table.mask[i]));
  if (meta.sides === 2 && table.scoreB[i] !== null) {
    if (table.labelB[i] !== table.label[i]) add("B explains", table.labelB[i], true);
    add("Score in B", number(table.scoreB[i], 5));
    add("Maps alike", number(table.correlation[i]));
  }
  return list;
}

function compare(i, s) {
  const layers = make("div", { className: "layers" });
  layers.style.aspectRatio = `${table.w[i] || 1} / ${table.h[i] || 1}`;
  const layer = (href, part, name) => {
    const small = pic(i, part, name);
    small.style.width = small.style.height = "100%";
    if (part) small.classList.add("map");
    if (!href || !isThere(i, part)) return small;
    const whole = make("img", { src: href, alt: name, className: small.className });
    whole.addEventListener("error", () => whole.replaceWith(small)); // a kind of file that browsers do not show
    return whole;
  };
  layers.append(layer(table.picture[i], 0, "picture"), layer(side("map", s)[i], 1 + s, "map"), make("span", { className: "edge" }));
  const input = make("input", { type: "range", min: 0, max: 100 });
  const set = (value) => { input.value = value; layers.style.setProperty("--mix", `${value}%`); };
  set(isThere(i, 0) ? 50 : 0);
  input.addEventListener("input", () => set(input.value));
  const drag = (event) => {
    if (!event.buttons) return;
    const box = layers.getBoundingClientRect();
    set(Math.max(0, Math.min(100, (100 * (event.clientX - box.left)) / box.width)));
  };
  layers.addEventListener("pointerdown", drag);
  layers.addEventListener("pointermove", drag);
  const links = make("p", { className: "links" });
  const offered = [["Full map", side("map", s)[i]], ["Report", side("report", s)[i]], ["Picture", s ? null : table.picture[i]]];
  for (const [name, href] of offered) if (href) links.append(make("a", { href }, name));
  return make("section", { className: "compare" }, meta.sides === 2 ? make("h3", {}, `${"AB"[s]}: ${meta.titles[s]}`) : null, layers,
    make("div", { className: "mixer" }, make("label", {}, make("span", { ariaHidden: "true" }, "Map"), make("span", { className: "hidden" }, "From map to picture"), input), make("span", { ariaHidden: "true" }, "Picture")), links);
}

// ---- the ledger as a waterfall: from the baseline's output to the score

function layers(names) {
  const at = (name, depth) => name.split(/[./]/).slice(0, depth).join(".");
  let depth = 1;
  while (depth < 5 && new Set(names.map((name) => at(name, depth + 1))).size <= 14) depth++;
  return (name) => at(name, depth);
}
const layerOf = layers(meta.names);

function steps(i, s, biases) {
  const found = [];
  const at = (name) => side(name, s)[i] ?? 0;
  if (at("output_baseline")) found.push(["on the baseline", at("output_baseline"), "lost"]);
  found.push([meta.element, at("pixels"), ""]);
  const sums = new Map();
  biases.forEach((total, k) => sums.set(layerOf(meta.names[k]), (sums.get(layerOf(meta.names[k])) ?? 0) + total));
  const most = [...sums].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 14).map(([name]) => name);
  let others = 0;
  for (const [name, total] of sums) {
    if (most.includes(name)) found.push([`biases of ${name}`, total, "bias"]);
    else others += total;
  }
  if (sums.size > 14) found.push([`biases of ${sums.size - 14} more`, others, "bias"]);
  found.push(["absorbed by ε", at("absorbed"), "lost"], ["unexplained", at("unexplained"), "lost"]);
  return found;
}

function reach(i, sides, biases) {
  let [low, high] = [0, 0];
  for (const s of sides) {
    let sum = 0;
    for (const value of [...steps(i, s, biases[s]).map((step) => step[1])]) {
      sum += value;
      [low, high] = [Math.min(low, sum), Math.max(high, sum)];
    }
    [low, high] = [Math.min(low, side("output", s)[i]), Math.max(high, side("output", s)[i])];
  }
  return [low, high === low ? low + 1 : high];
}

function bar(from, to, [low, high], kind) {
  const track = make("div", { className: "track" });
  const at = (value) => (100 * (value - low)) / (high - low);
  track.style.setProperty("--zero", `${at(0)}%`);
  const inner = make("i", { className: `${kind} ${to < from ? "minus" : ""}`.trim() });
  inner.style.left = `${Math.min(at(from), at(to))}%`;
  inner.style.width = `${Math.abs(at(to) - at(from))}%`;
  track.append(inner);
  return track;
}

function waterfall(i, s, biases, ends) {
  const body = make("tbody");
  let sum = 0;
  for (const [name, value, kind] of steps(i, s, biases)) {
    body.append(make("tr", {}, make("th", { scope: "row", title: name }, name), make("td", {}, bar(sum, sum + value, ends, kind)), make("td", {}, number(value))));
    sum += value;
  }
  const score = side("output", s)[i];
  body.append(make("tr", { className: "sum" }, make("th", { scope: "row" }, "score"), make("td", {}, bar(0, score, ends, "")), make("td", {}, number(score, 4))));
  const title = make("caption", {}, meta.sides === 2 ? `Ledger, ${"AB"[s]}` : "Ledger", make("small", {}, " what the score is made of"));
  return make("table", { className: "bars" }, title, body);
}

function each(sides, biases) {
  if (!sides.some((s) => biases[s].length)) return null;
  const section = make("section", { className: "each" });
  const body = make("div", { className: sides.length === 2 ? "tables" : "" });
  const by = make("button", { type: "button", className: "quiet" });
  let largest = false;
  const show = () => {
    by.textContent = largest ? "In forward order" : "Largest first";
    const most = Math.max(...sides.map((s) => Math.max(...biases[s].map(Math.abs), 0))) || 1;
    body.replaceChildren(...sides.map((s) => {
      const order = biases[s].map((_, k) => k);
      if (largest) order.sort((a, b) => Math.abs(biases[s][b]) - Math.abs(biases[s][a]));
      const lines = order.map((k) => make("tr", {}, make("th", { scope: "row", title: meta.names[k] }, meta.names[k]),
        make("td", {}, bar(0, biases[s][k], [-most, most], "")), make("td", {}, number(biases[s][k], 2))));
      return make("div", {}, make("table", { className: "bars" }, make("caption", { className: "hidden" }, "What each bias took"), make("tbody", {}, ...lines)));
    }));
  };
  by.addEventListener("click", () => { largest = !largest; show(); });
  show();
  section.append(make("div", { className: "head" }, make("h3", {}, "What each bias took"), by), body);
  return section;
}
