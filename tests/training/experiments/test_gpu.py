"""The program for one GPU, tried with the smallest network on a CPU."""

import re

import soundfile

from modeling_pseldnet.tools.loading import load
from tests.training.experiments.test_default_model import SCENES, TINY
from training.experiments import gpu
from training.experiments.gpu import main


def test_sounds_are_packed_and_a_table_and_a_model_are_made(tmp_path, write_recordings, tagger, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "REPEATS", 1)
    (tmp_path / "scenes.yaml").write_text(SCENES)
    sounds = write_recordings(tmp_path / "sounds", ["bell", "cow"])
    (sounds / "SOURCE_IDS.tsv").write_text("path\tsource_id\tsplit\nbell/first.wav\tone\ttrain\n")
    assert main(["pack", str(sounds), str(tmp_path / "packed")]) == 0
    assert soundfile.info(tmp_path / "packed/bell/first.ogg").subtype == "OPUS"
    assert "bell/first.ogg\tone\ttrain\n" in (tmp_path / "packed/SOURCE_IDS.tsv").read_text()
    overrides = [
        "model.pretrained=",
        *(f"model.{name}={value}" for name, value in TINY.items()),
        "model.spec_size=128",
        f"data.train.scene_recipe={tmp_path / 'scenes.yaml'}",
        f"data.eval.scene_recipe={tmp_path / 'scenes.yaml'}",
        "data.train.scenes=4",
        "data.eval.scenes=1",
        f"teacher.module={tagger}",
        "training.per_device_train_batch_size=2",
        "training.dataloader_num_workers=0",
        "training.disable_tqdm=true",
    ]
    output = tmp_path / "out"
    arguments = ["run", str(tmp_path / "packed"), "--output", str(output), "--updates", "1"]
    assert main([*arguments, "--only", "training", "table", "--override", *overrides]) == 0
    assert "1 updates of 2 scenes each" in capsys.readouterr().out
    table = (output / "table.md").read_text()
    for what in (
        "rendering a scene, cpu",
        "features",
        "answers",
        "loading",
        "training step per view, 4 at a time",
        "prediction",
    ):
        assert what in table
    too_short = ["run", str(tmp_path / "packed"), "--output", str(tmp_path / "short"), "--minutes", "0.1"]
    assert main([*too_short, "--only", "training", "--override", *overrides]) == 2
    assert re.search(r"no time is left to train, \d+ s too little: increase --minutes\n$", capsys.readouterr().err)
    model, _ = load(str(output / "model"), "cpu")
    assert list(model.config.id2label.values()) == ["bell", "cow"]


def test_sounds_are_not_packed_over_themselves(tmp_path, write_recordings, capsys):
    sounds = write_recordings(tmp_path / "sounds", ["bell"])
    files = {path: path.read_bytes() for path in sounds.rglob("*.*")}
    for folder in (sounds, sounds / "packed"):
        assert main(["pack", str(sounds), str(folder)]) == 2
        assert "where the sounds are read from: choose another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sounds.rglob("*.*")} == files
