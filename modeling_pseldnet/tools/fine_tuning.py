"""Collator and metrics to fine-tune a PSELDNet with the plain `Trainer` of transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ..audio import Recording
from ..events import FRAMES_PER_SECOND, Events, count_frames, read_csv
from ..tracks import PADDED_LABEL
from .labels import class_mapping
from .scores import VARIANTS, seld_scores


if TYPE_CHECKING:
    import torch
    from transformers import EvalPrediction

    from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
    from ..modeling_pseldnet import PSELDNetForSELD


class DataCollatorForSELD:
    """Collate recordings and their events to batches for a PSELDNet, as `data_collator` of the plain `Trainer`.

    A row has either `audio`, any form of a recording (a file or its bytes, `{"path", "bytes"}`, `{"array",
    "sampling_rate"}`, a decoder), or `waveform` (channels, samples) with `sampling_rate`, by default the model's, as
    in a window of `SegmentedDataset`; and `events`: [`Events`], the columns of a data set, rows, the path of a DCASE
    CSV, or the output of the pipeline. Or it has `input_features` (channels, frames, bins) from the extractor, with
    `events` or `labels`. Other columns are ignored.

    Audio is extended with its mirror image to the model's window, as in prediction, so that its features do not depend
    on the rest of the batch. Features are padded as in the extractor's `pad`. Labels are -100, and so have no loss and
    are not scored, in frames after the end of a recording and in frames of digital silence without events.

    Args:
        extractor: the model's extractor.
        model: a [`PSELDNetForSELD`], or a PEFT model of one.
        channel_format: what the channels are, such as `"fuma"`. Defaults to what the model takes.
        class_names: class names of the data in the order of their indices, if they differ from the model's.

    Raises:
        ValueError: the extractor does not fit the model, or the model lacks a class of the data; when called, a row
            cannot be used.
    """

    def __init__(
        self,
        extractor: PSELDNetFeatureExtractor,
        model: PSELDNetForSELD,
        *,
        channel_format: str | None = None,
        class_names: Sequence[str] | None = None,
    ):
        from ..fitting import adopt_extractor, choose_channel_format

        adopt_extractor(model.config, extractor)
        # Not the model itself: spawned workers would copy its weights, and adapters cannot be pickled.
        self.extractor, self.config, self.output_format = extractor, model.config, model.output_format
        self.channel_format = choose_channel_format(channel_format, extractor)
        labels = list(self.config.id2label.values())
        self.class_numbers = None if class_names is None else class_mapping(class_names, labels)

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Return `input_features`, `attention_mask` and, if the rows have events or labels, `labels` of a batch.

        Raises:
            ValueError: a recording is longer than the model's window, only some rows have events, or one cannot be
                used.
        """
        import torch

        if all(row.get("input_features") is not None for row in rows):
            return dict(self.extractor.pad([self._with_labels(row) for row in rows]))
        examples = [self._read(row) for row in rows]
        waveforms, num_frames = zip(*examples, strict=True)
        batch = self.extractor(np.stack(waveforms), sampling_rate=self.extractor.sampling_rate)
        events = [self._events(row) for row in rows]
        if any(of_row is None for of_row in events):
            if any(of_row is not None for of_row in events):
                raise ValueError(
                    "only some recordings of the batch have events: add events to the others or remove them"
                )
            return dict(batch)
        labels = [self._labels(*parts) for parts in zip(waveforms, num_frames, events, strict=True)]
        return {**batch, "labels": torch.stack(labels)}

    def _with_labels(self, row: Mapping) -> dict:
        """Return a row of features with labels, encoded from its events if it has none."""
        names = ("input_features", "attention_mask", "labels")
        values = {name: row[name] for name in names if row.get(name) is not None}
        events = self._events(row)
        if "labels" not in values and events is not None:
            num_frames = np.shape(values["input_features"])[-2]
            values["labels"] = self.output_format.encode(events, self.config.num_label_frames(num_frames))
        return values

    def _read(self, row: Mapping) -> tuple[np.ndarray, int]:
        """Return samples (channels, samples of a window), mirrored after their end, and the label frames before it."""
        source, rate = row.get("waveform"), self.extractor.sampling_rate
        if source is not None:
            source = (source, row.get("sampling_rate") or rate)
        elif row.get("audio") is not None:
            source = row["audio"]
            # Not for a path as a numpy string, which has 0 dimensions.
            if getattr(source, "ndim", 0):
                source = (source, row.get("sampling_rate"))
        else:
            raise ValueError(
                f"a row with {', '.join(map(str, row)) or 'no columns'} is not a recording: give audio, waveform or"
                " input_features, and events"
            )
        seconds = self.config.window_seconds
        with Recording(source, rate, self.channel_format) as recording:
            if recording.num_samples > seconds * rate:
                raise ValueError(
                    f"{recording.name}: {recording.seconds:.2f} s is longer than the model's window, {seconds} s: cut"
                    " it into windows, as datasets_scripts.segments.SegmentedDataset does"
                )
            num_frames = row.get("num_frames") or count_frames(recording.num_samples, rate)
            return recording.read_window(0, seconds * rate), num_frames

    def _events(self, row: Mapping) -> Events | None:
        given = row.get("events")
        if given is None:
            return None
        events = to_events(given, self.config.label2id)
        # Records name their classes, which may be any of the model's.
        if self.class_numbers is None or not len(events) or _are_records(given):
            return events
        if events.class_id.max() >= len(self.class_numbers):
            raise ValueError(
                f"class {events.class_id.max()} is not one of the data's {len(self.class_numbers)} classes"
            )
        return events.replace(class_id=self.class_numbers[events.class_id])

    def _labels(self, waveform: np.ndarray, num_frames: int, events: Events) -> torch.Tensor:
        """Return labels (frames of a window, …) of a recording of `num_frames` frames."""
        from ..inference import scored_frames

        peak = np.abs(waveform).max(0).reshape(FRAMES_PER_SECOND * self.config.window_seconds, -1).max(1)
        labels = self.output_format.encode(events, len(peak))
        labels[~scored_frames(peak, num_frames, events)] = PADDED_LABEL
        return labels


