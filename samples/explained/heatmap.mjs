// A heatmap without Python and without heatcli: node and ONNX Runtime run a model that explains itself.
//
//   heatcli export --preprocess -o explained.onnx
//   npm install onnxruntime-node        (or onnxruntime-web)
//   node heatmap.mjs explained.onnx picture.png heatmap.png
//
// The picture: a PNG of 8 bits a channel, of the model's size.

import { readFileSync, writeFileSync } from "node:fs";
import { crc32, deflateSync, inflateSync } from "node:zlib";

const [model, picture, heatmap] = process.argv.slice(2);
const ort = await import("onnxruntime-node").catch(() => import("onnxruntime-web"));

/** The pixels of a PNG, channels interleaved. */
function decoded(file) {
  const data = [];
  let width, height, channels;
  for (let at = 8; at < file.length; at += 12 + file.readUInt32BE(at)) {
    const [type, content] = [file.toString("latin1", at + 4, at + 8), file.subarray(at + 8, at + 8 + file.readUInt32BE(at))];
    if (type === "IHDR") {
      [width, height, channels] = [content.readUInt32BE(0), content.readUInt32BE(4), { 0: 1, 2: 3 }[content[9]]];
      if (content[8] !== 8 || !channels || content[12]) throw Error("the PNG must be grey or RGB, 8 bits, not interlaced");
    }
    if (type === "IDAT") data.push(content);
  }
  const [raw, line] = [inflateSync(Buffer.concat(data)), width * channels];
  const pixels = new Uint8Array(height * line);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (line + 1)];
    for (let x = 0; x < line; x++) {
      const at = y * line + x;
      const a = x < channels ? 0 : pixels[at - channels];
      const b = y ? pixels[at - line] : 0;
      const c = y && x >= channels ? pixels[at - line - channels] : 0;
      const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      pixels[at] = raw[y * (line + 1) + 1 + x] + [0, a, b, (a + b) >> 1, paeth][filter];
    }
  }
  return { width, height, channels, pixels };
}

/** RGB pixels as a PNG. */
function encoded(rgb, width, height) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8);
  const lines = Buffer.alloc(height * (1 + 3 * width));
  for (let y = 0; y < height; y++) lines.set(rgb.subarray(3 * width * y, 3 * width * (y + 1)), y * (1 + 3 * width) + 1);
  const chunks = [["IHDR", header], ["IDAT", deflateSync(lines)], ["IEND", Buffer.alloc(0)]].map(([type, content]) => {
    const [body, ends] = [Buffer.concat([Buffer.from(type), content]), Buffer.alloc(8)];
    ends.writeUInt32BE(content.length, 0);
    ends.writeUInt32BE(crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  });
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), ...chunks]);
}

const { width, height, channels, pixels } = decoded(readFileSync(picture));
const session = await ort.InferenceSession.create(readFileSync(model));
const found = await session.run({ pixels: new ort.Tensor("uint8", pixels, [1, height, width, channels]) });

const scores = Array.from(found.logits.data);
const names = ["output", "output_baseline", "pixels", "biases", "absorbed", "unexplained"];
const ledger = Object.fromEntries(names.map((name, i) => [name, found.ledger.data[i]]));
console.log(JSON.stringify({ class: scores.indexOf(Math.max(...scores)), ledger }));

const most = Math.max(...found.heatmap.data.map(Math.abs));
const rgb = new Uint8Array(3 * width * height).fill(255);
found.heatmap.data.forEach((value, i) => {
  const rest = Math.round(255 * (1 - Math.abs(value) / most)); // white where nothing is, red for, blue against
  rgb[3 * i + 1] = rest;
  rgb[3 * i + (value > 0 ? 2 : 0)] = rest;
});
writeFileSync(heatmap, encoded(rgb, width, height));
