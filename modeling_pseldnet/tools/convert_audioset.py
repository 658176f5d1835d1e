"""Start networks from AudioSet checkpoints of HTS-AT, PaSST and PANNs, as published by their own projects."""

import os
import re
from pathlib import Path

import torch

from ..hub_folder import check_output, model_card, save_hub_folder
from ..modeling_pseldnet import PSELDNetForSELD
from .checkpoints import load_checkpoint
from .convert_names import RENAMES, convert_state_dict, make_config, read_architecture
from .transfer import TransferReport, transfer


# Prefixes of published PSELDNets checkpoints before the entry names of each encoder's own project.
PREFIXES = {"htsat": "encoder.", "passt": "encoder.", "cnn14_conformer": "convs.", "crnn": "convs."}


def load_audioset(model: PSELDNetForSELD, checkpoint: str | os.PathLike) -> TransferReport:
    """Load the encoder and the input norm of an AudioSet checkpoint into `model`.

    The first convolution, over one spectrogram, is repeated over the feature channels and divided by their number; the
    input norm is copied to every channel (HTS-AT, PANNs); position embeddings are cropped at the centre or
    interpolated (PaSST). The rest of the model is unchanged.

    Args:
        model: a model with the checkpoint's architecture, modified in place.
        checkpoint: a checkpoint as published by HTS-AT (`state_dict` with `sed_model.…`), PaSST or PANNs CNN14
            (`model`).

    Raises:
        ValueError: the file is missing, broken, contains code, or is not a checkpoint of this encoder.
    """
    state, unused = _read_encoder(checkpoint, model.config.backbone, model.config.num_channels)
    return _transfer(model, state, unused, checkpoint)


def convert_audioset(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    backbone: str,
    output_format: str,
    labels: list[str],
    sampling_rate: int = 24000,
    overwrite: bool = False,
) -> TransferReport:
    """Write a new, still untrained network that starts from an AudioSet checkpoint as a Hub folder.

    Args and errors are as in [`convert_checkpoint`]; `labels` are the classes of the new network.
    """
    check_output(output, overwrite, checkpoint)
    state, unused = _read_encoder(checkpoint, backbone)
    architecture = read_architecture(state, backbone)
    if architecture.get("decoder") == "none":
        del architecture["decoder"]
    model = PSELDNetForSELD(make_config(labels, sampling_rate, backbone, output_format, architecture)).eval()
    report = _transfer(model, state, unused, checkpoint)
    save_hub_folder(
        model, output, model_card(model.config, f"{Path(checkpoint).name} (AudioSet), still to be trained")
    )
    return report


def _read_encoder(
    checkpoint: str | os.PathLike, backbone: str, num_channels: int = 7
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return a checkpoint's encoder and input norm, named as in [`PSELDNetForSELD`], and the names of the rest."""
    content = load_checkpoint(checkpoint)
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else {}
    known, unused = {}, []
    for name, value in content.items():
        key = name.removeprefix("sed_model.")
        published = PREFIXES[backbone] + key
        if key.startswith("bn0."):
            known |= {f"scalar.{channel}.{key.removeprefix('bn0.')}": value for channel in range(num_channels)}
        elif any(re.fullmatch(pattern, published) for pattern, _ in RENAMES[backbone]):
            known[published] = value
        else:
            unused.append(key)
    state, _ = convert_state_dict(known, backbone)
    if not any(name.startswith("pseldnet.encoder.") for name in state):
        raise ValueError(f"{checkpoint}: contains no {backbone} entries: is it a checkpoint of another encoder?")
    return state, unused


def _transfer(
    model: PSELDNetForSELD, state: dict[str, torch.Tensor], unused: list[str], checkpoint: str | os.PathLike
) -> TransferReport:
    try:
        report = transfer(model, state)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    report.unused += unused
    return report
