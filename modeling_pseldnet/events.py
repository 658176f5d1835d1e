"""Sound events, as annotated in data sets, predicted by models, scored by metrics and stored in CSV files.

Axes: x front, y left, z up. Azimuth is counter-clockwise from the front in (-180, 180] degrees, elevation upwards in
[-90, 90] degrees. A frame is 100 ms.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from .files import write_atomically


logger = logging.getLogger(__name__)

FRAME_SECONDS, FRAMES_PER_SECOND = 0.1, 10
# 100 hours, and more classes than any model has: a larger index must come from another column.
MAX_FRAMES, MAX_CLASSES = 3_600_000, 10_000


def count_frames(num_samples: int | np.ndarray, sampling_rate: int | np.ndarray) -> int | np.ndarray:
    """Return how many 100-ms frames the samples reach into; takes arrays or numbers."""
    return -(-FRAMES_PER_SECOND * num_samples // sampling_rate)


def feature_frames_per_label_frame(sampling_rate: int, hop_length: int) -> int:
    """Return how many feature frames, one every `hop_length` samples, there are in 100 ms, at least one."""
    return max(sampling_rate // (FRAMES_PER_SECOND * hop_length), 1)


def frames_spanned(num_feature_frames: int, sampling_rate: int, hop_length: int) -> int:
    """Return how many event frames the feature frames span, at least one; the last may be partly filled."""
    return max(-(-(num_feature_frames - 1) // feature_frames_per_label_frame(sampling_rate, hop_length)), 1)


def direction_to_vector(azimuth, elevation) -> np.ndarray:
    """Convert azimuth and elevation in degrees, of any shape (…), to unit vectors (…, 3) in x, y, z."""
    azimuth, elevation = np.radians(azimuth), np.radians(elevation)
    return np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=-1
    )


def vector_to_direction(vector) -> tuple[np.ndarray, np.ndarray]:
    """Convert vectors (…, 3) of any length to azimuth and elevation in degrees, each (…)."""
    x, y, z = np.moveaxis(np.asarray(vector), -1, 0)
    return wrap_azimuth(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def wrap_azimuth(azimuth) -> np.ndarray:
    """Wrap angles in degrees to (-180, 180]."""
    azimuth = np.asarray(azimuth, dtype=np.float64)
    inside = (azimuth > -180.0) & (azimuth <= 180.0)
    return np.where(inside, azimuth, 180.0 - (180.0 - azimuth) % 360.0)


def round_azimuth(azimuth) -> np.ndarray:
    """Round angles in degrees to a tenth, in (-180, 180], without -0."""
    return wrap_azimuth(np.round(azimuth, 1)) + 0.0


def fold_azimuth(azimuth) -> np.ndarray:
    """Mirror azimuths in degrees from behind to the front, [-90, 90], as stereo cannot tell the two apart."""
    azimuth = wrap_azimuth(azimuth)
    return np.where(azimuth > 90, 180 - azimuth, np.where(azimuth < -90, -180 - azimuth, azimuth))


def angle_between(a, b) -> np.ndarray:
    """Return the angles in degrees between vectors (…, 3) of any length, broadcast; accurate for small angles too."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(np.asarray(a) * b, axis=-1)))


