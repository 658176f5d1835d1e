"""Scores for sound event localization and detection, as defined by the DCASE challenges and PSELDNets.

Four variants are in use, and they disagree on the same predictions:

- `dcase2023`: the joint detection and localization scores of DCASE 2021 to 2023, counted over one-second segments. The
  macro average is over all classes, and a class without any match has a localization error of 180°.
- `pseldnets`: the same counts, but the macro average leaves out classes without a match, as in the PSELDNets paper.
- `dcase2024`: counted frame by frame, with distances: `F` also requires a distance error of at most 100 %.
- `dcase2025`: the same for stereo: azimuths are folded to the front and elevations ignored. `F_onscreen`, the
  F20/on-off of the challenge, also requires the on-screen prediction to be right. Recordings without reference events
  are not counted.

They follow Mesaros et al., "Joint measurement of localization and detection of sound events" (WASPAA 2019), Politis et
al., "Overview and evaluation of sound event localization and detection in DCASE 2019" (TASLP 2020) and the task
descriptions of the challenges, and agree with the official scorers in every count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from ..events import Events, fold_azimuth


MAX_ANGLE_DEGREES = 20.0
MAX_RELATIVE_DISTANCE_ERROR = 1.0
NO_EVENTS = Events.empty().replace(distance=(), onscreen=())


@dataclass(frozen=True)
class Variant:
    """The rules of one variant of the scores.

    Attributes:
        segment_frames (`int`): number of frames in a segment.
        has_distance (`bool`): whether distances are scored too.
        counts_last_frame (`bool`): whether the last reference frame counts; the official scorers use its index as the
            number of frames.
        skips_unmatched (`bool`): whether the macro average leaves out classes without a match.
        norm_guard (`float`): what the scorer adds to the squared length of every vector. It turns an angle of exactly
            20° into a miss, and the angle between equal directions into 0.0008°.
        is_stereo (`bool`): whether directions are azimuths folded to the front, and `onscreen` is scored.
    """

    segment_frames: int
    has_distance: bool
    counts_last_frame: bool
    skips_unmatched: bool
    norm_guard: float
    is_stereo: bool = False

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores; the last two of `dcase2025` are undefined for some data."""
        if not self.has_distance:
            return "ER", "F", "LE", "LR", "SELD"
        onscreen = ("F_onscreen", "OnscreenAccuracy") if self.is_stereo else ()
        return "F", "AngE", "DistE", "RelDistE", "LR", "SELD", *onscreen


VARIANTS = {
    "dcase2023": Variant(10, has_distance=False, counts_last_frame=False, skips_unmatched=False, norm_guard=1e-10),
    "pseldnets": Variant(10, has_distance=False, counts_last_frame=True, skips_unmatched=True, norm_guard=0.0),
    "dcase2024": Variant(1, has_distance=True, counts_last_frame=False, skips_unmatched=False, norm_guard=1e-10),
    "dcase2025": Variant(
        1, has_distance=True, counts_last_frame=False, skips_unmatched=False, norm_guard=0.0, is_stereo=True
    ),
}

Counts = dict[str, np.ndarray]


