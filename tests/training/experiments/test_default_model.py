"""The program that turns a training run into the model that comes with the package."""

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.axes import Axes
from safetensors.torch import load_file

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.events import Events
from modeling_pseldnet.tools.loading import load
from training.experiments import default_model
from training.experiments.default_model import THRESHOLDS, main
from training.experiments.model_card import Report, confusion, events_per_hour, false_alarms, plot_confusion
from training.recipes import read_recipe
from training.train import run


CLASSES = ["bell", "door", "rain"]
ROOMS = "rooms: {number: 1, rt60: [0.1, 0.2], positions: 3, paths: 0}"
SCENES = f"""\
scene_seconds: 1.0
test_fraction: 0.34
validation_fraction: 0.5
{ROOMS}
events: {{polyphony: {{1: 1}}, gap: [0.0, 0.2], moving: 0.0}}
"""
TINY = {"window_seconds": 1, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.fixture
def program(tmp_path, write_recordings, monkeypatch):
    """Run the program on a new model and three recordings per class."""
    write_recordings(tmp_path / "events", CLASSES)
    (tmp_path / "scenes.yaml").write_text(SCENES)
    config = PSELDNetConfig(**TINY, id2label=dict(enumerate(CLASSES)), distance=True)
    PSELDNetForSELD(config).save_pretrained(tmp_path / "run")
    PSELDNetFeatureExtractor().save_pretrained(tmp_path / "run")
    for name in ("VALIDATION_SCENES", "TEST_SCENES", "TRAINING_SCENES", "LIVELY_SCENES", "EMPTY_SCENES", "ROOMS"):
        monkeypatch.setattr(default_model, name, 4)

    def program(*more):
        main(
            [
                str(tmp_path / "run"),
                *("--sounds", str(tmp_path / "events")),
                *("--scene-recipe", str(tmp_path / "scenes.yaml")),
                *("--trained-on", "nothing at all"),
                *("--output", str(tmp_path / "made")),
                *map(str, more),
            ]
        )
        return tmp_path / "made"

    return program


def test_a_run_becomes_a_light_folder_with_thresholds_scores_and_a_picture(program):
    made = program()
    model, _ = load(str(made), "cpu")
    assert len(model.config.threshold) == len(CLASSES)
    assert all(THRESHOLDS.min() <= threshold <= THRESHOLDS.max() for threshold in model.config.threshold)
    weights = load_file(made / "model.safetensors").values()
    assert {values.dtype for values in weights if values.is_floating_point()} == {torch.float16}
    card = (made / "README.md").read_text()
    assert "trained on synthetic scenes only: nothing at all." in card
    rows = ["1 at a time", "all", "1 at a time, with `--tta`", "all, with `--tta`"]
    for row in (*rows, "all, micro average", "all, on training sounds", *CLASSES):
        assert f"\n| {row} |" in card
    assert "\n| 1.0–2.0 s (4 other scenes) |" in card
    assert "relative distance error" in card
    assert "\n| noise alone |" in card
    assert "\n| 0.65 | " in card
    assert "- Training data: the sounds in `events`, placed in rooms.\n" in card
    assert (made / "confusion.png").stat().st_size > 1000


def test_a_card_tells_of_sounds_of_no_class_and_of_another_model_in_the_same_scenes(
    program, tmp_path, write_recordings
):
    write_recordings(tmp_path / "others", ["hum"])
    config = PSELDNetConfig(**TINY, id2label={0: "cow", 1: "rain", 2: "bell"}, threshold=0.01)
    PSELDNetForSELD(config).save_pretrained(tmp_path / "before")
    PSELDNetFeatureExtractor().save_pretrained(tmp_path / "before")
    made = program("--interference", tmp_path / "others", "--beside", tmp_path / "before")
    card = (made / "README.md").read_text()
    assert "\n| out-of-class sounds, one after another, at the levels of the scenes |" in card
    assert "for the 2 classes that both models know" in card
    assert "\n| all, this model |" in card
    assert "\n| all, the previous model (3 classes) |" in card


def test_a_card_tells_what_is_heard_in_music_that_is_not_of_music_and_in_sounds_of_no_class():
    """Pianos may be heard in music, doors may not."""
    frame, class_id = np.array([0, 1, 8, 9]), np.array([0, 0, 1, 2])
    found = Events(
        frame, class_id, np.zeros(4, int), np.zeros(4), np.zeros(4), confidence=np.array([0.9, 0.6, 0.7, 1])
    )
    config = PSELDNetConfig(**TINY, id2label={0: "door", 1: "music", 2: "piano"})
    scenes = ([found], [found])
    report = Report(
        PSELDNetForSELD(config),
        scenes,
        [0.2],
        scenes,
        scenes,
        scenes,
        scene_seconds=10.0,
        usual_distance=1.0,
        unlabelled=scenes,
        music=scenes,
    )
    table = false_alarms(report)
    assert "levels of the scenes | 1080 |" in table
    assert "false alarms on out-of-class sounds, per hour: door (360), music (360), piano (360)." in table
    assert "(not counting events of musical classes) | 360 |" in table
    assert "\n| noise alone | 1080 |" in table
    assert "\n| 0.7 | 1.000 | 1080 | 360 | 1080 |" in table
    assert "\n| 0.75 | 0.667 | 720 | 360 | 720 |" in table


def test_an_event_that_pauses_or_moves_to_another_class_counts_anew():
    frame, class_id = np.array([0, 1, 2, 8, 9, 20]), np.array([0, 0, 0, 0, 0, 1])
    found = Events(frame, class_id, np.zeros(6, int), np.zeros(6), np.zeros(6))
    counted = events_per_hour([found, Events.empty()], {0: "bell", 1: "door"}, scene_seconds=10.0)
    assert counted == {"bell": 360, "door": 180}


def test_rooms_may_be_measured(program, tmp_path):
    generator = np.random.default_rng(0)
    decay = np.exp(-np.arange(4800) / 800)
    rows = ["file,azimuth,elevation,distance"]
    for azimuth in (0, 90, 180):
        response = 0.05 * decay * generator.standard_normal((4, 4800))
        response[:, 100] += [1, np.sin(np.radians(azimuth)), 0, np.cos(np.radians(azimuth))]
        soundfile.write(tmp_path / f"{azimuth}.wav", 0.5 * response.T, 24000)
        rows.append(f"{azimuth}.wav,{azimuth},0,1.5")
    (tmp_path / "responses.csv").write_text("\n".join(rows))
    rooms = f"rooms: {{measured: {tmp_path}}}"
    (tmp_path / "scenes.yaml").write_text(SCENES.replace(ROOMS, rooms))
    assert "\n| all |" in (program() / "README.md").read_text()


def test_sounds_of_other_classes_are_an_error(program, tmp_path, capsys):
    (tmp_path / "events" / "cow").mkdir()
    soundfile.write(tmp_path / "events" / "cow" / "first.wav", np.sin(np.arange(12000)), 24000)
    program()
    assert "the classes in" in capsys.readouterr().err


def test_a_model_of_other_features_is_not_scored_beside_it_and_the_run_is_not_replaced(program, tmp_path, capsys):
    config = PSELDNetConfig(**TINY, id2label=dict(enumerate(CLASSES)), sampling_rate=32000, hop_length=320)
    PSELDNetForSELD(config).save_pretrained(tmp_path / "before")
    program("--beside", tmp_path / "before")
    assert "with a sampling_rate of 24000 do not fit the model, which needs 32000" in capsys.readouterr().err
    program("--output", tmp_path / "run")
    assert "which would be replaced: give another folder" in capsys.readouterr().err
    assert load(str(tmp_path / "run"), "cpu")


def test_a_source_counts_as_the_nearest_event_within_20_degrees():
    reference = Events(np.array([0, 1, 2]), np.array([0, 0, 1]), np.zeros(3, int), np.zeros(3), np.zeros(3))
    # Frame 0: right class at 5°, wrong one at 15°; frame 1: wrong class; frame 2: an event far away.
    prediction = Events(
        np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), np.zeros(4, int), np.array([5.0, 15, 0, 90]), np.zeros(4)
    )
    shares = confusion([reference], [prediction], 2)
    np.testing.assert_allclose(shares[:2], [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_allclose(shares[2], [0, 0.25, 0])


def test_the_picture_of_what_is_reported_names_each_class_and_nothing(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "set_xticks", lambda _, places, names, **style: drawn.extend(names))
    model = PSELDNetForSELD(PSELDNetConfig(**TINY, id2label={0: "cow_bell", 1: "door"}))
    nothing = ([Events.empty()], [Events.empty()])
    plot_confusion(Report(model, nothing, [0.2], *[nothing] * 3, 10.0, 1.0), tmp_path / "confusion.png")
    assert drawn == ["cow bell", "door", "nothing"]


def test_the_next_model_starts_from_the_one_that_ships_and_learns_from_a_teacher(
    tmp_path, write_recordings, tagger, capsys
):
    (tmp_path / "scenes.yaml").write_text(SCENES.replace("scene_seconds: 1.0", "scene_seconds: 10.0"))
    write_recordings(tmp_path / "others", ["hum"])
    values = {
        "data.data_dir": write_recordings(tmp_path / "sounds", ["bell", "moo", "rain"]),
        "data.train.interference_dir": tmp_path / "others",
        "data.train.scene_recipe": tmp_path / "scenes.yaml",
        "data.eval.scene_recipe": tmp_path / "scenes.yaml",
        "data.train.scenes": 2,
        "data.eval.scenes": 1,
        "teacher.module": tagger,
        "training.max_steps": 1,
        "training.eval_strategy": "no",
        "training.save_strategy": "no",
        "training.per_device_train_batch_size": 1,
        "training.dataloader_num_workers": 0,
        "training.disable_tqdm": "true",
        "training.output_dir": tmp_path / "run",
    }
    trainer = run(read_recipe("default_model", [f"{key}={value}" for key, value in values.items()]))
    told = capsys.readouterr().out
    assert "0 unused; classes: 2 kept (bell, rain), 1 new (moo)" in told
    model, _ = load(str(tmp_path / "run"), "cpu")
    assert [len(stage.blocks) for stage in model.pseldnet.encoder.stages] == [1, 2, 5]
    assert model.config.distance
    assert trainer.distillation.teacher.num_patches == 49
