"""From active frames to events: tracks that follow one source, and events with onset and offset."""

from itertools import count, groupby

import numpy as np

from .events import FRAME_SECONDS, Events, round_azimuth, vector_to_direction


MAX_GAP_FRAMES = 5
LEAST_COSINE = float(np.cos(np.radians(30)))


def link_tracks(events: Events, heard: dict | None = None) -> Events:
    """Renumber tracks so that a source keeps its number from frame to frame, whichever network track it came from.

    A detection continues the nearest track of its class within 30 degrees that was active in the last half second;
    otherwise it gets the lowest number not in use for its class.

    Args:
        events: events of a recording, or of a piece of it.
        heard: state from the preceding pieces, empty for the first one; updated in place.
    """
    heard = {} if heard is None else heard
    events = events.sort()
    # Plain Python numbers are faster here: many frames with a few detections each.
    vectors, tracks = events.vector.tolist(), []
    keys = zip(events.frame.tolist(), events.class_id.tolist(), strict=True)
    for (frame, class_id), group in groupby(range(len(events)), key=list(keys).__getitem__):
        rows = list(group)
        before = heard.get(class_id, {}).items()
        recent = {track: last for track, last in before if frame - last[0] <= MAX_GAP_FRAMES + 1}
        found = _continue_tracks([vectors[row] for row in rows], {track: last[1] for track, last in recent.items()})
        heard[class_id] = recent | {track: (frame, vectors[row]) for track, row in zip(found, rows, strict=True)}
        tracks += found
    return events.replace(track=np.array(tracks, dtype=np.int64)).sort()


def _continue_tracks(vectors: list[list[float]], last: dict[int, list[float]]) -> list[int]:
    """Assign a track number to each unit vector, matching the closest pairs with the `last` directions first."""
    pairs = [
        (x * a + y * b + z * c, row, track)
        for row, (x, y, z) in enumerate(vectors)
        for track, (a, b, c) in last.items()
    ]
    assigned: dict[int, int] = {}
    for cosine, row, track in sorted(pairs, reverse=True):
        if cosine >= LEAST_COSINE and row not in assigned and track not in assigned.values():
            assigned[row] = track
    for row in range(len(vectors)):
        if row not in assigned:
            taken = {*last, *assigned.values()}
            assigned[row] = next(number for number in count() if number not in taken)
    return [assigned[row] for row in range(len(vectors))]


def confident_events(events: Events, min_confidence: float) -> Events:
    """Return the events whose mean confidence, the `confidence` of [`to_records`], is at least `min_confidence`.

    This drops fewer true events with a false one than a higher threshold does, which cuts events into pieces.
    """
    kept = [rows for rows in _rows_of_events(events) if events.confidence[rows].mean() >= min_confidence]
    return events[np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *kept]))]


def _rows_of_events(events: Events) -> list[np.ndarray]:
    """Return the rows of each event: consecutive frames of a track."""
    order = np.lexsort((events.frame, events.track, events.class_id))
    frame, class_id, track = events.frame[order], events.class_id[order], events.track[order]
    pause = (np.diff(frame) != 1) | (np.diff(class_id) != 0) | (np.diff(track) != 0)
    return np.split(order, np.flatnonzero(pause) + 1) if len(order) else []


def to_records(events: Events, id2label: dict[int, str]) -> list[dict]:
    """Convert events to a list of dicts for JSON, sorted by onset.

    Each has `onset` and `offset` in seconds, `label`, `track`, the mean direction as `azimuth` and `elevation` in
    degrees, the mean `confidence` (`None` if events have none) and the `trajectory`: a list of `time`, `azimuth` and
    `elevation`, one every 100 ms. If events have distances, the dict and the points of its trajectory have a
    `distance` in metres, `None` if unknown; if events have `onscreen`, so do the points and the dict, true if most of
    its points are. A track that pauses gives several events.
    """
    records = [_record(events[rows], id2label) for rows in _rows_of_events(events)]
    return sorted(records, key=lambda record: (record["onset"], record["label"], record["track"]))


def _record(events: Events, id2label: dict[int, str]) -> dict:
    azimuth, elevation = vector_to_direction(events.vector.mean(0))
    columns = {
        "time": events.frame * FRAME_SECONDS,
        "azimuth": round_azimuth(events.azimuth),
        "elevation": events.elevation,
    }
    points = [dict(zip(columns, map(_rounded, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    beside = {}
    if events.distance is not None:
        known = events.distance[~np.isnan(events.distance)]
        beside["distance"] = _rounded(known.mean(), 2) if len(known) else None
        for point, metres in zip(points, events.distance.tolist(), strict=True):
            point["distance"] = None if np.isnan(metres) else _rounded(metres, 2)
    if events.onscreen is not None:
        beside["onscreen"] = bool(events.onscreen.mean() > 0.5)
        for point, seen in zip(points, events.onscreen.tolist(), strict=True):
            point["onscreen"] = seen
    return {
        "onset": _rounded(events.frame[0] * FRAME_SECONDS),
        "offset": _rounded((events.frame[-1] + 1) * FRAME_SECONDS),
        "label": id2label[int(events.class_id[0])],
        "track": int(events.track[0]),
        "azimuth": float(round_azimuth(azimuth)),
        "elevation": _rounded(elevation),
        **beside,
        "confidence": None if events.confidence is None else _rounded(min(events.confidence.mean(), 1.0), 3),
        "trajectory": points,
    }


def _rounded(value: float, digits: int = 1) -> float:
    # Adding 0 turns -0 into 0.
    return round(float(value), digits) + 0.0
