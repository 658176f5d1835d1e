from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from datasets_scripts.scenes.arrays import foa_gains
from datasets_scripts.scenes.recipe import EventRecipe, NoiseRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.render import PEAK, Renderer, event_signal, noise_bank, path_weights
from datasets_scripts.scenes.scene_set import PLAYBACK_STEPS, SceneEvent, SceneSet
from datasets_scripts.scenes.sounds import sounds_from_folder
from datasets_scripts.scenes.verify import verify
from modeling_pseldnet.events import direction_to_vector


RATE = 24000
ROOMS = RoomRecipe(number=2, positions=6, paths=2, path_step=0.1, rt60=(0.2, 0.4))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for name in ("hiss", "rattle"):
        (folder / name).mkdir()
        for number in range(3):
            noise = generator.standard_normal(round((0.4 + 0.8 * number) * RATE))
            soundfile.write(folder / name / f"{number}.wav", 0.1 * noise, RATE)
    return sounds_from_folder(folder).measure()


@pytest.fixture
def make(sounds):
    def make(moving=0.0, noise=(-60.0, -45.0), seed=0, rooms=ROOMS, rotation="none", **events):
        events = {"polyphony": {2: 1.0}, "moving": moving, "gap": (0.0, 1.0), **events}
        recipe = SceneRecipe(
            scene_seconds=5.0, rotation=rotation, rooms=rooms, events=EventRecipe(**events), noise=NoiseRecipe(noise)
        )
        return SceneSet(recipe, sounds, seed)

    return make


@pytest.mark.parametrize("array", ["foa", "mic"])
def test_a_static_event_is_its_sound_convolved_with_its_response(make, array):
    made = make()
    scene = made.scene(0)
    event = scene.events[0]
    start, rendered = Renderer(made).event(scene, event, array)
    response = made.room(scene.room).responses(event.path, array)[0]
    expected = fftconvolve(event_signal(event, made.sounds.read(event.sound), RATE)[None], response, axes=1)
    scale = rendered[0] @ expected[0] / (expected[0] @ expected[0])
    assert start == event.start
    np.testing.assert_allclose(rendered, scale * expected, atol=1e-5 * np.abs(rendered).max())


@pytest.mark.parametrize("moving", [0.0, 1.0])
def test_events_have_the_asked_level_above_the_noise(make, moving):
    made = make(moving=moving, snr=(10.0, 20.0))
    renderer = Renderer(made)
    for index in range(3):
        scene = made.scene(index)
        for event in scene.events:
            _, rendered = renderer.event(scene, event)
            level = 10 * np.log10(np.sum(rendered[0].astype(float) ** 2) / event.length)
            assert level - scene.noise_level == pytest.approx(event.snr, abs=1.5)


def test_noise_alone_has_the_asked_level_and_is_diffuse(make):
    made = make(noise=(-40.0, -40.0))
    mixture = Renderer(made).scene(replace(made.scene(0), events=()))
    power = np.square(mixture).mean(axis=1)
    assert 10 * np.log10(power[0]) == pytest.approx(-40, abs=1.5)
    assert power[1:] / power[0] == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize("array", ["foa", "mic"])
def test_noise_repeats_without_a_step(array):
    """Two seconds at this rate are no product of 2, 3 and 5."""
    recipe = SceneRecipe(sampling_rate=44100, scene_seconds=1, noise=NoiseRecipe(slope=-12.0))
    bank = noise_bank(SimpleNamespace(recipe=recipe, seed_of=lambda *_: 1), array)
    steps = np.diff(bank, axis=1, append=bank[:, :1])
    assert (np.abs(steps[:, -1]) < 5 * steps.std(axis=1)).all()


def test_without_noise_and_events_a_scene_is_silent(make):
    made = make(noise=None)
    assert not Renderer(made).scene(replace(made.scene(0), events=())).any()


def test_a_scene_is_the_sum_of_its_events_and_its_noise(make):
    made = make(moving=0.5)
    renderer = Renderer(made)
    scene = made.scene(1)
    expected = renderer.scene(replace(scene, events=())).astype(float)
    for event in scene.events:
        start, part = renderer.event(scene, event)
        stop = min(start + part.shape[1], expected.shape[1])
        expected[:, start:stop] += part[:, : stop - start]
    assert np.abs(expected).max() < PEAK
    np.testing.assert_allclose(renderer.scene(scene), expected, atol=1e-6)


