"""However a model is put on the Hub, it loads from there in every way, with a card that describes it."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard
from transformers import pipeline

from tests.modeling_pseldnet.hub_server import serve_hub


DOORS = ["model", "extractor", "pipeline", "trainer", "upload", "again"]
# The folder of a pipeline that was saved, and then moved.
ELSEWHERE = "elsewhere"
WAYS = {
    "pipeline, remote code": "remote",
    "Auto classes, remote code": "auto",
    "pipeline": "pipeline",
    "modeling_pseldnet.load": "load",
}
PUSH = """
import os
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments, pipeline
from modeling_pseldnet import DataCollatorForSELD, PSELDNetFeatureExtractor, load

model, extractor = load(FOLDER, "cpu")
model.push_to_hub("user/model")
PSELDNetFeatureExtractor().push_to_hub("user/extractor")
model.push_to_hub("user/extractor")
detector = pipeline("sound-event-localization-and-detection", model=model, feature_extractor=extractor)
detector.push_to_hub("user/pipeline")
detector.save_pretrained("saved")
os.rename("saved", ELSEWHERE)
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
PACKAGES = "modeling_pseldnet", "datasets_scripts", "training"
sys.modules.update(dict.fromkeys(PACKAGES))
import io, json, soundfile
from pathlib import Path
from datasets import load_dataset
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification, pipeline

TASK, found = "sound-event-localization-and-detection", {}
if "again" in DOORS:
    again = AutoModelForAudioFrameClassification.from_pretrained("user/model", trust_remote_code=True)
    again.save_pretrained("again", push_to_hub=True, repo_id="user/again")
