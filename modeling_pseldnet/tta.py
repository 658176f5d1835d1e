"""Test-time augmentation: a model's mean answer to the 16 rotations and reflections of a sound field."""

from collections.abc import Callable

import torch

from .feature_extraction_pseldnet import PSELDNetFeatureExtractor
from .modeling_pseldnet import PSELDNetForSELD
from .rotations import ROTATION_PATTERNS, feature_rotation


PATTERNS = ROTATION_PATTERNS[16]


def rotation_averaging(
    model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Like `model.predict`, but the mean over the sound field turned in 16 ways, each output turned back.

    It costs 16 forward passes. The mean turns with the sound field, whatever the network has learnt: where a recording
    is rotated or reflected by one of the 16, so is the answer (with three tracks, but for ties in [`mean_of_tracks`]).

    Returns:
        From features (batch, 7, frames, mel bins) to `accdoa` (batch, label frames, tracks, 3, classes).

    Raises:
        ValueError: the features are not of ambisonics, or the outputs no ACCDOA vectors.
    """
    if feature_extractor.feature_type != "logmel_iv":
        raise ValueError(
            f"averaging over rotations takes features of ambisonics, logmel_iv, not {feature_extractor.feature_type}"
        )
    if model.output_format.output_names != ("accdoa",):
        raise ValueError(
            f"averaging over rotations takes accdoa or multi_accdoa outputs, not {model.config.output_format}"
        )

    def predict(input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        answers = []
        # Features turn with the sound field exactly, so that they need not be computed again.
        for pattern, turn in zip(PATTERNS, feature_rotation(PATTERNS), strict=True):
            turned = torch.einsum("ij,bjtm->bitm", torch.from_numpy(turn).to(input_features), input_features)
            accdoa = model.predict(turned)["accdoa"]
            answers.append(torch.einsum("ij,bfkic->bfkjc", torch.from_numpy(pattern).to(accdoa), accdoa))
        return {"accdoa": mean_of_tracks(torch.stack(answers))}

    return predict


def mean_of_tracks(outputs: torch.Tensor) -> torch.Tensor:
    """The mean of several answers whose tracks are in no common order.

    In each frame and class, one answer gives the order: the one that is least far from all others. Each of its tracks
    is averaged with the nearest track of every other answer. Tracks are not matched one to one, since of multi-ACCDOA
    several may stand for one source, and not the same in every answer. No answer is preferred for its place.

    Args:
        outputs: (answers, batch, frames, tracks, 3, classes).

    Returns:
        (batch, frames, tracks, 3, classes).
    """
    if outputs.shape[3] == 1:
        return outputs.mean(0)
    far = []
    for answer in outputs:
        distance = squared_distance(answer, outputs)
        # There and back, since an answer that lacks a source is near to those that have it but not they to it.
        far.append((distance.amin(4).sum(3) + distance.amin(3).sum(3)).sum(0))
    chosen = torch.stack(far).argmin(0)[None, :, :, None, None].expand(1, *outputs.shape[1:])
    nearest = squared_distance(outputs.gather(0, chosen)[0], outputs).argmin(4)
    return outputs.gather(3, nearest.unsqueeze(4).expand_as(outputs)).mean(0)


def squared_distance(tracks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Between tracks (batch, frames, tracks, 3, classes) and those of answers (answers, batch, …).

    Returns:
        (answers, batch, frames, tracks, tracks of the answer, classes).
    """
    # An axis at a time, as the differences of all three would take much memory.
    parts = (tracks[..., :, None, axis, :] - others[..., None, :, axis, :] for axis in range(3))
    return sum(part.square_() for part in parts)
