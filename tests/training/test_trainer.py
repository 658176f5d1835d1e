"""Training runs, end to end on a tiny data set: what they learn, that they are reproducible, and what they survive."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioFrameClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from datasets_scripts.segments import SegmentedDataset
from modeling_pseldnet import PSELDNetForSELD, detect
from modeling_pseldnet.events import Events, read_csv, write_csv
from modeling_pseldnet.tools.evaluate_files import evaluate_files
from modeling_pseldnet.tools.loading import load
from modeling_pseldnet.tools.predict import main as predict
from tests.processes import left_of_killed
from training.augmentation import AugMix
from training.data import load_windows
from training.recipes import DataRecipe, read_recipe
from training.train import build_trainer, main, run
from training.trainer import SELDTrainer


ROOT = Path(__file__).parents[2]
CLASSES = ["low", "middle", "high"]
# The scenes of the tiny data with a single source.
ONE_SOURCE = r".*mix0(01|03|04|06|10|11)"
ALL_METHODS = (
    "augmentation={rotation: {}, wav_mix: {}, spec_augment: {}, crop: {}, frequency_shift: {}, track_mix: {}}"
)


@pytest.fixture
def train(tiny_data, tiny_overrides, tmp_path):
    """Run a recipe on the tiny data, with additional overrides."""

    def train(*more, recipe="synth_accdoa", data_dir=tiny_data, output_dir=tmp_path / "run", **options):
        return run(read_recipe(recipe, tiny_overrides(data_dir, output_dir, *more)), **options)

    return train


def parameters(folder):
    """Saved weights without the statistics of batch normalisation."""
    weights = load_file(folder / "model.safetensors")
    return {name: weight for name, weight in weights.items() if "running" not in name and "num_batches" not in name}


def assert_same(first, second, **tolerance):
    first, second = parameters(first), parameters(second)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


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


@pytest.mark.parametrize(
    ("checkpoint", "more"),
    [
        (4, []),
        (6, []),
        (4, ["schedule.muon_learning_rate=0.02"]),
        (8, ["data.train.mix_in={{share: 0.4, data_dir: {data}}}"]),
        (4, ["training.dataloader_num_workers=1", "training.dataloader_persistent_workers=true"]),
    ],
    ids=["within an epoch", "between epochs", "Muon", "other windows in each epoch", "workers that outlast epochs"],
)
def test_resumed_training_gives_the_weights_of_uninterrupted_training(train, tiny_data, tmp_path, checkpoint, more):
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
    shutil.copytree(tmp_path / f"run/checkpoint-{checkpoint}", tmp_path / f"resumed/checkpoint-{checkpoint}")
    train(*options, output_dir=tmp_path / "resumed", resume=True)
    assert_same(tmp_path / "run", tmp_path / "resumed", atol=0, rtol=0)


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
    assert_same(tmp_path / "run", tmp_path / "resumed", atol=0, rtol=0)


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
    moved = max((parameters(big)[name] - weight).abs().max() for name, weight in parameters(start).items())
    assert moved > 1e-2
    assert_same(big, small, atol=1e-5, rtol=1e-5)


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
    assert_same(one, two, atol=1e-5, rtol=1e-5)
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
    assert_same(tmp_path / "run", Path(trainer.state.best_model_checkpoint), atol=0, rtol=0)
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
    assert_same(tmp_path / "run", tmp_path / f"run/checkpoint-{trainer.state.best_global_step}", atol=0, rtol=0)
    longer = train(*options, "schedule.patience=4", resume=True)
    assert longer.state.epoch > best + 3
    (stopping,) = [of for of in longer.callback_handler.callbacks if isinstance(of, EarlyStoppingCallback)]
    assert stopping.early_stopping_patience == 4


def test_a_run_may_go_on_with_a_patience_that_it_had_not(train):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.metric_for_best_model=SELD"]
    train(*options, "training.num_train_epochs=1")
    trainer = train(*options, "schedule.patience=5", "training.num_train_epochs=2", resume=True)
    assert trainer.state.epoch == 2
    assert "EarlyStoppingCallback" in trainer.state.stateful_callbacks
    assert train(*options, "training.num_train_epochs=3", resume=True).state.epoch == 3


@pytest.fixture
def five_classes(tiny_data, tmp_path):
    """The tiny data with a list of five classes."""
    data = shutil.copytree(tiny_data, tmp_path / "other")
    (data / "cls_indices_train.tsv").write_text("".join(f"{n}\t-\tclass {n}\t1\t1\n" for n in range(5)))
    return data


@pytest.mark.parametrize(
    "peft",
    [
        "{method: adapterbit}",
        "{method: lora, r: 2, target_modules: [q_proj, v_proj], modules_to_save: [heads.accdoa, input_norm]}",
        "{method: lora, r: 2, target_modules: [q_proj, v_proj], modules_to_save: [heads.accdoa]}",
    ],
    ids=["adapterbit", "lora", "lora with the norm of the input as it was"],
)
def test_adapters_learn_other_classes_on_top_of_a_model(train, five_classes, tmp_path, peft):
    train("training.num_train_epochs=0", "model.threshold=0.1", output_dir=tmp_path / "base")
    trainer = train(f"peft={peft}", f"model.pretrained={tmp_path / 'base'}", data_dir=five_classes)
    assert isinstance(trainer.model, PeftModel)
    assert not (tmp_path / "run/model.safetensors").exists()
    base = AutoModelForAudioFrameClassification.from_pretrained(
        tmp_path / "base", num_labels=5, ignore_mismatched_sizes=True
    )
    loaded = PeftModel.from_pretrained(base, tmp_path / "run").eval()
    merged, extractor = load(str(tmp_path / "run"), device="cpu")
    assert type(merged) is PSELDNetForSELD
    assert list(merged.config.id2label.values()) == [f"class {n}" for n in range(5)]
    features = torch.randn(1, 7, 101, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(features).accdoa, trainer.model.eval()(features).accdoa)
        torch.testing.assert_close(merged(features).accdoa, loaded(features).accdoa, atol=1e-5, rtol=1e-4)

    # The output folder can be scored, trained further and used like that of a whole model.
    start = f"model.pretrained={tmp_path / 'run'}"
    again = train(start, data_dir=five_classes, output_dir=tmp_path / "again", only_evaluate=True)
    losses = [json.loads((tmp_path / run / "eval_results.json").read_text())["eval_loss"] for run in ("run", "again")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert again.model.get_nb_trainable_parameters() == trainer.model.get_nb_trainable_parameters()
    clip = next((five_classes / "test/foa").glob("*.wav"))
    assert predict([str(clip), "--model", str(tmp_path / "run"), "--output", str(tmp_path / "events")]) == 0
    assert len(detect(merged, extractor, clip, threshold=0.02)) > 0


def test_an_adapter_that_cannot_be_used_says_what_to_do(train, five_classes, tiny_data, tmp_path, capsys):
    train("training.num_train_epochs=0", output_dir=tmp_path / "base")
    adapterbit = "peft.method=adapterbit", f"model.pretrained={tmp_path / 'base'}"
    train("training.num_train_epochs=0", *adapterbit, output_dir=tmp_path / "adapter")
    start = f"model.pretrained={tmp_path / 'adapter'}"
    with pytest.raises(ValueError, match="is an adapter of adapterbit, not of lora: set peft to null"):
        train(start, "peft={method: lora, target_modules: [q_proj]}")
    with pytest.raises(ValueError, match=r"an adapter with scale 0\.1, not 7: set peft to null"):
        train(start, "peft={method: adapterbit, scale: 7}")
    with pytest.raises(
        ValueError, match=r"an adapter with model.output_format accdoa, not multi_accdoa: set it to accdoa"
    ):
        train(start, "model.output_format=multi_accdoa")
    modules = "[fc2, fc1, q_proj, k_proj, v_proj, o_proj]"
    lora = f"peft={{method: lora, r: 2, target_modules: {modules}, modules_to_save: [heads]}}"
    base = f"model.pretrained={tmp_path / 'base'}"
    train("training.num_train_epochs=0", lora, base, output_dir=tmp_path / "lora")
    train("training.num_train_epochs=0", lora, f"model.pretrained={tmp_path / 'lora'}", output_dir=tmp_path / "on")
    with pytest.raises(ValueError, match="is an adapter for 3 classes, but the data has 5: start from the model"):
        train(start, data_dir=five_classes)
    shutil.rmtree(tmp_path / "base")
    clip = next((tiny_data / "test/foa").glob("*.wav"))
    assert predict([str(clip), "--model", str(tmp_path / "adapter"), "--output", str(tmp_path / "events")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"it is an adapter for {tmp_path / 'base'}, which cannot be loaded: put that model there" in error


def test_an_adapter_that_could_not_be_loaded_is_not_trained(train, five_classes, tmp_path):
    train("training.num_train_epochs=0", output_dir=tmp_path / "base")
    start, lora = f"model.pretrained={tmp_path / 'base'}", "method: lora, r: 2, target_modules: [q_proj]"
    with pytest.raises(ValueError, match="is saved without its base model: set model"):
        train(f"peft={{{lora}}}")
    with pytest.raises(ValueError, match=r"lora would not save heads\.accdoa\.\S+, .* such as heads\.accdoa"):
        train(start, f"peft={{{lora}}}", data_dir=five_classes)
    with pytest.raises(ValueError, match=r"unknown or unsupported peft\.method 'prompt_tuning'"):
        train(start, "peft={method: prompt_tuning, num_virtual_tokens: 2, task_type: TOKEN_CLS}")


@pytest.fixture(scope="module")
def renamed_data(tiny_data, tmp_path_factory):
    """A function that copies the tiny data with its classes in another order, or with other names."""

    def renamed(class_names):
        data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("data") / "renamed")
        rows = [f"{number}\t-\t{name}\t1\t1\n" for number, name in enumerate(class_names)]
        (data / "cls_indices_train.tsv").write_text("".join(rows))
        for path in data.glob("*/metadata/*.csv"):
            events = read_csv(path)
            numbers = np.array([class_names.index(name) if name in class_names else 0 for name in CLASSES])
            write_csv(path, events.replace(class_id=numbers[events.class_id]))
        return data

    return renamed


def test_classes_are_matched_by_name(train, tiny_data, renamed_data, tmp_path):
    train("training.num_train_epochs=6", "training.learning_rate=3e-3", output_dir=tmp_path / "start")
    start, reversed_data = f"model.pretrained={tmp_path / 'start'}", renamed_data(CLASSES[::-1])
    score = {}
    for name, data in (("same", tiny_data), ("reversed", reversed_data)):
        train(start, data_dir=data, output_dir=tmp_path / name, only_evaluate=True)
        score[name] = json.loads((tmp_path / name / "eval_results.json").read_text())
    assert score["reversed"]["eval_loss"] == pytest.approx(score["same"]["eval_loss"], rel=1e-5)
    assert score["reversed"]["eval_micro_F"] == pytest.approx(score["same"]["eval_micro_F"])
    # The predictions have the class indices of the references that lie with the data.
    reference, prediction = reversed_data / "test/metadata", tmp_path / "reversed/predictions"
    written = evaluate_files([reference], [prediction], num_classes=3, variant="pseldnets")
    assert written["micro"]["F"] == pytest.approx(score["same"]["eval_micro_F"], abs=1e-3)
    # Training continues in the order of the model's classes, and learns the same as from the original data.
    further = [train(start, data_dir=d, output_dir=tmp_path / d.name) for d in (tiny_data, reversed_data)]
    assert list(further[1].model.config.id2label.values()) == CLASSES
    for first, second in zip(*(trainer.model.parameters() for trainer in further), strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_other_classes_cannot_be_scored(train, renamed_data, tmp_path):
    train("training.num_train_epochs=0", output_dir=tmp_path / "start")
    with pytest.raises(ValueError, match="only the data has shrill; only the model has high"):
        train(
            f"model.pretrained={tmp_path / 'start'}",
            data_dir=renamed_data(["low", "middle", "shrill"]),
            only_evaluate=True,
        )


def test_what_is_kept_of_the_model_to_start_from_is_told(train, tmp_path, capsys):
    train("training.num_train_epochs=0", "model.threshold=0.2", output_dir=tmp_path / "start")
    start = f"model.pretrained={tmp_path / 'start'}"
    capsys.readouterr()
    assert train(start, "training.num_train_epochs=0").model.config.threshold == 0.2
    # Thresholds do not carry over to another output format.
    other = train(start, "training.num_train_epochs=0", "model.output_format=multi_accdoa", output_dir=tmp_path / "of")
    assert other.model.config.threshold == 0.5
    assert "kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"start: .* has shape"):
        train(start, "model.embed_dim=16", output_dir=tmp_path / "other")


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


def test_the_best_model_is_kept_when_a_run_goes_on_in_another_place(train, tmp_path):
    options = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.load_best_model_at_end=true"]
    train(*options, "training.num_train_epochs=4", "training.learning_rate=4e-3")
    (tmp_path / "run").rename(tmp_path / "moved")
    state = json.loads((tmp_path / "moved/checkpoint-12/trainer_state.json").read_text())
    again = train(
        *options,
        "training.num_train_epochs=4",
        "training.learning_rate=4e-3",
        output_dir=tmp_path / "moved",
        resume=True,
    )
    best = tmp_path / "moved" / f"checkpoint-{state['best_global_step']}"
    assert Path(again.state.best_model_checkpoint) == best
    assert again.state.best_metric == state["best_metric"]
    assert_same(tmp_path / "moved", best, atol=0, rtol=0)


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
    options += ["training.num_train_epochs=9", "training.learning_rate=0.0", "schedule.patience=1"]
    first = train(*options)
    assert first.state.epoch < 9
    assert train(*options, "training.metric_for_best_model=LE", resume=True).state.epoch > first.state.epoch


def test_scores_of_a_model_do_not_replace_those_of_the_run_in_the_same_folder(train, tmp_path):
    folder = tmp_path / "run"
    train("training.num_train_epochs=1")
    kept = {name: (folder / name).read_bytes() for name in ("eval_results.json", "recipe.yaml")}
    train(f"model.pretrained={folder}", "model.threshold=0.9", only_evaluate=True)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert all((folder / "evaluation" / name).exists() for name in (*kept, "predictions"))
    # The same holds for an interrupted run.
    (folder / "training_args.bin").unlink()
    (folder / "checkpoint-3").mkdir()
    train(f"model.pretrained={folder}", only_evaluate=True)
    assert (folder / "recipe.yaml").read_bytes() == kept["recipe.yaml"]


def test_a_network_that_is_new_as_a_whole_or_in_part_is_not_scored(train, tmp_path):
    with pytest.raises(ValueError, match=f"--only-evaluate needs model.pretrained.* such as {tmp_path / 'run'}"):
        train(only_evaluate=True)
    assert not (tmp_path / "run").exists()
    train("training.num_train_epochs=0")
    for override in ("model.output_format=multi_accdoa", "model.distance=true"):
        with pytest.raises(ValueError, match=r"set model.output_format to accdoa and model.distance to false"):
            train(f"model.pretrained={tmp_path / 'run'}", override, only_evaluate=True)


def test_recordings_that_cannot_be_scored_are_named_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"mix000 has events without a distance.* dcase2023 or pseldnets"):
        train("model.distance=true", "evaluation.variant=dcase2024")
    assert not (tmp_path / "run").exists()


def test_a_metric_of_recordings_that_there_are_none_of_is_refused_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"'ov3_F' cannot be computed, .* no such recordings, only ov1, ov2"):
        train("training.metric_for_best_model=ov3_F", "training.eval_strategy=epoch")
    assert not (tmp_path / "run").exists()
    train("training.metric_for_best_model=eval_ov2_F", "training.eval_strategy=epoch", "training.num_train_epochs=1")


def test_a_loss_that_the_output_format_has_not_is_refused_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"'loss_sed' is not a loss of this model: use loss, or a score"):
        train("training.metric_for_best_model=loss_sed", "training.eval_strategy=epoch")
    assert not (tmp_path / "run").exists()
    train("training.metric_for_best_model=loss_sed", "training.num_train_epochs=0", recipe="synth_einv2")


def test_labels_are_read_once_before_training(train, monkeypatch):
    read = []
    monkeypatch.setattr(
        SegmentedDataset, "references", lambda windows: read.append(windows) or iter([("a", Events.empty())])
    )
    train("training.metric_for_best_model=ov0_F", "training.num_train_epochs=0")
    assert len(read) == 1


def test_folders_of_a_recipe_may_be_told_from_home(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    train("training.num_train_epochs=0", output_dir="~/base")
    train("training.num_train_epochs=0", "model.pretrained=~/base", output_dir="~/run")
    assert (tmp_path / "run/model.safetensors").is_file()
    train("model.pretrained=~/run", output_dir="~/run", only_evaluate=True)
    assert (tmp_path / "run/evaluation/eval_results.json").is_file()


def test_mono_training_hears_other_directions_each_time(train):
    trainer = train("data.train.mono=true", f"data.train.recordings={ONE_SOURCE}", "training.num_train_epochs=1")
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
    trainer.model.train()
    first, second = (trainer._prepare_inputs(dict(batch))["labels"] for _ in range(2))
    assert torch.equal(first.norm(dim=3) > 0.5, second.norm(dim=3) > 0.5)
    assert not torch.allclose(first, second)
    trainer.model.eval()
    recorded = trainer.model.output_format.encode(batch["events"], 20).unflatten(0, (2, 10))
    assert torch.equal(trainer._prepare_inputs(dict(batch))["labels"], recorded)


@pytest.fixture(scope="module")
def array_data(tiny_data, tmp_path_factory):
    """The tiny data, as if recorded by a microphone array."""
    data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("data") / "array")
    for split in ("train", "test"):
        (data / split / "foa").rename(data / split / "mic")
    return data


def test_a_recipe_chooses_the_features_and_a_model_that_starts_from_another_keeps_them(train, array_data, tmp_path):
    array = ("data.config_name=mic", "training.num_train_epochs=1")
    first = train(*array, "features={feature_type: logmel_gcc, n_fft: 512}", data_dir=array_data)
    assert first.model.config.num_channels == 10
    start = f"model.pretrained={tmp_path / 'run'}"
    second = train(*array, start, data_dir=array_data, output_dir=tmp_path / "second")
    for extractor in (second.feature_extractor, AutoFeatureExtractor.from_pretrained(tmp_path / "second")):
        assert (extractor.feature_type, extractor.n_fft) == ("logmel_gcc", 512)
    with pytest.raises(ValueError, match="salsa_lite features do not fit the model, which needs logmel_gcc"):
        train(*array, start, "features.feature_type=salsa_lite", data_dir=array_data, only_evaluate=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.config_name=mic"], "logmel_iv features cannot be computed from 'array' audio (data.train): set"),
        (
            ["features.feature_type=salsa_lite"],
            "set features.feature_type to logmel_iv, or choose another data.config",
        ),
        (
            ["data.config_name=mic", "features.feature_type=salsa_lite", "augmentation={rotation: {}}"],
            "augmentation.rotation does not work with salsa_lite",
        ),
        (
            [
                "data.config_name=mic",
                "features.feature_type=salsa_lite",
                "data.train.mix_in={share: 0.5, config_name: foa, data_dir: foa_data}",
            ],
            "salsa_lite features cannot be computed from 'ambix' audio (data.train.mix_in)",
        ),
        (
            ["augmentation={frequency_shift: {mel_bins: 64}}"],
            "frequency_shift.mel_bins must be below the number of mel bins, 64",
        ),
    ],
)
def test_features_that_do_not_fit_the_data_are_refused(train, tiny_data, array_data, overrides, message):
    overrides = [override.replace("foa_data", str(tiny_data)) for override in overrides]
    with pytest.raises(ValueError, match=re.escape(message)):
        train(*overrides, data_dir=array_data if "data.config_name=mic" in overrides else tiny_data)


def damaged(tiny_data, tmp_path, damage):
    """A copy of the tiny data with one training recording put through `damage`."""
    data = tmp_path / "damaged"
    shutil.copytree(tiny_data, data)
    damage(data / "train/foa/fold0_room1_mix005.wav")
    return data


def with_nan(path):
    waveform, rate = soundfile.read(path)
    waveform[1000] = np.nan
    soundfile.write(path, waveform, rate, subtype="FLOAT")


def far_too_loud(path):
    waveform, rate = soundfile.read(path)
    soundfile.write(path, 1e4 * waveform, rate, subtype="FLOAT")


def cut_off(path):
    waveform, rate = soundfile.read(path)
    path.unlink()
    path = path.with_suffix(".flac")
    soundfile.write(path, waveform, rate)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [with_nan, far_too_loud, cut_off])
def test_a_damaged_recording_is_named_and_left_out(train, tiny_data, tmp_path, caplog, damage):
    train(data_dir=damaged(tiny_data, tmp_path, damage))
    named = [record.message for record in caplog.records if "skipping a training window" in record.message]
    assert len(named) == 2
    assert all("fold0_room1_mix005" in message for message in named)
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "run/model.safetensors").values())


def test_training_stops_where_no_recording_can_be_read(train, tiny_data, tmp_path):
    def cut_off_all(path):
        for file in path.parent.iterdir():
            cut_off(file)

    with pytest.raises(OSError, match="10 windows in a row cannot be used"):
        train(data_dir=damaged(tiny_data, tmp_path, cut_off_all))


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


def test_a_checkpoint_is_uploaded_from_where_it_stays(tiny_data, tiny_overrides, tmp_path, monkeypatch):
    options = ["training.save_strategy=epoch", "training.num_train_epochs=1"]
    trainer = build_trainer(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path / "run", *options)))
    uploaded = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda _, folder: uploaded.append(folder))
    trainer.args.push_to_hub = True
    trainer.train()
    assert uploaded == [str(tmp_path / "run/checkpoint-3")]
    assert (tmp_path / "run/checkpoint-3/optimizer.pt").exists()


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


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory):
    """A folder of isolated sounds, `sounds`, and a recipe of small scenes, `scenes.yaml`."""
    pytest.importorskip("pyroomacoustics")
    folder, generator = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for name in ("low", "middle", "high"):
        (folder / "sounds" / name).mkdir(parents=True)
        for take in "abcde":
            samples = 0.1 * generator.standard_normal(12000)
            soundfile.write(folder / "sounds" / name / f"{name}{take}.wav", samples, 24000)
    rooms = "rooms: {number: 1, rt60: [0.2, 0.2], positions: 2, paths: 1}"
    interference = "interference: {probability: 1.0, gap: [0.0, 0.2]}"
    (folder / "scenes.yaml").write_text(f"scene_seconds: 1.0\n{rooms}\n{interference}\n")
    return folder


def test_scenes_and_mono_clips_are_made_while_training(train, tiny_data, sound_folder, tmp_path):
    # Classes are in the alphabetical order of their folders.
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "cls_indices_train.tsv").write_text("0\t-\thigh\t1\t1\n1\t-\tlow\t1\t1\n2\t-\tmiddle\t1\t1\n")
    recipe = sound_folder / "scenes.yaml"
    for source, more in (("scenes", [f"data.train.scene_recipe={recipe}", "data.train.scenes=4"]), ("mono_clips", [])):
        trainer = train(
            f"data.train.source={source}",
            f"data.train.data_dir={sound_folder / 'sounds'}",
            "training.num_train_epochs=1",
            *more,
            data_dir=data,
            output_dir=tmp_path / source,
        )
        assert trainer.state.global_step > 0
        item = trainer.train_dataset[0]
        assert len(item["events"]) > 0
        assert item["waveform"].shape == ((4 if source == "scenes" else 1), 24000)


def test_mono_clips_are_of_the_classes_of_the_scene_recipe(sound_folder):
    recipe = sound_folder / "some.yaml"
    recipe.write_text("events: {classes: [low]}\n")
    data = DataRecipe("mono_clips", data_dir=str(sound_folder / "sounds"), scene_recipe=str(recipe))
    windows = load_windows(data, 1)
    events = [windows.dataset[index]["events"] for index in range(len(windows.dataset))]
    assert {windows.class_names[number] for part in events for number in part.class_id} == {"low"}
    assert windows.class_names == ["high", "low", "middle"]


def test_what_is_drawn_follows_from_epoch_and_index_as_resumed_runs_need_it(tiny_data, sound_folder, tmp_path):
    clips = DataRecipe("mono_clips", data_dir=str(sound_folder / "sounds"))
    own = {"data_dir": str(tiny_data), "cache_dir": str(tmp_path)}
    mixed = DataRecipe("synthetic_seld", **own, mix_in={"share": 0.5, **own})
    sounds = {"source": "mono_clips", "data_dir": str(sound_folder / "sounds")}
    with_clips = DataRecipe("synthetic_seld", **own, mono=True, recordings=ONE_SOURCE, mix_in={"share": 0.5, **sounds})
    windows = load_windows(with_clips, 1.0).dataset
    assert {windows[index]["waveform"].shape for index in range(len(windows))} == {(1, 24000)}
    for recipe in (clips, mixed):
        torch.manual_seed(0)
        windows = load_windows(recipe, 1.0).dataset
        last = len(windows) - 1
        drawn = []
        for epoch in (0, 1, 2, 1):
            windows.set_epoch(epoch)
            # Another seed, as in another worker or a resumed process.
            torch.manual_seed(len(drawn))
            drawn.append([(item["recording"], item["events"].frame.min()) for item in (windows[0], windows[last])])
        assert drawn[1] == drawn[3]
        assert len({str(items) for items in drawn}) > 1


def test_features_are_made_once_and_kept_in_memory(train, tiny_data, tiny_overrides, tmp_path):
    trainer = train("data.train.keep_features=true", "training.num_train_epochs=1")
    windows = load_windows(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path)).train, 1).dataset
    assert len(trainer.train_dataset) == len(windows)
    for kept, window in ((trainer.train_dataset[number], windows[number]) for number in range(len(windows))):
        expected = trainer.feature_extractor.features(torch.from_numpy(window["waveform"])[None])[0]
        torch.testing.assert_close(torch.from_numpy(kept["features"]).float(), expected, atol=0.04, rtol=1e-3)
        assert np.array_equal(kept["events"].frame, window["events"].frame)
        assert kept["recording"] == window["recording"]


def test_rendered_scenes_can_be_evaluated_on(train, sound_folder):
    scenes = ["data.source=scenes", "data.train.scenes=4", "data.eval.scenes=3", "data.eval.split=test"]
    trainer = train(
        f"data.scene_recipe={sound_folder / 'scenes.yaml'}",
        *scenes,
        "training.num_train_epochs=1",
        data_dir=sound_folder / "sounds",
    )
    assert sorted(trainer.predictions) == ["scene0", "scene1", "scene2"]


def test_rendered_scenes_hold_sounds_of_no_class_from_a_folder(sound_folder):
    recipe = DataRecipe(
        source="scenes",
        data_dir=str(sound_folder / "sounds"),
        scene_recipe=str(sound_folder / "scenes.yaml"),
        interference_dir=str(sound_folder / "sounds"),
        scenes=8,
    )
    windows = load_windows(recipe, 1)
    scenes = [windows.dataset.bank.scene_set.scene(number) for number in range(8)]
    assert sum(len(scene.interference) > 0 for scene in scenes) > 1
    assert windows.class_names == ["high", "low", "middle"]


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [
        ("scenes", "fraction", 0.5),
        ("scenes", "recordings", "a"),
        ("mono_clips", "hop_seconds", 1),
        ("starss23", "interference_dir", "x"),
    ],
)
def test_what_a_source_knows_nothing_of_is_refused(source, field, value):
    with pytest.raises(ValueError, match=rf"data.train.{field} \({value}\) has no effect with source {source}"):
        load_windows(DataRecipe(source=source, data_dir="x", **{field: value}), 1)


def test_scenes_are_the_same_whether_workers_render_them_or_the_trainer(sound_folder, tiny_overrides, tmp_path):
    options = (
        "augmentation=null",
        "data.train.source=scenes",
        f"data.train.data_dir={sound_folder / 'sounds'}",
        f"data.train.scene_recipe={sound_folder / 'scenes.yaml'}",
        "data.train.scenes=3",
        "data.eval.source=scenes",
        f"data.eval.data_dir={sound_folder / 'sounds'}",
        "data.eval.split=test",
        "data.eval.scenes=1",
        f"data.eval.scene_recipe={sound_folder / 'scenes.yaml'}",
        "training.per_device_train_batch_size=3",
        "training.dataloader_num_workers=1",
    )
    prepared = []
    for device in (None, "cpu"):
        recipe = read_recipe("synth_multi_accdoa", tiny_overrides(sound_folder, tmp_path, *options))
        trainer = build_trainer(recipe)
        trainer.train_dataset = load_windows(recipe.train, 1, device=device, num_workers=2).dataset
        trainer.model.train()
        torch.manual_seed(0)
        (batch,) = trainer.get_train_dataloader()
        assert ("waveform" in batch) is (device is None)
        order = np.argsort(batch["recording"])
        inputs = trainer._prepare_inputs(batch)
        prepared.append({name: value[order] for name, value in inputs.items()})
    assert prepared[0]["labels"].any()
    for name, value in prepared[0].items():
        torch.testing.assert_close(prepared[1][name], value, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="call load_windows without device"):
        trainer.evaluate(load_windows(recipe.eval, 1, device="cpu"))


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


def test_each_epoch_has_its_own_scenes_whatever_workers_do(sound_folder):
    recipe = DataRecipe(
        source="scenes",
        data_dir=str(sound_folder / "sounds"),
        scene_recipe=str(sound_folder / "scenes.yaml"),
        scenes=3,
    )
    scenes = load_windows(recipe, 1).dataset
    loader = torch.utils.data.DataLoader(scenes, num_workers=1, persistent_workers=True, collate_fn=list)
    epochs = []
    for epoch in range(2):
        scenes.set_epoch(epoch)
        epochs.append([items[0]["recording"] for items in loader])
    assert epochs == [["scene0", "scene1", "scene2"], ["scene3", "scene4", "scene5"]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.eval.mono=true", "data.eval.mono would score directions drawn at random"),
        ("data.keep_features=true", "data.eval.keep_features has no effect: set data.train.keep_features instead"),
        (
            "data.train.mix_in={{share: 0.02, data_dir: {data}}}",
            "share 0.02 of 12 windows adds no window: increase it",
        ),
        ("data.train.mono=true", "data.train.mono: several sources overlap in 50% of the frames"),
        (
            "data.train.mix_in={{share: 0.5, data_dir: {data}, keep_features: true}}",
            "data.train.mix_in.keep_features has no effect: set data.train.keep_features",
        ),
    ],
)
def test_data_that_would_be_none_or_mean_nothing_is_refused(train, tiny_data, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(override.format(data=tiny_data))


def test_what_cannot_be_evaluated_on_is_refused_before_data_for_training_is_loaded(train, monkeypatch):
    monkeypatch.setattr("training.data.load_windows", Mock(side_effect=AssertionError))
    for override in ("mono=true", "keep_features=true", "mix_in={share: 0.5}", "source=mono_clips"):
        with pytest.raises(ValueError, match=r"data\.eval\."):
            train(f"data.eval.{override}")


def test_wav_mix_does_not_go_with_features_that_are_kept(train):
    with pytest.raises(ValueError, match=r"keep_features does not work with augmentation.wav_mix"):
        train("data.train.keep_features=true", "augmentation={wav_mix: {}}")
    with pytest.raises(ValueError, match="wav_mix needs waveforms"):
        AugMix(wav_mix={})(torch.zeros(2, 7, 10, 64), Events.empty(), 1)


def test_mono_clips_have_no_features_to_keep(train, sound_folder):
    with pytest.raises(ValueError, match="keep_features does not work with mono clips"):
        train(
            "data.train.source=mono_clips",
            "data.train.keep_features=true",
            "data.eval.source=scenes",
            "data.eval.scenes=1",
            f"data.scene_recipe={sound_folder / 'scenes.yaml'}",
            data_dir=sound_folder / "sounds",
        )


def test_the_program_trains_and_prints_scores(tiny_data, tiny_overrides, tmp_path, capsys):
    main(["synth_accdoa", "--override", *tiny_overrides(tiny_data, "unused"), "--output-dir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "pseldnets, 12 recordings" in out
    assert "recordings with ov2 macro" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["low", "middle", "high"]
    names = sorted(path.stem for path in (tiny_data / "test/metadata").iterdir())
    assert sorted(path.stem for path in (tmp_path / "run/predictions/test").iterdir()) == names
    assert (tmp_path / "run/model.safetensors").exists()
