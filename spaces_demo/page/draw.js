// Pictures of a scene at a time, or of all of it (time null), on a canvas: from above, as a map, as a sphere.
// A view of a size tells its ground, which a time does not change, where a place lies on it, and what lies over all.
import { active, direction, hasDistance, named, place, placeAt } from "./scene.js";

const TRAIL_SECONDS = 1.2;
const MAX_NAMES = 24;
export const FONT = "system-ui, sans-serif";

// The colours of the page as it is now, light or dark.
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ...Object.fromEntries(["card", "ink", "soft", "line", "disc", "rim"].map((name) => [name, value(name)])),
    classes: Array.from({ length: 8 }, (_, i) => value(`class-${i}`)),
  };
}

export function marker(ctx, shape, x, y, r) {
  const corners = (n, turn, inner) => {
    const count = inner ? 2 * n : n;
    for (let i = 0; i < count; i += 1) {
      const a = turn + (2 * Math.PI * i) / count;
      const radius = inner && i % 2 ? inner * r : r;
      ctx.lineTo(x + radius * Math.cos(a), y + radius * Math.sin(a));
    }
    ctx.closePath();
  };
  const up = -Math.PI / 2;
  ctx.beginPath();
  if (shape === "circle") ctx.arc(x, y, r * 0.9, 0, 2 * Math.PI);
  else if (shape === "ring") {
    ctx.arc(x, y, r, 0, 2 * Math.PI);
    ctx.arc(x, y, r * 0.45, 0, 2 * Math.PI, true);
  } else if (shape === "triangle") corners(3, up);
  else if (shape === "square") ctx.rect(x - r * 0.8, y - r * 0.8, 1.6 * r, 1.6 * r);
  else if (shape === "diamond") corners(4, up);
  else if (shape === "star") corners(5, up, 0.45);
  else if (shape === "bar") ctx.rect(x - r, y - r * 0.45, 2 * r, 0.9 * r);
  else {
    const [a, b] = [r, r * 0.36];
    for (const [dx, dy] of [[-b, -a], [b, -a], [b, -b], [a, -b], [a, b], [b, b], [b, a], [-b, a], [-b, b], [-a, b], [-a, -b], [-b, -b]]) ctx.lineTo(x + dx, y + dy);
    ctx.closePath();
  }
}

// A marker in the colour of its class, with an edge that parts it from what is below.
function stamp(ctx, { colour, shape }, x, y, r, colours, edge) {
  marker(ctx, shape, x, y, r);
  ctx.fillStyle = colours.classes[colour];
  ctx.strokeStyle = colours.card;
  ctx.lineWidth = edge;
  ctx.stroke();
  ctx.fill();
}

function segment(ctx, fromX, fromY, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(fromX, fromY);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}

// A disc, or its upper half, that is darker at the rim.
function shaded(ctx, x, y, radius, colours, half = false) {
  const shade = ctx.createRadialGradient(x, y, 0, x, y, radius);
  shade.addColorStop(0, colours.disc);
  shade.addColorStop(1, colours.rim);
  ctx.fillStyle = shade;
  ctx.beginPath();
  ctx.arc(x, y, radius, half ? Math.PI : 0, 2 * Math.PI);
  ctx.fill();
}

// How much of a box, given by its left, top, width and height, lies on others, given by their edges.
function covered(boxes, [left, top], w, h) {
  const across = (from, to, a, b) => Math.max(Math.min(b, to) - Math.max(a, from), 0);
  return boxes.reduce((sum, [a, b, c, d]) => sum + across(left, left + w, a, c) * across(top, top + h, b, d), 0);
}

