// Moves a time through the figures, with the sound or with the slider.
// The traces whose meta is "path" hold all points; the one that is "now" is given those of the last second.
(() => {
  // The page is designed in light colours alone.
  document.body.classList.remove("dark");

  const TRAIL_SECONDS = 1;
  // Names of sources that are close to each other go to different sides.
  const SIDES = ["top center", "bottom center", "middle right", "middle left"];
  const find = (selector) => document.querySelector(selector);
  const figures = () => [...document.querySelectorAll("#results .js-plotly-plot")];
  const audio = () => find("#preview audio");
  const isHidden = (label) => find(`.chip[data-label="${CSS.escape(label)}"]`)?.getAttribute("aria-pressed") === "false";

  // Every point of the trail: bigger and clearer the newer it is, the newest with its name.
  function trail(figure, time, largest) {
    const points = { x: [], y: [], z: [], text: [], side: [], colour: [], symbol: [], size: [] };
    for (const trace of figure.data) {
      if (trace.meta !== "path" || isHidden(trace.name)) continue;
      trace.customdata.forEach((point, i) => {
        if (!point || point[0] > time || point[0] <= time - TRAIL_SECONDS) return;
        const age = (time - point[0]) / TRAIL_SECONDS;
        points.x.push(trace.x[i]);
        points.y.push(trace.y[i]);
        if (trace.z) points.z.push(trace.z[i]);
        points.side.push(SIDES[points.text.filter(Boolean).length % SIDES.length]);
        points.text.push(age < 0.1 ? trace.name.replaceAll("_", " ") : "");
        points.colour.push(trace.marker.color);
        points.symbol.push(trace.marker.symbol);
        points.size.push(largest * (1 - 0.7 * age));
      });
    }
    return points;
  }

  function paint(figure, time) {
    const all = figure.data.map((trace, i) => [trace, i]);
    const now = all.filter(([trace]) => trace.meta === "now").map(([, i]) => i);
    if (!now.length) {
      const shown = time !== null;
      Plotly.relayout(figure, { "shapes[0].visible": shown, "shapes[0].x0": time ?? 0, "shapes[0].x1": time ?? 0 });
      return;
    }
    const solid = figure.data[now[0]].type === "scatter3d";
    const points = trail(figure, time ?? -1, solid ? 9 : 15);
    const update = {
      x: [points.x],
      y: [points.y],
      text: [points.text],
      textposition: [points.side],
      "marker.color": [points.colour],
      "marker.symbol": [points.symbol],
      "marker.size": [points.size],
    };
    if (solid) update.z = [points.z];
    Plotly.restyle(figure, update, now);
    const opacity = time === null ? 1 : solid ? 0.06 : 0.2;
    const paths = all.filter(([trace]) => trace.meta === "path" && (trace.opacity ?? 1) !== opacity).map(([, i]) => i);
    if (paths.length) Plotly.restyle(figure, { opacity }, paths);
  }

  // A time in seconds, or null for the whole recording.
  function show(time) {
    const slider = find("#time");
    if (!slider) return;
    slider.value = time ?? 0;
    slider.style.setProperty("--done", `${(100 * slider.value) / slider.max}%`);
    find("#clock").textContent = `${Number(slider.value).toFixed(1)} / ${Number(slider.max).toFixed(1)} s`;
    find("#whole").disabled = time === null;
    figures().forEach((figure) => paint(figure, time));
  }

  let lastFrame = -1;
  function follow() {
    const frame = Math.floor(audio().currentTime * 10);
    if (frame !== lastFrame) show(frame / 10);
    lastFrame = frame;
    if (!audio().paused) requestAnimationFrame(follow);
  }

  // Media events do not bubble, but they are captured; the elements themselves come and go with the results.
  const on = (type, selector, handle) =>
    document.addEventListener(type, (event) => { if (event.target.closest?.(selector)) handle(event); }, true);

  on("input", "#time", (event) => {
    const time = Number(event.target.value);
    if (audio()?.readyState) audio().currentTime = time;
    show(time);
  });
  on("click", "#play", () => (audio().paused ? audio().play() : audio().pause()));
  on("click", "#whole", () => {
    audio()?.pause();
    show(null);
  });
  on("click", ".chip", (event) => {
    const chip = event.target.closest(".chip");
    const visible = chip.getAttribute("aria-pressed") === "false";
    chip.setAttribute("aria-pressed", visible);
    for (const figure of figures()) {
      const traces = figure.data.flatMap((trace, i) => (trace.name === chip.dataset.label ? [i] : []));
      if (traces.length) Plotly.restyle(figure, { visible }, traces);
    }
    if (!find("#whole").disabled) show(Number(find("#time").value));
  });
  on("play", "#preview", () => {
    find("#play").classList.add("playing");
    follow();
  });
  for (const type of ["pause", "ended"]) on(type, "#preview", () => find("#play")?.classList.remove("playing"));
})();
