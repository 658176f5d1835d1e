import numpy as np
import pytest
import soundfile
import torch
from transformers import DataCollatorWithPadding

from modeling_pseldnet import Events, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.ambisonics import TETRAHEDRON
from modeling_pseldnet.events import angle_between, direction_to_vector
from tests.helpers import tiny_config


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


def test_features_with_gcc_phat_are_those_of_the_published_system(reference, values):
    golden = np.load(reference / "features-logmel_gcc-24000.npz")
    extractor = PSELDNetFeatureExtractor(feature_type="logmel_gcc")
    wave = values.wave(int(golden["wave_seed"]), 2)
    features = extractor(wave, sampling_rate=24000)["input_features"][0, :, golden["frames"]].numpy()
    assert len(features) == extractor.num_channels == 10
    np.testing.assert_allclose(features[:4], golden["logmel"], atol=1e-4)
    np.testing.assert_allclose(features[4:], golden["gcc"], atol=1e-5)


def noise_at_capsules(azimuth: float, elevation: float, sampling_rate: int = 24000) -> tuple[np.ndarray, np.ndarray]:
    """Noise from one direction at omnidirectional capsules 4.2 cm from their centre, and how much farther than the
    first each is from the source, in metres."""
    metres = -0.042 * TETRAHEDRON @ direction_to_vector(azimuth, elevation)
    source = np.fft.rfft(np.random.default_rng(1).standard_normal(sampling_rate))
    hertz = np.fft.rfftfreq(sampling_rate, 1 / sampling_rate)
    delayed = np.fft.irfft(source * np.exp(-2j * np.pi * hertz * metres[:, None] / 343.0))
    return delayed.astype(np.float32), metres[1:] - metres[0]


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (-135, 30), (20, -70)])
def test_gcc_phat_peaks_at_the_delay_between_two_capsules(azimuth, elevation):
    wave, metres = noise_at_capsules(azimuth, elevation)
    features = PSELDNetFeatureExtractor(feature_type="logmel_gcc")(wave, sampling_rate=24000)["input_features"][0]
    peaks = features[4:7].mean(1).argmax(-1).numpy() - 32
    assert np.abs(peaks - metres / 343.0 * 24000).max() <= 0.6


