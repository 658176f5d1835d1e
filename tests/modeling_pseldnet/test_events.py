import numpy as np
import pytest

from modeling_pseldnet.events import (
    Events,
    angle_between,
    count_frames,
    direction_to_vector,
    fold_azimuth,
    read_csv,
    vector_to_direction,
    wrap_azimuth,
    write_csv,
)
from modeling_pseldnet.timeline import confident_events, link_tracks, to_records


def test_axes_are_x_front_y_left_z_up():
    np.testing.assert_allclose(direction_to_vector(0, 0), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(direction_to_vector(90, 0), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(direction_to_vector(0, 90), [0, 0, 1], atol=1e-12)


def test_directions_survive_the_way_to_vectors_and_back():
    azimuth, elevation = np.meshgrid(np.arange(-179, 181, 7.0), np.arange(-89, 90, 7.0))
    back = vector_to_direction(3 * direction_to_vector(azimuth, elevation))
    np.testing.assert_allclose(back, (azimuth, elevation), atol=1e-9)


def test_azimuth_is_wrapped_to_above_minus_180_up_to_180():
    np.testing.assert_allclose(wrap_azimuth([-180, 180, 181, 540, -190, 0]), [180, 180, -179, 180, 170, 0])


def test_frames_are_counted_without_rounding_errors():
    assert [count_frames(tenths * 2400, 24000) for tenths in range(1, 700)] == list(range(1, 700))
    assert count_frames(np.array([2401, 4410]), np.array([24000, 44100])).tolist() == [2, 1]


def test_small_angles_are_exact():
    np.testing.assert_allclose(angle_between([1, 0, 0], direction_to_vector(1e-6, 0)), 1e-6, rtol=1e-6)


def test_events_survive_the_way_to_a_csv_and_back(tmp_path):
    events = Events(
        [3, 0, 0], [1, 2, 0], [0, 1, 0], [-179.96, 30, -10.5], [0.04, -45, 90], distance=[1.2, 0.3325, 0.07]
    )
    write_csv(tmp_path / "events.csv", events)
    assert (tmp_path / "events.csv").read_text() == "0,0,0,-10.5,90,7\n0,2,1,30,-45,33.25\n3,1,0,180,0,120\n"
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]
    back = read_csv(tmp_path / "events.csv")
    np.testing.assert_array_equal(back.frame, [0, 0, 3])
    np.testing.assert_array_equal(back.distance, [0.07, 0.3325, 1.2])


def test_an_empty_csv_holds_no_events(tmp_path):
    write_csv(tmp_path / "events.csv", Events.empty())
    assert len(read_csv(tmp_path / "events.csv")) == 0


def test_source_ids_in_a_seventh_column_are_left_out(tmp_path):
    (tmp_path / "events.csv").write_text("0,1,2,10,20,150,3;4\n")
    assert read_csv(tmp_path / "events.csv").distance == [1.5]


def test_rows_without_a_track_are_of_track_0(tmp_path):
    (tmp_path / "events.csv").write_text("3,1,-30,10\n")
    events = read_csv(tmp_path / "events.csv")
    assert (events.frame, events.track, events.azimuth) == (3, 0, -30)


def test_cartesian_rows_become_directions(tmp_path):
    (tmp_path / "events.csv").write_text("0,1,0,0,0.5,0\n")
    events = read_csv(tmp_path / "events.csv", coordinates="cartesian")
    assert (events.azimuth, events.elevation) == (90, 0)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("1,2,0,x,0", "not a row of numbers"),
        ("1,2,0", "3 columns"),
        ("1,2,0,10,20,30", "6 columns where the first row has 5"),
        ("-1,2,0,10,20", "whole numbers"),
        ("1.5,2,0,10,20", "whole numbers"),
        ("1,2,0,10,95", "elevation"),
        ("1,2,0,nan,5", "not finite"),
        ("1,2,inf,10,5", "not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, row, complaint):
    (tmp_path / "bad.csv").write_text(f"0,1,0,0,0\n{row}\n")
    with pytest.raises(ValueError, match=complaint) as error:
        read_csv(tmp_path / "bad.csv")
    assert "bad.csv, line 2" in str(error.value)


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        Events([0, 1], [0], [0], [0], [0])


def test_concatenating_keeps_optional_columns_that_all_parts_have():
    one = Events([0], [1], [0], [10], [0], distance=[100], confidence=[0.5])
    other = Events([1], [1], [0], [10], [0], confidence=[0.7])
    both = Events.concatenate([one, other])
    assert both.distance is None
    np.testing.assert_array_equal(both.confidence, [0.5, 0.7])


def test_two_sources_of_one_class_keep_their_numbers_when_a_network_swaps_its_tracks():
    frames = np.repeat(np.arange(20), 2)
    left_first = frames % 2 == 0
    azimuth = np.where((np.arange(40) % 2 == 0) == left_first, 90 + frames, -90 + frames)
    events = link_tracks(Events(frames, np.zeros(40), np.arange(40) % 2, azimuth, np.zeros(40)))
    for track in (0, 1):
        assert np.ptp(events.azimuth[events.track == track]) == 19


def test_a_source_that_jumps_is_another_one_and_a_pause_of_half_a_second_is_bridged():
    events = Events([0, 1, 6, 7, 8], [0] * 5, [0] * 5, [0, 0, 5, 5, 150], [0] * 5)
    np.testing.assert_array_equal(link_tracks(events).track, [0, 0, 0, 0, 1])


def test_linking_changes_nothing_but_the_tracks():
    rng = np.random.default_rng(0)
    events = Events(
        rng.integers(0, 30, 200), rng.integers(0, 3, 200), np.zeros(200), rng.uniform(-180, 180, 200), np.zeros(200)
    )
    linked = link_tracks(events)
    assert sorted(zip(linked.frame, linked.class_id, linked.azimuth, strict=True)) == sorted(
        zip(events.frame, events.class_id, events.azimuth, strict=True)
    )
    assert len(set(zip(linked.frame, linked.class_id, linked.track, strict=True))) == 200


def test_records_have_onset_offset_mean_direction_and_trajectory():
    events = Events([4, 5, 6, 9], [1] * 4, [0] * 4, [170, 180, -170, 0], [0] * 4, confidence=[0.6, 0.7, 0.8, 1.3])
    first, second = to_records(events, {1: "bell"})
    assert (first["onset"], first["offset"], first["label"], first["track"]) == (0.4, 0.7, "bell", 0)
    assert abs(first["azimuth"]) == 180
    assert first["confidence"] == 0.7
    assert [point["azimuth"] for point in first["trajectory"]] == [170, 180, -170]
    assert (second["onset"], second["confidence"]) == (0.9, 1.0)
    assert to_records(Events.empty(), {}) == []


def test_events_are_kept_whole_if_their_mean_confidence_is_high_enough():
    """The second event of track 0 ends with a confident frame, but is not confident on average."""
    events = Events([0, 1, 1, 5, 6], [1] * 5, [0, 0, 1, 0, 0], [0] * 5, [0] * 5, confidence=[0.5, 0.9, 0.8, 0.5, 0.8])
    kept = confident_events(events, 0.7)
    np.testing.assert_array_equal(kept.frame, [0, 1, 1])
    np.testing.assert_array_equal(kept.track, [0, 0, 1])
    assert len(confident_events(events, 0)) == 5
    assert len(confident_events(events, 0.9)) == len(confident_events(Events.empty(), 0.5)) == 0


ROWS = [[0, 1, 0, 40.0, 10.0, 2.5], [1, 1, 0, -140.5, -30.0, 1.0]]


def vectors(rows) -> np.ndarray:
    return direction_to_vector([row[3] for row in rows], [row[4] for row in rows])


def csv_of(path, *columns):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)))
    return path


