// An int8 network in integers: the same bits as PyTorch's fbgemm kernels, without Python.
//
// The formulas, names and symbols are those of notebook 05 (Jacob et al., CVPR 2018): a code q
// stands for the real number r = S (q - Z), with scale S and zero point Z. Indices x, w and y mean
// the input, the weight and the output of a layer. Maps are channels last: (height, width, channels).

const VERSION = 1;
const f32 = Math.fround; // the kernels compute in float32; JavaScript's numbers are float64

// Every choice that decides the bits; these are fbgemm's.
export const FBGEMM = {
  rounding: "half even",
  padding: "zero point",
  accumulator: "int32",
  activationBits: 8,
};

// ---------------------------------------------------------------------------------- the model file

const CRC = Int32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

// Read a model: "INT8NET", version (1 byte), CRC-32 of all that follows and length of the header
// (4 bytes each, little endian), header (JSON), then the arrays that the header points to.
export function parse(buffer) {
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.subarray(0, 7));
  if (magic !== "INT8NET") throw new Error("This is not a model of the playground.");
  if (bytes[7] !== VERSION)
    throw new Error(`The model has version ${bytes[7]}, this page reads ${VERSION}: make both again.`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 16 || view.getUint32(8, true) !== crc32(bytes.subarray(12)))
    throw new Error("The model is damaged or incomplete: make the page again.");
  const start = 16 + view.getUint32(12, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(16, start)));
  const array = (Kind, [offset, length]) =>
    new Kind(bytes.slice(start + offset, start + offset + length * Kind.BYTES_PER_ELEMENT).buffer);
  for (const layer of Object.values(header.layers)) {
    layer.weight = array(Int8Array, layer.weight); // (outputs, kernel height, kernel width, inputs)
    layer.weightScale = array(Float32Array, layer.weightScale); // S_w, one per output channel
    layer.bias = array(Float32Array, layer.bias); // in real units
  }
  header.samples = array(Uint8Array, header.samples);
  return header;
}

// ------------------------------------------------------------------------------------- arithmetic

// Round to a whole number: ties to the even neighbor, or away from zero (notebook 05, "Halfway").
export function round(r, rule) {
  if (rule === "half away") return Math.trunc(f32(r + (r < 0 ? -0.5 : 0.5)));
  const whole = Math.floor(r), rest = r - whole;
  return rest < 0.5 || (rest === 0.5 && whole % 2 === 0) ? whole : whole + 1;
}

const clamp = (q, lowest) => (q < lowest ? lowest : q > 255 ? 255 : q);

// q = clamp(round(r / S) + Z, 0, 255), by a product with float32(1 / S) as the kernels do.
export function quantize(pixels, shape, scale, zeroPoint) {
  const inverse = f32(1 / scale);
  const q = Uint8Array.from(pixels, (r) => clamp(round(f32(r * inverse), "half even") + zeroPoint, 0));
  return { q, shape, scale, zeroPoint };
}

// r = S (q - Z)
export const dequantize = (x) => Float32Array.from(x.q, (q) => f32(x.scale * (q - x.zeroPoint)));

// Lay the codes that one output position meets in a row, by row, column and channel of the kernel.
export function patch(layer, x, i, j, fill, row) {
  const [height, width, channels] = x.shape;
  const [, kernelHeight, kernelWidth] = layer.shape;
  let k = 0;
  for (let r = 0; r < kernelHeight; r++)
    for (let c = 0; c < kernelWidth; c++, k += channels) {
      const y = i * layer.stride - layer.padding[0] + r;
      const z = j * layer.stride - layer.padding[1] + c;
      if (y < 0 || y >= height || z < 0 || z >= width) row.fill(fill, k, k + channels);
      else row.set(x.q.subarray((y * width + z) * channels, (y * width + z + 1) * channels), k);
    }
  return row;
}

// The int32 sum of q_x q_w over one row and one output channel.
function dot(row, weight, start, length) {
  let sum = 0;
  for (let k = 0; k < length; k++) sum = (sum + Math.imul(row[k], weight[start + k])) | 0;
  return sum;
}

// The same, with every two neighboring products added in a saturating int16, as processors
// without VNNI do (instruction vpmaddubsw; notebook 05, "Saturation").
function dotInt16(row, weight, start, length) {
  let sum = 0;
  for (let k = 0; k < length; k += 2) {
    const pair = row[k] * weight[start + k] + (k + 1 < length ? row[k + 1] * weight[start + k + 1] : 0);
    sum += pair > 32767 ? 32767 : pair < -32768 ? -32768 : pair;
  }
  return sum;
}

// What a layer multiplies and adds after its sums; constants of the layer, computed in float32.
export function constants(layer, inputScale) {
  const outputs = layer.shape[0], length = layer.weight.length / outputs;
  const unit = layer.weightScale.map((s) => f32(inputScale * s)); // what an accumulator's 1 is worth
  return {
    length,
    bias: layer.bias.map((b, o) => f32(b / unit[o])),
    multiplier: unit.map((u) => f32(u / layer.scale)), // M = S_x S_w / S_y
    weightSum: Int32Array.from({ length: outputs }, (_, o) => {
      let sum = 0;
      for (let k = 0; k < length; k++) sum += layer.weight[o * length + k];
      return sum;
    }),
  };
}

