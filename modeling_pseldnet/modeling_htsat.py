"""HTS-AT, the hierarchical token-semantic audio transformer: a Swin transformer on a folded spectrogram.

Chen et al., "HTS-AT: A hierarchical token-semantic audio transformer for sound classification and detection",
ICASSP 2022; with the input features of PSELDNets (arXiv 2411.06399, section III).
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_pseldnet import PSELDNetConfig
from .modeling_layers import MLP, DropPath, SelfAttention


def window_order(side: int, window: int, shift: int) -> torch.Tensor:
    """Return the order of the tokens of a (side, side) grid when it is cut into shifted windows, (side²)."""
    grid = torch.arange(side * side).reshape(side, side).roll((-shift, -shift), dims=(0, 1))
    return grid.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten()


def shifted_window_mask(side: int, window: int, shift: int) -> torch.Tensor:
    """Return the mask that keeps tokens brought together by the cyclic shift from attending to each other.

    Returns:
        (windows, window², window²), added to the attention scores.
    """
    region = torch.zeros(side, dtype=torch.long)
    region[side - window : side - shift] = 1
    region[side - shift :] = 2
    grid = (3 * region[:, None] + region[None, :]).flatten()
    tokens = grid[window_order(side, window, 0)].reshape(-1, window * window)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0)


def relative_position_index(window: int) -> torch.Tensor:
    """Return the row of the relative position table for each pair of tokens in a window, (window², window²)."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = row.flatten(), column.flatten()
    row_offset = row[:, None] - row[None, :] + window - 1
    column_offset = column[:, None] - column[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset


class HTSATPatchEmbeddings(nn.Module):
    """Fold a spectrogram into a square and cut it into patches."""

    def __init__(self, config: PSELDNetConfig, num_channels: int):
        super().__init__()
        self.spec_size = config.spec_size
        self.num_folds = config.spec_size // config.num_mel_bins
        self.projection = nn.Conv2d(num_channels, config.embed_dim, config.patch_size, stride=config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames, mel bins) of at most `num_folds * spec_size` frames to (batch, tokens, width)."""
        missing = self.num_folds * self.spec_size - input_features.shape[2]
        input_features = nn.functional.pad(input_features, (0, 0, 0, missing))
        # Each fold holds consecutive frames; folds are stacked vertically, with frequency running down in each.
        image = input_features.unflatten(2, (self.num_folds, self.spec_size)).transpose(3, 4).flatten(2, 3)
        return self.norm(self.projection(image).flatten(2).transpose(1, 2))


class HTSATAttention(SelfAttention):
    """Windowed self-attention with a learnt bias for each relative position."""

    def __init__(self, config: PSELDNetConfig, width: int, num_heads: int, window: int):
        super().__init__(config, width, num_heads)
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (batch, windows * window², width) in window order; mask (windows, window², window²), additive."""
        batch, _, width = hidden_states.shape
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).unsqueeze(0)
        if attention_mask is not None:
            bias = (bias + attention_mask.unsqueeze(1)).repeat(batch, 1, 1, 1)
        windows = hidden_states.reshape(-1, self.window**2, width)
        attended, weights = super().forward(windows, bias.to(hidden_states.dtype))
        return attended.reshape(hidden_states.shape), weights


