import copy
import io
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch

from datasets_scripts.scenes import render_torch
from datasets_scripts.scenes.recipe import EventRecipe, InterferenceRecipe, NoiseRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.render import Renderer
from datasets_scripts.scenes.render_torch import BLOCK, SceneBank, join_plans
from datasets_scripts.scenes.scene_set import Scene, SceneSet
from datasets_scripts.scenes.sounds import Sound, SoundBank


RATE = 24000
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def sounds():
    """Clips of noise in memory, 0.3 to 2.1 s long."""
    generator = np.random.default_rng(0)
    clips = [0.1 * generator.standard_normal(round((0.3 + 0.9 * (number // 2)) * RATE)) for number in range(6)]
    sounds = tuple(Sound(f"clip {n}", n % 2, f"clip {n}", 0, len(clip)) for n, clip in enumerate(clips))

    def read_clip(number):
        stream = io.BytesIO()
        soundfile.write(stream, clips[number], RATE, format="WAV", subtype="FLOAT")
        return stream.getvalue()

    return SoundBank("memory", ("hiss", "rattle"), sounds, RATE, read_clip)


def scene_set(
    sounds,
    moving=0.5,
    rotation="none",
    noise=(-60.0, -45.0),
    rt60=(0.2, 0.8),
    seconds=4.0,
    playback=(1.0, 1.0),
    interference=None,
    **more_noise,
):
    recipe = SceneRecipe(
        scene_seconds=seconds,
        rotation=rotation,
        rooms=RoomRecipe(number=2, positions=3, paths=1, path_step=0.25, rt60=rt60, size=((4, 5), (4, 5), (2.5, 3))),
        events=EventRecipe(moving=moving, gap=(0.0, 0.5), seconds=(0.2, 1.5), playback=playback),
        noise=NoiseRecipe(noise, **more_noise),
        interference=InterferenceRecipe(folder=interference, probability=1.0, gap=(0.0, 0.5)),
    )
    others = replace(sounds, class_names=("others",), sounds=tuple(replace(s, class_id=0) for s in sounds.sounds))
    return SceneSet(recipe, sounds, interference=interference and others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("array", "recipe"),
    [
        ("foa", {"moving": 0.0}),
        ("foa", {"moving": 1.0}),
        ("foa", {"moving": 0.5, "rotation": "yaw"}),
        ("foa", {"moving": 0.5, "noise": (-15.0, -12.0)}),
        ("foa", {"moving": 0.5, "noise": None, "rt60": (1.0, 1.2)}),
        ("foa", {"moving": 0.5, "playback": (0.5, 2.0)}),
        ("mic", {"moving": 0.5}),
        ("foa", {"slope": (-6.0, 0.0), "noise": (-30.0, -20.0)}),
        ("foa", {"hum": 1.0, "hum_level": (0.0, 10.0)}),
        ("mic", {"hum": 1.0, "noise": None}),
        ("foa", {"interference": "others"}),
    ],
    ids=[
        *("static", "moving", "turned", "loud", "without noise", "slower and faster", "mic"),
        *("noise of several slopes", "hum", "hum of microphones", "interference"),
    ],
)
def test_torch_renders_what_numpy_renders(sounds, device, array, recipe):
    made = scene_set(sounds, **recipe)
    scenes = [made.scene(index) for index in range(2)]
    mixtures = SceneBank(made, array, device).render(scenes).cpu().numpy()
    renderer = Renderer(made)
    for mixture, scene in zip(mixtures, scenes, strict=True):
        expected = renderer.scene(scene, array)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(mixture, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)


def test_scenes_of_a_batch_do_not_depend_on_each_other(sounds):
    bank = SceneBank(scene_set(sounds))
    scenes = [bank.scene_set.scene(index) for index in range(3)]
    batch = bank.render(scenes)
    together = bank.mix(bank.plan(scenes))
    assert torch.equal(batch[1], bank.render(scenes[1:2])[0])
    assert torch.allclose(batch, together, atol=1e-6)


def test_workers_make_ready_what_one_process_does_and_their_errors_are_its_own(sounds):
    made = scene_set(sounds, rt60=(0.2, 1.2))
    scenes = [made.scene(index) for index in range(2)]
    assert torch.equal(SceneBank(made, num_workers=2).render(scenes), SceneBank(made).render(scenes))
    impossible = scene_set(sounds, rt60=(0.01, 0.02))
    with pytest.raises(ValueError, match=r"^an RT60 of 0.02 s is impossible in a room of [^\n]*$"):
        SceneBank(impossible, num_workers=2)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_computed(sounds, monkeypatch):
    made = scene_set(sounds, rt60=(0.5, 0.5))
    responses = SceneBank(made)._responses.nbytes
    monkeypatch.setattr(type(made.room(0)), "responses", None)
    length = sum(sound.length for sound in sounds.sounds)
    for memory, message in (
        ([responses - 1], r"^responses of 2 rooms take .* GiB of memory: lower rooms\.number"),
        ([responses, 4 * length - 1], r"^6 sounds take .* GiB of memory: use fewer, or make scenes with"),
    ):
        monkeypatch.setattr(render_torch, "memory_of", Mock(side_effect=memory))
        with pytest.raises(ValueError, match=message):
            SceneBank(made)


def test_what_is_sent_to_workers_leaves_the_device_out_and_plans_all_the_same(sounds):
    bank = SceneBank(scene_set(sounds))
    bank.device = torch.device("meta")
    sent = copy.copy(bank)
    assert not hasattr(sent, "_responses")
    scenes = [bank.scene_set.scene(index) for index in range(3)]
    joined, together = join_plans([sent.plan([scene]) for scene in scenes]), bank.plan(scenes)
    assert joined.keys() == together.keys()
    assert all(torch.equal(joined[name], together[name]) for name in joined)


def test_scenes_without_events_hold_their_noise(sounds):
    made = scene_set(sounds)
    scene = Scene(index=0, room=0, noise_level=-40.0, noise_start=0.3, yaw=0.0, events=())
    np.testing.assert_allclose(SceneBank(made).render([scene])[0].numpy(), Renderer(made).scene(scene), atol=1e-6)


def test_events_may_last_beyond_a_block_and_start_anywhere(sounds):
    made = scene_set(sounds, moving=0.0)
    lengths = [event.length for index in range(4) for event in made.scene(index).events]
    assert min(lengths) < BLOCK < max(lengths)


def test_turned_scenes_of_microphones_are_refused(sounds):
    with pytest.raises(ValueError, match="rotated in FOA only"):
        SceneBank(scene_set(sounds, rotation="yaw"), "mic")