// q_y = Z_y + round(M (sum (q_x - Z_x) q_w + b / (S_x S_w))), clamped; from Z_y behind a ReLU.
export function requantize(sum, bias, multiplier, layer, rounding) {
  const code = round(f32(f32(f32(sum) + bias) * multiplier), rounding) + layer.zeroPoint;
  return clamp(code, layer.relu ? layer.zeroPoint : 0);
}

// A convolution; a linear layer is one on a map of a single pixel.
export function convolve(layer, x, arithmetic = FBGEMM) {
  const [outputs] = layer.shape, [height, width] = layer.output;
  const { length, bias, multiplier, weightSum } = (layer.constants ??= constants(layer, x.scale));
  const fill = arithmetic.padding === "zero point" ? x.zeroPoint : 0;
  const product = arithmetic.accumulator === "int32" ? dot : dotInt16;
  const row = new Uint8Array(length), q = new Uint8Array(height * width * outputs);
  for (let i = 0, place = 0; i < height; i++)
    for (let j = 0; j < width; j++) {
      patch(layer, x, i, j, fill, row);
      for (let o = 0; o < outputs; o++) {
        const sum = product(row, layer.weight, o * length, length) - x.zeroPoint * weightSum[o];
        q[place++] = requantize(sum, bias[o], multiplier[o], layer, arithmetic.rounding);
      }
    }
  return { q, shape: [height, width, outputs], scale: layer.scale, zeroPoint: layer.zeroPoint, from: x };
}

// How one code of a layer's output comes about: the numbers that the page shows.
export function explain(layer, x, place, arithmetic = FBGEMM) {
  const [outputs] = layer.shape, width = layer.output[1], o = place % outputs;
  const position = (place - o) / outputs, i = Math.floor(position / width), j = position % width;
  const { length, bias, multiplier, weightSum } = (layer.constants ??= constants(layer, x.scale));
  const fill = arithmetic.padding === "zero point" ? x.zeroPoint : 0;
  const row = patch(layer, x, i, j, fill, new Uint8Array(length));
  const product = (arithmetic.accumulator === "int32" ? dot : dotInt16)(row, layer.weight, o * length, length);
  const correction = x.zeroPoint * weightSum[o], sum = product - correction;
  const real = f32(f32(f32(sum) + bias[o]) * multiplier[o]);
  const code = requantize(sum, bias[o], multiplier[o], layer, arithmetic.rounding);
  const weights = layer.weight.slice(o * length, (o + 1) * length);
  const numbers = { product, correction, sum, bias: bias[o], multiplier: multiplier[o], real, code };
  return { i, j, o, row, weights, rounded: round(real, arithmetic.rounding), ...numbers };
}

// The residual addition with its ReLU: both inputs become real numbers, by one fused
// multiply-add each, and their sum becomes a code again (notebook 05, "The residual addition").
export function addRelu(a, b, scale, zeroPoint, arithmetic = FBGEMM) {
  const inverse = f32(1 / scale);
  const real = (x) => {
    const offset = f32(x.scale * -x.zeroPoint);
    return Float32Array.from({ length: 256 }, (_, q) => x.scale * q + offset); // rounded once
  };
  const [ra, rb] = [real(a), real(b)];
  const q = a.q.map((_, n) => {
    const sum = f32(ra[a.q[n]] + rb[b.q[n]]);
    return clamp(round(f32(sum * inverse), arithmetic.rounding) + zeroPoint, zeroPoint);
  });
  return { q, shape: a.shape, scale, zeroPoint, from: a };
}

// The largest code of every 3x3 window, stride 2; padding never wins. Scale and zero point stay.
export function maxPool(x, Kind = Uint8Array) {
  const [height, width, channels] = x.shape;
  const [h, w] = [Math.floor((height - 1) / 2) + 1, Math.floor((width - 1) / 2) + 1];
  const q = new Kind(h * w * channels);
  for (let i = 0, n = 0; i < h; i++)
    for (let j = 0; j < w; j++)
      for (let c = 0; c < channels; c++, n++)
        for (let y = Math.max(0, 2 * i - 1); y < Math.min(height, 2 * i + 2); y++)
          for (let z = Math.max(0, 2 * j - 1); z < Math.min(width, 2 * j + 2); z++)
            q[n] = Math.max(q[n], x.q[(y * width + z) * channels + c]);
  return { ...x, q, shape: [h, w, channels], from: x };
}

