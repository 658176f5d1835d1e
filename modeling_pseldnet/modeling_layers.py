"""Layers shared by several architectures: transformer and conformer blocks, decoders over time, the linear head.

The conformer is that of Gulati et al., "Conformer: Convolution-augmented transformer for speech recognition",
Interspeech 2020, with the details of the published PSELDNets (arXiv 2411.06399).
"""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_pseldnet import PSELDNetConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Explicit attention, for `output_attentions`; queries, keys and values are (batch, heads, tokens, width)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2), weights


class DropPath(nn.Module):
    """Drop a residual branch for random items of the batch (stochastic depth)."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.probability == 0.0:
            return hidden_states
        keep = 1.0 - self.probability
        mask = torch.rand(hidden_states.shape[0], *[1] * (hidden_states.ndim - 1), device=hidden_states.device) < keep
        return hidden_states * mask / keep

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


# Tokens per pass through an MLP in CPU inference: the hidden activations, several times the size of the input, then
# stay in the cache, and below the size from which the allocator maps and clears new memory each time.
TOKENS_AT_ONCE = 4096


class MLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: PSELDNetConfig, width: int, activation: str, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * config.mlp_ratio))
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(int(width * config.mlp_ratio), width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, tokens, width) to the same shape."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if traced or torch.is_grad_enabled() or not hidden_states.is_cpu:
            return self.transform(hidden_states)
        parts = hidden_states.split(max(TOKENS_AT_ONCE // hidden_states.shape[1], 1))
        return torch.cat([self.transform(part) for part in parts]) if len(parts) > 1 else self.transform(hidden_states)

    def transform(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Like `forward`, but in a single pass."""
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(hidden_states)))))


class SelfAttention(nn.Module):
    """Multi-head self-attention. `scaling`, the factor of the scores, defaults to 1 / √(width of a head)."""

    def __init__(self, config: PSELDNetConfig, width: int, num_heads: int, scaling: float | None = None):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5 if scaling is None else scaling
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to (batch, heads, tokens, width of a head)."""
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend with split queries, keys and values and a bias added to the scores.

        Returns:
            (batch, tokens, width), and the attention weights if the implementation returns them.
        """
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attention(self, query, key, value, bias, scaling=self.scaling, dropout=dropout)
        return self.o_proj(output.flatten(2)), weights

    def forward(
        self, hidden_states: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (batch, tokens, width) to the same shape, and the attention weights if available."""
        split = (self.split(proj(hidden_states)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.attend(*split, bias)


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention, then an MLP, each after a layer norm and with a residual connection."""

    def __init__(
        self, config: PSELDNetConfig, width: int, num_heads: int, dropout: float, drop_path_rate: float = 0.0
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config, width, num_heads)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(config, width, config.hidden_act, dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, tokens, width) to the same shape."""
        attended, _ = self.attention(self.layernorm_before(hidden_states))
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        return hidden_states + self.drop_path(self.mlp(self.layernorm_after(hidden_states)))


def sinusoids(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return interleaved sines and cosines of positions 0, 1, …: (length, width), float32 (Vaswani et al., 2017)."""
    position = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1)
    rate = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.stack([(position * rate).sin(), (position * rate).cos()], dim=2).flatten(1)


def relative_shift(scores: torch.Tensor) -> torch.Tensor:
    """Shift row i of scores (batch, heads, queries, positions) left, so that its last position lines up with key i.

    The gap is filled from the next row, as when the published weights were trained.
    """
    num_queries, num_positions = scores.shape[2:]
    padded = nn.functional.pad(scores, (1, 0))
    return padded.flatten(2)[..., num_queries:].unflatten(2, (num_queries, num_positions))


