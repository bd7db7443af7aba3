// ---- histograms with a brush

const BINS = 36;
const histograms = [];
const svg = (tag, set) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(set)) element.setAttribute(name, value);
  return element;
};

class Histogram {
  constructor(name) {
    this.name = name;
    this.quantity = QUANTITIES[name];
    const values = table[name].filter((value) => value !== null);
    const there = this.quantity.log ? values.filter((value) => value > 0) : values;
    const scaled = there.map((value) => this.scale(value));
    [this.low, this.high] = scaled.length ? extent(scaled) : [0, 1];
    if (this.low === this.high) this.high = this.low + 1;
    this.all = this.bins(there);
    this.some = values.length;
    this.build();
  }
  scale(value) { return this.quantity.log ? Math.log10(value) : value; }
  unscale(x) { return this.quantity.log ? 10 ** x : x; }
  bins(values) {
    const found = new Uint32Array(BINS);
    for (const value of values) {
      if (value === null || (this.quantity.log && value <= 0)) continue;
      const x = (this.scale(value) - this.low) / (this.high - this.low);
      found[Math.max(0, Math.min(BINS - 1, Math.floor(x * BINS)))]++;
    }
    return found;
  }
  build() {
    const title = this.quantity.title;
    this.picture = svg("svg", { viewBox: `0 0 ${BINS} 54`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.from = make("input", { type: "text", inputMode: "decimal", "aria-label": `${title}, at least` });
    this.to = make("input", { type: "text", inputMode: "decimal", "aria-label": `${title}, at most` });
    for (const input of [this.from, this.to]) input.addEventListener("change", () => this.typed());
    const missing = this.some < count_ ? `${count(this.some)} known` : "";
    $("histograms").append(
      make("div", { className: "hist" }, make("h3", {}, title, make("small", {}, missing)), this.picture,
        make("div", { className: "range" }, this.from, this.to)),
    );
    let start = null;
    const at = (event) => {
      const box = this.picture.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    };
    this.picture.addEventListener("pointerdown", (event) => {
      start = at(event);
      this.picture.setPointerCapture(event.pointerId);
    });
    this.picture.addEventListener("pointermove", (event) => {
      if (start !== null) this.choose(start, at(event));
    });
    this.picture.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(at(event) - start) < 0.01) this.clear();
      start = null;
    });
  }
  choose(a, b) {
    const edges = [Math.min(a, b), Math.max(a, b)].map((x) => Number(this.unscale(this.low + x * (this.high - this.low)).toPrecision(4)));
    go({ ranges: { ...state.ranges, [this.name]: edges } });
  }
  clear() {
    const ranges = { ...state.ranges };
    delete ranges[this.name];
    go({ ranges });
  }
  typed() {
    const [low, high] = [this.from, this.to].map((input) => {
      const text = input.value.trim().replace("−", "-").replaceAll(",", "");
      const value = text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text);
      return text === "" || Number.isNaN(value) || text === input.dataset.whole ? null : value;
    });
    if (low === null && high === null) this.clear();
    else go({ ranges: { ...state.ranges, [this.name]: [low ?? -Infinity, high ?? Infinity] } });
  }
  draw() {
    const now = this.bins((left[this.name] ?? rows).map((i) => table[this.name][i]));
    const most = Math.max(...this.all, 1);
    const height = (n) => (n ? Math.max(1, 52 * Math.sqrt(n / most)) : 0);
    const range = state.ranges[this.name];
    const ends = range ? range.map((value) => this.place(value)) : null;
    const parts = [];
    for (let k = 0; k < BINS; k++) {
      for (const [name, n] of [["all", this.all[k]], ["now", now[k]]])
        if (n) parts.push(svg("rect", { class: name, x: k + 0.08, width: 0.84, y: 54 - height(n), height: height(n) }));
    }
    if (ends) parts.push(svg("rect", { class: "brush", x: ends[0] * BINS, width: Math.max(0.2, (ends[1] - ends[0]) * BINS), y: 0, height: 54 }));
    this.picture.replaceChildren(...parts);
    const edges = [this.unscale(this.low), this.unscale(this.high)];
    [this.from, this.to].forEach((input, k) => {
      const whole = shownAs(this.name, edges[k]);
      input.dataset.whole = whole.replace("−", "-");
      input.value = range && Number.isFinite(range[k]) ? shownAs(this.name, range[k]) : whole;
    });
  }
  place(value) {
    if (value === -Infinity || (this.quantity.log && value <= 0)) return 0;
    if (value === Infinity) return 1;
    return Math.max(0, Math.min(1, (this.scale(value) - this.low) / (this.high - this.low)));
  }
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}
