"""Isolated sounds by class: found in a folder tree or an audio `Dataset`, measured once and read on demand."""

import hashlib
import io
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from pathlib import Path

import numpy as np
import scipy
import soundfile
from tqdm import tqdm

from datasets_scripts.scenes.worker_pool import in_workers
from modeling_pseldnet.containers import FileSamples, checked_rate
from modeling_pseldnet.files import is_hidden, walk_audio
from modeling_pseldnet.tools.extras import require
from modeling_pseldnet.tools.labels import refuse_twice


logger = logging.getLogger(__name__)

SPLITS = ("train", "test", "all", "validation")
SOUND_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".aif"}
SILENCE_DB = -50.0
# The mean of a sound, relative to its RMS, beyond which it is subtracted.
LARGEST_OFFSET = 0.1
# The table beside the class folders that names the recording of each clip.
SOURCE_TABLE = "SOURCE_IDS.tsv"

# Takes and excerpts of a recording carry its name and a counter: bark-s0, bark-s1; 187207-a, 187207-b; step2; dog (1).
_TAKE = re.compile(r"(?:[-_. ]?s?(?<!\d)\d{1,3}[a-z]?|[-_. ][a-z]|[-_. ]?\(\d{1,3}\))$", re.IGNORECASE)

# What stands for bytes that are not UTF-8 in the names of files, such as those of old archives.
_NO_UNICODE = re.compile("[\ud800-\udfff]")


def recording_of(name: str) -> str:
    """Return the name of the recording that a clip is taken from: the file's name without trailing counters."""
    stem = Path(name).stem
    while (shorter := _TAKE.sub("", stem)) and shorter != stem:
        stem = shorter
    return stem


