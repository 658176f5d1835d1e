// The page: one scene, one time, one filter; everything on it is drawn anew from these when one of them changes.
import { VIEWS, draw as drawView, marker, theme } from "./draw.js";
import { MAX_FILM_SECONDS, canFilm, film, fromHash, picture, save, toHash, wave } from "./share.js";
import { listen } from "./live.js";
import { active, addFrame, clock, describe, distanceOf, filtered, frameOf, named, plural, seconds, side, spot, stateAt, styles, summary, unknown } from "./scene.js";
import { call, session, upload, urlOf } from "./server.js";

const find = (selector) => document.querySelector(selector);
const about = JSON.parse(find("#about").textContent);
const audio = find("#audio");
const timeline = find("#timeline");
const MAX_LANES = 6;
const MAX_LIVE_ROWS = 50; // of the list, which is made anew twice a second while it listens
const SVG = "http://www.w3.org/2000/svg";

const state = {
  scene: null, // what the server found, or null
  styles: new Map(),
  gaps: [],
  files: {}, // the addresses of its sounds and downloads
  source: null, // {example} or {recording, format}: where one event can be heard alone
  time: null, // in seconds, or null for the whole
  filter: { least: 0, hidden: new Set() },
  view: "radar",
  turn: { yaw: 0, pitch: 0.45 },
  listen: "stereo",
  solo: null, // {record, from}: what is heard alone, and when its sound begins, 0 until that is there
};
let shown = []; // the records that pass the filter
let colours = theme();
let rows = new Map(); // of the list, by record
let pointed = []; // what can be pointed at in the figure
let working = null; // stops what is under way
let live = null; // what the microphone is listened to with: {ended, begun, told, lag}

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};
const say = (text) => { find("#said").textContent = text; };

// ── What is shown ─────────────────────────────────────────────────────────────────────────────────────────────────

// The marker of a class as text has it: an SVG in its colour, from the same outlines as in the figures.
function symbol(label) {
  const { colour, shape } = state.styles.get(label);
  const path = [];
  const pen = {
    beginPath() {}, closePath() { path.push("Z"); },
    lineTo(x, y) { path.push(`${path.length && path.at(-1) !== "Z" ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`); },
    rect(x, y, w, h) { path.push(`M${x} ${y}h${w}v${h}h${-w}Z`); },
    arc(x, y, r, a, b, back) { path.push(`M${x + r} ${y}A${r} ${r} 0 1 ${back ? 0 : 1} ${x - r} ${y}A${r} ${r} 0 1 ${back ? 0 : 1} ${x + r} ${y}Z`); },
  };
  marker(pen, shape, 8, 8, 7);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("class", "symbol");
  drawing.setAttribute("aria-hidden", "true");
  const outline = document.createElementNS(SVG, "path");
  outline.setAttribute("d", path.join(""));
  outline.setAttribute("fill", `var(--class-${colour})`);
  drawing.append(outline);
  return drawing;
}

function show(scene, files, source, chosen = {}) {
  Object.assign(state, {
    scene, files, source, styles: styles(scene.records), gaps: unknown(scene), solo: null,
    time: chosen.time ?? null,
    filter: { least: chosen.least ?? 0, hidden: chosen.hidden ?? new Set() },
    listen: files[chosen.listen] ? chosen.listen : "stereo",
  });
  find("#stage").hidden = false;
  find("#ready").hidden = true;
  find("#list").inert = false;
  find("#least").value = state.filter.least;
  for (const choice of document.querySelectorAll("[name=listen]")) choice.checked = choice.value === state.listen;
  if (files.stereo) audio.src = files[state.listen];
  else audio.removeAttribute("src");
  find("#stage").classList.toggle("silent", !files.stereo);
  find("#listen").hidden = !scene.ambisonic || !files.stereo;
  for (const name of ["csv", "json"]) {
    find(`#${name}`).href = files[name] ?? "";
    find(`#${name}`).download = `${scene.name.replace(/\.\w+$/, "")}.${name}`;
  }
  find("#link").disabled = !source.example;
  find("#link").title = source.example ? "" : "Links work for examples only, as your recording is deleted soon. Share the video or the picture instead";
  find("#film").hidden = !canFilm() || !files.stereo;
  find("#about-scene").textContent = `${scene.title ?? scene.name}, heard by ${scene.model}`;
  find("#honest").textContent = honest(scene);
  hint();
  chips();
  filter();
  find("#views").classList.toggle("half", Boolean(scene.stereo));
  if (scene.stereo) choose("radar");
  else if (chosen.view in VIEWS) choose(chosen.view);
  seek(state.time);
}

