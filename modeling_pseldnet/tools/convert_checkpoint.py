"""Convert published checkpoints of whole networks to Hub folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..keywords import first_few
from .checkpoints import read_network
from .convert_names import RENAMES, convert_state_dict, make_config, read_architecture


if TYPE_CHECKING:
    import torch

    from ..modeling_pseldnet import PSELDNetForSELD


@dataclass
class ConversionReport:
    """Number of classes, and how many entries were used, recreated, or ignored as not part of the network."""

    classes: int
    used: int
    remade: int
    ignored: list[str]

    def __str__(self) -> str:
        examples = f" ({first_few(self.ignored)})" if self.ignored else ""
        return (
            f"{self.classes} classes; {self.used} entries used, {self.remade} constant entries recreated,"
            f" {len(self.ignored)} unrelated entries ignored{examples}"
        )


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    backbone: str = "htsat",
    output_format: str = "multi_accdoa",
    labels: list[str] | None = None,
    sampling_rate: int = 24000,
    overwrite: bool = False,
    loss_type: str = "tpit",
    source: str | None = None,
    note: str = "",
) -> ConversionReport:
    """Convert a published checkpoint to a Hub folder: weights, config, extractor, code and model card.

    Args:
        checkpoint: a Lightning `.ckpt`, read without running any code in it.
        output: the folder to write; it appears whole or not at all.
        backbone, output_format: the architecture, as in [`PSELDNetConfig`].
        labels: class names in the order of their indices. Defaults to `class 0`, `class 1`, ….
        sampling_rate: sampling rate in Hz of the audio that the checkpoint was trained on, 24000 or 32000.
        overwrite: whether to replace an existing folder that is not empty.
        loss_type: the loss that EINV2 or SEDDOA was trained with, as in [`PSELDNetConfig`].
        source: what the model card names as the source. Defaults to the file name.
        note: a section to add to the model card.

    Raises:
        ValueError: the file is not such a checkpoint, does not fit the architecture, or contains code.
        FileExistsError: `output` exists and is not empty.
    """
    from transformers.initialization import no_init_weights

    from ..hub_folder import check_output, model_card, save_hub_folder
    from ..modeling_pseldnet import PSELDNetForSELD
    from ..output_formats import FORMATS

    if backbone not in RENAMES or output_format not in FORMATS:
        raise ValueError(f"backbone {backbone!r} with output format {output_format!r} cannot be converted")
    if loss_type != "tpit" and output_format not in ("einv2", "seddoa"):
        raise ValueError(
            f"loss type {loss_type} applies only to einv2 and seddoa, not to {output_format}: leave it out"
        )
    check_output(output, overwrite, checkpoint)
    network, ignored = read_network(checkpoint)
    state, remade = convert_state_dict(network, backbone)

    head = _head_size(state, FORMATS[output_format].class_heads[0], checkpoint)
    numbers_a_class = FORMATS[output_format].numbers_a_class
    num_classes, rest = divmod(head, numbers_a_class)
    if rest:
        raise ValueError(
            f"{checkpoint}: the head has {head} outputs per frame, not a multiple of the {numbers_a_class} per class"
            f" of {output_format}: is it another output format?"
        )
    if labels is not None and len(labels) != num_classes:
        raise ValueError(
            f"{checkpoint}: {num_classes} classes with {output_format}, but {len(labels)} labels:"
            " give the class list, and the output format, of this checkpoint"
        )
    names = labels if labels is not None else [f"class {index}" for index in range(num_classes)]
    fields = {**read_architecture(state, backbone), "loss_type": loss_type}
    config = make_config(names, sampling_rate, backbone, output_format, fields)
    # All weights come from the checkpoint; drawing them takes seconds.
    with no_init_weights():
        model = PSELDNetForSELD(config).eval()
    _load_strictly(model, state, checkpoint)
    card = model_card(config, source or Path(checkpoint).name) + (f"\n{note}" if note else "")
    save_hub_folder(model, output, card)
    return ConversionReport(num_classes, used=len(network) - remade, remade=remade, ignored=ignored)


def _head_size(state: dict[str, torch.Tensor], head: str, checkpoint: str | os.PathLike) -> int:
    """Return the number of outputs per frame of a head, or of the heads of all tracks together."""
    sizes = [len(value) for key, value in state.items() if re.fullmatch(rf"heads\.{head}\.(.*\.)?bias", key)]
    if not sizes:
        raise ValueError(f"{checkpoint}: the entry for heads.{head} is missing: is it another output format?")
    return sum(sizes)


def _load_strictly(model: PSELDNetForSELD, state: dict[str, torch.Tensor], checkpoint: str | os.PathLike) -> None:
    for name, parameter in model.state_dict().items():
        if name not in state:
            raise ValueError(
                f"{checkpoint}: the entry for {name} is missing: is it another backbone or output format?"
            )
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"{checkpoint}: the entry for {name} has shape {tuple(state[name].shape)} where the network has"
                f" {tuple(parameter.shape)}"
            )
    if extra := sorted(state.keys() - model.state_dict().keys()):
        has_adapter = any(".adapter." in name for name in extra)
        hint = ": convert it with modeling_pseldnet.tools.convert_adapterbit" if has_adapter else ""
        raise ValueError(f"{checkpoint}: {len(extra)} unexpected entries, such as {extra[0]}{hint}")
    model.load_state_dict(state)