@dataclass(frozen=True)
class Sound:
    """One isolated sound.

    Attributes:
        name: relative path or row, used in errors and manifests.
        class_id: index of its class.
        recording: the recording it is taken from; clips of one recording never end up in different splits.
        start, stop: where it is not silent, in samples at the bank's sampling rate.
        digest: hash of its file, once it was measured.
        split: `"train"`, `"validation"` or `"test"` if its source says so; `""` if it follows from the recording.
    """

    name: str
    class_id: int
    recording: str
    start: int = 0
    stop: int = 0
    digest: str = ""
    split: str = ""

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class SoundBank:
    """Sounds of several classes at one sampling rate.

    Attributes:
        source: where the sounds come from, for messages and manifests.
        class_names: the classes, in the order of their index.
        sounds: all sounds.
        sampling_rate: the rate that `read` resamples to, in Hz.
        read_file: returns the bytes of the file of a sound, given its number.

    Raises:
        ValueError: the names of two classes differ in spaces around them alone, or a name does not fit in a table.
    """

    source: str
    class_names: tuple[str, ...]
    sounds: tuple[Sound, ...]
    sampling_rate: int
    read_file: Callable[[int], bytes]

    def __post_init__(self):
        # As tables of classes are read.
        object.__setattr__(self, "class_names", tuple(name.strip() for name in self.class_names))
        refuse_twice(self.class_names, f"{self.source}: ")
        unfit = [name for name in self.class_names if "\t" in name or name.splitlines() != [name]]
        unfit += filter(_NO_UNICODE.search, (*self.class_names, *(sound.name for sound in self.sounds)))
        if unfit:
            raise ValueError(
                f"{self.source}: rename {unfit[0]!r}: it is empty, not UTF-8, or has tabs or several lines"
            )

    def read(self, number: int) -> np.ndarray:
        """Read sound `number` without silence around it or a large offset: (samples,) float32, channels averaged."""
        sound = self.sounds[number]
        return self._decode(number, self._read_file(number))[sound.start : sound.stop]

    def digest(self, number: int) -> str:
        """Hash the file of sound `number`, to notice when it is edited."""
        return hashlib.sha256(self._read_file(number)).hexdigest()[:16]

    def _read_file(self, number: int) -> bytes:
        try:
            return self.read_file(number)
        except OSError as error:
            raise ValueError(f"cannot read the sound {self.sounds[number].name} of {self.source}: {error}") from None

    def _decode(self, number: int, content: bytes) -> np.ndarray:
        name = f"the sound {self.sounds[number].name} of {self.source}"
        with closing(FileSamples(io.BytesIO(content), name)) as file:
            samples = file.read(0, file.num_samples).mean(axis=0)
        # An offset that large comes from the recorder; it would pass for sound, and rooms raise it by up to 20 dB.
        if len(samples) and abs(offset := samples.mean()) > LARGEST_OFFSET * np.sqrt(np.square(samples).mean()):
            samples -= offset
        return resampled(samples, file.rate, self.sampling_rate, name).astype(np.float32, copy=False)

    def measured(self, number: int) -> Sound:
        """Set `start` and `stop` of sound `number` to where it first and last is within 50 dB of its loudest 40 ms.

        Raises:
            ValueError: the sound cannot be read, or is silent.
        """
        content = self._read_file(number)
        samples = self._decode(number, content)
        window = max(1, round(0.01 * self.sampling_rate))
        power = np.square(np.pad(samples, (0, -len(samples) % window))).reshape(-1, window).mean(axis=1)
        loudest = np.convolve(power, np.full(4, 0.25)).max() if len(power) else 0.0
        if not np.isfinite(loudest) or loudest <= 1e-12:
            raise ValueError(f"the sound {self.sounds[number].name} of {self.source} is silent, empty or not finite")
        loud = np.flatnonzero(power >= loudest * 10 ** (SILENCE_DB / 10))
        stop = min(len(samples), (loud[-1] + 1) * window)
        digest = hashlib.sha256(content).hexdigest()[:16]
        return replace(self.sounds[number], start=int(loud[0] * window), stop=int(stop), digest=digest)

    def measure(self, workers: int = 0) -> "SoundBank":
        """Return the bank with every sound measured, so that silence is left out; reads each once.

        Args:
            workers: number of processes. Defaults to this one alone.

        Raises:
            ValueError: sounds cannot be read, or are silent; the message names all of them.
        """
        total = len(self.sounds)
        with closing(in_workers(self._measured_or_error, range(total), workers)) as measured:
            sounds = tuple(tqdm(measured, desc="sounds", unit="sound", total=total, disable=None, leave=False))
        unusable = [number for number, sound in enumerate(sounds) if isinstance(sound, ValueError)]
        if unusable:
            first, *others = unusable
            names = ", ".join(self.sounds[number].name for number in others)
            raise ValueError(f"{sounds[first]}{f'; {len(others)} more cannot be used: {names}' if others else ''}")
        return replace(self, sounds=sounds)

    def _measured_or_error(self, number: int) -> "Sound | ValueError":
        try:
            return self.measured(number)
        except ValueError as error:
            return error

    def numbers_by_class(
        self,
        split: str,
        test_fraction: float,
        validation_fraction: float = 0.0,
        classes: Collection[str] | None = None,
    ) -> list[np.ndarray]:
        """Return, for every class, the numbers of its sounds in `split`; splits other than `"all"` share no recording.

        Classes that `classes` does not name have none. Defaults to all classes.

        Of each class's recordings, in the order of a hash of their name, those that fit into `test_fraction` of its
        sounds become test data, or the smallest one if none fits; a recording of several classes does so for all of
        them. Of the rest, those that fit into `validation_fraction` become validation data in the same way. A class
        with a single recording (left) gives none. Recordings with a given split stay in it and count for no other.

        Raises:
            ValueError: a class has no sounds, or none to train or test with; no class has any to validate with; or
                `classes` names an unknown class.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        wanted = set(self.class_names if classes is None else classes)
        if missing := sorted(wanted - set(self.class_names)):
            raise ValueError(f"events.classes: {self.source} has no class {', '.join(missing)}")
        given = {sound.recording: sound.split for sound in self.sounds if sound.split}
        recordings: list[Counter[str]] = [Counter() for _ in self.class_names]
        for sound in self.sounds:
            if sound.recording not in given:
                recordings[sound.class_id][sound.recording] += 1
        test = set().union(*(_held_out(counts, test_fraction) for counts in recordings))
        validation: set[str] = set()
        if validation_fraction:
            remaining = [Counter({name: counts[name] for name in counts.keys() - test}) for counts in recordings]
            validation.update(*(_held_out(counts, validation_fraction) for counts in remaining))
        split_of = {**dict.fromkeys(test, "test"), **dict.fromkeys(validation, "validation"), **given}
        numbers: list[list[int]] = [[] for _ in self.class_names]
        for number, sound in enumerate(self.sounds):
            in_split = split in ("all", split_of.get(sound.recording, "train"))
            if in_split and self.class_names[sound.class_id] in wanted:
                numbers[sound.class_id].append(number)
        for class_id, (name, found) in enumerate(zip(self.class_names, numbers, strict=True)):
            if not found and split != "validation" and name in wanted:
                known = Counter(sound.recording for sound in self.sounds if sound.class_id == class_id)
                reason = (
                    f"its {known.total()} file(s) count as {len(known)} recording(s), all in other splits: add"
                    f" recordings, or name them in {SOURCE_TABLE} or --recording-column"
                    if known
                    else "it has no audio files"
                )
                raise ValueError(f"class {name!r} of {self.source} has no sound for split {split!r}: {reason}")
        if not any(numbers):
            raise ValueError(f"no sounds for split {split!r} in {self.source}: set validation_fraction above 0")
        return [np.array(found, dtype=int) for found in numbers]


def _held_out(counts: Counter, fraction: float) -> set[str]:
    """Choose recordings to hold out, given the number of sounds of each; none if there is only one recording."""
    if len(counts) < 2:
        return set()
    ordered = sorted(counts, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen, left = set(), round(fraction * counts.total())
    for name in ordered:
        if counts[name] <= left:
            chosen.add(name)
            left -= counts[name]
    return chosen or {min(ordered, key=counts.get)}


def resampled(samples: np.ndarray, rate: float, sampling_rate: int, name: str) -> np.ndarray:
    """Resample (…, samples) from `rate` to `sampling_rate`, both in Hz.

    Raises:
        ValueError: `rate` is not a plausible sampling rate; the message begins with `name`.
    """
    if rate == sampling_rate:
        return samples
    rate = checked_rate(rate, name)
    divisor = gcd(rate, sampling_rate)
    return scipy.signal.resample_poly(samples, sampling_rate // divisor, rate // divisor, axis=-1)


def _read_file(folder: Path, names: Sequence[str], number: int) -> bytes:
    return (folder / names[number]).read_bytes()


def _read_row(dataset, audio_column: str, number: int) -> bytes:
    audio = dataset[number][audio_column]
    return audio["bytes"] if audio["bytes"] is not None else Path(audio["path"]).read_bytes()


def sounds_from_folder(folder: str | os.PathLike, sampling_rate: int = 24000) -> SoundBank:
    """Find the sounds of a tree with one folder per class, of any depth; classes are in alphabetical order.

    The recording of a clip is given by a table `SOURCE_IDS.tsv` beside the class folders, with columns `path` and
    `source_id`, or, if there is no table or no row for the clip, by its name ([`recording_of`]). If the table has a
    column `split`, recordings that have `train`, `validation` or `test` there are always in that split.

    Raises:
        ValueError: there is no such folder, it has no class folders, or the table is malformed.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: expected one folder per class, with audio files in it")
    class_names = tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    )
    if not class_names:
        raise ValueError(f"no class folders in {folder}: expected one folder per class, with audio files in it")
    known = _read_source_table(folder / SOURCE_TABLE)
    files = [
        (file.relative_to(folder).as_posix(), class_id)
        for class_id, name in enumerate(class_names)
        for file in walk_audio(folder / name, SOUND_SUFFIXES)
    ]
    if absent := sorted(known.keys() - {name for name, _ in files}):
        logger.warning(
            f"{folder / SOURCE_TABLE}: {len(absent)} of {len(known)} rows match no sound file, such as {absent[0]}"
        )
    sounds = [
        Sound(name, class_id, **(known.get(name) or {"recording": recording_of(name)})) for name, class_id in files
    ]
    reader = partial(_read_file, folder, [sound.name for sound in sounds])
    return SoundBank(str(folder), class_names, tuple(sounds), sampling_rate, reader)


