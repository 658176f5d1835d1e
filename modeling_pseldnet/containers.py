"""Audio files: their samples, and their headers, whose length WAV, FLAC and OGG sometimes get wrong."""

import io
import operator
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile


# Plausible sampling rates in Hz.
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
# End of the GUID of ambisonic B-format, PCM or float (Dobson, "Creating WAVE-EX ambisonic B-format files").
B_FORMAT = bytes.fromhex("2107d3118644c8c1ca000000")
EXTENSIBLE = 0xFFFE
RAW_SUBTYPES = {
    (1, 8): "PCM_U8", (1, 16): "PCM_16", (1, 24): "PCM_24", (1, 32): "PCM_32", (3, 32): "FLOAT", (3, 64): "DOUBLE"
}  # fmt: skip


class WaveHeader(NamedTuple):
    """What the header of a WAV file declares.

    Attributes:
        is_ambisonic: whether it is ambisonic B-format, which is FuMa by definition.
        is_longer: whether samples continue past the declared length.
        begin: offset of the first sample in bytes.
        rate, channels, subtype: format of the samples.
    """

    is_ambisonic: bool
    is_longer: bool
    begin: int
    rate: int
    channels: int
    subtype: str | None


def read_wave_header(file, name: str) -> WaveHeader | None:
    """Read the header of a WAV file, RIFF or RF64; None for other kinds of files and WAV files without samples.

    Raises:
        ValueError: samples continue past the declared length, in an encoding that cannot be read as raw samples, or an
            RF64 file ends before its declared length.
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
        raise ValueError(f"{name}: truncated, shorter than its header says: copy it again")
    longer = _samples_go_on(file, begin, begin + size, end)
    subtype = RAW_SUBTYPES.get((coding, bits))
    if longer and subtype is None:
        raise ValueError(f"{name}: it has samples after the end given in its header: rewrite it, e.g. with FFmpeg")
    return WaveHeader(guid[4:] == B_FORMAT, longer, begin, rate, channels, subtype)


def says_fuma(name: str, wave: WaveHeader | None) -> bool:
    """Whether a file declares, by name or header, that its channels are FuMa: W, X, Y, Z with W 3 dB down."""
    return name.lower().endswith(".amb") or (wave is not None and wave.is_ambisonic)


def _samples_go_on(file, begin: int, stop: int, end: int) -> bool:
    """Whether the bytes after `stop`, where samples end according to the header, are samples and not more chunks."""
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
    # Some recorders pad their last block with zeros.
    return any(block.strip(b"\0") for block in iter(lambda: file.read(2**20), b""))


class View(io.RawIOBase):
    """An open file seen from byte `begin` on, with the bytes at `place` replaced by `other`."""

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


# Bytes of a FLAC header that hold the sampling rate, the channels and, in 36 bits, the number of samples.
FLAC_NUMBERS, FLAC_LENGTH = slice(18, 26), (1 << 36) - 1
# Flag of the first page of an OGG stream.
OGG_BEGINS = 2
# More than any header can declare: libsndfile reports more only for an unknown length.
MOST_SAMPLES = 2**62


def flac_is_longer(file) -> bool:
    """Whether a file is a FLAC with more samples than its header declares, or with no length in its header."""
    file.seek(0)
    header = file.read(FLAC_NUMBERS.stop)
    if not header.startswith(b"fLaC") or len(header) < FLAC_NUMBERS.stop:
        return False
    numbers = int.from_bytes(header[FLAC_NUMBERS], "big")
    if not numbers & FLAC_LENGTH:
        return True
    try:
        # A sample that can be sought exists.
        of_unknown_length = View(file, 0, FLAC_NUMBERS.start, (numbers & ~FLAC_LENGTH).to_bytes(8, "big"))
        with soundfile.SoundFile(of_unknown_length) as opened:
            opened.seek(numbers & FLAC_LENGTH)
    except soundfile.LibsndfileError:
        return False
    return True


def flac_with_length(file) -> View:
    """Return a FLAC that was written to a pipe, without its true length, as a view with that length in its header."""
    file.seek(0)
    header = file.read(FLAC_NUMBERS.stop)
    numbers = int.from_bytes(header[FLAC_NUMBERS], "big") & ~FLAC_LENGTH
    # A sample that can be sought exists; after a failed seek, the file must be opened again.
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
    """Check that an OGG does not end within a page, nor chain several recordings, of which only the first is read.

    Raises:
        ValueError: the file is truncated or chained.
    """
    end, position, begun = file.seek(0, os.SEEK_END), 0, False
    while position + 27 <= end:
        file.seek(position)
        header = file.read(27)
        if not header.startswith(b"OggS"):
            return
        if begun and header[5] & OGG_BEGINS:
            raise ValueError(f"{name}: contains several chained recordings: convert it to FLAC")
        begun |= not header[5] & OGG_BEGINS
        position += 27 + header[26] + sum(file.read(header[26]))
    if begun and position != end:
        raise ValueError(f"{name}: truncated, its last OGG page is incomplete: copy it again")


def is_truncated(report: str) -> bool:
    """Whether libsndfile's log of a file shows that its end is missing, which libsndfile itself ignores."""
    # In WAV, AIFF, AU and W64; a W64 without the padding to 8 bytes at its end is complete.
    found = re.search(r"^ *(?:data|SSND|Data Size|riff) +: (\d+) \(should be (\d+)\)", report, flags=re.MULTILINE)
    said, there = map(int, found.groups()) if found else (0, 0)
    # Programs that write to a pipe declare an unknown length as 0 or as about the largest number, or SoX's in an AIFF.
    is_known = all(abs(said - largest) > 2**20 for largest in (0x7F000000, 2**31, 2**32, 2**63))
    return (is_known and there + 8 <= said) or "lacks an end-of-stream bit" in report


