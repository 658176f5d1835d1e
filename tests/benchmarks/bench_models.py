"""Speed of the published HTS-AT network and its surroundings, compared with the machine's limits in the same run."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD, detect
from modeling_pseldnet.events import direction_to_vector


GFLOP_A_CLIP = 12.34
RATE = 24000
THREADS = 2


def median_milliseconds(work: Callable[[], object], repeats: int = 9, warm_up: int = 2) -> float:
    """Return the median time of `work` in milliseconds."""
    times = []
    for repeat in range(warm_up + repeats):
        start = time.perf_counter()
        work()
        if repeat >= warm_up:
            times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def clips(number: int) -> np.ndarray:
    """Ten-second clips (number, 4, samples) of a noise source that moves."""
    rng, samples = np.random.default_rng(0), 10 * RATE
    x, y, z = direction_to_vector(np.linspace(-150, 150, samples), np.linspace(-40, 60, samples)).T
    field = np.stack([np.ones_like(x), y, z, x]).astype(np.float32)
    return 0.1 * rng.standard_normal((number, 1, samples), dtype=np.float32) * field


def sparse_labels(batch: int, classes: int) -> torch.Tensor:
    """Labels (batch, 100, 3, 3, classes) with about three events a frame, some of one class."""
    generator = torch.Generator().manual_seed(0)
    active = (
        torch.rand(batch, 100, 3, 1, classes, generator=generator) < torch.tensor([0.02, 0.004, 0.001])[:, None, None]
    )
    active[:, :, 1] &= active[:, :, 0]
    active[:, :, 2] &= active[:, :, 1]
    vectors = torch.randn(batch, 100, 3, 3, classes, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=3) * active


def detection_rows(model: PSELDNetForSELD) -> list[tuple[str, float, str]]:
    """Measure the decoding of a minute with about 100,000 detections, and the loss at batch size 32."""
    rng, classes = np.random.default_rng(0), model.config.num_labels
    vectors = rng.standard_normal((600, 3, 3, classes)).astype(np.float32)
    lengths = rng.random((600, 3, 1, classes)).astype(np.float32) ** 1.2 * 0.8
    vectors *= lengths / np.linalg.norm(vectors, axis=2, keepdims=True)
    count = len(model.output_format.decode({"accdoa": vectors}, 0.5))
    decoding = median_milliseconds(lambda: model.output_format.decode({"accdoa": vectors}, 0.5))
    prediction = (torch.rand(32, 100, 3, 3, classes) * 2 - 1).requires_grad_()
    labels = sparse_labels(32, classes)
    loss = median_milliseconds(lambda: model.output_format.loss({"accdoa": prediction}, labels).backward())
    return [
        (f"decoding 600 frames, {count:,} detections", decoding, ""),
        (f"ADPIT forward and backward, batch 32, {classes} classes", loss, ""),
    ]


def ten_minutes(model: PSELDNetForSELD, extractor: PSELDNetFeatureExtractor) -> tuple[str, float, str]:
    """Measure end-to-end detection in a ten-minute FLAC file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.flac"
        soundfile.write(path, np.concatenate(list(clips(60)), axis=1).T, RATE)
        # An untrained network reports almost every class all the time, unlike in any recording.
        work = partial(detect, model, extractor, path, threshold=0.999)
        milliseconds, count = median_milliseconds(work, repeats=1, warm_up=0), len(work())
    return (
        f"end to end, 10-minute FLAC, {count:,} detections",
        milliseconds,
        f"{600_000 / milliseconds:.0f}x real time",
    )


@torch.inference_mode()
def forward_rows(
    model: PSELDNetForSELD, extractor: PSELDNetFeatureExtractor, gflops: float
) -> list[tuple[str, float, str]]:
    waveform = torch.from_numpy(clips(8))
    window = torch.hann_window(1024)
    channels = waveform.flatten(0, 1)
    stft = median_milliseconds(lambda: torch.stft(channels, 1024, 240, window=window, return_complex=True)) / 8
    features = median_milliseconds(lambda: extractor.features(waveform)) / 8
    rows = [
        ("bare torch.stft, a clip at batch 8", stft, ""),
        ("features, a clip at batch 8", features, f"{features / stft:.2f}x the bare STFT"),
    ]
    inputs, limit = extractor.features(waveform), 1000 * GFLOP_A_CLIP / gflops
    for batch in (1, 8):
        forward = median_milliseconds(lambda batch=batch: model(inputs[:batch])) / batch
        rows.append(
            (f"forward, a clip at batch {batch}", forward, f"{forward / limit:.2f}x the matmul limit {limit:.0f} ms")
        )
    return rows


def main() -> None:
    torch.set_num_threads(THREADS)
    matrix = torch.randn(2048, 2048)
    milliseconds = median_milliseconds(lambda: matrix @ matrix)
    gflops = 2 * 2048**3 / milliseconds / 1e6
    model = PSELDNetForSELD(PSELDNetConfig(id2label={index: str(index) for index in range(170)})).eval()
    extractor = PSELDNetFeatureExtractor()
    rows = [(f"sgemm 2048³, {gflops:.0f} GFLOP/s", milliseconds, "")]
    rows += forward_rows(model, extractor, gflops)
    rows += detection_rows(model)
    rows.append(ten_minutes(model, extractor))
    print(f"HTS-AT base, 170 classes, multi-ACCDOA, {GFLOP_A_CLIP} GFLOP a 10-s clip; {THREADS} threads, medians")
    for name, milliseconds, note in rows:
        print(f"  {name:<62}{milliseconds:>10.1f} ms  {note}")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    sys.exit(main())
