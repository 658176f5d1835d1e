"""Score folders of predicted events against folders of reference events: the program `pseldnet-evaluate`."""

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..events import Events, read_csv
from ..files import write_atomically
from ..keywords import counted, first_few
from .cli import CommandParser, program, whole_number
from .csv_folders import find_csv
from .labels import class_mapping, read_labels
from .scores import VARIANTS, seld_scores
from .submission import check_submission


logger = logging.getLogger(__name__)

AVERAGES = ("macro", "micro")
# With z, what rounds to 0 has no sign.
FORMATS = {"LE": "{:z.1f}°", "AngE": "{:z.1f}°", "DistE": "{:z.2f}"}

EXAMPLE = """\
example:
  pseldnet-evaluate --reference metadata_dev/dev-test-sony metadata_dev/dev-test-tau --prediction predictions \\
      --jackknife --by room --json scores.json

DCASE CSV files at any depth of the folders are matched by file name. The scores, and how the variants differ, are
described in modeling_pseldnet/tools/scores.py. Before you submit:

  pseldnet-evaluate --check-submission dcase2024 predictions --reference metadata_dev

The DCASE variants count frames 0 to n - 1, where n is the index of the
last reference frame, as the official scorers do; pseldnets counts frame n too.
"""


def evaluate_files(
    reference: Sequence[Path],
    prediction: Sequence[Path],
    *,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    prediction_labels: Sequence[str] | None = None,
    variant: str = "dcase2023",
    jackknife: bool = False,
    by: str | None = None,
    coordinates: str = "auto",
) -> dict:
    """Score the CSV files below `prediction` folders against those of the same name below `reference` folders.

    Args:
        num_classes: number of classes. Defaults to that of `labels`, or one more than the highest class in the
            references.
        labels: class names of the task, in the order of their indices in the references.
        prediction_labels: class names of the predictions, if they or their order differ. Classes are matched by name,
            and every predicted class must be among `labels`.
        variant, jackknife: as in [`seld_scores`].
        by: `"room"` or `"fold"`, to score each separately as well; the number follows that word in the file names.
        coordinates: coordinates of the predictions, as in [`read_csv`]; references are polar.

    Returns:
        `dict`: that of [`seld_scores`], with the groups under the name `by`, and `variant`, `num_classes`, `labels`
        (if given), `recordings` (their number), `without_prediction` and `without_reference` (file names).

    Raises:
        OSError, ValueError: a folder or file is missing or malformed, or a class is not one of the task's; the message
            names it.
    """
    _refuse_other_count(num_classes, labels)
    if prediction_labels is not None and not labels:
        raise ValueError("prediction_labels (--prediction-labels) needs labels (--labels)")
    reference_paths, prediction_paths = find_csv(reference, prediction)
    if not reference_paths.keys() & prediction_paths.keys():
        raise ValueError(f"no CSV file in {_join(prediction)} has the same name as one in {_join(reference)}")
    names = sorted(reference_paths)
    groups = [_number(name, by) for name in names] if by else None
    references = _read(reference_paths, names, "polar")
    predictions = _read(prediction_paths, names, coordinates)
    if prediction_labels is not None:
        predictions = [_by_name(*pair, prediction_labels, labels) for pair in zip(names, predictions, strict=True)]
    if num_classes is None:
        num_classes = len(labels) if labels else 1 + max(int(events.class_id.max(initial=0)) for events in references)
        for name, events in zip(names, predictions, strict=True):
            if (highest := int(events.class_id.max(initial=0))) >= num_classes:
                known, advice = (
                    ("labels only name", "give the labels of all classes of the task")
                    if labels
                    else ("references only have", "set --num-classes to that of the task")
                )
                raise ValueError(
                    f"{prediction_paths[name]}: class {highest} is predicted, but the {known} classes 0 to"
                    f" {num_classes - 1}: {advice}, or leave the class out"
                )
    _warn_of_frames(names, references, predictions)
    scores = seld_scores(
        references,
        predictions,
        num_classes,
        variant=variant,
        jackknife=jackknife,
        groups=groups,
        names=names,
    )
    if by:
        scores[by] = scores.pop("groups")
    return {
        "variant": variant,
        "num_classes": num_classes,
        **({"labels": list(labels)} if labels else {}),
        "recordings": len(names),
        "without_prediction": sorted(reference_paths.keys() - prediction_paths.keys()),
        "without_reference": sorted(prediction_paths.keys() - reference_paths.keys()),
        **scores,
    }


