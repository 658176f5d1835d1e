"""A page that shows what sounds in a recording, when and from which direction: the program `pseldnet-demo`."""

import argparse
import html
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import NamedTuple

import gradio as gr
from transformers.utils import logging

from modeling_pseldnet.audio import AUDIO_SUFFIXES, Recording
from modeling_pseldnet.events import write_csv
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.inference import choose_channel_format, detect
from modeling_pseldnet.timeline import to_records
from modeling_pseldnet.tools.cli import first_line
from modeling_pseldnet.tools.plots import plot_events
from spaces_demo import NAME, main
from spaces_demo.models import load_from_hub, load_own
from spaces_demo.plots import SYMBOLS, Style, class_styles, direction_map, display_name, sphere, timeline
from spaces_demo.preview import write_preview


FOLDER = Path(__file__).parent
MAX_MINUTES, MAX_MEGABYTES = 10, 100
# Files of visitors, and what is made of them, are deleted when they are this old; all of them when the server stops.
KEPT_SECONDS = 1800
TAKES = (
    "This page takes the four channels of an ambisonic or a tetrahedral microphone (WAV, FLAC, OGG or AMB) of up to"
    f" {MAX_MINUTES} minutes and {MAX_MEGABYTES} MB. Mono and stereo hold no directions around the listener."
)
CHANNEL_FORMATS = [("AmbiX: W, Y, Z, X", "ambix"), ("FuMa: W, X, Y, Z", "fuma"), ("A-format: capsules", "aformat")]
# 0 stands for the model's own, as Gradio has no empty number.
THRESHOLDS = [("the model's own", 0.0), *((f"{percent / 100:.2f}", percent / 100) for percent in range(5, 100, 5))]
OVERLAPS = [("none", 0.0), ("half: 2 times the work", 0.5), ("90 %: 10 times the work", 0.9)]
HEADER = """
<h1>What sounds, and from where?</h1>
<p><a href="https://arxiv.org/abs/2411.06399">PSELDNets</a> find the sound events in a four-channel recording, and the
direction that each comes from.</p>"""
CLIENT_EXAMPLE = (FOLDER / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0].strip()
# A part of the page that is styled by `page.css` alone.
html_part = partial(gr.HTML, apply_default_css=False)
COLUMNS = ["Sound", "From (s)", "To (s)", "Azimuth (°)", "Elevation (°)", "Confidence"]


class Cancelled(Exception):
    """The visitor does not want the result any more."""


class Result(NamedTuple):
    """What is drawn: events as [`to_records`] gives them, a style for each label in them, and the duration."""

    records: list[dict]
    styles: dict[str, Style]
    seconds: float


def friendly(message: str, path: str = "") -> gr.Error:
    """A message that stays until it is closed; the name of a file in it stands for its path on the server."""
    message = message.replace(path, Path(path).name) if path else message
    return gr.Error(html.escape(message, quote=False), duration=None, print_exception=False)


