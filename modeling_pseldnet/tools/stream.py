"""Live detection: the events of a stream of samples, with bounded latency."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO

import numpy as np

from ..audio import CHANNEL_FORMATS, Recording, check_samples, float_samples, mirrored
from ..containers import checked_rate
from ..events import FRAME_SECONDS, FRAMES_PER_SECOND, Events, count_frames, round_azimuth
from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
from ..fitting import check_extractor, choose_channel_format
from ..inference import Window, checked_frames, checked_threshold, decode_windows, evaluating, window_outputs
from ..modeling_pseldnet import PSELDNetForSELD
from ..timeline import link_tracks
from .cli import first_line
from .extras import require


# Sample formats of a pipe, each with its type and full scale.
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
    """Detect events in a stream, frame by frame, as soon as each frame is final.

    After each block the model runs on the last window (ten seconds) of the stream, extended with its mirror image
    before the start. A frame is final once `delay_seconds` after its end have arrived; its outputs are then averaged
    over all windows so far that contain it, weighted by [`Window.weights`]. So it is yielded at most `delay_seconds`,
    the length of a block and one forward pass after it sounded. A longer delay gives it more context and more windows.
    With a delay of one window, the frames after the first window equal those of [`detect`] with the block length as
    hop.

    Args:
        model, feature_extractor: a model and its extractor. The model runs on the device of its weights.
        blocks: samples (channels, samples) of any length, ideally 0.5 to 1 s, in order and without gaps. The model
            runs once per block, and once more for each further window that a block spans.
        sampling_rate: sampling rate of the blocks in Hz, a multiple of 10; they are resampled to the model's.
        channel_format, threshold: as in [`detect`].
        delay_seconds: a multiple of 0.1 s, up to a window. Defaults to 0.5.

    Yields:
        Every frame in order with its events, if any. A source keeps its track number. When the blocks end, the last
        frames follow without delay.

    Raises:
        ValueError: the blocks cannot be used, the extractor does not fit the model, or a value above is out of range;
            the message says which.
    """
    check_extractor(feature_extractor, model.config)
    threshold = checked_threshold(model.config.threshold if threshold is None else threshold, model.config)
    channel_format = choose_channel_format(channel_format, feature_extractor)
    window_frames = model.config.window_seconds * FRAMES_PER_SECOND
    delay_frames = checked_frames("delay", delay_seconds, 0, window_frames)
    frame_samples = samples_of(FRAME_SECONDS, sampling_rate)
    sampling_rate = FRAMES_PER_SECOND * frame_samples
    model_frame_samples = model.config.sampling_rate // FRAMES_PER_SECOND
    num_channels = CHANNEL_FORMATS[channel_format].num_channels

    samples, first = np.zeros((num_channels, 0), dtype=np.float32), 0  # the last window, and the frame it begins with
    windows: list[Window] = []
    heard, told, tracks = 0, 0, {}
    for block in _pieces(blocks, num_channels, window_frames * frame_samples):
        check_samples(np.abs(block).max(initial=0), f"the stream, near {heard / sampling_rate:.1f} s")
        samples, heard = np.concatenate([samples, block], axis=1), heard + block.shape[1]
        end = count_frames(heard, sampling_rate)
        # The resampling filter looks back a little: keep one frame more than a window.
        surplus = max(end - first - window_frames - 1, 0)
        samples, first = samples[:, surplus * frame_samples :], first + surplus
        recording = Recording((samples, sampling_rate), model.config.sampling_rate, channel_format)
        start = end - window_frames
        begin = max(start - first, 0)
        waveform = recording.read(begin * model_frame_samples, (end - first - begin) * model_frame_samples)
        waveform = mirrored(waveform[:, ::-1], window_frames * model_frame_samples)[:, ::-1]
        with evaluating(model):
            windows_now = window_outputs(model, model.predict, feature_extractor, [waveform], [start])
        windows = [earlier for earlier in windows if earlier.first + window_frames > told] + windows_now
        final = max(heard // frame_samples - delay_frames, told)
        yield from _final_frames(model.output_format, windows, told, final, threshold, tracks)
        told = final
    yield from _final_frames(model.output_format, windows, told, count_frames(heard, sampling_rate), threshold, tracks)


def _pieces(blocks: Iterable[np.ndarray], num_channels: int, most_samples: int) -> Iterator[np.ndarray]:
    """Yield blocks, splitting long ones.

    Raises:
        ValueError: a block has the wrong number of channels.
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
    """Yield the frames from `begin` to `end`, averaged over the windows that contain them, with their events."""
    if begin == end:
        return
    parts = [window.part(max(begin - window.first, 0), end - window.first) for window in windows if window.first < end]
    parts = [window._replace(first=window.first - begin) for window in parts]
    events = decode_windows(output_format, parts, threshold)
    events = link_tracks(events.replace(frame=events.frame + begin), tracks)
    for frame in range(begin, end):
        yield frame, events[events.frame == frame]


