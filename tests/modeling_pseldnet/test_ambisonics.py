import numpy as np
import pytest

from modeling_pseldnet.ambisonics import TETRAHEDRON, a_to_b_format, channel_rotation, yaw_rotation
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import angle_between, direction_to_vector


SAMPLING_RATE = 24000
DIRECTIONS = [(0, 0), (90, 0), (-135, 30), (20, -70), (180, 10), (45, 35), (70, 85)]


def plane_wave(azimuth, elevation, hertz, radius=0.015, capsules=TETRAHEDRON, omnidirectional_part=0.5) -> np.ndarray:
    """A tone from one direction as picked up by capsules in free field, (capsules, samples)."""
    cosine = capsules @ direction_to_vector(azimuth, elevation)
    seconds = np.arange(SAMPLING_RATE // 10) / SAMPLING_RATE + radius * cosine[:, None] / 343.0
    gain = omnidirectional_part + (1 - omnidirectional_part) * cosine
    return gain[:, None] * np.sin(2 * np.pi * hertz * seconds)


def intensity(b_format: np.ndarray) -> np.ndarray:
    """Mean of the intensity vector in x, y, z."""
    w, y, z, x = b_format.astype(np.float64)
    return np.array([np.mean(w * x), np.mean(w * y), np.mean(w * z)])


def worst_angle(hertz: float, radius: float) -> float:
    return max(
        angle_between(intensity(a_to_b_format(plane_wave(*direction, hertz, radius))), direction_to_vector(*direction))
        for direction in DIRECTIONS
    )


@pytest.mark.parametrize(("azimuth", "elevation"), DIRECTIONS)
def test_coincident_capsules_give_exact_ambisonics(azimuth, elevation):
    x, y, z = direction_to_vector(azimuth, elevation)
    b_format = a_to_b_format(plane_wave(azimuth, elevation, 1000, radius=0.0))
    source = np.sin(2 * np.pi * 1000 * np.arange(b_format.shape[1]) / SAMPLING_RATE)
    assert b_format.dtype == np.float32
    np.testing.assert_allclose(b_format, np.outer([1, y, z, x], source), atol=1e-6)


@pytest.mark.parametrize("radius", [0.015, 0.042])
def test_the_intensity_vector_points_to_the_source_as_far_up_as_is_said(radius):
    limit = 0.8 * 343.0 / (2 * np.pi * radius)
    assert worst_angle(limit / 8, radius) < 0.2
    assert worst_angle(limit / 2, radius) < 2
    assert worst_angle(limit, radius) < 6.5
    assert worst_angle(4 * limit, radius) > 30


def test_other_geometries_and_capsules():
    directions = direction_to_vector([0, 120, -120, 0, 60], [0, 0, 10, 90, -60])
    sound = plane_wave(50, 20, 300, 0.01, directions, 0.3)
    b_format = a_to_b_format(sound, 2 * directions, omnidirectional_part=0.3)
    assert angle_between(intensity(b_format), direction_to_vector(50, 20)) < 1


def test_a_recording_in_a_format_is_read_as_ambisonics():
    a_format = plane_wave(30, 10, 500)
    with Recording((a_format, SAMPLING_RATE), SAMPLING_RATE, "aformat") as recording:
        np.testing.assert_allclose(recording.read(0, a_format.shape[1]), a_to_b_format(a_format), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"omnidirectional_part": 1.0}, "W, Y, Z and X cannot be derived"),
        ({"directions": direction_to_vector([0, 90, 180, -90], [0, 0, 0, 0])}, "W, Y, Z and X cannot be derived"),
        ({"directions": np.ones((4, 2))}, r"vectors \(capsules, 3\), not of shape \(4, 2\)"),
        (
            {"directions": direction_to_vector([0, 90, 180, -90, 0], [0, 0, 30, 0, 90])},
            r"expected shape \(5, samples\)",
        ),
    ],
)
def test_capsules_that_do_not_do_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        a_to_b_format(np.ones((4, 100)), **options)


def test_yaw_turns_sources_and_channels_alike_counter_clockwise():
    turn = yaw_rotation(90.0)
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    w, y, z, x = channel_rotation(turn) @ np.array([1.0, 0.0, 0.3, 0.9])
    np.testing.assert_allclose([w, y, z, x], [1, 0.9, 0.3, 0], atol=1e-15)
    assert yaw_rotation([0.0, 30.0]).shape == (2, 3, 3)
