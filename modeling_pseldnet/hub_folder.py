"""Hub folders: a model with its extractor, its code, its pipeline and a model card, complete for others to load."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import yaml_dump
from transformers import PreTrainedModel

from .adapters import place_of
from .configuration_pseldnet import PSELDNetConfig
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .files import atomic_folder, write_atomically
from .fitting import adopt_extractor, check_extractor, fitting_extractor, fitting_types
from .pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline


# The code of a model, pipeline and all: every module of this folder, where it is that of the package, and every one
# that this module leads to, where transformers has fetched the code of a model.
CODE = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != "__init__.py")
# What the code imports.
PACKAGES = ("numpy", "soundfile", "torch", "transformers")
# What transformers and PEFT write where there is no card, and what `Trainer` does.
FORM = re.compile(r"\[More Information Needed\]|^More information needed$", re.MULTILINE)
# What is kept of a card of `Trainer`: what it scored, and how it was trained.
KEPT = re.compile(r"^It achieves the following .*?(?=^## )|^## Training procedure$.*", re.MULTILINE | re.DOTALL)
# What is kept of the metadata of a form: what `push_to_hub` has been given.
GIVEN = ("license", "language", "datasets", "tags")
# What a model is tagged with on the Hub.
TAGS = [TASK, "sound-event-detection", "direction-of-arrival", "spatial-audio", "pseldnet"]
# As `Pipeline.save_pretrained` writes it.
CUSTOM_PIPELINES = {
    TASK: {
        "impl": f"pipeline_pseldnet.{SoundEventLocalizationAndDetectionPipeline.__name__}",
        "pt": ["AutoModelForAudioFrameClassification"],
        "type": "audio",
    }
}
# What directions mean, by the axes of the vectors that a network tells.
DIRECTIONS = {
    2: """Azimuth is counter-clockwise from the front, in degrees in [-90, 90], as
  two channels only tell left from right; elevation is 0.""",
    3: """Azimuth is counter-clockwise from the front in (-180, 180] degrees,
  elevation upwards in [-90, 90] degrees.""",
}


def check_output(output: str | os.PathLike, overwrite: bool, made_from: str | os.PathLike | None = None) -> None:
    """Refuses to replace a folder that is there and not empty, or a file, unless told to; never what is read.

    Raises:
        FileExistsError: it is there.
        ValueError: what the output is `made_from` lies in it.
    """
    output = Path(output)
    if made_from is not None and Path(made_from).resolve().is_relative_to(output.resolve()):
        raise ValueError(f"{made_from} lies in {output}, which would be replaced: give another folder")
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose another folder, or replace it with --overwrite")


def save_hub_folder(
    model: PreTrainedModel,
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
    with atomic_folder(output) as folder:
        (folder / "README.md").write_text(card, encoding="utf-8")
        extractor.save_pretrained(folder)
        model.save_pretrained(folder)


def complete_folder(model: PreTrainedModel, folder: str | os.PathLike, name: str | None = None) -> None:
    """Adds to a model that has been saved what it takes to load it by every way: code, pipeline, extractor and card.

    An extractor that is there and fits stays, as does a card, but for a form that nobody has filled in, of which the
    metadata stays.

    Args:
        model: what was saved.
        folder: where.
        name: of the repository that the folder is for.
    """
    folder = Path(folder)
    for module in CODE:
        if not (folder / module.name).exists() or not (folder / module.name).samefile(module):
            shutil.copyfile(module, folder / module.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("custom_pipelines") != CUSTOM_PIPELINES:
        config["custom_pipelines"] = CUSTOM_PIPELINES
        write_atomically(folder / "config.json", json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    extractor = _save_extractor(model.config, folder)
    _complete_card(model.config, folder / "README.md", extractor, name)


def _complete_card(
    config: PSELDNetConfig, path: Path, extractor: PSELDNetFeatureExtractor | None, name: str | None
) -> None:
    """Writes a card where there is none, or but a form; its metadata and what `Trainer` says of training stay."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not FORM.search(text):
        return
    metadata = _given_metadata(path) if text else None
    card = model_card(config, feature_extractor=extractor, name=name, metadata=metadata)
    kept = "\n\n".join(part.strip() for part in KEPT.findall(text))
    write_atomically(path, f"{card}\n## Training\n\n{kept}\n" if kept else card)


def _given_metadata(path: Path) -> dict[str, Any]:
    """What the metadata of a form says that only its user can know."""
    try:
        metadata = metadata_load(path) or {}
    except Exception:
        # Whatever is there may be broken in any way.
        return {}
    return {key: metadata[key] for key in GIVEN if metadata.get(key)}


