"""Augment a batch: waveforms and features on the device, and their events.

The events of a batch are one [`Events`] whose frames continue from example to example: in windows of n frames, frame f
of example b is b * n + f. All random numbers are drawn on the CPU, where the events are, so that nothing waits for the
device and a seed has the same effect on every device.

A method takes waveforms (batch, 4, samples) or features (batch, channels, frames, mel bins), the events and the number
of label frames per window; it returns augmented sounds and events. The default parameters are those of PSELDNets
(arXiv 2411.06399).
"""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from datasets_scripts.yaml_recipes import fit
from modeling_pseldnet.ambisonics import ROTATION_PATTERNS, channel_rotation, feature_rotation
from modeling_pseldnet.events import Events, direction_to_vector, vector_to_direction


MAX_POLYPHONY = 3


def polyphony(events: Events, num_frames: int, batch_size: int) -> np.ndarray:
    """Return the largest number of simultaneous events in each example, (batch,)."""
    return np.bincount(events.frame, minlength=batch_size * num_frames).reshape(batch_size, num_frames).max(1)


def take_examples(events: Events, num_frames: int, examples: np.ndarray) -> Events:
    """Return the events of a batch made of the given `examples` of another; -1 stands for one without events."""
    events = events[np.argsort(events.frame, kind="stable")]
    start, end = (np.searchsorted(events.frame, (examples + after) * num_frames) for after in (0, 1))
    count = end - start
    example = np.repeat(np.arange(len(examples)), count)
    rows = events[np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())]
    return rows.replace(frame=rows.frame + (example - examples[example]) * num_frames)


