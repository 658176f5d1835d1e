"""Hub folders: a model with its extractor, its code, its pipeline and a model card, complete for others to load."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .configuration_pseldnet import PSELDNetConfig
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .modeling_pseldnet import PSELDNetForSELD
from .pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline


def check_output(output: str | os.PathLike, overwrite: bool) -> None:
    """Refuses to replace a folder that is there and not empty, or a file, unless told to."""
    output = Path(output)
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose another folder, or replace it with --overwrite")


def save_hub_folder(model: PSELDNetForSELD, output: str | os.PathLike, card: str) -> None:
    """Writes a model with its extractor, its code, its pipeline and a card, whole or not at all."""
    extractor = PSELDNetFeatureExtractor(
        feature_size=model.config.num_mel_bins,
        sampling_rate=model.config.sampling_rate,
        hop_length=model.config.hop_length,
    )
    pipe = SoundEventLocalizationAndDetectionPipeline(model=model, feature_extractor=extractor, task=TASK)
    with _atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _atomic_folder(output: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place at the end."""
    output = Path(output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_card(config: PSELDNetConfig, source: str) -> str:
    """The README of a converted model, with the metadata that the Hub reads."""
    labels = ", ".join(config.id2label.values())
    return f"""---
library_name: transformers
pipeline_tag: audio-classification
# license: fill in the licence of the checkpoint that was converted
tags:
- sound-event-localization-and-detection
- sound-event-detection
- direction-of-arrival
- ambisonics
- pseldnet
---

# PSELDNet: {config.backbone}, {config.output_format}

Says what sounds in a first-order ambisonic recording, when, and from which direction, every 100 ms. Converted from
`{source}`; see [PSELDNets: Pre-trained Neural Networks on a Large-scale Synthetic Dataset for Sound Event Localization
and Detection](https://arxiv.org/abs/2411.06399).

## Use

```python
from transformers import pipeline

detector = pipeline("{TASK}", model="this/repo", trust_remote_code=True)
for event in detector("recording.wav"):  # 4 channels, AmbiX: W, Y, Z, X, SN3D
    print(event["onset"], event["offset"], event["label"], event["azimuth"], event["elevation"])
```

`trust_remote_code=True` runs the code in this repository; with `import modeling_pseldnet` from the package `pseldnets`
it is not needed.

- Input: 4 channels at {config.sampling_rate} Hz, in windows of up to {config.window_seconds} s; the pipeline resamples
  and cuts recordings of any length.
- Output: {config.num_labels} classes every 100 ms. Azimuth is counter-clockwise from the front in (-180, 180] degrees,
  elevation upwards in [-90, 90] degrees.
- Classes: {labels}.
"""
