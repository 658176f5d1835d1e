"""One training step of the published HTS-AT, compared with the time that its matrix products alone would take.

Forward, ADPIT, backward and AdamW on a batch of 4 windows of 10 s, 170 classes, float32, two threads. The limit is
three times the 12.34 GFLOP of a forward pass, at the rate of matrix products measured in the same run. Both are the
best of several runs: use an idle machine.

Run: python tests/benchmarks/bench_training.py
"""

import time

import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD


BATCH_SIZE, NUM_CLASSES, THREADS, STEPS = 4, 170, 2, 7
FORWARD_GFLOP = 12.34
TARGET = 1.7


def sgemm_gflops(size: int = 2048, repeats: int = 7) -> float:
    """Measure the best rate of float32 matrix products in GFLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def labels() -> torch.Tensor:
    """Labels with up to three sources per frame, in the layout of multi-ACCDOA."""
    labels = torch.zeros(BATCH_SIZE, 100, 3, 3, NUM_CLASSES)
    for source in range(3):
        direction = torch.nn.functional.normalize(torch.randn(BATCH_SIZE, 3), dim=1)
        for example in range(BATCH_SIZE):
            labels[example, :, 0, :, 11 * source + example] = direction[example]
    return labels


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    model = PSELDNetForSELD(PSELDNetConfig(id2label={n: str(n) for n in range(NUM_CLASSES)})).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    inputs = {"input_features": torch.randn(BATCH_SIZE, 7, 1001, 64), "labels": labels()}
    parts = {"forward and loss": [], "backward": [], "AdamW": []}
    rates = []
    for step in range(STEPS + 1):
        rates.append(sgemm_gflops(repeats=2))
        times = [time.perf_counter()]
        loss = model(**inputs).loss
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
        if step:
            for part, begin, end in zip(parts, times, times[1:], strict=False):
                parts[part].append(end - begin)
    rate = max(rates)
    limit = 3 * FORWARD_GFLOP * BATCH_SIZE / rate
    seconds = min(map(sum, zip(*parts.values(), strict=True)))
    print(f"{THREADS} threads, {rate:.0f} GFLOP/s sgemm: limit {1000 * limit:.0f} ms")
    for part, values in parts.items():
        print(f"{part:>18}: {1000 * min(values):.0f} ms")
    print(f"{'step':>18}: {1000 * seconds:.0f} ms, {seconds / limit:.2f} times the limit (target {TARGET})")


if __name__ == "__main__":
    main()
