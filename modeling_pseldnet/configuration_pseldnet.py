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
    },
}


@strict
class PSELDNetConfig(PreTrainedConfig):
    r"""
    Configuration of a PSELDNet, a network that says what sounds, when and from which direction
    ([PSELDNets](https://arxiv.org/abs/2411.06399)). The defaults are the published HTS-AT network with multi-ACCDOA.

    Args:
        backbone (`str`, *optional*, defaults to `"htsat"`):
            The encoder. A field below that is left at `None` takes the published value for this encoder.
        output_format (`str`, *optional*, defaults to `"multi_accdoa"`):
            How the outputs stand for events: `"accdoa"` (one track a class) or `"multi_accdoa"` (three).
        sampling_rate (`int`, *optional*, defaults to 24000):
            Rate of the audio in Hz.
        hop_length (`int`, *optional*, defaults to 240):
            Samples between two feature frames; a hundred feature frames are a second.
        num_mel_bins (`int`, *optional*, defaults to 64):
            Mel bands.
        num_channels (`int`, *optional*, defaults to 7):
            Feature channels: four log-mel spectrograms and the three components of the intensity vector.
        window_seconds (`int`, *optional*, defaults to 10):
            The longest input in seconds.
        threshold (`float` or `list[float]`, *optional*, defaults to 0.5):
            Activity above which an event is reported, one for all classes or one a class.
        unify_degrees (`float`, *optional*, defaults to 15.0):
            Tracks of one class closer than this are reported as one (multi-ACCDOA).
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
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
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

    backbone: Literal["htsat"] = "htsat"
    output_format: Literal["accdoa", "multi_accdoa"] = "multi_accdoa"
    sampling_rate: int = 24000
    hop_length: int = 240
    num_mel_bins: int = 64
    num_channels: int = 7
    window_seconds: int = 10
    threshold: float | list[float] = 0.5
    unify_degrees: float | int = 15.0

    spec_size: int = 256
    patch_size: int | None = None
    embed_dim: int | None = None
    depths: list[int] | None = None
    num_heads: list[int] | None = None
    window_size: int = 8
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name, value in BACKBONE_DEFAULTS.get(self.backbone, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @property
    def feature_frames_per_label_frame(self) -> int:
        """Feature frames in 100 ms."""
        return self.sampling_rate // (10 * self.hop_length)

    def validate_frame_rate(self):
        """A label frame must hold a whole number of feature frames."""
        if self.sampling_rate % (10 * self.hop_length):
            raise ValueError(
                f"hop_length {self.hop_length} does not divide 100 ms at {self.sampling_rate} Hz:"
                f" take {self.sampling_rate // 100}"
            )


__all__ = ["PSELDNetConfig"]
