"""Starting a network from the weights of another one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..adapters import has_adapter
from ..configuration_pseldnet import PSELDNetConfig, in_order
from ..modeling_pseldnet import PSELDNetForSELD


# An entry of a block of HTS-AT, and those that make what the block adds to its input.
BLOCK = re.compile(r"(.*\.stages\.(\d+)\.blocks\.)(\d+)(\..*)")
LAST_LAYERS = (".attention.o_proj.weight", ".attention.o_proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias")


@dataclass
class TransferReport:
    """Which entries of a network were taken over, which stayed new, and which of the source it has no use for.

    Of a head some classes may have been taken over and others be new; both are named where the classes were matched.
    """

    kept: list[str]
    new: list[str]
    unused: list[str]
    kept_classes: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)

    def new_in(self, model: PSELDNetForSELD) -> list[str]:
        """The entries of which at least a part is new, as of heads for other classes."""
        heads = tuple(f"heads.{head}." for head in model.output_format.class_heads)
        return self.new + [name for name in self.kept if self.new_classes and name.startswith(heads)]

    def __str__(self) -> str:
        parts = (("kept", self.kept), ("new", self.new), ("unused", self.unused))
        text = "; ".join(f"{len(names)} {what}{_summary(names)}" for what, names in parts)
        classes = (("kept", self.kept_classes), ("new", self.new_classes))
        named = [f"{len(names)} {what} ({_shortened(names)})" for what, names in classes if names]
        return text + (f"; classes: {', '.join(named)}" if named else "")


def config_for_transfer(config: PSELDNetConfig, match_classes: bool = True, **fields) -> PSELDNetConfig:
    """The config of a network that keeps what it can of one with `config`, and has these fields otherwise.

    What is not given follows from what is: thresholds are those of the classes of the same name, the default for
    others; another output format has its own `unify_degrees` and thresholds, another loss its own `unify_degrees`, and
    other channels their own features.

    Args:
        config: of the network to start from; it is not changed.
        match_classes: whether names tell which classes are the same; else all are new.
        fields: of [`PSELDNetConfig`].
    """
    labels = list(in_order(fields.get("id2label", config.id2label)).values())
    follow = {"threshold": _threshold_by_name(config, labels if match_classes else [])}
    if fields.get("num_channels", config.num_channels) != config.num_channels:
        follow |= {"feature_type": None, "n_fft": None}
    if fields.get("loss_type", config.loss_type) != config.loss_type:
        follow |= {"unify_degrees": None}
    if fields.get("output_format", config.output_format) != config.output_format:
        follow |= {"unify_degrees": None, "threshold": PSELDNetConfig.threshold}
    values = config.to_dict() | follow | fields
    # Beside the others, as a threshold that does not fit its classes is not dropped there.
    return PSELDNetConfig.from_dict(values, threshold=values["threshold"])


def _threshold_by_name(config: PSELDNetConfig, labels: Sequence[str]) -> float | list[float]:
    """The threshold of a network for other classes: those of a class that it knows, the default for others."""
    if not isinstance(config.threshold, list):
        return config.threshold
    known = dict(zip(config.id2label.values(), config.threshold, strict=False))
    if not known.keys() & set(labels):
        return PSELDNetConfig.threshold
    return [known.get(name, PSELDNetConfig.threshold) for name in labels]


def transfer_from(model: PSELDNetForSELD, source: PSELDNetForSELD, match_classes: bool = True) -> TransferReport:
    """Copies what fits of another network into `model`; of the head that tells classes, those of the same name.

    Args:
        model: is changed.
        source: is not.
        match_classes: whether names tell which classes are the same; else all are new.

    Raises:
        ValueError: the encoders differ, or entries of theirs do not fit; the message names them. Or the source has an
            adapter in it that is not merged.
    """
    if has_adapter(source):
        raise ValueError(
            "the source has an adapter in it: merge it where its method can, by merge_and_unload(), or start from the"
            " model it was trained on"
        )
    if model.config.backbone != source.config.backbone:
        raise ValueError(
            f"the weights are those of a {source.config.backbone} encoder, and the network has {model.config.backbone}"
        )
    class_heads = tuple(f"heads.{head}." for head in source.output_format.class_heads)
    entries = {name: value for name, value in source.state_dict().items() if not name.startswith(class_heads)}
    report = transfer(model, entries)
    if match_classes and model.config.output_format == source.config.output_format:
        _transfer_classes(model, source, class_heads, report)
    return report


@torch.no_grad()
def _transfer_classes(
    model: PSELDNetForSELD, source: PSELDNetForSELD, class_heads: tuple[str, ...], report: TransferReport
) -> None:
    """Copies the rows of heads that stand for classes of the same name, and adds to the report."""
    here, there = (list(network.config.id2label.values()) for network in (model, source))
    shared = [name for name in here if here.count(name) == there.count(name) == 1]
    targets, found = [here.index(name) for name in shared], [there.index(name) for name in shared]
    entries, taken = source.state_dict(), []
    for name, target in model.state_dict().items():
        value = entries.get(name) if shared and name.startswith(class_heads) else None
        if value is None:
            continue
        # Track, then x, y, z, then class.
        target, value = target.unflatten(0, (-1, len(here))), value.unflatten(0, (-1, len(there)))
        if target[:, 0].shape == value[:, 0].shape:
            target[:, targets] = value[:, found].to(target)
            taken.append(name)
    if taken:
        report.kept += taken
        report.new = [name for name in report.new if name not in taken]
        report.kept_classes = shared
        report.new_classes = [name for name in here if name not in shared]


@torch.no_grad()
def transfer(model: PSELDNetForSELD, source: dict[str, torch.Tensor]) -> TransferReport:
    """Copies entries of another network into `model` where the two have them in common.

    A convolution over other feature channels takes the first of them or, of a single one, spreads it; position
    embeddings are cropped at the middle or interpolated. Where a stage of HTS-AT has more blocks, copies stand between
    those of the source, which add nothing yet.

    Raises:
        ValueError: entries that both have do not fit, or none is of the encoder; the message names them, and nothing
            was copied.
    """
    kept, new, used, unfit = {}, [], set(), []
    source = _grown(source, model.config.depths or [])
    for name, target in model.state_dict().items():
        found = next((candidate for candidate in _source_names(name) if candidate in source), None)
        if found is None:
            new.append(name)
            continue
        value = _fit(name, source[found], target.shape)
        if value is None and not name.startswith(("heads.", "pseldnet.input_norm.")):
            unfit.append(f"{found} has shape {tuple(source[found].shape)} where the network has {tuple(target.shape)}")
        elif value is None:
            new.append(name)
        else:
            kept[name] = value
            used.add(found)
    if unfit:
        raise ValueError(unfit[0] + (f", and {len(unfit) - 1} more entries do not fit" if len(unfit) > 1 else ""))
    if not any(name.startswith("pseldnet.") for name in kept):
        raise ValueError("nothing of the encoder fits: it is of another architecture")
    entries = model.state_dict()
    for name, value in kept.items():
        entries[name].copy_(value)
    return TransferReport(list(kept), new, unused=[name for name in source if name not in used])


def _grown(source: dict[str, torch.Tensor], depths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Entries with at least as many blocks in each stage as `depths` says, those of the source spread out evenly."""
    blocks = [(match, value) for name, value in source.items() if (match := BLOCK.fullmatch(name))]
    known: dict[int, int] = {}
    for match, _ in blocks:
        known[int(match[2])] = max(known.get(int(match[2]), 0), int(match[3]) + 1)
    grown = dict(source)
    for match, value in blocks:
        stage, block = int(match[2]), int(match[3])
        wanted = depths[stage] if stage < len(depths) else 0
        if wanted > known[stage]:
            first, *copies = [number for number in range(wanted) if number * known[stage] // wanted == block]
            grown[f"{match[1]}{first}{match[4]}"] = value
            silent = torch.zeros_like(value) if match[4] in LAST_LAYERS else value
            grown |= {f"{match[1]}{number}{match[4]}": silent for number in copies}
    return grown


def _source_names(name: str) -> list[str]:
    """Where an entry may stand in a network with the same branches, with one branch, or with two."""
    one_branch = name.replace(".encoder.sed.", ".encoder.").replace(".encoder.doa.", ".encoder.")
    return [name, one_branch, name.replace(".encoder.", ".encoder.doa.", 1)]


def _fit(name: str, value: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """The value in another shape, where its meaning allows that."""
    if value.shape == shape:
        return value
    if name.endswith("_position_embeddings") and value.ndim == len(shape) and value.shape[:2] == shape[:2]:
        start = [max((old - new) // 2, 0) for old, new in zip(value.shape[2:], shape[2:], strict=True)]
        cropped = value[:, :, start[0] : start[0] + shape[2], start[1] : start[1] + shape[3]]
        return nn.functional.interpolate(cropped, size=shape[2:], mode="bilinear")
    if value.ndim == 4 and value.shape[:1] + value.shape[2:] == shape[:1] + shape[2:]:
        if value.shape[1] == 1:
            return value.expand(shape) / shape[1]
        if value.shape[1] > shape[1]:
            return value[:, : shape[1]]
    return None


def _summary(names: list[str]) -> str:
    """The parts that entries belong to, in brackets."""
    parts = list(dict.fromkeys(".".join(name.removeprefix("pseldnet.").split(".")[:2]) for name in names))
    return f" ({_shortened(parts)})" if parts else ""


def _shortened(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
