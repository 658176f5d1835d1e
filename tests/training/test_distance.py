"""Training with distances, on stereo and with other data mixed in, end to end on tiny data."""

import json

import numpy as np
import pytest
import soundfile
import torch

from datasets_scripts.stereo_clips import clip_events, to_stereo
from modeling_pseldnet import Events, detect, load_for_transfer
from modeling_pseldnet.events import read_csv, write_csv
from modeling_pseldnet.tools.evaluate_files import evaluate_files
from modeling_pseldnet.tools.predict import main as predict
from training.data import load_windows
from training.network import build_extractor
from training.recipes import DataRecipe, read_recipe
from training.train import run


CLASSES = ["low", "middle", "high"]
BY_HEART = [
    "data.train.keep_features=true",
    "training.per_device_train_batch_size=12",
    "training.num_train_epochs=80",
    "training.learning_rate=3e-3",
    "schedule.muon_learning_rate=0.02",
    "schedule.step_epochs=60",
]


@pytest.fixture(scope="module")
def distant_scenes(make_scenes):
    """Twelve scenes whose sources have distances."""
    scenes, generator = make_scenes(12), np.random.default_rng(3)
    metres = [generator.uniform(0.7, 6, len(CLASSES)) for _ in scenes]
    return [
        (waveform, events.replace(distance=of_class[events.class_id]))
        for (waveform, events), of_class in zip(scenes, metres, strict=True)
    ]


@pytest.fixture(scope="module")
def distant_data(tmp_path_factory, distant_scenes, write_scenes):
    return write_scenes(tmp_path_factory.mktemp("data") / "distant", distant_scenes)


@pytest.fixture(scope="module")
def stereo_data(tmp_path_factory, distant_scenes):
    """The same scenes in stereo, in the layout of DCASE 2025 but one second long."""
    root = tmp_path_factory.mktemp("data") / "stereo"
    root.mkdir()
    rows = [f"{index}\t-\t{name}\t1\t1.0\n" for index, name in enumerate(CLASSES)]
    (root / "cls_indices_train.tsv").write_text("".join(rows))
    for fold, part in ((3, "dev-train"), (4, "dev-test")):
        for folder in ("stereo_dev", "metadata_dev"):
            (root / folder / part).mkdir(parents=True)
        for number, (waveform, events) in enumerate(distant_scenes):
            name = f"fold{fold}_room1_mix{number:03d}_deg000_start0000"
            stereo = np.clip(0.5 * to_stereo(waveform, 0), -1, 1)
            soundfile.write(root / "stereo_dev" / part / f"{name}.wav", stereo.T, 24000)
            write_csv(root / "metadata_dev" / part / f"{name}.csv", clip_events(events, 0, 0), "dcase2025")
    return root


@pytest.fixture
def results(tmp_path):
    return lambda: json.loads((tmp_path / "run/eval_results.json").read_text())


def test_a_network_learns_twelve_clips_and_their_distances_by_heart(distant_data, tiny_overrides, tmp_path, results):
    more = [*BY_HEART, "model.distance=true", "evaluation.variant=dcase2024"]
    run(read_recipe("synth_multi_accdoa", tiny_overrides(distant_data, tmp_path / "run", *more)))
    metrics = results()
    assert metrics["eval_F"] >= 0.95
    assert metrics["eval_RelDistE"] <= 0.1
    assert {"eval_loss_accdoa", "eval_loss_distance"} <= metrics.keys()
    # The written predictions are in centimetres, and give the same scores when evaluated as files.
    scores = evaluate_files(
        [distant_data / "test/metadata"], [tmp_path / "run/predictions"], num_classes=3, variant="dcase2024"
    )
    assert scores["macro"]["RelDistE"] == pytest.approx(metrics["eval_RelDistE"], abs=1e-3)