def test_rows_become_events_and_rows_again_with_distances_in_metres():
    assert Events.from_rows(ROWS).to_rows() == ROWS
    assert Events.from_rows([row[:5] for row in ROWS]).to_rows() == [row[:5] for row in ROWS]
    assert Events.from_rows([]).to_rows() == []
    assert Events.from_rows([[*row, 1] for row in ROWS]).to_rows() == [[*row, 1] for row in ROWS]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[0, 1, 0, 0, 0], [0.5, 1, 0, 0, 0]], "row 1: frame, class and track must be whole"),
        ([[0, -1, 0, 0, 0]], "row 0: frame, class and track must be whole"),
        ([[1e9, 0, 0, 0, 0]], "100 hours"),
        ([[0, 1e6, 0, 0, 0]], "class must be below"),
        ([[0, 0, 0, np.inf, 0]], "not finite"),
        ([[0, 0, 0, 0, 91]], "elevation"),
        ([[0, 0, 0, 0, 0, -1]], "distance is negative"),
        ([[0, 0, 0, 0]], "rows of events must all have"),
        ([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], "rows of events must all have"),
        ([[0, 0, 0, "left", 0]], "contain only numbers"),
        ([[0, 0, 0, 0, 0, 1, 5]], "onscreen must be 0 or 1"),
    ],
)
def test_rows_out_of_range_are_refused(rows, complaint):
    with pytest.raises(ValueError, match=complaint):
        Events.from_rows(rows)


