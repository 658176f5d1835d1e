"""Trains, fine-tunes, adapts and scores models by recipe: the program `pseldnet-train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.tools.cli import CommandParser, program
from modeling_pseldnet.tools.extras import require
from modeling_pseldnet.tools.scores import VARIANTS

from .recipes import FEATURE_FIELDS, REQUIRED, Recipe, packaged_recipes, read_recipe, without_folders, write_recipe


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainingArguments

    from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
    from modeling_pseldnet.tools.transfer import TransferReport

    from .teacher import Teacher
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


# What recordings of a data set are, by its `config_name`, where they are not ambisonics.
FORMAT_OF_CONFIG = {"mic": "array", "sum": "mono", "stereo": "stereo"}
# Augmentation turns ambisonics only, and does not shift what are lags, not frequencies.
UNFIT_FEATURES = {
    "rotation": ("logmel_gcc", "salsa_lite", "logmel", "stereo"),
    "frequency_shift": ("logmel_gcc",),
    "filter_augment": ("stereo",),
}


@dataclass(frozen=True)
class Start:
    """The model that a recipe starts from: name, config, feature extractor and, of an adapter, the method of PEFT."""

    name: str
    config: PSELDNetConfig
    extractor: PSELDNetFeatureExtractor
    peft_method: str | None


def read_start(pretrained: str | None) -> Start | None:
    """What `model.pretrained` is, without its weights; None for a new model.

    Raises:
        ValueError: it is not given where it must be, or no PSELDNet.
        OSError: there is no such model.
    """
    if pretrained is None:
        return None
    if pretrained == REQUIRED:
        raise ValueError(
            "model.pretrained must be given: the model to start from, a folder or the name of a Hub repository;"
            " pseldnet-convert makes one of a published checkpoint"
        )
    from modeling_pseldnet.adapters import place_of
    from modeling_pseldnet.tools.loading import adapter_config, read_config, read_extractor

    # An adapter keeps the name of the model it was trained on: let it find a folder from anywhere.
    name = os.path.expanduser(place_of(pretrained))
    name = str(Path(name).absolute()) if Path(name).is_dir() else name
    adapter = adapter_config(name)
    return Start(name, read_config(name), read_extractor(name), adapter["peft_type"].lower() if adapter else None)


def build_extractor(recipe: Recipe, start: Start | None, sampling_rate: int) -> PSELDNetFeatureExtractor:
    """The feature extractor of a recipe, at the sampling rate of the data.

    What the recipe does not say is as in the model that it starts from, with frames as long as there.

    Raises:
        ValueError: there are no such features, or the data or the augmentation does not go with them.
    """
    from modeling_pseldnet.feature_extraction_pseldnet import FEATURE_TYPES, PSELDNetFeatureExtractor

    from .data import BUILDERS, recipe_of_others

    fields = {}
    if start is not None:
        fields = {name: getattr(start.extractor, name) for name in FEATURE_FIELDS}
        fields["hop_length"] = start.extractor.hop_length * sampling_rate // start.extractor.sampling_rate
    extractor = PSELDNetFeatureExtractor(sampling_rate=sampling_rate, **{**fields, **recipe.features})
    sides = {"train": recipe.train, "eval": recipe.eval}
    if recipe.train.mix_in is not None:
        sides["train.mix_in"] = recipe_of_others(recipe.train)
    for side, data in sides.items():
        # Mono sounds are placed in a sound field, and scenes rendered in one.
        is_field = data.mono or data.source not in BUILDERS
        config_name = None if is_field else data.config_name or BUILDERS[data.source].BUILDER_CONFIGS[0].name
        channel_format = FORMAT_OF_CONFIG.get(config_name, "ambix")
        if channel_format not in extractor.channel_formats:
            fitting = [name for name, kind in FEATURE_TYPES.items() if channel_format in kind.channel_formats]
            raise ValueError(
                f"data.{side} is {channel_format!r} audio, which {extractor.feature_type} features are not made of:"
                f" set features.feature_type to {' or '.join(fitting)}, or take another data.config_name"
            )
    for method, options in (recipe.augmentation or {}).items():
        if options is not None and extractor.feature_type in UNFIT_FEATURES.get(method, ()):
            raise ValueError(f"augmentation.{method} does not go with {extractor.feature_type} features: set it null")
    shift = (recipe.augmentation or {}).get("frequency_shift") or {}
    if shift.get("mel_bins", 0) >= extractor.feature_size:
        raise ValueError(f"frequency_shift.mel_bins must be below {extractor.feature_size}, which there are")
    return extractor


def build_model(
    recipe: Recipe,
    start: Start | None,
    class_names: list[str],
    extractor: PSELDNetFeatureExtractor,
    only_evaluate: bool = False,
) -> PSELDNetForSELD | PeftModel:
    """The model that a recipe trains, for these classes and features.

    Of the head of the model that it starts from the classes of the same name are kept; others are new. What was kept
    and what is new is printed. An adapter is trained further.

    Raises:
        ValueError: the recipe asks for what is not known, or the model it starts from does not fit, or to be scored
            without training a part of it would be new.
    """
    from accelerate import PartialState

    from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD
    from modeling_pseldnet.inference import FITTING, check_extractor
    from modeling_pseldnet.tools.loading import load
    from modeling_pseldnet.tools.transfer import config_for_transfer, transfer_from

    options = {name: value for name, value in recipe.model.items() if name != "pretrained"}
    options |= {of_model: getattr(extractor, name) for name, of_model in FITTING.items()}
    options |= {"id2label": dict(enumerate(class_names)), "feature_type": extractor.feature_type}
    if start is None:
        if recipe.peft is not None:
            raise ValueError("peft trains an adapter, which is saved without its network: give model.pretrained too")
        return PSELDNetForSELD(PSELDNetConfig(**options))
    if options.get("backbone", start.config.backbone) != start.config.backbone:
        raise ValueError(f"model.backbone is {options['backbone']}, and {start.name} is {start.config.backbone}")
    if only_evaluate or start.peft_method is not None:
        # Data may have another sampling rate; what is made of it may not be of another kind.
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
            f"{start.name} has no {new[0]} that fits the recipe, and a new one would be scored: set"
            f" model.output_format to {start.config.output_format} and model.distance to"
            f" {str(start.config.distance).lower()}"
        )
    if PartialState().is_main_process:
        print(f"{start.name}: {report}")
    return model if recipe.peft is None else _add_adapter(model, recipe.peft, report)


def _add_adapter(model: PSELDNetForSELD, peft: dict[str, Any], report: TransferReport) -> PeftModel:
    """The model with a new adapter, which saves all that the model it is trained on lacks."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, get_peft_model, get_peft_model_state_dict

    options = dict(peft)
    method = options.pop("method")
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(method.upper())
    try:
        config = kind and kind(**options)
        if config is None or config.is_prompt_learning:
            known = ", ".join(sorted(name.lower() for name in PEFT_TYPE_TO_CONFIG_MAPPING))
            raise ValueError(f"no PEFT method {method!r} for such networks: choose from {known}")
        adapted = get_peft_model(model, config)
    except TypeError as error:
        raise ValueError(f"peft: {error}") from None
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name in report.new_in(model):
        if f"base_model.model.{name}" not in saved:
            raise ValueError(
                f"{method} would not save {name}, which the model it starts from has not, so that nothing could load"
                f" it: name its module in peft.modules_to_save, such as {name.rpartition('.')[0]}"
            )
    return adapted


