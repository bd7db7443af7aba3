// ---- the grid: only the rows in sight are there

const grid = $("grid");
const cards = new Map(); // place in `rows` → element
let layout = { columns: 1, width: 300, height: 300, gap: 24 };
let focused = 0;
let printing = false;

function layOut(anew = false) {
  if (printing) return;
  const width = grid.clientWidth;
  const slider = state.view !== "";
  const least = slider ? 170 : width < 520 ? width : 148 * tiles;
  const gap = width < 700 ? 16 : 26;
  const columns = Math.max(slider && width < 520 ? 2 : 1, Math.floor((width + gap) / (least + gap)));
  const wide = (width - gap * (columns - 1)) / columns;
  const tall = (slider ? wide : (wide - 2 * (tiles - 1)) / tiles) + 72 + gap;
  layout = { columns, width: wide, height: tall, gap };
  grid.style.height = `${Math.ceil(rows.length / columns) * tall}px`;
  if (anew) {
    for (const card of cards.values()) card.remove();
    cards.clear();
  }
  draw();
}

function draw() {
  if (printing) return;
  const top = grid.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor((-top - 600) / layout.height)) * layout.columns;
  const last = Math.min(rows.length, Math.ceil((-top + innerHeight + 600) / layout.height) * layout.columns);
  for (const [place, card] of cards) {
    if (place < first || place >= last) {
      if (card.contains(document.activeElement)) continue; // the focus stays where it is
      card.remove();
      cards.delete(place);
    }
  }
  const fresh = [];
  for (let place = first; place < last; place++) {
    let card = cards.get(place);
    if (!card) {
      card = cardOf(place);
      cards.set(place, card);
      fresh.push(card);
    }
    card.style.width = `${layout.width}px`;
    card.style.transform = `translate(${(place % layout.columns) * (layout.width + layout.gap)}px, ${Math.floor(place / layout.columns) * layout.height}px)`;
  }
  grid.append(...fresh);
}

const isThere = (i, part) => Boolean((table.there[i] >> part) & 1);

function pic(i, part, title) {
  const [w, h] = [table.w[i] || 1, table.h[i] || 1];
  const size = `width:${(100 * w) / Math.max(w, h)}%;height:${(100 * h) / Math.max(w, h)}%`;
  const place = `background-size:${tiles * 100}% 100%;background-position:${(100 * part) / (tiles - 1)}% 0`;
  const element = make("span", { className: Math.max(w, h) < 64 ? "pic coarse" : "pic", role: "img", "aria-label": title });
  element.style.cssText = `${size};${place}`;
  if (isThere(i, part)) thumbnail(i).then((from) => { element.style.backgroundImage = from ? `url("${from}")` : "none"; });
  else element.setAttribute("aria-label", `no ${title}`);
  return element;
}

function cardOf(place) {
  const i = rows[place];
  const said = table.predicted[i] ?? table.label[i];
  const titles = ["picture", ...meta.titles.map((title) => `map by ${title}`)];
  const parts = { "": titles.keys(), slider: [0, 1], maps: [1, 2] }[state.view] ?? [0, 1];
  const pictures = Array.from(parts, (part) => make("span", { className: "tile" }, pic(i, part, titles[part])));
  const wrong = table.right[i] === false;
  const rank = table.rank[i] ? `${table.rank[i]}. ` : "";
  const about = table.label[i] !== said ? `, explains ${table.label[i]}` : "";
  const share = table.share[i];
  const meter = make("span", { className: "meter", hidden: share === null || !meta.conserves }, make("i"));
  meter.firstChild.style.width = percent(share ?? 0);
  const numbers = make("span", { className: "numbers" }, `score ${number(table.score[i])}`);
  if (meta.sides === 2) numbers.append(make("span", {}, `B ${number(table.scoreB[i])}`), make("span", {}, `alike ${number(table.correlation[i], 2)}`));
  else numbers.append(meter);
  if (meta.sides === 1 && meta.conserves && share !== null) numbers.append(make("span", {}, `bias ${percent(share)}`));
  const link = make("a", { className: "card", href: address({ open: String(i) }) },
    make("span", { className: state.view ? "tiles over" : "tiles" }, ...pictures),
    make("span", { className: "says" }, make("b", {}, rank + said + about),
      wrong ? make("span", { className: "not" }, `not ${table.expected[i]}`) : null,
      make("span", { className: "p" }, table.probability[i] === null ? "" : percent(table.probability[i]))),
    make("span", { className: "name", title: table.name[i] }, table.name[i].slice(prefix.length)),
    numbers);
  link.addEventListener("focus", () => { focused = place; });
  return make("li", { "aria-setsize": rows.length, "aria-posinset": place + 1 }, link);
}

function moveTo(place) {
  if (place < 0 || place >= rows.length) return;
  focused = place;
  const top = grid.getBoundingClientRect().top + scrollY + Math.floor(place / layout.columns) * layout.height;
  const bar = document.querySelector(".bar").offsetHeight + 12;
  if (top < scrollY + bar) scrollTo(0, top - bar);
  else if (top + layout.height > scrollY + innerHeight) scrollTo(0, top + layout.height - innerHeight);
  draw();
  cards.get(place)?.firstChild.focus({ preventScroll: true });
}
