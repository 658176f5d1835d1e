import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoFeatureExtractor, Trainer, TrainingArguments, pipeline
from transformers.dynamic_module_utils import get_imports

import modeling_pseldnet
from modeling_pseldnet import (
    DataCollatorForSELD,
    PSELDNetFeatureExtractor,
    PSELDNetForSELD,
    hub_folder,
    load,
    load_for_transfer,
)
from modeling_pseldnet.files import staged_files
from modeling_pseldnet.hub_folder import CUSTOM_PIPELINES, PACKAGES, TAGS, model_card, save_hub_folder
from tests.helpers import tiny_config


FLAT = sorted(path for path in Path(modeling_pseldnet.__file__).parent.glob("*.py") if path.name != "__init__.py")


def test_what_is_saved_is_the_code_of_the_flat_folder_and_no_other(tmp_path):
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").glob("*.py")} == {path.name for path in FLAT}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["custom_pipelines"] == CUSTOM_PIPELINES
    assert sorted(config["auto_map"]) == [
        "AutoConfig",
        "AutoFeatureExtractor",
        "AutoModel",
        "AutoModelForAudioFrameClassification",
    ]


def test_the_packages_that_the_card_names_are_those_that_the_code_imports():
    imported = {package for path in FLAT for package in get_imports(path)}
    third_party = imported - {"huggingface_hub", "scipy"} - set(sys.stdlib_module_names)
    assert third_party <= set(PACKAGES)


def test_a_saved_model_has_a_card_its_extractor_and_its_pipeline(tmp_path):
    model = PSELDNetForSELD(tiny_config())
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "pseldnet" in card.data.tags
    assert "speech, footsteps, door" in card.text
    detector = pipeline("sound-event-localization-and-detection", model=str(tmp_path))
    assert detector.feature_extractor.feature_type == "logmel_iv"


def test_a_card_and_an_extractor_that_are_there_stay(tmp_path):
    PSELDNetFeatureExtractor(feature_type="salsa_lite").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("my own")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own"
    assert AutoFeatureExtractor.from_pretrained(tmp_path).feature_type == "salsa_lite"
    # When saved elsewhere, the model takes the extractor along that it was loaded with.
    PSELDNetForSELD.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "again").feature_type == "salsa_lite"


def test_a_model_is_saved_with_its_features_wherever_it_was_loaded_from(tmp_path):
    PSELDNetForSELD(tiny_config(feature_type="salsa_lite")).save_pretrained(tmp_path / "new")
    PSELDNetFeatureExtractor(feature_type="salsa_lite").save_pretrained(tmp_path / "first")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "first")
    model, _ = load(tmp_path / "first", "cpu")
    (tmp_path / "first").rename(tmp_path / "moved")
    model.save_pretrained(tmp_path / "again")
    for folder in ("new", "again"):
        assert load(tmp_path / folder, "cpu")[1].feature_type == "salsa_lite"
    PSELDNetFeatureExtractor().save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match="logmel_iv features do not fit the model, which needs salsa_lite"):
        load(tmp_path / "again", "cpu")
    stereo, _ = load_for_transfer(model, num_channels=5, num_axes=2)
    assert stereo.config.feature_type is None


def test_a_model_is_saved_with_its_features_if_it_was_loaded_from_a_subfolder(tmp_path):
    PSELDNetFeatureExtractor(feature_type="salsa_lite", n_fft=512).save_pretrained(tmp_path / "several" / "one")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path / "several" / "one")
    for options in ({}, {"output_loading_info": True}):
        loaded = PSELDNetForSELD.from_pretrained(tmp_path / "several", subfolder="one", **options)
        (loaded[0] if options else loaded).save_pretrained(tmp_path / "again")
        extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "again")
        assert (extractor.feature_type, extractor.n_fft) == ("salsa_lite", 512)


def test_a_model_is_saved_with_the_features_that_it_is_known_to_take(tmp_path):
    fine = PSELDNetFeatureExtractor(n_fft=512)
    model = PSELDNetForSELD(tiny_config())
    DataCollatorForSELD(fine, model)
    PSELDNetFeatureExtractor().save_pretrained(tmp_path / "old")
    Trainer(model, TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[])).save_model()
    for folder in ("old", "new"):
        PSELDNetForSELD.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / folder)
        assert AutoFeatureExtractor.from_pretrained(tmp_path / folder).n_fft == 512
    PSELDNetFeatureExtractor().save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="features with a n_fft of 1024 do not fit the model, which needs 512"):
        load(tmp_path / "new", "cpu")
    assert load_for_transfer(model, num_channels=5, num_axes=2)[0].config.n_fft is None


def test_an_extractor_that_does_not_fit_and_a_form_for_a_card_are_replaced(tmp_path):
    PSELDNetFeatureExtractor(feature_type="logmel_gcc").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("[More Information Needed]")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).feature_type == "logmel_iv"
    assert "PSELDNet" in (tmp_path / "README.md").read_text()


