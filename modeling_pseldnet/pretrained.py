"""Loads trained models, and knows the one that comes with the package."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoFeatureExtractor

from .cli import first_line
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .modeling_pseldnet import PSELDNetForSELD


# A small network of 24 everyday sounds, trained on synthetic scenes; its README.md is its model card.
DEFAULT_MODEL = str(Path(__file__).with_name("default_model"))


def load(model: str = DEFAULT_MODEL, device: str | None = None) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    """A model and its feature extractor, from a folder or by the name of a Hub repository.

    Args:
        model: folder or `user/name`; the model that comes with the package by default.
        device: where it is to run; a GPU if there is one and nothing is said.

    Raises:
        ValueError: there is no such model, it is of another kind, its weights are missing or do not fit.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        config = AutoConfig.from_pretrained(model)
        if config.model_type != "pseldnet":
            raise ValueError(f"it is a {config.model_type} model, not a PSELDNet")
        extractor = AutoFeatureExtractor.from_pretrained(model)
        network, loading = PSELDNetForSELD.from_pretrained(model, config=config, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{model}: cannot be loaded: {first_line(error)}") from None
    missing = [name for kind in ("missing_keys", "mismatched_keys") for name in loading[kind]]
    if missing:
        raise ValueError(f"{model}: {len(missing)} weights are missing or of another shape, {missing[0]} among them")
    try:
        return network.to(device).eval(), extractor
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {first_line(error)}") from None
