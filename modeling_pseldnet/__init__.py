"""PSELDNets: sound event localization and detection networks for transformers.

Importing this package registers its models and pipeline with transformers and AdapterBit with PEFT. The import is
cheap: heavy modules are loaded when a name is first used, and registration runs when those libraries are imported.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .tools.extras import require
from .tools.registration import register


if TYPE_CHECKING:
    from .adapterbit import AdapterBitConfig
    from .configuration_pseldnet import PSELDNetConfig
    from .events import Events, read_csv, write_csv
    from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
    from .inference import detect
    from .modeling_pseldnet import PSELDNetForSELD, PSELDNetModel, PSELDNetPreTrainedModel
    from .pipeline_pseldnet import SoundEventLocalizationAndDetectionPipeline
    from .tools.fine_tuning import DataCollatorForSELD, SELDMetrics
    from .tools.loading import load, load_for_transfer
    from .tools.published import load_published
    from .tools.stream import detect_stream


# A small network for 48 everyday sounds, trained on synthetic scenes; its README.md is its model card.
DEFAULT_MODEL = str(Path(__file__).parent / "default_model")
# The SELD metric, for `evaluate.load`.
SELD_METRIC = str(Path(__file__).parent / "tools" / "metrics" / "seld")

_MODULES = {
    "AdapterBitConfig": "adapterbit",
    "DataCollatorForSELD": "tools.fine_tuning",
    "Events": "events",
    "PSELDNetConfig": "configuration_pseldnet",
    "PSELDNetFeatureExtractor": "feature_extraction_pseldnet",
    "PSELDNetForSELD": "modeling_pseldnet",
    "PSELDNetModel": "modeling_pseldnet",
    "PSELDNetPreTrainedModel": "modeling_pseldnet",
    "SELDMetrics": "tools.fine_tuning",
    "SoundEventLocalizationAndDetectionPipeline": "pipeline_pseldnet",
    "detect": "inference",
    "detect_stream": "tools.stream",
    "load": "tools.loading",
    "load_published": "tools.published",
    "load_for_transfer": "tools.loading",
    "read_csv": "events",
    "write_csv": "events",
}

__all__ = ["DEFAULT_MODEL", "SELD_METRIC", *_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(require(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
