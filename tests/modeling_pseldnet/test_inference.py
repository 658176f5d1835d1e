from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor

from modeling_pseldnet import DataCollatorForSELD, PSELDNetFeatureExtractor, PSELDNetForSELD, detect, detect_stream
from modeling_pseldnet.ambisonics import a_to_b_format
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import Events, angle_between
from modeling_pseldnet.format_accdoa import ACCDOAFormat
from modeling_pseldnet.inference import Window, average_overlaps, decode_windows, detect_each, fast_dtype
from modeling_pseldnet.output_formats import get_output_format
from modeling_pseldnet.tools.export import to_exported_program
from modeling_pseldnet.tools.predict import parse_arguments
from tests.helpers import scattered, tiny_config


@pytest.fixture(scope="module")
def model(hub_folder):
    return PSELDNetForSELD.from_pretrained(hub_folder)


@pytest.fixture(scope="module")
def extractor(hub_folder):
    return AutoFeatureExtractor.from_pretrained(hub_folder)


def noise(seconds: float, sampling_rate: int = 24000) -> np.ndarray:
    return 0.1 * np.random.default_rng(5).standard_normal((4, round(seconds * sampling_rate))).astype(np.float32)


def same(first, second) -> bool:
    columns, others = first.columns(), second.columns()
    return len(first) == len(second) and all(np.allclose(columns[name], others[name], atol=1e-2) for name in columns)


def test_ten_seconds_are_what_the_model_gives(model, extractor):
    wave = noise(10)
    with torch.no_grad():
        outputs = model.predict(extractor(wave, sampling_rate=24000)["input_features"])
    expected = model.output_format.decode({name: value[0].numpy() for name, value in outputs.items()}, 0.5)
    found = detect(model, extractor, (wave, 24000))
    assert len(found) > 0
    assert sorted(found.azimuth.round(3)) == sorted(expected.azimuth.round(3))


@pytest.mark.parametrize("seconds", [0.35, 1, 7.3])
def test_a_short_recording_is_heard_as_if_it_went_on_with_its_mirror_image(model, extractor, seconds):
    wave = noise(seconds)
    window = np.tile(np.concatenate([wave, wave[:, ::-1]], axis=1), 20)[:, :240000]
    found, expected = (detect(model, extractor, (heard, 24000)) for heard in (wave, window))
    expected = expected[expected.frame < 10 * seconds]
    assert len(found) > 0
    for name in ("frame", "class_id", "azimuth"):
        assert sorted(getattr(found, name).round(3)) == sorted(getattr(expected, name).round(3))
    collated = DataCollatorForSELD(extractor, model)([{"audio": (wave, 24000), "events": Events.empty()}])
    whole = extractor(window, sampling_rate=24000)["input_features"]
    torch.testing.assert_close(collated["input_features"], whole)


USES = {
    "detect": lambda model, extractor: detect(model, extractor, (noise(1), 24000)),
    "detect_stream": lambda model, extractor: next(detect_stream(model, extractor, [noise(1)], 24000)),
    "collator": lambda model, extractor: DataCollatorForSELD(extractor, model),
    "export": lambda model, extractor: to_exported_program(model, extractor),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"feature_type": "salsa_lite"}, "needs logmel_iv"), ({"sampling_rate": 16000}, "a sampling_rate of 16000")],
)
def test_an_extractor_of_another_model_is_refused(use, options, complaint):
    model = PSELDNetForSELD(tiny_config(feature_type="logmel_iv"))
    with pytest.raises(ValueError, match=complaint):
        USES[use](model, PSELDNetFeatureExtractor(**options))


@pytest.mark.parametrize(("seconds", "frames"), [(0.05, 1), (0.95, 10), (10.0, 100), (23.41, 235)])
def test_events_end_with_the_recording(model, extractor, seconds, frames):
    events = detect(model, extractor, (noise(seconds), 24000), threshold=0.01)
    assert events.frame.max() == frames - 1


def test_batches_do_not_change_the_events_and_progress_is_told(model, extractor):
    wave, calls = noise(35), []
    one = detect(model, extractor, (wave, 24000), batch_size=1)
    several = detect(model, extractor, (wave, 24000), batch_size=3, progress=lambda *call: calls.append(call))
    assert same(one, several)
    assert calls == [(3, 4), (4, 4)]


def test_what_is_wrong_with_one_recording_is_told_of_that_alone(model, extractor, monkeypatch):
    loud, good = noise(1), noise(1)
    loud[0, 500] = 90.0
    # Within bounds as AmbiX, but beyond them as W of FuMa.
    sources = [(good, 24000), (loud, 24000), (good, 24000)]
    first, error, last = detect_each(model, extractor, sources, channel_format="fuma", threshold=0.01)
    assert same(first, last)
    assert len(first) > 0
    assert "near 0.0 s: samples up to 127, but full scale is 1" in str(error)

    predict = model.predict

    def fails_for_several(features):
        if len(features) > 1:
            raise RuntimeError("out of memory")
        return predict(features)

    monkeypatch.setattr(model, "predict", fails_for_several)
    again, *_ = detect_each(model, extractor, sources[::2], channel_format="fuma", threshold=0.01)
    assert same(again, first)


