"""Published PSELDNets checkpoints to Hub folders: the program `pseldnet-convert`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoints import read_network
from .cli import CommandParser, program
from .convert_names import RENAMES, convert_state_dict, make_config, read_architecture
from .labels import read_labels


if TYPE_CHECKING:
    import torch

    from ..modeling_pseldnet import PSELDNetForSELD


OUTPUT_FORMATS = ("accdoa", "einv2", "multi_accdoa", "seddoa")


@dataclass
class ConversionReport:
    """How many classes the model has, and how many entries were used, remade, or are no part of the network."""

    classes: int
    used: int
    remade: int
    ignored: list[str]

    def __str__(self) -> str:
        examples = f" ({', '.join(self.ignored[:3])}{', …' if len(self.ignored) > 3 else ''})" if self.ignored else ""
        return (
            f"classes: {self.classes}; {self.used} entries of the network used, {self.remade} that hold nothing learnt"
            f" remade, {len(self.ignored)} of other parts ignored{examples}"
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
    """Writes a published checkpoint as a Hub folder: weights, config, extractor, code and model card.

    Args:
        checkpoint: a Lightning `.ckpt`; it is read without running any code that it may carry.
        output: the folder to write; it appears whole or not at all.
        backbone, output_format: the architecture, as in [`PSELDNetConfig`].
        labels: names of the classes in the order of their index; `class 0`, … if left out.
        sampling_rate: rate in Hz of the audio that the checkpoint was trained on, 24000 or 32000.
        overwrite: whether a folder that is there and not empty is replaced.
        loss_type: what EINV2 and SEDDOA were trained with, as in [`PSELDNetConfig`].
        source: what the model card says it was made from; the name of the file by default.
        note: a section for the model card.

    Raises:
        ValueError: the file is no such checkpoint, does not fit the architecture, or carries code.
        FileExistsError: `output` is there and not empty.
    """
    from ..hub_folder import check_output, model_card, save_hub_folder
    from ..modeling_pseldnet import PSELDNetForSELD
    from ..output_formats import FORMATS

    if backbone not in RENAMES or output_format not in FORMATS:
        raise ValueError(f"no conversion for {backbone!r} with {output_format!r}")
    if loss_type != "tpit" and output_format not in ("einv2", "seddoa"):
        raise ValueError(
            f"the loss type {loss_type} is of einv2 and seddoa alone, not of {output_format}: leave it out"
        )
    check_output(output, overwrite, checkpoint)
    network, ignored = read_network(checkpoint)
    state, remade = convert_state_dict(network, backbone)

    head = _head_size(state, FORMATS[output_format].class_heads[0], checkpoint)
    numbers_a_class = FORMATS[output_format].numbers_a_class
    num_classes, rest = divmod(head, numbers_a_class)
    if rest:
        raise ValueError(
            f"{checkpoint}: the head gives {head} numbers a frame, which is no multiple of the {numbers_a_class} that"
            f" {output_format} has for a class: is it another output format?"
        )
    if labels is not None and len(labels) != num_classes:
        raise ValueError(
            f"{checkpoint}: {num_classes} classes with {output_format}, and {len(labels)} labels:"
            " give the class list, and the output format, of this checkpoint"
        )
    names = labels if labels is not None else [f"class {index}" for index in range(num_classes)]
    fields = {**read_architecture(state, backbone), "loss_type": loss_type}
    config = make_config(names, sampling_rate, backbone, output_format, fields)
    model = PSELDNetForSELD(config).eval()
    _load_strictly(model, state, checkpoint)
    card = model_card(config, source or Path(checkpoint).name) + (f"\n{note}" if note else "")
    save_hub_folder(model, output, card)
    return ConversionReport(num_classes, used=len(network) - remade, remade=remade, ignored=ignored)


def _head_size(state: dict[str, torch.Tensor], head: str, checkpoint: str | os.PathLike) -> int:
    """Numbers a frame that a head, or those of all tracks, give."""
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
        raise ValueError(f"{checkpoint}: {len(extra)} entries that the network has not, such as {extra[0]}{hint}")
    model.load_state_dict(state)


@program("pseldnet-convert")
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `pseldnet-convert`; returns the exit status."""
    parser = CommandParser(
        prog="pseldnet-convert",
        description="Converts a published PSELDNets checkpoint to a Hub folder that from_pretrained reads, or starts"
        " a new network from an AudioSet checkpoint.",
        epilog="example: pseldnet-convert --published mACCDOA-HTSAT-0.567 pseldnet-htsat",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint of PSELDNets (.ckpt) or, with --audioset, of its encoder alone; none with --published",
    )
    parser.add_argument("output", nargs="?", help="folder to write")
    parser.add_argument(
        "--published",
        metavar="NAME",
        help="download a checkpoint from the authors' repository, which says what it is; 'list' shows their names",
    )
    parser.add_argument("--backbone", default="htsat", choices=sorted(RENAMES), help="default: %(default)s")
    parser.add_argument("--output-format", default="multi_accdoa", choices=OUTPUT_FORMATS, help="default: %(default)s")
    parser.add_argument(
        "--loss-type",
        choices=("tpit", "aggregated"),
        default="tpit",
        help="what EINV2 or SEDDOA was trained with (AGG in published names: aggregated); default: %(default)s",
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: TSV of index, MID, name, or one name a line")
    parser.add_argument(
        "--audioset",
        action="store_true",
        help="start a new network, for --labels, from an AudioSet checkpoint of HTS-AT, PaSST or PANNs CNN14",
    )
    parser.add_argument("--sampling-rate", type=int, default=24000, help="Hz the network takes; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(arguments)
    if options.audioset and options.labels is None:
        parser.error("--audioset needs the classes of the new network: give --labels FILE")
    if options.published:
        _convert_published(parser, options)
        return
    if options.output is None:
        parser.error("name a checkpoint and the folder to write, or a model of the authors by --published")
    labels = read_labels(options.labels) if options.labels else None
    given = {name: getattr(options, name) for name in ("backbone", "output_format", "sampling_rate", "overwrite")}
    if options.audioset:
        parser.refuse(options, ("loss_type",), "not with --audioset, which starts a new network")
        from .convert_audioset import convert_audioset

        report = convert_audioset(options.checkpoint, options.output, labels=labels, **given)
    else:
        given["loss_type"] = options.loss_type
        report = convert_checkpoint(options.checkpoint, options.output, labels=labels, **given)
    print(f"{options.output}: {report}")


def _convert_published(parser: CommandParser, options: argparse.Namespace) -> None:
    from .published import TERMS, convert_published, list_published

    if options.published == "list":
        print(list_published())
        return
    hint = "--published NAME takes the folder to write and, if need be, --labels and --overwrite"
    if options.checkpoint is None:
        parser.error(hint)
    parser.refuse(options, ("output", "audioset", "backbone", "output_format", "loss_type", "sampling_rate"), hint)
    labels = read_labels(options.labels) if options.labels else None
    report = convert_published(options.published, options.checkpoint, labels, options.overwrite)
    print(f"{options.checkpoint}: {report}\n{TERMS}")


if __name__ == "__main__":
    sys.exit(main())