function hint() {
  find("#hint").textContent = state.listen === "binaural" ? "Put on headphones: front and back differ" : "";
}

// How often a model is right, in words, as its card says.
function honest({ classes, scores, mono }) {
  const score = (start) => Object.entries(scores).find(([name]) => name.startsWith(start))?.[1];
  const [right, off] = [score("F20"), score("LE")];
  const often = right === undefined ? "Its model card does not say how often it is right."
    : `In tests, about ${Math.round(10 * right)} in 10 events were right in name, time and direction (F20 ${right.toFixed(2)})${off === undefined ? "" : `, and directions were off by ${Math.round(off)}°`}.`;
  return `This model knows ${plural(classes.length, "sound")}. ${often} It cannot name sounds outside its classes: it misses them, or takes them for one of its own.${mono ? " It hears one channel, which carries no direction: those shown mean nothing." : ""}`;
}

function chips() {
  const box = find("#chips");
  box.replaceChildren(...[...state.styles.keys()].map((label) =>
    element("button", {
      type: "button", class: "chip", "data-label": label, "aria-pressed": String(!state.filter.hidden.has(label)),
      onclick: ({ currentTarget }) => {
        const { hidden } = state.filter;
        if (!hidden.delete(label)) hidden.add(label);
        currentTarget.setAttribute("aria-pressed", String(!hidden.has(label)));
        filter();
        draw();
      },
    }, symbol(label), named(label))));
}

// Lists, lanes and waveform of what passes the filter.
function filter() {
  const { scene } = state;
  timeline.setAttribute("aria-valuemax", scene.seconds);
  shown = filtered(scene.records, state.filter);
  find("#summary").textContent = summary(shown, live ? live.told : scene.seconds);
  find("#least-value").textContent = state.filter.least.toFixed(2);
  lanes();
  table();
  drawWave();
  draw.last = null;
}

// Bars with names above them, in as few rows as hold them; a row a class, named once, where that would be many.
function lanes() {
  const { seconds: end } = state.scene;
  const width = find("#lanes").clientWidth || 1;
  const percent = (time) => `${((100 * time) / end).toFixed(3)}%`;
  const bars = shown.map((record) => ({
    from: record.onset, to: Math.min(record.offset, end), key: record.label, name: [symbol(record.label), named(record.label)],
    style: `--colour:var(--class-${state.styles.get(record.label).colour});opacity:${0.35 + 0.65 * (record.confidence ?? 1)}`,
    title: `${named(record.label)}, ${seconds(record.onset)} to ${seconds(record.offset)}`,
  }));
  bars.push(...state.gaps.map(([from, to]) => ({ from, to, key: "", name: ["not one of its classes"], class: "gap", style: "" })));
  bars.sort((a, b) => a.from - b.from);
  let rows = [];
  for (const bar of bars) {
    bar.reach = 8 + 7.2 * (bar.name.at(-1).length + 2);
    bar.left = Math.max(Math.min((bar.from * width) / end, width - bar.reach), 0);
    bar.right = Math.max((bar.to * width) / end + 6, bar.left + bar.reach);
    let row = rows.find((other) => other.at(-1).right <= Math.min(bar.left, (bar.from * width) / end));
    if (!row) rows.push((row = []));
    row.push(bar);
  }
  find("#lanes").classList.toggle("dense", rows.length > MAX_LANES);
  if (rows.length > MAX_LANES) {
    const keys = [...new Set(bars.map((bar) => bar.key))];
    rows = keys.map((key) => bars.filter((bar) => bar.key === key).map((bar, i) => ({ ...bar, name: i ? null : bar.name })));
  }
  find("#lanes").classList.toggle("packed", rows.length > 4 * MAX_LANES);
  find("#lanes").replaceChildren(...rows.map((row) => element("div", { class: "lane" }, ...row.flatMap((bar) => [
    element("i", { class: bar.class ?? "", title: bar.title ?? "", style: `left:${percent(bar.from)};width:${percent(bar.to - bar.from)};${bar.style}` }),
    ...(bar.name ? [element("span", { style: `left:${bar.left}px` }, ...bar.name)] : []),
  ]))));
  const step = [1, 2, 5, 10, 15, 30, 60, 120].find((value) => end / value <= 9) ?? 120;
  const ticks = [];
  for (let time = 0; time <= end - step / 3; time += step) ticks.push(element("span", { style: `left:${percent(time)}` }, step < 60 && end < 60 ? `${time} s` : clock(time).replace(/\.0$/, "")));
  find("#ticks").replaceChildren(...ticks);
}

