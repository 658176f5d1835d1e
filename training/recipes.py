"""What to train, on what and how: YAML files that build on each other."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments

from modeling_pseldnet.configuration_pseldnet import PSELDNetConfig
from modeling_pseldnet.tools.scores import VARIANTS

from .data import DataRecipe


RECIPE_FOLDER = Path(__file__).parent / "recipes"
BASE_FOLDER = "base"
# What a recipe has where its user must say something.
REQUIRED = "???"


@strict
@dataclass
class Schedule:
    """Attributes:
    step_epochs: epochs after each of which the learning rate is multiplied by `gamma`.
    patience: evaluations without a better score after which to stop; none by default.
    muon_learning_rate: of the weight matrices, with Muon; by default AdamW steps all, at `training.learning_rate`.
    """

    step_epochs: int | None = None
    gamma: float | int = 0.1
    patience: int | None = None
    muon_learning_rate: float | None = None


@strict
@dataclass
class Evaluation:
    """Attributes:
    variant: how scores are counted, see `seld_metrics`.
    """

    variant: str = "pseldnets"

    def validate_variant(self):
        known = [name for name, rules in VARIANTS.items() if not rules.has_distance]
        if self.variant not in known:
            raise ValueError(f"evaluation.variant must be one of {', '.join(known)}, not {self.variant!r}")


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        name: of the recipe, to name its results by.
        model: fields of [`PSELDNetConfig`], and `pretrained`, a model to start from.
        features: arguments of [`PSELDNetFeatureExtractor`], which decide what the model takes; those of the model to
            start from by default.
        peft: `method` of PEFT and its options, or none to train the whole model.
        train, eval: data.
        augmentation: arguments of [`AugMix`], or none.
        schedule, evaluation: see there.
        training: fields of `transformers.TrainingArguments`.
    """

    name: str
    model: dict[str, Any]
    features: dict[str, Any]
    peft: dict[str, Any] | None
    train: DataRecipe
    eval: DataRecipe
    augmentation: dict[str, Any] | None
    schedule: Schedule
    evaluation: Evaluation
    training: dict[str, Any]


FEATURE_FIELDS = ("feature_type", "feature_size", "hop_length", "n_fft")
# Fields of a model that a recipe does not give with it.
FOLLOWS_FROM = {
    "num_channels": "features.feature_type",
    "num_mel_bins": "features.feature_size",
    "hop_length": "features.hop_length",
    "sampling_rate": "the data",
}
SECTIONS = ("model", "features", "peft", "data", "augmentation", "schedule", "evaluation", "training")


class _Loader(yaml.SafeLoader):
    """YAML that takes 1e-4 for a number and `no` for a word, as YAML 1.2 does."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package, without those that others only build on."""
    names = (path.relative_to(RECIPE_FOLDER).with_suffix("").as_posix() for path in RECIPE_FOLDER.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(f"{BASE_FOLDER}/"))


def read_recipe(source: str | os.PathLike, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    A recipe has the sections of [`Recipe`], and under `inherits` the recipes it builds on, of which a later one counts
    more than an earlier one. They are named by path, seen from the recipe's folder, or by name.

    Args:
        source: a YAML file, or the name of a recipe that comes with the package, such as `"starss23/scratch_plain"`.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: a recipe or an override is not as it should be.
    """
    path = _find(source, Path())
    values = _read(path, ())
    for override in overrides:
        values = _merge(values, _parse_override(override))
    name = path.relative_to(RECIPE_FOLDER) if path.is_relative_to(RECIPE_FOLDER) else Path(path.name)
    name = name.with_suffix("").as_posix()
    try:
        return _build(name, values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"recipe {name}: {' '.join(str(error).split())}") from None


def _find(source: str | os.PathLike, folder: Path) -> Path:
    candidates = [folder / source, RECIPE_FOLDER / f"{source}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    similar = get_close_matches(str(source), packaged_recipes(), n=3, cutoff=0.5)
    hint = f", such as {' or '.join(similar)}" if similar else ""
    raise FileNotFoundError(f"no recipe {str(source)!r}: give a YAML file, or the name of a packaged recipe{hint}")


def _read(path: Path, above: tuple[Path, ...]) -> dict:
    """The values of a recipe over those of the ones it inherits."""
    if path in above:
        raise ValueError(f"{path} inherits itself")
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(own, dict):
        raise ValueError(f"{path}: expected sections, found {type(own).__name__}")
    parents = own.pop("inherits", [])
    values: dict = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        values = _merge(values, _read(_find(parent, path.parent), (*above, path)))
    return _merge(values, own)


def _merge(values: dict, changes: dict) -> dict:
    """`values` with `changes`, mapping by mapping; None takes a mapping out."""
    merged = dict(values)
    for key, change in changes.items():
        known = merged.get(key)
        merged[key] = _merge(known, change) if isinstance(known, dict) and isinstance(change, dict) else change
    return merged


def _parse_override(text: str) -> dict:
    keys, equals, value = text.partition("=")
    if not equals or not all(keys.split(".")):
        raise ValueError(f"override {text!r}: expected section.key=value, such as training.learning_rate=3e-4")
    try:
        nested = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise ValueError(f"override {text!r}: the value is not YAML") from None
    for key in reversed(keys.split(".")):
        nested = {key: nested}
    return nested


def _build(name: str, values: dict) -> Recipe:
    _check_keys("", values, SECTIONS)
    for section, content in values.items():
        if content is not None and not isinstance(content, dict):
            raise ValueError(f"{section} must hold keys and values, not {content!r}")
    sections = {section: dict(values.get(section) or {}) for section in SECTIONS}
    for key in sections["model"]:
        if key in FOLLOWS_FROM:
            raise ValueError(f"model.{key} follows from {FOLLOWS_FROM[key]}: leave it out")
    _check_keys("model.", sections["model"], ["pretrained", *PSELDNetConfig.__annotations__])
    _check_keys("features.", sections["features"], FEATURE_FIELDS)
    defaults = {field.name: field.default for field in fields(TrainingArguments)}
    _check_keys("training.", sections["training"], list(defaults))
    for key, value in sections["training"].items():
        if type(defaults[key]) in (int, float) and not isinstance(value, int | float):
            raise ValueError(f"training.{key} must be a number, not {value!r}")
    data = sections["data"]
    sides = {side: data.pop(side, None) or {} for side in ("train", "eval")}
    if sections["peft"] and "method" not in sections["peft"]:
        raise ValueError("peft.method is missing")
    return Recipe(
        name=name,
        model=sections["model"],
        features=sections["features"],
        peft=sections["peft"] or None,
        train=_section(DataRecipe, "data.", {**data, **sides["train"]}),
        eval=_section(DataRecipe, "data.", {**data, **sides["eval"]}),
        augmentation=sections["augmentation"] or None,
        schedule=_section(Schedule, "schedule.", sections["schedule"]),
        evaluation=_section(Evaluation, "evaluation.", sections["evaluation"]),
        training=sections["training"],
    )


def _section(kind: type, where: str, values: dict) -> Any:
    _check_keys(where, values, [field.name for field in fields(kind)])
    return kind(**values)


def _check_keys(where: str, values: dict, known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            similar = get_close_matches(str(key), known, n=1)
            raise ValueError(f"unknown key {where}{key}" + (f": do you mean {where}{similar[0]}?" if similar else ""))
