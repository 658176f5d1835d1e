"""PaSST, the patchout spectrogram transformer: a vision transformer on overlapping patches of a spectrogram.

Koutini et al., "Efficient training of audio transformers with patchout", Interspeech 2022; with the input features of
PSELDNets (arXiv 2411.06399, section III).
"""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_pseldnet import PSELDNetConfig
from .modeling_layers import TransformerBlock


class PaSSTEmbeddings(nn.Module):
    """Cut a spectrogram into patches and add time and frequency position embeddings."""

    def __init__(self, config: PSELDNetConfig, num_channels: int):
        super().__init__()
        width, stride = config.hidden_size, config.patch_stride
        self.num_bins, self.num_steps = config.num_mel_bins // stride, -(-config.window_frames // stride)
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.token_position_embeddings = nn.Parameter(torch.zeros(1, 2, width))
        self.frequency_position_embeddings = nn.Parameter(torch.zeros(1, width, self.num_bins, 1))
        self.time_position_embeddings = nn.Parameter(torch.zeros(1, width, 1, self.num_steps))
        # This padding gives one patch per stride.
        self.projection = nn.Conv2d(
            num_channels, width, config.patch_size, stride=stride, padding=(config.patch_size - stride) // 2
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames, mel bins) to (batch, 2 + bins * steps, width): two tokens, then the patches."""
        patches = self.projection(input_features.transpose(2, 3))
        patches = patches + self.time_position_embeddings + self.frequency_position_embeddings
        tokens = torch.cat([self.cls_token, self.distillation_token], dim=1) + self.token_position_embeddings
        tokens = tokens.expand(input_features.shape[0], -1, -1)
        return self.dropout(torch.cat([tokens, patches.flatten(2).transpose(1, 2)], dim=1))

    def patchout(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the patches that a training step keeps, and which of them fills each place of the grid, (bins * steps).

        Whole time steps, whole frequency steps and single patches are dropped at random, the same for the whole batch;
        each is filled with the nearest patch that is kept.
        """
        config = self.config
        steps = torch.randperm(self.num_steps, device=device)[config.time_patchout :].sort().values
        bins = torch.randperm(self.num_bins, device=device)[config.frequency_patchout :].sort().values
        kept = (bins[:, None] * self.num_steps + steps).flatten()
        kept = kept[torch.randperm(len(kept), device=device)[config.unstructured_patchout :].sort().values]
        places = torch.arange(self.num_bins * self.num_steps, device=device)
        grid = torch.stack([places // self.num_steps, places % self.num_steps], dim=1).float()
        return kept, torch.cdist(grid, grid[kept]).argmin(1)


class PaSSTEncoder(nn.Module):
    """PaSST encoder: normalised features (batch, channels, frames, mel bins) to a feature map (batch, width, 1, time).

    A time step of the feature map spans `time_reduction` feature frames.
    """

    interpolation = "nearest"

    def __init__(self, config: PSELDNetConfig, num_channels: int):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.time_reduction = config.patch_stride
        self.stitch_widths = dict.fromkeys(range(0, config.num_hidden_layers, 2), config.hidden_size)
        self.patch_embeddings = PaSSTEmbeddings(config, num_channels)
        last = max(config.num_hidden_layers - 1, 1)
        self.stages = nn.ModuleList(
            TransformerBlock(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.hidden_dropout_prob,
                drop_path_rate=config.drop_path_rate * block / last,
            )
            for block in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def finish(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Average the patches of tokens (batch, 2 + bins * steps, width) over frequency: (batch, width, 1, steps)."""
        grid = self.norm(hidden_states)[:, 2:].unflatten(1, (self.patch_embeddings.num_bins, -1))
        return self.head_norm(grid.mean(1)).transpose(1, 2).unsqueeze(2)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        hidden_states, config = self.patch_embeddings(input_features), self.patch_embeddings.config
        dropped = config.time_patchout + config.frequency_patchout + config.unstructured_patchout
        patchout = self.training and dropped > 0
        if patchout:
            kept, nearest = self.patch_embeddings.patchout(hidden_states.device)
            hidden_states = torch.cat([hidden_states[:, :2], hidden_states[:, 2:][:, kept]], dim=1)
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        if patchout:
            hidden_states = torch.cat([hidden_states[:, :2], hidden_states[:, 2:][:, nearest]], dim=1)
        return self.finish(hidden_states)


def init_passt_weights(module: nn.Module) -> None:
    """Initialise what the generic initialisation of transformers does not cover."""
    if isinstance(module, PaSSTEmbeddings):
        for parameter in module.parameters(recurse=False):
            init.trunc_normal_(parameter, std=module.config.initializer_range)
