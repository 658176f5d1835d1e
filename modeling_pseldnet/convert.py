"""Published PSELDNets checkpoints to Hub folders: the program `pseldnet-convert`."""

import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .cli import CommandParser, first_line
from .configuration_pseldnet import PSELDNetConfig
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .modeling_pseldnet import PSELDNetForSELD
from .output_formats import FORMATS
from .pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline


# Published names, as regular expressions, and ours. The first that matches counts; `None` marks entries that hold
# nothing learnt and are remade.
CONFORMER = r"decoder\.(?:decoder\.)?layers\.(\d+)\.sequential\."
DECODER_RENAMES: list[tuple[str, str | None]] = [
    (r"decoder\..*\.positional_encoding\.pe", None),
    *(
        (CONFORMER + published, rf"pseldnet.decoder.layers.\1.{name}")
        for published, name in (
            (r"0\.module\.sequential\.0\.(.*)", r"norm_feed_forward1.\2"),
            (r"0\.module\.sequential\.1\.(.*)", r"feed_forward1.fc1.\2"),
            (r"0\.module\.sequential\.4\.(.*)", r"feed_forward1.fc2.\2"),
            (r"1\.module\.layer_norm\.(.*)", r"norm_self_attn.\2"),
            (r"1\.module\.attention\.([uv])_bias", r"self_attn.bias_\2"),
            (r"1\.module\.attention\.pos_proj\.(.*)", r"self_attn.relative_k_proj.\2"),
            (r"1\.module\.attention\.([qkv])[a-z]+_proj\.(.*)", r"self_attn.\2_proj.\3"),
            (r"1\.module\.attention\.out_proj\.(.*)", r"self_attn.o_proj.\2"),
            (r"2\.module\.sequential\.0\.(.*)", r"norm_conv.\2"),
            (r"2\.module\.sequential\.2\.conv\.(.*)", r"conv.pointwise_conv1.\2"),
            (r"2\.module\.sequential\.4\.conv\.(.*)", r"conv.depthwise_conv.\2"),
            (r"2\.module\.sequential\.5\.(.*)", r"conv.norm.\2"),
            (r"2\.module\.sequential\.7\.conv\.(.*)", r"conv.pointwise_conv2.\2"),
            (r"3\.module\.sequential\.0\.(.*)", r"norm_feed_forward2.\2"),
            (r"3\.module\.sequential\.1\.(.*)", r"feed_forward2.fc1.\2"),
            (r"3\.module\.sequential\.4\.(.*)", r"feed_forward2.fc2.\2"),
            (r"4\.(.*)", r"norm_out.\2"),
        )
    ),
    (r"decoder\.decoder\.(.*_l\d+.*)", r"pseldnet.decoder.layers.\1"),
]
TRACK_RENAMES: list[tuple[str, str | None]] = [
    (r"fc_(sed|doa)\.(.*)", r"heads.\1.\2"),
    *((rf"fc_(sed|doa)_track{track + 1}\.(.*)", rf"heads.\1.{track}.\2") for track in range(3)),
]
CRNN_RENAMES: list[tuple[str, str | None]] = [
    *((rf"convs\.conv_block{block + 1}\.(.*)", rf"pseldnet.encoder.stages.{block}.\1") for block in range(6)),
    (r"fc\.(.*)", r"heads.accdoa.\1"),
    *TRACK_RENAMES,
    *DECODER_RENAMES,
]


def _crnn_stitches(num_blocks: int) -> list[tuple[str, str | None]]:
    """One list holds the cross-stitches between blocks and then those of tracks."""
    return [
        *((rf"stitch\.{block - 1}\.(.*)", rf"pseldnet.encoder.stitches.{block}.\1") for block in range(1, num_blocks)),
        *(
            (rf"stitch\.{num_blocks - 1 + track}\.(.*)", rf"pseldnet.decoder.stitches.{track}.\1")
            for track in range(3)
        ),
    ]


