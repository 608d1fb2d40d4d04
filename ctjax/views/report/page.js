"use strict";
// Fills the pictures of an event and connects the controls; Bokeh draws, pans and zooms.
(() => {
  const picked = JSON.parse(document.getElementById("picked").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const LAYERS = ["charge", "truth", "prediction", "errors"];
  const STEP = 0.2; // part of the picture that an arrow key moves
  let model; // name -> Bokeh model
  let current = 0;
  let layer = "charge";
  let unpacked = [];

  async function bytesOf(text) {
    const raw = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // Kinds of error, as in ctjax.views.event.pixel_kinds.
  function kindOf(truth, prediction) {
    if (truth === prediction) return Math.min(truth, 1);
    if (truth === 2) return 3;
    return prediction === 2 ? 4 : 2;
  }

  async function unpack(event, plane) {
    const { count, bytes } = event.planes[plane];
    const buffer = await bytesOf(bytes);
    const steps = new Uint32Array(buffer, 0, count);
    const codes = new Uint8Array(buffer, 4 * count, count);
    const classes = new Uint8Array(buffer, 5 * count, count);
    const size = event.pixel_size;
    const columns = {};
    for (const name of ["x", "y", ...LAYERS]) columns[name] = new Float32Array(count);
    const ids = new Float64Array(count);
    for (let i = 0, id = 0; i < count; i++) ids[i] = id += steps[i];
    // What is of interest is drawn last: by class, then by charge.
    const order = Uint32Array.from(ids.keys());
    const rank = (i) => 256 * (Math.floor(classes[i] / 3) + 3 * (classes[i] === 8)) + codes[i];
    order.sort((a, b) => rank(a) - rank(b));
    order.forEach((from, to) => {
      const truth = Math.floor(classes[from] / 3), prediction = classes[from] % 3;
      columns.x[to] = (Math.floor(ids[from] / event.rows) + 0.5) * size;
      columns.y[to] = ((ids[from] % event.rows) + 0.5) * size;
      columns.charge[to] = event.low * (event.high / event.low) ** (codes[from] / 255);
      columns.truth[to] = truth;
      columns.prediction[to] = prediction;
      columns.errors[to] = kindOf(truth, prediction);
    });
    return columns;
  }

  function fill() {
    const event = picked[current];
    unpacked.forEach((columns, plane) => {
      let shown = columns;
      if (!byId("noise").checked) {
        const kept = [...columns.x.keys()].filter((i) => columns.truth[i] || columns.prediction[i]);
        shown = {};
        for (const name in columns) shown[name] = Float32Array.from(kept, (i) => columns[name][i]);
      }
      for (const name of LAYERS) {
        const glyph = model(name + plane).glyph;
        glyph.width = { value: event.pixel_size };
        glyph.height = { value: event.pixel_size };
      }
      model("pixels" + plane).data = shown;
    });
  }

  async function show(number) {
    const wanted = (number + picked.length) % picked.length;
    current = wanted;
    const event = picked[current];
    byId("event").value = current;
    const columns = await Promise.all([0, 1, 2].map((plane) => unpack(event, plane)));
    if (current !== wanted) return; // another event was asked for meanwhile
    unpacked = columns;
    model("scale").setv({ low: event.low, high: event.high });
    byId("low").textContent = Number(event.low.toPrecision(2));
    byId("high").textContent = Number(event.high.toPrecision(2));
    all(".plane").forEach((place, plane) => {
      const value = (name) => event.metrics[`plane${plane}/${name}`];
      place.querySelector(".metrics").textContent = value("mIoU") == null ? "" :
        `mIoU ${value("mIoU").toFixed(3)} · neutrino IoU ${value("Neutrino_IoU").toFixed(3)} · cosmic IoU ${value("Cosmic_IoU").toFixed(3)}`;
    });
    const there = { charge: true, truth: event.has_truth, prediction: event.has_prediction,
      errors: event.has_truth && event.has_prediction };
    for (const input of all("#layers input")) input.disabled = !there[input.value];
    byId("missing").hidden = event.has_prediction;
    choose(there[layer] ? layer : "charge");
    fill();
    zoom("whole");
    document.body.dataset.shown = wanted;
  }

  function choose(name) {
    const input = document.querySelector(`#layers input[value=${name}]`);
    if (input.disabled) return;
    input.checked = true;
    layer = name;
    for (const plane of [0, 1, 2])
      for (const other of LAYERS) model(other + plane).visible = other === name;
    for (const legend of all(".legend[data-for]"))
      legend.hidden = !legend.dataset.for.split(" ").includes(name);
  }

  const move = (range, start, end) => range.setv({ start, end });

  function scaleBy(range, factor) {
    const middle = (range.start + range.end) / 2, half = ((range.end - range.start) / 2) * factor;
    move(range, middle - half, middle + half);
  }

  function shift(range, part) {
    const by = part * (range.end - range.start);
    move(range, range.start + by, range.end + by);
  }

  const wires = () => [0, 1, 2].map((plane) => model("wires" + plane));

  function zoom(how) {
    const event = picked[current];
    const ticks = model("ticks");
    if (how === "in" || how === "out")
      for (const range of [ticks, ...wires()]) scaleBy(range, how === "in" ? 0.6 : 1 / 0.6);
    if (how === "whole") {
      move(ticks, 0, event.rows * event.pixel_size);
      for (const range of wires()) move(range, 0, event.columns * event.pixel_size);
    }
    if (how === "neutrino") {
      const boxes = event.planes.map((plane) => plane.box);
      const there = boxes.filter((box) => box);
      if (!there.length) return;
      move(ticks, Math.min(...there.map((b) => b[0])), Math.max(...there.map((b) => b[1])));
      wires().forEach((range, plane) => {
        if (boxes[plane]) move(range, boxes[plane][2], boxes[plane][3]);
      });
    }
  }

  function showPlanes(which) {
    document.querySelector(`#which input[value="${which}"]`).checked = true;
    byId("viewer").classList.toggle("single", which !== "all");
    for (const place of all(".plane"))
      place.hidden = which !== "all" && place.dataset.plane !== which;
  }

  function onKey(pressed) {
    if (pressed.ctrlKey || pressed.metaKey || pressed.altKey) return;
    const actions = {
      "+": () => zoom("in"), "=": () => zoom("in"), "-": () => zoom("out"),
      "0": () => zoom("whole"), "n": () => zoom("neutrino"),
      "[": () => show(current - 1), "]": () => show(current + 1),
      ArrowLeft: () => wires().forEach((range) => shift(range, -STEP)),
      ArrowRight: () => wires().forEach((range) => shift(range, STEP)),
      ArrowUp: () => shift(model("ticks"), STEP),
      ArrowDown: () => shift(model("ticks"), -STEP),
    };
    LAYERS.forEach((name, i) => { actions[String(i + 1)] = () => choose(name); });
    const action = actions[pressed.key];
    if (action) { action(); pressed.preventDefault(); }
  }

  function connectEvents() {
    byId("event").addEventListener("change", (e) => show(Number(e.target.value)));
    byId("previous").addEventListener("click", () => show(current - 1));
    byId("next").addEventListener("click", () => show(current + 1));
    byId("noise").addEventListener("change", fill);
    byId("viewer").addEventListener("keydown", onKey);
    for (const input of all("#layers input")) input.addEventListener("change", () => choose(input.value));
    for (const input of all("#which input")) input.addEventListener("change", () => showPlanes(input.value));
    for (const button of all("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
    // On a phone one picture leaves room to scroll past it.
    if (window.matchMedia("(max-width: 900px)").matches) showPlanes("0");
    return show(0);
  }

  function connectMetric() {
    const menu = byId("metric");
    if (!menu) return;
    const sources = [];
    for (let run = 0; run < Number(menu.dataset.runs); run++)
      for (const kind of ["events", "bins"])
        for (const by of ["energy", "pixels"]) sources.push(model(`${kind}_${by}_${run}`));
    menu.addEventListener("change", () => {
      for (const source of sources.filter((found) => found)) {
        const column = (name) => [name, source.get_column(name === "y" ? menu.value : name)];
        source.data = Object.fromEntries(source.columns().map(column));
      }
    });
  }

  const differences = byId("differences");
  const onlyDifferent = () =>
    document.querySelector(".configuration").classList.toggle("only", differences.checked);
  differences?.addEventListener("change", onlyDifferent);
  if (differences) onlyDifferent();

  // Bokeh makes its document when the page has loaded.
  async function start() {
    const bokeh = window.Bokeh?.documents[0];
    if (!bokeh) return void setTimeout(start, 20);
    model = (name) => bokeh.get_model_by_name(name);
    connectMetric();
    if (picked.length) await connectEvents();
    document.body.dataset.ready = "yes";
  }
  if (window.Bokeh) start(); else document.body.dataset.ready = "yes";
})();
