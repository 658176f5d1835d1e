"""Loading models and adapters of others: in every way, and broken in any way."""

import json
import random
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from peft import AutoPeftModel, IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForAudioFrameClassification, Trainer, TrainingArguments, pipeline

import modeling_pseldnet
from modeling_pseldnet import (
    DEFAULT_MODEL,
    AdapterBitConfig,
    PSELDNetConfig,
    PSELDNetForSELD,
    adapters,
    load,
    load_for_transfer,
)
from modeling_pseldnet.tools.predict import main as predict
from tests.helpers import has_native_adapters, scattered, tiny_config


native_adapters = pytest.mark.skipif(
    not has_native_adapters(), reason="this transformers asks for a PEFT that is not out"
)


WHOLE = ["input_norm", "heads"]
METHODS = {
    "adapterbit": AdapterBitConfig(r=2),
    "lora": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=WHOLE),
    "ia3": IA3Config(target_modules=["q_proj", "v_proj", "fc1"], feedforward_modules=["fc1"], modules_to_save=WHOLE),
}


def outputs(model) -> torch.Tensor:
    features = torch.randn(1, 7, 101, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(features).accdoa


def changed(model):
    """Change the trainable weights of a model as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", str(Path(DEFAULT_MODEL).parent))
    assert load("~/default_model", "cpu")[0].config.num_labels == 48


@pytest.mark.parametrize("name", ["./none", "/a/none", "runs/a/none"])
def test_a_folder_that_is_not_there_is_told_of_and_not_a_bad_name_alone(name):
    with pytest.raises(ValueError, match=f"^{name}: no such folder, and it cannot be loaded from the Hub: "):
        load(name)


def test_a_name_that_no_repository_has_is_not_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr("modeling_pseldnet.adapters.find_adapter_config_file", Mock(side_effect=AssertionError))
    with pytest.raises(ValueError, match=r"^mistyped: no such folder, .*: 'mistyped' is neither a folder nor "):
        load("mistyped")


@pytest.fixture(scope="module", params=METHODS)
def saved(request, tmp_path_factory):
    """A folder with a base model and an adapter as PEFT saves it, and the adapter's outputs."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    config = tiny_config(depths=[1, 1], num_heads=[1, 2], drop_path_rate=0.0)
    scattered(PSELDNetForSELD(config)).save_pretrained(folder / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(folder / "base")
    before = outputs(base)
    model = changed(get_peft_model(base, METHODS[request.param]))
    model.save_pretrained(folder / "adapter")
    after = outputs(model)
    assert not torch.allclose(before, after)
    return folder, after


@pytest.fixture
def adapter(saved, tmp_path):
    """Copies of the base model and the adapter, and the adapter's outputs."""
    folder, expected = saved
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path)))
    return tmp_path / "base", tmp_path / "adapter", expected


def test_an_adapter_loads_by_every_way(adapter, write_recording):
    base, folder, expected = adapter
    model, _ = load(folder, "cpu")
    torch.testing.assert_close(outputs(model), expected, atol=1e-5, rtol=1e-4)
    new = AutoModelForAudioFrameClassification.from_pretrained
    torch.testing.assert_close(outputs(PeftModel.from_pretrained(new(base), folder)), expected)
    auto = AutoPeftModel.from_pretrained(folder, import_allowlist=["modeling_pseldnet"])
    torch.testing.assert_close(outputs(auto), expected)
    native = new(base)
    native.load_adapter(str(folder))
    torch.testing.assert_close(outputs(native), expected)
    assert predict([str(write_recording()), "--model", str(folder), "--output", str(base)]) == 0


def test_a_model_saved_beside_an_adapter_for_another_is_not_mixed_with_it(tmp_path):
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "base")
    model = get_peft_model(load(tmp_path / "base", "cpu")[0], METHODS["lora"])
    for folder in ("base", "adapter"):
        model.save_pretrained(tmp_path / folder)
    model.merge_and_unload().save_pretrained(tmp_path / "adapter")
    for way in (load, PSELDNetForSELD.from_pretrained, AutoModelForAudioFrameClassification.from_pretrained):
        with pytest.raises(ValueError, match="holds a model and an adapter for another model"):
            way(tmp_path / "adapter")
    # An adapter beside its own base model is meant to be applied to it.
    expected = outputs(load(tmp_path / "base", "cpu")[0])
    moved = (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"replace {tmp_path / 'base'} by its new name in adapter_config"):
        load(moved)
    config = moved / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tmp_path / "base"), str(moved)))
    torch.testing.assert_close(outputs(load(moved, "cpu")[0]), expected)


