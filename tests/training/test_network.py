"""The networks and adapters that recipes train: what they start from, their features and their classes."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification

from modeling_pseldnet import PSELDNetForSELD, detect
from modeling_pseldnet.events import read_csv, write_csv
from modeling_pseldnet.tools.evaluate_files import evaluate_files
from modeling_pseldnet.tools.loading import load
from modeling_pseldnet.tools.predict import main as predict
from training.recipes import read_recipe
from training.train import run


CLASSES = ["low", "middle", "high"]


@pytest.fixture(scope="module")
def base(tiny_data, tiny_overrides, tmp_path_factory):
    """The folder of a network that is not trained yet."""
    folder = tmp_path_factory.mktemp("network") / "base"
    overrides = tiny_overrides(tiny_data, folder, "training.num_train_epochs=0", "model.threshold=0.2")
    run(read_recipe("synth_accdoa", overrides))
    return folder


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
def test_adapters_learn_other_classes_on_top_of_a_model(train, base, five_classes, tmp_path, peft):
    trainer = train(f"peft={peft}", f"model.pretrained={base}", data_dir=five_classes)
    assert isinstance(trainer.model, PeftModel)
    assert not (tmp_path / "run/model.safetensors").exists()
    other = AutoModelForAudioFrameClassification.from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True)
    loaded = PeftModel.from_pretrained(other, tmp_path / "run").eval()
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


def test_an_adapter_that_cannot_be_used_says_what_to_do(train, base, five_classes, tiny_data, tmp_path, capsys):
    shutil.copytree(base, tmp_path / "base")
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


def test_an_adapter_that_could_not_be_loaded_is_not_trained(train, base, five_classes):
    start, lora = f"model.pretrained={base}", "method: lora, r: 2, target_modules: [q_proj]"
    with pytest.raises(ValueError, match="is saved without its base model: set model"):
        train(f"peft={{{lora}}}")
    with pytest.raises(ValueError, match=r"lora would not save heads\.accdoa\.\S+, .* such as heads\.accdoa"):
        train(start, f"peft={{{lora}}}", data_dir=five_classes)
    with pytest.raises(ValueError, match=r"unsupported peft\.method 'prompt_tuning': choose from (?!.*prompt_tuning)"):
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


def test_other_classes_cannot_be_scored(train, base, renamed_data):
    others = renamed_data(["low", "middle", "shrill"])
    with pytest.raises(ValueError, match="only the data has shrill; only the model has high"):
        train(f"model.pretrained={base}", data_dir=others, only_evaluate=True)


def test_what_is_kept_of_the_model_to_start_from_is_told(train, base, tmp_path, capsys):
    start = f"model.pretrained={base}"
    assert train(start, "training.num_train_epochs=0").model.config.threshold == 0.2
    # Thresholds do not carry over to another output format.
    other = train(start, "training.num_train_epochs=0", "model.output_format=multi_accdoa", output_dir=tmp_path / "of")
    assert other.model.config.threshold == 0.5
    assert "kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"base: .* has shape"):
        train(start, "model.embed_dim=16", output_dir=tmp_path / "other")


def test_a_network_that_is_new_as_a_whole_or_in_part_is_not_scored(train, base, tmp_path):
    with pytest.raises(ValueError, match=f"--only-evaluate needs model.pretrained.* such as {tmp_path / 'run'}"):
        train(only_evaluate=True)
    assert not (tmp_path / "run").exists()
    for override in ("model.output_format=multi_accdoa", "model.distance=true"):
        with pytest.raises(ValueError, match=r"set model.output_format to accdoa and model.distance to false"):
            train(f"model.pretrained={base}", override, only_evaluate=True)


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