function table() {
  rows = new Map();
  const alone = state.scene.ambisonic && state.files.stereo;
  const columns = ["Sound", "When", "Where", "Confidence", ...(alone ? ["Alone"] : [])];
  find("#list thead").replaceChildren(element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name))));
  const listed = live ? shown.slice(-MAX_LIVE_ROWS) : shown;
  find("#list tbody").replaceChildren(...listed.map((record) => {
    const cell = (name, ...content) => element("td", { "data-name": name }, ...content);
    const row = element("tr", {
      onclick: (event) => { if (!event.target.closest("button")) jump(record); },
    },
      element("th", { scope: "row" }, element("span", {}, symbol(record.label), named(record.label))),
      cell("When", element("button", { type: "button", class: "time", onclick: () => jump(record), "aria-label": `${record.onset.toFixed(1)}–${seconds(record.offset)}: go to ${named(record.label)}` }, `${record.onset.toFixed(1)}–${seconds(record.offset)}`)),
      cell("Where", element("span", { class: "arrow", style: `transform:rotate(${-record.azimuth}deg)`, "aria-hidden": "true" }, "↑"), ` ${side(record.azimuth)} `, element("small", {}, spot(`${Math.round(record.azimuth)}°`, { ...record, distance: distanceOf(record) }, state.scene.stereo).replace(/(?<!,) /g, "\u00a0"))),
      cell("Confidence", ...(record.confidence === null ? ["–"] : [element("meter", { min: 0, max: 1, value: record.confidence, "aria-label": "Confidence" }), ` ${record.confidence.toFixed(2)}`])),
      ...(alone ? [cell("Alone", element("button", { type: "button", class: "solo", "aria-pressed": String(state.solo?.record === record), "aria-label": `Solo: ${named(record.label)} at ${seconds(record.onset)}`, onclick: () => solo(record) }, "Solo"))] : []));
    rows.set(record, row);
    return row;
  }));
  find("#none").hidden = shown.length > 0;
  find("#none").textContent = live ? "No events yet." : state.scene.records.length ? "The filter hides all events." : "No event is above the threshold. Try a lower one under Options.";
}

// ── The time, and what is drawn of it ────────────────────────────────────────────────────────────────────────────

const view = (time = state.time) => ({ records: shown, all: state.scene.records, stereo: state.scene.stereo, styles: state.styles, time, colours, turn: state.turn });

// A canvas as sharp as the screen, ready to be drawn on; null while it is not seen.
function prepare(canvas) {
  const { width, height: tall } = canvas.getBoundingClientRect();
  if (!width || !tall) return null;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(tall * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, tall);
  return [ctx, width, tall];
}

function drawWave() {
  const ready = prepare(find("#wave"));
  if (ready) wave(ready[0], state.scene, view(), colours, 0, ready[1], ready[2] / 2, ready[2] / 2 - 2);
}

