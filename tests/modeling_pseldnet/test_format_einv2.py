import json
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_pseldnet import Events, PSELDNetConfig, PSELDNetForSELD
from modeling_pseldnet.events import angle_between
from modeling_pseldnet.format_einv2 import EINV2Format
from modeling_pseldnet.modeling_einv2 import CrossStitch
from tests.helpers import scattered, tiny_config


def einv2(num_classes: int = 13, **fields) -> EINV2Format:
    id2label = {index: str(index) for index in range(num_classes)}
    return EINV2Format(PSELDNetConfig(output_format="einv2", id2label=id2label, **fields))


def as_outputs(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of a network that is certain of these labels."""
    return {"sed_logits": 40 * labels[..., :-3] - 20, "doa": labels[..., -3:]}


def as_arrays(labels: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: output.numpy() for name, output in as_outputs(labels).items()}


def random_case(num_classes: int = 4, frames: int = 6) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Outputs and labels (1, frames, …) with zero to three events per frame."""
    rng = np.random.default_rng(0)
    frame = np.repeat(np.arange(frames), np.arange(frames) % 4)
    rows = len(frame)
    azimuth, elevation = rng.uniform(-179, 179, rows), rng.uniform(-80, 80, rows)
    events = Events(frame, rng.integers(0, num_classes, rows), np.zeros(rows), azimuth, elevation)
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "sed_logits": torch.randn(1, frames, 3, num_classes, generator=generator),
        "doa": torch.randn(1, frames, 3, 3, generator=generator).tanh(),
    }
    return outputs, einv2(num_classes).encode(events, frames)[None]


@pytest.fixture(scope="module")
def golden(reference):
    arrays = {name: torch.from_numpy(value) for name, value in np.load(reference / "losses.npz").items()}
    outputs = {"sed_logits": arrays["pred_sed"], "doa": arrays["pred_doa"]}
    return outputs, torch.cat([arrays["label_sed"], arrays["label_doa"]], dim=-1)


def test_labels_are_those_of_the_published_system(golden, clips):
    _, labels = golden
    assert torch.equal(torch.stack([einv2().encode(clip, 100) for clip in clips]), labels)


def test_losses_are_those_of_the_published_system(golden, reference):
    expected = json.loads((reference / "expected.json").read_text())["losses"]
    parts = einv2().loss_parts(*golden)
    for published, ours in {"loss_all": "loss", "loss_sed": "loss_sed", "loss_doa": "loss_doa"}.items():
        assert parts[ours].item() == pytest.approx(expected["einv2_tpit"][published], abs=1e-6)
    parts = einv2(loss_type="aggregated").loss_parts(*golden)
    assert parts["loss_maccdoa"].item() == pytest.approx(expected["aggregated_mACCDOA_pit"], abs=1e-6)
    assert parts["loss_accdoa"].item() == pytest.approx(expected["aggregated_ACCDOA"], abs=1e-6)


def test_decoding_gives_the_events_of_the_published_system(golden, reference):
    outputs, _ = golden
    published = json.loads((reference / "decode.json").read_text())
    arrays = {name: output.flatten(0, 1).numpy() for name, output in outputs.items()}
    events = einv2(unify_degrees=published["unify_degrees"]).decode(arrays, published["threshold"])
    rows = zip(events.frame, events.class_id, events.azimuth.round(), events.elevation.round(), strict=True)
    assert sorted(rows) == sorted(tuple(row) for row in published["einv2"])


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("htsat-einv2-13", "htsat"),
        ("passt-einv2-13", "passt"),
        ("passt-einv2-12-gru", "passt"),
        ("cnn12small_conformer-einv2-13", "cnn14_conformer"),
        ("cnn8_gru-einv2-13", "crnn"),
    ],
)
def test_outputs_are_those_of_the_published_network(published_outputs, name, backbone):
    found, expected = published_outputs(name, backbone, "einv2", num_waveforms=2 if backbone == "htsat" else 1)
    np.testing.assert_allclose(found.sed_logits, expected["sed"], atol=1e-4)
    np.testing.assert_allclose(found.doa, expected["doa"], atol=1e-4)


def test_decoding_the_labels_gives_the_events_back():
    rng = np.random.default_rng(0)
    frame = np.repeat(np.arange(50), 3)
    class_id = np.concatenate([rng.permutation(5)[:3] for _ in range(50)])
    events = Events(frame, class_id, np.zeros(150), rng.uniform(-179, 179, 150), rng.uniform(-80, 80, 150)).sort()
    decoded = einv2(5).decode(as_arrays(einv2(5).encode(events, 50)))
    np.testing.assert_array_equal(decoded.frame, events.frame)
    np.testing.assert_array_equal(decoded.class_id, events.class_id)
    assert angle_between(decoded.vector, events.vector).max() < 0.01


