"""What each augmentation must preserve in sounds, features and events."""

import numpy as np
import pytest
import torch

from modeling_pseldnet.ambisonics import ROTATION_PATTERNS
from modeling_pseldnet.events import Events, angle_between, direction_to_vector
from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor
from training.augmentation import (
    AugMix,
    crop,
    filter_augment,
    frequency_shift,
    place_mono,
    polyphony,
    rotation,
    spec_augment,
    take_examples,
    track_mix,
    turn,
    wav_mix,
)


NUM_FRAMES = 20
SAMPLES = NUM_FRAMES * 2400


def moving_sources(azimuths, elevations, num_sources=1):
    """Events of a batch with `num_sources` sources per example, moving by 3° per frame; frames continue across it."""
    examples = np.repeat(np.arange(len(azimuths)), NUM_FRAMES)
    frame = np.tile(np.arange(NUM_FRAMES), len(azimuths))
    parts = [
        Events(
            examples * NUM_FRAMES + frame,
            np.full(len(frame), source),
            np.full(len(frame), source),
            np.asarray(azimuths)[examples] + 3 * frame + 90 * source,
            np.asarray(elevations)[examples],
        )
        for source in range(num_sources)
    ]
    return Events.concatenate(parts).sort()


def plane_waves(events, batch_size, frame_samples=2400):
    """White noise (batch, 4, samples) from the direction of the single event of each frame, with SN3D gains."""
    vectors = np.repeat(events.sort().vector, frame_samples, axis=0)
    x, y, z = vectors.reshape(batch_size, NUM_FRAMES * frame_samples, 3).transpose(2, 0, 1)
    noise = np.random.default_rng(0).standard_normal(x.shape)
    return torch.from_numpy(np.stack([noise, noise * y, noise * z, noise * x], axis=1)).float()


def intensity(waveform):
    """Mean intensity vectors in x, y, z of each frame, (batch * frames, 3)."""
    frames = waveform.unflatten(2, (NUM_FRAMES, -1)).double()
    vector = (frames[:, :1] * frames[:, [3, 1, 2]]).mean(-1)
    return vector.transpose(1, 2).flatten(0, 1).numpy()


def by_example(events, batch_size):
    """The rows of each example as a set, with frames counted from its start."""
    columns = zip(
        events.frame.tolist(),
        events.class_id.tolist(),
        events.azimuth.tolist(),
        events.elevation.tolist(),
        strict=True,
    )
    rows = [set() for _ in range(batch_size)]
    for frame, *rest in columns:
        rows[frame // NUM_FRAMES].add((frame % NUM_FRAMES, *rest))
    return rows


@pytest.mark.parametrize("patterns", [16, 48])
def test_rotation_patterns_are_all_different_and_keep_lengths_and_angles(patterns):
    matrices = ROTATION_PATTERNS[patterns]
    assert len(np.unique(matrices, axis=0)) == len(matrices) == patterns
    np.testing.assert_array_equal(matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape))


def test_sixteen_patterns_keep_the_horizon_level():
    horizon = direction_to_vector(np.arange(0, 360, 10), np.zeros(36))
    assert np.abs((ROTATION_PATTERNS[16] @ horizon.T)[:, 2]).max() < 1e-12


@pytest.mark.parametrize("patterns", [16, 48])
def test_sound_comes_from_where_the_events_say_after_every_rotation(patterns):
    azimuths = np.random.default_rng(1).uniform(-180, 180, patterns)
    elevations = np.random.default_rng(2).uniform(-80, 80, patterns)
    events = moving_sources(azimuths, elevations)
    waveform = plane_waves(events, patterns, frame_samples=240)
    turned, moved = turn(waveform, events, NUM_FRAMES, ROTATION_PATTERNS[patterns])
    assert angle_between(intensity(turned), moved.vector).max() < 1e-3
    assert torch.equal(turned[:, 0], waveform[:, 0])
    torch.testing.assert_close(turned.square().sum(), waveform.square().sum())


