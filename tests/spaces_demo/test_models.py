import json
import shutil
from pathlib import Path

import pytest

from modeling_pseldnet import DEFAULT_MODEL
from spaces_demo.models import check_files, check_settings, load_from_hub, load_own
from tests.modeling_pseldnet.hub_server import serve_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with a repository, user/stranger: its folder and a counter of its downloads."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    folder.mkdir()
    with serve_hub(folder, "user/stranger") as (endpoint, downloads):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        load_from_hub.cache_clear()
        yield folder, downloads


def test_an_adapter_is_refused_before_anything_of_it_is_fetched(hub, model):
    folder, downloads = hub
    config = {"peft_type": "LORA", "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"user/stranger: .* it is an adapter, which is refused here"):
        load_from_hub("user/stranger")
    assert not downloads


def test_a_public_model_is_loaded_by_its_settings_and_weights_alone(hub, model):
    folder, downloads = hub
    shutil.copytree(model, folder, dirs_exist_ok=True)
    (folder / "extra.json").write_text("{}")
    (folder / "training.py").write_text("raise SystemExit")
    loaded = load_from_hub("user/stranger")
    assert loaded.name == "user/stranger"
    assert {*downloads} == {"config.json", "preprocessor_config.json", "model.safetensors"}


def test_a_repository_is_refused_by_the_sizes_of_its_files():
    check_files({"config.json": 3000, "model.safetensors": 10**9, "videos.mp4": 10**12})
    for sizes in ({"config.json": 2 * 10**6}, {"model-1.safetensors": 2 * 10**9, "model-2.safetensors": 10**9}):
        with pytest.raises(ValueError, match="larger than"):
            check_files(sizes)


BAD_SETTINGS = {
    "a wide network": {"embed_dim": 9999},
    "a number no float can be": {"embed_dim": 10**400},
    "not a number": {"mlp_ratio": float("nan")},
    "a negative number": {"embed_dim": -8},
    "an enormous table": {"window_size": 10_000, "spec_size": 10_000},
    "a deep network": {"depths": [48] * 17},
    "many small stages": {"depths": [10_000, 10_000, 10_000]},
    "an hour at once": {"window_seconds": 3600},
    "too many frames": {"hop_length": 1},
    "no hop": {"hop_length": 0},
    "a million classes": {"id2label": {str(number): "a" for number in range(5000)}},
    "a long name": {"id2label": {"0": "a" * 10_000}},
    "patches everywhere": {
        "backbone": "passt", "patch_size": 2, "patch_stride": 2, "decoder": None, "decoder_layers": None,
    },
    "another kind of value": {"depths": {"a": [[[1]]]}},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_are_bounded_before_anything_is_built(name, tmp_path):
    for file in ("config.json", "preprocessor_config.json"):
        settings = json.loads(Path(DEFAULT_MODEL, file).read_text())
        (tmp_path / file).write_text(json.dumps({**settings, **(BAD_SETTINGS[name] if file == "config.json" else {})}))
    with pytest.raises(ValueError, match=r"limit|more than|longer|refused|cannot be used here"):
        check_settings(tmp_path)


def test_settings_that_are_none_of_a_pseldnet_are_dropped(tmp_path):
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(Path(DEFAULT_MODEL, file), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    elsewhere = {"attn_implementation": "user/kernels", "quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **elsewhere}))
    check_settings(tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept.keys() <= config.keys()
    assert kept["id2label"] == config["id2label"]


def test_the_card_tells_how_often_a_model_is_right():
    scores = load_own(DEFAULT_MODEL).scores
    assert 0 < next(value for name, value in scores.items() if name.startswith("F20")) < 1


def test_a_folder_is_called_by_its_name_however_it_is_given(model, monkeypatch):
    monkeypatch.chdir(model)
    assert {load_own(given).name for given in (".", f"../{model.name}/", str(model))} == {model.name}


def test_the_card_of_an_adapter_does_not_tell_where_its_base_lies(model, tmp_path):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "README.md").write_text(f'---\nbase_model: {model}\n---\nfrom_pretrained("{model}")\n')
    assert load_own(str(tmp_path)).card == '---\nbase_model: tiny\n---\nfrom_pretrained("tiny")\n'
