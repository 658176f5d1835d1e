"""Microphone array signals: of single arrivals from known directions, and of a diffuse field.

`foa` is ideal first-order ambisonics: channels W, Y, Z, X (ACN) in SN3D, so that a plane wave s from azimuth a and
elevation e gives W = s, Y = s sin a cos e, Z = s sin e, X = s cos a cos e.

`mic` is four omnidirectional capsules flush with a rigid sphere of 4.2 cm radius, in the directions of the tetrahedral
subset of the Eigenmike that the DCASE challenges use. Scattering by the sphere follows Williams, "Fourier Acoustics"
(1999), section 6.10; delays are relative to the centre of the sphere.
"""

from functools import lru_cache

import numpy as np
import scipy

from modeling_pseldnet.ambisonics import SPEED_OF_SOUND
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.tools.extras import require


CHANNELS = 4
# Below this frequency, coloured noise is flat.
FLAT_HERTZ = 50.0

CAPSULE_DIRECTIONS = direction_to_vector([45.0, -45.0, 135.0, -135.0], [35.0, -35.0, -35.0, 35.0])
SPHERE_RADIUS = 0.042

# Channels whose mean power is the power of the sound pressure.
PRESSURE_CHANNELS = {"foa": slice(0, 1), "mic": slice(None)}

# Windowed-sinc fractional delays of pyroomacoustics: taps, and steps per sample in its interpolation table.
_DELAY_TAPS, _DELAY_STEPS = 81, 20
# Samples after which fractional delays and the sphere's scattering have died away.
_LONGEST_FILTER = 256


def foa_gains(directions: np.ndarray) -> np.ndarray:
    """Convert unit vectors (n, 3) in x, y, z to the gains (4, n) of W, Y, Z, X."""
    x, y, z = np.asarray(directions).T
    return np.stack([np.ones_like(x), y, z, x])


def encode_arrivals(
    array: str, seconds: np.ndarray, amplitudes: np.ndarray, directions: np.ndarray, length: int, sampling_rate: int
) -> np.ndarray:
    """Return the impulse response made of the given arrivals.

    Args:
        array: `"foa"` or `"mic"`.
        seconds, amplitudes: time and amplitude of each arrival at the array's centre (n,).
        directions: unit vectors (n, 3) pointing to where each arrival comes from.
        length: samples of the response; later arrivals are left out.

    Returns:
        (4, length) float32.
    """
    within = seconds * sampling_rate < length
    seconds, amplitudes, directions = seconds[within], amplitudes[within], directions[within]
    response = np.zeros((CHANNELS, length), dtype=np.float32)
    if not within.any():
        return response
    used = min(length, int(seconds.max() * sampling_rate) + _LONGEST_FILTER)
    if array == "foa":
        for channel, gain in enumerate(foa_gains(directions)):
            response[channel, :used] = _sum_delayed(seconds, amplitudes * gain, used, sampling_rate)
        return response
    size = scipy.fft.next_fast_len(used + _LONGEST_FILTER, real=True)
    cosines = CAPSULE_DIRECTIONS @ directions.T
    spectra = 0.0
    for order, radial in enumerate(_sphere_response(size, sampling_rate)):
        weights = (2 * order + 1) * scipy.special.eval_legendre(order, cosines) * amplitudes
        parts = np.stack([_sum_delayed(seconds, weight, used, sampling_rate) for weight in weights])
        spectra = spectra + radial * scipy.fft.rfft(parts, size)
    response[:, :used] = scipy.fft.irfft(spectra, size)[:, :used]
    return response


def _sum_delayed(seconds: np.ndarray, amplitudes: np.ndarray, length: int, sampling_rate: int) -> np.ndarray:
    libroom = require("pyroomacoustics.libroom")

    lead = _DELAY_TAPS // 2
    response = np.zeros(length + 2 * _DELAY_TAPS, dtype=np.float32)
    times = (seconds + lead / sampling_rate).astype(np.float32)
    libroom.rir_builder(response, times, amplitudes.astype(np.float32), sampling_rate, _DELAY_TAPS, _DELAY_STEPS, 1)
    return response[lead : lead + length]


