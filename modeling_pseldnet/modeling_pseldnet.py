"""PSELDNet models: pre-trained sound event localization and detection networks (arXiv 2411.06399)."""

import inspect
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import FEATURE_EXTRACTOR_NAME, ModelOutput, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .adapters import (
    DEFAULT_MODEL_FOLDER,
    DEFAULT_MODEL_NAME,
    adapter_config,
    check_adapter,
    check_no_adapter,
    check_one_model,
    complete_adapter_card,
    has_adapter,
    is_adapter,
    is_of,
    place_of,
    which_files,
)
from .configuration_pseldnet import PSELDNetConfig
from .events import Events
from .files import staged_files
from .hub_folder import TAGS, adopt_saved_extractor, complete_folder, save_for_adapter, take_pushed_extractor
from .keywords import refuse_unknown
from .modeling_crnn import CRNNBlock, CRNNEncoder
from .modeling_einv2 import EINV2Decoder, EINV2Encoder, EINV2Head, init_einv2_weights
from .modeling_htsat import HTSATEncoder, HTSATHead, HTSATStage, init_htsat_weights
from .modeling_layers import (
    BatchNorm,
    ConformerBlock,
    Decoder,
    LinearHead,
    SelfAttention,
    TransformerBlock,
    init_conformer_weights,
    init_decoder_weights,
)
from .modeling_passt import PaSSTEncoder, init_passt_weights
from .output_formats import OutputFormat, get_output_format


logger = logging.get_logger(__name__)

BACKBONES = {
    "htsat": (HTSATEncoder, HTSATHead),
    "passt": (PaSSTEncoder, LinearHead),
    "cnn14_conformer": (CRNNEncoder, LinearHead),
    "crnn": (CRNNEncoder, LinearHead),
}
INITIALISERS = (
    init_htsat_weights,
    init_passt_weights,
    init_conformer_weights,
    init_decoder_weights,
    init_einv2_weights,
)


# Arguments that the `forward` of both models takes.
FORWARD_ARGUMENTS = ("input_features", "attention_mask", "output_hidden_states", "output_attentions", "return_dict")
# Data-set columns that the collator turns into features and labels: `Trainer` drops columns that `forward` lacks.
DATA_COLUMNS = ("audio", "waveform", "sampling_rate", "num_frames", "events")


def weight_files(variant: str | None) -> re.Pattern:
    """Return the pattern of the names of weight files, as one file or in shards; each variant has its own.

    Args:
        variant: as in `save_pretrained`, such as `"fp16"`.
    """
    of = rf"\.{re.escape(variant)}" if variant else ""
    return re.compile(rf"model{of}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{of}\.json")


def decoder_and_head(config: PSELDNetConfig) -> tuple[type[nn.Module], type[nn.Module]]:
    """Return the classes of the decoder and the heads that follow the encoder of `config`."""
    _, head = BACKBONES[config.backbone]
    # The tracks of EINV2 separate before the decoder, except in HTS-AT, where only the head separates them.
    return (EINV2Decoder, EINV2Head) if config.output_format == "einv2" and head is LinearHead else (Decoder, head)


