"""Seconds to score the 54 test recordings of STARSS22: `python tests/benchmarks/bench_metrics.py`."""

import time
from functools import partial

from modeling_pseldnet.events import read_csv
from modeling_pseldnet.tools.scores import seld_scores
from tests.folders import SHARED


STARSS22 = SHARED / "real" / "starss22"


def seconds(function) -> float:
    """Return the time of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    paths = sorted(STARSS22.glob("metadata_dev/dev-test-*/*.csv"))
    start = time.perf_counter()
    references = [read_csv(path) for path in paths]
    predictions = [read_csv(STARSS22 / "system_output" / path.name, "cartesian") for path in paths]
    rows = sum(map(len, (*references, *predictions)))
    print(f"reading {len(paths)} recordings, {rows} rows: {time.perf_counter() - start:.2f} s")
    for options in ({}, {"jackknife": True}, {"variant": "pseldnets", "jackknife": True}):
        taken = seconds(partial(seld_scores, references, predictions, num_classes=13, **options))
        print(f"scoring with {options}: {taken:.2f} s")
