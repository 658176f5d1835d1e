"""Gives the programs broken inputs of every kind, each made from a seed, and counts bad responses.

    python -m tests.fuzz.fuzz --inputs 2000
    python -m tests.fuzz.fuzz --only "config.json" 17

A good response is a result, or one line on standard error and status 2; never a traceback, a hang, unbounded memory or
half a file. All inputs of a kind run in one fork of this process, which is replaced if it hangs or dies.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import soundfile
from huggingface_hub import constants

from modeling_pseldnet.events import read_csv
from tests.fuzz.inputs import KINDS, check_json, write_valid_inputs


DEADLINE_SECONDS = 60
# Memory limit in addition to what a process uses when it begins.
MEMORY = 3 * 2**30
CHECKS = {".csv": read_csv, ".json": check_json, ".flac": soundfile.info}


def answer(name: str, number: int, valid: Path, case: Path) -> tuple[int, str, str | None]:
    """Return the status, standard error, and what is bad about the response to one input, if anything."""
    kind, _ = KINDS[name]
    generator = random.Random(f"{name} {number}")
    arguments = [str(argument) for argument in kind.prepare(valid, case, generator)]
    given = {path for path in case.rglob("*") if path.is_file()}
    with caught(case.parent / "error.txt") as error:
        try:
            status = kind.program(arguments)
        except SystemExit as end:
            status = end.code
        except BaseException as raised:
            return -1, error.read_text(), f"raised {raised!r}"
    text = error.read_text(errors="replace")
    return status, text, _complaint(status, text) or _half_written(case, given)


def _complaint(status: int, text: str) -> str | None:
    errors = [line for line in text.splitlines() if re.match(r"pseldnet-\w+: error: ", line)]
    if "Traceback" in text:
        return "a traceback"
    if status not in (0, 1, 2):
        return f"status {status}"
    if (status == 2) != (len(errors) == 1):
        return f"status {status} and {len(errors)} lines of errors"
    if errors and "not enough memory" in errors[0]:
        return "took all memory"
    # The name of an error may follow its description in brackets.
    if errors and re.search(r"\b[A-Z]\w+(Error|Exception): ", re.sub(r"\(.*", "", errors[0])):
        return "an error that is not put in words"
    return None


def _half_written(case: Path, given: set[Path]) -> str | None:
    for path in case.rglob("*"):
        if path in given or not path.is_file() or "cache" in path.parts:
            continue
        if ".tmp" in path.name:
            return f"{path.name} was left"
        try:
            CHECKS.get(path.suffix, os.stat)(path)
        except Exception as error:
            return f"{path.name} is half written: {error}"
    return None


@contextlib.contextmanager
def caught(path: Path):
    """Discard standard output and redirect standard error to a file, whoever writes to them."""
    saved, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    with open(path, "w") as file, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            yield path
        finally:
            sys.stdout, sys.stderr = streams
            for descriptor, earlier in zip((1, 2), saved, strict=True):
                os.dup2(earlier, descriptor)
                os.close(earlier)


def _work(connection: Connection, name: str, numbers: list[int], valid: Path) -> None:
    # Never ask the Hub: a wrong model name simply does not exist.
    constants.HF_HUB_OFFLINE = True
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY,) * 2)
    os.chdir(valid)
    for number in numbers:
        folder = Path(tempfile.mkdtemp(dir=valid.parent))
        (folder / "case").mkdir()
        connection.send((number, *answer(name, number, valid, folder / "case")))
        shutil.rmtree(folder, ignore_errors=True)
    connection.close()


def answers(name: str, numbers: Iterable[int], valid: Path):
    """Yield for each input its number, the status, standard error, and what is bad, or `None`."""
    left = list(numbers)
    context = multiprocessing.get_context("fork")
    while left:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, name, left, valid))
        process.start()
        sender.close()
        try:
            while left and receiver.poll(DEADLINE_SECONDS):
                result = receiver.recv()
                left.remove(result[0])
                yield result
            if left:
                yield left.pop(0), -1, "", "hung"
        except EOFError:
            process.join()
            yield left.pop(0), process.exitcode, "", "died"
        finally:
            process.kill()
            process.join()


def shares(inputs: int) -> dict[str, int]:
    """Return the number of inputs of each kind."""
    total = sum(weight for _, weight in KINDS.values())
    return {name: -(-inputs * weight // total) for name, (_, weight) in KINDS.items()}


def main() -> int:
    """Print a table of kinds, inputs, and bad responses; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs=2, metavar=("KIND", "NUMBER"), help="one input, with what it was answered")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder) / "valid"
        with caught(Path(folder) / "made.txt"):
            write_valid_inputs(valid)
        if options.only:
            for answered in answers(options.only[0], [int(options.only[1])], valid):
                print(*answered, sep="\n")
            return 0
        bad_of, table = Counter(), []
        for name, count in shares(options.inputs).items():
            if name not in options.kinds:
                continue
            statuses, began = Counter(), time.monotonic()
            for number, status, text, bad in answers(name, range(options.first, options.first + count), valid):
                statuses[status] += 1
                if bad is not None:
                    bad_of[name] += 1
                    last = text.strip().splitlines()[-1:]
                    print(f"{name} {number}: {bad}: {' '.join(last)[:400]}", flush=True)
            seconds = time.monotonic() - began
            table.append(f"{name:26}{count:7}{statuses[0]:10}{statuses[2]:10}{bad_of[name]:7}{seconds:8.0f}")
            print(table[-1], flush=True)
    print(f"{'kind':26}{'inputs':>7}{'results':>10}{'refused':>10}{'badly':>7}{'s':>8}", *table, sep="\n")
    return int(bool(bad_of))


if __name__ == "__main__":
    sys.exit(main())
