// What visitors take along: a link, a picture, a video.
import { FONT, draw, marker, theme } from "./draw.js";
import { active, named, seconds } from "./scene.js";

const [WIDTH, HEIGHT] = [1280, 720];
export const MAX_FILM_SECONDS = 60;

// What a link says: the example, the time, the filter, the view and what is heard.
export function toHash({ example, time, least, hidden, view, listen }) {
  const words = new URLSearchParams({ example });
  if (time !== null) words.set("t", time.toFixed(1));
  if (least > 0) words.set("least", least.toFixed(2));
  if (hidden.size) words.set("hide", [...hidden].join(","));
  if (view !== "radar") words.set("view", view);
  if (listen !== "stereo") words.set("listen", listen);
  return `#${words}`;
}

export function fromHash(hash) {
  const words = new URLSearchParams(hash.slice(1));
  const number = (name) => (words.has(name) && Number.isFinite(Number(words.get(name))) ? Number(words.get(name)) : null);
  return {
    example: words.get("example"),
    time: number("t"),
    least: Math.min(Math.max(number("least") ?? 0, 0), 1),
    hidden: new Set((words.get("hide") ?? "").split(",").filter(Boolean)),
    view: words.get("view") ?? "radar",
    listen: words.get("listen") ?? "stereo",
  };
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A frame of the film, which is also the picture: the radar, what sounds, and the whole on a line of time.
export function frame(ctx, scene, view, colours = theme()) {
  ctx.fillStyle = colours.card;
  ctx.fillRect(0, 0, WIDTH, HEIGHT);
  ctx.save();
  ctx.translate(24, 16);
  draw(ctx, "radar", 620, 560, { ...view, colours }, 1.15);
  ctx.restore();
  const text = (words, x, y, size, colour, weight = 400) => {
    ctx.font = `${weight} ${size}px ${FONT}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.fillStyle = colour;
    ctx.fillText(words, x, y, WIDTH - x - 40);
  };
  text(scene.title ?? scene.name, 690, 84, 34, colours.ink, 700);
  text(view.time === null ? `${seconds(scene.seconds)}, all of it` : `${seconds(view.time)} of ${seconds(scene.seconds)}`, 690, 122, 22, colours.soft);
  const labels = [...new Set((view.time === null ? view.records : active(view.records, view.time)).map((r) => r.label))];
  labels.slice(0, 9).forEach((label, i) => {
    const style = view.styles.get(label);
    ctx.fillStyle = colours.classes[style.colour];
    marker(ctx, style.shape, 704, 172 + 44 * i, 13);
    ctx.fill();
    text(named(label), 732, 181 + 44 * i, 26, colours.ink, 600);
  });
  text("PSELDNet: what sounds, and from where?", 690, 566, 18, colours.soft);
  const [left, right, middle] = [40, WIDTH - 40, 640];
  const at = (time) => left + (time / scene.seconds) * (right - left);
  wave(ctx, scene, view, colours, left, right, middle, 44);
  if (view.time !== null) {
    ctx.fillStyle = colours.ink;
    ctx.fillRect(at(view.time) - 1.5, middle - 58, 3, 116);
  }
}

// The level over time, in the colours of what sounds.
export function wave(ctx, scene, view, colours, left, right, middle, half) {
  const { envelope } = scene;
  const width = right - left;
  const bars = Math.min(envelope.length, Math.floor(width / 3));
  for (let i = 0; i < bars; i += 1) {
    const from = Math.floor((i * envelope.length) / bars);
    const to = Math.max(Math.floor(((i + 1) * envelope.length) / bars), from + 1);
    const level = Math.sqrt(Math.max(...envelope.slice(from, to)));
    const now = active(view.records, ((i + 0.5) * scene.seconds) / bars);
    const h = Math.max(level * half, 1);
    const x = left + (i * width) / bars;
    const parts = now.length ? now : [null];
    parts.forEach((record, k) => {
      ctx.fillStyle = record ? colours.classes[view.styles.get(record.label).colour] : colours.line;
      ctx.fillRect(x, middle - h + (k * 2 * h) / parts.length, Math.max(width / bars - 1, 1), (2 * h) / parts.length);
    });
  }
}

export function picture(scene, view) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  frame(canvas.getContext("2d"), scene, view);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

export const canFilm = () => "MediaRecorder" in window && "captureStream" in HTMLCanvasElement.prototype;

// Films the radar with its sound from a time on, as fast as it plays; resolves to a blob, or null if it was stopped.
export async function film(scene, viewAt, source, from, onPart, signal) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const ctx = canvas.getContext("2d");
  const sound = new Audio(source);
  const once = (type) => new Promise((resolve, reject) => {
    sound.addEventListener(type, resolve, { once: true });
    sound.addEventListener("error", () => reject(sound.error), { once: true });
  });
  await once("loadedmetadata");
  if (from > 0) {
    sound.currentTime = from;
    await once("seeked");
  }
  const context = new AudioContext();
  await context.resume();
  const output = context.createMediaStreamDestination();
  context.createMediaElementSource(sound).connect(output);
  const stream = canvas.captureStream(30);
  for (const track of output.stream.getAudioTracks()) stream.addTrack(track);
  const types = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
  const mimeType = types.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 4_000_000 });
  const parts = [];
  let waited = 0;
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const until = Math.min(scene.seconds, from + MAX_FILM_SECONDS);
  const colours = theme();
  frame(ctx, scene, viewAt(from), colours);
  recorder.start(500);
  await sound.play();
  await new Promise((resolve) => {
    // A timer goes on in a tab that is not looked at, where frames of an animation stop.
    const timer = setInterval(() => {
      frame(ctx, scene, viewAt(sound.currentTime), colours);
      onPart((sound.currentTime - from) / (until - from));
      if (!sound.ended && sound.currentTime < until && !signal.aborted) return;
      // An encoder on a busy machine may not have given anything yet.
      if (!signal.aborted && !parts.some((part) => part.size) && (waited += 1) < 300) return;
      clearInterval(timer);
      resolve();
    }, 1000 / 30);
  });
  sound.pause();
  await new Promise((resolve) => {
    recorder.onstop = resolve;
    recorder.stop();
  });
  stream.getTracks().forEach((track) => track.stop());
  await context.close();
  return signal.aborted ? null : new Blob(parts, { type: mimeType.split(";")[0] });
}
