"""Tell folders of models and of PEFT adapters apart, and check which adapter fits which model."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

from .configuration_pseldnet import PSELDNetConfig
from .keywords import first_few


# Adapters record this name for the default model, whose folder differs between installations.
DEFAULT_MODEL_NAME = "modeling_pseldnet/default_model"
DEFAULT_MODEL_FOLDER = Path(__file__).with_name("default_model")
# Parts of the state-dict keys of modules that PEFT has wrapped with an adapter.
OF_ADAPTERS = (".base_layer.", ".original_module.", ".parametrizations.")


def place_of(name: str | os.PathLike | None) -> str | os.PathLike | None:
    """Return `name`, or the default model's folder if it is the name that adapters record for that model."""
    return str(DEFAULT_MODEL_FOLDER) if name == DEFAULT_MODEL_NAME and DEFAULT_MODEL_FOLDER.is_dir() else name


def same_place(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Whether two folders or Hub repositories are the same model."""
    return Path(place_of(first)).resolve() == Path(place_of(second)).resolve()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter with a model config, but no model weights."""
    there = all((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return there and not has_weights(folder)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds model weights, with or without an adapter beside them."""
    return any(next(folder.glob(name), None) for name in ("model*.safetensors*", "pytorch_model*.bin*"))


def _read_adapter_config(place: str | os.PathLike, **options) -> dict | None:
    """Read the PEFT config of an adapter in a folder or on the Hub; None if there is no adapter.

    Raises:
        OSError: there is no such folder or repository.
        ValueError: the config is not a JSON object.
    """
    file = find_adapter_config_file(os.fspath(place), **options)
    if file is None:
        return None
    name = Path(file).name
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{place} is an adapter, but its {name} is not valid JSON") from None
    if not isinstance(config, dict):
        raise ValueError(f"{place} is an adapter, but its {name} is not a JSON object")
    return config


def adapter_config(model: str | os.PathLike) -> dict | None:
    """Read and check the PEFT config of an adapter that is to be loaded with its base model; None for a full model.

    Raises:
        OSError: there is no such folder or repository.
        ValueError: the config does not name the base model, or is malformed.
    """
    if "/" not in os.fspath(model) and not os.path.exists(model):
        # Asking the Hub would take a minute without a network.
        raise OSError(f"{model!r} is neither a folder nor a Hub model, whose name would be user/name")
    config = _read_adapter_config(model)
    if config is None:
        return None
    for key in ("base_model_name_or_path", "peft_type"):
        if not isinstance(config.get(key), str) or not config[key]:
            advice = ": add the folder or Hub name of its base model" if key.startswith("base") else ""
            raise ValueError(f"{model} is an adapter, but its adapter_config.json has no {key}{advice}")
    modules = config.get("modules_to_save")
    if modules is not None and not (isinstance(modules, list) and all(isinstance(name, str) for name in modules)):
        raise ValueError(
            f"{model} is an adapter, but modules_to_save in its adapter_config.json is not a list of names"
        )
    return config


def _known_of_adapter(place: str | os.PathLike, **options) -> dict:
    """Read the PEFT config of an adapter without checking its fields; empty if there is none, or no such place."""
    try:
        return _read_adapter_config(place, **options) or {}
    except OSError:
        return {}


def is_of(weight: str, modules: Iterable[str]) -> bool:
    """Whether a weight belongs to one of these modules, given by name, which PEFT saves in full."""
    return any(f".{module}." in f".{weight}" for module in modules)


def has_adapter(model: nn.Module) -> bool:
    """Whether a network contains an adapter that is not merged into its weights."""
    return any(mark in name for name in model.state_dict() for mark in OF_ADAPTERS)


def check_no_adapter(model: nn.Module) -> None:
    """Check that a network has no adapter yet: a second one on top would be saved, and loaded, without the first.

    Raises:
        ValueError: the network contains an adapter.
    """
    if has_adapter(model):
        raise ValueError(
            "the model already has an adapter, and a second one on top is not supported: continue training it, merge"
            " it (modeling_pseldnet.load merges LoRA), or start from its base model"
        )


def check_one_model(place: str | os.PathLike) -> None:
    """Check that a folder does not hold a model beside an adapter for another one, which transformers would combine.

    Raises:
        ValueError: it holds both.
    """
    folder = Path(place)
    base = _known_of_adapter(folder).get("base_model_name_or_path") if has_weights(folder) else None
    if base and not same_place(base, folder):
        raise ValueError(
            f"{folder} holds a model and an adapter for another model: move one of them to another folder or, if this"
            f" folder was renamed, replace {base} by its new name in adapter_config.json"
        )


def complete_adapter_card(model: nn.Module, folder: str | os.PathLike) -> None:
    """Restore the model card that an adapter was saved with, which transformers overwrites with a template.

    Args:
        model: a `PeftModel`.
    """
    model.create_or_update_model_card(folder)
    config = model.peft_config.get("default")
    if hasattr(config, "complete_card"):
        config.complete_card(folder)


def which_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loading options that are given and select the files, such as `revision`."""
    names = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
    return {name: options[name] for name in names if options.get(name) is not None}


def check_adapter(config: PSELDNetConfig, adapter: str | os.PathLike, **options) -> None:
    """Check that an adapter fits a model.

    Args:
        config: the model's config.
        adapter: the adapter's folder or Hub repository.
        options: loading options, of which those that select the files are used, such as `revision`.

    Raises:
        ValueError: the adapter has other classes than the model, where both name theirs, so that labels would be
            wrong; or it was trained on top of another adapter that the model does not contain.
    """
    where = which_files(options)
    base = place_of(_known_of_adapter(adapter, **where).get("base_model_name_or_path") or "")
    is_beside = not base or same_place(base, Path(adapter, where.get("subfolder", "")))
    of_base = {} if is_beside else _known_of_adapter(base)
    if of_base and not has_weights(Path(base)) and not same_place(base, config.name_or_path):
        raise ValueError(
            f"{adapter} was trained on top of another adapter, {base}: load both with modeling_pseldnet.load"
        )
    if of_base.get("peft_type") == "LORA" and has_weights(Path(base)):
        # A model loaded from there may already contain that adapter.
        raise ValueError(
            f"{base}, the base model of the adapter {adapter}, has another adapter in its folder: move that one out"
        )
    try:
        saved = type(config).from_pretrained(adapter, **where)
    except OSError:
        return
    nameless = list(config.id2label.values()) == [f"LABEL_{index}" for index in range(config.num_labels)]
    if saved.id2label != config.id2label and not (nameless and saved.num_labels == config.num_labels):
        there, here = (f"{of.num_labels}: {first_few(of.id2label.values())}" for of in (saved, config))
        raise ValueError(
            f"the adapter {adapter} has other classes ({there}) than the model ({here}): load it with"
            " modeling_pseldnet.load, which keeps its classes"
        )
