import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_pseldnet import PSELDNetForSELD, load_for_transfer
from modeling_pseldnet.tools.transfer import transfer, transfer_from
from tests.helpers import PASST, scattered, tiny_config


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
    with pytest.raises(ValueError, match="the weights are from a htsat encoder, but the network has passt"):
        transfer_from(PSELDNetForSELD(tiny_config(**PASST)), source)
    with pytest.raises(ValueError, match="no weights of the encoder fit"):
        transfer(wider, {"other.weight": torch.ones(2)})


@pytest.mark.parametrize("source_format", ["accdoa", "multi_accdoa", "einv2", "seddoa"])
@pytest.mark.parametrize("output_format", ["accdoa", "multi_accdoa", "einv2", "seddoa"])
def test_transfer_works_from_every_format_to_every_other(source_format, output_format):
    source = scattered(PSELDNetForSELD(tiny_config(output_format=source_format, distance=True)))
    model, report = load_for_transfer(source, num_labels=3, output_format=output_format)
    assert output_format == source_format or not any(name.startswith("heads.") for name in report.kept)
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


def test_thresholds_follow_their_classes_in_whatever_order_these_are_given():
    source = PSELDNetForSELD(tiny_config(threshold=[0.1, 0.2, 0.3]))
    model, _ = load_for_transfer(source, id2label={"1": "door", "0": "speech"})
    assert (model.config.id2label, model.config.threshold) == ({0: "speech", 1: "door"}, [0.1, 0.3])


def test_thresholds_that_are_given_for_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="threshold has 2 numbers for 3 classes"):
        load_for_transfer(PSELDNetForSELD(tiny_config()), threshold=[0.6, 0.7])


@pytest.mark.parametrize("threshold", [0.2, [0.1, 0.2, 0.3]])
def test_another_output_format_and_other_channels_have_what_follows_from_them(threshold):
    source = PSELDNetForSELD(tiny_config(threshold=threshold, unify_degrees=20.0))
    model, _ = load_for_transfer(source, output_format="einv2")
    assert (model.config.threshold, model.config.unify_degrees) == (
        0.5,
        tiny_config(output_format="einv2").unify_degrees,
    )
    stereo, _ = load_for_transfer(source, num_channels=5, num_axes=2)
    assert (stereo.config.threshold, stereo.config.unify_degrees) == (threshold, 20.0)
    assert stereo.config.feature_type is None


def test_another_loss_has_its_own_angle_within_which_tracks_are_joined():
    source = PSELDNetForSELD(tiny_config(output_format="seddoa"))
    aggregated, _ = load_for_transfer(source, loss_type="aggregated")
    assert (source.config.unify_degrees, aggregated.config.unify_degrees) == (15.0, 10.0)
    assert load_for_transfer(aggregated)[0].config.unify_degrees == 10.0


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_new_network_has_weights_of_the_type_that_is_given_and_float32_by_default(name):
    source = PSELDNetForSELD(tiny_config())
    model, _ = load_for_transfer(source, **{name: "bfloat16"})
    assert model.dtype == model.config.dtype == torch.bfloat16
    again, _ = load_for_transfer(model)
    assert again.dtype == again.config.dtype == torch.float32


def test_transfer_refuses_what_does_not_fit():
    source = PSELDNetForSELD(tiny_config())
    with pytest.raises(TypeError, match="load_for_transfer got an unknown argument: distanze; did you mean distance"):
        load_for_transfer(source, distanze=True)
    with pytest.raises(ValueError, match="id2label must number the classes from 0"):
        load_for_transfer(source, id2label=["bell", "horn"])
    with pytest.raises(ValueError, match="id2label names 1 classes, but num_labels is 2"):
        load_for_transfer(source, id2label={0: "bell"}, num_labels=2)
    with pytest.raises(ValueError, match=r"norm.weight has shape \(64,\) where the network has \(128,\)"):
        transfer(PSELDNetForSELD(tiny_config(embed_dim=16)), {"pseldnet.encoder.norm.weight": torch.ones(64)})
    with pytest.raises(ValueError, match=r"has an unmerged adapter: merge it"):
        load_for_transfer(get_peft_model(source, LoraConfig(target_modules=["q_proj"])))
    quantized = PSELDNetForSELD(tiny_config())
    quantized.config.quantization_config = {"quant_method": "torchao"}
    with pytest.raises(ValueError, match="the source is quantized: start from the model that it was made from"):
        load_for_transfer(quantized)
