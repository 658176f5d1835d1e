"""Run a model, which takes ten seconds at once, on recordings of any length in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import groupby, islice
from math import isfinite
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .audio import Recording, window_starts
from .events import FRAMES_PER_SECOND, Events, count_frames, fold_azimuth
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .fitting import check_extractor, choose_channel_format
from .output_formats import OutputFormat
from .rotation_averaging import rotation_averaging
from .timeline import link_tracks


Outputs = dict[str, np.ndarray]
# Frames below -120 dB of full scale in every channel have no events, whatever the network predicts.
SILENCE = 1e-6


class Window(NamedTuple):
    """A model's outputs for one window.

    Attributes:
        first: index of its first frame in the recording.
        outputs: arrays (frames, …), float32.
        peak: peak level of the audio in each frame, (frames,).
        weight: weight of each frame where windows overlap, (frames,). Defaults to that of a whole window.
    """

    first: int
    outputs: Outputs
    peak: np.ndarray
    weight: np.ndarray | None = None

    def part(self, begin: int, end: int | None = None) -> "Window":
        """Return the frames from `begin` up to `end` as a window."""
        outputs = {name: values[begin:end] for name, values in self.outputs.items()}
        return Window(self.first + begin, outputs, self.peak[begin:end], self.weights()[begin:end])

    def weights(self) -> np.ndarray:
        """Return the weight of each frame, (frames,), which falls towards the ends of a window.

        There, the model has heard less of what comes before or after.
        """
        if self.weight is not None:
            return self.weight
        frames = np.arange(len(self.peak))
        return np.minimum(frames + 1, len(frames) - frames).astype(np.float32)


def detect(
    model: PreTrainedModel,
    feature_extractor: PSELDNetFeatureExtractor,
    source,
    *,
    channel_format: str | None = None,
    threshold: float | list[float] | np.ndarray | None = None,
    hop_seconds: float | None = None,
    tta: bool = False,
    batch_size: int = 8,
    dtype: torch.dtype | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Events:
    """Detect the sound events in a recording, with directions and, if the model estimates them, distances.

    Args:
        model, feature_extractor: a [`PSELDNetForSELD`] and its extractor. The model runs on the device of its weights.
        source: a file or its bytes, an array (channels, samples) with its rate, or anything else that [`Recording`]
            accepts.
        channel_format (`str`): what the channels are, as in [`Recording`]. Defaults to the model's input: for
            ambisonics what the file declares, or else `"ambix"` (W, Y, Z, X, SN3D); `"array"`, `"stereo"` or `"mono"`
            for those features.
        threshold: activity above which an event is reported, one for all classes or one per class. Defaults to the
            model's own.
        hop_seconds (`float`): step between windows, a multiple of 0.1 s. Defaults to the window length; half of it
            finds more at twice the cost. Overlapping outputs are averaged, with tracks matched by source and less
            weight towards the ends of windows.
        tta (`bool`): whether to average over 16 rotations and reflections of the sound field, at 16 times the work;
            see [`rotation_averaging`].
        batch_size (`int`): number of windows in a forward pass. Defaults to 8.
        dtype: type in which a copy of the model computes, such as `"bfloat16"`, or `"auto"` for the one that is fast
            on its device, see [`fast_dtype`]. Defaults to the model's own, without a copy.
        progress: called with the number of windows done and their total number.

    Returns:
        [`Events`] on the frames of the recording, with confidence; a source keeps its track number.

    Raises:
        ValueError: the recording cannot be used, the extractor does not fit the model, or a value above is out of
            range; the message says which.
    """
    (events,) = detect_each(
        model,
        feature_extractor,
        [source],
        channel_format=channel_format,
        threshold=threshold,
        hop_seconds=hop_seconds,
        tta=tta,
        batch_size=batch_size,
        dtype=dtype,
        progress=progress and (lambda _, done, total: progress(done, total)),
    )
    if isinstance(events, Exception):
        raise events
    return events


def detect_each(
    model: PreTrainedModel,
    feature_extractor: PSELDNetFeatureExtractor,
    sources: Iterable,
    *,
    channel_format: str | None = None,
    threshold: float | list[float] | np.ndarray | None = None,
    hop_seconds: float | None = None,
    tta: bool = False,
    batch_size: int = 8,
    dtype: torch.dtype | str | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Iterator[Events | Exception]:
    """Run [`detect`] on many recordings, whose windows share batches, so that short recordings fill them too.

    Args:
        sources: sources as in [`detect`], each opened when a batch needs its windows.
        progress: called with the index of a recording, the number of its windows done and their total number.
        others: as in [`detect`].

    Returns:
        An iterator over the events of each recording, in order, or the exception raised for it.

    Raises:
        ValueError: the extractor does not fit the model, or a value is out of range; the message says which.
    """
    check_extractor(feature_extractor, model.config)
    threshold = checked_threshold(model.config.threshold if threshold is None else threshold, model.config)
    model = in_dtype(model, dtype)
    window_frames = model.config.window_seconds * FRAMES_PER_SECOND
    hop_seconds = model.config.window_seconds if hop_seconds is None else hop_seconds
    hop_frames = checked_frames("hop", hop_seconds, 1, window_frames)
    channel_format = choose_channel_format(channel_format, feature_extractor)
    predict = rotation_averaging(model, feature_extractor) if tta else model.predict
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, not {batch_size!r}")

    def pieces() -> Iterator[Piece]:
        for index, source in enumerate(sources):
            try:
                with Recording(source, model.config.sampling_rate, channel_format) as recording:
                    yield from recording_pieces(index, recording, window_frames, hop_frames)
            except Exception as error:
                yield Piece(index, error)

    def recordings() -> Iterator[Events | Exception]:
        windows = batched_windows(model, predict, feature_extractor, pieces(), batch_size, progress)
        # Windows are computed as they are decoded, so that only one batch is in memory.
        for _, of_recording in groupby(windows, key=lambda pair: pair[0].index):
            try:
                yield decode_recording(model.output_format, of_recording, threshold)
            except Exception as error:
                yield error

    return recordings()


class Piece(NamedTuple):
    """A window of a recording, before the model has processed it.

    Attributes:
        index: index of the recording.
        waveform: samples (channels, samples), or the exception raised when reading the recording.
        start: index of its first frame in the recording.
        number: its number among the windows, from 1.
        total: number of windows of the recording.
        num_frames: number of frames of the recording.
    """

    index: int
    waveform: np.ndarray | Exception
    start: int = 0
    number: int = 0
    total: int = 0
    num_frames: int = 0


def recording_pieces(index: int, recording: Recording, window_frames: int, hop_frames: int) -> Iterator[Piece]:
    """Yield the windows of a recording, read one by one."""
    frame_samples = recording.sampling_rate // FRAMES_PER_SECOND
    num_frames = count_frames(recording.num_samples, recording.sampling_rate)
    starts = window_starts(num_frames, window_frames, hop_frames)
    for number, start in enumerate(starts, 1):
        waveform = recording.read_window(start * frame_samples, window_frames * frame_samples)
        yield Piece(index, waveform, start, number, len(starts), num_frames)


def batched_windows(
    model: PreTrainedModel,
    predict: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    feature_extractor: PSELDNetFeatureExtractor,
    pieces: Iterator[Piece],
    batch_size: int,
    progress: Callable[[int, int, int], None] | None,
) -> Iterator[tuple[Piece, Window | Exception]]:
    """Yield each piece with the model's outputs for it, or the exception raised."""

    def outcomes(heard: list[Piece]) -> list[Window | Exception]:
        try:
            with evaluating(model):
                starts, waveforms = [piece.start for piece in heard], [piece.waveform for piece in heard]
                return window_outputs(model, predict, feature_extractor, waveforms, starts)
        except Exception as error:
            if len(heard) == 1:
                return [error]
        # Retry one by one, so that only the faulty window fails; the batch's memory has been freed by now.
        return [outcome for piece in heard for outcome in outcomes([piece])]

    while batch := list(islice(pieces, batch_size)):
        heard = [piece for piece in batch if not isinstance(piece.waveform, Exception)]
        windows = iter(outcomes(heard))
        for piece in batch:
            yield piece, piece.waveform if isinstance(piece.waveform, Exception) else next(windows)
        if progress is not None and heard:
            progress(heard[-1].index, heard[-1].number, heard[-1].total)


