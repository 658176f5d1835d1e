"""Results for a recording as files: events for programs, and a scene with sound for the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeling_pseldnet import Events
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import fold_azimuth, write_csv
from modeling_pseldnet.feature_extraction_pseldnet import FEATURE_TYPES
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.fitting import choose_channel_format
from modeling_pseldnet.inference import detect
from modeling_pseldnet.timeline import to_records
from spaces_demo.listening import playback_rate, write_preview
from spaces_demo.models import BATCH_SIZE, Model


# Channel formats that are converted to W, Y, Z, X.
AMBISONIC = FEATURE_TYPES["logmel_iv"].channel_formats
STEREO, MONO = "stereo", "mono"


class Result(NamedTuple):
    """Paths of DCASE CSV, JSON, the page's scene (JSON), and the previews in stereo and for headphones (MP3)."""

    csv: str
    json: str
    scene: str
    stereo: str
    binaural: str


def find_events(
    model: Model,
    recording: str,
    channel_format: str = "",
    threshold: float = 0.0,
    overlap: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Events:
    """Find the events of a recording; `channel_format`, `threshold` and `overlap` take what the page offers."""
    return detect(
        model.network,
        model.extractor,
        recording,
        channel_format=channel_format or None,
        threshold=threshold or None,
        hop_seconds=round(model.network.config.window_seconds * (1 - (overlap or 0)), 1),
        batch_size=BATCH_SIZE,
        progress=progress,
    )


def as_seen(events: Events, channel_format: str) -> Events:
    """Return events as they are drawn: those of stereo in front and level, since it only tells left from right."""
    if channel_format != STEREO:
        return events
    return events.replace(azimuth=fold_azimuth(events.azimuth), elevation=np.zeros(len(events)))


def about_scene(model: Model, channel_format: str) -> dict:
    """Describe the model of a scene and the kind of audio it heard."""
    id2label = model.network.config.id2label
    return {
        "ambisonic": channel_format in AMBISONIC,
        "stereo": channel_format == STEREO,
        "mono": channel_format == MONO,
        "model": model.name,
        "classes": [id2label[number] for number in sorted(id2label)],
        "scores": model.scores,
    }


def write_result(
    model: Model, recording: str, events: Events, folder: str | Path, channel_format: str = "", **more
) -> Result:
    """Write the result files of a recording.

    Args:
        model, recording, events, channel_format: the events that the model found in the recording.
        folder: the folder to write to, under the name of the recording.
        more: additional entries of the scene.

    Raises:
        ValueError: the recording is truncated.
    """
    stem, config = f"{folder}/{Path(recording).stem}", model.network.config
    channel_format = choose_channel_format(channel_format or None, model.extractor)
    with Recording(recording, playback_rate(config.sampling_rate), channel_format) as audio:
        preview = write_preview(audio, stem, ambisonic=channel_format in AMBISONIC)
        scene = {
            "name": Path(recording).name,
            "seconds": round(audio.seconds, 2),
            **about_scene(model, channel_format),
            "envelope": preview.envelope,
            "records": to_records(as_seen(events, channel_format), config.id2label),
            **more,
        }
    result = Result(f"{stem}.csv", f"{stem}.json", f"{stem}.scene.json", preview.stereo, preview.binaural)
    write_csv(result.csv, events, config.csv_layout)
    records = to_records(events, config.id2label)
    write_atomically(result.json, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    write_atomically(result.scene, json.dumps(scene, ensure_ascii=False))
    return result