def to_record(frame: int, events: Events, id2label: dict[int, str]) -> dict:
    """Convert a frame to a dict for a line of JSON.

    It has `time`, the start of the frame in seconds from the start of the stream, and `events`, each a dict of
    `label`, `track`, `azimuth` and `elevation` in degrees, `distance` in metres and `onscreen` if the model predicts
    them, and `confidence`, the activity.
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
    """Return the number of samples in a duration, rounded to frames of 100 ms.

    Raises:
        ValueError: a frame is not a whole number of samples, or the rate is implausible.
    """
    rate = checked_rate(sampling_rate, "the stream")
    if rate % FRAMES_PER_SECOND:
        raise ValueError(
            f"a rate of {rate} Hz is not possible: give a multiple of {FRAMES_PER_SECOND} Hz, such as 48000"
        )
    return round(seconds * FRAMES_PER_SECOND) * (rate // FRAMES_PER_SECOND)


def read_pcm(file: BinaryIO, sample_format: str, num_channels: int, num_samples: int) -> Iterator[np.ndarray]:
    """Read raw samples with interleaved channels as blocks (channels, num_samples); the last may be shorter.

    Args:
        file: a binary file, which may return less than requested, as raw pipes do.
        sample_format: `"s16le"` or `"f32le"`, in FFmpeg's terms.
        num_channels: number of channels.
        num_samples: number of samples in a block.

    Raises:
        ValueError: the stream is a sound file with a header, or samples are NaN or infinite.
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
                raise ValueError("the stream is a sound file with a header: send raw samples, as from arecord -t raw")
        if len(data) == size or not piece:
            whole = len(data) - len(data) % (num_channels * dtype.itemsize)
            block = np.frombuffer(data[:whole], dtype).reshape(-1, num_channels).T.astype(np.float32)
            if not np.isfinite(block).all():
                raise ValueError(f"some samples are NaN or infinite: is the stream really {sample_format}?")
            if whole:
                yield block / np.float32(full_scale)
            data = b""
        if not piece:
            return


def read_device(
    device: str, sampling_rate: int, num_channels: int, num_samples: int, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """Record from a sound device as endless blocks (channels, num_samples).

    Args:
        device: name, part of a name, or number, as listed by `python -m sounddevice`.
        sampling_rate, num_channels, num_samples: rate in Hz, number of channels, and samples in a block.
        warn: called once if samples are lost.

    Raises:
        ImportError: the package sounddevice is missing.
        ValueError: PortAudio is missing, or the device does not support these settings.
    """
    try:
        sounddevice = require("sounddevice")
    except OSError as error:
        raise ValueError(
            f"a sound device needs PortAudio ({first_line(error)}): install it, or pipe raw samples to standard input"
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
            f"sound device {device!r} cannot be used with {num_channels} channels at {sampling_rate} Hz:"
            f" {first_line(error)}; python -m sounddevice lists devices"
        ) from None


def in_real_time(
    blocks: Iterable[np.ndarray], block_seconds: float, most_seconds: float, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """Yield blocks as they arrive, joining several when the consumer falls behind real time.

    A thread, which ends with the generator, reads ahead so that the source need not wait. From a source faster than
    real time, such as a file, blocks are not joined just because they are there, but only if the next one is due.

    Args:
        blocks: blocks (channels, samples) of equal length, except the last.
        block_seconds: that length in seconds.
        most_seconds: how much to join or read ahead at most.
        warn: called once when blocks are joined.
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
        # A source that yields nothing cannot be stopped, so do not wait for it.
        reader.join(timeout=max(2 * block_seconds, 0.2))


def _joined(
    waiting: queue.Queue, most: int, block_seconds: float, warn: Callable[[str], None]
) -> Iterator[np.ndarray]:
    """Yield the blocks of a queue until it ends, joining up to `most` that are due."""
    taken, beginning, warned = 0, 0.0, False

    def due() -> bool:
        """Whether another block is waiting, and in real time would already be complete."""
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
                # A consumer that had to wait has caught up with the source, so restart the clock.
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
