import hashlib
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from datasets_scripts.scenes.recipe import RoomRecipe, read_scene_recipe
from datasets_scripts.scenes.rooms import draw_room
from datasets_scripts.scenes.synthesize import main
from datasets_scripts.synthetic_seld import SyntheticSELD
from modeling_pseldnet.events import read_csv, vector_to_direction, write_csv
from tests.processes import processes_of, start_program, still_left


RATE = 24000
SECONDS = 2
# Small rooms and few points per path, as responses take most of the time.
RECIPE = f"""
scene_seconds: {SECONDS}
rooms: {{number: 3, size: [[4, 5], [4, 5], [2.5, 3]], positions: 3, paths: 1, path_step: 0.4, rt60: [0.2, 0.3]}}
events: {{gap: [0, 0.5]}}
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with `sounds`, three recordings of each of three classes, and `recipe.yaml`."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    for name in ("bark", "bell", "door"):
        (folder / "sounds" / name).mkdir(parents=True)
        for recording in ("one", "two", "three"):
            noise = generator.standard_normal(round(generator.uniform(0.3, 1.0) * RATE))
            soundfile.write(folder / "sounds" / name / f"{name}-{recording}-s0.wav", 0.1 * noise, RATE)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def arguments(inputs, folder, *more, scenes=6):
    recipe, sounds = str(inputs / "recipe.yaml"), str(inputs / "sounds")
    return [str(folder), "--scenes", str(scenes), "--recipe", recipe, "--sounds", sounds, *more]


def digests(folder):
    """Hash all files below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """A set of six scenes in all formats, made by one process."""
    folder = tmp_path_factory.mktemp("made") / "train6_ov3"
    assert main(arguments(inputs, folder, "--formats", "foa", "mic", "sum")) == 0
    return folder


def test_a_set_has_the_published_layout(made):
    for form, channels in (("foa", 4), ("mic", 4), ("sum", 1)):
        files = sorted((made / form).iterdir())
        assert [file.name for file in files] == sorted(f"fold0_room{n % 3}_mix{n:06d}.flac" for n in range(6))
        for file in files:
            info = soundfile.info(file)
            assert (info.channels, info.samplerate, info.frames) == (channels, RATE, SECONDS * RATE)
    rows = [line.split("\t") for line in (made.parent / "cls_indices_train.tsv").read_text().splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("0", "bark"), ("1", "bell"), ("2", "door")]
    assert all(len(row) == 5 for row in rows)
    for file in (made / "metadata").iterdir():
        labels = read_csv(file)
        assert labels.distance.min() >= 0.7
        assert labels.frame.max() < 10 * SECONDS


def test_the_builder_reads_a_set(made):
    for form, channels in (("foa", 4), ("mic", 4), ("sum", 1)):
        builder = SyntheticSELD(config_name=form, data_dir=str(made.parent), cache_dir=str(made.parent / ".cache"))
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")
        assert len(dataset) == 6
        table = dataset.with_format("arrow")[:].to_pylist()
        assert all(soundfile.info(row["audio"]["path"]).channels == channels for row in table)


def test_every_scene_is_told_with_its_room_and_sounds(made, inputs):
    scenes = [json.loads(line) for line in (made / "scenes.jsonl").read_text().splitlines()]
    assert [scene["index"] for scene in scenes] == list(range(6))
    for scene in scenes:
        assert (made / "metadata" / f"{scene['name']}.csv").is_file()
        assert 0.2 <= scene["room"]["rt60"] <= 0.3
        assert all((inputs / "sounds" / event["sound"]).is_file() for event in scene["events"])


@pytest.mark.parametrize("way", ["two workers", "in two goes", "on Ray"])
def test_the_bytes_are_the_same_however_they_are_made(way, made, inputs, tmp_path):
    folder = tmp_path / made.name
    formats = ("--formats", "foa", "mic", "sum")
    if way == "two workers":
        assert main(arguments(inputs, folder, *formats, "--workers", "2")) == 0
    elif way == "in two goes":
        assert main(arguments(inputs, folder, "--formats", "foa", scenes=2)) == 0
        assert main(arguments(inputs, folder, *formats)) == 0
    else:
        pytest.importorskip("ray")
        assert main(arguments(inputs, folder, *formats, "--workers", "2", "--ray")) == 0
    assert digests(folder) == digests(made)


