import json

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from transformers import pipeline

import modeling_pseldnet


TASK = "sound-event-localization-and-detection"


def active_frames(events: list[dict]) -> int:
    return sum(len(event["trajectory"]) for event in events)


@pytest.fixture(scope="module")
def detector(hub_folder):
    return pipeline(TASK, model=str(hub_folder))


def test_a_file_and_its_samples_give_the_same_events(detector, write_recording):
    path = write_recording(seconds=2)
    samples, rate = soundfile.read(path, dtype="float32")
    events = detector(str(path))
    assert events
    assert events == detector({"array": samples.T, "sampling_rate": rate})
    assert set(events[0]) == {"onset", "offset", "label", "track", "azimuth", "elevation", "confidence", "trajectory"}
    assert json.loads(json.dumps(events)) == events


def test_several_recordings_give_a_list_each(detector, write_recording):
    paths = [str(write_recording(f"{seconds}.wav", seconds=seconds)) for seconds in (1, 2)]
    assert detector(paths) == [detector(paths[0]), detector(paths[1])]


def test_options_reach_the_detection(detector, write_recording):
    path = str(write_recording(seconds=12))
    frames = {threshold: active_frames(detector(path, threshold=threshold)) for threshold in (0.01, 0.9)}
    assert frames[0.01] > frames[0.9]
    assert detector(path, hop_seconds=2, batch_size=2) == detector(path, hop_seconds=2, batch_size=5)
    assert detector(path, channel_format="fuma") != detector(path)


def test_a_saved_pipeline_gives_the_same(detector, write_recording, tmp_path):
    path = str(write_recording(seconds=2))
    detector.save_pretrained(tmp_path / "saved")
    assert pipeline(TASK, model=str(tmp_path / "saved"))(path) == detector(path)


def test_bad_input_is_named(detector, write_recording, tmp_path):
    with pytest.raises(ValueError, match="2 channels, but first-order ambisonics has 4"):
        detector(str(write_recording(num_channels=2)))
    with pytest.raises(ValueError, match="no such file"):
        detector(str(tmp_path / "nothing.wav"))
    with pytest.raises(ValueError, match="NaN"):
        detector({"array": np.full((4, 24000), np.nan), "sampling_rate": 24000})
    with pytest.raises(TypeError, match="unknown argument: treshold; did you mean threshold"):
        detector(str(write_recording()), treshold=0.3)


def test_silence_gives_no_events(detector):
    assert detector({"array": np.zeros((4, 48000)), "sampling_rate": 24000}, threshold=0.01) == []


def test_the_package_exports_what_it_registers():
    assert all(hasattr(modeling_pseldnet, name) for name in modeling_pseldnet.__all__)


def test_a_batch_size_is_taken_where_the_pipeline_is_made(hub_folder, detector, write_recording):
    paths = [str(write_recording(f"{seconds}.wav", seconds=seconds)) for seconds in (1, 2)]
    batched = pipeline(TASK, model=str(hub_folder), batch_size=4)
    assert batched(paths) == list(batched(path for path in paths)) == detector(paths)


def test_many_recordings_come_in_any_container(detector, write_recording):
    path = write_recording(seconds=1)
    expected = detector(str(path))
    assert detector((str(path), str(path))) == [expected, expected]
    assert detector([]) == []
    samples, rate = soundfile.read(path, dtype="float32")
    assert detector((samples.T, np.array(rate))) == expected
    for several in (list, tuple):
        assert detector(several([(samples.T, rate)] * 2)) == [expected, expected]
        assert detector(several([{"array": samples.T, "sampling_rate": rate}] * 2)) == [expected, expected]
    rows = Dataset.from_list([{"id": "a", "audio": {"path": str(path), "bytes": None}}] * 2)
    streamed = rows.to_iterable_dataset()
    for in_turn in (rows, streamed, streamed["audio"], iter([str(path)] * 2), map(str, [path, path])):
        assert list(detector(in_turn)) == [expected, expected]
    assert detector(rows["audio"]) == [expected, expected]
    with path.open("rb") as file:
        assert detector(file) == expected
    assert detector(path.read_bytes()) == expected


def test_what_is_no_recording_is_told_in_words(detector):
    for source, complaint in (
        ({"array": np.zeros((4, 100))}, "sampling rate is missing"),
        ({"array": np.zeros((100, 4)), "sampling_rate": 24000}, "looks transposed, give array.T"),
        ({"array": np.zeros(100), "sampling_rate": 24000}, "get_all_samples"),
    ):
        with pytest.raises(ValueError, match=complaint):
            detector(source)
