"""Rooms: where sources can stand or move, and the responses from there to the array; and simulated rooms."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from datasets_scripts.scenes.arrays import PRESSURE_CHANNELS, diffuse_field, encode_arrivals
from datasets_scripts.scenes.recipe import RoomRecipe
from modeling_pseldnet.ambisonics import SPEED_OF_SOUND, yaw_rotation
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.tools.extras import require


# With more absorption than this, walls hardly reflect, and image sources no longer model a room.
LARGEST_ABSORPTION = 0.9
# How far a response must decay for its reverberation time to be fitted, dB.
LEAST_DECAY = 10.0
# Image sources per source position; 2 million take about a second and 400 MB.
MOST_IMAGES = 2_000_000

Images = tuple[np.ndarray, np.ndarray, np.ndarray]

_SABINE = 24 * math.log(10) / SPEED_OF_SOUND


class Room:
    """Where sources can stand or move around one array position.

    Attributes:
        paths: for each path, its points (points, 3) in metres from the array in x, y, z; a static position is a path
            of one point.
        rt60: reverberation time, seconds.
        sampling_rate: sampling rate of the responses, Hz.
        length: number of samples in the longest response.
    """

    paths: tuple[np.ndarray, ...]
    rt60: float
    sampling_rate: int
    length: int

    def responses(self, path: int, array: str = "foa", direct_only: bool = False) -> np.ndarray:
        """Return the impulse responses from each point of a path: (points, 4, samples) float32.

        `direct_only` leaves out all reflections.
        """
        raise NotImplementedError

    def choices(self, moving: bool) -> list[int]:
        """List the paths for moving or for static sources."""
        return [number for number, points in enumerate(self.paths) if (len(points) > 1) == moving]

    def describe(self) -> dict:
        """Return what a manifest says about the room, as plain values."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class SimulatedRoom(Room):
    """A shoebox room simulated by image sources.

    Attributes:
        size: length, width and height (x, y, z) in metres.
        array_position: position of the array in metres from the corner.
        array_yaw: counter-clockwise rotation of the array from the x axis of the room, degrees.
        late, early_seconds: as in `RoomRecipe`.
        seed: seed of the diffuse tails.

    Raises:
        ValueError: a response takes more than `MOST_IMAGES` image sources.
    """

    paths: tuple[np.ndarray, ...]
    rt60: float
    sampling_rate: int
    size: np.ndarray
    array_position: np.ndarray
    array_yaw: float
    late: str
    early_seconds: float
    seed: tuple[int, ...]

    def __post_init__(self):
        if 4 / 3 * self._image_order**3 > MOST_IMAGES:
            raise ValueError(
                f"a response of {self._image_seconds:.2f} s in a room of {_metres(self.size)} needs more than "
                f"{MOST_IMAGES} image sources: set rooms.late to 'diffuse', or lower rooms.rt60 or rooms.early_seconds"
            )

    def describe(self) -> dict:
        return {
            "size": self.size.round(3).tolist(),
            "array_position": self.array_position.round(3).tolist(),
            "array_yaw": round(self.array_yaw, 1),
            "rt60": round(self.rt60, 3),
        }

    @property
    def length(self) -> int:
        """Number of samples in a response, which lasts until the reverberation has fallen by 60 dB."""
        return math.ceil((self.rt60 + self._longest_delay) * self.sampling_rate)

    @cached_property
    def _longest_delay(self) -> float:
        """Seconds that sound takes to the array from the farthest point of all paths."""
        return max(np.linalg.norm(points, axis=1).max() for points in self.paths) / SPEED_OF_SOUND

    @property
    def _tail_seconds(self) -> float:
        """When the diffuse tail has taken over; it begins at half that time, but never before the direct sound."""
        return max(self.early_seconds, 2 * self._longest_delay)

    def responses(self, path: int, array: str = "foa", direct_only: bool = False) -> np.ndarray:
        tail = 0.0
        if self.late == "diffuse" and not direct_only:
            tail = self._tail(path, array)
        responses = np.stack([self._arrivals(point, array, direct_only) for point in self.paths[path]])
        return responses + tail

    def _arrivals(self, point: np.ndarray, array: str, direct_only: bool) -> np.ndarray:
        if direct_only:
            distance = np.linalg.norm(point, keepdims=True)
            direct = distance / SPEED_OF_SOUND, np.zeros(1), point[None] / distance
            return self._encode(direct, 0.0, array)
        return self._encode(self._images(point), self._reflection_gain, array)

    def _encode(self, images: Images, reflection_gain: float, array: str) -> np.ndarray:
        seconds, reflections, directions = images
        amplitudes = reflection_gain**reflections / (seconds * SPEED_OF_SOUND)
        if self.late == "diffuse":
            amplitudes *= np.where(reflections == 0, 1, np.cos(np.pi / 2 * self._late_share(seconds)))
        response = encode_arrivals(array, seconds, amplitudes, directions, self.length, self.sampling_rate)
        return response if self.late == "diffuse" else self._without_rumble(response)

    def _without_rumble(self, response: np.ndarray) -> np.ndarray:
        """High-pass a response: reflections that all keep their sign pile up below the room's lowest resonance."""
        sections = scipy.signal.butter(2, 20, "highpass", fs=self.sampling_rate, output="sos")
        return scipy.signal.sosfilt(sections, response).astype(np.float32)

    @property
    def _image_seconds(self) -> float:
        """Until when the response is made of image sources."""
        return self.rt60 if self.late == "images" else self._tail_seconds

    @property
    def _image_order(self) -> int:
        """Largest number of reflections of an image source that arrives within that time."""
        # The nearest image of order n is about n / |1 / size| away.
        return math.ceil(self._image_seconds * SPEED_OF_SOUND * np.linalg.norm(1 / self.size)) + 1

    def _images(self, point: np.ndarray) -> Images:
        """Return arrival times (n,), numbers of reflections (n,) and unit vectors (n, 3) of the image sources."""
        pyroomacoustics = require("pyroomacoustics")
        room = pyroomacoustics.ShoeBox(self.size, fs=self.sampling_rate, max_order=self._image_order)
        room.add_source(self.array_position + turned(point, self.array_yaw))
        room.add_microphone(self.array_position)
        room.image_source_model()
        source = room.sources[0]
        offsets = turned(source.images.T - self.array_position, -self.array_yaw)
        distances = np.linalg.norm(offsets, axis=1)
        near = distances <= self._image_seconds * SPEED_OF_SOUND
        near |= source.orders == 0
        distances, offsets = distances[near], offsets[near]
        return distances / SPEED_OF_SOUND, source.orders[near], offsets / distances[:, None]

    @cached_property
    def _reflection_gain(self) -> float:
        """Amplitude factor of a reflection that gives the requested RT60.

        It follows from Eyring's formula; if image sources make the whole response, it is fitted to their decay.
        """
        gain = math.sqrt(1 - eyring_absorption(self.size, self.rt60))
        if self.late == "diffuse":
            return gain
        images = self._images(self.paths[0][0])
        low, high = 0.1, 0.9999
        for _ in range(14):
            gain = (low + high) / 2
            pressure = self._encode(images, gain, "foa")[0]
            low, high = (gain, high) if decay_time(pressure**2, self.sampling_rate) < self.rt60 else (low, gain)
        return gain

    def _late_share(self, seconds: np.ndarray) -> np.ndarray:
        """Return the share of the tail: 0 in the first half of `_tail_seconds`, rising to 1 at its end."""
        return np.clip(2 * seconds / self._tail_seconds - 1, 0, 1)

    def _tail(self, path: int, array: str) -> np.ndarray:
        """Return the diffuse field of the late reverberation (4, samples).

        Its expected energy is that of the image sources it replaces, which arrive at a rate of 4 pi c^3 t^2 / V with
        an energy of (c t)^-2 exp(-t 6 ln(10) / RT60) each (Kuttruff, "Room Acoustics", chapter 4).
        """
        seconds = np.arange(self.length) / self.sampling_rate
        decay = np.exp(-3 * math.log(10) / self.rt60 * seconds)
        level = math.sqrt(4 * math.pi * SPEED_OF_SOUND / self.size.prod() / self.sampling_rate)
        field = diffuse_field(array, np.random.default_rng([*self.seed, path]), self.length, self.sampling_rate)
        return (level * decay * np.sin(np.pi / 2 * self._late_share(seconds))).astype(np.float32) * field