def seld_scores(
    references: Sequence[Events],
    predictions: Sequence[Events],
    num_classes: int,
    *,
    num_frames: Sequence[int] | None = None,
    variant: str = "dcase2023",
    jackknife: bool = False,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> dict:
    """Score predicted events against reference events, recording by recording.

    Args:
        references, predictions: one `Events` per recording, in the same order. Reference events of the same class and
            frame are told apart by the order of their rows, as in the official scorers, not by their track.
        num_classes: number of classes of the task; the macro average is over all of them, whether they occur or not.
        num_frames: number of frames to score in each recording; variants with segments count the last segment whole.
            Defaults to the index of the last reference frame (plus 1 for `pseldnets`) or, if there are no reference
            events, to all predicted frames (none for `dcase2025`).
        variant: `"dcase2023"` (default), `"pseldnets"`, `"dcase2024"` or `"dcase2025"`, see the module.
        jackknife: whether to add 95% confidence intervals, by leaving out one recording at a time.
        groups: a label for each recording, such as its room, to score each group separately as well.
        names: names of the recordings for error messages. Defaults to their indices.

    Returns:
        `dict`: `"macro"` and `"micro"`, each a `dict` from score to float, and `"classwise"`, from score to a list of
        `num_classes` floats. With `jackknife` also `"jackknife"`, of the same form with `[low, high]` for each float;
        with `groups` also `"groups"`, from label to a `dict` of this form.

        The scores are `ER` (error rate), `F` (location-dependent F-score), `LE` (localization error of the matched
        events in degrees), `LR` (localization recall) and `SELD`, the mean of ER, 1 - F, LE / 180 and 1 - LR. For
        `dcase2024` they are `F`, `AngE` (degrees), `DistE` (metres), `RelDistE` (as a fraction of the reference
        distance), `LR` and `SELD`, the mean of 1 - F, AngE / 180 and RelDistE; for `dcase2025` also `F_onscreen` and
        `OnscreenAccuracy`, NaN unless both references and predictions have `onscreen`. Undefined scores are NaN: ER
        without any reference, the errors of `dcase2024` without a match (SELD is then the mean of the other terms), an
        interval from a single recording.

    Raises:
        ValueError: the variant is unknown, the lists differ in length, a class is out of range, or distances are
            required and missing, or not above 0 in a reference.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    rules = VARIANTS[variant]
    names = [f"recording {index}" for index in range(len(references))] if names is None else names
    lists = {"predictions": predictions, "num_frames": num_frames, "groups": groups, "names": names}
    for what, values in lists.items():
        if values is not None and len(values) != len(references):
            raise ValueError(f"{len(references)} references, but {len(values)} {what}")
    for name, reference, prediction in zip(names, references, predictions, strict=True):
        for kind, events in (("reference", reference), ("prediction", prediction)):
            _check(events, num_classes, rules.has_distance, f"{kind} of {name}")
        if rules.has_distance and len(reference) and reference.distance.min() <= 0:
            raise ValueError(f"reference of {name}: distances must be above 0")

    if num_frames is None:
        num_frames = [_default_num_frames(*pair, rules) for pair in zip(references, predictions, strict=True)]
    counts = _count(references, predictions, num_classes, np.asarray(num_frames, dtype=np.int64), rules)
    scores = _report(counts, rules, jackknife)
    if groups is not None:
        labels = np.asarray(groups)
        scores["groups"] = {
            str(label): _report({key: count[labels == label] for key, count in counts.items()}, rules, jackknife)
            for label in np.unique(labels)
        }
    return scores


def _check(events: Events, num_classes: int, has_distance: bool, where: str) -> None:
    if len(events) == 0:
        return
    if not 0 <= events.class_id.min() <= events.class_id.max() < num_classes:
        outside = events.class_id[(events.class_id < 0) | (events.class_id >= num_classes)]
        raise ValueError(
            f"{where}: class {outside[0]} is not one of the {num_classes} classes, 0 to {num_classes - 1}"
        )
    if has_distance and (events.distance is None or np.isnan(events.distance).any()):
        raise ValueError(f"{where}: no distances, which dcase2024 and dcase2025 need: choose another variant")


def _default_num_frames(reference: Events, prediction: Events, rules: Variant) -> int:
    if len(reference) or rules.is_stereo:
        return int(reference.frame.max(initial=0)) + rules.counts_last_frame
    return int(prediction.frame.max(initial=-1)) + 1


class _Rows(NamedTuple):
    """Columns (rows,) of all recordings on one time axis, sorted by frame and class, otherwise in the given order.

    Frame and class are encoded as one integer, frame × classes + class, and so are segment and class.
    """

    vector: np.ndarray
    azimuth: np.ndarray
    distance: np.ndarray | None
    onscreen: np.ndarray | None
    frame_class: np.ndarray
    segment_class: np.ndarray


def _count(
    references: Sequence[Events],
    predictions: Sequence[Events],
    num_classes: int,
    num_frames: np.ndarray,
    rules: Variant,
) -> Counts:
    """Count what the scores are computed from, over segments: (recordings, classes), `errors` (recordings, 1)."""
    segments = -(-num_frames // rules.segment_frames)
    stride = int(segments.max(initial=1))
    reference, prediction = (
        _flatten(recordings, segments, stride, num_classes, rules.segment_frames)
        for recordings in (references, predictions)
    )
    cells = np.union1d(reference.segment_class, prediction.segment_class)
    expected, predicted = (_num_sources(rows, cells) for rows in (reference, prediction))

    source, error = _matched_sources(reference, prediction, rules)
    located = error["angle"] <= MAX_ANGLE_DEGREES
    if rules.has_distance:
        located &= error["relative_distance"] <= MAX_RELATIVE_DISTANCE_ERROR
    if rules.is_stereo:
        error["located_onscreen"] = np.where(np.isnan(error["onscreen"]), np.nan, located * (1 - error["onscreen"]))
    cell = np.searchsorted(cells, source)
    matched = np.bincount(cell, minlength=len(cells))
    located = np.bincount(cell, located, len(cells))
    # If both are active in a segment but never in the same frame, the official scorers count predictions as misses.
    apart = (expected > 0) & (predicted > 0) & (matched == 0)
    missed = np.where(apart, predicted, np.maximum(expected - predicted, 0))
    extra = np.where(apart, 0, np.maximum(predicted - expected, 0))

    # A miss and a false alarm in the same segment, of any classes, count as one error, a substitution.
    segment, segment_of_cell = np.unique(cells // num_classes, return_inverse=True)
    false_alarms = np.bincount(segment_of_cell, extra + matched - located)
    errors = np.maximum(np.bincount(segment_of_cell, missed), false_alarms)

    per_cell = {"references": expected, "matched": matched, "located": located, "missed": missed, "extra": extra}
    per_cell |= {name: np.bincount(cell, values, len(cells)) for name, values in error.items()}
    recording = segment // stride
    recording_class = recording[segment_of_cell] * num_classes + cells % num_classes
    shape = len(references), num_classes
    counts = {
        name: np.bincount(recording_class, values, np.prod(shape)).reshape(shape) for name, values in per_cell.items()
    }
    return counts | {"errors": np.bincount(recording, errors, len(references))[:, None]}


def _flatten(
    recordings: Sequence[Events], segments: np.ndarray, stride: int, num_classes: int, segment_frames: int
) -> _Rows:
    """Return the rows in the first `segments` of each recording, which occupies `stride` segments of the time axis."""
    recording = np.repeat(np.arange(len(recordings)), [len(events) for events in recordings])
    events = Events.concatenate([events for events in recordings if len(events)] or [NO_EVENTS])
    frame_class = (recording * stride * segment_frames + events.frame) * num_classes + events.class_id
    rows = np.flatnonzero(events.frame < segments[recording] * segment_frames)
    rows = rows[np.argsort(frame_class[rows], kind="stable")]
    events, frame_class = events[rows], frame_class[rows]
    segment_class = frame_class // num_classes // segment_frames * num_classes + events.class_id
    return _Rows(
        events.vector, fold_azimuth(events.azimuth), events.distance, events.onscreen, frame_class, segment_class
    )


def _num_sources(rows: _Rows, cells: np.ndarray) -> np.ndarray:
    """Return the number of sources in each cell, a segment and class: as many as in its busiest frame."""
    _, first, simultaneous = np.unique(rows.frame_class, return_index=True, return_counts=True)
    sources = np.zeros(len(cells), dtype=np.int64)
    np.maximum.at(sources, np.searchsorted(cells, rows.segment_class[first]), simultaneous)
    return sources


def _matched_sources(reference: _Rows, prediction: _Rows, rules: Variant) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return segment and class of each matched reference source, and its errors, averaged over its matched frames.

    A source consists of the rows of a segment and class that have the same position in their frames.
    """
    row, predicted_row, angle = _match(reference, prediction, rules)
    error = {"angle": angle}
    if rules.has_distance:
        error["distance"] = np.abs(reference.distance[row] - prediction.distance[predicted_row])
        error["relative_distance"] = error["distance"] / reference.distance[row]
    if rules.is_stereo:
        told = reference.onscreen is not None and prediction.onscreen is not None
        wrong = reference.onscreen[row] != prediction.onscreen[predicted_row] if told else np.full(len(row), np.nan)
        error["onscreen"] = wrong.astype(np.float64)
    position = row - np.searchsorted(reference.frame_class, reference.frame_class[row])
    num_positions = position.max(initial=0) + 1
    source, source_of_row, num_rows = np.unique(
        reference.segment_class[row] * num_positions + position, return_inverse=True, return_counts=True
    )
    mean_error = {name: np.bincount(source_of_row, values, len(source)) / num_rows for name, values in error.items()}
    return source // num_positions, mean_error


def _match(reference: _Rows, prediction: _Rows, rules: Variant) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair reference and prediction rows of the same frame and class with the least total angle.

    Returns:
        Reference rows, prediction rows and the angles between them in degrees, (pairs,) each.
    """
    left, first_row, num_rows = np.unique(reference.frame_class, return_index=True, return_counts=True)
    right, first_column, num_columns = np.unique(prediction.frame_class, return_index=True, return_counts=True)
    _, left, right = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    first_row, first_column = first_row[left], first_column[right]
    shapes = np.stack([num_rows[left], num_columns[right]], axis=1)

    pairs = [np.empty((3, 0))]
    for shape in np.unique(shapes, axis=0):
        alike = (shapes == shape).all(axis=1)
        rows = first_row[alike, None] + np.arange(shape[0])
        columns = first_column[alike, None] + np.arange(shape[1])
        if rules.is_stereo:
            angle = np.abs(reference.azimuth[rows][:, :, None] - prediction.azimuth[columns][:, None, :])
        else:
            cosine = np.einsum("nix,njx->nij", reference.vector[rows], prediction.vector[columns])
            angle = np.degrees(np.arccos(np.clip(cosine / (1 + rules.norm_guard), -1, 1)))
        i, j = np.array([scipy.optimize.linear_sum_assignment(cost) for cost in angle]).swapaxes(0, 1)
        n = np.arange(len(angle))[:, None]
        pairs.append(np.stack([rows[n, i], columns[n, j], angle[n, i, j]]).reshape(3, -1))
    row, predicted_row, angle = np.concatenate(pairs, axis=1)
    return row.astype(np.int64), predicted_row.astype(np.int64), angle


def _report(counts: Counts, rules: Variant, jackknife: bool) -> dict:
    total = {name: count.sum(axis=0) for name, count in counts.items()}
    levels = _levels(total, rules)
    scores = _to_python(levels)
    if jackknife:
        without_one = _levels({name: total[name] - count for name, count in counts.items()}, rules)
        scores["jackknife"] = _to_python(
            {
                level: {name: _interval(values[name], without_one[level][name]) for name in values}
                for level, values in levels.items()
            }
        )
    return scores


def _to_python(levels: dict[str, dict[str, np.ndarray]]) -> dict:
    return {level: {name: value.tolist() for name, value in values.items()} for level, values in levels.items()}


def _levels(counts: Counts, rules: Variant) -> dict[str, dict[str, np.ndarray]]:
    """Convert counts (…, classes) to scores: macro and micro (…), classwise (…, classes)."""
    classwise = _scores(counts, rules)
    micro = _scores({name: count.sum(axis=-1, keepdims=True) for name, count in counts.items()}, rules)
    matched = counts["matched"] > 0
    kept = matched | ~matched.any(axis=-1, keepdims=True) if rules.skips_unmatched else np.ones_like(matched)
    return {
        "macro": {name: _mean(values, kept & ~np.isnan(values)) for name, values in classwise.items()},
        "micro": {name: values[..., 0] for name, values in micro.items()},
        "classwise": classwise,
    }


def _scores(counts: Counts, rules: Variant) -> dict[str, np.ndarray]:
    matched, missed = counts["matched"], counts["missed"]
    possible = matched + (missed + counts["extra"]) / 2
    f_score = _ratio(counts["located"], possible, otherwise=0.0)
    recall = _ratio(matched, matched + missed, otherwise=0.0)
    if rules.has_distance:
        angle, distance, relative_distance = (
            _ratio(counts[name], matched, otherwise=np.nan) for name in ("angle", "distance", "relative_distance")
        )
        seld = np.nanmean(np.stack([1 - f_score, angle / 180, relative_distance]), axis=0)
        scores = {
            "F": f_score, "AngE": angle, "DistE": distance, "RelDistE": relative_distance, "LR": recall, "SELD": seld
        }  # fmt: skip
        if rules.is_stereo:
            told = ~np.isnan(counts["onscreen"]).any(axis=-1, keepdims=True)
            located = _ratio(counts["located_onscreen"], possible, otherwise=0.0)
            scores["F_onscreen"] = np.where(told, located, np.nan)
            scores["OnscreenAccuracy"] = 1 - _ratio(counts["onscreen"], matched, otherwise=np.nan)
        return scores
    error_rate = _ratio(counts["errors"], counts["references"].sum(axis=-1, keepdims=True), otherwise=np.nan)
    error_rate = np.broadcast_to(error_rate, f_score.shape)
    angle = _ratio(counts["angle"], matched, otherwise=180.0)
    seld = (error_rate + (1 - f_score) + angle / 180 + (1 - recall)) / 4
    return {"ER": error_rate, "F": f_score, "LE": angle, "LR": recall, "SELD": seld}


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), otherwise)


def _mean(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return _ratio(np.where(kept, values, 0).sum(axis=-1), kept.sum(axis=-1), otherwise=np.nan)


def _interval(value: np.ndarray, without_one: np.ndarray) -> np.ndarray:
    """Return the jackknife 95% confidence interval (…, 2) of scores (…), given those without one recording each.

    Centred on the bias-corrected estimate, with Student's t for n - 1 degrees of freedom, as in DCASE since 2022.

    Args:
        without_one: (recordings, …).
    """
    n = len(without_one)
    if n < 2:
        return np.full((*value.shape, 2), np.nan)
    mean = without_one.mean(axis=0)
    centre = value - (n - 1) * (mean - value)
    standard_error = np.sqrt((n - 1) * ((without_one - mean) ** 2).mean(axis=0))
    margin = scipy.stats.t.ppf(0.975, n - 1) * standard_error
    return np.stack([centre - margin, centre + margin], axis=-1)
