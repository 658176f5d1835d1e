"""Folders of models and of adapters of PEFT: which is which, what belongs together, and what an adapter is for."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

from .configuration_pseldnet import PSELDNetConfig


# What adapters record in place of the folder of the model that comes with the package, which is another everywhere.
DEFAULT_MODEL_NAME = "modeling_pseldnet/default_model"
DEFAULT_MODEL_FOLDER = Path(__file__).with_name("default_model")
# What the names of entries have in them where PEFT has put an adapter around modules.
OF_ADAPTERS = (".base_layer.", ".original_module.", ".parametrizations.")


def place_of(name: str | os.PathLike) -> str | os.PathLike:
    """Where a model lies: what is named, but for the name of the model that comes with the package, its folder."""
    return str(DEFAULT_MODEL_FOLDER) if name == DEFAULT_MODEL_NAME and DEFAULT_MODEL_FOLDER.is_dir() else name


def same_place(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Whether two names, of folders or of Hub repositories, are of the same model."""
    return Path(place_of(first)).resolve() == Path(place_of(second)).resolve()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and the config of the whole, and no model."""
    there = all((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return there and not has_weights(folder)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model, with an adapter or without."""
    return any(next(folder.glob(name), None) for name in ("model*.safetensors*", "pytorch_model*.bin*"))


def _read_adapter_config(place: str | os.PathLike, **options) -> dict | None:
    """What PEFT says of an adapter, in a folder or on the Hub; None where there is none.

    Raises:
        OSError: there is no such place.
        ValueError: it is no JSON object.
    """
    file = find_adapter_config_file(os.fspath(place), **options)
    if file is None:
        return None
    name = Path(file).name
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{place} is an adapter, and its {name} is no JSON") from None
    if not isinstance(config, dict):
        raise ValueError(f"{place} is an adapter, and its {name} is no JSON object")
    return config


def adapter_config(model: str | os.PathLike) -> dict | None:
    """What PEFT says of an adapter that is to be loaded with its model; None for a model of its own.

    Raises:
        OSError: there is no such place.
        ValueError: it does not say which model it was trained on, or is broken.
    """
    if "/" not in os.fspath(model) and not os.path.exists(model):
        # The Hub need not be asked, which takes a minute where there is no network.
        raise OSError(f"{model!r} is neither a folder nor the name of a model on the Hub, which is user/name")
    config = _read_adapter_config(model)
    if config is None:
        return None
    for key in ("base_model_name_or_path", "peft_type"):
        if not isinstance(config.get(key), str) or not config[key]:
            advice = ": write there where the model is that it was trained on" if key.startswith("base") else ""
            raise ValueError(f"{model} is an adapter, and its adapter_config.json names no {key}{advice}")
    modules = config.get("modules_to_save")
    if modules is not None and not (isinstance(modules, list) and all(isinstance(name, str) for name in modules)):
        raise ValueError(
            f"{model} is an adapter, and the modules_to_save of its adapter_config.json are no list of names"
        )
    return config


def _known_of_adapter(place: str | os.PathLike, **options) -> dict:
    """What PEFT says of an adapter, whatever it lacks; nothing where there is none, nor such a place."""
    try:
        return _read_adapter_config(place, **options) or {}
    except OSError:
        return {}


def is_of(weight: str, modules: Iterable[str]) -> bool:
    """Whether a weight is of one of the modules that PEFT saves whole, by their names."""
    return any(f".{module}." in f".{weight}" for module in modules)


def has_adapter(model: nn.Module) -> bool:
    """Whether an adapter is in a network, and not merged with it."""
    return any(mark in name for name in model.state_dict() for mark in OF_ADAPTERS)


def check_no_adapter(model: nn.Module) -> None:
    """Refuses a network with an adapter in it for another one over it, which would be saved, and loaded, without it.

    Raises:
        ValueError: there is one.
    """
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter in it, over which there can be no other: train that one on, merge it where its"
            " method can, as modeling_pseldnet.load does with LoRA, or start from the model it was trained on"
        )


def check_one_model(place: str | os.PathLike) -> None:
    """Refuses a folder with a model and an adapter for another one: transformers would put the two together.

    Raises:
        ValueError: it holds both.
    """
    folder = Path(place)
    base = _known_of_adapter(folder).get("base_model_name_or_path") if has_weights(folder) else None
    if base and not same_place(base, folder):
        raise ValueError(
            f"{folder} holds a model and an adapter for another one: move one of them to a folder of its own or, if"
            f" this folder was renamed, write its new name in place of {base} in adapter_config.json"
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


def which_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of options of loading those that are given and say which files are meant, such as `revision`."""
    names = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
    return {name: options[name] for name in names if options.get(name) is not None}


def check_adapter(config: PSELDNetConfig, adapter: str | os.PathLike, **options) -> None:
    """Refuses an adapter for other classes than a model has, where both say which, as names would be wrong; and one
    that was trained over another, merged one, for a model without that.

    Args:
        config: of the model.
        adapter: its folder or Hub repository.
        options: of loading; those are used that say which files are meant, such as `revision`.

    Raises:
        ValueError: it is one of these.
    """
    where = which_files(options)
    base = place_of(_known_of_adapter(adapter, **where).get("base_model_name_or_path") or "")
    is_beside = not base or same_place(base, Path(adapter, where.get("subfolder", "")))
    of_base = {} if is_beside else _known_of_adapter(base)
    if of_base and not has_weights(Path(base)) and not same_place(base, config.name_or_path):
        raise ValueError(f"{adapter} is an adapter over another one, {base}: modeling_pseldnet.load loads both")
    if of_base.get("peft_type") == "LORA" and has_weights(Path(base)):
        # What was loaded from there may have had both.
        raise ValueError(
            f"{adapter} is an adapter for {base}, which has another one beside it: move that to a folder of its own"
        )
    try:
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
