"""Transformer blocks that several architectures are made of."""

import torch
from torch import nn
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
    """Attention written out, for `output_attentions`; queries, keys and values are (batch, heads, tokens, width)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2), weights


class DropPath(nn.Module):
    """Leaves a residual branch out for a random part of the batch (stochastic depth)."""

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


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: PSELDNetConfig, width: int, activation: str, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * config.mlp_ratio))
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(int(width * config.mlp_ratio), width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(hidden_states)))))


class SelfAttention(nn.Module):
    """Multi-head attention of all tokens to each other; `scaling` is that of the scores, 1 / √(width of a head)."""

    def __init__(self, config: PSELDNetConfig, width: int, num_heads: int, scaling: float | None = None):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"a width of {width} cannot be shared by {num_heads} attention heads")
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
        """Split queries, keys and values, and what is added to the scores, to (batch, tokens, width) and weights."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attention(self, query, key, value, bias, scaling=self.scaling, dropout=dropout)
        return self.o_proj(output.flatten(2)), weights

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (batch, tokens, width) to the same shape, and the attention weights where they are at hand."""
        return self.attend(*(self.split(proj(hidden_states)) for proj in (self.q_proj, self.k_proj, self.v_proj)))


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention, then an MLP, each after a layer norm and beside a residual connection."""

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
