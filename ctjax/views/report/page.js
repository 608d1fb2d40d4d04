"use strict";
// Fills the pictures of an event and connects the controls; Bokeh draws, pans and zooms.
(() => {
  const byId = (id) => document.getElementById(id);
  const picked = JSON.parse(byId("picked").textContent);
  const detector = JSON.parse(byId("detector").textContent);
  const PLANES = [...Array(detector.planes).keys()];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const LAYERS = ["charge", "truth", "prediction", "errors"];
  const SMALL_ROWS = 250; // of a plane whose pixels need no line to be seen
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

  async function unpack(event, plane) {
    const { count, bytes, rows } = event.planes[plane];
    const buffer = await bytesOf(bytes);
    const steps = new Uint32Array(buffer, 0, count);
    const codes = new Uint8Array(buffer, 4 * count, count);
    const truths = new Uint8Array(buffer, 5 * count, count);
    const predictions = new Uint8Array(buffer, 6 * count, count);
    const size = event.pixel_size;
    const columns = {};
    for (const name of ["x", "y", ...LAYERS]) columns[name] = new Float32Array(count);
    const ids = new Float64Array(count);
    for (let i = 0, id = 0; i < count; i++) ids[i] = id += steps[i];
    // What is of interest is drawn last: by class, then by charge. Ignored pixels have
    // the number of classes for theirs.
    const order = Uint32Array.from(ids.keys());
    const number = detector.classes;
    const isFound = (i) => truths[i] === number - 1 && predictions[i] === number - 1;
    const rank = (i) => 256 * ((truths[i] % number) + number * isFound(i)) + codes[i];
    order.sort((a, b) => rank(a) - rank(b));
    order.forEach((from, to) => {
      columns.x[to] = (Math.floor(ids[from] / rows) + 0.5) * size;
      columns.y[to] = ((ids[from] % rows) + 0.5) * size;
      columns.charge[to] = event.low * (event.high / event.low) ** (codes[from] / 255);
      columns.truth[to] = truths[from];
      columns.prediction[to] = predictions[from];
      columns.errors[to] = detector.kinds[truths[from]][predictions[from]];
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
        // Large enough to be seen, pixels have their true size.
        glyph.line_width = { value: event.planes[plane].rows > SMALL_ROWS ? 1 : 0 };
      }
      model("pixels" + plane).data = shown;
    });
  }

  // A ring where the vertex is and a cross where it was found, on every layer.
  function markVertices() {
    for (const plane of PLANES)
      for (const name of ["true vertex", "predicted vertex"]) {
        const at = byId("vertices")?.checked && picked[current].planes[plane].vertices[name];
        const source = model(`${name} ${plane}`);
        if (source) source.data = at ? { x: [at[0]], y: [at[1]] } : { x: [], y: [] };
      }
  }

  async function show(number) {
    const wanted = (number + picked.length) % picked.length;
    current = wanted;
    const event = picked[current];
    byId("event").value = current;
    const columns = await Promise.all(PLANES.map((plane) => unpack(event, plane)));
    if (current !== wanted) return; // another event was asked for meanwhile
    unpacked = columns;
    model("scale").setv({ low: event.low, high: event.high });
    byId("low").textContent = Number(event.low.toPrecision(2));
    byId("high").textContent = Number(event.high.toPrecision(2));
    all(".plane").forEach((place, plane) => {
      const value = (name) => event.metrics[`plane${plane}/${name}`];
      const metrics = value("mIoU") == null ? [] :
        detector.metrics.map(([name, words]) => `${words} ${value(name).toFixed(3)}`);
      const words = [...metrics, event.planes[plane].vertex_words];
      place.querySelector(".metrics").textContent = words.filter((each) => each).join(" · ");
    });
    const there = { charge: true, truth: event.has_truth, prediction: event.has_prediction,
      errors: event.has_truth && event.has_prediction };
    for (const input of all("#layers input")) input.disabled = !there[input.value];
    byId("missing").hidden = event.has_prediction;
    choose(there[layer] ? layer : "charge");
    fill();
    markVertices();
    zoom("whole");
    document.body.dataset.shown = wanted;
  }

  function choose(name) {
    const input = document.querySelector(`#layers input[value=${name}]`);
    if (input.disabled) return;
    input.checked = true;
    layer = name;
    for (const plane of PLANES)
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

  const wires = () => PLANES.map((plane) => model("wires" + plane));
  // Planes of as many ticks share the range of the first.
  const ticksOf = (plane) => model("ticks" + plane) ?? model("ticks0");
  const ticks = () => [...new Set(PLANES.map(ticksOf))];

  function zoom(how) {
    const event = picked[current];
    if (how === "in" || how === "out")
      for (const range of [...ticks(), ...wires()]) scaleBy(range, how === "in" ? 0.6 : 1 / 0.6);
    if (how === "whole")
      for (const plane of PLANES) {
        const { rows, columns } = event.planes[plane];
        move(ticksOf(plane), 0, rows * event.pixel_size);
        move(model("wires" + plane), 0, columns * event.pixel_size);
      }
    if (how === "class") {
      const found = PLANES.filter((plane) => event.planes[plane].box);
      for (const range of ticks()) {
        const boxes = found.filter((p) => ticksOf(p) === range).map((p) => event.planes[p].box);
        if (boxes.length)
          move(range, Math.min(...boxes.map((b) => b[0])), Math.max(...boxes.map((b) => b[1])));
      }
      for (const plane of found) move(model("wires" + plane), ...event.planes[plane].box.slice(2));
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
      "0": () => zoom("whole"), "n": () => zoom("class"),
      "[": () => show(current - 1), "]": () => show(current + 1),
      ArrowLeft: () => wires().forEach((range) => shift(range, -STEP)),
      ArrowRight: () => wires().forEach((range) => shift(range, STEP)),
      ArrowUp: () => ticks().forEach((range) => shift(range, STEP)),
      ArrowDown: () => ticks().forEach((range) => shift(range, -STEP)),
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
    byId("vertices")?.addEventListener("change", markVertices);
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

  // Figures take the colours of the page; pictures of events stay on white paper, where
  // their colours tell charges and classes apart.
  function darken(bokeh) {
    const style = getComputedStyle(document.documentElement);
    const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
    const axis = { axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink,
      major_tick_line_color: ink, minor_tick_line_color: ink };
    const looks = {
      Figure: { background_fill_color: paper, border_fill_color: paper },
      LinearAxis: axis, LogAxis: axis, Title: { text_color: ink }, Grid: { grid_line_color: line },
      Legend: { background_fill_color: null, label_text_color: ink },
    };
    for (const root of bokeh.roots())
      if (!root.name?.startsWith("plane"))
        for (const part of root.references()) if (looks[part.type]) part.setv(looks[part.type]);
  }

  // Bokeh makes its document when the page has loaded.
  async function start() {
    const bokeh = window.Bokeh?.documents[0];
    if (!bokeh) return void setTimeout(start, 20);
    model = (name) => bokeh.get_model_by_name(name);
    if (window.matchMedia("(prefers-color-scheme: dark)").matches) darken(bokeh);
    connectMetric();
    if (picked.length) await connectEvents();
    document.body.dataset.ready = "yes";
  }
  if (window.Bokeh) start(); else document.body.dataset.ready = "yes";
})();