def test_overlapping_windows_are_averaged_and_differ_from_none(model, extractor):
    wave = noise(15)
    assert not same(
        detect(model, extractor, (wave, 24000), hop_seconds=2.5),
        detect(model, extractor, (wave, 24000), hop_seconds=10),
    )


def test_averages_of_overlapping_windows_by_hand():
    def window(first, value, frames):
        return Window(first, {"x": np.full(frames, value)}, np.ones(frames))

    # Weights of 1, 2, 1.
    windows = [window(0, 1.0, 3), window(1, 4.0, 3), window(4, 9.0, 1)]
    one_track = ACCDOAFormat(tiny_config())
    parts = [(first, outputs["x"].tolist()) for first, outputs in average_overlaps(one_track, windows)]
    assert [(first, pytest.approx(values)) for first, values in parts] == [
        (0, [1.0]),
        (1, [2.0, 3.0, 4.0]),
        (4, [9.0]),
    ]


def test_a_part_of_a_window_weighs_what_it_did_in_the_whole():
    whole = Window(0, {"x": np.zeros(6)}, np.ones(6))
    assert whole.weights().tolist() == [1, 2, 3, 3, 2, 1]
    assert whole.part(2).part(1).weights().tolist() == [3, 2, 1]


def outputs_of(output_format, events: Events, num_frames: int) -> dict[str, np.ndarray]:
    """Outputs (frames, …) of a perfect network for events in the given order."""
    labels = output_format.encode(events, num_frames).numpy()
    if output_format.output_names == ("accdoa",):
        return {"accdoa": labels}
    return {"sed_logits": 10 * labels[..., :-3] - 5, "doa": labels[..., -3:]}


@pytest.mark.parametrize("name", ["multi_accdoa", "einv2", "seddoa"])
def test_windows_that_order_their_tracks_differently_from_frame_to_frame_average_to_the_truth(name):
    output_format = get_output_format(tiny_config(output_format=name))
    generator = np.random.default_rng(3)
    # Two sources of class 0 and one of class 2, so far apart that averaging two would give a different direction.
    frame = np.repeat(np.arange(18), 3)
    azimuth = (np.tile([60, 180, 300], 18) + 5 * frame) % 360 - 180
    truth = Events(frame, np.tile([0, 0, 2], 18), np.tile([0, 1, 0], 18), azimuth, 0 * frame)
    outputs = outputs_of(output_format, truth, num_frames=18)
    windows = []
    for start in range(0, 12, 2):
        window = {}
        by_class = name == "multi_accdoa"
        order = generator.random((8, 3, 1, 3 if by_class else 1)).argsort(1)
        for key, values in outputs.items():
            values = values[start : start + 8]
            values = np.take_along_axis(values, order if by_class else order[..., 0], axis=1)
            window[key] = (values + 0.05 * generator.standard_normal(values.shape)).astype(np.float32)
        windows.append(Window(start, window, np.ones(8, dtype=np.float32)))
    found = decode_windows(output_format, windows, 0.5)
    assert len(found) == len(truth)
    for event in range(len(truth)):
        same = (found.frame == truth.frame[event]) & (found.class_id == truth.class_id[event])
        errors = angle_between(found.vector[same], truth.vector[event])
        assert errors.min() < 12


def test_silence_has_no_events_and_neither_has_a_silent_part(model, extractor):
    assert len(detect(model, extractor, (np.zeros((4, 240000), dtype=np.float32), 24000), threshold=0.01)) == 0
    wave = noise(3)
    wave[:, 24000:48000] = 0
    frames = set(detect(model, extractor, (wave, 24000), threshold=0.01).frame)
    assert frames & set(range(10))
    assert not frames & set(range(10, 20))


