// ---- groups of maps: a list to filter by, and a scatter to click

const MOST_DOTS = 4000; // of a class; more are thinned out evenly
const DOT_COLOURS = ["#b2182b", "#2166ac", "#d39a34", "#1f6b3a", "#7b3294", "#018571"]; // told apart by the colour-blind

const inGroup = (i) => state.group === "" || meta.groups[table.group?.[i]]?.name === state.group;

class Groups {
  constructor() {
    this.shown = undefined;
    this.buttons = meta.groups.map((group) => {
      const button = make("button", { type: "button" }, make("i", { className: "dot" }), make("b", {}, group.name), ` ${group.suspicion ? `suspicion ${percent(group.suspicion)}, ` : ""}${count(group.size)} pictures`,
        group.suspicion ? make("small", {}, group.why) : null);
      button.firstChild.style.background = this.colour(group);
      button.addEventListener("click", () => go(state.group === group.name ? { group: "", class: "" } : { group: group.name, class: group.label }));
      return button;
    });
    $("groups").append(...this.buttons.map((button) => make("li", {}, button)));
  }
  colour(group) {
    const own = meta.groups.filter((other) => other.label === group.label);
    return DOT_COLOURS[own.indexOf(group) % DOT_COLOURS.length];
  }
  draw() {
    this.buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(meta.groups[k].name === state.group)));
    const label = state.class || meta.groups[0].label;
    if (this.shown !== label) this.scatter(label);
    for (const [i, dot] of this.dots) dot.classList.toggle("faint", !chosen(i));
  }
  scatter(label) {
    this.shown = label;
    const all = table.label.flatMap((own, i) => (own === label && table.x?.[i] !== null && table.x !== undefined ? [i] : []));
    const step = Math.ceil(all.length / MOST_DOTS);
    const some = all.filter((_, k) => k % step === 0);
    const picture = svg("svg", { viewBox: "-3 -3 106 106", role: "img", "aria-label": `Scatter of ${count(all.length)} maps of ${label}` });
    this.dots = some.map((i) => {
      const group = meta.groups[table.group[i]];
      const dot = svg("circle", { cx: 100 * table.x[i], cy: 100 - 100 * table.y[i], r: 1.3, fill: group ? this.colour(group) : "currentColor" });
      const title = svg("title", {});
      title.textContent = `${table.name[i]}${group ? `, ${group.name}` : ""}`;
      dot.append(title);
      dot.addEventListener("click", () => go({ open: String(i) }));
      picture.append(dot);
      return [i, dot];
    });
    $("scatter").replaceChildren(picture);
    $("scatter-said").textContent = all.length
      ? `${label}: ${count(all.length)} pictures${step > 1 ? `, one of ${step} is drawn` : ""}. Click a dot to open its picture; choose another class below.`
      : `${label}: too few pictures for groups.`;
  }
}
