"""Shared parts of the command-line programs: error handling, exit statuses and number arguments."""

import argparse
import contextlib
import functools
import gc
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TextIO

from huggingface_hub.errors import StrictDataclassError

from ..keywords import in_one_line
from .extras import how_to_install


STREAMS = {"standard output": "stdout", "standard error": "stderr"}
# If set, errors are shown with their traceback.
DEBUG_VARIABLE = "PSELDNETS_DEBUG"


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {first_line(message)}\n")

    def refuse(self, options: argparse.Namespace, names: Sequence[str], why: str) -> None:
        """Exit with an error (names and reason) if any of these arguments, which would be ignored, are given."""
        given = [name for name in names if getattr(options, name) != self.get_default(name)]
        if given:
            flags = {action.dest: [*action.option_strings, action.dest][0] for action in self._actions}
            self.error(f"{', '.join(flags[name] for name in given)}: {why}")


def program(
    name: str, interrupted: str = "files written so far are complete"
) -> Callable[[Callable], Callable[..., int]]:
    """Turn a function of command-line arguments, which may return a status, into the entry point of a program.

    An exception becomes one line on standard error and status 2: only its message if that explains the error
    (`ValueError`, `OSError`, a missing package), otherwise with its type. The environment variable `PSELDNETS_DEBUG`
    adds the traceback. An interrupt gives a line and status 130, a request to terminate (SIGTERM) status 143, both
    after files have been cleaned up. If its output is no longer read (`| head`), the program ends silently with status
    141, like others; output that cannot be written (a full disk) is an error.

    Args:
        name: name of the program, with which its messages begin.
        interrupted: what to print after an interrupt.
    """

    def decorate(main: Callable) -> Callable[..., int]:
        @functools.wraps(main)
        def run(arguments: Sequence[str] | None = None) -> int:
            with _signals() as signalled, _standard_streams() as failures:
                try:
                    status = main(arguments) or 0
                    _flush()
                    if failures:
                        raise failures[0]
                    return status
                except BaseException as error:
                    with contextlib.suppress(OSError):
                        _flush()
                    return _end(name, interrupted, signalled, failures[0] if failures else error)

        return run

    return decorate


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection during imports and loading, where it finds nothing and takes 5 % of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _end(name: str, interrupted: str, signalled: list[int], error: BaseException) -> int:
    """Report how a program ended and return its status; a `SystemExit` of its own is raised again."""
    if isinstance(error, OSError) and error.filename in STREAMS:
        _lead_nowhere(error.filename)
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
    # Python may have dropped the SIGTERM, which was then raised again as an interrupt.
    if signal.SIGTERM in signalled and signal.SIGINT not in signalled:
        return 128 + signal.SIGTERM
    if signal.SIGINT in signalled or isinstance(error, KeyboardInterrupt):
        return _tell(f"{name}: interrupted: {interrupted}", 130)
    if isinstance(error, SystemExit):
        raise error
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    return _tell(f"{name}: error: {describe(error)}", 2)


# Above the first length only the first line of a message is shown, up to the second: ours may hold several paths.
LONG, LONGEST = 300, 1000


def describe(error: BaseException | str) -> str:
    """Describe an error in one line: its message if that explains it, otherwise its type and message."""
    # The error for a missing distribution may have a whole message as its name.
    if isinstance(error, ModuleNotFoundError) and error.name and " " not in error.name:
        return how_to_install(error.name)
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        return first_line(": ".join([" to ".join(names), error.strerror] if names else [error.strerror]))
    if isinstance(error, StrictDataclassError):
        return describe(in_one_line(error))
    if isinstance(error, MemoryError):
        return f"not enough memory ({first_line(error)})"
    kind, text = type(error).__name__, str(error).strip()
    if "\nOriginal Traceback" in text:
        # From a worker of a DataLoader, with the actual error in the last line.
        text = text.splitlines()[-1].removeprefix(f"{kind}: ")
    message = " ".join(text.split())
    if len(message) > LONG:
        message = first_line(text)[:LONGEST]
    tells = isinstance(error, str | OSError | ValueError | ImportError | FloatingPointError)
    return message.rstrip(". ") or kind if tells else f"{kind}: {message}" if message else kind


def first_line(error: BaseException | str) -> str:
    """Return the first line of a message without its full stop, or the type of an error without a message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Callable[[str], float]:
    """Return a `type=` for an option that takes a finite number in a range."""
    return functools.partial(_read_number, float, least, most, above)


def whole_number(least: int = 0, most: float = math.inf) -> Callable[[str], int]:
    """Return a `type=` for an option that takes a whole number in a range."""
    return functools.partial(_read_number, int, least, most, -math.inf)


def _read_number(kind: type, least: float, most: float, above: float, text: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and least <= value <= most and value > above):
        low = "from" if most < math.inf else "of at least"
        bounds = [f"{low} {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"up to {most:g}"] * (most < math.inf)
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {' '.join([what, *bounds])}")
    return value


def _tell(line: str, status: int) -> int:
    """Print a line on standard error, if possible, and return the status."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _lead_nowhere("standard error")
    return status


def _flush() -> None:
    for stream in STREAMS.values():
        getattr(sys, stream).flush()


def _lead_nowhere(name: str) -> None:
    """Redirect a stream to nowhere, because Python flushes it once more at exit and would complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), getattr(sys, STREAMS[name]).fileno())


@contextlib.contextmanager
def _standard_streams() -> Iterator[list[OSError]]:
    """Redirect closed streams to nowhere and escape what cannot be encoded; yield a list of write errors."""
    for descriptor, stream in enumerate(("stdin", *STREAMS.values())):
        if getattr(sys, stream) is not None:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file to be opened would take this descriptor.
            os.open(os.devnull, os.O_RDWR)
        if descriptor:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 as long as the program
    failures: list[OSError] = []
    with contextlib.ExitStack() as stack:
        for name, stream in STREAMS.items():
            stack.enter_context(_naming(getattr(sys, stream), name, failures))
        yield failures


@contextlib.contextmanager
def _naming(stream: TextIO, name: str, failures: list[OSError]) -> Iterator[None]:
    """Name the stream in its write errors and list them, even those that the caller ignores."""
    if "write" in getattr(stream, "__dict__", {"write": None}):
        yield
        return

    def naming(method: Callable) -> Callable:
        @functools.wraps(method)
        def call(*arguments):
            try:
                return method(*arguments)
            except OSError as error:
                error.filename = name
                failures.append(error)
                raise

        return call

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    stream.write, stream.flush = naming(stream.write), naming(stream.flush)
    try:
        yield
    finally:
        del stream.write, stream.flush


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into exceptions; yield a list of the signals received, in case code drops those."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def take(number: int, _) -> None:
        came.append(number)
        # A second one terminates the program at once.
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def retry(unraisable) -> None:
        # Raised where Python drops exceptions, such as callbacks of the import system: raise it again soon after.
        if came and isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Sent to the main thread, which may be blocked: a signal to the timer's thread would not wake it.
            threading.Timer(0.02, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        elif not came:
            # After a signal, objects that it left half built may complain when they are deleted.
            earlier_hook(unraisable)

    earlier_hook, sys.unraisablehook = sys.unraisablehook, retry
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in earlier.items():
        # Keep a handler of the caller, and signals that are ignored, as with nohup and `&`.
        if handler in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, take)
    try:
        yield came
    finally:
        sys.unraisablehook = earlier_hook
        for number, handler in earlier.items():
            signal.signal(number, handler)
