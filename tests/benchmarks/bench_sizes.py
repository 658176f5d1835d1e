"""Parameters, FLOPs and time of the HTS-AT sizes, as a Markdown table: `python tests/benchmarks/bench_sizes.py`."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import HTSAT_SIZES


NUM_THREADS, NUM_CLASSES = 2, 13


def milliseconds(function) -> float:
    """Return the time of the fastest of ten calls, after a warm-up."""
    times = []
    for _ in range(11):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times[1:])


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    extractor = PSELDNetFeatureExtractor()
    waveform = 0.1 * torch.randn(1, 4, 10 * extractor.sampling_rate)
    features = extractor.features(waveform)
    print(f"{NUM_CLASSES} classes, multi-ACCDOA, clips of 10 s, batch 1, {NUM_THREADS} threads")
    print("| size | parameters (M) | network (GFLOP a clip) | features and network (ms a clip) |")
    print("|---|---|---|---|")
    for size in HTSAT_SIZES:
        model = PSELDNetForSELD(PSELDNetConfig.named(size, num_labels=NUM_CLASSES)).eval()
        # The counter does not support fused attention on CPUs.
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            model.predict(features)
        model.set_attn_implementation("sdpa")
        taken = milliseconds(lambda model=model: model.predict(extractor.features(waveform)))
        millions, giga = model.num_parameters() / 1e6, counter.get_total_flops() / 1e9
        print(f"| {size} | {millions:.2f} | {giga:.2f} | {taken:.0f} |")


if __name__ == "__main__":
    main()