@pytest.mark.parametrize("unknown", [None, np.nan])
def test_a_distance_that_is_not_known_is_none_or_nan(unknown):
    events = Events.from_rows([[*ROWS[0][:5], unknown], ROWS[1]])
    np.testing.assert_array_equal(events.distance, [np.nan, 1.0])
    assert len(Events.from_rows(events.to_rows())) == 2
    seen = events.replace(distance=None, onscreen=[1, 0])
    assert Events.from_rows(seen.to_rows()).onscreen.tolist() == [True, False]


def test_distances_that_are_not_known_are_written_and_read_as_such(tmp_path):
    path, events = tmp_path / "events.csv", Events([0, 1], [3, 3], [0, 0], [30, 40], [5, 5], distance=[np.nan, 2.5])
    write_csv(path, events)
    assert path.read_text() == "0,3,0,30,5,nan\n1,3,0,40,5,250\n"
    np.testing.assert_array_equal(read_csv(path).distance, events.distance)
    write_csv(path, events.replace(distance=[np.nan, np.nan]))
    assert path.read_text() == "0,3,0,30,5\n1,3,0,40,5\n"
    path.write_text("0,3,0,30,5,inf\n")
    with pytest.raises(ValueError, match="line 1: a value is not finite"):
        read_csv(path)
    path.write_text("0,3,0,0.5,0.1,nan\n0,3,0,0.5,0.1,0.2\n")
    with pytest.raises(ValueError, match="line 1: a value is not finite"):
        read_csv(path)


def test_columns_of_indices_must_be_whole():
    with pytest.raises(ValueError, match="frame must hold whole numbers"):
        Events([0.5], [0], [0], [0], [0])


def test_records_of_the_pipeline_become_the_events_they_were_made_of():
    events = Events([4, 5, 9, 9], [1, 1, 1, 0], [0, 0, 0, 2], [170, -179.5, 0, 3], [0, 1, 2, 3], confidence=[0.5] * 4)
    events = events.sort()
    back = Events.from_records(to_records(events, {0: "door", 1: "bell"}), {"door": 0, "bell": 1})
    for name, column in events.columns().items():
        np.testing.assert_array_equal(back.columns()[name], column, err_msg=name)
    assert len(Events.from_records([], {"door": 0})) == 0


