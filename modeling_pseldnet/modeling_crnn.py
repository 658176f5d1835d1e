"""Convolutional recurrent networks: a stack of convolution blocks, followed by a decoder over time.

The blocks are those of Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern
recognition", TASLP 2020; six of them with a conformer are the CNN14-Conformer of PSELDNets (arXiv 2411.06399).
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_pseldnet import PSELDNetConfig
from .modeling_layers import BatchNorm


# How many of the first blocks halve time and frequency. Fewer halve time than in PANNs, which leaves steps of 80 ms.
NUM_TIME_POOLINGS, NUM_FREQUENCY_POOLINGS = 3, 5


class CRNNBlock(GradientCheckpointingLayer):
    """Two convolutions with batch norm and ReLU, then average pooling by `pool` (time, frequency)."""

    def __init__(self, in_width: int, width: int, pool: tuple[int, int]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(width)
        self.pool = pool

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, width, time, frequency) to the same axes, pooled."""
        hidden_states = nn.functional.relu(self.bn1(self.conv1(hidden_states)))
        hidden_states = nn.functional.relu(self.bn2(self.conv2(hidden_states)))
        return nn.functional.avg_pool2d(hidden_states, self.pool)


class CRNNEncoder(nn.Module):
    """CRNN encoder: normalised features (batch, channels, frames, mel bins) to a feature map (batch, width, 1, time).

    A time step of the feature map spans `time_reduction` feature frames.
    """

    interpolation = "nearest"

    def __init__(self, config: PSELDNetConfig, num_channels: int):
        super().__init__()
        widths = config.hidden_sizes
        self.hidden_size = widths[-1]
        self.time_reduction = 2 ** min(NUM_TIME_POOLINGS, len(widths))
        self.stitch_widths = dict(enumerate(widths[:-1], start=1))
        self.patch_embeddings = nn.Identity()
        self.stages = nn.ModuleList(
            CRNNBlock(
                in_width,
                width,
                pool=(2 if block < NUM_TIME_POOLINGS else 1, 2 if block < NUM_FREQUENCY_POOLINGS else 1),
            )
            for block, (in_width, width) in enumerate(zip([num_channels, *widths[:-1]], widths, strict=True))
        )

    def finish(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Average the last states (batch, width, time, frequency) over frequency: (batch, width, 1, time)."""
        return hidden_states.mean(3).unsqueeze(2)

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        hidden_states = self.patch_embeddings(input_features)
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        return self.finish(hidden_states)
