import json
import pickle
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification

from modeling_pseldnet.tools.convert import main


def convert(arguments: list[str]) -> int:
    """Run the program and return its exit status."""
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.fixture(scope="module")
def checkpoint(values, tmp_path_factory):
    """Write the published checkpoint of a reference case, with `entries` replaced, or removed if they are `None`."""
    # Drawing the weights takes longest, so the last case is kept; it has a hundred megabytes.
    published = lru_cache(maxsize=1)(values.published_checkpoint)

    def write(name: str, compiled: bool = True, entries: dict[str, torch.Tensor | None] | None = None) -> Path:
        content = published(name, compiled=compiled)
        state = {**content["state_dict"], **(entries or {})}
        path = tmp_path_factory.mktemp("checkpoint") / f"{name}.ckpt"
        torch.save({**content, "state_dict": {key: value for key, value in state.items() if value is not None}}, path)
        return path

    return write


@pytest.mark.parametrize(
    "name", ["htsat-accdoa-13", "htsat-multi_accdoa-13", "htsat-multi_accdoa-170", "htsat-multi_accdoa-14-32k"]
)
def test_a_converted_checkpoint_gives_the_published_outputs(reference, values, checkpoint, tmp_path, name, capsys):
    case = json.loads((reference / "index.json").read_text())[name]
    rate = case["sample_rate"]
    arguments = ["--backbone", "htsat", "--output-format", case["method"], "--sampling-rate", str(rate)]
    assert convert([str(checkpoint(name)), str(tmp_path / "model"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert f"{case['num_classes']} classes; 208 entries used" in printed
    assert "17 constant entries recreated, 2 unrelated entries ignored" in printed
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    model = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "model").eval()
    assert model.num_parameters() == case["parameters"]
    waves = np.stack([values.wave(seed, 10, rate) for seed in case["wave_seeds"]])
    with torch.no_grad():
        outputs = model(**extractor(waves, sampling_rate=rate, return_tensors="pt"))
    golden = np.load(reference / f"{name}.npz")[case["method"]]
    np.testing.assert_allclose(outputs.accdoa.flatten(2).numpy(), golden, atol=1e-4)


def test_a_folder_is_complete_and_nothing_else_is_left(checkpoint, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text("".join(f"{index}\t/m/{index}\tclass {index}, or so\t10\t60.0\n" for index in range(13)))
    path = checkpoint("htsat-accdoa-13", compiled=False)
    assert convert([str(path), str(tmp_path / "out" / "m"), "--output-format", "accdoa", "--labels", str(labels)]) == 0
    names = {file.name for file in (tmp_path / "out" / "m").iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "modeling_pseldnet.py",
    }
    config = json.loads((tmp_path / "out" / "m" / "config.json").read_text())
    assert config["id2label"]["12"] == "class 12, or so"
    assert config["label2id"]["class 12, or so"] == 12
    assert set(config["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForAudioFrameClassification",
        "AutoFeatureExtractor",
    }
    card = (tmp_path / "out" / "m" / "README.md").read_text()
    assert "pipeline_tag:" in card
    assert "class 12, or so" in card
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]


def test_a_folder_that_is_there_is_kept_unless_it_is_to_be_replaced(checkpoint, tmp_path, capsys):
    path, out = str(checkpoint("htsat-accdoa-13")), tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert convert([path, str(out), "--output-format", "accdoa"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "mine.txt").exists()
    assert convert([path, str(out), "--output-format", "accdoa", "--overwrite"]) == 0
    assert not (out / "mine.txt").exists()


def test_a_checkpoint_is_not_replaced_by_what_is_made_of_it(checkpoint, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    path = shutil.copy(checkpoint("htsat-accdoa-13"), tmp_path / "runs")
    for output in (tmp_path / "runs", path):
        assert convert([str(path), str(output), "--output-format", "accdoa", "--overwrite"]) == 2
        assert "which would be replaced" in capsys.readouterr().err
    assert Path(path).is_file()


class Malicious:
    def __reduce__(self):
        import os

        return os.mkdir, ("executed",)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path, capsys, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"state_dict": {"net.x": torch.zeros(1)}, "hyper_parameters": Malicious()}, tmp_path / "evil.ckpt")
    assert convert([str(tmp_path / "evil.ckpt"), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert "could run code" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "model").exists()


HEAD, NORM = "net._orig_mod.tscam_conv.weight", "net._orig_mod.encoder.norm.weight"


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({NORM: None}, "encoder.norm.weight is missing"),
        ({NORM: torch.zeros(5)}, "encoder.norm.weight has shape (5,)"),
        ({HEAD: None}, "is missing"),
        ({HEAD: torch.zeros(40, 768, 2, 3)}, "shape (40, 768, 2, 3)"),
        ({"net._orig_mod.encoder.surprise": torch.zeros(1)}, "encoder.surprise"),
        ({"net._orig_mod.scalar.3.weight": None}, "input_norm.weight has shape (384,)"),
    ],
)
def test_an_entry_that_is_missing_misshapen_or_unknown_is_named(checkpoint, tmp_path, capsys, entries, complaint):
    path = checkpoint("htsat-accdoa-13", entries=entries)
    assert convert([str(path), str(tmp_path / "model"), "--output-format", "accdoa"]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "checkpoint"),
        ({"weights": 1}, "it has no `state_dict`"),
        ({"state_dict": {"other.x": torch.zeros(1)}}, "no entries named `net.…`"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, capsys, content, complaint):
    path = tmp_path / "file.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert convert([str(path), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_labels_must_be_as_many_as_classes(checkpoint, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("speech\nfootsteps\n")
    arguments = ["--output-format", "accdoa", "--labels", str(tmp_path / "labels.txt")]
    assert convert([str(checkpoint("htsat-accdoa-13")), str(tmp_path / "model"), *arguments]) == 2
    assert "13 classes with accdoa, but 2 labels" in capsys.readouterr().err


def test_a_loss_that_the_output_format_has_not_is_refused(tmp_path, capsys):
    arguments = ["--output-format", "accdoa", "--loss-type", "aggregated"]
    assert convert([str(tmp_path / "some.ckpt"), str(tmp_path / "model"), *arguments]) == 2
    assert "loss type aggregated applies only to einv2 and seddoa, not to accdoa" in capsys.readouterr().err


def test_a_file_gives_way_where_it_is_to_be_replaced(checkpoint, tmp_path, capsys):
    source, output = str(checkpoint("htsat-accdoa-13")), tmp_path / "model"
    output.write_text("a file")
    assert main([source, str(output), "--output-format", "accdoa"]) == 2
    assert "choose another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert main([source, str(output), "--output-format", "accdoa", "--overwrite"]) == 0
    assert (output / "config.json").is_file()


@pytest.mark.parametrize("content", [b"", b"\0", b"PK", b"\x80\x02N.", b"not a checkpoint", 3, [], {"state_dict": 1}])
def test_what_is_no_checkpoint_is_told_in_a_line(tmp_path, capsys, content):
    path = tmp_path / "some.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert main([str(path), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pseldnet-convert: error: {path}: ")
    assert error.count("\n") == 1
    torch.save({"state_dict": {"net.a": content if isinstance(content, int) else "text"}}, path)
    assert main([str(path), str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err == f"pseldnet-convert: error: {path}: the entry net.a is not a tensor\n"
