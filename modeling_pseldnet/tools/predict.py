"""Detect events in recordings (as DCASE CSV, JSON and plots) and in live sound: the program `pseldnet-predict`."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from .. import DEFAULT_MODEL
from ..events import FRAMES_PER_SECOND, ROWS, Events, write_csv
from ..files import write_atomically
from ..keywords import counted
from ..timeline import confident_events, to_records
from .cli import CommandParser, describe, number, program, whole_number, without_garbage_collection
from .labels import class_mapping, read_labels
from .plots import plot_events
from .ray_pool import map_on_ray


NAME = "pseldnet-predict"
CHANNEL_FORMATS = ("aformat", "ambix", "array", "auto", "fuma", "mono", "stereo")
SAMPLE_FORMATS = ("f32le", "s16le")
# A recording, and the path of its results with another suffix, or why they cannot be written.
Job = tuple[Path, Path | Exception]


def read_threshold(text: str) -> float | list[float]:
    """Parse a number, or read the numbers in a file, one per line.

    Raises:
        ValueError: the text is neither a number nor such a file.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return [float(line) for line in Path(text).read_text(encoding="utf-8-sig").split()]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"threshold {text!r}: neither a number nor a file with one number per class ({error})"
        ) from None


def output_places(paths: list[str], output: Path, suffixes: list[str], overwrite: bool = False) -> Iterator[Job]:
    """Yield each audio file and the path of its results below `output`, or why there are none.

    Each result replaces the suffix of that path. Results of a file named in `paths` go directly to `output`; those of
    a file in a folder keep their place in that folder. An existing file next to a recording with one of the suffixes
    of its results may be its labels, and is only replaced with `overwrite`.
    """
    from ..audio import find_audio

    taken: dict[Path, Path] = {}
    for path in paths:
        try:
            files = find_audio(path)
        except (ValueError, OSError) as error:
            yield Path(path), error
            continue
        for file in files:
            place = output / (file.relative_to(path) if file != Path(path) else file.name)
            results = [place.with_suffix(suffix) for suffix in suffixes]
            there = [] if overwrite else [result for result in results if result.exists()]
            first = taken.setdefault(results[0], file)
            if first is not file:
                if first.resolve() != file.resolve():
                    problem = f"its results would replace those of {first}: give another --output"
                    yield file, ValueError(f"{file}: {problem}")
            elif there and file.exists() and place.parent.samefile(file.parent):
                problem = f"{there[0]} already exists: give another --output, or replace it with --overwrite"
                yield file, ValueError(f"{file}: {problem}")
            else:
                yield file, place


