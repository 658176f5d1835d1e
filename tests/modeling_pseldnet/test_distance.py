"""Distances, 2D vectors and on-screen labels: encoding, losses, decoding, and everything that carries them."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_pseldnet import Events, PSELDNetConfig, PSELDNetForSELD, load_for_transfer, read_csv
from modeling_pseldnet.ambisonics import ROTATION_PATTERNS
from modeling_pseldnet.events import angle_between, direction_to_vector, fold_azimuth
from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor
from modeling_pseldnet.inference import Window, average_overlaps, decode_windows
from modeling_pseldnet.output_formats import get_output_format
from modeling_pseldnet.rotation_averaging import mean_of_tracks, rotation_averaging
from modeling_pseldnet.timeline import to_records
from modeling_pseldnet.tools.stream import to_record
from tests.helpers import scattered, tiny_config


FORMATS = ("accdoa", "multi_accdoa", "einv2", "seddoa")


def formatted(output_format="multi_accdoa", num_classes=13, **fields):
    id2label = {index: str(index) for index in range(num_classes)}
    return get_output_format(PSELDNetConfig(output_format=output_format, id2label=id2label, **fields))


def as_outputs(output_format, labels):
    """Outputs that equal labels (…, frames, tracks, …), as tensors by name."""
    labels = labels.clone()
    if output_format.output_names[0] == "accdoa":
        if output_format.num_tracks == 3:
            # Every track must predict a source.
            batch = labels if labels.ndim == 5 else labels[None]
            labels = output_format.target(batch, batch).view_as(labels)
        axes = output_format.num_axes
        beside = zip(output_format.beside, labels[..., axes:, :].unbind(-2), strict=True)
        return {"accdoa": labels[..., :axes, :], **dict(beside)}
    classes = output_format.num_classes
    return {
        "sed_logits": 40 * labels[..., :classes] - 20,
        "doa": labels[..., classes : classes + 3],
        "distance": labels[..., -1],
    }


def ordered(events):
    """Events by frame, class and azimuth, since tracks have no order."""
    return events[np.lexsort((events.azimuth, events.class_id, events.frame))]


def as_arrays(outputs):
    return {name: output.numpy() for name, output in outputs.items()}


SOURCES = Events([0, 0, 1, 1], [0, 1, 2, 2], [0, 0, 0, 1], [10, -60, 30, 120], [0, 20, 0, 0], [1.5, 4, 0.7, 8])


@pytest.fixture(scope="module")
def golden(reference):
    folder = reference / "dcase"
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / "arrays.npz").items()}
    labels = {year: [read_csv(folder / f"clip{number}_{year}.csv") for number in (0, 1)] for year in (2024, 2025)}
    return arrays, labels, json.loads((folder / "expected.json").read_text())


def test_the_loss_and_the_events_are_those_of_the_baseline_of_2024(golden):
    arrays, labels, expected = golden
    multi = formatted(distance=True, distance_loss="joint")
    prediction = arrays["prediction_2024"]
    outputs = {"accdoa": prediction[:, :, :, :3], "distance": prediction[:, :, :, 3]}
    targets = torch.stack([multi.encode(clip, 50) for clip in labels[2024]])
    assert multi.loss(outputs, targets).item() == pytest.approx(expected["adpit_distance_2024"], abs=1e-5)
    events = multi.decode({name: output[0].numpy() for name, output in outputs.items()})
    rows = np.array(expected["decode_2024"])
    vectors = rows[:, 2:5] / np.linalg.norm(rows[:, 2:5], axis=1, keepdims=True)
    expected_rows = np.column_stack([rows[:, :2], vectors, rows[:, 5]])
    found = np.column_stack([events.frame, events.class_id, events.vector, events.distance])
    found, expected_rows = (table[np.lexsort(table.T[::-1].round(4))] for table in (found, expected_rows))
    np.testing.assert_allclose(found, expected_rows, atol=1e-6)


def test_the_losses_and_the_events_are_those_of_the_baselines_of_2025(golden):
    arrays, labels, expected = golden
    prediction = arrays["prediction_2025"]
    outputs = {
        "accdoa": prediction[:, :, :, :2],
        "distance": prediction[:, :, :, 2],
        "onscreen": prediction[:, :, :, 3],
    }
    for name, onscreen in (("adpit_stereo_audio_2025", False), ("adpit_stereo_audiovisual_2025", True)):
        multi = formatted(distance=True, distance_loss="joint", num_axes=2, onscreen=onscreen)
        targets = torch.stack([multi.encode(clip, 50) for clip in labels[2025]])
        assert multi.loss(outputs, targets).item() == pytest.approx(expected[name], abs=1e-5)
    events = multi.decode({name: output[0].numpy() for name, output in outputs.items()})
    assert not events.elevation.any()
    found = np.column_stack([events.frame, events.class_id, events.azimuth, events.distance])
    expected_rows = np.array(expected["decode_2025"])
    found, expected_rows = (table[np.lexsort(table.T[::-1].round(3))] for table in (found, expected_rows))
    np.testing.assert_allclose(found, expected_rows, atol=1e-5, rtol=2e-7)  # five digits of float32


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("loss", ["relative", "log", "joint"])
def test_labels_cost_nothing_and_give_their_events_back(output_format, loss):
    own = formatted(output_format, 3, distance=True, distance_loss=loss)
    events = SOURCES[:3] if output_format == "accdoa" else SOURCES
    labels = own.encode(events, 2)
    outputs = as_outputs(own, labels)
    assert own.loss({name: output[None] for name, output in outputs.items()}, labels[None]).item() < 1e-6
    found = ordered(own.decode(as_arrays(outputs)))
    assert angle_between(found.vector, events.vector).max() < 0.01
    np.testing.assert_allclose(found.distance, events.distance, rtol=1e-5)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("loss", ["relative", "log", "joint"])
def test_distances_that_are_not_known_have_no_loss_and_no_gradient(output_format, loss):
    own = formatted(output_format, 3, distance=True, distance_loss=loss)
    unknown = SOURCES[:3].replace(distance=[np.nan, np.nan, 0.7])
    labels = own.encode(unknown, 2)[None]
    assert torch.equal(own.encode(unknown.replace(distance=None), 2), own.encode(unknown.replace(distance=[0] * 3), 2))
    outputs = as_outputs(own, labels)
    exact = own.loss(outputs, labels).item()
    # Where no distance is known, any is as good; a wrong one where it is known costs.
    far = outputs["distance"].clone().requires_grad_()
    sounds = labels[0, 0, :, :3].ne(0).any(1)
    with torch.no_grad():
        far[0, 0][sounds] = 9.0
    loss_value = own.loss(outputs | {"distance": far}, labels)
    loss_value.backward()
    assert loss_value.item() == pytest.approx(exact, abs=1e-6)
    assert not far.grad[0, 0].any()
    assert torch.isfinite(far.grad).all()
    wrong = outputs["distance"].clone()
    wrong[0, 1] += 1
    assert own.loss(outputs | {"distance": wrong}, labels).item() > exact + 1e-3


def test_a_distance_has_a_say_in_the_assignment_with_the_joint_loss_alone():
    events = Events([0, 0], [0, 0], [0, 1], [0, 40], [0, 0], [1, 5])
    for loss, swapped in (("joint", True), ("relative", False)):
        own = formatted(num_classes=1, distance=True, distance_loss=loss)
        labels = own.encode(events, 1)[None]
        outputs = as_outputs(own, labels)
        # The vectors suggest one order of sources, the distances the other.
        outputs["distance"] = outputs["distance"].flip(2)
        outputs = {name: output[:, :, [0, 1, 0]] for name, output in outputs.items()}
        outputs["distance"] = torch.tensor([5.0, 1.0, 5.0])[None, None, :, None]
        target = own.target(torch.cat([outputs["accdoa"], outputs["distance"].unsqueeze(3)], dim=3), labels)
        assert (target[0, 0, 0, 3, 0] == 5) == swapped


def test_padded_frames_have_no_loss():
    own = formatted(num_classes=3, distance=True)
    labels = own.encode(SOURCES, 2)[None]
    outputs = as_outputs(own, labels)
    outputs["distance"][0, 1] = 50
    padded = labels.clone()
    padded[0, 1] = -100
    assert own.loss(outputs, labels).item() > 1
    assert own.loss(outputs, padded).item() == pytest.approx(0, abs=1e-6)
    assert own.loss(outputs, labels, torch.tensor([[1, 0]])).item() == pytest.approx(0, abs=1e-6)


def test_tracks_that_are_joined_are_at_their_mean_distance():
    near = Events([0, 0], [0, 0], [0, 1], [40, 50], [0, 0], [2, 3])
    for output_format in ("multi_accdoa", "einv2"):
        own = formatted(output_format, 1, distance=True)
        outputs = as_arrays(as_outputs(own, own.encode(near, 1)))
        if output_format == "multi_accdoa":
            # The third track, which repeats one of the two sources, is silent here.
            outputs["accdoa"][:, 2] = 0
            outputs["accdoa"][:, :2] = near.vector[None, :, :, None]
            outputs["distance"][:, :2] = near.distance[None, :, None]
        found = own.decode(outputs)
        assert found.distance == pytest.approx([2.5])
        assert found.azimuth == pytest.approx([45], abs=1e-3)


@pytest.mark.parametrize("output_format", FORMATS)
def test_windows_that_overlap_are_averaged_track_by_track(output_format):
    own = formatted(output_format, 3, distance=True)
    events = SOURCES[:3] if output_format == "accdoa" else SOURCES
    outputs = as_arrays(as_outputs(own, own.encode(events, 2)))
    shuffled = {
        name: output if output_format == "accdoa" else output[:, [2, 1, 0]] for name, output in outputs.items()
    }
    ((_, averaged),) = average_overlaps(own, [Window(0, each, np.ones(2)) for each in (outputs, shuffled)])
    found = ordered(own.decode(averaged))
    np.testing.assert_allclose(found.distance, events.distance, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["htsat", "crnn"])
@pytest.mark.parametrize("output_format", FORMATS)
def test_a_network_gives_metres_beside_its_directions(backbone, output_format):
    small = (
        {} if backbone == "htsat" else {"hidden_sizes": [4, 8], "embed_dim": None, "depths": None, "num_heads": None}
    )
    config = tiny_config(backbone=backbone, output_format=output_format, distance=True, **small)
    model = scattered(PSELDNetForSELD(config)).eval()
    features = torch.randn(2, 7, 101, 64)
    mask = torch.ones(2, 101, dtype=torch.long)
    mask[1, 51:] = 0
    output = model(features, attention_mask=mask)
    tracks = {"accdoa": (1, 3), "multi_accdoa": (3, 3)}.get(output_format, (3,))
    assert output.distance.shape == (2, 10, *tracks)
    assert (output.distance >= 0).all()
    assert output.distance[0].std() > 0
    assert output.distance[1, 5:].max() < 1e-6
    events = model.output_format.decode(
        {n: output[n][0].detach().numpy() for n in model.output_format.output_names}, 0.01
    )
    labels = torch.stack([model.output_format.encode(events, 10)] * 2)
    loss = model(features, labels=labels).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.heads["distance"].parameters())


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(StrictDataclassError, match="num_axes 2 need output_format accdoa"):
        tiny_config(output_format="einv2", num_axes=2)
    with pytest.raises(StrictDataclassError, match="onscreen and num_axes 2"):
        tiny_config(output_format="seddoa", onscreen=True)
    with pytest.raises(TypeError, match="did you mean distance_loss"):
        tiny_config(distance_los="log")
    with pytest.raises(ValueError, match="but the labels lack it"):
        formatted(num_classes=3, onscreen=True).encode(SOURCES, 2)


def test_a_model_with_distances_is_saved_and_loaded_and_a_network_without_keeps_all_else(tmp_path):
    model = scattered(PSELDNetForSELD(tiny_config())).eval()
    with_distance, report = load_for_transfer(model, distance=True, distance_activation="relu")
    assert report.new == ["heads.distance.conv.weight", "heads.distance.conv.bias"]
    assert not report.unused
    assert with_distance.config.distance_activation == "relu"
    features = torch.randn(1, 7, 101, 64)
    with torch.no_grad():
        outputs = with_distance.eval()(features)
        torch.testing.assert_close(outputs.accdoa, model(features).accdoa)
        with_distance.save_pretrained(tmp_path)
        torch.testing.assert_close(PSELDNetForSELD.from_pretrained(tmp_path)(features).distance, outputs.distance)
    # Classes keep their distances like their directions.
    fewer, report = load_for_transfer(with_distance, id2label={0: "door", 1: "speech", 2: "bell"})
    with torch.no_grad():
        found = fewer.eval()(features).distance
    torch.testing.assert_close(found[..., :2], outputs.distance[..., [2, 0]])
    assert not report.unused


def test_averaging_over_rotations_leaves_distances_and_turns_vectors():
    extractor = PSELDNetFeatureExtractor()
    waveform = 0.1 * torch.randn(1, 4, 24000, generator=torch.Generator().manual_seed(1))
    for output_format in ("accdoa", "multi_accdoa"):
        model = scattered(PSELDNetForSELD(tiny_config(output_format=output_format, distance=True))).eval()
        predict = rotation_averaging(model, extractor)
        with torch.no_grad():
            outputs = predict(extractor.features(waveform))
        assert list(outputs) == ["accdoa", "distance"]
        assert outputs["distance"].shape == (1, 10, outputs["accdoa"].shape[2], 3)
    assert len(ROTATION_PATTERNS[16]) == 16
    answers = torch.zeros(2, 1, 1, 3, 4, 1)
    answers[0, 0, 0, :, :, 0] = torch.tensor([[1, 0, 0, 2.0], [0, 1, 0, 4.0], [0, 0, 1, 6.0]])
    answers[1, 0, 0, :, :, 0] = answers[0, 0, 0, [2, 0, 1], :, 0] + torch.tensor([0, 0, 0, 1.0])
    mean = mean_of_tracks(answers)[0, 0, :, :, 0]
    assert sorted(zip(mean[:, :3].argmax(1).tolist(), mean[:, 3].tolist(), strict=True)) == [
        (0, 2.5),
        (1, 4.5),
        (2, 6.5),
    ]


def test_records_and_lines_of_a_stream_tell_metres():
    events = SOURCES[:2].replace(confidence=[0.9, 1.2], onscreen=[True, False])
    record, _ = to_records(events, {0: "a", 1: "b"})
    assert (record["distance"], record["trajectory"][0]["distance"], record["onscreen"]) == (1.5, 1.5, True)
    back = Events.from_records(to_records(events, {0: "a", 1: "b"}), {"a": 0, "b": 1})
    assert (back.distance.tolist(), back.onscreen.tolist()) == ([1.5, 4.0], [True, False])
    leaving = Events([0, 1, 2], [0] * 3, [0] * 3, [40, 45, 55], [0] * 3, onscreen=[True, True, False])
    (record,) = to_records(leaving, {0: "a"})
    assert record["onscreen"]
    assert Events.from_records([record], {"a": 0}).onscreen.tolist() == [True, True, False]
    known, unknown = to_records(events.replace(distance=[1.5, np.nan]), {0: "a", 1: "b"})
    assert (unknown["distance"], unknown["trajectory"][0]["distance"]) == (None, None)
    np.testing.assert_equal(Events.from_records([known, unknown], {"a": 0, "b": 1}).distance, [1.5, np.nan])
    line = to_record(0, events, {0: "a", 1: "b"})["events"]
    assert line[0] == {
        "label": "a", "track": 0, "azimuth": 10.0, "elevation": 0.0, "distance": 1.5, "onscreen": True,
        "confidence": 0.9,
    }  # fmt: skip
    assert line[1]["confidence"] == 1.0
    assert "distance" not in to_record(0, events.replace(distance=None), {0: "a", 1: "b"})["events"][0]


@pytest.mark.parametrize("format_name", ["accdoa", "multi_accdoa"])
def test_what_two_axes_tell_from_behind_is_in_front(format_name):
    own = formatted(format_name, num_classes=3, num_axes=2)
    vectors = np.zeros((1, own.num_tracks, 2, 3), dtype=np.float32)
    vectors[0, 0, :, 1] = direction_to_vector(170, 0)[:2]
    (azimuth,) = decode_windows(own, [Window(0, {"accdoa": vectors}, np.ones(1))], 0.5).azimuth
    assert azimuth == pytest.approx(10, abs=1e-4)
    # Labels are folded too, as front and back sound alike.
    labels = own.encode(Events([0], [1], [0], [170], [30]), 1)
    np.testing.assert_allclose(labels[0, 0, :, 1], direction_to_vector(10, 0)[:2], atol=1e-6)


def test_vectors_in_two_axes_have_the_azimuth_alone():
    own = formatted(num_classes=3, num_axes=2, distance=True, onscreen=True)
    events = SOURCES.replace(onscreen=[True, False, True, True])
    labels = own.encode(events, 2)
    assert labels.shape == (2, 3, 4, 3)
    found = ordered(own.decode(as_arrays(as_outputs(own, labels))))
    np.testing.assert_allclose(found.azimuth, fold_azimuth(events.azimuth), atol=1e-4)
    assert not found.elevation.any()
    assert found.onscreen.tolist() == events.onscreen.tolist()
    np.testing.assert_allclose(labels[0, 0, :2, 1], direction_to_vector(-60, 0)[:2], atol=1e-6)
