"""Computes the results of the page's examples in advance: `python -m spaces_demo.precompute`.

Run it again when the default model or an example changes.
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
# Titles of examples on the page, by the name of the recording.
TITLES = {"scene": "Steps, a piano and drums", "band": "A band all around you"}


def fingerprint(*files: Path) -> str:
    """Hash files, to check later whether a result was computed from them."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def sources(recording: Path) -> tuple[Path, Path]:
    """Return the files that the result of an example depends on."""
    return recording, Path(DEFAULT_MODEL, "model.safetensors")


def precompute(recording: Path) -> Path:
    """Write the result of an example to a folder of the same name beside it, and return the folder."""
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
    """List the folder names and titles of examples with results, those of `TITLES` first, in their order."""
    found = {file.parent.name: file for file in EXAMPLES.glob("*/*.scene.json")}
    order = [name for name in TITLES if name in found] + sorted(found.keys() - TITLES.keys())
    return [{"id": name, "title": json.loads(found[name].read_text(encoding="utf-8"))["title"]} for name in order]


@program("python -m spaces_demo.precompute")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `python -m spaces_demo.precompute`."""
    CommandParser(prog="python -m spaces_demo.precompute", description=__doc__.splitlines()[0]).parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for recording in sorted(EXAMPLES.glob("*.flac")):
        print(precompute(recording))


if __name__ == "__main__":
    sys.exit(main())
