import numpy as np
import pytest
import soundfile
import torch

from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD, detect
from modeling_pseldnet.ambisonics import ROTATION_PATTERNS, channel_rotation, feature_rotation
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.rotation_averaging import mean_of_tracks, rotation_averaging
from tests.helpers import scattered, tiny_config


EXTRACTOR = PSELDNetFeatureExtractor()


def network(output_format: str) -> PSELDNetForSELD:
    return scattered(PSELDNetForSELD(tiny_config(output_format=output_format))).eval()


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(4, round(seconds * 24000), generator=torch.Generator().manual_seed(5))


def rotated(wave: torch.Tensor, pattern: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(channel_rotation(pattern)) @ wave


def features(wave) -> torch.Tensor:
    return EXTRACTOR(wave, sampling_rate=24000)["input_features"]


def turned_back(accdoa: torch.Tensor, pattern: np.ndarray) -> torch.Tensor:
    """Undo the rotation of vectors (batch, frames, tracks, 3, classes) by a pattern."""
    return torch.einsum("ij,bfkic->bfkjc", torch.from_numpy(pattern), accdoa)


@pytest.mark.parametrize("number", [16, 48])
def test_patterns_are_all_the_different_ways_to_swap_and_reverse_axes(number):
    patterns = ROTATION_PATTERNS[number]
    assert len({pattern.tobytes() for pattern in patterns + 0.0}) == number
    assert np.array_equal(patterns[0], np.eye(3))
    assert np.array_equal(patterns @ patterns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), patterns.shape))
    if number == 16:
        assert np.array_equal(np.abs(patterns[:, 2]), np.tile([0, 0, 1], (16, 1)))


def test_channels_turn_as_directions_do():
    x, y, z = direction_to_vector(25, 40)
    for pattern, matrix in zip(ROTATION_PATTERNS[48], channel_rotation(ROTATION_PATTERNS[48]), strict=True):
        turned_x, turned_y, turned_z = pattern @ [x, y, z]
        np.testing.assert_allclose(matrix @ [1, y, z, x], [1, turned_y, turned_z, turned_x], atol=1e-6)


def test_turned_features_are_those_of_the_turned_recording():
    wave = noise(0.5)
    patterns = ROTATION_PATTERNS[16]
    for pattern, turn in zip(patterns, feature_rotation(patterns), strict=True):
        turned = torch.einsum("ij,bjtm->bitm", torch.from_numpy(turn), features(wave))
        torch.testing.assert_close(turned, features(rotated(wave, pattern)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("output_format", "exact"), [("accdoa", 1.0), ("multi_accdoa", 0.97)])
def test_the_answer_turns_with_the_recording_whatever_the_weights(output_format, exact):
    model, wave = network(output_format), noise(0.6)
    predict = rotation_averaging(model, EXTRACTOR)
    with torch.no_grad():
        straight, plain = predict(features(wave))["accdoa"], model.predict(features(wave))["accdoa"]
        for pattern in ROTATION_PATTERNS[16][[1, 6, 11, 15]]:
            turned = features(rotated(wave, pattern))
            same = (predict(turned)["accdoa"] - turned_back(straight, pattern.T)).abs().amax((2, 3)) < 2e-5
            # With random weights, it can be a tie which of two answers is closer to the others.
            assert same.float().mean() >= exact
            assert (model.predict(turned)["accdoa"] - turned_back(plain, pattern.T)).abs().amax((2, 3)).min() > 1e-3


def answers(*tracks: list[list[float]]) -> torch.Tensor:
    """Answers of three tracks (x, y, z) for one frame and class, (answers, 1, 1, 3, 3, 1)."""
    return torch.tensor(tracks, dtype=torch.float32)[:, None, None, :, :, None]


LEFT, FRONT, NOTHING = [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]


def found(outputs: torch.Tensor) -> list[list[float]]:
    return sorted(outputs[0, 0, :, :, 0].tolist())


def test_the_order_of_tracks_makes_no_difference_to_the_mean():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 4, 5, 3, 3, 7, generator=generator)
    order = torch.rand(16, 4, 5, 3, 1, 7, generator=generator).argsort(3).expand(-1, -1, -1, -1, 3, -1)
    noisy = truth + 0.01 * torch.randn(16, 4, 5, 3, 3, 7, generator=generator)
    expected = noisy.mean(0)
    shuffled = mean_of_tracks(noisy.gather(3, order))
    distance = (shuffled[:, :, :, None] - expected[:, :, None]).square().sum(4).sqrt()
    assert distance.amin(3).max() < 1e-2
    assert distance.amin(2).max() < 1e-2


