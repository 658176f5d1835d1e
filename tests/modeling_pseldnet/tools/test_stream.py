import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from modeling_pseldnet import Events, PSELDNetForSELD, detect
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.timeline import link_tracks
from modeling_pseldnet.tools.predict import main
from modeling_pseldnet.tools.scores import seld_scores
from modeling_pseldnet.tools.stream import detect_stream, in_real_time, read_pcm
from tests.helpers import scattered, tiny_config


RATE = 24000
THRESHOLD = 0.2


@pytest.fixture(scope="module")
def model(hub_folder):
    return PSELDNetForSELD.from_pretrained(hub_folder)


@pytest.fixture(scope="module")
def extractor(hub_folder):
    return AutoFeatureExtractor.from_pretrained(hub_folder)


@pytest.fixture(scope="module")
def scene(real):
    """Fourteen seconds of a real recording, (4, samples)."""
    with Recording(real / "BF_rec1.ogg", RATE, "fuma") as recording:
        return recording.read(0, 14 * RATE)


def blocks_of(waveform: np.ndarray, seconds: float, sampling_rate: int = RATE) -> list[np.ndarray]:
    step = round(seconds * sampling_rate)
    return [waveform[:, start : start + step] for start in range(0, waveform.shape[1], step)]


def stream(model, extractor, blocks, sampling_rate=RATE, **options) -> tuple[list[int], Events]:
    """The reported frames and their events."""
    told = list(detect_stream(model, extractor, blocks, sampling_rate, threshold=THRESHOLD, **options))
    return [frame for frame, _ in told], Events.concatenate(events for _, events in told)


def rows(events: Events) -> np.ndarray:
    """Sorted rows of frame, class, azimuth and elevation."""
    table = np.stack([events.frame, events.class_id, events.azimuth, events.elevation], axis=1)
    return table[np.lexsort(table.T[::-1].round(2))]


def test_with_the_delay_of_a_window_events_are_those_of_detect_after_the_first_window(model, extractor, scene):
    frames, found = stream(model, extractor, blocks_of(scene, 0.5), delay_seconds=10)
    expected = detect(model, extractor, (scene, RATE), hop_seconds=0.5, threshold=THRESHOLD)
    assert frames == list(range(140))
    found, expected = found[found.frame >= 100], expected[expected.frame >= 100]
    assert len(found) > 40
    np.testing.assert_allclose(rows(found), rows(expected), atol=0.05)


def test_before_the_beginning_the_model_hears_the_mirror_image_of_what_has_come(model, extractor, scene):
    block = scene[:, : 3 * RATE]
    _, found = stream(model, extractor, [block])
    window = np.tile(np.concatenate([block[:, ::-1], block], axis=1), 2)[:, -10 * RATE :]
    expected = detect(model, extractor, (window, RATE), threshold=THRESHOLD)
    expected = expected[expected.frame >= 70]
    assert len(found) > 10
    np.testing.assert_allclose(rows(found), rows(expected.replace(frame=expected.frame - 70)), atol=0.05)


def test_it_is_so_where_the_blocks_end_within_a_hop(model, extractor, scene):
    waveform = np.tile(scene, 2)[:, : round(22.3 * RATE)]
    _, found = stream(model, extractor, blocks_of(waveform, 5), delay_seconds=10)
    expected = detect(model, extractor, (waveform, RATE), hop_seconds=5, threshold=THRESHOLD)
    found, expected = found[found.frame >= 100], expected[expected.frame >= 100]
    assert len(found) > 40
    np.testing.assert_allclose(rows(found), rows(expected), atol=0.05)


@pytest.mark.parametrize(("delay_seconds", "window_ends"), [(0.0, [12.0]), (0.5, [12.0, 12.5]), (1.0, [12, 12.5, 13])])
def test_a_frame_is_the_mean_over_the_windows_that_have_held_it_so_far(extractor, scene, delay_seconds, window_ends):
    # With one track per class, tracks need not be matched before averaging.
    model = scattered(PSELDNetForSELD(tiny_config(output_format="accdoa"))).eval()
    ten, rest = np.split(scene, [10 * RATE], axis=1)
    _, found = stream(model, extractor, [ten, *blocks_of(rest, 0.5)], delay_seconds=delay_seconds)
    outputs, weights = [], []
    for end in window_ends:
        window = scene[:, round((end - 10) * RATE) : round(end * RATE)]
        with torch.no_grad():
            accdoa = model.predict(extractor(window, sampling_rate=RATE)["input_features"])["accdoa"][0]
        begin = round(10 * (11.5 - end + 10))
        outputs.append(accdoa[begin : begin + 5].numpy())
        # The less, the nearer to the end of a window of 100 frames.
        weights.append(100 - np.arange(begin, begin + 5))
    mean = np.average(
        outputs, axis=0, weights=np.broadcast_to(np.reshape(weights, (-1, 5, 1, 1, 1)), np.shape(outputs))
    )
    expected = model.output_format.decode({"accdoa": mean}, THRESHOLD)
    found = found[(found.frame >= 115) & (found.frame < 120)]
    assert len(found) > 0
    np.testing.assert_allclose(rows(found), rows(expected.replace(frame=expected.frame + 115)), atol=0.05)