// Names close to their markers, within the picture, where they hide little of any marker; returns those that are drawn,
// as one that would hide another is left out.
function names(ctx, labels, markers, colours, bounds, size) {
  ctx.font = `600 ${size}px ${FONT}`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  const taken = [];
  const edges = markers.map(({ x, y, r }) => [x - r, y - r, x + r, y + r]);
  return labels.filter(({ text, x, y, r }) => {
    const [w, h, gap] = [ctx.measureText(text).width + 12, size + 8, r + 4];
    const places = [[x + gap, y - h / 2], [x - gap - w, y - h / 2], [x - w / 2, y - gap - h], [x - w / 2, y + gap]];
    for (const far of [h, 2 * h]) for (const left of [x + gap, x - gap - w]) places.push([left, y - h / 2 + far], [left, y - h / 2 - far]);
    const free = places
      .map(([left, top]) => [Math.min(Math.max(left, bounds[0]), bounds[2] - w), Math.min(Math.max(top, bounds[1]), bounds[3] - h)])
      .filter((at) => !covered(taken, at, w, h));
    if (!free.length) return false;
    const away = ([left, top]) => Math.hypot(Math.max(left - x, x - left - w, 0), Math.max(top - y, y - top - h, 0));
    const costs = free.map((at) => covered(edges, at, w, h) + r * Math.max(away(at) - gap, 0));
    const [left, top] = free[costs.indexOf(Math.min(...costs))];
    taken.push([left, top, left + w, top + h]);
    ctx.globalAlpha = 0.86;
    ctx.fillStyle = colours.card;
    ctx.beginPath();
    ctx.roundRect(left, top, w, h, h / 2);
    ctx.fill();
    ctx.globalAlpha = 1;
    ctx.fillStyle = colours.ink;
    ctx.fillText(text, left + 6, top + h / 2 + 0.5);
    return true;
  });
}

const confidence = (record) => 0.45 + 0.55 * Math.min(record.confidence ?? 1, 1);

// A line through places; what is on the far side is paler, and a line that leaves a map on one side enters it on the other.
function line(ctx, places, { project, jump = Infinity }, colour, width, alpha) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.lineCap = ctx.lineJoin = "round";
  let [last, behind] = [null, null];
  ctx.beginPath();
  const finish = () => {
    ctx.globalAlpha = alpha * (behind ? 0.35 : 1);
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.beginPath();
  };
  for (const at of places) {
    const [x, y, front] = project(at);
    const goesOn = last && Math.abs(last[0] - x) < jump;
    if (goesOn && behind === front < 0) ctx.lineTo(x, y);
    else {
      if (last) finish();
      ctx.moveTo(...(goesOn ? last : [x, y]));
      ctx.lineTo(x, y);
    }
    [last, behind] = [[x, y], front < 0];
  }
  finish();
}

// The ground of a view with all tracks, pale where a time is to be seen; returns what can be pointed at.
function ground(ctx, figure, { records, styles, time, colours }, scale) {
  figure.ground(ctx);
  const points = [];
  // The more tracks there are, the paler each.
  const [width, alpha] = time === null ? [4, Math.min(1, 40 / records.length)] : [3, 0.32 * Math.min(1, 15 / records.length)];
  for (const record of records) {
    const places = record.trajectory.map(place);
    const colour = colours.classes[styles.get(record.label).colour];
    line(ctx, places, figure, colour, width * scale, alpha * (time === null ? confidence(record) : 1));
    for (const [i, at] of places.entries()) {
      const [x, y] = figure.project(at);
      points.push({ x, y, record, time: record.trajectory[i].time });
    }
  }
  return points;
}

