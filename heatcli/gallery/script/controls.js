// ---- the filtered rows as CSV

function csv() {
  const columns = ["name", "method", "rank", "label", "predicted", "expected", "right", "score", "probability", "output", "output_baseline", "pixels", "biases", "absorbed", "unexplained", "remainder", "share", "mask"];
  if (meta.sides === 2) columns.push("labelB", "scoreB", "probabilityB", "pixelsB", "biasesB", "absorbedB", "unexplainedB", "remainderB", "shareB", "difference", "correlation");
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "string") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value; // a spreadsheet would compute it
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns.join(","), ...rows.map((i) => columns.map((name) => cell(table[name][i])).join(","))].join("\n") + "\n";
}

function download() {
  const from = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: from, download: "heatcli.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(from), 10000);
}

// ---- the controls

function options(id, pairs) {
  $(id).replaceChildren(...pairs.map(([value, title]) => make("option", { value }, title)));
}

function tally(values) {
  const found = new Map();
  for (const value of values) found.set(value, (found.get(value) ?? 0) + 1);
  return [...found].sort((a, b) => inOrder(String(a[0]), String(b[0])));
}

function controls() {
  options("class", [["", "all"], ...tally(table.label).map(([label, n]) => [label, `${label} (${count(n)})`])]);
  const methods = tally(table.method);
  options("method", [["", "all"], ...methods]);
  $("methods").hidden = methods.length < 2;
  const rights = [["", "all"]];
  if (table.right.some((right) => right !== null)) rights.push(["right", "as expected"], ["wrong", "not as expected"]);
  if (meta.sides === 2) rights.push(["changed", "class differs in B"]);
  options("right", rights);
  $("rights").hidden = rights.length < 2;
  const sorts = [["", "as explained"], ["name", "name"], ["label", "class"]];
  for (const name of known) sorts.push([`-${name}`, `${QUANTITIES[name].title} ↓`], [name, `${QUANTITIES[name].title} ↑`]);
  options("sort", sorts);
  const views = [["", "side by side"], ["slider", meta.sides === 2 ? "picture over A" : "one over the other"]];
  if (meta.sides === 2) views.push(["maps", "A over B"]);
  options("view", views);
  for (const name of ["class", "method", "right", "sort", "view"]) $(name).addEventListener("change", () => go({ [name]: $(name).value }));
  $("q").addEventListener("input", () => go({ q: $("q").value }));
  $("mix").addEventListener("input", () => {
    state.mix = $("mix").value;
    grid.style.setProperty("--mix", `${state.mix}%`);
    history.replaceState(null, "", address());
  });
  for (const id of ["reset", "again-all"]) $(id).addEventListener("click", () => go({ ...EMPTY, view: state.view, ranges: {} }));
  $("csv").addEventListener("click", download);
  $("print").addEventListener("click", async () => {
    await Promise.all(rows.slice(0, PRINTED).map(thumbnail));
    print();
  });
  $("skip").addEventListener("click", (event) => { event.preventDefault(); $("pictures").focus(); });
}

const PRINTED = 150;
addEventListener("beforeprint", () => {
  printing = true;
  const fresh = [];
  for (let place = 0; place < Math.min(PRINTED, rows.length); place++) if (!cards.has(place)) fresh.push([place, cardOf(place)]);
  for (const [place, card] of fresh) cards.set(place, card);
  grid.replaceChildren(...[...cards].sort((a, b) => a[0] - b[0]).map(([, card]) => card));
});
addEventListener("afterprint", () => {
  printing = false;
  layOut(true);
});

function theme() {
  const names = { "": "as the system", light: "light", dark: "dark" };
  const button = $("theme");
  let now = "";
  try { now = localStorage.getItem("heatcli-theme") ?? ""; } catch { /* a browser that keeps nothing for files */ }
  const set = () => {
    if (now) document.documentElement.dataset.theme = now;
    else delete document.documentElement.dataset.theme;
    button.textContent = `Theme: ${names[now]}`;
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    now = { "": "dark", dark: "light", light: "" }[now] ?? "";
    try { localStorage.setItem("heatcli-theme", now); } catch { /* as above */ }
    set();
  });
  set();
}

function copying() {
  if (!navigator.clipboard) return;
  const button = $("copy");
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($("command").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (detail.open) {
    if (typing) return;
    const by = { ArrowLeft: -1, ArrowRight: 1, j: 1, k: -1 }[event.key];
    const to = by && rows[rows.indexOf(opened) + by];
    if (to !== undefined && rows.includes(opened)) {
      event.preventDefault();
      go({ open: String(to) });
    }
    return;
  }
  if (typing) return;
  if (event.key === "/") {
    event.preventDefault();
    $("q").focus();
    return;
  }
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.columns, ArrowDown: layout.columns }[event.key];
  if (by && grid.contains(document.activeElement)) {
    event.preventDefault();
    moveTo(focused + by);
  }
});
detail.addEventListener("close", () => {
  if (state.open === "") return;
  const place = rows.indexOf(Number(state.open));
  go({ open: "" });
  if (place >= 0) moveTo(place);
});
detail.addEventListener("click", (event) => { if (event.target === detail) detail.close(); });

function commonFolder(names) {
  let common = names[0] ?? "";
  for (const name of names) while (!name.startsWith(common)) common = common.slice(0, -1);
  return common.slice(0, common.lastIndexOf("/") + 1);
}

async function start() {
  theme();
  copying();
  table = JSON.parse(new TextDecoder().decode(await unpacked($("table").textContent)));
  count_ = table.name.length;
  prefix = commonFolder(table.name);
  haystack = table.name.map((name, i) => [name, table.label[i], table.predicted[i], table.expected[i]].join("\n").toLowerCase());
  known = Object.keys(QUANTITIES).filter((name) => table[name]?.some((value) => value !== null) && (meta.conserves || (name !== "share" && name !== "remainder")));
  controls();
  if (meta.groups.length) groups = new Groups();
  for (const name of known) {
    const [low, high] = extent(table[name].filter((value) => value !== null));
    if (low < high && (name !== "probability" || known.length < 5)) histograms.push(new Histogram(name));
  }
  apply();
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });
  new ResizeObserver(() => layOut(true)).observe(grid.parentElement);
  addEventListener("hashchange", apply);
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
}
start();
