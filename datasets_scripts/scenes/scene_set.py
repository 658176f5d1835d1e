"""What happens in each scene, determined by a recipe, a seed and the scene's number alone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

from datasets_scripts.scenes.measured_rooms import digest_of_responses, is_same_digest, read_measured_rooms
from datasets_scripts.scenes.recipe import SceneRecipe, scene_recipe_from_dict
from datasets_scripts.scenes.rooms import Room, draw_room
from datasets_scripts.scenes.sounds import SPLITS, Sound, SoundBank, sounds_from_folder
from modeling_pseldnet.events import FRAME_SECONDS, Events, angle_between, vector_to_direction, wrap_azimuth


# Attempts to draw an event whose class differs from simultaneous ones before its slot is left empty.
_MOST_DRAWS = 20
_SILENT_NOISE_DB = -60.0
_ROOMS, _SCENES, NOISE, _SURROUNDINGS = range(4)
# The class of sounds that are not in the labels.
UNLABELLED = -1
# Playback rates are multiples of 1 / PLAYBACK_STEPS, for which resampling is fast.
PLAYBACK_STEPS = 40


@dataclass(frozen=True)
class SceneEvent:
    """One event of a scene.

    Attributes:
        sound: number in the bank of isolated sounds, or in that of interfering sounds if the class is `UNLABELLED`.
        class_id: index of its class, or `UNLABELLED`.
        track: the layer it belongs to; events of one layer never overlap.
        start, length: when it is active, in samples of the scene.
        offset: where in the sound it begins, in samples.
        snr: level above the background noise, dB.
        path: number of the room's path where it stands or along which it moves.
        progress: its position on the path at its start and at its end, in points of the path.
        playback: playback rate of the sound, in steps of 1 / `PLAYBACK_STEPS`.
    """

    sound: int
    class_id: int
    track: int
    start: int
    length: int
    offset: int
    snr: float
    path: int
    progress: tuple[float, float]
    playback: int = PLAYBACK_STEPS

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def source_length(self) -> int:
        """Number of samples of the sound that it plays."""
        return -(-self.length * self.playback // PLAYBACK_STEPS)

    def place(self, samples) -> np.ndarray:
        """Return its position on the path at samples of the scene (n,), in points of the path (n,)."""
        share = np.clip((np.asarray(samples, dtype=np.float64) - self.start) / self.length, 0, 1)
        return self.progress[0] + share * (self.progress[1] - self.progress[0])

    def points(self) -> range:
        """Return the points of the path whose responses it needs."""
        low, high = sorted(self.progress)
        return range(int(np.floor(low)), int(np.ceil(high)) + 1)


@dataclass(frozen=True)
class Scene:
    """One scene: everything a renderer needs besides the room and the sounds.

    Attributes:
        index: number of the scene.
        room: number of its room.
        noise_level: RMS of the background noise's sound pressure, dB full scale; `None` for no noise.
        noise_start: where in the noise bank the scene begins, as a share of the bank.
        yaw: rotation of the whole scene about the vertical axis, degrees.
        events: the labelled events, in the order they were drawn.
        interference: sounds that are heard but not labelled.
        noise_slope: slope of the noise spectrum, dB per octave; `None` if it is the same in all scenes.
        hum: frequency in Hz, level in dB above the noise, and seed of the phases; `None` for no hum.
    """

    index: int
    room: int
    noise_level: float | None
    noise_start: float
    yaw: float
    events: tuple[SceneEvent, ...]
    interference: tuple[SceneEvent, ...] = ()
    noise_slope: float | None = None
    hum: tuple[float, float, int] | None = None

    @property
    def sources(self) -> tuple[SceneEvent, ...]:
        """All sounding sources, labelled or not."""
        return self.events + self.interference

    def level(self, snr: float) -> float:
        """Return the RMS sound pressure at the array of a source that is `snr` dB above the noise."""
        return 10 ** (((_SILENT_NOISE_DB if self.noise_level is None else self.noise_level) + snr) / 20)


class SceneSet:
    """All scenes of a recipe, a seed and a split of a sound bank.

    Args:
        recipe: what to make.
        sounds: a measured sound bank at the recipe's sampling rate.
        seed: an integer of at least 0.
        split: `"train"`, `"validation"`, `"test"` or `"all"`; the first three share neither recordings nor simulated
            rooms.
        interference: the measured interfering sounds. By default, they are read from the recipe's folder.

    Raises:
        ValueError: the sounds are not measured, have another sampling rate, or are too few.
    """

    def __init__(
        self,
        recipe: SceneRecipe,
        sounds: SoundBank,
        seed: int = 0,
        split: str = "all",
        interference: SoundBank | None = None,
    ):
        if seed < 0:
            raise ValueError("seed must be 0 or above")
        if sounds.sampling_rate != recipe.sampling_rate:
            raise ValueError(f"the sounds are at {sounds.sampling_rate} Hz, the recipe at {recipe.sampling_rate} Hz")
        self.recipe, self.sounds, self.seed, self.split = recipe, sounds, seed, split
        shares = recipe.test_fraction, recipe.validation_fraction
        found = sounds.numbers_by_class(split, *shares, recipe.events.classes)
        self._by_class = [self._long_enough(numbers, sounds) for numbers in found]
        self._sound_shares = [self._shares(numbers) for numbers in self._by_class]
        weights = np.array([self._weight(class_id) for class_id in range(len(self._by_class))])
        self._class_shares = weights / weights.sum()
        self._rooms = lru_cache(maxsize=1024)(self._draw_room)
        self._measured = None
        self.interference, self._interfering = interference, np.zeros(0, int)
        if recipe.interference.folder is not None:
            self.interference = interference or read_interference(recipe)
            (numbers,) = self.interference.numbers_by_class(split, *shares)
            self._interfering = self._long_enough(numbers, self.interference)

    def __getstate__(self) -> dict:
        names = ("recipe", "sounds", "seed", "split", "interference")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def _shares(self, numbers: np.ndarray) -> np.ndarray | None:
        """Return how often each sound of a class is drawn, or `None` if all are equally likely."""
        if self.recipe.events.sound_balance == "sounds" or not len(numbers):
            return None
        recordings = [self.sounds.sounds[number].recording for number in numbers]
        takes = Counter(recordings)
        return np.array([1 / takes[recording] for recording in recordings]) / len(takes)

    def _weight(self, class_id: int) -> float:
        numbers, shares = self._by_class[class_id], self._sound_shares[class_id]
        if not len(numbers):
            return 0.0
        by_seconds = self.recipe.events.class_balance == "seconds"
        return (
            1 / np.average([self._longest(self.sounds.sounds[n]) for n in numbers], weights=shares)
            if by_seconds
            else 1.0
        )

    def _long_enough(self, numbers: np.ndarray, bank: SoundBank) -> np.ndarray:
        if not all(bank.sounds[number].length for number in numbers):
            raise ValueError(
                f"the sounds of {bank.source} are not measured: call sounds.measure() first and pass what it returns"
            )
        shortest = self.recipe.events.seconds[0] * self.recipe.sampling_rate
        kept = np.array([number for number in numbers if bank.sounds[number].length >= shortest], dtype=int)
        if len(numbers) and not len(kept):
            name = bank.class_names[bank.sounds[numbers[0]].class_id]
            raise ValueError(
                f"class {name!r} has no sound of at least {self.recipe.events.seconds[0]:g} s: lower events.seconds"
            )
        return kept

    @property
    def _shortest(self) -> int:
        return max(1, round(self.recipe.events.seconds[0] * self.recipe.sampling_rate))

    def _longest(self, sound: Sound, playback: int = PLAYBACK_STEPS) -> int:
        length = sound.length * PLAYBACK_STEPS // playback
        return min(length, round(self.recipe.events.seconds[1] * self.recipe.sampling_rate))

    def sound_numbers(self) -> np.ndarray:
        """Return the numbers of the sounds that scenes are drawn from."""
        return np.concatenate(self._by_class)

    def source_sounds(self) -> list[tuple[int, bool]]:
        """List all arguments that [`read`] may get: the number of a sound and whether it is labelled."""
        return [(int(n), True) for n in self.sound_numbers()] + [(int(n), False) for n in self._interfering]

    def sound(self, number: int, labelled: bool = True) -> Sound:
        """Return what is known of an isolated sound, or of an interfering one."""
        return (self.sounds if labelled else self.interference).sounds[number]

    def read(self, number: int, labelled: bool = True) -> np.ndarray:
        """Read an isolated sound, or an interfering one: (samples,) float32."""
        return (self.sounds if labelled else self.interference).read(number)

    def seed_of(self, stream: int, index: int) -> tuple[int, ...]:
        """Return the seed of item `index` of a stream: a room, a scene, the noise, or a scene's surroundings."""
        return (self.seed, SPLITS.index(self.split), stream, index)

    @property
    def number_of_rooms(self) -> int:
        """Number of rooms; scene i uses room i modulo this."""
        return len(self._measured_rooms()) if self.recipe.rooms.measured else self.recipe.rooms.number

    def room(self, number: int) -> Room:
        """Return room `number` with its paths; deterministic."""
        return self._rooms(number)

    def _draw_room(self, number: int) -> Room:
        if self.recipe.rooms.measured:
            return self._measured_rooms()[number]
        return draw_room(self.recipe.rooms, self.recipe.sampling_rate, self.seed_of(_ROOMS, number))

    def _measured_rooms(self) -> list[Room]:
        if self._measured is None:
            rooms = self.recipe.rooms
            self._measured = read_measured_rooms(rooms.measured, self.recipe.sampling_rate, rooms.measured_convention)
            for moving, share in ((True, self.recipe.events.moving), (False, 1 - self.recipe.events.moving)):
                for room in self._measured:
                    if share > 0 and not room.choices(moving):
                        kind = "path to move along" if moving else "static position"
                        raise ValueError(f"the measured room {room.name!r} has no {kind}: change events.moving")
        return self._measured

    def scene(self, index: int) -> Scene:
        """Draw scene `index`, which does not depend on the scenes drawn before it."""
        generator = np.random.default_rng(self.seed_of(_SCENES, index))
        recipe = self.recipe
        room_number = index % self.number_of_rooms
        shares = np.array(list(recipe.events.polyphony.values()))
        layers = generator.choice(list(recipe.events.polyphony), p=shares / shares.sum())
        level = recipe.noise.level
        noise_level = None if level is None else float(generator.uniform(*level))
        noise_start = float(generator.random())
        yaw = float(generator.uniform(-180, 180)) if recipe.rotation == "yaw" else 0.0
        events: list[SceneEvent] = []
        for track in range(layers):
            events += self._draw_layer(generator, self.room(room_number), track, tuple(events))
        scene = Scene(index, room_number, noise_level, noise_start, yaw, tuple(events))
        return replace(scene, **self._draw_surroundings(scene))

    def _draw_surroundings(self, scene: Scene) -> dict:
        """Draw noise slope, hum and interference, independently of the events, which are the same without them."""
        generator = np.random.default_rng(self.seed_of(_SURROUNDINGS, scene.index))
        noise, surroundings = self.recipe.noise, {}
        if isinstance(noise.slope, tuple):
            surroundings["noise_slope"] = float(generator.uniform(*noise.slope))
        if generator.random() < noise.hum:
            level = float(generator.uniform(*noise.hum_level))
            surroundings["hum"] = (float(generator.choice([50, 60])), level, int(generator.integers(2**31)))
        if self.interference is not None and generator.random() < self.recipe.interference.probability:
            surroundings["interference"] = tuple(self._draw_interference(generator, scene))
        return surroundings

    def _draw_interference(self, generator, scene: Scene) -> Iterator[SceneEvent]:
        rate, total, recipe = self.recipe.sampling_rate, self.recipe.scene_samples, self.recipe.interference
        start = round(generator.uniform(0, recipe.gap[1]) * rate)
        while total - start >= self._shortest:
            number = int(generator.choice(self._interfering))
            sound = self.interference.sounds[number]
            length = min(self._longest(sound), total - start)
            offset, snr = int(generator.integers(sound.length - length + 1)), float(generator.uniform(*recipe.snr))
            draft = SceneEvent(number, UNLABELLED, 0, start, length, offset, snr, -1, (0.0, 0.0))
            overlapping = [event for event in scene.events if event.start < draft.stop and start < event.stop]
            yield self._place(generator, self.room(scene.room), draft, overlapping)
            start = draft.stop + round(generator.uniform(*recipe.gap) * rate)

    def _draw_layer(self, generator, room: Room, track: int, others: tuple[SceneEvent, ...]) -> list[SceneEvent]:
        rate, total, shortest = self.recipe.sampling_rate, self.recipe.scene_samples, self._shortest
        # How far to move on if no event fits; moving by single samples would take minutes per scene.
        pause = max(shortest, round(FRAME_SECONDS * rate))
        layer = []
        # The first pause may have any length, so that layers do not begin together.
        start = round(generator.uniform(0, self.recipe.events.gap[1]) * rate)
        while total - start >= shortest:
            event = self._draw_event(generator, room, track, start, others)
            if event is not None:
                layer.append(event)
            stop = event.stop if event else start + pause
            start = stop + round(generator.uniform(*self.recipe.events.gap) * rate)
        return layer

    def _draw_event(self, generator, room: Room, track: int, start: int, others) -> SceneEvent | None:
        recipe = self.recipe.events
        begun = [other.class_id for other in others if other.start <= start < other.stop]
        same = bool(begun) and generator.random() < recipe.same_class
        for _ in range(_MOST_DRAWS):
            class_id = generator.choice(begun) if same else generator.choice(len(self._by_class), p=self._class_shares)
            sound = int(generator.choice(self._by_class[class_id], p=self._sound_shares[class_id]))
            playback = self._draw_playback(generator, sound)
            length = min(self._longest(self.sounds.sounds[sound], playback), self.recipe.scene_samples - start)
            overlapping = [other for other in others if other.start < start + length and start < other.stop]
            if sound in {other.sound for other in overlapping}:
                continue
            if same or class_id not in {other.class_id for other in overlapping}:
                break
        else:
            return None
        draft = SceneEvent(sound, int(class_id), track, start, length, 0, 0.0, -1, (0.0, 0.0), playback)
        offset = int(generator.integers(self.sounds.sounds[sound].length - draft.source_length + 1))
        snr = float(generator.uniform(*recipe.snr))
        return self._place(generator, room, replace(draft, offset=offset, snr=snr), overlapping)

    def _draw_playback(self, generator, sound: int) -> int:
        """Draw a playback rate, in steps, that does not make the sound shorter than an event may be."""
        playback = self.recipe.events.playback
        if playback == (1.0, 1.0):
            return PLAYBACK_STEPS
        rate = np.exp(generator.uniform(*np.log(playback)))
        fastest = self.sounds.sounds[sound].length * PLAYBACK_STEPS // self._shortest
        return min(round(rate * PLAYBACK_STEPS), fastest)

    def _place(self, generator, room: Room, draft: SceneEvent, overlapping: list[SceneEvent]) -> SceneEvent:
        """Put an event on a path that is far enough from simultaneous events, or as far as the room allows."""
        moving = generator.random() < self.recipe.events.moving
        samples = np.arange(draft.start, draft.stop, round(FRAME_SECONDS * self.recipe.sampling_rate))
        best, widest = None, -1.0
        for path in generator.permutation(room.choices(moving)):
            points = room.paths[path]
            event = replace(draft, path=int(path), progress=self._move(generator, points, draft))
            apart = min((_least_angle(room, event, other, samples) for other in overlapping), default=180.0)
            if apart > widest:
                best, widest = event, apart
            if apart >= self.recipe.events.separation:
                break
        return best

    def _move(self, generator, points: np.ndarray, event: SceneEvent) -> tuple[float, float]:
        """Draw start and end on a path (points, 3) at a speed of the recipe, or slower if the path is too short."""
        last = len(points) - 1
        if last == 0:
            return 0.0, 0.0
        spacing = np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
        metres = generator.uniform(*self.recipe.events.speed) * event.length / self.recipe.sampling_rate
        span = min(last, metres / spacing)
        low = generator.uniform(0, last - span)
        ends = (float(low), float(low + span))
        return ends if generator.random() < 0.5 else ends[::-1]

    def labels(self, scene: Scene) -> Events:
        """Return the events of a scene frame by frame.

        An event is active in the frames whose middle it covers, and in at least one; its position is taken at the
        middle of the frame. Times are those at the source, as sound reaches the array within a fraction of a frame. If
        events of one layer and class are so short that they share a frame, the longest gets it.
        """
        return self.labels_by_event(scene)[0]

    def labels_by_event(self, scene: Scene) -> tuple[Events, np.ndarray]:
        """Return the labels of a scene, and the number of the event that each row belongs to (rows,)."""
        rate, room = self.recipe.sampling_rate, self.room(scene.room)
        longest_first = np.argsort([-event.length for event in scene.events], kind="stable")
        parts = []
        for event in (scene.events[number] for number in longest_first):
            first, last = (round(edge / rate / FRAME_SECONDS) for edge in (event.start, event.stop))
            frames = np.arange(first, last)
            if not len(frames):
                frames = np.array([int((event.start + event.stop) / 2 / rate / FRAME_SECONDS)])
            positions = position_at(room, event, (frames + 0.5) * FRAME_SECONDS * rate)
            azimuth, elevation = vector_to_direction(positions)
            same = np.ones(len(frames), dtype=int)
            distance = np.linalg.norm(positions, axis=1)
            azimuth = wrap_azimuth(azimuth + scene.yaw)
            parts.append(Events(frames, event.class_id * same, event.track * same, azimuth, elevation, distance))
        labels, numbers = Events.concatenate(parts), np.repeat(longest_first, list(map(len, parts)))
        # Keep the first row, that of the longest event, of each frame, class and track.
        _, rows = np.unique(np.stack([labels.frame, labels.class_id, labels.track]), axis=1, return_index=True)
        return labels[rows], numbers[rows]

    def describe(self) -> dict:
        """Return plain values from which [`scene_set_from_dict`] makes the same set, given its sounds."""
        measured = self.recipe.rooms.measured
        return {
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "split": self.split,
            "sounds": _describe_bank(self.sounds),
            "interference": self.interference and _describe_bank(self.interference),
            "responses": measured and digest_of_responses(measured),
        }


