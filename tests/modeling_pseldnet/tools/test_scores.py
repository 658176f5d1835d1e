import json
import sys
import time
from pathlib import Path

import evaluate
import numpy as np
import pytest

from modeling_pseldnet import SELD_METRIC
from modeling_pseldnet.events import Events, read_csv, vector_to_direction
from modeling_pseldnet.tools.scores import VARIANTS, seld_scores
from tests.folders import SHARED


ROOT = Path(__file__).parents[3]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the golden scores are not here")

GOLDEN = {"pseldnets": "metrics", "dcase2023": "metrics_dcase2023", "dcase2024": "metrics_dcase2024"}
NUM_CLASSES = 13


def events(*rows, distance=None):
    """Events from rows of frame, class, track, azimuth and elevation."""
    return Events(*np.array(rows, dtype=float).reshape(-1, 5).T, distance=distance)


def still(frames, class_id=0, azimuth=0.0, elevation=0.0, track=0, distance=None):
    """One source that does not move during the given frames."""
    rows = [(frame, class_id, track, azimuth, elevation) for frame in frames]
    return events(*rows, distance=None if distance is None else [distance] * len(rows))


def random_events(seed, num_frames=200, num_rows=300, num_classes=4):
    """Up to three simultaneous events per class, so that they must be matched."""
    generator = np.random.default_rng(seed)
    frame, class_id, track = (generator.integers(n, size=num_rows) for n in (num_frames, num_classes, 3))
    azimuth, elevation = vector_to_direction(generator.normal([3, 0, 0], size=(num_rows, 3)))
    distance, onscreen = generator.uniform(1, 5, num_rows), generator.integers(2, size=num_rows)
    return Events(frame, class_id, track, azimuth, elevation, distance, onscreen=onscreen).sort()


def in_metres(events):
    """Scale distances for the golden files, which have metres where DCASE has centimetres."""
    return events.replace(distance=100 * events.distance)


@pytest.fixture(scope="module")
def golden():
    expected = json.loads((SHARED / "reference" / "expected.json").read_text())
    num_frames = expected["metrics"]["frames"]
    folder = SHARED / "reference" / "metrics_distance"
    references, predictions = (
        [in_metres(read_csv(folder / kind / name)) for name in num_frames] for kind in ("reference", "prediction")
    )
    return expected, list(num_frames), references, predictions, list(num_frames.values())


@pytest.fixture(scope="module")
def starss22():
    folder = SHARED / "real" / "starss22"
    expected = json.loads((folder / "expected.json").read_text())
    paths = {path.name: path for path in folder.glob("metadata_dev/dev-test-*/*.csv")}
    references = [read_csv(paths[name]) for name in expected["frames"]]
    predictions = [read_csv(folder / "system_output" / name, "cartesian") for name in expected["frames"]]
    return expected, references, predictions


@needs_shared
@pytest.mark.parametrize("variant", GOLDEN)
def test_scores_agree_with_the_published_scorers(golden, variant):
    expected, _, references, predictions, num_frames = golden
    scores = seld_scores(references, predictions, NUM_CLASSES, num_frames=num_frames, variant=variant)
    for average in ("macro", "micro"):
        official = {name.removesuffix("_scr"): value for name, value in expected[GOLDEN[variant]][average].items()}
        if variant == "dcase2023":
            official = {name: entry["value"] for name, entry in official.items()}
        if variant == "dcase2024":
            del official["ER"]  # not among the scores of that challenge
        # The published system adds 1.2e-7 to its denominators.
        assert scores[average] == pytest.approx(official, abs=1e-7 if variant == "pseldnets" else 1e-11)


@needs_shared
def test_classwise_scores_agree_with_pseldnets(golden):
    expected, _, references, predictions, num_frames = golden
    scores = seld_scores(references, predictions, NUM_CLASSES, num_frames=num_frames, variant="pseldnets")
    *official, class_ids = expected["metrics"]["classwise"]
    assert class_ids == list(range(NUM_CLASSES))
    np.testing.assert_allclose(list(scores["classwise"].values()), official, rtol=0, atol=1e-7)


@needs_shared
def test_jackknife_intervals_agree_with_the_official_scorer(golden):
    expected, _, references, predictions, num_frames = golden
    scores = seld_scores(references, predictions, NUM_CLASSES, num_frames=num_frames, jackknife=True)
    for average in ("macro", "micro"):
        for name, official in expected["metrics_dcase2023"][average].items():
            low, high = scores["jackknife"][average][name]
            assert [low, high] == pytest.approx(official["jackknife_95"], abs=1e-11)
            assert low < scores[average][name] < high