def measure(path: str, sampling_rate: int, channel_format: str) -> float:
    """The duration of a recording in seconds.

    Raises:
        ValueError: it cannot be used here.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise ValueError(f"{name}: deleted after a while, as all recordings are: choose it again")
    megabytes = Path(path).stat().st_size / 1e6
    if megabytes > MAX_MEGABYTES:
        raise ValueError(f"{name}: {megabytes:.0f} MB where {MAX_MEGABYTES} are the most")
    with Recording(path, sampling_rate, channel_format) as recording:
        seconds = recording.seconds
    if seconds > 60 * MAX_MINUTES:
        raise ValueError(f"{name}: {seconds / 60:.1f} minutes where {MAX_MINUTES} are the most: give a part of it")
    return seconds


class Finder:
    """Finds the events of recordings for the visitors of a page.

    Args:
        model: the model of the operator, folder or Hub repository.
        trust_remote_code: whether models that visitors name may bring code along.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, model: str, trust_remote_code: bool = False):
        self.own_model, self.trust_remote_code = model, trust_remote_code
        self.labels = list(load_own(model)[0].config.id2label.values())
        self.running: dict[str, Event] = {}

    def find(
        self,
        recording: str,
        channel_format: str = "ambix",
        model: str = "",
        threshold: float = 0.0,
        overlap: float = 0.0,
        request: gr.Request = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (where Gradio looks for it)
    ) -> Iterator[tuple[Result, str, str, str, str]]:
        """Says what sounds in a recording, when and from which direction.

        Args:
            recording: four channels, WAV, FLAC, OGG or AMB, of up to ten minutes.
            channel_format: ambix, fuma or aformat.
            model: a PSELDNet on the Hub, user/name; the model of the page if empty.
            threshold: activity above which an event is reported, 0.05 to 0.95 in steps of 0.05; 0 is the model's own.
            overlap: part of each window that is averaged with the next: 0, 0.5 or 0.9.

        Yields:
            What is to be drawn, and the paths of DCASE CSV, JSON, picture (PNG) and stereo preview (MP3), which exist
            until the next item is asked for.
        """
        if not recording:
            raise friendly("There is no recording yet: choose a file or the example.")
        progress(0, desc="Loading the model")
        network, extractor = self._load((model or "").strip())
        stop = self.running[request.session_hash] = Event()

        def advance(done: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled
            progress((done, total), desc="Listening", unit="windows")

        try:
            channel_format = choose_channel_format(channel_format, extractor)
            seconds = measure(recording, network.config.sampling_rate, channel_format)
            progress(0, desc="Listening")
            events = detect(
                network,
                extractor,
                recording,
                channel_format=channel_format,
                threshold=threshold or None,
                hop_seconds=round(network.config.window_seconds * (1 - overlap), 1),
                progress=advance,
            )
            progress(1, desc="Drawing")
            labels, name = network.config.id2label, Path(recording).name
            records = to_records(events, labels)
            with TemporaryDirectory() as folder:
                stem = Path(folder) / Path(name).stem
                csv, text, picture, preview = (f"{stem}.{suffix}" for suffix in ("csv", "json", "png", "mp3"))
                write_csv(csv, events)
                write_atomically(text, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
                plot_events(events, labels, picture, seconds, title=name)
                with Recording(recording, network.config.sampling_rate, channel_format) as audio:
                    write_preview(audio, preview)
                yield Result(records, class_styles(events, labels), seconds), csv, text, picture, preview
        except Cancelled:
            return
        except ValueError as error:
            raise friendly(f"{first_line(error)}. {TAKES}", recording) from None
        finally:
            self.running.pop(request.session_hash, None)

    def cancel(self, request: gr.Request) -> None:
        """Ends the work for a visitor, if there is any, after the windows in hand."""
        if stop := self.running.get(request.session_hash):
            stop.set()

    def _load(self, model: str):
        try:
            return load_from_hub(model, self.trust_remote_code) if model else load_own(self.own_model)
        except ValueError as error:
            raise friendly(str(error)) from None


def draw(result: Result):
    """What the page shows of a result, in the order of its parts."""
    records, styles, seconds = result
    count = f"{len(records)} event{'' if len(records) == 1 else 's'}" if records else "No events"
    kinds = f" of {len(styles)} kind{'' if len(styles) == 1 else 's'}" if records else " above the threshold"
    numbers = {"onset": ".1f", "offset": ".1f", "azimuth": ".1f", "elevation": ".1f", "confidence": ".2f"}
    rows = [
        [display_name(record["label"]), *(f"{record[key]:{form}}" for key, form in numbers.items())]
        for record in records
    ]
    chips = "".join(
        f'<button class="chip" data-label="{html.escape(label)}" aria-pressed="true">'
        f'<span style="color:{style.colour}">{SYMBOLS[style.symbol]}</span>{html.escape(display_name(label))}</button>'
        for label, style in styles.items()
    )
    return (
        gr.Column(visible=False),
        gr.Column(visible=True),
        f"<h2>{count}{kinds} in {seconds:.1f}&nbsp;s</h2>",
        transport(seconds),
        f'<div class="chips">{chips}</div>',
        direction_map(records, styles),
        sphere(records, styles),
        timeline(records, styles, seconds),
        rows,
    )


def transport(seconds: float) -> str:
    """Play button, slider and clock; `page.js` brings them to life."""
    # The number makes each one new, so that the page puts the slider back to the start.
    return f"""
        <div class="transport" data-number="{time.monotonic_ns()}">
          <button id="play" aria-label="Play or pause"></button>
          <input id="time" type="range" min="0" max="{seconds:.1f}" step="0.1" value="0" aria-label="Time in seconds">
          <output id="clock">0.0 / {seconds:.1f} s</output>
          <button id="whole" class="chip" disabled>Show all</button>
        </div>"""


def introduction(labels: list[str]) -> str:
    """What stands in the place of the results at first."""
    known = [html.escape(display_name(label)) for label in labels[:60]]
    if len(labels) > len(known):
        known.append(f"and {len(labels) - len(known)} more")
    return f"""
        <h2>How it works</h2>
        <ol class="steps">
          <li><b>Give a recording</b>of an ambisonic or a tetrahedral microphone: its four channels tell where a sound
          comes from.</li>
          <li><b>Find events</b>A network names, ten times a second, what sounds and from which direction.</li>
          <li><b>Look and listen</b>Play the recording or pull the slider, and see the sources around you.</li>
        </ol>
        <h3>What the model knows</h3>
        <p class="chips">{"".join(f'<span class="chip">{label}</span>' for label in known)}</p>
        <h3>What becomes of your recording</h3>
        <p class="note">It is used for nothing else, and deleted within an hour.</p>"""


def build(finder: Finder) -> gr.Blocks:
    """The page."""
    examples = sorted(str(file) for file in (FOLDER / "example").glob("*.flac"))
    with gr.Blocks(
        title="What sounds, and from where?", analytics_enabled=False, delete_cache=(300, KEPT_SECONDS)
    ) as page:
        html_part(HEADER, elem_id="header")
        with gr.Row(elem_id="main"):
            with gr.Column(elem_id="inputs", scale=0, min_width=310):
                recording = gr.File(label="Recording", file_types=sorted(AUDIO_SUFFIXES), height=140)
                if examples:
                    names = [display_name(Path(file).stem) for file in examples]
                    gr.Examples(examples, recording, label="Or an example", example_labels=names)
                channel_format = gr.Radio(CHANNEL_FORMATS, value="ambix", label="Channels")
                with gr.Accordion("Options", open=False):
                    model = gr.Textbox(
                        "", label="Model", placeholder="the page's own", info="Or a PSELDNet of the Hub: user/name."
                    )  # fmt: skip
                    threshold = gr.Dropdown(
                        THRESHOLDS, value=0.0, label="Threshold", filterable=False,
                        info="Activity above which an event is reported: more events, or fewer false ones.",
                    )  # fmt: skip
                    overlap = gr.Radio(
                        OVERLAPS, value=0.0, label="Overlap of windows", info="Steadier directions, for more time."
                    )
                run = gr.Button("Find events", variant="primary", elem_id="run")
                cancel = gr.Button("Cancel", elem_id="cancel")
                status = html_part(elem_id="status")
            with gr.Column(elem_id="outputs", scale=1):
                with gr.Column(elem_id="introduction") as before:
                    html_part(introduction(finder.labels))
                with gr.Column(visible=False, elem_id="results") as results:
                    summary = html_part()
                    legend = html_part()
                    player = html_part()
                    preview = gr.Audio(
                        elem_id="preview", show_label=False, interactive=False,
                        waveform_options=gr.WaveformOptions(show_recording_waveform=False),
                    )  # fmt: skip
                    with gr.Row(elem_id="plots"):
                        directions = gr.Plot(show_label=False, container=False, scale=3)
                        ball = gr.Plot(show_label=False, container=False, scale=2)
                    times = gr.Plot(show_label=False, container=False)
                    table = gr.Dataframe(
                        headers=COLUMNS, datatype=["str", *["number"] * 5], interactive=False, max_height=320,
                        show_label=False, buttons=[],
                    )  # fmt: skip
                    with gr.Row(elem_id="downloads"):
                        csv = gr.DownloadButton("DCASE CSV", elem_id="csv")
                        text = gr.DownloadButton("JSON")
                        picture = gr.DownloadButton("Picture")
                    html_part('<p class="note">You hear two cardioid microphones, one looking left, one right.</p>')
        with gr.Accordion("Use it from Python", open=False, elem_classes="more"):
            gr.Code(CLIENT_EXAMPLE, language="python", show_label=False, interactive=False)
        for file in (FOLDER / "example").glob("CREDITS.md"):
            with gr.Accordion("Credits of the example", open=False, elem_classes="more"):
                gr.Markdown(file.read_text(encoding="utf-8").partition("\n")[2])

        result = gr.State(time_to_live=KEPT_SECONDS)
        found = run.click(
            finder.find,
            [recording, channel_format, model, threshold, overlap],
            [result, csv, text, picture, preview],
            api_name="detect",
            show_progress_on=status,
        )
        shown = [before, results, summary, player, legend, directions, ball, times, table]
        found.success(draw, result, shown, api_visibility="private", show_progress="hidden")
        cancel.click(finder.cancel, queue=False, cancels=found, api_visibility="private")
        page.unload(finder.cancel)
    return page.queue(max_size=50, default_concurrency_limit=1)


def serve(options: argparse.Namespace) -> None:
    """Serves the page until it is stopped.

    Raises:
        OSError, ValueError: it cannot be served.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # A server that is told to stop goes the way of one that is interrupted, so that the files of visitors are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix=f"{NAME}-") as files:
        os.environ["GRADIO_TEMP_DIR"] = files
        build(Finder(options.model, options.trust_remote_code)).launch(
            server_name=options.host,
            server_port=options.port,
            inbrowser=options.open,
            max_file_size=f"{MAX_MEGABYTES}mb",
            run_history=False,
            enable_monitoring=False,
            footer_links=["api"],
            theme=theme(),
            css=(FOLDER / "page.css").read_text(encoding="utf-8"),
            js=(FOLDER / "page.js").read_text(encoding="utf-8"),
        )


def theme() -> gr.Theme:
    """Plain, with one accent colour, and fonts that every system has."""
    plain = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return plain.set(
        body_background_fill="#f5f7f9",
        block_border_width="0px",
        block_label_border_width="0px",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_200",
        checkbox_label_border_color_selected="*primary_600",
        checkbox_background_color_selected="*primary_700",
        checkbox_border_color_selected="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_50",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        input_border_width="1px",
        input_background_fill="white",
    )


if __name__ == "__main__":
    sys.exit(main())
