// What a scene is, as numbers and words: everything that is drawn and listed comes from here.
// A scene is what the server writes: its records are events with onset, offset, label and trajectory.

const SHAPES = ["circle", "triangle", "square", "diamond", "cross", "star", "ring", "bar"];
const COLOURS = 8;

// A colour and a shape for each label that occurs, neither of which repeats within eight; those of `known` are kept.
export function styles(records, known = new Map()) {
  const labels = [...new Set([...known.keys(), ...records.map((record) => record.label).sort()])];
  const style = (i) => ({ colour: i % COLOURS, shape: SHAPES[(i + Math.floor(i / COLOURS)) % SHAPES.length] });
  return new Map(labels.map((label, i) => [label, style(i)]));
}

export const named = (label) => label.replaceAll("_", " ");
export const frameOf = (seconds) => Math.floor(seconds * 10 + 1e-6);

export function active(records, time) {
  const frame = frameOf(time);
  return records.filter((record) => Math.round(record.onset * 10) <= frame && frame < Math.round(record.offset * 10));
}

// The confidence of records without one is not known: they are always shown.
export const filtered = (records, { least, hidden }) =>
  records.filter((record) => !hidden.has(record.label) && (record.confidence ?? 1) >= least - 1e-9);

export const hasDistance = (records) => records.some((record) => record.trajectory.some((step) => step.distance != null));

// Metres to front, left and above; on the unit sphere where no distance is known.
export function place({ azimuth, elevation, distance }) {
  const [a, e, r] = [(azimuth * Math.PI) / 180, (elevation * Math.PI) / 180, distance ?? 1];
  return [r * Math.cos(e) * Math.cos(a), r * Math.cos(e) * Math.sin(a), r * Math.sin(e)];
}

export function direction([x, y, z]) {
  const degrees = 180 / Math.PI;
  return { azimuth: Math.atan2(y, x) * degrees, elevation: Math.atan2(z, Math.hypot(x, y)) * degrees };
}

// Adds a frame of a stream to records: an event goes on where one of its class and track was heard just before.
export function addFrame(records, { time, events }) {
  for (const { label, track, confidence, ...at } of events) {
    let record = records.findLast((other) => other.label === label && other.track === track && Math.abs(other.offset - time) < 0.05);
    if (!record) records.push((record = { label, track, onset: time, trajectory: [], confidence: 0, sum: [0, 0, 0] }));
    record.trajectory.push({ time, ...at });
    record.offset = Math.round(10 * time + 1) / 10;
    record.confidence += (confidence - record.confidence) / record.trajectory.length;
    record.sum = place({ ...at, distance: 1 }).map((value, axis) => record.sum[axis] + value);
    Object.assign(record, direction(record.sum));
  }
}

// Where an event is at a time, between the middles of its frames.
export function placeAt(record, time) {
  const steps = record.trajectory;
  const position = (time - steps[0].time) * 10 - 0.5;
  const i = Math.min(Math.max(Math.floor(position), 0), steps.length - 1);
  const from = place(steps[i]);
  const to = place(steps[Math.min(i + 1, steps.length - 1)]);
  const part = Math.min(Math.max(position - i, 0), 1);
  return from.map((value, axis) => value + part * (to[axis] - value));
}

const AROUND = ["ahead", "ahead left", "left", "behind left", "behind", "behind right", "right", "ahead right"];
export const side = (azimuth) => AROUND[((Math.round(azimuth / 45) % 8) + 8) % 8];
const height = (elevation) =>
  Math.abs(elevation) < 5 ? "level" : `${Math.abs(Math.round(elevation))}° ${elevation > 0 ? "up" : "down"}`;
// Where something is: a start, and the height and the distance as far as they are known, as stereo tells no heights.
export const spot = (start, { elevation, distance }, flat) =>
  [start, ...(flat ? [] : [height(elevation)]), ...(distance == null ? [] : [`${distance.toFixed(1)} m`])].join(", ").replace(/-(?=\d)/, "−");
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const seconds = (value) => `${value.toFixed(1)} s`;
export function clock(value) {
  const rounded = Number(value.toFixed(1));
  const minutes = Math.floor(rounded / 60);
  return `${minutes}:${(rounded - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}
export const distanceOf = (record) => {
  const all = record.trajectory.map((step) => step.distance).filter((value) => value != null);
  return record.distance ?? (all.length ? all.reduce((a, b) => a + b, 0) / all.length : null);
};

export function stateAt(record, time) {
  const at = placeAt(record, time);
  return { ...direction(at), distance: distanceOf(record) === null ? null : Math.hypot(...at) };
}

// Where something sounds for half a second that the model has no name for: clearly above the quietest tenth.
export function unknown(scene) {
  const { envelope, seconds: end, records } = scene;
  const floor = [...envelope].sort((a, b) => a - b)[Math.floor(envelope.length / 10)] ?? 0;
  const limit = Math.max(4 * floor, 0.05);
  const spans = [];
  let since = null;
  for (let i = 0; i <= envelope.length; i += 1) {
    const time = (i * end) / envelope.length;
    const sounds = i < envelope.length && envelope[i] > limit && !active(records, time).length;
    if (sounds) since ??= time;
    else if (since !== null) {
      if (time - since >= 0.5) spans.push([since, time]);
      since = null;
    }
  }
  return spans;
}

export function summary(records, end) {
  if (!records.length) return `No events in ${seconds(end)}`;
  const kinds = new Set(records.map((record) => record.label)).size;
  return `${plural(records.length, "event")} of ${plural(kinds, "kind")} in ${seconds(end)}`;
}

// A figure in words, for those who do not see it.
export function describe(records, time, flat) {
  const shown = time === null ? records : active(records, time);
  const words = shown.slice(0, 12).map((r) => {
    const at = time === null ? { ...r, distance: distanceOf(r) } : stateAt(r, time);
    return spot(`${named(r.label)} ${side(at.azimuth)}`, at, flat);
  });
  const more = shown.length > 12 ? `, and ${shown.length - 12} more` : "";
  return words.length ? words.join("; ") + more : "nothing";
}