def turn(sounds: Tensor, events: Events, num_frames: int, matrices: np.ndarray) -> tuple[Tensor, Events]:
    """Rotate or mirror the sound field of each example by its matrix, (batch, 3, 3) in x, y, z.

    Args:
        sounds: waveforms; or `logmel_iv` features, if the matrices only swap or reverse axes.
    """
    mixing = (channel_rotation if sounds.ndim == 3 else feature_rotation)(matrices.astype(np.float32))
    vector = np.einsum("nij,nj->ni", matrices[events.frame // num_frames], events.vector)
    azimuth, elevation = vector_to_direction(vector)
    turned = torch.from_numpy(mixing).to(sounds.device) @ sounds.flatten(2)
    return turned.view_as(sounds), events.replace(azimuth=azimuth, elevation=elevation)


def rotation(
    sounds: Tensor, events: Events, num_frames: int, patterns: int = 48, probability: float = 0.8
) -> tuple[Tensor, Events]:
    """Rotate or mirror examples at random, by one of 16 or 48 patterns that swap or reverse the axes.

    It takes waveforms or `logmel_iv` features, with the same result.

    The 16 patterns, which keep the horizon level, are those of Wang et al., "A four-stage data augmentation approach
    to ResNet-Conformer based acoustic modeling for sound event localization and detection" (TASLP 2023).
    """
    batch_size = len(sounds)
    drawn = ROTATION_PATTERNS[patterns][torch.randint(patterns, (batch_size,)).numpy()]
    chosen = (torch.rand(batch_size) < probability).numpy()
    return turn(sounds, events, num_frames, np.where(chosen[:, None, None], drawn, np.eye(3)))


def mix(
    sounds: Tensor, events: Events, num_frames: int, receivers: np.ndarray, donors: np.ndarray, beta: float
) -> tuple[Tensor, Events]:
    """Mix another example from the donors into each receiver, with weights from Beta(beta, beta).

    Args:
        sounds: waveforms or features, (batch, …).
        receivers, donors: masks of the examples, (batch,) of bool.
    """
    batch_size = len(sounds)
    allowed = torch.from_numpy(receivers[:, None] & donors[None, :] & ~np.eye(batch_size, dtype=bool))
    partner = (torch.rand(batch_size, batch_size) * allowed).argmax(1)
    mixed = allowed.any(1)
    weight = torch.where(mixed, torch.distributions.Beta(beta, beta).sample((batch_size,)), 1.0)
    weight = weight.to(sounds.device).reshape(-1, *[1] * (sounds.ndim - 1))
    added = take_examples(events, num_frames, torch.where(mixed, partner, -1).numpy())
    added = added.replace(track=added.track + events.track.max(initial=-1) + 1)
    mixture = weight * sounds + (1 - weight) * sounds[partner.to(sounds.device)]
    return mixture, Events.concatenate([events, added])


def wav_mix(
    waveform: Tensor, events: Events, num_frames: int, probability: float = 0.5, beta: float = 0.5
) -> tuple[Tensor, Events]:
    """With `probability`, mix into each single-source example another with one or two sources, of any classes."""
    if torch.rand(()) >= probability:
        return waveform, events
    sources = polyphony(events, num_frames, len(waveform))
    return mix(waveform, events, num_frames, sources == 1, (sources >= 1) & (sources < MAX_POLYPHONY), beta)


def track_mix(features: Tensor, events: Events, num_frames: int, beta: float = 0.5) -> tuple[Tensor, Events]:
    """Mix the features of single-source examples."""
    single = polyphony(events, num_frames, len(features)) == 1
    return mix(features, events, num_frames, single, single, beta)


def _intervals(shape: tuple[int, ...], length: int, longest: int) -> Tensor:
    """Draw a random interval of at most `longest` out of `length` places per entry: (*shape, length) of bool."""
    width = torch.randint(longest + 1, (*shape, 1))
    start = (torch.rand(*shape, 1) * (length - width + 1)).long()
    place = torch.arange(length)
    return (place >= start) & (place < start + width)


def spec_augment(
    features: Tensor,
    events: Events,
    num_frames: int,
    time_frames: int = 40,
    time_masks: int = 4,
    mel_bins: int = 8,
    frequency_masks: int = 2,
) -> tuple[Tensor, Events]:
    """Mask bands of time and of frequency with zeros, and remove the events in masked time.

    A masked time consists of whole label frames, at most `time_frames` feature frames, so that no event is half heard.
    Park et al., "SpecAugment" (Interspeech 2019).
    """
    batch_size, _, feature_frames, bins = features.shape
    ratio = feature_frames // num_frames
    silent = _intervals((batch_size, time_masks), num_frames, time_frames // ratio).any(1)
    dropped = _intervals((batch_size, frequency_masks), bins, mel_bins).any(1)
    silent_feature_frames = silent[:, (torch.arange(feature_frames) // ratio).clamp(max=num_frames - 1)]
    masked = silent_feature_frames[:, None, :, None] | dropped[:, None, None, :]
    heard = events[~silent.flatten().numpy()[events.frame]]
    return features.masked_fill(masked.to(features.device), 0.0), heard


def crop(
    features: Tensor, events: Events, num_frames: int, boxes: int = 4, frames: int = 8, mel_bins: int = 4
) -> tuple[Tensor, Events]:
    """Mask boxes of at most `frames` by `mel_bins` with zeros, in each channel independently."""
    batch_size, channels, feature_frames, bins = features.shape
    for _ in range(boxes):
        in_time = _intervals((batch_size, channels), feature_frames, frames).to(features.device)
        in_frequency = _intervals((batch_size, channels), bins, mel_bins).to(features.device)
        features = features.masked_fill(in_time[..., :, None] & in_frequency[..., None, :], 0.0)
    return features, events


def frequency_shift(
    features: Tensor, events: Events, num_frames: int, probability: float = 0.5, mel_bins: int = 15
) -> tuple[Tensor, Events]:
    """With `probability`, shift each example by up to `mel_bins` up or down, reflected at the edges."""
    batch_size, _, _, bins = features.shape
    shift = torch.randint(-mel_bins, mel_bins + 1, (batch_size, 1)) * (torch.rand(batch_size, 1) < probability)
    source = (torch.arange(bins) - shift).abs()
    source = (bins - 1) - (bins - 1 - source).abs()
    index = source[:, None, None, :].to(features.device).expand_as(features)
    return features.gather(3, index), events


def filter_augment(
    features: Tensor, events: Events, num_frames: int, decibels: float = 6.0, points: int = 5
) -> tuple[Tensor, Events]:
    """Colour each example with a random filter, the same for all channels, so that directions do not change.

    Its gain is drawn within ± `decibels` at `points` places from the lowest to the highest mel bin, and linear between
    them. Only the log-mel spectra, the first four channels, change, as intensity is relative to energy.
    Nam et al., "FilterAugment: An acoustic environmental data augmentation method" (ICASSP 2022).
    """
    batch_size, _, _, bins = features.shape
    places = np.sort(torch.rand(batch_size, points).numpy(), axis=1)
    places[:, 0], places[:, -1] = 0, 1
    gains = decibels * (2 * torch.rand(batch_size, points) - 1).numpy()
    gain = np.stack([np.interp(np.linspace(0, 1, bins), *knots) for knots in zip(places, gains, strict=True)])
    coloured = features.clone()
    coloured[:, :4] += torch.from_numpy(gain).to(features)[:, None, None]
    return coloured, events


WAVEFORM_METHODS = {"rotation": rotation, "wav_mix": wav_mix}
FEATURE_METHODS = {
    "spec_augment": spec_augment,
    "crop": crop,
    "frequency_shift": frequency_shift,
    "filter_augment": filter_augment,
    "track_mix": track_mix,
}
# Ranges of options that may not be just any number of at least 0.
LIMITS = {"probability": (0, 1), "beta": (0.001, np.inf), "points": (1, np.inf)}


class AugMix:
    """Concatenate a batch and augmented copies of it.

    Rotation and WavMix change the waveforms of the batch and of each copy; then a random subset of the other methods,
    at least one, in random order, changes the features of each copy. After Hendrycks et al., "AugMix" (ICLR 2020).

    Args:
        copies: number of augmented copies.
        original: whether to train on the batch itself besides its copies.
        methods: the options of each method to use, such as `crop={"boxes": 2}`; the tables above have their names.

    Raises:
        ValueError: there is no such method or option, or it is out of range.
    """

    def __init__(self, copies: int = 2, original: bool = True, **methods: dict | None):
        fit({"copies": copies, "original": original}, {"copies": int, "original": bool})
        if copies < 0:
            raise ValueError(f"copies must be 0 or more, not {copies}")
        if not original and copies < 1:
            raise ValueError("original is false and copies is 0: set copies to at least 1")
        for name, options in methods.items():
            known = WAVEFORM_METHODS | FEATURE_METHODS
            if name not in known:
                raise ValueError(f"unknown augmentation {name!r}: choose from {', '.join(known)}")
            parameters = list(inspect.signature(known[name]).parameters)[3:]
            for option in options if isinstance(options, dict) else ():
                if option not in parameters:
                    raise ValueError(f"{name} has no option {option!r}: choose from {', '.join(parameters)}")
            if options is not None:
                fit(options, {option: known[name].__annotations__[option] for option in parameters}, f"{name}.")
            for option, value in (options or {}).items():
                low, high = LIMITS.get(option, (0, np.inf))
                if not low <= value <= high:
                    allowed = f"at least {low}" if np.isinf(high) else f"from {low} to {high}"
                    raise ValueError(f"{name}.{option} must be {allowed}, not {value}")
        if methods.get("rotation") and methods["rotation"].get("patterns", 48) not in ROTATION_PATTERNS:
            raise ValueError(f"rotation.patterns must be {' or '.join(map(str, sorted(ROTATION_PATTERNS)))}")
        self.copies, self.original = copies, original
        self.on_waveforms, self.on_features = (
            [(table[name], options) for name, options in methods.items() if name in table and options is not None]
            for table in (WAVEFORM_METHODS, FEATURE_METHODS)
        )
        if self.on_features and not copies:
            named = ", ".join(method.__name__ for method, _ in self.on_features)
            raise ValueError(f"{named} would have no effect, as copies is 0: set copies to at least 1")

    @property
    def mixes_waveforms(self) -> bool:
        """Whether waveforms are mixed, which needs waveforms instead of features."""
        return any(method is wav_mix for method, _ in self.on_waveforms)

    def __call__(
        self, batch: Tensor, events: Events, num_frames: int, extract: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Events]:
        """Turn waveforms (batch, 4, samples) or features into features ((original + copies) * batch, …) and events.

        Args:
            extract: computes features from waveforms; `None` if the batch is features, which WavMix cannot take.
        """
        if extract is None and self.mixes_waveforms:
            raise ValueError("wav_mix needs waveforms, but the batch holds features")
        features, parts = [], []
        for number in range(self.original + self.copies):
            sounds, found = batch, events
            for method, options in self.on_waveforms:
                sounds, found = method(sounds, found, num_frames, **options)
            sounds = extract(sounds) if extract else sounds
            for method, options in self._some_on_features() if number >= self.original else ():
                sounds, found = method(sounds, found, num_frames, **options)
            features.append(sounds)
            parts.append(found.replace(frame=found.frame + number * len(batch) * num_frames))
        return torch.cat(features), Events.concatenate(parts)

    def _some_on_features(self) -> list[tuple[Callable, dict]]:
        if not self.on_features:
            return []
        count = int(torch.randint(1, len(self.on_features) + 1, ()))
        return [self.on_features[index] for index in torch.randperm(len(self.on_features))[:count].tolist()]


def place_mono(waveform: Tensor, events: Events, num_frames: int) -> tuple[Tensor, Events]:
    """Encode each source of mono clips at a random direction: W, W sin a cos e, W sin e, W cos a cos e.

    Its distance is unknown, as the sound does not reveal it.

    A source is an example's events of one class and track. Directions are uniform on the sphere. Only one source may
    be active at a time, since all sound in its frames is encoded at its direction.

    Args:
        waveform: (batch, channels, samples), of which the first channel is used.
    """
    batch_size, _, samples = waveform.shape
    example = events.frame // num_frames
    _, source = np.unique(np.stack([example, events.class_id, events.track]), axis=1, return_inverse=True)
    source = source.reshape(-1)
    draw = torch.rand(2, source.max(initial=-1) + 1, dtype=torch.float64).numpy()
    azimuth, elevation = 180 - 360 * draw[0], np.degrees(np.arcsin(2 * draw[1] - 1))
    unknown = np.full(len(events), np.nan)
    placed = events.replace(azimuth=azimuth[source], elevation=elevation[source], distance=unknown)
    gains = np.zeros((batch_size * num_frames, 3), dtype=np.float32)
    gains[placed.frame] = direction_to_vector(placed.azimuth, placed.elevation)
    gains = torch.from_numpy(gains).to(waveform.device).unflatten(0, (batch_size, num_frames)).transpose(1, 2)
    frame = torch.arange(samples, device=waveform.device) * num_frames // samples
    x, y, z = gains[..., frame].unbind(1)
    omni = waveform[:, 0]
    return torch.stack([omni, omni * y, omni * z, omni * x], dim=1), placed
