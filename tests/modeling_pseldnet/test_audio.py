import io
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from modeling_pseldnet.audio import Recording, Resampler, float_samples
from tests.helpers import b_format


RATE = 24000
WAVE = 0.1 * np.random.default_rng(0).standard_normal((4, RATE)).astype(np.float32)


def bytes_of(wave=WAVE, rate=RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave.T, rate, **({"format": "WAV", "subtype": "FLOAT"} | options))
    return file.getvalue()


def read(source, channel_format="auto") -> np.ndarray:
    with Recording(source, RATE, channel_format) as recording:
        return recording.read(0, recording.num_samples)


def with_length(data: bytes, length: int) -> bytes:
    """Set the number of bytes that the header of a WAV declares for its samples."""
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", length) + data[place + 4 :]


def test_whatever_stands_for_a_recording_gives_the_same_samples(tmp_path):
    data, path = bytes_of(), tmp_path / "scene.wav"
    path.write_bytes(data)
    tensor = torch.from_numpy(WAVE)
    with open(path, "rb") as file:
        sources = {
            "path": path,
            "name": str(path),
            "bytes": data,
            "file": file,
            "memory": io.BytesIO(data),
            "path and no bytes": {"path": str(path), "bytes": None},
            "bytes and path": {"path": "elsewhere.wav", "bytes": data},
            "array": {"array": WAVE, "sampling_rate": RATE, "path": None},
            "raw": {"raw": WAVE, "sampling_rate": float(RATE)},
            "row of a data set": {"id": "scene", "path": "clips/scene", "audio": {"path": str(path), "bytes": None}},
            "tuple": (WAVE, np.int64(RATE)),
            "tensor": (tensor, RATE),
            "lists": (WAVE.tolist(), RATE),
            "decoder": SimpleNamespace(
                get_all_samples=lambda: SimpleNamespace(data=tensor, sample_rate=RATE),
            ),
        }
        for what, source in sources.items():
            np.testing.assert_allclose(read(source), WAVE, atol=1e-7, err_msg=what)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ((WAVE, None), "sampling rate is missing"),
        ({"array": WAVE}, "sampling rate is missing"),
        ((WAVE, 0), "0 Hz, which is implausible"),
        ((WAVE, 1), "1 Hz, which is implausible"),
        ((WAVE, 10**6), "1000000 Hz, which is implausible"),
        ((WAVE, 24000.5), "24000.5: give a whole number"),
        ((WAVE, float("nan")), "give a whole number"),
        ((WAVE, "fast"), "'fast': give a whole number"),
        ((WAVE.T, RATE), "24000 channels, but first-order ambisonics has 4: it looks transposed, give array.T"),
        ((np.tile(WAVE, (4, 1)), RATE), "16 channels, .* has 4: it looks like order 3, give its first four channels"),
        ((WAVE[0], RATE), r"give array\[None\].* mean of the channels: use get_all_samples\(\).data"),
        ((list(WAVE), RATE), "list of 4 1-D arrays is read as mono recordings"),
        ((list(torch.from_numpy(WAVE)), RATE), "read as mono recordings"),
        (([[0.0, 1.0], [0.0]], RATE), "array .channels, samples. of numbers"),
        ((WAVE.astype(np.int64), RATE), "type int64: give floats with a full scale of 1"),
        ((WAVE > 0, RATE), "type bool"),
        ((WAVE[None], RATE), r"got \(1, 4, 24000\)"),
        ((WAVE * 2.0**31, RATE), "but full scale is 1: if they were integers"),
        ((np.where(WAVE > 0.3, np.nan, WAVE), RATE), "NaN or infinite"),
        ((np.where(WAVE > 0.3, np.inf, WAVE), RATE), "NaN or infinite"),
        ({"sampling_rate": RATE}, "a dict with sampling_rate is not a recording: give a path"),
        (17, "int is not a recording: give a path"),
        (b"", "not readable audio"),
        (b"no audio", r"^the bytes: not readable audio, use WAV, FLAC, OGG or AMB \(Format not recognised\.\)$"),
        (b"RIFF", "not readable audio"),
        (with_length(bytes_of()[:24] + b"\xff" * 4 + bytes_of()[28:], 0), "not readable audio"),  # its sampling rate
        (bytes_of(rate=1), "1 Hz, which is implausible"),
        (bytes_of(rate=12), "12 Hz, which is implausible"),
        (bytes_of(2.0**31 * WAVE), "but full scale is 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_recording_is_refused_in_words(source, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(source)


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names elsewhere")
def test_what_is_there_and_no_file_is_told_from_what_is_not_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, complaint in (("pipe", "does not support seeking: give a file"), ("absent", "no such file")):
        with pytest.raises(ValueError, match=f"{name}: .*{complaint}"):
            read(tmp_path / name)


@pytest.mark.parametrize(("dtype", "silence", "full_scale"), [
    ("int8", 0, 2**7), ("uint8", 2**7, 2**7), ("int16", 0, 2**15), ("int32", 0, 2**31)
])  # fmt: skip
def test_integers_are_scaled_by_their_type(dtype, silence, full_scale):
    integers = np.round(WAVE.astype(np.float64) * full_scale + silence).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = read((integers.astype(dtype), RATE))
    np.testing.assert_allclose(found, WAVE, atol=0.51 / full_scale + 1e-7)
    other_order = np.dtype(dtype).newbyteorder(">")
    np.testing.assert_array_equal(read((integers.astype(other_order), RATE)), found)
    as_tensor = float_samples(torch.from_numpy(integers.astype(dtype)))
    np.testing.assert_array_equal(as_tensor.numpy(), found)


def test_files_that_say_that_they_are_fuma_are_read_so_unless_told_otherwise(tmp_path):
    w, y, z, x = WAVE
    fuma = np.stack([w / 2**0.5, x, y, z])
    (tmp_path / "plain.amb").write_bytes(bytes_of(fuma))
    (tmp_path / "said.wav").write_bytes(b_format(fuma))
    for source in (
        tmp_path / "plain.amb",
        tmp_path / "said.wav",
        b_format(fuma),
        {"path": "b.amb", "bytes": bytes_of(fuma)},
    ):
        np.testing.assert_allclose(read(source), WAVE, atol=1e-4)
        np.testing.assert_allclose(read(source, "ambix"), fuma, atol=1e-4)
    (tmp_path / "plain.wav").write_bytes(bytes_of(fuma))
    np.testing.assert_allclose(read(tmp_path / "plain.wav"), fuma, atol=1e-7)


def stream_flac(length: int = 0) -> bytes:
    """A FLAC as written through a pipe: its header does not have the right length."""
    data = bytearray(bytes_of(format="FLAC", subtype="PCM_24"))
    field = int.from_bytes(data[18:26], "big")
    data[18:26] = (field & ~((1 << 36) - 1) | length).to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("length", [0, 7, 960, 96000, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFF0000, 0x80000000])
def test_a_wav_is_read_to_its_end_whatever_its_header_says(subtype, length, tmp_path):
    data = bytes_of(subtype=subtype)
    expected = read(data)
    np.testing.assert_array_equal(read(with_length(data, length)), expected)
    (tmp_path / "scene.wav").write_bytes(with_length(data, length))
    np.testing.assert_array_equal(read(tmp_path / "scene.wav"), expected)


@pytest.mark.parametrize("length", [0, 960, len(WAVE[0]) * 8, 2**64 - 1])
def test_a_large_wav_is_read_to_its_end_whatever_its_header_says(length):
    data = bytearray(bytes_of(format="RF64", subtype="PCM_16"))
    place = data.index(b"ds64") + 16
    data[place : place + 8] = struct.pack("<Q", length)
    np.testing.assert_allclose(read(bytes(data)), WAVE, atol=1e-4)


def test_an_ogg_that_breaks_off_or_is_followed_by_another_is_refused():
    data = bytes_of(format="OGG", subtype="VORBIS")
    assert read(data).shape == WAVE.shape
    with pytest.raises(ValueError, match="truncated"):
        read(data[:-20])
    with pytest.raises(ValueError, match="contains several chained recordings"):
        read(data + data)


def test_chunks_and_padding_after_the_samples_are_no_samples():
    data = bytes_of()
    for more in (b"LIST" + struct.pack("<I", 4) + b"INFO", bytes(512), b"\0"):
        assert read(data + more).shape == WAVE.shape


def test_a_flac_of_unknown_length_is_read_to_its_end_and_one_that_breaks_off_is_refused():
    for length in (0, 1000):
        np.testing.assert_allclose(read(stream_flac(length)), WAVE, atol=1e-6)
    with pytest.raises(ValueError, match=r"unreadable|truncated, it ends at"):
        read(stream_flac(2 * RATE))


@pytest.mark.parametrize("form", ["WAV", "RF64", "AIFF", "AU", "W64"])
def test_a_file_that_ends_before_its_header_says_is_refused(form):
    with pytest.raises(ValueError, match="truncated"):
        read(bytes_of(format=form)[:-1000])


def test_an_aiff_that_sox_wrote_to_a_pipe_is_read_to_its_end():
    data = bytearray(bytes_of(format="AIFF"))
    place = data.index(b"SSND") + 4
    data[place : place + 4] = struct.pack(">I", 0x7F000008)
    assert read(bytes(data)).shape == WAVE.shape


def test_a_wav_of_three_gigabytes_that_breaks_off_is_refused():
    with pytest.raises(ValueError, match="truncated"):
        read(with_length(bytes_of(), 3_000_000_000))


def held_open(path) -> bool:
    return any(os.path.realpath(file) == str(path) for file in Path("/proc/self/fd").iterdir())


def test_a_given_file_stays_open_and_an_own_one_is_closed(tmp_path):
    file = io.BytesIO(with_length(bytes_of(), 960))
    read(file)
    assert not file.closed
    path = tmp_path / "longer.wav"
    path.write_bytes(file.getvalue())
    with Recording(path, RATE) as recording:
        assert held_open(path)
        recording.read(0, 10)
    assert not held_open(path)


@pytest.mark.parametrize("data", [b_format(0.1 * WAVE), with_length(bytes_of(), 960)], ids=["FuMa", "longer"])
def test_a_given_file_is_read_from_its_beginning_wherever_it_was_left(data):
    file = io.BytesIO(data)
    np.testing.assert_array_equal(read(file), read(file))


@pytest.mark.parametrize("rates", [(2, 1), (147, 80), (2, 3), (1, 3), (4, 1)])
def test_resampling_keeps_what_both_rates_hold_and_its_level(rates):
    source, target = 4000 * rates[0], 4000 * rates[1]
    wave = torch.sin(2 * torch.pi * 700 * torch.arange(source) / source)[None]
    expected = torch.sin(2 * torch.pi * 700 * torch.arange(target) / target)
    found = Resampler(*rates)(wave)[0]
    assert len(found) == target
    torch.testing.assert_close(found[200:-200], expected[200:-200], atol=3e-3, rtol=0)


@pytest.mark.parametrize("rate", [RATE + 10, 2 * RATE - 20])
def test_a_recording_at_an_odd_rate_does_not_drift(rate):
    click = np.zeros((4, 100 * rate), dtype=np.float32)
    click[:, 90 * rate] = 1
    with Recording((click, rate), RATE) as recording:
        assert recording.seconds == pytest.approx(100)
        found = recording.read(90 * RATE - 100, 200)
    assert found[0].argmax() == pytest.approx(100, abs=1)


def test_resampling_leaves_no_alias():
    wave = torch.sin(2 * torch.pi * 20000 * torch.arange(48000) / 48000)[None]
    assert Resampler(2, 1)(wave)[0, 200:-200].abs().max() < 0.01


@pytest.mark.parametrize("source_rate", [48000, 44100, 22050, 16000, 11025, 96000, 44101])
def test_pieces_of_a_resampled_recording_are_those_of_the_whole(source_rate):
    seconds = np.arange(3 * source_rate) / source_rate
    wave = np.stack([np.sin(2 * np.pi * f * seconds) for f in (440, 1000, 2000, 3500)]).astype(np.float32)
    recording = Recording((wave, source_rate), 24000)
    assert abs(recording.num_samples - 72000) <= 1
    pieces = np.concatenate([recording.read(start, 7000) for start in range(0, 72000, 7000)], axis=1)[:, :72000]
    whole = recording.read(0, 72000)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    time = np.arange(72000) / 24000
    expected = np.stack([np.sin(2 * np.pi * f * time) for f in (440, 1000, 2000, 3500)])
    middle = slice(2400, -2400)
    np.testing.assert_allclose(whole[:, middle], expected[:, middle], atol=0.02)


def test_fuma_becomes_ambix():
    w, x, y, z = np.eye(4, dtype=np.float32)
    fuma = np.stack([w / 2**0.5, x, y, z])
    np.testing.assert_allclose(read((fuma, RATE), "fuma"), np.stack([w, y, z, x]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_24"), ("a.ogg", None), ("a.wav", "FLOAT")]
)
def test_files_are_read_like_arrays(write_recording, name, subtype):
    path = write_recording(name, seconds=1.0, subtype=subtype)
    samples, _ = soundfile.read(path, dtype="float32")
    with Recording(path, RATE) as recording:
        assert recording.seconds == pytest.approx(1.0)
        np.testing.assert_allclose(recording.read(5000, 1000), samples[5000:6000].T, atol=1e-6)
