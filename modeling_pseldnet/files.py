"""Files and folders: which of a folder are meant, and how to write them so that they appear whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


# What a folder of a model, or of an adapter, is not read without.
_READ_FIRST = ("config.json", "adapter_config.json")
# Failures that the system reports without the name of the file.
_UNNAMED_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def walk(folder: str | os.PathLike, suffixes: Collection[str], by_every_name: bool = False) -> list[Path]:
    """The files at any depth below a folder whose names end in one of some suffixes, in order.

    Links are followed, but no folder is entered twice, so that loops end; a file has the name that it has without
    links where there is one. What is hidden ([`is_hidden`]) is passed over.

    Args:
        folder: where to look; its own name may be anything.
        suffixes: in lower case with their dots; names may have them in either.
        by_every_name: whether a folder is entered by each of its names, for those to whom names say what lies there;
            but not from within itself.

    Raises:
        OSError: a folder cannot be read.
    """
    found, entered = [], set()
    folders, linked = [(Path(folder), ())], []
    while folders or linked:
        current, above = (folders or linked).pop()
        place = os.path.realpath(current)
        if place in (above if by_every_name else entered):
            continue
        entered.add(place)
        with os.scandir(current) as listing:
            entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                (linked if entry.is_symlink() else folders).append((current / entry.name, (*above, place)))
            elif os.path.splitext(entry.name)[1].lower() in suffixes:
                found.append(current / entry.name)
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not meant: `.name`, such as a Mac's `._name`, and `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Writes a text so that no reader sees half a file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name in the same folder to write to; what is there at the end takes the name of `path`.

    A link stays one, to a new file. What is no file, such as `/dev/stdout`, is written to as it is.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    target = Path(os.path.realpath(path))
    temporary = _temporary_name(target)
    try:
        with _naming(path, temporary):
            yield temporary
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(output: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place, or that of a file, at the end.

    Raises:
        OSError: it cannot be written; the error names `output`.
    """
    target = Path(os.path.realpath(output))
    temporary, replaced = _temporary_name(target), _temporary_name(target)
    try:
        with _naming(output, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            if target.exists():
                target.rename(replaced)
            temporary.rename(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    finally:
        for path in (temporary, replaced):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


@contextmanager
def staged_files(folder: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder within `folder`, from which all moves up into that at the end; what else is there stays.

    Its name begins with an underscore, as of what is not pushed to the Hub.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(folder)
    staging = folder / f"_{secrets.token_hex(8)}.tmp"
    try:
        staging.mkdir(parents=True)
        yield staging
        move_up(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move_up(source: Path, target: Path) -> None:
    """Moves what is in a folder into another, in place of what has the same names there.

    Cut short, it leaves no model of old and new files that could be loaded: configs go first and come last.
    """
    entries = sorted(source.iterdir(), key=lambda entry: entry.name in _READ_FIRST)
    for entry in entries:
        if entry.name in _READ_FIRST:
            (target / entry.name).unlink(missing_ok=True)
    for entry in entries:
        if (target / entry.name).is_dir():
            shutil.rmtree(target / entry.name)
        os.replace(entry, target / entry.name)


def _temporary_name(path: Path) -> Path:
    """A name beside `path` that nothing has, with its suffix, which many a writer goes by; short whatever its name."""
    suffix = path.suffix if len(path.suffix) < 16 else ""
    return path.with_name(f".{secrets.token_hex(8)}.tmp{suffix}")


@contextmanager
def _naming(path: str | os.PathLike, temporary: Path) -> Iterator[None]:
    """Errors that name the temporary file, or none, name `path`."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in _UNNAMED_FAILURES
        if unnamed or str(error.filename or "").startswith(str(temporary)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
