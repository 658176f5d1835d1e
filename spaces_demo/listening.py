"""Make recordings audible: stereo, binaural and single-event audio from first-order ambisonics."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile

from modeling_pseldnet.ambisonics import SPEED_OF_SOUND
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.files import atomic_path


BLOCK_SECONDS = 10
# Sampling rates in Hz that an MP3 file can have.
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Peak of a preview relative to full scale; recordings of rooms are often far below it.
PEAK = 0.7
# Number of levels over a recording that the page draws.
ENVELOPE_POINTS = 800

# From W, Y, Z, X to two cardioids back to back, one facing left and one facing right.
CARDIOIDS = 0.5 * np.array([[1, 1, 0, 0], [1, -1, 0, 0]], dtype=np.float32)[:, :, None]
# Share of W in a hypercardioid, the first-order microphone with the highest directivity; the rest faces the target.
HYPERCARDIOID = 0.25
FADE_SECONDS = 0.02

# Brown and Duda, "A structural model for binaural sound synthesis", IEEE TSAP 6(5), 1998: head radius in metres,
# azimuth of the ears, minimum gain of the head shadow and its angle, and the pinna echoes (reflection, and A, B, D of
# their delays in samples at 44.1 kHz), which distinguish front from back.
HEAD_RADIUS, EAR_DEGREES, LEAST_SHADOW, SHADOW_DEGREES = 0.0875, 100.0, 0.1, 150.0
PINNA = [(0.5, 1, 2, 1.0), (-1.0, 5, 4, 0.5), (0.5, 5, 7, 0.5), (-0.25, 5, 11, 0.5), (0.25, 5, 13, 0.5)]
PINNA_RATE = 44100
# Virtual loudspeakers in the corners of a cube reproduce the sound field, with the first-order weight that
# concentrates their energy most (max rE: Daniel, "Représentation de champs acoustiques", 2000, section 3.3).
CUBE = np.array([(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)]) / 3**0.5
MAX_ENERGY = 3**-0.5
TAPS = 256


class Preview(NamedTuple):
    """The paths of the previews, and the levels of the recording in equal parts, relative to the highest."""

    stereo: str
    binaural: str
    envelope: list[float]


def playback_rate(sampling_rate: int) -> int:
    """Return the rate to play sounds at that is nearest to a model's, which may be any."""
    return min(MP3_RATES, key=lambda rate: abs(rate - sampling_rate))


def head_response(frequency: np.ndarray, direction: np.ndarray, side: int) -> np.ndarray:
    """Return an ear's response to a plane wave, after Brown and Duda: head shadow, delay (Woodworth) and pinna.

    Args:
        frequency: (frequencies,) in Hz.
        direction: unit vector to the source: front, left, up.
        side: 1 for the left ear, -1 for the right.

    Returns:
        (frequencies,), complex; delays are relative to the centre of the head, so negative at the nearer ear.
    """
    ear = direction_to_vector(side * EAR_DEGREES, 0.0)
    incidence = np.arccos(np.clip(direction @ ear, -1, 1))
    omega = 2 * np.pi * frequency
    travel = HEAD_RADIUS / SPEED_OF_SOUND
    delay = travel * (-np.cos(incidence) if incidence < np.pi / 2 else incidence - np.pi / 2)
    phase = np.pi * incidence / np.radians(SHADOW_DEGREES)
    alpha = (1 + LEAST_SHADOW / 2) + (1 - LEAST_SHADOW / 2) * np.cos(phase)
    shadow = (1 + 0.5j * alpha * omega * travel) / (1 + 0.5j * omega * travel)
    # Interaural coordinates: lateral angle, and the angle around the axis of the ears, which is 180° at the back.
    lateral = np.arcsin(np.clip(side * direction[1], -1, 1))
    polar = np.arctan2(direction[2], direction[0])
    polar += 2 * np.pi * (polar < -np.pi / 2)
    outer_ear = np.ones_like(shadow)
    for reflection, a, b, d in PINNA:
        samples = a * np.cos(lateral / 2) * np.sin(d * (np.pi / 2 - polar)) + b
        outer_ear += reflection * np.exp(-1j * omega * samples / PINNA_RATE)
    return shadow * outer_ear * np.exp(-1j * omega * delay)


def binaural_filters(sampling_rate: int) -> np.ndarray:
    """Design the filters (left and right ear; W, Y, Z, X; TAPS) that render ambisonics binaurally."""
    frequency = np.fft.rfftfreq(TAPS, 1 / sampling_rate)
    x, y, z = CUBE.T
    decoder = np.stack([np.ones(8), *(3 * MAX_ENERGY * np.stack([y, z, x]))], axis=1) / 8
    ears = np.array([[head_response(frequency, corner, side) for corner in CUBE] for side in (1, -1)])
    # Enough delay for the nearer ear and for the pre-ringing of band-limited impulses.
    lag = 2 * HEAD_RADIUS / SPEED_OF_SOUND + 8 / sampling_rate
    response = np.einsum("evf,vc->ecf", ears, decoder) * np.exp(-2j * np.pi * frequency * lag)
    return np.fft.irfft(response, TAPS).astype(np.float32)


