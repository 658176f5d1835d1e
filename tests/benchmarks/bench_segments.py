"""How fast one worker reads 10-s windows of one-minute recordings, compared with soundfile alone.

Example: OMP_NUM_THREADS=1 python tests/benchmarks/bench_segments.py --recordings 20
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import soundfile

from datasets_scripts.dcase2021 import DCASE2021
from datasets_scripts.segments import SegmentedDataset


SAMPLING_RATE = 24000
SECONDS = 60
WINDOW = 10


def write_recordings(root: Path, suffix: str, count: int) -> None:
    """Write four-channel pink noise, which FLAC compresses about as well as scenes, with two events in every frame."""
    rng = np.random.default_rng(0)
    num_samples = SECONDS * SAMPLING_RATE
    for folder in ("foa_dev", "metadata_dev"):
        (root / folder).mkdir(parents=True)
    rows = (f"{frame},{frame % 12},{track},{frame % 180},0\n" for frame in range(SECONDS * 10) for track in (0, 1))
    labels = "".join(rows)
    for number in range(count):
        spectrum = np.fft.rfft(rng.normal(size=(num_samples, 4)), axis=0)
        pink = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum)))[:, None], num_samples, axis=0)
        name = f"fold1_room1_mix{number:03d}"
        soundfile.write(root / "foa_dev" / f"{name}.{suffix}", 0.1 * pink / pink.std(), SAMPLING_RATE)
        (root / "metadata_dev" / f"{name}.csv").write_text(labels)


def read_alone(path: str, start: int) -> np.ndarray:
    with soundfile.SoundFile(path) as file:
        file.seek(start)
        return file.read(WINDOW * SAMPLING_RATE, dtype="float32", always_2d=True)


def rates(readers: list[Callable[[int], object]], order: list[int], repeats: int) -> list[float]:
    """Return each reader's calls per second in its fastest round; rounds alternate, as other load varies."""
    times = [[] for _ in readers]
    for _ in range(repeats):
        for reader, taken in zip(readers, times, strict=True):
            start = time.perf_counter()
            for index in order:
                reader(index)
            taken.append(time.perf_counter() - start)
    return [len(order) / min(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10, help="one-minute recordings to read from (default 10)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the fastest counts (default 5)")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    print("10-s windows a second and worker, in random order, files in the page cache")
    print(f"{'format':<8}{'soundfile':>12}{'segments':>12}{'ratio':>8}")
    for suffix in ("wav", "flac"):
        with tempfile.TemporaryDirectory() as folder:
            write_recordings(Path(folder) / "data", suffix, args.recordings)
            builder = DCASE2021(data_dir=f"{folder}/data", cache_dir=f"{folder}/cache")
            builder.download_and_prepare()
            recordings = builder.as_dataset(split="train")
            windows = SegmentedDataset(recordings, seconds=WINDOW)
            order = np.random.default_rng(0).permutation(len(windows)).tolist()
            places = [
                (recordings[recording]["audio"]["path"], start * SAMPLING_RATE // 10)
                for recording, start in zip(windows.recording.tolist(), windows.start.tolist(), strict=True)
            ]
            readers = [lambda index, places=places: read_alone(*places[index]), windows.__getitem__]
            alone, segments = rates(readers, order, args.repeats)
            print(f"{suffix:<8}{alone:>12.0f}{segments:>12.0f}{segments / alone:>8.2f}")


if __name__ == "__main__":
    main()
