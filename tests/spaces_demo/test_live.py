import asyncio
import gc
from itertools import islice
from urllib.parse import urlencode

import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.testclient import TestClient

from modeling_pseldnet.tools.stream import detect_stream, to_record
from spaces_demo import live
from spaces_demo.live import MAX_BYTES, MAX_LISTENERS, Listener
from spaces_demo.models import load_own


RATE = 24000
FOUR = {"channels": "4", "rate": str(RATE)}


@pytest.fixture
def listener(model):
    return Listener(lambda name: load_own(name or str(model)))


def samples(channels: int, seconds: float) -> np.ndarray:
    """Noise (samples, channels) as a browser sends it."""
    noise = np.random.default_rng(0).standard_normal((round(seconds * RATE), channels))
    return (3000 * noise).astype("<i2")


def all_told(listener, sound: np.ndarray, **query) -> tuple[dict, list[dict]]:
    """The first message to the visitor of a microphone, and all others until it ends."""
    told = listener.tell("visitor", channels=str(sound.shape[1]), rate=str(RATE), **query)
    first = next(told)
    for data in (sound.tobytes(), b""):
        listener.microphones["visitor"].write(data)
    return first, list(told)


def test_it_tells_what_the_program_would_of_a_stream(listener, model):
    first, lines = all_told(listener, samples(4, 2))
    assert first["channels"] == 4
    assert first["scene"]["ambisonic"]
    assert lines.pop() == {"end": ""}
    used = load_own(str(model))
    blocks = np.split(samples(4, 2).T.astype(np.float32) / 2**15, 4, axis=1)
    frames = list(detect_stream(used.network, used.extractor, blocks, RATE))
    # A slow machine processes several blocks at once, with the same times and keys.
    expected = [to_record(frame, events, used.network.config.id2label) for frame, events in frames]
    assert [line["time"] for line in lines] == [line["time"] for line in expected]
    assert sum(len(line["events"]) for line in lines) > 10
    assert {*lines[0]["events"][0]} == {*expected[0]["events"][0]}


def test_of_stereo_all_is_told_in_front(listener, stereo_model):
    first, lines = all_told(listener, samples(2, 1), model=str(stereo_model))
    assert first["channels"] == 2
    assert first["scene"]["stereo"]
    events = [event for line in lines[:-1] for event in line["events"]]
    assert events
    assert all(abs(event["azimuth"]) <= 90 and event["elevation"] == 0 and event["distance"] > 0 for event in events)


def test_too_few_channels_are_said_with_what_is_needed(listener):
    (line,) = listener.tell("visitor", channels="1", rate=str(RATE))
    assert line["error"].startswith("Your microphone has 1 channel, but this model needs 4. One channel carries no")
    assert not listener.microphones


@pytest.mark.parametrize("query", [{}, {"channels": "four", "rate": "1"}, {**FOUR, "rate": "-1"}])
def test_what_is_no_microphone_is_refused(listener, query):
    (line,) = listener.tell("visitor", **query)
    assert "sent an invalid request: reload it" in line["error"]


@pytest.mark.parametrize("rate", ["9", "24001", "999990"])
def test_a_rate_that_cannot_be_used_is_said(listener, rate):
    (line,) = listener.tell("visitor", **{**FOUR, "rate": rate})
    assert "Hz" in line["error"]


def test_a_few_are_heard_at_once_each_of_them_once(listener):
    heard = [listener.tell(f"visitor {number}", **FOUR) for number in range(MAX_LISTENERS)]
    assert all("scene" in next(told) for told in heard)
    assert "already listening" in next(listener.tell("visitor 0", **FOUR))["error"]
    assert "already listening to 2 microphones" in next(listener.tell("another", **FOUR))["error"]
    heard[0].close()  # as when the visitor leaves
    assert "scene" in next(listener.tell("another", **FOUR))


def test_it_ends_after_some_minutes_or_when_nothing_is_sent(listener, monkeypatch):
    monkeypatch.setattr(live, "SILENT_SECONDS", 0.01)
    assert "Nothing has come from your microphone" in [*listener.tell("visitor", **FOUR)][-1]["end"]
    monkeypatch.setattr(live, "MAX_SECONDS", 0)
    assert "Live listening ends after" in [*listener.tell("visitor", **FOUR)][-1]["end"]
    assert not listener.microphones


def test_the_place_of_who_leaves_is_free_without_waiting_for_the_garbage_collector(listener, monkeypatch):
    monkeypatch.setattr(live, "SILENT_SECONDS", 0.1)
    query = urlencode(FOUR).encode()
    request = {"type": "http", "method": "GET", "path": "/live/visitor", "query_string": query, "headers": []}

    async def hear_and_leave():
        heard = asyncio.Event()

        async def receive():
            await heard.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if b"scene" in message.get("body", b""):
                assert listener.microphones
                heard.set()

        await Starlette(routes=listener.routes)({**request, "asgi": {"spec_version": "2.3"}}, receive, send)

    gc.disable()
    try:
        # In a thread of its own, as the thread of the tests may have a browser's event loop.
        with start_blocking_portal() as portal:
            portal.call(hear_and_leave)
        assert not listener.microphones
    finally:
        gc.enable()


def test_what_is_sent_is_bounded(listener):
    client = TestClient(Starlette(routes=listener.routes))
    assert client.post("/live/nobody", content=b"12").status_code == 404
    list(islice(told := listener.tell("visitor", **FOUR), 1))
    assert client.post("/live/visitor", content=bytes(MAX_BYTES + 1)).status_code == 413
    answers = [client.post("/live/visitor", content=bytes(8)).status_code for _ in range(live.MAX_WAITING + 1)]
    assert answers == [204] * live.MAX_WAITING + [503]
    told.close()