def test_records_of_other_classes_or_of_another_form_are_refused():
    (record,) = to_records(Events([0], [0], [0], [0], [0]), {0: "bells"})
    with pytest.raises(ValueError, match=r"class 'bells' is not one of the 2 classes: did you mean bell\?"):
        Events.from_records([record], {"bell": 0, "door": 1})
    with pytest.raises(ValueError, match="record 0 is not an event of the pipeline"):
        Events.from_records([{"label": "bell"}], {"bell": 0})


@pytest.mark.parametrize("coordinates", ["auto", "cartesian"])
def test_vectors_of_baselines_are_told_from_angles_and_their_distance_is_in_metres(tmp_path, coordinates, caplog):
    frame, class_id, track, azimuth, elevation, metres = zip(*ROWS, strict=True)
    xyz = 0.7 * vectors(ROWS)
    seven = read_csv(csv_of(tmp_path / "7.csv", frame, class_id, track, *xyz.T, metres), coordinates)
    six = read_csv(csv_of(tmp_path / "6.csv", frame, class_id, track, *xyz.T), coordinates)
    five = read_csv(csv_of(tmp_path / "5.csv", frame, class_id, *xyz.T), coordinates)
    for events in (seven, six, five):
        np.testing.assert_allclose(events.azimuth, azimuth)
        np.testing.assert_allclose(events.elevation, elevation)
    np.testing.assert_array_equal(seven.distance, metres)
    assert six.distance is None
    assert not caplog.messages


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (180, 0), (-90, 0), (0, 90), (0, -90)])
def test_vectors_along_an_axis_are_read_as_they_were_written(tmp_path, azimuth, elevation, caplog):
    events = Events([0, 1], [3, 3], [0, 0], [azimuth] * 2, [elevation] * 2, distance=[2.5, 1])
    write_csv(tmp_path / "events.csv", events, "dcase2024")
    for coordinates in ("auto", "cartesian"):
        assert read_csv(tmp_path / "events.csv", coordinates).to_rows() == events.to_rows()
    assert not caplog.messages


def test_a_seventh_column_of_source_ids_does_not_make_angles_vectors(tmp_path):
    (tmp_path / "events.csv").write_text("0,1,2,10,20,150,3\n1,1,2,1,0,150,3\n")
    events = read_csv(tmp_path / "events.csv")
    assert (events.azimuth.tolist(), events.distance.tolist()) == ([10, 1], [1.5, 1.5])


def test_vectors_that_are_read_as_angles_are_told_in_words(tmp_path, caplog):
    path = csv_of(tmp_path / "out.csv", [0, 1], [1, 1], [0, 0], *np.abs(vectors(ROWS)).T)
    read_csv(path, "polar")
    assert "out.csv: read as polar, but its numbers look cartesian" in caplog.text


def test_distances_in_another_unit_are_told_in_words(tmp_path, caplog):
    (tmp_path / "metres.csv").write_text("0,1,0,40,10,2.5\n1,1,0,41,10,3.5\n")
    read_csv(tmp_path / "metres.csv")
    assert "metres.csv: distances are read as centimetres, but look like metres" in caplog.text
    read_csv(csv_of(tmp_path / "seven.csv", [0, 1], [1, 1], [0, 0], *vectors(ROWS).T, [250, 100]))
    assert "seven.csv: distances are read as metres, but look like centimetres" in caplog.text


def test_angles_in_radians_are_told_in_words_and_small_angles_are_not(tmp_path, caplog):
    read_csv(csv_of(tmp_path / "degrees.csv", [0, 1], [1, 1], [0, 0], [1, -2.5], [0, 1.5]))
    assert not caplog.messages
    read_csv(csv_of(tmp_path / "radians.csv", [0, 1], [1, 1], [0, 0], np.radians([40, -170]), np.radians([10, 20])))
    assert "radians.csv: angles are read as degrees, but look like radians" in caplog.text