function draw() {
  if (!state.scene) return;
  const { scene, time } = state;
  const canvas = find("#picture");
  const ready = prepare(canvas);
  if (ready) {
    const drawn = drawView(ready[0], state.view, ready[1], ready[2], view());
    pointed = drawn.points;
    canvas.dataset.names = JSON.stringify(drawn.names);
    canvas.dataset.time = time ?? "";
  }
  const at = time ?? 0;
  const head = find("#head");
  head.style.left = `${(100 * at) / scene.seconds}%`;
  head.hidden = time === null;
  find("#clock").textContent = live ? `${clock(at)}, shown ${live.lag.toFixed(1)} s after it sounds` : `${clock(at)} / ${clock(scene.seconds)}`;
  // What follows changes at most ten times a second.
  const key = `${time === null ? "whole" : frameOf(time)} ${state.view}`;
  if (key === draw.last) return;
  draw.last = key;
  const now = time === null ? [] : active(shown, time);
  const gap = time !== null && state.gaps.some(([from, to]) => from <= time && time < to);
  find("#now").replaceChildren(...now.map((record) => element("li", { "data-label": record.label }, symbol(record.label), named(record.label))),
    ...(gap && !active(scene.records, time).length ? [element("li", { class: "gap" }, "not one of its classes")] : []));
  canvas.setAttribute("aria-label", `${time === null ? "All events" : `At ${seconds(time)}`}: ${describe(shown, time, scene.stereo)}`);
  timeline.setAttribute("aria-valuenow", at.toFixed(1));
  timeline.setAttribute("aria-valuetext", `${seconds(at)} of ${seconds(scene.seconds)}${now.length ? `: ${now.map((record) => named(record.label)).join(", ")}` : ""}`);
  find("#whole").disabled = time === null;
  const current = now.map((record) => rows.get(record)).filter(Boolean);
  for (const row of document.querySelectorAll("tr[aria-current]")) if (!current.includes(row)) row.removeAttribute("aria-current");
  for (const row of current) row.setAttribute("aria-current", "true");
  if (current.length && (live || !audio.paused)) follow(current[0]);
}

// Brings a row into sight within the list alone: the page itself stays where it is.
function follow(row) {
  const list = find("#list");
  if (list.scrollHeight <= list.clientHeight) return;
  const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
  if (top < list.scrollTop + 36 || bottom > list.scrollTop + list.clientHeight) list.scrollTo({ top: top - 60 });
}

const offset = () => state.solo?.from ?? 0;
const now = () => offset() + audio.currentTime;

function seek(time) {
  if (live) return;
  state.time = time === null ? null : Math.min(Math.max(time, 0), state.scene.seconds);
  if (state.solo && (time === null || time < state.solo.record.onset || time >= state.solo.record.offset)) unsolo();
  if (state.files.stereo) audio.currentTime = Math.max((state.time ?? 0) - offset(), 0);
  draw();
}

const atEnd = () => (state.time ?? 0) >= state.scene.seconds - 0.05;

function jump(record) {
  seek(record.onset + 0.001);
}

function tick() {
  if (live) state.time = Math.min(Math.max(sinceBegun() - live.lag, 0), Math.max(live.told - 0.001, 0));
  else if (audio.paused) return;
  else state.time = Math.min(now(), state.scene.seconds);
  draw();
  requestAnimationFrame(tick);
}

function toggle() {
  if (!state.files.stereo) return;
  if (!audio.paused) audio.pause();
  else {
    if (!state.solo && atEnd()) seek(0);
    audio.play().catch((error) => { if (error.name !== "AbortError") fail("The sound cannot be played: it may have been deleted. Find the events again."); });
  }
}

function playing() {
  const button = find("#play");
  button.classList.toggle("playing", !audio.paused);
  button.setAttribute("aria-label", audio.paused ? "Play" : "Pause");
  if (!audio.paused) tick();
}

// Another sound for the same time.
function hear(url, time) {
  const goesOn = !audio.paused;
  audio.src = url;
  audio.currentTime = Math.max(time - offset(), 0);
  if (goesOn) audio.play().catch(() => {});
}

function unsolo() {
  const time = now();
  state.solo = null;
  for (const button of document.querySelectorAll(".solo[aria-pressed=true]")) button.setAttribute("aria-pressed", "false");
  hear(state.files[state.listen], time);
}

