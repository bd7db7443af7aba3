import * as ort from "./ort.wasm.min.mjs";
import { fitted } from "./resize.js";

const at = (id) => document.getElementById(id);
const LINES = { output_baseline: "score of the baseline", pixels: "pixels", biases: "biases", absorbed: "absorbed by ε", unexplained: "unexplained" };
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1;

let note, session, input; // the note in the model; the model; pixels of the picture on show, uint8 [H, W, C]

function say(text, wrong = false) {
  at("said").textContent = text;
  at("said").className = wrong ? "wrong" : "";
}

const digits = (x) => (Math.abs(x) < 1e-4 ? "0" : x.toPrecision(4));

async function start() {
  note = await (await fetch("explained.json")).json();
  session = await ort.InferenceSession.create("explained.onnx", { executionProviders: ["wasm"] });
  const against = note.baseline.name === "none" ? "" : `, compared with ${note.baseline.name}`;
  at("about").textContent = `${note.source.name}, explained by ${note.method.name}${against}`;
  if (note.inputs.includes("target")) {
    at("asked").hidden = false;
    at("class").addEventListener("change", () => show(Number(at("class").value)));
  }
  say("choose a picture");
  document.body.dataset.state = "ready";
}

/** What the model says of pixels, by name; `index`: the class, where that is an input. */
async function run(pixels, index) {
  const { height, width, channels } = note.fit;
  const given = { pixels: new ort.Tensor("uint8", pixels, [1, height, width, channels]) };
  if (note.inputs.includes("target")) given.target = new ort.Tensor("int64", BigInt64Array.of(BigInt(index)), [1]);
  return session.run(given);
}

function softmax(scores) {
  const top = Math.max(...scores);
  const each = scores.map((s) => Math.exp(s - top));
  const sum = each.reduce((a, b) => a + b);
  return each.map((e) => e / sum);
}

async function show(asked = null) {
  document.body.dataset.state = "working";
  say("explaining …");
  await new Promise((done) => setTimeout(done)); // the browser draws first
  const started = performance.now();
  let found = await run(input, asked ?? 0);
  let scores = Array.from(found.logits.data);
  const top = scores.indexOf(Math.max(...scores));
  if (asked === null && note.inputs.includes("target") && top !== 0) found = await run(input, top);
  const milliseconds = performance.now() - started;
  scores = Array.from(found.logits.data);
  const index = asked ?? (note.index ?? top);
  const name = (i) => note.labels[i] ?? `class ${i}`;
  const ledger = Object.fromEntries(note.ledger.map((key, i) => [key, found.ledger.data[i]]));
  const heatmap = Float32Array.from(found.heatmap.data);
  window.result = { index, label: name(index), scores, ledger, heatmap: Array.from(heatmap), milliseconds };
  draw(heatmap);
  at("answer").hidden = false;
  at("label").textContent = note.target.includes("-") && note.minus !== null ? note.target : name(index);
  at("score").textContent = `score ${digits(ledger.output)}`;
  const chances = scores.length > 1 ? softmax(scores) : [];
  const best = chances.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  at("others").replaceChildren(...best.map(([p, i]) => row("li", [name(i), bar(p), `${(100 * p).toFixed(1)} %`])));
  const parts = Object.entries(LINES).filter(([key]) => key !== "output_baseline" || ledger[key] !== 0);
  const lines = parts.map(([key, text]) => row("tr", [text, digits(ledger[key])], "td"));
  lines.push(row("tr", ["score", digits(ledger.output)], "td"));
  lines.at(-1).className = "sum";
  at("ledger").replaceChildren(...lines);
  at("time").textContent = `answer and explanation: ${milliseconds.toFixed(0)} ms`;
  if (!at("asked").hidden) {
    const options = scores.map((_, i) => new Option(name(i), i, i === index, i === index));
    at("class").replaceChildren(...options);
  }
  say("");
  document.body.dataset.state = "done";
}

function row(tag, cells, cell = "span") {
  const made = document.createElement(tag);
  for (const content of cells) {
    const inner = document.createElement(cell);
    inner.append(content);
    made.append(inner);
  }
  return made;
}

function bar(share) {
  const made = document.createElement("progress");
  made.max = 1;
  made.value = share;
  return made;
}

/** The picture, and over a grey one the map: red for, blue against, as strong as its share of the 98.5th percentile. */
function draw(heatmap) {
  const { height, width, channels } = note.fit;
  const [seen, over] = [new ImageData(width, height), new ImageData(width, height)];
  const sizes = Float32Array.from(heatmap, Math.abs).sort();
  const full = sizes[Math.floor(0.985 * (sizes.length - 1))] || sizes.at(-1) || 1;
  for (let i = 0; i < width * height; i++) {
    const colour = [0, 1, 2].map((c) => input[i * channels + (channels === 1 ? 0 : c)]);
    const grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2];
    const value = Math.max(-1, Math.min(1, heatmap[i] / full));
    const [light, ink] = [0.35 * grey + 160, value > 0 ? [200, 0, 20] : [20, 50, 200]];
    for (let c = 0; c < 3; c++) {
      seen.data[4 * i + c] = colour[c];
      over.data[4 * i + c] = light + (ink[c] - light) * Math.abs(value) * 0.9;
    }
    seen.data[4 * i + 3] = over.data[4 * i + 3] = 255;
  }
  for (const [id, image] of [["picture", seen], ["map", over]]) {
    const canvas = at(id);
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

/** Explain whatever can be drawn: a picture's bitmap, or the camera's video. */
async function explain(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  input = fitted(context.getImageData(0, 0, width, height).data, width, height, note.fit);
  await show();
}

async function explainFile(file) {
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    await explain(bitmap, bitmap.width, bitmap.height);
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
    document.body.dataset.state = "failed";
  }
}

async function shoot() {
  const camera = at("camera");
  if (camera.hidden) {
    try {
      camera.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      say(`the camera cannot be used: ${error.message}`, true);
      return;
    }
    await camera.play();
    camera.hidden = false;
    at("shoot").textContent = "explain this";
    return;
  }
  await explain(camera, camera.videoWidth, camera.videoHeight);
}

at("file").addEventListener("change", (event) => explainFile(event.target.files[0]));
at("shoot").addEventListener("click", shoot);
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  explainFile(event.dataTransfer.files[0]);
});
start().catch((error) => {
  const alone = location.protocol === "file:" ? "; serve its folder, such as with python -m http.server" : "";
  say(`the page cannot start: ${error.message}${alone}`, true);
  document.body.dataset.state = "failed";
});
