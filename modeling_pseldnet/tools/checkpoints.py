"""Read checkpoints without running any code in them."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


def read_network(checkpoint: str | os.PathLike) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the network's entries of a Lightning checkpoint, without their prefix, and the names of the others.

    Raises:
        ValueError: the file is missing, broken, contains code, or holds no network.
    """
    import torch

    content = load_checkpoint(checkpoint)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{checkpoint}: not a Lightning checkpoint, as it has no `state_dict`")
    network, ignored = {}, []
    for key, value in state.items():
        match = re.fullmatch(r"net\.(?:_orig_mod\.)?(.+)", str(key))
        if match and not isinstance(value, torch.Tensor):
            raise ValueError(f"{checkpoint}: the entry {key} is not a tensor")
        if match:
            network[match[1]] = value
        else:
            ignored.append(key)
    if not network:
        raise ValueError(f"{checkpoint}: no entries named `net.…`: is it a PSELDNets checkpoint?")
    return network, ignored


def load_checkpoint(checkpoint: str | os.PathLike) -> Any:
    """Load a file written by `torch.save`, on the CPU.

    Raises:
        ValueError: the file is missing, broken or contains code.
    """
    import torch

    if not Path(checkpoint).is_file():
        raise ValueError(f"{checkpoint}: no such file")
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        # A broken pickle can raise almost anything.
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(checkpoint):
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = found[1] if found else "objects of Python"
            raise ValueError(
                f"{checkpoint}: refused, as it contains more than tensors ({what}) and reading it could run code: if"
                " you trust it, save only its state_dict with torch.save({'state_dict': …}, file)"
            ) from None
        raise ValueError(f"{checkpoint}: not a torch.save checkpoint, or a broken one") from None


def _is_pickle(path: str | os.PathLike) -> bool:
    """Whether a file starts like an archive of `torch.save` or a bare pickle."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
