import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session", autouse=True)
def quiet_progress():
    import datasets

    datasets.disable_progress_bars()


@pytest.fixture
def write_audio():
    """Write a short recording whose sample n of channel c is (n + c) / 2**15, so that reads can be checked."""

    def write(path, seconds=0.5, num_channels=4, sampling_rate=24000):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.arange(round(seconds * sampling_rate))[:, None] + np.arange(num_channels)
        soundfile.write(path, (samples % 2**15).astype(np.int16), sampling_rate)
        return path

    return write


@pytest.fixture
def write_text():
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