@dataclass(frozen=True, eq=False)
class Events:
    """Active events as columns of equal length, one row per event and frame.

    Attributes:
        frame (`np.ndarray` of int64): 100-ms frame, from 0.
        class_id (`np.ndarray` of int64): class index.
        track (`np.ndarray` of int64): distinguishes simultaneous or successive sources of the same class.
        azimuth, elevation (`np.ndarray` of float64): degrees.
        distance (`np.ndarray` of float64, *optional*): metres, NaN if unknown; only DCASE CSV files use centimetres.
        confidence (`np.ndarray` of float64, *optional*): the predicted activity, 0 to 1.
        onscreen (`np.ndarray` of bool, *optional*): whether a forward-facing camera sees the source.
    """

    frame: np.ndarray
    class_id: np.ndarray
    track: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    distance: np.ndarray | None = None
    confidence: np.ndarray | None = None
    onscreen: np.ndarray | None = None

    def __post_init__(self):
        for name, value in self.columns().items():
            value = np.asarray(value)
            whole = name in ("frame", "class_id", "track")
            if whole and value.dtype.kind not in "iu" and not np.equal(np.mod(value, 1), 0).all():
                raise ValueError(f"{name} must hold whole numbers")
            if name == "onscreen" and not np.isin(value, (0, 1)).all():
                raise ValueError("onscreen must be 0 or 1")
            kind = np.int64 if whole else bool if name == "onscreen" else np.float64
            object.__setattr__(self, name, value.astype(kind, copy=False).reshape(-1))
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of events differ in length: {lengths}")

    @classmethod
    def empty(cls) -> "Events":
        """Return an instance without events."""
        return cls(*([()] * 5))

    @classmethod
    def concatenate(cls, parts: Iterable["Events"]) -> "Events":
        """Join the rows of `parts` in order. An optional column is kept if every part with rows has it."""
        parts = list(parts)
        parts = [part for part in parts if len(part)] or parts
        if not parts:
            return cls.empty()
        names = set.intersection(*(set(part.columns()) for part in parts))
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]] | np.ndarray) -> "Events":
        """Create events from rows `[frame, class, track, azimuth, elevation[, distance[, onscreen]]]` of equal length.

        Distances are in metres, `None` or NaN if unknown.

        Raises:
            ValueError: rows differ in length, or a value is out of range; the message names the row.
        """
        if not len(rows):
            return cls.empty()
        if any(len(row) not in (5, 6, 7) or len(row) != len(rows[0]) for row in rows):
            raise ValueError(
                "rows of events must all have the columns frame, class, track, azimuth, elevation[, distance[,"
                " onscreen]]"
            )
        try:
            table = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError("rows of events must contain only numbers") from None
        for complaint, wrong in _wrong_rows(table[:, :6], "polar").items():
            if wrong.any():
                raise ValueError(f"row {int(wrong.argmax())}: {complaint}")
        beside = dict(zip(("distance", "onscreen"), table[:, 5:].T, strict=False))
        return cls(*table[:, :3].T, wrap_azimuth(table[:, 3]), table[:, 4], **beside)

    def to_rows(self) -> list[list[float]]:
        """Return rows as [`Events.from_rows`] takes them, without `confidence`; a distance is NaN if unknown."""
        columns = [self.frame, self.class_id, self.track, self.azimuth, self.elevation]
        if self.distance is not None or self.onscreen is not None:
            columns.append(np.full(len(self), np.nan) if self.distance is None else self.distance)
        if self.onscreen is not None:
            columns.append(self.onscreen.astype(np.int64))
        return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    @classmethod
    def from_records(cls, records: Iterable[Mapping], label2id: Mapping[str, int]) -> "Events":
        """Create events from the pipeline's output or the JSON of `pseldnet-predict`, one row per trajectory point.

        Args:
            records: dicts of `label`, `track`, `confidence` and `trajectory`, as returned by [`to_records`].
            label2id: class indices by name, as in the model's config.

        Raises:
            ValueError: a label is unknown or a record incomplete.
        """
        parts = []
        for number, record in enumerate(records):
            try:
                label, points = record["label"], record["trajectory"]
                columns = {name: [point[name] for point in points] for name in ("time", "azimuth", "elevation")}
                # None becomes NaN: unknown.
                distance = np.array([point["distance"] for point in points if "distance" in point], dtype=np.float64)
                frame = np.rint(np.array(columns["time"], dtype=np.float64) / FRAME_SECONDS)
                track = int(record["track"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"record {number} is not an event of the pipeline ({error!r})") from None
            if label not in label2id:
                near = get_close_matches(str(label), label2id, n=3)
                hint = f": did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(f"record {number}: class {label!r} is not one of the {len(label2id)} classes{hint}")
            same, confidence = np.ones(len(points)), record.get("confidence")
            columns = [frame, label2id[label] * same, track * same, columns["azimuth"], columns["elevation"]]
            columns += [distance] if len(distance) == len(points) else []
            events = cls.from_rows(np.column_stack(columns)) if points else cls.empty()
            beside = {} if confidence is None else {"confidence": confidence * same}
            onscreen = [point.get("onscreen", record.get("onscreen")) for point in points]
            beside |= {} if None in onscreen else {"onscreen": onscreen}
            parts.append(events.replace(**beside))
        return cls.concatenate(parts).sort()

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns that are present, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Events":
        """Select rows by a mask, a slice or an index array."""
        return Events(**{name: column[rows] for name, column in self.columns().items()})

    def replace(self, **columns) -> "Events":
        """Return a copy with these columns replaced."""
        return replace(self, **columns)

    def sort(self) -> "Events":
        """Return the rows sorted by frame, then class, then track."""
        return self[np.lexsort((self.track, self.class_id, self.frame))]

    @property
    def vector(self) -> np.ndarray:
        """Unit vectors (rows, 3) in the directions of the events."""
        return direction_to_vector(self.azimuth, self.elevation)

    @property
    def max_overlap(self) -> int:
        """The largest number of simultaneous events, 0 if there are none."""
        return int(np.bincount(self.frame).max(initial=0))


# Known column names of a CSV header; DCASE 2025 has `frame,class,source,azimuth,distance,onscreen`.
COLUMN_NAMES = {
    "frame": "frame", "class": "class", "class_id": "class", "track": "track", "source": "track", "azimuth": "azimuth",
    "elevation": "elevation", "distance": "distance", "x": "x", "y": "y", "z": "z", "onscreen": "onscreen",
}  # fmt: skip
HEADER_2025 = "frame,class,source,azimuth,distance,onscreen"
# Columns of files without a header, by coordinates and the number of columns.
POLAR, CARTESIAN = ["azimuth", "elevation"], ["x", "y", "z"]
LAYOUTS = {
    "polar": {
        4: ["frame", "class", *POLAR],
        5: ["frame", "class", "track", *POLAR],
        6: ["frame", "class", "track", *POLAR, "distance"],
        7: ["frame", "class", "track", *POLAR, "distance", "sources"],
    },
    "cartesian": {
        5: ["frame", "class", *CARTESIAN],
        6: ["frame", "class", "track", *CARTESIAN],
        7: ["frame", "class", "track", *CARTESIAN, "distance"],
    },
}
# No vector of an event is longer, even though unbounded networks exceed 1.
LONGEST_VECTOR = 1.5
# Annotated distances lie in this range.
NEAREST_METRES, FARTHEST_METRES = 0.2, 100.0


def read_csv(path: str | os.PathLike, coordinates: str = "auto") -> Events:
    """Read metadata or predictions in one of the DCASE layouts.

    - `frame,class,track,azimuth,elevation[,distance in cm[,sources]]`, as in all data sets;
    - `frame,class,track,x,y,z[,distance in m]`, vectors, as written by the baselines of 2022 and 2024;
    - `frame,class,azimuth,elevation` or `frame,class,x,y,z`, from systems for DCASE 2020 and 2021: track 0;
    - files whose header names the columns, in any order. In those of DCASE 2025,
      `frame,class,source,azimuth,distance,onscreen`, the elevation is 0.

    An unknown distance is `nan`.

    Args:
        path: the file.
        coordinates: `"polar"`, `"cartesian"` for vectors, or `"auto"`, which recognises vectors by a length of at most
            1.5: no recording has all its sources within 1.5° of the front and 1.5 cm away.

    Raises:
        ValueError: the file is not text or a row is malformed; the message names file and line.
    """
    if coordinates not in ("auto", *LAYOUTS):
        raise ValueError(f"coordinates must be 'auto', 'polar' or 'cartesian', not {coordinates!r}")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    numbered = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line.strip()]
    names = _header(path, numbered[0][1]) if numbered else None
    if names:
        numbered = numbered[1:]
    if not numbered:
        return Events.empty()
    table = _numbers(path, numbered, len(names) if names else None)
    if names is None:
        coordinates, names = _layout(path, table, coordinates)
    columns = dict.fromkeys(("track", "elevation"), np.zeros(len(table))) | dict(zip(names, table.T, strict=False))
    coordinates, direction = ("cartesian", CARTESIAN) if "x" in columns else ("polar", POLAR)
    table = np.stack([columns[name] for name in ("frame", "class", "track", *direction)], axis=1)
    distance = columns.get("distance")
    metres = None if distance is None else distance / (1 if coordinates == "cartesian" else 100)
    checked = table if metres is None else np.column_stack([table, metres])
    for complaint, wrong in _wrong_rows(checked, coordinates).items():
        if wrong.any():
            raise ValueError(f"{path}, line {numbered[int(wrong.argmax())][0]}: {complaint}")
    if metres is not None:
        _warn_of_units(path, metres, coordinates)
    if coordinates == "polar" and looks_like_radians(table[:, 3:]):
        logger.warning(f"{path}: angles are read as degrees, but look like radians: write them in degrees")
    azimuth, elevation = table[:, 3:].T if coordinates == "polar" else vector_to_direction(table[:, 3:])
    onscreen = columns.get("onscreen")
    if onscreen is not None and not np.isin(onscreen, (0, 1)).all():
        wrong = int((~np.isin(onscreen, (0, 1))).argmax())
        raise ValueError(f"{path}, line {numbered[wrong][0]}: onscreen must be 0 or 1")
    return Events(*table[:, :3].T, wrap_azimuth(azimuth), elevation, metres, onscreen=onscreen)


