"""How programs end; each runs in a process of its own, as nothing else shows that."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from modeling_pseldnet.tools import cli


PROGRAM = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {str(Path(cli.__file__).parents[2])!r})
from modeling_pseldnet.tools.cli import CommandParser, program

@program("some-program", interrupted="nothing is lost")
def main(arguments=None):
    BODY

sys.exit(main())
"""


def run(body: str, before: str = "", **options) -> subprocess.CompletedProcess:
    code = before + PROGRAM.replace("BODY", "\n    ".join(body.splitlines()))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", code], text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('the file is no file\\n of its kind. ')", "the file is no file of its kind"),
        ("open('/none/there')", "/none/there: No such file or directory"),
        ("os.rename('/none/a', '/none/b')", "/none/a to /none/b: No such file or directory"),
        ("import pyroomacoustics_", "the package pyroomacoustics_ is missing: pip install pyroomacoustics_"),
        (
            "raise ModuleNotFoundError('', name='gradio.blocks')",
            "the package gradio is missing: pip install 'pseldnets[demo]'",
        ),
        ("raise ModuleNotFoundError('fast>=2 is required', name='fast>=2 is required')", "fast>=2 is required"),
        ("{}['key']", "KeyError: 'key'"),
        ("raise MemoryError", "not enough memory (MemoryError)"),
        ("raise RuntimeError", "RuntimeError"),
        ("CommandParser(prog='some-program').parse_args(['--none'])", "unrecognized arguments: --none"),
    ],
)
def test_an_error_is_one_line_and_status_2(body, line):
    ended = run(body)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"some-program: error: {line}\n")


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int):
        raise ValueError("cannot read the sound hiss.wav")


def test_an_error_in_a_worker_is_told_as_one_outside():
    with pytest.raises(ValueError, match="Original Traceback") as raised:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert cli.describe(raised.value) == "cannot read the sound hiss.wav"


def test_what_to_do_is_told_after_long_paths_and_of_a_long_message_of_several_lines_the_first():
    path = "/data/" + "folder/" * 20
    ours = f"{path}: holds a model for {path}: write its name in {path}config.json"
    assert cli.describe(ValueError(ours)) == ours
    assert cli.describe(ValueError("no such model.\n" + "many details\n" * 40)) == "no such model"


def test_where_an_error_came_from_is_shown_on_request():
    ended = run("{}['key']", env={**os.environ, "PSELDNETS_DEBUG": "1"})
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("some-program: error: KeyError: 'key'\n")


def test_a_status_is_that_of_the_program():
    assert run("print('done')").returncode == 0
    assert run("return 2").returncode == 2
    assert run("sys.exit(0)").returncode == 0


@pytest.mark.parametrize(
    "body",
    [
        "signal.raise_signal(signal.SIGINT)",
        "try:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    raise RuntimeError('of a library')",
        # Python ignores exceptions raised in a destructor.
        "class Dropping:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n"
        "Dropping()\ntime.sleep(20)",
        "class HalfBuilt:\n    def __init__(self):\n        signal.raise_signal(signal.SIGINT)\n"
        "    def __del__(self):\n        self.whole\nHalfBuilt()",
    ],
    ids=["plain", "taken for an error", "dropped", "half built"],
)
def test_an_interrupt_is_one_line_and_status_130_at_once(body):
    begun = time.monotonic()
    ended = run(body)
    assert (ended.returncode, ended.stderr) == (130, "some-program: interrupted: nothing is lost\n")
    assert time.monotonic() - begun < 15


def test_a_request_to_end_is_met_after_cleaning_up(tmp_path):
    body = f"try:\n    signal.raise_signal(signal.SIGTERM)\nfinally:\n    open({str(tmp_path / 'clean')!r}, 'w')"
    ended = run(body)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, "")
    assert (tmp_path / "clean").exists()


@pytest.mark.parametrize("body", ["print('lines ' * 40000)", "print('a line')", "print('a', flush=True)"])
def test_output_that_nobody_reads_ends_a_program_in_silence(body):
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(body, stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "body", ["print('lines ' * 40000)", "print('a line')", "CommandParser().parse_args(['--help'])"]
)
def test_output_that_cannot_be_written_is_an_error(body):
    with open("/dev/full", "w") as full:
        ended = run(body, stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == "some-program: error: standard output: No space left on device\n"


def test_closed_streams_do_no_harm(tmp_path):
    body = f"print('a line')\nwith open({str(tmp_path / 'file')!r}, 'w') as file:\n    print('text', file=file)"
    command = [sys.executable, "-c", PROGRAM.replace("BODY", "\n    ".join(body.splitlines()))]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], timeout=60)
    assert closed.returncode == 0
    assert (tmp_path / "file").read_text() == "text\n"


def test_whatever_is_printed_can_be_encoded():
    ended = run("print('20°', os.fsdecode(b'name\\xff'))", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stdout) == (0, "20\\xb0 name\\udcff\n")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (cli.number(above=0), "nan", "'nan' is not a number above 0"),
        (cli.number(above=0), "0", "'0' is not a number above 0"),
        (cli.number(), "inf", "'inf' is not a number"),
        (cli.whole_number(1, 9), "0", "'0' is not a whole number from 1 up to 9"),
        (cli.whole_number(), "1.5", "'1.5' is not a whole number of at least 0"),
    ],
)
def test_options_take_numbers_that_make_sense(kind, text, message):
    with pytest.raises(cli.argparse.ArgumentTypeError) as raised:
        kind(text)
    assert str(raised.value) == message
    assert (cli.number(above=0)("0.5"), cli.whole_number(1)("3")) == (0.5, 3)
