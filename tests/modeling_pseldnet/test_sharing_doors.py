"""Whichever way a model is put on the Hub, it loads from there in every way, with a card that says what it is."""

import json

import pytest
from huggingface_hub import ModelCard

from tests.modeling_pseldnet.hub_server import serve_hub


DOORS = ["model", "extractor", "pipeline", "trainer", "upload", "again"]
WAYS = {
    "pipeline, remote code": "remote",
    "Auto classes, remote code": "auto",
    "pipeline": "pipeline",
    "modeling_pseldnet.load": "load",
}
PUSH = """
import numpy as np
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments, pipeline
from modeling_pseldnet import DataCollatorForSELD, PSELDNetFeatureExtractor, load

model, extractor = load(FOLDER, "cpu")
model.push_to_hub("user/model")
PSELDNetFeatureExtractor().push_to_hub("user/extractor")
model.push_to_hub("user/extractor")
pipeline("sound-event-localization-and-detection", model=model, feature_extractor=extractor).push_to_hub("user/pipeline")
HfApi().create_repo("user/upload")
HfApi().upload_folder(repo_id="user/upload", folder_path=FOLDER)
arguments = TrainingArguments(
    "run", push_to_hub=True, hub_model_id="user/trainer", max_steps=1, learning_rate=0.0, save_strategy="no",
    use_cpu=True, report_to=[],
)
for norm in (module for module in model.modules() if hasattr(module, "momentum")):
    norm.momentum = 0.0
rows = [{"audio": PATH, "events": [[0, 1, 0, 30, 0]]}]
collator = DataCollatorForSELD(extractor, model)
trainer = Trainer(model, arguments, collator, rows, rows, processing_class=extractor)
trainer.train()
trainer.evaluate()
trainer.push_to_hub()
"""
WITHOUT_THE_PACKAGE = """
import sys
sys.modules["modeling_pseldnet"] = sys.modules["training"] = None
import json
from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification, pipeline

TASK, found = "sound-event-localization-and-detection", {}
pipeline(TASK, model="user/model", trust_remote_code=True).model.push_to_hub("user/again")
for door in DOORS:
    name = f"user/{door}"
    model = AutoModelForAudioFrameClassification.from_pretrained(name, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    found[door] = {
        "remote": pipeline(TASK, model=name, trust_remote_code=True)(PATH),
        "auto": pipeline(TASK, model=model, feature_extractor=extractor)(PATH) if door == "model" else None,
    }
    from importlib import import_module
    local = import_module(type(model).__module__.rpartition(".")[0] + ".pipeline_pseldnet")
    kind = local.SoundEventLocalizationAndDetectionPipeline
    found[door]["auto"] = kind(model=model, feature_extractor=extractor)(PATH)
print(json.dumps(found))
"""
WITH_THE_PACKAGE = """
import json
from transformers import pipeline
from modeling_pseldnet import load

TASK, found = "sound-event-localization-and-detection", {}
for door in DOORS:
    detector = pipeline(TASK, model=f"user/{door}")
    model, extractor = load(f"user/{door}", "cpu")
    by_load = pipeline(TASK, model=model, feature_extractor=extractor)
    found[door] = {"pipeline": detector(PATH), "load": by_load(PATH)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def shared(hub_folder, tmp_path_factory):
    """What each way of loading finds in a recording, by door, what is there to be found, and the Hub's folder."""
    import os
    import subprocess
    import sys

    import numpy as np
    import soundfile
    from transformers import pipeline

    folder = tmp_path_factory.mktemp("doors")
    path, hub = folder / "recording.wav", folder / "hub"
    hub.mkdir()
    noise = np.random.default_rng(0).standard_normal(36000)
    soundfile.write(path, np.outer(noise, [0.1, 0.1, 0.0, 0.02]), 24000)
    expected = pipeline("sound-event-localization-and-detection", model=str(hub_folder))(str(path))
    with serve_hub(hub) as (endpoint, _):
        options = {
            **{"HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"},
        }

        def run(code: str) -> str:
            head = f"FOLDER, PATH, DOORS = {str(hub_folder)!r}, {str(path)!r}, {DOORS!r}\n"
            command = [sys.executable, "-c", head + code]
            finished = subprocess.run(
                command, cwd=folder, env={**os.environ, **options}, capture_output=True, text=True, timeout=600
            )
            assert finished.returncode == 0, finished.stderr
            return finished.stdout

        run(PUSH)
        found = json.loads(run(WITHOUT_THE_PACKAGE).splitlines()[-1])
        for door, by_way in json.loads(run(WITH_THE_PACKAGE).splitlines()[-1]).items():
            found[door] |= by_way
    return found, expected, hub / "user"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", DOORS)
def test_a_model_loads_from_every_door_by_every_way(shared, door, way):
    found, expected, _ = shared
    assert expected
    assert found[door][WAYS[way]] == expected


@pytest.mark.parametrize("door", DOORS)
def test_what_is_shared_has_a_card(shared, door):
    _, _, hub = shared
    card = ModelCard.load(hub / door / "README.md")
    assert "pseldnet" in card.data.tags
    assert "speech, footsteps, door" in card.text
    assert "trust_remote_code=True" in card.text
    assert "ore information needed" not in card.text.lower()
    if door == "trainer":
        assert "on the evaluation set:" in card.text
        assert "learning_rate: 0.0" in card.text
