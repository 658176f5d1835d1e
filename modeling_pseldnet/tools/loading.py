"""Loads trained models and adapters over them, and starts new networks from them."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor
from transformers.utils.hub import cached_file

from .. import DEFAULT_MODEL
from ..adapters import adapter_config, check_one_model, has_weights, is_of, place_of, same_place
from ..configuration_pseldnet import PSELDNetConfig
from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
from ..fitting import adopt_extractor
from ..keywords import refuse_unknown
from ..modeling_pseldnet import PSELDNetForSELD
from .cli import describe
from .extras import require
from .transfer import TransferReport, config_for_transfer, transfer_from


# Weights of other shapes are told of as missing ones are.
AND_TELL = {"output_loading_info": True, "ignore_mismatched_sizes": True}
# What every config of transformers takes beside the fields that it lists.
OF_EVERY_CONFIG = ("attn_implementation", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype")
# Where transformers is to look for an adapter beside a model, and finds none.
NO_ADAPTER = {"subfolder": "none"}
MAY_BE_MISSING = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}


def load(
    model: str | os.PathLike = DEFAULT_MODEL, device: str | torch.device | None = None
) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    """A model and its feature extractor, from a folder or by the name of a Hub repository.

    An adapter of PEFT is loaded over the model it was trained on; one of LoRA is merged with it.

    Args:
        model: folder or `user/name`; the model that comes with the package by default.
        device: where it is to run; a GPU if there is one and nothing is said.

    Raises:
        ValueError: there is no such model, it is of another kind, its weights are missing or do not fit, or a file of
            it is broken in whatever way; the message is one line.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = place_of(os.fspath(model))
    with _in_a_line(model):
        config, extractor = read_config(model), read_extractor(model)
        adopt_extractor(config, extractor)
        if adapter_config(model) is None:
            network, loading = PSELDNetForSELD.from_pretrained(model, config=config, **AND_TELL)
            _check_complete(loading)
        else:
            check_one_model(model)
            adapted = load_adapter(model, config)
            # Other methods of PEFT are not linear, or cannot be merged beside modules that are saved whole.
            linear = adapter_config(model)["peft_type"] == "LORA"
            network = adapted.merge_and_unload() if linear else adapted.get_base_model()
            # What is trained over it is over the adapter too.
            network.name_or_path = network.config.name_or_path = model
            if linear:
                # PEFT had frozen it.
                network.requires_grad_(True)
            else:
                # Beside the modules, as it holds the network in turn: it is what saves them.
                network.__dict__["peft_model"] = adapted
    try:
        return network.to(device).eval(), extractor
    except Exception as error:
        raise ValueError(f"device {device!r} cannot be used: {describe(error)}") from None


def load_for_transfer(
    source: str | os.PathLike | PSELDNetForSELD,
    id2label: dict[int, str] | None = None,
    num_labels: int | None = None,
    output_format: str | None = None,
    **fields,
) -> tuple[PSELDNetForSELD, TransferReport]:
    """A network for other classes, or another output format, that keeps all that it can of a trained one.

    Of the head, and of the thresholds where there is one a class, it keeps those of the classes that have the same
    name in both; others are new. With another output format the head is new.

    Between one branch and the two of EINV2, both branches start from the one, and the one from that for the direction.

    Args:
        source: a model, or what `from_pretrained` reads; it is not changed.
        id2label: names of the classes; those of the source if this and `num_labels` are left out.
        num_labels: the number of classes, where they have no names; all are new.
        output_format: as in [`PSELDNetConfig`]; that of the source if left out.
        fields: others of [`PSELDNetConfig`] that are to change, such as `distance=True` for a head that is new.

    Returns:
        The network, in training mode, and what was kept of the source and what is new.

    Raises:
        TypeError: a field is unknown.
        ValueError: `id2label` and `num_labels` disagree, or the source cannot be loaded.
    """
    nameless = id2label is None and num_labels is not None
    if nameless:
        id2label = {index: f"class {index}" for index in range(num_labels)}
    if num_labels is not None and len(id2label) != num_labels:
        raise ValueError(f"id2label names {len(id2label)} classes and num_labels is {num_labels}: give one of them")
    if hasattr(source, "get_base_model"):
        source = source.get_base_model()
    if not isinstance(source, PSELDNetForSELD):
        source, _ = load(source, "cpu")
    unknown = [name for name in fields if not hasattr(source.config, name) and name not in OF_EVERY_CONFIG]
    refuse_unknown(unknown, ("id2label", "num_labels", *PSELDNetConfig.__annotations__), "load_for_transfer")
    given = {"id2label": id2label, "output_format": output_format}
    fields |= {name: value for name, value in given.items() if value is not None}
    config = config_for_transfer(source.config, match_classes=not nameless, **fields)
    model = PSELDNetForSELD(config).train()
    return model, transfer_from(model, source, match_classes=not nameless)


