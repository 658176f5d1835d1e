import json

import pytest
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD
from modeling_pseldnet.configuration_pseldnet import BACKBONE_DEFAULTS, HTSAT_SIZES
from tests.helpers import tiny_config


def num_parameters(size: str) -> int:
    with torch.device("meta"):
        return PSELDNetForSELD(PSELDNetConfig.named(size, num_labels=13)).num_parameters()


def test_sizes_have_the_parameters_that_the_readme_gives():
    millions = {size: round(num_parameters(size) / 1e6, 2) for size in HTSAT_SIZES}
    assert millions == {"tiny": 0.98, "small": 4.41, "base": 28.08}


def test_the_base_size_is_the_published_network():
    assert PSELDNetConfig.named("base").to_dict() == PSELDNetConfig().to_dict()


@pytest.mark.parametrize("size", HTSAT_SIZES)
def test_attention_heads_have_one_width_that_is_a_multiple_of_8(size):
    config = PSELDNetConfig.named(size)
    widths = {config.embed_dim * 2**stage / heads for stage, heads in enumerate(config.num_heads)}
    assert len(widths) == 1
    assert widths.pop() % 8 == 0


def test_other_fields_go_with_a_size():
    config = PSELDNetConfig.named("tiny", output_format="einv2", depths=[1, 1, 1, 1])
    assert (config.output_format, config.embed_dim, config.depths) == ("einv2", 24, [1, 1, 1, 1])


def test_a_size_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'huge' is unknown: use one of tiny, small, base"):
        PSELDNetConfig.named("huge")


def test_label2id_follows_id2label_always(tmp_path):
    config = tiny_config(label2id={"other": 0})
    assert config.label2id == {"speech": 0, "footsteps": 1, "door": 2}
    config.id2label = {0: "bell", 1: "door"}
    assert config.label2id == {"bell": 0, "door": 1}
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "label2id": None}))
    assert PSELDNetConfig.from_pretrained(tmp_path).label2id == {"bell": 0, "door": 1}
    assert PSELDNetConfig.from_pretrained(tmp_path, id2label={0: "car"}).label2id == {"car": 0}
    assert PSELDNetConfig.from_pretrained(tmp_path, num_labels=3).label2id == {f"LABEL_{i}": i for i in range(3)}


@pytest.mark.parametrize("classes", [{"1": "bus", "0": "car"}, {1: "bus", 0: "car"}])
def test_classes_are_numbered_in_order_whenever_they_are_given(tmp_path, classes):
    config = tiny_config()
    config.save_pretrained(tmp_path)
    config.id2label = classes
    for changed in (config, tiny_config(id2label=classes), PSELDNetConfig.from_pretrained(tmp_path, id2label=classes)):
        assert list(changed.id2label.items()) == [(0, "car"), (1, "bus")]
        assert changed.label2id == {"car": 0, "bus": 1}
    for wrong in ({1: "car"}, ["car", "bus"]):
        with pytest.raises(ValueError, match="must number the classes from 0"):
            PSELDNetConfig.from_pretrained(tmp_path, id2label=wrong)


def test_classes_that_are_given_with_their_number_replace_those_of_a_file_in_silence(tmp_path, caplog):
    tiny_config().save_pretrained(tmp_path)
    given = {"num_labels": 2, "id2label": {0: "car", 1: "bus"}, "label2id": {"car": 0, "bus": 1}}
    assert PSELDNetConfig.from_pretrained(tmp_path, **given).id2label == {0: "car", 1: "bus"}
    assert not caplog.records


@pytest.mark.parametrize("change", [{"id2label": {0: "car", 1: "bus", 2: "door"}}, {"num_labels": 2}])
def test_thresholds_of_other_classes_are_dropped(tmp_path, change):
    tiny_config(threshold=[0.2, 0.3, 0.4]).save_pretrained(tmp_path)
    assert PSELDNetConfig.from_pretrained(tmp_path).threshold == [0.2, 0.3, 0.4]
    assert PSELDNetConfig.from_pretrained(tmp_path, **change).threshold == 0.5


def test_thresholds_that_are_given_are_those_of_the_classes_that_are_given_in_any_order(tmp_path):
    tiny_config(threshold=[0.2, 0.3, 0.4]).save_pretrained(tmp_path)
    given = {"threshold": [0.6, 0.7], "id2label": {0: "car", 1: "bus"}}
    for names in (("threshold", "id2label"), ("id2label", "threshold")):
        config = PSELDNetConfig.from_pretrained(tmp_path, **{name: given[name] for name in names})
        assert (config.threshold, config.id2label) == (given["threshold"], given["id2label"])
    with pytest.raises(ValueError, match="threshold has 2 numbers for 3 classes"):
        PSELDNetConfig.from_pretrained(tmp_path, threshold=[0.6, 0.7])


