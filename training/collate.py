"""Collate windows into batches, and split batches into windows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from datasets_scripts.scenes.render_torch import join_plans
from modeling_pseldnet.events import Events

from .teacher import WindowTeacher


# Items of a window that are arrays.
ARRAYS = ("waveform", "features", "embedding", "logits")


def collate(items: Sequence[dict], window_frames: int, class_numbers: np.ndarray | None = None) -> dict:
    """Collate windows into a batch.

    It has `waveform` (batch, channels, samples), `features` (batch, channels, frames, bins) or `plan` (scenes to be
    rendered); a teacher's `embedding` and `logits` (batch, patches, …) if the windows have them; `events`, whose
    frames continue from window to window; and the lists `recording`, `start_frame` and `num_frames`.

    Args:
        window_frames: label frames per window.
        class_numbers: the model's index of each class of the data, (classes,). Defaults to the data's own indices.

    Raises:
        ValueError: a window has no labels.
    """
    for item in items:
        if item["events"] is None:
            raise ValueError(f"{item['recording']} has no labels: choose another split")
    events = [item["events"].replace(frame=item["events"].frame + n * window_frames) for n, item in enumerate(items)]
    # If some windows have distances, those of the others are unknown.
    events = Events.concatenate(
        part if part.distance is not None else part.replace(distance=np.full(len(part), np.nan)) for part in events
    )
    if class_numbers is not None:
        events = events.replace(class_id=class_numbers[events.class_id])
    return {
        **{name: torch.from_numpy(np.stack([item[name] for item in items])) for name in ARRAYS if name in items[0]},
        **({"plan": join_plans([item["plan"] for item in items])} if "plan" in items[0] else {}),
        "events": events,
        **{name: [item[name] for item in items] for name in ("recording", "start_frame", "num_frames")},
    }


def collate_features(
    items: Sequence[dict],
    window_frames: int,
    extract: Callable[[torch.Tensor], torch.Tensor],
    teacher: WindowTeacher | None = None,
) -> dict:
    """Collate windows into a batch with `features` from `extract` and a teacher's answers, instead of waveforms.

    Features and answers are in half precision.
    """
    batch = collate(items, window_frames)
    waveform = batch.pop("waveform")
    arrays = {"features": extract(waveform), **(teacher(waveform)._asdict() if teacher else {})}
    return batch | {name: value.half() for name, value in arrays.items()}


def take_examples_apart(events: Events, batch_size: int, window_frames: int) -> list[Events]:
    """Split the events of a batch into those of each window, with frames counted from its start."""
    example = events.frame // window_frames
    own = events.replace(frame=events.frame % window_frames)
    return [own[example == number] for number in range(batch_size)]