def _header(path: str | os.PathLike, cells: list[str]) -> list[str] | None:
    """Return the columns that a first line names; None if it is a row of data."""
    cells = [cell.strip().lower() for cell in cells]
    if cells[0] not in COLUMN_NAMES:
        return None
    names = [COLUMN_NAMES.get(cell, cell) for cell in cells]
    if not {"frame", "class"} <= set(names) or not ({"azimuth"} <= set(names) or set(CARTESIAN) <= set(names)):
        raise ValueError(f"{path}, line 1: a header must name frame, class and azimuth, elevation or x, y, z")
    return names


def _numbers(path: str | os.PathLike, numbered: list[tuple[int, list[str]]], width: int | None) -> np.ndarray:
    """Parse rows of text to a table (rows, columns): up to six columns, or seven if all rows have seven numbers."""
    most, least = (6, 4) if width is None else (width, width)
    if width is None and all(len(cells) == 7 and _is_number(cells[6]) for _, cells in numbered):
        most = 7
    width = width or min(len(numbered[0][1]), most)
    rows = []
    for number, cells in numbered:
        cells = cells[:most]
        if len(cells) < least:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns, expected at least {least}")
        if len(cells) != width:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns where the first row has {width}")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a row of numbers: {','.join(cells)!r}") from None
    return np.array(rows)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def are_whole(numbers: np.ndarray) -> np.ndarray:
    """Return which numbers are whole, bool of the same shape; infinite ones are, NaN is not."""
    # Unlike `numbers % 1 == 0`, this does not warn of infinite numbers.
    return numbers == np.trunc(numbers)