def test_an_adapter_beside_its_model_is_saved_again_and_is_no_part_of_another_adapters_base(adapter, tmp_path):
    base, folder, expected = adapter
    shutil.copytree(folder, base, dirs_exist_ok=True)
    model, _ = load(base, "cpu")
    torch.testing.assert_close(outputs(model), expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(outputs(load(tmp_path / "again", "cpu")[0]), expected, atol=1e-5, rtol=1e-4)
    if model.peft_model is None:
        for way in (load, AutoModelForAudioFrameClassification.from_pretrained):
            with pytest.raises(ValueError, match="has another adapter in its folder"):
                way(folder)
    else:
        torch.testing.assert_close(outputs(load(folder, "cpu")[0]), expected)


def test_an_adapter_gives_what_it_gave_whatever_batches_its_training_saw(tmp_path):
    conformer = PSELDNetConfig(backbone="crnn", hidden_sizes=[8, 8], decoder="conformer", decoder_layers=1)
    PSELDNetForSELD(conformer).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["heads"]))
    model.train()(3 + 5 * torch.randn(2, 7, 101, 64))
    model.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(outputs(load(tmp_path / "adapter", "cpu")[0]), outputs(model), atol=1e-5, rtol=1e-4)
    # Batch statistics of a whole model do follow the data.
    whole = load(tmp_path / "base", "cpu")[0].train()
    before = whole.pseldnet.input_norm.running_mean.clone()
    whole(3 + 5 * torch.randn(2, 7, 101, 64))
    assert not torch.equal(whole.pseldnet.input_norm.running_mean, before)


@pytest.mark.parametrize("method", ["adapterbit", "lora"])
@pytest.mark.parametrize("changes", [{"id2label": {0: "door", 1: "new"}}, {"depths": [2, 2, 1, 1]}])
def test_an_adapter_over_a_network_that_was_made_from_its_base_loads(tmp_path, method, changes):
    base = scattered(PSELDNetForSELD(tiny_config(drop_path_rate=0.0)))
    base.save_pretrained(tmp_path / "base")
    network, _ = load_for_transfer(tmp_path / "base", **changes)
    model = changed(get_peft_model(network, METHODS[method]))
    model.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(outputs(load(tmp_path / "adapter", "cpu")[0]), outputs(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"depths": [2, 2, 1, 1]}, {"num_channels": 1, "feature_type": "logmel"}])
def test_weights_of_an_adapters_network_are_not_left_to_chance(tmp_path, changes):
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "base")
    network, _ = load_for_transfer(tmp_path / "base", **changes)
    get_peft_model(network, METHODS["adapterbit"]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"are neither in the adapter .* nor, with that shape, in"):
        AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter")


def test_a_network_is_not_made_from_one_with_an_adapter_in_it(adapter):
    _, folder, _ = adapter
    if json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA":
        load_for_transfer(folder)
        return
    with pytest.raises(ValueError, match="start from its base model"):
        load_for_transfer(folder)


@pytest.mark.parametrize("transfer", [False, True])
def test_an_adapter_over_a_network_with_one_that_was_merged_loads_with_both(tmp_path, transfer):
    PSELDNetForSELD(tiny_config(drop_path_rate=0.0)).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    changed(get_peft_model(base, METHODS["lora"])).save_pretrained(tmp_path / "first")
    network, _ = (load_for_transfer if transfer else load)(tmp_path / "first")
    model = changed(get_peft_model(network, METHODS["adapterbit"]))
    model.save_pretrained(tmp_path / "second")
    torch.testing.assert_close(outputs(load(tmp_path / "second", "cpu")[0]), outputs(model), atol=1e-5, rtol=1e-4)
    for way in (
        AutoModelForAudioFrameClassification.from_pretrained,
        lambda second: PeftModel.from_pretrained(PSELDNetForSELD.from_pretrained(tmp_path / "base"), second),
        PSELDNetForSELD.from_pretrained(tmp_path / "base").load_adapter,
        lambda second: AutoPeftModel.from_pretrained(second, import_allowlist=["modeling_pseldnet"]),
    ):
        with pytest.raises(ValueError, match=r"modeling_pseldnet\.load"):
            way(tmp_path / "second")