for door in DOORS:
    name = door if door == ELSEWHERE else f"user/{door}"
    model = AutoModelForAudioFrameClassification.from_pretrained(name, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    detector = pipeline(TASK, model=name, trust_remote_code=True)
    by_parts = type(detector)(model=model, feature_extractor=extractor)
    found[door] = {"remote": detector(PATH), "auto": by_parts(PATH)}
    base = AutoModel.from_pretrained(name, trust_remote_code=True)
    weights = model.pseldnet.state_dict()
    assert all(value.equal(weights[name]) for name, value in base.state_dict().items())
assert {name.split(".")[0] for name in sys.modules if "pseldnet" in name} == {PACKAGES[0], "transformers_modules"}
row = load_dataset("user/data", split="test")[0]
samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
"""
WITH_THE_PACKAGE = """
for package in PACKAGES:
    del sys.modules[package]
import modeling_pseldnet
from modeling_pseldnet.tools.predict import main

for door in DOORS:
    name = door if door == ELSEWHERE else f"user/{door}"
    detector = pipeline(TASK, model=name)
    model, extractor = modeling_pseldnet.load(name, "cpu")
    by_load = pipeline(TASK, model=model, feature_extractor=extractor)
    found[door] |= {"pipeline": detector(PATH), "load": by_load(PATH)}
assert type(AutoFeatureExtractor.from_pretrained(name)) is modeling_pseldnet.PSELDNetFeatureExtractor
assert type(AutoModelForAudioFrameClassification.from_pretrained(name)) is modeling_pseldnet.PSELDNetForSELD
assert main([PATH, "--model", name, "--output", "predicted", "--json"]) == 0
assert main([PATH, "--model", "user/none"]) == 2
(path,) = Path("predicted").glob("*.json")
row = [row["id"], samples.shape, rate, row["events"]]
print(json.dumps({"events": found, "predicted": json.loads(path.read_text()), "row": row}))
"""
PUSH_BOTH = """
from transformers import AutoModelForAudioFrameClassification, Trainer, TrainingArguments
from modeling_pseldnet import PSELDNetFeatureExtractor, load

model = AutoModelForAudioFrameClassification.from_pretrained(FOLDER)
extractor = PSELDNetFeatureExtractor(n_fft=512)
extractor.push_to_hub("user/one-by-one")
model.push_to_hub("user/one-by-one")
extractor.save_pretrained("both")
model.save_pretrained("both", push_to_hub=True, repo_id="user/folder")
extractor.push_to_hub("user/by-trainer")
Trainer(model, TrainingArguments("bare", hub_model_id="user/by-trainer", use_cpu=True, report_to=[])).push_to_hub()
extractor.push_to_hub("user/known")
load(FOLDER, "cpu")[0].push_to_hub("user/known")
"""
PUSH_ADAPTERS = """
from modeling_pseldnet import AdapterBitConfig, DataCollatorForSELD, load
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

model, extractor = load(FOLDER, "cpu")
adapted = get_peft_model(model, AdapterBitConfig(r=2))
adapted.push_to_hub("user/adapter")
load("user/adapter", "cpu")[0].push_to_hub("user/loaded-adapter")
arguments = TrainingArguments(
    "adapter-run", push_to_hub=True, hub_model_id="user/trained-adapter", max_steps=1, save_strategy="no",
    use_cpu=True, report_to=[],
)
rows = [{"audio": PATH, "events": [[0, 1, 0, 30, 0]]}]
trainer = Trainer(adapted, arguments, DataCollatorForSELD(extractor, adapted), rows, processing_class=extractor)
trainer.train()
trainer.push_to_hub()
"""
PUSH_DATA = """
from datasets_scripts.synthetic_seld import SyntheticSELD

builder = SyntheticSELD(data_dir=DATA, cache_dir="cache")
builder.download_and_prepare()
builder.as_dataset().push_to_hub("user/data")
"""


class Hub(NamedTuple):
    """The folder of a Hub, a recording, a function that runs Python with that Hub elsewhere, and what it downloads."""

    folder: Path
    recording: Path
    run: Callable[..., str]
    downloads: Counter


@pytest.fixture(scope="module")
def hub(hub_folder, tmp_path_factory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("doors")
    path = folder / "data" / "test" / "foa" / "fold1_room1_mix001.wav"
    for part in ("foa", "metadata"):
        (folder / "data" / "test" / part).mkdir(parents=True)
    (folder / "data" / "test" / "metadata" / f"{path.stem}.csv").write_text("0,1,0,30,10\n3,0,0,-60,0\n")
    (folder / "data" / "cls_indices_train.tsv").write_text("0\t-\tspeech\n1\t-\tdoor\n")
    noise = np.random.default_rng(0).standard_normal(36000)
    soundfile.write(path, np.outer(noise, [0.1, 0.1, 0.0, 0.02]), 24000)
    (folder / "hub").mkdir()
    with serve_hub(folder / "hub") as (endpoint, downloads):
        options = {
            **{"HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"},
        }

        def run(code: str, doors: Sequence[str] = (ELSEWHERE, *DOORS), **environment: str) -> str:
            names = {"FOLDER": str(hub_folder), "PATH": str(path), "DATA": str(folder / "data")}
            names |= {"DOORS": doors, "ELSEWHERE": ELSEWHERE}
            head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
            finished = subprocess.run(
                [sys.executable, "-c", head + code],
                cwd=folder,
                env={**os.environ, **options, **environment},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert finished.returncode == 0, finished.stderr
            return finished.stdout

        yield Hub(folder / "hub" / "user", path, run, downloads)


@pytest.fixture(scope="module")
def pushed(hub):
    """The folder of the Hub after models, adapters, extractors and data were pushed in every way ("door")."""
    hub.run(PUSH + PUSH_BOTH + PUSH_ADAPTERS + PUSH_DATA)
    return hub.folder


@pytest.fixture(scope="module")
def loaded(hub, pushed):
    """The `events` that each way of loading finds in the recording, by door; what is `predicted`; a `row` of data."""
    return json.loads(hub.run(WITHOUT_THE_PACKAGE + WITH_THE_PACKAGE).splitlines()[-1])


@pytest.fixture(scope="module")
def expected(hub, hub_folder):
    """The events that the model finds in the recording before it is shared."""
    return pipeline("sound-event-localization-and-detection", model=str(hub_folder))(str(hub.recording))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", [ELSEWHERE, *DOORS])
def test_a_model_loads_from_every_door_by_every_way(loaded, expected, door, way):
    assert expected
    assert loaded["events"][door][WAYS[way]] == expected


def test_the_program_takes_a_model_by_its_name(loaded, expected):
    assert loaded["predicted"] == expected


def test_each_file_is_downloaded_once(hub, loaded):
    assert {f"user/{door}/model.safetensors" for door in DOORS} <= hub.downloads.keys()
    assert [name for name, count in hub.downloads.items() if count > 1] == []


def test_what_was_downloaded_loads_without_the_hub(hub, loaded, expected):
    gone = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1"}
    found = json.loads(hub.run(WITHOUT_THE_PACKAGE + WITH_THE_PACKAGE, ["upload"], **gone).splitlines()[-1])
    assert found["events"]["upload"] == dict.fromkeys(WAYS.values(), expected)
    assert found["predicted"] == expected


@pytest.mark.parametrize("door", DOORS)
def test_what_is_shared_has_a_card(pushed, loaded, door):
    card = ModelCard.load(pushed / door / "README.md")
    assert "pseldnet" in card.data.tags
    assert "speech, footsteps, door" in card.text
    assert "trust_remote_code=True" in card.text
    assert "ore information needed" not in card.text.lower()
    if door == "trainer":
        assert "on the evaluation set:" in card.text
        assert "learning_rate: 0.0" in card.text


def test_an_extractor_that_was_pushed_or_saved_before_its_model_stays(pushed):
    # Unless the model is known to take another.
    n_fft = {"one-by-one": 512, "folder": 512, "by-trainer": 512, "known": 1024}
    for name in n_fft:
        assert json.loads((pushed / name / "preprocessor_config.json").read_text())["n_fft"] == n_fft[name]


def test_a_card_of_an_adapter_says_how_to_load_it_whichever_way_it_is_pushed(pushed):
    for name in ("adapter", "loaded-adapter", "trained-adapter"):
        card = ModelCard.load(pushed / name / "README.md")
        assert card.data.library_name == "peft"
        assert card.text.count("# Loading this AdapterBit adapter") == 1


def test_a_data_set_comes_back_from_the_hub_with_its_audio(loaded):
    name, shape, rate, events = loaded["row"]
    assert (name, shape, rate) == ("test/fold1_room1_mix001", [36000, 4], 24000)
    assert (events["frame"], events["class"], events["azimuth"]) == ([0, 3], [1, 0], [30.0, -60.0])
