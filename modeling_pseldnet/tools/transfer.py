"""Starting a network from the weights of another one."""

import os
from dataclasses import dataclass

import torch
from torch import nn

from ..configuration_pseldnet import PSELDNetConfig
from ..modeling_pseldnet import PSELDNetForSELD


@dataclass
class TransferReport:
    """Which entries of a network were taken over, which stayed new, and which of the source it has no use for."""

    kept: list[str]
    new: list[str]
    unused: list[str]

    def __str__(self) -> str:
        parts = (("kept", self.kept), ("new", self.new), ("unused", self.unused))
        return "; ".join(f"{len(names)} {what}{_summary(names)}" for what, names in parts)


def load_for_transfer(
    source: str | os.PathLike | PSELDNetForSELD,
    id2label: dict[int, str] | None = None,
    num_labels: int | None = None,
    output_format: str | None = None,
) -> tuple[PSELDNetForSELD, TransferReport]:
    """A network for other classes, or another output format, that keeps all of a trained one but its class head.

    Between one branch and the two of EINV2, both branches start from the one, and the one from that for the direction.

    Args:
        source: a model, or what `from_pretrained` reads; it is not changed.
        id2label: names of the classes; those of the source if this and `num_labels` are left out.
        num_labels: the number of classes, where they have no names.
        output_format: as in [`PSELDNetConfig`]; that of the source if left out.

    Returns:
        The network, in training mode, and what was kept of the source and what is new.

    Raises:
        ValueError: `id2label` and `num_labels` disagree.
    """
    if id2label is None and num_labels is not None:
        id2label = {index: f"class {index}" for index in range(num_labels)}
    if num_labels is not None and len(id2label) != num_labels:
        raise ValueError(f"id2label names {len(id2label)} classes and num_labels is {num_labels}: give one of them")
    if not isinstance(source, PSELDNetForSELD):
        source = PSELDNetForSELD.from_pretrained(source)
    fields = source.config.to_dict()
    if id2label is not None:
        fields |= {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
        # A threshold for each class is for those classes.
        if isinstance(fields["threshold"], list):
            fields.pop("threshold")
    if output_format is not None and output_format != source.config.output_format:
        fields |= {"output_format": output_format, "unify_degrees": None}
    model = PSELDNetForSELD(PSELDNetConfig.from_dict(fields)).train()
    class_head = f"heads.{model.output_format.class_head}."
    entries = {name: value for name, value in source.state_dict().items() if not name.startswith(class_head)}
    return model, transfer(model, entries)


@torch.no_grad()
def transfer(model: PSELDNetForSELD, source: dict[str, torch.Tensor]) -> TransferReport:
    """Copies entries of another network into `model` where the two have them in common.

    A convolution over other feature channels takes the first of them or, of a single one, spreads it; position
    embeddings are cropped at the middle or interpolated.

    Raises:
        ValueError: an entry that both have does not fit; the message names it.
    """
    kept, new, used = [], [], set()
    for name, target in model.state_dict().items():
        found = next((candidate for candidate in _source_names(name) if candidate in source), None)
        if found is None:
            new.append(name)
            continue
        value = _fit(name, source[found], target.shape)
        if value is None and not name.startswith("heads."):
            raise ValueError(
                f"{found} has shape {tuple(source[found].shape)} where the network has {tuple(target.shape)}"
            )
        if value is None:
            new.append(name)
            continue
        target.copy_(value)
        kept.append(name)
        used.add(found)
    return TransferReport(kept, new, unused=[name for name in source if name not in used])


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
    return f" ({', '.join(parts[:4])}{', …' if len(parts) > 4 else ''})" if parts else ""
