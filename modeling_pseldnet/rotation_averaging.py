"""Test-time augmentation: the average over rotations and reflections of the sound field."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from .ambisonics import ROTATION_PATTERNS, feature_rotation
from .feature_extraction_pseldnet import PSELDNetFeatureExtractor


PATTERNS = ROTATION_PATTERNS[16]


def rotation_averaging(
    model: PreTrainedModel, feature_extractor: PSELDNetFeatureExtractor
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Return a variant of `model.predict` that averages over 16 rotations and reflections, undone in the outputs.

    It costs 16 forward passes. The mean is equivariant, whatever the network has learnt: if a recording is rotated or
    reflected by one of the 16, so are the outputs (with three tracks, except for ties in [`mean_of_tracks`]).

    Returns:
        Function of features (batch, 7, frames, mel bins) with the same outputs as `model.predict`.

    Raises:
        ValueError: the features are not ambisonic, or the outputs are not ACCDOA vectors with three axes and, at most,
            distances.
    """
    if feature_extractor.feature_type != "logmel_iv":
        raise ValueError(
            f"averaging over rotations (tta) needs logmel_iv features, of ambisonics, not"
            f" {feature_extractor.feature_type}"
        )
    names = model.output_format.output_names
    if names[0] != "accdoa":
        raise ValueError(
            f"averaging over rotations (tta) needs accdoa or multi_accdoa outputs, not {model.config.output_format}"
        )

    if model.config.num_axes == 2 or model.config.onscreen:
        # A source rotated to the back would be folded to the front, and would go off screen.
        raise ValueError("averaging over rotations (tta) needs a model with three axes and without onscreen")

    def predict(input_features: torch.Tensor) -> dict[str, torch.Tensor]:
        answers = []
        # Rotating the features is exact, so they need not be computed again.
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
    """Average several predictions whose tracks have no common order.

    In each frame and class, the prediction closest to all others sets the order. Each of its tracks is averaged with
    the nearest track of every other prediction. Tracks are not matched one to one, because in multi-ACCDOA several may
    represent the same source, and not the same ones in every prediction. The order of the predictions does not matter.

    Args:
        outputs: (predictions, batch, frames, tracks, 3 + …, classes); distances are measured between the vectors, and
            the other numbers are averaged along with them.

    Returns:
        (batch, frames, tracks, 3 + …, classes).
    """
    if outputs.shape[3] == 1:
        return outputs.mean(0)
    far, vectors = [], outputs[..., :3, :]
    for answer in vectors:
        distance = squared_distance(answer, vectors)
        # In both directions, since a prediction that lacks a source is close to one that has it, but not vice versa.
        far.append((distance.amin(4).sum(3) + distance.amin(3).sum(3)).sum(0))
    chosen = torch.stack(far).argmin(0)[None, :, :, None, None].expand(1, *vectors.shape[1:])
    nearest = squared_distance(vectors.gather(0, chosen)[0], vectors).argmin(4)
    return outputs.gather(3, nearest.unsqueeze(4).expand_as(outputs)).mean(0)


def squared_distance(tracks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return squared distances between tracks (batch, frames, tracks, 3, classes) and those of several predictions.

    Returns:
        (predictions, batch, frames, tracks, tracks of the prediction, classes).
    """
    # One axis at a time, because the differences of all three would take too much memory.
    parts = (tracks[..., :, None, axis, :] - others[..., None, :, axis, :] for axis in range(tracks.shape[-2]))
    return sum(part.square_() for part in parts)
