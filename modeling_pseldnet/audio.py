"""Read recordings from files or memory, piece by piece and checked.

Any length in bounded memory, any sampling rate, any common channel order.
"""

import io
import os
from collections.abc import Mapping
from fractions import Fraction
from math import ceil, pi
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .ambisonics import FUMA_TO_AMBIX, a_to_b_matrix, order_of
from .containers import FileSamples, checked_rate
from .files import walk_audio
from .keywords import counted


AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".amb"}
# Full scale is 1; samples 40 dB above it are integers stored as floats, or come from a wrong gain.
LARGEST_SAMPLE = 100.0
# Silence and full scale of integer arrays, as soundfile reads and writes them.
INTEGER_SCALES = {"int8": (0, 2**7), "uint8": (2**7, 2**7), "int16": (0, 2**15), "int32": (0, 2**31)}
FLOATS = ("float16", "bfloat16", "float32", "float64")
ACCEPTED = (
    "a path, the bytes of a file, a file object, a tuple of an array (channels, samples) and its rate, a dict with"
    " 'array' or 'raw' and 'sampling_rate' or with 'path' and 'bytes', or a decoder of datasets"
)


class ChannelFormat(NamedTuple):
    """What the channels of a recording are, and the matrix that converts them to a feature extractor's input."""

    description: str
    matrix: np.ndarray

    @property
    def num_channels(self) -> int:
        """Number of channels of the recording."""
        return self.matrix.shape[1]


AMBIX = ChannelFormat("first-order ambisonics", np.eye(4, dtype=np.float32))
CHANNEL_FORMATS = {
    "auto": AMBIX,
    "ambix": AMBIX,
    "fuma": ChannelFormat("first-order ambisonics", FUMA_TO_AMBIX),
    "aformat": ChannelFormat("a tetrahedral microphone", a_to_b_matrix()),
    "array": ChannelFormat("a tetrahedral microphone array", np.eye(4, dtype=np.float32)),
    "stereo": ChannelFormat("stereo audio", np.eye(2, dtype=np.float32)),
    "mono": ChannelFormat("mono audio", np.eye(1, dtype=np.float32)),
}


class Recording:
    """Audio in a file or in memory, any part of which is read with the channels and rate a feature extractor takes.

    Args:
        source:
            A WAV, FLAC, OGG or AMB file: its path (`str`, `os.PathLike`), its bytes, an open file, or a dict of `path`
            and `bytes`, as in data sets. Or samples (channels, samples), floats or integers: a tuple of the samples
            and their rate in Hz, a dict of `array` or `raw` and `sampling_rate`, or a decoder of `datasets`. Or a dict
            with any of these as `audio`, such as a row of a data set.
        sampling_rate (`int`): rate in Hz to read at; other rates are resampled.
        channel_format (`str`, *optional*, defaults to `"auto"`): what the channels are.

            - `"auto"`: `"fuma"` if the file declares it, as `.amb` and ambisonic WAV files do, otherwise `"ambix"`.
            - `"ambix"`: W, Y, Z, X, SN3D.
            - `"fuma"`: W, X, Y, Z, with W 3 dB down; converted to AmbiX.
            - `"aformat"`: the cardioid capsules of a tetrahedral microphone in the order front left up, front right
              down, back left down, back right up; converted to AmbiX by [`a_to_b_format`], which documents the
              frequency limit.
            - `"array"`: a tetrahedral microphone array, read unchanged, for array features.
            - `"stereo"`: left and right.
            - `"mono"`: one channel.

    Raises:
        ValueError: the file cannot be read, or the recording has no samples, the wrong number of channels or an
            implausible sampling rate.
    """

    def __init__(self, source, sampling_rate: int, channel_format: str = "auto"):
        if channel_format not in CHANNEL_FORMATS:
            raise ValueError(f"channel format {channel_format!r} is unknown: use one of {', '.join(CHANNEL_FORMATS)}")
        self.sampling_rate = sampling_rate
        self._samples = open_samples(source)
        try:
            self._check(channel_format)
        except ValueError:
            self.close()
            raise
        # Exact for common rates. An odd ratio is rounded to a simple one, within 5 in 10,000, because its own filter
        # bank would be too large; each read starts at the exact position, so the error does not accumulate.
        exact = Fraction(self._samples.rate, sampling_rate)
        ratio = exact.limit_denominator(1000)
        self._drift = exact - ratio
        self._source_step, self._step = ratio.as_integer_ratio()
        self._resample = Resampler(self._source_step, self._step)
        self.num_samples = ceil(self._samples.num_samples / exact)

    def _check(self, channel_format: str) -> None:
        samples = self._samples
        if channel_format == "auto" and samples.is_fuma:
            channel_format = "fuma"
        kind = CHANNEL_FORMATS[channel_format]
        self.mixing, expected = kind.matrix, kind.num_channels
        if samples.num_channels != expected:
            hint = "give a recording of that kind"
            if isinstance(samples, ArraySamples) and samples.num_samples == expected:
                hint = "it looks transposed, give array.T"
            elif kind.description == AMBIX.description and (order := order_of(samples.num_channels)) > 1:
                hint = f"it looks like order {order}, give its first four channels"
            channels = counted(samples.num_channels, "channel")
            raise ValueError(f"{samples.name}: {channels}, but {kind.description} has {expected}: {hint}")
        if samples.num_samples == 0:
            raise ValueError(f"{samples.name}: contains no samples: record it again or leave it out")

    @property
    def name(self) -> str:
        """Name used in messages, such as the path of the file."""
        return self._samples.name

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sampling_rate

    def read(self, start: int, num_samples: int) -> np.ndarray:
        """Read `num_samples` samples from `start`, both counted at `sampling_rate`.

        Returns:
            (channels, num_samples), float32, zeros after the end.

        Raises:
            ValueError: the file is truncated, or samples are NaN, infinite or far beyond full scale.
        """
        waveform = self._read(start, num_samples)
        check_samples(
            np.abs(waveform).max(initial=0), f"{self._samples.name}, near {start / self.sampling_rate:.1f} s"
        )
        return waveform

    def read_window(self, start: int, num_samples: int) -> np.ndarray:
        """Like [`read`], but extend a recording shorter than `num_samples` with its mirror image."""
        return mirrored(self.read(start, min(num_samples, self.num_samples)), num_samples)

    def _read(self, start: int, num_samples: int) -> np.ndarray:
        astray = round(start * self._drift)
        if self._source_step == self._step:
            return self._read_source(start + astray, num_samples)
        # Read whole periods of both rates plus the filter's margins, to get the same result as for the whole file.
        margin = ceil(self._resample.width / self._source_step) + 1
        first = start // self._step - margin
        last = ceil((start + num_samples) / self._step) + margin
        waveform = self._read_source(first * self._source_step + astray, (last - first) * self._source_step)
        resampled = self._resample(torch.from_numpy(waveform)).numpy()
        offset = start - first * self._step
        return resampled[:, offset : offset + num_samples]

    def _read_source(self, start: int, num_samples: int) -> np.ndarray:
        """Read samples at the recording's own rate, zeros before its start and after its end."""
        begin, end = max(start, 0), min(max(start + num_samples, 0), self._samples.num_samples)
        waveform = np.zeros((len(self.mixing), num_samples), dtype=np.float32)
        if begin < end:
            # `read` reports samples that are not finite.
            with np.errstate(invalid="ignore", over="ignore"):
                waveform[:, begin - start : end - start] = self.mixing @ self._samples.read(begin, end)
        return waveform

    def close(self) -> None:
        """Close the file."""
        self._samples.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """Return where the windows that cover a recording begin; lengths are in the same unit, such as frames.

    The last window ends with the recording, so that its end has as much context as possible.
    """
    latest = max(length - window, 0)
    return [*range(0, latest, hop), latest]


