import numpy as np
import pytest
import soundfile
import torch

from modeling_pseldnet import PSELDNetFeatureExtractor
from modeling_pseldnet.events import angle_between, direction_to_vector


def noise_from(azimuth: float, elevation: float, seconds: float = 1.0, sampling_rate: int = 24000) -> np.ndarray:
    """Noise from one direction as AmbiX."""
    x, y, z = direction_to_vector(azimuth, elevation)
    source = np.random.default_rng(1).standard_normal(round(seconds * sampling_rate)).astype(np.float32)
    return np.outer([1, y, z, x], source).astype(np.float32)


def intensity_direction(features) -> np.ndarray:
    """The mean intensity vector of features (7, frames, bins), in x, y, z."""
    y, z, x = features[4:].mean(dim=(1, 2)).tolist()
    return np.array([x, y, z])


@pytest.mark.parametrize("sampling_rate", [24000, 32000])
def test_features_are_those_of_the_published_system(reference, values, sampling_rate):
    golden = np.load(reference / f"features-logmel_iv-{sampling_rate}.npz")
    extractor = PSELDNetFeatureExtractor(sampling_rate=sampling_rate)
    wave = values.wave(int(golden["wave_seed"]), 10, sampling_rate)
    features = extractor(wave, sampling_rate=sampling_rate)["input_features"][0].numpy()
    assert features.shape == tuple(golden["shape"])
    np.testing.assert_allclose(features[:, golden["frames"]], golden["values"], atol=1e-4)
    np.testing.assert_allclose(features.mean((1, 2)), golden["mean"], atol=1e-4)
    np.testing.assert_allclose(features.std((1, 2)), golden["std"], atol=1e-4)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (-135, 30), (20, -70)])
def test_the_intensity_vector_points_to_the_source(azimuth, elevation):
    features = PSELDNetFeatureExtractor()(noise_from(azimuth, elevation), sampling_rate=24000)["input_features"][0]
    assert angle_between(intensity_direction(features), direction_to_vector(azimuth, elevation)) < 0.1


def test_the_intensity_vector_of_a_real_recording_points_to_its_label_and_turns_with_it(real):
    waveform, sampling_rate = soundfile.read(real / "tau2019_split1_ir0_ov1_1.wav", dtype="float32")
    extractor = PSELDNetFeatureExtractor(sampling_rate=sampling_rate, hop_length=480)
    cough = waveform.T[:, int(0.366 * sampling_rate) :]
    direction = intensity_direction(extractor(cough, sampling_rate=sampling_rate)["input_features"][0])
    assert angle_between(direction, direction_to_vector(-10, -10)) < 10
    w, y, z, x = cough
    turned = intensity_direction(extractor(np.stack([w, x, z, -y]), sampling_rate=sampling_rate)["input_features"][0])
    assert angle_between(turned, [-direction[1], direction[0], direction[2]]) < 1e-3


def test_arrays_tensors_lists_and_batches_give_the_same():
    extractor, wave = PSELDNetFeatureExtractor(), noise_from(30, 10)
    expected = extractor(wave, sampling_rate=24000)["input_features"]
    for form in (
        torch.from_numpy(wave),
        wave.astype(np.float64),
        wave[None],
        [wave],
        [torch.from_numpy(wave)],
        wave.tolist(),
    ):
        torch.testing.assert_close(extractor(form, sampling_rate=24000)["input_features"], expected)
    as_numpy = extractor(wave, sampling_rate=24000, return_tensors="np")["input_features"]
    assert isinstance(as_numpy, np.ndarray)


def test_a_shorter_recording_is_padded_and_masked_and_keeps_its_own_features():
    extractor = PSELDNetFeatureExtractor()
    long, short = noise_from(30, 10, 2.0), noise_from(-30, 10, 1.2)
    both = extractor([long, short], sampling_rate=24000)
    assert both["input_features"].shape == (2, 7, 201, 64)
    assert both["attention_mask"].sum(1).tolist() == [201, 121]
    alone = extractor(short, sampling_rate=24000)["input_features"][0]
    torch.testing.assert_close(both["input_features"][1, :, :121], alone)
    assert not both["input_features"][1, :, 121:].any()


def test_features_have_gradients():
    waveform = torch.from_numpy(noise_from(30, 10, 0.2))[None].requires_grad_()
    PSELDNetFeatureExtractor().features(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    assert waveform.grad.any()


def test_silence_gives_finite_features():
    features = PSELDNetFeatureExtractor()(np.zeros((4, 24000)), sampling_rate=24000)["input_features"]
    assert features.isfinite().all()


def test_a_saved_extractor_gives_the_same(tmp_path):
    extractor, wave = PSELDNetFeatureExtractor(sampling_rate=32000), noise_from(30, 10, 0.5, 32000)
    extractor.save_pretrained(tmp_path)
    loaded = PSELDNetFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.hop_length == 320
    assert torch.equal(
        loaded(wave, sampling_rate=32000)["input_features"], extractor(wave, sampling_rate=32000)["input_features"]
    )


@pytest.mark.parametrize("num_samples", [1, 100, 512, 513])
def test_very_short_recordings_have_a_frame(num_samples):
    features = PSELDNetFeatureExtractor()(np.ones((4, num_samples)), sampling_rate=24000)
    assert features["input_features"].isfinite().all()


@pytest.mark.parametrize(
    ("waveform", "sampling_rate", "complaint"),
    [
        (np.zeros((4, 24000)), 48000, "48000 Hz and the model takes 24000 Hz"),
        (np.zeros((2, 24000)), 24000, r"shape \(4, samples\)"),
        (np.zeros((24000, 4)), 24000, "transposed"),
        (np.zeros(24000), 24000, r"shape \(4, samples\)"),
        (np.zeros((4, 0)), 24000, "no samples"),
        (np.full((4, 24000), np.nan), 24000, "NaN"),
        (np.full((4, 24000), np.inf), 24000, "infinite"),
    ],
)
def test_audio_that_does_not_fit_is_refused(waveform, sampling_rate, complaint):
    with pytest.raises(ValueError, match=complaint):
        PSELDNetFeatureExtractor()(waveform, sampling_rate=sampling_rate)