def _build_adapter(recipe: Recipe, start: Start, config: PSELDNetConfig) -> PeftModel:
    """The adapter that a recipe starts from, with what it was trained on, for data of the same classes."""
    here, there = (list(of.id2label.values()) for of in (config, start.config))
    if here != there:
        what = f"the data has {len(here)}"
        if len(here) == len(there):
            what += " others, or in another order: " + next(
                f"{a}, not {b}" for a, b in zip(here, there, strict=True) if a != b
            )
        raise ValueError(
            f"{start.name} is an adapter for {len(there)} classes, and {what}: start from the model that it was"
            " trained on"
        )
    for name in ("output_format", "distance"):
        here, there = (str(getattr(of, name)).lower() for of in (config, start.config))
        if here != there:
            raise ValueError(f"{start.name} is an adapter with model.{name} {there}, not {here}: set it so")
    if recipe.peft is not None and recipe.peft["method"].lower() != start.peft_method:
        raise ValueError(
            f"{start.name} is an adapter of {start.peft_method}, not of {recipe.peft['method']}: set peft to null"
        )
    from modeling_pseldnet.tools.loading import adapter_config, load_adapter

    known = adapter_config(start.name)
    for key, value in (recipe.peft or {}).items():
        there = known.get(key, value)
        if isinstance(there, list):
            # PEFT keeps them in no order, and in place of a text such as all-linear what it stands for.
            same = isinstance(value, str) or sorted(there) == sorted(value or ())
        else:
            same = there == value
        if key != "method" and not same:
            raise ValueError(f"{start.name} is an adapter with {key} {there!r}, not {value!r}: set peft to null")

    return load_adapter(start.name, config)


