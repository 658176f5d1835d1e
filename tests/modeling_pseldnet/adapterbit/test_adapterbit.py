import importlib
import re
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_pseldnet import PSELDNetForSELD, adapterbit
from modeling_pseldnet.adapterbit import AdapterBitConfig
from tests.helpers import PASST, has_native_adapters, scattered, tiny_config


NETWORKS = {
    "htsat": {},
    "htsat-einv2": {"output_format": "einv2"},
    "passt": {**PASST, "decoder": "none"},
    "passt-gru": {**PASST, "decoder": "gru"},
    "passt-einv2": {**PASST, "output_format": "einv2", "decoder": "none"},
}


def network(**fields) -> PSELDNetForSELD:
    fields = {"drop_path_rate": 0.0, **fields}
    if fields.get("backbone") == "passt":
        fields = {"embed_dim": None, "depths": None, "num_heads": None, **fields}
    return scattered(PSELDNetForSELD(tiny_config(**fields))).eval()


def features(batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 7, 1001, 64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    """All outputs of the model in evaluation mode, concatenated."""
    was_training = model.training
    found = [value.flatten() for value in model.eval()(features()).values()]
    model.train(was_training)
    return torch.cat(found)


def train(model: nn.Module, steps: int = 2, seed: int = 0) -> nn.Module:
    """Train a few steps that pull the outputs towards noise."""
    generator = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for _ in range(steps):
        found = model(features(2, seed)).values()
        sum((value - torch.randn(value.shape, generator=generator)).square().mean() for value in found).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base model, the same model with a trained adapter, and the folder where the adapter is saved."""
    base = network()
    model = train(get_peft_model(deepcopy(base), AdapterBitConfig()))
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return base, model, folder


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_adapter_changes_nothing(name):
    base = network(**NETWORKS[name])
    expected = outputs(base)
    torch.testing.assert_close(outputs(get_peft_model(base, AdapterBitConfig())), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_bottlenecks_biases_statistics_and_heads_are_trained_and_nothing_else(name):
    base = network(**NETWORKS[name])
    model = get_peft_model(deepcopy(base), AdapterBitConfig())
    before = snapshot(model)
    after = train(model).state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    # The key bias adds the same value to all scores of a query, so the softmax cancels it.
    without_effect = {key for key in after if re.search(r"k_proj\.(base_layer\.)?parametrizations\.bias", key)}
    own = {key for key in after if ".default." in key}
    assert own - without_effect <= moved <= own

    head = {id(parameter) for parameter in base.heads.parameters()}
    biases = sum(p.numel() for n, p in base.named_parameters() if "bias" in n and id(p) not in head)
    heads = sum(parameter.numel() for parameter in base.heads.parameters())
    widths = [m.out_features for n, m in base.named_modules() if n.endswith(("attention.o_proj", "mlp.fc2"))]
    bottlenecks = sum(2 * width * (width // 2) + width // 2 + width for width in widths)
    assert model.get_nb_trainable_parameters()[0] == biases + heads + bottlenecks


def test_without_the_adapter_the_model_is_the_base_model(trained):
    base, model, _ = trained
    assert not torch.equal(outputs(model), outputs(base))
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(base))
    unloaded = deepcopy(model).unload()
    assert unloaded.state_dict().keys() == base.state_dict().keys()
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in unloaded.state_dict().items())


def test_a_pass_without_the_adapter_in_training_leaves_the_statistics_of_the_base_model(trained):
    base, model, _ = trained
    model = deepcopy(model).train()
    with model.disable_adapter():
        model(features(2))
        assert torch.equal(outputs(model), outputs(base))


def load_with_transformers(base: PSELDNetForSELD, folder) -> nn.Module:
    base.load_adapter(folder)
    return base


@pytest.mark.parametrize(
    "load",
    [
        PeftModel.from_pretrained,
        lambda base, folder: PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=True),
        load_with_transformers,
    ],
    ids=["peft", "peft-low-memory", "transformers"],
)
def test_a_saved_adapter_gives_the_same_outputs_bit_for_bit(trained, load):
    base, model, folder = trained
    loaded = load(deepcopy(base), folder)
    assert torch.equal(outputs(loaded), outputs(model))


def test_the_statistics_of_batch_normalisation_are_the_adapters_own(trained):
    base, model, folder = trained
    loaded = PeftModel.from_pretrained(deepcopy(base), folder)
    found = loaded.pseldnet.input_norm.running_mean
    assert torch.equal(found, model.pseldnet.input_norm.running_mean)
    assert not torch.allclose(found, base.pseldnet.input_norm.running_mean)
    with loaded.disable_adapter():
        assert torch.equal(loaded.pseldnet.input_norm.running_mean, base.pseldnet.input_norm.running_mean)


def test_a_state_loads_from_a_file_without_versions_of_modules(trained):
    _, model, _ = trained
    deepcopy(model).load_state_dict(dict(model.state_dict()))


def test_frozen_weights_are_not_saved(trained):
    base, _, folder = trained
    saved = load_file(folder / "adapter_model.safetensors")
    assert all("adapterbit_" in key or ".heads." in key for key in saved)
    frozen = sum(p.numel() for n, p in base.named_parameters() if "bias" not in n and not n.startswith("heads."))
    total = sum(value.numel() for value in base.state_dict().values())
    bottlenecks = sum(value.numel() for key, value in saved.items() if "_down." in key or "_up." in key)
    assert sum(value.numel() for value in saved.values()) == total - frozen + bottlenecks


def test_adapters_lie_side_by_side(tmp_path):
    base = network()
    model = train(get_peft_model(deepcopy(base), AdapterBitConfig(), adapter_name="studio"))
    studio = outputs(model)
    model.add_adapter("street", AdapterBitConfig(r=3, positions=["mlp"], scale=1.0))
    assert torch.equal(outputs(model), studio)
    model.set_adapter("street")
    assert torch.equal(outputs(model), outputs(base))
    street = outputs(train(model, seed=5))
    assert not torch.equal(street, studio)
    model.set_adapter("studio")
    assert torch.equal(outputs(model), studio)

    model.save_pretrained(tmp_path)
    model.delete_adapter("studio")
    assert torch.equal(outputs(model), street)

    if not has_native_adapters():
        return
    loaded = deepcopy(base)
    loaded.load_adapter(tmp_path / "studio", adapter_name="first")
    loaded.load_adapter(tmp_path / "street", adapter_name="second")
    assert torch.equal(outputs(loaded), street)
    loaded.set_adapter("first")
    assert torch.equal(outputs(loaded), studio)
    loaded.disable_adapters()
    assert torch.equal(outputs(loaded), outputs(base))


def test_only_the_active_adapter_is_trained():
    model = get_peft_model(network(), AdapterBitConfig(), adapter_name="studio")
    model.add_adapter("street", AdapterBitConfig())
    for active, other in (("studio", "street"), ("street", "studio")):
        model.set_adapter(active)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert names
        assert all(f".{active}." in name and f".{other}." not in name for name in names)
    with pytest.raises(ValueError, match=r"one adapter can be set at a time|one of .* at a time"):
        model.base_model.set_adapter(["studio", "street"])


def test_a_batch_has_one_adapter_for_all_its_recordings(trained):
    _, model, _ = trained
    with pytest.raises(ValueError, match="several adapters in one batch"):
        model(features(2), adapter_names=["default", "__base__"])


def test_a_learnable_scale_is_trained_and_saved(tmp_path):
    base = network()
    model = train(get_peft_model(deepcopy(base), AdapterBitConfig(scale="learnable")))
    scales = {key: value for key, value in model.state_dict().items() if "adapterbit_scale" in key}
    assert len(scales) == 10
    assert all(value != 0.1 for value in scales.values())
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(PeftModel.from_pretrained(base, tmp_path)), outputs(model))


@pytest.mark.parametrize("position", ["attention", "mlp"])
def test_the_bottleneck_is_after_the_attention_and_beside_the_mlp(position):
    """After: o + s·up(gelu(down(o))) for the output o; beside: mlp(x) + s·up(gelu(down(x))) for the input x."""
    block = nn.ModuleDict(
        {"attention": nn.ModuleDict({"o_proj": nn.Linear(6, 6)}), "mlp": nn.Sequential(nn.Linear(6, 6))}
    )
    base = {"attention": block.attention.o_proj, "mlp": block.mlp}[position]
    get_peft_model(block, AdapterBitConfig(r=2, scale=0.5, positions=[position]))
    layer = {"attention": block.attention.o_proj, "mlp": block.mlp}[position]
    down, up = layer.adapterbit_down["default"], layer.adapterbit_up["default"]
    nn.init.normal_(up.weight)
    inputs = torch.randn(4, 6)
    source = base(inputs) if position == "attention" else inputs
    expected = base(inputs) + 0.5 * up(nn.functional.gelu(down(source)))
    assert down.out_features == 2
    torch.testing.assert_close(layer(inputs), expected)
    other = block.mlp if position == "attention" else block.attention.o_proj
    assert not hasattr(other, "adapterbit_down")


def test_modules_of_other_names_can_be_named():
    model = nn.ModuleDict({"attn": nn.ModuleDict({"proj": nn.Linear(4, 4)}), "ffn": nn.Linear(4, 4)})
    config = AdapterBitConfig(attention_modules=["attn.proj"], mlp_modules=["ffn"])
    assert len(get_peft_model(model, config).base_model.targeted_module_names) == 2


def test_a_resumed_training_gives_the_same_weights(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"input_features": (7, 101, 64), "labels": (10, 1, 3, 3)}
    data = [{name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()} for _ in range(4)]

    def run(folder: str, resume=None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = get_peft_model(network(output_format="accdoa"), AdapterBitConfig())
        arguments = TrainingArguments(
            tmp_path / folder,
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            gradient_checkpointing=resume is None,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=data).train(resume_from_checkpoint=resume)
        return model.state_dict()

    whole = run("whole")
    resumed = run("resumed", resume=tmp_path / "whole" / "checkpoint-2")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_half_precision_and_gradients():
    model = get_peft_model(network().bfloat16(), AdapterBitConfig()).train()
    model(features().bfloat16()).accdoa.float().square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_adapted_stage_compiles_to_one_graph():
    model = get_peft_model(network(), AdapterBitConfig())
    stage, tokens = model.pseldnet.encoder.stages[3], torch.randn(1, 64, 64)
    with torch.no_grad():
        assert torch.equal(torch.compile(stage, fullgraph=True, backend="eager")(tokens), stage(tokens))


def test_bottlenecks_are_not_merged(trained):
    _, model, _ = trained
    with pytest.raises(NotImplementedError, match="not linear"):
        model.merge_and_unload()
    with pytest.raises(NotImplementedError, match="not linear"):
        model.merge_adapter()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": ["attn"]}, "positions are"),
        ({"positions": []}, "positions are"),
        ({"scale": "learnt"}, "scale is 'learnt'"),
        ({"r": 0}, "r is 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        AdapterBitConfig(**fields)


def test_a_model_without_places_for_bottlenecks_is_refused_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"no module named attention\.o_proj or mlp"):
        get_peft_model(model, AdapterBitConfig())
    assert snapshot(model).keys() == before.keys()


def test_the_method_is_registered_once():
    importlib.reload(adapterbit)
    assert [kind.value for kind in PeftType].count("ADAPTERBIT") == 1
    assert PeftType("ADAPTERBIT") is PeftType.ADAPTERBIT
    assert PeftType("LORA") is PeftType.LORA


def test_the_readme_says_how_to_load_it(trained, tmp_path):
    base, model, folder = trained
    base.save_pretrained(tmp_path / "base")
    readme = (folder / "README.md").read_text()
    assert "[More Information Needed]" not in readme
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    code = code.replace("the/base/model", str(tmp_path / "base")).replace("this/repo", str(folder))
    assert code.startswith("import modeling_pseldnet\n")
    loaded = {}
    exec(code, loaded)
    assert torch.equal(outputs(loaded["model"]), outputs(model))


def test_lora_trains_saves_and_reloads(tmp_path):
    base = network()
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["input_norm", "heads.accdoa"])
    model = get_peft_model(deepcopy(base), config)
    before = snapshot(model)
    after = train(model).state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved == {key for key in after if ".default." in key}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(deepcopy(base), tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert not torch.equal(outputs(loaded), outputs(base))


@pytest.mark.parametrize("name", ["htsat", "passt", "passt-einv2"])
def test_lora_fits_all_linear_layers(name):
    base = network(**NETWORKS[name])
    model = get_peft_model(deepcopy(base), LoraConfig(r=2, target_modules="all-linear"))
    torch.testing.assert_close(outputs(model), outputs(base))