def looks_cartesian(table: np.ndarray) -> bool:
    """Whether a table (rows, 4 to 7) without a header holds vectors rather than angles."""
    width = table.shape[1]
    if width > 5:
        length = np.linalg.norm(table[:, 3:6], axis=1)
        # With angles, the sixth column is a distance, NaN if unknown.
        length = length[~np.isnan(length)]
        # Six columns of whole numbers may be angles and a placeholder distance; with seven, no distance is so small.
        told = width == 7 or not are_whole(table[:, 3:5]).all()
        return bool(told and len(length) and ((length > 0) & (length <= LONGEST_VECTOR)).all())
    # A track is a whole number, while x is not, unless all sources lie on an axis.
    return width == 5 and bool(not are_whole(table[:, 2]).all() and (np.abs(table[:, 2:]) <= LONGEST_VECTOR).all())


def _layout(path: str | os.PathLike, table: np.ndarray, coordinates: str) -> tuple[str, list[str]]:
    """Return the coordinates and the column names of a table (rows, 4 to 7) without a header."""
    width = table.shape[1]
    found = "cartesian" if looks_cartesian(table) else "polar"
    if coordinates != "auto" and width > 5 and found != coordinates:
        logger.warning(
            f"{path}: read as {coordinates}, but its numbers look {found}: use coordinates {found!r} or 'auto'"
        )
    coordinates = found if coordinates == "auto" else coordinates
    if width not in LAYOUTS[coordinates]:
        raise ValueError(f"{path}: {width} columns, expected at least {min(LAYOUTS[coordinates])}")
    return coordinates, LAYOUTS[coordinates][width]


def looks_like_radians(angles: np.ndarray) -> bool:
    """Whether azimuths and elevations (rows, 2) fit radians, with more decimals than annotations and our own files."""
    return bool((np.abs(angles) <= (np.pi + 1e-2, np.pi / 2 + 1e-2)).all() and (np.round(angles, 1) != angles).any())


