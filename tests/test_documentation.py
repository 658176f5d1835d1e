"""Every Python block, command and file in README.md and docs/*.md works as described, on small data."""

import glob
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.font_manager  # noqa: F401 before the home folder is another, where its cache would be made anew
import numpy as np
import pytest
import soundfile

from modeling_pseldnet import Events, PSELDNetForSELD, write_csv
from modeling_pseldnet.ambisonics import TETRAHEDRON
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from tests.helpers import scattered, tiny_config
from tests.notebook import NOTEBOOK, PAGE, to_notebook


ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RATE = 24000

# Commands that are not run, by pattern, and why; their options and targets are only looked up.
NOT_RUN = {
    r"^make ": "installs packages, or is the tests themselves",
    r"pip install": "installs packages",
    r"^pseldnet-demo": "serves a page until it is stopped; test_app.py runs it",
    r"^pseldnet-convert --published \S+-": "downloads a published checkpoint; test_published.py runs it",
    r"^pseldnet-convert .*\.ckpt": "takes a published checkpoint; test_convert.py runs it",
    r"^hf upload|\.push_to_hub\(": "uploads to the Hub",
    r"^arecord ": "takes a microphone: what follows the pipe is run on samples",
}
# Replacements that make runs small.
SMALLER = {
    r"--scenes \d+": "--scenes 1",
    r"^(pseldnet-synthesize (?!.*--recipe).*)": r"\1 --recipe small_scenes.yaml",
    r"--workers \d+": "--workers 1",
    r"num_proc=\d+": "num_proc=1",
    r"num_train_epochs=\d+": "num_train_epochs=1, disable_tqdm=True",
    r"\bscenes: \d+": "scenes: 4",
    r"\bnumber: \d+": "number: 2",
    r"\bpositions: \d+": "positions: 4",
    r"^(pseldnet-train \S+)": r"\1 --override training.num_train_epochs=1 training.per_device_train_batch_size=2"
    " training.dataloader_num_workers=0 training.disable_tqdm=true",
}


