import pytest

from modeling_pseldnet.tools.evaluate_files import main
from modeling_pseldnet.tools.submission import check_submission
from tests.helpers import status_of


HEADER = "frame,class,source,azimuth,distance,onscreen\n"


@pytest.fixture
def problems(tmp_path):
    """A function that returns the problems of a file with the given text, without the file's name."""

    def problems(task, text, name="mix001.csv", reference=None):
        folder = tmp_path / "submission"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        return [line.partition(f"{name}: ")[2] for line in check_submission(task, folder, reference)]

    return problems


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("dcase2023", "0,1,0,30,10\n0,1,1,-30,10\n"),
        ("dcase2023", "0,1,0,30,10,240\n"),
        ("dcase2023", "0,1,0,0.5,0.5,0.1,0\n"),
        ("dcase2024", "0,1,0,0.5,0.5,0.1,2.4\n"),
        ("dcase2024", "0,1,0,30,10,2.4\n"),
        ("dcase2025", HEADER + "0,1,0,30,240,1\n"),
        ("dcase2025", HEADER),
        ("dcase2024", ""),
    ],
)
def test_nothing_is_wrong_with_what_a_scorer_reads_as_it_is_meant(problems, task, text):
    assert problems(task, text) == []


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        ("dcase2024", "0,1,0,30,10,240\n", "look like centimetres"),
        ("dcase2024", "0,1,0,0.5,0.5,-0.1\n", "but the numbers look different"),
        ("dcase2024", "0,1,0,30,10,2.4,0\n", "but the numbers look different"),
        ("dcase2023", "0,1,0,0.53,0.17\n", "look like radians"),
        ("dcase2024", "0,1,0,30,10\n", "5 columns, which the scorer misreads"),
        ("dcase2024", "frame,class,track,azimuth,elevation,distance\n0,1,0,30,10,2\n", "line 1 is a header"),
        ("dcase2024", "0,14,0,30,10,2\n", "class 14 is out of range: classes are 0 to 12"),
        ("dcase2024", "0,1,0,30,10,2\n0,1,0,90,10,2\n", "1 row with frame, class and track of another"),
        ("dcase2023", "0.0,1.0,0.0,30,10\n", "write 3, not 3.0"),
        ("dcase2024", "0,1,0.0,30,10,2\n", "write 3, not 3.0"),
        ("dcase2024", "\ufeff0,1,0,30,10,2\n", "byte order mark"),
        ("dcase2024", "0,1,0,30,10,2\n\n1,1,0,30,10,2\n", "line 2 is empty"),
        ("dcase2025", HEADER + "\n", "line 2 is empty"),
        ("dcase2023", "0,1,30,10\n", "4 columns, which the scorer misreads"),
        ("dcase2023", "0,1,0,0.5,0.5,-0.1\n", "but the numbers look different"),
        ("dcase2024", "0,1,0,30,10,nan\n", "1 row without a distance"),
        ("dcase2024", "0,1,0,0.5,0.5,0.1,nan\n", "1 row without a distance"),
        ("dcase2023", "0,1,0,30,100\n", "elevation in"),
        ("dcase2025", "0,1,0,30,240,1\n", "line 1 is not the header"),
        ("dcase2025", HEADER + "0,1,0,30,2,1\n", "look like metres"),
        ("dcase2025", HEADER + "50,1,0,30,240,1\n", "beyond frame 49"),
        ("dcase2025", HEADER + "0,1,0,130,240,1\n", "1 azimuth beyond 90°"),
        ("dcase2025", HEADER + "0,1,0,30.5,240,1\n", "not whole"),
        ("dcase2025", HEADER + "0,1,0,30,240,3\n", "onscreen must be 0 or 1"),
        ("dcase2025", HEADER + "".join(f"0,1,{n},{n},240,1\n" for n in range(11)), "more than 10 rows"),
    ],
)
def test_what_a_scorer_would_misread_is_told(problems, task, text, told):
    (line,) = problems(task, text)
    assert told in line


def test_what_lies_beside_the_files_and_stops_a_scorer_is_told(problems, tmp_path):
    folder = tmp_path / "submission"
    (folder / "dev-test-sony").mkdir(parents=True)
    for name in ("._mix001.csv", "mix001.json", "dev-test-sony/mix002.csv"):
        (folder / name).touch()
    problems("dcase2024", "0,1,0,30,10,2.4\n")
    assert check_submission("dcase2024", folder) == [
        f"{folder / '._mix001.csv'}: not a CSV file, at which the scorer stops: remove it",
        f"{folder / 'dev-test-sony'}: a folder, at which the scorer stops: move its files to {folder}",
        f"{folder / 'mix001.json'}: not a CSV file, at which the scorer stops: remove it",
    ]


def test_files_that_are_missing_and_frames_beyond_the_end_are_told(problems, tmp_path, capsys):
    reference = tmp_path / "metadata"
    reference.mkdir()
    for name in ("mix001.csv", "mix002.csv"):
        (reference / name).write_text("0,1,0,30,10,240\n9,1,0,30,10,240\n")
    assert problems("dcase2024", "10,1,0,30,10,2.4\n", reference=[reference]) == [
        "",
        "1 row beyond frame 9, the last annotated one",
    ]
    arguments = ["--check-submission", "dcase2024", str(tmp_path / "submission"), "--reference", str(reference)]
    assert main(arguments) == 1
    assert "mix002.csv: missing" in capsys.readouterr().out
    (tmp_path / "submission/mix002.csv").write_text("")
    (tmp_path / "submission/mix001.csv").write_text("9,1,0,30,10,2.4\n")
    assert main(arguments) == 0
    assert main(["--check-submission", "dcase2020", str(tmp_path / "submission")]) == 2
    assert "task must be one of" in capsys.readouterr().err
    assert status_of(main, [*arguments, "--jackknife", "--json", "scores.json"]) == 2
    assert "--jackknife, --json: not used with --check-submission" in capsys.readouterr().err