def mirrored(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Extend samples (channels, n) to `num_samples` by mirroring them repeatedly; longer ones are returned unchanged.

    A network trained on windows full of sound finds more events this way than with zero padding.
    """
    if samples.shape[1] >= num_samples:
        return samples
    return samples[:, mirrored_places(np.arange(num_samples), samples.shape[1])]


def mirrored_places(places: np.ndarray, length: int) -> np.ndarray:
    """Map positions in a signal extended by [`mirrored`] to positions in the original of `length` samples."""
    places = places % (2 * length)
    return np.minimum(places, 2 * length - 1 - places)


def open_samples(source) -> "ArraySamples | FileSamples":
    """Open any source that [`Recording`] accepts.

    Raises:
        ValueError: the source is of another type, or cannot be read.
    """
    if isinstance(source, Mapping):
        return _open_mapping(source)
    if hasattr(source, "get_all_samples"):
        source = source.get_all_samples()
    if hasattr(source, "data") and hasattr(source, "sample_rate"):
        return ArraySamples(source.data, source.sample_rate)
    if isinstance(source, str | os.PathLike):
        return FileSamples(source, str(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return FileSamples(io.BytesIO(source), "the bytes")
    if hasattr(source, "read"):
        file = source if source.seekable() else io.BytesIO(source.read())
        return FileSamples(file, str(getattr(source, "name", "the file")))
    if isinstance(source, tuple | list) and len(source) == 2 and (source[1] is None or np.ndim(source[1]) == 0):
        return ArraySamples(*source)
    raise ValueError(f"{type(source).__name__} is not a recording: give {ACCEPTED}")


def _open_mapping(source: Mapping) -> "ArraySamples | FileSamples":
    # `audio` comes first: a row of a data set may have an unrelated column named `path`.
    if source.get("audio") is not None:
        return open_samples(source["audio"])
    array = source["array"] if source.get("array") is not None else source.get("raw")
    if array is not None:
        return ArraySamples(array, source.get("sampling_rate"))
    name = str(source.get("path") or "the bytes")
    if source.get("bytes") is not None:
        return FileSamples(io.BytesIO(source["bytes"]), name)
    if source.get("path") is not None:
        return FileSamples(source["path"], name)
    raise ValueError(f"a dict with {', '.join(map(str, source)) or 'no keys'} is not a recording: give {ACCEPTED}")


def float_samples(samples: np.ndarray | torch.Tensor):
    """Convert samples of any type to float32 with full scale 1, dividing integers by the full scale of their type.

    Raises:
        ValueError: the type has no known full scale.
    """
    # `dtype.name` leaves out the byte order, which varies between arrays.
    name = str(samples.dtype).removeprefix("torch.") if isinstance(samples, torch.Tensor) else samples.dtype.name
    if name not in INTEGER_SCALES and name not in FLOATS:
        raise ValueError(
            f"samples of type {name}: give floats with a full scale of 1, or integers of type"
            f" {', '.join(INTEGER_SCALES)}"
        )
    as_float = samples.float() if isinstance(samples, torch.Tensor) else samples.astype(np.float32, copy=False)
    if name in FLOATS:
        return as_float
    silence, full_scale = INTEGER_SCALES[name]
    return (as_float - silence) / full_scale


def check_samples(largest: float, name: str) -> None:
    """Check the largest absolute sample, which is NaN if any sample is.

    Raises:
        ValueError: it is NaN, infinite or far beyond full scale.
    """
    if not np.isfinite(largest):
        raise ValueError(f"{name}: some samples are NaN or infinite: repair the file or leave it out")
    if largest > LARGEST_SAMPLE:
        raise ValueError(
            f"{name}: samples up to {largest:.3g}, but full scale is 1: if they were integers, divide them by their"
            " full scale, such as 32768 for 16 bit"
        )


def as_channels(array) -> np.ndarray | torch.Tensor:
    """Return an array, a tensor or nested lists of numbers as an array or a tensor.

    Raises:
        ValueError: it is a list of 1-D arrays, which would be taken for mono recordings, or of unequal rows.
    """
    if isinstance(array, torch.Tensor | np.ndarray):
        return array
    if isinstance(array, list | tuple) and any(hasattr(row, "dtype") and np.ndim(row) == 1 for row in array):
        raise ValueError(
            f"a list of {len(array)} 1-D arrays is read as mono recordings: if they are channels of one recording,"
            " pass np.stack(arrays)"
        )
    try:
        return np.asarray(array, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError("expected an array (channels, samples) of numbers") from None


class ArraySamples:
    """Samples in memory, converted to float32 when read.

    Args:
        array: (channels, samples).
        rate: sampling rate in Hz.
    """

    name, is_fuma = "the array", False

    def __init__(self, array, rate):
        self.rate = checked_rate(rate, self.name)
        self._array = as_channels(array)
        if self._array.ndim != 2:
            hint = (
                ": if it is mono, give array[None]; ['array'] of datasets is the mean of the channels: use"
                " get_all_samples().data"
            )
            raise ValueError(
                f"{self.name}: expected shape (channels, samples), got {tuple(self._array.shape)}"
                f"{hint if self._array.ndim == 1 else ''}"
            )
        self.num_channels, self.num_samples = self._array.shape
        float_samples(self._array[:, :0])

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return samples (channels, end - begin), float32."""
        part = self._array[:, begin:end]
        return float_samples(part.detach().cpu() if isinstance(part, torch.Tensor) else part).__array__()

    def close(self) -> None:
        """Do nothing, as no file is open."""


class Resampler:
    """Resample with windowed sinc functions (Smith, "Digital audio resampling").

    Args:
        source_step, step: source and target rate, in lowest terms.
    """

    zero_crossings, rolloff = 6, 0.99

    def __init__(self, source_step: int, step: int):
        self.source_step, self.step = source_step, step
        # Cutoff as a fraction of the source's Nyquist frequency.
        cutoff = min(source_step, step) * self.rolloff / source_step
        self.width = ceil(self.zero_crossings / cutoff)
        offset = torch.arange(-self.width, self.width + source_step, dtype=torch.float64)
        phase = torch.arange(step, dtype=torch.float64)[:, None] * source_step / step
        crossing = ((offset - phase) * cutoff).clamp(-self.zero_crossings, self.zero_crossings)
        window = (crossing * pi / self.zero_crossings / 2).cos().square()
        self.filters = (crossing.sinc() * window * cutoff).float().unsqueeze(1)

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Resample (channels, samples) to (channels, ceil(samples * step / source_step))."""
        padded = torch.nn.functional.pad(waveform, (self.width, self.width + self.source_step)).unsqueeze(1)
        phases = torch.nn.functional.conv1d(padded, self.filters, stride=self.source_step)
        length = ceil(waveform.shape[1] * self.step / self.source_step)
        return phases.transpose(1, 2).flatten(1)[:, :length]


def find_audio(path: str | os.PathLike) -> list[Path]:
    """Return the file itself, or the audio files below a folder, sorted.

    Raises:
        OSError: the folder cannot be read.
        ValueError: it holds no audio.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = walk_audio(path, AUDIO_SUFFIXES)
    if not files:
        raise ValueError(f"{path}: no audio in this folder ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return files
