"""The data that a recipe may ask for."""

import re
from dataclasses import replace
from unittest.mock import Mock

import pytest

from datasets_scripts.segments import SegmentedDataset
from modeling_pseldnet.events import Events
from training.data import check_splits, load_windows
from training.recipes import DataRecipe


def test_recordings_that_cannot_be_scored_are_named_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"mix000 has events without a distance.* dcase2023 or pseldnets"):
        train("model.distance=true", "evaluation.variant=dcase2024")
    assert not (tmp_path / "run").exists()


def test_a_metric_of_recordings_that_there_are_none_of_is_refused_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"'ov3_F' cannot be computed, .* no such recordings, only ov1, ov2"):
        train("training.metric_for_best_model=ov3_F", "training.eval_strategy=epoch")
    assert not (tmp_path / "run").exists()
    train("training.metric_for_best_model=eval_ov2_F", "training.eval_strategy=epoch", "training.num_train_epochs=1")


def test_labels_are_read_once_before_training(train, monkeypatch):
    read = []
    monkeypatch.setattr(
        SegmentedDataset, "references", lambda windows: read.append(windows) or iter([("a", Events.empty())])
    )
    train("training.metric_for_best_model=ov0_F", "training.num_train_epochs=0")
    assert len(read) == 1


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [
        ("scenes", "fraction", 0.5),
        ("scenes", "recordings", "a"),
        ("mono_clips", "hop_seconds", 1),
        ("starss23", "interference_dir", "x"),
    ],
)
def test_what_a_source_knows_nothing_of_is_refused(source, field, value):
    with pytest.raises(ValueError, match=rf"data.train.{field} \({value}\) has no effect with source {source}"):
        load_windows(DataRecipe(source=source, data_dir="x", **{field: value}), 1)


def test_sounds_that_are_split_in_two_ways_are_refused(tmp_path):
    recipe = DataRecipe("scenes", data_dir="sounds", scene_recipe=str(tmp_path / "scenes.yaml"))
    (tmp_path / "scenes.yaml").write_text("validation_fraction: 0.1")
    check_splits(recipe, replace(recipe, split="validation"))
    check_splits(DataRecipe("scenes", data_dir="others"), recipe)
    with pytest.raises(ValueError, match="would share sounds: give both a scene_recipe with the same test_fraction"):
        check_splits(DataRecipe("mono_clips", data_dir="sounds"), recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.eval.mono=true", "data.eval.mono would score directions drawn at random"),
        ("data.keep_features=true", "data.eval.keep_features has no effect: set data.train.keep_features instead"),
        (
            "data.train.mix_in={{share: 0.02, data_dir: {data}}}",
            "share 0.02 of 12 windows adds no window: increase it",
        ),
        ("data.train.mono=true", "data.train.mono: several sources overlap in 50% of the frames"),
        (
            "data.train.mix_in={{share: 0.5, data_dir: {data}, keep_features: true}}",
            "data.train.mix_in.keep_features has no effect: set data.train.keep_features",
        ),
    ],
)
def test_data_that_would_be_none_or_mean_nothing_is_refused(train, tiny_data, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(override.format(data=tiny_data))


def test_what_cannot_be_evaluated_on_is_refused_before_data_for_training_is_loaded(train, monkeypatch):
    monkeypatch.setattr("training.data.load_windows", Mock(side_effect=AssertionError))
    for override in ("mono=true", "keep_features=true", "mix_in={share: 0.5}", "source=mono_clips"):
        with pytest.raises(ValueError, match=r"data\.eval\."):
            train(f"data.eval.{override}")
    with pytest.raises(ValueError, match=r"hop_seconds must be above 0 and at most seconds \(1\), not 2"):
        train("data.eval.hop_seconds=2")
    with pytest.raises(ValueError, match="scenes of 10 s do not match windows of 1 s"):
        train("data.eval.source=scenes")