def test_the_mean_of_tracks_turns_with_them_and_prefers_no_answer_for_its_place():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(16, 2, 5, 3, 3, 7, generator=generator)
    pattern = ROTATION_PATTERNS[48][29]
    turned = torch.stack([turned_back(answer, pattern) for answer in outputs])[torch.randperm(16, generator=generator)]
    torch.testing.assert_close(mean_of_tracks(turned), turned_back(mean_of_tracks(outputs), pattern))


def test_tracks_that_stand_for_one_source_may_be_any_of_them():
    mean = mean_of_tracks(answers([LEFT, LEFT, FRONT], [FRONT, LEFT, FRONT], [FRONT, LEFT, LEFT], [LEFT, FRONT, LEFT]))
    assert found(mean) in (sorted([LEFT, LEFT, FRONT]), sorted([LEFT, FRONT, FRONT]))


def test_an_answer_that_lacks_a_source_does_not_outvote_the_others():
    mean = mean_of_tracks(answers([LEFT, LEFT, LEFT], *[[LEFT, FRONT, NOTHING]] * 3))
    assert len(found(mean)) == 3
    assert sorted(np.linalg.norm(found(mean), axis=-1).round(2)) == [0.25, 0.79, 1.0]


def test_it_works_with_overlap_and_thresholds_for_each_class_and_costs_16_passes(monkeypatch):
    model, wave = network("multi_accdoa"), noise(16)
    passes, predict = [], model.predict
    monkeypatch.setattr(model, "predict", lambda inputs: passes.append(len(inputs)) or predict(inputs))
    options = {"hop_seconds": 5, "threshold": [0.02, 0.05, 0.99], "batch_size": 2}
    events = detect(model, EXTRACTOR, (wave.numpy(), 24000), tta=True, **options)
    assert sum(passes) == 16 * 3
    assert set(events.class_id) == {0, 1}
    assert events.confidence[events.class_id == 0].min() > 0.02
    assert events.confidence[events.class_id == 1].min() > 0.05
    without_overlap = detect(model, EXTRACTOR, (wave.numpy(), 24000), tta=True, threshold=options["threshold"])
    assert len(without_overlap) != len(events) or not np.allclose(without_overlap.azimuth, events.azimuth)


def test_the_answer_to_a_real_recording_turns_with_it(real):
    samples, _ = soundfile.read(real / "starss23_clip.wav", dtype="float32", frames=24000)
    wave = torch.from_numpy(samples.T.copy())
    predict = rotation_averaging(network("accdoa"), EXTRACTOR)
    pattern = ROTATION_PATTERNS[16][9]
    with torch.no_grad():
        straight, turned = (predict(features(sound))["accdoa"] for sound in (wave, rotated(wave, pattern)))
    torch.testing.assert_close(turned, turned_back(straight, pattern.T), atol=2e-5, rtol=0)


@pytest.mark.parametrize("output_format", ["einv2", "seddoa"])
def test_outputs_that_are_no_vectors_are_refused(output_format):
    with pytest.raises(ValueError, match=f"needs accdoa or multi_accdoa outputs, not {output_format}"):
        detect(network(output_format), EXTRACTOR, (noise(1).numpy(), 24000), tta=True)


@pytest.mark.parametrize("fields", [{"num_axes": 2}, {"onscreen": True}])
def test_what_does_not_turn_with_the_sound_field_is_refused(fields):
    model = PSELDNetForSELD(tiny_config(output_format="accdoa", **fields))
    with pytest.raises(ValueError, match="needs a model with three axes and without onscreen"):
        detect(model, EXTRACTOR, (noise(1).numpy(), 24000), tta=True)


def test_features_without_ambisonics_are_refused():
    model = PSELDNetForSELD(tiny_config(num_channels=10))
    with pytest.raises(ValueError, match="needs logmel_iv features, of ambisonics, not logmel_gcc"):
        detect(model, PSELDNetFeatureExtractor(feature_type="logmel_gcc"), (noise(1).numpy(), 24000), tta=True)