@needs_shared
def test_scores_of_a_real_system_agree_with_the_official_scorer(starss22):
    expected, references, predictions = starss22
    scores = seld_scores(references, predictions, NUM_CLASSES)
    assert scores["macro"] == pytest.approx(expected["macro"], abs=1e-7)
    assert scores["micro"] == pytest.approx(expected["micro"], abs=1e-7)
    np.testing.assert_allclose(list(scores["classwise"].values()), expected["classwise"], rtol=0, atol=1e-7)


@needs_shared
def test_starss22_is_scored_within_a_second(starss22):
    _, references, predictions = starss22
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        seld_scores(references, predictions, NUM_CLASSES, jackknife=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@needs_shared
def test_a_group_scores_like_its_recordings_alone(golden):
    _, names, references, predictions, num_frames = golden
    rooms = [name.split("_")[1] for name in names]
    scores = seld_scores(references, predictions, NUM_CLASSES, num_frames=num_frames, groups=rooms, jackknife=True)
    assert list(scores["groups"]) == ["room0", "room1", "room2", "room3"]
    chosen = [index for index, room in enumerate(rooms) if room == "room2"]
    alone = seld_scores(
        *([values[index] for index in chosen] for values in (references, predictions)),
        NUM_CLASSES,
        num_frames=[num_frames[index] for index in chosen],
        jackknife=True,
    )
    assert scores["groups"]["room2"] == alone


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_perfect_prediction_scores_best(variant):
    references = [random_events(0), random_events(1)]
    scores = seld_scores(references, references, 4, variant=variant, jackknife=True)
    best = {"ER": 0, "F": 1, "LE": 0, "AngE": 0, "DistE": 0, "RelDistE": 0, "LR": 1, "SELD": 0}
    best |= {"F_onscreen": 1, "OnscreenAccuracy": 1}
    for average in ("macro", "micro"):
        # For equal directions, the official scorers compute an angle of 0.0008°.
        assert scores[average] == pytest.approx({name: best[name] for name in VARIANTS[variant].score_names}, abs=1e-3)
        assert all(high - low < 1e-5 for low, high in scores["jackknife"][average].values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_empty_prediction_scores_worst(variant):
    scores = seld_scores([random_events(0)], [Events.empty()], 4, variant=variant)
    worst = {"ER": 1, "F": 0, "LE": 180, "AngE": np.nan, "DistE": np.nan, "RelDistE": np.nan, "LR": 0, "SELD": 1}
    worst |= {"F_onscreen": 0, "OnscreenAccuracy": np.nan}
    for average in ("macro", "micro"):
        assert scores[average] == pytest.approx({name: worst[name] for name in scores[average]}, nan_ok=True)


def test_false_alarms_in_a_silent_recording_count():
    references = [still(range(20)), Events.empty()]
    quiet, noisy = (
        seld_scores(references, [references[0], prediction], 1)["micro"]
        for prediction in (Events.empty(), still(range(25)))
    )
    assert quiet["ER"] == 0
    assert noisy["ER"] == 3 / 2
    assert noisy["F"] == 2 / (2 + 3 / 2)


def test_nothing_to_find_leaves_the_error_rate_undefined():
    scores = seld_scores([Events.empty()], [Events.empty()], 2, jackknife=True)
    assert np.isnan(scores["micro"]["ER"])
    assert scores["micro"]["F"] == 0
    assert np.isnan(scores["jackknife"]["micro"]["F"]).all()


@pytest.mark.parametrize("variant", GOLDEN)
def test_turning_reference_and_prediction_together_changes_nothing(variant):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))

    def turned(recording):
        azimuth, elevation = vector_to_direction(recording.vector @ turn)
        return recording.replace(azimuth=azimuth, elevation=elevation)

    references, predictions = [random_events(0), random_events(1)], [random_events(2), random_events(3)]
    scores = seld_scores(references, predictions, 4, variant=variant)
    assert 0 < scores["micro"]["F"] < 1
    again = seld_scores(list(map(turned, references)), list(map(turned, predictions)), 4, variant=variant)
    assert again["macro"] == pytest.approx(scores["macro"], abs=1e-6)
    assert again["micro"] == pytest.approx(scores["micro"], abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_recordings_and_of_predicted_rows_changes_nothing(variant):
    references, predictions = [random_events(0), random_events(1)], [random_events(2), random_events(3)]
    scores = seld_scores(references, predictions, 4, variant=variant)
    shuffled = [prediction[np.random.default_rng(0).permutation(len(prediction))] for prediction in predictions]
    again = seld_scores(references[::-1], shuffled[::-1], 4, variant=variant)
    assert again["macro"] == pytest.approx(scores["macro"])


def test_a_segment_of_ten_frames_counts_once_and_a_frame_by_itself():
    reference = still(range(20), distance=1.0)
    prediction = still(range(5), distance=1.0)
    assert seld_scores([reference], [prediction], 1)["micro"]["LR"] == 1 / 2
    assert seld_scores([reference], [prediction], 1, num_frames=[20], variant="dcase2024")["micro"]["LR"] == 5 / 20


def test_the_last_reference_frame_counts_only_for_pseldnets():
    reference, prediction = still(range(11)), still(range(10))
    assert seld_scores([reference], [prediction], 1)["micro"]["LR"] == 1
    assert seld_scores([reference], [prediction], 1, variant="pseldnets")["micro"]["LR"] == 1 / 2
    assert seld_scores([reference], [prediction], 1, num_frames=[11])["micro"]["LR"] == 1 / 2


def test_a_wrong_class_at_the_right_time_is_one_error():
    scores = seld_scores([still(range(10), class_id=0)], [still(range(10), class_id=1)], 2, num_frames=[10])
    assert scores["micro"]["ER"] == 1
    assert scores["classwise"]["F"] == [0, 0]


def test_a_match_must_lie_within_twenty_degrees_on_average_over_the_segment():
    reference = still(range(10))
    near = Events.concatenate([still(range(5), azimuth=15), still(range(5, 10), azimuth=24)])
    far = Events.concatenate([still(range(5), azimuth=15), still(range(5, 10), azimuth=26)])
    for prediction, azimuth, f_score in ((near, 19.5, 1), (far, 20.5, 0), (still(range(10), azimuth=20), 20, 0)):
        scores = seld_scores([reference], [prediction], 1, num_frames=[10])["micro"]
        assert scores["F"] == f_score
        assert scores["LE"] == pytest.approx(azimuth, abs=1e-6)
        assert scores["LR"] == 1


def test_sources_of_one_class_are_paired_at_the_least_total_angle():
    reference = Events.concatenate([still([0], azimuth=azimuth) for azimuth in (0, 10, 90)])
    prediction = Events.concatenate([still([0], azimuth=azimuth) for azimuth in (91, 12, 9)])
    scores = seld_scores([reference], [prediction], 1, num_frames=[1])["micro"]
    assert scores["LE"] == pytest.approx((1 + 2 + 9) / 3)
    assert scores["F"] == 1


def test_a_match_must_lie_within_the_reference_distance_for_dcase2024():
    reference = still(range(10), distance=2.0)
    for distance, f_score in ((3.9, 1), (4.1, 0)):
        prediction = still(range(10), distance=distance)
        scores = seld_scores([reference], [prediction], 1, num_frames=[10], variant="dcase2024")["micro"]
        assert scores["F"] == f_score
        assert scores["DistE"] == pytest.approx(distance - 2)
        assert scores["RelDistE"] == pytest.approx((distance - 2) / 2)


def test_only_pseldnets_leaves_classes_without_a_match_out_of_the_macro_mean():
    reference = Events.concatenate([still(range(10), class_id=0), still(range(10), class_id=1)])
    prediction = still(range(10), class_id=0)
    f_scores = {
        variant: seld_scores([reference], [prediction], 4, num_frames=[10], variant=variant)["macro"]["F"]
        for variant in ("dcase2023", "pseldnets")
    }
    assert f_scores == {"dcase2023": 1 / 4, "pseldnets": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variant": "dcase2019"},
            "variant must be one of dcase2023, pseldnets, dcase2024, dcase2025, not 'dcase2019'",
        ),
        ({"predictions": []}, "1 references, but 0 predictions"),
        ({"num_frames": [1, 2]}, "1 references, but 2 num_frames"),
        (
            {"predictions": [still([0], class_id=2)], "names": ["mix1"]},
            "prediction of mix1: class 2 is not one of the 2",
        ),
        ({"variant": "dcase2024"}, "reference of recording 0: no distances"),
        ({"variant": "dcase2024", "references": [still([0], distance=0.0)]}, "distances must be above 0"),
    ],
)
def test_unusable_input_is_named(change, message):
    arguments = {"references": [still([0])], "predictions": [Events.empty()], "num_classes": 2} | change
    with pytest.raises(ValueError, match=message):
        seld_scores(**arguments)


