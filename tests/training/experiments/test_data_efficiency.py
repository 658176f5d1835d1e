"""The experiment on how much data a new task needs: what is trained on what, and that nothing is done twice."""

import json

import pytest

from training.experiments import data_efficiency
from training.experiments.data_efficiency import METHODS, MONO, SHARES, main, recipe_of_run, split_classes, table
from training.recipes import read_recipe


CLASSES = ["bell", "cow", "door", "lion", "rain", "tram"]
SCENES = """\
scene_seconds: 1.0
test_fraction: 0.4
rooms: {number: 1, rt60: [0.1, 0.2], positions: 3, paths: 0}
events: {polyphony: {1: 1}, gap: [0.0, 0.2], moving: 0.0}
"""
TINY = [
    "model.window_seconds=1",
    "model.embed_dim=8",
    "model.depths=[1, 1]",
    "model.num_heads=[1, 2]",
    "data.train.scenes=4",
    "data.eval.scenes=2",
    "training.dataloader_num_workers=0",
    "training.per_device_train_batch_size=2",
]


@pytest.fixture
def events(tmp_path, write_recordings):
    """Six classes of three recordings."""
    return write_recordings(tmp_path / "events", CLASSES)


@pytest.fixture
def program(events, tmp_path):
    """Run the program on the events."""
    (tmp_path / "scenes.yaml").write_text(SCENES)

    def program(*more):
        overrides = [*TINY, f"data.scene_recipe={tmp_path / 'scenes.yaml'}"]
        updates = ["--updates", "1", "--pretrain-updates", "2"]
        main(["--sounds", str(events), "--output", str(tmp_path / "out"), *updates, *more, "--override", *overrides])
        return tmp_path / "out"

    return program


def test_the_task_has_every_third_class_and_pre_training_the_others(events, tmp_path):
    pretrain, target = split_classes(events, tmp_path / "sounds")
    assert sorted(path.name for path in pretrain.iterdir()) == ["bell", "cow", "lion", "rain"]
    assert sorted(path.name for path in target.iterdir()) == ["door", "tram"]
    assert (target / "door" / "first.wav").is_file()
    _, named = split_classes(events, tmp_path / "named", ["rain"])
    assert [path.name for path in named.iterdir()] == ["rain"]
    with pytest.raises(ValueError, match="has no class moon"):
        split_classes(events, tmp_path / "unknown", ["moon"])


def test_the_default_model_can_be_tried_on_classes_that_were_held_out(tmp_path):
    recipes = "data_efficiency/default_model"
    pretrained = read_recipe(f"{recipes}/pretrain").model
    for method in METHODS:
        recipe = recipe_of_run(method, "10 %", 0, tmp_path, tmp_path / "pretrained", [], recipes)
        same = ("output_format", "embed_dim", "depths", "num_heads", "patch_size", "distance", "distance_activation")
        assert [recipe.model[name] for name in same] == [pretrained[name] for name in same]
        assert (recipe.model["window_seconds"], recipe.model["spec_size"]) == (10, 256)


@pytest.mark.parametrize("data", SHARES)
@pytest.mark.parametrize("method", METHODS)
def test_runs_differ_in_how_they_start_what_they_train_and_on_what(method, data, tmp_path):
    recipe = recipe_of_run(method, data, 5, tmp_path, tmp_path / "pretrained", [])
    assert recipe.model.get("pretrained") == (None if method == "from scratch" else str(tmp_path / "pretrained"))
    assert (recipe.peft or {}).get("method") == {"AdapterBit": "adapterbit", "LoRA": "lora"}.get(method)
    assert recipe.train.source == ("mono_clips" if data == MONO else "synthetic_seld")
    assert recipe.train.fraction == (SHARES[data] or 1)
    assert (recipe.train.seed, recipe.training["seed"]) == (5, 5)
    # All runs are scored in the same way, and are equally long.
    assert (recipe.eval.source, recipe.eval.split, recipe.evaluation.variant) == (
        "synthetic_seld",
        "test",
        "dcase2023",
    )
    assert recipe.training["max_steps"] == 200


def test_an_experiment_is_done_once_and_goes_on_where_it_stopped(program, monkeypatch, capsys):
    chosen = "--methods", "from scratch", "LoRA", "LoRA", "--seeds", "1"
    monkeypatch.setattr(data_efficiency, "SHARES", {name: SHARES[name] for name in ("100 %", MONO)})
    output = program(*chosen)
    results = json.loads((output / "results.json").read_text())
    assert [(run["method"], run["data"]) for run in results] == [
        ("from scratch", "100 %"), ("LoRA", "100 %"), ("from scratch", MONO), ("LoRA", MONO)
    ]  # fmt: skip
    trained = [run["trained_parameters"] for run in results]
    assert trained[0] == trained[2] > trained[1] == trained[3] > 0
    assert (output / "data_efficiency.png").read_bytes().startswith(b"\x89PNG")
    classes = json.loads((output / "runs/LoRA, 100 %, seed 0/config.json").read_text())["id2label"]
    assert list(classes.values()) == ["door", "tram"]

    done = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/scores.json")}
    lost = output / "runs/LoRA, 100 %, seed 0/scores.json"
    lost.unlink()
    program(*chosen)
    assert [path for path, time in done.items() if path.stat().st_mtime_ns != time] == [lost]

    program(*chosen, "--override", "training.weight_decay=0")
    assert "differs in override" in capsys.readouterr().err


def test_table_gives_mean_and_standard_deviation_over_the_seeds():
    runs = [
        {"method": method, "data": data, "seed": seed, "F": score, "LE": 10 * score, "trained_parameters": 1234}
        for seed, score in enumerate((0.2, 0.3, 0.4))
        for method in METHODS
        for data in SHARES
    ]
    heading, _, *rows = table(runs, 300).splitlines()
    assert "1 %, 3 scenes" in heading
    assert [row.split(" | ")[0] for row in rows] == [f"| {method}" for method in METHODS]
    assert all(row.split(" | ")[1:3] == ["1,234", "0.300 ± 0.100<br>3.0 ± 1.0°"] for row in rows)
