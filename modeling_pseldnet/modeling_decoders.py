"""What may follow an encoder: decoders, which are sequence models over time, and the linear head."""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_pseldnet import PSELDNetConfig
from .modeling_conformer import ConformerBlock
from .modeling_transformer import TransformerBlock


class GRUDecoder(nn.GRU):
    """Gated recurrent units that run forwards and backwards, each half as wide as their input."""

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
        return super().forward(hidden_states)[0]


class ConformerDecoder(nn.Sequential):
    """Conformer blocks."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__(*(ConformerBlock(config, width) for _ in range(config.decoder_layers)))


class TransformerDecoder(nn.Sequential):
    """Transformer blocks; the order of the states is for the encoder to tell."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__(
            *(
                TransformerBlock(config, width, config.decoder_attention_heads, config.decoder_dropout_prob)
                for _ in range(config.decoder_layers)
            )
        )


DECODERS = {"gru": GRUDecoder, "conformer": ConformerDecoder, "transformer": TransformerDecoder}


class Decoder(nn.Module):
    """The decoder that `config` names, if any, over the time of a feature map."""

    def __init__(self, config: PSELDNetConfig, width: int):
        super().__init__()
        self.layers = DECODERS[config.decoder](config, width) if config.decoder != "none" else None

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, width, bins, time) to (batch, width, 1, time), or as it is where there is no decoder."""
        if self.layers is None:
            return feature_map
        return self.layers(feature_map.mean(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2)


class LinearHead(nn.Linear):
    """One linear layer for each step of time."""

    def __init__(self, config: PSELDNetConfig, hidden_size: int, num_outputs: int):
        super().__init__(hidden_size, num_outputs)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(batch, width, bins, time) to (batch, time, outputs)."""
        return super().forward(feature_map.mean(2).transpose(1, 2))


def init_decoder_weights(module: nn.Module) -> None:
    """Fills what the generic initialisation of transformers does not know."""
    if isinstance(module, GRUDecoder):
        for parameter in module.parameters():
            init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
