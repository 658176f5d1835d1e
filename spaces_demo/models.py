"""The models that the demo may run: the one of its operator, and those of the Hub that visitors name."""

from functools import lru_cache

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioFrameClassification

from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.tools.cli import first_line
from modeling_pseldnet.tools.loading import load


MAX_GIGABYTES = 2

load_own = lru_cache(maxsize=1)(load)


@lru_cache(maxsize=3)
def load_from_hub(name: str, trust_remote_code: bool = False) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    """A model that a visitor names. Only its settings and its weights as safetensors are fetched, so that nothing is
    unpickled and no code of it is run; and only what is public, as the operator's token is not used.

    Args:
        name: `user/name` on the Hub; never a folder of this machine.
        trust_remote_code: whether code of the repository is fetched and run, for networks that this package has not.

    Raises:
        ValueError: there is no such public model, it is too large, or it cannot be loaded.
    """
    patterns = ["*.json", "*.safetensors", *["*.py"] * trust_remote_code]
    try:
        validate_repo_id(name)
        files = snapshot_download(name, allow_patterns=patterns, token=False, dry_run=True)
        if sum(file.file_size or 0 for file in files) > MAX_GIGABYTES * 1e9:
            raise ValueError(f"larger than {MAX_GIGABYTES} GB")
        folder = snapshot_download(name, allow_patterns=patterns, token=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no model of the Hub that can be used here: {first_line(error)}") from None
    try:
        return _load_with_code(folder) if trust_remote_code else load(folder)
    except ValueError as error:
        raise ValueError(str(error).replace(folder, name)) from None


def _load_with_code(folder: str) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    trust = {"trust_remote_code": True}
    try:
        config = AutoConfig.from_pretrained(folder, **trust)
        extractor = AutoFeatureExtractor.from_pretrained(folder, **trust)
        network = AutoModelForAudioFrameClassification.from_pretrained(folder, config=config, **trust)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: cannot be loaded: {first_line(error)}") from None
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), extractor