@pytest.fixture(scope="module")
def load_module(tmp_path_factory):
    """Load the module by `evaluate.load`, which copies it to a cache, here a temporary one."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        yield lambda: evaluate.load(SELD_METRIC, cache_dir=str(folder))


def test_the_evaluate_module_loads_from_any_folder_and_gives_the_same_scores(load_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seld = load_module()
    references, predictions = [random_events(0), random_events(1)], [Events.empty(), random_events(3)]
    rows = [
        [np.stack(list(recording.columns().values()), axis=1) for recording in recordings]
        for recordings in (references, predictions)
    ]
    for options in ({"jackknife": True}, {"variant": "dcase2024", "num_frames": [200, 200]}):
        assert seld.compute(references=rows[0], predictions=rows[1], num_classes=4, **options) == seld_scores(
            references, predictions, 4, **options
        )
    clips = [events.replace(onscreen=np.arange(len(events)) % 2) for events in references]
    rows = [clip.to_rows() for clip in clips]
    scores = seld.compute(references=rows, predictions=rows, num_classes=4, variant="dcase2025")
    assert scores == seld_scores(clips, clips, 4, variant="dcase2025")
    assert scores["micro"]["F_onscreen"] == 1


def test_the_evaluate_module_says_what_to_install_where_the_package_is_missing(load_module, monkeypatch):
    monkeypatch.setitem(sys.modules, "modeling_pseldnet", None)
    with pytest.raises(ImportError, match=r"dependencies\['modeling_pseldnet'\] using 'pip install pseldnets'"):
        load_module()


def test_scores_of_2025_are_those_of_the_official_scorer(reference):
    folder = reference / "dcase"
    expected = json.loads((folder / "expected.json").read_text())["metrics_dcase2025"]
    names = sorted(path.name for path in (folder / "metrics_2025/reference").glob("*.csv"))
    references, predictions = (
        [read_csv(folder / "metrics_2025" / side / name) for name in names] for side in ("reference", "prediction")
    )
    scores = seld_scores(references, predictions, 13, variant="dcase2025")
    for average in ("macro", "micro"):
        audio, audiovisual = expected[f"audio_{average}"], expected[f"audio_visual_{average}"]
        found = scores[average]
        assert found["F_onscreen"] == pytest.approx(audiovisual["F"], abs=1e-6)
        assert found["DistE"] * 100 == pytest.approx(audio["DistE"], abs=1e-4)
        for name in ("F", "AngE", "RelDistE", "OnscreenAccuracy"):
            assert found[name] == pytest.approx(audio[name], abs=1e-6)
    np.testing.assert_allclose(scores["classwise"]["F"], expected["audio_classwise"][0], atol=1e-6)
    np.testing.assert_allclose(scores["classwise"]["F_onscreen"], expected["audio_visual_classwise"][0], atol=1e-6)


def test_scores_of_2025_fold_azimuths_and_leave_out_what_is_not_told():
    source = Events([0, 1], [0, 0], [0, 0], [100, 80], [0, 0], [2, 2], onscreen=[True, True])
    for azimuth, distance, found in ((80, 4.0, 1), (60, 4.0, 1), (59.9, 2.0, 0), (80, 4.01, 0)):
        prediction = source.replace(azimuth=[azimuth, 0], distance=[distance, 2])
        macro = seld_scores([source], [prediction], 1, variant="dcase2025")["macro"]
        assert (macro["F"], macro["F_onscreen"]) == (found, found)
    wrong = source.replace(onscreen=[False, False])
    macro = seld_scores([source], [wrong], 1, variant="dcase2025")["macro"]
    assert (macro["F"], macro["F_onscreen"], macro["OnscreenAccuracy"]) == (1, 0, 0)
    macro = seld_scores([source], [source.replace(onscreen=None)], 1, variant="dcase2025")["macro"]
    assert macro["F"] == 1
    assert np.isnan([macro["F_onscreen"], macro["OnscreenAccuracy"]]).all()
    # A clip without reference events does not count.
    scores = seld_scores([source, Events.empty()], [source, source], 1, variant="dcase2025")
    assert scores["macro"]["F"] == 1
    with pytest.raises(ValueError, match="no distances"):
        seld_scores([source.replace(distance=[1, np.nan])], [source], 1, variant="dcase2024")