def _read_source_table(path: Path) -> dict[str, dict[str, str]]:
    """Read each clip's `recording` and `split`, by its path relative to the table; empty if there is no table."""
    if not path.is_file():
        return {}
    known: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    columns = header.split("\t")
    if not {"path", "source_id"} <= set(columns):
        raise ValueError(f"{path}, line 1: expected the columns path and source_id, separated by tabs")
    for number, line in enumerate(lines, 2):
        row = dict(zip(columns, line.split("\t"), strict=False))
        if not line.strip():
            continue
        if not row.get("path") or not row.get("source_id", "").strip():
            raise ValueError(f"{path}, line {number}: expected a path and a source_id, separated by a tab")
        name = posixpath.normpath(row["path"].strip())
        recording, split = row["source_id"].strip(), row.get("split", "").strip()
        if split not in ("", *SPLITS) or split == "all":
            raise ValueError(f"{path}, line {number}: split is {split!r}, expected train, validation, test or nothing")
        if (other := known.setdefault(name, {"recording": recording, "split": split})["recording"]) != recording:
            raise ValueError(f"{path}, line {number}: {name} belongs to {recording!r} here, but to {other!r} above")
        if (other := splits.setdefault(recording, split)) != split:
            raise ValueError(f"{path}, line {number}: {recording!r} has split {split!r} here, but {other!r} above")
    return known


