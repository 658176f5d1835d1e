"""Start a network from the weights of another one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..adapters import has_adapter
from ..configuration_pseldnet import PSELDNetConfig, in_order
from ..keywords import first_few
from ..modeling_pseldnet import PSELDNetForSELD


# An entry of an HTS-AT block, and the entries of the last layers of its residual branches.
BLOCK = re.compile(r"(.*\.stages\.(\d+)\.blocks\.)(\d+)(\..*)")
LAST_LAYERS = (".attention.o_proj.weight", ".attention.o_proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias")


@dataclass
class TransferReport:
    """Which entries of a network were kept, which are new, and which entries of the source were not used.

    In a head some classes may be kept and others new; both are named if the classes were matched.
    """

    kept: list[str]
    new: list[str]
    unused: list[str]
    kept_classes: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)

    def new_in(self, model: PSELDNetForSELD) -> list[str]:
        """Return the entries that are at least partly new, as in heads for other classes."""
        heads = tuple(f"heads.{head}." for head in model.output_format.class_heads)
        return self.new + [name for name in self.kept if self.new_classes and name.startswith(heads)]

    def __str__(self) -> str:
        parts = (("kept", self.kept), ("new", self.new), ("unused", self.unused))
        text = "; ".join(f"{len(names)} {what}{_summary(names)}" for what, names in parts)
        classes = (("kept", self.kept_classes), ("new", self.new_classes))
        named = [f"{len(names)} {what} ({first_few(names, 4)})" for what, names in classes if names]
        return text + (f"; classes: {', '.join(named)}" if named else "")


def config_for_transfer(config: PSELDNetConfig, match_classes: bool = True, **fields) -> PSELDNetConfig:
    """Return a config with other `fields` for a network that keeps what it can of one with `config`.

    Fields that are not given follow from those that are: thresholds are kept for classes of the same name, with the
    default for others; another output format resets `unify_degrees` and thresholds, another loss `unify_degrees`, and
    another number of channels the features.

    Args:
        config: config of the network to start from; it is not changed.
        match_classes: whether to match classes by name; otherwise all are new.
        fields: fields of [`PSELDNetConfig`].

    Raises:
        ValueError: the network to start from is quantized.
    """
    if getattr(config, "quantization_config", None):
        raise ValueError("the source is quantized: start from the model that it was made from")
    labels = list(in_order(fields.get("id2label", config.id2label)).values())
    follow = {"threshold": _threshold_by_name(config, labels if match_classes else [])}
    if fields.get("num_channels", config.num_channels) != config.num_channels:
        follow |= {"feature_type": None, "n_fft": None}
    if fields.get("loss_type", config.loss_type) != config.loss_type:
        follow |= {"unify_degrees": None}
    if fields.get("output_format", config.output_format) != config.output_format:
        follow |= {"unify_degrees": None, "threshold": PSELDNetConfig.threshold}
    values = config.to_dict() | follow | fields
    # Passed as an argument, because there a threshold that does not fit the classes is not dropped.
    return PSELDNetConfig.from_dict(values, threshold=values["threshold"])


def _threshold_by_name(config: PSELDNetConfig, labels: Sequence[str]) -> float | list[float]:
    """Return the threshold for other classes: that of each known class, and the default for others."""
    if not isinstance(config.threshold, list):
        return config.threshold
    known = dict(zip(config.id2label.values(), config.threshold, strict=False))
    if not known.keys() & set(labels):
        return PSELDNetConfig.threshold
    return [known.get(name, PSELDNetConfig.threshold) for name in labels]


def transfer_from(model: PSELDNetForSELD, source: PSELDNetForSELD, match_classes: bool = True) -> TransferReport:
    """Copy the weights of another network that fit into `model`, and in the class heads those of classes in both.

    Heads of another output format are left out.

    Args:
        model: the network to copy to, modified in place.
        source: the network to copy from.
        match_classes: whether to match classes by name; otherwise all are new.

    Raises:
        ValueError: the encoders differ, or their entries do not fit (the message names them), or the source contains
            an adapter that is not merged.
    """
    if has_adapter(source):
        raise ValueError(
            "the source has an unmerged adapter: merge it with merge_and_unload() if its method allows that, or start"
            " from its base model"
        )
    if model.config.backbone != source.config.backbone:
        raise ValueError(
            f"the weights are from a {source.config.backbone} encoder, but the network has {model.config.backbone}"
        )
    class_heads = tuple(f"heads.{head}." for head in source.output_format.class_heads)
    same_format = model.config.output_format == source.config.output_format
    # A head of the same name and size means something else in another format.
    left_out = class_heads if same_format else "heads."
    entries = {name: value for name, value in source.state_dict().items() if not name.startswith(left_out)}
    report = transfer(model, entries)
    if match_classes and same_format:
        _transfer_classes(model, source, class_heads, report)
    return report


@torch.no_grad()
def _transfer_classes(
    model: PSELDNetForSELD, source: PSELDNetForSELD, class_heads: tuple[str, ...], report: TransferReport
) -> None:
    """Copy the rows of heads that belong to classes of the same name, and add them to the report."""
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
    """Copy the entries that another network has in common with `model`.

    A convolution over fewer feature channels keeps the first of them; one over a single channel is spread over all.
    Position embeddings are cropped at the centre or interpolated. If a stage of HTS-AT has more blocks, copies are
    inserted between those of the source, which at first add nothing to their input.

    Raises:
        ValueError: common entries do not fit, or none belongs to the encoder. The message names them, and nothing has
            been copied.
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
        raise ValueError("no weights of the encoder fit: it has another architecture")
    entries = model.state_dict()
    for name, value in kept.items():
        entries[name].copy_(value)
    return TransferReport(list(kept), new, unused=[name for name in source if name not in used])


def _grown(source: dict[str, torch.Tensor], depths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return entries with at least `depths` blocks in each stage, with those of the source spread out evenly."""
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
    """Return the possible names of an entry in a network with the same branches, with one branch, or with two."""
    one_branch = name.replace(".encoder.sed.", ".encoder.").replace(".encoder.doa.", ".encoder.")
    return [name, one_branch, name.replace(".encoder.", ".encoder.doa.", 1)]


def _fit(name: str, value: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """Convert a value to another shape, if its meaning allows that; otherwise return None."""
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
    """List the parts of the network that entries belong to, in brackets."""
    parts = list(dict.fromkeys(".".join(name.removeprefix("pseldnet.").split(".")[:2]) for name in names))
    return f" ({first_few(parts, 4)})" if parts else ""