def test_loud_scenes_are_turned_down_rather_than_clipped(make):
    made = make(noise=(-10.0, -10.0), snr=(20.0, 20.0))
    mixture = Renderer(made).scene(made.scene(0))
    assert np.abs(mixture).max() == pytest.approx(PEAK, abs=1e-5)


def test_the_dry_mix_holds_the_sounds_themselves_at_the_levels_of_the_scene(make):
    made = make()
    scene = made.scene(0)
    scene = replace(scene, events=scene.events[:1])
    event = scene.events[0]
    dry = Renderer(made).dry(scene)
    assert dry.shape == (1, made.recipe.scene_samples)
    assert not dry[0, : event.start].any()
    assert not dry[0, event.stop :].any()
    rms = np.sqrt(np.mean(dry[0, event.start : event.stop] ** 2))
    assert rms == pytest.approx(scene.level(event.snr), rel=1e-3)


def moving_event(length=24000, progress=(0.5, 4.25)):
    return SceneEvent(0, 0, 0, 1000, length, 0, 10.0, 0, progress)


@pytest.mark.parametrize("progress", [(0.5, 4.25), (4.0, 0.0), (1.25, 1.5), (2.0, 2.0)])
def test_the_weights_of_a_path_add_up_to_one_and_fade_between_neighbours(progress):
    event = moving_event(progress=progress)
    total, centre = np.zeros(event.length), np.zeros(event.length)
    for point, (first, weights) in path_weights(event).items():
        total[first : first + len(weights)] += weights
        centre[first : first + len(weights)] += point * weights
        assert (weights >= 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-5)
    np.testing.assert_allclose(centre, np.linspace(*progress, event.length, endpoint=False), atol=1e-4)


def test_a_moving_event_keeps_its_level_on_its_way(make):
    """Cross-fades between neighbouring responses are neither louder nor softer."""
    made = make(moving=1.0, polyphony={1: 1.0}, seed=1)
    scene = made.scene(0)
    event = max(scene.events, key=lambda event: event.length)
    _, rendered = Renderer(made).event(scene, event)
    levels = [10 * np.log10(np.mean(part**2)) for part in np.array_split(rendered[0, 2400 : event.length], 12)]
    assert np.std(levels) < 2.5


def test_cut_sounds_are_faded_and_whole_sounds_are_not():
    sound = np.ones(48000, dtype=np.float32)
    whole = event_signal(moving_event(length=48000), sound, RATE)
    cut = event_signal(replace(moving_event(), offset=100), sound, RATE)
    np.testing.assert_allclose(whole, 1, rtol=1e-6)
    assert (cut[0], cut[-1]) == (0, 0)
    assert np.mean(cut**2) == pytest.approx(1)


def test_a_part_of_a_sound_in_which_it_is_silent_is_silent():
    played = event_signal(moving_event(), np.zeros(48000, dtype=np.float32), RATE)
    assert played.dtype == np.float32
    assert not played.any()


