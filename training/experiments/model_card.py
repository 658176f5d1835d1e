"""The card of the model that comes with the package: tables and a picture of its results on simulated scenes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from modeling_pseldnet.events import Events, angle_between
from modeling_pseldnet.files import atomic_path
from modeling_pseldnet.timeline import confident_events, link_tracks, to_records
from modeling_pseldnet.tools.evaluate_files import format_scores
from modeling_pseldnet.tools.scores import MAX_ANGLE_DEGREES, seld_scores

from .markdown import markdown_table


if TYPE_CHECKING:
    from modeling_pseldnet import PSELDNetForSELD


# In seconds: edges of the RT60 ranges that test scenes are grouped by, and the RT60 range of more reverberant rooms.
RT60_EDGES, LIVELY_RT60 = (0.1, 0.3, 0.5, 0.7, 1.0), (1.0, 2.0)
# The class of music, and the classes that may also be heard in music.
MUSIC, OF_MUSIC = "music", {"music", "piano", "plucked_string", "wind_instrument", "drum", "singing"}
TEMPLATE = Path(__file__).with_name("default_model_card.md")

# The true events of scenes, and the predicted ones.
Heard = tuple[list[Events], list[Events]]


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a card: scenes with their true and predicted events.

    Attributes:
        model: the model, with its thresholds.
        test, averaged: the test scenes, without and with `--tta`.
        rt60: reverberation times of their rooms, seconds.
        known: scenes made of training sounds.
        noise, unlabelled, music: scenes of noise only, of out-of-class sounds, and of music only.
        scene_seconds: length of each scene.
        lively: test scenes in rooms of `LIVELY_RT60`.
        beside: another model, and its predictions for the test scenes.
        usual_distance: median distance of events, metres, a constant guess to compare with.
    """

    model: PSELDNetForSELD
    test: Heard
    rt60: list[float]
    averaged: Heard
    known: Heard
    noise: Heard
    scene_seconds: float
    usual_distance: float
    lively: Heard | None = None
    unlabelled: Heard | None = None
    music: Heard | None = None
    beside: tuple[PSELDNetForSELD, list[Events]] | None = None

    @property
    def labels(self) -> list[str]:
        return list(self.model.config.id2label.values())

    def scores_by_overlap(
        self,
        references: list[Events],
        found: list[Events],
        num_classes: int | None = None,
        variant: str = "dcase2023",
    ) -> dict:
        """Score test scenes, with confidence intervals, overall and by the maximum number of simultaneous events.

        Args:
            num_classes: number of classes of the events. Defaults to all classes of the model.
        """
        overlap = [str(events.max_overlap) for events in self.test[0]]
        count = num_classes or len(self.labels)
        return seld_scores(references, found, count, variant=variant, groups=overlap, jackknife=True)


def card(report: Report, validation_scenes: int, **texts: str) -> str:
    """Write the text of the model card.

    Args:
        validation_scenes: number of scenes that the thresholds were chosen on.
        texts: descriptions of the training (`trained_on`), its `sounds`, the teacher (`taught`) and the test scenes
            (`about_scenes`).
    """
    config = report.model.config
    scores = report.scores_by_overlap(*report.test)
    print(format_scores({**scores, "labels": report.labels, "overlap": scores["groups"]}, by="overlap"))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        classes=len(report.labels),
        labels=", ".join(report.labels),
        millions=f"{report.model.num_parameters() / 1e6:.1f}",
        **texts,
        sampling_rate=config.sampling_rate,
        window_seconds=config.window_seconds,
        scenes=len(report.test[0]),
        validation_scenes=validation_scenes,
        f20=f"{scores['macro']['F']:.3f}",
        le=f"{scores['micro']['LE']:.1f}",
        by_sources=_by_sources(report, scores),
        by_rt60=_by_rt60(report),
        by_class=_by_class(report, scores["classwise"]),
        more="\n\n".join(filter(None, [_distances(report), false_alarms(report), _beside(report)])),
    )


SCORES = {"F": "F20", "ER": "ER20", "LE": "LE", "LR": "LR", "SELD": "SELD"}


def _cells(scores: dict, jackknife: dict | None = None, names: Iterable[str] = SCORES) -> list[str]:
    """Format scores with their confidence intervals."""

    def text(name: str) -> str:
        digits, unit = (1, "°") if name == "LE" else (3, "")
        low_high = jackknife and f" ({jackknife[name][0]:.{digits}f}–{jackknife[name][1]:.{digits}f})"
        return f"{scores[name]:.{digits}f}{unit}{low_high or ''}"

    return [text(name) for name in names]


