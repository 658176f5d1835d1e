"""Learning the answers of a tagger alongside SELD: any module that follows the interface, on tiny data."""

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_pseldnet import PSELDNetForSELD
from tests.helpers import status_of
from tests.training.conftest import TAGGER
from training.recipes import read_recipe
from training.teacher import Answers, TeacherHeads, WindowTeacher, load_teacher
from training.train import build_trainer, main, run


@pytest.fixture
def recipe_of(tiny_data, tiny_overrides, tagger, tmp_path):
    def recipe_of(*more, output_dir=tmp_path / "run"):
        overrides = tiny_overrides(tiny_data, output_dir, f"teacher.module={tagger}", *more)
        return read_recipe("synth_multi_accdoa", overrides)

    return recipe_of


def test_a_network_learns_the_answers_and_a_resumed_one_the_same(recipe_of, tmp_path):
    options = (
        "training.num_train_epochs=8",
        "training.learning_rate=3e-3",
        "teacher.embedding_weight=1.0",
        "teacher.logits_weight=1.0",
        "training.logging_steps=3",
        "training.save_strategy=steps",
        "training.save_steps=8",
        "augmentation={copies: 1, original: false, rotation: {}, spec_augment: {}}",
    )
    trainer = run(recipe_of(*options))
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("loss_embedding", "loss_logits"):
        assert losses[-1][name] < 0.9 * losses[0][name]
    shutil.copytree(tmp_path / "run/checkpoint-16", tmp_path / "resumed/checkpoint-16")
    resumed = run(recipe_of(*options, output_dir=tmp_path / "resumed"), resume=True)
    for name, value in trainer.distillation.heads.state_dict().items():
        assert torch.equal(value, resumed.distillation.heads.state_dict()[name]), name

    # The saved model is like any other.
    weights, again = (load_file(tmp_path / folder / "model.safetensors") for folder in ("run", "resumed"))
    assert weights.keys() == PSELDNetForSELD(trainer.model.config).state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())

    (tmp_path / "resumed/checkpoint-16/teacher_heads.pt").unlink()
    shutil.rmtree(tmp_path / "resumed/checkpoint-24")
    with pytest.raises(ValueError, match=r"checkpoint \S+checkpoint-16 was not trained with this teacher"):
        run(recipe_of(*options, output_dir=tmp_path / "resumed"), resume=True)


def test_several_processes_do_not_take_the_heads_that_learn_the_answers_for_unused(recipe_of):
    assert build_trainer(recipe_of()).args.ddp_find_unused_parameters is False


def test_a_teacher_that_draws_by_a_seed_of_its_own_leaves_that_of_the_run(recipe_of, tagger, tmp_path):
    seeding = tmp_path / "seeding.py"
    seeding.write_text(tagger.read_text().replace("super().__init__()", "super().__init__(); torch.manual_seed(1)"))
    weights = []
    for seed in (3, 4):
        trainer = build_trainer(recipe_of(f"teacher.module={seeding}", f"training.seed={seed}"))
        weights.append(trainer.model.heads["accdoa"].conv.weight)
    assert not torch.equal(*weights)


def test_of_stereo_the_teacher_hears_both_channels(tagger):
    teacher = WindowTeacher(load_teacher(str(tagger)), 24000, 1.0)
    right = torch.stack([torch.zeros(24000), 0.1 * torch.randn(24000, generator=torch.Generator().manual_seed(0))])
    for found, expected in zip(teacher(right[None]), teacher(right.mean(0)[None, None]), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_teacher_hears_the_pressure_of_scenes_before_they_are_changed(recipe_of):
    trainer = build_trainer(
        recipe_of("augmentation={copies: 1, rotation: {probability: 1.0}, spec_augment: {}, filter_augment: {}}")
    )
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(2)])
    answers = trainer._prepare_inputs(dict(batch))["answers"]
    clean = trainer.distillation.teacher(batch["waveform"][:, :1])
    for found, expected in zip(answers, clean, strict=True):
        torch.testing.assert_close(found, torch.cat([expected, expected]))
    kept = build_trainer(recipe_of("data.train.keep_features=true"))
    kept.model.train()
    batch = kept.data_collator([kept.train_dataset[number] for number in range(2)])
    for found, expected in zip(kept._prepare_inputs(dict(batch))["answers"], clean, strict=True):
        torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0.01)
    # There is nothing to learn from in evaluation.
    trainer.model.eval()
    assert "answers" not in trainer._prepare_inputs(dict(batch))


