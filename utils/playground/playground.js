// The page around the engine: draw or choose a digit, see every layer, break one ingredient.
// Plain functions and the DOM; the network runs in a worker, so that the page stays smooth.

const MAPS = {
  quant: "input",
  conv1: "conv1",
  "layer1.1.add_relu": "layer1",
  "layer2.1.add_relu": "layer2",
  "layer3.1.add_relu": "layer3",
  "layer4.1.add_relu": "layer4",
  fc: "logits",
};

const SWITCHES = `
  <label>Rounding <select name="rounding"><option>half even<option>half away</select></label>
  <label>Padding <select name="padding"><option>zero point<option value="zero">code 0</select></label>
  <label>Sums <select name="accumulator"><option>int32<option>int16 pairs</select></label>
  <label>Weight bits <select name="weightBits">${options(8, 2)}</select></label>
  <label>Activation bits <select name="activationBits">${options(8, 2)}</select></label>
  <label>Weight scales <select name="perTensor"><option value="">one per channel
    <option value="1">one per layer</select></label>
  <label>Range of the input <select name="inputRange"><option value="1">calibrated
    <option value="0.5">half<option value="0.25">a quarter<option value="4">four times</select></label>
  <button type="reset">As fbgemm does it</button>`;

function options(from, to) {
  let text = "";
  for (let bits = from; bits >= to; bits--) text += `<option>${bits}`;
  return text;
}

// What the worker does: run the network as it is and with the switches, or race it.
function work(event) {
  const { pixels, choice, race } = event.data;
  if (event.data.model) self.model = parse(event.data.model);
  if (!pixels) return;
  if (race) {
    const times = [[], []];
    for (let n = 0; n < 11; n++)
      [run, runFloat].forEach((f, which) => {
        const start = performance.now();
        f(self.model, pixels);
        times[which].push(performance.now() - start);
      });
    return postMessage({ race: times.map((t) => t.sort((a, b) => a - b)[5]) });
  }
  const start = performance.now();
  const out = run(self.model, pixels);
  const ms = performance.now() - start;
  const key = JSON.stringify(choice);
  if (self.key !== key) [self.key, self.altered] = [key, alter(self.model, choice)];
  postMessage({ out, ms, broken: run(self.altered, pixels, { ...FBGEMM, ...choice }) });
}

// Make an MNIST image as MNIST was made: the drawing, scaled into a box of 20x20 with its shape
// kept, antialiased, and moved so that its center of mass is the center of 28x28 pixels.
function centered(canvas) {
  const { width, height } = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let n = 0; n < width * height; n++)
    if (data[4 * n] > 60) {
      const [x, y] = [n % width, Math.floor(n / width)];
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  if (right < 0) return null;
  const [w, h] = [right - left + 1, bottom - top + 1], scale = 20 / Math.max(w, h);
  const box = document.createElement("canvas");
  box.width = box.height = 28;
  const context = box.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const draw = (x, y) => {
    context.fillRect(0, 0, 28, 28);
    context.drawImage(canvas, left, top, w, h, x, y, w * scale, h * scale);
    const pixels = context.getImageData(0, 0, 28, 28).data;
    return Uint8Array.from({ length: 784 }, (_, n) => pixels[4 * n]);
  };
  const first = draw(14 - (w * scale) / 2, 14 - (h * scale) / 2);
  let [mass, sumX, sumY] = [0, 0, 0];
  first.forEach((p, n) => ((mass += p), (sumX += p * (n % 28)), (sumY += p * Math.floor(n / 28))));
  const [x, y] = [Math.round(13.5 - sumX / mass), Math.round(13.5 - sumY / mass)];
  return draw(14 - (w * scale) / 2 + x, 14 - (h * scale) / 2 + y);
}

