"""Kills the programs at random times, each repeatedly during the same work, and checks what is left.

    python -m tests.fuzz.kills --kills 20

After each kill, no process may be left and no file half written; in the end, the same command must finish.
"""

import argparse
import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from safetensors.torch import load_file

from datasets_scripts.scenes.synthesize import main as synthesize
from modeling_pseldnet.events import read_csv
from modeling_pseldnet.tools.predict import main as predict
from tests.fuzz.fuzz import caught
from tests.fuzz.inputs import check_json, write_valid_inputs
from tests.processes import SECONDS_TO_END, still_left
from training.train import main as train


SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
SECONDS_TO_FINISH = 300
CHECKS = {
    ".csv": read_csv,
    ".json": check_json,
    ".flac": soundfile.read,
    ".safetensors": load_file,
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".tsv": lambda path: path.read_text(),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
}
OVERRIDES = {
    "model.pretrained": "",
    "model.window_seconds": 1,
    "model.spec_size": 128,
    "model.embed_dim": 8,
    "model.depths": [1, 1, 1, 1],
    "model.num_heads": [1, 2, 4, 8],
    "training.num_train_epochs": 6,
    "training.dataloader_num_workers": 1,
    "training.disable_tqdm": True,
}


@dataclass(frozen=True)
class Work:
    """A task for a program.

    Attributes:
        program: its entry point.
        arguments: makes its arguments from the folder of valid inputs and the output folder.
        results: pattern of the files in the end, and their number.
    """

    program: Callable[[list[str]], int]
    arguments: Callable[[Path, Path], list]
    results: tuple[str, int]


def _synthesize(valid: Path, output: Path) -> list:
    options = ["--sounds", valid / "sounds", "--recipe", valid / "scenes.yaml", "--workers", 2]
    return [output / "train", "--scenes", 150, "--formats", "foa", "mic", *options]


def _predict(valid: Path, output: Path) -> list:
    return [valid / "many", "--model", valid / "model", "--output", output, "--json"]


def _train(valid: Path, output: Path) -> list:
    overrides = [f"{key}={value}" for key, value in OVERRIDES.items()]
    return [valid / "train.yaml", "--output-dir", output, "--resume", "--override", *overrides]


WORKS = {
    "pseldnet-synthesize": Work(synthesize, _synthesize, ("train/*/fold*", 450)),
    "pseldnet-predict": Work(predict, _predict, ("*.json", 40)),
    "pseldnet-train": Work(train, _train, ("predictions/**/*.csv", 1)),
}


def start(work: Work, arguments: list, errors: Path) -> int:
    """Run a program in a fork of this process, in a session of its own; return its process id."""
    if process := os.fork():
        return process
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with caught(errors):
            faulthandler.register(signal.SIGUSR1, file=2)
            try:
                status = work.program([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code
    finally:
        os._exit(status)


def end_of(process: int, seconds: float) -> int | None:
    """Return the status of a process if it ends within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def kill(work: Work, valid: Path, output: Path, number: int, seconds: float) -> tuple[bool, list[str]]:
    """Kill a program after `seconds`; return whether it had not ended yet, and what was wrong afterwards."""
    errors = output.with_name("errors.txt")
    # Left by an earlier SIGKILL; a program that is killed early has not removed it yet.
    before = set(output.rglob("*"))
    process = start(work, work.arguments(valid, output), errors)
    status = end_of(process, seconds)
    if status is not None:
        return False, [] if status == 0 else [f"status {status}: {errors.read_text()[-300:]}"]
    os.kill(process, number)
    wrong = []
    status = end_of(process, SECONDS_TO_END)
    if status is None:
        os.kill(process, signal.SIGUSR1)
        time.sleep(1)
        wrong.append(f"does not end: {errors.read_text()}")
        os.kill(process, signal.SIGKILL)
        end_of(process, SECONDS_TO_END)
    # It may have been about to end (0), or too young to handle the signal (-number).
    elif status not in (0, 128 + number, -number):
        wrong.append(f"status {status}")
    wrong += [f"process {left} is left" for left in still_left(process)]
    # Workers of a program killed by SIGKILL may print a traceback, which cannot be avoided.
    if "Traceback" in errors.read_text() and number != signal.SIGKILL:
        wrong.append(f"a traceback: {errors.read_text()[-600:]}")
    return True, wrong + half_written(output, None if number == signal.SIGKILL else before)


def is_temporary(path: Path) -> bool:
    """Whether a file, or what is in a folder, is renamed when it is complete, and may be left by a SIGKILL."""
    return ".tmp" in path.name or "_saving" in path.parts


def half_written(folder: Path, before: set[Path] | None) -> list[str]:
    """List incomplete files below a folder, and temporary ones not there `before`; None allows all, after SIGKILL."""
    wrong = []
    for path in sorted(folder.rglob("*")):
        if is_temporary(path) and before is not None and path not in before:
            wrong.append(f"{path.name} was left")
        if is_temporary(path) or not path.is_file():
            continue
        try:
            CHECKS.get(path.suffix, os.stat)(path)
        except Exception as error:
            wrong.append(f"{path.relative_to(folder)} is half written: {error}")
    return wrong


def kill_again_and_again(name: str, valid: Path, output: Path, kills: int, seed: int = 0) -> list[str]:
    """Kill a program `kills` times, then let it finish; return what was wrong."""
    work, generator, wrong, done, longest = WORKS[name], random.Random(seed), [], 0, 1.0
    while done < kills:
        number = SIGNALS[done % len(SIGNALS)]
        killed, found = kill(work, valid, output, number, generator.uniform(0, longest))
        wrong += [f"{name}, kill {done}, {number.name}: {complaint}" for complaint in found]
        done += killed or bool(found)
        longest = min(longest * 1.3, 8) if killed else longest / 2
        if not killed:
            shutil.rmtree(output, ignore_errors=True)
    status = end_of(start(work, work.arguments(valid, output), output.with_name("errors.txt")), SECONDS_TO_FINISH)
    if status != 0:
        wrong.append(f"{name}: does not finish, status {status}: {output.with_name('errors.txt').read_text()[-300:]}")
    pattern, count = work.results
    if (found := sum(not is_temporary(path) for path in output.glob(pattern))) != count:
        wrong.append(f"{name}: {found} results where {count} are right")
    return wrong + [f"{name}, in the end: {complaint}" for complaint in half_written(output, None)]


def write_inputs(valid: Path) -> None:
    """Write the inputs of the fuzzer, and a folder of recordings."""
    write_valid_inputs(valid)
    (valid / "many").mkdir()
    for number in range(40):
        shutil.copy(valid / "audio/a.wav", valid / f"many/{number}.wav")


def main() -> int:
    """Print what was wrong with each program; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each program")
    parser.add_argument("--programs", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder) / "valid"
        with caught(Path(folder) / "made.txt"):
            write_inputs(valid)
        for name in options.programs:
            output = Path(folder) / name / "output"
            output.parent.mkdir()
            wrong = kill_again_and_again(name, valid, output, options.kills, options.seed)
            print(f"{name}: {options.kills} kills, {len(wrong)} faults", *wrong, sep="\n    ", flush=True)
            bad |= bool(wrong)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