def test_more_events_than_tracks_and_events_after_the_end_are_left_out():
    labels = einv2(5).encode(Events([0] * 4 + [1], [3, 2, 1, 0, 0], [0] * 5, [0] * 5, [0] * 5), 1)
    assert labels.shape == (1, 3, 8)
    assert labels[0, :, :5].argmax(-1).tolist() == [3, 2, 1]


@pytest.mark.parametrize(("azimuths", "found"), [((40, 50), [45]), ((40, 56), [40, 56]), ((-176, 176), [180])])
def test_tracks_of_one_class_within_fifteen_degrees_are_one_source_in_their_mean_direction(azimuths, found):
    events = Events([0, 0], [1, 1], [0, 1], azimuths, [0, 0])
    assert sorted(einv2(2).decode(as_arrays(einv2(2).encode(events, 1))).azimuth) == pytest.approx(found, abs=1e-3)


def test_tracks_of_different_classes_stay_apart():
    events = Events([0, 0], [0, 1], [0, 1], [40, 41], [0, 0])
    assert len(einv2(2).decode(as_arrays(einv2(2).encode(events, 1)))) == 2


def test_a_third_track_of_the_class_stays_when_any_two_are_joined():
    for azimuths in permutations((0, 8, 90)):
        events = Events([0] * 3, [0] * 3, [0, 1, 2], azimuths, [0] * 3)
        decoded = einv2(1).decode(as_arrays(einv2(1).encode(events, 1)))
        assert sorted(decoded.azimuth) == pytest.approx([4, 90], abs=1e-3)


def test_the_aggregated_loss_joins_tracks_within_ten_degrees():
    labels = einv2(1).encode(Events([0, 0], [0, 0], [0, 1], [40, 52], [0, 0]), 1)
    assert len(einv2(1).decode(as_arrays(labels))) == 1
    assert len(einv2(1, loss_type="aggregated").decode(as_arrays(labels))) == 2
    assert len(einv2(1, loss_type="aggregated", unify_degrees=15.0).decode(as_arrays(labels))) == 1


def test_confidence_is_the_activity_and_each_class_can_have_its_own_threshold():
    labels = einv2(2).encode(Events([0, 0], [0, 1], [0, 1], [0, 90], [0, 0]), 1)
    outputs = as_arrays(labels)
    outputs["sed_logits"] = np.where(labels[..., :2] == 1, 0.4, -20)
    activity = 1 / (1 + np.exp(-0.4))
    assert einv2(2).decode(outputs).confidence == pytest.approx([activity, activity])
    decoded = einv2(2).decode(outputs, np.array([0.7, 0.5]))
    assert decoded.class_id.tolist() == [1]


def test_nothing_active_gives_no_events():
    assert len(einv2(2).decode(as_arrays(einv2(2).encode(Events.empty(), 5)))) == 0


@pytest.mark.parametrize("loss_type", ["tpit", "aggregated"])
def test_the_loss_does_not_depend_on_the_order_of_tracks(loss_type):
    outputs, labels = random_case()
    formatted = einv2(4, loss_type=loss_type)
    expected = formatted.loss(outputs, labels)
    for order in permutations(range(3)):
        torch.testing.assert_close(formatted.loss(outputs, labels[:, :, order]), expected)
    assert formatted.loss(as_outputs(labels), labels).item() == pytest.approx(0, abs=1e-7)


def test_tpit_is_the_least_weighted_loss_of_all_orders_by_brute_force():
    outputs, labels = random_case()
    total = 0.0
    for frame in range(labels.shape[1]):
        sed, doa = (output[0, frame] for output in outputs.values())
        orders = [labels[0, frame, list(order)] for order in permutations(range(3))]
        total += min(
            0.9 * F.binary_cross_entropy_with_logits(sed, order[:, :4]) + 0.2 * F.mse_loss(doa, order[:, 4:])
            for order in orders
        )
    formatted = einv2(4, sed_loss_weight=0.9, doa_loss_weight=0.2)
    torch.testing.assert_close(formatted.loss(outputs, labels), total / labels.shape[1])


