"""The program `pseldnet-train` and what it refuses."""

import pytest

from modeling_pseldnet.output_formats import get_output_format
from tests.helpers import tiny_config
from training.train import check_metric, main


def test_scores_of_a_model_do_not_replace_those_of_the_run_in_the_same_folder(train, tmp_path):
    folder = tmp_path / "run"
    train("training.num_train_epochs=1")
    kept = {name: (folder / name).read_bytes() for name in ("eval_results.json", "recipe.yaml")}
    train(f"model.pretrained={folder}", "model.threshold=0.9", only_evaluate=True)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert all((folder / "evaluation" / name).exists() for name in (*kept, "predictions"))
    # The same holds for an interrupted run.
    (folder / "training_args.bin").unlink()
    (folder / "checkpoint-3").mkdir()
    train(f"model.pretrained={folder}", only_evaluate=True)
    assert (folder / "recipe.yaml").read_bytes() == kept["recipe.yaml"]


def test_a_loss_that_the_output_format_has_not_is_refused_before_a_model_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match=r"'loss_sed' is not a loss of this model: use loss, or a score"):
        train("training.metric_for_best_model=loss_sed", "training.eval_strategy=epoch")
    assert not (tmp_path / "run").exists()
    train("training.metric_for_best_model=loss_sed", "training.num_train_epochs=0", recipe="synth_einv2")


def test_a_score_that_is_undefined_for_the_model_does_not_choose_the_best_one():
    config = tiny_config(distance=True)
    with pytest.raises(ValueError, match="'micro_F_onscreen' is undefined for a model without onscreen"):
        check_metric("micro_F_onscreen", get_output_format(config))
    config.onscreen = True
    check_metric("micro_F_onscreen", get_output_format(config))


def test_folders_of_a_recipe_may_be_told_from_home(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    train("training.num_train_epochs=0", output_dir="~/base")
    train("training.num_train_epochs=0", "model.pretrained=~/base", output_dir="~/run")
    assert (tmp_path / "run/model.safetensors").is_file()
    train("model.pretrained=~/run", output_dir="~/run", only_evaluate=True)
    assert (tmp_path / "run/evaluation/eval_results.json").is_file()


def test_the_program_trains_and_prints_scores(tiny_data, tiny_overrides, tmp_path, capsys):
    main(["synth_accdoa", "--override", *tiny_overrides(tiny_data, "unused"), "--output-dir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "pseldnets, 12 recordings" in out
    assert "recordings with ov2 macro" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["low", "middle", "high"]
    names = sorted(path.stem for path in (tiny_data / "test/metadata").iterdir())
    assert sorted(path.stem for path in (tmp_path / "run/predictions/test").iterdir()) == names
    assert (tmp_path / "run/model.safetensors").exists()
