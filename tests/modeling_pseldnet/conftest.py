import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification

from modeling_pseldnet import PSELDNetForSELD, read_csv
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from modeling_pseldnet.tools.convert import main as convert
from tests.helpers import scattered, tiny_config


@pytest.fixture
def tiny_model() -> PSELDNetForSELD:
    return scattered(PSELDNetForSELD(tiny_config())).eval()


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory):
    """A Hub folder of a tiny network with random weights that reports many events."""
    model = scattered(PSELDNetForSELD(tiny_config())).eval()
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    save_hub_folder(model, folder, model_card(model.config, "test"))
    return folder


@pytest.fixture
def write_recording(tmp_path):
    """Write noise, louder from the left, as 4-channel audio."""

    def write(name="recording.wav", seconds=1.0, sampling_rate=24000, num_channels=4, subtype=None, folder=tmp_path):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        source = np.random.default_rng(0).standard_normal(round(seconds * sampling_rate)).astype(np.float32)
        channels = np.outer(source, np.resize([0.1, 0.1, 0.0, 0.02], num_channels))
        soundfile.write(path, channels, sampling_rate, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def clips(reference):
    """The metadata of the two clips behind the published labels."""
    return [read_csv(reference / "labels" / f"clip{number}.csv") for number in (0, 1)]


@pytest.fixture
def published_outputs(reference, values, tmp_path):
    """Convert a published checkpoint; return its outputs and those of the published network for the same waveforms."""

    def run(name: str, backbone: str, output_format: str, num_waveforms: int = 2):
        case = json.loads((reference / "index.json").read_text())[name]
        checkpoint, folder = tmp_path / "published.ckpt", tmp_path / "converted"
        torch.save(values.published_checkpoint(name), checkpoint)
        architecture = ["--backbone", backbone, "--output-format", output_format]
        rate = case["sample_rate"]
        assert convert([str(checkpoint), str(folder), "--sampling-rate", str(rate), *architecture]) == 0
        checkpoint.unlink()
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        model = AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
        assert model.num_parameters() == case["parameters"]
        waveforms = np.stack([values.wave(seed, sample_rate=rate) for seed in case["wave_seeds"][:num_waveforms]])
        with torch.no_grad():
            outputs = model(**extractor(waveforms, sampling_rate=rate, return_tensors="pt"))
        golden = np.load(reference / f"{name}.npz")
        return outputs, {output: golden[output][:num_waveforms] for output in golden}

    return run
