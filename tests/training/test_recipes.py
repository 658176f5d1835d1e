"""Recipes: what the packaged ones hold, how they build on each other, and how errors are reported."""

import dataclasses
import re

import pytest

from tests.helpers import status_of
from training.augmentation import AugMix
from training.recipes import packaged_recipes, read_recipe, write_recipe
from training.resume import check_same_run, is_scored_alike
from training.train import check_schedule, is_better_higher, main, training_arguments


# Published batch size, learning rate, epochs per learning rate step, epochs, and number of augmentation methods.
SYNTH = {
    "synth_accdoa": (40, 1e-4, 20, 25, 6),
    "synth_multi_accdoa": (32, 1e-4, 20, 25, 6),
    "synth_einv2": (17, 5e-5, 6, 8, 6),
    "synth_einv2_agg": (17, 5e-5, 6, 8, 6),
    "synth_seddoa_agg": (40, 1e-4, 10, 15, 6),
}
DOWNSTREAM = {"dcase2021": (32, 3e-4, 60, 70, 4), "l3das22": (32, 1e-4, 50, 60, 6), "starss23": (32, 1e-4, 55, 70, 4)}
PUBLISHED = {
    **SYNTH,
    **{
        f"{data}/{start}_{augmentation}": (*values, methods if augmentation == "augmix" else 0)
        for data, (*values, methods) in DOWNSTREAM.items()
        for start in ("scratch", "finetune")
        for augmentation in ("plain", "augmix")
    },
    "l3das22/ov1_finetune": (32, 5e-5, 50, 60, 0),
    "l3das22/ov1_adapterbit": (32, 3e-4, 50, 60, 0),
    "l3das22/ov1mono_finetune": (32, 5e-5, 50, 60, 0),
    "l3das22/ov1mono_adapterbit": (32, 1e-3, 50, 60, 0),
}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.warmup_steps=3"], r"training\.warmup_steps would be ignored in favour of schedule\.step_epochs"),
        (
            ["schedule.step_epochs=null", "schedule.muon_learning_rate=0.02", "training.optim=sgd"],
            r"training\.optim would be ignored in favour of schedule\.muon",
        ),
        (["schedule.step_epochs=0"], "at least 1"),
        (["schedule.patience=2", "training.eval_strategy=no"], "counts evaluations"),
        (
            ["schedule.patience=2", "training.metric_for_best_model=null", "training.load_best_model_at_end=false"],
            r"waits for a better score: set training\.metric_for_best_model",
        ),
        (["training.resume_from_checkpoint=runs/a"], "would be ignored: remove it and give --resume"),
        (["training.label_smoothing_factor=0.1"], "no logits of one class to smooth"),
        (["training.bf16_full_eval=true"], "would be ignored: remove it, or set training.bf16"),
        (["schedule.step_epochs=null", "schedule.gamma=0.5"], "gamma has no effect without schedule.step_epochs"),
        (["training.hub_token=hf_secret"], "be uploaded with the model: remove it, and log in with `hf auth login`"),
    ],
)
def test_a_schedule_passes_over_nothing_in_silence(overrides, message):
    with pytest.raises(ValueError, match=message):
        check_schedule(read_recipe("synth_accdoa", overrides))


def test_every_packaged_schedule_goes_with_its_training():
    for name in packaged_recipes():
        check_schedule(read_recipe(name))


@pytest.mark.parametrize(
    ("metric", "higher"), [("SELD", False), ("F", True), ("micro_LR", True), ("ov2_LE", False), ("loss", False)]
)
def test_the_best_model_is_that_with_more_of_a_score_where_more_is_better(metric, higher):
    assert is_better_higher(metric, "dcase2023") is higher


@pytest.mark.parametrize(("metric", "higher"), [("F", True), ("SELD", False), ("null", False)])
def test_another_metric_of_a_packaged_recipe_keeps_the_best_model_by_that(metric, higher):
    chosen = f"training.metric_for_best_model={metric}"
    for name in packaged_recipes():
        arguments = training_arguments(read_recipe(name, [chosen]), False)
        assert arguments.greater_is_better is higher, name
    with pytest.raises(ValueError, match="would keep the worst model by "):
        training_arguments(read_recipe(name, [chosen, f"training.greater_is_better={not higher}"]), False)


