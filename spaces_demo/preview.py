"""A recording to listen to: stereo from first-order ambisonics."""

import os

import numpy as np
import soundfile

from modeling_pseldnet.audio import Recording
from modeling_pseldnet.files import atomic_path


BLOCK_SECONDS = 10
# The loudest sample of a preview, of full scale; recordings of rooms are often far below it.
PEAK = 0.7
# From W, Y, Z, X to two cardioids back to back: one looks left, one looks right.
CARDIOIDS = 0.5 * np.array([[1, 1, 0, 0], [1, -1, 0, 0]], dtype=np.float32)


def write_preview(recording: Recording, path: str | os.PathLike) -> None:
    """Writes what two cardioid microphones in the place of the listener hear, as loud as it can be, as MP3.

    Args:
        recording: first-order ambisonics, of any length; it is read in pieces.
        path: the file; it appears whole or not at all.

    Raises:
        ValueError: the recording breaks off.
    """
    size = BLOCK_SECONDS * recording.sampling_rate
    starts = range(0, recording.num_samples, size)
    peak = max(float(np.abs(_stereo(recording, start, size)).max()) for start in starts)
    gain = PEAK / max(peak, 1e-6)
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(temporary, "w", recording.sampling_rate, channels=2, format="MP3") as file,
    ):
        for start in starts:
            file.write(gain * _stereo(recording, start, size).T)


def _stereo(recording: Recording, start: int, size: int) -> np.ndarray:
    return CARDIOIDS @ recording.read(start, min(size, recording.num_samples - start))
