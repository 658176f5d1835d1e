"""Find the recordings of a SELD data set on disk and pair each audio file with its labels."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modeling_pseldnet.containers import FileSamples
from modeling_pseldnet.files import walk
from modeling_pseldnet.tools.labels import list_labels, read_numbered_labels


RECORDING_SUFFIXES = (".wav", ".flac")
LABEL_SUFFIXES = (".csv",)
SUFFIXES = ", ".join(RECORDING_SUFFIXES)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A part of a data set with folders of its own, such as the development set, and the splits it holds.

    The folders may lie at any depth below `data_dir`, and the files at any depth below the folders, so that both
    unpacked zip files with sub-folders and flattened copies are found.

    Attributes:
        audio: names of the folders that hold audio.
        labels: names of the folders that hold labels.
        splits: for each split, a regular expression that the ids of its recordings match. The groups `fold` and `room`
            give the recording's fold and room; the group `labels` names the label file if its name is not the id.
        ignored: a regular expression; audio that matches it is skipped without a warning.
        optional: splits that may be missing.
        has_labels: whether labels are published. If not, labels that are found are still used.
        in_subsets: whether the parent of the audio and label folders is a subset, whose name begins each id.
    """

    audio: tuple[str, ...]
    labels: tuple[str, ...]
    splits: dict[str, str]
    ignored: str = ""
    optional: tuple[str, ...] = ()
    has_labels: bool = True
    in_subsets: bool = False


def dcase_splits(folds: dict[str, str]) -> dict[str, str]:
    """Return splits for names such as `fold3_room4_mix001`, given a regular expression for the folds of each."""
    return {split: rf"fold(?P<fold>{fold})_room(?P<room>\d+)_mix\d+" for split, fold in folds.items()}


def dcase_parts(array: str, folds: dict[str, str], eval_has_labels: bool) -> tuple[Part, Part]:
    """Return the development set and the evaluation set (`mix001`) of a DCASE challenge; `array` is `foa` or `mic`."""
    return (
        Part(audio=(f"{array}_dev",), labels=("metadata_dev",), splits=dcase_splits(folds)),
        Part(
            audio=(f"{array}_eval",),
            labels=("metadata_eval",),
            splits={"eval": r"mix\d+"},
            has_labels=eval_has_labels,
        ),
    )


@dataclass(frozen=True)
class RecordingFiles:
    """An audio file, its labels (`None` if none are published), and what its name says."""

    id: str
    split: str
    fold: int | None
    room: int | None
    audio: Path
    labels: Path | None


def absolute_path(data_dir: str | os.PathLike) -> Path:
    """Return the absolute path of a folder, so that cache keys do not depend on the working directory.

    This is not in the builders' modules because `datasets` patches `Path` there with a slow version for remote files.
    """
    return Path(os.path.abspath(os.path.expanduser(data_dir)))


def find_recordings(data_dir: Path, parts: Iterable[Part]) -> dict[str, list[RecordingFiles]]:
    """Find the recordings of every split, sorted by id; a split without recordings is left out with a warning.

    Raises:
        FileNotFoundError: there is no recording at all, or a recording lacks labels that are published.
        OSError: a folder cannot be read.
        ValueError: two files claim to be the same recording.
    """
    paths = walk(data_dir, {*RECORDING_SUFFIXES, *LABEL_SUFFIXES}, by_every_name=True)
    files = [path.relative_to(data_dir) for path in paths]
    splits = {}
    for part in parts:
        audio = _collect(data_dir, files, part.audio, RECORDING_SUFFIXES, part.in_subsets)
        labels = _collect(data_dir, files, part.labels, LABEL_SUFFIXES, part.in_subsets)
        candidates = (_recording(id, path, labels, part.splits) for id, path in sorted(audio.items()))
        recordings = [recording for recording in candidates if recording]
        _check(recordings, audio, labels, part, data_dir)
        for split in part.splits:
            splits[split] = [recording for recording in recordings if recording.split == split]
    empty = {split: part for part in parts for split in part.splits if not splits[split]}
    if len(empty) == len(splits):
        audio = _either(*(part.audio for part in parts))
        raise FileNotFoundError(f"no recordings ({SUFFIXES}) in a folder named {audio} below {data_dir}")
    for split, part in empty.items():
        if split in part.optional:
            continue
        logger.warning("skipping split %r: no recordings of it in %s below %s", split, _either(part.audio), data_dir)
    return {split: recordings for split, recordings in splits.items() if recordings}


