import numpy as np
import pytest

from datasets_scripts.scenes.arrays import CAPSULE_DIRECTIONS, SPHERE_RADIUS, diffuse_field, encode_arrivals
from modeling_pseldnet.ambisonics import SPEED_OF_SOUND
from modeling_pseldnet.events import direction_to_vector


RATE = 24000


def arrival(array, azimuth, elevation, length=512, seconds=100 / RATE):
    direction = direction_to_vector(azimuth, elevation)[None]
    return encode_arrivals(array, np.array([seconds]), np.ones(1), direction, length, RATE)


def all_directions(count):
    """Directions spread evenly over the sphere, on a Fibonacci spiral."""
    numbers = np.arange(count) + 0.5
    azimuth, elevation = np.pi * (1 + 5**0.5) * numbers, np.arcsin(1 - 2 * numbers / count)
    return direction_to_vector(np.degrees(azimuth), np.degrees(elevation))


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (-90, 0), (0, 90), (37, -21), (-150, 60)])
def test_foa_of_a_plane_wave_is_the_sn3d_encoding(azimuth, elevation):
    response = arrival("foa", azimuth, elevation)
    a, e = np.radians([azimuth, elevation])
    expected = [1, np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]
    assert response[:, 100] == pytest.approx(expected, abs=1e-4)
    assert np.abs(np.delete(response, 100, axis=1)).max() < 1e-3


def test_arrivals_between_samples_keep_their_energy_and_delay():
    response = arrival("foa", 0, 0, seconds=100.5 / RATE)[0]
    assert np.sum(response**2) == pytest.approx(1, rel=0.03)
    assert response[100] == pytest.approx(response[101], abs=1e-3)


def test_arrivals_after_the_end_are_left_out():
    assert not arrival("foa", 0, 0, length=64).any()


def test_capsules_form_a_tetrahedron():
    cosines = (CAPSULE_DIRECTIONS @ CAPSULE_DIRECTIONS.T)[np.triu_indices(4, 1)]
    assert cosines == pytest.approx(-1 / 3, abs=0.02)


def test_low_sounds_reach_all_capsules_equally_loud_with_the_delays_of_a_rigid_sphere():
    directions = all_directions(9)
    for direction in directions:
        response = encode_arrivals("mic", np.array([150 / RATE]), np.ones(1), direction[None], 2048, RATE)
        bin_100_hz = round(100 / RATE * 2048)
        spectrum = np.fft.rfft(response)[:, bin_100_hz]
        # A rigid sphere lengthens the path around it, by half at low frequencies (Kuhn, 1977).
        advance = np.angle(spectrum * np.exp(2j * np.pi * bin_100_hz / 2048 * 150)) / (2 * np.pi * bin_100_hz / 2048)
        expected = 1.5 * SPHERE_RADIUS / SPEED_OF_SOUND * (CAPSULE_DIRECTIONS @ direction) * RATE
        assert np.abs(spectrum) == pytest.approx(1, abs=0.02)
        assert advance == pytest.approx(expected, abs=0.15)


def test_high_sounds_are_doubled_on_the_near_side_of_the_sphere_and_shadowed_on_the_far_side():
    near = arrival("mic", 45, 35, length=2048)
    spectrum = np.abs(np.fft.rfft(near))[:, 700:900].mean(axis=1)
    assert spectrum[0] == pytest.approx(2, abs=0.1)
    assert (spectrum[1:] < 1.1).all()


def test_diffuse_foa_has_a_third_of_the_power_in_each_dipole_and_no_correlation():
    field = diffuse_field("foa", np.random.default_rng(0), 200_000, RATE)
    assert np.cov(field) == pytest.approx(np.diag([1, 1 / 3, 1 / 3, 1 / 3]), abs=0.01)


def test_diffuse_field_on_the_sphere_has_the_covariance_of_waves_from_everywhere():
    directions = all_directions(200)
    responses = [encode_arrivals("mic", np.array([0.01]), np.ones(1), d[None], 1024, RATE) for d in directions]
    spectra = np.fft.rfft(responses)
    expected = np.einsum("dif,djf->ijf", spectra, spectra.conj()).real / len(directions)
    blocks = diffuse_field("mic", np.random.default_rng(0), 1024 * 600, RATE).reshape(4, 600, 1024)
    noise = np.fft.rfft(blocks * np.hanning(1024)) / np.sqrt(np.sum(np.hanning(1024) ** 2))
    found = np.einsum("ibf,jbf->ijf", noise, noise.conj()).real / 600
    bands = np.split(np.arange(8, 488), 12)
    for band in bands:
        assert found[..., band].mean(-1) == pytest.approx(expected[..., band].mean(-1), abs=0.06)


@pytest.mark.parametrize("array", ["foa", "mic"])
def test_noise_falls_with_the_asked_slope_and_has_unit_power(array):
    field = diffuse_field(array, np.random.default_rng(0), 400_000, RATE, slope=-3.0)
    power = np.square(np.abs(np.fft.rfft(field[0])))
    frequencies = np.fft.rfftfreq(400_000, 1 / RATE)
    octaves = [power[(frequencies >= low) & (frequencies < 2 * low)].mean() for low in (100, 200, 400)]
    assert 10 * np.log10(np.array(octaves[1:]) / octaves[:-1]) == pytest.approx(-3, abs=0.6)
    assert np.square(field[0]).mean() == pytest.approx(1, abs=0.35)