def weights_of(model: PSELDNetForSELD) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_a_model_that_is_saved_over_another_is_loaded_in_its_place_in_however_many_files(tmp_path):
    for seed, size in enumerate(["5GB", "20KB", "40KB", "5GB"]):
        torch.manual_seed(seed)
        model = PSELDNetForSELD(tiny_config())
        model.save_pretrained(tmp_path, max_shard_size=size)
        assert torch.equal(weights_of(PSELDNetForSELD.from_pretrained(tmp_path)), weights_of(model))
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_variant_that_is_saved_over_another_is_loaded_in_its_place_and_leaves_others_alone(tmp_path):
    plain = PSELDNetForSELD(tiny_config())
    plain.save_pretrained(tmp_path)
    for size in ("5GB", "20KB", "5GB"):
        model = PSELDNetForSELD(tiny_config())
        model.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
        loaded = PSELDNetForSELD.from_pretrained(tmp_path, variant="fp16")
        assert torch.equal(weights_of(loaded), weights_of(model))
    assert torch.equal(weights_of(PSELDNetForSELD.from_pretrained(tmp_path)), weights_of(plain))
    saved = sorted(path.name for path in tmp_path.glob("*.safetensors*"))
    assert saved == ["model.fp16.safetensors", "model.safetensors"]


def test_a_model_whose_saving_fails_leaves_what_was_there(tmp_path, monkeypatch):
    old = PSELDNetForSELD(tiny_config())
    old.save_pretrained(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(hub_folder, "model_card", None)
    (tmp_path / "README.md").unlink()
    with pytest.raises(TypeError):
        PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before - {"README.md"}
    assert torch.equal(weights_of(load(tmp_path, "cpu")[0]), weights_of(old))


@pytest.mark.parametrize("moved", [0, 1, 20])
def test_a_model_of_which_a_part_has_taken_the_place_of_another_is_not_loaded(tmp_path, monkeypatch, moved):
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    left, move = iter(range(moved)), os.replace

    def replace(source, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), staged_files(tmp_path) as staging:
        shutil.copytree(tmp_path, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("_*"))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(tmp_path)


def test_what_was_given_for_the_metadata_of_a_form_stays(tmp_path):
    given = "license: mit\nlanguage:\n- en\ndatasets:\n- user/data\ntags:\n- birds\n"
    (tmp_path / "README.md").write_text(f"---\n{given}model-index:\n- name: run\n---\nMore information needed\n")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert (data["license"], data["language"], data["datasets"]) == ("mit", ["en"], ["user/data"])
    assert data["tags"] == [*TAGS, "birds"]
    assert data["pipeline_tag"] == "audio-classification"
    (tmp_path / "README.md").write_text("---\n[\n---\nMore information needed\n")
    PSELDNetForSELD(tiny_config()).save_pretrained(tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.tags == TAGS


def test_a_model_has_its_tags_for_itself():
    PSELDNetForSELD(tiny_config()).add_model_tags(["birds"])
    assert PSELDNetForSELD(tiny_config()).model_tags == TAGS


@pytest.mark.parametrize(
    ("num_channels", "feature_type", "audio"),
    [
        (7, "logmel_iv", "W, Y, Z, X of first-order ambisonics"),
        (10, "logmel_gcc", "tetrahedral microphone array"),
        (1, "logmel", "mono audio"),
    ],
)
def test_an_extractor_fits_the_model_it_is_saved_with(tmp_path, num_channels, feature_type, audio):
    config = tiny_config(num_channels=num_channels, sampling_rate=32000, hop_length=320)
    save_hub_folder(PSELDNetForSELD(config), tmp_path / "model", model_card(config, "test"))
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (extractor.feature_type, extractor.sampling_rate, extractor.hop_length) == (feature_type, 32000, 320)
    assert audio in (tmp_path / "model" / "README.md").read_text()


def test_an_extractor_that_is_given_is_saved_if_it_fits(tmp_path):
    extractor = PSELDNetFeatureExtractor(feature_type="salsa_lite", n_fft=512)
    config = tiny_config(num_channels=7)
    save_hub_folder(PSELDNetForSELD(config), tmp_path / "model", model_card(config, "test", extractor), extractor)
    saved = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert (saved.feature_type, saved.n_fft) == ("salsa_lite", 512)
    with pytest.raises(ValueError, match="logmel_gcc features with a num_channels of 10 do not fit"):
        save_hub_folder(
            PSELDNetForSELD(config), tmp_path / "other", "", PSELDNetFeatureExtractor(feature_type="logmel_gcc")
        )
    assert not (tmp_path / "other").exists()


def test_a_model_for_features_of_no_known_type_needs_its_extractor(tmp_path):
    model = PSELDNetForSELD(tiny_config(num_channels=3))
    with pytest.raises(ValueError, match="no feature type has the 3 channels of the model: give"):
        save_hub_folder(model, tmp_path / "model", "")
    model.save_pretrained(tmp_path / "bare")
    assert not (tmp_path / "bare" / "preprocessor_config.json").exists()
    assert "features have 3 channels" in (tmp_path / "bare" / "README.md").read_text()
