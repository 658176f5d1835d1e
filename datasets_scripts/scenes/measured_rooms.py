"""Rooms with measured responses."""

import csv
import hashlib
import os
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datasets_scripts.scenes.arrays import CHANNELS
from datasets_scripts.scenes.rooms import Room, decay_time
from datasets_scripts.scenes.sounds import resampled
from modeling_pseldnet.ambisonics import FUMA_TO_AMBIX, SPEED_OF_SOUND
from modeling_pseldnet.containers import FileSamples
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.files import walk
from modeling_pseldnet.tools.extras import require


# A response begins where the pressure first reaches this level relative to its peak (ISO 3382-1).
ONSET_DB = -20.0
# How late a measured response may begin beyond the time that sound travels, seconds: half a label frame.
LATEST_ONSET = 0.05


@dataclass(frozen=True, eq=False)
class MeasuredRoom(Room):
    """A room with measured FOA responses (see [`read_measured_rooms`]).

    Attributes:
        name: the room's name in the table, or the SOFA file's.
        measured: the responses (points, 4, samples) of each path; W, Y, Z, X in SN3D.
    """

    paths: tuple[np.ndarray, ...]
    sampling_rate: int
    name: str
    measured: tuple[np.ndarray, ...]

    def describe(self) -> dict:
        return {"name": self.name, "rt60": round(self.rt60, 3)}

    @property
    def length(self) -> int:
        return max(responses.shape[2] for responses in self.measured)

    @cached_property
    def rt60(self) -> float:
        """Reverberation time in seconds, estimated from the first response."""
        return decay_time(self.measured[0][0, 0] ** 2, self.sampling_rate)

    def responses(self, path: int, array: str = "foa", direct_only: bool = False) -> np.ndarray:
        if not direct_only:
            return self.measured[path]
        return np.stack([self._direct(response) for response in self.measured[path]])

    def _direct(self, response: np.ndarray) -> np.ndarray:
        """Keep the response until 2 ms after its peak, which is before most reflections."""
        peak = np.abs(response[0]).argmax()
        return np.where(np.arange(response.shape[1]) <= peak + 0.002 * self.sampling_rate, response, np.float32(0))


def read_measured_rooms(
    folder: str | os.PathLike, sampling_rate: int, convention: str = "ambix"
) -> list[MeasuredRoom]:
    """Read rooms of measured FOA responses.

    The folder holds SOFA files, one per room, or four-channel audio files with a table `responses.csv` that has the
    columns `file, azimuth, elevation, distance` (degrees, metres) and optionally `room` and `path`. Rows of one room
    with the same `path` are, in order, the points of a trajectory; other rows are static positions. In SOFA files
    (`SingleRoomSRIR` and other conventions with `Data.IR` of four receivers) all positions are static. A response must
    begin when its source emits the sound: cut off any latency of the measurement.

    Raises:
        ValueError: there is nothing to read, a file, column or value is wrong, or a response is silent or late; the
            message names it.
    """
    folder = Path(folder)
    table = folder / "responses.csv"
    sofa_files = sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() == ".sofa")
    rows = (
        _read_table(table, convention) if table.is_file() else (row for file in sofa_files for row in _read_sofa(file))
    )
    rooms: dict[str, dict[tuple, list]] = {}
    for number, (where, room, path, position, samples, rate) in enumerate(rows):
        if convention == "fuma":
            samples = FUMA_TO_AMBIX @ samples
        samples = resampled(samples, rate, sampling_rate, where).astype(np.float32)
        _check_response(where, position, samples, sampling_rate)
        key = ("path", path) if path else ("static", number)
        rooms.setdefault(room, {}).setdefault(key, []).append((position, samples))
    if not rooms:
        raise ValueError(f"no measured responses in {folder}: expected SOFA files, or audio files with responses.csv")
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
    """Hash measured responses: the table, and the names, sizes and bytes of all files in the folder but hidden ones.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no measured responses in {folder}: there is no such folder")
    table = folder / "responses.csv"
    listing, contents = hashlib.sha256(table.read_bytes() if table.is_file() else b""), hashlib.sha256()
    for file in filter(Path.is_file, walk(folder)):
        name = file.relative_to(folder).as_posix()
        listing.update(f"\n{name} {file.stat().st_size}".encode(errors="surrogateescape"))
        contents.update(file.read_bytes())
    # Manifests of earlier versions have the first half only.
    return listing.hexdigest()[:16] + contents.hexdigest()[:16]


def is_same_digest(known: str | None, told: str | None) -> bool:
    """Whether two digests are of the same responses; the first may be partial or missing, from an earlier version."""
    return (told or "").startswith(known or "")


def _check_response(where: str, position: np.ndarray, samples: np.ndarray, sampling_rate: int) -> None:
    """Raise a `ValueError` if a response (4, samples) cannot come from a position in metres from the array."""
    distance = np.linalg.norm(position)
    if not np.isfinite(distance) or distance == 0:
        raise ValueError(f"{where}: the distance of the source must be finite and above 0 m")
    if not np.isfinite(samples).all() or not np.square(samples[0]).any():
        raise ValueError(f"{where}: the response is silent, empty or not finite")
    pressure = np.abs(samples[0])
    onset = np.argmax(pressure >= pressure.max() * 10 ** (ONSET_DB / 20)) / sampling_rate
    if (late := onset - distance / SPEED_OF_SOUND) > LATEST_ONSET:
        raise ValueError(
            f"{where}: the response starts {late:.2f} s too late for a source at {distance:.3g} m: cut that off its"
            " beginning"
        )


def _read_table(table: Path, convention: str):
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            rows = [(f"{table}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: {error}") from None
    missing = {"file", "azimuth", "elevation", "distance"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{table} has no column {sorted(missing)[0]!r}")
    for where, row in rows:
        try:
            azimuth, elevation, distance = (float(row[name]) for name in ("azimuth", "elevation", "distance"))
            with closing(FileSamples(table.parent / row["file"], row["file"])) as file:
                samples, rate = file.read(0, file.num_samples), file.rate
            if convention != "fuma" and file.is_fuma:
                raise ValueError(f"{row['file']} is marked as FuMa: set rooms.measured_convention to fuma")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        finite = np.isfinite([azimuth, elevation, distance]).all()
        if len(samples) != CHANNELS or not finite or abs(elevation) > 90 or distance <= 0:
            raise ValueError(
                f"{where}: expected {CHANNELS} channels, an azimuth, an elevation in [-90, 90] degrees and a distance"
                " above 0 m"
            )
        position = distance * direction_to_vector(azimuth, elevation)
        yield where, row.get("room") or table.parent.name, row.get("path"), position, samples, rate


def _read_sofa(file: Path):
    try:
        positions, samples, rate = _sofa_responses(file)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error.args[-1]}") from None
    for number, (position, response) in enumerate(zip(positions, samples, strict=True), 1):
        yield f"{file}, measurement {number}", file.stem, None, position, response, rate


def _sofa_responses(file: Path) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Read positions in x, y, z from the listener, responses (measurements, 4, samples) and their sampling rate."""
    h5py = require("h5py")

    with h5py.File(file) as content:
        samples = np.asarray(content["Data.IR"], dtype=np.float32)
        rate = float(np.ravel(content["Data.SamplingRate"])[0])
        sources = _sofa_metres(content, "SourcePosition")
        listeners = _sofa_metres(content, "ListenerPosition")
        axes = _sofa_axes(content)
        delays = np.rint(content["Data.Delay"]) if "Data.Delay" in content else np.zeros((1, 1))
    if samples.ndim != 3 or samples.shape[1] != CHANNELS:
        raise ValueError(f"Data.IR has shape {samples.shape}, expected (measurements, {CHANNELS}, samples)")
    positions = np.broadcast_to(sources - listeners, (len(samples), 3))
    # There is one view for all measurements, or one for each.
    axes = np.broadcast_to(axes, (len(samples), 3, 3))
    return list(np.einsum("mij,mj->mi", axes, positions)), _delayed(samples, delays, rate), rate


