"""AdapterBit, the parameter-efficient fine-tuning method of PSELDNets (arXiv 2411.06399), for PEFT.

It trains a bottleneck after the output projection of each attention layer, one in parallel with each MLP, all biases
and the heads. Importing this package registers the method.
"""

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from .config import METHOD, PREFIX, AdapterBitConfig
from .layer import AdapterBitBottleneck, AdapterBitLayer, AdapterBitTensor
from .model import AdapterBitModel


if PeftType.ADAPTERBIT not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name=METHOD.lower(), config_cls=AdapterBitConfig, model_cls=AdapterBitModel, prefix=PREFIX)


__all__ = ["AdapterBitBottleneck", "AdapterBitConfig", "AdapterBitLayer", "AdapterBitModel", "AdapterBitTensor"]