def _overlaps(scores: dict, how: str = "", names: Iterable[str] = SCORES) -> Iterable[list[str]]:
    for name, part in {**scores["groups"], "all": scores}.items():
        if name != "0":
            title = f"{name}{how}" if name == "all" else f"{name} at a time{how}"
            yield [title, *_cells(part["macro"], part["jackknife"]["macro"], names)]


def _by_sources(report: Report, scores: dict) -> str:
    averaged = report.scores_by_overlap(*report.averaged)
    known = seld_scores(*report.known, len(report.labels))
    rows = [
        *_overlaps(scores),
        *_overlaps(averaged, ", with `--tta`"),
        ["all, micro average", *_cells(scores["micro"], scores["jackknife"]["micro"])],
        ["all, on training sounds", *_cells(known["macro"])],
    ]
    return markdown_table(["sources", *SCORES.values()], rows)


def band(low: float, high: float) -> str:
    """Name a range of reverberation times."""
    return f"{low:.1f}–{high:.1f} s"


def band_of(rt60: float) -> str:
    """Name the range that a reverberation time falls into."""
    number = int(np.clip(np.searchsorted(RT60_EDGES, rt60) - 1, 0, len(RT60_EDGES) - 2))
    return band(*RT60_EDGES[number : number + 2])


def _by_rt60(report: Report) -> str:
    groups = [band_of(seconds) for seconds in report.rt60]
    scores = seld_scores(*report.test, len(report.labels), groups=groups)
    rows = [[name, *_cells(part["macro"])] for name, part in scores["groups"].items()]
    if report.lively:
        lively = seld_scores(*report.lively, len(report.labels))
        rows.append([f"{band(*LIVELY_RT60)} ({len(report.lively[0])} other scenes)", *_cells(lively["macro"])])
    return markdown_table(["RT60", *SCORES.values()], rows)


def _by_class(report: Report, scores: dict) -> str:
    rows = [
        [label, f"{scores['F'][n]:.2f}", f"{scores['LE'][n]:.0f}°", f"{scores['LR'][n]:.2f}", f"{threshold:.2f}"]
        for n, (label, threshold) in enumerate(zip(report.labels, report.model.config.threshold, strict=True))
    ]
    return markdown_table(["class", "F20", "LE", "LR", "threshold"], rows)


def _distances(report: Report) -> str:
    if not report.model.config.distance:
        return ""

    references, found = report.test
    usual = [events.replace(distance=np.full(len(events), report.usual_distance)) for events in found]
    own, guess = (
        _overlaps(report.scores_by_overlap(references, events, variant="dcase2024"), names=("F", "RelDistE"))
        for events in (found, usual)
    )
    rows = [[*row, of_guess[-1]] for row, of_guess in zip(own, guess, strict=True)]
    heading = [
        "sources",
        "F20 with distances",
        "relative distance error",
        f"the same with {report.usual_distance:.1f} m for all",
    ]
    return (
        "Distances, scored frame by frame as in DCASE 2024 (a match must also lie within 100 % of the distance):\n\n"
        + markdown_table(heading, rows)
    )


def events_per_hour(found: Sequence[Events], id2label: dict[int, str], scene_seconds: float) -> dict[str, float]:
    """Count events reported per hour, by class; an event ends with a pause or a change of track or class."""
    counts = Counter(record["label"] for events in found for record in to_records(link_tracks(events), id2label))
    return {label: count * 3600 / (len(found) * scene_seconds) for label, count in counts.most_common()}


# How many of the classes that out-of-class sounds are mistaken for a card names.
TAKEN_FOR = 5
# For users who prefer missing a sound to a false alarm.
MIN_CONFIDENCES = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
# Descriptions of scenes without anything to report, or with nothing but music.
NOTHING_TO_REPORT = {
    "unlabelled": "out-of-class sounds, one after another, at the levels of the scenes",
    "music": "music, one piece after another (not counting events of musical classes)",
    "noise": "noise alone",
}


