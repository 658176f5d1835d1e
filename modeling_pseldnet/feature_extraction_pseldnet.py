"""Feature extractor: log-mel spectrograms and the intensity vector of first-order ambisonics."""

import numpy as np
import torch
from torchaudio.functional import melscale_fbanks
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging


logger = logging.get_logger(__name__)


class PSELDNetFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns first-order ambisonics (AmbiX: channels W, Y, Z, X, SN3D) into the features of PSELDNets: the log-mel
    spectrogram of each channel, then the intensity vector in Y, Z, X, of unit length before the mel filters (PSELDNets, arXiv 2411.06399,
    section III; Cao et al., "Two-stage sound event localization and detection", DCASE 2019).

    Args:
        feature_size (`int`, *optional*, defaults to 64):
            Mel bins: triangles on the HTK scale from 20 Hz to half the sampling rate, of equal area (Slaney).
        sampling_rate (`int`, *optional*, defaults to 24000):
            Rate in Hz of the audio to be given.
        hop_length (`int`, *optional*):
            Samples between two frames; a hundredth of a second if left out.
        n_fft (`int`, *optional*, defaults to 1024):
            Samples of a Fourier transform, under a Hann window of that length.
        padding_value (`float`, *optional*, defaults to 0.0):
            What fills the frames that pad a batch to equal length.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 24000,
        hop_length: int | None = None,
        n_fft: int = 1024,
        padding_value: float = 0.0,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = sampling_rate // 100 if hop_length is None else hop_length
        self.n_fft = n_fft
        self.mel_filters = melscale_fbanks(
            n_fft // 2 + 1, 20.0, sampling_rate / 2, feature_size, sampling_rate, norm="slaney", mel_scale="htk"
        )
        self.window = torch.hann_window(n_fft)

    def features(self, waveform: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, 4, samples) to features (batch, 7, 1 + samples // hop_length, mel bins), differentiable.

        Nothing is checked here and nothing leaves the waveform's device: for training loops and exported graphs.
        """
        half = self.n_fft // 2
        frames = torch.nn.functional.pad(waveform, (half, half), mode="reflect").unfold(
            -1, self.n_fft, self.hop_length
        )
        if waveform.device.type != "cpu":
            return self._log_mel_and_intensity(frames)
        # A CPU is several times faster on pieces that stay in its cache.
        pieces = frames.split(max(256 // waveform.shape[0], 16), dim=2)
        return torch.cat([self._log_mel_and_intensity(piece) for piece in pieces], dim=2)

    def _log_mel_and_intensity(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames of samples (batch, 4, frames, n_fft) to features (batch, 7, frames, mel bins)."""
        spectrum = torch.fft.rfft(frames * self.window.to(frames.device))
        real, imaginary = spectrum.real, spectrum.imag
        power = real * real + imaginary * imaginary
        intensity = real[:, :1] * real[:, 1:] + imaginary[:, :1] * imaginary[:, 1:]
        squares = intensity * intensity
        length = (squares[:, 0:1] + squares[:, 1:2] + squares[:, 2:3]).sqrt()
        intensity = intensity / (length + torch.finfo(torch.float32).eps)
        mel_filters = self.mel_filters.to(frames.device)
        log_mel = 10 * (power @ mel_filters).clamp(min=1e-10).log10()
        return torch.cat([log_mel, intensity @ mel_filters], dim=1)

    def __call__(
        self,
        waveform: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        device: str | torch.device | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            waveform (`np.ndarray`, `torch.Tensor` or a list of them):
                One recording (4, samples), a batch (batch, 4, samples), or recordings of different lengths in a list.
            sampling_rate (`int`, *optional*):
                Rate of the audio in Hz; give it, so that audio of a wrong rate is refused.
            return_tensors (`str`, *optional*, defaults to `"pt"`):
                `"pt"` or `"np"`.
            device (`str` or `torch.device`, *optional*):
                Where the features are computed and stay; that of the waveform if left out.

        Returns:
            [`BatchFeature`] with `input_features` (batch, 7, frames, mel bins), a frame every `hop_length` samples, and
            `attention_mask` (batch, frames), 1 for frames of the recording and 0 for what pads a shorter one.

        Raises:
            ValueError: the rate is another than the extractor's, or the audio has not 4 channels, no samples, or
                values that are not finite.
        """
        if sampling_rate is None:
            logger.warning_once(
                "give sampling_rate to the feature extractor, so that audio of a wrong rate is refused"
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio is at {sampling_rate} Hz and the model takes {self.sampling_rate} Hz: resample it, e.g. by"
                f" torchaudio.functional.resample(waveform, {sampling_rate}, {self.sampling_rate})"
            )
        recordings = [self._checked(recording, device) for recording in _as_list(waveform)]
        lengths = [recording.shape[-1] for recording in recordings]
        if len(set(lengths)) == 1:
            features = self.features(torch.stack(recordings))
        else:
            each = [self.features(recording.unsqueeze(0))[0] for recording in recordings]
            longest = max(feature.shape[1] for feature in each)
            pad = torch.nn.functional.pad
            features = torch.stack(
                [pad(feature, (0, 0, 0, longest - feature.shape[1]), value=self.padding_value) for feature in each]
            )
        num_frames = torch.tensor([1 + length // self.hop_length for length in lengths], device=features.device)
        mask = torch.arange(features.shape[2], device=features.device) < num_frames.unsqueeze(1)
        data = {"input_features": features, "attention_mask": mask.long()}
        if return_tensors == "np":
            data = {name: tensor.cpu().numpy() for name, tensor in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _checked(self, recording, device) -> torch.Tensor:
        recording = torch.as_tensor(recording, dtype=torch.float32, device=device)
        if recording.ndim != 2 or recording.shape[0] != 4:
            hint = ""
            if recording.ndim == 2 and recording.shape[1] == 4:
                hint = "; it looks transposed: give waveform.T"
            raise ValueError(
                f"expected first-order ambisonics of shape (4, samples), channels W, Y, Z, X, and got"
                f" {tuple(recording.shape)}{hint}"
            )
        if recording.shape[1] == 0:
            raise ValueError("the recording has no samples")
        if not recording.isfinite().all():
            raise ValueError("the recording has samples that are NaN or infinite: repair the file or leave it out")
        # The reflection at the ends needs more samples than half a window.
        return torch.nn.functional.pad(recording, (0, max(self.n_fft // 2 + 1 - recording.shape[1], 0)))


def _as_list(waveform) -> list:
    """A recording or a batch in any of its forms as a list of recordings."""
    if isinstance(waveform, list | tuple) and len(waveform) and np.ndim(waveform[0]) == 2:
        return list(waveform)
    array = waveform if isinstance(waveform, torch.Tensor) else np.asarray(waveform, dtype=np.float32)
    return list(array) if array.ndim == 3 else [array]


__all__ = ["PSELDNetFeatureExtractor"]
