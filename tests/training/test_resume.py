"""Runs that are interrupted and resumed, and what is left of them."""

import json
import os
import resource
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.helpers import assert_same_weights
from training.recipes import read_recipe
from training.train import build_trainer, run
from training.trainer import SELDTrainer


ALL_METHODS = (
    "augmentation={rotation: {}, wav_mix: {}, spec_augment: {}, crop: {}, frequency_shift: {}, track_mix: {}}"
)


@pytest.mark.parametrize(
    ("checkpoints", "more"),
    [
        ((4, 6), []),
        ((4,), ["schedule.muon_learning_rate=0.02"]),
        ((8,), ["data.train.mix_in={{share: 0.4, data_dir: {data}}}"]),
        ((4,), ["training.dataloader_num_workers=1", "training.dataloader_persistent_workers=true"]),
    ],
    ids=["within an epoch and between epochs", "Muon", "other windows in each epoch", "workers that outlast epochs"],
)
def test_resumed_training_gives_the_weights_of_uninterrupted_training(train, tiny_data, tmp_path, checkpoints, more):
    options = [
        ALL_METHODS,
        *(option.format(data=tiny_data) for option in more),
        "model.drop_path_rate=0.2",
        "training.num_train_epochs=3",
        "training.save_strategy=steps",
        "training.save_steps=2",
        "training.save_total_limit=10",
        "schedule.step_epochs=1",
        "schedule.gamma=0.5",
    ]
    train(*options)
    for checkpoint in checkpoints:
        resumed = tmp_path / f"resumed at {checkpoint}"
        shutil.copytree(tmp_path / f"run/checkpoint-{checkpoint}", resumed / f"checkpoint-{checkpoint}")
        # Evaluations change nothing.
        train(*options, "training.eval_strategy=epoch", output_dir=resumed, resume=True)
        assert_same_weights(tmp_path / "run", resumed, atol=0, rtol=0)


def test_a_smaller_batch_that_is_found_has_the_schedule_of_its_epochs_and_is_gone_on_with(
    train, tmp_path, monkeypatch
):
    def step(self, model, inputs, count=None):
        if len(inputs["recording"]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return training_step(self, model, inputs, count)

    training_step = SELDTrainer.training_step
    monkeypatch.setattr(SELDTrainer, "training_step", step)
    options = [
        "training.auto_find_batch_size=true",
        "training.num_train_epochs=3",
        "training.save_strategy=steps",
        "training.save_steps=8",
        "training.save_total_limit=9",
        "training.logging_strategy=epoch",
        "schedule.step_epochs=1",
        "schedule.gamma=0.5",
    ]
    trainer = train(*options)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-4, 5e-5, 2.5e-5])
    shutil.copytree(tmp_path / "run/checkpoint-8", tmp_path / "resumed/checkpoint-8")
    train(*options, output_dir=tmp_path / "resumed", resume=True)
    assert_same_weights(tmp_path / "run", tmp_path / "resumed", atol=0, rtol=0)


def test_a_run_may_go_on_with_a_patience_that_it_had_not(train):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.metric_for_best_model=SELD"]
    train(*options, "training.num_train_epochs=1")
    trainer = train(*options, "schedule.patience=5", "training.num_train_epochs=2", resume=True)
    assert trainer.state.epoch == 2
    assert "EarlyStoppingCallback" in trainer.state.stateful_callbacks
    assert train(*options, "training.num_train_epochs=3", resume=True).state.epoch == 3


def test_a_stale_folder_of_a_killed_run_does_not_enter_a_checkpoint(train, tmp_path):
    stale = tmp_path / "run/_saving"
    (stale / "checkpoint-99").mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"half")
    train("training.save_strategy=epoch", "training.num_train_epochs=1")
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3"]
    assert not stale.exists()
    assert len(load_file(tmp_path / "run/model.safetensors")) > 10


def test_training_goes_on_for_more_epochs_but_not_with_other_data_or_batches(train, tiny_data, tmp_path):
    options = ["training.save_strategy=epoch", "schedule.step_epochs=null", "training.lr_scheduler_type=constant"]
    data = shutil.copytree(tiny_data, tmp_path / "data")
    train(*options, "training.num_train_epochs=1", data_dir=data)
    with pytest.raises(ValueError, match="a run with examples per update = 4, but this recipe has 2: resume with"):
        train(*options, "training.per_device_train_batch_size=2", data_dir=data, resume=True)
    # The same folder by a relative path, and the same number of examples per update.
    shared_out = ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2"]
    trainer = train(*options, *shared_out, "training.num_train_epochs=2", data_dir=os.path.relpath(data), resume=True)
    assert (trainer.state.global_step, trainer.state.epoch) == (6, 2)
    for path in [*data.glob("train/*/*mix00[0-7]*")]:
        path.unlink()
    with pytest.raises(ValueError, match=r"checkpoint-6 \(6 updates, 2\.00 epochs\) does not match epochs of 1"):
        train(*options, "training.num_train_epochs=3", data_dir=data, resume=True)
    (tmp_path / "run/checkpoint-6/rng_state.pth").unlink()
    with pytest.raises(ValueError, match="was saved with save_only_model and has no optimizer state"):
        train(*options, "training.num_train_epochs=3", data_dir=data, resume=True)
    (tmp_path / "run/checkpoint-6/trainer_state.json").write_text("{")
    with pytest.raises(ValueError, match=r"trainer_state.json cannot be read"):
        train(*options, "training.num_train_epochs=3", data_dir=data, resume=True)


