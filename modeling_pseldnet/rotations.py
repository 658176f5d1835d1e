"""Rotations and reflections of a sound field that swap or reverse its axes: exact on first-order ambisonics.

Mazzon et al., "First order ambisonics domain spatial augmentation for DNN-based direction of arrival estimation",
DCASE 2019; as "audio channel swapping" in Wang et al., "A four-stage data augmentation approach to ResNet-Conformer
based acoustic modeling for sound event localization and detection", TASLP 2023.
"""

from itertools import permutations, product

import numpy as np


# Matrices (patterns, 3, 3) that take the x, y, z of a source to where it is afterwards; the identity comes first.
# All 48 signed permutations, and the 16 that keep z or reverse it.
ROTATION_PATTERNS = {
    48: np.array(
        [
            np.diag(signs)[:, list(order)]
            for order in permutations(range(3))
            for signs in product((1.0, -1.0), repeat=3)
        ],
        dtype=np.float32,
    )
}
ROTATION_PATTERNS[16] = np.array([pattern for pattern in ROTATION_PATTERNS[48] if pattern[2, 2] != 0])


def channel_rotation(patterns: np.ndarray) -> np.ndarray:
    """Matrices (…, 3, 3) in x, y, z as those that turn the channels W, Y, Z, X with them, (…, 4, 4)."""
    channels = np.zeros((*patterns.shape[:-2], 4, 4), dtype=patterns.dtype)
    channels[..., 0, 0] = 1
    channels[..., 1:, 1:] = patterns[..., [1, 2, 0], :][..., [1, 2, 0]]
    return channels


def feature_rotation(patterns: np.ndarray) -> np.ndarray:
    """Signed permutations (…, 3, 3) in x, y, z as those that turn `logmel_iv` features with them, (…, 7, 7)."""
    channels = channel_rotation(patterns)
    features = np.zeros((*patterns.shape[:-2], 7, 7), dtype=patterns.dtype)
    # The level of a channel is that of its reverse.
    features[..., :4, :4] = np.abs(channels)
    features[..., 4:, 4:] = channels[..., 1:, 1:]
    return features