def _delayed(samples: np.ndarray, delays: np.ndarray, rate: float) -> np.ndarray:
    """Delay responses (measurements, channels, samples) by numbers of samples (measurements or 1, channels or 1)."""
    if not ((delays >= 0) & (delays <= rate)).all():
        raise ValueError("Data.Delay must be between 0 and 1 s")
    delays = np.broadcast_to(delays, samples.shape[:2]).astype(int)
    later = np.zeros((*samples.shape[:2], samples.shape[2] + delays.max(initial=0)), samples.dtype)
    for place in np.ndindex(delays.shape):
        later[place][delays[place] :][: samples.shape[2]] = samples[place]
    return later


def _sofa_axes(content) -> np.ndarray:
    """Return unit vectors to the listener's front, left and top, as rows: (measurements or 1, 3, 3)."""
    front, up = (
        _sofa_metres(content, name) if name in content else np.array([default])
        for name, default in (("ListenerView", [1.0, 0.0, 0.0]), ("ListenerUp", [0.0, 0.0, 1.0]))
    )
    left = np.cross(up, front)
    axes = np.stack(np.broadcast_arrays(front, left, np.cross(front, left)), axis=1)
    lengths = np.linalg.norm(axes, axis=2, keepdims=True)
    if not (lengths > 1e-6).all():
        raise ValueError("ListenerView and ListenerUp must be non-zero and not parallel")
    return axes / lengths


def _sofa_metres(content, name: str) -> np.ndarray:
    """Read positions (measurements, 3) in x, y, z, whatever their `Type` and `Units` are."""
    values = np.atleast_2d(np.asarray(content[name], dtype=np.float64))
    # `ListenerUp` has no attributes of its own but shares those of `ListenerView`.
    attributes = content["ListenerView" if name == "ListenerUp" and "ListenerView" in content else name].attrs
    kind, units = (_sofa_text(attributes.get(attribute, "")) for attribute in ("Type", "Units"))
    if kind in ("", "cartesian"):
        return values
    if kind != "spherical":
        raise ValueError(f"{name} is of type {kind}, expected cartesian or spherical")
    angles = np.degrees(values[:, :2]) if units.startswith("rad") else values[:, :2]
    return values[:, 2:3] * direction_to_vector(*angles.T)


def _sofa_text(attribute) -> str:
    """Return an attribute, which may be bytes and wrapped in an array, as text in lower case."""
    text = next(iter(np.ravel(attribute)), "")
    return (text.decode() if isinstance(text, bytes) else str(text)).strip().lower()


def _stack_padded(responses: list[np.ndarray]) -> np.ndarray:
    longest = max(response.shape[1] for response in responses)
    return np.stack([np.pad(response, ((0, 0), (0, longest - response.shape[1]))) for response in responses])