def pressure_energy(responses: np.ndarray, array: str) -> np.ndarray:
    """Return the energy of the sound pressure (…) in responses (…, 4, samples)."""
    return np.square(responses[..., PRESSURE_CHANNELS[array], :]).sum(-1).mean(-1)


def decay_time(energy: np.ndarray, sampling_rate: int) -> float:
    """Return the RT60 in seconds of an energy response (samples,): Schroeder integration, fitted from -5 to -35 dB.

    It is 0 if there is no decay to fit, as with a few reflections alone.
    """
    remaining = np.cumsum(energy[::-1])[::-1]
    decibels = 10 * np.log10(np.maximum(remaining, 1e-30) / max(remaining[0], 1e-30))
    fitted = np.flatnonzero((decibels <= -5) & (decibels >= -35))
    if len(fitted) < 2 or np.ptp(decibels[fitted]) < LEAST_DECAY:
        return 0.0
    slope = np.polyfit(fitted / sampling_rate, decibels[fitted], 1)[0]
    return -60 / slope


def eyring_absorption(size: np.ndarray, rt60: float) -> float:
    """Return the absorption of all walls that gives a shoebox of `size` metres this RT60 (Eyring, 1930)."""
    return 1 - math.exp(-shortest_rt60(size) * -math.log(1 - LARGEST_ABSORPTION) / rt60)


def turned(points: np.ndarray, yaw: float) -> np.ndarray:
    """Rotate points (…, 3) counter-clockwise about the z axis by `yaw` degrees."""
    return points @ yaw_rotation(yaw).T


def shortest_rt60(size: np.ndarray) -> float:
    """Return the RT60 in seconds of a shoebox whose walls absorb 90 % of the energy."""
    x, y, z = size
    surface = 2 * (x * y + y * z + z * x)
    return _SABINE * x * y * z / surface / -math.log(1 - LARGEST_ABSORPTION)


