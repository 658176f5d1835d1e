"""Feature extractor: spectrograms and spatial features of ambisonics, microphone arrays, stereo and mono audio."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import hertz_to_mel
from transformers.utils import logging

from .ambisonics import SPEED_OF_SOUND
from .audio import as_channels, check_samples, float_samples
from .configuration_pseldnet import BOUNDS
from .containers import checked_rate
from .events import frames_spanned
from .keywords import refuse_misspelt, refuse_unknown
from .tracks import PADDED_LABEL


logger = logging.get_logger(__name__)

# SALSA-Lite: upper limit of the bins, and the range of frequencies whose phases are used. Below it phases are mere
# noise; above it those of the DCASE array (capsules 7 cm apart) become ambiguous.
SALSA_LITE_TOP_HERTZ, SALSA_LITE_PHASE_HERTZ = 9000.0, (50.0, 2000.0)

# Arguments of every extractor of transformers that can have only one value here.
FIXED = {"padding_side": "right", "return_attention_mask": True}


def mel_triangles(n_fft: int, num_bins: int, lowest_hertz: float, sampling_rate: int, scale: str) -> torch.Tensor:
    """Return triangular filters of equal area up to half the rate, on the `"htk"` or `"slaney"` scale.

    Computed in single precision, as for the published networks, because rounding shows in narrow triangles.

    Returns:
        (frequencies, bins).
    """
    lowest, highest = (hertz_to_mel(hertz, mel_scale=scale) for hertz in (lowest_hertz, sampling_rate / 2))
    mels = torch.linspace(lowest, highest, num_bins + 2)
    if scale == "htk":
        edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    else:
        # Linear up to 1000 Hz, then 27 steps per factor of 6.4.
        edges = torch.where(mels < 15, mels * 200 / 3, 1000.0 * torch.exp(math.log(6.4) / 27 * (mels - 15)))
    hertz = torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1)
    slopes = edges - hertz[:, None]
    widths = edges.diff()
    triangles = torch.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]).clamp(min=0)
    return triangles * (2.0 / (edges[2:] - edges[:-2]))


def mel_filters(n_fft: int, num_bins: int, sampling_rate: int) -> torch.Tensor:
    """Return mel filters of equal area on the HTK scale from 20 Hz: (1, frequencies, bins)."""
    return mel_triangles(n_fft, num_bins, 20.0, sampling_rate, "htk")[None]


def gcc_filters(n_fft: int, num_bins: int, sampling_rate: int) -> torch.Tensor:
    """Return mel filters on Slaney's scale from 0 Hz, then the matrices of an inverse Fourier transform at lags around
    0, one for the real and one for the imaginary part: (3, frequencies, bins)."""
    mel = mel_triangles(n_fft, num_bins, 0.0, sampling_rate, "slaney")
    frequency = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    lag = torch.arange(num_bins, dtype=torch.float64) - num_bins // 2
    angle = 2 * torch.pi / n_fft * (frequency[:, None] * lag % n_fft)
    # All frequencies but the first and the last also stand for their negatives.
    weight = torch.where((frequency > 0) & (2 * frequency < n_fft), 2.0, 1.0)[:, None] / n_fft
    return torch.stack([mel, (weight * angle.cos()).float(), (-weight * angle.sin()).float()])


def salsa_lite_filters(n_fft: int, num_bins: int, sampling_rate: int) -> torch.Tensor:
    """Return filters that average over bands of equal width: (2, frequencies, bins).

    The first averages powers; the second averages phases and converts them to path differences in metres.

    Raises:
        ValueError: there are more bins than frequencies.
    """
    frequency = torch.arange(n_fft // 2 + 1)
    top = min(int(SALSA_LITE_TOP_HERTZ * n_fft / sampling_rate), n_fft // 2)
    if num_bins > top:
        raise ValueError(f"feature_size {num_bins} is more than the {top} frequencies of an n_fft of {n_fft}")
    band = torch.where((frequency > 0) & (frequency <= top), (frequency - 1) * num_bins // top, -1)
    members = (band[:, None] == torch.arange(num_bins)).float()
    hertz = (frequency * sampling_rate / n_fft)[:, None]
    lowest, highest = SALSA_LITE_PHASE_HERTZ
    with_phase = members * ((hertz >= lowest) & (hertz <= highest))
    metres = -SPEED_OF_SOUND / (2 * torch.pi * hertz.clamp(min=1.0))
    return torch.stack([members / members.sum(0), metres * with_phase / with_phase.sum(0).clamp(min=1.0)])


def log_mel(real: torch.Tensor, imaginary: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return log-mel spectrograms: the level of each channel in each bin, in dB."""
    return _decibels(real * real + imaginary * imaginary, filters[0])


