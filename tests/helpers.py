"""Helpers for tests in several files: small networks, their weights, audio files, and the exit status of programs."""

import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD


PASST = {"backbone": "passt", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_config(**fields) -> PSELDNetConfig:
    """The config of a network with the published architecture, but small enough for a test."""
    small = {
        "embed_dim": 8,
        "depths": [2, 1, 1, 1],
        "num_heads": [1, 2, 2, 2],
        "id2label": {0: "speech", 1: "footsteps", 2: "door"},
    }
    return PSELDNetConfig(**{**small, **fields})


def scattered(model: PSELDNetForSELD) -> PSELDNetForSELD:
    """Move weights and statistics of a model far from their initial values, so that its outputs vary."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(noise.abs() + 0.5)
        elif value.ndim > 1:
            value.copy_(1.2 * noise / (value.numel() / len(value)) ** 0.5)
        elif value.is_floating_point():
            value.add_(0.1 * noise)
    return model


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a folder, without the statistics of batch normalisation."""
    weights = load_file(folder / "model.safetensors")
    return {name: weight for name, weight in weights.items() if "running" not in name and "num_batches" not in name}


def assert_same_weights(first: Path, second: Path, **tolerance) -> None:
    """Check that two folders hold the same weights."""
    first, second = saved_weights(first), saved_weights(second)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def status_of(main, arguments: list[str]) -> int:
    """Return the exit status of a program, whether it returns it or, as for wrong options, raises SystemExit."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


def has_native_adapters() -> bool:
    """Whether transformers' own adapter methods accept the installed PEFT; 5.24 needs one that is not released."""
    import peft
    from packaging.version import Version
    from transformers.integrations import peft as integration

    return Version(peft.__version__) >= Version(integration.MIN_PEFT_VERSION)


def b_format(fuma: np.ndarray, rate: int = 24000) -> bytes:
    """Encode W, X, Y, Z (4, samples) as an ambisonic WAV file, PCM 16."""
    pcm = np.round(fuma.T * 32767).astype("<i2").tobytes()
    guid = struct.pack("<I", 1) + bytes.fromhex("2107d3118644c8c1ca000000")
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 4, rate, rate * 8, 8, 16, 22, 16, 0) + guid
    body = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", len(body)) + body
