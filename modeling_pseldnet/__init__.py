"""PSELDNets: sound event localization and detection networks for transformers.

Importing this package registers its classes with the Auto classes and its pipeline.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioFrameClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_pseldnet import PSELDNetConfig
from .events import Events, read_csv, write_csv
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .inference import detect
from .modeling_pseldnet import PSELDNetForSELD, PSELDNetModel, PSELDNetPreTrainedModel
from .pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline
from .tools.loading import DEFAULT_MODEL, load
from .tools.peft_registration import register_adapterbit
from .tools.transfer import load_for_transfer


AutoConfig.register("pseldnet", PSELDNetConfig)
AutoFeatureExtractor.register(PSELDNetConfig, PSELDNetFeatureExtractor)
AutoModel.register(PSELDNetConfig, PSELDNetModel)
AutoModelForAudioFrameClassification.register(PSELDNetConfig, PSELDNetForSELD)
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=SoundEventLocalizationAndDetectionPipeline,
    pt_model=AutoModelForAudioFrameClassification,
    type="audio",
)

register_adapterbit()

# A saved model, config or extractor carries its code, so that it loads with `trust_remote_code=True` elsewhere.
PSELDNetConfig.register_for_auto_class()
PSELDNetFeatureExtractor.register_for_auto_class()
PSELDNetModel.register_for_auto_class("AutoModel")
PSELDNetForSELD.register_for_auto_class("AutoModelForAudioFrameClassification")


def __getattr__(name: str):
    # It takes PEFT, which not everybody has or needs.
    if name == "AdapterBitConfig":
        from .adapterbit import AdapterBitConfig

        return AdapterBitConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT_MODEL",
    "AdapterBitConfig",
    "Events",
    "PSELDNetConfig",
    "PSELDNetFeatureExtractor",
    "PSELDNetForSELD",
    "PSELDNetModel",
    "PSELDNetPreTrainedModel",
    "SoundEventLocalizationAndDetectionPipeline",
    "detect",
    "load",
    "load_for_transfer",
    "read_csv",
    "write_csv",
]
