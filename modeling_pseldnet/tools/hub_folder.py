"""Hub folders: a model with its extractor, its code, its pipeline and a model card, complete for others to load."""

import os
from pathlib import Path

from transformers.dynamic_module_utils import custom_object_save

from ..configuration_pseldnet import PSELDNetConfig
from ..feature_extraction_pseldnet import FEATURE_TYPES, PSELDNetFeatureExtractor
from ..files import atomic_folder
from ..modeling_pseldnet import PSELDNetForSELD
from ..pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline


# As `Pipeline.save_pretrained` writes it.
CUSTOM_PIPELINES = {
    TASK: {
        "impl": f"pipeline_pseldnet.{SoundEventLocalizationAndDetectionPipeline.__name__}",
        "pt": ["AutoModelForAudioFrameClassification"],
        "type": "audio",
    }
}
# Fields of an extractor, and those of a network's config that must equal them.
FITTING = {
    "num_channels": "num_channels",
    "feature_size": "num_mel_bins",
    "sampling_rate": "sampling_rate",
    "hop_length": "hop_length",
}


def check_output(output: str | os.PathLike, overwrite: bool) -> None:
    """Refuses to replace a folder that is there and not empty, or a file, unless told to."""
    output = Path(output)
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose another folder, or replace it with --overwrite")


def save_hub_folder(
    model: PSELDNetForSELD,
    output: str | os.PathLike,
    card: str,
    feature_extractor: PSELDNetFeatureExtractor | None = None,
) -> None:
    """Writes a model with its extractor, its code, its pipeline and a card, whole or not at all.

    Args:
        model: the network.
        output: the folder to write.
        card: text of its README.
        feature_extractor: makes what the network takes; [`fitting_extractor`] by default.

    Raises:
        ValueError: the extractor does not fit the network.
    """
    extractor = feature_extractor or fitting_extractor(model.config)
    check_extractor(extractor, model.config)
    pipe = SoundEventLocalizationAndDetectionPipeline(model=model, feature_extractor=extractor, task=TASK)
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def add_pipeline(config: PSELDNetConfig, folder: str | os.PathLike) -> None:
    """Writes the code of the pipeline to a folder, and names it in the config, which is to be saved there too."""
    custom_object_save(SoundEventLocalizationAndDetectionPipeline, folder)
    config.custom_pipelines = CUSTOM_PIPELINES


def fitting_extractor(config: PSELDNetConfig) -> PSELDNetFeatureExtractor:
    """The extractor for a network: of the first feature type with so many channels, ambisonics where there are 7.

    Raises:
        ValueError: no feature type has so many channels.
    """
    fitting = [name for name, kind in FEATURE_TYPES.items() if kind.num_channels == config.num_channels]
    if not fitting:
        raise ValueError(
            f"no feature type has the {config.num_channels} channels of the model: give its feature extractor"
        )
    return PSELDNetFeatureExtractor(
        feature_size=config.num_mel_bins,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        feature_type=fitting[0],
    )


def check_extractor(extractor: PSELDNetFeatureExtractor, config: PSELDNetConfig) -> None:
    """Refuses an extractor whose features a network does not take.

    Raises:
        ValueError: they differ in channels, bins, sampling rate or hop; the message says where.
    """
    for name, of_network in FITTING.items():
        given, taken = getattr(extractor, name), getattr(config, of_network)
        if given != taken:
            raise ValueError(
                f"{extractor.feature_type} features with a {name} of {given} do not fit the model, which takes {taken}"
            )


def model_card(
    config: PSELDNetConfig,
    source: str,
    feature_extractor: PSELDNetFeatureExtractor | None = None,
    made: str = "Converted from",
) -> str:
    """The README of a model, with the metadata that the Hub reads.

    Args:
        config: of the model.
        source: what it was made from.
        feature_extractor: the one that is saved with it; [`fitting_extractor`] by default.
        made: how it was made from that.
    """
    audio = (feature_extractor or fitting_extractor(config)).audio
    labels = ", ".join(config.id2label.values())
    return f"""---
library_name: transformers
pipeline_tag: audio-classification
# license: fill in that of what the model was made from
tags:
- sound-event-localization-and-detection
- sound-event-detection
- direction-of-arrival
- spatial-audio
- pseldnet
---

# PSELDNet: {config.backbone}, {config.output_format}

Says what sounds in a recording, when, and from which direction, every 100 ms. {made} `{source}`; see
[PSELDNets: Pre-trained Neural Networks on a Large-scale Synthetic Dataset for Sound Event Localization and
Detection](https://arxiv.org/abs/2411.06399).

## Use

```python
from transformers import pipeline

detector = pipeline("{TASK}", model="this/repo", trust_remote_code=True)
for event in detector("recording.wav"):
    print(event["onset"], event["offset"], event["label"], event["azimuth"], event["elevation"])
```

`trust_remote_code=True` runs the code in this repository; with `import modeling_pseldnet` from the package `pseldnets`
it is not needed.

- Input: {audio} at {config.sampling_rate} Hz, in windows of up to {config.window_seconds} s; the
  pipeline resamples and cuts recordings of any length.
- Output: {config.num_labels} classes every 100 ms. Azimuth is counter-clockwise from the front in (-180, 180] degrees,
  elevation upwards in [-90, 90] degrees.
- Classes: {labels}.
"""