def read_blocks(document: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, language, file name (after the language) and text of each fenced block."""
    pattern = r"^```(\w+)(?: +(\S+))?\n(.*?)^```$"
    text = document.read_text(encoding="utf-8")
    found = list(re.finditer(pattern, text, re.MULTILINE | re.DOTALL))
    assert text.count("```") == 2 * len(found), f"{document.name}: a block is indented, or says no language"
    for match in found:
        yield text[: match.start(3)].count("\n") + 1, match[1], match[2] or "", match[3]


def read_commands(text: str) -> list[str]:
    """Return the commands of a bash block, with continued lines joined."""
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if shlex.split(line, comments=True)]


def reason_not_to_run(text: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, text, re.MULTILINE)), None)


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


def programs() -> dict[str, str]:
    """The module of each program that the package installs."""
    return dict(re.findall(r'^(\S+) = "([\w.]+):main"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))


def expand(word: str) -> list[str]:
    """Expand a word as a shell does."""
    word = os.path.expanduser(word)
    return sorted(glob.glob(word)) or [word]


def run_command(command: str) -> None:
    """Run a command in this process."""
    name, *words = shlex.split(smaller(command), comments=True)
    assert name in programs(), f"{command}: what is {name}?"
    try:
        status = importlib.import_module(programs()[name]).main([part for word in words for part in expand(word)])
    except SystemExit as stopped:
        status = stopped.code
    assert status in (0, None), f"{command}: status {status}"


def look_up(command: str, capsys) -> None:
    """Check the parts of a command that is not run: targets, extras, options."""
    name, *words = shlex.split(command, comments=True)
    if name == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif extras := re.findall(r"\.\[([\w,]+)\]", command):
        listed = (ROOT / "pyproject.toml").read_text()
        assert all(re.search(rf"^{extra} = \[", listed, re.MULTILINE) for extra in extras[0].split(",")), command
    elif name in programs():
        with pytest.raises(SystemExit):
            importlib.import_module(programs()[name]).main(["--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in words if word.startswith("--")), command


def noise(seconds: float, *gains: float) -> np.ndarray:
    """Make noise (samples, channels) with the given gain for each channel."""
    source = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return 0.1 * np.outer(source, gains)


def plane_wave(seconds: float, azimuth: float, elevation: float) -> np.ndarray:
    x, y, z = direction_to_vector(azimuth, elevation)
    return noise(seconds, 1, y, z, x)


def write(path: str, samples: np.ndarray, subtype: str | None = None) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype=subtype)


def write_labelled(audio: str, labels: str, seconds: float) -> None:
    """Write a recording of a source in front, and its labels."""
    write(audio, plane_wave(seconds, 0, 0))
    frame = np.arange(round(10 * seconds))
    Path(labels).parent.mkdir(parents=True, exist_ok=True)
    write_csv(labels, Events(frame, *[np.zeros(len(frame))] * 4))


@pytest.fixture
def small_data(tmp_path, monkeypatch):
    """A working and home folder with small versions of everything the documentation mentions."""
    import datasets
    import evaluate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    Path("small_scenes.yaml").write_text("scene_seconds: 5\nrooms: {positions: 4, paths: 1}\n")

    model = scattered(PSELDNetForSELD(tiny_config(depths=[1, 1], num_heads=[1, 2]))).eval()
    save_hub_folder(model, "pseldnet-htsat", model_card(model.config, "test"))
    write("recording.wav", plane_wave(2, 90, 0))
    for room in (1, 2):
        name = f"fold4_room{room}_mix001"
        write_labelled(f"recordings/{name}.wav", f"metadata_dev/{name}.csv", 2)
    for split, fold in (("train", 3), ("test", 4)):
        name = f"dev-{split}-sony/fold{fold}_room1_mix001"
        write_labelled(f"STARSS23/foa_dev/{name}.wav", f"STARSS23/metadata_dev/{name}.csv", 2)
    for name in ("dog", "door", "speech"):
        for recording in ("one", "two", "three"):
            write(f"sounds/{name}/{recording}.wav", noise(0.5, 1))
    for name, direction in (("front", (0, 0)), ("left", (90, 0)), ("above", (0, 90)), ("back_right", (-140, 20))):
        write(f"{name}.wav", plane_wave(1, *direction))
        response = plane_wave(0.02, *direction) * np.exp(-np.arange(480) / 20)[:, None]
        write(f"responses/{name}.wav", response, "FLOAT")
    write("capsules.wav", noise(1, *(0.5 + 0.5 * TETRAHEDRON @ [1, 0, 0])))
    (plane_wave(2, 0, 0) * 32767).astype("<i2").tofile("samples.raw")
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_everything_in_the_documentation_runs(document, small_data, monkeypatch, capsys):
    names = {"__name__": document.stem}
    for number, language, file, text in read_blocks(document):
        where = f"{document.relative_to(ROOT)}, line {number}"
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(smaller(text))
        elif language == "bash":
            for line in read_commands(text):
                *before, command = line.split(" | ")
                assert all(map(reason_not_to_run, before)), f"{where}: what is {before}?"
                if reason_not_to_run(command):
                    look_up(command, capsys)
                    continue
                with open("samples.raw") as samples:
                    monkeypatch.setattr(sys, "stdin", samples)
                    run_command(command)
        elif language == "python":
            code = compile("\n" * (number - 1) + smaller(text), str(document), "exec")
            if not reason_not_to_run(text):
                exec(code, names)
        else:
            assert language in ("text", "bibtex"), f"{where}: what is {language}?"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_page_installs_what_its_programs_take(document):
    takes = {"pseldnet-train": "train", "pseldnet-synthesize": "synth"}
    bash = [text for _, language, _, text in read_blocks(document) if language == "bash"]
    programs = {command.split()[0] for text in bash for command in read_commands(text)}
    lists = re.findall(r'`(?:pip install -e )?"\.\[([\w,]+)\]"`', document.read_text(encoding="utf-8"))
    assert {takes[name] for name in programs & takes.keys()} <= set(",".join(lists).split(","))


def test_the_notebook_is_the_page():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook == to_notebook(PAGE.read_text(encoding="utf-8")), "write it anew: python -m tests.notebook"
    code = ["".join(cell["source"]).strip() for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code == [text.strip() for _, language, _, text in read_blocks(PAGE) if language == "python"]


def test_the_list_of_what_is_not_run_holds_nothing_else():
    texts = [text for document in DOCUMENTS for _, _, _, text in read_blocks(document)]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, text, re.MULTILINE) for text in texts)] == []
