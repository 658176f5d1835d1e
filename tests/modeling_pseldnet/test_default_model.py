"""The model that comes with the package, as it is shipped."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from datasets_scripts.scenes.recipe import read_scene_recipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import sounds_from_folder
from modeling_pseldnet import DEFAULT_MODEL, detect
from modeling_pseldnet.ambisonics import channel_rotation
from modeling_pseldnet.events import angle_between, direction_to_vector
from modeling_pseldnet.tools.loading import load
from spaces_demo.first_run import SCENE
from training.windows import RenderedScenes


@pytest.fixture(scope="module")
def default():
    return load()


def test_it_is_small(default):
    model, _ = default
    assert model.num_parameters() <= 6e6
    assert (Path(DEFAULT_MODEL) / "model.safetensors").stat().st_size <= 12e6
    assert all(parameter.dtype.itemsize == 4 for parameter in model.parameters())


def test_its_card_tells_the_scores_and_the_threshold_of_each_class(default):
    model, _ = default
    card = (Path(DEFAULT_MODEL) / "README.md").read_text()
    labels = model.config.id2label.values()
    assert len(model.config.threshold) == len(labels) == 48
    for label, threshold in zip(labels, model.config.threshold, strict=True):
        assert any(line.startswith(f"| {label} |") and f"| {threshold:.2f} |" in line for line in card.splitlines())
    assert (Path(DEFAULT_MODEL) / "confusion.png").is_file()


def test_it_runs_in_a_pipeline():
    records = pipeline("sound-event-localization-and-detection", model=DEFAULT_MODEL)(str(SCENE))
    assert {record["label"] for record in records} & {"plucked_string", "bell", "drum", "wind_instrument", "water"}


def test_silence_and_diffuse_noise_have_no_events(default):
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.standard_normal((4, 240000)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, spectrum.shape[1] + 1)), 240000)
    # In a field of equal power from all directions, Y, Z and X each have a third of the power of W.
    pink *= np.array([[1.0], *[[3**-0.5]] * 3]) * 10 ** (-50 / 20) / pink.std()
    assert len(detect(*default, (np.zeros((4, 240000)), 24000))) == 0
    assert len(detect(*default, (pink, 24000))) == 0


def test_speech_in_a_real_room_is_speech(default, real):
    events = detect(*default, real / "starss23_clip.wav")
    labels = {default[0].config.id2label[class_id] for class_id in events.class_id.tolist()}
    assert labels <= {"male_speech", "female_speech"}
    assert len(np.unique(events.frame)) >= 40


def test_a_cough_which_is_none_of_its_classes_is_taken_for_none_of_them(default, real):
    assert len(detect(*default, real / "tau2019_split1_ir0_ov1_1.wav")) == 0


@pytest.fixture(scope="module")
def held_out_scenes(events_folder, default):
    """Ten scenes (4, samples) with sounds and rooms held out from training."""
    recipe = read_scene_recipe("default_model_48")
    recipe = dataclasses.replace(recipe, rooms=dataclasses.replace(recipe.rooms, number=2))
    sounds = sounds_from_folder(events_folder, recipe.sampling_rate)
    shares = recipe.test_fraction, recipe.validation_fraction
    # The many other sounds are not used, so they need not be measured.
    heard = set(np.concatenate(sounds.numbers_by_class("test", *shares, recipe.events.classes)))
    measured = (sounds.measured(number) if number in heard else sound for number, sound in enumerate(sounds.sounds))
    sounds = dataclasses.replace(sounds, sounds=tuple(measured))
    assert list(sounds.class_names) == list(default[0].config.id2label.values())
    scenes = RenderedScenes(SceneSet(recipe, sounds, seed=1, split="test"), 10)
    return [scenes[number]["waveform"] for number in range(len(scenes))]


def test_recordings_turned_by_90_degrees_give_events_turned_by_90_degrees(default, held_out_scenes):
    model, extractor = default
    quarter = channel_rotation(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    errors, count = [], 0
    for waveform in held_out_scenes:
        events, turned = (
            detect(model, extractor, (mixing @ waveform, extractor.sampling_rate)) for mixing in (np.eye(4), quarter)
        )
        expected = direction_to_vector(events.azimuth + 90, events.elevation)
        for row in range(len(events)):
            same = (turned.frame == events.frame[row]) & (turned.class_id == events.class_id[row])
            if same.any():
                errors.append(angle_between(turned[same].vector, expected[row][None]).min())
        count += len(events)
    assert len(errors) > 0.6 * count > 100
    assert np.median(errors) < 8
