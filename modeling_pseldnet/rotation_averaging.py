"""Averages over rotations and reflections of the sound field, at the time of the test."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from .ambisonics import ROTATION_PATTERNS, feature_rotation
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor


PATTERNS = ROTATION_PATTERNS[16]


def rotation_averaging(
    model: PreTrainedModel, feature_extractor: PSELDNetFeatureExtractor
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Like `model.predict`, but the mean over the sound field turned in 16 ways, each output turned back.

    It costs 16 forward passes. The mean turns with the sound field, whatever the network has learnt: where a recording
    is rotated or reflected by one of the 16, so is the answer (with three tracks, but for ties in [`mean_of_tracks`]).

    Returns:
        From features (batch, 7, frames, mel bins) to the outputs of the format, as `model.predict` gives them.

    Raises:
        ValueError: the features are not of ambisonics, or the outputs not ACCDOA vectors of three axes and, at most,
            distances.
    """
    if feature_extractor.feature_type != "logmel_iv":
        raise ValueError(
            f"averaging over rotations takes features of ambisonics, logmel_iv, not {feature_extractor.feature_type}"
        )
    names = model.output_format.output_names
    if names[0] != "accdoa":
        raise ValueError(
            f"averaging over rotations takes accdoa or multi_accdoa outputs, not {model.config.output_format}"
        )

    if model.config.num_axes == 2 or model.config.onscreen:
        # A source that is turned to the back is told in front, and off the screen.
        raise ValueError("averaging over rotations takes vectors of three axes, not two, and not what is on screen")

    def predict(input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        answers = []
        # Features turn with the sound field exactly, so that they need not be computed again.
        for pattern, turn in zip(PATTERNS, feature_rotation(PATTERNS), strict=True):
            turned = torch.einsum("ij,bjtm->bitm", torch.from_numpy(turn).to(input_features), input_features)
            accdoa, *beside = model.predict(turned).values()
            vectors = torch.einsum("ij,bfkic->bfkjc", torch.from_numpy(pattern).to(accdoa), accdoa)
            answers.append(torch.cat([vectors, *(output.unsqueeze(3) for output in beside)], dim=3))
        mean = mean_of_tracks(torch.stack(answers))
        vectors, beside = mean[:, :, :, :3], mean[:, :, :, 3:].unbind(3)
        return dict(zip(names, [vectors, *beside], strict=True))

    return predict


def mean_of_tracks(outputs: torch.Tensor) -> torch.Tensor:
    """The mean of several answers whose tracks are in no common order.

    In each frame and class, one answer gives the order: the one that is least far from all others. Each of its tracks
    is averaged with the nearest track of every other answer. Tracks are not matched one to one, since of multi-ACCDOA
    several may stand for one source, and not the same in every answer. No answer is preferred for its place.

    Args:
        outputs: (answers, batch, frames, tracks, 3 + …, classes); the vector says what is near, and what stands after
            it is averaged with it.

    Returns:
        (batch, frames, tracks, 3 + …, classes).
    """
    if outputs.shape[3] == 1:
        return outputs.mean(0)
    far, vectors = [], outputs[..., :3, :]
    for answer in vectors:
        distance = squared_distance(answer, vectors)
        # There and back, since an answer that lacks a source is near to those that have it but not they to it.
        far.append((distance.amin(4).sum(3) + distance.amin(3).sum(3)).sum(0))
    chosen = torch.stack(far).argmin(0)[None, :, :, None, None].expand(1, *vectors.shape[1:])
    nearest = squared_distance(vectors.gather(0, chosen)[0], vectors).argmin(4)
    return outputs.gather(3, nearest.unsqueeze(4).expand_as(outputs)).mean(0)


def squared_distance(tracks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Between tracks (batch, frames, tracks, 3, classes) and those of answers (answers, batch, …).

    Returns:
        (answers, batch, frames, tracks, tracks of the answer, classes).
    """
    # An axis at a time, as the differences of all three would take much memory.
    parts = (tracks[..., :, None, axis, :] - others[..., None, :, axis, :] for axis in range(tracks.shape[-2]))
    return sum(part.square_() for part in parts)
