"""Train, fine-tune, adapt and score models by recipe: the program `pseldnet-train`."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modeling_pseldnet.tools.cli import CommandParser, program
from modeling_pseldnet.tools.evaluate_files import undefined_to_none
from modeling_pseldnet.tools.extras import require
from modeling_pseldnet.tools.scores import VARIANTS

from .network import build_extractor, build_model, read_start
from .recipes import Recipe, Schedule, packaged_recipes, read_recipe, write_recipe
from .resume import checkpoint_of, prepare_resume


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from modeling_pseldnet.output_formats import OutputFormat

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


# Schedules that follow the metric, which take lower to be better unless told otherwise.
FOLLOW_METRIC = ("reduce_lr_on_plateau", "greedy")
# Scores for which higher is better.
HIGHER_IS_BETTER = ("F", "LR", "F_onscreen", "OnscreenAccuracy")


def is_better_higher(metric: str, variant: str) -> bool:
    """Whether higher is better for a metric: a loss, or a score, also with the prefix `micro_` or `ov1_`, `ov2_`, ….

    Raises:
        ValueError: there is no such metric in this variant.
    """
    name = re.sub(r"^(micro|ov\d+)_", "", metric)
    known = VARIANTS[variant].score_names
    if name not in known and not metric.startswith("loss"):
        raise ValueError(
            f"training.metric_for_best_model {metric!r} is not a score of {variant}: use loss,"
            f" {', '.join(known)}, or a variant such as micro_F"
        )
    return name in HIGHER_IS_BETTER


def check_metric(metric: str, output_format: OutputFormat) -> None:
    """Check that a model of an output format has the metric for the best model.

    Raises:
        ValueError: it lacks that loss, or does not predict `onscreen`, which is scored.
    """
    import torch

    from modeling_pseldnet import Events

    heads = {name: torch.zeros(1, 1, size) for name, size in output_format.head_sizes.items()}
    labels = output_format.encode(Events.empty(), 1).unsqueeze(0)
    known = output_format.loss_parts(output_format.outputs(heads), labels)
    if metric.startswith("loss") and metric not in known:
        raise ValueError(
            f"training.metric_for_best_model {metric!r} is not a loss of this model: use {', '.join(known)}, or a"
            " score"
        )
    if "onscreen" in metric.lower() and "onscreen" not in output_format.output_names:
        raise ValueError(
            f"training.metric_for_best_model {metric!r} is undefined for a model without onscreen: set"
            " model.onscreen=true, or use another score"
        )


def check_schedule(recipe: Recipe) -> None:
    """Check the training options of a recipe: those that would be ignored, and those that its schedule needs.

    Raises:
        ValueError: an option must be set or left out; the message says which.
    """
    schedule, training = recipe.schedule, recipe.training
    if schedule.patience and training.get("eval_strategy", "no") == "no":
        raise ValueError("schedule.patience counts evaluations, but training.eval_strategy is no: set it to epoch")
    if schedule.patience and not (training.get("metric_for_best_model") or training.get("load_best_model_at_end")):
        raise ValueError(
            "schedule.patience waits for a better score: set training.metric_for_best_model, for example to SELD"
        )
    if schedule.step_epochs is None and schedule.gamma != Schedule.gamma:
        raise ValueError("schedule.gamma has no effect without schedule.step_epochs: set that too, or remove it")
    for name, reason in (
        ("resume_from_checkpoint", "be ignored: remove it and give --resume"),
        ("label_smoothing_factor", "be ignored, as there are no logits of one class to smooth: remove it"),
        ("bf16_full_eval", "be ignored: remove it, or set training.bf16 to train and evaluate in mixed precision"),
        ("fp16_full_eval", "be ignored: remove it, or set training.fp16 to train and evaluate in mixed precision"),
        ("hub_token", "be uploaded with the model: remove it, and log in with `hf auth login` or set HF_TOKEN"),
    ):
        if training.get(name):
            raise ValueError(f"training.{name} would {reason}")
    for key, passed_over in (
        ("step_epochs", ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")),
        ("muon_learning_rate", ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")),
    ):
        given = [f"training.{name}" for name in passed_over if name in training]
        if given and getattr(schedule, key) is not None:
            raise ValueError(f"{', '.join(given)} would be ignored in favour of schedule.{key}: set that to null")


def output_dir(recipe: Recipe, only_evaluate: bool = False) -> str:
    """Return the folder for results; scoring a model does not overwrite the results of a run in its folder."""
    folder = Path(recipe.training.get("output_dir") or f"runs/{recipe.name}").expanduser()
    if only_evaluate and ((folder / "training_args.bin").exists() or any(folder.glob("checkpoint-*"))):
        folder /= "evaluation"
    return str(folder)


def training_arguments(recipe: Recipe, only_evaluate: bool) -> TrainingArguments:
    """Return the trainer's arguments: those of the recipe, and ours where it gives none.

    Raises:
        ValueError: the recipe would keep the worst model by its metric, or there is no such metric.
    """
    import torch
    from transformers import TrainingArguments

    # transformers accepts bf16 on a CPU only with `use_cpu`.
    defaults = {"use_cpu": not torch.accelerator.is_available(), "restore_callback_states_from_checkpoint": True}
    if only_evaluate:
        defaults["hub_model_id"] = Path(output_dir(recipe)).name
    metric = recipe.training.get("metric_for_best_model") or "loss"
    higher = is_better_higher(metric, recipe.evaluation.variant)
    if recipe.training.get("greater_is_better") is (not higher):
        raise ValueError(
            f"training.greater_is_better={str(not higher).lower()} would keep the worst model by {metric}: remove it"
        )
    forced = {
        "output_dir": output_dir(recipe, only_evaluate),
        "remove_unused_columns": False,
        "greater_is_better": higher,
    }
    if recipe.training.get("lr_scheduler_type") in FOLLOW_METRIC:
        mode = {"mode": "max" if higher else "min"}
        forced["lr_scheduler_kwargs"] = mode | (recipe.training.get("lr_scheduler_kwargs") or {})
    return TrainingArguments(**{**defaults, **recipe.training, **forced})


def build_trainer(recipe: Recipe, only_evaluate: bool = False) -> SELDTrainer:
    """Load the data and build the model and the trainer of a recipe.

    Classes are matched by name: if the model that the recipe starts from has the classes of the data in another order,
    its order is used.

    Args:
        only_evaluate: whether to skip the training data and keep the classes of the model.

    Raises:
        OSError, ValueError: the data or the model is missing, or the recipe does not fit them.
    """
    if recipe.train.keep_features and (recipe.augmentation or {}).get("wav_mix") is not None:
        raise ValueError(
            "data.train.keep_features does not work with augmentation.wav_mix, which mixes waveforms: set that to null"
        )
    check_schedule(recipe)
    if only_evaluate and recipe.model.get("pretrained") is None:
        raise ValueError(f"--only-evaluate needs model.pretrained, the model to score, such as {output_dir(recipe)}")
    from transformers import set_seed

    from modeling_pseldnet import PSELDNetConfig

    from .augmentation import AugMix
    from .data import check_data, check_references, check_splits, load_windows
    from .teacher import Distillation, WindowTeacher, read_teacher
    from .trainer import SELDTrainer
    from .windows import keep_features

    start = read_start(recipe.model.get("pretrained"))
    seconds = recipe.model.get("window_seconds", (start.config if start else PSELDNetConfig).window_seconds)
    check_data(recipe.eval, seconds, evaluation=True)
    if not only_evaluate:
        check_data(recipe.train, seconds)
        check_splits(recipe.train, recipe.eval)
    args = training_arguments(recipe, only_evaluate)
    metric = "" if only_evaluate else args.metric_for_best_model or ""
    teacher = None if only_evaluate else read_teacher(recipe)
    # A teacher may have drawn by a seed of its own.
    set_seed(args.seed)
    augmentation = AugMix(**recipe.augmentation) if recipe.augmentation else None
    with args.main_process_first(desc="loading data"):
        workers = args.dataloader_num_workers
        # On CPUs, the workers render; a GPU would wait for them.
        device = args.device if args.device.type == "cuda" and not recipe.train.keep_features else None
        train_windows = (
            None if only_evaluate else load_windows(recipe.train, seconds, device=device, num_workers=workers)
        )
        eval_windows = load_windows(recipe.eval, seconds, evaluation=True, num_workers=workers)
    has_distance = VARIANTS[recipe.evaluation.variant].has_distance
    check_references(eval_windows, has_distance, metric)
    windows = train_windows or eval_windows
    if windows.sampling_rate != eval_windows.sampling_rate:
        raise ValueError(
            f"data.train is at {windows.sampling_rate} Hz, data.eval at {eval_windows.sampling_rate} Hz: choose"
            " data of one sampling rate"
        )
    extractor = build_extractor(recipe, start, windows.sampling_rate)
    kept, distillation = recipe.train.keep_features, None
    if teacher is not None:
        heard = WindowTeacher(teacher, windows.sampling_rate, seconds, "cpu" if kept else args.device)
        distillation = Distillation(heard, recipe.teacher.embedding_weight, recipe.teacher.logits_weight)
    if train_windows and kept:
        train_windows = keep_features(train_windows, seconds, extractor, workers, distillation and heard)
    known = list(start.config.id2label.values()) if start else windows.class_names
    same = only_evaluate or sorted(known) == sorted(windows.class_names)
    model = build_model(recipe, start, known if same else windows.class_names, extractor, only_evaluate)
    check_metric(metric, model.output_format)
    if has_distance and not model.config.distance:
        raise ValueError(
            f"evaluation.variant {recipe.evaluation.variant} scores distances: set model.distance=true, or the"
            " variant to dcase2023 or pseldnets"
        )
    options = dataclasses.asdict(recipe.schedule) | dataclasses.asdict(recipe.evaluation)
    options["distillation"] = distillation
    try:
        return SELDTrainer(model, args, extractor, train_windows, eval_windows, augmentation, **options)
    except (ImportError, RuntimeError) as error:
        # Something that the arguments ask for, such as a logger, is not installed or not possible on this machine.
        raise ValueError(str(error)) from error


def run(recipe: Recipe, resume: bool = False, only_evaluate: bool = False) -> SELDTrainer:
    """Train by a recipe and score the best model; write model, scores and predictions to the output folder.

    Args:
        resume: whether to resume from the last checkpoint in the output folder, if there is one.
        only_evaluate: whether to only score the model that the recipe starts from.

    Raises:
        OSError, ValueError: see [`build_trainer`]; or the output folder holds another run.
        FloatingPointError: training diverged.
    """
    folder = Path(output_dir(recipe, only_evaluate))
    checkpoint = None if only_evaluate else checkpoint_of(folder, resume)
    trainer = build_trainer(recipe, only_evaluate)
    args, is_over = trainer.args, False
    if checkpoint is not None:
        is_over = prepare_resume(trainer, recipe, folder / "recipe.yaml", Path(checkpoint))
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        # With its folder, so that the run can also be resumed by this recipe.
        training = {**recipe.training, "output_dir": output_dir(recipe)}
        written = dataclasses.replace(recipe, training=training)
        write_recipe(written, folder / "recipe.yaml", names_only=args.push_to_hub)
    if not only_evaluate:
        if is_over:
            trainer.restore(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(_internal_call=True)
    trainer.save_metrics("eval", undefined_to_none(trainer.evaluate()))
    if trainer.is_world_process_zero():
        trainer.save_predictions(folder / "predictions")
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


@program("pseldnet-train", interrupted="run the same command with --resume to continue from the last checkpoint")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `pseldnet-train`."""
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
    add("--output-dir", metavar="DIR", help="folder for checkpoints and results (default: runs/RECIPE)")
    add("--resume", action="store_true", help="continue from the last checkpoint in that folder")
    add(
        "--only-evaluate",
        action="store_true",
        help="score model.pretrained without training; if the folder holds a run, results go to its evaluation/",
    )
    add("--push-to-hub", nargs="?", const="", metavar="REPO", help="upload the result (default: the folder's name)")
    options = parser.parse_args(arguments)
    require("accelerate", "datasets", "peft", "pyarrow")
    if options.only_evaluate:
        parser.refuse(options, ("resume",), "not used with --only-evaluate")
    recipe = read_recipe(options.recipe, options.override)
    given = {"output_dir": options.output_dir, "hub_model_id": options.push_to_hub or None}
    recipe.training.update({name: value for name, value in given.items() if value is not None})
    if options.push_to_hub is not None:
        recipe.training["push_to_hub"] = True
    trainer = run(recipe, options.resume, options.only_evaluate)
    if trainer.is_world_process_zero():
        print(trainer.score_table())
    # A process that exits while others still communicate with it may be aborted.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    sys.exit(main())
