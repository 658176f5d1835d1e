"""Base class of the SELD builders: each example is a recording, with its audio as a path and its events as columns."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import DatasetCard

from datasets_scripts.recordings import (
    Part,
    RecordingFiles,
    absolute_path,
    find_recordings,
    fingerprint,
    read_audio_header,
)
from modeling_pseldnet.events import Events, count_frames, read_csv
from modeling_pseldnet.tools.extras import naming_extras


with naming_extras():
    import datasets
    import pyarrow as pa
    from datasets.exceptions import DatasetGenerationError


CARDS = Path(__file__).parent / "cards"

logger = datasets.logging.get_logger(__name__)


class RecordingError(DatasetGenerationError, ValueError):
    """An unusable recording; `datasets` would replace an error of another type, and with it the message."""


@dataclass
class SELDConfig(datasets.BuilderConfig):
    """One form in which a data set is published, such as FOA or the microphone array.

    Attributes:
        parts: where the recordings lie, and which split each belongs to.
        sampling_rate: sampling rate of every recording, in Hz; `None` for that of the first, in sets made here.
        num_channels: number of channels of every recording.
    """

    version: str = "1.0.0"
    parts: tuple[Part, ...] = ()
    sampling_rate: int | None = 24000
    num_channels: int = 4


def events_feature(class_names: list[str], onscreen: bool = False) -> dict:
    """Return the type of the column `events`: one list per column of events, `distance` in metres or null.

    Args:
        onscreen: whether to add a boolean column of that name.
    """
    beside = {"onscreen": datasets.List(datasets.Value("bool"))} if onscreen else {}
    return {
        "frame": datasets.List(datasets.Value("int32")),
        "class": datasets.List(datasets.ClassLabel(names=class_names)),
        "track": datasets.List(datasets.Value("int32")),
        "azimuth": datasets.List(datasets.Value("float64")),
        "elevation": datasets.List(datasets.Value("float64")),
        "distance": datasets.List(datasets.Value("float64")),
        **beside,
    }


def events_to_columns(events: Events) -> dict[str, list | None]:
    """Convert events to a value of [`events_feature`]."""
    columns = {name: column.tolist() for name, column in events.columns().items()}
    return {"class": columns.pop("class_id"), "distance": None, **columns}


def columns_to_events(columns: dict[str, list | np.ndarray | None]) -> Events:
    """Convert a value of [`events_feature`] back to events."""
    columns = dict(columns)
    return Events(class_id=columns.pop("class"), **columns)


class SELDBuilder(datasets.ArrowBasedBuilder):
    """Base class of the builders of SELD data sets.

    An example is a recording: `id`, `audio` (a path, never decoded here), `sampling_rate` in Hz, `num_samples`,
    `duration` in seconds, `split`, `fold` and `room` (null if its name has none), and `events` (null if no labels are
    published; see [`events_feature`]).

    Args:
        config_name: one of `BUILDER_CONFIGS`. Defaults to the first.
        data_dir: the folder with the downloaded and unpacked data.
        kwargs: passed on to `datasets.DatasetBuilder`, such as `cache_dir`.

    Raises:
        FileNotFoundError: no `data_dir` was given, or it lacks audio or labels; the message says how to download them.
        ValueError: there is no such configuration, two files claim to be the same recording, or the first recording of
            a set of any sampling rate cannot be read.
    """

    BUILDER_CONFIG_CLASS = SELDConfig
    # Eight five-minute recordings stay far below the 2 GiB that one Arrow array of embedded audio can hold.
    DEFAULT_WRITER_BATCH_SIZE = 8
    CLASS_NAMES: tuple[str, ...] = ()
    HAS_ONSCREEN = False

    def __init__(self, *, config_name: str | None = None, data_dir: str | os.PathLike | None = None, **kwargs):
        self.card = DatasetCard.load(CARDS / f"{type(self).__module__.rpartition('.')[2]}.md")
        config_name = config_name or self.BUILDER_CONFIGS[0].name
        if config_name not in self.builder_configs:
            raise ValueError(f"unknown configuration {config_name!r}: choose one of {', '.join(self.builder_configs)}")
        try:
            if data_dir is None:
                raise FileNotFoundError("data_dir is missing: give the folder with the downloaded data")
            data_dir = absolute_path(data_dir)
            self.recordings = find_recordings(data_dir, self.builder_configs[config_name].parts)
            self.class_names = self._class_names(data_dir)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{type(self).__name__}: {error}. {self._section('Download')}") from None
        files = (recording for recordings in self.recordings.values() for recording in recordings)
        key = fingerprint(data_dir, files, self.class_names)
        super().__init__(config_name=config_name, data_dir=str(data_dir), hash=key, **kwargs)
        if self.config.sampling_rate is None:
            first = next(iter(self.recordings.values()))[0]
            self.config.sampling_rate = read_audio_header(first.audio).sampling_rate

    def _section(self, title: str) -> str:
        """Return the text below a heading of the dataset card."""
        return re.search(rf"^## {title}\n+(.*?)\s*(?=^## |\Z)", self.card.text, re.DOTALL | re.MULTILINE).group(1)

    def _class_names(self, data_dir: Path) -> list[str]:
        return list(self.CLASS_NAMES)

    def _read_events(self, path: Path) -> Events:
        events = read_csv(path)
        outside = events.class_id >= len(self.class_names)
        if outside.any():
            row = int(np.argmax(outside))
            rows = [number for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
            # Count from the end: a header line is not a row of events.
            line = rows[row - len(events)]
            raise ValueError(
                f"{path}, line {line}: class index {events.class_id[row]}, but there are only {len(self.class_names)}"
                f" classes (0 to {len(self.class_names) - 1})"
            )
        return events

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self._section("Description"),
            citation=self._section("Citation").removeprefix("```bibtex\n").removesuffix("\n```"),
            license=self.card.data.license,
            features=datasets.Features(
                {
                    "id": datasets.Value("string"),
                    "audio": datasets.Audio(decode=False),
                    "sampling_rate": datasets.Value("int32"),
                    "num_samples": datasets.Value("int64"),
                    "duration": datasets.Value("float64"),
                    "split": datasets.Value("string"),
                    "fold": datasets.Value("int32"),
                    "room": datasets.Value("int32"),
                    "events": events_feature(self.class_names, self.HAS_ONSCREEN),
                }
            ),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        # `num_proc` and the workers of a streaming DataLoader split a list in `gen_kwargs` among themselves.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"recordings": recordings})
            for split, recordings in self.recordings.items()
        ]

    def _generate_tables(self, recordings: list[RecordingFiles]) -> Iterator[tuple[str, pa.Table]]:
        schema = self.info.features.arrow_schema
        for recording in recordings:
            try:
                example = self._example(recording)
            except (OSError, ValueError) as error:
                raise RecordingError(f"{recording.id}: {error}") from error
            yield recording.id, pa.Table.from_pylist([example], schema=schema)

    def _example(self, recording: RecordingFiles) -> dict:
        audio = read_audio_header(recording.audio)
        sampling_rate, num_channels = self.config.sampling_rate, self.config.num_channels
        if (audio.sampling_rate, audio.num_channels) != (sampling_rate, num_channels):
            raise ValueError(
                f"{recording.audio}: expected {num_channels} channels at {sampling_rate} Hz, "
                f"not {audio.num_channels} at {audio.sampling_rate} Hz"
            )
        if audio.num_samples == 0:
            raise ValueError(f"{recording.audio} is empty")
        events = None if recording.labels is None else self._read_events(recording.labels)
        num_frames = count_frames(audio.num_samples, sampling_rate)
        if events is not None and len(events) and events.frame.max() >= num_frames:
            last = events.frame.max()
            logger.warning(
                "%s labels frame %d, but %s ends after %d frames", recording.labels, last, recording.audio, num_frames
            )
        return {
            "id": recording.id,
            "audio": {"bytes": None, "path": str(recording.audio)},
            "sampling_rate": sampling_rate,
            "num_samples": audio.num_samples,
            "duration": audio.num_samples / sampling_rate,
            "split": recording.split,
            "fold": recording.fold,
            "room": recording.room,
            "events": None if events is None else events_to_columns(events),
        }
