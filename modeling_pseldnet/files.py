"""Find files in folders, and write files and folders so that they appear whole or not at all."""

import errno
import logging
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .keywords import counted


logger = logging.getLogger(__name__)

# What audio files are called, whether they can be read here or not.
AUDIO_NAMES = {
    ".aac", ".aif", ".aiff", ".amb", ".caf", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".w64", ".wav", ".wma"
}  # fmt: skip
# Without these files a folder is not loaded as a model or an adapter.
_READ_FIRST = ("config.json", "adapter_config.json")
# Errors that the operating system reports without a file name.
_UNNAMED_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def walk(
    folder: str | os.PathLike, suffixes: Collection[str] | None = None, by_every_name: bool = False
) -> list[Path]:
    """List the files at any depth below a folder, sorted.

    Links are followed, but no folder is entered twice, so loops end; a file that can be reached without links is
    listed by that path. Hidden files and folders ([`is_hidden`]) are skipped.

    Args:
        folder: where to look; its own name may be anything.
        suffixes: in lower case, with their dots; file names may use either case. Defaults to all files.
        by_every_name: whether to enter a folder by each of its paths, for callers to whom the names carry meaning; but
            not from within itself.

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
            elif suffixes is None or os.path.splitext(entry.name)[1].lower() in suffixes:
                found.append(current / entry.name)
    return sorted(found)


def walk_audio(folder: str | os.PathLike, suffixes: Collection[str]) -> list[Path]:
    """Like [`walk`], with a warning if audio files have none of the suffixes."""
    found = walk(folder, AUDIO_NAMES.union(suffixes))
    kept = [path for path in found if os.path.splitext(path.name)[1].lower() in suffixes]
    if others := sorted({*found} - {*kept}):
        files = counted(len(others), "audio file")
        logger.warning(f"{folder}: passing over {files} of other formats, such as {others[0]}: convert to WAV or FLAC")
    return kept


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is to be skipped: `.name`, such as a Mac's `._name`, and `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """Write a text file so that no reader sees half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary, empty file in the same folder, which is renamed to `path` at the end.

    A link is kept and its target replaced. What is not a regular file, such as `/dev/stdout`, is written to directly.

    Raises:
        OSError: `path` cannot be written; the error names it.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    target = Path(os.path.realpath(path))
    temporary = _temporary_name(target)
    try:
        with _naming(path, temporary):
            # Before any work is done for it; and other libraries' writers may not name the file.
            temporary.touch()
            yield temporary
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(output: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `output`, which replaces that folder or file at the end.

    Raises:
        OSError: `output` cannot be written; the error names it.
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
    """Yield a temporary folder inside `folder`, whose contents move up at the end; other files in `folder` stay.

    Its name begins with an underscore, so that it is not pushed to the Hub.

    Raises:
        OSError: the folder cannot be written; the error names it.
    """
    folder = Path(folder)
    staging = folder / f"_{secrets.token_hex(8)}.tmp"
    try:
        with _naming(folder, staging):
            staging.mkdir(parents=True)
            yield staging
            move_up(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move_up(source: Path, target: Path) -> None:
    """Move the contents of a folder into another, replacing entries of the same name.

    Configs are removed first and moved last, so an interrupted move never leaves a loadable mix of old and new files.
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
    """Return an unused, short path beside `path` with the same suffix, from which many writers infer the format."""
    suffix = path.suffix if len(path.suffix) < 16 else ""
    return path.with_name(f".{secrets.token_hex(8)}.tmp{suffix}")


@contextmanager
def _naming(path: str | os.PathLike, temporary: Path) -> Iterator[None]:
    """Have errors that name the temporary file, or none, name `path`."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in _UNNAMED_FAILURES
        if unnamed or str(error.filename or "").startswith(str(temporary)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