def test_the_best_model_is_kept_when_a_run_goes_on_in_another_place(train, tiny_data, tmp_path):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.load_best_model_at_end=true"]
    options += ["training.num_train_epochs=4", "training.learning_rate=4e-3"]
    data = shutil.copytree(tiny_data, tmp_path / "here/data")
    train(*options, data_dir=data)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "here").rename(tmp_path / "there")
    state = json.loads((tmp_path / "moved/checkpoint-12/trainer_state.json").read_text())
    again = train(*options, data_dir=tmp_path / "there/data", output_dir=tmp_path / "moved", resume=True)
    best = tmp_path / "moved" / f"checkpoint-{state['best_global_step']}"
    assert Path(again.state.best_model_checkpoint) == best
    assert again.state.best_metric == state["best_metric"]
    assert_same_weights(tmp_path / "moved", best, atol=0, rtol=0)


def test_a_run_that_goes_on_by_another_score_compares_none_with_the_best_of_before(train, monkeypatch):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.load_best_model_at_end=true"]
    first = train(*options, "training.num_train_epochs=1", "training.metric_for_best_model=LE")
    assert first.state.best_metric > 1
    options.append("training.num_train_epochs=2")
    # This also holds if the run began that way and was interrupted before its first checkpoint.
    with monkeypatch.context() as patched:
        patched.setattr(SELDTrainer, "training_step", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(*options, "training.metric_for_best_model=F", resume=True)
    again = train(*options, "training.metric_for_best_model=F", resume=True)
    assert (again.state.best_global_step, again.state.best_metric < 1) == (6, True)
    assert train(*options, "training.metric_for_best_model=F", resume=True).state.best_global_step == 6


def test_a_run_that_stopped_early_by_another_score_goes_on(train):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.load_best_model_at_end=true"]
    options += ["training.learning_rate=0.0", "schedule.patience=1"]
    stopped = train(*options, "training.num_train_epochs=9").state.epoch
    assert stopped < 9
    options += [f"training.num_train_epochs={int(stopped) + 1}", "training.metric_for_best_model=LE"]
    assert train(*options, resume=True).state.epoch == stopped + 1


class FullDisk(TrainerCallback):
    """From the first checkpoint on, limit how large files may grow, as a full disk would."""

    def __init__(self, limit):
        self.limit = limit

    def on_save(self, args, state, control, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["no room for the weights", "no room for the optimizer"])
def test_a_full_disk_leaves_whole_checkpoints_to_resume_from(tiny_data, tiny_overrides, tmp_path, share):
    output = tmp_path / "run"
    overrides = tiny_overrides(tiny_data, output, "training.save_strategy=epoch")
    trainer = build_trainer(read_recipe("synth_accdoa", overrides))
    size = sum(parameter.nbytes for parameter in trainer.model.parameters())
    trainer.add_callback(FullDisk(int(share * size)))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match=r"checkpoint-6 could not be written to .*: free some space") as told:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert str(told.value).count("could not be written") == 1
    assert [path.name for path in output.iterdir()] == ["checkpoint-3"]
    resumed = run(read_recipe("synth_accdoa", overrides), resume=True)
    assert resumed.state.global_step == 6
    assert (output / "model.safetensors").exists()


def test_a_run_is_not_overwritten_by_another(train, tmp_path, monkeypatch):
    train("training.save_strategy=epoch")
    monkeypatch.setattr("training.train.build_trainer", Mock(side_effect=AssertionError))
    with pytest.raises(ValueError, match="holds checkpoints: continue from them with --resume"):
        train("training.save_strategy=epoch")
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds a model, and no checkpoints to continue from: choose another"):
            train("training.save_strategy=epoch", resume=resume)


def test_a_run_in_the_default_folder_is_resumed_by_its_own_recipe(tiny_data, tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("synth_accdoa", tiny_overrides(tiny_data, "unused", "training.save_strategy=epoch"))
    del recipe.training["output_dir"]
    run(recipe)
    assert run(read_recipe("runs/synth_accdoa/recipe.yaml"), resume=True).args.output_dir == "runs/synth_accdoa"
