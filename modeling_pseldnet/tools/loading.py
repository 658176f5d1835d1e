"""Load trained models and their adapters, and start new networks from them."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
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


# Report weights of another shape as well as missing ones.
AND_TELL = {"output_loading_info": True, "ignore_mismatched_sizes": True}
# Fields that every config of transformers accepts without listing them.
OF_EVERY_CONFIG = ("attn_implementation", "bos_token_id", "eos_token_id", "pad_token_id")
# Makes transformers look for an adapter beside a model where there is none.
NO_ADAPTER = {"subfolder": "none"}
MAY_BE_MISSING = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}


def load(
    model: str | os.PathLike = DEFAULT_MODEL, device: str | torch.device | None = None
) -> tuple[PSELDNetForSELD, PSELDNetFeatureExtractor]:
    """Load a model and its feature extractor from a folder or the Hub.

    A PEFT adapter is loaded with the model it was trained on; a LoRA adapter is merged into it.

    Args:
        model: folder or Hub repository (`user/name`). Defaults to the model included in the package.
        device: device to run on. Defaults to a GPU if there is one.

    Raises:
        ValueError: the model does not exist or is not a PSELDNet, its weights are missing or do not fit, or one of its
            files is broken; the message is a single line.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = os.path.expanduser(place_of(os.fspath(model)))
    with _in_a_line(model):
        config, extractor = read_config(model), read_extractor(model)
        adopt_extractor(config, extractor)
        if adapter_config(model) is None:
            network, loading = PSELDNetForSELD.from_pretrained(model, config=config, **AND_TELL)
            _check_complete(loading)
        else:
            check_one_model(model)
            adapted = load_adapter(model, config)
            # Other PEFT methods are not linear, or cannot be merged beside modules that are saved in full.
            linear = adapter_config(model)["peft_type"] == "LORA"
            network = adapted.merge_and_unload() if linear else adapted.get_base_model()
            # Whatever is trained on top builds on the adapter too.
            network.name_or_path = network.config.name_or_path = model
            if linear:
                # PEFT has frozen it.
                network.requires_grad_(True)
            else:
                # Saves the adapter. Not registered as a submodule, because it contains the network itself.
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
    """Start a network for other classes or another output format, with all weights of a trained one that fit.

    The head, and per-class thresholds, keep the classes with the same name in both; the others are new. With another
    output format the whole head is new. From one branch to EINV2, both branches start from the one; the other way
    round, the one starts from the direction branch.

    Args:
        source: a model, or a folder or Hub repository; it is not changed.
        id2label: class names. Defaults to those of the source, unless `num_labels` is given.
        num_labels: number of classes without names, which are all new.
        output_format: as in [`PSELDNetConfig`]. Defaults to that of the source.
        fields: other fields of [`PSELDNetConfig`] to change, such as `distance=True`, which adds a new head. The type
            of the weights, `dtype`, defaults to float32.

    Returns:
        The network, in training mode, and a report of what was kept of the source and what is new.

    Raises:
        TypeError: a field is unknown.
        ValueError: `id2label` and `num_labels` disagree, or the source cannot be loaded or is quantized.
    """
    nameless = id2label is None and num_labels is not None
    if nameless:
        id2label = {index: f"class {index}" for index in range(num_labels)}
    if num_labels is not None and len(id2label) != num_labels:
        raise ValueError(
            f"id2label names {len(id2label)} classes, but num_labels is {num_labels}: give only one of the two"
        )
    if hasattr(source, "get_base_model"):
        source = source.get_base_model()
    if not isinstance(source, PSELDNetForSELD):
        source, _ = load(source, "cpu")
    unknown = [name for name in fields if not hasattr(source.config, name) and name not in OF_EVERY_CONFIG]
    refuse_unknown(unknown, ("id2label", "num_labels", *PSELDNetConfig.__annotations__), "load_for_transfer")
    given = {"id2label": id2label, "output_format": output_format}
    fields |= {name: value for name, value in given.items() if value is not None}
    # `torch_dtype` is the earlier name.
    fields = {"dtype": fields.pop("torch_dtype", torch.float32)} | fields
    config = config_for_transfer(source.config, match_classes=not nameless, **fields)
    model = PSELDNetForSELD(config).to(config.dtype).train()
    return model, transfer_from(model, source, match_classes=not nameless)


