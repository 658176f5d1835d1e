"""Speed and memory of the model that comes with the package on an hour of FLAC."""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from modeling_pseldnet import detect, load
from modeling_pseldnet.events import direction_to_vector


RATE, THREADS, MINUTE = 24000, 2, 60


def write_noise(path: Path, minutes: int) -> None:
    """Write first-order ambisonics of a noise source that circles once a minute, minute by minute."""
    rng, samples = np.random.default_rng(0), MINUTE * RATE
    x, y, z = direction_to_vector(np.linspace(-180, 180, samples), np.full(samples, 20.0)).T
    field = np.stack([np.ones_like(x), y, z, x], axis=1).astype(np.float32)
    with soundfile.SoundFile(path, "w", RATE, channels=4, format="FLAC") as file:
        for _ in range(minutes):
            file.write(0.1 * rng.standard_normal((samples, 1), dtype=np.float32) * field)


def peak_gibibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="length of the recording; default: %(default)s")
    minutes = parser.parse_args().minutes
    torch.set_num_threads(THREADS)
    model, extractor = load(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.flac"
        write_noise(path, minutes)
        before = peak_gibibytes()
        wall, processor = time.perf_counter(), time.process_time()
        events = detect(model, extractor, path)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    seconds = minutes * MINUTE
    print(f"{minutes} minutes of FLAC, default model, {THREADS} threads, {len(events):,} detections")
    print(f"  {seconds / wall:.0f} x real time ({wall:.1f} s; {processor:.1f} s of processor time)")
    print(f"  peak memory {peak_gibibytes():.2f} GiB, before the recording {before:.2f} GiB")


if __name__ == "__main__":
    sys.exit(main())