class HTSATBlock(GradientCheckpointingLayer):
    """A Swin block: windowed attention, shifted by half a window in every second block, then an MLP."""

    def __init__(
        self, config: PSELDNetConfig, width: int, num_heads: int, side: int, shifted: bool, drop_path_rate: float
    ):
        super().__init__()
        self.side, self.window = side, min(config.window_size, side)
        self.shift = self.window // 2 if shifted and side > config.window_size else 0
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = HTSATAttention(config, width, num_heads, self.window)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(config, width, config.hidden_act, config.hidden_dropout_prob)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path_rate)
        for name, value in self.layout().items():
            self.register_buffer(name, value, persistent=False)

    def layout(self) -> dict[str, torch.Tensor | None]:
        """Return the buffers that depend only on the grid: the order of tokens by window, its inverse, the mask."""
        order = window_order(self.side, self.window, self.shift)
        mask = shifted_window_mask(self.side, self.window, self.shift) if self.shift else None
        return {"window_order": order, "raster_order": order.argsort(), "attention_mask": mask}

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, side², width) in raster order to the same shape."""
        hidden_states = hidden_states.index_select(1, self.window_order)
        attended, _ = self.attention(self.layernorm_before(hidden_states), self.attention_mask)
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        hidden_states = hidden_states + self.drop_path(self.mlp(self.layernorm_after(hidden_states)))
        return hidden_states.index_select(1, self.raster_order)


class HTSATPatchMerging(nn.Module):
    """Merge each 2 × 2 square of tokens into one token of twice the width."""

    def __init__(self, config: PSELDNetConfig, width: int, side: int):
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(4 * width, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, side², width) to (batch, side² / 4, 2 * width)."""
        squares = hidden_states.unflatten(1, (self.side // 2, 2, self.side // 2, 2))
        # The four tokens of a square are ordered by column, then row.
        return self.reduction(self.norm(squares.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)))


class HTSATStage(nn.Module):
    """Blocks of the same width, followed by patch merging except in the last stage."""

    def __init__(self, config: PSELDNetConfig, stage: int, drop_path_rates: list[float]):
        super().__init__()
        width, num_heads = config.embed_dim * 2**stage, config.num_heads[stage]
        side = config.spec_size // config.patch_size // 2**stage
        self.blocks = nn.ModuleList(
            HTSATBlock(config, width, num_heads, side, shifted=bool(block % 2), drop_path_rate=rate)
            for block, rate in enumerate(drop_path_rates)
        )
        last = stage == len(config.depths) - 1
        self.downsample = nn.Identity() if last else HTSATPatchMerging(config, width, side)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.downsample(hidden_states)


class HTSATEncoder(nn.Module):
    """HTS-AT encoder: normalised features (batch, channels, frames, mel bins) to a map (batch, width, bins, time).

    A time step of the feature map spans `time_reduction` feature frames.
    """

    interpolation = "linear"

    def __init__(self, config: PSELDNetConfig, num_channels: int):
        super().__init__()
        last = len(config.depths) - 1
        self.hidden_size = config.embed_dim * 2**last
        self.stitch_widths = {stage: config.embed_dim * 2**stage for stage in range(last + 1)}
        self.num_folds = config.spec_size // config.num_mel_bins
        self.side = config.spec_size // config.patch_size // 2**last
        self.time_reduction = config.spec_size // self.side
        self.patch_embeddings = HTSATPatchEmbeddings(config, num_channels)
        num_blocks = sum(config.depths)
        rates = [config.drop_path_rate * block / max(num_blocks - 1, 1) for block in range(num_blocks)]
        starts = [sum(config.depths[:stage]) for stage in range(last + 1)]
        self.stages = nn.ModuleList(
            HTSATStage(config, stage, rates[start : start + depth])
            for stage, (start, depth) in enumerate(zip(starts, config.depths, strict=True))
        )
        self.norm = nn.LayerNorm(self.hidden_size, eps=config.layer_norm_eps)

    def finish(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Unfold the last tokens (batch, side², width) to (batch, width, frequency bins, time)."""
        grid = self.norm(hidden_states).transpose(1, 2).unflatten(2, (self.num_folds, -1, self.side))
        return grid.transpose(2, 3).flatten(3)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        hidden_states = self.patch_embeddings(input_features)
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        return self.finish(hidden_states)


class HTSATHead(nn.Module):
    """The token-semantic head: a convolution over all frequency bins and three time steps."""

    def __init__(self, config: PSELDNetConfig, hidden_size: int, num_outputs: int):
        super().__init__()
        side = config.spec_size // config.patch_size // 2 ** (len(config.depths) - 1)
        num_bins = side * config.num_mel_bins // config.spec_size
        self.conv = nn.Conv2d(hidden_size, num_outputs, (num_bins, 3), padding=(0, 1))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, width, bins, time) to (batch, time, outputs)."""
        return self.conv(feature_map).squeeze(2).transpose(1, 2)


def init_htsat_weights(module: nn.Module) -> None:
    """Initialise what the generic initialisation of transformers does not cover."""
    if isinstance(module, HTSATBlock):
        for name, value in module.layout().items():
            if value is not None:
                init.copy_(getattr(module, name), value)
    elif isinstance(module, HTSATAttention):
        init.trunc_normal_(module.relative_position_bias_table, std=module.config.initializer_range)
        init.copy_(module.relative_position_index, relative_position_index(module.window))
