"""Check a submission for what the official scorers of the DCASE challenges would misread, stop at or silently skip."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..events import HEADER_2025, Events, are_whole, fold_azimuth, looks_cartesian, looks_like_radians, read_csv
from ..keywords import counted
from .csv_folders import find_csv


CLIP_FRAMES_2025 = 50
# Sources in rooms are closer than the first in metres, and farther than the second in centimetres.
FAR_METRES, NEAR_CENTIMETRES = 20.0, 20.0
MOST_TRACKS_2025 = 10


class Task(NamedTuple):
    """The submission format of a challenge.

    Attributes:
        columns: the columns, for each number of them that the scorer reads correctly.
        others: what to do about files with other columns.
        header: the first line, if a header is required.
        in_metres: whether distances are in metres rather than centimetres; None if they are not scored.
    """

    columns: dict[int, str]
    others: str
    header: str | None
    in_metres: bool | None


TASKS = {
    "dcase2023": Task(
        {
            5: "frame,class,track,azimuth,elevation",
            6: "frame,class,track,azimuth,elevation,distance",
            7: "frame,class,track,x,y,z,distance",
        },
        "write frame,class,track,azimuth,elevation, with or without a distance",
        None,
        None,
    ),
    "dcase2024": Task(
        {6: "frame,class,track,azimuth,elevation,metres", 7: "frame,class,track,x,y,z,metres"},
        "write frame,class,track,x,y,z,metres, as pseldnet-predict --layout dcase2024 does",
        None,
        True,
    ),
    "dcase2025": Task(
        {6: HEADER_2025}, f"write {HEADER_2025}, as pseldnet-predict --layout dcase2025 does", HEADER_2025, False
    ),
}


def check_submission(task: str, folder: Path, reference: list[Path] | None = None, num_classes: int = 13) -> list[str]:
    """List the problems of a folder of CSV files, one per line; empty if there are none.

    Args:
        task: `"dcase2023"`, `"dcase2024"` or `"dcase2025"`.
        folder: folder with the files; the scorers open everything in it as a CSV file.
        reference: folders of the metadata, which give the expected file names and lengths.
        num_classes: number of classes of the task. Defaults to 13.

    Raises:
        NotADirectoryError: a folder does not exist.
        ValueError: the task is unknown, or a file occurs twice.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    files, expected = find_csv([folder], reference or [])
    found = [] if files else [f"{folder}: no CSV files"]
    for entry in sorted(set(folder.iterdir()) - set(files.values())):
        what = "a folder" if entry.is_dir() else "not a CSV file"
        advice = f"move its files to {folder}" if entry.is_dir() else "remove it"
        found.append(f"{entry}: {what}, at which the scorer stops: {advice}")
    found += [f"{name}: missing, and the scorer silently skips it" for name in sorted(expected.keys() - files.keys())]
    if expected:
        found += [f"{name}: no recording has this name" for name in sorted(files.keys() - expected.keys())]
    for name, path in sorted(files.items()):
        last = read_csv(expected[name]).frame.max(initial=-1) if name in expected else None
        found += [f"{path}: {problem}" for problem in _problems(TASKS[task], task, path, last, num_classes)]
    return found


def _problems(task: Task, name: str, path: Path, last_frame: int | None, num_classes: int) -> Iterator[str]:
    """Yield the problems of one file; `last_frame` is that of its reference."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if task.header is None and text.startswith("\ufeff"):
        yield "begins with a byte order mark, which the scorer cannot read: save it as UTF-8 without one"
    lines = text.removeprefix("\ufeff").splitlines()
    if empty := next((number for number, line in enumerate(lines, 1) if not line.strip()), None):
        yield f"line {empty} is empty, which the scorer cannot read: leave it out"
    lines = [line for line in lines if line.strip()]
    first = lines[0].replace(" ", "").lower() if lines else ""
    has_header = first[:1].isalpha()
    if task.header is not None and first != task.header:
        yield f"line 1 is not the header {task.header}: the scorer skips that line, whatever is in it"
        return
    if task.header is None and has_header:
        yield "line 1 is a header, which the scorer cannot read: leave it out"
    rows = lines[has_header:]
    if not rows:
        return
    widths = {line.count(",") + 1 for line in rows}
    if not widths <= task.columns.keys():
        yield f"{' or '.join(map(str, sorted(widths)))} columns, which the scorer misreads: {task.others}"
        return
    if len(widths) > 1:
        yield f"rows have {' and '.join(map(str, sorted(widths)))} columns: use one number throughout"
        return
    cartesian = widths == {7}
    try:
        table = np.array([line.split(",") for line in rows], dtype=np.float64)
        if task.header is None and looks_cartesian(table) != cartesian:
            yield f"the scorer reads the columns as {task.columns[table.shape[1]]}, but the numbers look different"
            return
        if task.in_metres and widths == {6}:
            events = Events.from_rows(table)
        else:
            events = read_csv(path, "cartesian" if cartesian else "polar")
    except ValueError as error:
        yield str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
        return
    if not all(cell.strip().isdecimal() for line in rows for cell in line.split(",")[:3]):
        yield "frames, classes or tracks have a decimal point, which the scorer cannot read: write 3, not 3.0"
    if task.header is None and not cartesian and looks_like_radians(table[:, 3:5]):
        yield "angles look like radians, but the scorer expects degrees"
    if task.in_metres is not None:
        distance = table[:, 4 if name == "dcase2025" else -1]
        if unknown := int(np.isnan(distance).sum()):
            yield f"{counted(unknown, 'row')} without a distance, which is scored: leave them out, or give one"
        yield from _unit_problems(task, distance)
    yield from _row_problems(name, events, table, last_frame, num_classes)


def _unit_problems(task: Task, distance: np.ndarray) -> Iterator[str]:
    if task.in_metres and np.median(distance) > FAR_METRES:
        yield f"distances up to {distance.max():g} look like centimetres, but the scorer needs metres: divide by 100"
    if not task.in_metres and distance.max() < NEAR_CENTIMETRES:
        yield f"distances up to {distance.max():g} look like metres, but the scorer needs centimetres: multiply by 100"


def _row_problems(
    name: str, events: Events, table: np.ndarray, last_frame: int | None, num_classes: int
) -> Iterator[str]:
    source = np.column_stack([events.frame, events.class_id, events.track])
    if (highest := events.class_id.max()) >= num_classes:
        yield f"class {highest} is out of range: classes are 0 to {num_classes - 1}"
    if name == "dcase2025":
        _, rows_of_class = np.unique(source[:, :2], axis=0, return_counts=True)
        if not are_whole(table).all():
            yield "some numbers are not whole, which the scorer truncates or cannot read"
        if outside := int((events.frame >= CLIP_FRAMES_2025).sum()):
            yield f"{counted(outside, 'row')} beyond frame {CLIP_FRAMES_2025 - 1}, the last of a clip"
        if folded := int((fold_azimuth(events.azimuth) != events.azimuth).sum()):
            yield f"{counted(folded, 'azimuth')} beyond 90°, scored as if folded to the front"
        if rows_of_class.max() > MOST_TRACKS_2025:
            yield f"more than {MOST_TRACKS_2025} rows per class and frame"
        return
    if repeated := len(source) - len(np.unique(source, axis=0)):
        rows = f"{counted(repeated, 'row')} with frame, class and track of another"
        yield f"{rows}: number the tracks, as some scorers keep only the last"
    if last_frame is not None and last_frame >= 0 and (beyond := int((events.frame > last_frame).sum())):
        yield f"{counted(beyond, 'row')} beyond frame {last_frame}, the last annotated one"