def test_features_turned_are_the_features_of_sound_turned():
    events = moving_sources(np.arange(48) * 7, np.arange(48) - 20)
    waveform, extract = plane_waves(events, 48, frame_samples=240), PSELDNetFeatureExtractor().features
    turned, moved = turn(waveform, events, NUM_FRAMES, ROTATION_PATTERNS[48])
    features, moved_features = turn(extract(waveform), events, NUM_FRAMES, ROTATION_PATTERNS[48])
    torch.testing.assert_close(features, extract(turned), atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(moved_features.vector, moved.vector)


def test_rotation_turns_as_many_examples_as_its_probability_says_each_its_own_way():
    events = moving_sources(np.full(200, 40), np.full(200, 25))
    waveform = plane_waves(events, 200, frame_samples=240)
    turned, moved = rotation(waveform, events, NUM_FRAMES, patterns=48, probability=0.8)
    assert angle_between(intensity(turned), moved.vector).max() < 1e-3
    unchanged = np.isclose(moved.vector, events.vector).all(1).reshape(200, NUM_FRAMES).all(1)
    assert 20 <= unchanged.sum() <= 65
    assert len(np.unique(moved.vector[::NUM_FRAMES].round(6), axis=0)) > 40
    assert (rotation(waveform, events, NUM_FRAMES, probability=0.0)[0] == waveform).all()


def test_examples_are_taken_with_their_events():
    events = moving_sources([0, 50, 100], [0, 10, 20])[np.random.default_rng(0).permutation(60)]
    rows = by_example(take_examples(events, NUM_FRAMES, np.array([2, -1, 0, 2])), 4)
    own = by_example(events, 3)
    assert rows == [own[2], set(), own[0], own[2]]


@pytest.mark.parametrize("sources", [1, 2])
def test_wav_mix_adds_another_example_to_those_with_one_source_up_to_three_sources(sources):
    batch_size = 8
    one = moving_sources(np.arange(4) * 30, np.arange(4) * 10)
    others = moving_sources(np.arange(4) * 50 + 1, np.arange(4) * 10, sources)
    events = Events.concatenate([one, others.replace(frame=others.frame + 4 * NUM_FRAMES)])
    waveform = torch.randn(batch_size, 4, SAMPLES)
    mixed, merged = wav_mix(waveform, events, NUM_FRAMES, probability=1.0)
    before, after = by_example(events, batch_size), by_example(merged, batch_size)
    for example in range(batch_size):
        assert before[example] <= after[example]
        added = after[example] - before[example]
        single = len(before[example]) == NUM_FRAMES
        if not single:
            assert not added
            assert torch.equal(mixed[example], waveform[example])
            continue
        (partner,) = (other for other in range(batch_size) if before[other] == added)
        # The mixture consists of those two waveforms, with weights that sum to one.
        weights = torch.linalg.lstsq(
            waveform[[example, partner]].flatten(1).T.double(), mixed[example].flatten().double()
        ).solution
        assert weights.sum().item() == pytest.approx(1, abs=1e-4)
        residual = mixed[example] - weights[0] * waveform[example] - weights[1] * waveform[partner]
        assert residual.abs().max() < 1e-4
    assert polyphony(merged, NUM_FRAMES, batch_size).max() == 1 + sources


def test_mixed_sources_of_one_class_stay_apart():
    events = moving_sources([0, 100], [0, 0])
    _, merged = wav_mix(torch.randn(2, 4, SAMPLES), events, NUM_FRAMES, probability=1.0)
    assert len(merged) == 4 * NUM_FRAMES
    assert len(set(zip(merged.frame.tolist(), merged.class_id.tolist(), merged.track.tolist(), strict=True))) == len(
        merged
    )


def test_wav_mix_comes_as_often_as_its_probability_says():
    events = moving_sources([0, 100], [0, 0])
    waveform = torch.randn(2, 4, SAMPLES)
    changed = sum(len(wav_mix(waveform, events, NUM_FRAMES, probability=0.5)[1]) > len(events) for _ in range(200))
    assert 70 < changed < 130


def test_track_mix_leaves_silence_and_polyphony_alone():
    one, two = moving_sources([0, 50], [0, 10]), moving_sources([90], [20], num_sources=2)
    events = Events.concatenate([one, two.replace(frame=two.frame + 2 * NUM_FRAMES)])
    features = torch.randn(4, 7, 201, 64)
    mixed, merged = track_mix(features, events, NUM_FRAMES)
    assert polyphony(merged, NUM_FRAMES, 4).tolist() == [2, 2, 2, 0]
    assert torch.equal(mixed[2:], features[2:])
    before, after = by_example(events, 4), by_example(merged, 4)
    assert after[0] == before[0] | before[1] == after[1]


def test_spec_augment_silences_sound_and_events_together():
    batch_size = 16
    events = moving_sources(np.zeros(batch_size), np.zeros(batch_size))
    features = torch.ones(batch_size, 7, 201, 64)
    masked, heard = spec_augment(features, events, NUM_FRAMES)
    silent = (masked[:, :, :200] == 0).all(3).all(1).unflatten(1, (NUM_FRAMES, 10))
    # A label frame is silent in all of its feature frames or in none, and then it has no event.
    assert torch.equal(silent.all(2), silent.any(2))
    active = np.bincount(heard.frame, minlength=batch_size * NUM_FRAMES).reshape(batch_size, NUM_FRAMES)
    np.testing.assert_array_equal(active > 0, ~silent.all(2).numpy())
    assert 0 < silent.all(2).sum(1).max() <= 4 * 4
    dropped = (masked == 0).all(2).all(1)
    assert 0 < dropped.sum(1).max() <= 2 * 8
    assert len(masked[:, 0].flatten(1).unique(dim=0)) == batch_size
    assert set(masked.unique().tolist()) == {0.0, 1.0}


def test_crop_sets_small_boxes_to_zero_in_each_channel_by_itself():
    events = moving_sources([0, 0], [0, 0])
    cropped, kept = crop(torch.ones(2, 7, 201, 64), events, NUM_FRAMES)
    assert kept is events
    holes = (cropped == 0).flatten(2).sum(2)
    assert 0 < holes.max() <= 4 * 8 * 4
    assert not torch.equal(cropped[:, 0], cropped[:, 1])


def test_frequency_shift_moves_whole_spectra_and_reflects_them_at_the_edges():
    features = torch.arange(64.0).expand(200, 7, 3, 64)
    shifted, _ = frequency_shift(features, Events.empty(), NUM_FRAMES, probability=0.5, mel_bins=15)
    steps = shifted.diff(dim=-1)
    assert (steps.abs() == 1).all()
    assert ((steps.sign().diff(dim=-1) != 0).sum(-1) <= 1).all()
    assert torch.equal(shifted[:, 0], shifted[:, 6])
    shift = 32 - shifted[:, 0, 0, 32]
    assert 0.3 < (shift == 0).float().mean() < 0.7
    assert shift.min() >= -15
    assert shift.max() <= 15
    assert len(shift.unique()) > 15


def test_a_random_filter_colours_all_channels_alike_and_leaves_directions():
    features = torch.randn(50, 7, 21, 64)
    kept = features.clone()
    coloured, _ = filter_augment(features, Events.empty(), NUM_FRAMES, decibels=6.0, points=5)
    assert torch.equal(features, kept)
    assert torch.equal(coloured[:, 4:], features[:, 4:])
    gain = coloured[:, :4] - features[:, :4]
    torch.testing.assert_close(gain, gain[:, :1, :1].expand_as(gain), atol=1e-5, rtol=0)
    assert gain.abs().max() <= 6.0 + 1e-5
    assert gain[:, 0, 0].amax(1).mean() > 2
    assert len(gain[:, 0, 0, 0].unique()) == 50


def test_a_random_filter_on_features_is_one_on_the_sound():
    extractor = PSELDNetFeatureExtractor()
    waveform = plane_waves(moving_sources([0], [0]), 1)
    features = extractor.features(waveform)
    loud = extractor.features(2 * waveform)
    torch.manual_seed(0)
    coloured, _ = filter_augment(features, Events.empty(), NUM_FRAMES, decibels=6.0206, points=2)
    assert coloured[:, :4].max() <= loud[:, :4].max() + 1e-3
    torch.testing.assert_close(loud[:, 4:], coloured[:, 4:], atol=1e-4, rtol=0)


def test_augmix_keeps_the_batch_beside_its_augmented_copies():
    extractor = PSELDNetFeatureExtractor()
    events = moving_sources([0, 50, 100], [0, 10, 20])
    waveform = plane_waves(events, 3)
    augment = AugMix(copies=2, crop={"boxes": 4}, frequency_shift={"probability": 1.0})
    features, found = augment(waveform, events, NUM_FRAMES, extractor.features)
    plain = extractor.features(waveform)
    assert features.shape == (9, *plain.shape[1:])
    torch.testing.assert_close(features[:3], plain)
    for copy in (features[3:6], features[6:]):
        assert not torch.equal(copy, plain)
    own = by_example(events, 3)
    assert by_example(found, 9) == own * 3


def test_copies_can_stand_in_place_of_the_batch():
    events = moving_sources([0, 50, 100], [0, 10, 20])
    features = torch.randn(3, 7, 10 * NUM_FRAMES + 1, 64)
    augment = AugMix(copies=1, original=False, frequency_shift={"probability": 1.0})
    shifted, found = augment(features, events, NUM_FRAMES)
    assert shifted.shape == features.shape
    assert not torch.equal(shifted, features)
    assert by_example(found, 3) == by_example(events, 3)


def test_augmented_events_still_point_to_the_sound():
    """After rotation and mixing of waveforms, the intensity vector in the features (the last three channels, in y, z,
    x) points to the source wherever a single one is active."""
    extractor = PSELDNetFeatureExtractor()
    events = moving_sources(np.arange(8) * 40, np.arange(8) * 10 - 35)
    augment = AugMix(copies=2, rotation={"patterns": 48}, spec_augment={})
    features, found = augment(plane_waves(events, 8), events, NUM_FRAMES, extractor.features)
    vectors = features[:, 4:, :200].sum(3).unflatten(2, (NUM_FRAMES, 10)).mean(3)
    vectors = vectors.transpose(1, 2).flatten(0, 1)[:, [2, 0, 1]].double().numpy()
    assert len(found) > 8 * NUM_FRAMES
    assert angle_between(vectors[found.frame], found.vector).max() < 5


def test_all_methods_together_give_finite_features_and_at_most_three_sources():
    methods = {
        "rotation": {"patterns": 48},
        "wav_mix": {"probability": 1.0},
        "spec_augment": {},
        "crop": {},
        "frequency_shift": {},
        "filter_augment": {},
        "track_mix": {},
    }
    events = moving_sources([0, 50, 100, 150], [0, 10, 20, 30])
    features, found = AugMix(**methods)(
        plane_waves(events, 4), events, NUM_FRAMES, PSELDNetFeatureExtractor().features
    )
    assert features.isfinite().all()
    assert found.frame.max() < 12 * NUM_FRAMES
    assert 2 <= polyphony(found, NUM_FRAMES, 12).max() <= 3


def test_a_seed_gives_the_same_batch_again():
    events = moving_sources([0, 50, 100], [0, 10, 20])
    waveform = plane_waves(events, 3)
    augment = AugMix(rotation={}, wav_mix={}, spec_augment={}, crop={}, frequency_shift={}, track_mix={})
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augment(waveform, events, NUM_FRAMES, PSELDNetFeatureExtractor().features))
    assert torch.equal(results[0][0], results[1][0])
    assert by_example(results[0][1], 9) == by_example(results[1][1], 9)


