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
    """A pool of processes that end with this one, whatever ends it, and at once where an exception leaves the block.

    Args:
        workers: how many.
        initializer: called once in each, with `arguments`.
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
    """function(0), function(1), … in order, from so many processes, or with none from this one.

    Raises:
        Exception: what the function raises.
    """
    if not workers:
        yield from map(function, range(count))
        return
    with worker_pool(min(workers, count), _keep, (function,)) as pool:
        yield from pool.map(_call_kept, range(count))


def _keep(function: Callable[[int], Any]) -> None:
    # With the number alone to be sent, what the function holds is not copied for each call.
    _call_kept.function = function


def _call_kept(number: int) -> Any:
    return _call_kept.function(number)


def end_with_program(_worker: int | None = None, listener: Connection | None = None) -> None:
    """Has a worker end when the program is no longer there, or sends anything to a listener.

    As `worker_init_fn` of a `DataLoader`, whose workers else outlive a program that is killed while one begins, or
    when one has made a batch of more than a pipe holds.
    """
    # The sentinel closes with the program.
    ends = [end for end in (multiprocessing.parent_process().sentinel, listener) if end is not None]
    threading.Thread(target=_end_when_told, args=(ends,), daemon=True).start()


def _start_worker(listener: Connection, initializer: Callable[..., None] | None, arguments: tuple) -> None:
    # Signals end it at once and in silence: half a scene is no loss.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    end_with_program(listener=listener)
    if initializer is not None:
        initializer(*arguments)


def _end_when_told(ends: list) -> None:
    wait(ends)
    os._exit(1)
