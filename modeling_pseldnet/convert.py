"""Published PSELDNets checkpoints to Hub folders: the program `pseldnet-convert`."""

import argparse
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from .configuration_pseldnet import PSELDNetConfig
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .modeling_pseldnet import PSELDNetForSELD
from .output_formats import FORMATS
from .pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline


# Published names, as regular expressions, and ours. The first that matches counts; `None` marks entries that hold
# nothing learnt and are remade.
RENAMES: dict[str, list[tuple[str, str | None]]] = {
    "htsat": [
        (r".*\.(relative_position_index|attn_mask)", None),
        (r"encoder\.patch_embed\.proj\.(.*)", r"pseldnet.encoder.patch_embeddings.projection.\1"),
        (r"encoder\.patch_embed\.norm\.(.*)", r"pseldnet.encoder.patch_embeddings.norm.\1"),
        (r"encoder\.layers\.(\d+)\.downsample\.(.*)", r"pseldnet.encoder.stages.\1.downsample.\2"),
        (
            r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.(.*)",
            r"pseldnet.encoder.stages.\1.blocks.\2.layernorm_before.\3",
        ),
        (
            r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.norm2\.(.*)",
            r"pseldnet.encoder.stages.\1.blocks.\2.layernorm_after.\3",
        ),
        (
            r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.(.*)",
            r"pseldnet.encoder.stages.\1.blocks.\2.attention.o_proj.\3",
        ),
        (r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(.*)", r"pseldnet.encoder.stages.\1.blocks.\2.attention.\3"),
        (r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.(.*)", r"pseldnet.encoder.stages.\1.blocks.\2.mlp.\3"),
        (r"encoder\.norm\.(.*)", r"pseldnet.encoder.norm.\1"),
        (r"tscam_conv\.(.*)", r"heads.accdoa.conv.\1"),
    ],
}
INPUT_NORM = re.compile(r"scalar\.(\d+)\.(.*)")


@dataclass
class ConversionReport:
    """What became of the entries of a checkpoint: how many were used, remade, or are no part of the network."""

    used: int
    remade: int
    ignored: list[str]

    def __str__(self) -> str:
        examples = f" ({', '.join(self.ignored[:3])}{', …' if len(self.ignored) > 3 else ''})" if self.ignored else ""
        return (
            f"{self.used} entries of the network used, {self.remade} that hold nothing learnt remade,"
            f" {len(self.ignored)} of other parts ignored{examples}"
        )


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    backbone: str = "htsat",
    output_format: str = "multi_accdoa",
    labels: list[str] | None = None,
    sampling_rate: int = 24000,
    overwrite: bool = False,
) -> ConversionReport:
    """Writes a published checkpoint as a Hub folder: weights, config, extractor, code and model card.

    Args:
        checkpoint: a Lightning `.ckpt`; it is read without running any code that it may carry.
        output: the folder to write; it appears whole or not at all.
        backbone, output_format: the architecture, as in [`PSELDNetConfig`].
        labels: names of the classes in the order of their index; `class 0`, … if left out.
        sampling_rate: rate in Hz of the audio that the checkpoint was trained on, 24000 or 32000.
        overwrite: whether a folder that is there and not empty is replaced.

    Raises:
        ValueError: the file is no such checkpoint, does not fit the architecture, or carries code.
        FileExistsError: `output` is there and not empty.
    """
    if backbone not in RENAMES or output_format not in FORMATS:
        raise ValueError(f"no conversion for {backbone!r} with {output_format!r}")
    output = Path(output)
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose another folder, or replace it with --overwrite")
    network, ignored = read_network(checkpoint)
    state, remade = convert_state_dict(network, backbone)

    head = _required(state, "heads.accdoa.conv.weight", checkpoint).shape[0]
    numbers_a_class = 3 * FORMATS[output_format].num_tracks
    num_classes, rest = divmod(head, numbers_a_class)
    if rest:
        raise ValueError(
            f"{checkpoint}: the head gives {head} numbers a frame, which is no multiple of the {numbers_a_class} that"
            f" {output_format} has for a class: is it another output format?"
        )
    if labels is not None and len(labels) != num_classes:
        raise ValueError(
            f"{checkpoint}: {num_classes} classes with {output_format}, and {len(labels)} labels:"
            " give the class list, and the output format, of this checkpoint"
        )
    names = labels if labels is not None else [f"class {index}" for index in range(num_classes)]
    config = PSELDNetConfig(
        backbone=backbone,
        output_format=output_format,
        sampling_rate=sampling_rate,
        hop_length=sampling_rate // 100,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = PSELDNetForSELD(config).eval()
    _load_strictly(model, state, checkpoint)
    save_hub_folder(model, output, model_card(config, Path(checkpoint).name))
    return ConversionReport(used=len(network) - remade, remade=remade, ignored=ignored)


def read_network(checkpoint: str | os.PathLike) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The network's entries of a Lightning checkpoint, without their prefix, and the names of the others.

    Raises:
        ValueError: the file is missing, broken, carries code, or holds no network.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(f"{checkpoint}: no such file")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|global) `?([\w.]+)", str(error))
        what = f" ({refused[1]})" if refused else ""
        raise ValueError(
            f"{checkpoint}: refused, it is not plain tensors{what} and reading it could run code: save its state_dict"
            " alone, as torch.save({'state_dict': …}), where you trust it"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{checkpoint}: not a checkpoint, or a broken one ({_first_line(error)})") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{checkpoint}: holds no `state_dict`, as a Lightning checkpoint does")
    network, ignored = {}, []
    for key, value in state.items():
        match = re.fullmatch(r"net\.(?:_orig_mod\.)?(.+)", key)
        if match:
            network[match[1]] = value
        else:
            ignored.append(key)
    if not network:
        raise ValueError(f"{checkpoint}: no entries named `net.…`: is it a PSELDNets checkpoint?")
    return network, ignored


def convert_state_dict(network: dict[str, torch.Tensor], backbone: str) -> tuple[dict[str, torch.Tensor], int]:
    """Published entries to the names and shapes of [`PSELDNetForSELD`], and the number of those to be remade.

    Raises:
        ValueError: an entry is unknown; the message names it.
    """
    state, input_norm, unknown, remade = {}, {}, [], 0
    for key, value in network.items():
        if match := INPUT_NORM.fullmatch(key):
            input_norm.setdefault(match[2], {})[int(match[1])] = value
            continue
        renamed = next(
            ((match, name) for pattern, name in RENAMES[backbone] if (match := re.fullmatch(pattern, key))), None
        )
        if renamed is None:
            unknown.append(key)
        elif renamed[1] is None:
            remade += 1
        else:
            state.update(_split_qkv(renamed[0].expand(renamed[1]), value))
    if unknown:
        raise ValueError(
            f"{len(unknown)} entries are no part of {backbone}: {', '.join(unknown[:5])}{', …' if unknown[5:] else ''}"
        )
    for leaf, channels in input_norm.items():
        parts = [channels[channel] for channel in sorted(channels)]
        state[f"pseldnet.input_norm.{leaf}"] = torch.cat(parts) if parts[0].ndim else parts[0]
    return state, remade


def _split_qkv(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fused projection of an attention as three; anything else as it is."""
    if ".qkv." not in name:
        return {name: value}
    parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
    return {name.replace(".qkv.", f".{projection}."): part.clone() for projection, part in parts}


def _required(state: dict[str, torch.Tensor], name: str, checkpoint: str | os.PathLike) -> torch.Tensor:
    if name not in state:
        raise ValueError(f"{checkpoint}: the entry for {name} is missing")
    return state[name]


def _load_strictly(model: PSELDNetForSELD, state: dict[str, torch.Tensor], checkpoint: str | os.PathLike) -> None:
    for name, parameter in model.state_dict().items():
        found = _required(state, name, checkpoint)
        if found.shape != parameter.shape:
            raise ValueError(
                f"{checkpoint}: the entry for {name} has shape {tuple(found.shape)} where the network has"
                f" {tuple(parameter.shape)}"
            )
    model.load_state_dict(state)


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


def read_labels(path: str | os.PathLike) -> list[str]:
    """Class names from a file: tab-separated `index, MID, name, …`, or one name a line.

    Raises:
        ValueError: the file is missing, empty, or its indices are not 0, 1, 2, …
    """
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable list of labels ({_first_line(error)})") from None
    if not lines:
        raise ValueError(f"{path}: no labels in it")
    if "\t" not in lines[0]:
        return [line.strip() for line in lines]
    names = []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if len(cells) < 3 or cells[0].strip() != str(number - 1):
            raise ValueError(f"{path}, line {number}: expected `{number - 1}`, MID and name, separated by tabs")
        names.append(cells[2].strip())
    return names


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `pseldnet-convert`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pseldnet-convert",
        description="Converts a published PSELDNets checkpoint to a Hub folder that from_pretrained reads.",
        epilog="example: pseldnet-convert mACCDOA-HTSAT-0.567.ckpt pseldnet-htsat --labels cls_indices_train.tsv",
    )
    parser.add_argument("checkpoint", help="Lightning checkpoint (.ckpt); no code in it is run")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--backbone", default="htsat", choices=sorted(RENAMES), help="default: %(default)s")
    parser.add_argument(
        "--output-format", default="multi_accdoa", choices=sorted(FORMATS), help="default: %(default)s"
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: TSV of index, MID, name, or one name a line")
    parser.add_argument("--sampling-rate", type=int, default=24000, help="Hz the network takes; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(arguments)
    try:
        report = convert_checkpoint(
            options.checkpoint,
            options.output,
            backbone=options.backbone,
            output_format=options.output_format,
            labels=read_labels(options.labels) if options.labels else None,
            sampling_rate=options.sampling_rate,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"pseldnet-convert: error: {_first_line(error)}", file=sys.stderr)
        return 2
    print(f"{options.output}: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
