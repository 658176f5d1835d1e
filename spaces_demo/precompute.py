"""Computes what the page shows of its examples before anybody asks: `python -m spaces_demo.precompute`.

It is to be run again when the model that comes with the package, or an example, is another one.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from modeling_pseldnet import DEFAULT_MODEL
from modeling_pseldnet.tools.cli import CommandParser, program
from spaces_demo.models import load_own
from spaces_demo.results import find_events, write_result


EXAMPLES = Path(__file__).with_name("example")
# What the page calls an example, by the name of its recording.
TITLES = {"scene": "Steps, a piano and drums", "band": "A band all around you"}


def fingerprint(*files: Path) -> str:
    """Tells whether files are those that something was computed from."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(recording: Path) -> tuple[Path, Path]:
    """What the result of an example depends on."""
    return recording, Path(DEFAULT_MODEL, "model.safetensors")


def precompute(recording: Path) -> Path:
    """Writes the result of an example to a folder of its name beside it, and returns that."""
    folder = recording.with_suffix("")
    folder.mkdir(exist_ok=True)
    model = load_own(DEFAULT_MODEL)
    title = TITLES.get(recording.stem, recording.stem.replace("_", " ").capitalize())
    write_result(
        model, str(recording), find_events(model, str(recording)), folder,
        title=title, made_of=fingerprint(*sources(recording)),
    )  # fmt: skip
    return folder


def examples() -> list[dict]:
    """The examples that have results: the name of the folder, and the title, that of `TITLES` in their order first."""
    found = {file.parent.name: file for file in EXAMPLES.glob("*/*.scene.json")}
    order = [name for name in TITLES if name in found] + sorted(found.keys() - TITLES.keys())
    return [{"id": name, "title": json.loads(found[name].read_text(encoding="utf-8"))["title"]} for name in order]


@program("python -m spaces_demo.precompute")
def main(arguments: Sequence[str] | None = None) -> None:
    """The program `python -m spaces_demo.precompute`."""
    CommandParser(prog="python -m spaces_demo.precompute", description=__doc__.splitlines()[0]).parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for recording in sorted(EXAMPLES.glob("*.flac")):
        print(precompute(recording))


if __name__ == "__main__":
    sys.exit(main())
