"""ACCDOA and multi-ACCDOA: vectors whose length is the activity of a class and whose direction that of its source.

ACCDOA has one vector per class (Shimada et al., "ACCDOA: Activity-coupled Cartesian direction of arrival
representation for sound event localization and detection", ICASSP 2021). Multi-ACCDOA has three, so that a class can
be active in three directions at once (Shimada et al., "Multi-ACCDOA: Localizing and detecting overlapping sounds from
the same class with auxiliary duplicating permutation invariant training", ICASSP 2022).
"""

from itertools import permutations, product

import numpy as np
import torch
from torch import nn

from .configuration_pseldnet import PSELDNetConfig
from .events import Events, direction_to_vector, fold_azimuth
from .tracks import (
    as_indices,
    check_classes,
    checked_labels,
    distance_activation,
    distance_error,
    known_distance,
    labelled_events,
    mean_of_frames,
    nearest_order,
    occurrence,
    unify_tracks,
    vectors_to_events,
    without_padding,
)


# The most simultaneous sources in the training data of the published networks.
MAX_OVERLAP = 3


class ACCDOAFormat:
    """The ACCDOA format. Outputs are `accdoa` (batch, frames, 1, 3, classes): track, then x, y, z, then class.

    With two axes, there are only x and y. The config can add `distance` in metres and `onscreen`, a probability, each
    (batch, frames, 1, classes). Labels are one tensor (batch, frames, 1, 3 + …, classes): x, y, z, then the distance,
    0 if unknown, then whether the source is on screen.
    """

    num_tracks, keeps_last = 1, True
    class_heads, numbers_a_class = ("accdoa", "distance", "onscreen"), 3
    silence = {"accdoa": 0.0, "distance": -100.0, "onscreen": -100.0}

    def __init__(self, config: PSELDNetConfig):
        self.num_classes, self.num_axes = config.num_labels, config.num_axes
        self.beside = tuple(name for name in ("distance", "onscreen") if getattr(config, name))
        self.output_names = ("accdoa", *self.beside)
        self.to_metres = distance_activation(config.distance_activation)
        self.distance_loss, self.distance_loss_weight = config.distance_loss, config.distance_loss_weight

    @property
    def head_sizes(self) -> dict[str, int]:
        """Number of outputs per frame of each head."""
        numbers = {"accdoa": self.num_axes, **dict.fromkeys(self.beside, 1)}
        return {name: self.num_tracks * count * self.num_classes for name, count in numbers.items()}

    def outputs(self, heads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert heads (batch, frames, size) to `accdoa` (batch, frames, tracks, 3, classes) within [-1, 1], and the
        other outputs (batch, frames, tracks, classes)."""
        activations = {"accdoa": torch.tanh, "distance": self.to_metres, "onscreen": torch.sigmoid}
        shapes = {"accdoa": (self.num_tracks, self.num_axes, self.num_classes)}
        other = (self.num_tracks, self.num_classes)
        return {
            name: activations[name](heads[name]).unflatten(-1, shapes.get(name, other)) for name in self.output_names
        }

    def encode(self, events: Events, num_frames: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Encode events as labels (frames, tracks, 3 + …, classes).

        The events of a class in a frame fill its tracks, as unit vectors; with two axes, as in stereo, they are level
        and folded to the front. Events after `num_frames` are left out. If there are more events than tracks, the last
        event takes the last track; multi-ACCDOA with distances, `onscreen` or two axes drops the fourth event and
        later ones instead, as the baselines of DCASE do.

        Raises:
            ValueError: the model lacks a class, or learns `onscreen` and the events do not have it.
        """
        check_classes(events, self.num_classes)
        events = events[events.frame < num_frames]
        group = events.frame * self.num_classes + events.class_id
        track = occurrence(group)
        kept = track < self.num_tracks
        if self.keeps_last:
            following = occurrence(group[::-1])[::-1]
            kept = (track < self.num_tracks - 1) | (following == 0)
            track = np.minimum(track, self.num_tracks - 1)
        events, track = events[kept], track[kept]
        if self.num_axes == 2:
            # Stereo cannot tell behind from in front.
            vector = direction_to_vector(fold_azimuth(events.azimuth), np.zeros(len(events)))[:, :2]
        else:
            vector = events.vector
        columns = {"distance": known_distance(events), "onscreen": events.onscreen}
        if "onscreen" in self.beside and columns["onscreen"] is None:
            if len(events):
                raise ValueError(
                    "the model predicts onscreen, but the labels lack it: set onscreen=False (model.onscreen=false in"
                    " a recipe)"
                )
            columns["onscreen"] = np.zeros(0)
        numbers = np.column_stack([vector, *(columns[name] for name in self.beside)])
        labels = torch.zeros(num_frames, self.num_tracks, numbers.shape[1], self.num_classes, device=device)
        frame, track, class_id = as_indices(device, events.frame, track, events.class_id)
        labels[frame, track, :, class_id] = torch.from_numpy(numbers).to(labels)
        return labels

    def decode_labels(self, labels: np.ndarray) -> Events:
        """Recover the events that `encode` turned into labels (frames, …); none in frames padded with -100."""
        if labels.shape[1] == 6:
            labels = from_adpit_labels(torch.from_numpy(without_padding(labels))).numpy()
        beside = zip(self.beside, np.moveaxis(labels[:, :, self.num_axes :], 2, 0), strict=True)
        numbers = self._numbers({"accdoa": labels[:, :, : self.num_axes], **dict(beside)})
        return labelled_events(numbers, self.beside)

    @property
    def label_shapes(self) -> list[tuple[int, ...]]:
        """Accepted shapes of labels after the batch and frame axes."""
        return [(self.num_tracks, self.num_axes + len(self.beside), self.num_classes)]

    def loss(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss over the frames that are not padded; see [`loss_parts`]."""
        return self.loss_parts(outputs, labels, mask)["loss"]

    def loss_parts(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and its unweighted parts.

        These are the mean squared error of the vectors and, if the model has them, the distance error and the
        cross-entropy of `onscreen`. All are means over frames, tracks and classes. Inactive tracks have no distance
        error, except with `"joint"`, which treats the distance as one more axis of the vectors, with a target of 0.
        """
        prediction = outputs["accdoa"]
        labels, counts = checked_labels(labels, prediction, self.label_shapes, mask)
        numbers = torch.cat([prediction, *(outputs[name].unsqueeze(3) for name in self.beside)], dim=3).float()
        target = self.target(numbers.detach(), labels)
        errors = {
            "loss_accdoa": nn.functional.mse_loss(
                prediction, target[..., : self.num_axes, :].to(prediction), reduction="none"
            )
        }
        weights = {}
        beside = dict(zip(self.beside, target[..., self.num_axes :, :].unbind(3), strict=True))
        if "distance" in beside:
            distance, metres = outputs["distance"].float(), beside["distance"]
            if self.distance_loss == "joint":
                unknown = target[..., : self.num_axes, :].ne(0).any(3) & (metres == 0)
                error = torch.where(unknown, 0.0, (distance - metres).square())
                errors["loss_accdoa"] = torch.cat([errors["loss_accdoa"], error.unsqueeze(3)], dim=3)
            else:
                errors["loss_distance"] = distance_error(self.distance_loss, distance, metres)
                weights["loss_distance"] = self.distance_loss_weight
        if "onscreen" in beside:
            logits = outputs["onscreen"].float().logit(eps=1e-6)
            errors["loss_onscreen"] = nn.functional.binary_cross_entropy_with_logits(
                logits, beside["onscreen"], reduction="none"
            )
        parts = {name: mean_of_frames(error, counts) for name, error in errors.items()}
        loss = sum(weights.get(name, 1.0) * part for name, part in parts.items())
        return {"loss": loss, **(parts if len(parts) > 1 else {})}

    def target(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the target of a prediction, (batch, frames, tracks, 3 + …, classes): the labels."""
        return labels

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs with their tracks in the order of the reference: unchanged, as there is one track."""
        return outputs

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """Decode up to three events per frame: the longest of the vectors that exceed `threshold`.

        Args:
            outputs: `accdoa` (frames, 1, 3, classes) and the other outputs, of any float type.
            threshold: activity, a scalar or (classes,).
        """
        events = vectors_to_events(self._numbers(outputs), threshold, self.beside)
        longest_first = np.lexsort((-events.confidence, events.frame))
        rank = np.empty(len(events), dtype=np.int64)
        rank[longest_first] = occurrence(events.frame[longest_first])
        return events[rank < MAX_OVERLAP].sort()

    def _numbers(self, outputs: dict[str, np.ndarray]) -> np.ndarray:
        """Join outputs (frames, tracks, …) to (frames, tracks, classes, 3 + …): x, y, z, then the other outputs."""
        vectors = np.moveaxis(without_padding(outputs["accdoa"]), 2, -1)
        if not self.beside and self.num_axes == 3:
            return vectors
        level = np.zeros((*vectors.shape[:3], 3 - self.num_axes), dtype=vectors.dtype)
        # Third-party networks may output negative distances.
        beside = [np.maximum(without_padding(outputs[name]), 0)[..., None] for name in self.beside]
        return np.concatenate([vectors, level, *beside], axis=-1)


# The number of active label slots, and the slot that each of the three tracks then predicts. One source is predicted
# by all tracks, two by each surjection of tracks to slots, three by each permutation: 1 + 6 + 6 = 13 assignments.
ASSIGNMENTS: list[tuple[int, tuple[int, ...]]] = [
    (1, (0, 0, 0)),
    *((2, slots) for slots in product((0, 1), repeat=3) if len(set(slots)) == 2),
    *((3, slots) for slots in permutations((0, 1, 2))),
]


class MultiACCDOAFormat(ACCDOAFormat):
    """The format of [`ACCDOAFormat`] with three tracks per class: outputs and labels (batch, frames, 3, …, classes).

    Labels fill the tracks of a class from the first on; the loss finds which track predicts which label. Labels in the
    published layout (batch, frames, 6, 4, classes) are accepted too: slots A0, B0, B1, C0, C1, C2, each with activity,
    x, y, z and so on.
    """

    num_tracks = 3
    numbers_a_class = 9

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        self.unify_degrees = config.unify_degrees
        # Published labels and scores rely on both, but have no distances.
        self.keeps_last = self.repeats_first = not self.beside and self.num_axes == 3

    @property
    def label_shapes(self) -> list[tuple[int, ...]]:
        """Accepted shapes of labels after the batch and frame axes."""
        numbers = self.num_axes + len(self.beside)
        return [(3, numbers, self.num_classes), (6, 1 + numbers, self.num_classes)]

    def target(self, prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels in the best of the 13 assignments, chosen for each frame and class (ADPIT)."""
        labels = from_adpit_labels(labels) if labels.shape[2] == 6 else labels
        joint = "distance" in self.beside and self.distance_loss == "joint"
        return assigned_labels(prediction, labels, self.num_axes, joint)

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs with the tracks of each frame and class in the order closest to the reference.

        Args:
            outputs, reference: `accdoa` (frames, 3, 3, classes) and any other outputs.
        """
        by_class = (torch.from_numpy(side["accdoa"]).movedim(-1, 0) for side in (outputs, reference))
        order = nearest_order(*by_class).movedim(0, -1).unsqueeze(2).numpy()
        orders = {"accdoa": order}
        return outputs | {
            name: np.take_along_axis(outputs[name], orders.get(name, order[:, :, 0]), axis=1)
            for name in self.output_names
        }

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """Decode events: active tracks of a class closer than `unify_degrees` give one event, at their mean.

        Args:
            outputs: `accdoa` (frames, 3, 3, classes) and the other outputs, of any float type.
            threshold: length above which a vector is active, a scalar or (classes,).
        """
        numbers = unify_tracks(self._numbers(outputs), threshold, self.unify_degrees, self.repeats_first)
        return vectors_to_events(numbers, 0.0, self.beside).sort()


def from_adpit_labels(labels: torch.Tensor) -> torch.Tensor:
    """Convert labels in the published layout (…, 6, 1 + numbers, classes) to (…, 3, numbers, classes)."""
    vectors = labels[..., 0:1, :] * labels[..., 1:, :]
    # Only one of A, B and C is active per frame and class, so their slots can be added.
    first, second, third = [0, 1, 3], [2, 4], [5]
    return torch.stack([vectors[..., slots, :, :].sum(-3) for slots in (first, second, third)], dim=-3)


@torch.no_grad()
def assigned_labels(
    prediction: torch.Tensor, labels: torch.Tensor, num_axes: int = 3, joint_distance: bool = False
) -> torch.Tensor:
    """Assign labels to the tracks that predict them best; prediction and labels (batch, frames, 3, numbers, classes).

    Args:
        num_axes: how many of the numbers are the vector.
        joint_distance: whether the error of the next number, the distance, counts too where it is known (not 0).
    """
    square = [labels[:, :, slot, :num_axes].square().sum(2) for slot in range(3)]
    # |p - x|² without |p|², which is the same for all assignments: (batch, frames, classes) for each track and slot.
    cost_of = [
        [
            square[slot]
            - 2 * sum(prediction[:, :, track, axis] * labels[:, :, slot, axis] for axis in range(num_axes))
            for slot in range(3)
        ]
        for track in range(3)
    ]
    if joint_distance:
        metres = labels[:, :, :, num_axes]
        for track, slot in product(range(3), repeat=2):
            error = (prediction[:, :, track, num_axes] - metres[:, :, slot]).square()
            cost_of[track][slot] = cost_of[track][slot] + error * (metres[:, :, slot] > 0)
    active = {2: (square[1] > 0) & (square[2] == 0), 3: square[2] > 0}
    best = torch.zeros_like(square[0], dtype=torch.uint8)
    best_cost = torch.full_like(square[0], torch.inf)
    for number, (num_active, slots) in enumerate(ASSIGNMENTS):
        if num_active > 1:
            cost = sum(cost_of[track][slot] for track, slot in enumerate(slots))
            better = active[num_active] & (cost < best_cost)
            best_cost = torch.where(better, cost, best_cost)
            best = torch.where(better, number, best)
    slots = torch.tensor([slots for _, slots in ASSIGNMENTS], device=labels.device)[best.long()]
    index = slots.movedim(-1, 2).unsqueeze(3).expand(-1, -1, -1, labels.shape[3], -1)
    return labels.gather(2, index)
