import numpy as np
import pytest
import torch

from modeling_pseldnet import Events, PSELDNetForSELD
from tests.helpers import scattered, tiny_config


def test_outputs_are_those_of_the_published_network(published_outputs):
    found, expected = published_outputs("htsat-seddoa-13", "htsat", "seddoa")
    np.testing.assert_allclose(found.sed_logits, expected["sed"], atol=1e-4)
    np.testing.assert_allclose(found.doa, expected["doa"], atol=1e-4)


@pytest.mark.parametrize("loss_type", ["tpit", "aggregated"])
def test_one_branch_learns_classes_and_directions(loss_type):
    model = scattered(PSELDNetForSELD(tiny_config(output_format="seddoa", loss_type=loss_type))).eval()
    features = torch.randn(1, 7, 101, 64, generator=torch.Generator().manual_seed(1))
    labels = model.output_format.encode(Events([2, 3, 3], [0, 0, 1], [0, 0, 1], [0, 10, 90], [0, 0, 30]), 10)[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        outputs = model(features, labels=labels)
        losses.append(outputs.loss.item())
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    assert outputs.sed_logits.shape == (1, 10, 3, 3)
    assert outputs.doa.shape == (1, 10, 3, 3)
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