def test_heads_begin_as_the_linear_maps_that_fit_best(tagger):
    teacher = WindowTeacher(load_teacher(str(tagger)), 24000, 1.0)
    heads = TeacherHeads(teacher, 16, 10)
    embeddings = torch.randn(64, 10, 16)
    hidden = heads.pool(embeddings)
    answers = Answers(100 + 30 * hidden @ torch.randn(16, 6), hidden @ torch.randn(16, 5) - 4)
    heads.begin(embeddings, answers)
    standardised = heads.standardised(answers.embedding)
    torch.testing.assert_close(standardised.flatten(0, 1).std(0), torch.ones(6), atol=0.01, rtol=0)
    # The ridge penalty shrinks each weight by a tenth, which leaves a hundredth of the variance.
    assert heads.losses(embeddings, answers)["embedding"] < 0.05
    torch.testing.assert_close(heads.logits(hidden).mean((0, 1)), answers.logits.mean((0, 1)))


def test_a_patch_is_made_of_the_label_frames_that_it_spans(tagger):
    teacher = WindowTeacher(load_teacher(str(tagger)), 24000, 1.0)
    assert (teacher.num_patches, teacher.width, teacher.num_classes) == (4, 6, 5)
    frames = np.kron(np.eye(5), [1, 1])
    expected = (frames[:4] + frames[1:]) / 4
    np.testing.assert_allclose(teacher.patch_weights(10), expected, atol=1e-6)
    # Other sampling rates are converted to the teacher's own.
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(24000) / 24000)[None, None]
    slower = torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 8000)[None]
    torch.testing.assert_close(
        teacher(tone).embedding[:, 1:3], teacher.teacher(slower)[0][:, 1:3], atol=0.1, rtol=0.02
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hop_seconds = 8000, 0.4, 0.2", "hop = 8000, 0.4, 0.2"), "Teacher().hop_seconds must be a number above 0"),
        (("class Teacher", "class Tagger"), "AttributeError: module 'teacher_broken' has no attribute 'Teacher'"),
        (("import torch", "import torch, no_such_package"), "No module named 'no_such_package'"),
        (("return embedding, embedding", "return embedding[0], embedding"), "its embedding of two waveforms must be"),
        (
            ("(1, 3200, 1600)", "(1, 3200, 400)"),
            "returns 13 patches for 1 s: expected the same number in both answers, 1 to 6 at",
        ),
        (("return embedding,", "return"), "the teacher Teacher: "),
    ],
)
def test_a_module_that_lacks_something_is_told_in_one_line(
    tiny_data, tiny_overrides, tmp_path, capsys, change, message
):
    broken = tmp_path / "broken.py"
    assert change[0] in TAGGER
    broken.write_text(TAGGER.replace(*change))
    overrides = tiny_overrides(tiny_data, tmp_path / "run", f"teacher.module={broken}")
    assert status_of(main, ["synth_accdoa", "--override", *overrides]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pseldnet-train: error")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augmentation={wav_mix: {}}"], "augmentation.wav_mix mixes scenes, but a teacher hears them one by one"),
        (["peft={method: lora, target_modules: [q_proj]}"], "a teacher works with whole models only: set peft"),
        (["teacher.module=???"], "teacher.module is missing: give a Python file with a Teacher"),
    ],
)
def test_what_does_not_go_with_a_teacher_is_refused(recipe_of, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_trainer(recipe_of(*overrides))