def _describe_bank(bank: SoundBank) -> dict:
    files = [[s.name, s.recording, s.start, s.stop, s.digest, s.split] for s in bank.sounds]
    return {"source": bank.source, "class_names": list(bank.class_names), "files": files}


def is_same_bank(known: dict | None, told: dict | None) -> bool:
    """Whether two descriptions of sounds agree, wherever the sounds lie.

    The first may lack details, if an earlier version wrote it.
    """
    if known and told and known["files"]:
        files = [file[: len(known["files"][0])] for file in told["files"]]
        told = {**told, "source": known["source"], "files": files}
    return known == told


def read_interference(recipe: SceneRecipe) -> SoundBank:
    """Read and measure the interfering sounds of a recipe, as a bank of one class.

    Raises:
        ValueError: the folder does not exist, or a sound in it cannot be read.
    """
    bank = sounds_from_folder(recipe.interference.folder, recipe.sampling_rate)
    sounds = tuple(replace(sound, class_id=0) for sound in bank.sounds)
    return replace(bank, class_names=("interference",), sounds=sounds).measure()


def measured_as_told(sounds: SoundBank, told: dict) -> SoundBank:
    """Fill in what `describe` recorded of a bank's sounds, so that they need not be measured again.

    Raises:
        ValueError: the sounds are not the recorded ones, or one was edited since.
    """
    names = [name for name, *_ in told["files"]]
    if names != [sound.name for sound in sounds.sounds] or list(told["class_names"]) != list(sounds.class_names):
        raise ValueError(f"the sounds in {sounds.source} are not those that these scenes were made from")
    measured = []
    for number, (sound, (_, recording, start, stop, *more)) in enumerate(
        zip(sounds.sounds, told["files"], strict=True)
    ):
        digest, split = [*more, *("", sound.split)[len(more) :]]
        if digest and digest != sounds.digest(number):
            raise ValueError(f"{sound.name} in {sounds.source} has been edited since these scenes were made")
        measured.append(replace(sound, recording=recording, start=start, stop=stop, digest=digest, split=split))
    return replace(sounds, sounds=tuple(measured))


