from dataclasses import asdict, replace

import pytest
import yaml

from datasets_scripts.scenes.recipe import RECIPE_FOLDER, SceneRecipe, read_scene_recipe, scene_recipe_text


def test_the_default_recipe_file_spells_out_all_defaults():
    written = yaml.safe_load((RECIPE_FOLDER / "default.yaml").read_text())
    defaults = asdict(SceneRecipe())
    assert written.keys() == defaults.keys()
    assert all(written[part].keys() == defaults[part].keys() for part in ("rooms", "events", "noise", "interference"))
    assert read_scene_recipe("default") == SceneRecipe()


@pytest.mark.parametrize("name", [file.stem for file in RECIPE_FOLDER.glob("*.yaml")])
def test_recipes_of_the_package_are_valid(name):
    assert isinstance(read_scene_recipe(name), SceneRecipe)


def test_what_a_recipe_leaves_out_keeps_its_default(write_text, tmp_path):
    recipe = read_scene_recipe(
        write_text(tmp_path / "short.yaml", "events: {polyphony: {2: 1}}\nnoise: {level: null}\n")
    )
    assert recipe.events.polyphony == {2: 1.0}
    assert recipe.noise.level is None
    assert recipe.rooms == SceneRecipe().rooms


def test_a_recipe_keeps_what_it_inherits(write_text, tmp_path):
    write_text(tmp_path / "mine.yaml", "inherits: default_model\nevents: {polyphony: {1: 1.0}}")
    path = write_text(tmp_path / "more" / "other.yaml", "inherits: ../mine.yaml\nrooms: {number: 3}")
    known, made = read_scene_recipe("default_model"), read_scene_recipe(path)
    events = replace(known.events, polyphony={1: 1.0})
    assert made == replace(known, events=events, rooms=replace(known.rooms, number=3))


def test_recipes_that_inherit_each_other_are_refused(write_text, tmp_path):
    path = write_text(tmp_path / "a.yaml", "inherits: b.yaml")
    write_text(tmp_path / "b.yaml", "inherits: a.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml inherits from itself"):
        read_scene_recipe(path)


def test_a_recipe_may_inherit_several_and_the_later_counts_more(write_text, tmp_path):
    write_text(tmp_path / "a.yaml", "rooms: {number: 3, paths: 1}\nevents: {polyphony: {1: 1.0}}")
    write_text(tmp_path / "b.yaml", "rooms: {number: 4}\nevents: {polyphony: {2: 1.0}}")
    recipe = read_scene_recipe(write_text(tmp_path / "c.yaml", "inherits: [a.yaml, b.yaml]"))
    assert (recipe.rooms.number, recipe.rooms.paths, recipe.events.polyphony) == (4, 1, {2: 1.0})


def test_numbers_and_words_are_those_of_yaml_1_2(write_text, tmp_path):
    text = "scene_seconds: 2e1\nnoise: {level: [-5e1, -4.5e+1]}\nrooms: {number: 010}\nevents: {classes: [no]}"
    recipe = read_scene_recipe(write_text(tmp_path / "numbers.yaml", text))
    assert (recipe.scene_seconds, recipe.noise.level) == (20, (-50, -45))
    assert (recipe.rooms.number, recipe.events.classes) == (10, ["no"])


def test_folders_of_a_recipe_are_seen_from_home_and_the_working_directory(write_text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    path = write_text(
        tmp_path / "deep" / "mine.yaml", "rooms: {measured: ~/responses}\ninterference: {folder: others}"
    )
    recipe = read_scene_recipe(path)
    assert recipe.rooms.measured == str(tmp_path / "home" / "responses")
    assert recipe.interference.folder == str(tmp_path / "others")


def test_a_recipe_is_read_from_what_is_written_of_it(write_text, tmp_path):
    recipe = replace(read_scene_recipe("default_model"), scene_seconds=12)
    assert read_scene_recipe(write_text(tmp_path / "again.yaml", scene_recipe_text(recipe))) == recipe


def test_an_empty_recipe_is_the_default(write_text, tmp_path):
    assert read_scene_recipe(write_text(tmp_path / "empty.yaml", "")) == SceneRecipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rooms: {rt06: [0.2, 0.5]}", "unknown key rooms.rt06: did you mean rooms.rt60"),
        ("rooms: {rt60: [0.5, 0.2]}", r"rt60 is \(0.5, 0.2\), expected a range"),
        ("rooms: {rt60: 0.5}", "rooms.rt60 must be a range .*, not 0.5"),
        ("rooms: {late: rays}", "rooms.late must be one of diffuse, images, not 'rays'"),
        ("rooms: {elevation: [-100, 0]}", "elevation is .* within"),
        ("rooms: {array_margin: -1}", "rooms.wall_margin and rooms.array_margin must be at least 0 m"),
        ("rooms: {wall_margin: -0.1}", "rooms.wall_margin and rooms.array_margin must be at least 0 m"),
        ("rooms: {paths: 0}", "there is no path to move along"),
        ("rooms: {number: many}", "rooms.number must be a whole number, not 'many'"),
        ("rooms: [1]", r"rooms must be a mapping \(key: value\), not"),
        ("events: {polyphony: {-1: 1}}", "events.polyphony"),
        ("events: {seconds: [0, 0.05]}", r"upper bound of events.seconds must be at least 0\.1 s"),
        ("events: {snr: [0, 1000]}", r"events.snr is \(0, 1000\), .* within \[-60, 100\]"),
        ("interference: {snr: [0, 1000]}", r"interference.snr is \(0, 1000\), .* within \[-60, 100\]"),
        ("events: {moving: 2}", "events.moving must be between 0 and 1"),
        ("events: {class_balance: both}", "events.class_balance"),
        ("events: {classes: bell}", "events.classes must be a list or null, not 'bell'"),
        ("events: {classes: []}", "events.classes is empty"),
        ("sampling_rate: 24k", "sampling_rate must be a whole number, not '24k'"),
        ("scene_seconds: [", "while parsing"),
        ("rotation: pitch", "rotation must be one of none, yaw, not 'pitch'"),
        ("noise: {slope: [3, -3]}", "noise.slope is"),
        ("noise: {slope: pink}", "noise.slope must be a number or a range"),
        ("noise: null", "noise must be a mapping"),
        ("interference: {probability: 2}", "interference.probability must be between 0 and 1"),
        ("events: {polyphony: {1: .nan}}", "events.polyphony must be finite"),
        ("rooms: {paths: 99999999999999999999}", "rooms.paths must be at most 100000"),
        ("scene_seconds: 1e9", "scene_seconds 1 to 3600"),
        ("events: {polyphony: {1000000: 1}}", "more than 100 simultaneous events"),
        ("rooms: {number: true}", "rooms.number must be a whole number, not True"),
        ("events: {playback: [0.0, 1.0]}", r"playback is \(0.0, 1.0\)"),
        ("events: {sound_balance: classes}", "events.sound_balance must be one of sounds, recordings, not 'classes'"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_the_file(write_text, tmp_path, text, message):
    path = write_text(tmp_path / "wrong.yaml", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_scene_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no recipe 'nosuch'.*default, default_model, .*on_the_fly"):
        read_scene_recipe("nosuch")
