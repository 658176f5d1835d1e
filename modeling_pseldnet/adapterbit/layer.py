"""The layers that AdapterBit adds to a model."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .config import AdapterBitConfig


class AdapterBitLayer(nn.Module, BaseTunerLayer):
    """Base class of the AdapterBit layers, which have one active adapter at a time."""

    # The base layer's device when the latest adapter was added.
    device: torch.device | None = None

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError(
                f"AdapterBit adapters have biases of their own: activate only one of {adapter_names} at a time"
            )
        super().set_adapter(adapter_names, inference_mode=inference_mode)

    def active_in(self, parts: nn.ModuleDict) -> str | None:
        """Return the name of the active adapter that has an entry in `parts`, if any."""
        if self.disable_adapters:
            return None
        return next((name for name in self.active_adapters if name in parts), None)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        for name in self.adapter_layer_names:
            parts = getattr(self, name)
            if adapter_name in parts:
                parts[adapter_name] = parts[adapter_name].to(device or self.device)


class AdapterBitBottleneck(AdapterBitLayer):
    """A module with a bottleneck in series (a residual branch on its output) or in parallel (fed with its input)."""

    adapter_layer_names = ("adapterbit_down", "adapterbit_up", "adapterbit_scale")
    other_param_names = ("fixed_scale",)

    def __init__(self, base_layer: nn.Module, beside: bool):
        super().__init__()
        self.base_layer = base_layer
        self.beside = beside
        self.fixed_scale: dict[str, float] = {}
        self.adapterbit_down = nn.ModuleDict()
        self.adapterbit_up = nn.ModuleDict()
        self.adapterbit_scale = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: AdapterBitConfig) -> None:
        """Add an adapter, which leaves the output unchanged until it is trained."""
        weights = [module.weight for module in self.base_layer.modules() if isinstance(module, nn.Linear)]
        if not weights:
            raise ValueError(
                f"no bottleneck fits a {type(self.base_layer).__name__}, which has no linear layer: name other modules"
            )
        width, self.device = weights[-1].shape[0], weights[-1].device
        bottleneck_width = config.bottleneck_width(width)
        down = nn.Linear(width, bottleneck_width, device=self.device)
        up = nn.Linear(bottleneck_width, width, device=self.device)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.adapterbit_down[adapter_name], self.adapterbit_up[adapter_name] = down, up
        if config.scale == "learnable":
            self.adapterbit_scale[adapter_name] = nn.Parameter(torch.tensor(0.1, device=self.device))
        else:
            self.fixed_scale[adapter_name] = config.scale

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """(…, width) to the same shape."""
        output = self.base_layer(hidden_states, *args, **kwargs)
        adapter = self.active_in(self.adapterbit_down)
        if adapter is None:
            return output
        down, up = self.adapterbit_down[adapter], self.adapterbit_up[adapter]
        scale = self.fixed_scale[adapter] if adapter in self.fixed_scale else self.adapterbit_scale[adapter]
        source = (hidden_states if self.beside else output).to(down.weight.dtype)
        return output + (scale * up(nn.functional.gelu(down(source)))).to(output.dtype)


class AdapterBitTensor(AdapterBitLayer):
    """Parametrization that gives each adapter its own copy of a bias or running statistic.

    The module's own tensor is left unchanged, so disabling the adapter restores the base model.
    """

    adapter_layer_names = ("adapterbit_tensor",)

    def __init__(self):
        super().__init__()
        self.adapterbit_tensor = nn.ModuleDict()

    def update_layer(self, adapter_name: str, original: torch.Tensor) -> None:
        """Add an adapter with a copy of the module's tensor, which becomes trainable when the adapter is activated."""
        self.device = original.device
        holder = nn.Module()
        if isinstance(original, nn.Parameter):
            holder.value = nn.Parameter(original.detach().clone(), requires_grad=False)
        else:
            holder.register_buffer("value", original.clone())
        self.adapterbit_tensor[adapter_name] = holder

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        adapter = self.active_in(self.adapterbit_tensor)
        # Not a copy: batch normalisation updates its statistics in place.
        return original if adapter is None else self.adapterbit_tensor[adapter].value.to(original.dtype)