async function solo(record) {
  const button = rows.get(record).querySelector(".solo");
  const again = state.solo?.record === record;
  if (state.solo) unsolo();
  if (again) return;
  const mine = { record, from: 0 };
  state.solo = mine;
  audio.pause();
  button.setAttribute("aria-pressed", "true");
  button.classList.add("busy");
  try {
    const { example, recording, format } = state.source;
    const [file] = await call(about.endpoints.solo, [recording ?? null, example ?? "", format ?? "", record.trajectory]);
    if (mine !== state.solo) return;
    mine.from = record.onset;
    audio.src = urlOf(file);
    seek(record.onset);
    say(`Only ${named(record.label)}`);
    await audio.play();
  } catch (error) {
    if (mine !== state.solo || error.name === "AbortError") return;
    unsolo();
    fail(error.message);
  } finally {
    button.classList.remove("busy");
  }
}

function choose(name) {
  state.view = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const mine = tab.dataset.view === name;
    tab.setAttribute("aria-selected", String(mine));
    tab.tabIndex = mine ? 0 : -1;
    if (mine) find("#view").setAttribute("aria-labelledby", tab.id);
  }
  find("#view").dataset.view = name;
  if (state.scene) draw();
}

// ── What visitors give ───────────────────────────────────────────────────────────────────────────────────────────

function fail(message) {
  const box = find("#error");
  // Gradio's own page takes messages as HTML: the server escapes them.
  const text = [["&lt;", "<"], ["&gt;", ">"], ["&amp;", "&"]].reduce((words, [from, to]) => words.replaceAll(from, to), message);
  box.querySelector("p").textContent = text;
  box.hidden = false;
}

function busy(controller, stop = "Cancel") {
  working = controller;
  find("#run").hidden = Boolean(controller);
  find("#live").disabled = Boolean(controller);
  find("#cancel").hidden = !controller;
  find("#cancel").textContent = stop;
  find("#work").hidden = !controller;
  if (controller) find("#error").hidden = true;
}

function progress(text, part = null) {
  find("#doing").textContent = text;
  const bar = find("#bar");
  bar.classList.toggle("unknown", part === null);
  bar.firstElementChild.style.width = part === null ? "" : `${Math.round(100 * part)}%`;
  if (part === null) bar.removeAttribute("aria-valuenow");
  else bar.setAttribute("aria-valuenow", Math.round(100 * part));
}

// Ends what is under way and what is heard: what they still tell is not shown.
function leave() {
  working?.abort();
  live = null;
  audio.pause();
  if (state.solo) unsolo();
  busy(null);
}

let sent = { file: null, data: null };

// What stands in the place of a result while there is none.
function ready() {
  find("#ready").hidden = false;
  find("#ready h2").textContent = working ? `Finding events in ${sent.file.name}` : `${sent.file.name} is ready`;
  find("#ready p").textContent = working ? "" : "Choose its channels if they are not AmbiX, then press Find events.";
}

function pick(file) {
  if (!file) return;
  leave();
  sent = { file, data: null };
  find("#error").hidden = true;
  find("#chosen").textContent = file.name;
  find("#takes").textContent = `${(file.size / 1e6).toFixed(1)} MB, not uploaded yet`;
  find("#stage").hidden = true;
  find("#formats").hidden = !about.ambisonic && !find("#model").value;
  ready();
  mark(null);
  history.replaceState(null, "", location.pathname + location.search);
  if (file.size > about.maxMegabytes * 1048576) fail(`${file.name}: ${Math.round(file.size / 1e6)} MB, and the limit is ${about.maxMegabytes} MB. Choose a shorter part, or convert it to FLAC.`);
  else find("#run").focus({ preventScroll: true });
}

const pickedFormat = () => (find("#formats").hidden ? "" : find("[name=format]:checked").value.replace("auto", ""));