@dataclass
class PSELDNetModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, label frames, width)`):
            Embedding of each 100-ms frame.
        feature_map (`torch.FloatTensor` of shape `(batch, width, frequency bins, time)`):
            Output of encoder and decoder at their own time resolution. For EINV2 a dict with the map of each branch,
            whose tracks are concatenated along the width, as are the branches in `last_hidden_state`.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The patch embeddings and the output of each stage, `(batch, tokens, width)`, if `output_hidden_states`. In
            convolutional encoders the stages are `(batch, width, time, frequency)` and the features stand for
            embeddings. For EINV2 the embeddings of the SED branch, then the stages of the SED and DOA branches
            alternately.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention weights of each block, `(batch * windows, heads, tokens, tokens)`, if `output_attentions`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    feature_map: torch.FloatTensor | dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class PSELDNetSELDOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor`, *optional*):
            The loss of the output format, if `labels` are given.
        accdoa (`torch.FloatTensor` of shape `(batch, label frames, tracks, 3, classes)`, *optional*):
            ACCDOA formats (one or three tracks): vectors in x, y, z whose length is the activity; only x, y if
            `config.num_axes` is 2.
        sed_logits (`torch.FloatTensor` of shape `(batch, label frames, 3, classes)`, *optional*):
            EINV2, SEDDOA: logits of the activity of each class on each track.
        doa (`torch.FloatTensor` of shape `(batch, label frames, 3, 3)`, *optional*):
            EINV2, SEDDOA: direction of each track in x, y, z.
        distance (`torch.FloatTensor` of shape `(batch, label frames, tracks, classes)`, *optional*):
            Non-negative distance in metres, if `config.distance`: of each vector of the ACCDOA formats, or of each
            track, `(batch, label frames, 3)`, of EINV2 and SEDDOA.
        onscreen (`torch.FloatTensor` of shape `(batch, label frames, tracks, classes)`, *optional*):
            Probability that the source is on screen, if `config.onscreen`.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            As in [`PSELDNetModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    accdoa: torch.FloatTensor | None = None
    sed_logits: torch.FloatTensor | None = None
    doa: torch.FloatTensor | None = None
    distance: torch.FloatTensor | None = None
    onscreen: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class FeatureNorm(BatchNorm):
    """Batch normalisation of each mel bin of each channel, with the statistics of frames that are not padding."""

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config.num_channels * config.num_mel_bins)

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, channels, frames, mel bins), and a mask (batch, frames) that is used in training, to the same shape
        as the features."""
        bands = input_features.transpose(2, 3).flatten(1, 2)
        if attention_mask is not None and self.training and not self.is_frozen:
            bands = self._by_masked_statistics(bands.float(), attention_mask[:, None].float()).to(bands.dtype)
        else:
            bands = super().forward(bands)
        return bands.unflatten(1, (input_features.shape[1], -1)).transpose(2, 3)

    def _by_masked_statistics(self, bands: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalise bands (batch, width, frames) with a mask (batch, 1, frames), and update the running statistics."""
        count = mask.sum().clamp(min=1)
        mean = (bands * mask).sum((0, 2)) / count
        centred = bands - mean[:, None]
        variance = (centred * mask).square().sum((0, 2)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * count / (count - 1).clamp(min=1)
            for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(value.to(running.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None] + self.bias[:, None]


def to_label_frames(states: torch.Tensor, time_reduction: int, config: PSELDNetConfig) -> torch.Tensor:
    """Resample states (batch, time, width), one per `time_reduction` feature frames, to (batch, label frames, width).

    States are interpolated to feature frames, then averaged over each label frame. Both steps are linear, so one small
    matrix does both.
    """
    encoder, _ = BACKBONES[config.backbone]
    steps = torch.eye(states.shape[1], device=states.device, dtype=torch.float32)
    weights = nn.functional.interpolate(steps[None], scale_factor=float(time_reduction), mode=encoder.interpolation)
    weights = weights[..., : config.window_frames]
    weights = nn.functional.avg_pool1d(weights, config.feature_frames_per_label_frame)
    return weights[0].T.to(states.dtype) @ states


class PSELDNetPreTrainedModel(PreTrainedModel):
    """Base class of PSELDNet models: initialisation, loading and saving."""

    config: PSELDNetConfig
    config_class = PSELDNetConfig
    base_model_prefix = "pseldnet"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["HTSATStage", "TransformerBlock", "ConformerBlock", "CRNNBlock"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": [
            OutputRecorder(block, index=0) for block in (HTSATStage, TransformerBlock, ConformerBlock, CRNNBlock)
        ],
        "attentions": OutputRecorder(SelfAttention, index=1),
    }
    # The loss is a mean over the batch, so `Trainer` must not divide it by the number of items.
    accepts_loss_kwargs = False

    def __init__(self, config: PSELDNetConfig, *args, **kwargs):
        if config.name_or_path and Path(config.name_or_path).absolute() == DEFAULT_MODEL_FOLDER.absolute():
            config.name_or_path = DEFAULT_MODEL_NAME
        super().__init__(config, *args, **kwargs)
        # A copy, because `push_to_hub` adds to it.
        self.model_tags = [*TAGS]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """Load a model as in transformers, or an adapter's folder together with the model it was trained on.

        Raises:
            ValueError: the adapter has other classes than that model, was trained on top of another adapter, or its
                network has weights that neither of them holds, such as those added by `load_for_transfer`.
        """
        place = place_of(pretrained_model_name_or_path)
        if place is not None:
            check_one_model(place)
        if place is not None and is_adapter(Path(place)):
            place = cls._base_of_adapter(place, kwargs)
        loaded, where = super().from_pretrained(place, *args, **kwargs), which_files(kwargs)
        if place is not None and where.keys() & {"revision", "subfolder"}:
            # Saving it looks for its extractor by the name alone.
            adopt_saved_extractor((loaded[0] if isinstance(loaded, tuple) else loaded).config, place, **where)
        return loaded

    @classmethod
    def _base_of_adapter(cls, place: str | os.PathLike, options: dict) -> str | os.PathLike:
        """Return where the base model of an adapter's folder is, and add to `options` how to load it with the adapter.

        transformers would load a folder with a config, here that of model and adapter, as a full model.
        """
        adapter = adapter_config(place)
        options.setdefault("config", cls.config_class.from_pretrained(place))
        options["adapter_kwargs"] = {**(options.get("adapter_kwargs") or {}), "_adapter_model_path": str(place)}
        own = adapter.get("modules_to_save") or ()
        own_heads = any("heads" in name for name in own)
        options.setdefault("ignore_mismatched_sizes", own_heads)
        base = place_of(adapter["base_model_name_or_path"])
        if is_adapter(Path(base)):
            raise ValueError(
                f"{place} was trained on top of another adapter, {base}: load both with modeling_pseldnet.load"
            )
        base_config = cls.config_class.from_pretrained(base)
        if not own_heads:
            check_adapter(base_config, place)
        if missing := cls._weights_besides(base_config, options["config"], own):
            raise ValueError(
                f"{len(missing)} weights (such as {missing[0]}) are neither in the adapter {place} nor, with that"
                f" shape, in its base model {base}: load it with modeling_pseldnet.load, which creates them"
            )
        return base

    @classmethod
    def _weights_besides(cls, base: PSELDNetConfig, config: PSELDNetConfig, modules: Sequence[str]) -> list[str]:
        """List the weights outside `modules` that a network with the config `base` lacks or has in another shape."""
        with torch.device("meta"):
            there, wanted = (cls(deepcopy(of)).state_dict() for of in (base, config))
        return [
            name
            for name, value in wanted.items()
            if (name not in there or there[name].shape != value.shape) and not is_of(name, modules)
        ]

    @property
    def peft_model(self) -> nn.Module | None:
        """The `PeftModel` around the network while it contains the adapter it was loaded with; saves the adapter."""
        adapted = self.__dict__.get("peft_model")
        return adapted if adapted is not None and has_adapter(self) else None

    def load_adapter(
        self, peft_model_id: str | os.PathLike | None = None, adapter_name: str | None = None, *args, **kwargs
    ):
        """Load an adapter as in transformers, but check that it fits and is loaded completely.

        Raises:
            ValueError: the adapter has other classes or was trained on top of another adapter, the model already has
                one from [`load`], or transformers leaves out some of its weights, as it does with DoRA.
        """
        if self.peft_model is not None:
            check_no_adapter(self)
        if peft_model_id is not None:
            check_adapter(self.config, peft_model_id, **{**(kwargs.get("adapter_kwargs") or {}), **kwargs})
        loaded = super().load_adapter(peft_model_id, adapter_name, *args, **kwargs)
        # `missing_keys` includes those of other adapters.
        missing = [name for name in loaded.missing_keys if f".{adapter_name or 'default'}." in f"{name}."]
        mismatched = (name for name, *_ in loaded.mismatched_keys)
        if left_out := sorted({*missing, *loaded.unexpected_keys, *mismatched}):
            # transformers merely logs this.
            raise ValueError(
                f"transformers did not load {len(left_out)} weights of the adapter (such as {left_out[0]}): use"
                " modeling_pseldnet.load or PeftModel.from_pretrained"
            )
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        """Return the input normalisation, shared by both branches of EINV2; PEFT, torchao and NEFTune hook into it."""
        return self.base_model.input_norm

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.input_norm = value

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs) -> None:
        """Save as in transformers; the folder can then be loaded in every way, also by the pipeline or as remote code.

        If the model has an adapter, from `load_adapter` or [`load`], only the adapter is saved, with the config that
        names its classes.
        """
        if self.peft_model is not None:
            self.peft_model.save_pretrained(save_directory, is_main_process=is_main_process)
            if kwargs.get("push_to_hub") and is_main_process:
                name = kwargs.get("repo_id", os.path.basename(os.path.abspath(save_directory)))
                taken = inspect.signature(PreTrainedModel.push_to_hub).parameters.keys() - {"repo_id"}
                self.push_to_hub(name, **{option: kwargs[option] for option in taken & kwargs.keys()})
            return
        folder = Path(save_directory)
        if not is_main_process or folder.is_file():
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
            return
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", folder.absolute().name)
        with staged_files(folder) as staging:
            for name in (FEATURE_EXTRACTOR_NAME, "README.md"):
                if (folder / name).is_file():
                    shutil.copy2(folder / name, staging)
            super().save_pretrained(staging, **kwargs)
            self.complete_hub_folder(staging)
            saved, weights = {path.name for path in staging.iterdir()}, weight_files(kwargs.get("variant"))
            if any(map(weights.fullmatch, saved)):
                # If weights exist both in one file and in shards, the one file would be loaded, however old it is.
                for path in folder.iterdir():
                    if weights.fullmatch(path.name) and path.name not in saved:
                        path.unlink()

    def _upload_modified_files(
        self, working_dir: str | os.PathLike, repo_id: str, files_timestamps: dict[str, float], *args, **kwargs
    ):
        if FEATURE_EXTRACTOR_NAME not in files_timestamps:
            # An extractor that was created only now must not replace one that the user put in the repository.
            options = {name: kwargs.get(name) for name in ("token", "revision")}
            take_pushed_extractor(self.config, working_dir, repo_id, **options)
        if self.peft_model is not None:
            complete_adapter_card(self.peft_model, working_dir)
        self.complete_hub_folder(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, files_timestamps, *args, **kwargs)

    def complete_hub_folder(self, folder: str | os.PathLike, name: str | None = None) -> None:
        """Add to the folder of a saved model what others need to load it; see `hub_folder.py`."""
        if getattr(self, "_hf_peft_config_loaded", False) or self.peft_model is not None:
            save_for_adapter(self.config, folder)
        else:
            complete_folder(self, folder, name)

    def enable_adapters(self) -> None:
        """As in transformers, which misses modules that the adapter saves in full, such as heads."""
        super().enable_adapters()
        for module in self.modules():
            if hasattr(module, "modules_to_save") and hasattr(module, "enable_adapters"):
                module.enable_adapters(enabled=True)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            # Scaled by fan-in, or the heads of wide networks would start where the tanh saturates. Not with a bias of
            # 0, or silent patches would reach a layer norm as exact zeros, whose gradients drown out all others.
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        for initialise in INITIALISERS:
            initialise(module)


@contextmanager
def _eager_attention(config: PSELDNetConfig, keep: bool) -> Iterator[None]:
    """Use eager attention, which returns its weights, unlike SDPA; also afterwards if `keep`."""
    chosen = config._attn_implementation
    logger.warning_once(
        f"`{chosen}` attention does not return its weights: falling back to eager attention for"
        ' `output_attentions=True`; load the model with attn_implementation="eager" to avoid this warning'
    )
    config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        # Checkpointed blocks are computed again in the backward pass, which must be in the same way.
        if not keep:
            config._attn_implementation_internal = chosen


class PSELDNetModel(PSELDNetPreTrainedModel):
    """A PSELDNet without heads, which returns an embedding of each 100-ms frame."""

    _auto_class = "AutoModel"

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        encoder, _ = BACKBONES[config.backbone]
        self.input_norm = FeatureNorm(config)
        two_branches = config.output_format == "einv2"
        self.encoder = EINV2Encoder(config, encoder) if two_branches else encoder(config, config.num_channels)
        decoder, _ = decoder_and_head(config)
        self.decoder = decoder(config, self.encoder.hidden_size)
        self.post_init()

    @property
    def max_frames(self) -> int:
        """Number of feature frames in the longest input, including the one at its very end."""
        return self.config.window_frames + 1

    @property
    def padded_frames(self) -> int:
        """Number of frames that inputs are padded to, so that the encoder's time steps cover a whole window."""
        step = self.encoder.time_reduction
        return max(self.max_frames, -(-self.config.window_frames // step) * step)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_embeddings: bool = True,
        **kwargs,
    ) -> PSELDNetModelOutput:
        r"""
        Args:
            input_features (`torch.FloatTensor` of shape `(batch, channels, frames, mel bins)`):
                Features from [`PSELDNetFeatureExtractor`], up to `window_seconds` long, of any float type.
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 for frames of the recording, 0 for padding, which does not affect the outputs of the other frames.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*):
                As in transformers. Default to the config's values.
            output_embeddings (`bool`, *optional*, defaults to `True`):
                Whether to compute `last_hidden_state`.

        Raises:
            TypeError: an argument is unknown.
            ValueError: the features do not have the model's number of channels or mel bins, or have too many frames.
        """
        refuse_unknown(kwargs, (*FORWARD_ARGUMENTS, "output_embeddings"), type(self).__name__)
        self._check_inputs(input_features, attention_mask)
        normalised = self.input_norm(input_features.to(self.input_norm.weight.dtype), attention_mask)
        if attention_mask is not None:
            normalised = normalised * attention_mask[:, None, :, None].to(normalised.dtype)
        # Every input is padded to a whole window, so that its outputs do not depend on the rest of the batch.
        normalised = nn.functional.pad(normalised, (0, 0, 0, self.padded_frames - input_features.shape[2]))
        wanted = self.config.output_attentions if output_attentions is None else output_attentions
        with_weights = wanted and self.config._attn_implementation != "eager"
        with _eager_attention(self.config, keep=self.training) if with_weights else nullcontext():
            feature_map = self.decoder(self.encoder(normalised))
        embeddings = None
        if output_embeddings:
            branches = feature_map.values() if isinstance(feature_map, dict) else [feature_map]
            states = torch.cat([branch.mean(2).transpose(1, 2) for branch in branches], dim=-1)
            embeddings = to_label_frames(states, self.encoder.time_reduction, self.config)
            embeddings = embeddings[:, : self.config.num_label_frames(input_features.shape[2])]
        return PSELDNetModelOutput(last_hidden_state=embeddings, feature_map=feature_map)

    def _check_inputs(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        if input_features.ndim != 4:
            raise ValueError(
                f"input_features must be (batch, channels, frames, mel bins), not {tuple(input_features.shape)}"
            )
        _, channels, num_frames, mel_bins = input_features.shape
        if (channels, mel_bins) != (self.config.num_channels, self.config.num_mel_bins):
            raise ValueError(
                f"input_features have {channels} channels and {mel_bins} mel bins, but the model needs"
                f" {self.config.num_channels} and {self.config.num_mel_bins}: use the feature extractor saved with it"
            )
        if num_frames > self.max_frames:
            raise ValueError(
                f"input_features have {num_frames} frames, more than the {self.max_frames} of"
                f" {self.config.window_seconds} s: cut the recording into windows, as the pipeline does"
            )
        if attention_mask is not None and attention_mask.shape != (len(input_features), num_frames):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, but input_features need (batch, frames)"
                f" {(len(input_features), num_frames)}"
            )


class Heads(nn.Module):
    """Heads by name; not a `ModuleDict`, so that PEFT can train and save them as one module."""

    def __init__(self, heads: dict[str, nn.Module]):
        super().__init__()
        for name, head in heads.items():
            self.add_module(name, head)

    def __getitem__(self, name: str) -> nn.Module:
        return getattr(self, name)

    def forward(self, feature_map: torch.Tensor | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Apply each head to the feature map, or to that of its branch; the distance head uses the DOA branch."""
        maps = feature_map if isinstance(feature_map, dict) else {}
        other = maps.get("doa", feature_map)
        return {name: head(maps.get(name, other)) for name, head in self.named_children()}


def names_data_columns(forward: Callable) -> Callable:
    """Add data-set columns to the signature of `forward`, so that `Trainer` leaves them to the collator."""
    signature = inspect.signature(forward)
    *arguments, rest = signature.parameters.values()
    columns = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in DATA_COLUMNS]
    forward.__signature__ = signature.replace(parameters=[*arguments, *columns, rest])
    return forward


class PSELDNetForSELD(PSELDNetPreTrainedModel):
    """A PSELDNet with the heads of its output format, for sound event localization and detection."""

    _auto_class = "AutoModelForAudioFrameClassification"

    def __init__(self, config: PSELDNetConfig):
        super().__init__(config)
        _, head = decoder_and_head(config)
        self.pseldnet = PSELDNetModel(config)
        self.heads = Heads(
            {
                name: head(config, self.pseldnet.encoder.hidden_size, size)
                for name, size in self.output_format.head_sizes.items()
            }
        )
        self.post_init()

    @property
    def output_format(self) -> OutputFormat:
        """The output format, with the losses and angles that the config has now."""
        return get_output_format(self.config)

    @names_data_columns
    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> PSELDNetSELDOutput:
        r"""
        Args:
            input_features, attention_mask, output_hidden_states, output_attentions, return_dict:
                As in [`PSELDNetModel`]. Label frames that are all padding are silent and have no loss.
            labels (`torch.FloatTensor` of shape `(batch, label frames, …)`, *optional*):
                Labels from `encode_labels`: of the shape of `accdoa` for the ACCDOA formats, and
                `(batch, label frames, 3, classes + 3)` for EINV2 and SEDDOA, plus distance and `onscreen` if the model
                has them. Frames of -100 have no loss.

        Raises:
            TypeError: an argument is unknown.
            ValueError: the features do not fit the model, the labels do not fit the features, or the config was
                changed and no longer fits the network.

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
        refuse_unknown(kwargs, (*FORWARD_ARGUMENTS, "labels"), type(self).__name__)
        requests = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        encoded = self.pseldnet(
            input_features,
            attention_mask,
            output_embeddings=False,
            return_dict=True,
            **{name: value for name, value in requests.items() if value is not None},
        )
        num_frames = self.config.num_label_frames(input_features.shape[2])
        mask = None if attention_mask is None else self._label_frame_mask(attention_mask, num_frames)
        outputs = self._outputs(encoded.feature_map, num_frames, mask)
        loss = None if labels is None else self.output_format.loss(outputs, labels, mask)
        return PSELDNetSELDOutput(
            loss=loss, **outputs, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def num_label_frames(self, num_frames: int) -> int:
        """Return how many label frames `num_frames` feature frames span; the last may be partly filled."""
        return self.config.num_label_frames(num_frames)

    def encode_labels(self, events: Events, num_frames: int) -> torch.Tensor:
        """Encode the events of a recording or a window as labels (num_frames, …) for `forward`, one frame per 100 ms.

        Args:
            events: events with the model's class indices; those after `num_frames` are left out.
            num_frames: number of label frames, as returned by `num_label_frames`.

        Raises:
            ValueError: the model lacks a class, or learns `onscreen` and the events do not have it.
        """
        return self.output_format.encode(events, num_frames)

    def predict(self, input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return only the outputs, by name, each (batch, label frames, …)."""
        outputs = self(input_features, return_dict=True)
        return {name: outputs[name] for name in self.output_format.output_names}

    def _label_frame_mask(self, attention_mask: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Return which label frames begin before the padding, (batch, label frames)."""
        # One feature frame later, because the one at the very end of a recording does not begin a label frame.
        step = self.config.feature_frames_per_label_frame
        later = attention_mask[:, 1::step] if attention_mask.shape[1] > 1 else attention_mask
        mask = later[:, :num_frames].bool()
        # Even the shortest recording has one label frame.
        return torch.cat([mask[:, :1] | attention_mask[:, :1].bool(), mask[:, 1:]], dim=1)

    def _outputs(
        self,
        feature_map: torch.Tensor | dict[str, torch.Tensor],
        num_frames: int,
        mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        time_reduction, output_format = self.pseldnet.encoder.time_reduction, self.output_format
        heads = {
            name: to_label_frames(head, time_reduction, self.config) for name, head in self.heads(feature_map).items()
        }
        if {name: head.shape[2] for name, head in heads.items()} != output_format.head_sizes:
            raise ValueError(
                "the classes or outputs in the config were changed and no longer fit the network: make one for them"
                " with modeling_pseldnet.load_for_transfer"
            )
        heads = {name: head[:, :num_frames] for name, head in heads.items()}
        if mask is not None:
            silence = output_format.silence
            heads = {name: head.masked_fill(~mask.unsqueeze(2), silence[name]) for name, head in heads.items()}
        return output_format.outputs(heads)


__all__ = ["PSELDNetForSELD", "PSELDNetModel", "PSELDNetPreTrainedModel"]