def mixes(num_channels: int, ambisonic: bool, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the filters (2, channels, taps) of both previews; other audio than ambisonics is kept, or averaged."""
    if ambisonic:
        return CARDIOIDS, binaural_filters(sampling_rate)
    plain = np.eye(2) if num_channels == 2 else np.full((2, num_channels), 1 / num_channels)
    return (plain.astype(np.float32)[:, :, None],) * 2


def write_preview(recording: Recording, stem: str | os.PathLike, ambisonic: bool = True) -> Preview:
    """Write STEM.mp3, two cardioid microphones, and STEM-headphones.mp3, two ears, each scaled to `PEAK`.

    Args:
        recording: a recording of any length; it is read in blocks.
        stem: path of the files without suffix; they appear whole or not at all.
        ambisonic: whether the channels are W, Y, Z, X.

    Raises:
        ValueError: the recording is truncated.
    """
    filters = mixes(recording.mixing.shape[0], ambisonic, recording.sampling_rate)
    peaks, envelope = np.zeros(2), np.zeros(min(recording.num_samples, ENVELOPE_POINTS))
    per_point = recording.num_samples / len(envelope)
    for start, heard in _blocks(recording, filters):
        peaks = np.maximum(peaks, [np.abs(mix).max(initial=0) for mix in heard])
        points = ((start + np.arange(heard[0].shape[1])) / per_point).astype(int)
        np.maximum.at(envelope, points, np.abs(heard[0]).max(0))
    paths = f"{stem}.mp3", f"{stem}-headphones.mp3"
    with (
        atomic_path(paths[0]) as first,
        atomic_path(paths[1]) as second,
        soundfile.SoundFile(first, "w", recording.sampling_rate, channels=2, format="MP3") as stereo,
        soundfile.SoundFile(second, "w", recording.sampling_rate, channels=2, format="MP3") as binaural,
    ):
        gains = PEAK / np.maximum(peaks, 1e-6)
        for _, heard in _blocks(recording, filters):
            for file, gain, mix in zip((stereo, binaural), gains, heard, strict=True):
                file.write(gain * mix.T)
    return Preview(*paths, [round(float(level), 3) for level in envelope / max(envelope.max(), 1e-9)])


def _blocks(recording: Recording, filters: tuple[np.ndarray, ...]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield the first sample of each block of a recording, and the block through each of the filters: (2, samples)."""
    size = BLOCK_SECONDS * recording.sampling_rate
    before = max(mix.shape[2] for mix in filters) - 1
    for start in range(0, recording.num_samples, size):
        length = min(size, recording.num_samples - start)
        waveform = recording.read(start - before, before + length)
        yield start, [_filtered(waveform, mix)[:, before:] for mix in filters]


def _filtered(waveform: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Filter audio (channels, samples) with (2, channels, taps) to (2, samples)."""
    if mix.shape[2] == 1:
        return mix[:, :, 0] @ waveform
    size = 1 << (waveform.shape[1] + mix.shape[2] - 1).bit_length()
    spectrum = np.einsum("ecf,cf->ef", np.fft.rfft(mix, size), np.fft.rfft(waveform, size))
    return np.fft.irfft(spectrum, size)[:, : waveform.shape[1]].astype(np.float32)


def write_solo(recording: Recording, trajectory: list[dict], path: str | os.PathLike) -> None:
    """Write an MP3 of what a hypercardioid steered along the trajectory of an event picks up, from onset to offset.

    Args:
        recording: first-order ambisonics.
        trajectory: `time` in s, `azimuth` and `elevation` in degrees, every 100 ms, as from [`to_records`].
        path: path of the file, which appears whole or not at all.

    Raises:
        ValueError: the trajectory is empty or outside the recording, or the recording is truncated.
    """
    rate = recording.sampling_rate
    times = np.array([step["time"] for step in trajectory], dtype=float)
    if not len(times) or not (0 <= times.min() <= times.max() <= recording.seconds) or (np.diff(times) <= 0).any():
        raise ValueError("the event lies outside the recording: choose it again")
    vectors = direction_to_vector(*np.array([(step["azimuth"], step["elevation"]) for step in trajectory]).T)
    begin, end = round(times[0] * rate), min(round((times[-1] + 0.1) * rate), recording.num_samples)
    sounds = []
    for start in range(begin, end, BLOCK_SECONDS * rate):
        samples = np.arange(start, min(start + BLOCK_SECONDS * rate, end))
        # A direction is that at the middle of its frame.
        aim = np.array([np.interp(samples / rate, times + 0.05, axis) for axis in vectors.T])
        aim /= np.maximum(np.linalg.norm(aim, axis=0), 1e-6)
        w, y, z, x = recording.read(start, len(samples))
        sounds.append(HYPERCARDIOID * w + (1 - HYPERCARDIOID) * (aim[0] * x + aim[1] * y + aim[2] * z))
    sound = np.concatenate(sounds)
    since, left = np.arange(len(sound)), np.arange(len(sound))[::-1]
    sound *= np.clip(np.minimum(since, left) / (FADE_SECONDS * rate), 0, 1)
    sound *= PEAK / max(float(np.abs(sound).max()), 1e-6)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, sound, rate, format="MP3")