def read_teacher(recipe: Recipe) -> Teacher | None:
    """The teacher of a recipe, if it has one.

    Raises:
        ValueError: it is not given where it must be, is no teacher, or does not go with the augmentation.
    """
    from .teacher import load_teacher

    if recipe.teacher.module is None:
        return None
    if recipe.teacher.module == REQUIRED:
        raise ValueError(
            "teacher.module must be given: a Python file with a Teacher, as training/teacher.py tells; without one"
            " (teacher.module=null) the labels alone are learnt"
        )
    if recipe.peft is not None:
        raise ValueError("a teacher is for whole models: set peft to null, or teacher.module")
    for method in ("wav_mix", "track_mix"):
        if (recipe.augmentation or {}).get(method) is not None:
            raise ValueError(f"augmentation.{method} mixes scenes, which a teacher hears one by one: set it null")
    return load_teacher(recipe.teacher.module)


# Scores of which more is better.
HIGHER_IS_BETTER = ("F", "LR", "F_onscreen", "OnscreenAccuracy")


def is_better_higher(metric: str, variant: str) -> bool:
    """Whether more of a metric of the evaluation is better: a loss, or a score, also as micro_… and ov1_….

    Raises:
        ValueError: there is no such metric in this variant.
    """
    name = re.sub(r"^(micro|ov\d+)_", "", metric.removeprefix("eval_"))
    known = VARIANTS[variant].score_names
    if name not in known and not metric.removeprefix("eval_").startswith("loss"):
        raise ValueError(
            f"training.metric_for_best_model {metric!r} is no score of {variant}: use loss, {', '.join(known)}, or one"
            " as micro_F"
        )
    return name in HIGHER_IS_BETTER


# What decides of an update how it is, and may not change when a run goes on.
OF_UPDATES = (
    "seed", "learning_rate", "weight_decay", "optim", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "data_seed", "neftune_noise_alpha",
    "dataloader_drop_last",
)  # fmt: skip


def check_same_run(recipe: Recipe, begun: Recipe, folder: str, processes: tuple[int, int] = (1, 1)) -> None:
    """Refuses to go on with a run that was begun by another recipe; epochs, evaluation and saving may be others.

    Args:
        begun: the recipe that the run was begun by.
        folder: where it is.
        processes: how many trained then, and do now.

    Raises:
        ValueError: a value that decides what is learnt is another; the message names it.
    """
    known, now = (_of_learning(*part) for part in zip((begun, recipe), processes, strict=True))
    for key in _changed(known, now):
        raise ValueError(
            f"{folder} holds a run with {key} {known.get(key)!r}, not {now.get(key)!r}: go on with the same,"
            " or give another training.output_dir"
        )


def is_scored_alike(recipe: Recipe, begun: Recipe) -> bool:
    """Whether the best model of a run that was begun by another recipe was the best by this one's score."""
    return not _changed(_of_score(begun), _of_score(recipe))