def _collect(
    data_dir: Path,
    files: list[Path],
    names: tuple[str, ...],
    suffixes: tuple[str, ...],
    in_subsets: bool,
) -> dict[str, Path]:
    """Map recording ids to the files with one of `suffixes` below folders with one of `names`.

    If such folders are nested, the innermost counts.
    """
    found = {}
    for file in files:
        folders = file.parts[:-1]
        depth = next((depth for depth in reversed(range(len(folders))) if folders[depth] in names), None)
        if depth is None or file.suffix.lower() not in suffixes:
            continue
        subset = folders[:depth] if in_subsets else ()
        id = "/".join((*subset, file.stem.removeprefix("label_")))
        path = data_dir / file
        if id in found and not found[id].samefile(path):
            raise ValueError(f"{found[id]} and {path} are two files of the same recording: remove one")
        found[id] = path
    return found


def _recording(id: str, audio: Path, labels: dict[str, Path], splits: dict[str, str]) -> RecordingFiles | None:
    for split, pattern in splits.items():
        if match := re.fullmatch(pattern, id):
            groups = match.groupdict()
            fold, room = (int(groups[name]) if groups.get(name) else None for name in ("fold", "room"))
            return RecordingFiles(id, split, fold, room, audio, labels.get(groups.get("labels", id)))
    return None


def _check(
    recordings: list[RecordingFiles], audio: dict[str, Path], labels: dict[str, Path], part: Part, data_dir: Path
) -> None:
    without_labels = [recording.audio for recording in recordings if recording.labels is None]
    if part.has_labels and without_labels:
        raise FileNotFoundError(
            f"{_some(without_labels)}: no labels, which should be in a folder named {_either(part.labels)} below "
            f"{data_dir}"
        )
    without_audio = set(labels.values()) - {recording.labels for recording in recordings}
    if recordings and without_audio:
        logger.warning("ignoring labels without audio (%s): %s", SUFFIXES, _some(sorted(without_audio)))
    unknown = set(audio.values()) - {recording.audio for recording in recordings}
    unknown = sorted(path for path in unknown if not re.fullmatch(part.ignored, path.stem))
    if unknown:
        logger.warning("ignoring audio whose name matches no split: %s", _some(unknown))


def _some(paths: list[Path]) -> str:
    return f"{paths[0]}" + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")


def _either(*names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in dict.fromkeys(name for group in names for name in group))


class AudioHeader(NamedTuple):
    """Sampling rate in Hz, number of channels and number of samples of an audio file."""

    sampling_rate: int
    num_channels: int
    num_samples: int


def read_audio_header(path: Path) -> AudioHeader:
    """Read the header of a file whose windows are read as it says, and without conversion.

    Raises:
        ValueError: the file cannot be read, has fewer or more samples than its header says, or declares itself FuMa.
    """
    samples = FileSamples(path, str(path))
    samples.close()
    if samples.is_longer:
        raise ValueError(f"{path}: its header gives a wrong length: rewrite it, e.g. with FFmpeg")
    if samples.is_fuma:
        raise ValueError(f"{path} is marked as FuMa: convert it to AmbiX (W, Y, Z, X)")
    return AudioHeader(samples.rate, samples.num_channels, samples.num_samples)


def find_class_lists(data_dir: Path) -> list[Path]:
    """Return the class lists of a synthetic set, `cls_indices*.tsv`: in `data_dir`, in the subsets below it, or beside
    it if it is a subset itself."""
    lists = [*data_dir.glob("cls_indices*.tsv"), *data_dir.glob("*/cls_indices*.tsv")]
    if not lists and (data_dir / "metadata").is_dir():
        lists = data_dir.absolute().parent.glob("cls_indices*.tsv")
    return sorted(lists)


def read_class_lists(paths: Iterable[Path]) -> list[str]:
    """Read the class names from class lists (index, MID, label, …; tabs, no header), which must agree.

    Raises:
        ValueError: a row is malformed, the files disagree, or the indices have gaps.
    """
    return list_labels({path: read_numbered_labels(path) for path in paths})


def read_class_indices(data_dir: Path) -> list[str]:
    """Read the class names of a synthetic set from its class lists.

    Raises:
        FileNotFoundError: there is none.
        ValueError: as in [`read_class_lists`].
    """
    paths = find_class_lists(data_dir)
    if not paths:
        raise FileNotFoundError(f"no list of classes (cls_indices*.tsv) in or beside {data_dir}")
    return read_class_lists(paths)


def fingerprint(data_dir: Path, recordings: Iterable[RecordingFiles], class_names: list[str]) -> str:
    """Hash the class names and the files' names, sizes and times, so that the result changes when a file is edited."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for recording in recordings:
        for path in (recording.audio, recording.labels):
            if path is not None:
                status = path.stat()
                digest.update(f"\n{path.relative_to(data_dir)} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