// Lay the channels of a map side by side, each a small picture; returns the columns of that grid.
function paint(canvas, x, changedFrom) {
  const [height, width, channels] = x.shape, columns = Math.ceil(Math.sqrt((channels * height) / width));
  canvas.width = columns * width;
  canvas.height = Math.ceil(channels / columns) * height;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const most = x.q.reduce((a, b) => Math.max(a, b), 1);
  x.q.forEach((q, n) => {
    const c = n % channels, position = (n - c) / channels;
    const row = Math.floor(c / columns) * height + Math.floor(position / width);
    const at = 4 * (row * canvas.width + (c % columns) * width + (position % width));
    const grey = Math.round((255 * q) / most), apart = changedFrom ? Math.abs(changedFrom.q[n] - q) : 0;
    image.data.set(apart ? [110 + Math.min(145, 10 * apart), grey / 3, grey / 3, 255] : [grey, grey, grey, 255], at);
  });
  context.putImageData(image, 0, 0);
  return columns;
}

function mount(root, bytes, engineSource) {
  root.classList.add("int8");
  root.insertAdjacentHTML("beforeend", `
    <p>ResNet-18 reads your digit with 8-bit integers, here in your browser: the same codes, in every
      layer, as PyTorch's fbgemm kernels compute. Nothing is sent anywhere.</p>
    <p class="error changed" role="alert"></p>
    <div class="row">
      <div><canvas class="pad" width="280" height="280" tabindex="0" role="img"
        aria-label="Drawing area. Arrow keys move the pen, space puts it down or lifts it."></canvas><br>
        <button class="clear">Clear</button>
        <button class="before" aria-label="Previous test digit">◀</button>
        <button class="after">A test digit ▶</button></div>
      <div><canvas class="small" width="28" height="28" role="img"
        aria-label="What the network sees: 28 by 28 pixels"></canvas>
        <p class="source"></p></div>
      <div aria-live="polite"><span class="answer" aria-label="Answer">?</span> <span class="time"></span>
        <table class="logits"><thead><tr><th>digit<th>code<th>logit<th></thead><tbody></tbody></table></div>
    </div>
    <h2>What each layer says</h2>
    <p>One small square per channel. Click a pixel, and its sum is explained below.</p>
    <div class="maps"></div>
    <h2>The sum behind one code</h2><div class="sum" tabindex="0" aria-live="polite">Click a pixel of a map.</div>
    <h2>Break one ingredient</h2>
    <form><fieldset><legend>Arithmetic</legend>${SWITCHES}</fieldset></form>
    <p class="verdict" aria-live="polite"></p>
    <h2>int8 against float32, in this page</h2>
    <p><button class="race">Race</button> <span class="raced" aria-live="polite">The same network in
      float32 arithmetic, one after the other, eleven times.</span></p>`);
  const $ = (name) => root.querySelector(name);
  const pad = $(".pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  let model, worker, pixels, latest, sample = -1, busy = false, again = false;
  try {
    model = parse(bytes);
  } catch (error) {
    $(".error").textContent = error.message;
    return;
  }
  const source = `${engineSource}\nonmessage = ${work};`;
  worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  worker.postMessage({ model: bytes });

  for (const [name, title] of Object.entries(MAPS)) {
    $(".maps").insertAdjacentHTML("beforeend",
      `<figure><canvas tabindex="0" role="img" data-name="${name}"></canvas><figcaption></figcaption></figure>`);
    const figure = $(".maps").lastElementChild, canvas = figure.firstElementChild;
    canvas.setAttribute("aria-label", `Codes of ${title}. Enter explains the brightest one.`);
    canvas.onclick = (event) => {
      if (!latest) return;
      const at = (place, shown, size) =>
        Math.max(0, Math.min(size - 1, Math.floor((place * size) / shown)));
      const column = at(event.offsetX, canvas.clientWidth, canvas.width);
      const row = at(event.offsetY, canvas.clientHeight, canvas.height);
      const [height, width, channels] = latest.out[name].shape;
      const c = Math.floor(row / height) * (canvas.width / width) + Math.floor(column / width);
      if (c < channels) tell(name, ((row % height) * width + (column % width)) * channels + c);
    };
    canvas.onkeydown = (event) => {
      if (event.key !== "Enter" || !latest) return;
      const q = latest.out[name].q;
      tell(name, q.indexOf(q.reduce((a, b) => Math.max(a, b), 0)));
    };
  }

  function choice() {
    const form = Object.fromEntries(new FormData($("form")));
    const number = (name) => Number(form[name]);
    return { ...form, perTensor: Boolean(form.perTensor), weightBits: number("weightBits"),
      activationBits: number("activationBits"), inputRange: number("inputRange") };
  }

  function see(next, text) {
    pixels = next;
    $(".source").textContent = text;
    const context = $(".small").getContext("2d"), image = context.createImageData(28, 28);
    pixels.forEach((p, n) => image.data.set([p, p, p, 255], 4 * n));
    context.putImageData(image, 0, 0);
    ask();
  }

  function ask() {
    if (!pixels) return;
    if (busy) return void (again = true);
    busy = true;
    worker.postMessage({ pixels, choice: choice() });
  }

  worker.onmessage = ({ data }) => {
    if (data.race) {
      const [int8, float] = data.race.map((ms) => `${ms.toFixed(1)} ms`);
      $(".raced").textContent = `Medians: int8 ${int8}, float32 ${float}. JavaScript has no int8 ` +
        "instructions: what this race compares is the arithmetic of your browser, not what a processor can do.";
      return;
    }
    busy = false;
    latest = data;
    show();
    if (again) ((again = false), ask());
  };

  function show() {
    const { out, broken, ms } = latest, logits = dequantize(broken.fc);
    const winner = logits.indexOf(Math.max(...logits)), before = out.fc.q.indexOf(Math.max(...out.fc.q));
    $(".answer").textContent = winner;
    $(".time").textContent = `in ${ms.toFixed(0)} ms`;
    const [low, high] = [Math.min(...logits), Math.max(...logits)];
    $(".logits tbody").innerHTML = Array.from(logits, (r, digit) => {
      const length = (7 * (r - low)) / (high - low || 1);
      return `<tr><td>${digit}<td>${broken.fc.q[digit]}<td>${r.toFixed(2)}<td style="text-align:left">` +
        `<span class="bar" style="width:${length.toFixed(2)}rem"></span>`;
    }).join("");
    for (const figure of root.querySelectorAll(".maps figure")) {
      const { name } = figure.firstElementChild.dataset, [x, y] = [broken[name], out[name]];
      paint(figure.firstElementChild, x, y);
      const changed = x.q.reduce((n, q, i) => n + (q !== y.q[i]), 0), [h, w, c] = x.shape;
      figure.lastElementChild.innerHTML = `${MAPS[name]}: ${h}×${w}×${c}` +
        (changed ? `<br><span class="changed">${changed} of ${x.q.length} codes changed</span>` : "");
    }
    const first = Object.keys(out).find((name) => out[name].q.some((q, i) => q !== broken[name].q[i]));
    $(".verdict").textContent = !first
      ? "Every code is fbgemm's."
      : `The first codes change in ${first}; changed codes are red above. ` +
        (winner === before ? `The answer stays ${winner}.` : `The answer flips from ${before} to ${winner}.`);
  }

  function tell(name, place) {
    const x = latest.out[name], by = { quant: "", fc: "fc" }[name] ?? name.replace("add_relu", "conv2");
    const o = place % x.shape[2], position = (place - o) / x.shape[2];
    const where = `${name}, channel ${o}, row ${Math.floor(position / x.shape[1])}, column ${position % x.shape[1]}`;
    if (!by) {
      const real = normalize(model, pixels)[place];
      $(".sum").textContent = `${where}\npixel ${pixels[place]} → normalized r = ${real.toFixed(4)}\n` +
        `q = round(r / S) + Z = round(${real.toFixed(4)} / ${x.scale.toPrecision(5)}) + ${x.zeroPoint} = ${x.q[place]}`;
      return;
    }
    const layer = model.layers[by], e = explain(layer, latest.out[by].from, place), count = e.row.length;
    const few = (list) => Array.from(list.slice(0, 12)).join(" ") + (count > 12 ? ` … (${count} in all)` : "");
    $(".sum").textContent = `${where}${by === name ? "" : ` (its last convolution, ${by})`}\n` +
      `codes of the patch q_x: ${few(e.row)}\nweights q_w:            ${few(e.weights)}\n` +
      `Σ q_x q_w = ${e.product}\ncorrection Z_x Σ q_w = ${e.correction}\naccumulator (int32) = ${e.sum}\n` +
      `+ bias b / (S_x S_w) = ${e.bias.toFixed(3)}\n× multiplier M = S_x S_w / S_y = ${e.multiplier.toPrecision(7)}\n` +
      `= ${e.real.toFixed(4)} → rounded ${e.rounded}, + Z_y (${layer.zeroPoint}), clamped to ` +
      `${layer.relu ? layer.zeroPoint : 0}…255 → code ${e.code}` +
      (by === name ? "" : `\nadded to the shortcut, ReLU → code ${x.q[place]}`);
  }

  // Drawing: mouse, pen and touch by pointer events; arrow keys and space from the keyboard.
  const wipe = () => ((pen.fillStyle = "#000"), pen.fillRect(0, 0, 280, 280));
  let down = false, [px, py] = [140, 60];
  Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  wipe();
  const line = (x, y) => {
    pen.beginPath();
    pen.moveTo(px, py);
    pen.lineTo(x, y);
    pen.stroke();
    [px, py] = [x, y];
    const image = centered(pad);
    if (image) see(image, "Your drawing, scaled and centered as MNIST's digits are.");
  };
  const point = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * 280) / box.width, ((event.clientY - box.top) * 280) / box.height];
  };
  pad.onpointerdown = (event) => {
    if (sample >= 0) (wipe(), (sample = -1));
    pad.setPointerCapture(event.pointerId);
    down = true;
    [px, py] = point(event);
    line(px + 0.1, py);
  };
  pad.onpointermove = (event) => down && line(...point(event));
  pad.onpointerup = pad.onpointercancel = () => (down = false);
  let penDown = false;
  pad.onkeydown = (event) => {
    const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
    if (event.key === " ") penDown = !penDown;
    else if (!step) return;
    event.preventDefault();
    const [x, y] = step ? [px + step[0], py + step[1]] : [px + 0.1, py];
    if (penDown) line(x, y);
    else [px, py] = [x, y];
  };
  $(".clear").onclick = () => (wipe(), (sample = -1), [px, py] = [140, 60]);
  const choose = (by) => {
    const count = model.labels.length;
    sample = (Math.max(sample, by < 0 ? 0 : -1) + by + count) % count;
    const picture = model.samples.slice(784 * sample, 784 * sample + 784), image = pen.createImageData(28, 28);
    picture.forEach((p, n) => image.data.set([p, p, p, 255], 4 * n));
    const small = document.createElement("canvas");
    small.width = small.height = 28;
    small.getContext("2d").putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, 280, 280);
    see(picture, `Test digit ${sample + 1} of ${count}, a ${model.labels[sample]}. ${model.notes[sample]}`);
  };
  $(".after").onclick = () => choose(1);
  $(".before").onclick = () => choose(-1);
  $("form").onchange = ask;
  $("form").onreset = () => setTimeout(ask);
  $(".race").onclick = () => {
    if (!pixels) return void ($(".raced").textContent = "Draw or choose a digit first.");
    $(".raced").textContent = "Racing …";
    worker.postMessage({ pixels, race: true });
  };
  choose(1);
}