def test_thresholds_in_a_file_that_do_not_fit_its_classes_are_dropped(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "threshold": [0.2] * 24}))
    assert PSELDNetConfig.from_pretrained(tmp_path).threshold == 0.5


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"threshold": [0.5, 0.5]}, "2 numbers for 3 classes"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": [0.5, 0.5, 0.0]}, "between 0 and 1"),
        ({"id2label": {0: "a", 1: "a"}}, "class 'a' twice"),
        ({"id2label": {1: "a"}}, "must number the classes from 0"),
        ({"id2label": {}}, "0 classes"),
        ({"id2label": {0: None}}, "id2label has None as a class name"),
        ({"num_labels": 10**9}, "num_labels is 1000000000: give 1 to 10000"),
        ({"num_labels": "13"}, "num_labels is '13'"),
        ({"window_seconds": 20}, "window of 20 s has 2001 frames, but spec_size 256 with 64 mel bins holds only 1024"),
        ({"num_mel_bins": 60}, "num_mel_bins 60 does not divide spec_size 256"),
        ({"num_mel_bins": 16, "depths": [1] * 5, "num_heads": [1] * 5}, "must be multiples of 64"),
        ({"depths": [2, 2]}, "num_heads has 4 entries and depths 2"),
        ({"depths": []}, "depths has 0 numbers"),
        ({"depths": [2, -1, 1, 1]}, r"depths \[2, -1, 1, 1\] is out of range"),
        ({"num_heads": [3, 2, 2, 2]}, "3 heads do not divide the width 8 of stage 0"),
        ({"hop_length": 250}, "hop_length 250 does not divide 100 ms at 24000 Hz: use 240"),
        ({"sampling_rate": 22050, "hop_length": 220}, "at 22050 Hz: use a sampling_rate that is a multiple of 100"),
        ({"window_size": 7}, "window_size 7 does not divide the 64 patches"),
        ({"hop_length": 0}, "hop_length 0 is out of range"),
        ({"feature_type": "salsa"}, "feature_type 'salsa' is unknown: use one of logmel_iv"),
        ({"feature_type": "logmel_gcc"}, "logmel_gcc features have 10 channels, but num_channels is 7"),
        ({"sampling_rate": 10**9}, "sampling_rate 1000000000 is out of range"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio nan is out of range"),
        ({"embed_dim": 1024, "depths": [64] * 4}, "billion parameters"),
        ({"backbone": "passt", "num_attention_heads": 7}, "num_attention_heads 7 does not divide hidden_size 768"),
        ({"backbone": "passt", "num_mel_bins": 8}, "patch_stride 10 gives 0 x 100 patches"),
        ({"backbone": "crnn", "num_mel_bins": 8}, "cannot be halved 4 times"),
        ({"backbone": "crnn", "hidden_sizes": [63]}, "width 63 of the decoder cannot be divided among two directions"),
        (
            {"backbone": "crnn", "decoder": "conformer", "hidden_sizes": [36]},
            "divided among 8 decoder_attention_heads",
        ),
    ],
)
def test_numbers_of_which_no_network_can_be_built_are_refused(fields, complaint):
    with pytest.raises(Exception, match=complaint):
        tiny_config(**fields)


@pytest.mark.parametrize("backbone", BACKBONE_DEFAULTS)
@pytest.mark.parametrize("output_format", ["multi_accdoa", "einv2"])
def test_parameters_are_known_before_a_network_is_built(backbone, output_format):
    config = PSELDNetConfig(backbone=backbone, output_format=output_format, num_labels=13)
    with torch.device("meta"):
        exact = PSELDNetForSELD(config).num_parameters()
    assert 0.5 < config.approximate_parameters / exact < 2


@pytest.mark.parametrize(("misspelt", "meant"), [("embed_dims", "embed_dim"), ("distanze", "distance")])
def test_a_misspelt_field_is_refused(misspelt, meant):
    with pytest.raises(TypeError, match=f"unknown argument: {misspelt}; did you mean {meant}"):
        tiny_config(**{misspelt: 8})


def test_classes_written_with_their_numbers_sorted_as_text_are_in_order(tmp_path):
    """JSON with sorted keys has "10" before "2"."""
    names = {str(index): f"class {index}" for index in range(12)}
    config = PSELDNetConfig(id2label=dict(sorted(names.items())))
    assert list(config.id2label.items()) == [(index, f"class {index}") for index in range(12)]
    model = PSELDNetForSELD(tiny_config(id2label=names, label2id={name: int(index) for index, name in names.items()}))
    model.save_pretrained(tmp_path)
    assert PSELDNetConfig.from_pretrained(tmp_path).id2label == config.id2label


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("depths", "many", "depths"),
        ("num_heads", [4, "8", 16, 32], "num_heads"),
        ("window_seconds", 20, "window of 20 s"),
        ("id2label", {"a": "speech"}, "id2label"),
        ("threshold", None, "threshold"),
        ("embed_dim", 10**6, "embed_dim 1000000 is out of range"),
    ],
)
def test_a_wrong_config_file_is_one_line(tmp_path, field, value, complaint):
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ValueError, match=complaint) as error:
        PSELDNetConfig.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
