"""The feature extractor and the network that a recipe trains: a new one, one started from another, or an adapter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recipes import FEATURE_FIELDS, REQUIRED, Recipe


if TYPE_CHECKING:
    from peft import PeftModel

    from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
    from modeling_pseldnet.tools.transfer import TransferReport


# Channel format of a data set's recordings by `config_name`, if they are not ambisonics.
FORMAT_OF_CONFIG = {"mic": "array", "sum": "mono", "stereo": "stereo"}
# Only features of ambisonics can be rotated, and lags cannot be shifted like frequencies.
UNFIT_FEATURES = {
    "rotation": ("logmel_gcc", "salsa_lite", "logmel", "stereo"),
    "frequency_shift": ("logmel_gcc",),
    "filter_augment": ("stereo",),
}


@dataclass(frozen=True)
class Start:
    """The model that a recipe starts from: name, config, feature extractor and, for an adapter, its PEFT method."""

    name: str
    config: PSELDNetConfig
    extractor: PSELDNetFeatureExtractor
    peft_method: str | None


def read_start(pretrained: str | None) -> Start | None:
    """Read `model.pretrained` without its weights; return `None` for a new model.

    Raises:
        ValueError: it is required but missing, or is not a PSELDNet.
        OSError: there is no such model.
    """
    if pretrained is None:
        return None
    if pretrained == REQUIRED:
        raise ValueError(
            "model.pretrained is missing: give the model to start from, a folder or the name of a Hub repository;"
            " pseldnet-convert makes one from a published checkpoint"
        )
    from modeling_pseldnet.adapters import adapter_config, place_of
    from modeling_pseldnet.tools.loading import read_config, read_extractor

    # An adapter stores the name of its base model, which must be found from any working directory.
    name = os.path.expanduser(place_of(pretrained))
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    adapter = adapter_config(name)
    return Start(name, read_config(name), read_extractor(name), adapter["peft_type"].lower() if adapter else None)


def build_extractor(recipe: Recipe, start: Start | None, sampling_rate: int) -> PSELDNetFeatureExtractor:
    """Build the feature extractor of a recipe, at the sampling rate of the data.

    Settings missing from the recipe are those of the model that it starts from, with frames of the same duration.

    Raises:
        ValueError: there are no such features, or they do not fit the data or the augmentation.
    """
    from modeling_pseldnet.feature_extraction_pseldnet import FEATURE_TYPES, PSELDNetFeatureExtractor

    from .data import BUILDERS

    fields = {}
    if start is not None:
        fields = {name: getattr(start.extractor, name) for name in FEATURE_FIELDS}
        fields["hop_length"] = start.extractor.hop_length * sampling_rate // start.extractor.sampling_rate
    extractor = PSELDNetFeatureExtractor(sampling_rate=sampling_rate, **{**fields, **recipe.features})
    sides = {"train": recipe.train, "eval": recipe.eval}
    if recipe.train.mix_in is not None:
        sides["train.mix_in"] = recipe.train.others
    for side, data in sides.items():
        # Mono sounds and scenes are encoded as ambisonics.
        is_field = data.mono or data.source not in BUILDERS
        config_name = None if is_field else data.config_name or BUILDERS[data.source].BUILDER_CONFIGS[0].name
        channel_format = FORMAT_OF_CONFIG.get(config_name, "ambix")
        if channel_format not in extractor.channel_formats:
            fitting = [name for name, kind in FEATURE_TYPES.items() if channel_format in kind.channel_formats]
            raise ValueError(
                f"{extractor.feature_type} features cannot be computed from {channel_format!r} audio (data.{side}):"
                f" set features.feature_type to {' or '.join(fitting)}, or choose another data.config_name"
            )
    for method, options in (recipe.augmentation or {}).items():
        if options is not None and extractor.feature_type in UNFIT_FEATURES.get(method, ()):
            raise ValueError(
                f"augmentation.{method} does not work with {extractor.feature_type} features: set it to null"
            )
    shift = (recipe.augmentation or {}).get("frequency_shift") or {}
    if shift.get("mel_bins", 0) >= extractor.feature_size:
        raise ValueError(f"frequency_shift.mel_bins must be below the number of mel bins, {extractor.feature_size}")
    return extractor


def build_model(
    recipe: Recipe,
    start: Start | None,
    class_names: list[str],
    extractor: PSELDNetFeatureExtractor,
    only_evaluate: bool = False,
) -> PSELDNetForSELD | PeftModel:
    """Build the model that a recipe trains, for the given classes and features.

    From the head of the model that the recipe starts from, classes with the same name are kept; others are new. A
    report of what was kept and what is new is printed. If the recipe starts from an adapter, it is trained further.

    Raises:
        ValueError: the recipe has unknown options, the model it starts from does not fit, or a model to be scored
            without training would have new parts.
    """
    from accelerate import PartialState

    from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD
    from modeling_pseldnet.fitting import FITTING, check_extractor
    from modeling_pseldnet.tools.loading import load
    from modeling_pseldnet.tools.transfer import config_for_transfer, transfer_from

    options = {name: value for name, value in recipe.model.items() if name != "pretrained"}
    options |= {of_model: getattr(extractor, name) for name, of_model in FITTING.items()}
    options |= {"id2label": dict(enumerate(class_names)), "feature_type": extractor.feature_type}
    if start is None:
        if recipe.peft is not None:
            raise ValueError("peft trains an adapter, which is saved without its base model: set model.pretrained too")
        return PSELDNetForSELD(PSELDNetConfig(**options))
    if options.get("backbone", start.config.backbone) != start.config.backbone:
        raise ValueError(f"model.backbone is {options['backbone']}, but {start.name} has {start.config.backbone}")
    if only_evaluate or start.peft_method is not None:
        # The data may have another sampling rate, but the features must be of the same kind.
        of_data = {name: options[name] for name in ("sampling_rate", "hop_length")}
        check_extractor(extractor, config_for_transfer(start.config, **of_data))
    config = config_for_transfer(start.config, **options)
    if start.peft_method is not None:
        return _build_adapter(recipe, start, config)
    model = PSELDNetForSELD(config)
    try:
        report = transfer_from(model, load(start.name, "cpu")[0])
    except ValueError as error:
        raise ValueError(f"model.pretrained, {start.name}: {error}") from None
    if only_evaluate and (new := report.new_in(model)):
        raise ValueError(
            f"{start.name} has no {new[0]} matching the recipe, so an untrained one would be scored: set"
            f" model.output_format to {start.config.output_format} and model.distance to"
            f" {str(start.config.distance).lower()}"
        )
    if PartialState().is_main_process:
        print(f"{start.name}: {report}")
    return model if recipe.peft is None else _add_adapter(model, recipe.peft, report)


def _add_adapter(model: PSELDNetForSELD, peft: dict[str, Any], report: TransferReport) -> PeftModel:
    """Add a new adapter to a model, and check that it saves all that the model it starts from lacks."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PromptLearningConfig, get_peft_model, get_peft_model_state_dict

    options = dict(peft)
    method = options.pop("method")
    known = {
        name.lower(): kind
        for name, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if not issubclass(kind, PromptLearningConfig)
    }
    if method.lower() not in known:
        choices = ", ".join(sorted(known))
        raise ValueError(f"unknown or unsupported peft.method {method!r}: choose from {choices}")
    try:
        config = known[method.lower()](**options)
        adapted = get_peft_model(model, config)
    except TypeError as error:
        raise ValueError(f"peft: {error}") from None
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name in report.new_in(model):
        if f"base_model.model.{name}" not in saved:
            raise ValueError(
                f"{method} would not save {name}, which model.pretrained lacks, so the adapter could not be loaded:"
                f" add its module to peft.modules_to_save, such as {name.rpartition('.')[0]}"
            )
    return adapted


