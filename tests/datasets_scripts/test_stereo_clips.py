import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from datasets_scripts.dcase2025_stereo import DCASE2025Stereo
from datasets_scripts.segments import SegmentedDataset
from datasets_scripts.starss23 import CLASS_NAMES
from datasets_scripts.stereo_clips import clip_events, find_pairs, main, on_screen, screen_table, to_stereo
from modeling_pseldnet.events import Events, fold_azimuth, read_csv
from tests.helpers import b_format


def test_stereo_is_that_of_the_challenge(reference):
    folder = reference / "dcase"
    arrays, expected = np.load(folder / "arrays.npz"), json.loads((folder / "expected.json").read_text())
    for degrees in expected["stereo_deg"]:
        np.testing.assert_allclose(to_stereo(arrays["foa"], degrees), arrays[f"stereo_{degrees}"], atol=1e-6)
    degrees, folded = np.array(expected["fold_azimuth"]).T
    np.testing.assert_allclose(fold_azimuth(degrees), folded)


def test_a_source_to_the_left_is_in_the_left_channel_and_in_the_middle_when_it_is_behind():
    source = np.outer([1, 1, 0, 0], np.ones(4))
    np.testing.assert_allclose(to_stereo(source, 0), [[2] * 4, [0] * 4])
    np.testing.assert_allclose(to_stereo(source, 90), [[1] * 4, [1] * 4], atol=1e-12)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "seen"),
    [(-50, 0, 1), (-51, 0, 0), (51, 0, 1), (52, 0, 0), (0, 35, 1), (0, 36, 0), (0, -34, 1), (0, -35, 0), (180, 0, 0),
     (-50, 25, 1), (40, 29, 1), (-40, 29, 0), (0, 90, 0), (0, -90, 0)],
)  # fmt: skip
def test_what_is_on_screen_is_that_of_the_table_of_the_challenge(azimuth, elevation, seen):
    assert on_screen(azimuth, elevation) == bool(seen)
    assert screen_table().sum() == 6420


def test_events_of_a_clip_turn_with_the_viewer():
    events = Events([9, 10, 59, 60], [0] * 4, [0] * 4, [0, 100, -170, 0], [0, 10, 0, 0], [1.0] * 4)
    clip = clip_events(events, 10, 20)
    assert clip.frame.tolist() == [0, 49]
    np.testing.assert_allclose(clip.azimuth, [60, -30])
    assert (clip.elevation.tolist(), clip.onscreen.tolist()) == ([0, 0], [False, False])


@pytest.fixture
def starss(tmp_path, write_text):
    """Labelled six-second recordings of quiet noise from the left, one per fold."""
    noise = 0.05 * np.random.default_rng(0).standard_normal(6 * 24000)
    rows = "".join(f"{frame},8,0,90,0,150\n" for frame in range(60))
    for name in ("dev-train-sony/fold3_room21_mix013", "dev-test-tau/fold4_room2_mix001"):
        path = tmp_path / f"STARSS23/foa_dev/{name}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.outer(noise, [1, 1, 0, 0]), 24000)
        write_text(tmp_path / f"STARSS23/metadata_dev/{name}.csv", rows)
    return tmp_path / "STARSS23"


