"""The models that the page may run: its operator's own, and those on the Hub that visitors name."""

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioFrameClassification
from yaml import YAMLError

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.modeling_layers import GRUDecoder
from modeling_pseldnet.tools.cli import first_line
from modeling_pseldnet.tools.loading import load


# Files that are fetched from a repository.
SETTINGS, CARD = ("config.json", "preprocessor_config.json"), "README.md"
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
MAX_GIGABYTES, MAX_SETTINGS_BYTES = 2, 1_000_000
# Maximum of numbers in the settings, alone or in lists; MAX_NUMBER holds for names that are not listed.
LIMITS = {"sampling_rate": 96_000, "n_fft": 16_384, "window_seconds": 30, "depths": 48, "num_hidden_layers": 48}
MAX_NUMBER, MAX_TEXT = 10_000, 200
# Maximum number of classes and their thresholds, and of stages of an encoder.
MAX_ITEMS = {"id2label": 1_000, "label2id": 1_000, "threshold": 1_000}
MAX_STAGES, MAX_FRAMES_PER_SECOND = 16, 1_000
# Maximum number of elements in one tensor of a forward pass, and in all of them.
MAX_TENSOR, MAX_TENSORS = 128_000_000, 20_000_000_000
BATCH_SIZE = 8


class Model(NamedTuple):
    """A network with its name, its extractor, its card, and the scores in its card."""

    name: str
    network: PSELDNetForSELD
    extractor: PSELDNetFeatureExtractor
    card: str
    scores: dict[str, float]


@lru_cache(maxsize=1)
def load_own(model: str) -> Model:
    """Load the operator's model, a folder or a Hub repository.

    Raises:
        ValueError: the model cannot be loaded.
    """
    card, name = read_card(model), Path(os.path.abspath(model)).name  # also of "."
    if card is None:
        return Model(name, *load(model), "", {})
    # The card of an adapter names its base, which may be a folder of this machine.
    base, text = str(card.data.base_model), card.content
    text = text.replace(base, Path(base).name) if Path(base).is_dir() else text
    return Model(card.data.model_name or name, *load(model), text, read_scores(card.data))


@lru_cache(maxsize=3)
def load_from_hub(name: str, trust_remote_code: bool = False) -> Model:
    """Load a model that a visitor names.

    Only settings and safetensors weights are fetched, so that nothing is unpickled and, by default, no foreign code is
    run. Only public models work, as the operator's token is not used; adapters are refused, as they could make the
    server load any base model. Nothing stays on the disk.

    Args:
        name: `user/name` on the Hub; never a folder of this machine.
        trust_remote_code: whether to fetch and run the repository's code, for networks that this package lacks.

    Raises:
        ValueError: there is no such public model, it is too large, or it cannot be loaded.
    """
    patterns = [*SETTINGS, *WEIGHTS, *["*.py"] * trust_remote_code]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        try:
            validate_repo_id(name)
            hub = HfApi(token=False)
            info = hub.model_info(name)
            files = [file for file in hub.list_repo_tree(name) if isinstance(file, RepoFile)]
            check_files({file.path: file.size for file in files})
            snapshot_download(name, allow_patterns=patterns, token=False, local_dir=folder)
            if not trust_remote_code:
                check_settings(folder)
        except (OSError, ValueError, HTTPError) as error:
            raise ValueError(f"{name}: no model on the Hub that can be used here: {first_line(error)}") from None
        try:
            network, extractor = _load_with_code(folder) if trust_remote_code else load(str(folder))
        except ValueError as error:
            raise ValueError(str(error).replace(str(folder), name)) from None
        return Model(name, network, extractor, "", read_scores(info.card_data))


def check_files(sizes: dict[str, int]) -> None:
    """Check a repository by the names of its files and their sizes in bytes.

    Raises:
        ValueError: the repository is an adapter, or too large.
    """
    if "adapter_config.json" in sizes:
        raise ValueError(
            "it is an adapter, which is refused here as it loads another model: merge it with its base and push that"
        )
    for name in SETTINGS:
        if sizes.get(name, 0) > MAX_SETTINGS_BYTES:
            raise ValueError(f"its {name} is larger than {MAX_SETTINGS_BYTES // 1_000_000} MB")
    if sum(size for name, size in sizes.items() if name.endswith(".safetensors")) > MAX_GIGABYTES * 1e9:
        raise ValueError(f"it is larger than {MAX_GIGABYTES} GB")


