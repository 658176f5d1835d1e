"""Match the CSV files of several folders by name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..files import walk


# Folders of audio in each subset of a synthetic data set, which predictions from there keep.
FORMS = ("foa", "mic", "sum")


def find_csv(*sides: Sequence[Path]) -> list[dict[str, Path]]:
    """Find the CSV files at any depth of the folders on each side, by file name.

    If a side has several files of the same name, such as the subsets of a synthetic data set, that name is prefixed on
    all sides with the parent folder, skipping folders named `metadata…`, `foa`, `mic` or `sum`.

    Raises:
        NotADirectoryError: a folder does not exist.
        ValueError: files have the same name, and their parent folders do not tell them apart.
    """
    files = [_named_csv(folders) for folders in sides]
    repeated = {name for named in files for name, times in Counter(name for name, _ in named).items() if times > 1}
    found: list[dict[str, Path]] = [{} for _ in files]
    for named, of_side in zip(files, found, strict=True):
        for name, path in named:
            key = f"{_subset(path)}/{name}" if name in repeated else name
            if key in of_side:
                raise ValueError(f"{of_side[key]} and {path} have the same name: score the folders separately")
            of_side[key] = path
    for name in repeated:
        keys = [{key for key in of_side if key.endswith(f"/{name}")} for of_side in found]
        if all(keys) and not set.intersection(*keys):
            paths = [of_side[key] for of_side, several in zip(found, keys, strict=True) for key in several]
            there = ", ".join(map(str, paths))
            raise ValueError(f"several files are named {name}: score the folders separately ({there})")
    return found


def _named_csv(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    for folder in folders:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder")
    paths = [path for folder in folders for path in walk(folder, {".csv"})]
    return [(path.stem + path.suffix.lower(), path) for path in paths]


def _subset(path: Path) -> str:
    """Return the name of the closest parent folder that is not one of the folders of every subset."""
    folders = reversed(path.absolute().parts[:-1])
    return next((name for name in folders if name not in FORMS and not name.startswith("metadata")), "")
