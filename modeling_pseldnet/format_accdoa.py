"""ACCDOA and multi-ACCDOA: vectors whose length is the activity of a class and whose direction is that of its sound.

ACCDOA has one vector a class (Shimada et al., "ACCDOA: Activity-coupled Cartesian direction of arrival representation
for sound event localization and detection", ICASSP 2021); multi-ACCDOA three, so that one class can sound from three
directions at once (Shimada et al., "Multi-ACCDOA: Localizing and detecting overlapping sounds from the same class with
auxiliary duplicating permutation invariant training", ICASSP 2022).
"""

from itertools import permutations, product

import numpy as np
import torch
from torch import nn

from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .tracks import (
    checked_labels,
    mean_of_frames,
    nearest_order,
    occurrence,
    unify_tracks,
    vectors_to_events,
    without_padding,
)


# No more sources than this sound at a time in the data that published networks learnt from.
MAX_OVERLAP = 3


class ACCDOAFormat:
    """Outputs and labels are `accdoa` (batch, frames, 1, 3, classes): track, then x, y, z, then class."""

    num_tracks = 1
    output_names = ("accdoa",)
    silence = {"accdoa": 0.0}
    class_head, numbers_a_class = "accdoa", 3

    def __init__(self, config: PSELDNetConfig):
        self.num_classes = config.num_labels

    @property
    def head_sizes(self) -> dict[str, int]:
        """Outputs a frame of each head."""
        return {"accdoa": self.num_tracks * 3 * self.num_classes}

    def outputs(self, heads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Heads (batch, frames, size) to `accdoa` (batch, frames, tracks, 3, classes) within [-1, 1]."""
        accdoa = heads["accdoa"].tanh()
        return {"accdoa": accdoa.unflatten(-1, (self.num_tracks, 3, self.num_classes))}

    def encode(self, events: Events, num_frames: int) -> torch.Tensor:
        """Labels (frames, tracks, 3, classes): the events of a class in a frame, as unit vectors, fill its tracks.

        Events after `num_frames` are left out; of more events than tracks, the last has the last track.
        """
        labels = np.zeros((num_frames, self.num_tracks, 3, self.num_classes), dtype=np.float32)
        events = events[events.frame < num_frames]
        track = np.minimum(occurrence(events.frame * self.num_classes + events.class_id), self.num_tracks - 1)
        labels[events.frame, track, :, events.class_id] = events.vector
        return torch.from_numpy(labels)

    @property
    def label_shapes(self) -> list[tuple[int, ...]]:
        """What may follow batch and frames in labels."""
        return [(self.num_tracks, 3, self.num_classes)]

    def loss(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean squared error between outputs and labels, of the frames that are not padded."""
        prediction = outputs["accdoa"]
        labels, counts = checked_labels(labels, prediction, self.label_shapes, mask)
        target = self.target(prediction.detach(), labels.to(prediction.dtype))
        return mean_of_frames(nn.functional.mse_loss(prediction, target, reduction="none"), counts)

    def target(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What a prediction is to be, (batch, frames, tracks, 3, classes): the labels."""
        return labels

    def loss_parts(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`loss`, which has no parts."""
        return {"loss": self.loss(outputs, labels, mask)}

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs with their tracks in the order of the reference: as they are, since there is one track."""
        return outputs

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """The three longest vectors of a frame are events where they are longer than `threshold`.

        Args:
            outputs: `accdoa` (frames, 1, 3, classes), of any float type.
            threshold: activity, one or (classes,).
        """
        events = vectors_to_events(np.moveaxis(without_padding(outputs["accdoa"]), 2, -1), threshold)
        longest_first = np.lexsort((-events.confidence, events.frame))
        rank = np.empty(len(events), dtype=np.int64)
        rank[longest_first] = occurrence(events.frame[longest_first])
        return events[rank < MAX_OVERLAP].sort()


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

    @property
    def label_shapes(self) -> list[tuple[int, ...]]:
        """What may follow batch and frames in labels."""
        return [(3, 3, self.num_classes), (6, 4, self.num_classes)]

    def target(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ADPIT: the labels in the best of the 13 assignments, chosen for each frame and class."""
        return assigned_labels(prediction, from_adpit_labels(labels) if labels.shape[2] == 6 else labels)

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
        vectors = np.moveaxis(without_padding(outputs["accdoa"]), 2, -1)
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