@pytest.mark.parametrize(("n_fft", "hop_length", "feature_size", "known"), [(1024, 240, 64, 15), (512, 300, 192, 42)])
@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (-135, 30), (20, -70)])
def test_salsa_lite_gives_the_differences_of_path(azimuth, elevation, n_fft, hop_length, feature_size, known):
    wave, metres = noise_at_capsules(azimuth, elevation)
    extractor = PSELDNetFeatureExtractor(feature_size, 24000, hop_length, n_fft, feature_type="salsa_lite")
    features = extractor(wave, sampling_rate=24000)["input_features"][0]
    assert features.shape == (7, 1 + 24000 // hop_length, feature_size)
    median = features[4:, :, 1:known].median(1).values.numpy()
    np.testing.assert_allclose(median, np.broadcast_to(metres[:, None], median.shape), atol=4e-3)
    assert not features[4:, :, known:].any()


def test_bands_of_salsa_lite_hold_the_level_of_their_own_frequencies():
    seconds = np.arange(24000) / 24000
    extractor = PSELDNetFeatureExtractor(feature_type="salsa_lite")
    for hertz in (1000, 4000, 8900):
        tone = np.tile(np.sin(2 * np.pi * hertz * seconds), (4, 1))
        features = extractor(tone, sampling_rate=24000)["input_features"][0]
        assert features[0].mean(0).argmax() == int(hertz / (9000 / 64))
    beyond = extractor(np.tile(np.sin(2 * np.pi * 10000 * seconds), (4, 1)), sampling_rate=24000)["input_features"]
    assert beyond[0, 0].mean(0).max() < 0


def test_log_mel_of_mono_is_that_of_a_channel_of_ambisonics():
    wave = noise_from(30, 10)
    mono = PSELDNetFeatureExtractor(feature_type="logmel")(wave[:1], sampling_rate=24000)["input_features"]
    assert mono.shape == (1, 1, 101, 64)
    torch.testing.assert_close(mono[0], PSELDNetFeatureExtractor()(wave, sampling_rate=24000)["input_features"][0, :1])


FEATURE_TYPES = [("logmel_iv", 4), ("logmel_gcc", 4), ("salsa_lite", 4), ("logmel", 1)]


@pytest.mark.parametrize(("feature_type", "audio_channels"), FEATURE_TYPES)
def test_a_model_of_any_features_takes_a_training_step(feature_type, audio_channels):
    extractor = PSELDNetFeatureExtractor(feature_type=feature_type)
    model = PSELDNetForSELD(tiny_config(num_channels=extractor.num_channels, drop_path_rate=0.0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    wave = torch.randn(2, audio_channels, 12000, generator=torch.Generator().manual_seed(0))
    labels = model.output_format.encode(Events([0, 1], [0, 1], [0, 0], [30, -90], [0, 20]), 5).expand(
        2, -1, -1, -1, -1
    )
    losses = []
    for _ in range(3):
        loss = model(**extractor(wave, sampling_rate=24000), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


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


@pytest.mark.filterwarnings("error")
def test_arrays_tensors_lists_and_batches_give_the_same():
    extractor, wave = PSELDNetFeatureExtractor(), noise_from(30, 10)
    read_only = wave.copy()
    read_only.flags.writeable = False
    expected = extractor(wave, sampling_rate=24000)["input_features"]
    for form in (
        torch.from_numpy(wave),
        wave.astype(np.float64),
        wave[None],
        [wave],
        [torch.from_numpy(wave)],
        wave.tolist(),
        wave[::-1].copy()[::-1],
        read_only,
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


@pytest.mark.parametrize(("feature_type", "audio_channels"), FEATURE_TYPES)
def test_features_have_gradients(feature_type, audio_channels):
    noise = torch.randn(1, audio_channels, 4800, generator=torch.Generator().manual_seed(0))
    waveform = noise.requires_grad_()
    PSELDNetFeatureExtractor(feature_type=feature_type).features(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    assert waveform.grad.any()


@pytest.mark.parametrize(("feature_type", "audio_channels"), FEATURE_TYPES)
def test_silence_gives_finite_features(feature_type, audio_channels):
    extractor = PSELDNetFeatureExtractor(feature_type=feature_type)
    features = extractor(np.zeros((audio_channels, 24000)), sampling_rate=24000)["input_features"]
    assert features.isfinite().all()


@pytest.mark.parametrize("feature_type", ["logmel_iv", "logmel_gcc", "salsa_lite"])
def test_a_saved_extractor_gives_the_same(tmp_path, feature_type):
    extractor = PSELDNetFeatureExtractor(sampling_rate=32000, feature_type=feature_type)
    wave = noise_from(30, 10, 0.5, 32000)
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
        (np.zeros((4, 24000)), 48000, "48000 Hz, but the model needs 24000 Hz"),
        (np.zeros((2, 24000)), 24000, r"shape \(4, samples\)"),
        (np.zeros((24000, 4)), 24000, "transposed"),
        (np.zeros(24000), 24000, r"shape \(4, samples\)"),
        (np.zeros((4, 0)), 24000, "no samples"),
        (np.zeros((0, 4, 24000)), 24000, "the batch contains no recordings"),
        (np.full((4, 24000), np.nan), 24000, "NaN"),
        (np.full((4, 24000), np.inf), 24000, "infinite"),
    ],
)
def test_audio_that_does_not_fit_is_refused(waveform, sampling_rate, complaint):
    with pytest.raises(ValueError, match=complaint):
        PSELDNetFeatureExtractor()(waveform, sampling_rate=sampling_rate)


@pytest.mark.parametrize(
    ("feature_type", "shape", "complaint"),
    [
        ("logmel_iv", (1, 100), "4 channels W, Y, Z, X of first-order ambisonics"),
        ("logmel_gcc", (2, 100), r"expected the 4 channels of a tetrahedral microphone array.*got shape \(2, 100\)"),
        ("salsa_lite", (100, 4), "tetrahedral microphone array.*transposed"),
        ("logmel", (4, 100), r"expected 1 channel of mono audio.*got shape \(4, 100\)"),
        ("logmel", (100,), r"mono.*give waveform\[None\]"),
    ],
)
def test_channels_that_do_not_fit_the_features_are_named(feature_type, shape, complaint):
    with pytest.raises(ValueError, match=complaint):
        PSELDNetFeatureExtractor(feature_type=feature_type)(np.ones(shape), sampling_rate=24000)


def test_features_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="feature_type 'mfcc' is unknown: use one of logmel_iv, logmel_gcc"):
        PSELDNetFeatureExtractor(feature_type="mfcc")
    with pytest.raises(ValueError, match="feature_size 64 is more than the 48 frequencies of an n_fft of 128"):
        PSELDNetFeatureExtractor(feature_type="salsa_lite", n_fft=128)
    with pytest.raises(TypeError, match="got an unknown argument: featur_type; did you mean feature_type"):
        PSELDNetFeatureExtractor(featur_type="salsa_lite")


def test_integers_are_scaled_by_their_type():
    extractor, wave = PSELDNetFeatureExtractor(), 0.1 * noise_from(30, 10)
    expected = extractor(wave, sampling_rate=24000)["input_features"]
    for dtype in (np.int16, np.int32):
        integers = np.round(wave.astype(np.float64) * np.iinfo(dtype).max).astype(dtype)
        for form in (integers, torch.from_numpy(integers)):
            found = extractor(form, sampling_rate=24000.0)["input_features"]
            assert (found - expected)[:, :4].abs().mean() < 0.05


def test_four_mono_clips_are_not_one_ambisonic_recording_and_huge_samples_no_audio():
    extractor, wave = PSELDNetFeatureExtractor(), noise_from(30, 10)
    with pytest.raises(ValueError, match="list of 4 1-D arrays is read as mono recordings"):
        extractor(list(wave), sampling_rate=24000)
    with pytest.raises(ValueError, match="full scale is 1"):
        extractor(wave * 2.0**31, sampling_rate=24000)


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"samplingrate": 24000}, TypeError, "unknown argument: samplingrate; did you mean sampling_rate"),
        ({"truncation": True}, TypeError, "unknown argument: truncation"),
        ({"padding": "max_length"}, ValueError, "padding 'max_length'"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(options, error, complaint):
    with pytest.raises(error, match=complaint):
        PSELDNetFeatureExtractor()(noise_from(30, 10), **options)


def test_a_collator_of_transformers_pads_frames_and_labels():
    extractor = PSELDNetFeatureExtractor()
    rows = []
    for seconds, frames in ((0.5, 5), (0.3, 3)):
        features = extractor(noise_from(30, 10, seconds), sampling_rate=24000)
        rows.append({"input_features": features["input_features"][0], "labels": torch.zeros(frames, 3, 3, 2)})
    rows[1] = {name: value.numpy() for name, value in rows[1].items()}
    batch = DataCollatorWithPadding(extractor, pad_to_multiple_of=8)(rows)
    assert batch["input_features"].shape == (2, 7, 56, 64)
    assert batch["attention_mask"].sum(1).tolist() == [51, 31]
    assert not batch["input_features"][1, :, 31:].any()
    assert batch["labels"].shape == (2, 6, 3, 3, 2)
    assert (batch["labels"][1, 3:] == -100).all()
    together = extractor.pad([extractor(noise_from(30, 10, 0.5), sampling_rate=24000) for _ in range(2)])
    assert together["input_features"].shape == (2, 7, 51, 64)


@pytest.mark.parametrize("options", [{"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 101}])
def test_a_batch_that_is_padded_further_has_the_loss_of_its_recordings(options):
    model = PSELDNetForSELD(tiny_config(window_seconds=1)).eval()
    labels = model.encode_labels(Events([0, 2], [0, 1], [0, 0], [30, -60], [0, 10]), 3)
    rows = [{"input_features": torch.randn(7, 31, 64), "labels": labels}]
    extractor = PSELDNetFeatureExtractor()
    expected, found = (model(**extractor.pad(rows, **more)).loss for more in ({}, options))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("rows", "options", "complaint"),
    [
        ([], {}, "the batch holds no recording"),
        ([{"labels": [0]}], {}, "input_features are missing"),
        ([{"input_features": torch.zeros(7, 5, 64), "name": "a"}], {}, "cannot pad name: only"),
        ([{"input_features": torch.zeros(5, 64)}], {}, "must be .channels, frames, bins."),
        ([{"input_features": torch.zeros(7, 5, 64)}], {"padding": "max_length", "max_length": 3}, "5 frames, more"),
        ([{"input_features": torch.zeros(7, 5, 64)}], {"padding": False}, "padding False"),
        ([{"input_features": torch.zeros(7, 5, 64)}], {"max_length": 9}, "padding True with max_length 9"),
    ],
)
def test_what_cannot_be_padded_is_refused(rows, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        PSELDNetFeatureExtractor().pad(rows, **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [("feature_size", "64"), ("n_fft", 10**9), ("hop_length", 0), ("sampling_rate", 1), ("padding_value", None),
     ("feature_type", ["logmel"]), ("padding_side", "left"), ("return_attention_mask", False)],
)  # fmt: skip
def test_wrong_values_in_a_preprocessor_config_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PSELDNetFeatureExtractor(**{field: value})


@pytest.mark.parametrize(
    ("feature_type", "lowest", "scale"), [("logmel_iv", 20.0, "htk"), ("logmel_gcc", 0.0, "slaney")]
)
def test_mel_filters_are_those_that_published_networks_were_trained_with(feature_type, lowest, scale):
    functional = pytest.importorskip("torchaudio.functional")
    for rate in (24000, 32000):
        filters = PSELDNetFeatureExtractor(sampling_rate=rate, feature_type=feature_type).mel_filters[0]
        expected = functional.melscale_fbanks(513, lowest, rate / 2, 64, rate, norm="slaney", mel_scale=scale)
        torch.testing.assert_close(filters, expected, atol=1e-6, rtol=0)


def test_stereo_features_tell_the_side_by_level_and_by_phase():
    extractor = PSELDNetFeatureExtractor(feature_type="stereo")
    source = 0.1 * np.random.default_rng(0).standard_normal(24000).astype(np.float32)
    louder = extractor.features(torch.from_numpy(np.stack([1.5 * source, 0.5 * source]))[None])[0]
    assert louder.shape == (5, 101, 64)
    np.testing.assert_allclose((louder[0] - louder[1]).numpy(), 20 * np.log10(3), atol=1e-2)
    # (1.5² - 0.5²) / (1.5² + 0.5²), twice their product over the same sum, and no phase difference.
    for channel, value in ((2, 0.8), (3, 0.6), (4, 0.0)):
        np.testing.assert_allclose(louder[channel].numpy(), value, atol=1e-3)
    swapped = extractor.features(torch.from_numpy(np.stack([0.5 * source, 1.5 * source]))[None])[0]
    torch.testing.assert_close(swapped[2], -louder[2], atol=1e-5, rtol=0)
    # Right lags by four samples, so left leads, unambiguously for frequencies below 3 kHz.
    later = np.roll(source, 4)
    leads, lags = (
        extractor.features(torch.from_numpy(np.stack(pair))[None])[0, 4, 10:90, 5:30].mean()
        for pair in ((source, later), (later, source))
    )
    assert leads * lags < 0
    assert abs(leads + lags) < 0.05
    silence = extractor.features(torch.zeros(1, 2, 2400))
    assert torch.isfinite(silence).all()