@contextmanager
def _in_a_line(model: str) -> Iterator[None]:
    """What is raised for a model becomes a ValueError that names it: files of others may be broken in any way."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except SafetensorError as error:
        raise ValueError(
            f"{model}: cannot be loaded: its weights are broken or cut off, copy them again ({describe(error)})"
        ) from None
    except Exception as error:
        place = "" if os.path.exists(model) else "no such folder, and from the Hub it "
        raise ValueError(f"{model}: {place}cannot be loaded: {describe(error)}") from None


def read_config(model: str) -> PSELDNetConfig:
    """The config of a model; of an adapter its own, or that of the model it was trained on.

    Raises:
        OSError: there is no such model.
        ValueError: it is of another kind.
    """
    config = _own_or_base(AutoConfig, model, "config.json")
    if not isinstance(config, PSELDNetConfig) or config.model_type != PSELDNetConfig.model_type:
        raise ValueError(f"{model} is a {config.model_type} model, not a PSELDNet")
    return config


def read_extractor(model: str) -> PSELDNetFeatureExtractor:
    """The feature extractor of a model; of an adapter its own, or that of the model it was trained on.

    Raises:
        OSError: there is no such model.
    """
    return _own_or_base(AutoFeatureExtractor, model, "preprocessor_config.json")


def load_adapter(model: str, config: PSELDNetConfig):
    """An adapter over the model that it was trained on, which may have one of LoRA in it.

    Args:
        model: folder or Hub repository of the adapter.
        config: of the whole, such as [`read_config`] gives it.

    Returns:
        `peft.PeftModel`.

    Raises:
        ValueError: the model that it was trained on cannot be found, or the two do not fit.
    """
    peft = require("peft")
    adapter = adapter_config(model)
    base, method = place_of(adapter["base_model_name_or_path"]), adapter["peft_type"]
    if method not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ValueError(f"{model} is an adapter of a method, {method}, that PEFT does not know")
    # The base may lack what the adapter has itself, such as heads for other classes.
    own_modules = adapter.get("modules_to_save") or ()
    try:
        own_config, of_base = read_config(base), adapter_config(base)
        beside = of_base is not None and (same_place(base, model) or has_weights(Path(base)))
        is_merged = of_base is not None and not beside
        # These change nothing in a network.
        same = not is_merged and all(
            getattr(own_config, name) == getattr(config, name)
            for name in ("id2label", *PSELDNetConfig.__annotations__)
            if name not in ("threshold", "feature_type", "n_fft")
        )
        if is_merged:
            network, _ = load(base, "cpu")
        else:
            alone = {"adapter_kwargs": NO_ADAPTER} if beside else {}
            own_config = config if same else own_config
            network, loading = PSELDNetForSELD.from_pretrained(base, config=own_config, **alone, **AND_TELL)
            _check_complete(loading, besides=own_modules)
    except OSError as error:
        raise ValueError(
            f"it is an adapter for {base}, which cannot be loaded: put that model there, or write its place to"
            f" base_model_name_or_path in adapter_config.json ({describe(error)})"
        ) from None
    if not same:
        base_network, network = network, PSELDNetForSELD(config)
        network.config.name_or_path = base
        report = transfer_from(network, base_network)
        _check_complete({"missing_keys": report.new_in(network), "mismatched_keys": ()}, besides=own_modules)
    with warnings.catch_warnings():
        # PEFT only warns of weights that its file lacks.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            with _blaming("adapter_config.json"):
                return peft.PeftModel.from_pretrained(network, model, is_trainable=True)
        except RuntimeError as error:
            raise ValueError(f"weights of the adapter do not fit its base, {base} ({describe(error)})") from None
        except UserWarning as warning:
            raise ValueError(f"weights of the adapter are missing ({describe(str(warning))})") from None


def _own_or_base(auto_class: type, model: str, file: str):
    """What an Auto class makes of a model or an adapter, or else of the model that the adapter was trained on."""
    adapter = adapter_config(model)
    if adapter is not None and not cached_file(model, file, **MAY_BE_MISSING):
        model = place_of(adapter["base_model_name_or_path"])
    with _blaming(file):
        return auto_class.from_pretrained(model)


@contextmanager
def _blaming(file: str) -> Iterator[None]:
    """Errors of libraries, which do not tell what is wrong, become a ValueError that names the file they come from."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError) as error:
        raise ValueError(f"its {file} is not as it should be ({describe(error)})") from None


def _check_complete(loading: dict, besides: Iterable[str] = ()) -> None:
    """Refuses a model some of whose weights, besides those of the modules named, were not in its file."""
    names = [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]
    missing = [name for name in names if not is_of(name, besides)]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing or of another shape, {missing[0]} among them")
