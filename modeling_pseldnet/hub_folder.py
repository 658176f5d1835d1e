"""Hub folders: a model with its extractor, code, pipeline and model card, all that others need to load it."""

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


# The code saved with a model: all modules of this folder, which is that of the package or, for remote code, the one to
# which transformers copied this module and its imports.
CODE = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != "__init__.py")
# Packages that the code imports.
PACKAGES = ("numpy", "soundfile", "torch", "transformers")
# Placeholders in the card templates of transformers and PEFT, and in that of `Trainer`.
FORM = re.compile(r"\[More Information Needed\]|^More information needed$", re.MULTILINE)
# Parts of `Trainer`'s card that are kept: its scores, and how it was trained.
KEPT = re.compile(r"^It achieves the following .*?(?=^## )|^## Training procedure$.*", re.MULTILINE | re.DOTALL)
# Metadata kept from a template: what users pass to `push_to_hub`.
GIVEN = ("license", "language", "datasets", "tags")
# Tags of a model on the Hub.
TAGS = [TASK, "sound-event-detection", "direction-of-arrival", "spatial-audio", "pseldnet"]
# As `Pipeline.save_pretrained` writes it.
CUSTOM_PIPELINES = {
    TASK: {
        "impl": f"pipeline_pseldnet.{SoundEventLocalizationAndDetectionPipeline.__name__}",
        "pt": ["AutoModelForAudioFrameClassification"],
        "type": "audio",
    }
}
# How directions are defined, by the number of axes of a network's vectors.
DIRECTIONS = {
    2: """Azimuth is counter-clockwise from the front, in degrees in [-90, 90], as
  two channels only tell left from right; elevation is 0.""",
    3: """Azimuth is counter-clockwise from the front in (-180, 180] degrees,
  elevation upwards in [-90, 90] degrees.""",
}


def check_output(output: str | os.PathLike, overwrite: bool, made_from: str | os.PathLike | None = None) -> None:
    """Check that writing `output` replaces no file or non-empty folder, unless `overwrite`, and never its own input.

    Raises:
        FileExistsError: `output` exists.
        ValueError: `made_from`, the input, lies in `output`.
    """
    output = Path(output)
    if made_from is not None and Path(made_from).resolve().is_relative_to(output.resolve()):
        raise ValueError(f"{made_from} lies in {output}, which would be replaced: give another folder")
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} already exists: choose another folder, or replace it with --overwrite")


def save_hub_folder(
    model: PreTrainedModel,
    output: str | os.PathLike,
    card: str,
    feature_extractor: PSELDNetFeatureExtractor | None = None,
) -> None:
    """Write a model with its extractor, code, pipeline and card, whole or not at all.

    Args:
        model: the network.
        output: the folder to write.
        card: text of its README.
        feature_extractor: the network's extractor. Defaults to [`fitting_extractor`].

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
    """Add to a saved model what is needed to load it in every way: code, pipeline, extractor and card.

    An existing extractor that fits is kept, and so is a card; of an unfilled template only the metadata is kept.

    Args:
        model: the model that was saved.
        folder: the folder it was saved to.
        name: name of the repository that the folder is for.
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
    """Write a card if there is none or only a template, whose metadata and `Trainer` report are kept."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not FORM.search(text):
        return
    metadata = _given_metadata(path) if text else None
    card = model_card(config, feature_extractor=extractor, name=name, metadata=metadata)
    kept = "\n\n".join(part.strip() for part in KEPT.findall(text))
    write_atomically(path, f"{card}\n## Training\n\n{kept}\n" if kept else card)


def _given_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a template that only the user can have provided."""
    try:
        metadata = metadata_load(path) or {}
    except Exception:
        # The file may be broken in any way.
        return {}
    return {key: metadata[key] for key in GIVEN if metadata.get(key)}


def save_for_adapter(config: PSELDNetConfig, folder: str | os.PathLike) -> None:
    """Save the model's config, which names the classes, and the feature extractor with an adapter."""
    config.save_pretrained(folder)
    _save_extractor(config, Path(folder))


def take_pushed_extractor(config: PSELDNetConfig, folder: str | os.PathLike, name: str, **options) -> None:
    """Copy the extractor of a repository, if it has one that fits the model, into a folder to be uploaded.

    Args:
        name: name of the repository.
        options: loading options, such as `token`.
    """
    extractor = _extractor_at(name, config, local_files_only=False, **options)
    if extractor is not None:
        extractor.save_pretrained(folder)


def adopt_saved_extractor(config: PSELDNetConfig, place: str | os.PathLike, **options) -> None:
    """Set the features of a config to those of the extractor that is saved with it, if there is one.

    Args:
        config: config of the network; it is changed.
        place: folder or Hub repository.
        options: loading options, such as `subfolder`.
    """
    extractor = _extractor_at(place, config, **{"local_files_only": False, **options})
    if extractor is not None:
        adopt_extractor(config, extractor)


def is_default_extractor(folder: str | os.PathLike, config: PSELDNetConfig) -> bool:
    """Whether a folder has no fitting extractor, or only the one that a network gets by default."""
    extractor = _extractor_at(folder, config)
    if extractor is None:
        return True
    default = fitting_extractor(config)
    return (extractor.feature_type, extractor.n_fft) == (default.feature_type, default.n_fft)


def _save_extractor(config: PSELDNetConfig, folder: Path) -> PSELDNetFeatureExtractor | None:
    """Save the extractor already in a folder, or else the one that the model was loaded with, or one that fits."""
    extractor = _extractor_at(folder, config) or _extractor_at(place_of(config.name_or_path), config)
    if extractor is None and fitting_types(config):
        extractor = fitting_extractor(config)
    if extractor is not None:
        # Even one that is already there: an upload skips files that have not been rewritten.
        extractor.save_pretrained(folder)
    return extractor


def _extractor_at(
    place: str | os.PathLike | None, config: PSELDNetConfig, local_files_only: bool = True, **options
) -> PSELDNetFeatureExtractor | None:
    """Load the feature extractor from a folder, the Hub's cache or the Hub; None if there is none that fits."""
    try:
        extractor = PSELDNetFeatureExtractor.from_pretrained(place, local_files_only=local_files_only, **options)
        check_extractor(extractor, config)
    except Exception:
        # The file may be broken in any way.
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
    """Return the README of a model, with metadata for the Hub.

    Args:
        config: the model's config.
        source: what the model was made from, if it is to be named.
        feature_extractor: the extractor saved with the model. Defaults to [`fitting_extractor`].
        made: how the model was made from the source.
        name: name of the repository that the model is for.
        metadata: more metadata, such as a `license`.
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