def log_mel_and_intensity(real: torch.Tensor, imaginary: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return log-mel spectrograms, then the intensity vector in Y, Z, X, of unit length before the mel filters."""
    power = real * real + imaginary * imaginary
    intensity = real[:, :1] * real[:, 1:] + imaginary[:, :1] * imaginary[:, 1:]
    squares = intensity * intensity
    length = (squares[:, 0:1] + squares[:, 1:2] + squares[:, 2:3]).sqrt()
    intensity = intensity / (length + torch.finfo(torch.float32).eps)
    return torch.cat([_decibels(power, filters[0]), intensity @ filters[0]], dim=1)


def log_mel_and_gcc(real: torch.Tensor, imaginary: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return log-mel spectrograms, then the GCC-PHAT of each pair of channels at lags from -bins / 2 samples on."""
    power = real * real + imaginary * imaginary
    magnitude = power.clamp(min=1e-20).sqrt()
    # Silence has phase 0.
    real, imaginary = real / magnitude + (power == 0), imaginary / magnitude
    first, second = map(list, zip(*combinations(range(real.shape[1]), 2), strict=True))
    a, b, c, d = real[:, first], imaginary[:, first], real[:, second], imaginary[:, second]
    correlation = (a * c + b * d) @ filters[1] + (a * d - b * c) @ filters[2]
    return torch.cat([_decibels(power, filters[0]), correlation], dim=1)


def salsa_lite(real: torch.Tensor, imaginary: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return log-linear spectrograms, then how much farther from the source than channel 0 the others are, in m."""
    power = real * real + imaginary * imaginary
    in_phase = real[:, :1] * real[:, 1:] + imaginary[:, :1] * imaginary[:, 1:]
    in_quadrature = real[:, :1] * imaginary[:, 1:] - imaginary[:, :1] * real[:, 1:]
    return torch.cat([_decibels(power, filters[0]), torch.atan2(in_quadrature, in_phase) @ filters[1]], dim=1)


def log_mel_and_balance(real: torch.Tensor, imaginary: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return log-mel spectrograms of left and right, then how the two relate in each bin, relative to their power.

    These are the power difference, left minus right, and the real and imaginary parts of twice their product: level
    and phase, as the Stokes parameters of the pair. For two sideways cardioids, as made from ambisonics, only the
    first tells left from right; for two spaced capsules the last does.
    """
    power = real * real + imaginary * imaginary
    a, b, c, d = real[:, :1], imaginary[:, :1], real[:, 1:], imaginary[:, 1:]
    both = torch.cat([power[:, :1] - power[:, 1:], 2 * (a * c + b * d), 2 * (a * d - b * c)], dim=1)
    total = (power[:, :1] + power[:, 1:]) @ filters[0]
    # Scaling by a power of two is exact; ONNX export drops the 1e-10 from a bare sum, and silence would be 0 / 0.
    balance = 2.0**30 * (both @ filters[0]) / (2.0**30 * total + 2.0**30 * 1e-10)
    return torch.cat([_decibels(power, filters[0]), balance], dim=1)


def _decibels(power: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    return 10 * (power @ filters).clamp(min=1e-10).log10()


class FeatureType(NamedTuple):
    """A type of features: the audio it takes and how it is computed.

    Attributes:
        audio: the expected audio in words, for messages.
        num_audio_channels, num_channels: channels of the audio and of the features.
        channel_formats: channel formats it can be computed from, as in `audio.py`; the first is the default.
        padding: how the recording is padded at its ends, a mode of `torch.nn.functional.pad`.
        filters: returns the matrices (matrices, frequencies, bins) from frequencies to bins, given `n_fft`, the number
            of bins and the sampling rate.
        features: returns the features (batch, channels, frames, bins), given the real and imaginary parts of a
            spectrum (batch, channels, frames, frequencies) and these matrices.
    """

    audio: str
    num_audio_channels: int
    num_channels: int
    channel_formats: tuple[str, ...]
    padding: str
    filters: Callable[[int, int, int], torch.Tensor]
    features: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


AMBISONICS = ("the 4 channels W, Y, Z, X of first-order ambisonics (AmbiX: ACN, SN3D)", 4)
ARRAY = ("the 4 channels of a tetrahedral microphone array", 4)
STEREO = ("2 channels of stereo audio, left and right", 2)
MONO = ("1 channel of mono audio", 1)
FEATURE_TYPES = {
    "logmel_iv": FeatureType(
        *AMBISONICS, 7, ("auto", "ambix", "fuma", "aformat"), "reflect", mel_filters, log_mel_and_intensity
    ),
    "logmel_gcc": FeatureType(*ARRAY, 10, ("array",), "constant", gcc_filters, log_mel_and_gcc),
    "salsa_lite": FeatureType(*ARRAY, 7, ("array",), "constant", salsa_lite_filters, salsa_lite),
    "stereo": FeatureType(*STEREO, 5, ("stereo",), "reflect", mel_filters, log_mel_and_balance),
    "logmel": FeatureType(*MONO, 1, ("mono",), "reflect", mel_filters, log_mel),
}


class PSELDNetFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Feature extractor of PSELDNets (arXiv 2411.06399, section III). `feature_type` selects the features:

    - `"logmel_iv"`, 7 channels: the log-mel spectrogram of each channel of first-order ambisonics (AmbiX: W, Y, Z, X,
      SN3D), then the intensity vector in Y, Z, X, of unit length before the mel filters (Cao et al., "Polyphonic
      sound event detection and localization using a two-stage strategy", DCASE 2019).
    - `"logmel_gcc"`, 10 channels: the log-mel spectrograms of a tetrahedral microphone array, then the GCC-PHAT
      (cross-correlation of the phases) of the six pairs of capsules (0-1, 0-2, 0-3, 1-2, 1-3, 2-3) at `feature_size`
      lags around 0 (also Cao et al.).
    - `"salsa_lite"`, 7 channels: log-linear spectrograms of a tetrahedral microphone array, then the
      frequency-normalised phase differences of capsules 1, 2 and 3 to capsule 0, as path differences in metres
      (Nguyen et al., "SALSA-Lite: A fast and effective feature for polyphonic sound event localization and detection
      with microphone arrays", ICASSP 2022). Bins are the means over bands of equal width up to 9 kHz; phases are used
      from 50 Hz to 2 kHz. The default `feature_size` of 64 matches the `num_mel_bins` of the models. The paper's
      resolution at 24 kHz, which all encoders but HTS-AT accept, is `n_fft` 512, `hop_length` 300 and `feature_size`
      192, one bin per frequency.
    - `"stereo"`, 5 channels: the log-mel spectrograms of left and right, then in each bin the difference of their
      powers and the real and imaginary parts of twice their product, all divided by the sum of the powers.
    - `"logmel"`, 1 channel: the log-mel spectrogram of mono audio, which carries no direction.

    The model's config must have this extractor's `num_channels`, and its `feature_size` as `num_mel_bins`.

    Args:
        feature_size (`int`, *optional*, defaults to 64):
            Bins of each channel. Mel filters are triangles of equal area (Slaney) up to half the sampling rate, on the
            HTK scale from 20 Hz, except for `"logmel_gcc"`: on Slaney's scale from 0 Hz.
        sampling_rate (`int`, *optional*, defaults to 24000):
            Sampling rate of the input audio in Hz.
        hop_length (`int`, *optional*):
            Samples between two frames. Defaults to a hundredth of a second.
        n_fft (`int`, *optional*, defaults to 1024):
            Length of the Fourier transform and of its Hann window in samples.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of the frames that pad shorter recordings of a batch.
        feature_type (`str`, *optional*, defaults to `"logmel_iv"`):
            The features to compute, from the list above.

    Raises:
        ValueError: the feature type is unknown, has too many bins, or a number is out of range.
        TypeError: an unknown argument looks like a misspelling of one of these.
    """

    model_input_names = ["input_features", "attention_mask"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 24000,
        hop_length: int | None = None,
        n_fft: int = 1024,
        padding_value: float = 0.0,
        feature_type: str = "logmel_iv",
        **kwargs,
    ):
        own = PSELDNetFeatureExtractor.__init__.__annotations__
        refuse_misspelt(kwargs, (*own, *FIXED), type(self))
        for name, value in FIXED.items():
            if kwargs.get(name, value) != value:
                raise ValueError(f"{name} {kwargs[name]!r} is not supported: the feature extractor has only {value!r}")
        if not isinstance(feature_type, str) or feature_type not in FEATURE_TYPES:
            raise ValueError(f"feature_type {feature_type!r} is unknown: use one of {', '.join(FEATURE_TYPES)}")
        numbers = {"feature_size": feature_size, "sampling_rate": sampling_rate, "n_fft": n_fft}
        numbers |= {} if hop_length is None else {"hop_length": hop_length}
        for name, value in numbers.items():
            low, high = BOUNDS["num_mel_bins" if name == "feature_size" else name]
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} {value!r} of the feature extractor must be an integer from {low} to {high}")
        if type(padding_value) not in (int, float) or not np.isfinite(padding_value):
            raise ValueError(f"padding_value {padding_value!r} of the feature extractor must be a number")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = sampling_rate // 100 if hop_length is None else hop_length
        self.n_fft = n_fft
        self.feature_type = feature_type
        # transformers does not save attributes named `mel_filters` and `window`.
        self.mel_filters = self._type.filters(n_fft, feature_size, sampling_rate)
        self.window = torch.hann_window(n_fft)

    @property
    def _type(self) -> FeatureType:
        return FEATURE_TYPES[self.feature_type]

    @property
    def audio(self) -> str:
        """The expected audio, in words."""
        return self._type.audio

    @property
    def num_channels(self) -> int:
        """Number of feature channels."""
        return self._type.num_channels

    @property
    def channel_formats(self) -> tuple[str, ...]:
        """Channel formats of recordings that these features can be computed from."""
        return self._type.channel_formats

    def features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Compute features (batch, channels, 1 + samples // hop_length, bins) of audio (batch, its channels, samples).

        For training loops and exported graphs: differentiable, without checks, and on the waveform's device.
        """
        half = self.n_fft // 2
        frames = torch.nn.functional.pad(waveform, (half, half), mode=self._type.padding).unfold(
            -1, self.n_fft, self.hop_length
        )
        if waveform.device.type != "cpu" or torch.compiler.is_exporting():
            return self._features_of_frames(frames)
        # A CPU is several times faster on pieces that stay in its cache.
        pieces = frames.split(max(256 // waveform.shape[0], 16), dim=2)
        return torch.cat([self._features_of_frames(piece) for piece in pieces], dim=2)

    def _features_of_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute features (batch, channels, frames, bins) of frames (batch, audio channels, frames, n_fft)."""
        spectrum = torch.fft.rfft(frames * self.window.to(frames.device))
        return self._type.features(spectrum.real, spectrum.imag, self.mel_filters.to(frames.device))

    def __call__(
        self,
        waveform: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        device: str | torch.device | None = None,
        padding: bool | str = True,
        **kwargs,
    ) -> BatchFeature:
        """Compute the features of one or more recordings.

        Args:
            waveform (`np.ndarray`, `torch.Tensor` or a list of them):
                One recording (audio channels, samples), a batch (batch, audio channels, samples), or a list of
                recordings of different lengths, with 4 audio channels, 2 for `"stereo"` and 1 for `"logmel"`. Integers
                are divided by the full scale of their type.
            sampling_rate (`int`, *optional*):
                Sampling rate of the audio in Hz. Pass it, so that audio at the wrong rate is refused.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"` or `"np"`.
            device (`str` or `torch.device`, *optional*):
                Device on which the features are computed and returned. Defaults to that of the waveform.
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` or `"longest"`: pad to the longest recording. Nothing else is supported.

        Returns:
            [`BatchFeature`] with `input_features` (batch, channels, frames, bins), a frame every `hop_length` samples,
            and `attention_mask` (batch, frames), 1 for frames of the recording and 0 for padding.

        Raises:
            TypeError: an argument is unknown.
            ValueError: the sampling rate or the number of channels differs from the extractor's, or the audio has no
                samples, or samples that are not finite or far beyond full scale.
        """
        refuse_unknown(kwargs, ("sampling_rate", "return_tensors", "device", "padding"), "the feature extractor")
        if padding not in (True, "longest"):
            raise ValueError(
                f"padding {padding!r} is not supported: use padding=True, which pads to the longest recording"
            )
        self._check_rate(sampling_rate)
        recordings = [self._checked(recording, device) for recording in _as_list(waveform)]
        if not recordings:
            raise ValueError("the batch contains no recordings")
        lengths = [recording.shape[-1] for recording in recordings]
        if len(set(lengths)) == 1:
            features = self.features(torch.stack(recordings))
        else:
            each = [self.features(recording.unsqueeze(0))[0] for recording in recordings]
            features = _stack_padded(each, 1, max(feature.shape[1] for feature in each), self.padding_value)
        num_frames = torch.tensor([1 + length // self.hop_length for length in lengths], device=features.device)
        mask = torch.arange(features.shape[2], device=features.device) < num_frames.unsqueeze(1)
        data = {"input_features": features, "attention_mask": mask.long()}
        if return_tensors == "np":
            data = {name: tensor.cpu().numpy() for name, tensor in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _check_rate(self, sampling_rate) -> None:
        if sampling_rate is None:
            logger.warning_once(
                "pass sampling_rate to the feature extractor, so that it rejects audio at another rate"
            )
        elif checked_rate(sampling_rate, "the audio") != self.sampling_rate:
            raise ValueError(
                f"the audio is at {sampling_rate} Hz, but the model needs {self.sampling_rate} Hz: resample it, e.g."
                f" with torchaudio.functional.resample(waveform, {sampling_rate}, {self.sampling_rate})"
            )

    def _checked(self, recording, device) -> torch.Tensor:
        recording = float_samples(as_channels(recording))
        if isinstance(recording, np.ndarray):
            # PyTorch does not support negative strides, and warns about read-only arrays.
            recording = np.require(recording, requirements=["C", "W"])
        recording = torch.as_tensor(recording, device=device)
        expected = self._type.num_audio_channels
        if recording.ndim != 2 or recording.shape[0] != expected:
            hint = ""
            if recording.ndim == 2 and recording.shape[1] == expected:
                hint = "; it looks transposed: give waveform.T"
            elif recording.ndim == 1 and expected == 1:
                hint = "; give waveform[None]"
            elif recording.ndim == 1:
                hint = "; ['array'] of datasets is the mean of the channels: use get_all_samples().data"
            raise ValueError(
                f"expected {self._type.audio}, shape ({expected}, samples), but got shape"
                f" {tuple(recording.shape)}{hint}"
            )
        if recording.shape[1] == 0:
            raise ValueError("the recording has no samples")
        check_samples(float(recording.detach().abs().max()), "the recording")
        # Reflection padding needs more samples than half a window.
        return torch.nn.functional.pad(recording, (0, max(self.n_fft // 2 + 1 - recording.shape[1], 0)))

    def pad(
        self,
        processed_features: list[dict] | dict,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Pad the features of recordings of different lengths to a batch; used by the collators of transformers.

        Args:
            processed_features (`list[dict]` or `dict` of lists):
                `input_features` (channels, frames, bins), or with a first axis of 1 as returned by the extractor, and
                optionally `attention_mask` (frames) and `labels` (label frames, …).
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` or `"longest"`: pad to the longest; `"max_length"`: pad to `max_length`.
            max_length (`int`, *optional*):
                Number of frames to pad to, with `"max_length"`.
            pad_to_multiple_of (`int`, *optional*):
                Pad to a multiple of this many frames.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with `input_features`, padded with `padding_value`, `attention_mask`, padded with 0, and
            `labels`, padded to the label frames of the batch with -100, which losses ignore.

        Raises:
            TypeError: an argument is unknown.
            ValueError: other features or none are given, or a recording is longer than `max_length`.
        """
        known = ("padding", "max_length", "pad_to_multiple_of", "return_tensors")
        refuse_unknown(kwargs, known, "pad of the feature extractor")
        if not isinstance(processed_features, list | tuple):
            names = list(processed_features)
            rows = zip(*processed_features.values(), strict=True)
            processed_features = [dict(zip(names, row, strict=True)) for row in rows]
        unknown = {name for row in processed_features for name in row} - {"input_features", "attention_mask", "labels"}
        if unknown or any("input_features" not in row for row in processed_features):
            raise ValueError(
                f"cannot pad {', '.join(sorted(unknown))}: only input_features, attention_mask and labels"
                if unknown
                else "input_features are missing: they are what is padded"
            )
        features, masks, labels = [], [], []
        for row in processed_features:
            feature = torch.as_tensor(row["input_features"])
            single = feature.ndim == 4 and len(feature) == 1
            features.append(feature[0] if single else feature)
            if features[-1].ndim != 3:
                raise ValueError(f"input_features must be (channels, frames, bins), not {tuple(feature.shape)}")
            mask = torch.as_tensor(row.get("attention_mask", torch.ones(features[-1].shape[1], dtype=torch.long)))
            masks.append(mask[0] if mask.ndim == 2 else mask)
            if row.get("labels") is not None:
                labels.append(torch.as_tensor(row["labels"]))
        if not features:
            raise ValueError("the batch holds no recording")
        longest = max(feature.shape[1] for feature in features)
        length = _padded_length(longest, padding, max_length, pad_to_multiple_of or 1)
        data = {
            "input_features": _stack_padded(features, 1, length, self.padding_value),
            "attention_mask": _stack_padded(masks, 0, length, 0),
        }
        if labels:
            if len(labels) != len(features):
                raise ValueError(
                    "only some recordings of the batch have labels: add labels to the others or remove them"
                )
            # As many frames as a model outputs for that many feature frames.
            spanned = frames_spanned(length, self.sampling_rate, self.hop_length)
            data["labels"] = _stack_padded(labels, 0, max(spanned, *map(len, labels)), PADDED_LABEL)
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)


def _padded_length(longest: int, padding: bool | str, max_length: int | None, multiple: int) -> int:
    """Return how many frames to pad recordings to, of which the longest has `longest`."""
    if padding == "max_length" and max_length is not None:
        if longest > max_length:
            raise ValueError(f"a recording has {longest} frames, more than a max_length of {max_length}")
        longest = max_length
    elif padding not in (True, "longest") or max_length is not None:
        raise ValueError(
            f"padding {padding!r} with max_length {max_length} is not supported: use True without, or 'max_length'"
            " with a max_length"
        )
    return -(-longest // multiple) * multiple


def _stack_padded(tensors: list[torch.Tensor], axis: int, length: int, value: float) -> torch.Tensor:
    """Pad tensors at the end of an axis to a length, and stack them: (batch, …)."""

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        later_axes = (0, 0) * (tensor.ndim - 1 - axis)
        return torch.nn.functional.pad(tensor, (*later_axes, 0, length - tensor.shape[axis]), value=value)

    return torch.stack([filled(tensor) for tensor in tensors])


def _as_list(waveform) -> list:
    """Return a recording, or a batch in any accepted form, as a list of recordings."""
    if isinstance(waveform, list | tuple) and len(waveform) and np.ndim(waveform[0]) == 2:
        return list(waveform)
    array = as_channels(waveform)
    return list(array) if array.ndim == 3 else [array]


__all__ = ["PSELDNetFeatureExtractor"]