async function run() {
  if (!sent.file) {
    fail("There is no recording yet: choose a file.");
    return;
  }
  leave();
  const mine = sent;
  const controller = new AbortController();
  const { signal } = controller;
  busy(controller);
  find("#stage").hidden = true;
  ready();
  try {
    progress("Uploading", 0);
    mine.data ??= await upload(mine.file, (part) => progress(`Uploading ${Math.round(100 * part)} %`, part), signal);
    find("#takes").textContent = `${(mine.file.size / 1e6).toFixed(1)} MB`;
    progress("Waiting");
    const format = pickedFormat();
    const options = [format, find("#model").value.trim(), Number(find("#threshold").value), Number(find("#overlap").value)];
    const files = await call(about.endpoints.scene, [mine.data, ...options], ({ before, text, done, of }) => {
      if (before) progress(`${before} ahead of you`);
      else if (of) progress(`Listening: ${done} of ${of} windows`, done / of);
      else if (text) progress(text);
    }, signal);
    if (!files) return;
    const [csv, json, sceneFile, stereo, binaural] = files.map(urlOf);
    const answer = await fetch(sceneFile);
    const scene = await answer.json();
    signal.throwIfAborted();
    scene.name = mine.file.name;
    show(scene, { csv, json, stereo, binaural }, { recording: mine.data, format });
    say(`Result ready: ${summary(shown, scene.seconds)}`);
    if (find("#stage").getBoundingClientRect().top > 0.6 * innerHeight) find("#stage").scrollIntoView();
  } catch (error) {
    if (!signal.aborted) {
      // A recording that the server has deleted is sent again.
      mine.data = null;
      fail(error.message);
    }
  } finally {
    if (working === controller) {
      busy(null);
      if (find("#stage").hidden) ready();
    }
  }
}

// ── Live ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const LEAST_SECONDS = 30; // of the line of time, while it fills

async function listenLive() {
  leave();
  const controller = new AbortController();
  busy(controller, "Stop listening");
  const model = find("#model").value.trim();
  const wanted = { channels: model ? 4 : about.channels, format: pickedFormat(), model };
  let scene = null;
  let end = "";
  try {
    end = await listen(session, wanted, {
      onScene(heard) {
        scene = { ...heard, name: "Microphone", seconds: LEAST_SECONDS, envelope: [], records: [] };
        forget();
        find("#formats").hidden = !scene.ambisonic;
        live = { begun: null, levels: [], told: 0, drawn: 0, lag: 0, again: false };
        show(scene, {}, {});
        find("#list").inert = true;
        say("Listening");
        tick();
      },
      onSound(heard, peak) {
        if (working !== controller) return;
        // Samples that come late say nothing of when they sounded; those that were lost move the beginning.
        live.begun = Math.min(performance.now() - 1000 * heard, (live.begun ?? Infinity) + 1);
        live.levels[frameOf(heard)] = Math.max(live.levels[frameOf(heard)] ?? 0, peak);
      },
      onFrame(frame) { if (working === controller) told(scene, frame); },
    }, controller.signal);
  } catch (error) {
    if (error.name !== "AbortError") end = error.message;
  }
  if (working !== controller) return;
  const again = live?.again;
  busy(null);
  if (end) fail(end);
  if (live) stopped(scene);
  if (again) listenLive();
}

const sinceBegun = () => (live.begun === null ? 0 : (performance.now() - live.begun) / 1000);

function told(scene, frame) {
  addFrame(scene.records, frame);
  live.told = frame.time + 0.1;
  // Frames come several at a time: so far behind the first of them, what is drawn moves evenly.
  live.lag = Math.max(sinceBegun() - frame.time, 0.999 * live.lag);
  if (live.told - live.drawn < 0.45) return;
  live.drawn = live.told;
  renew(scene, Math.max(LEAST_SECONDS, live.told));
}

// Draws a scene anew that has grown.
function renew(scene, end) {
  const known = state.styles.size;
  const loudest = Math.max(...live.levels.filter(Boolean), 0.01);
  scene.seconds = end;
  scene.envelope = Array.from({ length: Math.ceil(10 * end) }, (_, i) => (live.levels[i] ?? 0) / loudest);
  state.styles = styles(scene.records, state.styles);
  if (state.styles.size > known) chips();
  filter();
}

function stopped(scene) {
  renew(scene, Math.max(live.told, 0.1));
  live = null;
  find("#list").inert = false;
  state.gaps = unknown(scene);
  filter();
  seek(null);
  say(`Stopped listening: ${find("#summary").textContent}`);
}

// ── Examples and links ───────────────────────────────────────────────────────────────────────────────────────────

function mark(example) {
  for (const button of document.querySelectorAll("#examples button")) button.setAttribute("aria-pressed", String(button.dataset.id === example));
}