def test_a_killed_run_leaves_only_whole_files_and_goes_on(inputs, made, tmp_path, monkeypatch):
    def killed(path, events):
        if "mix000001" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        write_csv(path, events)

    monkeypatch.setattr("datasets_scripts.scenes.synthesize.write_csv", killed)
    folder = tmp_path / made.name
    options = arguments(inputs, folder, "--formats", "foa", "mic", "sum")
    process = start_program(main, options, tmp_path / "errors")
    process.join()
    monkeypatch.undo()
    assert process.exitcode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (folder / "metadata").iterdir()}
    assert {path.stem for path in finished} == {"fold0_room0_mix000000", "fold0_room0_mix000003"}
    for audio in (folder / "foa").iterdir():
        assert soundfile.info(audio).frames == SECONDS * RATE
    (folder / "foa" / ".fold0_room0_mix000099.flac.1.tmp").write_bytes(b"half")
    assert main(options) == 0
    assert digests(folder) == digests(made)
    assert all(path.stat().st_mtime_ns == modified for path, modified in finished.items())


def test_an_interrupted_run_leaves_no_audio_without_labels(inputs, tmp_path, monkeypatch):
    def interrupted(path, events):
        if "mix000001" in path.name:
            raise KeyboardInterrupt
        write_csv(path, events)

    monkeypatch.setattr("datasets_scripts.scenes.synthesize.write_csv", interrupted)
    folder = tmp_path / "train"
    assert main(arguments(inputs, folder, "--formats", "foa", "sum")) == 130
    for form in ("foa", "sum", "metadata"):
        assert {path.stem for path in (folder / form).iterdir()} == {f"fold0_room0_mix00000{n}" for n in (0, 3)}


def test_sounds_are_measured_again_for_another_rate(inputs, tmp_path):
    folder, ends = tmp_path / "train", []
    for rate in (RATE, 2 * RATE):
        (tmp_path / "recipe.yaml").write_text(RECIPE + f"sampling_rate: {rate}\n")
        assert main(arguments(inputs, folder, "--recipe", str(tmp_path / "recipe.yaml"), scenes=1)) == 0
        ends.append(json.loads((folder / "manifest.json").read_text())["sounds"]["files"][0][3])
        shutil.rmtree(folder / "metadata")
    assert ends[1] == pytest.approx(2 * ends[0], abs=2)