def decode_recording(
    output_format: OutputFormat, windows: Iterable[tuple[Piece, Window | Exception]], threshold: np.ndarray
) -> Events:
    """Decode the events of one recording and link their tracks.

    Raises:
        Exception: the exception that one of its windows holds.
    """
    num_frames = 0

    def heard() -> Iterator[Window]:
        nonlocal num_frames
        for piece, window in windows:
            if isinstance(window, Exception):
                raise window
            num_frames = piece.num_frames
            yield window

    events = decode_windows(output_format, heard(), threshold)
    return link_tracks(events[events.frame < num_frames])


def join_windows(
    output_format: OutputFormat, windows: Iterable[tuple[Window, int, Events]], threshold: np.ndarray
) -> tuple[Events, Events]:
    """Return the reference and the predicted events of a recording, joined from its windows.

    Args:
        windows: for each window, in order, the model's outputs, the number of its frames that lie in the recording,
            and its reference events.
    """
    references, end = [], 0

    def heard() -> Iterator[Window]:
        nonlocal end
        for window, num_frames, events in windows:
            events = events.replace(frame=events.frame + window.first)
            # Earlier windows have already covered the frames before `end`.
            references.append(events[events.frame >= end])
            end = max(end, window.first + num_frames)
            yield window

    prediction = decode_windows(output_format, heard(), threshold)
    return Events.concatenate(references), prediction[prediction.frame < end]