// The mean code of every channel: q = Z + round(sum (q - Z) / n). Scale and zero point stay.
export function averagePool(x) {
  const [height, width, channels] = x.shape, inverse = f32(1 / (height * width));
  const q = new Uint8Array(channels);
  for (let c = 0; c < channels; c++) {
    let sum = -x.zeroPoint * height * width;
    for (let n = c; n < x.q.length; n += channels) sum += x.q[n];
    q[c] = clamp(round(f32(f32(sum) * inverse), "half even") + x.zeroPoint, 0);
  }
  return { ...x, q, shape: [1, 1, channels], from: x };
}

// ------------------------------------------------------------------------------------- the network

// Normalize uint8 pixels as Python did before the first layer.
export function normalize(model, pixels) {
  return Float32Array.from(pixels, (p) => f32(f32(f32(p / 255) - model.mean) / model.std));
}

// Run ResNet-18 on 28x28 pixels (uint8); returns the output of every layer by name, in order.
export function run(model, pixels, arithmetic = FBGEMM) {
  const out = {};
  const put = (name, y) => (out[name] = coarser(y, arithmetic.activationBits));
  const layer = (name, x) => put(name, convolve(model.layers[name], x, arithmetic));
  put("quant", quantize(normalize(model, pixels), [28, 28, 1], model.scale, model.zeroPoint));
  let x = put("maxpool", maxPool(layer("conv1", out.quant)));
  for (const [name, [scale, zeroPoint]] of Object.entries(model.sums)) {
    const block = name.replace("add_relu", "");
    const y = layer(block + "conv2", layer(block + "conv1", x));
    const shortcut = block + "downsample.0";
    x = shortcut in model.layers ? layer(shortcut, x) : x;
    x = put(name, addRelu(y, x, scale, zeroPoint, arithmetic));
  }
  layer("fc", put("avgpool", averagePool(x)));
  return out;
}

// ------------------------------------------------------------------------ what the switches change

// Keep only the multiples of 2^(8 - bits) of an output's distance from Z, in place.
function coarser(x, bits = 8) {
  const step = 2 ** (8 - bits);
  if (step > 1)
    x.q = x.q.map((q) => {
      const code = x.zeroPoint + round((q - x.zeroPoint) / step, "half even") * step;
      return code > 255 ? code - step : code < 0 ? code + step : code;
    });
  return x;
}

// A copy of the model with fewer bits for the weights, one scale per tensor instead of one per
// channel, or another range of the input.
export function alter(model, { weightBits = 8, perTensor = false, inputRange = 1 }) {
  const step = 2 ** (8 - weightBits), layers = {};
  for (const [name, layer] of Object.entries(model.layers)) {
    const largest = perTensor ? Math.max(...layer.weightScale) : 0;
    const length = layer.weight.length / layer.shape[0];
    const weight = layer.weight.map((q, n) => {
      const exact = perTensor ? (q * layer.weightScale[Math.floor(n / length)]) / largest : q;
      return Math.min(128 - step, Math.max(-128, round(exact / step, "half even") * step));
    });
    const weightScale = perTensor ? layer.weightScale.map(() => largest) : layer.weightScale;
    layers[name] = { ...layer, weight, weightScale, constants: undefined };
  }
  return { ...model, layers, scale: f32(model.scale * inputRange) };
}

// The same network in float32 arithmetic, for the race: the numbers that the codes stand for.
export function runFloat(model, pixels) {
  const layer = (name, x) => convolveFloat(model.layers[name], x);
  let x = maxPoolFloat(layer("conv1", { r: normalize(model, pixels), shape: [28, 28, 1] }));
  for (const name of Object.keys(model.sums)) {
    const block = name.replace("add_relu", "");
    const y = layer(block + "conv2", layer(block + "conv1", x));
    if (block + "downsample.0" in model.layers) x = layer(block + "downsample.0", x);
    x = { r: y.r.map((value, n) => Math.max(0, value + x.r[n])), shape: y.shape };
  }
  const [height, width, channels] = x.shape, mean = new Float32Array(channels);
  x.r.forEach((value, n) => (mean[n % channels] += value / (height * width)));
  return layer("fc", { r: mean, shape: [1, 1, channels] }).r;
}

function convolveFloat(layer, x) {
  const [outputs, kernelHeight, kernelWidth, inputs] = layer.shape, [height, width] = layer.output;
  const length = kernelHeight * kernelWidth * inputs, row = new Float32Array(length);
  layer.real ??= Float32Array.from(layer.weight, (q, n) => q * layer.weightScale[Math.floor(n / length)]);
  const r = new Float32Array(height * width * outputs);
  for (let i = 0, place = 0; i < height; i++)
    for (let j = 0; j < width; j++) {
      patch(layer, { q: x.r, shape: x.shape }, i, j, 0, row);
      for (let o = 0; o < outputs; o++, place++) {
        let value = layer.bias[o];
        for (let k = 0; k < length; k++) value += row[k] * layer.real[o * length + k];
        r[place] = layer.relu && value < 0 ? 0 : value;
      }
    }
  return { r, shape: [height, width, outputs] };
}

function maxPoolFloat(x) {
  const q = x.r, y = { ...maxPool({ q, shape: x.shape }, Float32Array) };
  return { r: y.q, shape: y.shape };
}
