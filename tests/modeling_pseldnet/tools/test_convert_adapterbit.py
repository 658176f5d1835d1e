import json

import numpy as np
import pytest
import torch
from peft import PeftModel

from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.tools.convert_adapterbit import main, save_adapter
from tests.helpers import scattered, tiny_config


NAME = "htsat-multi_accdoa-13-adapterbit"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The Hub folder of a tiny network."""
    folder = tmp_path_factory.mktemp("base")
    scattered(PSELDNetForSELD(tiny_config())).save_pretrained(folder)
    return folder


def published_bottlenecks(base, ratio: int = 2) -> dict[str, torch.Tensor]:
    """Bottlenecks of a network, under the names of published checkpoints."""
    generator = torch.Generator().manual_seed(0)
    bottlenecks = {}
    for stage, blocks in enumerate(PSELDNetForSELD.from_pretrained(base).pseldnet.encoder.stages):
        width = 8 * 2**stage
        for block in range(len(blocks.blocks)):
            for place in ("attn", "mlp"):
                prefix = f"encoder.layers.{stage}.blocks.{block}.{place}.adapter"
                for layer, out, into in (("fc1", width // ratio, width), ("fc2", width, width // ratio)):
                    bottlenecks[f"{prefix}.{layer}.weight"] = torch.randn(out, into, generator=generator)
                    bottlenecks[f"{prefix}.{layer}.bias"] = torch.randn(out, generator=generator)
    return bottlenecks


def test_a_published_checkpoint_gives_the_published_outputs(values, reference, tmp_path, capsys):
    torch.save(values.published_checkpoint(NAME), tmp_path / "published.ckpt")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    assert main([str(tmp_path / "published.ckpt"), str(base), str(adapter)]) == 0
    assert "96 bottleneck entries" in capsys.readouterr().out
    assert (adapter / "adapter_model.safetensors").stat().st_size < 20e6

    model = PSELDNetForSELD.from_pretrained(base)
    model.load_adapter(adapter)
    waves = [values.wave(seed) for seed in json.loads((reference / "index.json").read_text())[NAME]["wave_seeds"]]
    inputs = PSELDNetFeatureExtractor.from_pretrained(base)(waves, sampling_rate=24000, return_tensors="pt")
    with torch.no_grad():
        found = model.eval()(**inputs).accdoa
    expected = np.load(reference / f"{NAME}.npz")["multi_accdoa"]
    np.testing.assert_allclose(found.numpy(), expected.reshape(found.shape), atol=1e-4)


def test_bottlenecks_keep_their_places_and_widths(base, tmp_path):
    bottlenecks = published_bottlenecks(base, ratio=4)
    save_adapter(bottlenecks, base, tmp_path / "adapter", scale=0.25)
    model = PeftModel.from_pretrained(PSELDNetForSELD.from_pretrained(base), tmp_path / "adapter")
    block = model.pseldnet.encoder.stages[2].blocks[0]
    prefix = "encoder.layers.2.blocks.0"
    for layer, place in ((block.attention.o_proj, "attn"), (block.mlp, "mlp")):
        assert torch.equal(
            layer.adapterbit_down["default"].weight, bottlenecks[f"{prefix}.{place}.adapter.fc1.weight"]
        )
        assert torch.equal(layer.adapterbit_up["default"].bias, bottlenecks[f"{prefix}.{place}.adapter.fc2.bias"])
    assert model.peft_config["default"].scale == 0.25


def test_bottlenecks_of_one_position_are_enough(base, tmp_path):
    bottlenecks = {key: value for key, value in published_bottlenecks(base).items() if ".mlp." in key}
    save_adapter(bottlenecks, base, tmp_path / "adapter")
    model = PeftModel.from_pretrained(PSELDNetForSELD.from_pretrained(base), tmp_path / "adapter")
    assert model.peft_config["default"].positions == ["mlp"]


def drop(bottlenecks: dict[str, torch.Tensor]) -> None:
    del bottlenecks["encoder.layers.3.blocks.0.mlp.adapter.fc2.bias"]


def widen(bottlenecks: dict[str, torch.Tensor]) -> None:
    key = "encoder.layers.3.blocks.0.mlp.adapter.fc1.bias"
    bottlenecks[key] = torch.zeros(len(bottlenecks[key]) + 1)


def misname(bottlenecks: dict[str, torch.Tensor]) -> None:
    bottlenecks["encoder.layers.3.blocks.0.mlp.adapter.gate.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing or do not belong in .*stages\.3\.blocks\.0\.mlp\.adapterbit_up\.default\.bias"),
        (widen, r"do not fit .*stages\.3\.blocks\.0\.mlp\.adapterbit_down\.default\.bias"),
        (misname, r"are not bottlenecks: .*adapter\.gate\.weight"),
    ],
)
def test_bottlenecks_that_do_not_fit_are_named_and_nothing_is_written(base, tmp_path, damage, message):
    bottlenecks = published_bottlenecks(base)
    damage(bottlenecks)
    with pytest.raises(ValueError, match=message):
        save_adapter(bottlenecks, base, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_errors_are_one_line(tmp_path, capsys):
    plain = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {"net.encoder.norm.weight": torch.ones(8)}}, plain)
    full = tmp_path / "full"
    full.mkdir()
    (full / "adapter_config.json").touch()
    for arguments, message in (
        ([tmp_path / "absent.ckpt", tmp_path / "base", tmp_path / "adapter"], "no such file"),
        ([plain, tmp_path / "base", tmp_path / "adapter"], "convert it with pseldnet-convert"),
        ([plain, tmp_path / "base", full], "already exists"),
        ([plain, tmp_path / "base", tmp_path / "base"], "which would be replaced"),
        ([plain, tmp_path / "both" / "base", tmp_path / "both"], "which would be replaced"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"plain.ckpt", "full"}
