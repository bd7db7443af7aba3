// Pictures become the model's input as heatcli makes them: Pillow's resampling of bytes, bit for bit.

const PRECISION = 22;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  },
};

/** For each of `size` places of the output: the first source, and the integer weight of each source. */
function taps(source, size, filter) {
  const scale = source / size;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const found = [];
  for (let i = 0; i < size; i++) {
    const center = (i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const high = Math.min(source, Math.trunc(center + support + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = low; x < high; x++) {
      const weight = filter.weight((x - center + 0.5) / stretch);
      weights.push(weight);
      sum += weight;
    }
    const whole = weights.map((w) => {
      const scaled = (w / sum) * 2 ** PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    found.push([low, whole]);
  }
  return found;
}

/** One direction of a resize of planes [channels][height*width]. */
function along(plane, width, height, size, filter, rows) {
  const length = rows ? height : width;
  if (length === size) return plane;
  const [wide, high] = rows ? [width, size] : [size, height];
  const [step, other, across] = rows ? [width, 1, width] : [1, width, height];
  const [outStep, outOther] = rows ? [wide, 1] : [1, wide];
  const out = new Uint8Array(wide * high);
  taps(length, size, filter).forEach(([low, weights], i) => {
    for (let j = 0; j < across; j++) {
      let sum = 2 ** (PRECISION - 1);
      for (let k = 0; k < weights.length; k++) sum += plane[(low + k) * step + j * other] * weights[k];
      out[i * outStep + j * outOther] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** PRECISION)));
    }
  });
  return out;
}

function nearest(plane, width, height, wide, high) {
  const out = new Uint8Array(wide * high);
  for (let y = 0; y < high; y++) {
    const row = Math.floor((y + 0.5) * (height / high)) * width;
    for (let x = 0; x < wide; x++) out[y * wide + x] = plane[row + Math.floor((x + 0.5) * (width / wide))];
  }
  return out;
}

/** Python's round: a half goes to the even number. */
function round(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** RGBA bytes of `width` × `height` as the model's input: uint8 [H, W, C] of `fit`. */
export function fitted(rgba, width, height, fit) {
  const planes = Array.from({ length: fit.channels }, () => new Uint8Array(width * height));
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (fit.channels === 1) planes[0][i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else [r, g, b].forEach((value, c) => (planes[c][i] = value));
  }
  let [wide, high, left, top] = [fit.width, fit.height, 0, 0];
  if (fit.shorter !== null) {
    const short = fit.shorter;
    if (width <= height) [wide, high] = [short, Math.max(short, Math.trunc((short * height) / width))];
    else [wide, high] = [Math.max(short, Math.trunc((short * width) / height)), short];
    [left, top] = [round((wide - fit.width) / 2), round((high - fit.height) / 2)];
  }
  const filter = FILTERS[fit.interpolation];
  const out = new Uint8Array(fit.height * fit.width * fit.channels);
  planes.forEach((plane, c) => {
    let resized = plane;
    if (filter) {
      resized = along(resized, width, height, wide, filter, false);
      resized = along(resized, wide, height, high, filter, true);
    } else resized = nearest(plane, width, height, wide, high);
    for (let y = 0; y < fit.height; y++)
      for (let x = 0; x < fit.width; x++) {
        const [row, column] = [y + top, x + left];
        const inside = row >= 0 && row < high && column >= 0 && column < wide;
        out[(y * fit.width + x) * fit.channels + c] = inside ? resized[row * wide + column] : 0;
      }
  });
  return out;
}