def sounds_from_dataset(
    dataset,
    sampling_rate: int = 24000,
    audio_column: str = "audio",
    label_column: str = "label",
    recording_column: str | None = None,
    source: str = "the dataset",
) -> SoundBank:
    """Find the sounds of a `datasets.Dataset` with an `Audio` column and labels (`ClassLabel`, or strings).

    `recording_column` names the recording of a row; without it, the file name of the audio does, if there is one.

    Raises:
        ValueError: a column is missing, labels are neither a `ClassLabel` nor strings, or a row lacks label or audio.
    """
    datasets = require("datasets")
    for column in filter(None, (audio_column, label_column, recording_column)):
        if column not in dataset.column_names:
            raise ValueError(f"{source} has no column {column!r}: it has {', '.join(dataset.column_names)}")
    dataset = dataset.cast_column(audio_column, datasets.Audio(decode=False))
    labels: Sequence = dataset[label_column]
    if isinstance(feature := dataset.features[label_column], datasets.ClassLabel):
        class_names, class_ids = tuple(feature.names), labels
    elif all(label is None or isinstance(label, str) for label in labels):
        class_names = tuple(sorted(set(labels) - {None}))
        class_ids = list(map({name: number for number, name in enumerate(class_names)}.get, labels))
    else:
        raise ValueError(f"the labels of {source} in {label_column!r} are neither a ClassLabel nor strings")
    names = []
    audios = dataset.select_columns([audio_column])[audio_column]
    for row, (audio, class_id) in enumerate(zip(audios, class_ids, strict=True)):
        if class_id in (None, -1):
            raise ValueError(f"row {row} of {source} has no label in {label_column!r}: remove the row")
        if not audio or (audio["bytes"] is None and not audio["path"]):
            raise ValueError(f"row {row} of {source} has no audio in {audio_column!r}: remove the row")
        names.append(f"row {row} ({Path(audio['path']).name})" if audio["path"] else f"row {row}")
    recordings: Iterable[str]
    if recording_column:
        recordings = map(str, dataset[recording_column])
    else:
        recordings = (recording_of(name.partition("(")[2].rstrip(")")) if "(" in name else name for name in names)
    sounds = tuple(map(Sound, names, class_ids, recordings))
    return SoundBank(source, class_names, sounds, sampling_rate, partial(_read_row, dataset, audio_column))
