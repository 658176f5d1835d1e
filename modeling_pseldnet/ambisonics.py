"""First-order ambisonics: channel conventions, A-format to B-format conversion, and rotations of the sound field.

This package uses AmbiX: W, Y, Z, X (ACN) with SN3D. FuMa, found in older recordings and `.amb` files, is W, X, Y, Z
with W 3 dB down (Malham, "Higher order ambisonic systems", 2003).

A-format: Gerzon, "The design of precisely coincident microphone arrays for stereo and surround sound", AES Convention,
1975. Rotations: Mazzon et al., "First order ambisonics domain spatial augmentation for DNN-based direction of arrival
estimation", DCASE 2019; as "audio channel swapping" in Wang et al., "A four-stage data augmentation approach to
ResNet-Conformer based acoustic modeling for sound event localization and detection", TASLP 2023.
"""

from itertools import permutations, product
from math import isqrt

import numpy as np


# In metres per second.
SPEED_OF_SOUND = 343.0
# Converts W, X, Y, Z of FuMa to W, Y, Z, X of AmbiX.
FUMA_TO_AMBIX = np.array([[2**0.5, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]], dtype=np.float32)
# Directions of the capsules front left up, front right down, back left down and back right up, (4, 3) in x, y, z.
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


def order_of(num_channels: int) -> int:
    """Return the order of ambisonics with that many channels, 0 if there is none."""
    order = isqrt(num_channels) - 1
    return order if (order + 1) ** 2 == num_channels else 0


def a_to_b_matrix(directions: np.ndarray = TETRAHEDRON, omnidirectional_part: float = 0.5) -> np.ndarray:
    """Return the float32 matrix (4, capsules) that [`a_to_b_format`] applies."""
    directions = np.asarray(directions, dtype=np.float64)
    if directions.ndim != 2 or directions.shape[1] != 3 or not np.linalg.norm(directions, axis=1).all():
        raise ValueError(f"directions of capsules must be vectors (capsules, 3), not of shape {directions.shape}")
    x, y, z = (1 - omnidirectional_part) * (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    capsules = np.stack([np.full_like(x, omnidirectional_part), y, z, x], axis=1)
    if np.linalg.matrix_rank(capsules, tol=1e-6) < 4:
        raise ValueError(
            "W, Y, Z and X cannot be derived from these capsules: use at least four directional ones whose directions"
            " do not all lie in a plane or on a cone"
        )
    return np.linalg.pinv(capsules).astype(np.float32)


def a_to_b_format(
    waveform: np.ndarray, directions: np.ndarray = TETRAHEDRON, omnidirectional_part: float = 0.5
) -> np.ndarray:
    """Convert capsule signals to first-order ambisonics (AmbiX: W, Y, Z, X, SN3D).

    The capsules are assumed to coincide. For capsules at a distance r from their centre this holds approximately up to
    f = 0.8 * c / (2 pi r), with c = 343 m/s: 3 kHz for the 1.5 cm of a typical tetrahedral microphone, 1 kHz for
    4.2 cm. At f the intensity vector deviates from the source by 3° on average and 6° at worst, W is 0.6 dB too low
    and X, Y, Z 1.5 dB too high; the deviation grows with the square of the frequency, to 9° on average at 1.8 f.
    Above 3 f directions are ambiguous (spatial aliasing). Radius equalisation filters are omitted because they correct
    the levels but not the angles.

    Not for omnidirectional capsules, even on a rigid sphere, as in the MIC format of the DCASE challenges.

    Args:
        waveform: (capsules, samples).
        directions: where each capsule points, vectors (capsules, 3) in x, y, z of any length. Defaults to the usual
            order of a tetrahedral microphone: front left up, front right down, back left down, back right up.
        omnidirectional_part: a in the capsules' response a + (1 - a) cos(angle). Defaults to 0.5, a cardioid; 0.25 is
            a hypercardioid.

    Returns:
        (4, samples), float32.

    Raises:
        ValueError: the four channels cannot be recovered from these capsules, or the waveform has another number of
            capsules.
    """
    matrix = a_to_b_matrix(directions, omnidirectional_part)
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 2 or len(waveform) != matrix.shape[1]:
        raise ValueError(f"expected shape ({matrix.shape[1]}, samples), one row per capsule, got {waveform.shape}")
    return matrix @ waveform


# Matrices (patterns, 3, 3) that map the x, y, z of a source to its new position; the identity comes first.
# All 48 signed permutations, and the 16 that keep or reverse z.
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


def yaw_rotation(degrees) -> np.ndarray:
    """Return matrices (…, 3, 3) in x, y, z that rotate counter-clockwise about the z axis by angles (…) in degrees."""
    radians = np.radians(np.asarray(degrees, dtype=np.float64))
    cosine, sine, zero, one = np.cos(radians), np.sin(radians), np.zeros_like(radians), np.ones_like(radians)
    rows = [[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def channel_rotation(patterns: np.ndarray) -> np.ndarray:
    """Convert rotations (…, 3, 3) in x, y, z to matrices (…, 4, 4) that act on the channels W, Y, Z, X."""
    channels = np.zeros((*patterns.shape[:-2], 4, 4), dtype=patterns.dtype)
    channels[..., 0, 0] = 1
    channels[..., 1:, 1:] = patterns[..., [1, 2, 0], :][..., [1, 2, 0]]
    return channels


def feature_rotation(patterns: np.ndarray) -> np.ndarray:
    """Convert signed permutations (…, 3, 3) in x, y, z to matrices (…, 7, 7) that act on `logmel_iv` features."""
    channels = channel_rotation(patterns)
    features = np.zeros((*patterns.shape[:-2], 7, 7), dtype=patterns.dtype)
    # Inverting a channel does not change its level.
    features[..., :4, :4] = np.abs(channels)
    features[..., 4:, 4:] = channels[..., 1:, 1:]
    return features


__all__ = ["FUMA_TO_AMBIX", "TETRAHEDRON", "a_to_b_format"]
