import pytest
from transformers import AutoFeatureExtractor

from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from tests.helpers import tiny_config


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