def scored_frames(peak: np.ndarray, num_frames: int, events: Events) -> np.ndarray:
    """Return which frames of a window have a loss and a score: those of the recording, except silence without events.

    Args:
        peak: peak level of each frame, (frames,).
        num_frames: how many frames lie in the recording.
        events: the events in the window.

    Returns:
        (frames,), bool.
    """
    counts = peak > SILENCE
    counts[events.frame[events.frame < len(peak)]] = True
    counts[num_frames:] = False
    return counts


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for hardware with matrix units for it (GPUs since Ampere, CPUs with AMX), otherwise float32."""
    if device.type == "cuda":
        has_units = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_units = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_units else torch.float32


def in_dtype(model: PreTrainedModel, dtype: torch.dtype | str | None) -> PreTrainedModel:
    """Return the model, or a copy of it that computes in another type.

    Raises:
        ValueError: the type is unknown.
    """
    if dtype is not None and dtype != "auto" and dtype not in (*DTYPES, *DTYPES.values()):
        raise ValueError(f"dtype {dtype!r} is unknown: use one of auto, {', '.join(DTYPES)}")
    dtype = fast_dtype(model.device) if dtype == "auto" else DTYPES.get(dtype, dtype)
    return model if dtype in (None, model.dtype) else deepcopy(model).to(dtype)


def decode_windows(output_format: OutputFormat, windows: Iterable[Window], threshold: float | np.ndarray) -> Events:
    """Decode the events of a recording; none in silent frames.

    Args:
        output_format: decodes the outputs.
        windows: the windows in order; overlaps are averaged, as in [`average_overlaps`].
        threshold: activity above which an event is reported, a scalar or (classes,).
    """
    loud = np.zeros(0, dtype=bool)

    def heard() -> Iterator[Window]:
        nonlocal loud
        for window in windows:
            end = window.first + len(window.peak)
            loud = np.pad(loud, (0, max(end - len(loud), 0)))
            loud[window.first : end] |= window.peak > SILENCE
            yield window

    parts = []
    for first, averaged in average_overlaps(output_format, heard()):
        events = output_format.decode(averaged, threshold)
        if output_format.num_axes == 2:
            # Stereo cannot tell behind from in front.
            events = events.replace(azimuth=fold_azimuth(events.azimuth))
        events = events.replace(frame=events.frame + first)
        parts.append(events[loud[events.frame]])
    return Events.concatenate(parts)


def average_overlaps(output_format: OutputFormat, windows: Iterable[Window]) -> Iterator[tuple[int, Outputs]]:
    """Average the outputs of windows where they overlap, with tracks in the order of the earlier windows.

    The averages are weighted by [`Window.weights`].

    Args:
        output_format: matches the tracks of two windows.
        windows: in order. A window must not end before an earlier one does.

    Yields:
        The first frame and the outputs of consecutive stretches, as soon as no further window can cover them.
    """
    first, weight, mean = 0, np.zeros(0, np.float32), {}
    for window in windows:
        done = window.first - first
        if done > 0 and mean:
            yield first, {name: values[:done] for name, values in mean.items()}
        first, weight = window.first, weight[done:]
        outputs, own, overlap = window.outputs, window.weights(), len(weight)
        if overlap:
            before = {name: values[done:] for name, values in mean.items()}
            aligned = output_format.align_tracks({name: v[:overlap] for name, v in outputs.items()}, before)
            share = own[:overlap] / (weight + own[:overlap])
            outputs = {
                name: np.concatenate([_between(before[name], aligned[name], share), values[overlap:]])
                for name, values in outputs.items()
            }
        weight, mean = np.pad(weight, (0, len(own) - overlap)) + own, outputs
    if mean:
        yield first, mean


def _between(before: np.ndarray, after: np.ndarray, share: np.ndarray) -> np.ndarray:
    return before + (after - before) * share.reshape(-1, *[1] * (before.ndim - 1))


def window_outputs(
    model: PreTrainedModel,
    predict: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    feature_extractor: PSELDNetFeatureExtractor,
    waveforms: list[np.ndarray],
    starts: list[int],
) -> list[Window]:
    """Run the model on windows of equal length, (channels, samples) each, whose first frames are `starts`."""
    if not waveforms:
        return []
    stacked = np.stack(waveforms)
    inputs = feature_extractor(stacked, sampling_rate=feature_extractor.sampling_rate, device=model.device)
    outputs = predict(inputs["input_features"].to(model.dtype))
    arrays = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    frame_samples = feature_extractor.sampling_rate // FRAMES_PER_SECOND
    peak = np.abs(stacked).max(1).reshape(len(stacked), -1, frame_samples).max(2)
    return [
        Window(start, {name: array[row] for name, array in arrays.items()}, peak[row])
        for row, start in enumerate(starts)
    ]


@contextmanager
def in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, and restore the mode of each of its parts afterwards."""
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put a model in evaluation mode without gradients, and restore its mode afterwards."""
    with in_evaluation_mode(model), torch.inference_mode():
        yield


def checked_threshold(threshold, config) -> np.ndarray:
    """Return the threshold as an array, () or (classes,).

    Raises:
        ValueError: a value is not between 0 and 1, or there is neither one value nor one per class.
    """
    try:
        values = np.asarray(threshold, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"threshold {threshold!r} is not a number, nor a list of one per class") from None
    if values.ndim > 1 or (values.ndim == 1 and len(values) != config.num_labels):
        raise ValueError(f"{values.size} thresholds for {config.num_labels} classes: give one, or one per class")
    if not ((values > 0) & (values < 1)).all():
        raise ValueError("a threshold must lie between 0 and 1")
    return values


def checked_frames(name: str, seconds: float, least: int, window_frames: int) -> int:
    """Convert a hop or a delay from seconds to frames.

    Raises:
        ValueError: it is not a multiple of a frame, shorter than `least` frames or longer than a window.
    """
    is_number = isinstance(seconds, Real) and isfinite(seconds)
    frames = round(seconds * FRAMES_PER_SECOND) if is_number else -1
    if not least <= frames <= window_frames or abs(frames - seconds * FRAMES_PER_SECOND) > 1e-6:
        raise ValueError(
            f"a {name} of {seconds} s is not possible: give a multiple of 0.1 s, up to the window of"
            f" {window_frames // FRAMES_PER_SECOND} s"
        )
    return frames
