"""How long files of audio are, which WAV, FLAC and OGG do not always say rightly, and what kind a WAV is of."""

import io
import os
import re
import struct
from typing import NamedTuple

import soundfile


# The end of the identifier of ambisonic B-format, PCM or float (Dobson, "Creating WAVE-EX ambisonic B-format files").
B_FORMAT = bytes.fromhex("2107d3118644c8c1ca000000")
EXTENSIBLE = 0xFFFE
RAW_SUBTYPES = {
    (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT", (3, 64): "DOUBLE"
}  # fmt: skip


class WaveHeader(NamedTuple):
    """What a WAV says of itself.

    Attributes:
        is_ambisonic: whether it is of the kind that is FuMa by definition.
        is_longer: whether samples go on where the header says that they end.
        begin: where samples begin, in bytes.
        rate, channels, subtype: of the samples.
    """

    is_ambisonic: bool
    is_longer: bool
    begin: int
    rate: int
    channels: int
    subtype: str | None


def read_wave_header(file, name: str) -> WaveHeader | None:
    """The header of a WAV, RIFF or RF64; None for files of another kind, or without samples.

    Raises:
        ValueError: samples go on after the length that it says, in a coding that cannot be read so, or an RF64 ends
            before.
    """
    file.seek(0)
    kind, _, form = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if kind not in (b"RIFF", b"RF64") or form != b"WAVE":
        return None
    end = file.seek(0, os.SEEK_END)
    position, layout, large = 12, b"", 0
    while position + 8 <= end:
        file.seek(position)
        chunk, size = struct.unpack("<4sI", file.read(8))
        if chunk == b"fmt ":
            layout = file.read(min(size, 40))
        if chunk == b"ds64":
            large = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
            # Some put the largest number, others 0, for a length that they do not know.
            large = large if large < MOST_SAMPLES else 0
        if chunk == b"data":
            size = large if kind == b"RF64" and size == 0xFFFFFFFF else size
            break
        position += 8 + size + size % 2
    if len(layout) < 16 or position + 8 > end:
        return None
    coding, channels, rate, _, _, bits = struct.unpack("<HHIIHH", layout[:16])
    guid = layout[24:40] if coding == EXTENSIBLE else b""
    if coding == EXTENSIBLE and len(guid) == 16:
        coding = struct.unpack("<H", guid[:2])[0]
    begin = position + 8
    if kind == b"RF64" and begin + size > end:
        # What libsndfile's report does not tell.
        raise ValueError(f"{name}: truncated, it ends before its header says: copy it again")
    longer = _samples_go_on(file, begin, begin + size, end)
    subtype = RAW_SUBTYPES.get((coding, bits))
    if longer and subtype is None:
        raise ValueError(f"{name}: it goes on where its header says that it ends: write it anew, e.g. with FFmpeg")
    return WaveHeader(guid[4:] == B_FORMAT, longer, begin, rate, channels, subtype)


def says_fuma(name: str, wave: WaveHeader | None) -> bool:
    """Whether a file says, by its name or header, that its channels are W, X, Y, Z with W 3 dB down."""
    return name.lower().endswith(".amb") or (wave is not None and wave.is_ambisonic)


def is_fuma(path: str | os.PathLike) -> bool:
    """As [`says_fuma`], of the file at a path."""
    with open(path, "rb") as file:
        return says_fuma(str(path), read_wave_header(file, str(path)))


def check_ambix(path: str | os.PathLike) -> None:
    """Refuses a file that says that it is FuMa, where its channels are read as they are.

    Raises:
        ValueError: it does.
    """
    if is_fuma(path):
        raise ValueError(f"{path} says that it is FuMa: write it anew as W, Y, Z, X (AmbiX)")


def _samples_go_on(file, begin: int, stop: int, end: int) -> bool:
    """Whether what comes after `stop`, where samples end by the header, are samples too and not further chunks."""
    for position in (stop, stop + stop % 2):
        file.seek(position)
        name = file.read(8)[:4]
        if position >= end - 8 and stop > begin:
            return False
        if name and all(0x20 <= byte < 0x7F for byte in name):
            return False
    if stop == begin:
        return begin < end
    file.seek(stop)
    # Some recorders fill their last block with zeros.
    return any(block.strip(b"\0") for block in iter(lambda: file.read(2**20), b""))


class View(io.RawIOBase):
    """An open file from some byte on, with other bytes at one place."""

    def __init__(self, file, begin: int = 0, place: int = 0, other: bytes = b""):
        self._file, self._begin, self._place, self._other = file, begin, place, other
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset + self._begin * (whence == os.SEEK_SET), whence) - self._begin

    def readinto(self, buffer) -> int:
        position = self.tell()
        count = self._file.readinto(buffer)
        first, last = max(position, self._place), min(position + count, self._place + len(self._other))
        if first < last:
            buffer[first - position : last - position] = self._other[first - self._place : last - self._place]
        return count


