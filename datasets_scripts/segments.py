"""Windows of fixed length over SELD recordings, read from disk on demand."""

import io
from collections.abc import Iterator
from typing import Literal

import numpy as np
import soundfile

from datasets_scripts.seld_builder import columns_to_events
from modeling_pseldnet.audio import check_samples, mirrored, mirrored_places, window_starts
from modeling_pseldnet.events import FRAME_SECONDS, Events, count_frames
from modeling_pseldnet.tools.extras import naming_extras


with naming_extras():
    import pyarrow as pa
    from datasets import Dataset


COLUMNS = ["id", "audio", "sampling_rate", "num_samples", "events"]


def segment_starts(num_frames: int, window: int, hop: int, mode: Literal["train", "evaluation"]) -> list[int]:
    """Return the first frames of the windows that cover a recording; all arguments are in frames.

    A last window that would reach past the end is moved back to end there; in training it is padded instead if at
    least half of it is new.
    """
    starts = window_starts(num_frames, window, hop)
    if mode == "train" and len(starts) > 1 and starts[-1] - starts[-2] >= window / 2:
        starts[-1] = starts[-2] + hop
    return starts


def segment_frames(seconds: float, hop_seconds: float | None = None) -> tuple[int, int]:
    """Return the length of a window, and the step from one to the next, in frames; see [`SegmentedDataset`].

    Raises:
        ValueError: they are not multiples of 100 ms, or there would be gaps between windows.
    """
    hop_seconds = seconds if hop_seconds is None else hop_seconds
    window, hop = (round(length / FRAME_SECONDS) for length in (seconds, hop_seconds))
    if not np.allclose([window, hop], np.array([seconds, hop_seconds]) / FRAME_SECONDS):
        raise ValueError(
            f"seconds and hop_seconds must be multiples of {FRAME_SECONDS} s, not {seconds} and {hop_seconds}"
        )
    if not 0 < hop <= window:
        raise ValueError(f"hop_seconds must be above 0 and at most seconds ({seconds}), not {hop_seconds}")
    return window, hop


def read_samples(audio: dict, start: int, num_samples: int, length: int) -> np.ndarray:
    """Read part of a recording without reading the rest.

    Args:
        audio: `path` of the file, or its `bytes`, as `datasets` stores it.
        start: first sample.
        num_samples: how many to read.
        length: samples of the result, which is padded with zeros.

    Returns:
        `np.ndarray` of float32, (channels, length): a transposed view, which saves a copy.

    Raises:
        OSError: the file cannot be read there, or ends too early.
        ValueError: samples are NaN, infinite or far beyond full scale.
    """
    where = f"{audio['path']}: cannot read {num_samples} samples starting at sample {start}"
    try:
        with soundfile.SoundFile(audio["path"] if audio["bytes"] is None else io.BytesIO(audio["bytes"])) as file:
            seconds = start / file.samplerate
            where += f" ({seconds:.1f} s)"
            samples = np.zeros((length, file.channels), np.float32)
            file.seek(start)
            found = len(file.read(num_samples, out=samples[:num_samples]))
    except soundfile.SoundFileError as error:
        raise OSError(f"{where}: {error}") from error
    if found < num_samples:
        raise OSError(f"{where}: there are only {found}")
    check_samples(np.abs(samples).max(initial=0), f"{audio['path']}, near {seconds:.1f} s")
    return samples.T


def _read_events(value: pa.StructScalar) -> Events | None:
    """Convert a value of the column `events`."""
    if not value.is_valid:
        return None
    columns = {name: column.values for name, column in value.items()}
    return columns_to_events(
        {name: None if values is None else values.to_numpy(zero_copy_only=False) for name, values in columns.items()}
    )