@contextmanager
def _in_a_line(model: str) -> Iterator[None]:
    """Turn any exception raised while loading a model, whose files may be broken in any way, into a ValueError."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except SafetensorError as error:
        raise ValueError(
            f"{model}: cannot be loaded: its weights are broken or cut off, copy them again ({describe(error)})"
        ) from None
    except Exception as error:
        what = "cannot be loaded" if os.path.exists(model) else "no such folder, and it cannot be loaded from the Hub"
        raise ValueError(f"{model}: {what}: {describe(error)}") from None


def read_config(model: str) -> PSELDNetConfig:
    """Load the config of a model; for an adapter its own, or else that of the model it was trained on.

    Raises:
        OSError: the model does not exist.
        ValueError: it is not a PSELDNet, or its config is malformed.
    """
    config = _own_or_base(AutoConfig, model, "config.json")
    if not isinstance(config, PSELDNetConfig) or config.model_type != PSELDNetConfig.model_type:
        raise ValueError(f"{model} is a {config.model_type} model, not a PSELDNet")
    return config


def read_extractor(model: str) -> PSELDNetFeatureExtractor:
    """Load the feature extractor of a model; for an adapter its own, or else that of the model it was trained on.

    Raises:
        OSError: the model does not exist.
        ValueError: its config is malformed.
    """
    return _own_or_base(AutoFeatureExtractor, model, "preprocessor_config.json")


def load_adapter(model: str, config: PSELDNetConfig):
    """Load an adapter with the model it was trained on, which may have a LoRA adapter merged into it.

    Args:
        model: folder or Hub repository of the adapter.
        config: config of model and adapter together, as returned by [`read_config`].

    Returns:
        `peft.PeftModel`.

    Raises:
        ValueError: the model it was trained on cannot be found, or the two do not fit.
    """
    peft = require("peft")
    adapter = adapter_config(model)
    base, method = place_of(adapter["base_model_name_or_path"]), adapter["peft_type"]
    if method not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ValueError(f"{model} is an adapter of type {method}, which PEFT does not know")
    # The base may lack modules that the adapter has, such as heads for other classes.
    network = _base_network(base, model, config, adapter.get("modules_to_save") or ())
    with warnings.catch_warnings():
        # PEFT only warns about weights missing from its file.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            with _blaming("adapter_config.json"):
                return peft.PeftModel.from_pretrained(network, model, is_trainable=True)
        except RuntimeError as error:
            raise ValueError(f"weights of the adapter do not fit its base, {base} ({describe(error)})") from None
        except UserWarning as warning:
            raise ValueError(f"weights of the adapter are missing ({describe(str(warning))})") from None


def _base_network(base: str, adapter: str, config: PSELDNetConfig, own_modules: Sequence[str]) -> PSELDNetForSELD:
    """Load the model that an adapter was trained on, with the config of both together.

    Args:
        base: folder or Hub repository of the model, which may itself be a LoRA adapter, or have one beside it.
        adapter: that of the adapter.
        own_modules: names of modules that the adapter holds in full, which the model may lack.

    Raises:
        ValueError: the model cannot be found, or other weights are missing.
    """
    try:
        own_config, of_base = read_config(base), adapter_config(base)
        beside = of_base is not None and (same_place(base, adapter) or has_weights(Path(base)))
        is_merged = of_base is not None and not beside
        # These three fields do not change the network.
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
            f"it is an adapter for {base}, which cannot be loaded: put that model there, or set"
            f" base_model_name_or_path in adapter_config.json to where it is ({describe(error)})"
        ) from None
    if same:
        return network
    whole = PSELDNetForSELD(config)
    whole.config.name_or_path = base
    report = transfer_from(whole, network)
    _check_complete({"missing_keys": report.new_in(whole), "mismatched_keys": ()}, besides=own_modules)
    return whole


def _own_or_base(auto_class: type, model: str, file: str):
    """Load an Auto class from a model or an adapter, or else from the model that the adapter was trained on."""
    adapter = adapter_config(model)
    if adapter is not None and not cached_file(model, file, **MAY_BE_MISSING):
        model = place_of(adapter["base_model_name_or_path"])
    with _blaming(file):
        return auto_class.from_pretrained(model)


@contextmanager
def _blaming(file: str) -> Iterator[None]:
    """Turn uninformative errors of libraries into a ValueError that names the file they come from."""
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError) as error:
        raise ValueError(f"its {file} is malformed ({describe(error)})") from None


def _check_complete(loading: dict, besides: Iterable[str] = ()) -> None:
    """Check that no weights were missing from a model's file, except those of the modules in `besides`."""
    names = [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]
    missing = [name for name in names if not is_of(name, besides)]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing or have another shape, such as {missing[0]}")