def test_a_batch_without_events_is_augmented_too():
    methods = {name: {} for name in ("rotation", "wav_mix", "spec_augment", "crop", "filter_augment", "track_mix")}
    features, found = AugMix(**methods)(
        torch.randn(2, 4, SAMPLES), Events.empty(), NUM_FRAMES, PSELDNetFeatureExtractor().features
    )
    assert len(features) == 6
    assert len(found) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotate": {}}, "unknown augmentation 'rotate': choose from rotation"),
        ({"crop": {"holes": 4}}, "crop has no option 'holes': choose from boxes"),
        ({"rotation": {"patterns": 12}}, "rotation.patterns must be 16 or 48"),
        ({"rotation": {"probability": 1.5}}, r"rotation\.probability must be from 0 to 1, not 1\.5"),
        ({"spec_augment": {"time_frames": -1}}, r"spec_augment\.time_frames must be at least 0, not -1"),
        ({"filter_augment": {"points": 0}}, r"filter_augment\.points must be at least 1, not 0"),
        ({"track_mix": {"beta": 0}}, r"track_mix\.beta must be at least 0\.001, not 0"),
        ({"copies": 0, "crop": {}}, "crop would have no effect, as copies is 0"),
        ({"copies": 0, "original": False}, "original is false and copies is 0: set copies to at least 1"),
    ],
)
def test_unknown_methods_and_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AugMix(**arguments)


