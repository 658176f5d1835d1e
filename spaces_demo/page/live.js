// Listening to the microphone: its samples go to the server, block by block, and what sounds in them comes back.
import { LOST } from "./server.js";

const BLOCK_SECONDS = 0.5;
const AS_IT_SOUNDS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const REFUSED = {
  NotAllowedError: "The browser blocks the microphone: allow it in the settings for this page, then press Listen live again.",
  NotFoundError: "No microphone was found: connect one, then press Listen live again.",
};

async function openMicrophone(channels) {
  if (!navigator.mediaDevices) throw new Error("Browsers allow the microphone only over https or on your own machine: open the page that way.");
  // Web Audio makes two channels of any number; this gives them as they are.
  if (!("MediaStreamTrackProcessor" in window)) throw new Error("This browser cannot record all channels of a microphone: use Chrome, Edge or another browser based on Chromium.");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: { ideal: channels }, ...AS_IT_SOUNDS } });
    return stream.getAudioTracks()[0];
  } catch (error) {
    throw new Error(REFUSED[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

// Gathers what a microphone gives to blocks of 16-bit samples, channels interleaved.
function gatherer(channels, rate, onBlock) {
  const size = Math.round(BLOCK_SECONDS * rate);
  let [block, filled] = [new Int16Array(size * channels), 0];
  return (sound) => {
    const planes = Array.from({ length: channels }, (_, planeIndex) => {
      const plane = new Float32Array(sound.numberOfFrames);
      sound.copyTo(plane, { planeIndex, format: "f32-planar" });
      return plane;
    });
    let peak = 0;
    for (let i = 0; i < sound.numberOfFrames; i += 1) {
      for (const plane of planes) {
        const value = Math.max(-1, Math.min(plane[i], 1));
        peak = Math.max(peak, Math.abs(value));
        block[filled] = 32767 * value;
        filled += 1;
      }
      if (filled < block.length) continue;
      onBlock(block);
      [block, filled] = [new Int16Array(size * channels), 0];
    }
    return peak;
  };
}

// Sends blocks in their order; several at once where the connection is slow.
function sender(address) {
  const waiting = [];
  let sending = null;
  const drain = async () => {
    while (waiting.length) {
      const { status } = await fetch(address, { method: "POST", body: new Blob(waiting.splice(0)) }).catch(() => { throw new Error(LOST); });
      if (status === 413 || status === 503) throw new Error("The server or your connection is too slow for live sound: try again later, or upload a recording.");
    }
    sending = null;
  };
  return (block) => {
    waiting.push(block);
    return (sending ??= drain());
  };
}

// Listens until it is stopped or over. `onScene` is told what hears, `onSound` the seconds heard and their level, and
// `onFrame` what sounds. Resolves to the reason of the end in words, none where the visitor ended it.
export async function listen(visitor, { channels, format, model }, { onScene, onSound, onFrame }, signal) {
  const track = await openMicrophone(channels);
  const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 500 }).readable.getReader();
  const address = `live/${visitor}`;
  let news = null;
  // Of a page that is closed, the server would otherwise wait for samples, and keep its place.
  addEventListener("pagehide", () => navigator.sendBeacon(address), { signal });
  try {
    const { value: first } = await reader.read();
    const { numberOfChannels, sampleRate } = first;
    first.close();
    signal.throwIfAborted();
    const query = new URLSearchParams({ channels: numberOfChannels, rate: sampleRate, channel_format: format, model });
    news = new EventSource(`${address}?${query}`);
    return await new Promise((resolve, reject) => {
      const pump = async (needed) => {
        const send = sender(address);
        const gather = gatherer(needed, sampleRate, (block) => send(block).catch(reject));
        let heard = 0;
        while (!signal.aborted) {
          const { value, done } = await reader.read();
          if (done) break;
          heard += value.numberOfFrames / sampleRate;
          onSound(heard, gather(value));
          value.close();
        }
        track.stop();
        // No samples end it: what is left is told, then the end.
        await send(new Int16Array(0));
      };
      let told = false;
      signal.addEventListener("abort", () => { if (!told) reject(new DOMException("", "AbortError")); });
      news.onerror = () => reject(new Error(LOST));
      news.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.error) reject(new Error(message.error));
        else if ("end" in message) resolve(message.end);
        else if (message.scene) {
          told = true;
          onScene(message.scene);
          pump(message.channels).catch(reject);
        } else onFrame(message);
      };
    });
  } finally {
    news?.close();
    track.stop();
  }
}
