"""PSELDNet models: pre-trained sound event localization and detection networks (arXiv 2411.06399)."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_pseldnet import PSELDNetConfig
from .modeling_htsat import HTSATAttention, HTSATEncoder, HTSATHead, HTSATStage, init_htsat_weights
from .output_formats import get_output_format


BACKBONES = {"htsat": (HTSATEncoder, HTSATHead)}


@dataclass
class PSELDNetModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, label frames, width)`):
            Embedding of each 100-ms frame.
        feature_map (`torch.FloatTensor` of shape `(batch, width, frequency bins, time)`):
            What the encoder gives, at its own resolution in time.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The patch embeddings and the output of each stage, `(batch, tokens, width)`; with `output_hidden_states`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention weights of each block, `(batch * windows, heads, tokens, tokens)`; with `output_attentions`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    feature_map: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class PSELDNetSELDOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor`, *optional*):
            The loss of the output format; with `labels`.
        accdoa (`torch.FloatTensor` of shape `(batch, label frames, tracks, 3, classes)`, *optional*):
            Vectors in x, y, z whose length is the activity, for the ACCDOA formats (one or three tracks).
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            As in [`PSELDNetModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    accdoa: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class FeatureNorm(nn.BatchNorm1d):
    """Batch normalisation of each mel band of each channel."""

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config.num_channels * config.num_mel_bins)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames, mel bins) to the same shape."""
        bands = super().forward(input_features.transpose(2, 3).flatten(1, 2))
        return bands.unflatten(1, (input_features.shape[1], -1)).transpose(2, 3)


def to_label_frames(states: torch.Tensor, time_reduction: int, config: PSELDNetConfig) -> torch.Tensor:
    """States (batch, time, width), one every `time_reduction` feature frames, to (batch, label frames, width).

    They are interpolated linearly to feature frames, of which those of a label frame are averaged; both are linear, so
    one small matrix does it.
    """
    steps = torch.eye(states.shape[1], device=states.device, dtype=torch.float32)
    weights = nn.functional.interpolate(steps.unsqueeze(0), scale_factor=float(time_reduction), mode="linear")
    weights = weights[..., : config.window_seconds * config.sampling_rate // config.hop_length]
    weights = nn.functional.avg_pool1d(weights, config.feature_frames_per_label_frame)
    return weights[0].T.to(states.dtype) @ states


class PSELDNetPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving of PSELDNet models."""

    config: PSELDNetConfig
    config_class = PSELDNetConfig
    base_model_prefix = "pseldnet"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["HTSATStage"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(HTSATStage, index=0),
        "attentions": OutputRecorder(HTSATAttention, index=1),
    }
    # The loss is a mean over the batch: Trainer must not scale it by a number of items.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_htsat_weights(module)


class PSELDNetModel(PSELDNetPreTrainedModel):
    """The encoder: features in, an embedding of each 100-ms frame out."""

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        encoder, _ = BACKBONES[config.backbone]
        self.input_norm = FeatureNorm(config)
        self.encoder = encoder(config, config.num_channels)
        self.post_init()

    @property
    def max_frames(self) -> int:
        """Feature frames in the longest input, the one at its very end included."""
        return self.config.window_seconds * self.config.sampling_rate // self.config.hop_length + 1

    def num_label_frames(self, num_frames: int) -> int:
        """Label frames that `num_frames` feature frames span; the last may be partly filled."""
        return max(-(-(num_frames - 1) // self.config.feature_frames_per_label_frame), 1)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> PSELDNetModelOutput:
        r"""
        Args:
            input_features (`torch.FloatTensor` of shape `(batch, channels, frames, mel bins)`):
                From [`PSELDNetFeatureExtractor`]; up to `window_seconds`.
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 for frames of the recording, 0 for padding, which does not change the other frames' outputs.

        Raises:
            ValueError: the features have another number of channels or mel bins than the model, or too many frames.
        """
        _, channels, num_frames, mel_bins = input_features.shape
        if (channels, mel_bins) != (self.config.num_channels, self.config.num_mel_bins):
            raise ValueError(
                f"input_features have {channels} channels and {mel_bins} mel bins, the model takes"
                f" {self.config.num_channels} and {self.config.num_mel_bins}: use the feature extractor saved with it"
            )
        if num_frames > self.max_frames:
            raise ValueError(
                f"input_features have {num_frames} frames, more than the {self.max_frames} of"
                f" {self.config.window_seconds} s: cut the recording in windows, as the pipeline does"
            )
        normalised = self.input_norm(input_features)
        if attention_mask is not None:
            normalised = normalised * attention_mask[:, None, :, None].to(normalised.dtype)
        feature_map = self.encoder(normalised)
        embeddings = to_label_frames(feature_map.mean(2).transpose(1, 2), self.encoder.time_reduction, self.config)
        return PSELDNetModelOutput(
            last_hidden_state=embeddings[:, : self.num_label_frames(num_frames)], feature_map=feature_map
        )


class PSELDNetForSELD(PSELDNetPreTrainedModel):
    """A PSELDNet with the heads of its output format: what sounds, when and from which direction."""

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        _, head = BACKBONES[config.backbone]
        self.output_format = get_output_format(config)
        self.pseldnet = PSELDNetModel(config)
        self.heads = nn.ModuleDict(
            {
                name: head(config, self.pseldnet.encoder.hidden_size, size)
                for name, size in self.output_format.head_sizes.items()
            }
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> PSELDNetSELDOutput:
        r"""
        Args:
            input_features, attention_mask:
                As in [`PSELDNetModel`].
            labels (`torch.FloatTensor` of shape `(batch, label frames, …)`, *optional*):
                As the output format's `encode` makes them of events; for the ACCDOA formats of the shape of `accdoa`.

        Raises:
            ValueError: the features do not fit the model, or the labels do not fit the features.

        Example:

        ```python
        >>> from transformers import AutoFeatureExtractor, AutoModelForAudioFrameClassification
        >>> import modeling_pseldnet, soundfile

        >>> extractor = AutoFeatureExtractor.from_pretrained("path/or/repo")
        >>> model = AutoModelForAudioFrameClassification.from_pretrained("path/or/repo")
        >>> waveform, sampling_rate = soundfile.read("recording.wav", dtype="float32")
        >>> inputs = extractor(waveform.T, sampling_rate=sampling_rate, return_tensors="pt")
        >>> outputs = model(**inputs)
        ```
        """
        encoded = self.pseldnet(input_features, attention_mask, **kwargs)
        outputs = self._outputs(encoded.feature_map, self.pseldnet.num_label_frames(input_features.shape[2]))
        loss = None
        if labels is not None:
            frames = next(iter(outputs.values())).shape[:2]
            if labels.shape[:2] != frames:
                raise ValueError(
                    f"labels are for {tuple(labels.shape[:2])} (batch, label frames), the features for {tuple(frames)}"
                )
            loss = self.output_format.loss(outputs, labels)
        return PSELDNetSELDOutput(
            loss=loss, **outputs, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def predict(self, input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs alone, by name, each (batch, label frames, …)."""
        outputs = self(input_features)
        return {name: outputs[name] for name in self.output_format.output_names}

    def _outputs(self, feature_map: torch.Tensor, num_frames: int) -> dict[str, torch.Tensor]:
        time_reduction = self.pseldnet.encoder.time_reduction
        heads = {
            name: to_label_frames(head(feature_map), time_reduction, self.config) for name, head in self.heads.items()
        }
        return self.output_format.outputs({name: head[:, :num_frames] for name, head in heads.items()})


__all__ = ["PSELDNetForSELD", "PSELDNetModel", "PSELDNetPreTrainedModel"]
