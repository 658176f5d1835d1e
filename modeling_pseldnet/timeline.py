"""From active frames to sounding sources: tracks that keep to one source, and events with onset and offset."""

from collections import defaultdict

import numpy as np

from .events import FRAME_SECONDS, Events, angle_between, vector_to_direction


MAX_GAP_FRAMES = 5
MAX_JUMP_DEGREES = 30.0


def link_tracks(events: Events) -> Events:
    """Numbers tracks so that a source keeps its number from frame to frame, whichever track of a network gave it.

    A detection continues the nearest track of its class that was heard in the last half second within 30 degrees;
    another takes the lowest number of its class that is not in use.
    """
    events = events.sort()
    vectors = events.vector
    tracks = np.zeros(len(events), dtype=np.int64)
    heard: dict[int, dict[int, tuple[int, np.ndarray]]] = defaultdict(dict)
    starts = np.flatnonzero(
        np.r_[True, np.diff(events.frame * (events.class_id.max(initial=0) + 1) + events.class_id) != 0]
    )
    for start, end in zip(starts, np.r_[starts[1:], len(events)], strict=True):
        if start == end:
            continue
        frame, class_id = int(events.frame[start]), int(events.class_id[start])
        recent = {
            track: (last, vector)
            for track, (last, vector) in heard[class_id].items()
            if frame - last <= MAX_GAP_FRAMES + 1
        }
        tracks[start:end] = _continue_tracks(vectors[start:end], {track: last for track, (_, last) in recent.items()})
        recent.update({int(tracks[row]): (frame, vectors[row]) for row in range(start, end)})
        heard[class_id] = recent
    return events.replace(track=tracks).sort()


def _continue_tracks(vectors: np.ndarray, last: dict[int, np.ndarray]) -> list[int]:
    """A track number for each direction (n, 3): the nearest pairs with the `last` directions first."""
    assigned: list[int | None] = [None] * len(vectors)
    if last:
        names = list(last)
        angles = angle_between(vectors[:, None], np.stack([last[name] for name in names])[None])
        for flat in np.argsort(angles, axis=None):
            row, column = divmod(int(flat), len(names))
            if angles[row, column] <= MAX_JUMP_DEGREES and assigned[row] is None and names[column] not in assigned:
                assigned[row] = names[column]
    for row, name in enumerate(assigned):
        if name is None:
            taken = {*last, *(other for other in assigned if other is not None)}
            assigned[row] = next(number for number in range(len(taken) + 1) if number not in taken)
    return assigned


def to_records(events: Events, id2label: dict[int, str]) -> list[dict]:
    """Events as a list of dicts, in the order of their onsets, to be written as JSON.

    Each has `onset` and `offset` in seconds, `label`, `track`, the mean direction as `azimuth` and `elevation` in
    degrees, the mean `confidence` (null where events have none) and the `trajectory`: a list of `time`, `azimuth` and
    `elevation`, one every 100 ms. A track that pauses gives several events.
    """
    order = np.lexsort((events.frame, events.track, events.class_id))
    events = events[order]
    pause = (np.diff(events.frame) != 1) | (np.diff(events.class_id) != 0) | (np.diff(events.track) != 0)
    parts = np.split(np.arange(len(events)), np.flatnonzero(pause) + 1) if len(events) else []
    records = [_record(events[rows], id2label) for rows in parts]
    return sorted(records, key=lambda record: (record["onset"], record["label"], record["track"]))


def _record(events: Events, id2label: dict[int, str]) -> dict:
    azimuth, elevation = vector_to_direction(events.vector.mean(0))
    columns = (events.frame * FRAME_SECONDS, events.azimuth, events.elevation)
    return {
        "onset": _rounded(events.frame[0] * FRAME_SECONDS),
        "offset": _rounded((events.frame[-1] + 1) * FRAME_SECONDS),
        "label": id2label[int(events.class_id[0])],
        "track": int(events.track[0]),
        "azimuth": _rounded(azimuth),
        "elevation": _rounded(elevation),
        "confidence": None if events.confidence is None else _rounded(min(events.confidence.mean(), 1.0), 3),
        "trajectory": [
            dict(zip(("time", "azimuth", "elevation"), map(_rounded, row), strict=True))
            for row in zip(*columns, strict=True)
        ],
    }


def _rounded(value: float, digits: int = 1) -> float:
    return round(float(value), digits)
