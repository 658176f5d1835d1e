import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from datasets_scripts.scenes.recipe import EventRecipe, NoiseRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.scene_set import PLAYBACK_STEPS, SceneSet, is_same_bank, position_at, scene_set_from_dict
from datasets_scripts.scenes.sounds import Sound, SoundBank
from modeling_pseldnet.events import angle_between, vector_to_direction


RATE = 24000
CLASSES = ("bark", "bell", "door", "piano")


def bank(seconds=(0.5, 1.0, 2.0, 4.0), recordings=6):
    """A bank without audio: class c's sounds last `seconds[c]`."""
    sounds = tuple(
        Sound(f"{CLASSES[c]}/{n}.wav", c, f"{CLASSES[c]}{n}", 0, round(seconds[c] * RATE))
        for c in range(len(CLASSES))
        for n in range(recordings)
    )
    return SoundBank("memory", CLASSES, sounds, RATE, str)


def scene_set(seed=0, split="all", sounds=None, rooms=None, **events):
    rooms = {"number": 3, "positions": 12, "paths": 4, **(rooms or {})}
    recipe = SceneRecipe(scene_seconds=20.0, rooms=RoomRecipe(**rooms), events=EventRecipe(**events))
    return SceneSet(recipe, sounds or bank(), seed, split)


def test_a_scene_depends_on_recipe_seed_and_number_alone():
    first, second = scene_set(), scene_set()
    forwards = [first.scene(index) for index in range(6)]
    assert [second.scene(index) for index in reversed(range(6))] == forwards[::-1]
    assert pickle.loads(pickle.dumps(first)).scene(3) == forwards[3]
    assert scene_set(seed=1).scene(3).events != forwards[3].events
    assert len({scene.events for scene in forwards}) == 6


def test_a_manifest_gives_the_same_scenes():
    made = scene_set(polyphony={2: 1.0, 3: 1.0}, moving=0.3)
    told = json.loads(json.dumps(made.describe()))
    again = scene_set_from_dict(told, bank(seconds=(1, 1, 1, 1)))
    assert again.recipe == made.recipe
    assert [again.scene(index) for index in range(4)] == [made.scene(index) for index in range(4)]


def test_a_manifest_of_other_sounds_is_refused():
    with pytest.raises(ValueError, match="not those that these scenes were made from"):
        scene_set_from_dict(json.loads(json.dumps(scene_set().describe())), bank(recordings=5))


def test_a_manifest_keeps_the_splits_that_a_table_fixed():
    plain = bank()
    fixed = replace(plain, sounds=(replace(plain.sounds[0], split="test"), *plain.sounds[1:]))
    made = scene_set(split="train", sounds=fixed)
    told = json.loads(json.dumps(made.describe()))
    assert [scene_set_from_dict(told, plain).scene(n) for n in range(3)] == [made.scene(n) for n in range(3)]
    assert not is_same_bank(told["sounds"], scene_set(split="train").describe()["sounds"])
    earlier = {**told["sounds"], "files": [file[:5] for file in told["sounds"]["files"]]}
    assert is_same_bank(earlier, told["sounds"])


@pytest.mark.parametrize("polyphony", [0, 1, 2, 3])
def test_no_more_events_sound_together_than_asked_and_sometimes_as_many(polyphony):
    made = scene_set(polyphony={polyphony: 1.0}, gap=(0.0, 1.0))
    overlaps = np.concatenate([np.bincount(made.labels(made.scene(index)).frame) for index in range(10)])
    assert overlaps.max(initial=0) == polyphony


def test_events_of_a_track_do_not_overlap_and_lie_within_scene_and_sound():
    made = scene_set()
    for index in range(20):
        scene = made.scene(index)
        for event in scene.events:
            assert event.start >= 0
            assert event.stop <= made.recipe.scene_samples
            assert 0 <= event.offset <= made.sounds.sounds[event.sound].length - event.length
            assert made.sounds.sounds[event.sound].class_id == event.class_id
            others = [other for other in scene.events if other.track == event.track and other is not event]
            assert all(other.stop <= event.start or event.stop <= other.start for other in others)


def same_class_overlaps(made, scenes):
    """Count pairs of simultaneous events: those of the same class, and all."""
    pairs = Counter()
    for index in range(scenes):
        events = made.scene(index).events
        for event in events:
            for other in events:
                if other.track < event.track and other.start < event.stop and event.start < other.stop:
                    pairs[event.class_id == other.class_id] += 1
                    assert event.sound != other.sound
    return pairs[True], pairs.total()


