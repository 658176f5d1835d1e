"""Output formats: how events become labels, labels and outputs a loss, and outputs events; one file a family."""

from typing import Protocol

import numpy as np
import torch

from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .format_accdoa import ACCDOAFormat, MultiACCDOAFormat
from .format_einv2 import EINV2Format, SEDDOAFormat


class OutputFormat(Protocol):
    """What a model has to know of its output format, and nothing else of it.

    Attributes:
        output_names: fields of the model's output that hold what it predicts.
        head_sizes: numbers a frame that each head gives, by the head's name.
        silence: what each head gives where a recording is padded.
        class_heads: names of the heads whose numbers are, last, one a class; the first of them tells classes.
        numbers_a_class: what that one gives a frame for each class, of three axes.
        num_axes: 3, or 2 where directions have no elevation and are told in front alone.
    """

    output_names: tuple[str, ...]
    silence: dict[str, float]
    class_heads: tuple[str, ...]
    numbers_a_class: int
    num_axes: int

    @property
    def head_sizes(self) -> dict[str, int]: ...

    def outputs(self, heads: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Heads (batch, frames, numbers) as the fields of `output_names`."""

    def encode(self, events: Events, num_frames: int, device: str | torch.device = "cpu") -> torch.Tensor:
        """Labels (frames, …) of one recording or window.

        Raises:
            ValueError: the model has no such class.
        """

    def decode_labels(self, labels: np.ndarray) -> Events:
        """The events of labels (frames, …); none of frames that are padded with -100."""

    def loss(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, a scalar, of all frames but those whose labels are -100 or whose `mask` (batch, frames) is 0.

        Raises:
            ValueError: the labels are of another shape.
        """

    def loss_parts(
        self, outputs: dict[str, torch.Tensor], labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`loss`, and by name what it is made of."""

    def align_tracks(self, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs (frames, …) with tracks in the order of the reference's, so that they can be averaged."""

    def decode(self, outputs: dict[str, np.ndarray], threshold: float | np.ndarray = 0.5) -> Events:
        """The events of outputs (frames, …) of one recording; none of frames that are padded with -100."""


FORMATS: dict[str, type[OutputFormat]] = {
    "accdoa": ACCDOAFormat,
    "multi_accdoa": MultiACCDOAFormat,
    "einv2": EINV2Format,
    "seddoa": SEDDOAFormat,
}


def get_output_format(config: PSELDNetConfig) -> OutputFormat:
    """The output format that `config` names, set up for its classes."""
    return FORMATS[config.output_format](config)
