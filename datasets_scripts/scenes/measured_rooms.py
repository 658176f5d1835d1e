"""Rooms whose responses were measured."""

import csv
import hashlib
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy

from datasets_scripts.scenes.arrays import CHANNELS
from datasets_scripts.scenes.rooms import Room, decay_time, turned
from modeling_pseldnet.ambisonics import FUMA_TO_AMBIX
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.tools.extras import require


@dataclass(frozen=True, eq=False)
class MeasuredRoom(Room):
    """FOA responses measured in a room (`read_measured_rooms`).

    Attributes:
        name: the room's name in the table, or the SOFA file's.
        measured: the responses of each path (points, 4, samples), W, Y, Z, X in SN3D.
    """

    paths: tuple[np.ndarray, ...]
    sampling_rate: int
    name: str
    measured: tuple[np.ndarray, ...]

    def describe(self) -> dict:
        return {"name": self.name, "rt60": round(self.rt60, 3)}

    @cached_property
    def rt60(self) -> float:
        """Measured on the first response."""
        return decay_time(self.measured[0][0, 0] ** 2, self.sampling_rate)

    def responses(self, path: int, array: str = "foa", direct_only: bool = False) -> np.ndarray:
        if array != "foa":
            raise ValueError("measured responses are FOA: the array format 'mic' needs simulated rooms")
        if not direct_only:
            return self.measured[path]
        return np.stack([self._direct(response) for response in self.measured[path]])

    def _direct(self, response: np.ndarray) -> np.ndarray:
        """The response until 2 ms after its strongest early arrival, before most reflections."""
        peak = np.abs(response[0]).argmax()
        return np.where(np.arange(response.shape[1]) <= peak + 0.002 * self.sampling_rate, response, np.float32(0))


def read_measured_rooms(
    folder: str | os.PathLike, sampling_rate: int, convention: str = "ambix"
) -> list[MeasuredRoom]:
    """Reads measured FOA responses.

    The folder holds SOFA files, each a room, or four-channel audio files with a table `responses.csv` of columns
    `file, azimuth, elevation, distance` (degrees, metres) and, as wanted, `room` and `path`. Rows of one room with
    the same `path` are, in their order, the points of a trajectory; other rows are static positions. In SOFA files
    (`SingleRoomSRIR` and other conventions with `Data.IR` of four receivers) all positions are static.

    Raises:
        ValueError: nothing to read, or a file, column or value is wrong; the message names it.
    """
    folder = Path(folder)
    table = folder / "responses.csv"
    sofa_files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".sofa")
    if table.is_file():
        rows = _read_table(table)
    elif sofa_files:
        rows = [row for file in sofa_files for row in _read_sofa(file)]
    else:
        raise ValueError(f"no measured responses in {folder}: expected SOFA files, or audio files with responses.csv")
    rooms: dict[str, dict[tuple, list]] = {}
    for number, (room, path, position, samples, rate) in enumerate(rows):
        if convention == "fuma":
            samples = FUMA_TO_AMBIX @ samples
        if rate != sampling_rate:
            divisor = math.gcd(rate, sampling_rate)
            samples = scipy.signal.resample_poly(samples, sampling_rate // divisor, rate // divisor, axis=1)
        key = ("path", path) if path else ("static", number)
        rooms.setdefault(room, {}).setdefault(key, []).append((position, samples.astype(np.float32)))
    return [
        MeasuredRoom(
            paths=tuple(np.stack([position for position, _ in points]) for points in paths.values()),
            sampling_rate=sampling_rate,
            name=name,
            measured=tuple(_stack_padded([samples for _, samples in points]) for points in paths.values()),
        )
        for name, paths in rooms.items()
    ]


def digest_of_responses(folder: str | os.PathLike) -> str:
    """Tells measured responses from others: by their table, and the names and sizes of all files beside it."""
    folder = Path(folder)
    table = folder / "responses.csv"
    digest = hashlib.sha256(table.read_bytes() if table.is_file() else b"")
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(
            f"\n{file.relative_to(folder).as_posix()} {file.stat().st_size}".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:16]


def _read_table(table: Path):
    import soundfile

    with open(table, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        missing = {"file", "azimuth", "elevation", "distance"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} has no column {sorted(missing)[0]!r}")
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            try:
                azimuth, elevation, distance = (float(row[name]) for name in ("azimuth", "elevation", "distance"))
                samples, rate = soundfile.read(table.parent / row["file"], dtype="float32", always_2d=True)
            except (TypeError, ValueError, OSError, soundfile.SoundFileError) as error:
                raise ValueError(f"{where}: {error}") from None
            finite = np.isfinite([azimuth, elevation, distance]).all()
            if samples.shape[1] != CHANNELS or not finite or distance <= 0:
                raise ValueError(f"{where}: expected {CHANNELS} channels, two angles and a distance above 0 m")
            position = distance * direction_to_vector(azimuth, elevation)
            yield row.get("room") or table.parent.name, row.get("path"), position, samples.T, rate


def _read_sofa(file: Path):
    h5py = require("h5py")

    with h5py.File(file) as content:
        try:
            samples = np.asarray(content["Data.IR"], dtype=np.float32)
            rate = round(float(np.ravel(content["Data.SamplingRate"])[0]))
            sources = _sofa_metres(content, "SourcePosition")
            listeners = _sofa_metres(content, "ListenerPosition")
        except KeyError as error:
            raise ValueError(f"{file}: {error.args[0]}") from None
        view = _sofa_metres(content, "ListenerView") if "ListenerView" in content else np.array([[1.0, 0.0, 0.0]])
    if samples.ndim != 3 or samples.shape[1] != CHANNELS:
        raise ValueError(f"{file}: Data.IR has shape {samples.shape}, expected (measurements, {CHANNELS}, samples)")
    positions = np.broadcast_to(sources - listeners, (len(samples), 3))
    yaws = np.broadcast_to(np.degrees(np.arctan2(view[:, 1], view[:, 0])), len(samples))
    for position, yaw, response in zip(positions, yaws, samples, strict=True):
        yield file.stem, None, turned(position, -yaw), response, rate


def _sofa_metres(content, name: str) -> np.ndarray:
    values = np.atleast_2d(np.asarray(content[name], dtype=np.float64))
    kind = content[name].attrs.get("Type", b"cartesian")
    if (kind.decode() if isinstance(kind, bytes) else str(kind)) == "spherical":
        return values[:, 2:3] * direction_to_vector(values[:, 0], values[:, 1])
    return values


def _stack_padded(responses: list[np.ndarray]) -> np.ndarray:
    longest = max(response.shape[1] for response in responses)
    return np.stack([np.pad(response, ((0, 0), (0, longest - response.shape[1]))) for response in responses])