@pytest.mark.parametrize("rate", [0.75, 1.5])
def test_a_sound_played_faster_is_higher_and_shorter(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    event = replace(moving_event(length=int(len(tone) / rate)), playback=round(rate * PLAYBACK_STEPS))
    played = event_signal(event, tone, RATE)
    assert len(played) == event.length
    assert event.source_length == len(tone)
    expected = np.sqrt(2) * np.sin(2 * np.pi * 1000 * rate * np.arange(event.length) / RATE)
    np.testing.assert_allclose(played[100:-100], expected[100:-100], atol=0.02)


def test_labels_of_every_kind_of_event_point_at_its_sound(make):
    """The intensity vector of each isolated source, direct sound only, lies within a few degrees of its label."""
    made = make(moving=0.5, rotation="yaw")
    verification = verify(made, [(scene, made.labels(scene)) for scene in map(made.scene, range(4))])
    assert len(verification.direct) > 100
    assert np.median(verification.direct) < 1
    assert np.percentile(verification.direct, 95) < 5
    assert np.median(verification.reverberant) < 45
    assert verification.passed
    assert "direct sound" in str(verification)


def test_labels_that_are_mirrored_or_late_do_not_pass(make):
    made = make(moving=1.0)
    scenes = [made.scene(index) for index in range(3)]
    labels = [made.labels(scene) for scene in scenes]
    mirrored = [part.replace(azimuth=-part.azimuth) for part in labels]
    assert not verify(made, zip(scenes, mirrored, strict=True)).passed
    late = [part.replace(frame=part.frame + 1) for part in labels]
    with pytest.raises(ValueError, match="labels of scene 0 do not match its events"):
        verify(made, zip(scenes, late, strict=True))


@pytest.mark.parametrize("moving", [0.0, 1.0])
def test_measured_responses_in_the_wrong_row_or_in_n3d_do_not_pass_and_are_named(make, tmp_path, moving):
    rows = [0, 45, 90, 135, 180]
    for azimuth in rows:
        response = np.zeros((4, 480))
        response[:, 100] = foa_gains(direction_to_vector([azimuth], [0]))[:, 0]
        soundfile.write(tmp_path / f"{azimuth}.wav", response.T, RATE, subtype="FLOAT")

    def verification(azimuths):
        path = "walk" if moving else ""
        lines = [f"{file}.wav,{azimuth},0,1.5,hall,{path}" for file, azimuth in zip(rows, azimuths, strict=True)]
        (tmp_path / "responses.csv").write_text("\n".join(["file,azimuth,elevation,distance,room,path", *lines]))
        made = make(moving, rooms=RoomRecipe(measured=str(tmp_path)), polyphony={1: 1.0}, speed=(1.0, 3.0))
        return verify(made, [(scene, made.labels(scene)) for scene in map(made.scene, range(6))])

    assert verification(rows).passed
    wrong = verification([0, 45, -90, 135, 180])
    assert not wrong.passed
    assert f"wrong in room hall, path {'0, point 2' if moving else 2} (azimuth -90°, elevation 0°)" in wrong.fault
    assert wrong.fault in str(wrong)
    for azimuth in rows:
        response, _ = soundfile.read(tmp_path / f"{azimuth}.wav")
        soundfile.write(tmp_path / f"{azimuth}.wav", response * [1, *3 * [3**0.5]], RATE, subtype="FLOAT")
    assert "the responses are not SN3D" in verification(rows).fault


def test_events_that_share_a_frame_are_proved_too(make):
    made = make()
    scene = made.scene(0)
    short = [replace(scene.events[0], start=start, length=600, path=path) for path, start in enumerate((0, 700, 1500))]
    scene = replace(scene, events=tuple(short))
    assert verify(made, [(scene, made.labels(scene))]).passed


def test_late_events_are_proved_at_a_rate_whose_frames_are_no_whole_samples(sounds):
    recipe = SceneRecipe(
        sampling_rate=11025,
        scene_seconds=600,
        rooms=ROOMS,
        events=EventRecipe(polyphony={1: 1.0}, moving=0.0, gap=(20.0, 60.0), seconds=(0.2, 0.4)),
    )
    made = SceneSet(recipe, sounds_from_folder(sounds.source, 11025).measure())
    scene = made.scene(0)
    labels = made.labels(scene)
    assert labels.frame.max() > 5000
    assert len(verify(made, [(scene, labels)]).direct) == len(labels)


def test_without_events_nothing_passes_and_a_line_says_why(make):
    made = make(polyphony={0: 1.0})
    verification = verify(made, [(made.scene(0), made.labels(made.scene(0)))])
    assert not verification.passed
    assert "no events in these scenes" in str(verification)


def test_reverberation_widens_the_errors(make):
    def median_error(rt60):
        made = make(rooms=replace(ROOMS, rt60=(rt60, rt60)), seed=2)
        return np.median(
            verify(made, [(scene, made.labels(scene)) for scene in map(made.scene, range(2))]).reverberant
        )

    assert median_error(0.2) < median_error(1.5)


def test_microphones_cannot_be_turned(make):
    made = make(rotation="yaw")
    with pytest.raises(ValueError, match="rotated in FOA only"):
        Renderer(made).scene(made.scene(0), "mic")


def test_deep_image_sources_render_too(make):
    rooms = replace(ROOMS, late="images", rt60=(0.2, 0.2), number=1, positions=2, paths=0)
    made = make(rooms=rooms)
    mixture = Renderer(made).scene(made.scene(0))
    assert np.isfinite(mixture).all()
    assert mixture.any()
