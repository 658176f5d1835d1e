import numpy as np
import pytest

from modeling_pseldnet import Events
from modeling_pseldnet.timeline import to_records
from modeling_pseldnet.tools.plots import COLOURS
from spaces_demo.plots import class_styles, direction_map, sphere, timeline


LABELS = {0: "speech", 1: "dog_bark"}
# Speech walks across the back, pauses and goes on; a dog barks above.
EVENTS = Events(
    frame=[0, 1, 2, 5, 6, 7],
    class_id=[0, 0, 0, 0, 0, 1],
    track=[0] * 6,
    azimuth=[170, 178, -174, -160, -160, 45],
    elevation=[0, 0, 0, 10, 10, 60],
    confidence=[0.9] * 6,
)
RECORDS, STYLES = to_records(EVENTS, LABELS), class_styles(EVENTS, LABELS)


def traces(figure, meta):
    return {trace.name: trace for trace in figure.data if trace.meta == meta}


def test_a_path_on_the_map_breaks_at_the_back_and_where_an_event_ends():
    path = traces(direction_map(RECORDS, STYLES), "path")["speech"]
    assert list(path.x) == [170, 178, None, -174, None, -160, -160]
    assert list(path.y) == [0, 0, None, 0, None, 10, 10]


def test_the_map_has_the_left_of_the_listener_on_the_left():
    left, right = direction_map(RECORDS, STYLES).layout.xaxis.range
    assert (left, right) == (180, -180)


def test_a_path_on_the_sphere_lies_where_its_directions_point():
    path = traces(sphere(RECORDS, STYLES), "path")["dog_bark"]
    assert np.allclose([path.x[0], path.y[0], path.z[0]], [0.5**1.5, 0.5**1.5, 0.75**0.5], atol=1e-4)
    assert path.customdata[0] == pytest.approx((0.7, 45, 60))


def test_bars_last_from_onset_to_offset():
    speech, dog = timeline(RECORDS, STYLES, 1.0).data
    assert list(speech.base) == [0.0, 0.5]
    assert list(speech.x) == pytest.approx([0.3, 0.2])
    assert list(dog.y) == ["dog bark"]


def test_each_class_has_one_colour_in_all_figures_which_is_that_of_the_picture():
    figures = direction_map(RECORDS, STYLES), sphere(RECORDS, STYLES), timeline(RECORDS, STYLES, 1.0)
    for number, label in enumerate(["speech", "dog_bark"]):
        assert {trace.marker.color for figure in figures for trace in figure.data if trace.name == label} == {
            COLOURS[number]
        }


def test_many_classes_differ_in_colour_or_symbol():
    many = Events(frame=[0] * 24, class_id=range(24), track=[0] * 24, azimuth=[0] * 24, elevation=[0] * 24)
    assert len(set(class_styles(many, {number: str(number) for number in range(24)}).values())) == 24


def test_no_events_give_empty_figures():
    for figure in (direction_map([], {}), sphere([], {}), timeline([], {}, 1.0)):
        assert not traces(figure, "path")
        figure.to_json()