def test_a_header_names_the_columns(tmp_path):
    (tmp_path / "2025.csv").write_text("frame,class,source,azimuth,distance,onscreen\n3,1,0,-30,150,1\n")
    events = read_csv(tmp_path / "2025.csv")
    assert events.to_rows() == [[3, 1, 0, -30, 0, 1.5, 1]]
    (tmp_path / "2025.csv").write_text("frame,class,source,azimuth,distance,onscreen\n")
    assert len(read_csv(tmp_path / "2025.csv")) == 0
    (tmp_path / "xyz.csv").write_text("Frame, Class, X, Y, Z\n3,1,0,0.5,0\n")
    assert read_csv(tmp_path / "xyz.csv").to_rows() == [[3, 1, 0, 90, 0]]
    (tmp_path / "other.csv").write_text("frame,event,angle\n0,1,0\n")
    with pytest.raises(ValueError, match=r"other.csv, line 1: a header must name frame, class and azimuth"):
        read_csv(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("99999999999,0,0,0,0\n", "line 1: frame must be below"),
        ("0,0,0,0,0\n0,99999999999,0,0,0\n", "line 2: class must be below"),
        ("frame,class,azimuth\n0,1,0\n-1,1,0\n", "line 3: frame, class and track must be whole"),
        ("0,1,0,40,10,-5\n", "line 1: a distance is negative"),
    ],
)
def test_numbers_beyond_any_recording_are_refused(tmp_path, text, complaint):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_csv(tmp_path / "bad.csv")


def test_minus_zero_is_never_written_and_what_is_not_finite_is_refused(tmp_path):
    write_csv(tmp_path / "events.csv", Events([0], [0], [0], [-0.04], [-0.0], distance=[-0.0]))
    assert (tmp_path / "events.csv").read_text() == "0,0,0,0,0,0\n"
    with pytest.raises(ValueError, match="not finite"):
        write_csv(tmp_path / "nan.csv", Events([0], [0], [0], [np.nan], [0]))
    assert not (tmp_path / "nan.csv").exists()


def test_a_part_without_events_does_not_take_the_distances_of_others():
    one = Events([0], [1], [0], [10], [0], distance=[1.0])
    assert Events.concatenate([Events.empty(), one]).distance.tolist() == [1.0]


def test_azimuths_behind_are_folded_to_the_front():
    assert fold_azimuth([120, -120, 180, -180, 90, -90, 30, 300]).tolist() == [60, -60, 0, 0, 90, -90, 30, -60]


def test_the_layouts_of_the_challenges_are_written_and_read(tmp_path):
    path = tmp_path / "events.csv"
    events = Events([3, 0], [1, 2], [0, 1], [120.4, -30], [20, 0], [2.004, 0.5], onscreen=[False, True])
    write_csv(path, events, "dcase2025")
    assert path.read_text() == "frame,class,source,azimuth,distance,onscreen\n0,2,1,-30,50,1\n3,1,0,60,200,0\n"
    back = read_csv(path)
    assert (back.onscreen.tolist(), back.distance.tolist(), back.elevation.tolist()) == (
        [True, False],
        [0.5, 2],
        [0, 0],
    )
    write_csv(path, Events.empty(), "dcase2025")
    assert path.read_text() == "frame,class,source,azimuth,distance,onscreen\n"
    assert len(read_csv(path)) == 0
    write_csv(path, events, "dcase2024")
    back = read_csv(path)
    assert path.read_text().splitlines()[1].endswith(",2.004")
    np.testing.assert_allclose(back.azimuth, [-30, 120.4], atol=1e-3)
    for distance in (None, [2, np.nan]):
        with pytest.raises(ValueError, match="events have none"):
            write_csv(path, events.replace(distance=distance), "dcase2024")
    with pytest.raises(ValueError, match="layout must be one of metadata, dcase2024, dcase2025"):
        write_csv(path, events, "dcase2023")
    (tmp_path / "wrong.csv").write_text("frame,class,source,azimuth,distance,onscreen\n0,2,1,-30,50,2\n")
    with pytest.raises(ValueError, match="line 2: onscreen must be 0 or 1"):
        read_csv(tmp_path / "wrong.csv")
