"""The web page that shows what sounds in a recording, when and from which direction: the program `pseldnet-demo`."""

import argparse
import gc
import html
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

import gradio as gr
from fastapi import Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from gradio import route_utils
from gradio_client.utils import is_http_url_like
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from transformers.utils import logging

from modeling_pseldnet import Events, PSELDNetForSELD
from modeling_pseldnet.audio import CHANNEL_FORMATS, Recording
from modeling_pseldnet.fitting import choose_channel_format
from modeling_pseldnet.tools.cli import first_line
from modeling_pseldnet.tools.plots import plot_events
from spaces_demo import NAME, main
from spaces_demo.answers import MAX_MEGABYTES, MAX_MINUTES, TAKES, Cancelled, answering, friendly, measure
from spaces_demo.listening import playback_rate, write_solo
from spaces_demo.live import Listener
from spaces_demo.models import Model, load_from_hub, load_own
from spaces_demo.precompute import EXAMPLES, examples
from spaces_demo.results import AMBISONIC, Result, about_scene, find_events, write_result


try:
    from spaces import GPU as on_gpu  # on platforms that lend a GPU for the duration of a call
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        """Do nothing: GPUs are not lent here."""
        return function


FOLDER = Path(__file__).parent
# Visitors' files and their results are deleted at this age, and all of them when the server stops.
KEPT_SECONDS = 1800
# Longer runs are ended, as other visitors wait.
MAX_RUN_SECONDS = 600
# Maximum number of visitors in the queue.
MAX_WAITING = 50
FORMAT_CHOICES = [
    ("AmbiX: W, Y, Z, X; AMB files: FuMa", "auto"),
    ("FuMa: W, X, Y, Z", "fuma"),
    ("A-format: capsules", "aformat"),
]
# 0 stands for the model's own threshold, as Gradio has no empty number.
THRESHOLDS = [("the model's own", 0.0), *((f"{percent / 100:.2f}", percent / 100) for percent in range(5, 100, 5))]
# What the page's model takes, by its channel format.
CHANNELS = {
    "auto": "four channels",
    "array": "the four capsules of a microphone array",
    "stereo": "two channels, left and right",
    "mono": "one channel",
}
OVERLAPS = [("none", 0.0), ("half: 2 times the work", 0.5), ("90 %: 10 times the work", 0.9)]
CLIENT_EXAMPLE = (FOLDER / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0].strip()


@on_gpu
def hear(model: tuple[str, str, bool], recording: str, *options, **more) -> Events:
    """Find the events of a recording with a model, named as in [`load`].

    A lent GPU is used by another process, which can only be passed small objects.
    """
    return find_events(load(*model), recording, *options, **more)


def load(own: str, other: str, trust_remote_code: bool) -> Model:
    """Load the model that a visitor names, or the page's own if the name is empty.

    Raises:
        ValueError: the model cannot be used.
    """
    return load_from_hub(other, trust_remote_code) if other else load_own(own)


