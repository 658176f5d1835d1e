"""Live listening: real-time factor and delay of each HTS-AT size, on samples that arrive in real time."""

import json
import os
import threading
import time

import numpy as np
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import HTSAT_SIZES
from modeling_pseldnet.tools.stream import detect_stream, in_real_time, read_pcm, to_record


NUM_THREADS, NUM_CLASSES, RATE = 2, 170, 24000
HOP_SECONDS, DELAY_SECONDS, LIVE_SECONDS, CHUNK_SECONDS = 0.5, 0.5, 15.0, 0.02
THRESHOLD = 0.9


def live_pipe(samples: np.ndarray) -> tuple[int, list[float]]:
    """Return a pipe that delivers samples (n, channels) in real time, and a list with the start time of the first."""
    receiver, sender = os.pipe()
    began = []

    def play() -> None:
        chunk = round(CHUNK_SECONDS * RATE)
        began.append(time.monotonic())
        with os.fdopen(sender, "wb", buffering=0) as pipe:
            for start in range(0, len(samples), chunk):
                time.sleep(max(began[0] + (start + chunk) / RATE - time.monotonic(), 0))
                pipe.write(samples[start : start + chunk].tobytes())

    threading.Thread(target=play, daemon=True).start()
    return receiver, began


def delays(model: PSELDNetForSELD, extractor: PSELDNetFeatureExtractor, samples: np.ndarray) -> np.ndarray:
    """Return the seconds from the end of each frame to its JSON line, without frames flushed by the stream's end."""
    receiver, began = live_pipe(samples)
    with open(receiver, "rb", buffering=0) as pipe:
        blocks = in_real_time(read_pcm(pipe, "s16le", 4, round(HOP_SECONDS * RATE)), HOP_SECONDS, 10, print)
        waited = []
        for frame, events in detect_stream(
            model, extractor, blocks, RATE, threshold=THRESHOLD, delay_seconds=DELAY_SECONDS
        ):
            json.dumps(to_record(frame, events, model.config.id2label))
            waited.append(time.monotonic() - began[0] - (frame + 1) / 10)
    return np.array(waited[: -round(10 * DELAY_SECONDS)])


def milliseconds_a_window(model: PSELDNetForSELD, extractor: PSELDNetFeatureExtractor, wave: np.ndarray) -> float:
    """Return the median time from a block to its frames."""
    times = []

    def blocks():
        for block in np.array_split(wave, 30, axis=1):
            times.append(time.perf_counter())
            yield block

    list(detect_stream(model, extractor, blocks(), RATE, threshold=THRESHOLD, delay_seconds=DELAY_SECONDS))
    return 1000 * float(np.median(np.diff(times)[5:]))


def main() -> None:
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    wave = 0.1 * np.random.default_rng(0).standard_normal((4, round(LIVE_SECONDS * RATE)), dtype=np.float32)
    samples = (wave.T * 32767).astype("<i2")
    extractor = PSELDNetFeatureExtractor()
    print(
        f"{NUM_CLASSES} classes, a window of 10 s every {HOP_SECONDS} s, delay {DELAY_SECONDS} s, {NUM_THREADS}"
        f" threads; by design at most {HOP_SECONDS + DELAY_SECONDS} s and the time of a window"
    )
    print("| size | a window (ms) | real-time factor | delay, median (s) | delay, longest (s) |")
    print("|---|---|---|---|---|")
    for size in HTSAT_SIZES:
        model = PSELDNetForSELD(PSELDNetConfig.named(size, num_labels=NUM_CLASSES)).eval()
        window = milliseconds_a_window(model, extractor, wave)
        waited = delays(model, extractor, samples)
        factor = window / 1000 / HOP_SECONDS
        print(f"| {size} | {window:.0f} | {factor:.2f} | {np.median(waited):.2f} | {waited.max():.2f} |", flush=True)


if __name__ == "__main__":
    main()
