import io
import os

import datasets
import numpy as np
import pytest
import soundfile

from datasets_scripts.scenes.sounds import recording_of, sounds_from_dataset, sounds_from_folder
from tests.folders import SHARED


EVENTS = SHARED / "events"
RATE = 24000


def write_noise(path, seconds=0.4, rate=RATE, before=0.0, after=0.0, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, np.pad(noise, ((round(before * rate), round(after * rate)), (0, 0))), rate)
    return path


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("berklee-bag1-s0.ogg", "berklee-bag"),
        ("esc10-1-187207-a.wav", "esc10-1-187207"),
        ("librispeech-1040-133433-0000.flac", "librispeech-1040-133433-0000"),
        ("berklee-bell-1b.ogg", "berklee-bell"),
        ("tonejsinstr-bassoon-a.wav", "tonejsinstr-bassoon"),
        ("bark (12).wav", "bark"),
        ("0001.wav", "0001"),
        ("12.wav", "12"),
    ],
)
def test_pieces_and_takes_belong_to_one_recording(name, recording):
    assert recording_of(name) == recording


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_silence_around_a_sound_is_left_out_whatever_its_offset(tmp_path, offset):
    path = write_noise(tmp_path / "bark" / "a.wav", seconds=0.4, before=0.5, after=0.3)
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples + offset, RATE)
    bank = sounds_from_folder(tmp_path).measure()
    assert abs(bank.read(0).mean()) < 0.01
    assert bank.sounds[0].start == pytest.approx(0.5 * RATE, abs=0.02 * RATE)
    assert bank.sounds[0].stop == pytest.approx(0.9 * RATE, abs=0.02 * RATE)
    assert len(bank.read(0)) == bank.sounds[0].length


def test_sounds_are_mixed_to_one_channel_and_resampled(tmp_path):
    write_noise(tmp_path / "bark" / "deep" / "a.flac", rate=44100, channels=2)
    bank = sounds_from_folder(tmp_path, RATE).measure()
    assert bank.sounds[0].name == "bark/deep/a.flac"
    samples = bank.read(0)
    assert samples.ndim == 1
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(0.4 * RATE, abs=0.02 * RATE)


def test_a_flac_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path):
    path = write_noise(tmp_path / "bark" / "a.flac")
    content = bytearray(path.read_bytes())
    content[22:26] = bytes(4)  # the number of samples
    path.write_bytes(content)
    assert sounds_from_folder(tmp_path).measure().sounds[0].length == pytest.approx(0.4 * RATE, abs=0.02 * RATE)


def test_measuring_with_workers_gives_the_same(tmp_path):
    for number in range(5):
        write_noise(tmp_path / "bark" / f"{number}.wav", before=0.01 * number)
    bank = sounds_from_folder(tmp_path)
    assert bank.measure(workers=2).sounds == bank.measure().sounds


def test_a_folder_may_be_told_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_noise(tmp_path / "sounds" / "bark" / "a.wav")
    assert sounds_from_folder("~/sounds").source == str(tmp_path / "sounds")