@pytest.mark.parametrize(("metric", "mode"), [("F", "max"), ("SELD", "min")])
def test_a_schedule_that_follows_the_metric_waits_for_a_better_one(metric, mode):
    options = ["lr_scheduler_type=reduce_lr_on_plateau", "lr_scheduler_kwargs={patience: 3}"]
    options = [f"training.{option}" for option in (*options, f"metric_for_best_model={metric}")]
    arguments = training_arguments(read_recipe("dcase2025/stereo", [*options, "schedule.step_epochs=null"]), False)
    assert arguments.lr_scheduler_kwargs == {"mode": mode, "patience": 3}


@pytest.mark.parametrize(
    ("metric", "variant"), [("accuracy", "dcase2023"), ("F_onscreen", "dcase2024"), ("LE", "dcase2025")]
)
def test_a_metric_that_there_is_not_is_refused_at_once(metric, variant):
    with pytest.raises(ValueError, match=f"'{metric}' is not a score of {variant}: use loss, "):
        is_better_higher(metric, variant)


def test_a_metric_is_the_same_with_and_without_the_prefix_that_trainer_gives_it():
    recipes = [read_recipe("synth_accdoa", [f"training.metric_for_best_model={name}"]) for name in ("eval_F", "F")]
    assert is_scored_alike(*recipes)
    assert [training_arguments(recipe, False).greater_is_better for recipe in recipes] == [True, True]


def test_a_run_goes_on_by_its_own_recipe_alone(tmp_path):
    begun = ["data.data_dir=sounds", "teacher.module=tagger.py", "training.output_dir=runs/a"]
    write_recipe(read_recipe("default_model", begun), tmp_path / "recipe.yaml")
    of_run = read_recipe(tmp_path / "recipe.yaml")
    longer = [
        "training.num_train_epochs=99",
        "training.output_dir=runs/b",
        "data.eval.scenes=3",
        "schedule.patience=2",
    ]
    check_same_run(read_recipe("default_model", [*begun, *longer]), of_run, "runs/a")
    for other in ("data.data_dir=mine", "teacher.module=null", "training.learning_rate=1e-5", "model.embed_dim=32"):
        with pytest.raises(ValueError, match=re.escape(other.partition("=")[0].replace("data.", "data.train."))):
            check_same_run(read_recipe("default_model", [*begun, other]), of_run, "runs/a")


def test_there_is_a_recipe_for_each_published_experiment():
    own = ("default_model", "data_efficiency/", "dcase2025/", "starss23/distance")
    assert [name for name in packaged_recipes() if not name.startswith(own)] == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_has_the_published_hyper_parameters(name):
    batch_size, learning_rate, step_epochs, epochs, methods = PUBLISHED[name]
    recipe = read_recipe(name)
    training = recipe.training
    assert training["per_device_train_batch_size"] == batch_size
    assert training["learning_rate"] == learning_rate
    assert (recipe.schedule.step_epochs, recipe.schedule.gamma) == (step_epochs, 0.1)
    assert training["num_train_epochs"] == epochs
    assert (training["weight_decay"], training["max_grad_norm"], training["seed"]) == (0.01, 1.0, 2024)
    assert training["metric_for_best_model"] == "SELD"
    assert ("pretrained" in recipe.model) == ("finetune" in name or "adapterbit" in name)
    assert (recipe.peft is not None) == ("adapterbit" in name)
    assert recipe.train.mono == ("mono" in name)
    assert not recipe.eval.mono
    if not methods:
        assert recipe.augmentation is None
        return
    augmix = AugMix(**recipe.augmentation)
    assert augmix.copies == 2
    assert len(augmix.on_waveforms) + len(augmix.on_features) == methods
    assert recipe.augmentation["rotation"] == {"patterns": 48 if methods == 6 else 16, "probability": 0.8}


def test_a_recipe_of_ones_own_builds_on_a_packaged_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("inherits: starss23/scratch_augmix\ntraining: {learning_rate: 2e-4}\n")
    (tmp_path / "other.yaml").write_text(
        "inherits: mine.yaml\naugmentation:\n  crop: null\n  rotation: {patterns: 48}\n"
    )
    recipe = read_recipe(tmp_path / "other.yaml", ["training.bf16=true", "model.depths=[1, 1, 2, 1]"])
    assert recipe.name == "other"
    assert recipe.train.source == "starss23"
    assert recipe.training["learning_rate"] == 2e-4
    assert recipe.training["bf16"] is True
    assert recipe.model["depths"] == [1, 1, 2, 1]
    assert recipe.augmentation["crop"] is None
    assert recipe.augmentation["rotation"] == {"patterns": 48, "probability": 0.8}
    assert read_recipe(tmp_path / "other.yaml", ["augmentation=null"]).augmentation is None