class ConformerAttention(SelfAttention):
    """Self-attention with relative positions of query and key (Dai et al., "Transformer-XL", ACL 2019)."""

    def __init__(self, config: PSELDNetConfig, width: int):
        # The published weights were trained with the model width here, not the head width.
        super().__init__(config, width, config.decoder_attention_heads, scaling=width**-0.5)
        self.relative_k_proj = nn.Linear(width, width, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States (batch, time, width) to the same shape, and the attention weights if available."""
        positions = sinusoids(*hidden_states.shape[1:], device=hidden_states.device).to(hidden_states.dtype)
        relative_key = self.split(self.relative_k_proj(positions.unsqueeze(0)))
        query = self.split(self.q_proj(hidden_states))
        to_positions = torch.matmul(query + self.bias_v.unsqueeze(1), relative_key.transpose(2, 3))
        return self.attend(
            query + self.bias_u.unsqueeze(1),
            self.split(self.k_proj(hidden_states)),
            self.split(self.v_proj(hidden_states)),
            bias=relative_shift(to_positions) * self.scaling,
        )


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (batch, width, …) whose running statistics are frozen together with its weight.

    Otherwise they would go on changing, and an adapter would not save them, unless it has its own, like AdapterBit. A
    block that gradient checkpointing computes again in the backward pass does not count the same batch twice.
    """

    @property
    def _has_own_statistics(self) -> bool:
        """Whether the statistics are those of an active adapter."""
        if not is_parametrized(self, "running_mean"):
            return False
        return self.running_mean is not self.parametrizations.running_mean.original

    @property
    def is_frozen(self) -> bool:
        """Whether training leaves the running statistics unchanged."""
        return not self.weight.requires_grad and not self._has_own_statistics

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        in_backward = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if not self.training or not (in_backward or self.is_frozen):
            return super().forward(hidden_states)
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        # A momentum of 0 leaves the running statistics as they are.
        return nn.functional.batch_norm(
            hidden_states, *statistics, *affine, training=not self.is_frozen, momentum=0.0, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        if is_parametrized(self, "num_batches_tracked"):
            # Or PyTorch would add that entry under its plain name to files without versions, as of safetensors.
            local_metadata = {**local_metadata, "version": self._version}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of axes."""


class ConformerConvolution(nn.Module):
    """A gated linear unit and a depthwise convolution over time."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        kernel_size = config.conv_depthwise_kernel_size
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel_size, padding="same", groups=width, bias=False)
        self.norm = BatchNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(config.decoder_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to the same shape."""
        gated = nn.functional.glu(self.pointwise_conv1(hidden_states.transpose(1, 2)), dim=1)
        activated = nn.functional.silu(self.norm(self.depthwise_conv(gated)))
        return self.dropout(self.pointwise_conv2(activated).transpose(1, 2))


class ConformerBlock(GradientCheckpointingLayer):
    """Half an MLP step, self-attention, a convolution, half an MLP step, each with a layer norm and a residual."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        dropout, eps = config.decoder_dropout_prob, config.layer_norm_eps
        self.norm_feed_forward1 = nn.LayerNorm(width, eps=eps)
        self.feed_forward1 = MLP(config, width, "silu", dropout)
        self.norm_self_attn = nn.LayerNorm(width, eps=eps)
        self.self_attn = ConformerAttention(config, width)
        self.norm_conv = nn.LayerNorm(width, eps=eps)
        self.conv = ConformerConvolution(config, width)
        self.norm_feed_forward2 = nn.LayerNorm(width, eps=eps)
        self.feed_forward2 = MLP(config, width, "silu", dropout)
        self.norm_out = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to the same shape."""
        hidden_states = hidden_states + 0.5 * self.feed_forward1(self.norm_feed_forward1(hidden_states))
        attended, _ = self.self_attn(self.norm_self_attn(hidden_states))
        hidden_states = hidden_states + self.dropout(attended)
        hidden_states = hidden_states + self.conv(self.norm_conv(hidden_states))
        hidden_states = hidden_states + 0.5 * self.feed_forward2(self.norm_feed_forward2(hidden_states))
        return self.norm_out(hidden_states)


def init_conformer_weights(module: nn.Module) -> None:
    """Initialise what the generic initialisation of transformers does not cover."""
    if isinstance(module, ConformerAttention):
        init.zeros_(module.bias_u)
        init.zeros_(module.bias_v)


class GRUDecoder(nn.GRU):
    """A bidirectional GRU, each direction half as wide as the input."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__(
            width,
            width // 2,
            num_layers=config.decoder_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.decoder_dropout_prob if config.decoder_layers > 1 else 0.0,
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to the same shape."""
        # With `super()`, torch.compile fails where it leaves the layer out of its graph (PyTorch 2.15).
        return nn.GRU.forward(self, hidden_states)[0]


class ConformerDecoder(nn.Sequential):
    """Conformer blocks."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__(*(ConformerBlock(config, width) for _ in range(config.decoder_layers)))


class TransformerDecoder(nn.Sequential):
    """Transformer blocks, without position embeddings: positions are left to the encoder."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__(
            *(
                TransformerBlock(config, width, config.decoder_attention_heads, config.decoder_dropout_prob)
                for _ in range(config.decoder_layers)
            )
        )


DECODERS = {"gru": GRUDecoder, "conformer": ConformerDecoder, "transformer": TransformerDecoder}


class Decoder(nn.Module):
    """The decoder named by `config`, if any, over the time axis of a feature map."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        self.layers = DECODERS[config.decoder](config, width) if config.decoder != "none" else None

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, width, bins, time) to (batch, width, 1, time), or unchanged without a decoder."""
        if self.layers is None:
            return feature_map
        return self.layers(feature_map.mean(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2)


class LinearHead(nn.Module):
    """A linear layer applied to each time step, averaged over bins.

    Not an `nn.Linear`: PEFT and quantizers would put a layer in its place that takes (…, width).
    """

    def __init__(self, config: PSELDNetConfig, hidden_size: int, num_outputs: int):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(num_outputs, hidden_size))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, width, bins, time) to (batch, time, outputs)."""
        return nn.functional.linear(feature_map.mean(2).transpose(1, 2), self.weight, self.bias)


def init_decoder_weights(module: nn.Module) -> None:
    """Initialise what the generic initialisation of transformers does not cover."""
    if isinstance(module, GRUDecoder):
        for parameter in module.parameters():
            init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
    elif isinstance(module, LinearHead):
        init.normal_(module.weight, std=module.config.initializer_range)
        init.zeros_(module.bias)
