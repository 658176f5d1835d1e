"""Convert published PSELDNets checkpoints to Hub folders: the program `pseldnet-convert`."""

from __future__ import annotations

import argparse
import sys

from .cli import CommandParser, program, whole_number
from .convert_checkpoint import convert_checkpoint
from .convert_names import RENAMES
from .labels import read_labels


OUTPUT_FORMATS = ("accdoa", "einv2", "multi_accdoa", "seddoa")


@program("pseldnet-convert")
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `pseldnet-convert`; returns the exit status."""
    parser = CommandParser(
        prog="pseldnet-convert",
        description="Converts a published PSELDNets checkpoint to a Hub folder for from_pretrained, or starts a new"
        " network from an AudioSet checkpoint.",
        epilog="example: pseldnet-convert --published mACCDOA-HTSAT-0.567 pseldnet-htsat",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="PSELDNets checkpoint (.ckpt) or, with --audioset, that of an encoder; omit with --published",
    )
    parser.add_argument("output", nargs="?", help="folder to write")
    parser.add_argument(
        "--published",
        metavar="NAME",
        help="download this checkpoint from the authors' repository; 'list' shows all names and what they are",
    )
    parser.add_argument("--backbone", default="htsat", choices=sorted(RENAMES), help="encoder; default: %(default)s")
    parser.add_argument("--output-format", default="multi_accdoa", choices=OUTPUT_FORMATS, help="default: %(default)s")
    parser.add_argument(
        "--loss-type",
        choices=("tpit", "aggregated"),
        default="tpit",
        help="loss that EINV2 or SEDDOA was trained with (aggregated if the name has AGG); default: %(default)s",
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: TSV of index, MID, name, or one name per line")
    parser.add_argument(
        "--audioset",
        action="store_true",
        help="start a new network, for --labels, from an AudioSet checkpoint of HTS-AT, PaSST or PANNs CNN14",
    )
    parser.add_argument(
        "--sampling-rate",
        type=whole_number(1),
        default=24000,
        help="sampling rate of the network in Hz; default: %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    options = parser.parse_args(arguments)
    if options.audioset and options.labels is None:
        parser.error("--audioset needs the classes of the new network: give --labels FILE")
    if options.published:
        _convert_published(parser, options)
        return
    if options.output is None:
        parser.error("give a checkpoint and the folder to write, or a published model with --published NAME")
    labels = read_labels(options.labels) if options.labels else None
    given = {name: getattr(options, name) for name in ("backbone", "output_format", "sampling_rate", "overwrite")}
    if options.audioset:
        parser.refuse(options, ("loss_type",), "cannot be used with --audioset, which starts a new network")
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
    hint = "--published NAME takes only the folder to write and, optionally, --labels and --overwrite"
    if options.checkpoint is None:
        parser.error(hint)
    parser.refuse(options, ("output", "audioset", "backbone", "output_format", "loss_type", "sampling_rate"), hint)
    labels = read_labels(options.labels) if options.labels else None
    report = convert_published(options.published, options.checkpoint, labels, options.overwrite)
    print(f"{options.checkpoint}: {report}\n{TERMS}")


if __name__ == "__main__":
    sys.exit(main())
