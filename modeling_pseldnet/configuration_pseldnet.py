"""PSELDNet model configuration."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


AUTO_MAP = {
    "AutoConfig": "configuration_pseldnet.PSELDNetConfig",
    "AutoModel": "modeling_pseldnet.PSELDNetModel",
    "AutoModelForAudioFrameClassification": "modeling_pseldnet.PSELDNetForSELD",
    "AutoFeatureExtractor": "feature_extraction_pseldnet.PSELDNetFeatureExtractor",
}

# What a field that is left at None means for each backbone: the published architectures.
BACKBONE_DEFAULTS: dict[str, dict[str, Any]] = {
    "htsat": {
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [4, 8, 16, 32],
        "patch_size": 4,
        "drop_path_rate": 0.1,
        "layer_norm_eps": 1e-5,
        "decoder": "none",
    },
    "passt": {
        "hidden_size": 768,
        "num_hidden_layers": 7,
        "num_attention_heads": 12,
        "patch_size": 16,
        "patch_stride": 10,
        "drop_path_rate": 0.0,
        "layer_norm_eps": 1e-6,
        "decoder": "none",
        "decoder_layers": 2,
    },
    "cnn14_conformer": {
        "hidden_sizes": [64, 128, 256, 512, 1024, 2048],
        "layer_norm_eps": 1e-5,
        "decoder": "conformer",
        "decoder_layers": 1,
    },
    "crnn": {
        "hidden_sizes": [64, 128, 256, 512],
        "layer_norm_eps": 1e-5,
        "decoder": "gru",
        "decoder_layers": 2,
    },
}

# HTS-AT networks by name: the published one and smaller ones of its shape, with heads of equal width in all stages.
HTSAT_SIZES: dict[str, dict[str, list[int] | int]] = {
    "tiny": {"embed_dim": 24, "depths": [2, 2, 2, 1], "num_heads": [1, 2, 4, 8]},
    "small": {"embed_dim": 40, "depths": [2, 2, 4, 2], "num_heads": [1, 2, 4, 8]},
    "base": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [4, 8, 16, 32]},
}


@strict
class PSELDNetConfig(PreTrainedConfig):
    r"""
    Configuration of a PSELDNet, a network that says what sounds, when and from which direction
    ([PSELDNets](https://arxiv.org/abs/2411.06399)). The defaults are the published HTS-AT network with multi-ACCDOA.

    Args:
        backbone (`str`, *optional*, defaults to `"htsat"`):
            The encoder: `"htsat"`, `"passt"`, `"cnn14_conformer"` or `"crnn"`. A field below that is left at `None`
            takes the published value for this encoder.
        output_format (`str`, *optional*, defaults to `"multi_accdoa"`):
            How the outputs stand for events: `"accdoa"` (one track a class), `"multi_accdoa"` (three), `"einv2"`
            (three tracks of any class; one branch for the class, one for the direction) or `"seddoa"` (the same from
            one branch).
        sampling_rate (`int`, *optional*, defaults to 24000):
            Rate of the audio in Hz.
        hop_length (`int`, *optional*, defaults to 240):
            Samples between two feature frames; a hundred feature frames are a second.
        num_mel_bins (`int`, *optional*, defaults to 64):
            Mel bands.
        num_channels (`int`, *optional*, defaults to 7):
            Feature channels, the `num_channels` of the feature extractor: 7 for four log-mel spectrograms and the
            three components of the intensity vector.
        window_seconds (`int`, *optional*, defaults to 10):
            The longest input in seconds.
        threshold (`float` or `list[float]`, *optional*, defaults to 0.5):
            Activity above which an event is reported, one for all classes or one a class.
        unify_degrees (`float`, *optional*):
            Tracks of one class closer than this are reported as one, but for ACCDOA; 10 with the aggregated loss, else
            15, if left at `None`.
        loss_type (`str`, *optional*, defaults to `"tpit"`):
            EINV2, SEDDOA: `"tpit"` (cross-entropy of the classes and squared error of the directions, for the best
            permutation of the tracks of each frame) or `"aggregated"` (squared error of vectors as long as the
            activity).
        sed_loss_weight, doa_loss_weight (`float`, *optional*, defaults to 0.5):
            EINV2, SEDDOA with `"tpit"`: weights of the losses of the classes and of the directions.
        alpha (`float`, *optional*, defaults to 0.5):
            EINV2, SEDDOA with `"aggregated"`: weight of the error of each track's vectors, as in multi-ACCDOA; the
            rest is for that of their sum over tracks, as in ACCDOA.
        spec_size (`int`, *optional*, defaults to 256):
            HTS-AT: side of the square that the spectrogram is folded to.
        patch_size (`int`, *optional*):
            Side of a patch.
        embed_dim (`int`, *optional*):
            HTS-AT: width of the first stage; each further one has twice the width of the one before.
        depths (`list[int]`, *optional*):
            HTS-AT: blocks in each stage.
        num_heads (`list[int]`, *optional*):
            HTS-AT: attention heads in each stage.
        window_size (`int`, *optional*, defaults to 8):
            HTS-AT: side of an attention window in patches.
        hidden_size (`int`, *optional*):
            PaSST: width of the blocks.
        num_hidden_layers (`int`, *optional*):
            PaSST: blocks.
        num_attention_heads (`int`, *optional*):
            PaSST: attention heads of a block.
        patch_stride (`int`, *optional*):
            PaSST: mel bins, and frames, from one patch to the next.
        time_patchout, frequency_patchout (`int`, *optional*, defaults to 0):
            PaSST: steps of time, and of frequency, whose patches are left out of a training step at random.
        unstructured_patchout (`int`, *optional*, defaults to 0):
            PaSST: further patches that are left out of a training step at random.
        hidden_sizes (`list[int]`, *optional*):
            CNN14-Conformer, CRNN: width of each convolution block.
        decoder (`str`, *optional*):
            What runs over time after the encoder: `"gru"`, `"conformer"`, `"transformer"` or `"none"`; HTS-AT has
            none.
        decoder_layers (`int`, *optional*):
            Layers of the decoder.
        decoder_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of a conformer or transformer decoder.
        decoder_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout within the decoder.
        conv_depthwise_kernel_size (`int`, *optional*, defaults to 31):
            Steps of time that the convolution of a conformer spans.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            Width of an MLP's hidden layer over that of its input.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLPs.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout of the embeddings and of each block's outputs.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout of the attention weights.
        drop_path_rate (`float`, *optional*):
            Stochastic depth of the last block, rising linearly from 0 at the first.
        layer_norm_eps (`float`, *optional*):
            Epsilon of the layer norms.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of newly initialised weights.

    Example:

    ```python
    >>> from modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD

    >>> config = PSELDNetConfig(id2label={0: "speech", 1: "footsteps"}, output_format="accdoa")
    >>> model = PSELDNetForSELD(config)
    ```
    """

    model_type = "pseldnet"
    _auto_class = "AutoConfig"

    backbone: Literal["htsat", "passt", "cnn14_conformer", "crnn"] = "htsat"
    output_format: Literal["accdoa", "multi_accdoa", "einv2", "seddoa"] = "multi_accdoa"
    sampling_rate: int = 24000
    hop_length: int = 240
    num_mel_bins: int = 64
    num_channels: int = 7
    window_seconds: int = 10
    threshold: float | list[float] = 0.5
    unify_degrees: float | int | None = None
    loss_type: Literal["tpit", "aggregated"] = "tpit"
    sed_loss_weight: float | int = 0.5
    doa_loss_weight: float | int = 0.5
    alpha: float | int = 0.5

    spec_size: int = 256
    patch_size: int | None = None
    embed_dim: int | None = None
    depths: list[int] | None = None
    num_heads: list[int] | None = None
    window_size: int = 8
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    patch_stride: int | None = None
    time_patchout: int = 0
    frequency_patchout: int = 0
    unstructured_patchout: int = 0
    hidden_sizes: list[int] | None = None
    decoder: Literal["gru", "conformer", "transformer", "none"] | None = None
    decoder_layers: int | None = None
    decoder_attention_heads: int = 8
    decoder_dropout_prob: float | int = 0.1
    conv_depthwise_kernel_size: int = 31
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int | None = None
    layer_norm_eps: float | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name, value in BACKBONE_DEFAULTS.get(self.backbone, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.unify_degrees is None:
            track_wise = self.output_format in ("einv2", "seddoa")
            self.unify_degrees = 10.0 if track_wise and self.loss_type == "aggregated" else 15.0
        if not __name__.startswith("transformers_modules."):
            # The package registers the pipeline; where a config names it too, transformers insists on remote code.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def named(cls, size: str, **fields) -> "PSELDNetConfig":
        """An HTS-AT network of a size by name: `"tiny"`, `"small"`, or `"base"`, the published one.

        Args:
            size: the name.
            fields: any others of the configuration.

        Raises:
            ValueError: there is no such size.
        """
        if size not in HTSAT_SIZES:
            raise ValueError(f"size {size!r} is unknown: use one of {', '.join(HTSAT_SIZES)}")
        return cls(backbone="htsat", **{**HTSAT_SIZES[size], **fields})

    @property
    def feature_frames_per_label_frame(self) -> int:
        """Feature frames in 100 ms."""
        return self.sampling_rate // (10 * self.hop_length)

    @property
    def window_frames(self) -> int:
        """Feature frames in the longest input, without the one at its very end."""
        return self.window_seconds * self.sampling_rate // self.hop_length

    def validate_backbone(self):
        """The fields must fit the encoder."""
        if self.backbone == "htsat" and self.decoder not in (None, "none"):
            raise ValueError(f"HTS-AT has no decoder: take 'none' in place of {self.decoder!r}")
        if self.backbone != "passt" or self.patch_size is None or self.patch_stride is None:
            return
        if self.patch_size < self.patch_stride or (self.patch_size - self.patch_stride) % 2:
            raise ValueError(
                f"patch_size {self.patch_size} must be patch_stride {self.patch_stride} or an even number more"
            )
        bins = self.num_mel_bins // self.patch_stride - self.frequency_patchout
        steps = self.window_frames // self.patch_stride - self.time_patchout
        if min(bins, steps) < 1 or bins * steps <= self.unstructured_patchout:
            raise ValueError("patchout leaves no patch: take smaller numbers")
        if self.output_format == "einv2" and self.time_patchout + self.frequency_patchout + self.unstructured_patchout:
            raise ValueError("patchout would leave out other patches in each branch of einv2: take 0")

    def validate_frame_rate(self):
        """A label frame must hold a whole number of feature frames."""
        if self.sampling_rate % (10 * self.hop_length):
            raise ValueError(
                f"hop_length {self.hop_length} does not divide 100 ms at {self.sampling_rate} Hz:"
                f" take {self.sampling_rate // 100}"
            )


__all__ = ["PSELDNetConfig"]
