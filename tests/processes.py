"""Processes that a test starts and kills."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path


SECONDS_TO_END = 30


def processes_of(session: int) -> list[int]:
    """List the running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def still_left(session: int, seconds: float = SECONDS_TO_END) -> list[int]:
    """Return the processes of a session that do not end within `seconds`, and kill them."""
    until = time.monotonic() + seconds
    while processes_of(session) and time.monotonic() < until:
        time.sleep(0.05)
    left = processes_of(session)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left


def start_program(main: Callable[[Sequence[str]], int], arguments: Sequence[str], errors: Path) -> ForkProcess:
    """Run a program in a process and a session of its own, which need not import it again; errors go to a file."""

    def run() -> None:
        os.setsid()
        # Tests that run in the background ignore interrupts, which children inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stderr = errors.open("w")
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def left_of_killed(begin: Callable[[], object]) -> list[int]:
    """Fork a program, kill it once `begin` has returned, and return the processes that are left of it."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.setsid()
            kept = begin()  # noqa: F841
            os.write(writer, b"begun")
            signal.pause()
        finally:
            os._exit(70)
    os.close(writer)
    begun = os.read(reader, 5)
    os.close(reader)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    left = still_left(process, 5)
    assert begun == b"begun"
    return left
