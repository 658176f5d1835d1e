import json

import numpy as np
import pytest
import torch
from transformers.initialization import no_init_weights

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.tools.convert import main
from modeling_pseldnet.tools.convert_audioset import load_audioset
from modeling_pseldnet.tools.convert_names import convert_state_dict, read_architecture
from tests.helpers import scattered, tiny_config


PASST = {"backbone": "passt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("passt-multi_accdoa-13", "passt"),
        ("htsat-multi_accdoa-13", "htsat"),
        ("htsat-einv2-13", "htsat"),
        ("cnn14_conformer-multi_accdoa-13", "cnn14_conformer"),
    ],
)
def test_a_network_started_from_audioset_gives_the_outputs_of_the_published_system(
    reference, values, tmp_path, name, backbone
):
    case = json.loads((reference / "index-audioset.json").read_text())[f"audioset-{name}"]
    published = json.loads((reference / "index.json").read_text())[name]["state_dict"]
    network = {
        # NaN until AudioSet's weights replace it: most weights, which would take long to draw.
        key: torch.full(shape, torch.nan)
        if key.startswith(("encoder.", "sed_encoder.", "doa_encoder.", "convs."))
        else torch.from_numpy(values.entry(key, shape, dtype, case["net_salt"]))
        for key, shape, dtype in published
    }
    state, _ = convert_state_dict(network, backbone)
    fields = {"output_format": case["method"], "id2label": {n: f"class {n}" for n in range(case["num_classes"])}}
    with no_init_weights():
        model = PSELDNetForSELD(PSELDNetConfig(backbone=backbone, **fields, **read_architecture(state, backbone)))
    model.eval().load_state_dict(state)
    checkpoint = tmp_path / "audioset.pth"
    torch.save(values.audioset_checkpoint(f"audioset-{name}"), checkpoint)
    load_audioset(model, checkpoint)
    checkpoint.unlink()
    waveform = torch.from_numpy(values.wave(case["wave_seeds"][0]))[None]
    with torch.no_grad():
        outputs = model.predict(PSELDNetFeatureExtractor().features(waveform))
    golden = np.load(reference / f"audioset-{name}.npz")
    for found, key in zip(outputs.values(), golden, strict=True):
        expected = torch.from_numpy(golden[key][:1]).view_as(found)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def single_channel_checkpoint(model: PSELDNetForSELD) -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of PaSST with the encoder of `model`, but with a single input channel."""
    encoder = model.pseldnet.encoder
    embeddings = encoder.patch_embeddings
    entries = {
        "cls_token": embeddings.cls_token,
        "dist_token": embeddings.distillation_token,
        "new_pos_embed": embeddings.token_position_embeddings,
        "freq_new_pos_embed": torch.arange(12.0).view(1, 1, 12, 1).expand(1, 64, 12, 1),
        "time_new_pos_embed": torch.arange(50.0).view(1, 1, 1, 50).expand(1, 64, 1, 50),
        "patch_embed.proj.weight": embeddings.projection.weight[:, :1],
        "head_dist.weight": torch.zeros(527, 64),
    }
    return {name: value.detach().clone() for name, value in entries.items()}


def test_the_first_convolution_is_spread_and_position_embeddings_are_cropped_or_interpolated(tmp_path):
    model = scattered(PSELDNetForSELD(tiny_config(**PASST)))
    entries = single_channel_checkpoint(model)
    torch.save(entries, tmp_path / "passt.pt")
    report = load_audioset(model, tmp_path / "passt.pt")
    embeddings = model.pseldnet.encoder.patch_embeddings
    for channel in range(7):
        assert torch.equal(embeddings.projection.weight[:, channel], entries["patch_embed.proj.weight"][:, 0] / 7)
    assert torch.equal(embeddings.frequency_position_embeddings[0, 0, :, 0], torch.arange(3.0, 9.0))
    time = embeddings.time_position_embeddings[0, 0, 0]
    assert len(time) == 100
    assert (time.diff() >= 0).all()
    assert (time[0].item(), time[-1].item()) == (0.0, 49.0)
    assert report.unused == ["head_dist.weight"]
    assert "heads.accdoa.weight" in report.new
    assert "pseldnet.encoder.patch_embeddings.projection.weight" in report.kept


def test_the_program_writes_a_network_that_starts_from_audioset(tmp_path, capsys):
    from transformers import AutoModelForAudioFrameClassification

    source = scattered(PSELDNetForSELD(PSELDNetConfig(backbone="crnn", hidden_sizes=[4, 4])))
    entries = {
        f"conv_block{block + 1}.{name}": value
        for block, stage in enumerate(source.pseldnet.encoder.stages)
        for name, value in stage.state_dict().items()
    }
    entries["conv_block1.conv1.weight"] = entries["conv_block1.conv1.weight"][:, :1]
    entries |= {
        f"bn0.{leaf}": torch.full((64,), float(i)) for i, leaf in enumerate(("weight", "bias", "running_var"), 1)
    }
    checkpoint, labels = tmp_path / "cnn.pth", tmp_path / "labels.txt"
    torch.save({"model": entries}, checkpoint)
    labels.write_text("speech\nbell\n")
    folder = tmp_path / "network"
    arguments = ["--audioset", str(checkpoint), str(folder), "--backbone", "crnn", "--output-format", "accdoa"]
    assert main([*arguments, "--labels", str(labels)]) == 0
    assert "kept" in capsys.readouterr().out
    model = AutoModelForAudioFrameClassification.from_pretrained(folder)
    assert model.config.hidden_sizes == [4, 4]
    assert model.config.id2label == {0: "speech", 1: "bell"}
    assert torch.equal(model.pseldnet.encoder.stages[1].conv2.weight, source.pseldnet.encoder.stages[1].conv2.weight)
    assert torch.equal(model.pseldnet.input_norm.bias, torch.full((448,), 2.0))
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--overwrite"])
    assert stopped.value.code == 2
    assert "--labels" in capsys.readouterr().err


def test_a_checkpoint_of_another_encoder_is_refused(tmp_path):
    torch.save({"model": {"conv_block1.conv1.weight": torch.zeros(4, 1, 3, 3)}}, tmp_path / "cnn.pth")
    with pytest.raises(ValueError, match="another encoder"):
        load_audioset(PSELDNetForSELD(tiny_config()), tmp_path / "cnn.pth")
    torch.save({"cls_token": torch.zeros(1, 1, 32)}, tmp_path / "passt.pt")
    with pytest.raises(ValueError, match="cls_token has shape"):
        load_audioset(PSELDNetForSELD(tiny_config(**PASST)), tmp_path / "passt.pt")