RENAMES: dict[str, list[tuple[str, str | None]]] = {
    "cnn14_conformer": [*_crnn_stitches(num_blocks=6), *CRNN_RENAMES],
    "crnn": [*_crnn_stitches(num_blocks=4), *CRNN_RENAMES],
    "passt": [
        (r"encoder\.(cls_token)", r"pseldnet.encoder.patch_embeddings.\1"),
        (r"encoder\.dist_token", r"pseldnet.encoder.patch_embeddings.distillation_token"),
        (r"encoder\.new_pos_embed", r"pseldnet.encoder.patch_embeddings.token_position_embeddings"),
        (r"encoder\.freq_new_pos_embed", r"pseldnet.encoder.patch_embeddings.frequency_position_embeddings"),
        (r"encoder\.time_new_pos_embed", r"pseldnet.encoder.patch_embeddings.time_position_embeddings"),
        (r"encoder\.patch_embed\.proj\.(.*)", r"pseldnet.encoder.patch_embeddings.projection.\1"),
        (r"encoder\.blocks\.(\d+)\.norm1\.(.*)", r"pseldnet.encoder.stages.\1.layernorm_before.\2"),
        (r"encoder\.blocks\.(\d+)\.norm2\.(.*)", r"pseldnet.encoder.stages.\1.layernorm_after.\2"),
        (r"encoder\.blocks\.(\d+)\.attn\.proj\.(.*)", r"pseldnet.encoder.stages.\1.attention.o_proj.\2"),
        (r"encoder\.blocks\.(\d+)\.attn\.(.*)", r"pseldnet.encoder.stages.\1.attention.\2"),
        (r"encoder\.blocks\.(\d+)\.mlp\.(.*)", r"pseldnet.encoder.stages.\1.mlp.\2"),
        (r"encoder\.norm\.(.*)", r"pseldnet.encoder.norm.\1"),
        (r"encoder\.head\.0\.(.*)", r"pseldnet.encoder.head_norm.\1"),
        *((rf"stitch1\.{pair}\.(.*)", rf"pseldnet.encoder.stitches.{2 * pair}.\1") for pair in range(4)),
        (r"stitch2\.(.*)", r"pseldnet.decoder.stitches.\1"),
        *TRACK_RENAMES,
        (r"fc\.(.*)", r"heads.accdoa.\1"),
        *DECODER_RENAMES,
    ],
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
        (r"(sed|doa)_tscam_conv\.(.*)", r"heads.\1.conv.\2"),
        (r"stitch1\.(.*)", r"pseldnet.encoder.stitches.\1"),
    ],
}
# What published names of the branches and tracks of EINV2 start with, where there is one branch, and what in ours.
BRANCHES = [
    (r"(sed|doa)_encoder\.", "encoder.", r"encoder.\1"),
    (r"(sed|doa)_convs\.", "convs.", r"encoder.\1"),
    (r"(sed|doa)_decoder\.(\d)\.", "decoder.", r"decoder.\1.\2"),
    *((rf"(sed|doa)_track{track + 1}\.", "decoder.", rf"decoder.\1.{track}") for track in range(3)),
]
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
    check_output(output, overwrite)
    network, ignored = read_network(checkpoint)
    state, remade = convert_state_dict(network, backbone)

    head = _head_size(state, FORMATS[output_format].class_head, checkpoint)
    numbers_a_class = FORMATS[output_format].numbers_a_class
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
    config = make_config(names, sampling_rate, backbone, output_format, read_architecture(state, backbone))
    model = PSELDNetForSELD(config).eval()
    _load_strictly(model, state, checkpoint)
    save_hub_folder(model, output, model_card(config, Path(checkpoint).name))
    return ConversionReport(used=len(network) - remade, remade=remade, ignored=ignored)