def _refuse_other_count(num_classes: int | None, labels: Sequence[str] | None) -> None:
    if labels and num_classes not in (None, len(labels)):
        raise ValueError(f"{num_classes} classes, but {len(labels)} labels: leave the number out, or give all labels")


def _warn_of_frames(names: Sequence[str], references: Sequence[Events], predictions: Sequence[Events]) -> None:
    """Warn if predictions are more than twice as long as their references, as if their frames were shorter."""
    last, predicted = ([events.frame.max(initial=0) for events in side] for side in (references, predictions))
    longer = [name for name, a, b in zip(names, last, predicted, strict=True) if a and b > 2 * a + 10]
    if 2 * len(longer) > len(names):
        logger.warning(
            f"{len(longer)} of {len(names)} predictions, such as {longer[0]}, are more than twice as long as their"
            " references, after which nothing is scored: check that a frame is 100 ms"
        )


def _by_name(name: str, events: Events, labels: Sequence[str], of_task: Sequence[str]) -> Events:
    """Map the class indices of predictions to those of the task, by name."""
    used = np.unique(events.class_id)
    if len(used) and used[-1] >= len(labels):
        raise ValueError(
            f"prediction of {name}: class {used[-1]}, but the prediction labels only name {len(labels)} classes"
        )
    index = np.zeros(len(labels), dtype=np.int64)
    try:
        index[used] = class_mapping([labels[class_id] for class_id in used], of_task)
    except ValueError as error:
        advice = "add them at the end of --labels, as false alarms, or leave their rows out"
        raise ValueError(f"prediction of {name}: {error}: {advice}") from None
    return events.replace(class_id=index[events.class_id])


def _read(paths: dict[str, Path], names: Sequence[str], coordinates: str) -> list[Events]:
    progress = tqdm(names, desc="Reading", unit="file", leave=False, disable=None)
    return [read_csv(paths[name], coordinates) if name in paths else Events.empty() for name in progress]


def _number(name: str, word: str) -> int:
    # A folder that tells subsets apart may have a number too.
    if match := re.search(rf"{word}(\d+)", name.rpartition("/")[2]):
        return int(match[1])
    raise ValueError(f"{name}: --by {word} needs names with {word} and a number, such as {word}1")


def _join(values: Sequence) -> str:
    return ", ".join(map(str, values))


def format_scores(scores: dict, averages: Sequence[str] = AVERAGES, by: str | None = None) -> str:
    """Format the scores of [`evaluate_files`] as a table: all recordings, then each group, then each class."""
    parts = {"": scores} | {f"{by} {label} ": part for label, part in scores.get(by, {}).items()}
    table = {
        f"{label}{average}": {
            score: _format(score, value, part.get("jackknife", {}).get(average, {}).get(score))
            for score, value in part[average].items()
        }
        for label, part in parts.items()
        for average in averages
    }
    for class_id in range(len(next(iter(scores["classwise"].values())))):
        table[scores["labels"][class_id] if "labels" in scores else f"class {class_id}"] = {
            score: _format(score, values[class_id]) for score, values in scores["classwise"].items()
        }
    shown = list(dict.fromkeys(score for row in table.values() for score in row))
    columns = [["", *table]] + [[score, *(row.get(score, "") for row in table.values())] for score in shown]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join([label.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])
        for label, *numbers in zip(*columns, strict=True)
    )


def _format(score: str, value: float, interval: Sequence[float] | None = None) -> str:
    text = FORMATS.get(score, "{:z.3f}")
    value, *bounds = (text.format(number) for number in (value, *(interval or ())))
    return f"{value} [{', '.join(bounds)}]" if bounds else value