def _warn_of_units(path: str | os.PathLike, metres: np.ndarray, coordinates: str) -> None:
    """Warn if distances look like metres where centimetres are expected, or the other way round."""
    taken, other = ("metres", "centimetres") if coordinates == "cartesian" else ("centimetres", "metres")
    metres = metres[~np.isnan(metres)]
    if not len(metres):
        return
    if metres.max() < NEAREST_METRES if coordinates == "polar" else np.median(metres) > FARTHEST_METRES:
        logger.warning(f"{path}: distances are read as {taken}, but look like {other}: write them in {taken}")


def _wrong_rows(table: np.ndarray, coordinates: str) -> dict[str, np.ndarray]:
    """Return which rows of a table (rows, columns) break each rule. Angles are in degrees, any distances come last."""
    numbers, width = table[:, :3], 5 if coordinates == "polar" else 6
    rules = {
        "a value is not finite": ~np.isfinite(table[:, :width]).all(1) | np.isinf(table[:, width:]).any(1),
        "frame, class and track must be whole numbers from 0": ((numbers < 0) | ~are_whole(numbers)).any(1),
        f"frame must be below {MAX_FRAMES} (100 hours), track too": (numbers[:, [0, 2]] >= MAX_FRAMES).any(1),
        f"class must be below {MAX_CLASSES}": numbers[:, 1] >= MAX_CLASSES,
    }
    if coordinates == "polar":
        outside = (np.abs(table[:, 3]) > 360) | (np.abs(table[:, 4]) > 90)
        rules["azimuth must be in [-360, 360] and elevation in [-90, 90] degrees"] = outside
    else:
        rules["a vector of length 0 has no direction"] = ~table[:, 3:6].any(1)
    if table.shape[1] > width:
        rules["a distance is negative"] = table[:, -1] < 0
    return rules


def write_csv(path: str | os.PathLike, events: Events, layout: str = "metadata") -> None:
    """Write events in a DCASE layout, sorted by frame; the file appears whole or not at all.

    Args:
        path: the file.
        events: what to write.
        layout: `"metadata"` (default), as in all data sets: angles rounded to 0.1°, distances to 0.01 cm, `nan` if
            unknown, without that column if none is known; `"dcase2024"`, for systems of DCASE 2024: vectors, and
            distances in metres; or `"dcase2025"`: a header, whole degrees folded to the front, and centimetres.

    Raises:
        ValueError: a value is not finite, the layout is unknown, or it needs distances that an event does not have.
    """
    if layout not in ROWS:
        raise ValueError(f"layout must be one of {', '.join(ROWS)}, not {layout!r}")
    known = np.zeros(0) if events.distance is None else events.distance[~np.isnan(events.distance)]
    if layout != "metadata" and len(known) < len(events):
        raise ValueError(f"{path}: layout {layout} needs distances, but the events have none")
    if not all(np.isfinite(column).all() for column in (events.azimuth, events.elevation, known)):
        raise ValueError(f"{path}: an angle or a distance is not finite")
    events = events.sort() if len(known) else events.replace(distance=None).sort()
    columns = ROWS[layout](events if len(events) else Events.empty().replace(distance=()))
    # Adding 0 turns -0 into 0.
    rows = zip(*((column + 0).tolist() for column in columns), strict=True)
    text = "".join(",".join(f"{value:.10g}" for value in row) + "\n" for row in rows)
    write_atomically(path, f"{HEADER_2025}\n{text}" if layout == "dcase2025" else text)


def _rows_of_metadata(events: Events) -> list[np.ndarray]:
    columns = [events.frame, events.class_id, events.track]
    columns += [round_azimuth(events.azimuth), np.round(events.elevation, 1)]
    return columns if events.distance is None else [*columns, np.round(100 * events.distance, 2)]


def _rows_of_2024(events: Events) -> list[np.ndarray]:
    vectors = np.round(events.vector, 6).T
    return [events.frame, events.class_id, events.track, *vectors, np.round(events.distance, 4)]


def _rows_of_2025(events: Events) -> list[np.ndarray]:
    azimuth, centimetres = np.round(fold_azimuth(events.azimuth)), np.round(100 * events.distance)
    onscreen = np.zeros(len(events)) if events.onscreen is None else events.onscreen.astype(np.int64)
    return [events.frame, events.class_id, events.track, azimuth, centimetres, onscreen]


ROWS = {"metadata": _rows_of_metadata, "dcase2024": _rows_of_2024, "dcase2025": _rows_of_2025}
