"""Find what a run is resumed from, and check that it can be: by the same recipe, from a checkpoint that fits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_pseldnet.files import write_atomically

from .recipes import Recipe, read_recipe, without_folders


if TYPE_CHECKING:
    from .trainer import SELDTrainer


# Training arguments that determine an update and may not change when a run is resumed.
OF_UPDATES = (
    "seed", "learning_rate", "weight_decay", "optim", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "data_seed", "neftune_noise_alpha",
    "dataloader_drop_last",
)  # fmt: skip


def checkpoint_of(folder: Path, resume: bool) -> str | None:
    """Return the last checkpoint of an output folder, to resume from, or `None` if the run is new.

    Raises:
        ValueError: the folder holds a run that is not to be resumed, or cannot be.
    """
    from transformers.trainer_utils import get_last_checkpoint

    from modeling_pseldnet.adapters import has_weights

    checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint is not None and not resume:
        raise ValueError(f"{folder} holds checkpoints: continue from them with --resume, or choose another folder")
    if checkpoint is None and (has_weights(folder) or (folder / "adapter_config.json").exists()):
        raise ValueError(f"{folder} holds a model, and no checkpoints to continue from: choose another folder")
    return checkpoint


def check_same_run(recipe: Recipe, begun: Recipe, folder: str, processes: tuple[int, int] = (1, 1)) -> None:
    """Check that a run is resumed by the recipe that began it; epochs, evaluation and saving may differ.

    Args:
        begun: the recipe that began the run.
        folder: folder of the run.
        processes: number of processes that trained then, and now.

    Raises:
        ValueError: a value that affects what is learnt differs; the message names it.
    """
    known, now = (_of_learning(*part) for part in zip((begun, recipe), processes, strict=True))
    for key in _changed(known, now):
        raise ValueError(
            f"{folder} holds a run with {key} = {known.get(key)!r}, but this recipe has {now.get(key)!r}: resume with"
            " the same value, or choose another training.output_dir"
        )


def is_scored_alike(recipe: Recipe, begun: Recipe) -> bool:
    """Whether the recipe that began a run chose the best model by the same score as the current recipe."""
    return not _changed(_of_score(begun), _of_score(recipe))


def _of_score(recipe: Recipe) -> dict[str, object]:
    """Return the values that decide which model is the best, by key."""
    metric = {"metric_for_best_model": recipe.training.get("metric_for_best_model")}
    values = metric | dataclasses.asdict(recipe.evaluation)
    return values | {name: value for name, value in dataclasses.asdict(recipe.eval).items() if name != "cache_dir"}


def _changed(known: dict[str, object], now: dict[str, object]) -> list[str]:
    """List the keys at which the values of two recipes differ in meaning."""
    return [key for key in sorted(known.keys() | now.keys()) if not _is_same(known.get(key), now.get(key))]


def _is_same(known: object, now: object) -> bool:
    """Whether two values of a recipe mean the same; files may have moved, or be named in another way."""
    if known in (now, without_folders(now)):
        return True
    if not isinstance(known, str) or not isinstance(now, str):
        return False
    there, here = (Path(value).expanduser() for value in (known, now))
    has_moved = here.exists() and not there.exists() and here.name == there.name
    return has_moved or there.resolve() == here.resolve()


def _of_learning(recipe: Recipe, processes: int) -> dict[str, object]:
    """Return the values that affect what a run learns, by key."""
    from transformers import TrainingArguments

    training = {field.name: field.default for field in dataclasses.fields(TrainingArguments)} | recipe.training
    shares = training["per_device_train_batch_size"], training["gradient_accumulation_steps"], processes
    values = dataclasses.asdict(recipe)
    sections = {name: values[name] for name in ("model", "features", "peft", "augmentation", "teacher", "schedule")}
    sections["schedule"].pop("patience")
    sections["data.train"] = {name: value for name, value in values["train"].items() if name != "cache_dir"}
    sections["training"] = {name: training[name] for name in OF_UPDATES}
    values = {f"{name}.{key}": value for name, part in sections.items() for key, value in (part or {}).items()}
    return values | {"examples per update": math.prod(shares)}


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read the trainer state of a checkpoint.

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
    """Check that the updates of a checkpoint are the same fraction of an epoch as those to come.

    Raises:
        ValueError: the data, the batch size, gradient accumulation or the number of processes differ, or the
            checkpoint holds only the model.
    """
    updates, epochs = state["global_step"], state["epoch"]
    if not any(checkpoint.glob("rng_state*")):
        raise ValueError(
            f"{checkpoint} was saved with save_only_model and has no optimizer state: training cannot resume from it"
        )
    if trainer.args.auto_find_batch_size:
        # The trainer itself resumes with this batch size.
        trainer._train_batch_size = state.get("train_batch_size") or trainer._train_batch_size
    batches, accumulated = len(trainer.get_train_dataloader()), trainer.args.gradient_accumulation_steps
    whole, begun = divmod(updates, -(-batches // accumulated))
    if abs(whole + min(begun * accumulated, batches) / batches - epochs) > 1e-3:
        raise ValueError(
            f"{checkpoint} ({updates} updates, {epochs:.2f} epochs) does not match epochs of {batches} batches: resume"
            " with the same data, batch size, gradient accumulation and number of processes"
        )


def has_waited(state: dict[str, Any], patience: int | None) -> bool:
    """Whether a run stopped in this state after `patience` evaluations without a better score."""
    waited = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {}).get("attributes", {})
    return bool(patience) and waited.get("early_stopping_patience_counter", 0) >= patience


def without_best(state: dict[str, Any]) -> dict[str, Any]:
    """Adapt the state to another score: forget the best model and the evaluations without a better one."""
    callbacks = dict(state.get("stateful_callbacks", {}))
    callbacks.pop("EarlyStoppingCallback", None)
    return state | {"best_metric": None, "stateful_callbacks": callbacks}


def prepare_resume(trainer: SELDTrainer, recipe: Recipe, path: Path, checkpoint: Path) -> bool:
    """Check that a run can be resumed, and return whether early stopping had already ended it.

    If the recipe uses another score, the checkpoint is changed to forget which model was the best.

    Args:
        path: file of the recipe that began the run.

    Raises:
        ValueError: the run cannot be resumed: see [`check_same_run`], [`read_state`] and [`check_epochs`].
    """
    args = trainer.args
    begun = read_recipe(path) if path.is_file() else recipe
    processes = max(len([*checkpoint.glob("rng_state_*")]), 1), args.world_size
    check_same_run(recipe, begun, args.output_dir, processes)
    state = read_state(checkpoint)
    check_epochs(trainer, checkpoint, state)
    # All processes must read the state before one of them rewrites it.
    trainer.accelerator.wait_for_everyone()
    if not is_scored_alike(recipe, begun):
        state = without_best(state)
        if args.should_save:
            write_atomically(checkpoint / "trainer_state.json", json.dumps(state, indent=2))
    return has_waited(state, recipe.schedule.patience)
