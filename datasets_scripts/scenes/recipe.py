"""What to synthesise: a YAML recipe read into checked, frozen dataclasses."""

import os
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import yaml


RECIPE_FOLDER = Path(__file__).parent / "recipes"

Range = tuple[float, float]


@dataclass(frozen=True)
class RoomRecipe:
    """The rooms that scenes are drawn in; scene i stands in room i modulo `number`.

    Attributes:
        number: rooms; the responses of each are shared by its scenes.
        size: ranges of length (x), width (y) and height (z), metres.
        rt60: range of the reverberation time, seconds; a room that cannot be so dry gets the shortest it can have.
        late: `"diffuse"`, image sources up to `early_seconds` and an exponentially decaying diffuse field after, or
            `"images"`, image sources all the way, with the absorption that gives the asked RT60 (slow).
        early_seconds: where the diffuse tail takes over.
        wall_margin: least distance of a source from a wall, metres.
        array_margin: least distance of the array from a wall, metres, where the room is wide enough.
        array_height: range of the height of the array, metres.
        distance: range of the distance of a source from the array, metres.
        elevation: range of the elevation of static sources, degrees.
        positions: static source positions a room.
        paths: trajectories a room, in turn arcs around the array and straight lines.
        path_step: distance between the points of a trajectory that have a response of their own, metres. A source is
            cross-faded between them, which dulls sounds of wavelengths below about four steps.
        measured: folder of measured FOA responses that replaces simulated rooms (`MeasuredRoom`).
        measured_convention: channels of the measured responses, `"ambix"` (W, Y, Z, X, SN3D) or `"fuma"`
            (W, X, Y, Z, W 3 dB down).
    """

    number: int = 100
    size: tuple[Range, Range, Range] = ((4.0, 10.0), (3.5, 8.0), (2.4, 4.0))
    rt60: Range = (0.2, 2.0)
    late: str = "diffuse"
    early_seconds: float = 0.06
    wall_margin: float = 0.3
    array_margin: float = 1.0
    array_height: Range = (1.0, 1.8)
    distance: Range = (0.7, 6.0)
    elevation: Range = (-45.0, 45.0)
    positions: int = 36
    paths: int = 6
    path_step: float = 0.05
    measured: str | None = None
    measured_convention: str = "ambix"

    def __post_init__(self):
        _check_ranges(self, "rt60", "array_height", "distance", least=0.0)
        _check_ranges(self, "elevation", least=-90.0, most=90.0)
        if len(self.size) != 3:
            raise ValueError("rooms.size must be three ranges, of x, y and z")
        for size_range in self.size:
            _check_range("rooms.size", size_range, least=2 * self.wall_margin)
        if self.rt60[0] <= 0 or self.distance[0] < 0.2:
            raise ValueError("rooms.rt60 must be above 0 s and rooms.distance at least 0.2 m")
        _check_choice("rooms.late", self.late, ("diffuse", "images"))
        _check_choice("rooms.measured_convention", self.measured_convention, ("ambix", "fuma"))
        if self.number < 1 or self.positions + self.paths < 1 or min(self.positions, self.paths) < 0:
            raise ValueError("rooms.number and rooms.positions + rooms.paths must be at least 1")
        if self.path_step <= 0 or self.early_seconds <= 0:
            raise ValueError("rooms.path_step and rooms.early_seconds must be above 0")


@dataclass(frozen=True)
class EventRecipe:
    """The events of a scene.

    Attributes:
        polyphony: share of scenes by the largest number of simultaneous events.
        gap: range of the pause between successive events of a layer, seconds; a scene of polyphony n has n layers.
        seconds: shortest and longest event; longer sounds are cut at random, shorter ones are played whole.
        snr: range of an event's level above the background noise, dB.
        class_balance: `"events"`, every class begins equally often, or `"seconds"`, every class sounds equally long.
        sound_balance: `"sounds"`, every sound of a class is drawn equally often, or `"recordings"`, every recording.
        playback: range of the rate at which sounds are played, 1 for their own; faster ones are shorter and higher.
        same_class: probability that an event beginning during another takes its class; in all other cases
            simultaneous events differ in class.
        separation: least angle between simultaneous events, degrees, where the room's positions allow it.
        moving: share of moving events.
        speed: range of the speed of moving events, metres a second.
    """

    polyphony: dict[int, float] = field(default_factory=lambda: {1: 0.4, 2: 0.35, 3: 0.25})
    gap: Range = (0.0, 3.0)
    seconds: Range = (0.2, 8.0)
    snr: Range = (6.0, 30.0)
    class_balance: str = "events"
    sound_balance: str = "sounds"
    playback: Range = (1.0, 1.0)
    same_class: float = 0.1
    separation: float = 20.0
    moving: float = 0.5
    speed: Range = (0.3, 1.5)

    def __post_init__(self):
        _check_ranges(self, "gap", "seconds", least=0.0)
        _check_ranges(self, "snr", least=-60.0)
        _check_ranges(self, "speed", least=0.01)
        _check_ranges(self, "playback", least=0.25, most=4.0)
        if not self.polyphony or min(self.polyphony) < 0 or min(self.polyphony.values()) < 0:
            raise ValueError("events.polyphony must map numbers of simultaneous events (from 0) to shares")
        if sum(self.polyphony.values()) <= 0:
            raise ValueError("the shares of events.polyphony add up to 0")
        for name in ("same_class", "moving"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"events.{name} must be between 0 and 1")
        _check_choice("events.class_balance", self.class_balance, ("events", "seconds"))
        _check_choice("events.sound_balance", self.sound_balance, ("sounds", "recordings"))


