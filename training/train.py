"""Trains, fine-tunes, adapts and scores models by recipe: the program `pseldnet-train`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import StrictDataclassError
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, get_peft_model
from transformers import AutoConfig, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.cli import CommandParser

from . import adapterbit  # noqa: F401 registers the method
from .augmentation import AugMix
from .data import Windows, load_windows
from .evaluate_files import format_scores
from .recipes import REQUIRED, Recipe, packaged_recipes, read_recipe
from .trainer import SELDTrainer


EXAMPLE = """\
examples:
  pseldnet-train starss23/scratch_augmix --override data.data_dir=~/STARSS23 --output-dir runs/starss23
  pseldnet-train starss23/scratch_augmix --override data.data_dir=~/STARSS23 --output-dir runs/starss23 --resume
  pseldnet-train starss23/finetune_plain --override data.data_dir=~/STARSS23 model.pretrained=path/or/repo \\
      training.bf16=true training.torch_compile=true training.report_to=tensorboard
  accelerate launch --multi_gpu -m training.train my_recipe.yaml

A recipe is a YAML file or the name of one that comes with the package; its `training` section takes every field of
transformers.TrainingArguments. Packaged recipes:
""" + "\n".join(f"  {name}" for name in packaged_recipes())


def build_model(recipe: Recipe, windows: Windows) -> PSELDNetForSELD | PeftModel:
    """The model that a recipe trains, for the classes and the sampling rate of the data.

    Weights of `model.pretrained` that do not fit, those of a head for other classes, are initialised anew.

    Raises:
        ValueError: the recipe does not say what to start from, or asks for what is not known.
        OSError: there is no such model.
    """
    options = dict(recipe.model)
    pretrained = options.pop("pretrained", None)
    if pretrained == REQUIRED:
        raise ValueError(
            "model.pretrained must be given: the model to start from, a folder or the name of a Hub repository;"
            " pseldnet-convert makes one of a published checkpoint"
        )
    rates = {"sampling_rate": windows.sampling_rate, "hop_length": windows.sampling_rate // 100}
    options = {**rates, **options, "id2label": dict(enumerate(windows.class_names))}
    if pretrained is None:
        model = PSELDNetForSELD(PSELDNetConfig(**options))
    else:
        config = AutoConfig.from_pretrained(pretrained)
        if config.model_type != PSELDNetConfig.model_type:
            raise ValueError(f"{pretrained} is a {config.model_type} model, not a PSELDNet")
        config.update(options)
        if isinstance(config.threshold, list) and len(config.threshold) != config.num_labels:
            config.threshold = PSELDNetConfig.threshold
        model = PSELDNetForSELD.from_pretrained(pretrained, config=config, ignore_mismatched_sizes=True)
    if recipe.peft is None:
        return model
    peft_options = dict(recipe.peft)
    method = peft_options.pop("method")
    if method.upper() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        known = ", ".join(sorted(name.lower() for name in PEFT_TYPE_TO_CONFIG_MAPPING))
        raise ValueError(f"no PEFT method {method!r}: choose from {known}")
    try:
        return get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()](**peft_options))
    except TypeError as error:
        raise ValueError(f"peft: {error}") from None


def build_trainer(recipe: Recipe) -> SELDTrainer:
    """Loads the data and makes the model of a recipe.

    Raises:
        OSError, ValueError: the data or the model is not there, or the recipe does not fit them.
    """
    args = TrainingArguments(
        **{"output_dir": f"runs/{recipe.name}", **recipe.training, "remove_unused_columns": False}
    )
    set_seed(args.seed)
    seconds = recipe.model.get("window_seconds", PSELDNetConfig.window_seconds)
    with args.main_process_first(desc="loading data"):
        train_windows = load_windows(recipe.train, seconds)
        eval_windows = load_windows(recipe.eval, seconds, evaluation=True)
    for what in ("class_names", "sampling_rate"):
        if getattr(train_windows, what) != getattr(eval_windows, what):
            raise ValueError(f"data.train and data.eval differ in {what}")
    model = build_model(recipe, train_windows)
    config = model.config
    extractor = PSELDNetFeatureExtractor(config.num_mel_bins, config.sampling_rate, config.hop_length)
    augmentation = AugMix(**recipe.augmentation) if recipe.augmentation else None
    options = dataclasses.asdict(recipe.schedule) | dataclasses.asdict(recipe.evaluation)
    try:
        return SELDTrainer(model, args, extractor, train_windows, eval_windows, augmentation, **options)
    except (ImportError, RuntimeError) as error:
        # What the arguments ask for, such as a logger, is not installed or not possible on this machine.
        raise ValueError(str(error)) from error


def run(recipe: Recipe, resume: bool = False, only_evaluate: bool = False) -> SELDTrainer:
    """Trains by a recipe and scores the best model; both, and what it found, are in the output folder afterwards.

    Args:
        resume: go on from the last checkpoint in the output folder, if there is one.
        only_evaluate: score the model that the recipe starts from.

    Raises:
        OSError, ValueError: see [`build_trainer`]; or the output folder holds another run.
        FloatingPointError: training diverged.
    """
    trainer = build_trainer(recipe)
    args = trainer.args
    if not only_evaluate:
        checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
        if checkpoint is not None and not resume:
            raise ValueError(f"{args.output_dir} holds checkpoints: go on from them with --resume, or take another")
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(_internal_call=True)
    trainer.save_metrics("eval", trainer.evaluate())
    if trainer.is_world_process_zero():
        trainer.save_predictions(Path(args.output_dir) / "predictions")
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `pseldnet-train`."""
    parser = CommandParser(
        prog="pseldnet-train",
        description="Trains, fine-tunes, adapts and scores models for sound event localization and detection.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", help="a YAML file, or the name of a packaged recipe")
    add(
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: section.key=value, such as training.learning_rate=3e-4",
    )
    add("--output-dir", metavar="DIR", help="folder of checkpoints and results (default: runs/RECIPE)")
    add("--resume", action="store_true", help="go on from the last checkpoint in that folder")
    add("--only-evaluate", action="store_true", help="score model.pretrained without training")
    add("--push_to_hub", nargs="?", const="", metavar="REPO", help="upload the result (default: named as the folder)")
    options = parser.parse_args(arguments)
    try:
        recipe = read_recipe(options.recipe, options.override)
        given = {"output_dir": options.output_dir, "hub_model_id": options.push_to_hub or None}
        recipe.training.update({name: value for name, value in given.items() if value is not None})
        if options.push_to_hub is not None:
            recipe.training["push_to_hub"] = True
        trainer = run(recipe, options.resume, options.only_evaluate)
    except (OSError, ValueError, FloatingPointError, DatasetGenerationError, StrictDataclassError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        parser.exit(130, "interrupted: the same command with --resume goes on from the last checkpoint\n")
    if trainer.is_world_process_zero():
        names = {"num_classes": trainer.model.config.num_labels, "recordings with": trainer.scores["groups"]}
        print(f"{trainer.variant}, {len(trainer.predictions)} recordings")
        print(format_scores({**trainer.scores, **names}, by="recordings with"))


if __name__ == "__main__":
    main()
