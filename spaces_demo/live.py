"""Live listening: receive the audio of visitors' microphones, and send back events as soon as they are detected."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator

import gradio as gr
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.routing import Route

from modeling_pseldnet.audio import CHANNEL_FORMATS
from modeling_pseldnet.fitting import choose_channel_format
from modeling_pseldnet.tools.stream import detect_stream, in_real_time, read_pcm, samples_of, to_record
from spaces_demo.answers import answering, check_channels
from spaces_demo.models import Model
from spaces_demo.results import about_scene, as_seen


BLOCK_SECONDS, DELAY_SECONDS = 0.5, 0.5
# With more at the same time, none of them would run in real time on two cores.
MAX_LISTENERS = 2
MAX_SECONDS = 300
# A microphone that sends nothing for this long is taken to be gone.
SILENT_SECONDS = 10
# Why listening ended, in words for the visitor.
OVER = f"Live listening ends after {MAX_SECONDS // 60} minutes: press Listen live to continue."
SILENT = (
    f"Nothing has come from your microphone for {SILENT_SECONDS} seconds: check it and your connection, then press"
    " Listen live again."
)
# Maximum size of a request, and of the queue for the model; anything beyond is refused.
MAX_BYTES, MAX_WAITING = 1_000_000, 8
MAX_RATE = 192_000
MAX_ID = 64


class Microphone:
    """A visitor's samples on their way to the model, in memory only: a binary file that other threads write."""

    def __init__(self):
        self._waiting: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._rest = b""
        self._last = time.monotonic() + MAX_SECONDS
        self.why_ended = ""  # empty if the visitor ended it

    def write(self, data: bytes) -> None:
        """Add samples; empty `data` ends the stream.

        Raises:
            queue.Full: the model is too far behind.
        """
        self._waiting.put_nowait(data)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any; none at the end, after silence, or when time is over."""
        left = self._last - time.monotonic()
        try:
            self._rest = self._rest or self._waiting.get(timeout=min(SILENT_SECONDS, left))
        except (queue.Empty, ValueError):  # a negative time is no timeout
            self.why_ended = SILENT if left > SILENT_SECONDS else OVER
            return b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class Listener:
    """Listen to the microphones of visitors.

    Args:
        load: returns the model with the name that a visitor chooses, as [`app.load`] does.
    """

    def __init__(self, load: Callable[[str], Model]):
        self.load = load
        self.microphones: dict[str, Microphone] = {}
        self._entrance = threading.Lock()

    @property
    def routes(self) -> list[Route]:
        """`GET live/ID` sends events as server-sent events; `POST live/ID` takes the samples (`s16le`)."""
        return [
            Route("/live/{visitor}", self.hear, methods=["GET"]),
            Route("/live/{visitor}", self.give, methods=["POST"]),
        ]

    async def give(self, request: Request) -> Response:
        microphone, data = self.microphones.get(request.path_params["visitor"]), b""
        if microphone is None:
            return Response(status_code=404)
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_BYTES:
                return Response(status_code=413)
        try:
            microphone.write(data)
        except queue.Full:
            return Response(status_code=503)
        return Response(status_code=204)

    def hear(self, request: Request) -> Response:
        query = {name: value for name, value in request.query_params.items() if name != "visitor"}
        lines = self.tell(request.path_params["visitor"], **query)
        events = (f"data: {json.dumps(line, ensure_ascii=False)}\n\n" for line in lines)
        # Of a visitor who has left, only the next collection of garbage would end the generator.
        over = BackgroundTask(lines.close)
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers, background=over)

    def tell(self, visitor: str, channels="", rate="", channel_format="", model="", **_) -> Iterator[dict]:
        """Yield what is sent to a visitor: `scene`, as for a recording, with the number of `channels` to send; then
        frame after frame, in the form of [`to_record`]; and finally the text of the `end` or of an `error`."""
        microphone = Microphone()
        try:
            with answering():
                if not (len(visitor) <= MAX_ID and channels.isdecimal() and rate.isdecimal()):
                    raise ValueError("The page sent an invalid request: reload it")
                self._let_in(visitor, microphone)
                yield from self._frames(microphone, int(channels), int(rate), channel_format, model.strip())
            yield {"end": microphone.why_ended}
        except gr.Error as error:
            yield {"error": error.message}
        finally:
            if self.microphones.get(visitor) is microphone:
                del self.microphones[visitor]

    def _let_in(self, visitor: str, microphone: Microphone) -> None:
        with self._entrance:
            if visitor in self.microphones:
                raise ValueError("You are already listening: wait a few seconds and try again")
            if len(self.microphones) >= MAX_LISTENERS:
                raise ValueError(f"This server is already listening to {MAX_LISTENERS} microphones: try again later")
            self.microphones[visitor] = microphone

    def _frames(
        self, microphone: Microphone, channels: int, rate: int, channel_format: str, name: str
    ) -> Iterator[dict]:
        used = self.load(name)
        config = used.network.config
        channel_format = choose_channel_format(channel_format or None, used.extractor)
        needed = CHANNEL_FORMATS[channel_format].num_channels
        if channels < needed:
            check_channels("Your microphone has", channels, channel_format)
        if rate > MAX_RATE:
            raise ValueError(f"Your microphone gives {rate} Hz, and the limit is {MAX_RATE} Hz")
        samples = read_pcm(microphone, "s16le", needed, samples_of(BLOCK_SECONDS, rate))
        yield {"scene": about_scene(used, channel_format), "channels": needed}
        for frame, events in detect_stream(
            used.network,
            used.extractor,
            in_real_time(samples, BLOCK_SECONDS, config.window_seconds, lambda _: None),
            rate,
            channel_format=channel_format,
            delay_seconds=DELAY_SECONDS,
        ):
            yield to_record(frame, as_seen(events, channel_format), config.id2label)
