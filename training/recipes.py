"""Training recipes: what to train, on which data and how, in YAML files that build on each other."""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict

from datasets_scripts import yaml_recipes
from datasets_scripts.yaml_recipes import build, fit, naming, read_values, recipe_text, schema_of
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.tools.scores import VARIANTS


RECIPE_FOLDER = Path(__file__).parent / "recipes"
# Marks values of a recipe that the user must give.
REQUIRED = "???"


@strict
@dataclass
class DataRecipe:
    """Where windows come from.

    Attributes:
        source: a data set (see `data.BUILDERS`), `"scenes"`, rendered while the model trains, or `"mono_clips"`.
        data_dir: the folder with the downloaded data, or with isolated sounds in one folder per class.
        config_name: the form of the data set, such as `"foa"`. Defaults to the builder's first.
        cache_dir: where `datasets` keeps its tables.
        split: split of the data set, or of the isolated sounds (`"train"`, `"validation"`, `"test"`, `"all"`).
        recordings: a regular expression that ids of the recordings to use must match from their start.
        fraction: share of the recordings to use, chosen at random by `seed`.
        seed: seed of that choice, or of the rendered scenes.
        hop_seconds: time from one window to the next. Defaults to the window's length.
        mono: whether to place the first channel of each recording, which has one source at a time, at random
            directions.
        scene_recipe: recipe of rendered scenes, a file or a name; it also sets the split of isolated sounds and the
            classes to use.
        scenes: number of rendered scenes per epoch, or to evaluate on.
        mix_in: fields of other data to mix in, and `share`, its part of all windows, which is drawn anew each epoch;
            its classes are matched by name, and may be fewer.
        keep_features: whether to compute the features of all training windows once and keep them in memory, about
            0.9 MB per ten seconds. Every epoch then has the same scenes, and WavMix cannot be used.
        interference_dir: folder of sounds that are heard but not labelled in rendered scenes. Defaults to that of the
            scene recipe.
    """

    source: str
    data_dir: str | None = None
    config_name: str | None = None
    cache_dir: str | None = None
    split: str = "train"
    recordings: str | None = None
    fraction: float | int = 1.0
    seed: int = 0
    hop_seconds: float | int | None = None
    mono: bool = False
    scene_recipe: str = "on_the_fly"
    scenes: int = 10000
    mix_in: dict[str, Any] | None = None
    keep_features: bool = False
    interference_dir: str | None = None

    def validate_values(self):
        for name, least in (("scenes", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"data.{name} must be at least {least}, not {value}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.fraction must be above 0 and at most 1, not {self.fraction}")
        try:
            re.compile(self.recordings or "")
        except re.error as error:
            told = f"data.recordings {self.recordings!r} is not a valid regular expression ({error})"
            raise ValueError(told) from None
        if self.mix_in is None:
            return
        share = self.mix_in.get("share")
        if not isinstance(share, int | float) or not 0 < share < 1:
            raise ValueError(f"data.train.mix_in.share must be above 0 and below 1, not {share!r}")
        if self.others.keep_features:
            raise ValueError(
                "data.train.mix_in.keep_features has no effect: set data.train.keep_features, which covers both"
            )

    @property
    def others(self) -> "DataRecipe":
        """The data that `mix_in` names.

        Raises:
            ValueError: a field is unknown, or a value is invalid.
        """
        values = {"source": self.source, **self.mix_in}
        values.pop("share", None)
        with naming("data.train.mix_in"):
            return build(DataRecipe, fit(values, schema_of(DataRecipe)))


@strict
@dataclass
class TeacherRecipe:
    """A tagger whose answers to the training scenes the network learns alongside SELD; see `teacher.py`.

    With the default weights, the gradients of both losses at the encoder's output are somewhat smaller than that of
    multi-ACCDOA: 0.8 and 0.6 of it, measured with 48 classes after the first 500 updates.

    Attributes:
        module: a Python file, or the name of a module, with `Teacher`. Defaults to none.
        embedding_weight: weight of the error of the standardised embedding.
        logits_weight: weight of the cross-entropy of the classes.
    """

    module: str | None = None
    embedding_weight: float | int = 0.015
    logits_weight: float | int = 0.12


@strict
@dataclass
class Schedule:
    """How the learning rate changes and when training stops.

    Attributes:
        step_epochs: the learning rate is multiplied by `gamma` every `step_epochs` epochs. Defaults to never.
        patience: number of evaluations without a better score after which to stop. Defaults to no early stopping.
        muon_learning_rate: learning rate of the weight matrices with Muon. By default, AdamW updates all parameters,
            at `training.learning_rate`.
    """

    step_epochs: int | None = None
    gamma: float | int = 0.1
    patience: int | None = None
    muon_learning_rate: float | int | None = None

    def validate_values(self):
        for name in ("step_epochs", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"schedule.{name} must be at least 1, not {value}")
        if self.muon_learning_rate is not None and self.muon_learning_rate < 0:
            raise ValueError(f"schedule.muon_learning_rate must be at least 0, not {self.muon_learning_rate}")


@strict
@dataclass
class Evaluation:
    """How models are scored.

    Attributes:
        variant: variant of the metrics (see `seld_scores`); `dcase2024` and `dcase2025` need a model with distances.
    """

    variant: str = "pseldnets"

    def validate_variant(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"evaluation.variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        name: name of the recipe, which also names its results.
        model: fields of [`PSELDNetConfig`], and `pretrained`, a model to start from.
        features: arguments of [`PSELDNetFeatureExtractor`], which decide what the model takes. Defaults to those of
            the model to start from.
        peft: the PEFT `method` and its options, or `None` to train the whole model.
        train, eval: data to train and to evaluate on.
        augmentation: arguments of [`AugMix`], or `None`.
        teacher: see [`TeacherRecipe`].
        schedule, evaluation: see [`Schedule`] and [`Evaluation`].
        training: fields of `transformers.TrainingArguments`.
    """

    name: str
    model: dict[str, Any]
    features: dict[str, Any]
    peft: dict[str, Any] | None
    train: DataRecipe
    eval: DataRecipe
    augmentation: dict[str, Any] | None
    teacher: TeacherRecipe
    schedule: Schedule
    evaluation: Evaluation
    training: dict[str, Any]


FEATURE_FIELDS = ("feature_type", "feature_size", "hop_length", "n_fft")
# Fields of a model that a recipe may not set, and what sets them.
FOLLOWS_FROM = {
    "num_channels": "features.feature_type",
    "feature_type": "features.feature_type",
    "num_mel_bins": "features.feature_size",
    "hop_length": "features.hop_length",
    "n_fft": "features.n_fft",
    "sampling_rate": "the data",
}


def packaged_recipes() -> list[str]:
    """List the names of the packaged recipes, without those that only serve as parents."""
    return yaml_recipes.packaged_recipes(RECIPE_FOLDER)


def read_recipe(source: str | os.PathLike, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `yaml_recipes` describes how recipes build on each other.

    Args:
        source: a YAML file, or the name of a packaged recipe, such as `"starss23/scratch_plain"`.
        overrides: `section.key=value`, with the value in YAML, or literally if it is text, such as a path.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: a recipe or an override is invalid, or an override of `data` would have no effect, since the recipe
            sets that field for `data.train` or `data.eval`.
    """
    label, values = read_values(source, RECIPE_FOLDER, _schema(), overrides)
    with naming(label):
        _check_sides(values.get("data") or {}, {override.partition("=")[0] for override in overrides})
        return _build(Path(label.removeprefix("recipe ")), values)


def _check_sides(data: dict[str, Any], overridden: set[str]) -> None:
    """Refuse an override of both sides of the data if one has its own value, which takes precedence."""
    for side, name in product(("train", "eval"), schema_of(DataRecipe)):
        if f"data.{name}" in overridden and name in (data.get(side) or {}) and f"data.{side}.{name}" not in overridden:
            raise ValueError(
                f"data.{name} has no effect, since the recipe sets data.{side}.{name} to {data[side][name]!r}:"
                " override that"
            )


def write_recipe(recipe: Recipe, path: Path, names_only: bool = False) -> None:
    """Write a recipe, with all that it inherits, as YAML that [`read_recipe`] reads back.

    Args:
        names_only: whether to reduce paths of this machine to names, for others to read.
    """
    values = {name: value for name, value in asdict(recipe).items() if name not in ("name", "train", "eval")}
    sides = {"train": asdict(recipe.train), "eval": asdict(recipe.eval)}
    # For overrides of both.
    shared = {name: value for name, value in sides["train"].items() if sides["eval"][name] == value}
    own = {side: {name: data[name] for name in data if name not in shared} for side, data in sides.items()}
    values["data"] = shared | own
    write_atomically(path, recipe_text(without_folders(values) if names_only else values))


def without_folders(value: Any) -> Any:
    """Reduce the paths of this machine in a value, or in nested values, to names."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if not isinstance(value, str) or "/" not in value:
        return value
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


@cache
def _schema() -> dict[str, Any]:
    # Imported here so that the names of recipes can be listed without torch.
    from transformers import TrainingArguments

    from modeling_pseldnet.configuration_pseldnet import PSELDNetConfig
    from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor

    data = schema_of(DataRecipe)
    of_features = PSELDNetFeatureExtractor.__init__.__annotations__
    return {
        "model": {"pretrained": str | None, **PSELDNetConfig.__annotations__},
        "features": {name: of_features[name] for name in FEATURE_FIELDS},
        "peft": dict[str, Any] | None,
        "data": {**data, "train": data, "eval": data},
        "augmentation": dict[str, Any] | None,
        "teacher": schema_of(TeacherRecipe),
        "schedule": schema_of(Schedule),
        "evaluation": schema_of(Evaluation),
        "training": schema_of(TrainingArguments),
    }


def _build(path: Path, values: dict[str, Any]) -> Recipe:
    sections: dict[str, Any] = {section: dict(values.get(section) or {}) for section in _schema()}
    for key in sections["model"]:
        if key in FOLLOWS_FROM:
            raise ValueError(f"model.{key} is set by {FOLLOWS_FROM[key]}: remove it")
    data = sections["data"]
    own = {side: data.pop(side, {}) for side in ("train", "eval")}
    sides = {side: {**data, **values} for side, values in own.items()}
    if not all("source" in side for side in sides.values()):
        raise ValueError("data.source is missing: set it to a data set such as starss23, or to scenes or mono_clips")
    if sections["peft"] and not isinstance(sections["peft"].get("method"), str):
        raise ValueError("peft.method is missing: give one, such as lora")
    # `Trainer` takes a metric with or without this prefix.
    if metric := sections["training"].get("metric_for_best_model"):
        sections["training"]["metric_for_best_model"] = metric.removeprefix("eval_")
    return Recipe(
        name=path.with_suffix("").as_posix() if not path.suffix else path.stem,
        model=sections["model"],
        features=sections["features"],
        peft=sections["peft"] or None,
        train=build(DataRecipe, sides["train"]),
        eval=build(DataRecipe, sides["eval"]),
        augmentation=sections["augmentation"] or None,
        teacher=build(TeacherRecipe, sections["teacher"]),
        schedule=build(Schedule, sections["schedule"]),
        evaluation=build(Evaluation, sections["evaluation"]),
        training=sections["training"],
    )
