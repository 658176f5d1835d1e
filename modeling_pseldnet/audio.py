"""Recordings read in pieces: any length in bounded memory, any rate, any usual order of channels."""

import os
import re
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample

from .ambisonics import a_to_b_matrix
from .files import walk


AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".amb"}


class ChannelFormat(NamedTuple):
    """What the channels of a recording are, and the matrix that makes of them what a feature extractor takes."""

    description: str
    matrix: np.ndarray


FUMA = np.array([[2**0.5, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]], dtype=np.float32)
CHANNEL_FORMATS = {
    "ambix": ChannelFormat("first-order ambisonics", np.eye(4, dtype=np.float32)),
    "fuma": ChannelFormat("first-order ambisonics", FUMA),
    "aformat": ChannelFormat("a tetrahedral microphone", a_to_b_matrix()),
    "array": ChannelFormat("a tetrahedral microphone array", np.eye(4, dtype=np.float32)),
    "mono": ChannelFormat("mono audio", np.eye(1, dtype=np.float32)),
}


class Recording:
    """Audio in a file or in memory, read as a feature extractor takes it: its channels, its sampling rate, any part.

    Args:
        source (`str`, `os.PathLike` or `tuple[np.ndarray, int]`):
            A WAV, FLAC, OGG or AMB file, or an array (channels, samples) with its sampling rate in Hz.
        sampling_rate (`int`): rate in Hz to read at.
        channel_format (`str`): what its channels are.

            - `"ambix"`: W, Y, Z, X, SN3D.
            - `"fuma"`: W, X, Y, Z, W 3 dB down; read as AmbiX.
            - `"aformat"`: the cardioid capsules of a tetrahedral microphone in the order front left up, front right
              down, back left down, back right up; read as AmbiX, by [`a_to_b_format`], which says how far up in
              frequency that goes.
            - `"array"`: a tetrahedral microphone array, read as it is, for features of arrays.
            - `"mono"`: one channel.

    Raises:
        ValueError: the file cannot be read, or the recording has no samples or another number of channels.
    """

    def __init__(self, source, sampling_rate: int, channel_format: str = "ambix"):
        if channel_format not in CHANNEL_FORMATS:
            raise ValueError(f"channel format {channel_format!r} is unknown: use one of {', '.join(CHANNEL_FORMATS)}")
        description, self.mixing = CHANNEL_FORMATS[channel_format]
        self.sampling_rate = sampling_rate
        if isinstance(source, str | os.PathLike):
            self.name, self._array = str(source), None
            if not Path(source).is_file():
                raise ValueError(f"{source}: no such file")
            try:
                self._file = soundfile.SoundFile(source)
            except (soundfile.LibsndfileError, TypeError) as error:
                raise ValueError(f"{source}: not readable audio, use WAV, FLAC, OGG or AMB ({error})") from None
            if _is_truncated(self._file.extra_info):
                raise ValueError(f"{source}: truncated, it ends before its header says: copy it again")
            channels, samples, self.source_rate = self._file.channels, self._file.frames, self._file.samplerate
        else:
            array, self.source_rate = source
            self.name, self._file, self._array = "the array", None, np.asarray(array)
            if self._array.ndim != 2:
                raise ValueError(f"{self.name}: expected shape (channels, samples), got {self._array.shape}")
            channels, samples = self._array.shape
        if channels != self.mixing.shape[1]:
            raise ValueError(
                f"{self.name}: {channels} channels where {description} has {self.mixing.shape[1]}:"
                " give a recording of that kind"
            )
        if samples == 0:
            raise ValueError(f"{self.name}: no samples in it: record it again or leave it out")
        # Exact for the usual rates; an odd one is met within a millionth, as its own filter bank would be too large.
        ratio = Fraction(self.source_rate, sampling_rate).limit_denominator(1000)
        self._source_step, self._step = ratio.numerator, ratio.denominator
        self._resample = Resample(self._source_step, self._step)
        self._source_samples = samples
        self.num_samples = ceil(samples * self._step / self._source_step)

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sampling_rate

    def read(self, start: int, num_samples: int) -> np.ndarray:
        """Samples from `start` on, both at `sampling_rate`, as float32 (channels, num_samples); zeros after the end.

        Raises:
            ValueError: the file breaks off, or a sample is NaN or infinite.
        """
        if self._source_step == self._step:
            return self._read_source(start, num_samples)
        # Whole periods of both rates, with enough before and after for the filter, resample as the whole file would.
        margin = ceil(self._resample.width / self._source_step) + 1
        first = start // self._step - margin
        last = ceil((start + num_samples) / self._step) + margin
        waveform = self._read_source(first * self._source_step, (last - first) * self._source_step)
        resampled = self._resample(torch.from_numpy(waveform)).numpy()
        offset = start - first * self._step
        return resampled[:, offset : offset + num_samples]

    def _read_source(self, start: int, num_samples: int) -> np.ndarray:
        """Samples at the recording's own rate; zeros before the start and after the end."""
        begin, end = max(start, 0), min(max(start + num_samples, 0), self._source_samples)
        waveform = np.zeros((len(self.mixing), num_samples), dtype=np.float32)
        if begin < end:
            waveform[:, begin - start : end - start] = self.mixing @ self._read_part(begin, end)
        return waveform

    def _read_part(self, begin: int, end: int) -> np.ndarray:
        if self._file is None:
            part = np.asarray(self._array[:, begin:end], dtype=np.float32)
        else:
            try:
                self._file.seek(begin)
                part = self._file.read(end - begin, dtype="float32", always_2d=True).T
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{self.name}: unreadable at {begin / self.source_rate:.1f} s ({error})") from None
            if part.shape[1] < end - begin:
                broken = (begin + part.shape[1]) / self.source_rate
                raise ValueError(f"{self.name}: truncated, it breaks off at {broken:.1f} s: copy it again")
        if not np.isfinite(part).all():
            raise ValueError(f"{self.name}: samples that are NaN or infinite near {begin / self.source_rate:.1f} s")
        return part

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _is_truncated(report: str) -> bool:
    """Whether libsndfile's report on a file tells that its end is missing, which libsndfile itself passes over."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", report, flags=re.MULTILINE)
    # Programs that write to a pipe put the largest number, or 0, for a length that they do not know.
    shorter = found is not None and int(found[2]) < int(found[1]) < 0x7FFFF000
    return shorter or "lacks an end-of-stream bit" in report


def find_audio(path: str | os.PathLike) -> list[Path]:
    """The file itself, or the audio files below a folder, in order.

    Raises:
        ValueError: the folder holds no audio.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = walk(path, AUDIO_SUFFIXES)
    if not files:
        raise ValueError(f"{path}: no audio in this folder ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return files
