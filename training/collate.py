"""How windows are put together to batches, and taken apart again."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from datasets_scripts.scenes.render_torch import join_plans
from modeling_pseldnet.events import Events

from .teacher import WindowTeacher


# What a window may hold as arrays.
ARRAYS = ("waveform", "features", "embedding", "logits")


def collate(items: Sequence[dict], window_frames: int, class_numbers: np.ndarray | None = None) -> dict:
    """Windows as a batch: `waveform` (batch, channels, samples), `features` (batch, channels, frames, bins) or `plan`,
    scenes that are yet to be rendered; the `embedding` and `logits` (batch, patches, …) of a teacher where they have
    them; `events` with frames that count on from window to window; and what tells the windows apart.

    Args:
        window_frames: label frames of a window.
        class_numbers: the model's number of each class of the data, (classes,); the same by default.

    Raises:
        ValueError: a window has no labels.
    """
    for item in items:
        if item["events"] is None:
            raise ValueError(f"{item['recording']} has no labels: choose another split")
    events = [item["events"].replace(frame=item["events"].frame + n * window_frames) for n, item in enumerate(items)]
    # Where some windows tell distances, those of the others are not known.
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
    """A batch as `collate` gives it, with `features`, which `extract` makes, and a teacher's answers for waveforms.

    All are in half precision.
    """
    batch = collate(items, window_frames)
    waveform = batch.pop("waveform")
    arrays = {"features": extract(waveform), **(teacher(waveform)._asdict() if teacher else {})}
    return batch | {name: value.half() for name, value in arrays.items()}


def take_examples_apart(events: Events, batch_size: int, window_frames: int) -> list[Events]:
    """The events of each window of a batch, with frames that count from its start."""
    example = events.frame // window_frames
    own = events.replace(frame=events.frame % window_frames)
    return [own[example == number] for number in range(batch_size)]
