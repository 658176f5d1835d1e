"""Folders of models and of adapters of PEFT: which is which, what belongs together, and what an adapter is for."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from .configuration_pseldnet import PSELDNetConfig


# What adapters record in place of the folder of the model that comes with the package, which is another everywhere.
DEFAULT_MODEL_NAME = "modeling_pseldnet/default_model"
DEFAULT_MODEL_FOLDER = Path(__file__).with_name("default_model")


def place_of(name: str | os.PathLike) -> str | os.PathLike:
    """Where a model lies: what is named, but for the name of the model that comes with the package, its folder."""
    return str(DEFAULT_MODEL_FOLDER) if name == DEFAULT_MODEL_NAME and DEFAULT_MODEL_FOLDER.is_dir() else name


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and the config of the whole, and no model."""
    there = all((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return there and not _has_weights(folder)


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(name), None) for name in ("model*.safetensors*", "pytorch_model*.bin*"))


def is_of(weight: str, modules: Iterable[str]) -> bool:
    """Whether a weight is of one of the modules that PEFT saves whole, by their names."""
    return any(f".{module}." in f".{weight}" for module in modules)


def check_one_model(place: str | os.PathLike) -> None:
    """Refuses a folder with a model and an adapter for another one: transformers would put the two together.

    Raises:
        ValueError: it holds both.
    """
    folder = Path(place)
    config = folder / "adapter_config.json"
    if not config.is_file() or not _has_weights(folder):
        return
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if base and Path(place_of(base)).resolve() != folder.resolve():
        raise ValueError(
            f"{folder} holds a model and an adapter for another one, {base}: move one of them to a folder of its own"
        )


def complete_adapter_card(model: nn.Module, folder: str | os.PathLike) -> None:
    """Has the card of an adapter say again what it said when it was saved: transformers puts a form in its place.

    Args:
        model: a `PeftModel`.
    """
    model.create_or_update_model_card(folder)
    config = model.peft_config.get("default")
    if hasattr(config, "complete_card"):
        config.complete_card(folder)


# Options of loading that say which files are meant.
_HUB_OPTIONS = ("revision", "subfolder", "token", "cache_dir", "local_files_only")


def check_adapter_classes(config: PSELDNetConfig, adapter: str | os.PathLike, **options) -> None:
    """Refuses an adapter for other classes than a model has, where both say which: names would be wrong.

    Args:
        config: of the model.
        adapter: its folder or Hub repository.
        options: of loading; those are used that say which files are meant, such as `revision`.

    Raises:
        ValueError: it is for other classes.
    """
    try:
        where = {name: options[name] for name in _HUB_OPTIONS if name in options}
        saved = type(config).from_pretrained(adapter, **where)
    except OSError:
        return
    nameless = list(config.id2label.values()) == [f"LABEL_{index}" for index in range(config.num_labels)]
    if saved.id2label != config.id2label and not (nameless and saved.num_labels == config.num_labels):
        raise ValueError(
            f"the adapter {adapter} is for {saved.num_labels} classes ({_first(saved)}) and the model has"
            f" {config.num_labels} ({_first(config)}), not the same: modeling_pseldnet.load gives it with its own"
        )


def _first(config: PSELDNetConfig) -> str:
    """The names of a few classes."""
    return ", ".join([*list(config.id2label.values())[:3], *["…"] * (config.num_labels > 3)])