@pytest.mark.parametrize(("block_seconds", "delay_seconds"), [(0.5, 0.5), (1.0, 0.3), (0.3, 2.0)])
def test_every_frame_comes_once_in_order_and_within_delay_and_block(
    model, extractor, scene, block_seconds, delay_seconds
):
    given = 0

    def counted():
        nonlocal given
        for block in blocks_of(scene[:, : 5 * RATE], block_seconds):
            given += block.shape[1]
            yield block

    frames = []
    for frame, _ in detect_stream(model, extractor, counted(), RATE, delay_seconds=delay_seconds):
        frames.append(frame)
        waited = given / RATE - (frame + 1) / 10
        assert waited < delay_seconds + block_seconds - 1e-6
        assert waited >= delay_seconds - 1e-6 or given == 5 * RATE
    assert frames == list(range(50))


def test_what_is_told_does_not_depend_on_what_comes_afterwards(model, extractor, scene):
    _, short = stream(model, extractor, blocks_of(scene[:, : 3 * RATE], 0.5))
    _, long = stream(model, extractor, blocks_of(scene[:, : 5 * RATE], 0.5))
    short, long = short[short.frame < 25], long[long.frame < 25]
    assert len(short) > 0
    np.testing.assert_array_equal(rows(short), rows(long))


