"""Render scenes with numpy and scipy: the reference that other renderers must match."""

from functools import lru_cache
from math import gcd

import numpy as np
import scipy

from datasets_scripts.scenes.arrays import CHANNELS, diffuse_field, noise_colour
from datasets_scripts.scenes.rooms import Room, pressure_energy
from datasets_scripts.scenes.scene_set import NOISE, PLAYBACK_STEPS, UNLABELLED, Scene, SceneEvent, SceneSet
from modeling_pseldnet.ambisonics import channel_rotation, yaw_rotation


# Louder scenes are scaled down to this peak to avoid clipping.
PEAK = 0.99
FADE_SECONDS = 0.01
# Length of the noise bank, in scene lengths.
NOISE_SCENES = 2
HUM_HARMONICS = 12


class Renderer:
    """Render the scenes of a set, caching the last room's responses, sounds and noise for the next scene."""

    def __init__(self, scene_set: SceneSet):
        self.scene_set = scene_set
        self._room_number = -1
        self._responses: dict[tuple, np.ndarray] = {}
        self._sound = lru_cache(maxsize=256)(scene_set.read)
        self._noise = lru_cache(maxsize=2)(lambda array: noise_bank(scene_set, array))

    def scene(self, scene: Scene, array: str = "foa") -> np.ndarray:
        """Render the mixture of a scene: (4, samples) float32.

        Raises:
            ValueError: the array is not `"foa"`, but scenes are rotated or responses measured.
        """
        self.scene_set.recipe.check_array(array)
        mixture = self._noise_of(scene, array)
        for event in scene.sources:
            start, part = self.event(scene, event, array)
            part = part[:, : mixture.shape[1] - start]
            mixture[:, start : start + part.shape[1]] += part
        return turned_down(rotated(mixture, scene.yaw))

    def dry(self, scene: Scene) -> np.ndarray:
        """Sum the sounds of a scene without the room, each at its level in the scene: (1, samples)."""
        mixture = np.zeros((1, self.scene_set.recipe.scene_samples), dtype=np.float32)
        for event in scene.sources:
            mixture[0, event.start : event.stop] += scene.level(event.snr) * self._signal(event)
        return turned_down(mixture)

    def event(
        self, scene: Scene, event: SceneEvent, array: str = "foa", direct_only: bool = False
    ) -> tuple[int, np.ndarray]:
        """Render one event alone, without noise and before the scene's rotation.

        `direct_only` leaves out all reflections.

        Returns:
            The sample of the scene at which the event starts, and its audio with reverberation (4, samples).
        """
        responses = self._responses_of(scene.room, event.path, array, direct_only)
        signal = self._signal(event) * np.float32(scene.level(event.snr) / response_level(responses, event, array))
        output = np.zeros((responses.shape[1], event.length + responses.shape[2] - 1), dtype=np.float32)
        for point, (first, weights) in path_weights(event).items():
            part = _convolve(signal[first : first + len(weights)] * weights, responses[point])
            output[:, first : first + part.shape[1]] += part
        return event.start, output

    def _responses_of(self, room_number: int, path: int, array: str, direct_only: bool) -> np.ndarray:
        if room_number != self._room_number:
            self._responses.clear()
            self._room_number = room_number
        key = (path, array, direct_only)
        if key not in self._responses:
            room: Room = self.scene_set.room(room_number)
            self._responses[key] = room.responses(path, array, direct_only)
        return self._responses[key]

    def _signal(self, event: SceneEvent) -> np.ndarray:
        return event_signal(
            event, self._sound(event.sound, event.class_id != UNLABELLED), self.scene_set.recipe.sampling_rate
        )

    def _noise_of(self, scene: Scene, array: str) -> np.ndarray:
        samples, rate = self.scene_set.recipe.scene_samples, self.scene_set.recipe.sampling_rate
        noise = np.zeros((CHANNELS, samples), dtype=np.float32)
        if scene.noise_level is not None:
            bank = self._noise(array)
            noise = bank.take(np.arange(samples) + noise_start(scene, bank.shape[1]), axis=1, mode="wrap")
            if scene.noise_slope is not None:
                spectra = scipy.fft.rfft(noise) * noise_colour(samples, rate, scene.noise_slope)
                noise = scipy.fft.irfft(spectra, samples)
            noise = noise * np.float32(10 ** (scene.noise_level / 20))
        if scene.hum is not None:
            noise = noise + np.take(hum(scene, array, rate), np.arange(samples), axis=1, mode="wrap")
        return noise


