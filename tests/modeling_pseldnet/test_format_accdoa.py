import json

import numpy as np
import pytest
import torch

from modeling_pseldnet import Events, PSELDNetConfig, read_csv
from modeling_pseldnet.format_accdoa import ACCDOAFormat, MultiACCDOAFormat, from_adpit_labels


def config(num_classes: int = 13) -> PSELDNetConfig:
    return PSELDNetConfig(id2label={index: str(index) for index in range(num_classes)})


@pytest.fixture(scope="module")
def golden(reference):
    arrays = {name: torch.from_numpy(value) for name, value in np.load(reference / "losses.npz").items()}
    shapes = {"pred_accdoa": (1, 3, 13), "label_accdoa": (1, 3, 13), "pred_multi_accdoa": (3, 3, 13)}
    arrays.update({name: arrays[name].unflatten(-1, shape) for name, shape in shapes.items()})
    expected = json.loads((reference / "expected.json").read_text())["losses"]
    return arrays, expected, json.loads((reference / "decode.json").read_text())


@pytest.fixture(scope="module")
def clips(reference):
    return [read_csv(reference / "labels" / f"clip{number}.csv") for number in (0, 1)]


def same_rows(events: Events, rows: list[list[float]]) -> bool:
    found = np.stack([events.frame, events.class_id, events.azimuth, events.elevation], axis=1)
    expected = np.array(rows)
    found, expected = (table[np.lexsort(table.T[::-1].round(3))] for table in (found, expected))
    return found.shape == expected.shape and np.abs(found - expected).max() < 1e-3


def test_labels_are_those_of_the_published_system(golden, clips):
    arrays, _, _ = golden
    assert torch.equal(
        torch.stack([ACCDOAFormat(config()).encode(clip, 100) for clip in clips]), arrays["label_accdoa"]
    )
    multi = torch.stack([MultiACCDOAFormat(config()).encode(clip, 100) for clip in clips])
    assert torch.equal(from_adpit_labels(arrays["label_adpit"]), multi)


def test_losses_are_those_of_the_published_system(golden, clips):
    arrays, expected, _ = golden
    loss = ACCDOAFormat(config()).loss({"accdoa": arrays["pred_accdoa"]}, arrays["label_accdoa"])
    assert loss.item() == pytest.approx(expected["accdoa_mse"], abs=1e-6)
    multi = MultiACCDOAFormat(config())
    for labels in (arrays["label_adpit"], torch.stack([multi.encode(clip, 100) for clip in clips])):
        loss = multi.loss({"accdoa": arrays["pred_multi_accdoa"]}, labels)
        assert loss.item() == pytest.approx(expected["multi_accdoa_adpit"], abs=1e-6)


def test_decoding_gives_the_events_of_the_published_system(golden):
    arrays, _, rows = golden
    events = ACCDOAFormat(config()).decode({"accdoa": arrays["pred_accdoa"].flatten(0, 1).numpy()}, rows["threshold"])
    assert same_rows(events, rows["accdoa"])
    prediction = rows["multi_accdoa_scale"] * arrays["pred_multi_accdoa"].flatten(0, 1).numpy()
    assert same_rows(
        MultiACCDOAFormat(config()).decode({"accdoa": prediction}, rows["threshold"]), rows["multi_accdoa"]
    )


@pytest.mark.parametrize("output_format", [ACCDOAFormat, MultiACCDOAFormat])
def test_decoding_the_labels_gives_the_events_back(output_format):
    rng = np.random.default_rng(0)
    frame = np.repeat(np.arange(50), 3)
    class_id = np.concatenate([rng.permutation(5)[:3] for _ in range(50)])
    events = Events(frame, class_id, np.zeros(150), rng.uniform(-179, 179, 150), rng.uniform(-80, 80, 150)).sort()
    formatted = output_format(config(5))
    decoded = formatted.decode({"accdoa": formatted.encode(events, 50).numpy()})
    np.testing.assert_array_equal(decoded.frame, events.frame)
    np.testing.assert_array_equal(decoded.class_id, events.class_id)
    np.testing.assert_allclose(decoded.vector, events.vector, atol=1e-5)