def test_the_model_is_left_in_its_mode_and_gradients_work_afterwards(model, extractor):
    model.train()
    statistics = model.pseldnet.input_norm.running_mean.clone()
    model.pseldnet.decoder.eval()
    modes = [part.training for part in model.modules()]
    detect(model, extractor, (noise(1), 24000))
    assert model.training
    assert [part.training for part in model.modules()] == modes
    assert torch.equal(model.pseldnet.input_norm.running_mean, statistics)
    model(torch.zeros(2, 7, 101, 64)).accdoa.sum().backward()
    model.zero_grad()
    model.pseldnet.input_norm.running_mean.copy_(statistics)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"threshold": 0.0}, "between 0 and 1"),
        ({"threshold": [0.5, 0.5]}, "2 thresholds for 3 classes"),
        ({"threshold": {"speech": 0.5}}, "threshold {'speech': 0.5} is not a number, nor a list"),
        ({"threshold": "low"}, "threshold 'low' is not a number, nor a list"),
        ({"hop_seconds": 0.25}, "multiple of 0.1 s"),
        ({"hop_seconds": 11}, "multiple of 0.1 s"),
        ({"hop_seconds": float("nan")}, "multiple of 0.1 s"),
        ({"hop_seconds": "1"}, "multiple of 0.1 s"),
        ({"batch_size": 0}, "at least 1"),
        ({"channel_format": "mono"}, "channel format 'mono'"),
    ],
)
def test_values_out_of_range_are_refused(model, extractor, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        detect(model, extractor, (noise(1), 24000), **options)


@pytest.mark.parametrize(
    ("feature_type", "channels", "other", "complaint"),
    [
        ("logmel_gcc", 4, 2, "2 channels, but a tetrahedral microphone array has 4"),
        ("salsa_lite", 4, 32, "32 channels, but a tetrahedral microphone array has 4"),
        ("logmel", 1, 4, "4 channels, but mono audio has 1"),
        ("logmel_iv", 4, 1, "1 channel, but first-order ambisonics has 4"),
    ],
)
def test_the_channels_of_a_recording_follow_the_features(write_recording, feature_type, channels, other, complaint):
    extractor = PSELDNetFeatureExtractor(feature_type=feature_type)
    model = scattered(PSELDNetForSELD(tiny_config(num_channels=extractor.num_channels))).eval()
    good, bad = (write_recording(f"{count}.wav", num_channels=count) for count in (channels, other))
    assert len(detect(model, extractor, good, threshold=0.01)) > 0
    with pytest.raises(ValueError, match=complaint):
        detect(model, extractor, bad)
    unfit = "fuma" if feature_type != "logmel_iv" else "array"
    with pytest.raises(ValueError, match=f"channel format '{unfit}' does not go with {feature_type} features: use"):
        detect(model, extractor, good, channel_format=unfit)


def test_capsule_signals_give_the_events_of_their_ambisonics(model, extractor):
    wave = noise(2)
    assert same(
        detect(model, extractor, (wave, 24000), channel_format="aformat"),
        detect(model, extractor, (a_to_b_format(wave), 24000)),
    )


def test_a_long_file_is_never_read_whole(model, extractor, write_recording, monkeypatch):
    path, largest = write_recording(seconds=60), []
    read = soundfile.SoundFile.read

    def watched(self, frames=-1, **options):
        largest.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", watched)
    detect(model, extractor, path, batch_size=2)
    assert len(largest) == 6
    assert 0 < max(largest) <= 10 * 24000


@pytest.mark.parametrize("name", ["starss23_clip.wav", "BF_rec1.ogg", "tau2019_split1_ir0_ov1_1.wav"])
def test_real_recordings_give_events_on_their_own_frames(model, extractor, real, name):
    channel_format = "fuma" if name.startswith("BF") else "ambix"
    with Recording(real / name, 24000) as recording:
        frames = -(-recording.num_samples // 2400)
    events = detect(model, extractor, real / name, channel_format=channel_format, threshold=0.01)
    assert events.frame.max() < frames
    assert np.isfinite(events.azimuth).all()


def test_turning_a_recording_turns_what_the_extractor_sees(real):
    with Recording(real / "starss23_clip.wav", 24000) as recording:
        w, y, z, x = recording.read(0, 5 * 24000)
    extractor = PSELDNetFeatureExtractor()
    straight = extractor(np.stack([w, y, z, x]), sampling_rate=24000)["input_features"][0]
    turned = extractor(np.stack([w, x, z, -y]), sampling_rate=24000)["input_features"][0]
    torch.testing.assert_close(turned[4:], torch.stack([straight[6], straight[5], -straight[4]]))


def test_the_end_of_a_recording_is_heard_as_in_a_window_that_ends_with_it(model, extractor):
    wave = noise(13.3)
    whole = detect(model, extractor, (wave, 24000), threshold=0.01)
    first = detect(model, extractor, (wave[:, :240000], 24000), threshold=0.01)
    last = detect(model, extractor, (wave[:, -240000:], 24000), threshold=0.01)
    for part, shift, begin, end in ((first, 0, 0, 33), (last, 33, 100, 133)):
        found = whole[(whole.frame >= begin) & (whole.frame < end)]
        expected = part.replace(frame=part.frame + shift)
        expected = expected[(expected.frame >= begin) & (expected.frame < end)]
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(np.sort(found.azimuth), np.sort(expected.azimuth), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16", "auto"])
def test_another_type_hardly_changes_what_is_found_and_leaves_the_model_alone(model, extractor, dtype):
    wave = noise(2)
    found, expected = detect(model, extractor, (wave, 24000), dtype=dtype), detect(model, extractor, (wave, 24000))
    assert model.dtype == torch.float32
    assert abs(len(found) - len(expected)) <= 0.1 * len(expected)
    with pytest.raises(ValueError, match="dtype 'int8' is unknown: use one of auto, float32"):
        detect(model, extractor, (wave, 24000), dtype="int8")


def test_auto_is_bfloat16_on_processors_with_matrix_units_alone():
    cpus = Path("/proc/cpuinfo")
    if not cpus.exists():
        pytest.skip("what the processor has is read from Linux")
    has_units = "amx_bf16" in cpus.read_text().split()
    assert fast_dtype(torch.device("cpu")) == (torch.bfloat16 if has_units else torch.float32)
    assert parse_arguments(["recording.wav"]).dtype == "auto"