class Finder:
    """Find the events of recordings for the visitors of a page.

    Args:
        model: the operator's model, a folder or a Hub repository.
        trust_remote_code: whether to run the code of models that visitors name.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, model: str, trust_remote_code: bool = False):
        self.own_model, self.trust_remote_code = model, trust_remote_code
        self.own = load_own(model)
        self.running: dict[str, Event] = {}

    def detect(
        self,
        recording: str,
        channel_format: str = "",
        model: str = "",
        threshold: float = 0.0,
        overlap: float = 0.0,
        request: gr.Request = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (where Gradio looks for it)
    ) -> Iterator[tuple[str, str, str, str]]:
        """Find what sounds in a recording, when and from which direction.

        Args:
            recording: a four-channel WAV, FLAC, OGG or AMB file of up to ten minutes.
            channel_format: auto (as the file says, or else ambix), ambix, fuma or aformat. If empty, auto, or stereo
                for a stereo model.
            model: a PSELDNet on the Hub, user/name. If empty, the model of the page.
            threshold: activity above which an event is reported, 0.05 to 0.95 in steps of 0.05; 0 is the model's own.
            overlap: share of each window that is averaged with the next: 0, 0.5 or 0.9.

        Yields:
            The paths of DCASE CSV, JSON, picture (PNG) and stereo preview (MP3), which exist until the next item is
            requested.
        """
        with answering(recording), TemporaryDirectory() as folder:
            found = self._find(folder, recording, channel_format, model, threshold, overlap, request, progress)
            result, events, network, seconds = found
            labels, picture = network.config.id2label, str(Path(result.csv).with_suffix(".png"))
            plot_events(events, labels, picture, seconds, title=Path(recording).name)
            # A figure is megabytes of reference cycles, which would pile up with many visitors until collected.
            gc.collect()
            yield result.csv, result.json, picture, result.stereo

    def scene(
        self,
        recording: str,
        channel_format: str = "",
        model: str = "",
        threshold: float = 0.0,
        overlap: float = 0.0,
        request: gr.Request = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Result]:
        """Do the same as [`detect`] for the page, which draws the picture itself."""
        with answering(recording), TemporaryDirectory() as folder:
            yield self._find(folder, recording, channel_format, model, threshold, overlap, request, progress)[0]

    def _find(
        self,
        folder: str,
        recording: str,
        channel_format: str,
        model: str | None,
        threshold: float,
        overlap: float,
        request: gr.Request,
        progress: Callable,
    ) -> tuple[Result, Events, PSELDNetForSELD, float]:
        if not recording:
            raise friendly("There is no recording yet: choose a file or an example.")
        progress(0, desc="Loading the model")
        choice = self.own_model, (model or "").strip(), self.trust_remote_code
        used = load(*choice)
        stop = self.running[request.session_hash] = Event()
        last = time.monotonic() + MAX_RUN_SECONDS

        def advance(done: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled
            if time.monotonic() > last:
                minutes = MAX_RUN_SECONDS // 60
                raise ValueError(f"this takes more than {minutes} minutes: choose less overlap, or a shorter part")
            progress((done, total), desc="Listening", unit="windows")

        try:
            channel_format = choose_channel_format(channel_format or None, used.extractor)
            seconds = measure(recording, used.network.config.sampling_rate, channel_format)
            progress(0, desc="Listening")
            # A separate process can neither be stopped nor report its progress.
            follow = {} if os.environ.get("SPACES_ZERO_GPU") else {"progress": advance}
            events = hear(choice, recording, channel_format, threshold, overlap, **follow)
            progress(1, desc="Preparing the sound")
            return write_result(used, recording, events, folder, channel_format), events, used.network, seconds
        finally:
            self.running.pop(request.session_hash, None)

    def solo(self, recording: str | None, example: str, channel_format: str, trajectory: list[dict]) -> Iterator[str]:
        """Extract the sound of one event, by steering along its trajectory, from a recording or an example."""
        with answering(recording or ""), TemporaryDirectory() as folder:
            channel_format = channel_format or AMBISONIC[0]
            if example in {known["id"] for known in examples()}:
                recording = str(EXAMPLES / f"{example}.flac")
            if not recording or channel_format not in AMBISONIC:
                raise ValueError("single events can be played alone in ambisonic recordings only")
            path = Path(folder, "solo.mp3")
            rate = playback_rate(self.own.network.config.sampling_rate)
            measure(recording, rate, channel_format)
            with Recording(recording, rate, channel_format) as audio:
                write_solo(audio, trajectory, path)
            yield str(path)

    def cancel(self, request: gr.Request) -> None:
        """Stop the run of a visitor, if there is one, after the current windows."""
        if stop := self.running.get(request.session_hash):
            stop.set()


def build(finder: Finder) -> gr.Blocks:
    """Build the endpoints that the page and programs call, with a queue; visitors see `page/index.html` instead."""
    with gr.Blocks(analytics_enabled=False, delete_cache=(300, KEPT_SECONDS)) as blocks:
        recording = gr.File(label="Recording")
        options = [
            gr.Dropdown(
                [*FORMAT_CHOICES, ("AmbiX", "ambix"), ("as the model takes it", "")],
                value="",
                label="Channel format",
            ),
            gr.Textbox("", label="Model"),
            gr.Dropdown(THRESHOLDS, value=0.0, label="Threshold"),
            gr.Dropdown(OVERLAPS, value=0.0, label="Overlap"),
        ]
        example, trajectory = gr.Textbox("", label="Example"), gr.JSON(label="Trajectory")
        # One recording at a time for all visitors; sounds of single events are fast.
        alone = {"concurrency_limit": 1, "concurrency_id": "model"}
        api, page = ({"api_visibility": visible} for visible in ("public", "undocumented"))
        files = [gr.File(label=label) for label in ("CSV", "JSON", "Picture", "Preview")]
        gr.Button().click(finder.detect, [recording, *options], files, api_name="detect", **alone, **api)
        files = [gr.File(label=label) for label in Result._fields]
        gr.Button().click(finder.scene, [recording, *options], files, api_name="scene", **alone, **page)
        gr.Button().click(
            finder.solo, [recording, example, options[0], trajectory], gr.File(), api_name="solo",
            concurrency_limit=2, **page,
        )  # fmt: skip
        blocks.unload(finder.cancel)
    for block in blocks.blocks.values():
        refuse_addresses(block)
    refuse_in_one_line(blocks)
    return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


def refuse_addresses(block) -> None:
    """Make a component accept only uploaded files, and fetch nothing from URLs that visitors give."""
    move = block.async_move_resource_to_block_cache

    async def move_files_alone(path: str | Path | None) -> str | None:
        if path is not None and is_http_url_like(str(path)):
            raise friendly("Web addresses are not opened here: download the recording, then upload it.")
        return await move(path)

    block.async_move_resource_to_block_cache = move_files_alone


def refuse_in_one_line(blocks: gr.Blocks) -> None:
    """Tell visitors what Gradio finds wrong with the inputs of a call, instead of logging all the inputs."""
    preprocess = blocks.preprocess_data

    async def preprocess_data(*arguments, **more) -> list:
        try:
            return await preprocess(*arguments, **more)
        except Exception as error:
            raise friendly(f"{first_line(getattr(error, 'message', error))}.") from None

    blocks.preprocess_data = preprocess_data


class UploadParser(route_utils.GradioMultiPartParser):
    """Make an upload that its visitor cancels one of the errors after which Gradio deletes what it has of it."""

    def __init__(self, headers, stream: AsyncIterator[bytes], **options):
        super().__init__(headers, self._to_its_end(stream), **options)

    @staticmethod
    async def _to_its_end(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for piece in stream:
                yield piece
        except ClientDisconnect:
            raise MultiPartException("the upload was cancelled") from None


route_utils.GradioMultiPartParser = UploadParser


def page_routes(finder: Finder, blocks: gr.Blocks) -> list[Route | Mount]:
    """Return routes of the page, its files and the examples; the HTML holds what the page must know of the server."""
    channel_format = choose_channel_format(None, finder.own.extractor)
    about = {
        **about_scene(finder.own, channel_format),
        "channels": CHANNEL_FORMATS[channel_format].num_channels,
        "examples": examples(),
        "maxMegabytes": MAX_MEGABYTES,
        # A GPU is lent only for the duration of a call.
        "live": not os.environ.get("SPACES_ZERO_GPU"),
        "endpoints": {function.api_name: number for number, function in blocks.fns.items()},
    }
    texts = {
        "takes": TAKES,
        "channels": CHANNELS[channel_format],
        "Channels": CHANNELS[channel_format].capitalize(),
        # One channel carries no direction.
        "tells": " and names each sound" if about["mono"] else ", names each sound and tells its direction",
        "formats": "".join(
            f'<label><input type="radio" name="format" value="{value}"{" checked" * (value == "auto")}>{name}</label>'
            for name, value in FORMAT_CHOICES
        ),
        "thresholds": "".join(f'<option value="{value}">{name}</option>' for name, value in THRESHOLDS),
        "overlaps": "".join(f'<option value="{value}">{name}</option>' for name, value in OVERLAPS),
        "client": html.escape(CLIENT_EXAMPLE),
        "credits": html.escape((EXAMPLES / "CREDITS.md").read_text(encoding="utf-8").partition("\n")[2].strip()),
        "minutes": str(MAX_MINUTES),
        "about": json.dumps(about, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = (FOLDER / "page" / "index.html").read_text(encoding="utf-8")
    for name, text in texts.items():
        page = page.replace(f"{{{{{name}}}}}", text)

    def index(request: Request) -> HTMLResponse:
        return HTMLResponse(page.replace("{{origin}}", html.escape(str(request.base_url))))

    def card(request: Request) -> PlainTextResponse:
        return PlainTextResponse(finder.own.card or "This model has no card.")

    listener = Listener(lambda name: load(finder.own_model, name, finder.trust_remote_code))
    return [
        Route("/", index),
        *(listener.routes if about["live"] else []),
        Route("/card.md", card),
        Mount("/page", StaticFiles(directory=FOLDER / "page")),
        Mount("/example", StaticFiles(directory=EXAMPLES)),
    ]


def check_address(host: str, port: int) -> None:
    """Check that the server can listen at an address, as Gradio would try a bad host for minutes.

    Raises:
        ValueError: it cannot.
    """
    reason = "no such host"
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        addresses, reason = [], getattr(error, "strerror", None) or reason
    for family, *_, address in addresses:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return
        except OSError as error:
            reason = error.strerror
    raise ValueError(f"--host {host}{f' --port {port}' * bool(port)}: {reason}: choose another one")


def serve(options: argparse.Namespace) -> None:
    """Serve the page until it is stopped; `options` are those of `pseldnet-demo`.

    Raises:
        ValueError: the model cannot be loaded, or nothing can listen at the address.
        OSError: there is no port to listen on.
    """
    check_address(options.host or "127.0.0.1", options.port or 0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Treat SIGTERM like an interrupt, so that visitors' files are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix=f"{NAME}-", ignore_cleanup_errors=True) as files:
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(files, "visitors")
        finder = Finder(options.model, options.trust_remote_code)
        blocks = build(finder)
        # Work that is cut off below leaves its files here, beside those that visitors can ask for.
        tempfile.tempdir = files
        # Objects that exist now are permanent; exclude them from garbage collection.
        gc.freeze()
        blocks.launch(
            server_name=options.host,
            server_port=options.port,
            inbrowser=options.open,
            max_file_size=f"{MAX_MEGABYTES}mb",
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            app_kwargs={"routes": page_routes(finder, blocks)},
        )
    # Visitors' work may still run in threads, in the middle of which Python's own exit would crash.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
