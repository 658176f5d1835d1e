import os
import resource
import signal
from pathlib import Path

import pytest

from modeling_pseldnet.audio import find_audio
from modeling_pseldnet.files import atomic_folder, atomic_path, walk, write_atomically


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")


def found(folder: Path, suffixes=frozenset({".wav"})) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in walk(folder, suffixes)]


def test_what_a_folder_holds_is_found_in_order_whatever_the_case_of_the_suffix(tmp_path):
    make(tmp_path, "b.wav", "a/2.WAV", "a/1.wav", "a/b/c.Wav", "a.txt", "wav", "c.wav.txt")
    assert found(tmp_path) == ["a/1.wav", "a/2.WAV", "a/b/c.Wav", "b.wav"]


def test_what_other_systems_leave_behind_is_passed_over(tmp_path):
    make(tmp_path, "a.wav", "._a.wav", ".DS_Store", "__MACOSX/._a.wav", "__MACOSX/a.wav", ".hidden/a.wav", ".wav")
    assert found(tmp_path) == ["a.wav"]
    make(tmp_path, ".of/b.wav")
    assert found(tmp_path / ".of") == ["b.wav"]


def test_links_are_followed_once(tmp_path):
    make(tmp_path, "disk/a.wav", "disk/deep/b.wav", "set/z/c.wav")
    folder = tmp_path / "set"
    (folder / "a").symlink_to(folder / "z")
    (folder / "loop").symlink_to(folder)
    (folder / "z" / "up").symlink_to("..")
    (folder / "linked").symlink_to(tmp_path / "disk")
    (folder / "again").symlink_to(tmp_path / "disk" / "deep")
    (folder / "file.wav").symlink_to(tmp_path / "disk" / "a.wav")
    assert found(folder) == ["again/b.wav", "file.wav", "linked/a.wav", "z/c.wav"]


def test_a_folder_is_entered_by_every_name_where_names_tell_what_it_holds(tmp_path):
    make(tmp_path, "z/a.wav")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "z" / "up").symlink_to("..")
    names = [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path, {".wav"}, by_every_name=True)]
    assert names == ["a/a.wav", "z/a.wav"]


def test_a_folder_of_nothing_but_leftovers_holds_no_audio(tmp_path):
    make(tmp_path, "._a.wav", "notes.txt")
    with pytest.raises(ValueError, match="no audio in this folder"):
        find_audio(tmp_path)


def test_audio_of_formats_that_are_not_read_is_told_of(tmp_path, caplog):
    make(tmp_path, "a.wav", "b.m4a", "deep/c.M4A", "notes.txt")
    assert find_audio(tmp_path) == [tmp_path / "a.wav"]
    (record,) = caplog.records
    assert f"{tmp_path}: passing over 2 audio files of other formats, such as {tmp_path / 'b.m4a'}" in record.message


@pytest.mark.parametrize("name", ["short.csv", "n" * 251 + ".csv", "ü" * 125 + ".csv", "a." + "b" * 250])
def test_a_file_appears_whole_whatever_the_length_of_its_name(tmp_path, name):
    write_atomically(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_fails_half_way_leaves_what_was_there(tmp_path, failure):
    write_atomically(tmp_path / "file", "before")
    make(tmp_path, "folder/file")

    def write(writer, *names: str) -> None:
        with writer(tmp_path / names[0]) as temporary:
            temporary.joinpath(*names[1:]).write_text("ha")
            raise failure

    for writer, names in ((atomic_path, ["file"]), (atomic_folder, ["folder", "half"])):
        with pytest.raises(failure):
            write(writer, *names)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "file", "folder"]
    assert (tmp_path / "file").read_text() == "before"


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match=r"none/file\.csv'$"), atomic_path(tmp_path / "none" / "file.csv"):
        pytest.fail("work was done for a file that cannot be written")
    for write in (write_atomically, lambda path, _: atomic_folder(path).__enter__()):
        with pytest.raises(OSError, match=r"'/dev/null(/file)?'$"):
            write("/dev/null/file", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder'$"):
        write_atomically(tmp_path / "folder", "text")
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(OSError, match=r"large\.csv'$"):
            write_atomically(tmp_path / "large.csv", "text" * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)


@pytest.mark.parametrize("before", [(), ("out",), ("out/old", "out/sub/older")], ids=["nothing", "file", "folder"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path, before):
    make(tmp_path, *before)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("text")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["out", "out/new"]
