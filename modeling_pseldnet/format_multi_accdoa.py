"""Multi-ACCDOA: three ACCDOA tracks a class, so that one class can sound from three directions at once.

Shimada et al., "Multi-ACCDOA: Localizing and detecting overlapping sounds from the same class with auxiliary
duplicating permutation invariant training", ICASSP 2022.
"""

from itertools import permutations, product

import numpy as np
import torch
from torch import nn

from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .format_accdoa import ACCDOAFormat, vectors_to_events
from .track_order import nearest_order


# Which label slot each of the three tracks is to predict, by the number of active slots: one source is predicted by
# all tracks, two by every onto map of the tracks, three by every permutation: 1 + 6 + 6 = 13 assignments.
ASSIGNMENTS: list[tuple[int, tuple[int, ...]]] = [
    (1, (0, 0, 0)),
    *((2, slots) for slots in product((0, 1), repeat=3) if len(set(slots)) == 2),
    *((3, slots) for slots in permutations((0, 1, 2))),
]


class MultiACCDOAFormat(ACCDOAFormat):
    """Outputs and labels are `accdoa` (batch, frames, 3, 3, classes): track, then x, y, z, then class.

    Labels fill the tracks of a class from the first on; the loss finds which track predicts which of them. Labels in
    the published layout (batch, frames, 6, 4, classes), whose slots are A0, B0, B1, C0, C1, C2, each of activity, x,
    y, z, are accepted too.
    """

    num_tracks = 3
    numbers_a_class = 9

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        self.unify_degrees = config.unify_degrees

    def loss(self, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """ADPIT: the mean squared error to the best of the 13 assignments, chosen for each frame and class."""
        prediction = outputs["accdoa"]
        if labels.shape[-3:-1] == (6, 4):
            labels = from_adpit_labels(labels)
        target = assigned_labels(prediction.detach(), labels.to(prediction.dtype))
        return nn.functional.mse_loss(prediction, target)

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs with the tracks of each frame and class in the order that is nearest to the reference.

        Args:
            outputs, reference: `accdoa` (frames, 3, 3, classes), and any others.
        """
        by_class = (torch.from_numpy(side["accdoa"]).movedim(-1, 0) for side in (outputs, reference))
        order = nearest_order(*by_class).movedim(0, -1).unsqueeze(2).numpy()
        return outputs | {"accdoa": np.take_along_axis(outputs["accdoa"], order, axis=1)}

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """Active tracks of a class that are closer than `unify_degrees` give one event, in their mean direction.

        Args:
            outputs: `accdoa` (frames, 3, 3, classes), of any float type.
            threshold: a vector must be longer than this; one, or (classes,).
        """
        vectors = np.moveaxis(np.asarray(outputs["accdoa"], dtype=np.float32), 2, -1)
        return vectors_to_events(unify_tracks(vectors, threshold, self.unify_degrees, repeats_first=True), 0.0).sort()


def from_adpit_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels in the published layout (…, 6, 4, classes) to (…, 3, 3, classes)."""
    vectors = labels[..., 0:1, :] * labels[..., 1:, :]
    # At most one of A, B and C is active for a frame and class, so their slots add up without mixing.
    first, second, third = [0, 1, 3], [2, 4], [5]
    return torch.stack([vectors[..., slots, :, :].sum(-3) for slots in (first, second, third)], dim=-3)


def to_adpit_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels (…, 3, 3, classes) to the published layout (…, 6, 4, classes)."""
    active = labels.ne(0).any(-2, keepdim=True).to(labels.dtype)
    with_activity = torch.cat([active, labels], dim=-2)
    count = active.sum(-3, keepdim=True)
    return torch.cat([with_activity[..., :n, :, :] * (count == n) for n in (1, 2, 3)], dim=-3)


@torch.no_grad()
def assigned_labels(prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The labels in the order of the tracks that predict them best; both (batch, frames, 3, 3, classes)."""
    square = [labels[:, :, slot].square().sum(2) for slot in range(3)]
    # |p - x|² without |p|², which is the same for every assignment: (batch, frames, classes) for each track and slot.
    distance = [
        [
            square[slot] - 2 * sum(prediction[:, :, track, axis] * labels[:, :, slot, axis] for axis in range(3))
            for slot in range(3)
        ]
        for track in range(3)
    ]
    active = {2: (square[1] > 0) & (square[2] == 0), 3: square[2] > 0}
    best = torch.zeros_like(square[0], dtype=torch.uint8)
    best_cost = torch.full_like(square[0], torch.inf)
    for number, (num_active, slots) in enumerate(ASSIGNMENTS):
        if num_active > 1:
            cost = sum(distance[track][slot] for track, slot in enumerate(slots))
            better = active[num_active] & (cost < best_cost)
            best_cost = torch.where(better, cost, best_cost)
            best = torch.where(better, number, best)
    slots = torch.tensor([slots for _, slots in ASSIGNMENTS], device=labels.device)[best.long()]
    index = slots.movedim(-1, 2).unsqueeze(3).expand(-1, -1, -1, 3, -1)
    return labels.gather(2, index)


def unify_tracks(
    vectors: np.ndarray, threshold: float | np.ndarray, unify_degrees: float, repeats_first: bool = False
) -> np.ndarray:
    """Replaces active tracks of a class that are close to each other by their mean, and inactive tracks by zero.

    Two close tracks of three become one; when two or three of the three pairs are close, all become one.

    Args:
        vectors: (frames, 3, classes, 3).
        threshold: activity, one or (classes,).
        unify_degrees: angle below which two tracks are one source.
        repeats_first: whether, beside the mean of tracks 2 and 0, track 0 stands where track 1 would be due: so it is
            in published scores of multi-ACCDOA.
    """
    active = np.linalg.norm(vectors, axis=-1) > threshold
    # Few classes are active on two tracks at a time: the rest of the work is on those alone.
    frame, class_id = np.nonzero(active.sum(1) > 1)
    on = active[frame, :, class_id]
    several = vectors[frame, :, class_id] * on[..., None]
    unit = several / np.maximum(np.linalg.norm(several, axis=-1, keepdims=True), 1e-12)
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
