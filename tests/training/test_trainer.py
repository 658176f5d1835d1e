"""The trainer, end to end on a tiny data set: what it learns, how it scores, and that processes agree."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from modeling_pseldnet import detect
from modeling_pseldnet.events import read_csv
from modeling_pseldnet.tools.evaluate_files import evaluate_files
from tests.helpers import assert_same_weights, saved_weights
from tests.processes import left_of_killed
from training.data import load_windows
from training.recipes import read_recipe
from training.train import build_trainer


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def symmetric_data(tmp_path_factory, make_scenes, write_scenes):
    """Eight scenes with different events whose waveforms differ only in sign, which features do not show: batch
    normalisation thus sees the same statistics however they are distributed over processes."""
    scenes = make_scenes(8)
    alike = [((-1) ** number * scenes[0][0], events) for number, (_, events) in enumerate(scenes)]
    return write_scenes(tmp_path_factory.mktemp("data") / "symmetric", alike)


@pytest.mark.parametrize(
    "recipe", ["synth_accdoa", "synth_multi_accdoa", "synth_einv2", "synth_einv2_agg", "synth_seddoa_agg"]
)
def test_every_format_learns_twelve_clips_by_heart(train, tiny_data, tmp_path, recipe):
    trainer = train(
        "data.train.keep_features=true",
        "training.per_device_train_batch_size=12",
        "training.num_train_epochs=80",
        "training.learning_rate=3e-3",
        "schedule.muon_learning_rate=0.02",
        "schedule.step_epochs=60",
        recipe=recipe,
    )
    metrics = json.loads((tmp_path / "run/eval_results.json").read_text())
    assert metrics["eval_loss"] < 0.005
    assert metrics["eval_LR"] == 1
    assert metrics["eval_F"] >= 0.95
    assert metrics["eval_micro_F"] >= 0.95
    if "einv2" in recipe or "seddoa" in recipe:
        assert len([name for name in metrics if name.startswith("eval_loss_")]) == 2
    # The written predictions give the same scores when evaluated as files.
    scores = evaluate_files(
        [tiny_data / "test/metadata"], [tmp_path / "run/predictions"], num_classes=3, variant="pseldnets"
    )
    assert scores["macro"]["SELD"] == pytest.approx(metrics["eval_SELD"], abs=1e-3)
    assert trainer.scores["classwise"]["F"] == pytest.approx(scores["classwise"]["F"], abs=1e-3)


@pytest.mark.parametrize(("num_frames", "least"), [(47, 50), (7, 40)])
def test_evaluation_finds_in_recordings_of_any_length_what_detect_finds(
    train, make_scenes, write_scenes, tmp_path, num_frames, least
):
    scenes = make_scenes(2, num_frames=num_frames)
    data = write_scenes(tmp_path / "data", scenes)
    options = ["model.threshold=0.02", "data.eval.hop_seconds=0.5", "training.per_device_eval_batch_size=3"]
    trainer = train(*options, "training.num_train_epochs=0", data_dir=data)
    found = 0
    for name in sorted(trainer.predictions):
        audio = data / f"test/foa/{Path(name).name}.wav"
        expected = detect(trainer.model, trainer.feature_extractor, audio, hop_seconds=0.5).sort()
        events = trainer.predictions[name].sort()
        assert sorted(zip(events.frame.tolist(), events.class_id.tolist(), strict=True)) == sorted(
            zip(expected.frame.tolist(), expected.class_id.tolist(), strict=True)
        )
        np.testing.assert_allclose(np.sort(events.azimuth), np.sort(expected.azimuth), atol=1e-3)
        saved = read_csv(tmp_path / f"run/predictions/{name}.csv")
        assert saved.track.tolist() == expected.track.tolist()
        found += len(events)
    assert found > least


@pytest.fixture
def warm_start(train, symmetric_data, tmp_path):
    """A slightly trained model: its folder, and overrides to continue from it with plain gradient descent."""
    start = tmp_path / "start"
    train("training.learning_rate=1e-3", data_dir=symmetric_data, output_dir=start)
    return start, (
        f"model.pretrained={start}",
        "training.optim=sgd",
        "training.learning_rate=0.05",
        "training.max_grad_norm=0",
        "model.threshold=0.05",
    )


def test_gradient_accumulation_gives_the_weights_of_the_big_batch(train, symmetric_data, warm_start, tmp_path):
    start, options = warm_start
    big, small = tmp_path / "big", tmp_path / "small"
    train(*options, data_dir=symmetric_data, output_dir=big)
    accumulation = ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2"]
    train(*options, *accumulation, data_dir=symmetric_data, output_dir=small)
    moved = max((saved_weights(big)[name] - weight).abs().max() for name, weight in saved_weights(start).items())
    assert moved > 1e-2
    assert_same_weights(big, small, atol=1e-5, rtol=1e-5)


def test_two_processes_give_the_weights_and_scores_of_one(train, symmetric_data, warm_start, tiny_overrides, tmp_path):
    _, options = warm_start
    one, two = tmp_path / "one", tmp_path / "two"
    train(*options, data_dir=symmetric_data, output_dir=one)
    overrides = tiny_overrides(
        symmetric_data, two, *options, "training.per_device_train_batch_size=2", "training.use_cpu=true"
    )
    # `accelerate launch --cpu` starts several processes only through MPI; both set the same environment.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launch, "-m", "training.train", "synth_accdoa", "--override", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert_same_weights(one, two, atol=1e-5, rtol=1e-5)
    trainer = train(
        *options, f"model.pretrained={two}", data_dir=symmetric_data, output_dir=tmp_path / "again", only_evaluate=True
    )
    shared, alone = (json.loads((folder / "eval_results.json").read_text()) for folder in (two, tmp_path / "again"))
    for name in alone:
        if not name.endswith(("_per_second", "_runtime")) and name != "epoch":
            assert shared[name] == pytest.approx(alone[name], abs=1e-6), name
    assert finished.stdout.count("pseldnets, 8 recordings") == 1
    assert len(list((two / "predictions").rglob("*.csv"))) == len(trainer.predictions) == 8


def test_processes_share_the_order_of_windows_and_draw_each_for_itself(
    tiny_data, tiny_overrides, tmp_path, monkeypatch
):
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run")))
    drawn = []
    for process in (0, 1):
        monkeypatch.setattr(TrainingArguments, "process_index", process)
        torch.manual_seed(trainer.args.seed)
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        order = [name for batch in trainer.get_train_dataloader() for name in batch["recording"]]
        torch.manual_seed(trainer.args.seed)
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        drawn.append((order, torch.rand(()).item()))
    assert drawn[0][0] == drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_all_processes_score_the_model_with_the_statistics_of_the_first(
    tiny_data, tiny_overrides, tmp_path, monkeypatch
):
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run")))
    loss = trainer.evaluate()["eval_loss"]
    of_first = [buffer.clone() for buffer in trainer.model.buffers()]
    trainer.model.pseldnet.input_norm.running_mean += 5
    assert trainer.evaluate()["eval_loss"] != pytest.approx(loss, rel=1e-3)
    monkeypatch.setattr("training.trainer.broadcast", lambda buffers: [*map(torch.Tensor.copy_, buffers, of_first)])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss)


def test_a_process_that_is_not_to_save_leaves_the_folder_of_the_model_to_the_one_that_is(train, tmp_path, monkeypatch):
    trainer = train("training.num_train_epochs=0")
    monkeypatch.setattr(TrainingArguments, "should_save", False)
    trainer.save_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    trainer.save_model(tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").exists()


def test_the_best_model_by_seld_score_is_kept_and_the_schedule_steps(train, tmp_path):
    trainer = train(
        "training.eval_strategy=epoch",
        "training.save_strategy=epoch",
        "training.load_best_model_at_end=true",
        "training.save_total_limit=1",
        "training.num_train_epochs=4",
        "training.learning_rate=4e-3",
        "training.logging_strategy=epoch",
        "schedule.step_epochs=2",
    )
    history = trainer.state.log_history
    scores = [entry["eval_SELD"] for entry in history if "eval_SELD" in entry and "epoch" in entry][:4]
    best = min(range(4), key=scores.__getitem__)
    assert Path(trainer.state.best_model_checkpoint) == tmp_path / f"run/checkpoint-{3 * (best + 1)}"
    assert_same_weights(tmp_path / "run", Path(trainer.state.best_model_checkpoint), atol=0, rtol=0)
    saved = json.loads((Path(trainer.state.best_model_checkpoint) / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == trainer.state.best_model_checkpoint
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert rates == pytest.approx([4e-3, 4e-3, 4e-4, 4e-4])
    (group,) = [group for group in trainer.optimizer.param_groups if group["params"]]
    assert group["weight_decay"] == 0.01
    assert len(group["params"]) == len(list(trainer.model.parameters()))


def test_training_stops_early_where_the_score_no_longer_gets_better(train, tmp_path):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.load_best_model_at_end=true"]
    trainer = train(*options, "training.num_train_epochs=9", "training.learning_rate=0.0", "schedule.patience=2")
    best = trainer.state.best_global_step / 3
    assert trainer.state.epoch == best + 2 < 9
    # The run is over: when resumed, it is only scored again, unless the patience is increased.
    options += ["training.num_train_epochs=9", "training.learning_rate=0.0"]
    assert train(*options, "schedule.patience=2", resume=True).state.epoch == best + 2
    assert_same_weights(
        tmp_path / "run", tmp_path / f"run/checkpoint-{trainer.state.best_global_step}", atol=0, rtol=0
    )
    longer = train(*options, "schedule.patience=4", resume=True)
    assert longer.state.epoch > best + 3
    (stopping,) = [of for of in longer.callback_handler.callbacks if isinstance(of, EarlyStoppingCallback)]
    assert stopping.early_stopping_patience == 4


def test_predict_gives_outputs_and_labels_and_further_metrics_are_taken(tiny_data, tiny_overrides, tmp_path):
    recipe = read_recipe("synth_einv2", tiny_overrides(tiny_data, tmp_path / "run"))
    trainer = build_trainer(recipe)
    seen = []

    def count(outputs):
        seen.append(outputs)
        return {"windows": len(outputs.label_ids)}

    trainer.compute_metrics = count
    metrics = trainer.evaluate()
    assert metrics["eval_windows"] == 12
    assert metrics["eval_loss"] > 0
    sed, doa = seen[0].predictions
    assert sed.shape[:2] == doa.shape[:2] == (12, 10)
    windows = load_windows(recipe.eval, 1, evaluation=True)
    predicted = trainer.predict(windows)
    np.testing.assert_allclose(predicted.predictions[0], sed)
    expected = trainer.model.output_format.encode(windows.dataset[3]["events"], 10)
    np.testing.assert_allclose(predicted.label_ids[3], expected)
    assert predicted.metrics["test_loss"] == pytest.approx(metrics["eval_loss"])


def test_an_update_that_is_not_finite_is_named_and_left_out(tiny_data, tiny_overrides, tmp_path, caplog):
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run")))
    weight = trainer.model.heads["accdoa"].conv.weight
    seen = []

    def spoil_third(gradient):
        seen.append(weight.detach().clone())
        return gradient * torch.nan if len(seen) == 3 else gradient

    weight.register_hook(spoil_third)
    trainer.train()
    changed = [not torch.equal(before, after) for before, after in pairwise(seen)]
    assert changed == [True, True, False, True, True]
    (message,) = [record.message for record in caplog.records if "skipping an update" in record.message]
    assert message.count("fold0_room1_mix") == 4
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("load", ["get_train_dataloader", "get_eval_dataloader"])
def test_workers_end_with_a_program_that_is_killed(tiny_data, tiny_overrides, tmp_path, monkeypatch, load):
    # More than a pipe can hold, and nobody reads it.
    monkeypatch.setattr("training.trainer.collate", lambda items, **_: {"events": np.zeros(200_000)})
    overrides = ["training.dataloader_num_workers=2", "training.per_device_eval_batch_size=1"]
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run", *overrides)))

    def load_batches():
        batches = iter(getattr(trainer, load)())
        next(batches)
        return batches

    assert left_of_killed(load_batches) == []


@pytest.mark.parametrize("length", ["num_train_epochs=1", "max_steps=1"])
def test_training_without_a_whole_batch_is_refused(train, tmp_path, length):
    options = ("training.dataloader_drop_last=true", "training.per_device_train_batch_size=13", f"training.{length}")
    with pytest.raises(ValueError, match=r"dataloader_drop_last leaves no batch.* smaller per_device"):
        train(*options)
    assert not (tmp_path / "run/model.safetensors").exists()


def test_training_that_diverges_is_stopped(train):
    with pytest.raises(FloatingPointError, match="use a lower learning rate"):
        train("training.learning_rate=1e30", "training.num_train_epochs=9")


def test_a_checkpoint_is_uploaded_from_where_it_stays(tiny_data, tiny_overrides, tmp_path, monkeypatch):
    options = ["training.save_strategy=epoch", "training.num_train_epochs=1"]
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run", *options)))
    uploaded = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda _, folder: uploaded.append(folder))
    trainer.args.push_to_hub = True
    trainer.train()
    assert uploaded == [str(tmp_path / "run/checkpoint-3")]
    assert (tmp_path / "run/checkpoint-3/optimizer.pt").exists()


def test_copies_of_a_batch_are_the_same_whether_waveforms_or_features_are_turned(tiny_data, tiny_overrides, tmp_path):
    options = tiny_overrides(tiny_data, tmp_path, "augmentation={copies: 2, rotation: {}, filter_augment: {}}")
    trainer = build_trainer(read_recipe("synth_multi_accdoa", options))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    assert trainer._turns_features
    turned = []
    for turns in (True, False):
        trainer._turns_features = turns
        torch.manual_seed(0)
        turned.append(trainer._prepare_inputs(batch))
    assert len(turned[0]["input_features"]) == 3 * len(batch["waveform"])
    for name, value in turned[0].items():
        torch.testing.assert_close(value, turned[1][name], atol=2e-4, rtol=2e-4)
