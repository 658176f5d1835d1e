"""Windows of recordings, of scenes rendered while training and of isolated sounds."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from modeling_pseldnet.events import Events
from training.augmentation import AugMix
from training.data import check_references, load_windows
from training.recipes import DataRecipe, read_recipe
from training.train import build_trainer


# The scenes of the tiny data with a single source.
ONE_SOURCE = r".*mix0(01|03|04|06|10|11)"


def test_mono_training_hears_other_directions_each_time(train):
    trainer = train("data.train.mono=true", f"data.train.recordings={ONE_SOURCE}", "training.num_train_epochs=1")
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
    trainer.model.train()
    first, second = (trainer._prepare_inputs(dict(batch))["labels"] for _ in range(2))
    assert torch.equal(first.norm(dim=3) > 0.5, second.norm(dim=3) > 0.5)
    assert not torch.allclose(first, second)
    trainer.model.eval()
    recorded = trainer.model.output_format.encode(batch["events"], 20).unflatten(0, (2, 10))
    assert torch.equal(trainer._prepare_inputs(dict(batch))["labels"], recorded)


def damaged(tiny_data, tmp_path, damage):
    """A copy of the tiny data with one training recording put through `damage`."""
    data = tmp_path / "damaged"
    shutil.copytree(tiny_data, data)
    damage(data / "train/foa/fold0_room1_mix005.wav")
    return data


def with_nan(path):
    waveform, rate = soundfile.read(path)
    waveform[1000] = np.nan
    soundfile.write(path, waveform, rate, subtype="FLOAT")


def far_too_loud(path):
    waveform, rate = soundfile.read(path)
    soundfile.write(path, 1e4 * waveform, rate, subtype="FLOAT")


def cut_off(path):
    waveform, rate = soundfile.read(path)
    path.unlink()
    path = path.with_suffix(".flac")
    soundfile.write(path, waveform, rate)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [with_nan, far_too_loud, cut_off])
def test_a_damaged_recording_is_named_and_left_out(train, tiny_data, tmp_path, caplog, damage):
    train(data_dir=damaged(tiny_data, tmp_path, damage))
    named = [record.message for record in caplog.records if "skipping a training window" in record.message]
    assert len(named) == 2
    assert all("fold0_room1_mix005" in message for message in named)
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "run/model.safetensors").values())


def test_training_stops_where_no_recording_can_be_read(train, tiny_data, tmp_path):
    def cut_off_all(path):
        for file in path.parent.iterdir():
            cut_off(file)

    with pytest.raises(OSError, match="10 windows in a row cannot be used"):
        train(data_dir=damaged(tiny_data, tmp_path, cut_off_all))


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory):
    """A folder of isolated sounds, `sounds`, and a recipe of small scenes, `scenes.yaml`."""
    pytest.importorskip("pyroomacoustics")
    folder, generator = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for name in ("low", "middle", "high"):
        (folder / "sounds" / name).mkdir(parents=True)
        for take in "abcde":
            samples = 0.1 * generator.standard_normal(12000)
            soundfile.write(folder / "sounds" / name / f"{name}{take}.wav", samples, 24000)
    rooms = "rooms: {number: 1, rt60: [0.2, 0.2], positions: 2, paths: 1}"
    interference = "interference: {probability: 1.0, gap: [0.0, 0.2]}"
    (folder / "scenes.yaml").write_text(f"scene_seconds: 1.0\n{rooms}\n{interference}\n")
    return folder


def test_scenes_and_mono_clips_are_made_while_training(train, tiny_data, sound_folder, tmp_path):
    # Classes are in the alphabetical order of their folders.
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "cls_indices_train.tsv").write_text("0\t-\thigh\t1\t1\n1\t-\tlow\t1\t1\n2\t-\tmiddle\t1\t1\n")
    recipe = sound_folder / "scenes.yaml"
    for source, more in (("scenes", [f"data.train.scene_recipe={recipe}", "data.train.scenes=4"]), ("mono_clips", [])):
        trainer = train(
            f"data.train.source={source}",
            f"data.train.data_dir={sound_folder / 'sounds'}",
            "training.num_train_epochs=1",
            *more,
            data_dir=data,
            output_dir=tmp_path / source,
        )
        assert trainer.state.global_step > 0
        item = trainer.train_dataset[0]
        assert len(item["events"]) > 0
        assert item["waveform"].shape == ((4 if source == "scenes" else 1), 24000)
        assert item["sampling_rate"] == 24000


def test_mono_clips_are_of_the_classes_of_the_scene_recipe(sound_folder):
    recipe = sound_folder / "some.yaml"
    recipe.write_text("events: {classes: [low]}\n")
    data = DataRecipe("mono_clips", data_dir=str(sound_folder / "sounds"), scene_recipe=str(recipe))
    windows = load_windows(data, 1)
    events = [windows.dataset[index]["events"] for index in range(len(windows.dataset))]
    assert {windows.class_names[number] for part in events for number in part.class_id} == {"low"}
    assert windows.class_names == ["high", "low", "middle"]


def test_what_is_drawn_follows_from_epoch_and_index_as_resumed_runs_need_it(tiny_data, sound_folder, tmp_path):
    clips = DataRecipe("mono_clips", data_dir=str(sound_folder / "sounds"))
    own = {"data_dir": str(tiny_data), "cache_dir": str(tmp_path)}
    mixed = DataRecipe("synthetic_seld", **own, mix_in={"share": 0.5, **own})
    sounds = {"source": "mono_clips", "data_dir": str(sound_folder / "sounds")}
    with_clips = DataRecipe("synthetic_seld", **own, mono=True, recordings=ONE_SOURCE, mix_in={"share": 0.5, **sounds})
    windows = load_windows(with_clips, 1.0).dataset
    assert {windows[index]["waveform"].shape for index in range(len(windows))} == {(1, 24000)}
    for recipe in (clips, mixed):
        torch.manual_seed(0)
        windows = load_windows(recipe, 1.0).dataset
        last = len(windows) - 1
        drawn = []
        for epoch in (0, 1, 2, 1):
            windows.set_epoch(epoch)
            # Another seed, as in another worker or a resumed process.
            torch.manual_seed(len(drawn))
            drawn.append([(item["recording"], item["events"].frame.min()) for item in (windows[0], windows[last])])
        assert drawn[1] == drawn[3]
        assert len({str(items) for items in drawn}) > 1


def test_features_are_made_once_and_kept_in_memory(train, tiny_data, tiny_overrides, tmp_path):
    trainer = train("data.train.keep_features=true", "training.num_train_epochs=1")
    windows = load_windows(read_recipe("synth_accdoa", tiny_overrides(tiny_data, tmp_path)).train, 1).dataset
    assert len(trainer.train_dataset) == len(windows)
    for kept, window in ((trainer.train_dataset[number], windows[number]) for number in range(len(windows))):
        expected = trainer.feature_extractor.features(torch.from_numpy(window["waveform"])[None])[0]
        torch.testing.assert_close(torch.from_numpy(kept["features"]).float(), expected, atol=0.04, rtol=1e-3)
        assert np.array_equal(kept["events"].frame, window["events"].frame)
        assert kept["recording"] == window["recording"]


def test_rendered_scenes_can_be_evaluated_on(train, sound_folder):
    scenes = ["data.source=scenes", "data.train.scenes=4", "data.eval.scenes=3", "data.eval.split=test"]
    trainer = train(
        f"data.scene_recipe={sound_folder / 'scenes.yaml'}",
        *scenes,
        "training.num_train_epochs=1",
        data_dir=sound_folder / "sounds",
    )
    assert sorted(trainer.predictions) == ["scene0", "scene1", "scene2"]


def test_rendered_scenes_hold_sounds_of_no_class_from_a_folder(sound_folder):
    recipe = DataRecipe(
        source="scenes",
        data_dir=str(sound_folder / "sounds"),
        scene_recipe=str(sound_folder / "scenes.yaml"),
        interference_dir=str(sound_folder / "sounds"),
        scenes=8,
    )
    windows = load_windows(recipe, 1)
    scenes = [windows.dataset.bank.scene_set.scene(number) for number in range(8)]
    assert sum(len(scene.interference) > 0 for scene in scenes) > 1
    # As many sources at a time as no scene has.
    with pytest.raises(ValueError, match="'ov9_F' cannot be computed"):
        check_references(windows, True, "ov9_F")
    assert windows.class_names == ["high", "low", "middle"]


def test_scenes_are_the_same_whether_workers_render_them_or_the_trainer(sound_folder, tiny_overrides, tmp_path):
    options = (
        "augmentation=null",
        "data.train.source=scenes",
        f"data.train.data_dir={sound_folder / 'sounds'}",
        f"data.train.scene_recipe={sound_folder / 'scenes.yaml'}",
        "data.train.scenes=3",
        "data.eval.source=scenes",
        f"data.eval.data_dir={sound_folder / 'sounds'}",
        "data.eval.split=test",
        "data.eval.scenes=1",
        f"data.eval.scene_recipe={sound_folder / 'scenes.yaml'}",
        "training.per_device_train_batch_size=3",
        "training.dataloader_num_workers=1",
    )
    prepared = []
    for device in (None, "cpu"):
        recipe = read_recipe("synth_multi_accdoa", tiny_overrides(sound_folder, tmp_path, *options))
        trainer = build_trainer(recipe)
        trainer.train_dataset = load_windows(recipe.train, 1, device=device, num_workers=2).dataset
        trainer.model.train()
        torch.manual_seed(0)
        (batch,) = trainer.get_train_dataloader()
        assert ("waveform" in batch) is (device is None)
        order = np.argsort(batch["recording"])
        inputs = trainer._prepare_inputs(batch)
        prepared.append({name: value[order] for name, value in inputs.items()})
    assert prepared[0]["labels"].any()
    for name, value in prepared[0].items():
        torch.testing.assert_close(prepared[1][name], value, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="call load_windows without device"):
        trainer.evaluate(load_windows(recipe.eval, 1, device="cpu"))


def test_each_epoch_has_its_own_scenes_whatever_workers_do(sound_folder):
    recipe = DataRecipe(
        source="scenes",
        data_dir=str(sound_folder / "sounds"),
        scene_recipe=str(sound_folder / "scenes.yaml"),
        scenes=3,
    )
    scenes = load_windows(recipe, 1).dataset
    loader = torch.utils.data.DataLoader(scenes, num_workers=1, persistent_workers=True, collate_fn=list)
    epochs = []
    for epoch in range(2):
        scenes.set_epoch(epoch)
        epochs.append([items[0]["recording"] for items in loader])
    assert epochs == [["scene0", "scene1", "scene2"], ["scene3", "scene4", "scene5"]]


def test_wav_mix_does_not_go_with_features_that_are_kept(train):
    with pytest.raises(ValueError, match=r"keep_features does not work with augmentation.wav_mix"):
        train("data.train.keep_features=true", "augmentation={wav_mix: {}}")
    with pytest.raises(ValueError, match="wav_mix needs waveforms"):
        AugMix(wav_mix={})(torch.zeros(2, 7, 10, 64), Events.empty(), 1)


def test_mono_clips_have_no_features_to_keep(train, sound_folder):
    with pytest.raises(ValueError, match="keep_features does not work with mono clips"):
        train(
            "data.train.source=mono_clips",
            "data.train.keep_features=true",
            "data.eval.source=scenes",
            "data.eval.scenes=1",
            f"data.scene_recipe={sound_folder / 'scenes.yaml'}",
            data_dir=sound_folder / "sounds",
        )
