"""Worker processes that never outlive the program."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import Connection, wait
from typing import Any


def in_workers(function: Callable[[Any], Any], jobs: Sequence, workers: int, in_order: bool = True) -> Iterator[Any]:
    """Yield what a function returns for each job, from `workers` processes, or from this one alone if that is below 2.

    The processes end whenever this one does, and at once if an exception leaves the generator or it is closed.

    Args:
        function: each process gets one copy of it, so it may hold much.
        jobs: what it is called with.
        workers: number of processes, at most one per job.
        in_order: whether to yield in the order of the jobs, rather than as they finish.

    Raises:
        Exception: whatever the function raises.
        BrokenProcessPool: a worker died.
    """
    workers = min(workers, len(jobs))
    if workers < 2:
        yield from map(function, jobs)
        return
    listener, speaker = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(listener, function))
    try:
        if in_order:
            yield from pool.map(_work, jobs)
        else:
            for future in as_completed([pool.submit(_work, job) for job in jobs]):
                yield future.result()
    except BaseException:
        speaker.send_bytes(b"end")
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        listener.close()
        speaker.close()


def _work(job: Any) -> Any:
    return _work.function(job)


def end_with_program(_worker: int | None = None, listener: Connection | None = None) -> None:
    """Make a worker end when the program is gone, or sends anything to `listener`.

    It also serves as `worker_init_fn` of a `DataLoader`, whose workers would otherwise outlive a program that is
    killed while a worker starts, or when one has made a batch larger than a pipe can hold.
    """
    # The sentinel becomes ready when the program ends.
    ends = [end for end in (multiprocessing.parent_process().sentinel, listener) if end is not None]
    threading.Thread(target=_end_when_told, args=(ends,), daemon=True).start()


def _start_worker(listener: Connection, function: Callable[[Any], Any]) -> None:
    # Let signals end the worker at once and silently: half a scene is no loss.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    end_with_program(listener=listener)
    _work.function = function


def _end_when_told(ends: list) -> None:
    wait(ends)
    os._exit(1)
