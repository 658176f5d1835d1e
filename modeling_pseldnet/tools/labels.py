"""Class names: reading them from files, and matching them between models and data sets."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..keywords import first_few
from .cli import describe


def read_labels(path: str | os.PathLike) -> list[str]:
    """Read class names from a file: tab-separated `index, MID, name, …`, one name per line, or the config of a model.

    Args:
        path: the file, or the folder of a model.

    Raises:
        ValueError: the file is missing, empty or not a list of labels, its indices are not 0, 1, 2, …, or a name
            occurs twice.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    text = _read_text(path)
    if path.suffix.lower() == ".json":
        return _labels_of_config(path, text)
    if "\t" in text.strip().partition("\n")[0]:
        return list_labels({path: read_numbered_labels(path)})
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path}: contains no labels")
    if all(re.match(r"\d+[,;]", name) for name in names[1:]) and len(names) > 1:
        raise ValueError(f"{path}: looks comma-separated: separate index, MID and label by tabs")
    refuse_twice(names, f"{path}: ")
    return names


def read_numbered_labels(path: str | os.PathLike) -> dict[int, str]:
    """Read class names by index from tab-separated `index, MID, name, …` without a header.

    Raises:
        ValueError: the file is missing, or a row is malformed.
    """
    names: dict[int, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 3 or not (cells[0].isascii() and cells[0].isdecimal()) or not cells[2]:
            raise ValueError(f"{path}, line {number}: expected index, MID and label, separated by tabs, and no header")
        index, name = int(cells[0]), cells[2]
        if names.setdefault(index, name) != name:
            raise ValueError(f"{path}, line {number}: class {index} is {name!r} here, {names[index]!r} elsewhere")
    return names


def list_labels(files: Mapping[str | os.PathLike, Mapping[int, str]]) -> list[str]:
    """Merge the numbered class names of several files to a list in order.

    Raises:
        ValueError: the files disagree, or the indices are not 0, 1, 2, …
    """
    names: dict[int, str] = {}
    for path, numbered in files.items():
        for index, name in numbered.items():
            if names.setdefault(index, name) != name:
                raise ValueError(f"{path}: class {index} is {name!r} here, {names[index]!r} elsewhere")
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(f"{next(iter(files))}: the class indices must be 0, 1, 2, … without gaps")
    labels = [names[index] for index in range(len(names))]
    refuse_twice(labels, f"{next(iter(files))}: ")
    return labels


def refuse_twice(labels: Sequence[str], where: str = "") -> None:
    """Check that no two classes have the same name.

    Args:
        where: beginning of the message, such as "classes.txt: ".

    Raises:
        ValueError: two have; the message names them.
    """
    if twice := [name for name, times in Counter(labels).items() if times > 1]:
        raise ValueError(f"{where}two classes are called {twice[0]!r}: rename one")


def class_mapping(from_labels: Sequence[str], to_labels: Sequence[str]) -> np.ndarray:
    """Return the index in `to_labels` of each class in `from_labels`, by name: (from,) int64.

    It converts the classes of a data set to those of a model: `mapping[events.class_id]`.

    Raises:
        ValueError: a name occurs twice, or is not in `to_labels`; the message names it.
    """
    for labels in (from_labels, to_labels):
        refuse_twice(labels)
    index = {name: number for number, name in enumerate(to_labels)}
    if unknown := [name for name in from_labels if name not in index]:
        raise ValueError(
            f"{len(unknown)} of {len(from_labels)} classes ({first_few(unknown)}) are not among the others"
            f" ({first_few(to_labels)})"
        )
    return np.array([index[name] for name in from_labels], dtype=np.int64)


def _labels_of_config(path: Path, text: str) -> list[str]:
    try:
        labels = {int(index): name for index, name in json.loads(text)["id2label"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: not the config of a model, as it has no id2label") from None
    if not all(isinstance(name, str) for name in labels.values()):
        raise ValueError(f"{path}: a name in id2label is not text")
    return list_labels({path: labels})


def _read_text(path: str | os.PathLike) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable list of labels ({describe(error)})") from None
