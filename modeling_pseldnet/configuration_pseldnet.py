"""PSELDNet model configuration."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import logging

from .events import FRAMES_PER_SECOND, MAX_CLASSES, feature_frames_per_label_frame, frames_spanned
from .keywords import in_one_line, refuse_misspelt


logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_pseldnet.PSELDNetConfig",
    "AutoModel": "modeling_pseldnet.PSELDNetModel",
    "AutoModelForAudioFrameClassification": "modeling_pseldnet.PSELDNetForSELD",
    "AutoFeatureExtractor": "feature_extraction_pseldnet.PSELDNetFeatureExtractor",
}

# Values of fields left at None for each backbone: those of the published architectures.
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

# Allowed range of each number, also of the feature extractor, and, below, sizes that no useful network exceeds.
BOUNDS: dict[str, tuple[float, float]] = {
    "sampling_rate": (1_000, 768_000),
    "hop_length": (1, 768_000),
    "num_mel_bins": (1, 512),
    "num_channels": (1, 64),
    "n_fft": (2, 16384),
    "window_seconds": (1, 60),
    "unify_degrees": (0, 180),
    "sed_loss_weight": (0, 1000),
    "doa_loss_weight": (0, 1000),
    "alpha": (0, 1),
    "distance_loss_weight": (0, 1000),
    "spec_size": (8, 2048),
    "patch_size": (1, 64),
    "embed_dim": (1, 1024),
    "depths": (1, 64),
    "num_heads": (1, 256),
    "window_size": (1, 16),
    "hidden_size": (1, 4096),
    "num_hidden_layers": (1, 64),
    "num_attention_heads": (1, 256),
    "patch_stride": (2, 64),
    "time_patchout": (0, 10_000),
    "frequency_patchout": (0, 512),
    "unstructured_patchout": (0, 100_000),
    "hidden_sizes": (1, 8192),
    "decoder_layers": (1, 32),
    "decoder_attention_heads": (1, 256),
    "decoder_dropout_prob": (0, 0.99),
    "conv_depthwise_kernel_size": (1, 255),
    "mlp_ratio": (0.1, 16),
    "hidden_dropout_prob": (0, 0.99),
    "attention_probs_dropout_prob": (0, 0.99),
    "drop_path_rate": (0, 0.99),
    "layer_norm_eps": (1e-12, 0.1),
    "initializer_range": (0, 10),
}
MAX_LIST, MAX_WINDOW_FRAMES, MAX_TOKENS, MAX_PARAMETERS = 12, 20_000, 16_384, 10**9

# HTS-AT networks by name: the published one and two smaller ones; attention heads are equally wide in all stages.
HTSAT_SIZES: dict[str, dict[str, list[int] | int]] = {
    "tiny": {"embed_dim": 24, "depths": [2, 2, 2, 1], "num_heads": [1, 2, 4, 8]},
    "small": {"embed_dim": 40, "depths": [2, 2, 4, 2], "num_heads": [1, 2, 4, 8]},
    "base": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [4, 8, 16, 32]},
}


@strict
class PSELDNetConfig(PreTrainedConfig):
    r"""
    Configuration of a PSELDNet ([arXiv 2411.06399](https://arxiv.org/abs/2411.06399)), a network for sound event
    localization and detection. The defaults give the published HTS-AT network with multi-ACCDOA outputs.

    Args:
        backbone (`str`, *optional*, defaults to `"htsat"`):
            The encoder: `"htsat"`, `"passt"`, `"cnn14_conformer"` or `"crnn"`. Network fields below that are `None`
            take the published values of this encoder.
        output_format (`str`, *optional*, defaults to `"multi_accdoa"`):
            How events are represented: `"accdoa"` (one track per class), `"multi_accdoa"` (three tracks per class),
            `"einv2"` (three tracks of any class, with one branch for the class and one for the direction) or
            `"seddoa"` (the same from a single branch).
        distance (`bool`, *optional*, defaults to `False`):
            Whether the network also estimates distances in metres, one per vector of the ACCDOA formats and one per
            track of EINV2 and SEDDOA.
        distance_activation (`str`, *optional*, defaults to `"softplus"`):
            Activation that turns the distance head's outputs into metres: `"softplus"`, `"relu"` (as in the baseline
            of DCASE 2025) or `"exp"`.
        distance_loss (`str`, *optional*, defaults to `"relative"`):
            `"relative"` (the error divided by the distance, as in the metrics) or `"log"` (the difference of
            logarithms), weighted by `distance_loss_weight`, with tracks assigned by direction alone; or `"joint"`, the
            squared error in metres as a further axis of the vectors, which takes part in the assignment, as in the
            baselines of DCASE 2024 and 2025. Unknown distances have no loss.
        distance_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the distance loss; not used for `"joint"` in the ACCDOA formats.
        num_axes (`int`, *optional*, defaults to 3):
            ACCDOA formats: number of axes of the vectors, 3, or 2 for x and y only, as for stereo audio.
        onscreen (`bool`, *optional*, defaults to `False`):
            ACCDOA formats: whether the network also predicts if a source is visible to a forward-facing camera, as in
            the audio-visual track of DCASE 2025.
        sampling_rate (`int`, *optional*, defaults to 24000):
            Sampling rate of the audio in Hz.
        hop_length (`int`, *optional*, defaults to 240):
            Samples between two feature frames; the default gives 100 frames per second.
        num_mel_bins (`int`, *optional*, defaults to 64):
            Number of mel bands.
        num_channels (`int`, *optional*, defaults to 7):
            Number of feature channels, the `num_channels` of the feature extractor: 7 for four log-mel spectrograms
            and the three components of the intensity vector.
        feature_type (`str`, *optional*):
            The `feature_type` of the feature extractor. If `None`, any with `num_channels` channels; for 7 channels
            ambisonics is the default. It is stored so that the model is never saved with another extractor.
        n_fft (`int`, *optional*):
            The `n_fft` of the feature extractor, stored for the same reason. If `None`, any.
        window_seconds (`int`, *optional*, defaults to 10):
            The longest input in seconds.
        threshold (`float` or `list[float]`, *optional*, defaults to 0.5):
            Activity above which an event is reported, one for all classes or one per class.
        unify_degrees (`float`, *optional*):
            Angle below which tracks of the same class are merged into one event, in all formats but ACCDOA. If `None`,
            10 for EINV2 and SEDDOA with the aggregated loss, otherwise 15.
        loss_type (`str`, *optional*, defaults to `"tpit"`):
            EINV2, SEDDOA: `"tpit"` (cross-entropy of the classes and squared error of the directions, for the best
            permutation of the tracks in each frame) or `"aggregated"` (squared error of vectors whose length is the
            activity).
        sed_loss_weight, doa_loss_weight (`float`, *optional*, defaults to 0.5):
            EINV2, SEDDOA with `"tpit"`: weights of the class loss and the direction loss.
        alpha (`float`, *optional*, defaults to 0.5):
            EINV2, SEDDOA with `"aggregated"`: weight of the error of each track's vectors, as in multi-ACCDOA; the
            error of their sum over tracks, as in ACCDOA, has the weight `1 - alpha`.
        spec_size (`int`, *optional*, defaults to 256):
            HTS-AT: side of the square that the spectrogram is folded into.
        patch_size (`int`, *optional*):
            HTS-AT, PaSST: side of a patch.
        embed_dim (`int`, *optional*):
            HTS-AT: width of the first stage; it doubles from stage to stage.
        depths (`list[int]`, *optional*):
            HTS-AT: blocks in each stage.
        num_heads (`list[int]`, *optional*):
            HTS-AT: attention heads in each stage.
        window_size (`int`, *optional*, defaults to 8):
            HTS-AT: side of an attention window in patches.
        hidden_size (`int`, *optional*):
            PaSST: width of the transformer blocks.
        num_hidden_layers (`int`, *optional*):
            PaSST: number of transformer blocks.
        num_attention_heads (`int`, *optional*):
            PaSST: attention heads in each block.
        patch_stride (`int`, *optional*):
            PaSST: step between patches, in mel bins and in frames.
        time_patchout, frequency_patchout (`int`, *optional*, defaults to 0):
            PaSST: number of time and frequency steps whose patches are dropped at random in each training step.
        unstructured_patchout (`int`, *optional*, defaults to 0):
            PaSST: number of further patches dropped at random in each training step.
        hidden_sizes (`list[int]`, *optional*):
            CNN14-Conformer, CRNN: width of each convolution block.
        decoder (`str`, *optional*):
            Decoder over time after the encoder: `"gru"`, `"conformer"`, `"transformer"` or `"none"`, the only choice
            for HTS-AT.
        decoder_layers (`int`, *optional*):
            Number of decoder layers.
        decoder_attention_heads (`int`, *optional*, defaults to 8):
            Attention heads of a conformer or transformer decoder.
        decoder_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout probability in the decoder.
        conv_depthwise_kernel_size (`int`, *optional*, defaults to 31):
            Kernel size of a conformer's depthwise convolution, in time steps.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            Ratio of an MLP's hidden width to its input width.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLPs.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout probability of the embeddings and of each block's outputs.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout probability of the attention weights.
        drop_path_rate (`float`, *optional*):
            Stochastic depth rate of the last block, rising linearly from 0 at the first.
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
    distance: bool = False
    distance_activation: Literal["softplus", "relu", "exp"] = "softplus"
    distance_loss: Literal["relative", "log", "joint"] = "relative"
    distance_loss_weight: float | int = 1.0
    num_axes: Literal[2, 3] = 3
    onscreen: bool = False
    sampling_rate: int = 24000
    hop_length: int = 240
    num_mel_bins: int = 64
    num_channels: int = 7
    feature_type: str | None = None
    n_fft: int | None = None
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
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "mish"] = (
        "gelu"
    )
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int | None = None
    layer_norm_eps: float | None = None
    initializer_range: float = 0.02
    # Tells `Trainer` that several classes can be active at once, so there is no single label to smooth.
    problem_type: str | None = "multi_label_classification"

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a field. `label2id` always follows `id2label`; new classes drop the old per-class thresholds."""
        classes = self.id2label
        if key == "id2label" and isinstance(value, Mapping):
            value = in_order(value)
        if key == "label2id" and isinstance(classes, dict):
            value = _inverse(classes)
        super().__setattr__(key, value)
        if key == "id2label" and isinstance(value, dict):
            super().__setattr__("label2id", _inverse(value))
            if classes and list(classes.values()) != list(value.values()) and isinstance(self.threshold, list):
                logger.warning(
                    "the classes changed, so the per-class thresholds were reset to 0.5: set config.threshold"
                )
                super().__setattr__("threshold", 0.5)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> Any:
        """As in transformers, but drop per-class thresholds that do not match the file's classes, with a warning.

        A `threshold` passed as an argument applies to the classes passed with it.

        Raises:
            ValueError: a field is of the wrong type or out of range; the message is a single line.
        """
        threshold, classes = config_dict.get("threshold"), config_dict.get("id2label")
        if "threshold" in kwargs:
            # Set last, because setting the classes drops per-class thresholds.
            kwargs["threshold"] = kwargs.pop("threshold")
            config_dict = {**config_dict, "threshold": 0.5}
        elif isinstance(threshold, list) and isinstance(classes, dict) and len(threshold) != len(classes):
            logger.warning(
                f"the config has {len(threshold)} thresholds for {len(classes)} classes: 0.5 is used for all instead"
            )
            config_dict = {**config_dict, "threshold": 0.5}
        if isinstance(named := kwargs.get("id2label"), Mapping) and kwargs.get("num_labels") == len(named):
            # Tutorials give both; transformers would count the classes of the file by it first.
            del kwargs["num_labels"]
        try:
            loaded = super().from_dict(config_dict, **kwargs)
            (loaded[0] if isinstance(loaded, tuple) else loaded).validate()
        except StrictDataclassError as error:
            raise ValueError(f"config: {in_one_line(error)}") from None
        return loaded

    def __post_init__(self, **kwargs):
        refuse_misspelt(kwargs, PSELDNetConfig.__annotations__, type(self))
        for name, value in BACKBONE_DEFAULTS.get(self.backbone, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.unify_degrees is None:
            track_wise = self.output_format in ("einv2", "seddoa")
            self.unify_degrees = 10.0 if track_wise and self.loss_type == "aggregated" else 15.0
        if not __name__.startswith("transformers_modules."):
            # The package registers the pipeline; if the config names it too, transformers insists on remote code.
            kwargs.pop("custom_pipelines", None)
        classes, count = self.id2label, kwargs.pop("num_labels", None)
        if count is not None and not (isinstance(count, int) and 1 <= count <= MAX_CLASSES):
            raise ValueError(f"num_labels is {count!r}: give 1 to {MAX_CLASSES}")
        if classes is not None:
            names = classes.values() if isinstance(classes, Mapping) else ()
            if nameless := [name for name in names if not isinstance(name, str)]:
                raise ValueError(f"id2label has {nameless[0]!r} as a class name: names must be text")
            _check_numbering(classes)
            if count not in (None, len(classes)):
                logger.warning(f"num_labels={count} replaces the {len(classes)} classes of id2label")
                self.id2label = {index: f"LABEL_{index}" for index in range(count)}
        elif count is not None:
            kwargs["num_labels"] = count
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @classmethod
    def named(cls, size: str, **fields) -> "PSELDNetConfig":
        """Return the config of an HTS-AT network by size: `"tiny"`, `"small"`, or `"base"`, the published one.

        Args:
            size: name of the size.
            fields: other fields of the config.

        Raises:
            ValueError: the size is unknown.
        """
        if size not in HTSAT_SIZES:
            raise ValueError(f"size {size!r} is unknown: use one of {', '.join(HTSAT_SIZES)}")
        return cls(backbone="htsat", **{**HTSAT_SIZES[size], **fields})

    @property
    def csv_layout(self) -> str:
        """The layout in which [`write_csv`] writes this model's events."""
        return "dcase2025" if self.num_axes == 2 and self.distance else "metadata"

    @property
    def feature_frames_per_label_frame(self) -> int:
        """Number of feature frames in 100 ms."""
        return feature_frames_per_label_frame(self.sampling_rate, self.hop_length)

    @property
    def window_frames(self) -> int:
        """Number of feature frames in the longest input, without the one at its very end."""
        return self.window_seconds * self.sampling_rate // self.hop_length

    def num_label_frames(self, num_frames: int) -> int:
        """Return how many label frames `num_frames` feature frames span; the last may be partly filled."""
        return frames_spanned(num_frames, self.sampling_rate, self.hop_length)

    def validate_backbone(self):
        """Check that the fields are consistent and that a network can be built from them."""
        self._check_numbers()
        self._check_frames()
        self._check_features()
        self._check_classes()
        if self.output_format not in ("accdoa", "multi_accdoa") and (self.onscreen or self.num_axes != 3):
            raise ValueError(
                f"onscreen and num_axes 2 need output_format accdoa or multi_accdoa, not {self.output_format}"
            )
        {"htsat": self._check_htsat, "passt": self._check_passt}.get(self.backbone, self._check_crnn)()
        if self.decoder != "none":
            self._check_decoder()
        if self.approximate_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the network would have about {self.approximate_parameters / 1e9:.1f} billion parameters, more than"
                f" the allowed {MAX_PARAMETERS / 1e9:.0f}: use smaller numbers"
            )

    def _check_numbers(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            values = value if isinstance(value, list) else [value]
            if not 1 <= len(values) <= MAX_LIST:
                raise ValueError(f"{name} has {len(values)} numbers: give 1 to {MAX_LIST}")
            for number in values:
                if number is not None and not low <= number <= high:
                    raise ValueError(f"{name} {value} is out of range: give {low:g} to {high:g}")

    def _check_frames(self) -> None:
        """Check that a label frame holds a whole number of feature frames, and the number of frames in a window."""
        if self.sampling_rate % (FRAMES_PER_SECOND * self.hop_length):
            fitting, rest = divmod(self.sampling_rate, 100)
            raise ValueError(
                f"hop_length {self.hop_length} does not divide 100 ms at {self.sampling_rate} Hz:"
                f" use {'a sampling_rate that is a multiple of 100' if rest else fitting}"
            )
        if self.window_frames > MAX_WINDOW_FRAMES:
            raise ValueError(
                f"a window has {self.window_frames} frames, more than the allowed {MAX_WINDOW_FRAMES}: use a shorter"
                " window_seconds or a larger hop_length"
            )

    def _check_features(self) -> None:
        if self.feature_type is None:
            return
        from .feature_extraction_pseldnet import FEATURE_TYPES

        if self.feature_type not in FEATURE_TYPES:
            raise ValueError(f"feature_type {self.feature_type!r} is unknown: use one of {', '.join(FEATURE_TYPES)}")
        if (channels := FEATURE_TYPES[self.feature_type].num_channels) != self.num_channels:
            raise ValueError(
                f"{self.feature_type} features have {channels} channels, but num_channels is {self.num_channels}"
            )

    def _check_classes(self) -> None:
        _check_numbering(self.id2label or {})
        labels = list((self.id2label or {}).values())
        if not 1 <= len(labels) <= MAX_CLASSES:
            raise ValueError(f"id2label has {len(labels)} classes: give 1 to {MAX_CLASSES}")
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"id2label has class {twice!r} twice: rename one")
        thresholds = self.threshold if isinstance(self.threshold, list) else [self.threshold]
        if isinstance(self.threshold, list) and len(thresholds) != len(labels):
            raise ValueError(
                f"threshold has {len(thresholds)} numbers for {len(labels)} classes: give one, or one per class"
            )
        if not all(0 < threshold < 1 for threshold in thresholds):
            raise ValueError("threshold must lie between 0 and 1")

    def _check_htsat(self) -> None:
        if self.decoder not in (None, "none"):
            raise ValueError(f"HTS-AT has no decoder: set decoder to 'none' instead of {self.decoder!r}")
        stages, folds = len(self.depths), self.spec_size // self.num_mel_bins
        if len(self.num_heads) != stages:
            raise ValueError(f"num_heads has {len(self.num_heads)} entries and depths {stages}: give one per stage")
        if self.spec_size % self.num_mel_bins:
            raise ValueError(f"num_mel_bins {self.num_mel_bins} does not divide spec_size {self.spec_size}")
        if self.window_frames + 1 > folds * self.spec_size:
            raise ValueError(
                f"a window of {self.window_seconds} s has {self.window_frames + 1} frames, but spec_size"
                f" {self.spec_size} with {self.num_mel_bins} mel bins holds only {folds * self.spec_size}: use a"
                " shorter window_seconds or a larger spec_size"
            )
        smallest = self.patch_size * 2 ** (stages - 1)
        if self.num_mel_bins % smallest or self.spec_size % smallest:
            raise ValueError(
                f"num_mel_bins {self.num_mel_bins} and spec_size {self.spec_size} must be multiples of {smallest},"
                f" which is patch_size {self.patch_size} doubled in each of {stages - 1} stages after the first"
            )
        if (self.spec_size // self.patch_size) ** 2 > MAX_TOKENS:
            raise ValueError(
                f"spec_size {self.spec_size} gives more than {MAX_TOKENS} patches: use a larger patch_size"
            )
        for stage, heads in enumerate(self.num_heads):
            side, width = self.spec_size // self.patch_size // 2**stage, self.embed_dim * 2**stage
            if side % min(self.window_size, side):
                raise ValueError(f"window_size {self.window_size} does not divide the {side} patches of stage {stage}")
            if width % heads:
                raise ValueError(f"num_heads: {heads} heads do not divide the width {width} of stage {stage}")

    def _check_passt(self) -> None:
        if self.patch_size < self.patch_stride or (self.patch_size - self.patch_stride) % 2:
            raise ValueError(
                f"patch_size {self.patch_size} must be patch_stride {self.patch_stride} or larger by an even number"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}"
            )
        bins, steps = self.num_mel_bins // self.patch_stride, self.window_frames // self.patch_stride
        if min(bins, steps) < 1 or bins * steps > MAX_TOKENS:
            raise ValueError(
                f"patch_stride {self.patch_stride} gives {bins} x {steps} patches: there must be 1 to {MAX_TOKENS}"
            )
        bins, steps = bins - self.frequency_patchout, steps - self.time_patchout
        if min(bins, steps) < 1 or bins * steps <= self.unstructured_patchout:
            raise ValueError("patchout leaves no patches: use smaller numbers")
        if self.output_format == "einv2" and self.time_patchout + self.frequency_patchout + self.unstructured_patchout:
            raise ValueError("patchout would drop different patches in the two branches of einv2: set it to 0")

    def _check_crnn(self) -> None:
        halvings = min(len(self.hidden_sizes), 5)
        if self.num_mel_bins < 2**halvings:
            raise ValueError(
                f"num_mel_bins {self.num_mel_bins} cannot be halved {halvings} times, as hidden_sizes requires"
            )

    def _check_decoder(self) -> None:
        width = self.hidden_size if self.backbone == "passt" else self.hidden_sizes[-1]
        parts = 2 if self.decoder == "gru" else self.decoder_attention_heads
        if width % parts or (self.decoder == "conformer" and width % 2):
            what = "two directions" if self.decoder == "gru" else f"{parts} decoder_attention_heads"
            raise ValueError(f"the width {width} of the decoder cannot be divided among {what}")

    @property
    def approximate_parameters(self) -> int:
        """Approximate number of parameters, estimated without building the network."""
        block = 4 + 2 * self.mlp_ratio
        if self.backbone == "htsat":
            widths = [self.embed_dim * 2**stage for stage in range(len(self.depths))]
            encoder = sum((depth * block + 8) * width**2 for depth, width in zip(self.depths, widths, strict=True))
        elif self.backbone == "passt":
            widths = [self.hidden_size]
            encoder = self.num_hidden_layers * block * self.hidden_size**2
        else:
            widths = self.hidden_sizes
            encoder = sum(9 * width * (before + width) for before, width in zip([7, *widths], widths, strict=False))
        branches, tracks = (2, 3) if self.output_format == "einv2" else (1, 1)
        of_layer = {"none": 0, "gru": 4.5, "transformer": block, "conformer": 8 + 4 * self.mlp_ratio}[self.decoder]
        decoder = tracks * (self.decoder_layers or 0) * of_layer * widths[-1] ** 2
        head = widths[-1] * 9 * self.num_labels * (6 if self.backbone == "htsat" else 1)
        return math.ceil(branches * (encoder + decoder) + head)


def in_order(id2label: Mapping[int | str, str]) -> dict:
    """Sort classes by index, turning JSON's string keys into integers; unchanged if a key is not a number.

    Raises:
        ValueError: `id2label` is not a mapping.
    """
    if not isinstance(id2label, Mapping):
        raise ValueError("id2label must number the classes from 0")
    if not all(str(index).isdecimal() for index in id2label):
        return dict(id2label)
    # JSON written with sorted keys has "10" before "2".
    return {int(index): id2label[index] for index in sorted(id2label, key=int)}


def _check_numbering(id2label: Mapping[int, str]) -> None:
    if not isinstance(id2label, Mapping) or list(id2label) != list(range(len(id2label))):
        raise ValueError("id2label must number the classes from 0")


def _inverse(id2label: Mapping[int, str]) -> dict[str, int]:
    return {label: index for index, label in id2label.items()}


__all__ = ["PSELDNetConfig"]
