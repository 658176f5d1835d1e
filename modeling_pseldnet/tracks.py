"""Tracks, which have no fixed order: matching them with labels or other windows, and decoding them to events."""

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import nn

from .events import Events, vector_to_direction


NUM_TRACKS = 3
# Bounds of distances: the smallest before a logarithm, and the largest logarithm before an exponential.
LEAST_METRES, MAX_LOG_METRES = 0.01, float(np.log(100.0))
# transformers pads outputs and labels of different lengths with this; such frames have no loss and are not scored.
PADDED_LABEL = -100


def checked_labels(
    labels: torch.Tensor, output: torch.Tensor, shapes: Iterable[tuple[int, ...]], mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the shape of labels and set padded frames to 0.

    Args:
        labels: (batch, frames, …).
        output: one of the outputs, (batch, frames, …).
        shapes: accepted shapes after the batch and frame axes.
        mask: (batch, frames), 0 for frames that do not count.

    Returns:
        The labels, and which frames count, (batch, frames) of 0 and 1, float32.

    Raises:
        ValueError: the labels have another shape.
    """
    fitting = [(*output.shape[:2], *shape) for shape in shapes]
    if tuple(labels.shape) not in fitting:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but the features and the output format need"
            f" {' or '.join(map(str, fitting))}"
        )
    counts = (labels != PADDED_LABEL).flatten(2).all(2)
    if mask is not None:
        counts = counts & mask.bool()
    return torch.where(counts.view(*counts.shape, *[1] * (labels.ndim - 2)), labels.float(), 0.0), counts.float()


def mean_of_frames(error: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Average errors (batch, frames, …) over the frames that count, (batch, frames) of 0 and 1."""
    of_frames = error.float().flatten(2).mean(2) if error.ndim > 2 else error.float()
    return (of_frames * counts).sum() / counts.sum().clamp(min=1)


def without_padding(values: np.ndarray) -> np.ndarray:
    """Return outputs (frames, …) as float32, with 0 in padded frames."""
    values = np.asarray(values, dtype=np.float32)
    padded = (values.reshape(len(values), -1) == PADDED_LABEL).all(1)
    return np.where(padded.reshape(-1, *[1] * (values.ndim - 1)), np.float32(0), values) if padded.any() else values


def pairwise(loss: Callable, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of each track and label slot: (batch, frames, 3, …) twice to (batch, frames, 3, 3)."""
    prediction, target = torch.broadcast_tensors(prediction.unsqueeze(3), target.unsqueeze(2))
    return loss(prediction, target, reduction="none").flatten(4).mean(-1)


@torch.no_grad()
def best_order(cost: torch.Tensor) -> torch.Tensor:
    """Return the label slot for each track (batch, frames, 3) that minimises the cost (batch, frames, 3, 3)."""
    orders = torch.tensor(list(permutations(range(NUM_TRACKS))), device=cost.device)
    # One row per order, with 1 where it assigns a slot to a track; no matrix product, which autocast would round.
    chosen = nn.functional.one_hot(orders, NUM_TRACKS).flatten(1).to(cost.dtype)
    return orders[(cost.flatten(2).unsqueeze(2) * chosen).sum(-1).argmin(-1)]


def mean_cost(cost: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the mean cost of each frame, (batch, frames), when each track predicts its label slot in `order`."""
    return cost.gather(3, order.unsqueeze(3)).mean((2, 3))


def nearest_order(tracks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Match one of `tracks` to each track of `reference`, with the least squared difference: (batch, frames, 3).

    Every frame has its own order, because in training the loss chooses one for each frame.

    Args:
        tracks, reference: vectors (batch, frames, 3, numbers).
    """
    # In (a - b)², only -2ab depends on the order.
    return best_order(-(reference.unsqueeze(3) * tracks.unsqueeze(2)).sum(-1))


def occurrence(keys: np.ndarray) -> np.ndarray:
    """Count how many earlier entries equal each entry of `keys` (n,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(keys)])
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return result


def as_indices(device: str | torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Convert integer arrays to index tensors."""
    return [torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device) for array in arrays]


def check_classes(events: Events, num_classes: int) -> None:
    """Check that a model has the classes of all events.

    Raises:
        ValueError: it lacks one.
    """
    if len(events) and events.class_id.max() >= num_classes:
        raise ValueError(f"class {events.class_id.max()} is not one of the model's {num_classes} classes")


def known_distance(events: Events) -> np.ndarray:
    """Return distances in metres, (rows,), 0 if unknown."""
    return np.zeros(len(events)) if events.distance is None else np.nan_to_num(events.distance)


def labelled_events(numbers: np.ndarray, beside: Sequence[str]) -> Events:
    """Return the events in labels, given as in [`vectors_to_events`]; a distance of 0 is unknown."""
    events = vectors_to_events(numbers, 0.5, beside).sort()
    if events.distance is None:
        return events
    return events.replace(distance=np.where(events.distance == 0, np.nan, events.distance))


def distance_activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from a head's outputs to non-negative metres; outputs far below 0, silence, give 0."""
    return {"softplus": nn.functional.softplus, "relu": nn.functional.relu, "exp": _bounded_exp}[name]


def _bounded_exp(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(max=MAX_LOG_METRES).exp()


def distance_error(name: str, prediction: torch.Tensor, metres: torch.Tensor) -> torch.Tensor:
    """Return the `"relative"`, `"log"` or, for `"joint"`, squared error of distances; 0 if `metres` is 0 (unknown)."""
    known = metres > 0
    metres = torch.where(known, metres, 1.0)
    if name == "log":
        error = (prediction.clamp(min=LEAST_METRES) / metres).log().abs()
    else:
        error = prediction - metres
        error = error.square() if name == "joint" else error.abs() / metres
    return torch.where(known, error, 0.0)


def vectors_to_events(vectors: np.ndarray, threshold: float | np.ndarray, beside: Sequence[str] = ()) -> Events:
    """Return vectors (frames, tracks, classes, 3 + …) longer than the threshold, a scalar or (classes,), as events.

    Args:
        beside: names of the numbers after x, y, z: `"distance"` in metres, `"onscreen"` as a probability.
    """
    length = np.sqrt(np.einsum("ftcd,ftcd->ftc", vectors[..., :3], vectors[..., :3]))
    frame, track, class_id = np.nonzero(length > threshold)
    found = vectors[frame, track, class_id]
    azimuth, elevation = vector_to_direction(found[:, :3])
    columns = {name: found[:, 3 + number] for number, name in enumerate(beside)}
    if "onscreen" in columns:
        columns["onscreen"] = columns["onscreen"] > 0.5
    return Events(frame, class_id, track, azimuth, elevation, confidence=length[frame, track, class_id], **columns)


def unify_tracks(
    vectors: np.ndarray, threshold: float | np.ndarray, unify_degrees: float, repeats_first: bool = False
) -> np.ndarray:
    """Replace active tracks of a class that are close to each other by their mean, and inactive tracks by zero.

    Numbers beside their vectors, such as distances, are averaged too. Two close tracks of three become one; if two or
    three of the three pairs are close, all become one.

    Args:
        vectors: (frames, 3, classes, 3 + …).
        threshold: activity, a scalar or (classes,).
        unify_degrees: angle below which two tracks are the same source.
        repeats_first: whether track 0 takes the place of an active track 1 if tracks 2 and 0 are merged, as in the
            published scores of multi-ACCDOA.
    """
    active = np.linalg.norm(vectors[..., :3], axis=-1) > threshold
    # Few classes are active on several tracks at once: the rest of the work is limited to those.
    frame, class_id = np.nonzero(active.sum(1) > 1)
    on = active[frame, :, class_id]
    several = vectors[frame, :, class_id] * on[..., None]
    unit = several[..., :3] / np.maximum(np.linalg.norm(several[..., :3], axis=-1, keepdims=True), 1e-12)
    pairs = np.array([(0, 1), (1, 2), (2, 0)])
    cosine = np.einsum("npd,npd->np", unit[:, pairs[:, 0]], unit[:, pairs[:, 1]])
    close = (np.arccos(np.clip(cosine, -1, 1)) < np.radians(unify_degrees)) & on[:, pairs[:, 0]] & on[:, pairs[:, 1]]
    num_close = close.sum(1)

    for pair in range(3):
        rows = np.flatnonzero((num_close == 1) & close[:, pair])
        first, second = pairs[pair]
        mean = (several[rows, first] + several[rows, second]) / 2
        if pair == 2 and repeats_first:
            several[rows, 1] = np.where(on[rows, 1, None], several[rows, 0], 0)
        several[rows, first], several[rows, second] = mean, 0
    rows = np.flatnonzero(num_close >= 2)
    several[rows, 0] = several[rows].mean(1)
    several[rows, 1:] = 0

    result = vectors * active[..., None]
    result[frame, :, class_id] = several
    return result