def _mirrored_events(events: Events, num_samples: int, length: int, num_frames: int) -> Events:
    """Continue the events of `num_samples` samples, mirrored like the audio, to `length` samples (`num_frames`)."""
    middle = ((np.arange(num_frames) + 0.5) * length / num_frames).astype(int)
    heard = mirrored_places(middle, num_samples) * num_frames // length
    rows = [np.flatnonzero(events.frame == frame) for frame in heard]
    return events[np.concatenate(rows)].replace(frame=np.repeat(np.arange(num_frames), list(map(len, rows))))


class SegmentedDataset:
    """The windows of recordings, as a map-style data set for `torch.utils.data.DataLoader`.

    An item is a dict: `waveform` (float32, (channels, samples)), `sampling_rate` in Hz, `events` (with frames counted
    from the start of the window; `None` if the recording has no labels), `recording` (its id), `start_frame`, and
    `num_frames` (how many of the window's frames lie in the recording). A recording shorter than a window is continued
    with its mirror image, in training together with its events; a longer one is padded with zeros. Only the list of
    windows is kept in memory.

    Args:
        dataset: recordings from one of the builders here, with audio as paths or embedded.
        seconds: length of a window, a multiple of 100 ms.
        hop_seconds: time from one window to the next, a multiple of 100 ms, at most `seconds`. Defaults to `seconds`.
        mode: `"evaluation"` always moves the last window of a recording back to its end (see [`segment_starts`]) and
            leaves the mirror image, which is not scored, without events.

    Attributes:
        hop: frames from one window to the next.

    Raises:
        TypeError: `dataset` is a stream, or several splits.
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        dataset: Dataset,
        seconds: float = 10.0,
        hop_seconds: float | None = None,
        mode: Literal["train", "evaluation"] = "train",
    ):
        if not isinstance(dataset, Dataset):
            raise TypeError(f"expected one split, such as as_dataset(split='train'), not a {type(dataset).__name__}")
        if mode not in ("train", "evaluation"):
            raise ValueError(f"mode must be 'train' or 'evaluation', not {mode!r}")
        self.window, self.hop = segment_frames(seconds, hop_seconds)
        self.mode = mode
        self.dataset = dataset.select_columns(COLUMNS).with_format("arrow")
        lengths = dataset.select_columns(["num_samples", "sampling_rate"]).with_format("numpy")[:]
        self.num_frames = count_frames(lengths["num_samples"], lengths["sampling_rate"])
        starts = [segment_starts(int(num_frames), self.window, self.hop, mode) for num_frames in self.num_frames]
        self.recording = np.repeat(np.arange(len(starts)), [len(of_recording) for of_recording in starts])
        self.start = np.concatenate([np.zeros(0, int), *starts])

    def __len__(self) -> int:
        return len(self.start)

    def references(self) -> Iterator[tuple[str, Events | None]]:
        """Yield the id and the events of each recording; the events are `None` if it has no labels."""
        for recording in range(len(self.dataset)):
            row = self.dataset[recording]
            yield row["id"][0].as_py(), _read_events(row["events"][0])

    def __getitem__(self, index: int) -> dict:
        recording, start = int(self.recording[index]), int(self.start[index])
        row = {name: column[0] for name, column in zip(COLUMNS, self.dataset[recording].columns, strict=True)}
        sampling_rate, total = row["sampling_rate"].as_py(), row["num_samples"].as_py()
        first, length = (round(frames * FRAME_SECONDS * sampling_rate) for frames in (start, self.window))
        events = _read_events(row["events"])
        if events is not None:
            events = events[(events.frame >= start) & (events.frame < start + self.window)]
            events = events.replace(frame=events.frame - start)
        waveform = read_samples(row["audio"].as_py(), first, min(length, total - first), length)
        if total < length:
            waveform = mirrored(waveform[:, :total], length)
            if self.mode == "train" and events is not None:
                events = _mirrored_events(events, total, length, self.window)
        return {
            "waveform": waveform,
            "sampling_rate": sampling_rate,
            "events": events,
            "recording": row["id"].as_py(),
            "start_frame": start,
            "num_frames": min(self.window, int(self.num_frames[recording]) - start),
        }
