"""What a run that goes on must have in common with how it was begun, and what its checkpoint tells."""

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
    metric = {"metric_for_best_model": recipe.training.get("metric_for_best_model")}
    values = metric | dataclasses.asdict(recipe.evaluation)
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
    if trainer.args.auto_find_batch_size:
        # As the trainer itself goes on.
        trainer._train_batch_size = state.get("train_batch_size") or trainer._train_batch_size
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


def prepare_resume(trainer: SELDTrainer, recipe: Recipe, path: Path, checkpoint: Path) -> bool:
    """Whether the run of a checkpoint, which goes on by a recipe, was over, as it had waited long enough.

    Where the recipe goes by another score, the checkpoint forgets which model was the best.

    Args:
        path: file of the recipe that the run was begun by.

    Raises:
        ValueError: it cannot go on: see [`check_same_run`], [`read_state`] and [`check_epochs`].
    """
    args = trainer.args
    begun = read_recipe(path) if path.is_file() else recipe
    processes = max(len([*checkpoint.glob("rng_state_*")]), 1), args.world_size
    check_same_run(recipe, begun, args.output_dir, processes)
    state = read_state(checkpoint)
    check_epochs(trainer, checkpoint, state)
    # No process may read what another has written since.
    trainer.accelerator.wait_for_everyone()
    if not is_scored_alike(recipe, begun):
        state = without_best(state)
        if args.should_save:
            write_atomically(checkpoint / "trainer_state.json", json.dumps(state, indent=2))
    return has_waited(state, recipe.schedule.patience)