def undefined_to_none(value):
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: undefined_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [undefined_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _check(task: str, folder: str, reference: Sequence[Path] | None, num_classes: int | None) -> int:
    """Print the problems of a submission, and return 1 if there are any, otherwise 0."""
    problems = check_submission(task, Path(folder), reference, num_classes or 13)
    print("\n".join(problems) or f"{folder}: no problems found for {task}")
    return 1 if problems else 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="pseldnet-evaluate",
        description="Scores predicted sound events against reference events.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reference", type=Path, nargs="+", metavar="DIR", help="folders of DCASE CSV files")
    parser.add_argument("--prediction", type=Path, nargs="+", metavar="DIR", help="folders of DCASE CSV files")
    parser.add_argument(
        "--check-submission",
        nargs=2,
        metavar=("TASK", "DIR"),
        help="instead of scoring, list what the scorer of dcase2023, dcase2024 or dcase2025 would misread, stop"
        " at or silently skip in a folder; with --reference also which files are missing",
    )
    parser.add_argument("--variant", choices=VARIANTS, default="dcase2023", help="which scores (default: %(default)s)")
    parser.add_argument("--average", choices=AVERAGES, help="show only this average over classes (default: both)")
    parser.add_argument("--jackknife", action="store_true", help="add 95%% confidence intervals")
    parser.add_argument("--by", choices=("room", "fold"), help="also score each room or fold separately")
    parser.add_argument(
        "--num-classes",
        type=whole_number(1),
        metavar="N",
        help="number of classes (default: that of --labels, or up to the highest class in the references)",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="class names: TSV of index, MID, name, or one name per line, or the folder of a model",
    )
    parser.add_argument(
        "--prediction-labels",
        metavar="FILE",
        help="class names of the predictions, if their order differs from --labels",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores to this file")
    parser.add_argument(
        "--coordinates",
        choices=("auto", "polar", "cartesian"),
        default="auto",
        help="columns of the predictions after frame, class and track: azimuth, elevation or x, y, z"
        " (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.check_submission:
        of_scores = ("prediction", "variant", "average", "jackknife", "by", "prediction_labels", "json", "coordinates")
        parser.refuse(options, of_scores, "not used with --check-submission")
    elif not options.reference or not options.prediction:
        parser.error("give --reference and --prediction, or --check-submission")
    elif options.json and not options.json.parent.is_dir():
        parser.error(f"{options.json}: {options.json.parent} is not a folder")
    elif options.json and options.json.is_dir():
        parser.error(f"--json {options.json}: this is a folder: give a file")
    return options


@program("pseldnet-evaluate")
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pseldnet-evaluate`; returns the exit status."""
    options = parse_arguments(arguments)
    labels = read_labels(options.labels) if options.labels else None
    if options.check_submission:
        _refuse_other_count(options.num_classes, labels)
        num_classes = len(labels) if labels else options.num_classes
        return _check(*options.check_submission, options.reference, num_classes)
    scores = evaluate_files(
        options.reference,
        options.prediction,
        num_classes=options.num_classes,
        labels=labels,
        prediction_labels=read_labels(options.prediction_labels) if options.prediction_labels else None,
        variant=options.variant,
        jackknife=options.jackknife,
        by=options.by,
        coordinates=options.coordinates,
    )
    if options.json:
        write_atomically(options.json, json.dumps(undefined_to_none(scores), indent=2, allow_nan=False) + "\n")
    for what, names in (
        ("without prediction, counted as empty", scores["without_prediction"]),
        ("without reference, left out", scores["without_reference"]),
    ):
        if names:
            print(f"{counted(len(names), 'recording')} {what}: {first_few(names, 10)}", file=sys.stderr)
    counts = counted(scores["recordings"], "recording"), counted(scores["num_classes"], "class")
    print(", ".join([options.variant, *counts]))
    print(format_scores(scores, [options.average] if options.average else AVERAGES, options.by))
    return 0


if __name__ == "__main__":
    sys.exit(main())