def check_output(output: str | os.PathLike, overwrite: bool) -> None:
    """Refuses to replace a folder that is there and not empty, or a file, unless told to."""
    output = Path(output)
    if output.exists() and not overwrite and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already: choose another folder, or replace it with --overwrite")


def make_config(
    labels: list[str], sampling_rate: int, backbone: str, output_format: str, architecture: dict[str, Any]
) -> PSELDNetConfig:
    """The config of a network for these classes, with 100 feature frames a second."""
    return PSELDNetConfig(
        backbone=backbone,
        output_format=output_format,
        **architecture,
        sampling_rate=sampling_rate,
        hop_length=sampling_rate // 100,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )


def read_network(checkpoint: str | os.PathLike) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The network's entries of a Lightning checkpoint, without their prefix, and the names of the others.

    Raises:
        ValueError: the file is missing, broken, carries code, or holds no network.
    """
    content = load_checkpoint(checkpoint)
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


def load_checkpoint(checkpoint: str | os.PathLike) -> Any:
    """What a file of torch.save holds, on the CPU.

    Raises:
        ValueError: the file is missing, broken or carries code.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(f"{checkpoint}: no such file")
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(checkpoint):
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = found[1] if found else "objects of Python"
            raise ValueError(
                f"{checkpoint}: refused, it holds more than tensors ({what}) and reading it could run code: save its"
                " state_dict alone, as torch.save({'state_dict': …}, file), where you trust it"
            ) from None
        raise ValueError(f"{checkpoint}: not a checkpoint of torch.save, or a broken one") from None


def _is_pickle(path: str | os.PathLike) -> bool:
    """Whether a file starts as the archives of torch.save, or bare pickles, do."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


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
        key_in_branch, branch = _split_branch(key)
        renamed = next(
            ((match, name) for pattern, name in RENAMES[backbone] if (match := re.fullmatch(pattern, key_in_branch))),
            None,
        )
        if renamed is None:
            unknown.append(key)
        elif renamed[1] is None:
            remade += 1
        else:
            name = renamed[0].expand(renamed[1])
            if branch is not None:
                name = re.sub(r"(?<=pseldnet\.)(en|de)coder", branch, name, count=1)
            state.update(_split_qkv(name, value))
    if unknown:
        raise ValueError(
            f"{len(unknown)} entries are no part of {backbone}: {', '.join(unknown[:5])}{', …' if unknown[5:] else ''}"
        )
    for leaf, channels in input_norm.items():
        parts = [channels[channel] for channel in sorted(channels)]
        state[f"pseldnet.input_norm.{leaf}"] = torch.cat(parts) if parts[0].ndim else parts[0]
    return state, remade


def read_architecture(state: dict[str, torch.Tensor], backbone: str) -> dict[str, Any]:
    """What the shapes of converted entries tell of the fields of [`PSELDNetConfig`]."""

    def indexed(pattern: str) -> list[torch.Tensor]:
        found = {int(match[1]): value for key, value in state.items() if (match := re.search(pattern, key))}
        return [found[index] for index in sorted(found)]

    fields: dict[str, Any] = {}
    if backbone == "htsat":
        return fields
    if blocks := indexed(r"\.stages\.(\d+)\.conv2\.weight$"):
        fields["hidden_sizes"] = [block.shape[0] for block in blocks]
    if blocks := indexed(r"\.stages\.(\d+)\.layernorm_before\.weight$"):
        width = blocks[0].shape[0]
        # The heads of published vision transformers are 64 wide.
        fields |= {"num_hidden_layers": len(blocks), "hidden_size": width, "num_attention_heads": width // 64}
    fields["decoder"] = "none"
    if recurrent := indexed(r"\.weight_hh_l(\d+)$"):
        fields |= {"decoder": "gru", "decoder_layers": len(recurrent)}
    if attentions := indexed(r"\.(\d+)\.self_attn\.bias_u$"):
        fields |= {
            "decoder": "conformer",
            "decoder_layers": len(attentions),
            "decoder_attention_heads": attentions[0].shape[0],
        }
    return fields


def _head_size(state: dict[str, torch.Tensor], head: str, checkpoint: str | os.PathLike) -> int:
    """Numbers a frame that a head, or those of all tracks, give."""
    sizes = [len(value) for key, value in state.items() if re.fullmatch(rf"heads\.{head}\.(.*\.)?bias", key)]
    if not sizes:
        raise ValueError(f"{checkpoint}: the entry for heads.{head} is missing: is it another output format?")
    return sum(sizes)


def _split_branch(key: str) -> tuple[str, str | None]:
    """A published name as it is where there is one branch, and the branch, with the track, in our names."""
    for pattern, single, branch in BRANCHES:
        if match := re.match(pattern, key):
            return single + key[match.end() :], match.expand(branch)
    return key, None


def _split_qkv(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fused projection of an attention as three; anything else as it is."""
    if ".qkv." not in name:
        return {name: value}
    parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
    return {name.replace(".qkv.", f".{projection}."): part.clone() for projection, part in parts}


def _required(state: dict[str, torch.Tensor], name: str, checkpoint: str | os.PathLike) -> torch.Tensor:
    if name not in state:
        raise ValueError(f"{checkpoint}: the entry for {name} is missing: is it another backbone or output format?")
    return state[name]


def _load_strictly(model: PSELDNetForSELD, state: dict[str, torch.Tensor], checkpoint: str | os.PathLike) -> None:
    for name, parameter in model.state_dict().items():
        found = _required(state, name, checkpoint)
        if found.shape != parameter.shape:
            raise ValueError(
                f"{checkpoint}: the entry for {name} has shape {tuple(found.shape)} where the network has"
                f" {tuple(parameter.shape)}"
            )
    if extra := sorted(state.keys() - model.state_dict().keys()):
        hint = ": convert it with training.adapterbit_convert" if any(".adapter." in name for name in extra) else ""
        raise ValueError(f"{checkpoint}: {len(extra)} entries that the network has not, such as {extra[0]}{hint}")
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
        raise ValueError(f"{path}: not a readable list of labels ({first_line(error)})") from None
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


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `pseldnet-convert`; returns the exit status."""
    parser = CommandParser(
        prog="pseldnet-convert",
        description="Converts a published PSELDNets checkpoint to a Hub folder that from_pretrained reads, or starts"
        " a new network from an AudioSet checkpoint.",
        epilog="example: pseldnet-convert mACCDOA-HTSAT-0.567.ckpt pseldnet-htsat --labels cls_indices_train.tsv",
    )
    parser.add_argument("checkpoint", help="checkpoint of PSELDNets (.ckpt) or, with --audioset, of its encoder alone")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--backbone", default="htsat", choices=sorted(RENAMES), help="default: %(default)s")
    parser.add_argument(
        "--output-format", default="multi_accdoa", choices=sorted(FORMATS), help="default: %(default)s"
    )
    parser.add_argument("--labels", metavar="FILE", help="class names: TSV of index, MID, name, or one name a line")
    parser.add_argument(
        "--audioset",
        action="store_true",
        help="start a new network, for --labels, from an AudioSet checkpoint of HTS-AT, PaSST or PANNs CNN14",
    )
    parser.add_argument("--sampling-rate", type=int, default=24000, help="Hz the network takes; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(arguments)
    if options.audioset and options.labels is None:
        parser.error("--audioset needs the classes of the new network: give --labels FILE")
    # It is made of parts of this module.
    from .convert_audioset import convert_audioset

    convert = convert_audioset if options.audioset else convert_checkpoint
    try:
        report = convert(
            options.checkpoint,
            options.output,
            backbone=options.backbone,
            output_format=options.output_format,
            labels=read_labels(options.labels) if options.labels else None,
            sampling_rate=options.sampling_rate,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{options.output}: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