// Nothing is chosen any more.
function forget() {
  mark(null);
  sent = { file: null, data: null };
  find("#formats").hidden = true;
  find("#ready").hidden = true;
  find("#error").hidden = true;
  find("#file").value = "";
  find("#chosen").textContent = "Drop a recording, or choose one";
  find("#takes").textContent = takes;
}

async function open(id, chosen = {}) {
  leave();
  forget();
  const mine = sent;
  const base = `example/${id}/${id}`;
  try {
    const answer = await fetch(`${base}.scene.json`);
    if (!answer.ok) throw new Error();
    const scene = await answer.json();
    if (mine !== sent) return;
    mark(id);
    show(scene, { csv: `${base}.csv`, json: `${base}.json`, stereo: `${base}.mp3`, binaural: `${base}-headphones.mp3` }, { example: id }, chosen);
  } catch {
    if (mine === sent) fail("The example cannot be loaded: check your connection and reload the page.");
  }
}

function fromLink() {
  const { example, ...chosen } = fromHash(location.hash);
  const known = about.examples.find(({ id }) => id === example) ?? about.examples[0];
  if (known) open(known.id, chosen);
}

// ── Wiring ───────────────────────────────────────────────────────────────────────────────────────────────────────

const on = (selector, type, handle) => find(selector).addEventListener(type, handle);
const takes = find("#takes").textContent;

on("#give", "submit", (event) => { event.preventDefault(); run(); });
on("#cancel", "click", () => working?.abort());
on("#live", "click", listenLive);
on("#formats", "change", () => {
  if (!live) return;
  live.again = true;
  working.abort();
});
on("#file", "change", ({ target }) => pick(target.files[0]));
on("#error button", "click", () => { find("#error").hidden = true; });
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    find("#drop").classList.toggle("over", type === "dragover");
    if (type === "drop") pick(event.dataTransfer.files[0]);
  });
}
on("#play", "click", toggle);
on("#whole", "click", () => { audio.pause(); seek(null); });
on("#least", "input", ({ target }) => { state.filter.least = Number(target.value); filter(); draw(); });
on("#listen", "change", ({ target }) => {
  state.listen = target.value;
  if (state.solo) unsolo();
  else hear(state.files[state.listen], state.time ?? 0);
  hint();
});
for (const type of ["play", "pause", "ended"]) audio.addEventListener(type, playing);
audio.addEventListener("ended", () => {
  if (!state.solo) return;
  const { offset: end } = state.solo.record;
  unsolo();
  seek(end);
});
audio.addEventListener("error", () => { if (state.solo) unsolo(); });

const timeAt = ({ clientX }) => {
  const { left, width } = timeline.getBoundingClientRect();
  return (state.scene.seconds * (clientX - left)) / width;
};
timeline.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  timeline.setPointerCapture(event.pointerId);
  seek(timeAt(event));
});
timeline.addEventListener("pointermove", (event) => { if (timeline.hasPointerCapture(event.pointerId)) seek(timeAt(event)); });

const KEYS = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -0.1, ArrowUp: 0.1, PageDown: -10, PageUp: 10 };
document.addEventListener("keydown", (event) => {
  if (!state.scene || find("#stage").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const here = event.target;
  const typing = here.closest("input, select, textarea, summary, pre, [role=tab]");
  if (event.key === " " && !typing && !here.closest("button, a")) toggle();
  else if (event.key in KEYS && here === timeline) seek((state.time ?? 0) + KEYS[event.key] * (event.shiftKey ? 5 : 1));
  else if (["ArrowLeft", "ArrowRight"].includes(event.key) && !typing) seek((state.time ?? 0) + KEYS[event.key] * (event.shiftKey ? 5 : 1));
  else if (event.key === "Home" && here === timeline) seek(0);
  else if (event.key === "End" && here === timeline) seek(state.scene.seconds);
  else return;
  event.preventDefault();
});
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab.dataset.view));
  tab.addEventListener("keydown", (event) => {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!next) return;
    event.preventDefault();
    const other = tabs[(tabs.indexOf(tab) + next + tabs.length) % tabs.length];
    choose(other.dataset.view);
    other.focus();
  });
}