def test_mono_clips_sound_from_where_their_events_say_each_time_elsewhere():
    events = moving_sources(np.zeros(200), np.zeros(200))
    noise = torch.randn(200, 1, 240 * NUM_FRAMES)
    placed, located = place_mono(noise, events, NUM_FRAMES)
    assert torch.equal(placed[:, :1], noise)
    assert angle_between(intensity(placed), located.vector).max() < 1e-3
    directions = located.vector.reshape(200, NUM_FRAMES, 3)
    assert np.ptp(directions, axis=1).max() < 1e-12
    # Uniform directions on the sphere have a mean near 0, and each coordinate a variance of 1/3.
    np.testing.assert_allclose(directions[:, 0].mean(0), 0, atol=0.15)
    np.testing.assert_allclose(directions[:, 0].var(0), 1 / 3, atol=0.07)
    _, again = place_mono(noise, events, NUM_FRAMES)
    assert angle_between(again.vector, located.vector).mean() > 45


def test_mono_silence_around_an_event_has_no_direction():
    events = moving_sources([0], [0])
    events = events[(events.frame >= 5) & (events.frame < 8)]
    placed, _ = place_mono(torch.randn(1, 1, SAMPLES), events, NUM_FRAMES)
    silent = (placed[0, 1:] == 0).all(0).unflatten(0, (NUM_FRAMES, 2400)).all(1)
    assert silent.tolist() == [not 5 <= frame < 8 for frame in range(NUM_FRAMES)]
