"""Convert published PSELDNets checkpoints with AdapterBit to a Hub folder of the network and one of the adapter."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_folder
from ..keywords import first_few
from .checkpoints import read_network
from .cli import CommandParser, number, program
from .convert import main as convert
from .convert_names import convert_state_dict
from .extras import require


if TYPE_CHECKING:
    import torch


# Positions of a bottleneck and its two layers: published names and ours.
PLACES = {"attention": "attention.o_proj", "mlp": "mlp"}
LAYERS = {"fc1": "adapterbit_down", "fc2": "adapterbit_up"}
BOTTLENECK = re.compile(r"(?P<block>.*)\.(?P<place>attention|mlp)\.adapter\.(?P<layer>fc1|fc2)\.(?P<leaf>weight|bias)")


def split_checkpoint(checkpoint: str | os.PathLike, network_checkpoint: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Separate the bottlenecks from a published checkpoint.

    Args:
        checkpoint: a Lightning `.ckpt`, read without running any code in it.
        network_checkpoint: where to write the checkpoint without bottlenecks, for [`convert_checkpoint`].

    Returns:
        The entries of the bottlenecks, by their published names.

    Raises:
        ValueError: the file is not such a checkpoint, or has no bottlenecks.
    """
    import torch

    network, _ = read_network(checkpoint)
    bottlenecks = {key: network.pop(key) for key in list(network) if ".adapter." in key}
    if not bottlenecks:
        raise ValueError(f"{checkpoint}: has no AdapterBit entries (`….adapter.…`): convert it with pseldnet-convert")
    torch.save({"state_dict": {f"net.{key}": value for key, value in network.items()}}, network_checkpoint)
    return bottlenecks


def save_adapter(
    bottlenecks: dict[str, torch.Tensor], base: str | os.PathLike, output: str | os.PathLike, scale: float = 0.1
) -> None:
    """Write published bottlenecks as an AdapterBit adapter, with the biases, statistics and heads of its network.

    Args:
        bottlenecks: entries by their published names, from [`split_checkpoint`].
        base: the Hub folder of the rest of the network.
        output: the folder to write; it replaces an existing one, and appears whole or not at all.
        scale: factor of the bottlenecks' outputs, which checkpoints do not record. Defaults to 0.1.

    Raises:
        ValueError: the bottlenecks do not fit the network (the message names one), or `base` lies in `output`.
    """
    peft = require("peft")

    from .. import AdapterBitConfig, PSELDNetForSELD
    from ..hub_folder import check_output

    check_output(output, overwrite=True, made_from=base)
    network = PSELDNetForSELD.from_pretrained(base)
    state, _ = convert_state_dict(bottlenecks, network.config.backbone)
    matches = {key: BOTTLENECK.fullmatch(key) for key in state}
    if unknown := [key for key, match in matches.items() if match is None]:
        raise ValueError(f"{len(unknown)} entries are not bottlenecks: {first_few(unknown, 5)}")
    narrow, wide = next((value.shape for key, value in state.items() if key.endswith(".fc1.weight")), (1, 2))
    places = {match["place"] for match in matches.values()}
    config = AdapterBitConfig(mlp_ratio=narrow / wide, scale=scale, positions=sorted(places))
    model = peft.get_peft_model(network, config)
    renamed = {
        f"{match['block']}.{PLACES[match['place']]}.{LAYERS[match['layer']]}.default.{match['leaf']}": state[key]
        for key, match in matches.items()
    }
    expected = {
        key for key in model.get_base_model().state_dict() if ".adapterbit_down." in key or ".adapterbit_up." in key
    }
    if differing := sorted(expected.symmetric_difference(renamed)):
        raise ValueError(
            f"{len(differing)} bottlenecks are missing or do not belong in {base}, such as {differing[0]}"
        )
    try:
        model.get_base_model().load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the bottlenecks do not fit {base}: {str(error).splitlines()[1].strip()}") from None
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)


NAME = "python -m modeling_pseldnet.tools.convert_adapterbit"


@program(NAME)
def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = CommandParser(
        prog=NAME,
        description="Converts a published PSELDNets checkpoint with AdapterBit to a Hub folder of the network and a"
        " folder of the adapter that PeftModel.from_pretrained reads.",
        epilog="example: python -m modeling_pseldnet.tools.convert_adapterbit adapter.ckpt l3das22-base"
        " l3das22-adapter --labels classes.txt",
    )
    parser.add_argument(
        "--scale", type=number(), default=0.1, help="factor of the bottlenecks' outputs; default: %(default)s"
    )
    parser.add_argument("checkpoint", help="Lightning checkpoint (.ckpt); no code in it is run")
    parser.add_argument("base", help="folder to write the network to")
    parser.add_argument("adapter", help="folder to write the adapter to")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="at the end: options of pseldnet-convert for the network"
    )
    options = parser.parse_args(arguments)
    require("peft")
    from ..hub_folder import check_output

    base, adapter = Path(options.base).resolve(), Path(options.adapter).resolve()
    for folder, made_from in ((base, options.checkpoint), (adapter, options.checkpoint), (adapter, base)):
        check_output(folder, "--overwrite" in options.options, made_from)
    with tempfile.TemporaryDirectory() as folder:
        network_checkpoint = Path(folder) / Path(options.checkpoint).name
        bottlenecks = split_checkpoint(options.checkpoint, network_checkpoint)
        if status := convert([str(network_checkpoint), options.base, *options.options]):
            return status
    save_adapter(bottlenecks, options.base, adapter, scale=options.scale)
    print(f"{options.adapter}: {len(bottlenecks)} bottleneck entries used, with biases, statistics and heads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