// What sounds: trails, markers and names; returns the names that were drawn.
function sounding(ctx, figure, { records, styles, time, colours }, scale) {
  const whole = time === null;
  const [markers, labels] = [[], []];
  for (const record of whole ? records : active(records, time)) {
    const style = styles.get(record.label);
    const colour = colours.classes[style.colour];
    const at = whole ? place(record.trajectory[Math.floor(record.trajectory.length / 2)]) : placeAt(record, time);
    const [x, y, front] = figure.project(at);
    const alpha = front < 0 ? 0.55 : 1;
    const r = (whole ? 7 : 11) * scale;
    if (!whole) {
      const trail = [];
      for (let t = Math.max(time - TRAIL_SECONDS, record.onset); t < time; t += 0.05) trail.push(placeAt(record, t));
      line(ctx, [...trail, at], figure, colour, 5 * scale, 0.75 * alpha);
      const glow = ctx.createRadialGradient(x, y, 0, x, y, 3.2 * r);
      glow.addColorStop(0, colour);
      glow.addColorStop(1, `${colour}00`);
      ctx.globalAlpha = 0.35 * alpha * confidence(record);
      ctx.fillStyle = glow;
      ctx.beginPath();
      ctx.arc(x, y, 3.2 * r, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.globalAlpha = alpha;
    stamp(ctx, style, x, y, r, colours, 2 * scale);
    ctx.globalAlpha = 1;
    markers.push({ x, y, r });
    // Of the whole, one name for events of a kind that are close to each other.
    const same = labels.filter((other) => other.label === record.label);
    const near = whole && same.some((other) => Math.hypot(other.x - x, other.y - y) < 60 * scale);
    if (!near && labels.length < MAX_NAMES) labels.push({ text: named(record.label), label: record.label, again: same.length, x, y, r });
  }
  // Each kind first has a name once.
  const drawn = names(ctx, labels.sort((a, b) => a.again - b.again), markers, colours, figure.bounds, 13 * scale);
  figure.over?.(ctx);
  return drawn.map(({ label }) => label);
}

const kept = {};

// Draws a view, over a ground that is kept until something but the time changes.
export function draw(ctx, name, width, height, view, scale = 1) {
  const figure = VIEWS[name](width, height, view, scale);
  const ratio = ctx.getTransform().a;
  const key = [name, width, height, ratio, scale, view.time === null, view.colours, view.records, view.turn];
  if (!kept.key?.every((value, i) => value === key[i])) {
    kept.canvas = Object.assign(document.createElement("canvas"), { width: width * ratio, height: height * ratio });
    const below = kept.canvas.getContext("2d");
    below.scale(ratio, ratio);
    kept.points = ground(below, figure, view, scale);
    kept.key = key;
  }
  ctx.drawImage(kept.canvas, 0, 0, width, height);
  return { points: kept.points, names: sounding(ctx, figure, view, scale) };
}

function words(ctx, text, x, y, colour, size, align = "center") {
  ctx.font = `500 ${size}px ${FONT}`;
  ctx.textAlign = align;
  ctx.textBaseline = "middle";
  ctx.fillStyle = colour;
  ctx.fillText(text, x, y);
}

// Rings of distance: some round numbers of metres up to the farthest event.
function rings(records) {
  // Not as arguments of Math.max, of which there may not be as many as there are places.
  const farthest = records.flatMap((record) => record.trajectory).reduce((most, { distance }) => Math.max(most, distance ?? 0), 1);
  const step = [0.5, 1, 2, 5, 10, 20, 50].find((value) => farthest / value <= 4) ?? 100;
  const count = Math.ceil(farthest / step);
  return { most: count * step, at: Array.from({ length: count }, (_, i) => (i + 1) * step) };
}

// From above: ahead is up, left is left. Without distances the rim is the horizon and the middle is overhead or below.
// Of stereo it is half a circle, as nothing tells what is behind from what is ahead, and nothing tells heights.
function radar(width, height, view, scale) {
  const { colours, stereo } = view;
  const [strip, margin] = [stereo ? 0 : 62 * scale, 26 * scale];
  const cx = (width - strip) / 2;
  const radius = Math.min(cx, stereo ? height - margin : height / 2) - margin;
  const cy = stereo ? (height + radius) / 2 : height / 2;
  const metres = hasDistance(view.all) ? rings(view.all) : null;
  const unit = radius / (metres?.most ?? 1);
  return {
    project: ([x, y]) => [cx - y * unit, cy - x * unit, 1],
    bounds: [4, cy - radius - 4, width - strip, Math.min(cy + radius + 4, height - 4)],
    ground: (ctx) => disc(ctx, cx, cy, radius, metres, view, scale),
    over: stereo ? null : (ctx) => elevations(ctx, view, width - strip / 2 + 6 * scale, cy, radius, scale),
  };
}

// The circles of a radar as parts of its radius, each with the name that stands on it.
function circles(metres, stereo) {
  if (metres) return metres.at.map((value) => [value / metres.most, `${value} m`]);
  return stereo ? [[1, ""]] : [[Math.cos(Math.PI / 3), "60° up or down"], [Math.cos(Math.PI / 6), "30°"], [1, ""]];
}

function disc(ctx, cx, cy, radius, metres, { colours, stereo }, scale) {
  shaded(ctx, cx, cy, radius, colours, stereo);
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = scale;
  const parts = circles(metres, stereo);
  for (const [part] of parts) {
    ctx.beginPath();
    ctx.arc(cx, cy, part * radius, stereo ? Math.PI : 0, 2 * Math.PI);
    ctx.stroke();
  }
  for (let i = stereo ? 4 : 0; i <= 8; i += 1) {
    const [c, s] = [Math.cos((i * Math.PI) / 4), Math.sin((i * Math.PI) / 4)];
    segment(ctx, cx + 24 * scale * c, cy + 24 * scale * s, cx + radius * c, cy + radius * s);
  }
  const far = radius + 13 * scale;
  for (const [name, x, y, turn] of [
    ["front", 0, -far, 0],
    ...(stereo ? [] : [["back", 0, far, 0]]),
    ["left", -far, stereo ? -14 * scale : 0, -Math.PI / 2],
    ["right", far, stereo ? -14 * scale : 0, Math.PI / 2],
  ]) {
    ctx.save();
    ctx.translate(cx + x, cy + y);
    ctx.rotate(turn);
    words(ctx, name, 0, 0, colours.soft, 12 * scale);
    ctx.restore();
  }
  for (const [part, name] of parts) {
    if (stereo) words(ctx, name, cx + part * radius, cy + 13 * scale, colours.soft, 11 * scale);
    else words(ctx, name, cx + part * Math.SQRT1_2 * radius + (metres ? 4 * scale : 0), cy + part * Math.SQRT1_2 * radius + (metres ? 4 * scale : 0), colours.soft, 11 * scale, metres ? "left" : "center");
  }
  // The listener: a head with a nose, and ears.
  ctx.fillStyle = colours.soft;
  for (const [dx, dy, rx, ry] of [[-11, 0, 3, 5], [11, 0, 3, 5]]) {
    ctx.beginPath();
    ctx.ellipse(cx + dx * scale, cy + dy * scale, rx * scale, ry * scale, 0, 0, 2 * Math.PI);
    ctx.fill();
  }
  ctx.beginPath();
  ctx.moveTo(cx - 4 * scale, cy - 9 * scale);
  ctx.lineTo(cx, cy - 16 * scale);
  ctx.lineTo(cx + 4 * scale, cy - 9 * scale);
  ctx.fill();
  ctx.beginPath();
  ctx.arc(cx, cy, 11 * scale, 0, 2 * Math.PI);
  ctx.fill();
}

// How high what sounds is, from straight below to straight above.
function elevations(ctx, { records, styles, time, colours }, x, cy, radius, scale) {
  const y = (elevation) => cy - (elevation / 90) * radius;
  ctx.fillStyle = colours.rim;
  ctx.beginPath();
  ctx.roundRect(x - 9 * scale, cy - radius, 18 * scale, 2 * radius, 9 * scale);
  ctx.fill();
  ctx.strokeStyle = colours.line;
  ctx.stroke();
  ctx.strokeStyle = colours.soft;
  segment(ctx, x - 13 * scale, cy, x + 13 * scale, cy);
  words(ctx, "up", x, cy - radius - 13 * scale, colours.soft, 12 * scale);
  words(ctx, "down", x, cy + radius + 13 * scale, colours.soft, 12 * scale);
  for (const elevation of [45, -45]) words(ctx, `${Math.abs(elevation)}°`, x - 22 * scale, y(elevation), colours.soft, 11 * scale);
  for (const record of time === null ? records : active(records, time)) {
    const { elevation } = direction(time === null ? place(record) : placeAt(record, time));
    stamp(ctx, styles.get(record.label), x, y(elevation), 7 * scale, colours, 1.5 * scale);
  }
}

// Azimuth against elevation as the listener sees them, front in the middle.
function map(width, height, { colours }) {
  const [left, right, top, bottom] = [38, width - 14, 10, height - 40];
  const x = (azimuth) => left + ((180 - azimuth) / 360) * (right - left);
  const y = (elevation) => top + ((90 - elevation) / 180) * (bottom - top);
  const grid = (ctx) => {
    ctx.fillStyle = colours.disc;
    ctx.beginPath();
    ctx.roundRect(left, top, right - left, bottom - top, 10);
    ctx.fill();
    ctx.strokeStyle = colours.line;
    ctx.lineWidth = 1;
    const names = { 180: "back", 90: "left", 0: "front", "-90": "right", "-180": "back" };
    for (const azimuth of [180, 135, 90, 45, 0, -45, -90, -135, -180]) {
      segment(ctx, x(azimuth), top, x(azimuth), bottom);
      if (!(azimuth in names)) continue;
      const align = azimuth === 180 ? "left" : azimuth === -180 ? "right" : "center";
      const at = azimuth === 180 ? left : azimuth === -180 ? right : x(azimuth);
      words(ctx, names[azimuth], at, bottom + 13, colours.ink, 12, align);
      words(ctx, `${azimuth}°`.replace("-", "−"), at, bottom + 29, colours.soft, 11, align);
    }
    for (const elevation of [-90, -45, 0, 45, 90]) {
      segment(ctx, left, y(elevation), right, y(elevation));
      words(ctx, `${elevation}°`.replace("-", "−"), left - 6, Math.min(Math.max(y(elevation), top + 6), bottom - 6), colours.soft, 11, "right");
    }
  };
  const project = (at) => {
    const { azimuth, elevation } = direction(at);
    return [x(azimuth), y(elevation), 1];
  };
  return { project, jump: (right - left) / 2, bounds: [left + 2, top + 2, right - 2, bottom - 2], ground: grid };
}

// The directions on a ball around the listener, seen from behind and above; `turn` is {yaw, pitch} in radians.
function sphere(width, height, { colours, turn }) {
  const [cx, cy] = [width / 2, height / 2];
  const radius = Math.min(cx, cy) - 24;
  const [sy, c, sp, cp] = [Math.sin(turn.yaw), Math.cos(turn.yaw), Math.sin(turn.pitch), Math.cos(turn.pitch)];
  const project = (at) => {
    const length = Math.hypot(...at) || 1;
    const [x, y, z] = at.map((value) => value / length);
    const [ahead, left] = [c * x + sy * y, c * y - sy * x];
    // Towards the eye, which is behind the listener and higher.
    return [cx - left * radius, cy - (cp * z + sp * ahead) * radius, sp * z - cp * ahead];
  };
  const ball = (ctx) => {
    shaded(ctx, cx, cy, radius, colours);
    const circle = (point, width) => {
      for (let i = 0; i < 72; i += 1) {
        const from = project(place(point(i * 5)));
        const to = project(place(point(i * 5 + 5)));
        ctx.globalAlpha = from[2] < 0 ? 0.35 : 1;
        ctx.lineWidth = width;
        segment(ctx, from[0], from[1], to[0], to[1]);
      }
      ctx.globalAlpha = 1;
    };
    ctx.strokeStyle = colours.line;
    for (const elevation of [-60, -30, 30, 60]) circle((azimuth) => ({ azimuth, elevation }), 1);
    for (let azimuth = 0; azimuth < 180; azimuth += 45) circle((elevation) => ({ azimuth, elevation }), 1);
    ctx.strokeStyle = colours.soft;
    circle((azimuth) => ({ azimuth, elevation: 0 }), 1.5);
    for (const [name, azimuth] of [["front", 0], ["left", 90], ["back", 180], ["right", -90]]) {
      const [x, y, front] = project([1.1 * Math.cos((azimuth * Math.PI) / 180), 1.1 * Math.sin((azimuth * Math.PI) / 180), 0]);
      words(ctx, name, cx + (x - cx) * 1.08, cy + (y - cy) * 1.08, front < 0 ? colours.soft : colours.ink, 12);
    }
  };
  return { project, bounds: [2, 2, width - 2, height - 2], ground: ball };
}

export const VIEWS = { radar, map, sphere };