def check_settings(folder: Path) -> None:
    """Check every number in a model's settings before anything is built from them, and drop settings that are not
    those of a PSELDNet, such as where to fetch kernels or how to quantize.

    Raises:
        ValueError: a number is out of bounds, or the network would be too large.
    """
    for name, known in zip(SETTINGS, (_fields(PSELDNetConfig), None), strict=True):
        file = folder / name
        if not file.is_file():
            raise ValueError(f"it has no {name}")
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ValueError(f"its {name} is not JSON") from None
        if not isinstance(settings, dict):
            raise ValueError(f"its {name} is not a JSON object")
        settings = {key: value for key, value in settings.items() if known is None or key in known}
        for key, value in settings.items():
            _check_setting(f"{name}: {key}", value, LIMITS.get(key, MAX_NUMBER), MAX_ITEMS.get(key, MAX_STAGES))
        rate, hop = settings.get("sampling_rate", 24000), settings.get("hop_length") or 240
        if not (isinstance(rate, int) and isinstance(hop, int) and 0 < rate <= MAX_FRAMES_PER_SECOND * hop):
            raise ValueError(f"{name}: more than {MAX_FRAMES_PER_SECOND} frames per second are not accepted here")
        file.write_text(json.dumps(settings), encoding="utf-8")
    check_network(folder)


def check_network(folder: Path) -> None:
    """Build a network and run it on some windows without memory or computation, to refuse one that is too large.

    Raises:
        ValueError: a tensor, or all of them, would be too large, or the settings do not make a network.
    """
    try:
        config = PSELDNetConfig.from_pretrained(folder)
        features = (BATCH_SIZE, config.num_channels, config.window_frames + 1, config.num_mel_bins)
        with torch.inference_mode(), torch.device("meta"), SizeLimit():
            network = PSELDNetForSELD(config).eval()
            for module in network.modules():
                if isinstance(module, GRUDecoder):
                    module.forward = torch.empty_like  # step by step it would take a minute
            network(torch.zeros(features))
    except Exception as error:  # settings of strangers may fail in any way
        raise ValueError(f"its settings define a network that cannot be used here: {first_line(error)}") from None


class SizeLimit(TorchDispatchMode):
    """Stop a computation, also one on shapes only, that makes too large a tensor, or too many elements in all."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            size = tensor.numel() if isinstance(tensor, torch.Tensor) else 0
            self.total += size
            if size > MAX_TENSOR or self.total > MAX_TENSORS:
                raise ValueError("it would take too much memory or time")
        return result


def _fields(config: type[PSELDNetConfig]) -> set[str]:
    return {*config.__annotations__, "model_type", "architectures", "id2label", "label2id", "num_labels", "dtype"}


def _check_setting(name: str, value, most: float, items: int, depth: int = 0) -> None:
    if isinstance(value, dict | list):
        if len(value) > items or depth > 2:
            raise ValueError(f"{name} has more than {items} items")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_setting(name, item, most, items, depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"{name} is longer than {MAX_TEXT} characters")
    elif value is not None and not abs(value) <= most:
        raise ValueError(f"{name} is {str(value)[:20]}, and the limit is {most}")


def read_card(model: str) -> ModelCard | None:
    """Read the card of a folder or a Hub repository; `None` if it is missing or broken."""
    try:
        return ModelCard.load(Path(model, CARD) if Path(model).is_dir() else model)
    except (OSError, ValueError, TypeError, KeyError, YAMLError):
        return None


def read_scores(data: ModelCardData | None) -> dict[str, float]:
    """Read the scores of a model from its card, by name; entries that are not numbers are skipped."""
    results = [(str(result.metric_name), result.metric_value) for result in (data and data.eval_results) or []]
    return {name: value for name, value in results if _is_number(value)}


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _load_with_code(folder: Path) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    trust = {"trust_remote_code": True}
    try:
        config = AutoConfig.from_pretrained(folder, **trust)
        extractor = AutoFeatureExtractor.from_pretrained(folder, **trust)
        network = AutoModelForAudioFrameClassification.from_pretrained(folder, config=config, **trust)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be loaded: {first_line(error)}") from None
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), extractor
