"""Speed of every encoder with every format, compared with its matmul limit: its FLOPs at the speed of a plain product.

    python tests/benchmarks/bench_backbones.py [encoder …]

A training step is forward, loss and backward; its FLOPs are counted too, for a limit of its own.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_pseldnet import Events, PSELDNetConfig, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import BACKBONE_DEFAULTS
from modeling_pseldnet.output_formats import FORMATS


BATCH, THREADS = 2, 1
NOTES = {
    "htsat": "small windows: layer norms, softmax and the moves into windows and back take what products do not",
    "passt": "products; attention over 602 tokens",
    "cnn14_conformer": "convolutions; the first block, batch norm and ReLU on 1001 x 64 frames are bound by memory",
    "crnn": "batch norm and ReLU are bound by memory; the GRU goes step by step",
}


def median_seconds(work: Callable[[], object], repeats: int = 5, warm_up: int = 1) -> float:
    """Return the median time of `work`."""
    times = []
    for repeat in range(warm_up + repeats):
        start = time.perf_counter()
        work()
        if repeat >= warm_up:
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def flops(work: Callable[[], object]) -> int:
    """Return the FLOPs that torch counts in the products and convolutions of `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def rows(encoder: str, output_format: str, speed: float) -> list[str]:
    """Measure the forward pass and the training step of one network, given the `speed` in FLOP/s."""
    config = PSELDNetConfig(
        backbone=encoder, output_format=output_format, id2label={index: str(index) for index in range(13)}
    )
    model = PSELDNetForSELD(config)
    features = torch.randn(BATCH, 7, 1001, 64)
    label = model.output_format.encode(Events([0], [0], [0], [30.0], [10.0]), 100)
    labels = label.expand(BATCH, *label.shape)

    @torch.no_grad()
    def forward() -> None:
        model.eval()(features)

    def step() -> None:
        model.train().zero_grad()
        model(features, labels=labels).loss.backward()

    lines = []
    for name, work in (("forward", forward), ("training step", step)):
        limit = flops(work) / speed
        seconds = median_seconds(work)
        lines.append(
            f"  {encoder:<16}{output_format:<14}{name:<14}{1000 * seconds:>8.0f} ms"
            f"{1000 * limit:>8.0f} ms limit{seconds / limit:>6.2f}x"
        )
    return lines


def main(encoders: list[str]) -> None:
    torch.set_num_threads(THREADS)
    matrix = torch.randn(2048, 2048)
    speed = 2 * 2048**3 / median_seconds(lambda: matrix @ matrix)
    print(f"batch {BATCH} of 10 s, {THREADS} thread, sgemm 2048³ at {speed / 1e9:.0f} GFLOP/s")
    for encoder in encoders or list(BACKBONE_DEFAULTS):
        for output_format in FORMATS:
            print("\n".join(rows(encoder, output_format, speed)), flush=True)
        print(f"    where the time goes: {NOTES[encoder]}")


if __name__ == "__main__":
    main(sys.argv[1:])
