"""Error messages for visitors: what is wrong and what to do, never a path or a traceback."""

import html
import logging
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

import gradio as gr
import soundfile

from modeling_pseldnet.ambisonics import order_of
from modeling_pseldnet.audio import AMBIX, CHANNEL_FORMATS, Recording
from modeling_pseldnet.keywords import counted
from modeling_pseldnet.tools.cli import first_line


MAX_MINUTES, MAX_MEGABYTES = 10, 100
TAKES = f"WAV, FLAC, OGG or AMB of up to {MAX_MINUTES} minutes and {MAX_MEGABYTES} MB"
# Advice on channels that the model does not take, by the number it takes and the number there are.
CHANNEL_ADVICE = {
    (4, 1): "One channel carries no direction, which cannot be recovered: record with an ambisonic or a tetrahedral"
    " microphone.",
    (4, 2): "Two channels can only tell left from right: enter a model for stereo under Options, or record with an"
    " ambisonic microphone.",
    (4, 3): "A channel is missing: export all four from the program that recorded them.",
    (2, 1): "One channel carries no direction, which cannot be recovered: record in stereo.",
}
HIGHER_ORDER = (
    "This is ambisonics of order {order}: extract its first four channels with"
    " sox {name} first-order.wav remix 1 2 3 4."
)
OTHER_CHANNELS = {
    4: "Export the four channels of the ambisonic or tetrahedral microphone alone.",
    2: "Mix it down to left and right, or enter a model for ambisonics under Options.",
    1: "Mix it down to one channel.",
}

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The visitor no longer wants the result."""


def friendly(message: str, *paths: str) -> gr.Error:
    """Make a message that stays until it is closed; file paths on the server are replaced by file names."""
    for path in filter(None, paths):
        message = message.replace(path, Path(path).name)
    return gr.Error(html.escape(message, quote=False), duration=None, print_exception=False)


@contextmanager
def answering(*paths: str) -> Iterator[None]:
    """Turn errors into messages for the visitor; an unexpected one is logged under a number that the visitor sees."""
    try:
        yield
    except Cancelled:
        pass
    except gr.Error:
        raise
    except ValueError as error:
        raise friendly(f"{first_line(error)}.", *paths) from None
    except Exception:
        number = secrets.token_hex(3)
        log.exception("error %s", number)
        raise friendly(
            f"Sorry, something went wrong on this server. Try again; if it keeps happening, report it with the number"
            f" {number}."
        ) from None


def measure(path: str, sampling_rate: int, channel_format: str) -> float:
    """Return the duration of a recording in seconds.

    Raises:
        ValueError: the recording cannot be used here; the message says what to do.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise ValueError(f"{name} is no longer on the server, which deletes recordings after a while: choose it again")
    megabytes = Path(path).stat().st_size / 2**20
    if megabytes > MAX_MEGABYTES:
        problem = f"{name}: {megabytes:.0f} MB, and the limit is {MAX_MEGABYTES} MB"
        raise ValueError(f"{problem}: choose a shorter part, or convert it to FLAC")
    try:
        with Recording(path, sampling_rate, channel_format) as recording:
            seconds = recording.seconds
    except ValueError:
        with suppress(soundfile.LibsndfileError, TypeError):
            check_channels(f"{name}:", soundfile.info(path).channels, channel_format, name)
        raise
    if seconds > 60 * MAX_MINUTES:
        minutes, rest = divmod(ceil(seconds), 60)
        raise ValueError(f"{name}: {minutes}:{rest:02} minutes, and the limit is {MAX_MINUTES}: choose a shorter part")
    return seconds


def check_channels(whose: str, channels: int, channel_format: str, name: str = "recording.wav") -> None:
    """Check that a recording or a microphone has the number of channels of its format.

    Args:
        whose: beginning of the message, such as "Your microphone has".
        name: file name in commands.

    Raises:
        ValueError: it has another number; the message says what to do.
    """
    kind = CHANNEL_FORMATS[channel_format]
    needed = kind.num_channels
    if channels == needed:
        return
    if kind.description == AMBIX.description and (order := order_of(channels)) > 1:
        advice = HIGHER_ORDER.format(order=order, name=shlex.quote(name))
    else:
        advice = CHANNEL_ADVICE.get((needed, channels), OTHER_CHANNELS[needed])
    raise ValueError(f"{whose} {counted(channels, 'channel')}, but this model needs {needed}. {advice.rstrip('.')}")