def test_clips_have_the_layout_of_the_challenge_which_the_builder_reads(starss, tmp_path):
    output = tmp_path / "clips"
    assert main([str(starss), str(output), "--clips", "6"]) == 0
    clips = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.wav"))
    assert len(clips) == 6
    for clip in clips:
        name = clip.rpartition("/")[2]
        degrees, start = int(name[-17:-14]), int(name[-8:-4])
        waveform, rate = soundfile.read(output / clip)
        assert (waveform.shape, rate) == ((120000, 2), 24000)
        labels = read_csv(output / clip.replace("stereo_dev", "metadata_dev").replace(".wav", ".csv"))
        assert labels.frame.tolist() == list(range(50))
        assert 0 <= start <= 10
        seen = fold_azimuth(90 + degrees)
        assert abs(labels.azimuth - seen).max() <= 0.5
        balance = (waveform[:, 0] ** 2).mean() - (waveform[:, 1] ** 2).mean()
        assert abs(seen) < 3 or np.sign(balance) == np.sign(seen)
    assert main([str(starss), str(tmp_path / "again"), "--clips", "6"]) == 0
    assert (
        sorted(path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*.wav"))
        == clips
    )

    builder = DCASE2025Stereo(data_dir=output, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    splits = builder.as_dataset()
    assert sum(len(split) for split in splits.values()) == 6
    item = SegmentedDataset(splits["train"], seconds=5)[0]
    assert item["waveform"].shape == (2, 120000)
    assert (item["events"].onscreen.dtype, set(item["events"].distance)) == (bool, {1.5})


def test_sub_folders_of_audio_may_be_flattened_as_for_the_builder(starss, tmp_path):
    for path in list((starss / "foa_dev").rglob("*.wav")):
        path.rename(starss / "foa_dev" / path.name)
    assert main([str(starss), str(tmp_path / "clips"), "--clips", "2"]) == 0


def test_clips_of_a_single_synthetic_set_have_its_classes_whose_list_lies_beside_it(starss, tmp_path):
    made = tmp_path / "data" / "test2"
    for part, names in (("foa", "foa_dev"), ("metadata", "metadata_dev")):
        shutil.copytree(starss / names, made / part)
    (tmp_path / "data" / "cls_indices_test.tsv").write_text("".join(f"{n}\t-\tclass {n}\n" for n in range(9)))
    assert main([str(made), str(tmp_path / "clips"), "--clips", "2"]) == 0
    assert DCASE2025Stereo(data_dir=tmp_path / "clips").class_names == [f"class {n}" for n in range(9)]


def test_clips_with_other_classes_are_not_added(starss, tmp_path, capsys):
    output = str(tmp_path / "clips")
    assert main([str(starss), output, "--clips", "2"]) == 0
    (starss / "cls_indices_train.tsv").write_text("0\t-\tspeech\n")
    assert main([str(starss), output, "--clips", "2"]) == 2
    assert "holds clips with other classes" in capsys.readouterr().err
    rows = [f"{number}\t-\t{name}\n" for number, name in enumerate(CLASS_NAMES)]
    (starss / "cls_indices_train.tsv").write_text("".join(rows))
    assert main([str(starss), output, "--clips", "2"]) == 0


def test_clips_are_made_again_within_the_folder_of_their_recordings(starss):
    (starss / "cls_indices_train.tsv").write_text("0\t-\tspeech\n")
    for output in (starss / "stereo", starss / "stereo", starss):
        assert main([str(starss), str(output), "--clips", "2"]) == 0
        assert (output / "cls_indices_train.tsv").read_text() == "0\t-\tspeech\n"


def test_a_folder_is_known_by_its_link_beside_it_as_the_builders_know_it(starss):
    expected = find_pairs(starss)
    for name in ("foa_dev", "metadata_dev"):
        (starss / name).rename(starss / f"unpacked_{name}")
        (starss / name).symlink_to(f"unpacked_{name}")
    assert find_pairs(starss) == expected


def test_synthetic_folds_are_to_train_on_in_folders_of_the_challenge_but_not_of_the_synthesiser(starss, tmp_path):
    folders = {"challenge": ("foa_dev", "metadata_dev"), "synthesised": ("set/foa", "set/metadata")}
    splits = {}
    for name, parts in folders.items():
        for part, suffix in zip(parts, (".wav", ".csv"), strict=True):
            (tmp_path / name / part).mkdir(parents=True)
            for fold in (1, 2):
                source = next(starss.rglob(f"*{suffix}"))
                shutil.copy(source, tmp_path / name / part / f"fold{fold}_room1_mix001{suffix}")
        assert main([str(tmp_path / name), str(tmp_path / f"{name}_clips"), "--clips", "4"]) == 0
        found = DCASE2025Stereo(data_dir=tmp_path / f"{name}_clips", cache_dir=tmp_path / "cache").recordings
        splits[name] = {split: {recording.fold for recording in of_split} for split, of_split in found.items()}
    assert splits == {"challenge": {"train": {1, 2}}, "synthesised": {"test": {4}}}


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_recording_that_prediction_refuses_is_named_and_makes_no_clips(starss, tmp_path, capsys, suffix):
    for path in (starss / "foa_dev").rglob("*.wav"):
        waveform, rate = soundfile.read(path)
        path.unlink()
        if suffix == "wav":
            waveform[:, 2] = np.nan
            soundfile.write(path, waveform, rate, subtype="FLOAT")
        else:
            soundfile.write(path.with_suffix(".flac"), waveform, rate)
            path.with_suffix(".flac").write_bytes(path.with_suffix(".flac").read_bytes()[:50_000])
    assert main([str(starss), str(tmp_path / "clips")]) == 2
    told = "some samples are NaN or infinite" if suffix == "wav" else "unreadable at"
    assert re.search(rf"_mix\d+\.{suffix}.* {told}", capsys.readouterr().err)
    assert not [*tmp_path.glob("clips/*/*/*")]


def test_folders_that_make_no_clips_are_told_in_a_line(starss, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "clips")]) == 2
    (starss / "metadata_dev/dev-test-tau/fold4_room2_mix001.csv").write_text("0,8,0,90,0\n")
    assert main([str(starss), str(tmp_path / "clips")]) == 2
    (starss / "metadata_dev/dev-test-tau/fold4_room2_mix001.csv").unlink()
    assert main([str(starss), str(tmp_path / "clips")]) == 2
    (starss / "foa_dev/dev-test-tau/fold4_room2_mix001.wav").write_bytes(b_format(np.zeros((4, 100))))
    (starss / "metadata_dev/dev-test-tau/fold4_room2_mix001.csv").touch()
    assert main([str(starss), str(tmp_path / "clips")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no recordings (.wav, .flac) in a folder named 'foa_dev' or 'foa'" in lines[0]
    assert "events without a distance" in lines[1]
    assert "no labels, which should be in a folder named 'metadata_dev'" in lines[2]
    assert "fold4_room2_mix001.wav is marked as FuMa" in lines[3]
