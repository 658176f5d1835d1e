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
from .tools.loading import DEFAULT_MODEL
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

# A saved model, config or extractor carries its code, so that it loads with `trust_remote_code=True` elsewhere.
PSELDNetConfig.register_for_auto_class()
PSELDNetFeatureExtractor.register_for_auto_class()
PSELDNetModel.register_for_auto_class("AutoModel")
PSELDNetForSELD.register_for_auto_class("AutoModelForAudioFrameClassification")


__all__ = [
    "DEFAULT_MODEL",
    "Events",
    "PSELDNetConfig",
    "PSELDNetFeatureExtractor",
    "PSELDNetForSELD",
    "PSELDNetModel",
    "PSELDNetPreTrainedModel",
    "SoundEventLocalizationAndDetectionPipeline",
    "detect",
    "load_for_transfer",
    "read_csv",
    "write_csv",
]