def _build_adapter(recipe: Recipe, start: Start, config: PSELDNetConfig) -> PeftModel:
    """Load the adapter that a recipe starts from, with its base model, for data of the same classes."""
    here, there = (list(of.id2label.values()) for of in (config, start.config))
    if here != there:
        what = f"the data has {len(here)}"
        if len(here) == len(there):
            what += " others, or in another order, such as " + next(
                f"{a} instead of {b}" for a, b in zip(here, there, strict=True) if a != b
            )
        raise ValueError(
            f"{start.name} is an adapter for {len(there)} classes, but {what}: start from the model that it was"
            " trained on"
        )
    for name in ("output_format", "distance"):
        here, there = (str(getattr(of, name)).lower() for of in (config, start.config))
        if here != there:
            raise ValueError(f"{start.name} is an adapter with model.{name} {there}, not {here}: set it to {there}")
    if recipe.peft is not None and recipe.peft["method"].lower() != start.peft_method:
        raise ValueError(
            f"{start.name} is an adapter of {start.peft_method}, not of {recipe.peft['method']}: set peft to null"
        )
    from modeling_pseldnet.adapters import adapter_config
    from modeling_pseldnet.tools.loading import load_adapter

    known = adapter_config(start.name)
    for key, value in (recipe.peft or {}).items():
        there = known.get(key, value)
        if isinstance(there, list):
            # PEFT stores lists without an order, and replaces strings such as "all-linear" with what they stand for.
            same = isinstance(value, str) or sorted(there) == sorted(value or ())
        else:
            same = there == value
        if key != "method" and not same:
            raise ValueError(f"{start.name} is an adapter with {key} {there!r}, not {value!r}: set peft to null")

    return load_adapter(start.name, config)