def noise_bank(scene_set: SceneSet, array: str) -> np.ndarray:
    """Make the noise, to be repeated, that a set's scenes take excerpts from: (4, samples), unit power of pressure.

    The noise is white if the recipe varies its slope, since each scene then colours its own excerpt.
    """
    recipe = scene_set.recipe
    generator = np.random.default_rng(scene_set.seed_of(NOISE, 0))
    length = NOISE_SCENES * recipe.scene_samples
    slope = 0.0 if isinstance(recipe.noise.slope, tuple) else recipe.noise.slope
    if slope:
        # Such a field repeats without a step only at this length.
        length = scipy.fft.next_fast_len(length, real=True)
    return diffuse_field(array, generator, length, recipe.sampling_rate, slope)


def hum(scene: Scene, array: str, sampling_rate: int) -> np.ndarray:
    """Make the mains hum of a scene: a tenth of a second to repeat, (4, samples) float32.

    The amplitude of harmonic n is 1 / n; like noise, the phases are independent across channels.
    """
    frequency, level, seed = scene.hum
    orders = np.arange(1, HUM_HARMONICS + 1)[:, None]
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (CHANNELS, HUM_HARMONICS, 1))
    seconds = np.arange(sampling_rate // 10) / sampling_rate
    waves = (np.sin(2 * np.pi * frequency * orders * seconds + phases) / orders).sum(1)
    waves /= np.sqrt(np.square(1 / orders).sum() / 2)
    if array == "foa":
        waves[1:] *= 3**-0.5
    return (scene.level(level) * waves).astype(np.float32)


def noise_start(scene: Scene, bank_samples: int) -> int:
    """Return the sample of the noise bank at which a scene begins."""
    return int(scene.noise_start * bank_samples)


def event_signal(event: SceneEvent, sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return the signal of an event: (length,) float32 with unit RMS, faded where the sound (samples,) is cut."""
    source_stop = event.offset + event.source_length
    signal = sound[event.offset : source_stop].astype(np.float32, copy=True)
    if event.playback != PLAYBACK_STEPS:
        filters = _playback_filter(event.playback)
        signal = scipy.signal.resample_poly(signal, PLAYBACK_STEPS, event.playback, window=filters)[: event.length]
    ramp = np.linspace(0, 1, min(round(FADE_SECONDS * sampling_rate), event.length), dtype=np.float32)
    if event.offset > 0:
        signal[: len(ramp)] *= ramp
    if source_stop < len(sound):
        signal[len(signal) - len(ramp) :] *= ramp[::-1]
    return signal / np.float32(max(np.sqrt(np.mean(np.square(signal, dtype=np.float64))), 1e-9))


@lru_cache(maxsize=64)
def _playback_filter(playback: int) -> np.ndarray:
    """Cache the filter that `resample_poly` would design for each sound, which takes a third of its time."""
    rate = max(PLAYBACK_STEPS, playback) // gcd(PLAYBACK_STEPS, playback)
    return scipy.signal.firwin(20 * rate + 1, 1 / rate, window=("kaiser", 5.0)).astype(np.float32)


def response_level(responses: np.ndarray, event: SceneEvent, array: str) -> float:
    """Return the factor by which responses (points, 4, samples) raise white noise's RMS along an event's path."""
    return float(np.sqrt(pressure_energy(responses[event.points()], array).mean()))


def path_weights(event: SceneEvent) -> dict[int, tuple[int, np.ndarray]]:
    """Distribute an event over the points of its path, cross-fading linearly from each point to the next.

    Returns:
        For each point, the first sample of the event to which it contributes, and its weights from there on.
    """
    place = event.place(event.start + np.arange(event.length))
    shares = {}
    for point in event.points():
        near = np.flatnonzero(np.abs(place - point) < 1)
        if len(near):
            window = slice(near[0], near[-1] + 1)
            shares[point] = int(near[0]), (1 - np.abs(place[window] - point)).astype(np.float32)
    return shares


def rotated(mixture: np.ndarray, yaw: float) -> np.ndarray:
    """Rotate FOA audio (4, samples) counter-clockwise by `yaw` degrees."""
    if yaw == 0:
        return mixture
    return (channel_rotation(yaw_rotation(yaw)) @ mixture).astype(np.float32)


def turned_down(mixture: np.ndarray) -> np.ndarray:
    """Scale down a mixture so that no sample exceeds `PEAK`."""
    return mixture * np.float32(min(1.0, PEAK / max(np.abs(mixture).max(initial=0.0), PEAK)))


def _convolve(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve (n,) with (channels, m) to (channels, n + m - 1)."""
    length = len(signal) + response.shape[-1] - 1
    size = scipy.fft.next_fast_len(length, real=True)
    return scipy.fft.irfft(scipy.fft.rfft(signal, size) * scipy.fft.rfft(response, size), size)[:, :length]