def test_three_sources_of_one_class_have_a_track_each():
    multi = MultiACCDOAFormat(config(2))
    events = Events([0] * 3, [1] * 3, [0, 1, 2], [0, 90, -90], [0, 0, 60])
    decoded = multi.decode({"accdoa": multi.encode(events, 1).numpy()})
    assert sorted(decoded.azimuth.round()) == [-90, 0, 90]
    assert sorted(decoded.track) == [0, 1, 2]


def test_tracks_within_fifteen_degrees_are_one_source_in_their_mean_direction():
    multi = MultiACCDOAFormat(config(1))
    near = Events([0, 0], [0, 0], [0, 1], [40, 50], [0, 0])
    assert multi.decode({"accdoa": multi.encode(near, 1).numpy()}).azimuth == pytest.approx([45])
    apart = Events([0, 0], [0, 0], [0, 1], [40, 60], [0, 0])
    assert len(multi.decode({"accdoa": multi.encode(apart, 1).numpy()})) == 2


def test_tracks_that_are_barely_active_stay_active_when_they_are_joined():
    multi = MultiACCDOAFormat(config(1))
    near = 0.505 * multi.encode(Events([0, 0], [0, 0], [0, 1], [0, 14], [0, 0]), 1).numpy()
    assert len(multi.decode({"accdoa": near}, 0.5)) == 1


def test_each_class_can_have_its_own_threshold():
    accdoa = ACCDOAFormat(config(2))
    prediction = 0.5 * accdoa.encode(Events([0, 0], [0, 1], [0, 0], [0, 90], [0, 0]), 1).numpy()
    assert accdoa.decode({"accdoa": prediction}, np.array([0.4, 0.6])).class_id == [0]


def test_the_loss_does_not_depend_on_the_order_of_tracks_and_accepts_duplicates():
    multi = MultiACCDOAFormat(config(1))
    labels = multi.encode(Events([0, 0, 1], [0] * 3, [0, 1, 0], [0, 90, 30], [0] * 3), 2)[None]
    first, second, only = labels[0, 0, 0], labels[0, 0, 1], labels[0, 1, 0]
    for tracks in ([first, second, first], [second, first, first], [second, second, first]):
        prediction = torch.stack([torch.stack(tracks), torch.stack([only] * 3)])[None]
        assert multi.loss({"accdoa": prediction}, labels).item() == pytest.approx(0, abs=1e-12)
    missed = torch.stack([torch.stack([first] * 3), torch.stack([only] * 3)])[None]
    assert multi.loss({"accdoa": missed}, labels).item() > 0.01


def test_the_loss_is_the_least_of_all_assignments_by_brute_force():
    multi, rng = MultiACCDOAFormat(config(4)), np.random.default_rng(3)
    rows = [(frame, class_id) for frame in range(6) for class_id in range(4) for _ in range(rng.integers(0, 4))]
    frame, class_id = np.array(rows).T
    events = Events(frame, class_id, np.zeros(len(rows)), rng.uniform(-180, 180, len(rows)), np.zeros(len(rows)))
    labels, prediction = (
        multi.encode(events, 6)[None],
        torch.rand(1, 6, 3, 3, 4, generator=torch.Generator().manual_seed(0)),
    )
    total = 0.0
    for f in range(6):
        for c in range(4):
            sources = [s for s in labels[0, f, :, :, c] if s.any()] or [torch.zeros(3)]
            every = torch.cartesian_prod(*[torch.arange(len(sources))] * 3).tolist()
            onto = [choice for choice in every if len(set(choice)) == len(sources)]
            total += min(
                sum((prediction[0, f, t, :, c] - sources[s]).square().sum().item() for t, s in enumerate(choice))
                for choice in onto
            )
    assert multi.loss({"accdoa": prediction}, labels).item() == pytest.approx(total / prediction.numel(), rel=1e-5)