def test_a_sound_of_a_rate_that_no_audio_has_is_named(tmp_path):
    write_noise(tmp_path / "bark" / "a.wav", rate=24000)
    (tmp_path / "bark" / "b.wav").write_bytes(
        (tmp_path / "bark" / "a.wav").read_bytes().replace((24000).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    )
    with pytest.raises(ValueError, match=r"the sound bark/b.wav of .* 1 Hz, which is implausible"):
        sounds_from_folder(tmp_path).measure()


def test_sounds_that_are_unreadable_truncated_or_silent_are_named_all_at_once(tmp_path):
    write_noise(tmp_path / "bark" / "a.wav")
    (tmp_path / "bark" / "broken.wav").write_bytes(b"no audio")
    told = r"the sound bark/broken.wav of \S+: not readable audio, .* \(Format not recognised.\)"
    with pytest.raises(ValueError, match=f"^{told}$"):
        sounds_from_folder(tmp_path).measure()
    for name in ("half.wav", "half.ogg"):
        path = write_noise(tmp_path / "bark" / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name, samples in (("silent.wav", np.zeros(RATE)), ("empty.wav", np.zeros(0))):
        soundfile.write(tmp_path / "bark" / name, samples, RATE)
    others = "bark/empty.wav, bark/half.ogg, bark/half.wav, bark/silent.wav"
    for workers in (0, 2):
        with pytest.raises(ValueError, match=f"^{told}; 4 more cannot be used: {others}$"):
            sounds_from_folder(tmp_path).measure(workers)


def test_a_class_without_sounds_is_named(tmp_path, caplog):
    write_noise(tmp_path / "bark" / "a.wav")
    (tmp_path / "meow").mkdir()
    (tmp_path / "meow" / "a.m4a").touch()
    with pytest.raises(ValueError, match=r"class 'meow' of .* no sound for split 'all': it has no audio files"):
        sounds_from_folder(tmp_path).numbers_by_class("all", 0.2)
    assert "passing over 1 audio file of other formats, such as" in caplog.text


def test_two_classes_whose_names_differ_in_spaces_alone_are_refused(tmp_path):
    for name in ("bark", "bark "):
        write_noise(tmp_path / name / "a.wav")
    with pytest.raises(ValueError, match=r".*: two classes are called 'bark': rename one"):
        sounds_from_folder(tmp_path)


@pytest.mark.parametrize("name", [b"a\tb/a.wav", b"two\nlines/a.wav", b"caf\xe9/a.wav", b"bark/caf\xe9.wav"])
def test_names_that_tables_cannot_hold_are_refused(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ValueError, match=r"^[^\n]*: rename '[^\n]*': it is empty, not UTF-8, or has tabs"):
        sounds_from_folder(tmp_path)


def test_a_class_of_one_recording_cannot_serve_the_test_split(tmp_path):
    for name in ("a-s0.wav", "a-s1.wav"):
        write_noise(tmp_path / "bark" / name)
    bank = sounds_from_folder(tmp_path)
    assert len(bank.numbers_by_class("train", 0.2)[0]) == 2
    with pytest.raises(ValueError, match=r"its 2 file\(s\) count as 1 recording\(s\), all in other splits"):
        bank.numbers_by_class("test", 0.2)


def test_classes_that_are_not_asked_for_have_no_sounds_and_keep_their_numbers(tmp_path):
    for name in ("bark", "meow"):
        write_noise(tmp_path / name / "a.wav")
    bank = sounds_from_folder(tmp_path)
    assert [list(found) for found in bank.numbers_by_class("all", 0.2, classes=["meow"])] == [[], [1]]
    with pytest.raises(ValueError, match="has no class cow"):
        bank.numbers_by_class("all", 0.2, classes=["cow"])


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_a_folder_without_classes_is_named(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected one folder per class"):
        sounds_from_folder(tmp_path / folder)


def test_a_recording_of_two_classes_stands_in_one_split(tmp_path):
    for name in "abcdefghij":
        write_noise(tmp_path / "bark" / f"rec{name}x-s0.wav", seconds=0.05)
        write_noise(tmp_path / "growl" / f"rec{name}x-s1.wav", seconds=0.05)
    bank = sounds_from_folder(tmp_path)
    train, test = (np.concatenate(bank.numbers_by_class(split, 0.3)) for split in ("train", "test"))
    assert {bank.sounds[n].recording for n in train}.isdisjoint({bank.sounds[n].recording for n in test})
    assert len(train) + len(test) == 20
    assert 0.2 <= len(test) / 20 <= 0.6


def test_validation_takes_recordings_from_training_and_none_from_the_test(tmp_path):
    for name in "abcdefghij":
        write_noise(tmp_path / "bark" / f"rec{name}x.wav", seconds=0.05)
    for name in "ab":
        write_noise(tmp_path / "growl" / f"take{name}x.wav", seconds=0.05)
    bank = sounds_from_folder(tmp_path)
    before = bank.numbers_by_class("test", 0.2)
    parts = {split: bank.numbers_by_class(split, 0.2, 0.3) for split in ("train", "validation", "test")}
    assert [list(found) for found in parts["test"]] == [list(found) for found in before]
    assert {split: [len(found) for found in part] for split, part in parts.items()} == {
        "train": [6, 1],
        "validation": [2, 0],
        "test": [2, 1],
    }
    assert sorted(np.concatenate([number for part in parts.values() for number in part])) == list(range(12))


@pytest.mark.skipif(not EVENTS.is_dir(), reason="no isolated events at hand")
def test_train_and_test_lists_of_real_events_share_no_recording():
    bank = sounds_from_folder(EVENTS)
    train, test = (bank.numbers_by_class(split, 0.2) for split in ("train", "test"))
    recordings = [{bank.sounds[n].recording for n in np.concatenate(part)} for part in (train, test)]
    assert recordings[0].isdisjoint(recordings[1])
    assert sum(map(len, train)) + sum(map(len, test)) == len(bank.sounds) == len(list(EVENTS.glob("*/*.ogg")))
    rows = (line.split("\t") for line in (EVENTS / "SOURCE_IDS.tsv").read_text().splitlines()[1:])
    assert {sound.name: sound.recording for sound in bank.sounds} == dict(rows)
    for in_train, in_test in zip(train, test, strict=True):
        assert 0.05 <= len(in_test) / (len(in_test) + len(in_train)) <= 0.3


@pytest.fixture
def two_takes(tmp_path):
    """A folder of one class with four clips whose names do not reveal their recordings."""
    (tmp_path / "dog").mkdir()
    for name in ("red", "green", "blue", "dog-1"):
        soundfile.write(tmp_path / "dog" / f"{name}.wav", np.full(RATE // 2, 0.1), RATE)
    return tmp_path


def test_a_table_tells_which_clips_are_of_one_recording(two_takes):
    (two_takes / "SOURCE_IDS.tsv").write_text("path\tsource_id\ndog/red.wav\tone\ndog/blue.wav\tone\n\n")
    bank = sounds_from_folder(two_takes)
    assert {sound.name: sound.recording for sound in bank.sounds} == {
        "dog/red.wav": "one",
        "dog/blue.wav": "one",
        "dog/green.wav": "green",
        "dog/dog-1.wav": "dog",
    }


def test_a_table_can_tell_the_split_of_a_recording_and_leaves_all_others_where_they_were(tmp_path):
    rows = [f"bark/{name}.wav" for name in "abcdefghij"]
    (tmp_path / "bark").mkdir()
    for row in rows:
        write_noise(tmp_path / row, seconds=0.05)
    before = sounds_from_folder(tmp_path)

    def names(bank, split):
        return {bank.sounds[number].name for number in bank.numbers_by_class(split, 0.2, 0.2)[0]}

    for row in ("bark/k.wav", "bark/l.wav", "bark/m.wav"):
        write_noise(tmp_path / row, seconds=0.05)
    table = "path\tsource_id\tsplit\nbark/k.wav\tk\ttrain\nbark/l.wav\tl\tvalidation\nbark/m.wav\tm\ttest\n"
    (tmp_path / "SOURCE_IDS.tsv").write_text(table)
    bank = sounds_from_folder(tmp_path)
    for split, name in (("train", "k"), ("validation", "l"), ("test", "m")):
        assert names(bank, split) == names(before, split) | {f"bark/{name}.wav"}
    assert len(names(bank, "all")) == 13


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the columns path and source_id"),
        ("path,source_id\ndog/red.wav,one", "line 1: expected the columns path and source_id"),
        ("path\tsource_id\ndog/red.wav", "line 2: expected a path and a source_id"),
        (
            "path\tsource_id\ndog/red.wav\tone\ndog/red.wav\ttwo",
            "line 3: dog/red.wav belongs to 'two' here, but to 'one'",
        ),
        ("path\tsource_id\tsplit\ndog/red.wav\tone\tdev", "line 2: split is 'dev', expected train, validation"),
        (
            "path\tsource_id\tsplit\ndog/red.wav\tone\ttest\ndog/blue.wav\tone\ttrain",
            "line 3: 'one' has split 'train' here, but 'test' above",
        ),
        ("path\tsource_id\ndog/red.wav\t\udcff", "SOURCE_IDS.tsv: .* decode"),
    ],
)
def test_a_malformed_table_is_named(two_takes, text, message):
    (two_takes / "SOURCE_IDS.tsv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"SOURCE_IDS.tsv.*{message}" if "line" in message else message):
        sounds_from_folder(two_takes)


def encoded(seed):
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(seed).uniform(-0.5, 0.5, 8000), 16000, format="WAV")
    return stream.getvalue()


def dataset_of(rows, features):
    """A dataset with the given columns, made without an audio encoder."""
    return datasets.Dataset.from_dict(rows).cast(datasets.Features(features))


@pytest.mark.parametrize("labels", ["ClassLabel", "strings"])
def test_sounds_of_a_dataset_have_its_classes(labels):
    rows = {
        "audio": [{"bytes": encoded(seed), "path": f"clip-{seed % 2}-s{seed}.wav"} for seed in range(4)],
        "kind": ["dog", "cat", "dog", "cat"],
    }
    features = {"audio": datasets.Audio(), "kind": datasets.Value("string")}
    if labels == "ClassLabel":
        features["kind"] = datasets.ClassLabel(names=["dog", "cat"])
    dataset = dataset_of(rows, features)
    bank = sounds_from_dataset(dataset, RATE, label_column="kind").measure()
    assert bank.class_names == (("dog", "cat") if labels == "ClassLabel" else ("cat", "dog"))
    assert [bank.class_names[sound.class_id] for sound in bank.sounds] == ["dog", "cat", "dog", "cat"]
    assert len(bank.read(3)) == pytest.approx(RATE / 2, abs=0.02 * RATE)
    assert bank.sounds[0].name == "row 0 (clip-0-s0.wav)"


def test_a_column_can_tell_the_recordings():
    rows = {
        "audio": [{"bytes": encoded(seed), "path": None} for seed in range(4)],
        "label": ["a", "a", "a", "a"],
        "take": [7, 7, 8, 8],
    }
    features = {"audio": datasets.Audio(), "label": datasets.Value("string"), "take": datasets.Value("int64")}
    dataset = dataset_of(rows, features)
    bank = sounds_from_dataset(dataset, RATE, recording_column="take")
    assert [sound.recording for sound in bank.sounds] == ["7", "7", "8", "8"]
    assert len({sound.recording for sound in sounds_from_dataset(dataset, RATE).sounds}) == 4


def test_wrong_columns_of_a_dataset_are_named():
    rows = {"audio": [{"bytes": encoded(0), "path": None}], "label": [3]}
    features = {"audio": datasets.Audio(), "label": datasets.Value("int64")}
    dataset = dataset_of(rows, features)
    with pytest.raises(ValueError, match="no column 'kind': it has audio, label"):
        sounds_from_dataset(dataset, label_column="kind")
    with pytest.raises(ValueError, match="neither a ClassLabel nor strings"):
        sounds_from_dataset(dataset)


@pytest.mark.parametrize("labels", [[0, -1], [0, None], ["dog", None]])
def test_a_row_of_a_dataset_without_a_label_is_named(labels):
    named = datasets.ClassLabel(names=["dog"]) if labels[0] == 0 else datasets.Value("string")
    rows = {"audio": [{"bytes": encoded(0), "path": None}] * 2, "label": labels}
    with pytest.raises(ValueError, match="row 1 of the dataset has no label in 'label'"):
        sounds_from_dataset(dataset_of(rows, {"audio": datasets.Audio(), "label": named}))


@pytest.mark.parametrize("audio", [None, {"bytes": None, "path": None}])
def test_a_row_of_a_dataset_without_audio_is_named(audio):
    rows = {"audio": [{"bytes": encoded(0), "path": "a.wav"}, audio], "label": ["dog", "dog"]}
    dataset = dataset_of(rows, {"audio": datasets.Audio(), "label": datasets.Value("string")})
    with pytest.raises(ValueError, match="row 1 of the dataset has no audio in 'audio'"):
        sounds_from_dataset(dataset)