def to_events(events, label2id: Mapping[str, int]) -> Events:
    """Convert any form of events to [`Events`]: columns, rows, records of the pipeline, the path of a CSV.

    Args:
        events: columns are a dict of `frame`, `class` or `class_id`, `azimuth`, `elevation` and, if known, `track`,
            `distance` in metres and `onscreen`, as in the data sets of `datasets_scripts`; rows are as in
            [`Events.from_rows`].
        label2id: class indices by name, for records.

    Raises:
        ValueError: `events` has none of these forms, or a value is out of range.
    """
    if isinstance(events, Events):
        return events
    if isinstance(events, str | os.PathLike):
        return read_csv(events)
    if isinstance(events, Mapping):
        names = ("frame", "class", "track", "azimuth", "elevation", "distance")
        # `class_id` where `datasets` has stored Events by their attributes.
        events = {"class": events.get("class_id"), **events}
        columns = {name: events[name] for name in names if events.get(name) is not None}
        if missing := [name for name in names if name not in (*columns, "track", "distance")]:
            raise ValueError(f"the columns of events lack {', '.join(missing)}: give {', '.join(names[:5])}")
        columns = {**columns, "track": columns.get("track", np.zeros(len(columns["frame"])))}
        found = Events.from_rows(np.column_stack([columns[name] for name in names if name in columns]))
        return found if events.get("onscreen") is None else found.replace(onscreen=events["onscreen"])
    return Events.from_records(events, label2id) if _are_records(events) else Events.from_rows(events)


def _are_records(events) -> bool:
    """Whether events are records of the pipeline."""
    indexed = not isinstance(events, Events | Mapping | str | os.PathLike)
    return indexed and len(events) > 0 and isinstance(events[0], Mapping)


