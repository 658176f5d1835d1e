"""ACCDOA: one vector a class, whose length is the activity and whose direction is the direction of arrival.

Shimada et al., "ACCDOA: Activity-coupled Cartesian direction of arrival representation for sound event localization
and detection", ICASSP 2021.
"""

import numpy as np
import torch
from torch import nn

from .configuration_pseldnet import PSELDNetConfig
from .events import Events, vector_to_direction


# No more sources than this sound at a time in the data that published networks learnt from.
MAX_OVERLAP = 3


class ACCDOAFormat:
    """Outputs and labels are `accdoa` (batch, frames, 1, 3, classes): track, then x, y, z, then class."""

    num_tracks = 1
    output_names = ("accdoa",)
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

    def loss(self, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Mean squared error between outputs and labels."""
        return nn.functional.mse_loss(outputs["accdoa"], labels.to(outputs["accdoa"].dtype))

    def loss_parts(self, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """`loss`, which has no parts."""
        return {"loss": self.loss(outputs, labels)}

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs with their tracks in the order of the reference: as they are, since there is one track."""
        return outputs

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """The three longest vectors of a frame are events where they are longer than `threshold`.

        Args:
            outputs: `accdoa` (frames, 1, 3, classes), of any float type.
            threshold: activity, one or (classes,).
        """
        events = vectors_to_events(np.moveaxis(np.asarray(outputs["accdoa"], dtype=np.float32), 2, -1), threshold)
        longest_first = np.lexsort((-events.confidence, events.frame))
        rank = np.empty(len(events), dtype=np.int64)
        rank[longest_first] = occurrence(events.frame[longest_first])
        return events[rank < MAX_OVERLAP].sort()


def occurrence(keys: np.ndarray) -> np.ndarray:
    """How many earlier entries equal each entry of `keys` (n,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(keys)])
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return result


def vectors_to_events(vectors: np.ndarray, threshold: float | np.ndarray) -> Events:
    """Vectors (frames, tracks, classes, 3) longer than the threshold, one or one a class, as events."""
    length = np.sqrt(np.einsum("ftcd,ftcd->ftc", vectors, vectors))
    frame, track, class_id = np.nonzero(length > threshold)
    azimuth, elevation = vector_to_direction(vectors[frame, track, class_id])
    return Events(frame, class_id, track, azimuth, elevation, confidence=length[frame, track, class_id])
