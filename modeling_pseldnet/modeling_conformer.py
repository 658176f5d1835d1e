"""The conformer: attention for what is far apart and a convolution for what is near, between two half MLPs.

Gulati et al., "Conformer: Convolution-augmented transformer for speech recognition", Interspeech 2020, with the
details of the published PSELDNets (arXiv 2411.06399).
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_pseldnet import PSELDNetConfig
from .modeling_transformer import MLP, SelfAttention


def sinusoids(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Sines and cosines of the positions 0, 1, …, in turn, (length, width), float32 (Vaswani et al., 2017)."""
    position = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1)
    rate = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.stack([(position * rate).sin(), (position * rate).cos()], dim=2).flatten(1)


def relative_shift(scores: torch.Tensor) -> torch.Tensor:
    """Moves row i of scores (batch, heads, queries, positions) left, so that its last position stands at key i.

    What lies beyond is filled from the next row, as published weights were trained with.
    """
    num_queries, num_positions = scores.shape[2:]
    padded = nn.functional.pad(scores, (1, 0))
    return padded.flatten(2)[..., num_queries:].unflatten(2, (num_queries, num_positions))


class ConformerAttention(SelfAttention):
    """Self-attention that also scores the distance of query and key (Dai et al., "Transformer-XL", ACL 2019)."""

    def __init__(self, config: PSELDNetConfig, width: int):
        # Published weights were trained with the width of the model here, not that of a head.
        super().__init__(config, width, config.decoder_attention_heads, scaling=width**-0.5)
        self.relative_k_proj = nn.Linear(width, width, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States (batch, time, width) to the same shape, and the attention weights where they are at hand."""
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


class ConformerConvolution(nn.Module):
    """A gated linear unit and a convolution of each channel over time."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        kernel_size = config.conv_depthwise_kernel_size
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel_size, padding="same", groups=width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(config.decoder_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, time, width) to the same shape."""
        gated = nn.functional.glu(self.pointwise_conv1(hidden_states.transpose(1, 2)), dim=1)
        activated = nn.functional.silu(self.norm(self.depthwise_conv(gated)))
        return self.dropout(self.pointwise_conv2(activated).transpose(1, 2))


class ConformerBlock(GradientCheckpointingLayer):
    """Half an MLP, self-attention, a convolution, half an MLP, each after a layer norm and beside a residual."""

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
    """Fills what the generic initialisation of transformers does not know."""
    if isinstance(module, ConformerAttention):
        init.zeros_(module.bias_u)
        init.zeros_(module.bias_v)