@pytest.mark.parametrize(
    ("signal_number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)],
)
def test_workers_end_with_the_program(inputs, tmp_path, signal_number, status):
    options = arguments(inputs, tmp_path / "train", "--workers", "2", scenes=2000)
    process = start_program(main, options, tmp_path / "errors")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "train").glob("metadata/[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = set(processes_of(process.pid)) - {process.pid}
    assert len(workers) >= 2
    os.kill(process.pid, signal_number)
    process.join(60)
    assert not still_left(process.pid)
    assert process.exitcode == status
    assert "Traceback" not in (tmp_path / "errors").read_text()
    if signal_number != signal.SIGKILL:
        assert not list(tmp_path.rglob(".*.tmp*"))


def test_validation_scenes_are_no_scenes_of_training(inputs, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "validation_fraction: 0.3\n")
    train, validation = (
        arguments(inputs, tmp_path / "sets" / split, "--recipe", str(recipe), scenes=2)
        for split in ("train", "validation")
    )
    assert main(validation) == 0
    for overlapping in (("--recipe", str(inputs / "recipe.yaml")), ("--split", "all")):
        assert "has 3 sounds of split" in failing(capsys, *train, *overlapping)
    assert main(train) == main(validation) == 0
    builder = SyntheticSELD(data_dir=str(tmp_path / "sets"), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    for split in ("train", "validation"):
        assert all(row["id"].startswith(f"{split}/") for row in builder.as_dataset(split=split))


def test_sets_of_other_classes_lie_elsewhere(inputs, tmp_path, capsys):
    assert main(arguments(inputs, tmp_path / "train1", scenes=1)) == 0
    classes = (tmp_path / "cls_indices_train.tsv").read_text()
    shutil.copytree(inputs / "sounds", tmp_path / "sounds")
    (tmp_path / "sounds" / "bark").rename(tmp_path / "sounds" / "zebra")
    for folder in ("train2", "test1"):
        options = arguments(inputs, tmp_path / folder, "--sounds", str(tmp_path / "sounds"), scenes=1)
        assert "cls_indices_train.tsv lists the classes of other sets" in failing(capsys, *options)
    assert (tmp_path / "cls_indices_train.tsv").read_text() == classes


def test_a_set_goes_on_where_folders_of_sounds_have_blanks_around_their_names(inputs, tmp_path):
    shutil.copytree(inputs / "sounds", tmp_path / "sounds")
    (tmp_path / "sounds" / "bark").rename(tmp_path / "sounds" / " bark ")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for scenes in (1, 2):
        assert main(arguments(tmp_path, tmp_path / "sets" / "train", scenes=scenes)) == 0
    table = (tmp_path / "sets" / "cls_indices_train.tsv").read_text()
    assert [line.split("\t")[2] for line in table.splitlines()] == ["bark", "bell", "door"]


def test_going_on_after_recordings_moved_to_another_split_is_refused(inputs, tmp_path, capsys):
    shutil.copytree(inputs / "sounds", tmp_path / "sounds")
    options = arguments(inputs, tmp_path / "test1", "--sounds", str(tmp_path / "sounds"), scenes=1)
    assert main(options) == 0
    table = tmp_path / "sounds" / "SOURCE_IDS.tsv"
    table.write_text("path\tsource_id\tsplit\n./bell/bell-one-s0.wav \tone\ttrain\nbell/gone.wav\tgone\ttest\n")
    assert "holds scenes that differ in sounds" in failing(capsys, *options)


def test_the_list_of_scenes_has_all_that_are_there(inputs, tmp_path):
    for count in (3, 1):
        assert main(arguments(inputs, tmp_path / "train", scenes=count)) == 0
    assert len((tmp_path / "train" / "scenes.jsonl").read_text().splitlines()) == 3


def test_a_set_goes_on_after_its_sounds_moved_but_not_after_one_was_edited(inputs, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE + "interference: {folder: sounds}\n")

    def options(place, scenes):
        monkeypatch.chdir(place)
        return arguments(inputs, tmp_path / "train", "--recipe", "../recipe.yaml", "--sounds", "sounds", scenes=scenes)

    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(inputs / "sounds", here / "sounds")
    assert main(options(here, scenes=1)) == 0
    here.rename(there)
    assert f"made from sounds in {here / 'sounds'}: give --sounds" in failing(capsys, tmp_path / "train", "--verify")
    assert main(options(there, scenes=2)) == 0
    assert main([str(tmp_path / "train"), "--verify"]) == 0
    path = there / "sounds" / "bell" / "bell-one-s0.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, -samples, rate)
    assert "differ in sounds and interference (see" in failing(capsys, *options(there, scenes=2))
    assert "bell-one-s0.wav" in failing(capsys, tmp_path / "train", "--verify")


def test_interference_is_heard_but_not_labelled(inputs, tmp_path):
    plain, recipe = tmp_path / "plain" / "train", tmp_path / "recipe.yaml"
    assert main(arguments(inputs, plain, scenes=3)) == 0
    text = f"interference: {{folder: {inputs / 'sounds'}, probability: 1, snr: [20, 30], gap: [0, 0.1]}}\n"
    recipe.write_text(RECIPE + text)
    disturbed = tmp_path / "disturbed" / "train"
    assert main(arguments(inputs, disturbed, "--recipe", str(recipe), scenes=3)) == 0
    labels = [path.relative_to(plain) for path in (plain / "metadata").iterdir()]
    assert all((plain / path).read_bytes() == (disturbed / path).read_bytes() for path in labels)
    louder = [
        np.square(soundfile.read(disturbed / "foa" / path.name)[0]).mean()
        / np.square(soundfile.read(plain / "foa" / path.name)[0]).mean()
        for path in (plain / "foa").iterdir()
    ]
    assert min(louder) > 1.05
    scene = json.loads((disturbed / "scenes.jsonl").read_text().splitlines()[0])
    assert all(event["class_id"] == -1 for event in scene["interference"])
    assert "interference" not in (plain / "scenes.jsonl").read_text()


def test_the_recipe_is_written_beside_the_scenes(made, inputs):
    assert read_scene_recipe(made / "recipe.yaml") == read_scene_recipe(inputs / "recipe.yaml")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"recipe": 3}', '{"recipe": {}, "seed": "x", "split": 1}', "\udcff"])
def test_a_broken_manifest_is_named(tmp_path, capsys, text):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "manifest.json is damaged" in failing(capsys, tmp_path / "train", "--verify")


def test_verify_passes_what_was_made_and_fails_what_was_altered(made, inputs, tmp_path, capsys):
    assert main([str(made), "--verify"]) == 0
    report = capsys.readouterr().out
    assert "direct sound" in report
    assert "RT60 0 to 0.4 s" in report
    folder = tmp_path / "train"
    assert main(arguments(inputs, folder, scenes=2)) == 0
    for file in (folder / "metadata").iterdir():
        rows = [line.split(",") for line in file.read_text().splitlines()]
        file.write_text("".join(",".join([*row[:3], str(-float(row[3])), *row[4:]]) + "\n" for row in rows))
    assert main([str(folder), "--verify"]) == 1


def test_plots_are_drawn(made, capsys):
    assert main([str(made), "--plot", "0", "4"]) == 0
    pictures = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [picture.name for picture in pictures] == ["scene000000.png", "scene000004.png", "set.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_scenes_that_are_not_there_are_not_plotted_and_none_is_made_before(made, inputs, tmp_path, capsys):
    assert "no scene 6 to plot" in failing(capsys, made, "--plot", 6)
    assert "no scene 2 to plot" in failing(capsys, *arguments(inputs, tmp_path / "train", "--plot", "2", scenes=2))
    assert not (tmp_path / "train").exists()
    with pytest.raises(SystemExit):
        main([str(made), "--plot", "-1"])


def test_sounds_may_come_from_a_dataset(inputs, tmp_path, capsys):
    files = sorted((inputs / "sounds").rglob("*.wav"))
    rows = {
        "clip": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "kind": [file.parent.name for file in files],
    }
    features = datasets.Features({"clip": datasets.Audio(), "kind": datasets.Value("string")})
    datasets.Dataset.from_dict(rows).cast(features).save_to_disk(tmp_path / "clips")
    options = ["--dataset", str(tmp_path / "clips"), "--audio-column", "clip", "--label-column", "kind"]
    folder = tmp_path / "sets" / "test4"
    recipe = ["--recipe", str(inputs / "recipe.yaml")]
    assert main([str(folder), "--scenes", "4", *recipe, *options, "--workers", "2"]) == 0
    assert sorted(path.name[:5] for path in (folder / "foa").iterdir()) == ["fold1"] * 4
    assert main([str(folder), "--verify", *options]) == 0
    assert f"made from sounds in {tmp_path / 'clips'}: give --sounds or --dataset" in failing(
        capsys, folder, "--verify"
    )


def test_train_and_test_sets_hear_different_recordings(inputs, tmp_path):
    heard = {}
    for split in ("train", "test"):
        assert main(arguments(inputs, tmp_path / f"{split}6", scenes=6)) == 0
        lines = (tmp_path / f"{split}6" / "scenes.jsonl").read_text().splitlines()
        heard[split] = {event["sound"] for line in lines for event in json.loads(line)["events"]}
    assert heard["train"].isdisjoint(heard["test"])
    assert heard["test"]


def test_measured_responses_replace_simulated_rooms(inputs, tmp_path, capsys):
    room = draw_room(RoomRecipe(positions=3, paths=1, path_step=0.2, rt60=(0.3, 0.3)), RATE, (0,))
    (tmp_path / "rirs").mkdir()
    lines = ["file,azimuth,elevation,distance,path"]
    for path, points in enumerate(room.paths):
        for number, (point, response) in enumerate(zip(points, room.responses(path), strict=True)):
            soundfile.write(tmp_path / "rirs" / f"{path}-{number}.wav", response.T, RATE, subtype="FLOAT")
            azimuth, elevation = vector_to_direction(point)
            name = "walk" if len(points) > 1 else ""
            lines.append(f"{path}-{number}.wav,{azimuth},{elevation},{np.linalg.norm(point)},{name}")
    (tmp_path / "rirs" / "responses.csv").write_text("\n".join(lines))
    recipe = tmp_path / "measured.yaml"
    recipe.write_text(f"scene_seconds: 3\nrooms: {{measured: {tmp_path / 'rirs'}}}\n")
    folder = tmp_path / "sets" / "train"
    assert main(arguments(inputs, folder, "--recipe", str(recipe), "--verify", "--plot", scenes=4)) == 0
    (tmp_path / "rirs" / "responses.csv").write_text("\n".join(lines[:-1]))
    assert f"the responses in {tmp_path / 'rirs'} are not those" in failing(capsys, folder, "--verify")


def failing(capsys, *options):
    """Run a command that must fail, and return its single line on standard error."""
    capsys.readouterr()
    assert main(list(map(str, options))) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
    return line


def test_errors_are_one_line(inputs, made, tmp_path, capsys):
    def failure(*more, folder=tmp_path / "train", scenes=2):
        return failing(capsys, *arguments(inputs, folder, *more, scenes=scenes))

    assert "differ in seed" in failure("--seed", "7", folder=made)
    assert "differ in split" in failure("--split", "test", folder=made)
    assert "no folder" in failing(capsys, tmp_path / "x", "--scenes", 1, "--sounds", tmp_path / "nowhere")
    assert "no sounds: give --sounds" in failing(capsys, tmp_path / "x", "--scenes", 1)
    assert "nothing was synthesised there" in failing(capsys, tmp_path / "x", "--verify")
    assert "no recipe 'nosuch'" in failure("--recipe", "nosuch")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rooms: {rt60: [0.05, 0.1], size: [[20, 20], [20, 20], [9, 9]]}")
    assert "impossible in a room of 20.0 × 20.0 × 9.0 m" in failure("--recipe", recipe)
    recipe.write_text(f"rooms: {{measured: {tmp_path / 'rirs'}}}")
    assert "no measured responses" in failure("--recipe", recipe)
    recipe.write_text("rotation: yaw\nscene_seconds: 2\n")
    assert "rotated in FOA only" in failure("--recipe", recipe, "--formats", "foa", "mic")


def test_errors_of_workers_are_one_line_too(inputs, tmp_path, capsys):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    assert main(arguments(tmp_path, tmp_path / "train", scenes=1)) == 0
    for path in (tmp_path / "sounds").rglob("*.wav"):
        path.write_bytes(b"no sound")
    assert "not readable audio" in failing(capsys, *arguments(tmp_path, tmp_path / "train", "--workers", "2"))


def test_a_full_disk_is_named_and_what_was_finished_stays(inputs, tmp_path):
    """A limit on file sizes simulates the full disk: both make a write fail half-way."""
    folder = tmp_path / "train"

    def limited(options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return main(options)

    process = start_program(limited, arguments(inputs, folder, scenes=3), tmp_path / "errors")
    process.join()
    error = (tmp_path / "errors").read_text()
    assert process.exitcode == 2
    assert "no space left" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not list(folder.glob("foa/*"))
    assert main(arguments(inputs, folder, scenes=3)) == 0
    assert len(list(folder.glob("foa/*"))) == 3


def test_options_that_would_be_ignored_are_usage_errors(tmp_path, capsys):
    for options, name in (
        (["--verify", "--recipe", "on_the_fly", "--seed", "1"], "--recipe, --seed: only for making scenes"),
        (["--scenes", "1", "--sounds", ".", "--label-column", "kind"], "--label-column: only with --dataset"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path), *options])
        assert caught.value.code == 2
        assert name in capsys.readouterr().err


def test_no_action_no_scenes_and_no_seed_are_usage_errors(tmp_path, capsys):
    for options in ([], ["--scenes", "0", "--sounds", "."], ["--scenes", "1", "--sounds", ".", "--seed", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path), *options])
        assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "not a whole number of at least 1" in error
    assert "argument --seed: '-1' is not a whole number of at least 0" in error
