"""Sound events: what a data set gives, a model predicts, a metric scores and a CSV holds.

Axes: x front, y left, z up. Azimuth is counter-clockwise from the front in (-180, 180] degrees, elevation upwards in
[-90, 90] degrees. A frame is 100 ms.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from .files import write_atomically


FRAME_SECONDS = 0.1


def direction_to_vector(azimuth, elevation) -> np.ndarray:
    """Azimuth and elevation in degrees, any shape (…), to unit vectors (…, 3) in x, y, z."""
    azimuth, elevation = np.radians(azimuth), np.radians(elevation)
    return np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=-1
    )


def vector_to_direction(vector) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (…, 3) of any length to azimuth and elevation in degrees, each (…)."""
    x, y, z = np.moveaxis(np.asarray(vector), -1, 0)
    return wrap_azimuth(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def wrap_azimuth(azimuth) -> np.ndarray:
    """Any angle in degrees to the same angle in (-180, 180]."""
    azimuth = np.asarray(azimuth, dtype=np.float64)
    inside = (azimuth > -180.0) & (azimuth <= 180.0)
    return np.where(inside, azimuth, 180.0 - (180.0 - azimuth) % 360.0)


def angle_between(a, b) -> np.ndarray:
    """Angle in degrees between vectors (…, 3) and (…, 3) of any length, broadcast; accurate for small angles too."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(np.asarray(a) * b, axis=-1)))


@dataclass(frozen=True, eq=False)
class Events:
    """Active events, one row an event a frame, as columns of equal length.

    Attributes:
        frame (`np.ndarray` of int64): 100-ms frame, from 0.
        class_id (`np.ndarray` of int64): class index.
        track (`np.ndarray` of int64): tells simultaneous or successive sources of one class apart.
        azimuth, elevation (`np.ndarray` of float64): degrees.
        distance (`np.ndarray` of float64, *optional*): centimetres, as DCASE metadata has it.
        confidence (`np.ndarray` of float64, *optional*): the activity a model gave, 0 to 1.
    """

    frame: np.ndarray
    class_id: np.ndarray
    track: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    distance: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                dtype = np.int64 if field.name in ("frame", "class_id", "track") else np.float64
                object.__setattr__(self, field.name, np.asarray(value, dtype=dtype).reshape(-1))
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of events differ in length: {lengths}")

    @classmethod
    def empty(cls) -> "Events":
        """No events."""
        return cls(*([()] * 5))

    @classmethod
    def concatenate(cls, parts: Iterable["Events"]) -> "Events":
        """All rows of `parts` in order; an optional column is kept if every part has it."""
        parts = list(parts)
        if not parts:
            return cls.empty()
        names = set.intersection(*(set(part.columns()) for part in parts))
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that are present, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Events":
        """The rows picked by a mask, a slice or an index array."""
        return Events(**{name: column[rows] for name, column in self.columns().items()})

    def replace(self, **columns) -> "Events":
        """A copy with these columns changed."""
        return replace(self, **columns)

    def sort(self) -> "Events":
        """Rows by frame, then class, then track."""
        return self[np.lexsort((self.track, self.class_id, self.frame))]

    @property
    def vector(self) -> np.ndarray:
        """Unit vectors (rows, 3) towards the events."""
        return direction_to_vector(self.azimuth, self.elevation)


def read_csv(path: str | os.PathLike, coordinates: str = "polar") -> Events:
    """Reads DCASE metadata: `frame,class,track,azimuth,elevation[,distance[,sources]]`, no header.

    Rows without a track, `frame,class,azimuth,elevation` or `frame,class,x,y,z` as systems wrote them for DCASE 2020
    and 2021, are of track 0.

    Args:
        path: the file.
        coordinates: `"polar"`, or `"cartesian"` for rows `frame,class,track,x,y,z`.

    Raises:
        ValueError: the file is not text or a row is malformed; the message names file and line.
    """
    if coordinates not in ("polar", "cartesian"):
        raise ValueError(f"coordinates must be 'polar' or 'cartesian', not {coordinates!r}")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        return Events.empty()
    least = 4 if coordinates == "polar" else 5
    width = min(len(numbered[0][1].split(",")), 6)
    rows = []
    for number, line in numbered:
        cells = line.split(",")[:6]
        if len(cells) < least:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns, expected at least {least}")
        if len(cells) != width:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns where the first row has {width}")
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise ValueError(f"{path}, line {number}: not a row of numbers: {line!r}") from None
    table = np.array(rows)
    if width == least:
        table = np.insert(table, 2, 0.0, axis=1)
    for complaint, wrong in _wrong_rows(table, coordinates).items():
        if wrong.any():
            raise ValueError(f"{path}, line {numbered[int(wrong.argmax())][0]}: {complaint}")
    frame, class_id, track = table[:, :3].T
    if coordinates == "cartesian":
        return Events(frame, class_id, track, *vector_to_direction(table[:, 3:6]))
    distance = table[:, 5] if width == 6 else None
    return Events(frame, class_id, track, wrap_azimuth(table[:, 3]), table[:, 4], distance)


def _wrong_rows(table: np.ndarray, coordinates: str) -> dict[str, np.ndarray]:
    """Which rows of a table (rows, columns) break which rule."""
    numbers = table[:, :3]
    rules = {
        "a value is not finite": ~np.isfinite(table).all(1),
        "frame, class and track must be whole numbers from 0": ((numbers < 0) | (numbers % 1 != 0)).any(1),
    }
    if coordinates == "polar":
        outside = (np.abs(table[:, 3]) > 360) | (np.abs(table[:, 4]) > 90)
        rules["azimuth must be in [-360, 360] and elevation in [-90, 90] degrees"] = outside
    return rules


def write_csv(path: str | os.PathLike, events: Events) -> None:
    """Writes DCASE metadata, sorted by frame, angles to a tenth of a degree; the file appears whole or not at all."""
    events = events.sort()
    columns = [events.frame, events.class_id, events.track]
    columns += [wrap_azimuth(np.round(events.azimuth, 1)), np.round(events.elevation, 1)]
    if events.distance is not None:
        columns.append(np.round(events.distance, 2))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    text = "".join(",".join(f"{value:.10g}" for value in row) + "\n" for row in rows)
    write_atomically(path, text)