// Pointing at the figure tells what is there; a click goes there; the sphere turns with the pointer.
const figure = find("#picture");
let held = null;
const nearest = ({ offsetX, offsetY }) => {
  let best = null;
  for (const point of pointed) {
    const far = Math.hypot(point.x - offsetX, point.y - offsetY);
    if (far < 18 && far < (best?.far ?? Infinity)) best = { ...point, far };
  }
  return best;
};
figure.addEventListener("pointermove", (event) => {
  const tip = find("#tip");
  if (held) {
    state.turn = { yaw: held.yaw + (event.clientX - held.x) / 150, pitch: Math.min(Math.max(held.pitch + (event.clientY - held.y) / 150, -1.5), 1.5) };
    draw();
    return;
  }
  const best = nearest(event);
  tip.hidden = !best;
  figure.style.cursor = best ? "pointer" : "";
  if (!best) return;
  const at = stateAt(best.record, best.time);
  tip.textContent = spot(`${named(best.record.label)}, ${seconds(best.time)}: ${Math.round(at.azimuth)}° ${side(at.azimuth)}`, at, state.scene.stereo);
  tip.style.left = `${Math.min(event.offsetX + 14, figure.clientWidth - tip.offsetWidth)}px`;
  tip.style.top = `${event.offsetY + 16}px`;
});
figure.addEventListener("pointerleave", () => { find("#tip").hidden = true; });
figure.addEventListener("pointerdown", (event) => {
  if (state.view !== "sphere") return;
  held = { x: event.clientX, y: event.clientY, ...state.turn };
  figure.setPointerCapture(event.pointerId);
});
figure.addEventListener("pointerup", () => { held = null; });
figure.addEventListener("click", (event) => {
  const best = nearest(event);
  if (best && state.view !== "sphere") seek(best.time + 0.001);
});

on("#link", "click", async () => {
  const link = toHash({ ...state, example: state.source.example, ...state.filter });
  history.replaceState(null, "", link);
  const address = new URL(link, document.baseURI).href;
  try {
    await navigator.clipboard.writeText(address);
    flash("#link", "Copied");
  } catch {
    flash("#link", "The link is in the address bar");
  }
});
on("#image", "click", async () => save(await picture(state.scene, view()), `${state.scene.name.replace(/\.\w+$/, "")}.png`));
let filming = null;
on("#film", "click", async () => {
  if (filming) {
    filming.abort();
    return;
  }
  filming = new AbortController();
  audio.pause();
  const scene = state.scene;
  const still = view(null);
  const from = scene.seconds > MAX_FILM_SECONDS && !atEnd() ? state.time ?? 0 : 0;
  try {
    const blob = await film(scene, (time) => ({ ...still, time }), state.files[state.listen], from, (part) => { find("#film").textContent = `Stop, ${Math.round(100 * Math.min(part, 1))} %`; }, filming.signal);
    if (blob) save(blob, `${scene.name.replace(/\.\w+$/, "")}.${blob.type.split("/")[1]}`);
  } catch {
    fail("This browser cannot make the video: use the picture, or another browser.");
  } finally {
    filming = null;
    find("#film").textContent = "Video";
  }
});

function flash(selector, text) {
  const button = find(selector);
  const { textContent } = button;
  button.textContent = text;
  say(text);
  setTimeout(() => { button.textContent = textContent; }, 1600);
}

const redraw = () => {
  colours = theme();
  if (!state.scene || find("#stage").hidden) return;
  lanes();
  drawWave();
  draw();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(redraw).observe(find("#stage"));
// Other parts of an address, such as that of the example in Python, lead to places of the page.
addEventListener("hashchange", () => { if (fromHash(location.hash).example) fromLink(); });

find("#examples").append(...about.examples.map(({ id, title }) => element("button", { type: "button", class: "chip", "data-id": id, "aria-pressed": "false", onclick: () => open(id) }, title)));
find("#examples").hidden = !about.examples.length;
find("#live").hidden = !about.live;
find("#knows").textContent = `${about.model} knows ${plural(about.classes.length, "sound")}, and no others:`;
find("#classes").textContent = about.classes.map(named).join(", ");
fromLink();