def test_an_adapter_over_one_that_was_merged_in_memory_does_not_name_the_model_of_before(tmp_path):
    PSELDNetForSELD(tiny_config(drop_path_rate=0.0)).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    merged = changed(get_peft_model(base, METHODS["lora"])).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    model = changed(get_peft_model(merged, METHODS["lora"]))
    model.save_pretrained(tmp_path / "second")
    for way in (load, AutoModelForAudioFrameClassification.from_pretrained):
        with pytest.raises(
            ValueError, match="has no base_model_name_or_path: add the folder or Hub name of its base model"
        ):
            way(tmp_path / "second")
    config = tmp_path / "second" / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "merged")}
    config.write_text(json.dumps(settings))
    torch.testing.assert_close(outputs(load(tmp_path / "second", "cpu")[0]), outputs(model), atol=1e-5, rtol=1e-4)


def test_an_adapter_over_one_on_the_hub_is_refused_for_a_model_without_that(adapter, tmp_path, monkeypatch):
    base, folder, _ = adapter
    first = shutil.copytree(folder, tmp_path / "first")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "user/first"}))
    find = adapters.find_adapter_config_file
    there = {"user/first": first / "adapter_config.json"}
    monkeypatch.setattr(adapters, "find_adapter_config_file", lambda place, **_: there.get(place) or find(place))
    with pytest.raises(ValueError, match="was trained on top of another adapter, user/first"):
        PeftModel.from_pretrained(PSELDNetForSELD.from_pretrained(base), folder)


@pytest.mark.parametrize("second", METHODS)
def test_no_adapter_is_put_over_one_that_is_not_merged(adapter, second):
    _, folder, _ = adapter
    is_merged = json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    networks = [AutoModelForAudioFrameClassification.from_pretrained(folder)]
    networks += [] if is_merged else [load(folder, "cpu")[0]]
    for network in networks:
        with pytest.raises(ValueError, match="already has an adapter, and a second one on top is not supported"):
            get_peft_model(network, METHODS[second])


def test_a_loaded_adapter_is_trained_on_as_any_model(adapter):
    _, folder, _ = adapter
    model, _ = load(folder, "cpu")
    features, labels = torch.randn(1, 7, 101, 64), torch.zeros(1, 10, *model.output_format.label_shapes[0])
    model.train()(features, labels=labels).loss.backward()
    trained = sum(parameter.grad is not None for parameter in model.parameters())
    assert trained == sum(parameter.requires_grad for parameter in model.parameters()) > 0


def test_a_loaded_adapter_goes_on_from_a_checkpoint_and_has_the_best_one_at_the_end(adapter, tmp_path):
    _, folder, _ = adapter
    row = {
        "input_features": torch.randn(7, 101, 64),
        "attention_mask": torch.ones(101),
        "labels": torch.ones(10, 3, 3, 3),
    }

    def trained(name, checkpoint=None, **options):
        model, _ = load(folder, "cpu")
        quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "lr_scheduler_type": "constant"}
        steps = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        trainer = Trainer(model, TrainingArguments(tmp_path / name, **quiet, **steps, **options), None, [row], [row])
        trainer.train(resume_from_checkpoint=checkpoint)
        return outputs(model), trainer.state

    expected, _ = trained("whole")
    found, _ = trained("resumed", tmp_path / "whole" / "checkpoint-1")
    assert torch.equal(found, expected)
    found, state = trained("best", load_best_model_at_end=True)
    torch.testing.assert_close(found, outputs(load(state.best_model_checkpoint, "cpu")[0]))


def test_an_adapter_that_transformers_would_load_in_part_is_refused_there(tmp_path):
    base = scattered(PSELDNetForSELD(tiny_config(drop_path_rate=0.0)))
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    model = changed(get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)))
    model.save_pretrained(tmp_path / "dora")
    with pytest.raises(ValueError, match="did not load 10 weights of the adapter"):
        AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "dora")
    torch.testing.assert_close(outputs(load(tmp_path / "dora", "cpu")[0]), outputs(model), atol=1e-5, rtol=1e-4)