def checked_rate(rate, name: str) -> int:
    """Return a sampling rate in Hz as an integer.

    Raises:
        ValueError: the rate is missing, not a whole number or implausible for audio.
    """
    if rate is None:
        raise ValueError(f"{name}: its sampling rate is missing: give sampling_rate in Hz")
    try:
        whole = int(rate) if float(rate).is_integer() else operator.index(rate)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: a sampling rate of {rate!r}: give a whole number of Hz") from None
    if not LOWEST_RATE <= whole <= HIGHEST_RATE:
        raise ValueError(
            f"{name}: a sampling rate of {whole} Hz, which is implausible: give {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
    return whole


class FileSamples:
    """Samples in a file, read on demand.

    The length in the header is not trusted: a file with fewer samples is refused; one with more, or with no length in
    its header, is read to its end.

    Args:
        file: a path, or an open seekable file.
        name: name used in messages.

    Attributes:
        is_longer: whether it has more samples than its header says.
    """

    def __init__(self, file, name: str):
        if isinstance(file, str | os.PathLike) and not Path(file).is_file():
            there = "a pipe or folder, which does not support seeking: give a file"
            raise ValueError(f"{name}: {there if Path(file).exists() else 'no such file'}")
        self.name, self._opened = name, []
        try:
            self._open(file)
        except (OSError, OverflowError, soundfile.LibsndfileError, TypeError, struct.error) as error:
            self.close()
            # `error_string` leaves out libsndfile's name for the file.
            reason = getattr(error, "error_string", error)
            raise ValueError(f"{name}: not readable audio, use WAV, FLAC, OGG or AMB ({reason})") from None
        except ValueError:
            self.close()
            raise

    def _open(self, file) -> None:
        is_path = isinstance(file, str | os.PathLike)
        stream = open(file, "rb") if is_path else file  # noqa: SIM115 (closed with the samples)
        if is_path:
            self._opened.append(stream)
        wave = read_wave_header(stream, self.name)
        self.is_fuma = says_fuma(self.name, wave)
        self.is_longer = flac_is_longer(stream) if wave is None else wave.is_longer
        if wave is not None and wave.is_longer:
            layout = {"samplerate": wave.rate, "channels": wave.channels, "subtype": wave.subtype, "format": "RAW"}
            self._file = soundfile.SoundFile(View(stream, wave.begin), endian="LITTLE", **layout)
        else:
            check_ogg_pages(stream, self.name)
            stream.seek(0)
            # File names are bytes, which need not be UTF-8.
            named = os.fsencode(file) if is_path and os.name == "posix" else file
            self._file = soundfile.SoundFile(flac_with_length(stream) if self.is_longer else named)
        self._opened.insert(0, self._file)
        if self._file.frames > MOST_SAMPLES:
            raise ValueError(f"{self.name}: its header gives no length: rewrite it, e.g. with FFmpeg")
        if is_truncated(self._file.extra_info):
            raise ValueError(f"{self.name}: truncated, shorter than its header says: copy it again")
        self.rate = checked_rate(self._file.samplerate, self.name)
        self.num_channels, self.num_samples = self._file.channels, self._file.frames

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return samples (channels, end - begin), float32.

        Raises:
            ValueError: the file is truncated or cannot be decoded.
        """
        try:
            self._file.seek(begin)
            part = self._file.read(end - begin, dtype="float32", always_2d=True).T
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{self.name}: unreadable at {begin / self.rate:.1f} s ({error})") from None
        if part.shape[1] < end - begin:
            broken = (begin + part.shape[1]) / self.rate
            raise ValueError(f"{self.name}: truncated, it ends at {broken:.1f} s: copy it again")
        return part

    def close(self) -> None:
        """Close the files opened here."""
        for file in self._opened:
            file.close()
