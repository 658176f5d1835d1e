"""What to train, on what and how: YAML files that build on each other."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict

from datasets_scripts import yaml_recipes
from datasets_scripts.yaml_recipes import build, naming, read_values, recipe_text, schema_of
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.tools.scores import VARIANTS


RECIPE_FOLDER = Path(__file__).parent / "recipes"
# What a recipe has where its user must say something.
REQUIRED = "???"


@strict
@dataclass
class DataRecipe:
    """Where windows are from.

    Attributes:
        source: a data set (see `data.BUILDERS`); `"scenes"`, rendered while the model trains; or `"mono_clips"`.
        data_dir: the folder with the downloaded data, or with isolated sounds in one folder a class.
        config_name: the form of the data set, such as `"foa"`; the builder's first by default.
        cache_dir: where `datasets` keeps its tables.
        split: of the data set, or of the isolated sounds (`"train"`, `"validation"`, `"test"`, `"all"`).
        recordings: a regular expression that the ids of the recordings to use match from their start.
        fraction: share of the recordings to use, chosen by `seed`.
        seed: of that choice, or of the rendered scenes.
        hop_seconds: from one window to the next; the window's length by default.
        mono: place the first channel of each recording, in which one source sounds at a time, at random directions.
        scene_recipe: recipe of rendered scenes, a file or a name; it says how isolated sounds are split, too, and
            which classes are used.
        scenes: rendered scenes an epoch, or to evaluate on.
        mix_in: fields of other data to mix in, and `share`, the part of the windows that are from there, drawn anew
            each epoch; its classes are matched by name, and may be fewer.
        keep_features: make the features of all windows to train on once, and keep them in memory: about 0.9 MB for
            ten seconds. Each epoch has the same scenes then, and WavMix cannot be used.
        interference_dir: of rendered scenes, the folder of sounds that are heard but not labelled; that of the scene
            recipe by default.
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


@strict
@dataclass
class TeacherRecipe:
    """A tagger whose answers to the training scenes the network learns beside SELD; see `teacher.py`.

    The weights are such that the gradients of both losses, where they reach the encoder, are somewhat smaller than
    that of multi-ACCDOA: 0.8 and 0.6 of it, measured with 48 classes, after the first 500 updates.

    Attributes:
        module: a Python file, or the name of a module, with `Teacher`; none by default.
        embedding_weight: of the error of the standardised embedding.
        logits_weight: of the cross-entropy of the classes.
    """

    module: str | None = None
    embedding_weight: float | int = 0.015
    logits_weight: float | int = 0.12


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
    """Attributes:
    variant: how scores are counted, see `seld_scores`; `dcase2024` and `dcase2025` take a model with distances.
    """

    variant: str = "pseldnets"

    def validate_variant(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"evaluation.variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")


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
        teacher: see there.
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
    teacher: TeacherRecipe
    schedule: Schedule
    evaluation: Evaluation
    training: dict[str, Any]


FEATURE_FIELDS = ("feature_type", "feature_size", "hop_length", "n_fft")
# Fields of a model that a recipe does not give with it.
FOLLOWS_FROM = {
    "num_channels": "features.feature_type",
    "feature_type": "features.feature_type",
    "num_mel_bins": "features.feature_size",
    "hop_length": "features.hop_length",
    "n_fft": "features.n_fft",
    "sampling_rate": "the data",
}


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package, without those that others only build on."""
    return yaml_recipes.packaged_recipes(RECIPE_FOLDER)


def read_recipe(source: str | os.PathLike, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe; how recipes build on each other is told in `yaml_recipes`.

    Args:
        source: a YAML file, or the name of a recipe that comes with the package, such as `"starss23/scratch_plain"`.
        overrides: `section.key=value`, the value in YAML, or as it is where it is a text, such as a path.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: a recipe or an override is not as it should be.
    """
    label, values = read_values(source, RECIPE_FOLDER, _schema(), overrides)
    with naming(label):
        return _build(Path(label.removeprefix("recipe ")), values)


def write_recipe(recipe: Recipe, path: Path, names_only: bool = False) -> None:
    """Writes what [`read_recipe`] reads this recipe from, with all that it inherits.

    Args:
        names_only: whether files and folders of this machine are named without where they lie, for others to read.
    """
    values = {name: value for name, value in asdict(recipe).items() if name not in ("name", "train", "eval")}
    values["data"] = {"source": recipe.train.source, "train": asdict(recipe.train), "eval": asdict(recipe.eval)}
    write_atomically(path, recipe_text(without_folders(values) if names_only else values))


def without_folders(value: Any) -> Any:
    """A value, or values, with files and folders of this machine named without where they lie."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if not isinstance(value, str) or "/" not in value:
        return value
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


@cache
def _schema() -> dict[str, Any]:
    # Not above: the names of the recipes are to be had without torch.
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
            raise ValueError(f"model.{key} follows from {FOLLOWS_FROM[key]}: leave it out")
    data = sections["data"]
    own = {side: data.pop(side, {}) for side in ("train", "eval")}
    sides = {side: {**data, **values} for side, values in own.items()}
    if not all("source" in side for side in sides.values()):
        raise ValueError("data.source is missing: say where the data is from")
    if sections["peft"] and not isinstance(sections["peft"].get("method"), str):
        raise ValueError("peft.method is missing")
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
