"""AdapterBit, the parameter-efficient fine-tuning of PSELDNets (arXiv 2411.06399), as a method of PEFT.

A bottleneck after the output projection of each attention and one beside each MLP are trained, with all biases and the
heads. Importing this module registers the method: do so before loading an adapter.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import ModelCard
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.integrations import skip_init_on_device
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn.utils import parametrize


METHOD = "ADAPTERBIT"
PREFIX = "adapterbit_"
# Buffers that training changes: the running statistics of batch normalisation.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _extend_peft_types() -> None:
    """Adds this method to the types that PEFT knows, which is an enumeration and so closed to others."""
    if METHOD in PeftType.__members__:
        return
    member = str.__new__(PeftType, METHOD)
    member._name_ = member._value_ = METHOD
    setattr(PeftType, METHOD, member)
    PeftType._member_names_.append(METHOD)
    PeftType._member_map_[METHOD] = PeftType._value2member_map_[METHOD] = member


_extend_peft_types()


@dataclass
class AdapterBitConfig(PeftConfig):
    r"""
    Configuration of [`AdapterBitModel`].

    Args:
        r (`int`, *optional*):
            Width of the bottlenecks; if `None`, `mlp_ratio` times the width of the place.
        mlp_ratio (`float`, *optional*, defaults to 0.5):
            Width of a bottleneck over the width of its place.
        scale (`float` or `"learnable"`, *optional*, defaults to 0.1):
            What a bottleneck's output is multiplied by; a learnable one starts at 0.1.
        positions (`list[str]`, *optional*, defaults to `["attention", "mlp"]`):
            Where the bottlenecks are: after the output projection of each attention, beside each MLP.
        attention_modules (`list[str]`, *optional*, defaults to `["attention.o_proj"]`):
            Suffixes of the names of the output projections.
        mlp_modules (`list[str]`, *optional*, defaults to `["mlp"]`):
            Suffixes of the names of the MLPs.
        modules_to_save (`list[str]`, *optional*):
            Modules trained whole; if `None`, the heads of a PSELDNet.

    Raises:
        ValueError: a value is out of range; the message names it.

    Example:

    ```python
    >>> from peft import get_peft_model
    >>> from transformers import AutoModelForAudioFrameClassification
    >>> import modeling_pseldnet
    >>> from training.adapterbit import AdapterBitConfig

    >>> model = AutoModelForAudioFrameClassification.from_pretrained("path/or/repo")
    >>> model = get_peft_model(model, AdapterBitConfig())
    >>> model.print_trainable_parameters()
    ```
    """

    r: int | None = None
    mlp_ratio: float = 0.5
    scale: float | Literal["learnable"] = 0.1
    positions: list[str] = field(default_factory=lambda: ["attention", "mlp"])
    attention_modules: list[str] = field(default_factory=lambda: ["attention.o_proj"])
    mlp_modules: list[str] = field(default_factory=lambda: ["mlp"])
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.ADAPTERBIT
        if not self.positions or not set(self.positions) <= {"attention", "mlp"}:
            raise ValueError(f"positions are {self.positions}: take 'attention', 'mlp' or both")
        if self.r is not None and self.r < 1:
            raise ValueError(f"r is {self.r}: a bottleneck has a width of at least 1")
        if self.r is None and not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: take a number above 0")
        if isinstance(self.scale, str) and self.scale != "learnable":
            raise ValueError(f"scale is {self.scale!r}: take a number or 'learnable'")

    @property
    def target_modules(self) -> set[str]:
        """Suffixes of the names of all modules that get a bottleneck."""
        suffixes = {"attention": self.attention_modules, "mlp": self.mlp_modules}
        return {suffix for position in self.positions for suffix in suffixes[position]}

    def bottleneck_width(self, width: int) -> int:
        """Width of the bottleneck at a place of this width."""
        return self.r if self.r is not None else max(int(width * self.mlp_ratio), 1)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves the configuration, and says in the folder's README how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        readme = Path(save_directory) / "README.md"
        card = ModelCard.load(readme) if readme.exists() else ModelCard("---\nlibrary_name: peft\n---\n")
        if USAGE_HEADING in card.text:
            return
        usage = USAGE.format(base=self.base_model_name_or_path or "the/base/model")
        # What PEFT writes is a form to be filled in.
        card.text = usage if "[More Information Needed]" in card.text else f"{card.text.rstrip()}\n\n{usage}"
        card.save(readme)


USAGE_HEADING = "# Loading this AdapterBit adapter"
USAGE = f"""{USAGE_HEADING}