# Where the header of a FLAC says its rate, channels and, in 36 bits, its number of samples.
FLAC_NUMBERS, FLAC_LENGTH = slice(18, 26), (1 << 36) - 1
# What marks the first page of an OGG.
OGG_BEGINS = 2
# Past any length that a header can tell: libsndfile's number for an unknown one.
MOST_SAMPLES = 2**62


def flac_is_longer(file) -> bool:
    """Whether a file is a FLAC with more samples than its header says, or of which that says nothing."""
    file.seek(0)
    header = file.read(FLAC_NUMBERS.stop)
    if not header.startswith(b"fLaC") or len(header) < FLAC_NUMBERS.stop:
        return False
    numbers = int.from_bytes(header[FLAC_NUMBERS], "big")
    if not numbers & FLAC_LENGTH:
        return True
    try:
        # A sample that can be sought is there.
        of_unknown_length = View(file, 0, FLAC_NUMBERS.start, (numbers & ~FLAC_LENGTH).to_bytes(8, "big"))
        with soundfile.SoundFile(of_unknown_length) as opened:
            opened.seek(numbers & FLAC_LENGTH)
    except soundfile.LibsndfileError:
        return False
    return True


def flac_with_length(file) -> View:
    """A FLAC that came through a pipe, whose header does not say how long it is, as one that does."""
    file.seek(0)
    header = file.read(FLAC_NUMBERS.stop)
    numbers = int.from_bytes(header[FLAC_NUMBERS], "big") & ~FLAC_LENGTH
    # A sample that can be sought is there; what failed once seeks no more.
    there, beyond, opened = 0, FLAC_LENGTH, None
    while beyond - there > 1:
        middle = (there + beyond) // 2
        opened = opened or soundfile.SoundFile(View(file, 0, FLAC_NUMBERS.start, numbers.to_bytes(8, "big")))
        try:
            opened.seek(middle)
            there = middle
        except soundfile.LibsndfileError:
            beyond, opened = middle, None
    return View(file, 0, FLAC_NUMBERS.start, (numbers | (there + 1)).to_bytes(8, "big"))


def check_ogg_pages(file, name: str) -> None:
    """Refuses an OGG that breaks off in a page, or is several one after the other, of which only the first is read.

    Raises:
        ValueError: the file is such.
    """
    end, position, begun = file.seek(0, os.SEEK_END), 0, False
    while position + 27 <= end:
        file.seek(position)
        header = file.read(27)
        if not header.startswith(b"OggS"):
            return
        if begun and header[5] & OGG_BEGINS:
            raise ValueError(f"{name}: several recordings one after the other in one OGG: write it anew as FLAC")
        begun |= not header[5] & OGG_BEGINS
        position += 27 + header[26] + sum(file.read(header[26]))
    if begun and position != end:
        raise ValueError(f"{name}: truncated, it breaks off in a page: copy it again")


def is_truncated(report: str) -> bool:
    """Whether libsndfile's report on a file tells that its end is missing, which libsndfile itself passes over."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", report, flags=re.MULTILINE)
    said, there = map(int, found.groups()) if found else (0, 0)
    # Programs that write to a pipe put about the largest number, or 0, for a length that they do not know.
    is_known = all(abs(said - largest) > 2**20 for largest in (2**31, 2**32))
    return (is_known and there < said) or "lacks an end-of-stream bit" in report