@lru_cache(maxsize=8)
def _sphere_response(size: int, sampling_rate: int) -> np.ndarray:
    """Return the pressure on a rigid sphere by spherical-harmonic order: (orders, size // 2 + 1) complex."""
    wavenumbers = 2 * np.pi * scipy.fft.rfftfreq(size, 1 / sampling_rate) / SPEED_OF_SOUND * SPHERE_RADIUS
    orders = np.arange(int(np.ceil(wavenumbers[-1])) + 6)[:, None]
    argument = np.maximum(wavenumbers, 1e-3)
    with np.errstate(over="ignore", invalid="ignore"):
        derivative = scipy.special.spherical_jn(orders, argument, True) - 1j * scipy.special.spherical_yn(
            orders, argument, True
        )
        radial = 1j**orders * -1j / (argument**2 * derivative)
    return np.nan_to_num(radial)


def diffuse_field(array: str, generator: np.random.Generator, length: int, sampling_rate: int, slope: float = 0.0):
    """Draw noise that arrives with equal power from all directions; its sound pressure has unit power.

    In SN3D, Y, Z and X each have a third of the power of W, and the channels are uncorrelated; on the sphere, the
    coherence between two capsules follows from the addition theorem.

    Args:
        slope: slope of the spectrum above `FLAT_HERTZ`, dB per octave.

    Returns:
        (4, length) float32.
    """
    noise = generator.standard_normal((CHANNELS, length), dtype=np.float32)
    if array == "foa":
        noise[1:] *= np.float32(3**-0.5)
    if array == "foa" and slope == 0:
        return noise
    size = scipy.fft.next_fast_len(length, real=True)
    spectra = scipy.fft.rfft(noise, size)
    spectra *= noise_colour(size, sampling_rate, slope)
    if array == "mic":
        spectra = _sphere_coherent(spectra, size, sampling_rate)
    return scipy.fft.irfft(spectra, size)[:, :length]


def noise_colour(size: int, sampling_rate: int, slope: float) -> np.ndarray:
    """Return the factors (size // 2 + 1,) that give the spectrum of white noise a slope and keep its power.

    Args:
        slope: slope above `FLAT_HERTZ`, dB per octave.
    """
    frequencies = np.maximum(scipy.fft.rfftfreq(size, 1 / sampling_rate), FLAT_HERTZ)
    shape = (frequencies ** (slope / (20 * np.log10(2)))).astype(np.float32)
    return shape / np.sqrt(np.mean(np.square(shape)))


def _sphere_coherent(spectra: np.ndarray, size: int, sampling_rate: int) -> np.ndarray:
    """Turn independent spectra (4, bins) into those of the capsules in a diffuse field.

    All pairs of a tetrahedron's capsules are equally far apart, so the square root of their covariance has two
    eigenvalues: one for the mean over capsules, and one for deviations from it.
    """
    frequencies = scipy.fft.rfftfreq(size, 1 / sampling_rate)
    coarse = _sphere_response(4096, sampling_rate)
    orders = np.arange(len(coarse))
    power = (2 * orders[:, None] + 1) * np.abs(coarse) ** 2
    pairs = (CAPSULE_DIRECTIONS @ CAPSULE_DIRECTIONS.T)[np.triu_indices(CHANNELS, 1)]
    between = (power * scipy.special.eval_legendre(orders, pairs.mean())[:, None]).sum(0)
    within = power.sum(0)
    knots = scipy.fft.rfftfreq(4096, 1 / sampling_rate)
    common = np.interp(frequencies, knots, np.sqrt(np.maximum(within + (CHANNELS - 1) * between, 0)))
    differing = np.interp(frequencies, knots, np.sqrt(np.maximum(within - between, 0)))
    mean = spectra.mean(axis=0)
    return (differing * (spectra - mean) + common * mean).astype(np.complex64)