def _of_score(recipe: Recipe) -> dict[str, object]:
    """What decides which model is the best, by its key."""
    names = ("metric_for_best_model", "greater_is_better")
    values = {name: recipe.training.get(name) for name in names} | dataclasses.asdict(recipe.evaluation)
    return values | {name: value for name, value in dataclasses.asdict(recipe.eval).items() if name != "cache_dir"}


def _changed(known: dict[str, object], now: dict[str, object]) -> list[str]:
    """The keys of two recipes' values that do not mean the same."""
    return [key for key in sorted(known.keys() | now.keys()) if not _is_same(known.get(key), now.get(key))]


def _is_same(known: object, now: object) -> bool:
    """Whether two values of a recipe mean the same; folders may be told from elsewhere, or without where they lie."""
    if known in (now, without_folders(now)):
        return True
    if not isinstance(known, str) or not isinstance(now, str):
        return False
    return Path(known).expanduser().resolve() == Path(now).expanduser().resolve()


def _of_learning(recipe: Recipe, processes: int) -> dict[str, object]:
    """What decides what a run learns, by its key."""
    from transformers import TrainingArguments

    training = {field.name: field.default for field in dataclasses.fields(TrainingArguments)} | recipe.training
    shares = training["per_device_train_batch_size"], training["gradient_accumulation_steps"], processes
    values = dataclasses.asdict(recipe)
    sections = {name: values[name] for name in ("model", "features", "peft", "augmentation", "teacher", "schedule")}
    sections["schedule"].pop("patience")
    sections["data.train"] = {name: value for name, value in values["train"].items() if name != "cache_dir"}
    sections["training"] = {name: training[name] for name in OF_UPDATES}
    values = {f"{name}.{key}": value for name, part in sections.items() for key, value in (part or {}).items()}
    return values | {"examples an update:": math.prod(shares)}