@pytest.mark.parametrize("seconds", [0.03, 0.777, 12.0])
def test_blocks_of_any_length_lose_no_frame(model, extractor, scene, seconds):
    samples = round(min(12.34, 20.5 * seconds) * RATE)
    frames, found = stream(model, extractor, blocks_of(scene[:, :samples], seconds))
    assert frames == list(range(-(-samples // 2400)))
    assert found.frame.max() > len(frames) - 5


def test_tracks_are_linked_as_in_a_recording(model, extractor, scene):
    _, found = stream(model, extractor, blocks_of(scene[:, : 5 * RATE], 0.5))
    again = link_tracks(found)
    assert found.track.max() > 0
    np.testing.assert_array_equal(found.sort().track, again.track)


def test_other_rates_are_resampled(model, extractor, real):
    with Recording(real / "BF_rec1.ogg", 48000, "fuma") as recording:
        scene = recording.read(0, 13 * 48000)
    with Recording((scene, 48000), RATE) as recording:
        resampled = recording.read(0, 13 * RATE)
    ten, rest = np.split(scene, [10 * 48000], axis=1)
    _, found = stream(model, extractor, [ten, *blocks_of(rest, 0.7, 48000)], 48000)
    ten, rest = np.split(resampled, [10 * RATE], axis=1)
    _, expected = stream(model, extractor, [ten, *blocks_of(rest, 0.7)])
    assert len(found) > 100
    # Sums have a different order, so an activity close to the threshold may end up on the other side.
    scores = seld_scores([expected], [found], model.config.num_labels, num_frames=[130])["micro"]
    assert scores["F"] > 0.98
    assert scores["LE"] < 1


@pytest.mark.parametrize("sampling_rate", [RATE, float(RATE)])
def test_silence_has_no_events(model, extractor, sampling_rate):
    frames, events = stream(model, extractor, [np.zeros((4, RATE), dtype=np.float32)], sampling_rate)
    assert (len(frames), len(events)) == (10, 0)


@pytest.mark.parametrize(
    ("blocks", "sampling_rate", "options", "complaint"),
    [
        ([np.zeros((2, 100))], RATE, {}, r"a block of shape \(2, 100\): give blocks of shape \(4, samples\)"),
        ([np.zeros((100, 4))], RATE, {}, r"shape \(100, 4\): .*it looks transposed: give block.T"),
        ([np.zeros((4, RATE)), np.full((4, 100), np.nan)], RATE, {}, "the stream, near 1.0 s: some samples are NaN"),
        ([], None, {}, "sampling rate is missing"),
        ([], 44101, {}, "a rate of 44101 Hz is not possible: give a multiple of 10 Hz"),
        ([], RATE, {"delay_seconds": 0.25}, "a delay of 0.25 s is not possible: give a multiple of 0.1 s"),
        ([], RATE, {"delay_seconds": None}, "a delay of None s is not possible: give a multiple of 0.1 s"),
        ([], RATE, {"delay_seconds": 11}, "up to the window of 10 s"),
        ([], RATE, {"channel_format": "mono"}, "channel format 'mono'"),
    ],
)
def test_values_out_of_range_are_refused(model, extractor, blocks, sampling_rate, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        stream(model, extractor, blocks, sampling_rate, **options)


def test_raw_samples_are_read_in_blocks_however_the_pipe_cuts_them():
    samples = np.arange(-60, 60, dtype="<i2").reshape(30, 4)

    class Pipe(io.BytesIO):
        def read(self, size):
            return super().read(min(size, 7))

    blocks = list(read_pcm(Pipe(samples.tobytes() + b"x"), "s16le", 4, 8))
    assert [block.shape for block in blocks] == [(4, 8)] * 3 + [(4, 6)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), samples.T / 32768)


def test_a_source_that_is_faster_than_real_time_is_not_hurried_through():
    blocks = [np.full((1, 3), number) for number in range(50)]
    found = list(in_real_time(blocks, 10.0, 50.0, pytest.fail))
    assert [block.shape for block in found] == [(1, 3)] * 50


def test_no_thread_is_left_behind_whoever_stops_first():
    def endless():
        try:
            while True:
                yield np.zeros((1, 3))
        finally:
            ended.set()

    ended, before = threading.Event(), threading.active_count()
    for _ in in_real_time(endless(), 0.02, 0.2, lambda message: None):
        break
    assert ended.wait(5)
    assert threading.active_count() == before


def test_who_falls_behind_gets_several_blocks_at_once_and_is_told_once():
    blocks, warnings, found = [np.full((1, 3), number) for number in range(30)], [], []

    def live():
        for block in blocks:
            time.sleep(0.02)
            yield block

    for block in in_real_time(live(), 0.02, 0.2, warnings.append):
        found.append(block)
        time.sleep(0.1)
    assert 3 <= len(found) < 15
    np.testing.assert_array_equal(np.concatenate(found, axis=1), np.concatenate(blocks, axis=1))
    assert warnings == ["slower than real time: windows are more than 0.02 s apart"]


@pytest.fixture
def listen(hub_folder, monkeypatch, capsys):
    """Run the program on bytes from standard input; return its status, printed lines and errors."""

    def run(data: bytes, *options, blocking=True):
        receiver, sender = os.pipe()
        os.set_blocking(receiver, blocking)

        def send():
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(data)

        threading.Thread(target=send, daemon=True).start()
        with os.fdopen(receiver) as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            try:
                status = main(["--stream", "--model", str(hub_folder), "--threshold", str(THRESHOLD), *options])
            except SystemExit as stopped:
                status = stopped.code
            captured = capsys.readouterr()
        return status, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return run


def test_the_program_prints_a_line_for_each_frame(listen, model, extractor, scene):
    pcm = (scene[:, : 3 * RATE + 100].T * 32767).astype("<i2")
    status, lines, error = listen(pcm.tobytes(), "--every", "1", "--delay", "1")
    assert status == 0
    assert "listening to stdin, 4 channels at 24000 Hz" in error
    assert [line["time"] for line in lines] == [frame / 10 for frame in range(31)]
    _, expected = stream(model, extractor, blocks_of(pcm.T / np.float32(32768), 1), delay_seconds=1)
    assert sum(len(line["events"]) for line in lines) == len(expected) > 0
    event = next(line for line in lines if line["events"])["events"][0]
    assert list(event) == ["label", "track", "azimuth", "elevation", "confidence"]
    assert event["label"] in model.config.id2label.values()
    assert event["azimuth"] == round(expected.azimuth[0], 1)
    assert THRESHOLD < event["confidence"] <= 1
    floats = listen(
        (pcm / np.float32(32768)).astype("<f4").tobytes(), *["--hop", "1", "--delay", "1", "--format", "f32le"]
    )
    assert floats[:2] == (0, lines)


def test_a_pipe_that_does_not_wait_is_waited_for(listen):
    status, lines, _ = listen(np.zeros(4 * RATE, "<i2").tobytes(), blocking=False)
    assert (status, len(lines)) == (0, 10)


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        (b"RIFF$\0\0\0WAVEfmt ", [], "sound file with a header"),
        (b"caff\0\1\0\0desc", [], "sound file with a header"),
        (np.full(4000, np.nan, "<f4").tobytes(), ["--format", "f32le"], "NaN or infinite: is the stream really f32le"),
        (b"", ["--rate", "44101"], "a rate of 44101 Hz"),
        (b"", ["--rate", "1000000"], "a sampling rate of 1000000 Hz, which is implausible"),
        (b"", ["--delay", "12"], "a delay of 12.0 s"),
        (b"", ["--every", "0.25"], "multiple of 0.1 s"),
        (b"", ["--channel-format", "mono"], "channel format 'mono'"),
        (b"", ["--min-confidence", "0.7"], "--min-confidence: needs whole events"),
        (
            b"",
            ["recording.wav", "--tta", "--layout", "metadata"],
            "audio, --tta, --layout: cannot be used with --stream",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_and_status_2(listen, data, options, complaint):
    status, lines, error = listen(data, *options)
    assert (status, lines) == (2, [])
    assert complaint in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_sound_device_takes_its_package(hub_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["--stream", "microphone", "--model", str(hub_folder)]) == 2
    assert "the package sounddevice is missing: pip install 'pseldnets[stream]'" in capsys.readouterr().err


def test_lines_come_while_the_stream_goes_on_and_an_interrupt_ends_it(hub_folder, scene):
    command = [sys.executable, "-m", "modeling_pseldnet.tools.predict", "--stream", "--model", str(hub_folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write((scene[:, :RATE].T * 32767).astype("<i2").tobytes())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["time"] == 0
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in error
    assert b"Traceback" not in error