def test_sides_of_the_data_share_what_they_do_not_say_themselves():
    recipe = read_recipe("l3das22/ov1_finetune", ["data.data_dir=/data", "data.train.fraction=0.1"])
    assert recipe.train.data_dir == recipe.eval.data_dir == "/data"
    assert recipe.train.recordings == recipe.eval.recordings
    assert (recipe.train.fraction, recipe.eval.fraction) == (0.1, 1.0)
    assert (recipe.train.split, recipe.eval.split) == ("train", "test")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learnig_rate=1", "unknown key training.learnig_rate: did you mean training.learning_rate?"),
        ("trainig.learning_rate=1", "unknown key trainig: did you mean training?"),
        ("model.backbon=htsat", "unknown key model.backbon: did you mean model.backbone?"),
        ("model.num_mel_bins=96", "model.num_mel_bins is set by features.feature_size: remove it"),
        ("features.nfft=512", "unknown key features.nfft: did you mean features.n_fft?"),
        ("data.train.hop=1", "unknown key data.train.hop; known keys: source"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, not 'fast'"),
        ("schedule.step_epochs=often", "step_epochs"),
        ("evaluation.variant=dcase2022", "evaluation.variant must be one of dcase2023, pseldnets"),
        ("learning_rate", "expected section.key=value, such as training.learning_rate=3e-4"),
        ("training.learning_rate=[1", "the value is not valid YAML"),
        ("training=3", "training must be a mapping"),
        (
            "data.split=all",
            "data.split has no effect, since the recipe sets data.train.split to 'train': override that",
        ),
        ("data.scenes=0", "recipe starss23/scratch_plain: data.scenes must be at least 1, not 0"),
        ("data.train.seed=-1", "data.seed must be at least 0, not -1"),
        ("schedule.muon_learning_rate=-1", "schedule.muon_learning_rate must be at least 0, not -1"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_recipe("starss23/scratch_plain", [override])


def test_recipes_that_inherit_each_other_or_are_no_yaml_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("inherits: b.yaml")
    (tmp_path / "b.yaml").write_text("inherits: a.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml inherits from itself"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("training: [")
    with pytest.raises(ValueError, match=r"c\.yaml: not valid YAML"):
        read_recipe(tmp_path / "c.yaml")
    with pytest.raises(FileNotFoundError, match=r"no recipe 'starss23/scrach_plain'.*starss23/scratch_plain"):
        read_recipe("starss23/scrach_plain")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["starss23/scratch_plain"], "zenodo.org/records/7880637"),
        (["dcase2021/scratch_augmix", "--override", "data.data_dir={empty}"], "zenodo.org/records/5476980"),
        (["l3das22/scratch_plain"], "L3DAS22"),
        (["l3das22/ov1_adapterbit"], "model.pretrained is missing"),
        (["synth_accdoa", "--only-evaluate"], "the model to score, such as runs/synth_accdoa"),
        (["synth_accdoa", "--only-evaluate", "--resume"], "--resume: not used with --only-evaluate"),
        (["synth_einv2"], "huggingface.co/datasets/Jinbo-HU/PSELDNets"),
        (["synth_accdoa", "--override", "data.train.source=scenes"], "one folder per class"),
        (["synth_accdoa", "--override", "data.source=fsd"], "unknown data source 'fsd': choose from dcase2021"),
        (["nothing"], "no recipe 'nothing'"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(arguments, message, capsys, tmp_path):
    assert status_of(main, [argument.format(empty=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pseldnet-train: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("path", ["/a/take #2", "2024", "[old]/set", "null", "no", "on", "1e5", "/a/b: c", "a=b"])
def test_a_text_is_taken_as_it_is(path):
    recipe = read_recipe("starss23/scratch_plain", [f"data.data_dir={path}", f"training.output_dir={path}"])
    assert recipe.train.data_dir == recipe.eval.data_dir == recipe.training["output_dir"] == path
    assert read_recipe("starss23/scratch_plain", ["data.data_dir=x", "data.data_dir="]).train.data_dir is None
    for nothing in ("", "null"):
        assert read_recipe("default_model", [f"teacher.module={nothing}"]).teacher.module is None


def test_a_written_recipe_is_read_as_the_same(tmp_path):
    overrides = ["data.data_dir=1e5", "training.run_name=no", "training.learning_rate=1e-5", "data.eval.hop_seconds=1"]
    recipe = read_recipe("l3das22/ov1mono_adapterbit", [*overrides, "model.pretrained=017"])
    write_recipe(recipe, tmp_path / "again.yaml")
    assert dataclasses.replace(read_recipe(tmp_path / "again.yaml"), name=recipe.name) == recipe
    moved = read_recipe(tmp_path / "again.yaml", ["data.data_dir=elsewhere"])
    assert moved.train.data_dir == moved.eval.data_dir == "elsewhere"


def test_a_recipe_for_others_names_files_without_their_folders(tmp_path):
    overrides = [f"data.train.data_dir={tmp_path}", "data.eval.data_dir=~/sounds", "teacher.module=/home/me/tagger.py"]
    recipe = read_recipe("starss23/finetune_plain", [*overrides, "model.pretrained=user/model"])
    write_recipe(recipe, tmp_path / "public.yaml", names_only=True)
    public = read_recipe(tmp_path / "public.yaml")
    assert (public.train.data_dir, public.eval.data_dir) == (tmp_path.name, "sounds")
    assert (public.teacher.module, public.model["pretrained"]) == ("tagger.py", "user/model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {bf16: yes}", "training.bf16 must be true or false, not 'yes'"),
        ("training: {lr_scheduler_kwargs: 3}", "training.lr_scheduler_kwargs must be"),
        ("model: {depths: [1, two]}", "model.depths must be a list or null"),
        ("data: {data_dir: 2024}", "data.data_dir must be text or null, not 2024"),
        ("data: {train: {fraction: .inf}}", "data.train.fraction must be finite"),
        ("data: {source: starss23, fraction: 0}", "data.fraction must be above 0 and at most 1, not 0"),
        ("data: {source: starss23, recordings: '[fold'}", "data.recordings '[fold' is not a valid regular expression"),
        ("schedule: [1]", "schedule must be a mapping"),
        ("peft: adapterbit", "peft must be a mapping (key: value) or null"),
        ("data: {source: starss23}\npeft: {method: 3}", "peft.method is missing"),
        ("training: {seed: 1}", "data.source is missing"),
        ("training: {seed: 1, seed: 2}", "duplicate key seed"),
        ("3: 4", "unknown key 3"),
        ("- 1", "a recipe must be a mapping"),
        ("inherits: {a: b}", "inherits must be the name of a recipe or a list of names"),
        ("inherits: [base/default, 3]", "inherits must be the name of a recipe or a list of names"),
        ("training: {seed: !!timestamp 2024-01-01}", "not valid YAML"),
        ("[" * 2000, "nested too deeply"),
    ],
)
def test_values_of_a_wrong_type_name_their_key(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_recipe(tmp_path / "wrong.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'wrong.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_a_recipe_that_inherits_itself_in_a_roundabout_way_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "self.yaml").write_text("inherits: ../x/self.yaml")
    with pytest.raises(ValueError, match=r"self\.yaml inherits from itself"):
        read_recipe(tmp_path / "x" / "self.yaml")


def test_the_model_to_start_from_must_be_given_and_be_there(tiny_data, tiny_overrides, tmp_path, capsys):
    for pretrained, message in (
        ("???", "model.pretrained is missing"),
        (tmp_path / "none", f"{tmp_path / 'none'}"),
    ):
        overrides = tiny_overrides(tiny_data, tmp_path / "run", f"model.pretrained={pretrained}")
        assert status_of(main, ["synth_accdoa", "--override", *overrides]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pseldnet-train: ")]
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.parametrize(("name", "variant"), [("starss23/distance", "dcase2024"), ("dcase2025/stereo", "dcase2025")])
def test_the_recipes_of_later_challenges_score_as_these_do(name, variant):
    mixed = ["data.train.mix_in.source=scenes", "data.train.mix_in.share=0.5"]
    recipe = read_recipe(name, mixed if name == "starss23/distance" else [])
    assert recipe.model["distance"]
    assert recipe.evaluation.variant == variant
    assert recipe.train.mix_in == ({"source": "scenes", "share": 0.5} if name == "starss23/distance" else None)
    assert recipe.eval.mix_in is None