def test_simultaneous_events_share_a_class_as_often_as_asked():
    never, _ = same_class_overlaps(scene_set(same_class=0.0, polyphony={3: 1.0}), 10)
    often, total = same_class_overlaps(scene_set(same_class=1.0, polyphony={2: 1.0}), 10)
    assert never == 0
    assert often > 0.5 * total > 5


def test_sounds_that_are_not_measured_are_refused():
    unmeasured = replace(bank(), sounds=tuple(replace(sound, stop=0) for sound in bank().sounds))
    with pytest.raises(ValueError, match="the sounds of memory are not measured"):
        scene_set(sounds=unmeasured)


def test_where_no_event_fits_the_next_is_tried_a_frame_later(monkeypatch):
    made = scene_set(polyphony={2: 1}, same_class=0, classes=["piano"], seconds=(0, 8), gap=(0, 0), moving=0)
    tried, draw = [], made._draw_event
    monkeypatch.setattr(made, "_draw_event", lambda *given: tried.append(given[3]) or draw(*given))
    made.scene(0)
    assert len(tried) < 300


def test_simultaneous_events_keep_apart():
    made = scene_set(polyphony={2: 1.0}, separation=25.0, rooms={"positions": 40, "paths": 8})
    angles = []
    for index in range(10):
        labels = made.labels(made.scene(index))
        frames, counts = np.unique(labels.frame, return_counts=True)
        pairs = [np.flatnonzero(labels.frame == frame) for frame in frames[counts == 2]]
        angles += [angle_between(labels.vector[a], labels.vector[b]) for a, b in pairs]
    assert len(angles) > 100
    assert np.mean(np.array(angles) >= 24) > 0.97


@pytest.mark.parametrize("balance", ["events", "seconds"])
def test_classes_are_balanced_in_events_or_in_seconds(balance):
    made = scene_set(class_balance=balance, polyphony={1: 1.0}, gap=(0.0, 0.5))
    events = [event for index in range(60) for event in made.scene(index).events]
    weights = [1 if balance == "events" else event.length for event in events]
    totals = np.bincount([event.class_id for event in events], weights)
    assert totals / totals.mean() == pytest.approx(1, abs=0.35)


def test_events_may_be_of_some_classes_alone_and_keep_the_numbers_of_all():
    made = scene_set(classes=["door", "bell"], polyphony={2: 1.0})
    assert {event.class_id for index in range(10) for event in made.scene(index).events} == {1, 2}
    assert {made.sounds.sounds[number].class_id for number in made.sound_numbers()} == {1, 2}
    with pytest.raises(ValueError, match=r"events\.classes: memory has no class cat, cow"):
        scene_set(classes=["door", "cow", "cat"])
    # Other classes need no sounds.
    few = bank()
    few = replace(few, sounds=tuple(sound for sound in few.sounds if sound.class_id or sound.recording == "bark0"))
    assert scene_set(split="test", sounds=few, classes=["door", "bell"]).scene(0)
    with pytest.raises(ValueError, match="class 'bark'"):
        scene_set(split="test", sounds=few)


@pytest.mark.parametrize(("balance", "share"), [("sounds", 0.75), ("recordings", 0.25)])
def test_sounds_or_recordings_of_a_class_are_drawn_equally_often(balance, share):
    """Nine of the twelve sounds are takes of one of the four recordings."""
    names = ["many"] * 9 + ["one", "two", "three"]
    sounds = tuple(Sound(f"{n}.wav", 0, name, 0, RATE) for n, name in enumerate(names))
    bells = SoundBank("memory", ("bell",), sounds, RATE, str)
    made = scene_set(sounds=bells, polyphony={1: 1.0}, gap=(0.0, 0.0), sound_balance=balance)
    drawn = [names[event.sound] for index in range(30) for event in made.scene(index).events]
    assert drawn.count("many") / len(drawn) == pytest.approx(share, abs=0.08)


def test_sounds_are_played_at_rates_of_the_recipe_and_last_accordingly():
    made = scene_set(playback=(0.5, 1.5), seconds=(0.4, 3.0), polyphony={1: 1.0})
    events = [event for index in range(40) for event in made.scene(index).events]
    rates = np.array([event.playback for event in events]) / PLAYBACK_STEPS
    assert rates.min() < 0.6
    assert rates.max() > 1.4
    for event, rate in zip(events, rates, strict=True):
        whole = made.sounds.sounds[event.sound].length
        left = made.recipe.scene_samples - event.start
        assert event.length == pytest.approx(min(whole / rate, 3 * RATE, left), abs=1)
        assert 0 <= event.offset <= whole - event.source_length
        assert event.length >= 0.4 * RATE or event.stop == made.recipe.scene_samples


