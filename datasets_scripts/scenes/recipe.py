"""What to synthesise: a YAML recipe read into checked dataclasses."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from datasets_scripts.yaml_recipes import build, fit, naming, read_values, recipe_text, schema_of
from modeling_pseldnet.events import FRAME_SECONDS


RECIPE_FOLDER = Path(__file__).parent / "recipes"
# The fields that name a folder.
FOLDERS = (("rooms", "measured"), ("interference", "folder"))

# Beyond these, a scene would take all memory, or forever.
MOST_METRES, MOST_PLACES, MOST_EVENTS = 1000.0, 100_000, 100
# In dB. Louder events would push the noise below the resolution that scenes are stored with.
LOUDEST_SNR = 100.0

Number = float | int
Range = tuple[Number, Number]


@strict
@dataclass
class RoomRecipe:
    """The rooms that scenes take place in; scene i uses room i modulo `number`.

    Attributes:
        number: number of rooms; all scenes in a room share its responses.
        size: ranges of length (x), width (y) and height (z), metres.
        rt60: range of the reverberation time, seconds; drawn from the part of the range that is possible in the room.
        late: `"diffuse"`, image sources up to `early_seconds`, then an exponentially decaying diffuse field, or
            `"images"`, image sources throughout, with the absorption that gives the requested RT60 (slow).
        early_seconds: when the diffuse tail takes over; at least twice the time that the farthest sound takes.
        wall_margin: minimum distance of a source from a wall, metres.
        array_margin: minimum distance of the array from a wall, metres, if the room is wide enough.
        array_height: range of the height of the array, metres.
        distance: range of the distance of a source from the array, metres. Labels are in the source's time: at 34 m, a
            frame before the sound arrives.
        elevation: range of the elevation of static sources, of arcs and of the ends of straight lines, degrees.
        positions: static source positions per room.
        paths: trajectories per room, alternately arcs around the array and straight lines, as far as there is place
            for lines of a metre.
        path_step: distance between the points of a trajectory at which responses are computed, metres. Sources are
            cross-faded between them, which dulls sounds with wavelengths below about four steps.
        measured: folder of measured FOA responses to use instead of simulated rooms (`MeasuredRoom`).
        measured_convention: channels of the measured responses, `"ambix"` (W, Y, Z, X, SN3D) or `"fuma"`
            (W, X, Y, Z, W 3 dB down).
    """

    number: int = 100
    size: tuple[Range, Range, Range] = ((4.0, 10.0), (3.5, 8.0), (2.4, 4.0))
    rt60: Range = (0.2, 2.0)
    late: Literal["diffuse", "images"] = "diffuse"
    early_seconds: Number = 0.06
    wall_margin: Number = 0.3
    array_margin: Number = 1.0
    array_height: Range = (1.0, 1.8)
    distance: Range = (0.7, 6.0)
    elevation: Range = (-45.0, 45.0)
    positions: int = 36
    paths: int = 6
    path_step: Number = 0.05
    measured: str | None = None
    measured_convention: Literal["ambix", "fuma"] = "ambix"

    def __post_init__(self):
        _check_ranges("rooms", self, "rt60", "array_height", "distance", least=0.0, most=MOST_METRES)
        _check_ranges("rooms", self, "elevation", least=-90.0, most=90.0)
        for size_range in self.size:
            _check_range("rooms.size", size_range, least=2 * self.wall_margin, most=MOST_METRES)
        if min(self.wall_margin, self.array_margin) < 0:
            raise ValueError("rooms.wall_margin and rooms.array_margin must be at least 0 m")
        if self.rt60[0] <= 0 or self.distance[0] < 0.2:
            raise ValueError("rooms.rt60 must be above 0 s and rooms.distance at least 0.2 m")
        if self.number < 1 or self.positions + self.paths < 1 or min(self.positions, self.paths) < 0:
            raise ValueError("rooms.number and rooms.positions + rooms.paths must be at least 1, and none negative")
        if self.path_step < 0.01 or not 0 < self.early_seconds <= 10:
            raise ValueError("rooms.path_step must be at least 0.01 m, rooms.early_seconds above 0 and at most 10 s")
        if max(self.number, self.positions, self.paths) > MOST_PLACES:
            raise ValueError(f"rooms.number, rooms.positions and rooms.paths must be at most {MOST_PLACES}")


@strict
@dataclass
class EventRecipe:
    """The events of a scene.

    Attributes:
        polyphony: share of scenes for each maximum number of simultaneous events.
        gap: range of the pause between successive events of a layer, seconds; a scene of polyphony n has n layers.
        seconds: shortest and longest event; a random part of a longer sound is used, a shorter one is played whole.
        snr: range of an event's level above the background noise, dB.
        classes: names of the classes to use; class indices stay the same. Defaults to all.
        class_balance: `"events"`, all classes have equally many events, or `"seconds"`, equally much time.
        sound_balance: within a class, `"sounds"` draws every sound equally often, `"recordings"` every recording.
        playback: range of the playback rate, where 1 is the original; faster sounds are shorter and higher.
        same_class: probability that an event that begins during another takes its class; otherwise, simultaneous
            events differ in class.
        separation: minimum angle between simultaneous events, degrees, if the room's positions allow it.
        moving: share of moving events.
        speed: range of the speed of moving events, metres per second.
    """

    polyphony: dict[int, Number] = field(default_factory=lambda: {1: 0.4, 2: 0.35, 3: 0.25})
    gap: Range = (0.0, 3.0)
    seconds: Range = (0.2, 8.0)
    snr: Range = (6.0, 30.0)
    classes: list[str] | None = None
    class_balance: Literal["events", "seconds"] = "events"
    sound_balance: Literal["sounds", "recordings"] = "sounds"
    playback: Range = (1.0, 1.0)
    same_class: Number = 0.1
    separation: Number = 20.0
    moving: Number = 0.5
    speed: Range = (0.3, 1.5)

    def __post_init__(self):
        _check_ranges("events", self, "gap", "seconds", least=0.0)
        _check_ranges("events", self, "snr", least=-60.0, most=LOUDEST_SNR)
        _check_ranges("events", self, "speed", least=0.01)
        _check_ranges("events", self, "playback", least=0.25, most=4.0)
        if self.seconds[1] < FRAME_SECONDS:
            raise ValueError(f"the upper bound of events.seconds must be at least {FRAME_SECONDS:g} s, a label frame")
        if not self.polyphony or min(self.polyphony) < 0 or min(self.polyphony.values()) < 0:
            raise ValueError("events.polyphony must map numbers of simultaneous events (from 0) to shares")
        if max(self.polyphony) > MOST_EVENTS:
            raise ValueError(f"events.polyphony has more than {MOST_EVENTS} simultaneous events")
        if sum(self.polyphony.values()) <= 0:
            raise ValueError("the shares of events.polyphony add up to 0: at least one must be above 0")
        for name in ("same_class", "moving"):
            _check_share(f"events.{name}", getattr(self, name))
        if self.classes is not None and not self.classes:
            raise ValueError("events.classes is empty: remove it to use all classes")


@strict
@dataclass
class NoiseRecipe:
    """The diffuse background noise, of equal power from all directions.

    Attributes:
        level: range of the RMS level of the omnidirectional channel, dB full scale; null for silence, where the level
            of events is set as if the noise were at -60 dB.
        slope: spectral slope, dB per octave, or its range over scenes; 0 is white, -3 pink, -6 brown.
        hum: share of scenes with mains hum at 50 or 60 Hz and its harmonics.
        hum_level: range of the hum's level relative to the noise, dB.
    """

    level: Range | None = (-60.0, -45.0)
    slope: Number | Range = -3.0
    hum: Number = 0.0
    hum_level: Range = (-10.0, 10.0)

    def __post_init__(self):
        if self.level is not None:
            _check_ranges("noise", self, "level", least=-150.0, most=0.0)
        if isinstance(self.slope, tuple):
            _check_ranges("noise", self, "slope", least=-24.0, most=24.0)
        _check_ranges("noise", self, "hum_level", least=-60.0, most=60.0)
        _check_share("noise.hum", self.hum)


@strict
@dataclass
class InterferenceRecipe:
    """Sounds that are heard in scenes but not labelled.

    Attributes:
        folder: their folder, arranged in sub-folders and split by recording like isolated sounds. Defaults to none.
        probability: share of scenes with such sounds.
        gap: range of the pause between one sound and the next, seconds.
        snr: range of their level above the background noise, dB.
    """

    folder: str | None = None
    probability: Number = 0.5
    gap: Range = (0.0, 5.0)
    snr: Range = (0.0, 20.0)

    def __post_init__(self):
        _check_share("interference.probability", self.probability)
        _check_ranges("interference", self, "gap", least=0.0)
        _check_ranges("interference", self, "snr", least=-60.0, most=LOUDEST_SNR)


@strict
@dataclass
class SceneRecipe:
    """How to make scenes; the defaults are those of the file `recipes/default.yaml`.

    Attributes:
        sampling_rate: sampling rate in Hz.
        scene_seconds: length of a scene.
        test_fraction: share of each class's sounds, in whole recordings, that is reserved for the test split.
        validation_fraction: share of the remaining sounds that is reserved for the validation split.
        rotation: `"yaw"` rotates each scene about the vertical axis by a random angle (FOA only); or `"none"`.
    """

    sampling_rate: int = 24000
    scene_seconds: Number = 60.0
    test_fraction: Number = 0.2
    validation_fraction: Number = 0.0
    rotation: Literal["none", "yaw"] = "none"
    rooms: RoomRecipe = field(default_factory=RoomRecipe)
    events: EventRecipe = field(default_factory=EventRecipe)
    noise: NoiseRecipe = field(default_factory=NoiseRecipe)
    interference: InterferenceRecipe = field(default_factory=InterferenceRecipe)

    def __post_init__(self):
        if not 8000 <= self.sampling_rate <= 192_000 or not 1 <= self.scene_seconds <= 3600:
            raise ValueError("sampling_rate must be 8000 to 192000 Hz and scene_seconds 1 to 3600")
        if not 0 < self.test_fraction < 1:
            raise ValueError("test_fraction must be between 0 and 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError("validation_fraction must be 0 or more and below 1")
        if self.events.moving > 0 and self.rooms.paths == 0 and not self.rooms.measured:
            raise ValueError("events.moving is above 0, but there is no path to move along: set rooms.paths above 0")
        if self.events.moving < 1 and self.rooms.positions == 0 and not self.rooms.measured:
            raise ValueError("events.moving is below 1, but there is no static position: set rooms.positions above 0")

    @property
    def scene_samples(self) -> int:
        """Number of samples in a scene."""
        return round(self.scene_seconds * self.sampling_rate)

    def check_array(self, array: str) -> None:
        """Check that scenes can be rendered for a microphone array.

        Raises:
            ValueError: the array is not `"foa"`, and scenes are rotated or responses measured, which is in FOA only.
        """
        if array != "foa" and self.rotation != "none":
            raise ValueError(f"scenes can be rotated in FOA only: set rotation to 'none' for array format {array!r}")
        if array != "foa" and self.rooms.measured:
            raise ValueError(f"measured responses are FOA: remove rooms.measured for array format {array!r}")


def read_scene_recipe(source: str | os.PathLike) -> SceneRecipe:
    """Read a scene recipe: a YAML file, or the name of a packaged recipe, such as `"default"`.

    Folders in it are relative to the working directory; the result has absolute paths.

    Raises:
        ValueError: the recipe is invalid; the message names the file and the key.
        FileNotFoundError: neither a file nor a known name.
    """
    label, values = read_values(source, RECIPE_FOLDER, schema_of(SceneRecipe))
    for section, name in FOLDERS:
        if (folder := values.get(section, {}).get(name)) is not None:
            values[section][name] = os.path.abspath(os.path.expanduser(folder))
    with naming(label):
        return build(SceneRecipe, values)


def scene_recipe_from_dict(values: dict[str, Any]) -> SceneRecipe:
    """Build a recipe from nested plain values, such as those of JSON; missing values keep their defaults.

    Raises:
        ValueError: a key is unknown, or a value is invalid.
    """
    return build(SceneRecipe, fit(values, schema_of(SceneRecipe)))


def scene_recipe_text(recipe: SceneRecipe) -> str:
    """Return a recipe as YAML that [`read_scene_recipe`] reads back."""
    return recipe_text(asdict(recipe))


def _check_ranges(section: str, owner: object, *names: str, **limits: float) -> None:
    for name in names:
        _check_range(f"{section}.{name}", getattr(owner, name), **limits)


def _check_share(name: str, value: Number) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value:g}")


def _check_range(name: str, value: Range, least: float = -float("inf"), most: float = float("inf")) -> None:
    if not least <= value[0] <= value[1] <= most:
        raise ValueError(f"{name} is {value!r}, expected a range [low, high] within [{least:g}, {most:g}]")