def test_a_loaded_adapter_is_saved_so_that_it_loads_again(adapter, tmp_path, monkeypatch):
    _, folder, expected = adapter
    model, _ = load(folder, "cpu")
    pushed = []
    monkeypatch.setattr(type(model), "push_to_hub", lambda _, name, **options: pushed.append((name, options)))
    # A LoRA adapter was merged, and is saved like any model.
    is_merged = model.peft_model is None
    model.save_pretrained(tmp_path / "again", **({} if is_merged else {"push_to_hub": True, "private": True}))
    assert pushed == ([] if is_merged else [("again", {"private": True})])
    again, _ = load(tmp_path / "again", "cpu")
    torch.testing.assert_close(outputs(again), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_that_was_taken_out_of_a_model_is_not_saved_with_it(tmp_path):
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    before = outputs(base)
    changed(get_peft_model(base, METHODS["adapterbit"])).save_pretrained(tmp_path / "adapter")
    load(tmp_path / "adapter", "cpu")[0].peft_model.unload().save_pretrained(tmp_path / "bare")
    torch.testing.assert_close(outputs(load(tmp_path / "bare", "cpu")[0]), before)


def test_adapters_load_side_by_side(adapter):
    base, folder, expected = adapter
    model = AutoModelForAudioFrameClassification.from_pretrained(base)
    for name in ("first", "second"):
        model.load_adapter(str(folder), name)
    if has_native_adapters():
        model.set_adapter("first")
        torch.testing.assert_close(outputs(model), expected)


@native_adapters
def test_adapters_that_are_switched_off_and_on_give_what_they_gave(adapter):
    base, folder, expected = adapter
    model = AutoModelForAudioFrameClassification.from_pretrained(base)
    without = outputs(model)
    model.load_adapter(str(folder))
    model.disable_adapters()
    torch.testing.assert_close(outputs(model), without)
    model.enable_adapters()
    torch.testing.assert_close(outputs(model), expected)


@native_adapters
def test_an_adapter_of_the_transformers_kind_is_saved_with_its_classes(adapter, tmp_path):
    base, folder, expected = adapter
    model = AutoModelForAudioFrameClassification.from_pretrained(base)
    model.load_adapter(str(folder))
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    torch.testing.assert_close(outputs(load(tmp_path / "saved", "cpu")[0]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "labels"),
    [
        ("adapterbit", ["door", "bell"]),
        ("lora", ["speech", "footsteps", "door"]),
        ("ia3", ["door", "speech", "footsteps"]),
    ],
)
def test_an_adapter_for_other_classes_says_which_they_are(tmp_path, method, labels):
    scattered(PSELDNetForSELD(tiny_config())).save_pretrained(tmp_path / "base")
    model, _ = load_for_transfer(tmp_path / "base", id2label=dict(enumerate(labels)), output_format="accdoa")
    model = changed(get_peft_model(model, METHODS[method]))
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load(tmp_path / "adapter", "cpu")
    assert list(loaded.config.id2label.values()) == labels
    torch.testing.assert_close(outputs(loaded), outputs(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_trainer_saves_the_classes_with_an_adapter_of_any_method(tmp_path, method):
    model = get_peft_model(PSELDNetForSELD(tiny_config()), METHODS[method])
    model.add_adapter("second", METHODS[method])
    Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])).save_model()
    for folder in (tmp_path, tmp_path / "second"):
        assert PSELDNetConfig.from_pretrained(folder).id2label == {0: "speech", 1: "footsteps", 2: "door"}


def test_a_model_whose_classes_have_other_names_refuses_an_adapter(tmp_path):
    other = tiny_config(id2label={0: "door", 1: "speech", 2: "footsteps"})
    PSELDNetForSELD(other).save_pretrained(tmp_path / "base")
    base = AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "base")
    # The head is not saved with the adapter: it would be the base model's, with other labels.
    adapter = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    adapter.config.id2label = tiny_config().id2label
    adapter.save_pretrained(tmp_path / "adapter")
    refuses = pytest.raises(ValueError, match=r"classes \(3: speech, footsteps, door\) than the model \(3: door")
    with refuses:
        PeftModel.from_pretrained(PSELDNetForSELD(other), tmp_path / "adapter")
    with refuses:
        PSELDNetForSELD(other).load_adapter(str(tmp_path / "adapter"))
    with refuses:
        AutoModelForAudioFrameClassification.from_pretrained(tmp_path / "adapter")