def false_alarms(report: Report) -> str:
    """Format tables of false alarms per hour in scenes with nothing to report: of all and of confident events."""
    heard = {name: getattr(report, name) for name in NOTHING_TO_REPORT if getattr(report, name)}
    alarms = {name: _alarms(report, name, found) for name, (_, found) in heard.items()}
    rows = [[NOTHING_TO_REPORT[name], f"{sum(by_class.values()):.0f}"] for name, by_class in alarms.items()]
    text = "False alarms in scenes without any of its classes, or with nothing but music:\n\n"
    text += markdown_table(["scenes", "false alarms per hour"], rows)
    if taken_for := alarms.get("unlabelled"):
        # This would reveal sounds that do belong to one of the classes after all.
        most = ", ".join(f"{label} ({count:.0f})" for label, count in list(taken_for.items())[:TAKEN_FOR])
        text += f"\n\nThe most frequent false alarms on out-of-class sounds, per hour: {most}."
    heading = [
        "`--min-confidence`",
        "F20, all scenes",
        *(f"false alarms per hour: {NOTHING_TO_REPORT[name].partition(',')[0]}" for name in heard),
    ]
    linked = {
        name: [link_tracks(events) for events in found] for name, (_, found) in {"test": report.test, **heard}.items()
    }
    rows = []
    for least in MIN_CONFIDENCES:
        kept = {name: [confident_events(events, least) for events in found] for name, found in linked.items()}
        scores = seld_scores(report.test[0], kept["test"], len(report.labels))
        alarms_left = (f"{sum(_alarms(report, name, kept[name]).values()):.0f}" for name in heard)
        rows.append([f"{least:g}", f"{scores['macro']['F']:.3f}", *alarms_left])
    return f"{text}\n\nReporting only confident events gives fewer false alarms:\n\n{markdown_table(heading, rows)}"


def _alarms(report: Report, name: str, found: Sequence[Events]) -> dict[str, float]:
    """Count false alarms per hour in the scenes of `NOTHING_TO_REPORT`, by class, the most frequent first."""
    counts = events_per_hour(found, report.model.config.id2label, report.scene_seconds)
    passed_over = OF_MUSIC if name == "music" else ()
    return {label: count for label, count in counts.items() if label not in passed_over}


def _beside(report: Report) -> str:
    if not report.beside:
        return ""
    other, found = report.beside
    labels = list(other.config.id2label.values())
    shared = [label for label in report.labels if label in labels]

    def only_shared(scenes: list[Events], names: list[str]) -> list[Events]:
        number = np.array([shared.index(name) if name in shared else -1 for name in names])
        kept = [events[number[events.class_id] >= 0] for events in scenes]
        return [events.replace(class_id=number[events.class_id]) for events in kept]

    references = only_shared(report.test[0], report.labels)
    rows = [
        row
        for how, scenes in (
            (", this model", only_shared(report.test[1], report.labels)),
            (f", the previous model ({len(labels)} classes)", only_shared(found, labels)),
        )
        for row in _overlaps(report.scores_by_overlap(references, scenes, len(shared)), how)
    ]
    return f"On the same scenes, for the {len(shared)} classes that both models know:\n\n" + markdown_table(
        ["sources", *SCORES.values()], rows
    )


def confusion(references: Sequence[Events], predictions: Sequence[Events], num_classes: int) -> np.ndarray:
    """Compute the confusion matrix (classes + 1, classes + 1) in shares: true class by reported class, nothing last.

    In each frame, a source is matched with the nearest reported event, if that is within 20°. Events near no source
    are counted in the last row, as shares of all reported events.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1))
    for reference, prediction in zip(references, predictions, strict=True):
        for frame in np.union1d(reference.frame, prediction.frame):
            true, found = reference[reference.frame == frame], prediction[prediction.frame == frame]
            angle = angle_between(true.vector[:, None], found.vector[None, :])
            near = angle <= MAX_ANGLE_DEGREES
            for row, class_id in enumerate(true.class_id):
                column = found.class_id[angle[row].argmin()] if near[row].any() else num_classes
                counts[class_id, column] += 1
            np.add.at(counts[num_classes], found.class_id[~near.any(0)], 1)
    reported = sum(map(len, predictions))
    counts[:num_classes] /= counts[:num_classes].sum(1, keepdims=True).clip(1)
    counts[num_classes] /= max(reported, 1)
    return counts


def plot_confusion(report: Report, path: Path) -> None:
    """Plot the confusion matrix of the test scenes."""
    from matplotlib.figure import Figure

    shares = confusion(*report.test, len(report.labels))
    names = [label.replace("_", " ") for label in report.labels] + ["nothing"]
    inches = 3.0 + 0.23 * len(names)
    figure = Figure(figsize=(inches + 0.8, inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), [*names[:-1], "reported\nwithout source"])
    axes.set_xlabel("reported within 20°")
    axes.set_ylabel("source")
    for row, column in zip(*np.nonzero(shares >= 0.1), strict=True):
        value = shares[row, column]
        color = "white" if value > 0.5 else "black"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
    axes.axhline(len(names) - 1.5, color="grey", linewidth=0.8)
    axes.axvline(len(names) - 1.5, color="grey", linewidth=0.8)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)
