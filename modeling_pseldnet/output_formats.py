"""Output formats: from events to labels, from labels and outputs to a loss, and from outputs to events."""

from typing import Protocol

import numpy as np
import torch

from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .format_accdoa import ACCDOAFormat, MultiACCDOAFormat
from .format_einv2 import EINV2Format, SEDDOAFormat


class OutputFormat(Protocol):
    """The interface between a model and its output format.

    Attributes:
        output_names: fields of the model's output that hold its predictions.
        head_sizes: number of outputs per frame of each head, by name.
        silence: value of each head in padded frames.
        class_heads: names of the heads whose last axis is the class; the first of them is the one for activity.
        numbers_a_class: outputs of that head per frame and class, with three axes.
        num_axes: 3, or 2 for directions without elevation, in front only.
    """

    output_names: tuple[str, ...]
    silence: dict[str, float]
    class_heads: tuple[str, ...]
    numbers_a_class: int
    num_axes: int

    @property
    def head_sizes(self) -> dict[str, int]: ...

    def outputs(self, heads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert heads (batch, frames, numbers) to the fields of `output_names`."""

    def encode(self, events: Events, num_frames: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Encode the events of one recording or window as labels (frames, …).

        Raises:
            ValueError: the model lacks a class, or learns `onscreen` and the events do not have it.
        """

    def decode_labels(self, labels: np.ndarray) -> Events:
        """Recover the events of labels (frames, …); none in frames padded with -100."""

    def loss(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the scalar loss over all frames, except those with labels of -100 or a `mask` (batch, frames) of 0.

        Raises:
            ValueError: the labels have the wrong shape.
        """

    def loss_parts(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts, by name."""

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return outputs (frames, …) with tracks in the order of the reference, so that they can be averaged."""

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """Decode the events of outputs (frames, …) of one recording; none in frames padded with -100."""


FORMATS: dict[str, type[OutputFormat]] = {
    "accdoa": ACCDOAFormat,
    "multi_accdoa": MultiACCDOAFormat,
    "einv2": EINV2Format,
    "seddoa": SEDDOAFormat,
}


def get_output_format(config: PSELDNetConfig) -> OutputFormat:
    """Return the output format of a config, set up for its classes."""
    return FORMATS[config.output_format](config)