The adapter holds bottlenecks, biases, batch-norm statistics and heads for a
[PSELDNet](https://arxiv.org/abs/2411.06399). PEFT knows the method once `training.adapterbit` of the package
`pseldnets` is imported; without that import, loading ends in `KeyError: 'ADAPTERBIT'`.

```python
import modeling_pseldnet
import training.adapterbit
from peft import PeftModel
from transformers import AutoModelForAudioFrameClassification

model = AutoModelForAudioFrameClassification.from_pretrained("{{base}}")
model = PeftModel.from_pretrained(model, "this/repo")  # or model.load_adapter("this/repo")
```
"""


class AdapterBitLayer(nn.Module, BaseTunerLayer):
    """What the two kinds of layers of this method share: an adapter's parts replace one another, so one is active."""

    # Of the base model when an adapter was added last.
    device: torch.device | None = None

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError(f"each AdapterBit adapter has its own biases: activate one of {adapter_names} at a time")
        super().set_adapter(adapter_names, inference_mode=inference_mode)

    def active_in(self, parts: nn.ModuleDict) -> str | None:
        """Name of the adapter that is in use, if it has an entry in `parts`."""
        if self.disable_adapters:
            return None
        return next((name for name in self.active_adapters if name in parts), None)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        for name in self.adapter_layer_names:
            parts = getattr(self, name)
            if adapter_name in parts:
                parts[adapter_name] = parts[adapter_name].to(device or self.device)


class AdapterBitBottleneck(AdapterBitLayer):
    """A module with a bottleneck after it (a residual branch on its output) or beside it (on its input)."""

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
        """Adds an adapter, which changes nothing until it is trained."""
        weights = [module.weight for module in self.base_layer.modules() if isinstance(module, nn.Linear)]
        if not weights:
            raise ValueError(
                f"a {type(self.base_layer).__name__} holds no linear layer that a bottleneck could follow"
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
    """A parametrization of a bias or a running statistic, of which each adapter has its own.

    The module's own tensor stays as it is, so that without an adapter the model is the base model.
    """

    adapter_layer_names = ("adapterbit_tensor",)

    def __init__(self):
        super().__init__()
        self.adapterbit_tensor = nn.ModuleDict()

    def update_layer(self, adapter_name: str, original: torch.Tensor) -> None:
        """Adds an adapter, whose tensor starts as the module's own; it is trained once the adapter is active."""
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


def _own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of the model itself: none of an adapter's, none that is trained whole."""
    if isinstance(module, AuxiliaryTrainingWrapper | parametrize.ParametrizationList):
        return
    yield module
    for name, child in module.named_children():
        if not name.startswith(PREFIX):
            yield from _own_modules(child)


def _parametrizations(model: nn.Module) -> Iterator[tuple[nn.Module, str, parametrize.ParametrizationList]]:
    """The tensors of which each adapter has its own: the module, the name of the tensor, its parametrizations."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name, parametrizations in list(module.parametrizations.items()):
                if isinstance(parametrizations[0], AdapterBitTensor):
                    yield module, name, parametrizations


def _gather_recurrent_weights(module: nn.RNNBase, _) -> None:
    """Renews the list of its weights that a recurrent layer computes with."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


class AdapterBitModel(BaseTuner):
    """
    A model with AdapterBit adapters, each with its own bottlenecks, biases, running statistics and heads.

    Adapters lie side by side and one is active at a time; `disable_adapter()` gives exactly the base model. The
    bottlenecks are not linear, so an adapter cannot be merged into the base model.

    Args:
        model (`torch.nn.Module`): the model to be adapted.
        config (`dict[str, AdapterBitConfig]`): the configurations by adapter.
        adapter_name (`str`): the adapter to add.
    """

    prefix = PREFIX
    tuner_layer_cls = AdapterBitLayer

    def _prepare_adapter_config(self, peft_config: AdapterBitConfig, model_config: dict) -> AdapterBitConfig:
        if peft_config.modules_to_save is None:
            peft_config.modules_to_save = [f"heads.{name}" for name in getattr(self.model, "heads", {})]
        return peft_config

    def _prepare_model(self, peft_config: AdapterBitConfig, model: nn.Module) -> None:
        if not any(self._check_target_module_exists(peft_config, name) for name, _ in model.named_modules()):
            raise ValueError(
                f"the model has no module named {' or '.join(sorted(peft_config.target_modules))}: AdapterBit is for"
                " transformers such as HTS-AT and PaSST; name other places with attention_modules and mlp_modules"
            )

    def _create_and_replace(
        self,
        peft_config: AdapterBitConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if not isinstance(target, AdapterBitBottleneck):
            beside = f".{current_key}".endswith(tuple(f".{suffix}" for suffix in peft_config.mlp_modules))
            base_layer, target = target, AdapterBitBottleneck(target, beside)
            self._replace_module(parent, target_name, target, base_layer)
        target.update_layer(adapter_name, peft_config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own expects a module with a weight, which an MLP has not.
        setattr(parent, child_name, new_module)

    # The base's own tensors are registered anew, and must not become empty with `low_cpu_mem_usage`.
    @skip_init_on_device
    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for module in list(_own_modules(model)):
            biases = [name for name, _ in module.named_parameters(recurse=False) if "bias" in name]
            statistics = [name for name, _ in module.named_buffers(recurse=False) if name in STATISTICS]
            if biases and isinstance(module, nn.RNNBase):
                module.register_forward_pre_hook(_gather_recurrent_weights)
            for name in biases + statistics:
                parametrize.register_parametrization(module, name, AdapterBitTensor(), unsafe=True)
        for _, _, parametrizations in _parametrizations(model):
            parametrizations[0].update_layer(adapter_name, parametrizations.original)
        if adapter_name in self.active_adapters:
            # Once more, for what has been added since, and for heads that PEFT leaves inactive with a second adapter.
            self.set_adapter(adapter_name, inference_mode=self.peft_config[adapter_name].inference_mode)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(
            "AdapterBit bottlenecks are not linear and cannot be merged: keep the adapter beside"
        )

    def unload(self) -> nn.Module:
        """The base model, as it was before the first adapter."""
        for module, name, _ in _parametrizations(self.model):
            # The class is changed, and deep copies share it.
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        for module in self.model.modules():
            if isinstance(module, AuxiliaryTrainingWrapper):
                module.set_adapter([])
        return super().unload()


if PeftType.ADAPTERBIT not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name=METHOD.lower(), config_cls=AdapterBitConfig, model_cls=AdapterBitModel, prefix=PREFIX)
