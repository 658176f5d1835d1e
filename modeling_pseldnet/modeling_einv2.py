"""The two branches of EINV2, one for the class and one for the direction, with cross-stitch between them.

Cao et al., "An improved event-independent network for polyphonic sound event localization and detection", ICASSP 2021.
"""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_pseldnet import PSELDNetConfig
from .modeling_layers import Decoder
from .tracks import NUM_TRACKS


# The log-mel spectrograms of the four microphones or ambisonic channels are the first feature channels.
NUM_SED_CHANNELS = 4


class CrossStitch(nn.Module):
    """Mix two branches with learnt weights for each channel (Misra et al., CVPR 2016)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 2, 2))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tensors (batch, tokens, width) or (batch, width, …) to the same shapes."""
        weight = self.weight.permute(1, 2, 0)
        if first.ndim > 3:
            weight = weight[..., None, None]
        first = weight[0, 0] * first + weight[0, 1] * second
        # Published weights were trained with the second output computed from the first output, not the first input.
        second = weight[1, 0] * first + weight[1, 1] * second
        return first, second


class EINV2Encoder(nn.Module):
    """EINV2 encoder: normalised features (batch, channels, frames, mel bins) to a feature map for each branch by name.

    The SED branch takes only the log-mel spectrograms, the DOA branch all channels. The keys of `stitches` are the
    stages before which the branches are mixed.
    """

    def __init__(self, config: PSELDNetConfig, encoder: type[nn.Module]):
        super().__init__()
        self.sed = encoder(config, min(NUM_SED_CHANNELS, config.num_channels))
        self.doa = encoder(config, config.num_channels)
        self.hidden_size, self.time_reduction = self.sed.hidden_size, self.sed.time_reduction
        self.stitches = nn.ModuleDict(
            {str(stage): CrossStitch(width) for stage, width in self.sed.stitch_widths.items()}
        )

    def forward(self, input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        sed = self.sed.patch_embeddings(input_features[:, :NUM_SED_CHANNELS])
        doa = self.doa.patch_embeddings(input_features)
        for stage, (sed_stage, doa_stage) in enumerate(zip(self.sed.stages, self.doa.stages, strict=True)):
            if str(stage) in self.stitches:
                sed, doa = self.stitches[str(stage)](sed, doa)
            sed, doa = sed_stage(sed), doa_stage(doa)
        return {"sed": self.sed.finish(sed), "doa": self.doa.finish(doa)}


class EINV2Decoder(nn.Module):
    """A decoder for each track of each branch, with cross-stitch between the branches of a track."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        self.sed = nn.ModuleList(Decoder(config, width) for _ in range(NUM_TRACKS))
        self.doa = nn.ModuleList(Decoder(config, width) for _ in range(NUM_TRACKS))
        self.stitches = nn.ModuleList(CrossStitch(width) for _ in range(NUM_TRACKS))

    def forward(self, feature_maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Feature maps (batch, width, bins, time) by branch to maps (batch, tracks * width, …)."""
        tracks = [
            stitch(sed_decoder(feature_maps["sed"]), doa_decoder(feature_maps["doa"]))
            for stitch, sed_decoder, doa_decoder in zip(self.stitches, self.sed, self.doa, strict=True)
        ]
        sed, doa = (torch.cat(branch, dim=1) for branch in zip(*tracks, strict=True))
        return {"sed": sed, "doa": doa}


class EINV2Head(nn.Sequential):
    """A linear layer for each track; not a `ModuleList`, so that PEFT can train and save it as one module."""

    def __init__(self, config: PSELDNetConfig, hidden_size: int, num_outputs: int):
        super().__init__(*(nn.Linear(hidden_size, num_outputs // NUM_TRACKS) for _ in range(NUM_TRACKS)))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, tracks * width, bins, time) to (batch, time, outputs), track by track."""
        tracks = feature_map.mean(2).transpose(1, 2).chunk(NUM_TRACKS, dim=-1)
        return torch.cat([linear(track) for linear, track in zip(self, tracks, strict=True)], dim=-1)


def init_einv2_weights(module: nn.Module) -> None:
    """Initialise what the generic initialisation of transformers does not cover."""
    if isinstance(module, CrossStitch):
        init.uniform_(module.weight, 0.1, 0.9)
