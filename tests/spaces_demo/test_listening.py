import numpy as np
import pytest
import soundfile

from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import direction_to_vector
from spaces_demo.listening import ENVELOPE_POINTS, PEAK, binaural_filters, head_response, write_preview, write_solo


def preview(source, tmp_path, **options) -> dict:
    with Recording(source, 24000, **options) as recording:
        written = write_preview(recording, tmp_path / "preview")
    sounds = {}
    for name in ("stereo", "binaural"):
        sounds[name], sampling_rate = soundfile.read(getattr(written, name), always_2d=True)
        assert sampling_rate == 24000
    return {**sounds, "envelope": written.envelope}


def ears(azimuth: float, elevation: float = 0) -> np.ndarray:
    """The responses of both ears to an impulse from a direction, (2, samples)."""
    x, y, z = direction_to_vector(azimuth, elevation)
    return np.einsum("ect,c->et", binaural_filters(24000), [1, y, z, x])


@pytest.mark.parametrize(("azimuth", "louder", "times"), [(90, 0, 100), (-90, 1, 100), (0, 0, 1), (180, 0, 1)])
def test_a_source_is_heard_on_its_side(make_recording, tmp_path, azimuth, louder, times):
    level = np.abs(preview(make_recording("side.wav", azimuth=azimuth), tmp_path)["stereo"]).mean(0)
    assert level[louder] > 0.95 * times * level[1 - louder]


def test_in_headphones_a_source_is_louder_and_earlier_in_the_nearer_ear():
    left, right = ears(90)
    assert (left**2).sum() > 4 * (right**2).sum()
    assert 0.0003 < (np.abs(right).argmax() - np.abs(left).argmax()) / 24000 < 0.0008


def test_in_headphones_front_and_back_differ_and_the_ears_do_not():
    front, back = ears(0), ears(180)
    assert np.allclose(front[0], front[1], atol=1e-6)
    spectra = [np.abs(np.fft.rfft(ear[0])) for ear in (front, back)]
    assert np.abs(20 * np.log10(spectra[0][20:80] / spectra[1][20:80])).mean() > 3


def test_the_head_is_the_sphere_of_woodworth_and_of_brown_and_duda():
    frequency = np.array([10.0, 11.0])
    near, far = (head_response(frequency, direction_to_vector(90.0, 0.0), side) for side in (1, -1))
    lag = np.diff(np.unwrap(np.angle(far / near)))[0] / (-2 * np.pi)
    # a/c (sin + angle) for ears at 100°, up to the delays of the first-order head shadow and the pinna.
    assert lag == pytest.approx(0.0875 / 343 * (np.pi / 2 + 0.98), rel=0.3)
    assert np.abs(near) == pytest.approx(np.abs(far), rel=0.02)


def test_a_quiet_recording_is_made_loud_and_keeps_its_length(tmp_path):
    quiet = 1e-4 * np.random.default_rng(0).standard_normal((4, 25 * 24000)).astype(np.float32)
    heard = preview((quiet, 24000), tmp_path)
    for name in ("stereo", "binaural"):
        assert np.abs(heard[name]).max() == pytest.approx(PEAK, rel=0.2)
        assert len(heard[name]) == pytest.approx(25 * 24000, abs=3000)


def test_silence_stays_silent(tmp_path):
    heard = preview((np.zeros((4, 24000), dtype=np.float32), 24000), tmp_path)
    assert np.abs(heard["stereo"]).max() < 1e-3
    assert np.abs(heard["binaural"]).max() < 1e-3


def test_the_envelope_follows_the_level(tmp_path):
    sound = np.random.default_rng(0).standard_normal((4, 12 * 24000)).astype(np.float32)
    sound[:, 6 * 24000 :] *= 0.1
    envelope = preview((sound, 24000), tmp_path)["envelope"]
    assert len(envelope) == ENVELOPE_POINTS
    assert np.mean(envelope[: ENVELOPE_POINTS // 2]) == pytest.approx(
        10 * np.mean(envelope[ENVELOPE_POINTS // 2 :]), rel=0.1
    )


def steered(waveform: np.ndarray, trajectory: list[dict], tmp_path) -> np.ndarray:
    with Recording((waveform, 24000), 24000) as recording:
        write_solo(recording, trajectory, tmp_path / "solo.mp3")
    return soundfile.read(tmp_path / "solo.mp3")[0]


def step(time: float, azimuth: float) -> dict:
    return {"time": time, "azimuth": azimuth, "elevation": 0}


def test_an_event_alone_is_heard_along_its_track_and_others_are_not(tmp_path):
    time = np.arange(2 * 24000) / 24000
    waveform = np.zeros((4, len(time)), dtype=np.float32)
    for hertz, azimuth in ((500, 90), (3000, -19.5)):  # 109.5° apart, at the null of a hypercardioid
        x, y, z = direction_to_vector(azimuth, 0)
        waveform += np.outer([1, y, z, x], 0.1 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
    sound = steered(waveform, [step(0.5 + i / 10, 90) for i in range(10)], tmp_path)
    assert len(sound) == pytest.approx(24000, abs=3000)
    level = np.abs(np.fft.rfft(sound))
    hertz = np.fft.rfftfreq(len(sound), 1 / 24000)
    assert level[np.abs(hertz - 500) < 20].max() > 30 * level[np.abs(hertz - 3000) < 20].max()


@pytest.mark.parametrize("times", [[], [-1], [5], [1, 0.5]])
def test_a_track_outside_the_recording_is_refused(tmp_path, times):
    with pytest.raises(ValueError, match="outside the recording"):
        steered(np.zeros((4, 24000), dtype=np.float32), [step(time, 0) for time in times], tmp_path)