def save_for_adapter(config: PSELDNetConfig, folder: str | os.PathLike) -> None:
    """Saves with an adapter what its classes are, by the config of the whole, and the feature extractor."""
    config.save_pretrained(folder)
    _save_extractor(config, Path(folder))


def take_pushed_extractor(config: PSELDNetConfig, folder: str | os.PathLike, name: str, **options) -> None:
    """Puts into a folder that is to be uploaded the extractor of the repository, if there is one that fits a model.

    Args:
        name: of the repository.
        options: of loading, such as `token`.
    """
    extractor = _extractor_at(name, config, local_files_only=False, **options)
    if extractor is not None:
        extractor.save_pretrained(folder)


def adopt_saved_extractor(config: PSELDNetConfig, place: str | os.PathLike, **options) -> None:
    """Has a config say what features its network takes, by the extractor that is saved with that, if one is.

    Args:
        place: folder or Hub repository.
        options: of loading, such as `subfolder`.
    """
    extractor = _extractor_at(place, config, **{"local_files_only": False, **options})
    if extractor is not None:
        adopt_extractor(config, extractor)


def is_default_extractor(folder: str | os.PathLike, config: PSELDNetConfig) -> bool:
    """Whether the extractor in a folder, if any, is the one that a network gets for want of another."""
    extractor = _extractor_at(folder, config)
    if extractor is None:
        return True
    default = fitting_extractor(config)
    return (extractor.feature_type, extractor.n_fft) == (default.feature_type, default.n_fft)


def _save_extractor(config: PSELDNetConfig, folder: Path) -> PSELDNetFeatureExtractor | None:
    """Saves the extractor in a folder, or else the one that a model was loaded with or one that fits."""
    extractor = _extractor_at(folder, config) or _extractor_at(place_of(config.name_or_path), config)
    if extractor is None and fitting_types(config):
        extractor = fitting_extractor(config)
    if extractor is not None:
        # One that is there too, as an upload leaves out what has not been written anew.
        extractor.save_pretrained(folder)
    return extractor


def _extractor_at(
    place: str | os.PathLike | None, config: PSELDNetConfig, local_files_only: bool = True, **options
) -> PSELDNetFeatureExtractor | None:
    """The feature extractor in a folder or on the Hub, by default in its cache, if there is one that fits a model."""
    try:
        extractor = PSELDNetFeatureExtractor.from_pretrained(place, local_files_only=local_files_only, **options)
        check_extractor(extractor, config)
    except Exception:
        # Whatever is there may be broken in any way.
        return None
    return extractor


def model_card(
    config: PSELDNetConfig,
    source: str | None = None,
    feature_extractor: PSELDNetFeatureExtractor | None = None,
    made: str = "Converted from",
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """The README of a model, with the metadata that the Hub reads.

    Args:
        config: of the model.
        source: what it was made from, if that is to be said.
        feature_extractor: the one that is saved with it; [`fitting_extractor`] by default.
        made: how it was made from that.
        name: of the repository that it is for.
        metadata: more for the Hub to read, such as a `license`.
    """
    extractor = feature_extractor or (fitting_extractor(config) if fitting_types(config) else None)
    audio = extractor.audio if extractor else f"audio whose features have {config.num_channels} channels"
    labels = ", ".join(str(label) for label in config.id2label.values())
    origin = f"{made} `{source}`; see" if source else "See"
    header = {"library_name": "transformers", "pipeline_tag": "audio-classification", **(metadata or {})}
    header["tags"] = list(dict.fromkeys([*TAGS, *header.get("tags", ())]))
    licence = "" if "license" in header else "# license: fill in the licence of what the model was made from\n"
    metres = " Distance is in metres." if config.distance else ""
    return f"""---
{yaml_dump(header, sort_keys=False)}{licence}---

# PSELDNet: {config.backbone}, {config.output_format}

This model tells, every 100 ms, which sounds are active in a recording and from which direction.

{origin}
[PSELDNets: Pre-trained Neural Networks on a Large-scale Synthetic Dataset for Sound Event Localization and
Detection](https://arxiv.org/abs/2411.06399).

## Use

```python
from transformers import pipeline

detector = pipeline("{TASK}", model="{name or "this/repo"}", trust_remote_code=True)
for event in detector("recording.wav"):
    print(event["onset"], event["offset"], event["label"], event["azimuth"], event["elevation"])
```

`trust_remote_code=True` runs the code in this repository, which needs the packages {", ".join(PACKAGES)}.
You do not need it if you install the package `pseldnets` and `import modeling_pseldnet` first.

- Input: {audio} at {config.sampling_rate} Hz, in windows of up to {config.window_seconds} s. The
  pipeline resamples recordings and takes any length.
- Output: {config.num_labels} classes every 100 ms. {DIRECTIONS[config.num_axes]}{metres}
- Classes: {labels}.
"""