def test_train_and_test_scenes_share_no_recording_and_no_room():
    train, test = scene_set(split="train"), scene_set(split="test")

    def recordings(made):
        events = [event for index in range(30) for event in made.scene(index).events]
        return {made.sounds.sounds[event.sound].recording for event in events}

    assert recordings(train).isdisjoint(recordings(test))
    assert not np.allclose(train.room(0).size, test.room(0).size)


def test_moving_events_move_at_the_asked_speed_and_static_ones_stay():
    made = scene_set(moving=0.5, speed=(0.5, 1.0))
    kinds = Counter()
    for index in range(10):
        scene = made.scene(index)
        for event in scene.events:
            start, end = position_at(made.room(scene.room), event, [event.start, event.stop])
            speed = np.linalg.norm(end - start) / (event.length / RATE)
            assert speed <= 1.001
            path = made.room(scene.room).paths[event.path]
            kinds[len(path) > 1] += 1
            assert (speed > 0) == (len(path) > 1)
            if 0 < event.progress[0] < len(path) - 1 and len(path) > 1:
                steps = abs(event.progress[1] - event.progress[0]) * np.linalg.norm(path[1] - path[0])
                assert steps / (event.length / RATE) == pytest.approx(0.75, abs=0.26) or speed < 0.5
    assert 0.3 < kinds[True] / kinds.total() < 0.7


def test_labels_follow_a_moving_event_frame_by_frame():
    made = scene_set(moving=1.0, polyphony={1: 1.0})
    scene = made.scene(0)
    event = max(scene.events, key=lambda event: event.length)
    labels, numbers = made.labels_by_event(scene)
    labels = labels[numbers == scene.events.index(event)]
    assert labels.frame[0] == round(event.start / RATE / 0.1)
    assert len(labels) == pytest.approx(event.length / RATE / 0.1, abs=1)
    middles = (labels.frame + 0.5) * 0.1 * RATE
    positions = position_at(made.room(scene.room), event, middles)
    azimuth, elevation = vector_to_direction(positions)
    assert labels.azimuth == pytest.approx(azimuth)
    assert labels.elevation == pytest.approx(elevation)
    assert labels.distance == pytest.approx(np.linalg.norm(positions, axis=1))
    assert (np.diff(labels.frame) == 1).all()


def test_even_the_shortest_event_has_a_frame():
    made = scene_set(sounds=bank(seconds=(0.03,) * 4), seconds=(0.01, 8.0))
    scene = made.scene(0)
    assert len(scene.events) > 3
    _, numbers = made.labels_by_event(scene)
    assert (np.bincount(numbers) == 1).all()


def test_a_frame_has_one_row_of_a_layer_and_class_that_of_its_longest_event():
    made = scene_set(sounds=bank(seconds=(0.03,) * 4), seconds=(0.01, 8.0), gap=(0.0, 0.02), polyphony={2: 1.0})
    scene = made.scene(0)
    labels = made.labels(scene)
    rows = set(zip(labels.frame, labels.class_id, labels.track, strict=True))
    assert len(rows) == len(labels) < len(scene.events)


def test_a_scene_turned_by_an_angle_has_labels_turned_by_it():
    made = scene_set()
    scene = made.scene(0)
    still, turned = made.labels(scene), made.labels(replace(scene, yaw=170.0))
    assert (turned.azimuth <= 180).all()
    assert (turned.azimuth > -180).all()
    assert np.cos(np.radians(turned.azimuth - still.azimuth - 170)) == pytest.approx(1)


def test_rotation_and_noise_are_drawn_as_the_recipe_says():
    recipe = SceneRecipe(rotation="yaw", noise=NoiseRecipe(level=(-50.0, -40.0)))
    scenes = [SceneSet(recipe, bank()).scene(index) for index in range(5)]
    assert len({scene.yaw for scene in scenes}) == 5
    assert all(-50 <= scene.noise_level <= -40 for scene in scenes)
    silent = SceneSet(replace(recipe, rotation="none", noise=NoiseRecipe(level=None)), bank()).scene(0)
    assert (silent.yaw, silent.noise_level) == (0.0, None)


def test_the_level_of_an_event_is_its_snr_above_the_noise():
    scene = scene_set().scene(0)
    event = scene.events[0]
    assert 20 * np.log10(scene.level(event.snr)) == pytest.approx(scene.noise_level + event.snr)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="seed must be 0 or above"):
        scene_set(seed=-1)
    with pytest.raises(ValueError, match=r"class 'bark' has no sound of at least 0\.6 s"):
        scene_set(seconds=(0.6, 8.0))
    with pytest.raises(ValueError, match="sounds are at 24000 Hz, the recipe at 32000 Hz"):
        SceneSet(SceneRecipe(sampling_rate=32000), bank())
