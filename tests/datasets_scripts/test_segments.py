"""Windows over recordings: where they lie, what they contain, and what happens if audio is damaged."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import DatasetDict

from datasets_scripts.segments import SegmentedDataset, read_samples, segment_starts
from datasets_scripts.starss23 import STARSS23


@pytest.mark.parametrize(
    ("num_frames", "hop", "train", "evaluation"),
    [
        (600, 100, [0, 100, 200, 300, 400, 500], [0, 100, 200, 300, 400, 500]),
        (249, 100, [0, 100, 149], [0, 100, 149]),
        (250, 100, [0, 100, 200], [0, 100, 150]),
        (100, 100, [0], [0]),
        (30, 100, [0], [0]),
        (104, 5, [0, 4], [0, 4]),
        (110, 5, [0, 5, 10], [0, 5, 10]),
        (180, 80, [0, 80], [0, 80]),
    ],
)
def test_last_window_is_moved_back_or_padded(num_frames, hop, train, evaluation):
    assert segment_starts(num_frames, 100, hop, "train") == train
    assert segment_starts(num_frames, 100, hop, "evaluation") == evaluation


@pytest.mark.parametrize("mode", ["train", "evaluation"])
def test_windows_cover_every_frame_and_training_windows_are_at_least_half_full(mode):
    for num_frames in range(1, 400):
        for hop in (1, 7, 40, 50):
            starts = segment_starts(num_frames, 50, hop, mode)
            assert {frame for start in starts for frame in range(start, start + 50)} >= set(range(num_frames))
            assert starts == sorted(set(starts))
            if mode == "train" and num_frames > 50:
                assert num_frames - starts[-1] >= 25


@pytest.fixture(params=["wav", "flac"])
def recordings(request, tmp_path, write_audio, write_text):
    """A labelled recording of 2.4 s and an unlabelled one of 0.55 s."""
    root = tmp_path / "data"
    write_audio(root / f"foa_dev/fold3_room4_mix001.{request.param}", seconds=2.4)
    write_audio(root / f"foa_eval/mix001.{request.param}", seconds=0.55)
    rows = [f"{frame},{frame % 13},0,{frame},{-frame},{100 + frame}\n" for frame in range(24)]
    write_text(root / "metadata_dev/fold3_room4_mix001.csv", "".join(rows) + "12,0,1,90,0,50\n")
    builder = STARSS23(data_dir=root, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    return builder.as_dataset(split="train+eval")


def test_window_holds_its_samples_and_its_events(recordings):
    windows = SegmentedDataset(recordings, seconds=1.0, hop_seconds=0.5, mode="evaluation")
    assert [(item["recording"], item["start_frame"], item["num_frames"]) for item in windows] == [
        ("fold3_room4_mix001", 0, 10),
        ("fold3_room4_mix001", 5, 10),
        ("fold3_room4_mix001", 10, 10),
        ("fold3_room4_mix001", 14, 10),
        ("mix001", 0, 6),
    ]
    item = windows[2]
    expected = (np.arange(24000, 48000) + np.arange(4)[:, None]) % 2**15 / 2**15
    assert item["waveform"].dtype == np.float32
    np.testing.assert_array_equal(item["waveform"], expected.astype(np.float32))
    assert item["events"].frame.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2]
    assert item["events"].azimuth.tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 90]
    assert item["events"].distance.tolist() == [1.1, 1.11, 1.12, 1.13, 1.14, 1.15, 1.16, 1.17, 1.18, 1.19, 0.5]


def test_padding_is_silence_without_events(recordings):
    item = SegmentedDataset(recordings, seconds=1.6, mode="train")[1]
    assert item["waveform"].shape == (4, 38400)
    assert not item["waveform"][:, 19200:].any()
    assert item["waveform"][:, 1:19200].any(axis=0).all()
    assert item["num_frames"] == 8
    assert item["events"].frame.tolist() == list(range(8))


def test_training_windows_at_the_end_are_full(recordings):
    item = SegmentedDataset(recordings, seconds=1.0, hop_seconds=1.0, mode="train")[2]
    assert (item["start_frame"], item["num_frames"]) == (14, 10)
    np.testing.assert_array_equal(item["waveform"][0] * 2**15, np.arange(1.4 * 24000, 2.4 * 24000) % 2**15)


def test_recording_without_labels_has_no_events(recordings):
    assert SegmentedDataset(recordings, seconds=1.0)[-1]["events"] is None


@pytest.mark.parametrize("mode", ["train", "evaluation"])
def test_a_short_recording_goes_on_with_its_mirror_image(recordings, mode):
    length = recordings["num_samples"][1]
    window = SegmentedDataset(recordings.select([1]), seconds=4.0, mode=mode)[0]
    heard, after = window["waveform"][:, :length], window["waveform"][:, length : 2 * length]
    np.testing.assert_array_equal(after, heard[:, ::-1])
    assert window["waveform"].shape[1] == 96000
    assert (window["num_frames"], window["events"]) == (-(-10 * length // 24000), None)


def test_events_of_a_short_recording_go_on_with_it_in_training(recordings):
    training, evaluation = (SegmentedDataset(recordings, 6.0, mode=mode)[0] for mode in ("train", "evaluation"))
    assert evaluation["events"].frame.max() == 23
    order = [*range(24), *reversed(range(24)), *range(12)]
    # Frame 12 has two events, and so does its mirror image.
    assert training["events"].frame.tolist() == sorted([*range(60), 12, 35])
    first = {int(frame): row for row, frame in reversed([*enumerate(training["events"].frame)])}
    assert training["events"].azimuth[[first[frame] for frame in range(60)]].tolist() == order
    assert (training["num_frames"], evaluation["num_frames"]) == (24, 24)


def test_windows_follow_selection_and_shuffling(recordings):
    windows = SegmentedDataset(recordings.select([1, 0]), seconds=1.0, hop_seconds=1.0)
    assert [item["recording"] for item in windows] == ["mix001"] + ["fold3_room4_mix001"] * 3
    assert len(SegmentedDataset(recordings.select([]))) == 0


def test_embedded_audio_is_read_as_files_are(recordings):
    def embed(example):
        path = example["audio"]["path"]
        with open(path, "rb") as file:
            return {"audio": {"bytes": file.read(), "path": path.rpartition("/")[2]}}

    embedded = recordings.map(embed, features=recordings.features)
    for from_file, from_bytes in zip(
        *(SegmentedDataset(dataset, seconds=1.0) for dataset in (recordings, embedded)), strict=True
    ):
        np.testing.assert_array_equal(from_file["waveform"], from_bytes["waveform"])


def test_workers_read_the_same_windows(recordings):
    windows = SegmentedDataset(recordings, seconds=1.0, hop_seconds=0.5)
    loader = torch.utils.data.DataLoader(windows, batch_size=2, num_workers=2, collate_fn=list)
    loaded = [item for batch in loader for item in batch]
    assert [item["start_frame"] for item in loaded] == [item["start_frame"] for item in windows]
    for item, expected in zip(loaded, pickle.loads(pickle.dumps(windows)), strict=True):
        np.testing.assert_array_equal(item["waveform"], expected["waveform"])


def test_several_splits_or_a_stream_are_refused(recordings):
    for data in (recordings.to_iterable_dataset(), DatasetDict({"train": recordings})):
        with pytest.raises(TypeError, match="expected one split, such as as_dataset"):
            SegmentedDataset(data)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "test"}, "mode must be 'train' or 'evaluation', not 'test'"),
        ({"seconds": 1.05}, "must be multiples of 0.1 s"),
        ({"seconds": 1.0, "hop_seconds": 2.0}, r"hop_seconds must be above 0 and at most seconds \(1.0\)"),
        ({"hop_seconds": 0.0}, "hop_seconds must be above 0"),
    ],
)
def test_impossible_windows_are_refused(kwargs, message, recordings):
    with pytest.raises(ValueError, match=message):
        SegmentedDataset(recordings, **kwargs)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_damaged_audio_is_named_with_its_position(suffix, tmp_path):
    path = tmp_path / f"scene.{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (96000, 4)), 24000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    audio = {"path": str(path), "bytes": None}
    assert read_samples(audio, 0, 24000, 24000).any()
    for start in (36000, 72000):
        message = rf"{path}: cannot read 24000 samples starting at sample {start} \({start / 24000} s\)"
        with pytest.raises(OSError, match=message):
            read_samples(audio, start, 24000, 24000)


@pytest.mark.parametrize(("sample", "message"), [(np.nan, "NaN or infinite"), (2000.0, "full scale is 1")])
def test_samples_that_are_no_sound_are_named(sample, message, recordings):
    path = recordings[0]["audio"]["path"]
    soundfile.write(path, np.full((57600, 4), sample), 24000, format="WAV", subtype="FLOAT")
    with pytest.raises(ValueError, match=f"{path}, near 1.0 s: .*{message}"):
        SegmentedDataset(recordings, seconds=1.0, mode="evaluation")[1]


def test_lost_audio_is_named(recordings):
    path = recordings[0]["audio"]["path"]
    windows = SegmentedDataset(recordings)
    Path(path).unlink()
    with pytest.raises(OSError, match=path):
        windows[0]