@contextmanager
def window_progress(disable: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar over the windows of a recording that takes a while; one at a time, as messages go above."""
    with tqdm(unit="window", leave=False, delay=1.0, disable=disable) as bar:

        def advance(name: str, done: int, total: int) -> None:
            bar.desc, bar.total = f"{name}: ", total
            bar.update(done - bar.n)

        yield advance
        # A message shows it again, also before its time, when closing would leave it there.
        bar.clear()


class Predictor:
    """Run a model on recordings and write the results.

    Args:
        options: options from [`parse_arguments`].

    Raises:
        ValueError: the model, device, threshold, layout or list of classes cannot be used.
    """

    def __init__(self, options: argparse.Namespace):
        from ..inference import in_dtype
        from .loading import load

        self.options = options
        self.threshold = None if options.threshold is None else read_threshold(options.threshold)
        labels = None if options.labels is None else read_labels(options.labels)
        self.model, self.extractor = load(options.model, options.device)
        if options.layout not in (None, "metadata") and not self.model.config.distance:
            raise ValueError(
                f"{options.model}: --layout {options.layout} needs distances, which this model does not estimate:"
                " leave it out, or use a model with distances"
            )
        own_labels = list(self.model.config.id2label.values())
        try:
            self.class_numbers = None if labels is None else class_mapping(own_labels, labels)
        except ValueError as error:
            raise ValueError(f"{options.model} does not fit --labels {options.labels}: {error}") from None
        self.model = in_dtype(self.model, options.dtype)

    def __call__(self, job: Job) -> tuple[bool, str]:
        """Return what [`each`] yields for one job."""
        return next(self.each([job]))

    def each(
        self, jobs: list[Job], progress: Callable[[str, int, int], None] | None = None
    ) -> Iterator[tuple[bool, str]]:
        """Process jobs, with windows of several recordings in a batch.

        Args:
            jobs: recordings, each with the path of its results, or why they cannot be written.
            progress: called with the name of a recording, the number of its windows done and their total number.

        Yields:
            For each job, in order, whether it succeeded, and a line that reports it.

        Raises:
            ValueError: an option is out of range.
        """
        from ..inference import detect_each

        files = [file for file, place in jobs if not isinstance(place, Exception)]
        found = detect_each(
            self.model,
            self.extractor,
            files,
            channel_format=self.options.channel_format,
            threshold=self.threshold,
            hop_seconds=self.options.hop,
            tta=self.options.tta,
            batch_size=self.options.batch_size,
            progress=progress and (lambda index, done, total: progress(files[index].name, done, total)),
        )
        for file, place in jobs:
            try:
                events = place if isinstance(place, Exception) else next(found)
                if isinstance(events, Exception):
                    raise events
                events = confident_events(events, self.options.min_confidence)
                count = self.write_results(file, place, events)
            except Exception as error:
                line = describe(error)
                yield False, line if str(file) in line else f"{file}: {line}"
            else:
                yield True, f"{file}: {counted(count, 'event')}, {place.with_suffix('.csv')}"

    def write_results(self, file: Path, place: Path, events: Events) -> int:
        """Write the requested results of one recording and return the number of its events."""
        options, labels = self.options, self.model.config.id2label
        records = to_records(events, labels)
        place.parent.mkdir(parents=True, exist_ok=True)
        numbers = self.class_numbers
        rows = events if numbers is None else events.replace(class_id=numbers[events.class_id])
        write_csv(place.with_suffix(".csv"), rows, options.layout or self.model.config.csv_layout)
        if options.json:
            text = json.dumps(records, indent=1, ensure_ascii=False)
            write_atomically(place.with_suffix(".json"), f"{text}\n")
        if options.plot:
            from ..audio import Recording
            from ..fitting import choose_channel_format

            channel_format = choose_channel_format(options.channel_format, self.extractor)
            with Recording(file, self.model.config.sampling_rate, channel_format) as recording:
                seconds = recording.seconds
            plot_events(events, labels, place.with_suffix(".png"), seconds, title=file.name)
        return len(records)


def listen(options: argparse.Namespace) -> None:
    """Print the events in a stream of samples, one line of JSON per frame as soon as it is final.

    Raises:
        ValueError: the stream, model, device, threshold or another option cannot be used.
    """
    from ..audio import CHANNEL_FORMATS
    from ..fitting import choose_channel_format
    from ..inference import checked_frames, in_dtype
    from .loading import load
    from .stream import detect_stream, in_real_time, read_device, read_pcm, samples_of, to_record

    threshold = None if options.threshold is None else read_threshold(options.threshold)
    model, extractor = load(options.model, options.device)
    model = in_dtype(model, options.dtype)
    channel_format = choose_channel_format(options.channel_format, extractor)
    num_channels = CHANNEL_FORMATS[channel_format].num_channels
    sampling_rate = model.config.sampling_rate if options.rate is None else options.rate
    window_seconds = model.config.window_seconds
    hop_seconds = 0.5 if options.hop is None else options.hop
    checked_frames("hop", hop_seconds, 1, window_seconds * FRAMES_PER_SECOND)
    block = num_channels, samples_of(hop_seconds, sampling_rate)

    def warn(message: str) -> None:
        print(f"{NAME}: warning: {message}", file=sys.stderr)

    if options.stream != "stdin":
        blocks = read_device(options.stream, sampling_rate, *block, warn)
    elif sys.stdin is None:
        raise ValueError("standard input is closed: pipe raw samples to it, as from arecord -t raw")
    elif sys.stdin.isatty():
        raise ValueError("standard input is a terminal: pipe raw samples to it, as from arecord -t raw")
    else:
        if os.name == "posix":
            # A non-blocking pipe returns None if there is no data yet.
            os.set_blocking(sys.stdin.fileno(), True)
        blocks = read_pcm(io.FileIO(sys.stdin.fileno(), closefd=False), options.format, *block)
    print(f"{NAME}: listening to {options.stream}, {num_channels} channels at {sampling_rate} Hz", file=sys.stderr)
    for frame, events in detect_stream(
        model,
        extractor,
        in_real_time(blocks, hop_seconds, window_seconds, warn),
        sampling_rate,
        channel_format=channel_format,
        threshold=threshold,
        delay_seconds=options.delay,
    ):
        print(json.dumps(to_record(frame, events, model.config.id2label)), flush=True)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=NAME,
        description="Finds sound events in first-order ambisonics: what, when, from which direction and how far.",
        epilog="example: pseldnet-predict recordings/ --model user/pseldnet-htsat --output events --hop 5 --plot",
    )
    parser.add_argument("audio", nargs="*", help="files or folders of WAV, FLAC, OGG or AMB; any rate, any length")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="folder or Hub repository of a converted or trained model; default: the"
        " small one for 48 everyday sounds that comes with the package"
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for results; default: the current one")
    parser.add_argument(
        "--threshold", help="activity above which an event is reported: a number, or a file with one number per"
        " class; default: the model's"
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=number(0, 1), default=0.0, help="report only events with at least this mean"
        " confidence; gives fewer false alarms than a higher threshold; default: all events"
    )  # fmt: skip
    parser.add_argument(
        "--hop",
        "--every",
        type=number(above=0),
        help="seconds between windows; default: the length of a window, so none overlap, or 0.5 with --stream",
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over 16 rotations and reflections; 16.5 times the cost"
    )
    parser.add_argument(
        "--channel-format", choices=CHANNEL_FORMATS,
        help="what the channels are; ambix: W, Y, Z, X, SN3D; fuma: W, X, Y, Z, W 3 dB down; aformat: capsules FLU,"
        " FRD, BLD, BRU of a tetrahedral microphone; array, stereo, mono: for models trained on these; default: what"
        " the model expects"
    )  # fmt: skip
    parser.add_argument("--device", help="where to run, such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="number format for"
        " computation; default: %(default)s: bfloat16 if the processor or GPU has matrix units for it, else float32"
    )  # fmt: skip
    parser.add_argument("--batch-size", type=whole_number(1), default=8, help="windows at once; default: %(default)s")
    parser.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help="spread files over a Ray cluster")
    parser.add_argument(
        "--workers", type=whole_number(1), default=2, help="number of Ray workers, one core each; default: %(default)s"
    )
    parser.add_argument(
        "--layout", choices=ROWS, help="CSV layout: metadata, as in all data sets, with distances in centimetres;"
        " dcase2024: vectors and metres, as that challenge expects; dcase2025: with its header and folded azimuths;"
        " default: dcase2025 for stereo models with distances, else metadata"
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="FILE", help="number the classes in CSV files as in this list, by name: TSV of index, MID,"
        " name, or one name per line, or the folder of a model; default: the model's own order"
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files next to a recording, even if they are its labels"
    )
    parser.add_argument("--plot", action="store_true", help="also draw a picture of each recording's events (PNG)")
    parser.add_argument("--json", action="store_true", help="also write onset, offset and trajectory of events (JSON)")
    live = parser.add_argument_group("live sound", "print a line of JSON for each 100 ms, with the events active then")
    live.add_argument(
        "--stream", nargs="?", const="stdin", metavar="DEVICE", help="listen to raw samples on standard input, or to a"
        " sound device, given by name or number (needs the package sounddevice)"
    )  # fmt: skip
    live.add_argument(
        "--format", choices=SAMPLE_FORMATS, default="s16le",
        help="format of the raw samples, channels interleaved; default: %(default)s"
    )  # fmt: skip
    live.add_argument(
        "--rate", type=whole_number(1), help="sampling rate in Hz, a multiple of 10; default: the model's"
    )
    live.add_argument(
        "--delay", type=number(0), default=0.5, help="seconds of sound to wait for after a frame before printing it;"
        " default: %(default)s"
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.stream:
        of_files = ("audio", "output", "tta", "batch_size", "ray", "workers")
        of_results = ("layout", "labels", "overwrite", "plot", "json")
        options.audio = options.audio or None
        parser.refuse(options, of_files + of_results, "cannot be used with --stream, which only prints events")
        parser.refuse(options, ("min_confidence",), "needs whole events: use --threshold with --stream")
    elif not options.audio:
        parser.error("give audio files or folders of them, or listen with --stream")
    else:
        parser.refuse(options, ("format", "rate", "delay"), "only for live streams: add --stream")
        if any(place.is_file() for place in (options.output, *options.output.parents)):
            parser.error(f"--output {options.output}: a file is in the way: give another folder")
        if not options.ray:
            parser.refuse(options, ("workers",), "only with --ray")
    return options


@program(NAME)
def main(arguments: list[str] | None = None) -> int:
    """Entry point of `pseldnet-predict`; returns 0, or 2 if anything went wrong."""
    options = parse_arguments(arguments)
    with without_garbage_collection():
        from transformers.utils import logging

        from . import loading  # noqa: F401 with all that is heavy

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    if options.stream:
        listen(options)
        return 0
    suffixes = [".csv"] + [".json"] * options.json + [".png"] * options.plot
    files = list(output_places(options.audio, options.output, suffixes, options.overwrite))
    failed = False
    with window_progress(disable=len(files) != 1) as progress:
        if options.ray:
            results = map_on_ray(Predictor, (options,), files, min(options.workers, len(files)), options.ray)
        else:
            results = Predictor(options).each(files, progress)
        for done, line in tqdm(results, total=len(files), unit="file", disable=len(files) == 1):
            failed |= not done
            tqdm.write(line if done else f"{NAME}: error: {line}", file=sys.stdout if done else sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