class SELDMetrics:
    """Score an evaluation, as `compute_metrics` of the plain `Trainer`.

    Returns the scores of [`seld_scores`], macro averages under their own names and micro averages as `micro_…`. Frames
    with labels of -100 are not scored. The reference is limited to what labels can hold: one source per class and
    frame with `accdoa`, three with `multi_accdoa`.

    Args:
        model: a [`PSELDNetForSELD`], or a PEFT model of one; its thresholds decide what is an event.
        windows: a `SegmentedDataset`, or any object with arrays `recording` and `start` (windows,): the recording of
            each window, and the frame at which it starts there. The windows of a recording are then scored together,
            averaged where they overlap. By default each window is a recording.
        variant: how scores are counted, `"dcase2023"` (default), `"pseldnets"`, `"dcase2024"` or `"dcase2025"`.

    Raises:
        ValueError: the variant is unknown, or scores distances, which the model lacks; when called, the number of
            windows differs from that evaluated.
    """

    def __init__(self, model: PSELDNetForSELD, windows=None, *, variant: str = "dcase2023"):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
        if VARIANTS[variant].has_distance and not model.config.distance:
            raise ValueError(
                f"{variant} scores distances, which the model does not estimate: choose dcase2023 or pseldnets, or"
                " give the model distances with load_for_transfer(…, distance=True)"
            )
        self.model, self.windows, self.variant = model, windows, variant

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the scores of predictions and labels (windows, frames, …), by name."""
        names = self.model.output_format.output_names
        outputs, labels = prediction.predictions, prediction.label_ids
        if isinstance(labels, list):
            # With `eval_do_concat_batches=False`, a list of batches.
            from transformers.trainer_pt_utils import nested_concat

            outputs, labels = (reduce(nested_concat, batches) for batches in (outputs, labels))
        outputs = dict(zip(names, outputs if isinstance(outputs, tuple | list) else (outputs,), strict=False))
        labels = np.asarray(labels)
        recording, start = np.arange(len(labels)), np.zeros(len(labels), dtype=int)
        if self.windows is not None:
            recording, start = np.asarray(self.windows.recording), np.asarray(self.windows.start)
            if len(recording) != len(labels):
                raise ValueError(
                    f"{len(labels)} windows were evaluated, but {len(recording)} are to be scored: give SELDMetrics"
                    " the windows that are evaluated, and leave out dataloader_drop_last"
                )
        by_start = np.argsort(start, kind="stable")
        rows = [by_start[recording[by_start] == number] for number in dict.fromkeys(recording.tolist())]
        recordings = [
            self._recording({name: value[of_one] for name, value in outputs.items()}, labels[of_one], start[of_one])
            for of_one in rows
        ]
        references, predictions = map(list, zip(*recordings, strict=True))
        scores = seld_scores(references, predictions, self.model.config.num_labels, variant=self.variant)
        return scores["macro"] | {f"micro_{name}": value for name, value in scores["micro"].items()}

    def _recording(
        self, outputs: dict[str, np.ndarray], labels: np.ndarray, starts: np.ndarray
    ) -> tuple[Events, Events]:
        """Return the reference and predicted events of a recording, given its windows (windows, frames, …)."""
        from ..inference import Window, checked_threshold, join_windows

        output_format = self.model.output_format
        # Frames that are not scored count as silent.
        heard = (labels != PADDED_LABEL).reshape(*labels.shape[:2], -1).any(2).astype(np.float32)
        windows = (
            (
                Window(start, {name: values[row] for name, values in outputs.items()}, heard[row]),
                len(labels[row]),
                output_format.decode_labels(labels[row]),
            )
            for row, start in enumerate(starts.tolist())
        )
        threshold = checked_threshold(self.model.config.threshold, self.model.config)
        return join_windows(output_format, windows, threshold)
