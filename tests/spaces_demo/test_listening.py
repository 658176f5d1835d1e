import numpy as np
import pytest
import soundfile

from modeling_pseldnet.audio import Recording
from spaces_demo.preview import PEAK, write_preview


def preview(source, tmp_path, **options) -> np.ndarray:
    with Recording(source, 24000, **options) as recording:
        write_preview(recording, tmp_path / "preview.mp3")
    stereo, sampling_rate = soundfile.read(tmp_path / "preview.mp3", always_2d=True)
    assert sampling_rate == 24000
    return stereo


@pytest.mark.parametrize(("azimuth", "louder", "times"), [(90, 0, 100), (-90, 1, 100), (0, 0, 1), (180, 0, 1)])
def test_a_source_is_heard_on_its_side(make_recording, tmp_path, azimuth, louder, times):
    level = np.abs(preview(make_recording("side.wav", azimuth=azimuth), tmp_path)).mean(0)
    assert level[louder] > 0.95 * times * level[1 - louder]


def test_a_quiet_recording_is_made_loud_and_keeps_its_length(tmp_path):
    quiet = 1e-4 * np.random.default_rng(0).standard_normal((4, 25 * 24000)).astype(np.float32)
    stereo = preview((quiet, 24000), tmp_path)
    assert np.abs(stereo).max() == pytest.approx(PEAK, rel=0.2)
    assert len(stereo) == pytest.approx(25 * 24000, abs=3000)


def test_silence_stays_silent(tmp_path):
    assert np.abs(preview((np.zeros((4, 24000), dtype=np.float32), 24000), tmp_path)).max() < 1e-3
