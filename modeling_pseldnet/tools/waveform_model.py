"""Features and network as one module, for export."""

import torch
from torch import nn

from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
from ..modeling_pseldnet import PSELDNetForSELD


class WaveformModel(nn.Module):
    """Features and network in one: waveforms (batch, audio channels, samples) to the format's outputs by name."""

    def __init__(self, model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor):
        super().__init__()
        self.model = model
        self.feature_extractor = feature_extractor

    def forward(self, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model.predict(self.feature_extractor.features(waveform))
