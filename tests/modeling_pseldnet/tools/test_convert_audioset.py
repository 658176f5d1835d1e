import json

import numpy as np
import pytest
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD, load_for_transfer
from modeling_pseldnet.tools.convert import main
from modeling_pseldnet.tools.convert_audioset import load_audioset
from modeling_pseldnet.tools.convert_names import convert_state_dict, read_architecture
from modeling_pseldnet.tools.transfer import transfer, transfer_from
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
    network = {key: torch.from_numpy(values.entry(key, *rest, case["net_salt"])) for key, *rest in published}
    state, _ = convert_state_dict(network, backbone)
    fields = {"output_format": case["method"], "id2label": {n: f"class {n}" for n in range(case["num_classes"])}}
    with torch.device("meta"):
        model = PSELDNetForSELD(PSELDNetConfig(backbone=backbone, **fields, **read_architecture(state, backbone)))
    model = model.to_empty(device="cpu").eval()
    model.initialize_weights()
    model.load_state_dict(state)
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
    """A checkpoint in the layout of PaSST whose encoder is that of `model`, but hears one spectrogram."""
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


def test_transfer_to_other_classes_keeps_all_but_the_class_head():
    source = scattered(PSELDNetForSELD(tiny_config(threshold=[0.3, 0.4, 0.5])))
    before = {name: value.clone() for name, value in source.state_dict().items()}
    model, report = load_for_transfer(source, id2label={0: "bell", 1: "knock"})
    assert model.config.id2label == {0: "bell", 1: "knock"}
    assert model.config.threshold == 0.5
    assert report.kept_classes == []
    assert report.new == ["heads.accdoa.conv.weight", "heads.accdoa.conv.bias"]
    assert len(report.kept) == len(before) - 2
    assert report.unused == []
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in report.kept)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert "2 new (heads.accdoa)" in str(report)


@pytest.mark.parametrize("output_format", ["accdoa", "multi_accdoa", "einv2", "seddoa"])
def test_transfer_keeps_what_the_head_knows_of_classes_by_their_names(tmp_path, output_format):
    source = scattered(PSELDNetForSELD(tiny_config(threshold=[0.3, 0.4, 0.6], output_format=output_format)))
    source.save_pretrained(tmp_path)
    model, report = load_for_transfer(tmp_path, id2label=dict(enumerate(["door", "bell", "speech", "knock"])))
    assert model.config.threshold == [0.6, 0.5, 0.3, 0.5]
    assert (report.kept_classes, report.new_classes, report.new) == (["door", "speech"], ["bell", "knock"], [])
    assert "classes: 2 kept (door, speech), 2 new (bell, knock)" in str(report)
    features = torch.randn(1, 7, 101, 64)
    with torch.no_grad():
        before, after = (network.eval().predict(features) for network in (source, model))
    name = "sed_logits" if "sed_logits" in after else "accdoa"
    torch.testing.assert_close(after[name][..., [2, 0]], before[name][..., [0, 2]])


def test_a_deeper_network_begins_with_copies_of_blocks_that_change_nothing_yet():
    source = scattered(PSELDNetForSELD(tiny_config(depths=[1, 1, 1, 2]))).eval()
    deeper, report = load_for_transfer(source, depths=[1, 1, 1, 5])
    assert (report.new, report.unused) == ([], [])
    features = torch.randn(1, 7, 101, 64)
    with torch.no_grad():
        torch.testing.assert_close(deeper.eval()(features).accdoa, source(features).accdoa)
    blocks = deeper.pseldnet.encoder.stages[3].blocks
    known = source.pseldnet.encoder.stages[3].blocks
    for number, origin in enumerate([0, 0, 0, 1, 1]):
        assert torch.equal(blocks[number].mlp.fc1.weight, known[origin].mlp.fc1.weight)


def test_transfer_to_nameless_classes_has_a_new_head():
    source = scattered(PSELDNetForSELD(tiny_config(id2label={0: "class 0", 1: "class 1"}, threshold=[0.3, 0.4])))
    model, report = load_for_transfer(source, num_labels=2)
    assert report.new == ["heads.accdoa.conv.weight", "heads.accdoa.conv.bias"]
    assert (report.kept_classes, model.config.threshold) == ([], 0.5)


def test_a_model_whose_encoder_is_another_is_not_started_from():
    source = PSELDNetForSELD(tiny_config())
    wider = PSELDNetForSELD(tiny_config(embed_dim=16))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(ValueError, match=r"has shape .* where the network has .*, and \d+ more entries do not fit"):
        transfer_from(wider, source)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())
    with pytest.raises(ValueError, match="the weights are those of a htsat encoder, and the network has passt"):
        transfer_from(PSELDNetForSELD(tiny_config(**PASST)), source)
    with pytest.raises(ValueError, match="nothing of the encoder fits"):
        transfer(wider, {"other.weight": torch.ones(2)})


@pytest.mark.parametrize("source_format", ["accdoa", "multi_accdoa", "einv2", "seddoa"])
@pytest.mark.parametrize("output_format", ["accdoa", "multi_accdoa", "einv2", "seddoa"])
def test_transfer_works_from_every_format_to_every_other(source_format, output_format):
    source = scattered(PSELDNetForSELD(tiny_config(output_format=source_format)))
    model, report = load_for_transfer(source, num_labels=5, output_format=output_format)
    assert model.config.num_labels == 5
    new = {name.split(".")[2 if name.startswith("pseldnet") else 0] for name in report.new}
    assert new <= {"heads", "stitches"}
    branch = source.pseldnet.encoder.doa if source_format == "einv2" else source.pseldnet.encoder
    target = model.pseldnet.encoder.doa if output_format == "einv2" else model.pseldnet.encoder
    assert torch.equal(target.norm.weight, branch.norm.weight)
    if output_format == "einv2" != source_format:
        first = source.pseldnet.encoder.patch_embeddings.projection.weight
        assert torch.equal(model.pseldnet.encoder.sed.patch_embeddings.projection.weight, first[:, :4])
    with torch.no_grad():
        assert model.eval().predict(torch.zeros(1, 7, 101, 64))


@pytest.mark.parametrize("threshold", [0.7, [0.6, 0.7]])
def test_a_threshold_that_is_given_is_that_of_the_new_network(threshold):
    source = PSELDNetForSELD(tiny_config(threshold=[0.1, 0.2, 0.3]))
    model, _ = load_for_transfer(source, id2label={0: "door", 1: "bell"}, threshold=threshold)
    assert model.config.threshold == threshold


def test_transfer_refuses_what_does_not_fit():
    source = PSELDNetForSELD(tiny_config())
    with pytest.raises(TypeError, match="load_for_transfer got an unknown argument: distanze; did you mean distance"):
        load_for_transfer(source, distanze=True)
    with pytest.raises(ValueError, match="id2label names 1 classes and num_labels is 2"):
        load_for_transfer(source, id2label={0: "bell"}, num_labels=2)
    with pytest.raises(ValueError, match=r"norm.weight has shape \(64,\) where the network has \(128,\)"):
        transfer(PSELDNetForSELD(tiny_config(embed_dim=16)), {"pseldnet.encoder.norm.weight": torch.ones(64)})