@pytest.mark.parametrize("loss_type", ["tpit", "aggregated"])
def test_the_order_of_tracks_is_the_best_in_mixed_precision_too(loss_type):
    outputs, labels = random_case(frames=200)
    expected = einv2(4, loss_type=loss_type).loss(outputs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(einv2(4, loss_type=loss_type).loss(outputs, labels), expected)


def test_alpha_mixes_the_aggregated_losses():
    outputs, labels = random_case()
    parts = einv2(4, loss_type="aggregated").loss_parts(outputs, labels)
    for alpha in (0.0, 0.3, 1.0):
        loss = einv2(4, loss_type="aggregated", alpha=alpha).loss(outputs, labels)
        torch.testing.assert_close(loss, alpha * parts["loss_maccdoa"] + (1 - alpha) * parts["loss_accdoa"])


def test_the_second_branch_hears_the_first_after_it_was_mixed():
    stitch = CrossStitch(1)
    with torch.no_grad():
        stitch.weight.copy_(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        first, second = stitch(torch.tensor([[1.0]]), torch.tensor([[10.0]]))
    assert first.item() == 21
    assert second.item() == 3 * 21 + 4 * 10


ENCODERS = {
    "htsat": {"backbone": "htsat"},
    "passt": {"backbone": "passt", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
    "crnn": {"backbone": "crnn", "hidden_sizes": [4, 8, 8, 16], "decoder_layers": 1},
    "cnn14_conformer": {"backbone": "cnn14_conformer", "hidden_sizes": [4, 4, 4, 8, 8, 16]},
}


def tiny_einv2(encoder: str = "htsat", **fields) -> PSELDNetForSELD:
    config = tiny_config(output_format="einv2", **{**ENCODERS[encoder], **fields})
    return scattered(PSELDNetForSELD(config)).eval()


def features(frames: int = 301) -> torch.Tensor:
    return torch.randn(2, 7, frames, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("encoder", "width"), [("htsat", 2 * 64), ("passt", 6 * 16), ("crnn", 6 * 16), ("cnn14_conformer", 6 * 16)]
)
def test_outputs_have_the_shapes_of_the_contract(encoder, width):
    model = tiny_einv2(encoder)
    with torch.no_grad():
        outputs = model(features())
        assert model.pseldnet(features()).last_hidden_state.shape == (2, 30, width)
    assert outputs.sed_logits.shape == (2, 30, 3, 3)
    assert outputs.doa.shape == (2, 30, 3, 3)
    assert outputs.accdoa is None


def test_hidden_states_are_those_of_both_branches():
    with torch.no_grad():
        outputs = tiny_einv2()(features(), output_hidden_states=True)
    assert [state.shape[2] for state in outputs.hidden_states] == [8, 16, 16, 32, 32, 64, 64, 64, 64]


@pytest.mark.parametrize("encoder", ["htsat", "passt", "crnn"])
def test_the_sed_branch_hears_the_intensity_vector_through_the_cross_stitch_alone(encoder):
    model, changed = tiny_einv2(encoder), features()
    changed[:, 4:] += 1
    with torch.no_grad():
        assert not torch.equal(model(changed).sed_logits, model(features()).sed_logits)
        for module in model.modules():
            if isinstance(module, CrossStitch):
                module.weight.copy_(torch.eye(2))
        assert torch.equal(model(changed).sed_logits, model(features()).sed_logits)
        assert not torch.equal(model(changed).doa, model(features()).doa)


@pytest.mark.parametrize(
    ("encoder", "loss_type"),
    [("htsat", "tpit"), ("htsat", "aggregated"), ("passt", "tpit"), ("crnn", "tpit"), ("cnn14_conformer", "tpit")],
)
def test_every_parameter_has_a_gradient(encoder, loss_type):
    model = tiny_einv2(encoder, loss_type=loss_type)
    model(features(), labels=torch.ones(2, 30, 3, 6) / 2).loss.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_fresh_network_mixes_its_branches_and_survives_save_and_load(encoder, tmp_path):
    config = tiny_config(output_format="einv2", loss_type="aggregated", alpha=0.25, **ENCODERS[encoder])
    model = PSELDNetForSELD(config).eval()
    for module in model.modules():
        if isinstance(module, CrossStitch):
            assert module.weight.min() >= 0.1
            assert module.weight.max() <= 0.9
    model.save_pretrained(tmp_path)
    loaded = PSELDNetForSELD.from_pretrained(tmp_path)
    with torch.no_grad():
        for name, output in model.predict(features()).items():
            assert torch.equal(loaded.predict(features())[name], output)
    assert (loaded.config.loss_type, loaded.config.alpha) == ("aggregated", 0.25)


@pytest.mark.parametrize(
    ("encoder", "loss_type", "layers"),
    [("htsat", "tpit", {"depths": [2, 1], "num_heads": [1, 2]}), ("passt", "aggregated", {"num_hidden_layers": 2})],
)
def test_it_compiles_without_graph_breaks(encoder, loss_type, layers):
    model = tiny_einv2(encoder, loss_type=loss_type, **layers)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        labels = (torch.rand(2, 30, 3, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        found, expected = compiled(features(), labels=labels), model(features(), labels=labels)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.doa, expected.doa)


def test_patchout_is_refused():
    with pytest.raises(Exception, match="patchout"):
        tiny_einv2("passt", time_patchout=10)