def test_an_adapter_of_the_default_model_loads_wherever_that_lies(tmp_path):
    model = AutoModelForAudioFrameClassification.from_pretrained(DEFAULT_MODEL)
    model = changed(get_peft_model(model, AdapterBitConfig(r=2)))
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "modeling_pseldnet/default_model"
    home = str(Path(modeling_pseldnet.__file__).parents[1])
    texts = [path.read_text() for path in (tmp_path / "adapter").iterdir() if path.suffix in (".json", ".md")]
    assert not any(home in text for text in texts)
    for loaded in (
        AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["modeling_pseldnet"]),
        load(tmp_path / "adapter", "cpu")[0],
    ):
        assert loaded.config.num_labels == 48
        torch.testing.assert_close(outputs(loaded), outputs(model), atol=1e-5, rtol=1e-4)


def test_a_model_is_loaded_again_by_the_name_that_adapters_record():
    assert PSELDNetForSELD.from_pretrained("modeling_pseldnet/default_model").config.num_labels == 48
    assert load("modeling_pseldnet/default_model", "cpu")[0].config.num_labels == 48


# Values that no field should have.
WRONG = [None, -1, 0, 10**9, 0.5, float("inf"), "text", "", [], [[]], {}, {"a": []}, True]


def mutated(path: Path, generator: random.Random) -> None:
    """Damage a file as programs, disks or people might."""
    content = path.read_bytes()
    way = generator.randrange(5 if path.suffix == ".json" else 4)
    if way == 0:
        content = content[: generator.randrange(len(content))]
    elif way == 1:
        start = generator.randrange(min(len(content), 2000))
        content = content[:start] + generator.randbytes(generator.randrange(1, 9)) + content[start + 8 :]
    elif way == 2:
        content = generator.choice(
            [b"", b"\0", b"{}", b"[]", b"null", b"[" * 5000, b"version https://git-lfs", b"\xff"]
        )
    elif way == 3:
        path.unlink()
        return
    else:
        fields = json.loads(content)
        fields[generator.choice(sorted(fields))] = generator.choice(WRONG)
        content = json.dumps(fields).encode()
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(6))
def test_a_broken_model_or_adapter_is_one_line_or_none(hub_folder, tmp_path, seed):
    generator = random.Random(seed)
    adapter = tmp_path / "adapter"
    get_peft_model(PSELDNetForSELD.from_pretrained(hub_folder), AdapterBitConfig(r=2)).save_pretrained(adapter)
    for number in range(10):
        broken = shutil.copytree(generator.choice([hub_folder, hub_folder, adapter]), tmp_path / str(number))
        files = [path for path in sorted(broken.iterdir()) if path.suffix in (".json", ".safetensors")]
        mutated(generator.choice(files), generator)
        try:
            model, _ = load(broken, "cpu")
        except ValueError as error:
            message = str(error)
            assert message.startswith(f"{broken}: cannot be loaded: "), message
            assert "\n" not in message
            assert len(message) < 700
        else:
            outputs(model)


def test_a_model_whose_weights_are_cut_off_says_so(hub_folder, tmp_path, capsys, write_recording):
    broken = shutil.copytree(hub_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert predict([str(write_recording()), "--model", str(broken)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"pseldnet-predict: error: {broken}: cannot be loaded: its weights are broken or cut off")


def test_an_extractor_of_another_model_is_refused(hub_folder, tmp_path):
    broken = shutil.copytree(hub_folder, tmp_path / "broken")
    path = broken / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling_rate": 32000}))
    with pytest.raises(ValueError, match="features with a sampling_rate of 32000 do not fit the model"):
        load(broken)


def test_a_pipeline_takes_an_adapter_that_is_saved_with_its_config_and_extractor(adapter):
    _, folder, expected = adapter
    detector = pipeline("sound-event-localization-and-detection", model=str(folder), device="cpu")
    torch.testing.assert_close(outputs(detector.model), expected, atol=1e-5, rtol=1e-4)
