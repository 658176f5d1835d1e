"""A model with AdapterBit adapters."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.integrations import skip_init_on_device
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn.utils import parametrize

from .config import PREFIX, AdapterBitConfig
from .layer import AdapterBitBottleneck, AdapterBitLayer, AdapterBitTensor


# Buffers that change during training: the running statistics of batch normalisation.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the model's own modules, without those of adapters and those trained in full."""
    if isinstance(module, AuxiliaryTrainingWrapper | parametrize.ParametrizationList):
        return
    yield module
    for name, child in module.named_children():
        if not name.startswith(PREFIX):
            yield from _own_modules(child)


def _parametrizations(model: nn.Module) -> Iterator[tuple[nn.Module, str, parametrize.ParametrizationList]]:
    """Yield the tensors that each adapter has a copy of: the module, the tensor's name, its parametrizations."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name, parametrizations in list(module.parametrizations.items()):
                if isinstance(parametrizations[0], AdapterBitTensor):
                    yield module, name, parametrizations


def _gather_recurrent_weights(module: nn.RNNBase, _) -> None:
    """Refresh the list of weights that a recurrent layer computes with."""
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


class AdapterBitModel(BaseTuner):
    """
    A model with AdapterBit adapters, each with its own bottlenecks, biases, running statistics and heads.

    A model can hold several adapters, of which one is active at a time; `disable_adapter()` gives exactly the base
    model. The bottlenecks are not linear, so an adapter cannot be merged into the base model.

    Args:
        model (`torch.nn.Module`): the model to adapt.
        config (`dict[str, AdapterBitConfig]`): the configuration of each adapter, by name.
        adapter_name (`str`): the adapter to add.
    """

    prefix = PREFIX
    tuner_layer_cls = AdapterBitLayer

    def _prepare_adapter_config(self, peft_config: AdapterBitConfig, model_config: dict) -> AdapterBitConfig:
        if peft_config.modules_to_save is None:
            peft_config.modules_to_save = [
                f"heads.{name}" for name, _ in getattr(self.model, "heads", nn.Module()).named_children()
            ]
        return peft_config

    def _prepare_model(self, peft_config: AdapterBitConfig, model: nn.Module) -> None:
        if not any(self._check_target_module_exists(peft_config, name) for name, _ in model.named_modules()):
            raise ValueError(
                f"the model has no module named {' or '.join(sorted(peft_config.target_modules))}: AdapterBit fits"
                " transformers such as HTS-AT and PaSST; for others, set attention_modules and mlp_modules"
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
        # PEFT's own method expects a module with a weight, which an MLP does not have.
        setattr(parent, child_name, new_module)

    # The base model's tensors are registered again, and must not become empty with `low_cpu_mem_usage`.
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
            # Again, for the layers added above and for heads that PEFT leaves inactive with a second adapter.
            self.set_adapter(adapter_name, inference_mode=self.peft_config[adapter_name].inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs) -> Iterator[None]:
        # PEFT drops this argument, and would use the active adapter for the whole batch.
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "AdapterBit cannot use several adapters in one batch (adapter_names): call set_adapter, then the model"
            )
        yield

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(
            "AdapterBit bottlenecks are not linear and cannot be merged: keep the adapter separate"
        )

    def unload(self) -> nn.Module:
        """Return the base model as it was before the first adapter."""
        for module, name, _ in _parametrizations(self.model):
            # Removing a parametrization changes the class, which deep copies share.
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        for module in self.model.modules():
            if isinstance(module, AuxiliaryTrainingWrapper):
                module.set_adapter([])
        return super().unload()