@dataclass(frozen=True)
class NoiseRecipe:
    """The diffuse background noise: a field of equal power from all directions.

    Attributes:
        level: range of the RMS level of the omnidirectional channel, dB full scale; null for silence, with events
            then placed as if noise were at -60 dB.
        slope: spectral slope, dB an octave; -3 is pink.
    """

    level: Range | None = (-60.0, -45.0)
    slope: float = -3.0

    def __post_init__(self):
        if self.level is not None:
            _check_ranges(self, "level", least=-150.0, most=0.0)


@dataclass(frozen=True)
class Recipe:
    """How scenes are made; every default is that of the file `recipes/default.yaml`.

    Attributes:
        sampling_rate: Hz.
        scene_seconds: length of a scene.
        test_fraction: share of each class's recordings that only scenes of the test split use.
        validation_fraction: share of the others that only scenes of the validation split use.
        rotation: `"yaw"` turns each scene about the vertical axis by a random angle (FOA only), or `"none"`.
    """

    sampling_rate: int = 24000
    scene_seconds: float = 60.0
    test_fraction: float = 0.2
    validation_fraction: float = 0.0
    rotation: str = "none"
    rooms: RoomRecipe = field(default_factory=RoomRecipe)
    events: EventRecipe = field(default_factory=EventRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)

    def __post_init__(self):
        _check_choice("rotation", self.rotation, ("none", "yaw"))
        if self.sampling_rate < 8000 or self.scene_seconds < 1:
            raise ValueError("sampling_rate must be at least 8000 Hz and scene_seconds at least 1")
        if not 0 < self.test_fraction < 1:
            raise ValueError("test_fraction must be between 0 and 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError("validation_fraction must be 0 or more and below 1")
        if self.events.moving > 0 and self.rooms.paths == 0 and not self.rooms.measured:
            raise ValueError("events.moving is above 0, but rooms.paths is 0: nothing to move along")
        if self.events.moving < 1 and self.rooms.positions == 0 and not self.rooms.measured:
            raise ValueError("events.moving is below 1, but rooms.positions is 0: nowhere to stand")

    @property
    def scene_samples(self) -> int:
        """Samples of a scene."""
        return round(self.scene_seconds * self.sampling_rate)


def read_recipe(source: str | os.PathLike) -> Recipe:
    """Reads a recipe: a YAML file, or the name of one that comes with the package, such as `"default"`.

    Under `inherits` it may name the recipe whose values it keeps where it has none, by path, seen from its own folder,
    or by name.

    Raises:
        ValueError: the file is no YAML mapping, has an unknown key or a value out of range; the message names it.
        FileNotFoundError: neither a file nor a known name.
    """
    return _read(source, Path(), ())


def _read(source: str | os.PathLike, folder: Path, above: tuple[Path, ...]) -> Recipe:
    path = next(filter(Path.is_file, (folder / source, RECIPE_FOLDER / f"{source}.yaml")), None)
    if path is None:
        known = ", ".join(sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe {str(source)!r}: give a YAML file, or one of {known}")
    if path in above:
        raise ValueError(f"{path} inherits itself")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        inherits = values.pop("inherits", None) if isinstance(values, dict) else None
        parent = Recipe() if inherits is None else _read(inherits, path.parent, (*above, path))
        return _build(parent, values, "")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def recipe_from_dict(values: dict) -> Recipe:
    """A recipe from nested plain values, as YAML and JSON give them; what is left out keeps its default."""
    return _build(Recipe(), values, "")


def _build(default, values, where: str):
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'a recipe'} must be a mapping, not {values!r}")
    known = {entry.name: getattr(default, entry.name) for entry in fields(default)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"unknown key {where}{unknown[0]!s}; known are {', '.join(known)}")
    changes = {}
    for name, value in values.items():
        if is_dataclass(known[name]):
            changes[name] = _build(known[name], value, f"{where}{name}.")
        elif isinstance(known[name], dict):
            changes[name] = {int(key): float(share) for key, share in value.items()}
        else:
            changes[name] = _as_tuples(value)
            _check_type(f"{where}{name}", changes[name], known[name])
    return type(default)(**{**known, **changes})


def _as_tuples(value):
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def _check_type(name: str, value, default) -> None:
    number = (int, float)
    expected = {int: int, float: number, str: str, tuple: tuple}.get(type(default))
    optional = name in ("rooms.measured", "noise.level")
    if optional and value is None:
        return
    if expected is not None and (not isinstance(value, expected) or isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r}, expected something like {default!r}")


def _check_ranges(owner, *names: str, **limits: float) -> None:
    for name in names:
        _check_range(name, getattr(owner, name), **limits)


def _check_range(name: str, value, least: float = -float("inf"), most: float = float("inf")) -> None:
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, (int, float)) for end in value)
    if not pair or not least <= value[0] <= value[1] <= most:
        raise ValueError(f"{name} is {value!r}, expected a range [low, high] within [{least:g}, {most:g}]")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
