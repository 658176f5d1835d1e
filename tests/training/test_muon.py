"""Muon and AdamW as one optimizer: which of them updates what, and that the state is complete."""

import copy

import pytest
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD
from training.muon import Muon, MuonAdamW


SIZES = {"window_seconds": 1, "spec_size": 128, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}


@pytest.fixture
def model():
    return PSELDNetForSELD(PSELDNetConfig(id2label={0: "a", 1: "b"}, drop_path_rate=0.0, **SIZES)).train()


def step(model, optimizer):
    features = torch.randn(2, 7, 101, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(2, 10, 3, 3, 2)
    labels[:, :, 0, 0, 0] = 1
    optimizer.zero_grad()
    model(features, labels=labels).loss.backward()
    optimizer.step()


def test_weight_matrices_but_of_the_heads_take_orthogonal_steps(model):
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    step(model, MuonAdamW(model, muon_learning_rate=0.02, learning_rate=1e-3, weight_decay=0.0))
    matrices = 0
    for name, value in model.named_parameters():
        change = value.detach() - before[name]
        if value.ndim == 2 and "table" not in name:
            matrices += 1
            sides = max(1, value.shape[0] / value.shape[1]) ** 0.5
            # Five iterations bring the singular values only near 1.
            assert torch.linalg.svdvals(change / (0.02 * sides)).max() < 1.3, name
            assert change.norm() > 0
        else:
            # AdamW's first step equals its learning rate, or less if there is hardly a gradient.
            assert 0 < change.abs().max() < 1.01e-3, name
    assert matrices == 2 * 6 + 1


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (16, 16)])
def test_matrices_step_as_those_of_torch_do_to_the_precision_of_bfloat16(shape):
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = Muon([ours], 0.1, 0.01), torch.optim.Muon([theirs], 0.1, 0.01)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=4e-3, rtol=0)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(model):
    rates = {"muon_learning_rate": 0.02, "learning_rate": 1e-3, "weight_decay": 0.01}
    optimizer = MuonAdamW(model, **rates)
    step(model, optimizer)
    other = copy.deepcopy(model)
    resumed = MuonAdamW(other, **rates)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((model, optimizer), (other, resumed)):
        for group in pair[1].param_groups:
            group["lr"] /= 2
        step(*pair)
    for (name, value), resumed_value in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, resumed_value), name


def test_without_a_matrix_to_train_it_says_so(model):
    for name, value in model.named_parameters():
        value.requires_grad = "heads." in name
    with pytest.raises(ValueError, match="muon_learning_rate has no effect, as no weight matrix is trainable"):
        MuonAdamW(model, 0.02, 1e-3, 0.0)


def test_matrices_are_trained_where_nothing_else_is(model):
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            value.requires_grad = isinstance(module, torch.nn.Linear) and name == "weight"
    model.heads.requires_grad_(False)
    weight = model.pseldnet.encoder.stages[0].blocks[0].attention.q_proj.weight
    before = weight.detach().clone()
    step(model, MuonAdamW(model, 0.02, 1e-3, 0.0))
    assert not torch.equal(before, weight)
