from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader

from datasets_scripts.scenes.worker_pool import end_with_program
from tests.processes import left_of_killed


def more_than_a_pipe_holds(items: list) -> np.ndarray:
    return np.zeros(200_000)


def load_batches() -> Iterator:
    options = {"num_workers": 2, "worker_init_fn": end_with_program}
    batches = iter(DataLoader(range(10), collate_fn=more_than_a_pipe_holds, **options))
    next(batches)
    return batches


def test_workers_whose_batches_nobody_takes_end_with_a_killed_program():
    assert left_of_killed(load_batches) == []