def test_a_network_learns_stereo_clips_by_heart_and_predicts_them(stereo_data, tiny_overrides, tmp_path, results):
    more = [*BY_HEART, "model.onscreen=true", "model.distance_loss=relative"]
    trainer = run(read_recipe("dcase2025/stereo", tiny_overrides(stereo_data, tmp_path / "run", *more)))
    metrics = results()
    assert metrics["eval_F"] >= 0.95
    assert metrics["eval_F_onscreen"] >= 0.9
    assert metrics["eval_RelDistE"] <= 0.1
    audio = sorted(stereo_data.rglob("fold4*.wav"))[0]
    assert predict([str(audio), "--model", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--json"]) == 0
    found = read_csv(tmp_path / "out" / f"{audio.stem}.csv")
    expected = detect(trainer.model, trainer.feature_extractor, audio)
    assert (
        (tmp_path / "out" / f"{audio.stem}.csv").read_text().startswith("frame,class,source,azimuth,distance,onscreen")
    )
    np.testing.assert_allclose(found.distance, expected.distance, atol=0.006)
    assert found.onscreen.tolist() == expected.onscreen.tolist()
    record = json.loads((tmp_path / "out" / f"{audio.stem}.json").read_text())[0]
    assert {"distance", "onscreen"} <= record.keys()


def test_a_network_for_stereo_begins_from_one_for_ambisonics_as_load_for_transfer_makes_it(
    distant_data, stereo_data, tiny_overrides, tmp_path
):
    run(read_recipe("synth_multi_accdoa", tiny_overrides(distant_data, tmp_path / "first", "training.max_steps=1")))
    more = [f"model.pretrained={tmp_path / 'first'}", "training.max_steps=1", "training.learning_rate=0"]
    stereo = read_recipe("dcase2025/stereo", tiny_overrides(stereo_data, tmp_path / "run", *more))
    model = run(stereo).model
    expected, _ = load_for_transfer(tmp_path / "first", num_channels=5, num_axes=2, distance=True)
    assert (model.config.feature_type, model.config.num_channels) == ("stereo", 5)
    scores = json.loads((tmp_path / "run/eval_results.json").read_text(), parse_constant=pytest.fail)
    assert scores["eval_F_onscreen"] is None
    for name, weight in expected.pseldnet.named_parameters():
        torch.testing.assert_close(model.pseldnet.get_parameter(name), weight, msg=name)
    with pytest.raises(ValueError, match="stereo features do not fit the model, which needs logmel_iv"):
        run(stereo, only_evaluate=True)


def test_distances_cannot_be_scored_of_a_model_without_them(distant_data, tiny_overrides, tmp_path):
    recipe = read_recipe(
        "synth_multi_accdoa", tiny_overrides(distant_data, tmp_path / "run", "evaluation.variant=dcase2024")
    )
    with pytest.raises(ValueError, match=r"dcase2024 scores distances: set model\.distance=true"):
        run(recipe)


def test_a_share_of_other_data_is_mixed_in_by_class_name(distant_data, tiny_data, tmp_path):
    mix_in = {"data_dir": str(tiny_data), "share": 0.25}
    recipe = DataRecipe("synthetic_seld", data_dir=str(distant_data), cache_dir=str(tmp_path), mix_in=mix_in)
    windows = load_windows(recipe, 1.0)
    assert (len(windows.dataset), windows.class_names) == (16, CLASSES)
    assert windows.dataset[11]["events"].distance is not None
    assert windows.dataset[12]["events"].distance is None
    (other := tmp_path / "other").mkdir()
    for path in tiny_data.iterdir():
        if path.is_dir():
            (other / path.name).symlink_to(path)
    (other / "cls_indices_train.tsv").write_text("0\t-\thigh\t1\t1\n1\t-\tlow\t1\t1\n2\t-\tmiddle\t1\t1\n")
    recipe.mix_in["data_dir"] = str(other)
    assert load_windows(recipe, 1.0).dataset.class_numbers.tolist() == [2, 0, 1]
    (other / "cls_indices_train.tsv").write_text("0\t-\tbark\t1\t1\n1\t-\tlow\t1\t1\n2\t-\tmiddle\t1\t1\n")
    with pytest.raises(ValueError, match=r"classes that data\.train lacks: bark"):
        load_windows(recipe, 1.0)


@pytest.mark.parametrize(
    ("mix_in", "message"),
    [
        ("{share: 1.0}", "share must be above 0 and below 1, not 1.0"),
        ("{data_dir: clips}", "share must be above 0 and below 1, not None"),
        ("{share: 0.5, data_dri: clips}", r"data\.train\.mix_in: unknown key data_dri: did you mean data_dir\?"),
        ("{share: 0.5, scenes: few}", r"data\.train\.mix_in: scenes must be a whole number, not 'few'"),
    ],
)
def test_what_is_mixed_in_is_checked_as_the_recipe_is_read(mix_in, message):
    with pytest.raises(ValueError, match=f"^recipe synth_accdoa: .*{message}$"):
        read_recipe("synth_accdoa", [f"data.train.mix_in={mix_in}"])


def test_what_is_mixed_in_has_the_first_form_of_its_data_set_where_none_is_named():
    mix_in = "data.train.mix_in={share: 0.5, data_dir: clips}"
    assert build_extractor(read_recipe("dcase2025/stereo", [mix_in]), None, 24000).feature_type == "stereo"


def test_batches_of_windows_with_and_without_distances_have_them_where_they_are_known():
    from training.collate import collate

    near = Events([0], [0], [0], [10], [0], [2.0])
    far = Events([1], [0], [0], [10], [0])
    items = [
        {"waveform": np.zeros((4, 10)), "events": events, "recording": "a", "start_frame": 0, "num_frames": 10}
        for events in (near, far)
    ]
    np.testing.assert_array_equal(collate(items, 10)["events"].distance, [2.0, np.nan])