def check_schedule(recipe: Recipe) -> None:
    """Refuses options of training that the schedule of a recipe would pass over, or cannot do without.

    Raises:
        ValueError: there are any; the message says what to do.
    """
    schedule, training = recipe.schedule, recipe.training
    if schedule.patience and training.get("eval_strategy", "no") == "no":
        raise ValueError("schedule.patience counts evaluations, and training.eval_strategy is no: set it epoch")
    if schedule.patience and not (training.get("metric_for_best_model") or training.get("load_best_model_at_end")):
        raise ValueError(
            "schedule.patience waits for a better score: set training.metric_for_best_model, such as SELD"
        )
    for name, reason in (
        ("resume_from_checkpoint", "not be used: leave it out, give --resume"),
        ("label_smoothing_factor", "not be used: leave it out, there are no logits of one class to smooth"),
        ("hub_token", "be uploaded with the model: leave it out, log in by `hf auth login` or set HF_TOKEN"),
    ):
        if training.get(name):
            raise ValueError(f"training.{name} would {reason}")
    for key, passed_over in (
        ("step_epochs", ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")),
        ("muon_learning_rate", ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")),
    ):
        given = [f"training.{name}" for name in passed_over if name in training]
        if given and getattr(schedule, key) is not None:
            raise ValueError(f"{', '.join(given)} would be passed over for schedule.{key}: set that null")


def output_dir(recipe: Recipe, only_evaluate: bool = False) -> str:
    """Where results go; scores of another model than a run made do not take the place of that run's."""
    folder = Path(recipe.training.get("output_dir") or f"runs/{recipe.name}").expanduser()
    if only_evaluate and ((folder / "training_args.bin").exists() or any(folder.glob("checkpoint-*"))):
        folder /= "evaluation"
    return str(folder)


def training_arguments(recipe: Recipe, only_evaluate: bool) -> TrainingArguments:
    """The arguments of the trainer that a recipe gives or leaves to us."""
    import torch
    from transformers import TrainingArguments

    # transformers takes bf16 on a CPU only where that is asked for.
    defaults = {"use_cpu": not torch.accelerator.is_available(), "restore_callback_states_from_checkpoint": True}
    if only_evaluate:
        defaults["hub_model_id"] = Path(output_dir(recipe)).name
    if metric := recipe.training.get("metric_for_best_model"):
        defaults["greater_is_better"] = is_better_higher(metric, recipe.evaluation.variant)
    forced = {"output_dir": output_dir(recipe, only_evaluate), "remove_unused_columns": False}
    return TrainingArguments(**{**defaults, **recipe.training, **forced})


def build_trainer(recipe: Recipe, only_evaluate: bool = False) -> SELDTrainer:
    """Loads the data and makes the model of a recipe.

    Classes are matched by name: where the model that the recipe starts from has the classes of the data in another
    order, the data follows it.

    Args:
        only_evaluate: whether the data to train on is left aside, and the classes are those of the model.

    Raises:
        OSError, ValueError: the data or the model is not there, or the recipe does not fit them.
    """
    if recipe.train.keep_features and (recipe.augmentation or {}).get("wav_mix") is not None:
        raise ValueError(
            "data.train.keep_features does not go with augmentation.wav_mix, which mixes waveforms: set that null"
        )
    check_schedule(recipe)
    if only_evaluate and recipe.model.get("pretrained") is None:
        raise ValueError(
            f"model.pretrained must be given with --only-evaluate: the model to score, such as {output_dir(recipe)}"
        )
    from transformers import set_seed

    from modeling_pseldnet import PSELDNetConfig

    from .augmentation import AugMix
    from .data import check_references, keep_features, load_windows
    from .teacher import Distillation, WindowTeacher
    from .trainer import SELDTrainer

    args = training_arguments(recipe, only_evaluate)
    set_seed(args.seed)
    augmentation = AugMix(**recipe.augmentation) if recipe.augmentation else None
    start = read_start(recipe.model.get("pretrained"))
    teacher = None if only_evaluate else read_teacher(recipe)
    seconds = recipe.model.get("window_seconds", (start.config if start else PSELDNetConfig).window_seconds)
    with args.main_process_first(desc="loading data"):
        workers = args.dataloader_num_workers
        # Elsewhere the workers render; a GPU would wait for them.
        device = args.device if args.device.type == "cuda" and not recipe.train.keep_features else None
        train_windows = (
            None if only_evaluate else load_windows(recipe.train, seconds, device=device, num_workers=workers)
        )
        eval_windows = load_windows(recipe.eval, seconds, evaluation=True, num_workers=workers)
    has_distance = VARIANTS[recipe.evaluation.variant].has_distance
    check_references(eval_windows, has_distance)
    windows = train_windows or eval_windows
    if windows.sampling_rate != eval_windows.sampling_rate:
        raise ValueError("data.train and data.eval differ in sampling_rate")
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
    if has_distance and not model.config.distance:
        raise ValueError(
            f"evaluation.variant {recipe.evaluation.variant} scores distances: set model.distance=true, or take"
            " dcase2023 or pseldnets"
        )
    options = dataclasses.asdict(recipe.schedule) | dataclasses.asdict(recipe.evaluation)
    options["distillation"] = distillation
    try:
        return SELDTrainer(model, args, extractor, train_windows, eval_windows, augmentation, **options)
    except (ImportError, RuntimeError) as error:
        # What the arguments ask for, such as a logger, is not installed or not possible on this machine.
        raise ValueError(str(error)) from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state of a trainer that a checkpoint holds.

    Raises:
        ValueError: it is broken.
    """
    path = checkpoint / "trainer_state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return state | {"global_step": int(state["global_step"]), "epoch": float(state["epoch"])}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove {checkpoint}") from None


def check_epochs(trainer: SELDTrainer, checkpoint: Path, state: dict[str, Any]) -> None:
    """Refuses to go on from a checkpoint whose updates are other parts of an epoch than those to come.

    Raises:
        ValueError: data, batch size, gradient accumulation or number of processes are others; or it holds no more
            than the model.
    """
    updates, epochs = state["global_step"], state["epoch"]
    if not any(checkpoint.glob("rng_state*")):
        raise ValueError(f"{checkpoint} holds a model alone, from which training cannot go on: see save_only_model")
    batches, accumulated = len(trainer.get_train_dataloader()), trainer.args.gradient_accumulation_steps
    whole, begun = divmod(updates, -(-batches // accumulated))
    if abs(whole + min(begun * accumulated, batches) / batches - epochs) > 1e-3:
        raise ValueError(
            f"{checkpoint} is {updates} updates and {epochs:.2f} epochs old, which does not fit epochs of {batches}"
            " batches: go on with the same data, batch size, gradient accumulation and number of processes"
        )


def has_waited(state: dict[str, Any], patience: int | None) -> bool:
    """Whether a run stopped in this state, as so many evaluations had brought no better score."""
    waited = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {}).get("attributes", {})
    return bool(patience) and waited.get("early_stopping_patience_counter", 0) >= patience


def without_best(state: dict[str, Any]) -> dict[str, Any]:
    """The state for a run that goes on by another score: none of before is the best, and nothing was waited for."""
    callbacks = dict(state.get("stateful_callbacks", {}))
    callbacks.pop("EarlyStoppingCallback", None)
    return state | {"best_metric": None, "stateful_callbacks": callbacks}


def run(recipe: Recipe, resume: bool = False, only_evaluate: bool = False) -> SELDTrainer:
    """Trains by a recipe and scores the best model; both, and what it found, are in the output folder afterwards.

    Args:
        resume: go on from the last checkpoint in the output folder, if there is one.
        only_evaluate: score the model that the recipe starts from.

    Raises:
        OSError, ValueError: see [`build_trainer`]; or the output folder holds another run.
        FloatingPointError: training diverged.
    """
    from transformers.trainer_utils import get_last_checkpoint

    trainer = build_trainer(recipe, only_evaluate)
    args = trainer.args
    resolved = Path(args.output_dir) / "recipe.yaml"
    checkpoint, is_over = None, False
    if not only_evaluate:
        checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
        if checkpoint is not None and not resume:
            raise ValueError(f"{args.output_dir} holds checkpoints: go on from them with --resume, or take another")
        if checkpoint is not None:
            begun = read_recipe(resolved) if resolved.is_file() else recipe
            processes = max(len([*Path(checkpoint).glob("rng_state_*")]), 1), args.world_size
            check_same_run(recipe, begun, args.output_dir, processes)
            state = read_state(Path(checkpoint))
            check_epochs(trainer, Path(checkpoint), state)
            # No process may read what another has written since.
            trainer.accelerator.wait_for_everyone()
            if not is_scored_alike(recipe, begun):
                state = without_best(state)
                if args.should_save:
                    write_atomically(Path(checkpoint) / "trainer_state.json", json.dumps(state, indent=2))
            is_over = has_waited(state, recipe.schedule.patience)
    if trainer.is_world_process_zero():
        resolved.parent.mkdir(parents=True, exist_ok=True)
        write_recipe(recipe, resolved, names_only=args.push_to_hub)
    if not only_evaluate:
        if is_over:
            trainer.restore(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(_internal_call=True)
    trainer.save_metrics("eval", trainer.evaluate())
    if trainer.is_world_process_zero():
        trainer.save_predictions(Path(args.output_dir) / "predictions")
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer


@program("pseldnet-train", interrupted="the same command with --resume goes on from the last checkpoint")
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
    add(
        "--only-evaluate",
        action="store_true",
        help="score model.pretrained without training; where a run lies, in its folder evaluation",
    )
    add("--push-to-hub", nargs="?", const="", metavar="REPO", help="upload the result (default: named as the folder)")
    options = parser.parse_args(arguments)
    require("accelerate", "datasets", "peft", "pyarrow")
    if options.only_evaluate:
        parser.refuse(options, ("resume",), "of a training: leave it out with --only-evaluate")
    recipe = read_recipe(options.recipe, options.override)
    given = {"output_dir": options.output_dir, "hub_model_id": options.push_to_hub or None}
    recipe.training.update({name: value for name, value in given.items() if value is not None})
    if options.push_to_hub is not None:
        recipe.training["push_to_hub"] = True
    trainer = run(recipe, options.resume, options.only_evaluate)
    if trainer.is_world_process_zero():
        print(trainer.score_table())
    # A process that leaves while others still talk to it may be aborted.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    sys.exit(main())
