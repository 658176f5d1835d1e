"""Tracks, which have no order: matched with those of labels or of another window, and made events of."""

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import numpy as np
import torch
from torch import nn

from .events import Events, vector_to_direction


NUM_TRACKS = 3
# Nothing is nearer for a logarithm, nor farther for an exponential.
LEAST_METRES, MAX_LOG_METRES = 0.01, float(np.log(100.0))
# What transformers pads outputs and labels of different lengths with: such a frame has no loss and is not scored.
PADDED_LABEL = -100


def checked_labels(
    labels: torch.Tensor, output: torch.Tensor, shapes: Iterable[tuple[int, ...]], mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with 0 in padded frames, and which frames count, (batch, frames) of 0 and 1, float32.

    Args:
        labels: (batch, frames, …).
        output: one of the outputs, (batch, frames, …).
        shapes: what may follow batch and frames in labels.
        mask: 0 for frames that do not count, (batch, frames).

    Raises:
        ValueError: the labels have another shape.
    """
    fitting = [(*output.shape[:2], *shape) for shape in shapes]
    if tuple(labels.shape) not in fitting:
        raise ValueError(
            f"labels are for {tuple(labels.shape)}, the features and the output format for"
            f" {' or '.join(map(str, fitting))}"
        )
    counts = (labels != PADDED_LABEL).flatten(2).all(2)
    if mask is not None:
        counts = counts & mask.bool()
    return torch.where(counts.view(*counts.shape, *[1] * (labels.ndim - 2)), labels.float(), 0.0), counts.float()


def mean_of_frames(error: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The mean of errors (batch, frames, …) over frames that count, (batch, frames) of 0 and 1."""
    of_frames = error.float().flatten(2).mean(2) if error.ndim > 2 else error.float()
    return (of_frames * counts).sum() / counts.sum().clamp(min=1)


def without_padding(values: np.ndarray) -> np.ndarray:
    """Outputs (frames, …) as float32, 0 in the frames that are padded."""
    values = np.asarray(values, dtype=np.float32)
    padded = (values.reshape(len(values), -1) == PADDED_LABEL).all(1)
    return np.where(padded.reshape(-1, *[1] * (values.ndim - 1)), np.float32(0), values) if padded.any() else values


def pairwise(loss: Callable, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean loss between each track and each label slot: two of (batch, frames, 3, …) to (batch, frames, 3, 3)."""
    prediction, target = torch.broadcast_tensors(prediction.unsqueeze(3), target.unsqueeze(2))
    return loss(prediction, target, reduction="none").flatten(4).mean(-1)


@torch.no_grad()
def best_order(cost: torch.Tensor) -> torch.Tensor:
    """The label slot for each track (batch, frames, 3) that costs least, of a cost for each track and slot."""
    orders = torch.tensor(list(permutations(range(NUM_TRACKS))), device=cost.device)
    # A column an order: 1 where a track has a slot in it.
    chosen = nn.functional.one_hot(orders, NUM_TRACKS).flatten(1).T.to(cost.dtype)
    return orders[(cost.flatten(2) @ chosen).argmin(-1)]


def in_order(cost: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Mean cost of each frame, (batch, frames), when each track predicts its label slot in `order`."""
    return cost.gather(3, order.unsqueeze(3)).mean((2, 3))


def nearest_order(tracks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Which of `tracks` stands for each track of `reference`, (batch, frames, 3), so that they differ least in square.

    Every frame has its own order, as in training, where the loss is free to choose one for each frame.

    Args:
        tracks, reference: vectors (batch, frames, 3, numbers).
    """
    # Of (a - b)² only -2ab is not the same for every order.
    return best_order(-(reference.unsqueeze(3) * tracks.unsqueeze(2)).sum(-1))


def occurrence(keys: np.ndarray) -> np.ndarray:
    """How many earlier entries equal each entry of `keys` (n,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(keys)])
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return result


def as_indices(device: str | torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Arrays of whole numbers as tensors to index with."""
    return [torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device) for array in arrays]


def check_classes(events: Events, num_classes: int) -> None:
    """Refuses events of classes that a model does not have.

    Raises:
        ValueError: there is one.
    """
    if len(events) and events.class_id.max() >= num_classes:
        raise ValueError(f"class {events.class_id.max()} is not one of the {num_classes} of the model")


def known_distance(events: Events) -> np.ndarray:
    """Distances in metres, (rows,), 0 where they are not known."""
    return np.zeros(len(events)) if events.distance is None else np.nan_to_num(events.distance)


def distance_activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes metres, not negative, of a head's outputs; far below 0 they are silence, whose distance is 0."""
    return {"softplus": nn.functional.softplus, "relu": nn.functional.relu, "exp": _bounded_exp}[name]


def _bounded_exp(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(max=MAX_LOG_METRES).exp()


def distance_error(name: str, prediction: torch.Tensor, metres: torch.Tensor) -> torch.Tensor:
    """The error of distances, `"relative"`, `"log"` or, for `"joint"`, squared; 0 where `metres`, not known, are 0."""
    known = metres > 0
    metres = torch.where(known, metres, 1.0)
    if name == "log":
        error = (prediction.clamp(min=LEAST_METRES) / metres).log().abs()
    else:
        error = prediction - metres
        error = error.square() if name == "joint" else error.abs() / metres
    return torch.where(known, error, 0.0)


def vectors_to_events(vectors: np.ndarray, threshold: float | np.ndarray, beside: Sequence[str] = ()) -> Events:
    """Vectors (frames, tracks, classes, 3 + …) longer than the threshold, one or one a class, as events.

    Args:
        beside: what the numbers after x, y, z are: `"distance"` in metres, `"onscreen"` as a probability.
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
    """Replaces active tracks of a class that are close to each other by their mean, and inactive tracks by zero.

    What stands beside their vectors, such as distances, is averaged with them.

    Two close tracks of three become one; when two or three of the three pairs are close, all become one.

    Args:
        vectors: (frames, 3, classes, 3 + …).
        threshold: activity, one or (classes,).
        unify_degrees: angle below which two tracks are one source.
        repeats_first: whether, beside the mean of tracks 2 and 0, track 0 stands where track 1 would be due: so it is
            in published scores of multi-ACCDOA.
    """
    active = np.linalg.norm(vectors[..., :3], axis=-1) > threshold
    # Few classes are active on two tracks at a time: the rest of the work is on those alone.
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
