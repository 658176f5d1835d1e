import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile

from modeling_pseldnet import audio, output_formats, read_csv
from modeling_pseldnet.tools import convert, stream
from modeling_pseldnet.tools.predict import CHANNEL_FORMATS, SAMPLE_FORMATS, main


@pytest.fixture
def predict(hub_folder, tmp_path, capsys):
    """Run the program; return its status, standard output and standard error."""

    def run(*arguments, model=hub_folder, output=tmp_path / "out"):
        status = main([*map(str, arguments), "--model", str(model), "--output", str(output)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def complaints(error: str) -> list[str]:
    """The lines of standard error that are messages rather than progress."""
    lines = re.split(r"[\r\n]+", error)
    return [line for line in lines if line.startswith("pseldnet-predict: error:")]


def test_formats_that_are_listed_again_for_a_fast_help_are_those_of_the_package():
    assert sorted(CHANNEL_FORMATS) == sorted(audio.CHANNEL_FORMATS)
    assert sorted(SAMPLE_FORMATS) == sorted(stream.SAMPLE_FORMATS)
    assert sorted(convert.OUTPUT_FORMATS) == sorted(output_formats.FORMATS)


def test_it_writes_csv_json_and_picture_that_agree(predict, write_recording, tmp_path):
    path = write_recording(seconds=2.34)
    status, printed, _ = predict(path, "--json", "--plot")
    assert status == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "recording.csv",
        "recording.json",
        "recording.png",
    ]
    events = read_csv(tmp_path / "out" / "recording.csv")
    records = json.loads((tmp_path / "out" / "recording.json").read_text())
    assert 0 < len(events) == sum(len(record["trajectory"]) for record in records)
    assert f"{len(records)} events" in printed
    assert events.frame.max() <= 23
    directions = {(point["azimuth"], point["elevation"]) for record in records for point in record["trajectory"]}
    assert directions == set(zip(events.azimuth, events.elevation, strict=True))
    assert (tmp_path / "out" / "recording.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats_and_rates(predict, write_recording, tmp_path, suffix):
    assert predict(write_recording(f"a.{suffix}", sampling_rate=48000))[0] == 0
    assert (tmp_path / "out" / "a.csv").is_file()


def test_folders_are_searched_and_keep_their_layout(predict, write_recording, tmp_path):
    for name in ("set/a.wav", "set/deep/a.flac"):
        write_recording(name)
    (tmp_path / "set" / "notes.txt").write_text("not audio")
    assert predict(tmp_path / "set")[0] == 0
    assert (tmp_path / "out" / "a.csv").is_file()
    assert (tmp_path / "out" / "deep" / "a.csv").is_file()


def test_a_recording_named_by_its_suffix_alone_writes_into_the_folder_for_results(predict, write_recording, tmp_path):
    assert predict(write_recording().rename(tmp_path / "..wav"), "--json")[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["..csv", "..json"]


def test_thresholds_come_as_a_number_or_one_a_class_from_a_file(predict, write_recording, tmp_path):
    path, counts = write_recording(seconds=3), {}
    (tmp_path / "thresholds.txt").write_text("0.01\n0.999\n0.999\n")
    for threshold in ("0.01", "0.9", tmp_path / "thresholds.txt"):
        assert predict(path, "--threshold", threshold)[0] == 0
        counts[threshold] = len(read_csv(tmp_path / "out" / "recording.csv"))
    assert counts["0.01"] > counts["0.9"]
    assert counts["0.01"] > counts[tmp_path / "thresholds.txt"] > 0


def test_only_events_of_enough_mean_confidence_are_written(predict, write_recording, tmp_path):
    path = write_recording(seconds=3)

    def found(*options):
        assert predict(path, "--threshold", "0.05", "--json", *options)[0] == 0
        return json.loads((tmp_path / "out" / "recording.json").read_text())

    events = sorted(found(), key=lambda event: event["confidence"])
    confident = found("--min-confidence", events[4]["confidence"] - 0.001)
    assert sorted(confident, key=lambda event: event["confidence"]) == events[4:]
    frames = sum(len(event["trajectory"]) for event in confident)
    assert len(read_csv(tmp_path / "out" / "recording.csv")) == frames


def test_hop_averaging_and_channel_format_reach_the_detection(predict, write_recording, tmp_path):
    path, texts = write_recording(seconds=12), []
    for options in ([], ["--hop", "1"], ["--tta"], ["--channel-format", "fuma"], ["--channel-format", "aformat"]):
        assert predict(path, *options, "--batch-size", "3", "--threshold", "0.1")[0] == 0
        texts.append((tmp_path / "out" / "recording.csv").read_text())
    assert len(set(texts)) == 5


def test_classes_are_numbered_as_in_a_list_of_labels_by_name(predict, write_recording, tmp_path):
    (tmp_path / "labels.txt").write_text("door\nwhistle\nfootsteps\nspeech\n")
    found = []
    for options in ([], ["--labels", tmp_path / "labels.txt"]):
        assert predict(write_recording(), "--json", "--threshold", "0.1", *options)[0] == 0
        records = (tmp_path / "out" / "recording.json").read_text()
        found.append((read_csv(tmp_path / "out" / "recording.csv").class_id, records))
    (own, records), (listed, same_records) = found
    assert len(set(own)) > 1
    assert sorted(listed) == sorted(np.array([3, 2, 0])[own])
    assert same_records == records
    (tmp_path / "labels.txt").write_text("door\nspeech\n")
    _, _, error = predict(write_recording(), "--labels", tmp_path / "labels.txt")
    assert "labels.txt: 1 of 3 classes (footsteps) are not among the others (door, speech)" in complaints(error)[0]


def test_silence_gives_an_empty_csv(predict, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros((24000, 4)), 24000)
    assert predict(tmp_path / "silence.wav", "--threshold", "0.01", "--plot")[0] == 0
    assert (tmp_path / "out" / "silence.csv").read_text() == ""


def bad_files(folder, write_recording):
    write_recording("stereo.wav", num_channels=2, folder=folder)
    for name in ("truncated.wav", "truncated.ogg", "broken.flac"):
        write_recording(name, seconds=2, folder=folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("not audio")
    (folder / "nothing.wav").write_bytes(b"")
    soundfile.write(folder / "empty.wav", np.zeros((0, 4)), 24000)
    samples = np.full((24000, 4), 0.1, dtype=np.float32)
    samples[12000, 2] = np.nan
    soundfile.write(folder / "nan.wav", samples, 24000, subtype="FLOAT")
    samples[12000, 2] = np.inf
    soundfile.write(folder / "infinite.wav", samples, 24000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("stereo.wav", "2 channels, but first-order ambisonics has 4"),
        ("broken.flac", "unreadable|truncated"),
        ("truncated.wav", "truncated"),
        ("truncated.ogg", "truncated"),
        ("text.wav", "not readable audio"),
        ("nothing.wav", "not readable audio"),
        ("empty.wav", "no samples"),
        ("nan.wav", "NaN or infinite"),
        ("infinite.wav", "NaN or infinite"),
        ("absent.wav", "no such file"),
    ],
)
def test_a_bad_file_is_one_line_and_status_2(predict, write_recording, tmp_path, name, complaint):
    bad_files(tmp_path, write_recording)
    status, _, error = predict(tmp_path / name)
    assert status == 2
    (line,) = complaints(error)
    assert name in line
    assert re.search(complaint, line)
    assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("*.csv"))


def test_the_other_files_are_done_and_the_status_tells(predict, write_recording, tmp_path):
    (tmp_path / "set").mkdir()
    bad_files(tmp_path / "set", write_recording)
    write_recording("set/good.wav")
    write_recording("set/also_good.flac")
    status, _, error = predict(tmp_path / "set")
    assert status == 2
    assert {"good.csv", "also_good.csv"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert len(complaints(error)) == 9


def test_whatever_goes_wrong_with_a_recording_is_its_line(predict, write_recording, tmp_path):
    for name in ("a.wav", "b.wav", "d.wav"):
        write_recording(f"in/{name}")
    name = os.fsdecode(b"c\xff.wav")
    (tmp_path / "in" / "a.wav").rename(tmp_path / "in" / name)
    # A folder is in the way of one recording's results.
    (tmp_path / "out" / "b.csv").mkdir(parents=True)
    status, _, error = predict(tmp_path / "in", "--plot", "--json")
    assert status == 2
    assert any("b.csv: Is a directory" in line for line in complaints(error))
    assert (tmp_path / "out" / "d.csv").is_file()
    assert all("in/" in line or "out/" in line for line in complaints(error))


def test_an_error_that_nobody_foresaw_is_the_line_of_its_recording(predict, write_recording, tmp_path, monkeypatch):
    from modeling_pseldnet import inference

    class Broken(inference.Recording):
        def __init__(self, source, *arguments):
            super().__init__(source, *arguments)
            if source.name == "a.wav":
                raise RuntimeError("out of something\nin some library")

    monkeypatch.setattr(inference, "Recording", Broken)
    for name in ("a.wav", "b.wav"):
        write_recording(f"in/{name}")
    status, out, error = predict(tmp_path / "in")
    assert status == 2
    (line,) = complaints(error)
    assert line.endswith("in/a.wav: RuntimeError: out of something in some library")
    assert "b.wav" in out


def test_windows_of_short_recordings_go_through_the_model_together_and_change_nothing(
    predict, write_recording, tmp_path, monkeypatch
):
    from modeling_pseldnet import inference

    for index, seconds in enumerate([0.5, 23, 3, 11]):
        write_recording(f"in/{index}.wav", seconds=seconds)
    sizes, run = [], inference.window_outputs
    monkeypatch.setattr(
        inference, "window_outputs", lambda *arguments: sizes.append(len(arguments[3])) or run(*arguments)
    )
    for batch_size in (1, 4):
        output = tmp_path / str(batch_size)
        options = ("--threshold", "0.1", "--batch-size", str(batch_size))
        assert predict(tmp_path / "in", *options, output=output)[0] == 0
    assert sizes == [1] * 7 + [4, 3]
    for file in (tmp_path / "1").iterdir():
        alone, together = read_csv(file), read_csv(tmp_path / "4" / file.name)
        np.testing.assert_array_equal([together.frame, together.class_id], [alone.frame, alone.class_id])
        # Sums have a different order, so a last digit may be rounded differently.
        np.testing.assert_allclose(together.vector, alone.vector, atol=0.003)


@pytest.mark.parametrize(("suffix", "options"), [("csv", []), ("json", ["--json"]), ("png", ["--plot"])])
def test_what_lies_beside_a_recording_is_replaced_only_when_asked_for(predict, write_recording, suffix, options):
    recording = write_recording()
    own = recording.with_suffix(f".{suffix}")
    own.write_text("0,1,0,30,10\n")
    status, _, error = predict(recording, *options, output=recording.parent)
    assert status == 2
    assert f"{own} already exists" in complaints(error)[0]
    assert own.read_text() == "0,1,0,30,10\n"
    assert predict(recording, recording, *options, "--overwrite", output=recording.parent)[0] == 0
    assert own.read_bytes() != b"0,1,0,30,10\n"


def test_what_lies_beside_a_recording_is_no_hindrance_where_it_is_not_written(predict, write_recording):
    recording = write_recording()
    recording.with_suffix(".json").write_text("{}")
    assert predict(recording, output=recording.parent)[0] == 0
    assert recording.with_suffix(".json").read_text() == "{}"


def test_a_recording_that_is_not_there_is_told_of_as_such_whatever_lies_where_its_results_go(
    predict, write_recording, tmp_path
):
    (tmp_path / "none.csv").touch()
    status, out, error = predict(tmp_path / "nowhere" / "none.wav", write_recording(), output=tmp_path)
    assert (status, len(out.splitlines())) == (2, 1)
    assert "none.wav: no such file" in complaints(error)[0]


def test_no_progress_bar_is_left_behind(predict, write_recording):
    *_, error = predict(write_recording("scene.wav", 12.0))
    assert "2/2" in error
    assert not re.split(r"[\r\n]", error)[-1].strip()


def test_a_file_that_is_named_twice_is_done_once_and_told_once(predict, write_recording, tmp_path):
    status, out, error = predict(write_recording(), write_recording(), tmp_path / "none.wav", tmp_path / "none.wav")
    assert (status, len(out.splitlines()), len(complaints(error))) == (2, 1, 1)


@pytest.mark.skipif(os.name != "posix", reason="names of files are text elsewhere")
def test_names_of_files_may_be_any_bytes_and_look_like_mathematics(predict, write_recording, tmp_path):
    for name in (b"caf\xe9.wav", b"$_$^.wav"):
        odd = tmp_path / os.fsdecode(name)
        shutil.copyfile(write_recording(), odd)
        assert predict(odd, "--plot", "--threshold", "0.1")[0] == 0


@pytest.mark.parametrize("option", [("--hop", "nan"), ("--hop", "-1"), ("--batch-size", "0"), ("--delay", "inf")])
def test_numbers_that_make_no_sense_are_refused(predict, write_recording, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        predict(write_recording(), *option)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--delay", "1"], "--delay: only for live streams"),
        (["--workers", "8"], "--workers: only with --ray"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(predict, capsys, options, complaint):
    with pytest.raises(SystemExit, match="2"):
        predict("recording.wav", *options)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_file_where_the_folder_for_results_is_to_be_is_refused_at_once(predict, tmp_path, capsys, place):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        predict("recording.wav", output=tmp_path / place)
    assert f"--output {tmp_path / place}: a file is in the way" in capsys.readouterr().err


def test_two_recordings_of_one_name_do_not_replace_each_other(predict, write_recording):
    status, _, error = predict(write_recording("a/x.wav"), write_recording("b/x.wav"))
    assert status == 2
    assert "would replace those of" in complaints(error)[0]


def test_a_folder_without_audio_is_named(predict, tmp_path):
    (tmp_path / "set").mkdir()
    status, _, error = predict(tmp_path / "set")
    assert status == 2
    assert "no audio in this folder" in complaints(error)[0]


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_model_folder_that_lacks_a_part_is_named(predict, hub_folder, write_recording, tmp_path, missing):
    folder = shutil.copytree(hub_folder, tmp_path / "model")
    (folder / missing).unlink()
    status, _, error = predict(write_recording(), model=folder)
    assert status == 2
    (line,) = complaints(error)
    assert f"{folder}: cannot be loaded" in line


def test_a_model_of_another_kind_is_refused(predict, write_recording, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    status, _, error = predict(write_recording(), model=tmp_path / "bert")
    assert status == 2
    assert "a bert model, not a PSELDNet" in complaints(error)[0]


def test_files_that_go_over_ray_give_the_same_bytes(predict, write_recording, tmp_path):
    pytest.importorskip("ray")
    for name in ("a", "b", "c"):
        write_recording(f"set/{name}.wav", seconds=1)
    (tmp_path / "set" / "d.wav").write_text("not audio")
    assert predict(tmp_path / "set", "--json")[0] == 2
    status, printed, error = predict(tmp_path / "set", "--json", "--ray", "--workers", "1", output=tmp_path / "by_ray")
    assert status == 2
    assert len(complaints(error)) == 1
    assert printed.count("events, ") == 3
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "by_ray" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--threshold", "1.5"], "between 0 and 1"),
        (["--threshold", "absent.txt"], "neither a number nor a file"),
        (["--hop", "0.33"], "multiple of 0.1 s"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--channel-format", "mono"], "channel format 'mono' does not go with logmel_iv features"),
        (["--layout", "dcase2024"], "--layout dcase2024 needs distances, which this model does not estimate"),
    ],
)
def test_options_that_make_no_sense_are_refused(predict, write_recording, options, complaint):
    status, _, error = predict(write_recording(), *options)
    assert status == 2
    assert complaint in complaints(error)[0]
