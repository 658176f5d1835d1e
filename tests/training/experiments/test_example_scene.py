"""The program that makes the example recordings of the project."""

import dataclasses

import numpy as np
import pytest
import soundfile

from datasets_scripts.scenes.sounds import sounds_from_folder
from modeling_pseldnet.events import read_csv
from training.experiments import example_scene
from training.experiments.example_scene import RECIPE, main


@pytest.fixture
def sounds(tmp_path, write_recordings, monkeypatch):
    """A folder of two classes, with a table of licences, and scenes of two seconds."""
    folder = write_recordings(tmp_path / "sounds", ["bell", "door"])
    names = [f"{name}/{take}.wav" for name in ("bell", "door") for take in ("first", "second", "third")]
    rows = ["path\tredistributable\tattribution\tsource_collection\tlicence"]
    rows += [f"{name}\tyes\tsomebody\tmade up\tCC0 1.0" for name in names]
    (folder / "SOURCES.tsv").write_text("\n".join(rows) + "\n")
    rooms = dataclasses.replace(RECIPE.rooms, rt60=(0.1, 0.1), positions=8, paths=1)
    monkeypatch.setattr(example_scene, "RECIPE", dataclasses.replace(RECIPE, scene_seconds=2.0, rooms=rooms))
    return folder


def of_split(folder, split):
    bank = sounds_from_folder(folder, RECIPE.sampling_rate)
    numbers = bank.numbers_by_class(split, RECIPE.test_fraction, RECIPE.validation_fraction)
    return [bank.sounds[int(found[0])].name for found in numbers]


def test_every_scene_is_written_with_its_truth_and_the_credits_of_its_sounds(sounds, tmp_path, monkeypatch):
    bell, door = of_split(sounds, "test")
    two = [(bell, 0.2, -90.0, 20.0), (door, 1.0, None, 20.0)]
    monkeypatch.setattr(example_scene, "SCENES", {"one": (0, [(bell, 0.5, 90.0, 20.0)]), "two": (1, two)})
    assert not main(["--sounds", str(sounds), "--output", str(tmp_path / "made")])
    made = {name: read_csv(tmp_path / "made" / f"{name}.csv") for name in ("one", "two")}
    assert set(made["one"].frame) == {5, 6, 7, 8, 9}
    assert np.abs(made["one"].azimuth - 90).max() < 45
    assert set(made["two"].class_id) == {0, 1}
    for name in made:
        samples, rate = soundfile.read(tmp_path / "made" / f"{name}.flac")
        assert (samples.shape, rate) == ((48000, 4), 24000)
    credits = (tmp_path / "made" / "CREDITS.md").read_text()
    assert credits.count("somebody") == 2


def test_a_sound_that_was_trained_on_or_may_not_be_passed_on_is_an_error(sounds, tmp_path, monkeypatch, capsys):
    (known, _), (bell, _) = of_split(sounds, "train"), of_split(sounds, "test")
    command = ["--sounds", str(sounds), "--output", str(tmp_path / "made")]
    monkeypatch.setattr(example_scene, "SCENES", {"one": (0, [(known, 0.5, 90.0, 20.0)])})
    assert main(command)
    assert f"these sounds are not held out, or too short: {known}" in capsys.readouterr().err
    monkeypatch.setattr(example_scene, "SCENES", {"one": (0, [(bell, 0.5, 90.0, 20.0)])})
    table = sounds / "SOURCES.tsv"
    table.write_text(table.read_text().replace(f"{bell}\tyes", f"{bell}\tno"))
    assert main(command)
    assert f"{bell} may not be redistributed" in capsys.readouterr().err
    table.write_text("path\tlicence\n")
    assert main(command)
    assert f"SOURCES.tsv has no attribution of {bell}" in capsys.readouterr().err
