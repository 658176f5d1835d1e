"""Worker processes that never outlive the program."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any


@contextmanager
def worker_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """Create a pool of processes that end whenever this one does, and at once if an exception leaves the block.

    Args:
        workers: number of processes.
        initializer: called once in each process, with `arguments`.
    """
    listener, speaker = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(listener, initializer, arguments))
    try:
        yield pool
    except BaseException:
        speaker.send_bytes(b"end")
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        listener.close()
        speaker.close()


def in_workers(function: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    """Yield `function(0)`, `function(1)`, … in order, from `workers` processes, or from this one if there are none.

    Raises:
        Exception: whatever the function raises.
    """
    if not workers:
        yield from map(function, range(count))
        return
    with worker_pool(min(workers, count), _keep, (function,)) as pool:
        yield from pool.map(_call_kept, range(count))


def _keep(function: Callable[[int], Any]) -> None:
    # Sending only the number for each call avoids copying what the function holds.
    _call_kept.function = function


def _call_kept(number: int) -> Any:
    return _call_kept.function(number)


def end_with_program(_worker: int | None = None, listener: Connection | None = None) -> None:
    """Make a worker end when the program is gone, or sends anything to `listener`.

    It also serves as `worker_init_fn` of a `DataLoader`, whose workers would otherwise outlive a program that is
    killed while a worker starts, or when one has made a batch larger than a pipe can hold.
    """
    # The sentinel becomes ready when the program ends.
    ends = [end for end in (multiprocessing.parent_process().sentinel, listener) if end is not None]
    threading.Thread(target=_end_when_told, args=(ends,), daemon=True).start()


def _start_worker(listener: Connection, initializer: Callable[..., None] | None, arguments: tuple) -> None:
    # Let signals end the worker at once and silently: half a scene is no loss.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    end_with_program(listener=listener)
    if initializer is not None:
        initializer(*arguments)


def _end_when_told(ends: list) -> None:
    wait(ends)
    os._exit(1)