def scene_set_from_dict(values: dict, sounds: SoundBank) -> SceneSet:
    """Rebuild the scene set that `describe` recorded; `sounds` is the same bank, measured or not.

    Raises:
        ValueError: the sounds or the responses are not those that the set was made from, or one was edited since.
    """
    recipe = scene_recipe_from_dict(values["recipe"])
    measured = recipe.rooms.measured
    if not is_same_digest(values.get("responses"), measured and digest_of_responses(measured)):
        raise ValueError(f"the responses in {measured} are not those that these scenes were made from")
    made = SceneSet(recipe, measured_as_told(sounds, values["sounds"]), values["seed"], values["split"])
    if not is_same_bank(values.get("interference"), made.interference and _describe_bank(made.interference)):
        raise ValueError(f"the sounds in {recipe.interference.folder} are not those that these scenes were made from")
    return made


def position_at(room: Room, event: SceneEvent, samples) -> np.ndarray:
    """Return an event's positions (n, 3) at samples (n,), in metres from the array, before the scene's rotation."""
    points = room.paths[event.path]
    place, numbers = event.place(samples), np.arange(len(points))
    return np.stack([np.interp(place, numbers, axis) for axis in points.T], axis=-1)


def _least_angle(room: Room, event: SceneEvent, other: SceneEvent, samples: np.ndarray) -> float:
    together = samples[(samples >= other.start) & (samples < other.stop)]
    if not len(together):
        together = np.array([max(event.start, other.start)])
    return float(angle_between(position_at(room, event, together), position_at(room, other, together)).min())