def draw_room(recipe: RoomRecipe, sampling_rate: int, seed: tuple[int, ...]) -> SimulatedRoom:
    """Draw a room, its RT60, the array and the paths.

    Raises:
        ValueError: no RT60 of the recipe is possible in the room, the recipe's distances leave no place for sources,
            or a response takes too many image sources.
    """
    generator = np.random.default_rng(seed)
    size = np.array([generator.uniform(*bounds) for bounds in recipe.size])
    shortest = shortest_rt60(size)
    if shortest > recipe.rt60[1]:
        raise ValueError(
            f"an RT60 of {recipe.rt60[1]:g} s is impossible in a room of {_metres(size)}: the shortest there is "
            f"{shortest:.2f} s; raise rooms.rt60 or make the rooms smaller"
        )
    rt60 = generator.uniform(max(recipe.rt60[0], shortest), recipe.rt60[1])
    margin = np.minimum(recipe.array_margin, size / 2)
    array_position = generator.uniform(margin, size - margin)
    height = generator.uniform(*recipe.array_height)
    array_position[2] = np.clip(height, recipe.wall_margin, size[2] - recipe.wall_margin)
    array_yaw = generator.uniform(-180, 180)
    place = _Placement(recipe, size, array_position, generator)
    statics = [place.position()[None] for _ in range(recipe.positions)]
    moves = [place.arc() if number % 2 == 0 else place.line() for number in range(recipe.paths)]
    return SimulatedRoom(
        paths=tuple(turned(points, -array_yaw) for points in statics + moves),
        rt60=rt60,
        sampling_rate=sampling_rate,
        size=size,
        array_position=array_position,
        array_yaw=array_yaw,
        late=recipe.late,
        early_seconds=recipe.early_seconds,
        seed=seed,
    )


@dataclass
class _Placement:
    """Draw positions, in metres from the array, that respect the recipe's distances."""

    recipe: RoomRecipe
    size: np.ndarray
    array_position: np.ndarray
    generator: np.random.Generator

    def position(self) -> np.ndarray:
        return self._try(self._position)

    def arc(self) -> np.ndarray:
        """Draw points around the array at one distance that span 30 to 180 degrees of azimuth."""
        return self._try(self._arc)

    def line(self) -> np.ndarray:
        """Draw points on a straight line of at least one metre, or an arc if there is no place for such a line."""
        low, high = self.recipe.distance
        # The middle of a line of one metre whose ends are as far as possible is still too near.
        if high**2 - 0.5**2 < low**2:
            return self.arc()
        return self._try(self._line, self._arc)

    def _try(self, *draws) -> np.ndarray:
        for draw in draws:
            for _ in range(1000):
                if (found := draw()) is not None:
                    return found
        low, high = self.recipe.distance
        raise ValueError(
            f"a room of {_metres(self.size)} has no place for sources {low:g} to {high:g} m from the array: lower "
            "rooms.distance, rooms.wall_margin or rooms.array_margin, widen rooms.elevation, or make the rooms larger"
        )

    def _position(self) -> np.ndarray | None:
        # Try several directions per distance; otherwise short distances, which fit in the room more often, would win.
        distance = self.generator.uniform(*self.recipe.distance)
        for _ in range(20):
            azimuth, elevation = self.generator.uniform(-180, 180), self.generator.uniform(*self.recipe.elevation)
            point = distance * direction_to_vector(azimuth, elevation)
            if self._inside(point):
                return point
        return None

    def _arc(self) -> np.ndarray | None:
        distance = self.generator.uniform(*self.recipe.distance)
        for _ in range(20):
            turn = self.generator.uniform(30, 180) * self.generator.choice([-1, 1])
            azimuth = self.generator.uniform(-180, 180) + np.linspace(0, turn, 181)
            elevation = np.linspace(*self.generator.uniform(*self.recipe.elevation, size=2), 181)
            points = distance * direction_to_vector(azimuth, elevation)
            if self._inside(points):
                return self._spaced(points)
        return None

    def _inside(self, points: np.ndarray) -> bool:
        corner = self.array_position + points
        margin = self.recipe.wall_margin
        return bool(np.all((corner >= margin) & (corner <= self.size - margin)))

    def _line(self) -> np.ndarray | None:
        start, end = self._position(), self._position()
        if start is None or end is None or np.linalg.norm(end - start) < 1:
            return None
        points = self._spaced(np.linspace(start, end, 181))
        return points if np.linalg.norm(points, axis=1).min() >= self.recipe.distance[0] else None

    def _spaced(self, points: np.ndarray) -> np.ndarray:
        """Space points evenly along a polyline, about `path_step` metres apart."""
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        count = max(2, 1 + math.ceil(along[-1] / self.recipe.path_step))
        wanted = np.linspace(0, along[-1], count)
        return np.stack([np.interp(wanted, along, axis) for axis in points.T], axis=1)


def _metres(size: np.ndarray) -> str:
    return " × ".join(f"{side:.1f}" for side in size) + " m"
