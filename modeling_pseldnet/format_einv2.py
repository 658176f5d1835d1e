"""EINV2 and SEDDOA: three tracks, each with a class and a direction of arrival.

Cao et al., "An improved event-independent network for polyphonic sound event localization and detection", ICASSP 2021;
SEDDOA and the aggregated losses are those of PSELDNets (arXiv 2411.06399).
"""

import numpy as np
import torch
from torch import nn

from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .tracks import (
    NUM_TRACKS,
    as_indices,
    best_order,
    check_classes,
    checked_labels,
    distance_activation,
    distance_error,
    known_distance,
    labelled_events,
    mean_cost,
    mean_of_frames,
    nearest_order,
    occurrence,
    pairwise,
    unify_tracks,
    vectors_to_events,
    without_padding,
)


class EINV2Format:
    """The EINV2 format. Outputs are `sed_logits` (batch, frames, 3, classes) and `doa` (batch, frames, 3, 3).

    The third axis is the track; the last axis of `doa` is x, y, z. The config can add `distance` (batch, frames, 3) in
    metres. Labels are one tensor (batch, frames, 3, classes + 3, or + 4): for each track the activity of every class,
    the unit vector of its direction and the distance, 0 if unknown; all 0 if the track is silent. The loss finds which
    track predicts which label.
    """

    silence = {"sed": -100.0, "doa": 0.0, "distance": -100.0}
    class_heads, numbers_a_class = ("sed",), NUM_TRACKS
    num_axes = 3

    def __init__(self, config: PSELDNetConfig):
        self.num_classes = config.num_labels
        self.unify_degrees = config.unify_degrees
        self.loss_type = config.loss_type
        self.distance, self.distance_loss = config.distance, config.distance_loss
        self.to_metres = distance_activation(config.distance_activation)
        self.output_names = ("sed_logits", "doa", *["distance"] * self.distance)
        self.loss_weights = {
            "loss_sed": config.sed_loss_weight,
            "loss_doa": config.doa_loss_weight,
            "loss_maccdoa": config.alpha,
            "loss_accdoa": 1 - config.alpha,
            "loss_distance": config.distance_loss_weight,
        }

    @property
    def head_sizes(self) -> dict[str, int]:
        """Number of outputs per frame of each head."""
        sizes = {"sed": NUM_TRACKS * self.num_classes, "doa": NUM_TRACKS * 3, "distance": NUM_TRACKS}
        return sizes if self.distance else {name: sizes[name] for name in ("sed", "doa")}

    def outputs(self, heads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert heads (batch, frames, size) to `sed_logits` (batch, frames, 3, classes), `doa` (batch, frames, 3, 3)
        and, if the model has it, `distance` (batch, frames, 3)."""
        distance = {"distance": self.to_metres(heads["distance"])} if self.distance else {}
        return {
            "sed_logits": heads["sed"].unflatten(-1, (NUM_TRACKS, self.num_classes)),
            "doa": heads["doa"].tanh().unflatten(-1, (NUM_TRACKS, 3)),
            **distance,
        }

    def encode(self, events: Events, num_frames: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Encode events as labels (frames, 3, classes + 3, or + 4): the events of a frame fill its tracks in order.

        Events after `num_frames`, and the fourth and later events of a frame, are left out.

        Raises:
            ValueError: the model lacks a class.
        """
        check_classes(events, self.num_classes)
        labels = torch.zeros(num_frames, NUM_TRACKS, self.num_classes + 3 + self.distance, device=device)
        events = events[events.frame < num_frames]
        track = occurrence(events.frame)
        events, track = events[track < NUM_TRACKS], track[track < NUM_TRACKS]
        frame, track, class_id = as_indices(device, events.frame, track, events.class_id)
        labels[frame, track, class_id] = 1
        numbers = np.column_stack([events.vector, *([known_distance(events)] if self.distance else [])])
        labels[frame, track, self.num_classes :] = torch.from_numpy(numbers).to(labels)
        return labels

    def decode_labels(self, labels: np.ndarray) -> Events:
        """Recover the events that `encode` turned into labels (frames, …); none in frames padded with -100."""
        labels = without_padding(labels)
        activity, direction, metres = np.split(labels, [self.num_classes, self.num_classes + 3], axis=-1)
        vectors = direction[:, :, None] * activity[..., None]
        metres = np.broadcast_to(metres[:, :, None], (*vectors.shape[:3], metres.shape[-1]))
        numbers = np.concatenate([vectors, metres], axis=-1)
        return labelled_events(numbers, ["distance"] * self.distance)

    def loss(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss selected by the config's `loss_type`, over the frames that are not padded."""
        return self.loss_parts(outputs, labels, mask)["loss"]

    def loss_parts(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and its unweighted parts.

        These are `loss_sed` and `loss_doa`, or `loss_maccdoa` and `loss_accdoa` for the aggregated loss, and
        `loss_distance` if the model has distances.
        """
        shape = (NUM_TRACKS, self.num_classes + 3 + self.distance)
        labels, counts = checked_labels(labels, outputs["sed_logits"], [shape], mask)
        sed_labels, doa_labels, metres = labels.split([self.num_classes, 3, int(self.distance)], dim=-1)
        distance = torch.zeros_like(labels[..., :1]).expand(-1, -1, -1, NUM_TRACKS)
        if self.distance:
            near = outputs["distance"].float().unsqueeze(3).expand_as(distance)
            distance = distance_error(self.distance_loss, near, metres.transpose(2, 3).expand_as(distance))
        errors = {"tpit": self._tpit, "aggregated": self._aggregated}[self.loss_type]
        errors = errors(outputs["sed_logits"].float(), outputs["doa"].float(), sed_labels, doa_labels, distance)
        if not self.distance:
            del errors["loss_distance"]
        parts = {name: mean_of_frames(error, counts) for name, error in errors.items()}
        return {"loss": sum(self.loss_weights[name] * part for name, part in parts.items()), **parts}

    def _order(self, cost: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Return the best order of the tracks, which depends on distances only with `"joint"`."""
        weight = self.loss_weights["loss_distance"] if self.distance_loss == "joint" else 0.0
        return best_order(cost + weight * distance)

    def _tpit(
        self,
        sed_logits: torch.Tensor,
        doa: torch.Tensor,
        sed_labels: torch.Tensor,
        doa_labels: torch.Tensor,
        distance: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return the errors of each frame by frame-level permutation-invariant training (Cao et al.)."""
        sed = pairwise(nn.functional.binary_cross_entropy_with_logits, sed_logits, sed_labels)
        doa = pairwise(nn.functional.mse_loss, doa, doa_labels)
        order = self._order(self.loss_weights["loss_sed"] * sed + self.loss_weights["loss_doa"] * doa, distance)
        errors = {"loss_sed": sed, "loss_doa": doa, "loss_distance": distance}
        return {name: mean_cost(error, order) for name, error in errors.items()}

    def _aggregated(
        self,
        sed_logits: torch.Tensor,
        doa: torch.Tensor,
        sed_labels: torch.Tensor,
        doa_labels: torch.Tensor,
        distance: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return the errors of both outputs as vectors, of each track in the best order and of the sum over tracks."""
        prediction = activity_vectors(sed_logits.sigmoid(), doa)
        target = activity_vectors(sed_labels, doa_labels)
        by_track = pairwise(nn.functional.mse_loss, prediction, target)
        order = self._order(by_track, distance)
        return {
            "loss_maccdoa": mean_cost(by_track, order),
            "loss_distance": mean_cost(distance, order),
            "loss_accdoa": nn.functional.mse_loss(prediction.sum(2), target.sum(2), reduction="none"),
        }

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs with the tracks of each frame in the order closest to the reference.

        Tracks are compared by the vectors of their classes, in the direction of the track and as long as the activity.

        Args:
            outputs, reference: `sed_logits` (frames, 3, classes), `doa` (frames, 3, 3) and any other outputs.
        """
        tracks, others = (
            activity_vectors(torch.from_numpy(side["sed_logits"]).sigmoid(), torch.from_numpy(side["doa"])).flatten(2)
            for side in (outputs, reference)
        )
        order = nearest_order(tracks[None], others[None])[0].numpy()
        orders = {"distance": order}
        return outputs | {
            name: np.take_along_axis(outputs[name], orders.get(name, order[:, :, None]), axis=1)
            for name in self.output_names
        }

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """Decode events: the most likely class of each track, if its activity exceeds `threshold`.

        Tracks of the same class closer than `unify_degrees` give one event, at their mean.

        Args:
            outputs: `sed_logits` (frames, 3, classes), `doa` (frames, 3, 3) and, if the model has it, `distance`
                (frames, 3), of any float type.
            threshold: activity between 0 and 1, a scalar or (classes,).
        """
        # Logits of -100, the padding, decode to silence.
        logits = torch.from_numpy(np.asarray(outputs["sed_logits"], dtype=np.float32))
        doa = torch.from_numpy(without_padding(outputs["doa"]))
        likeliest = nn.functional.one_hot(logits.argmax(-1), self.num_classes)
        vectors = activity_vectors(logits.sigmoid() * likeliest, doa).movedim(-2, -1).numpy()
        if self.distance:
            distance = np.broadcast_to(without_padding(outputs["distance"])[:, :, None, None], (*vectors.shape[:3], 1))
            vectors = np.concatenate([vectors, distance], axis=-1)
        unified = unify_tracks(vectors, threshold, self.unify_degrees)
        return vectors_to_events(unified, 0.0, ["distance"] * self.distance).sort()


def activity_vectors(activity: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return vectors (…, 3, classes) in the given directions (…, 3), of any length, with the activities as lengths."""
    return nn.functional.normalize(direction, dim=-1).unsqueeze(-1) * activity.unsqueeze(-2)


class SEDDOAFormat(EINV2Format):
    """The format of [`EINV2Format`] for a network with one branch instead of two."""
