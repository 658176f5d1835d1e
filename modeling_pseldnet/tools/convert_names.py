"""Translate the entry names of published checkpoints, and infer the architecture from the entries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..keywords import first_few


if TYPE_CHECKING:
    import torch

    from ..configuration_pseldnet import PSELDNetConfig


# Published names, as regular expressions, and ours. The first match is used; `None` marks entries that are not learnt
# and are recreated.
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
# Parts of a transformer block: published names, as regular expressions, and ours.
BLOCK_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    r"attn\.proj": "attention.o_proj",
    "attn": "attention",
    "mlp": "mlp",
}
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
    """Return the renames of cross-stitches, published as one list: first between blocks, then between tracks."""
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
        *(
            (rf"encoder\.blocks\.(\d+)\.{published}\.(.*)", rf"pseldnet.encoder.stages.\1.{name}.\2")
            for published, name in BLOCK_PARTS.items()
        ),
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
        *(
            (
                rf"encoder\.layers\.(\d+)\.blocks\.(\d+)\.{published}\.(.*)",
                rf"pseldnet.encoder.stages.\1.blocks.\2.{name}.\3",
            )
            for published, name in BLOCK_PARTS.items()
        ),
        (r"encoder\.norm\.(.*)", r"pseldnet.encoder.norm.\1"),
        (r"tscam_conv\.(.*)", r"heads.accdoa.conv.\1"),
        (r"(sed|doa)_tscam_conv\.(.*)", r"heads.\1.conv.\2"),
        (r"stitch1\.(.*)", r"pseldnet.encoder.stitches.\1"),
    ],
}
# Prefixes of EINV2's branches and tracks in published names, the prefix in networks with one branch, and our names.
BRANCHES = [
    (r"(sed|doa)_encoder\.", "encoder.", r"encoder.\1"),
    (r"(sed|doa)_convs\.", "convs.", r"encoder.\1"),
    (r"(sed|doa)_decoder\.(\d)\.", "decoder.", r"decoder.\1.\2"),
    *((rf"(sed|doa)_track{track + 1}\.", "decoder.", rf"decoder.\1.{track}") for track in range(3)),
]
INPUT_NORM = re.compile(r"scalar\.(\d+)\.(.*)")


def convert_state_dict(network: dict[str, torch.Tensor], backbone: str) -> tuple[dict[str, torch.Tensor], int]:
    """Convert published entries to the names and shapes of [`PSELDNetForSELD`], and count those to be recreated.

    Raises:
        ValueError: an entry is unknown; the message names it.
    """
    import torch

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
        raise ValueError(f"{len(unknown)} entries do not belong to {backbone}: {first_few(unknown, 5)}")
    for leaf, channels in input_norm.items():
        parts = [channels[channel] for channel in sorted(channels)]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"the entries scalar.….{leaf} differ in shape from channel to channel")
        state[f"pseldnet.input_norm.{leaf}"] = torch.cat(parts) if parts[0].ndim else parts[0]
    return state, remade


def read_architecture(state: dict[str, torch.Tensor], backbone: str) -> dict[str, Any]:
    """Infer fields of [`PSELDNetConfig`] from the shapes of converted entries."""

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


def make_config(
    labels: list[str], sampling_rate: int, backbone: str, output_format: str, architecture: dict[str, Any]
) -> PSELDNetConfig:
    """Return the config of a network for these classes, with 100 feature frames per second."""
    from ..configuration_pseldnet import PSELDNetConfig

    return PSELDNetConfig(
        backbone=backbone,
        output_format=output_format,
        **architecture,
        sampling_rate=sampling_rate,
        hop_length=sampling_rate // 100,
        id2label=dict(enumerate(labels)),
    )


def _split_branch(key: str) -> tuple[str, str | None]:
    """Return a published name as in a network with one branch, and our name of its branch and track."""
    for pattern, single, branch in BRANCHES:
        if match := re.match(pattern, key):
            return single + key[match.end() :], match.expand(branch)
    return key, None


def _split_qkv(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Split a fused QKV projection in three; return anything else unchanged."""
    if ".qkv." not in name:
        return {name: value}
    parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
    return {name.replace(".qkv.", f".{projection}."): part.clone() for projection, part in parts}
