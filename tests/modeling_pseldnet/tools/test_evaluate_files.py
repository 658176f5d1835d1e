import json
import math
from pathlib import Path

import pytest

from modeling_pseldnet.tools.evaluate_files import evaluate_files, format_scores, main
from tests.folders import SHARED
from tests.helpers import status_of


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the golden scores are not here")


@pytest.fixture
def folders(tmp_path):
    """Two reference recordings in nested folders, one predicted perfectly; a third prediction has no reference."""
    rows = "".join(f"{frame},{class_id},0,{40 * class_id},10,250\n" for frame in range(21) for class_id in (0, 1))
    files = {
        "reference/sony/fold4_room2_mix001.csv": rows,
        "reference/tau/fold4_room10_mix001.csv": rows,
        "prediction/fold4_room2_mix001.csv": rows,
        "prediction/deeper/fold4_room9_mix001.csv": rows,
        "prediction/._fold4_room2_mix001.csv": "left by another system",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def arguments(folder, *more):
    return ["--reference", str(folder / "reference"), "--prediction", str(folder / "prediction"), *more]


def test_files_are_matched_by_name_and_unmatched_ones_are_named(folders, capsys):
    main(arguments(folders, "--json", str(folders / "scores.json")))
    scores = json.loads((folders / "scores.json").read_text())
    assert scores["recordings"] == 2
    assert scores["without_prediction"] == ["fold4_room10_mix001.csv"]
    assert scores["without_reference"] == ["fold4_room9_mix001.csv"]
    assert scores["micro"]["LR"] == scores["micro"]["F"] * 3 / 4 == 1 / 2
    output = capsys.readouterr()
    assert output.err == (
        "1 recording without prediction, counted as empty: fold4_room10_mix001.csv\n"
        "1 recording without reference, left out: fold4_room9_mix001.csv\n"
    )


def test_the_table_shows_averages_rooms_and_classes(folders, capsys):
    main(arguments(folders, "--by", "room", "--average", "micro", "--jackknife", "--num-classes", "3"))
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "dcase2023, 2 recordings, 3 classes"
    assert header.split() == ["ER", "F", "LE", "LR", "SELD"]
    assert [row[:14].strip() for row in rows] == [
        "micro", "room 2 micro", "room 10 micro", "class 0", "class 1", "class 2"
    ]  # fmt: skip
    assert "0.667 [" in rows[0]
    assert rows[1].split()[3:9] == ["0.000", "[nan,", "nan]", "1.000", "[nan,", "nan]"]


def test_what_rounds_to_zero_has_no_sign_and_one_recording_no_plural(folders, capsys):
    scores = {"macro": {"F": 0.0}, "jackknife": {"macro": {"F": [-1e-4, 0.1]}}, "classwise": {"F": []}}
    assert "0.000 [0.000, 0.100]" in format_scores(scores, ["macro"])
    (folders / "reference/tau/fold4_room10_mix001.csv").unlink()
    main(arguments(folders))
    assert "dcase2023, 1 recording, 2 classes\n" in capsys.readouterr().out


def test_predictions_in_shorter_frames_are_told_in_words(folders, caplog):
    (folders / "reference/tau/fold4_room10_mix001.csv").unlink()
    path = folders / "prediction/fold4_room2_mix001.csv"
    path.write_text("".join(f"{frame},0,0,0,10,250\n" for frame in range(5 * 21)))
    evaluate_files([folders / "reference"], [folders / "prediction"])
    assert "1 of 1 predictions, such as fold4_room2_mix001.csv, are more than twice" in caplog.text


@pytest.mark.parametrize("form", ["", "foa"])
def test_subsets_with_files_of_one_name_are_told_apart_by_their_folder(tmp_path, form):
    for number, subset in enumerate(("room7", "room8")):
        rows = "".join(f"{frame},{number},0,{40 * number},10\n" for frame in range(20))
        for path in (tmp_path / "reference" / subset / "metadata", tmp_path / "prediction" / subset / form):
            path.mkdir(parents=True)
            (path / "fold1_room1_mix001.csv").write_text(rows)
    references = [tmp_path / "reference" / subset / "metadata" for subset in ("room7", "room8")]
    both = evaluate_files(references, [tmp_path / "prediction"], by="room")
    assert (both["recordings"], both["micro"]["F"], both["without_prediction"]) == (2, 1.0, [])
    assert both["room"].keys() == {"1"}
    one = evaluate_files(references[1:], [tmp_path / "prediction"])
    assert (one["recordings"], one["micro"]["F"]) == (1, 1.0)
    assert one["without_reference"] == ["room7/fold1_room1_mix001.csv"]


def test_labels_are_as_many_as_the_classes(folders, capsys):
    with pytest.raises(ValueError, match="3 classes, but 2 labels"):
        evaluate_files([folders / "reference"], [folders / "prediction"], num_classes=3, labels=["one", "two"])
    with pytest.raises(ValueError, match="the labels only name classes 0 to 0: give the labels of all"):
        evaluate_files([folders / "reference"], [folders / "prediction"], labels=["one"])
    (folders / "labels.txt").write_text("one\ntwo\n")
    options = ["--num-classes", "3", "--labels", str(folders / "labels.txt")]
    assert main(["--check-submission", "dcase2023", str(folders / "prediction"), *options]) == 2
    assert "3 classes, but 2 labels: leave the number out" in capsys.readouterr().err


@pytest.mark.parametrize("variant", ["dcase2023", "pseldnets", "dcase2024"])
def test_the_json_file_holds_every_score(folders, variant):
    main(
        arguments(folders, "--variant", variant, "--jackknife", "--by", "fold", "--json", str(folders / "scores.json"))
    )
    scores = json.loads((folders / "scores.json").read_text())
    names = {"F", "AngE", "DistE", "RelDistE", "LR", "SELD"}
    names = names if variant == "dcase2024" else {"ER", "F", "LE", "LR", "SELD"}
    for part in (scores, scores["jackknife"], scores["fold"]["4"]):
        assert part["macro"].keys() == part["micro"].keys() == part["classwise"].keys() == names
    assert all(len(values) == 2 for values in scores["classwise"].values())
    assert scores["variant"] == variant


def test_undefined_scores_are_null_in_the_json_file(folders):
    (folders / "prediction/fold4_room2_mix001.csv").write_text("")
    main(arguments(folders, "--variant", "dcase2024", "--json", str(folders / "scores.json")))
    assert json.loads((folders / "scores.json").read_text())["micro"]["AngE"] is None


def test_cartesian_predictions_score_like_polar_ones(folders):
    polar = evaluate_files([folders / "reference"], [folders / "prediction"])
    path = folders / "prediction/fold4_room2_mix001.csv"
    elevation = math.radians(10)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text(
        "".join(
            f"{','.join(row[:3])},{math.cos(math.radians(float(row[3]))) * math.cos(elevation)},"
            f"{math.sin(math.radians(float(row[3]))) * math.cos(elevation)},{math.sin(elevation)}\n"
            for row in rows
        )
    )
    (folders / "prediction/deeper/fold4_room9_mix001.csv").unlink()
    cartesian = evaluate_files([folders / "reference"], [folders / "prediction"], coordinates="cartesian")
    assert cartesian["micro"] == pytest.approx(polar["micro"], abs=1e-5)


@pytest.mark.parametrize(
    ("file", "text", "more", "message"),
    [
        ("prediction/fold4_room10_mix001.csv", "0,0,0,10,20\n1,0,0,ten,20\n", [], "fold4_room10_mix001.csv, line 2"),
        ("prediction/fold4_room10_mix001.csv", b"\xff\xfe\x00", [], "fold4_room10_mix001.csv"),
        ("prediction/twice/fold4_room2_mix001.csv", "", [], "several files are named fold4_room2_mix001.csv"),
        ("reference/mix001.csv", "", ["--by", "room"], "mix001.csv: --by room needs names with room"),
        ("reference/mix001.csv", "0,4,0,0,0\n", ["--num-classes", "3"], "reference of mix001.csv: class 4"),
        ("reference/mix001.csv", "0,0,0,0,0\n", ["--variant", "dcase2024"], "reference of mix001.csv: no distances"),
        ("reference/mix001.csv", "", ["--prediction", "nowhere"], "nowhere is not a folder"),
        ("elsewhere/mix001.csv", "", ["--reference", "elsewhere"], "has the same name as one in elsewhere"),
        ("reference/mix001.csv", "", ["--json", "nowhere/scores.json"], "nowhere is not a folder"),
        ("reference/mix001.csv", "", ["--json", "reference"], "--json reference: this is a folder"),
        ("reference/mix001.csv", "", ["--average", "median"], "invalid choice: 'median'"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_exit_status_2(folders, capsys, monkeypatch, file, text, more, message):
    monkeypatch.chdir(folders)
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert status_of(main, arguments(folders, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("pseldnet-evaluate: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_number_of_classes_is_that_of_the_references_whatever_is_predicted(folders, capsys):
    name = next((folders / "prediction").rglob("*.csv"))
    name.write_text(name.read_text() + "0,30,0,0,0,100\n")
    assert main(arguments(folders)) == 2
    error = capsys.readouterr().err
    assert f"{name}: class 30 is predicted, but the references only have classes 0" in error
    assert "--num-classes" in error
    assert main(arguments(folders, "--num-classes", "31")) == 0
    assert "31 classes" in capsys.readouterr().out


def test_classes_in_another_order_are_matched_by_name(tmp_path, capsys):
    for folder, order in (("reference", [0, 1, 2]), ("prediction", [3, 2, 0])):
        (tmp_path / folder).mkdir()
        rows = [f"{frame},{order[frame // 20]},0,30,10\n" for frame in range(60)]
        (tmp_path / folder / "a.csv").write_text("".join(rows))
    (tmp_path / "names").write_text("bell\ndoor\ndog\n")
    (tmp_path / "reversed").write_text("dog\ncat\ndoor\nbell\n")
    options = ["--labels", str(tmp_path / "names"), "--prediction-labels", str(tmp_path / "reversed")]
    given = ["--reference", str(tmp_path / "reference"), "--prediction", str(tmp_path / "prediction")]
    assert main([*given, *options, "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["macro"]["F"] == 1.0
    assert "\ndog " in capsys.readouterr().out
    (tmp_path / "prediction" / "a.csv").write_text("0,1,0,30,10\n")
    assert main([*given, *options]) == 2
    assert "prediction of a.csv: 1 of 1 classes (cat) are not among the others" in capsys.readouterr().err
    (tmp_path / "names").write_text("bell\ndoor\ndog\ncat\n")
    assert main([*given, *options]) == 0, "as the message says"


@needs_shared
def test_predictions_without_a_track_column_score_like_those_with_one():
    """Systems up to DCASE 2021 wrote `frame,class,azimuth,elevation`."""
    with_track, without = (
        evaluate_files([SHARED / "reference/metrics/reference"], [SHARED / "reference" / folder / "prediction"])
        for folder in ("metrics_distance", "metrics")
    )
    assert without == with_track


@needs_shared
def test_the_scores_of_a_real_system_are_the_official_ones():
    folder = SHARED / "real/starss22"
    expected = json.loads((folder / "expected.json").read_text())
    scores = evaluate_files(
        [folder / "metadata_dev/dev-test-sony", folder / "metadata_dev/dev-test-tau"],
        [folder / "system_output"],
        coordinates="cartesian",
    )
    assert scores["macro"] == pytest.approx(expected["macro"], abs=1e-7)
    assert scores["micro"] == pytest.approx(expected["micro"], abs=1e-7)
    assert scores["without_prediction"] == scores["without_reference"] == []
