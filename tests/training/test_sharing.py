"""What a run publishes: logs, and a model on the Hub that works without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modeling_pseldnet.hub_server import serve_hub
from training.recipes import read_recipe


ROOT = Path(__file__).parents[2]
# A child trains; its parent, with what both import, knows no package but what it downloads.
TRAIN_AND_LOAD = """
import json, os, sys
from transformers import Trainer, pipeline

clip, *options = sys.argv[1:]
if not (child := os.fork()):
    from training.train import main
    sys.exit(main(options))
assert os.waitpid(child, 0)[1] == 0
sys.modules.update(dict.fromkeys(("modeling_pseldnet", "datasets_scripts", "training")))
detector = pipeline("sound-event-localization-and-detection", model="user/model", trust_remote_code=True)
print(json.dumps(detector(clip, threshold=0.01)))
"""


@pytest.fixture(scope="module")
def run_with_hub(tiny_data, tiny_overrides, tmp_path_factory):
    """Train with checkpoints, TensorBoard and a Hub; return output and Hub folder, and what the pushed model finds."""
    folder = tmp_path_factory.mktemp("sharing")
    hub, output = folder / "hub", folder / "run"
    hub.mkdir()
    clip = next((tiny_data / "test/foa").glob("*.wav"))
    every_epoch = ("training.eval_strategy=epoch", "training.save_strategy=epoch", "training.logging_steps=1")
    overrides = tiny_overrides(tiny_data, output, *every_epoch, "training.report_to=tensorboard")
    options = ("synth_accdoa", "--push-to-hub", "user/model", "--override", *overrides)
    with serve_hub(hub, "user/model") as (endpoint, _):
        # The tests' Hub takes large files through LFS.
        own = {
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "hf"),
        }
        finished = subprocess.run(
            [sys.executable, "-c", TRAIN_AND_LOAD, str(clip), *options],
            cwd=ROOT,
            env={**os.environ, **own, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert finished.returncode == 0, finished.stderr
    return output, hub, json.loads(finished.stdout.splitlines()[-1])


def test_a_model_and_its_results_are_pushed_and_no_checkpoints(run_with_hub):
    output, hub, _ = run_with_hub
    assert len(list(output.glob("checkpoint-*/optimizer.pt"))) == 2
    pushed = {file.relative_to(hub).as_posix() for file in hub.rglob("*") if file.is_file()}
    assert pushed >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_pseldnet.py",
        "pipeline_pseldnet.py",
        "preprocessor_config.json",
    }
    assert not [name for name in pushed if name.startswith(("checkpoint-", "_")) or "optimizer" in name]
    assert (hub / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


def test_the_recipe_that_is_pushed_tells_no_folder_of_this_machine(run_with_hub, tiny_data):
    _, hub, _ = run_with_hub
    assert read_recipe(hub / "recipe.yaml").train.data_dir == tiny_data.name
    assert str(tiny_data.parents[1]) not in (hub / "recipe.yaml").read_text()


def test_the_card_tells_of_the_run_and_its_scores(run_with_hub):
    _, hub, _ = run_with_hub
    card = (hub / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in card
    assert "Trained as `run`" in card
    assert "pseldnets, 12 recordings" in card


def test_what_is_pushed_works_elsewhere(run_with_hub):
    *_, events = run_with_hub
    assert {event["label"] for event in events} <= {"low", "middle", "high"}
    assert events


def test_tensorboard_has_the_loss_and_the_scores_of_each_epoch(run_with_hub):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    output, _, _ = run_with_hub
    scalars: dict[str, list[int]] = {}
    for file in sorted(output.glob("runs/*/events.out.tfevents.*")):
        events = accumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    assert scalars["train/loss"] == [1, 2, 3, 4, 5, 6]
    for score in ("loss", "SELD", "F", "LE", "micro_F"):
        assert scalars[f"eval/{score}"][:2] == [3, 6]
