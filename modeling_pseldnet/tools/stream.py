"""Live listening: the events of a stream of samples, each a bounded time after it sounded."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import ceil
from typing import BinaryIO

import numpy as np

from ..audio import CHANNEL_FORMATS, LOWEST_RATE, Recording, check_samples, checked_rate, float_samples, mirrored
from ..events import FRAME_SECONDS, Events, round_azimuth
from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
from ..inference import (
    FRAMES_PER_SECOND,
    Window,
    check_extractor,
    checked_frames,
    checked_threshold,
    choose_channel_format,
    decode_windows,
    evaluating,
    window_outputs,
)
from ..modeling_pseldnet import PSELDNetForSELD
from ..timeline import link_tracks
from .cli import first_line
from .extras import require


# Samples as they come through a pipe, and the number that is full scale.
SAMPLE_FORMATS = {"s16le": (np.dtype("<i2"), 2.0**15), "f32le": (np.dtype("<f4"), 1.0)}
SOUND_FILES = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b"caff", b".snd")


def detect_stream(
    model: PSELDNetForSELD,
    feature_extractor: PSELDNetFeatureExtractor,
    blocks: Iterable[np.ndarray],
    sampling_rate: int,
    *,
    channel_format: str | None = None,
    threshold: float | list[float] | np.ndarray | None = None,
    delay_seconds: float = 0.5,
) -> Iterator[tuple[int, Events]]:
    """What sounds in a stream, frame by frame, as soon as it is final.

    After each block the model hears the last window, ten seconds, of what has come, with its mirror image before the
    beginning. A frame is final when `delay_seconds` have been heard after its end: its outputs are then averaged over
    the windows that have held it so far. Thus a frame is told at the latest `delay_seconds`, the length of a block and
    the time of one forward pass after it sounded. A longer delay gives it more of what comes afterwards and more
    windows; with that of a window, all frames but those of the first window are as [`detect`] gives them with blocks
    for a hop.

    Args:
        model, feature_extractor: as loaded; the model runs where its weights are.
        blocks: samples (channels, samples) of any number, best 0.5 to 1 s, in order and without gaps. The model runs
            once a block, and again for each further window that a block is longer.
        sampling_rate: that of the blocks in Hz, a multiple of 10; they are resampled to the model's.
        channel_format, threshold: as for [`detect`].
        delay_seconds: a multiple of 0.1 s, up to a window.

    Yields:
        Every frame in order and its events, which may be none. A source keeps its track number. When the blocks end,
        the last frames come without delay.

    Raises:
        ValueError: the blocks cannot be used, the extractor is not of the model, or a value above is out of range; the
            message says which.
    """
    check_extractor(feature_extractor, model.config)
    threshold = checked_threshold(model.config.threshold if threshold is None else threshold, model.config)
    channel_format = choose_channel_format(channel_format, feature_extractor)
    window_frames = model.config.window_seconds * FRAMES_PER_SECOND
    delay_frames = checked_frames("delay", delay_seconds, 0, window_frames)
    sampling_rate = checked_rate(sampling_rate, "the stream")
    frame_samples = samples_of(FRAME_SECONDS, sampling_rate)
    num_channels = CHANNEL_FORMATS[channel_format].num_channels

    samples, first = np.zeros((num_channels, 0), dtype=np.float32), 0  # the last window, and the frame it begins with
    windows: list[Window] = []
    heard, told, tracks = 0, 0, {}
    for block in _pieces(blocks, num_channels, window_frames * frame_samples):
        check_samples(np.abs(block).max(initial=0), f"the stream, near {heard / sampling_rate:.1f} s")
        samples, heard = np.concatenate([samples, block], axis=1), heard + block.shape[1]
        end = ceil(heard / frame_samples)
        # The filter that resamples looks back a little: keep a frame more than a window.
        surplus = max(end - first - window_frames - 1, 0)
        samples, first = samples[:, surplus * frame_samples :], first + surplus
        recording = Recording((samples, sampling_rate), model.config.sampling_rate, channel_format)
        start, frame = end - window_frames, model.config.sampling_rate // FRAMES_PER_SECOND
        begin = max(start - first, 0)
        waveform = recording.read(begin * frame, (end - first - begin) * frame)
        waveform = mirrored(waveform[:, ::-1], window_frames * frame)[:, ::-1]
        with evaluating(model):
            windows_now = window_outputs(model, model.predict, feature_extractor, [waveform], [start])
        windows = [earlier for earlier in windows if earlier.first + window_frames > told] + windows_now
        final = max(heard // frame_samples - delay_frames, told)
        yield from _final_frames(model.output_format, windows, told, final, threshold, tracks)
        told = final
    yield from _final_frames(model.output_format, windows, told, ceil(heard / frame_samples), threshold, tracks)


def _pieces(blocks: Iterable[np.ndarray], num_channels: int, most_samples: int) -> Iterator[np.ndarray]:
    """Blocks, longer ones in pieces.

    Raises:
        ValueError: a block has another number of channels.
    """
    for block in blocks:
        if block.ndim != 2 or len(block) != num_channels:
            transposed = block.ndim == 2 and block.shape[1] == num_channels
            hint = "; it looks transposed: give block.T" if transposed else ""
            raise ValueError(f"a block of shape {block.shape}: give blocks of shape ({num_channels}, samples){hint}")
        for start in range(0, block.shape[1], most_samples):
            yield np.asarray(float_samples(block[:, start : start + most_samples]))


def _final_frames(
    output_format,
    windows: list[Window],
    begin: int,
    end: int,
    threshold: np.ndarray,
    tracks: dict,
) -> Iterator[tuple[int, Events]]:
    """The frames from `begin` to `end`, averaged over the windows that hold them, and their events."""
    if begin == end:
        return
    parts = [window.part(max(begin - window.first, 0), end - window.first) for window in windows if window.first < end]
    parts = [window._replace(first=window.first - begin) for window in parts]
    events = decode_windows(output_format, parts, threshold)
    events = link_tracks(events.replace(frame=events.frame + begin), tracks)
    for frame in range(begin, end):
        yield frame, events[events.frame == frame]


def to_record(frame: int, events: Events, id2label: dict[int, str]) -> dict:
    """A frame as a dict, to be written as a line of JSON.

    It has `time`, that of the frame's beginning in seconds from the beginning of the stream, and `events`, each a dict
    of `label`, `track`, `azimuth` and `elevation` in degrees, `distance` in metres and `onscreen` where the model
    tells them, and `confidence`, the activity.
    """
    digits = {"elevation": 1, "distance": 2, "confidence": 3}
    azimuth, confidence = round_azimuth(events.azimuth), np.minimum(events.confidence, 1.0)
    events = events.replace(azimuth=azimuth, confidence=confidence)
    columns = {
        name: (column if name not in digits else column.round(digits[name]) + 0.0).tolist()
        for name, column in events.columns().items()
    }
    names = [
        name for name in ("track", "azimuth", "elevation", "distance", "onscreen", "confidence") if name in columns
    ]
    return {
        "time": round(frame * FRAME_SECONDS, 1),
        "events": [
            {"label": id2label[columns["class_id"][row]], **{name: columns[name][row] for name in names}}
            for row in range(len(events))
        ],
    }


def samples_of(seconds: float, sampling_rate: int) -> int:
    """Samples in some frames of 100 ms.

    Raises:
        ValueError: frames are no whole number of samples.
    """
    if sampling_rate < LOWEST_RATE or sampling_rate % FRAMES_PER_SECOND:
        raise ValueError(
            f"a rate of {sampling_rate} Hz: give a multiple of {FRAMES_PER_SECOND} Hz from {LOWEST_RATE} on, such as"
            " 48000"
        )
    return round(seconds * FRAMES_PER_SECOND) * (sampling_rate // FRAMES_PER_SECOND)


def read_pcm(file: BinaryIO, sample_format: str, num_channels: int, num_samples: int) -> Iterator[np.ndarray]:
    """Raw samples, channels interleaved, as blocks (channels, num_samples); the last may be shorter.

    Args:
        file: opened for bytes; one that gives less than it is asked for, as raw pipes do, is asked again.
        sample_format: `"s16le"` or `"f32le"`, as FFmpeg calls them.
        num_channels: channels in it.
        num_samples: of a block.

    Raises:
        ValueError: it is a sound file with a header, or samples are NaN or infinite.
    """
    dtype, full_scale = SAMPLE_FORMATS[sample_format]
    size = num_samples * num_channels * dtype.itemsize
    data, beginning = b"", True
    while True:
        piece = file.read(size - len(data))
        data += piece
        if beginning and len(data) >= 4:
            beginning = False
            if data.startswith(SOUND_FILES):
                raise ValueError("the stream is a sound file with a header: send raw samples, as arecord -t raw does")
        if len(data) == size or not piece:
            whole = len(data) - len(data) % (num_channels * dtype.itemsize)
            block = np.frombuffer(data[:whole], dtype).reshape(-1, num_channels).T.astype(np.float32)
            if not np.isfinite(block).all():
                raise ValueError(f"samples that are NaN or infinite: is the stream really {sample_format}?")
            if whole:
                yield block / np.float32(full_scale)
            data = b""
        if not piece:
            return


def read_device(
    device: str, sampling_rate: int, num_channels: int, num_samples: int, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """What a sound device records, as blocks (channels, num_samples), without end.

    Args:
        device: name, a part of it, or number, as `python -m sounddevice` lists them.
        sampling_rate, num_channels, num_samples: what to record, in Hz, and the samples of a block.
        warn: told, once, if samples were lost.

    Raises:
        ImportError: the package sounddevice is missing.
        ValueError: PortAudio is missing, or the device cannot be used so.
    """
    try:
        sounddevice = require("sounddevice")
    except OSError as error:
        raise ValueError(
            f"a sound device takes PortAudio ({first_line(error)}): install it, or pipe raw samples to standard input"
        ) from None
    name = int(device) if device.isdecimal() else device
    lost = False
    try:
        with sounddevice.InputStream(
            samplerate=sampling_rate, device=name, channels=num_channels, dtype="float32"
        ) as stream:
            while True:
                samples, overflowed = stream.read(num_samples)
                if overflowed and not lost:
                    lost = True
                    warn(f"sound device {device!r} lost samples")
                yield samples.T.copy()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ValueError(
            f"sound device {device!r} cannot be used, {num_channels} channels at {sampling_rate} Hz:"
            f" {first_line(error)}; python -m sounddevice lists devices"
        ) from None


def in_real_time(
    blocks: Iterable[np.ndarray], block_seconds: float, most_seconds: float, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """Blocks as they come, several in one when the consumer falls behind real time.

    They are read ahead in a thread, which ends with the generator, so that their source need not wait. A source that
    is faster than real time, such as a file, is not hurried through: blocks are joined only where the next one would
    already be due.

    Args:
        blocks: blocks (channels, samples) of one length, but for the last.
        block_seconds: that length.
        most_seconds: the most to join or to read ahead.
        warn: told, once, that blocks are joined.
    """
    most = max(round(most_seconds / block_seconds), 1)
    waiting: queue.Queue = queue.Queue(most)

    stopped = threading.Event()

    def put(item: np.ndarray | Exception | None) -> None:
        left = True
        while left and not stopped.is_set():
            with suppress(queue.Full):
                waiting.put(item, timeout=0.05)
                left = False

    def fill() -> None:
        try:
            for block in blocks:
                put(block)
                if stopped.is_set():
                    break
            put(None)
        except Exception as error:
            put(error)
        finally:
            if hasattr(blocks, "close"):
                blocks.close()

    reader = threading.Thread(target=fill, daemon=True)
    reader.start()
    try:
        yield from _joined(waiting, most, block_seconds, warn)
    finally:
        stopped.set()
        # A source that gives nothing cannot be told to stop: it is not waited for.
        reader.join(timeout=max(2 * block_seconds, 0.2))


def _joined(
    waiting: queue.Queue, most: int, block_seconds: float, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """The blocks of a queue, up to `most` in one where they are due, until it says that they end."""
    taken, beginning, warned = 0, 0.0, False

    def due() -> bool:
        """Whether another block is there, and has been for so long that it is time for the one after it."""
        return not waiting.empty() and time.monotonic() >= beginning + (taken + 1) * block_seconds

    while True:
        parts = []
        while not parts or (len(parts) < most and due()):
            idle = waiting.empty()
            block = waiting.get()
            if not isinstance(block, np.ndarray):
                break
            parts.append(block)
            taken += 1
            if idle or taken == 1:
                # Who waits is as far as the source, which sets the pace anew.
                beginning = time.monotonic() - taken * block_seconds
        if len(parts) > 1 and not warned:
            warned = True
            warn(f"slower than real time: windows are more than {block_seconds:g} s apart")
        if parts:
            yield np.concatenate(parts, axis=1)
        if isinstance(block, Exception):
            raise block
        if block is None:
            return
