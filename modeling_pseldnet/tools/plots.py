"""Plot events: azimuth, elevation and distance over time, coloured by class."""

import os
import warnings

import numpy as np

from ..events import FRAME_SECONDS, Events
from ..files import atomic_path


# Colour-blind-safe colours after Okabe and Ito; further classes repeat them with another marker.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00"]
MARKERS = ["o", "^", "s", "D", "v"]


def plot_events(
    events: Events,
    id2label: dict[int, str],
    path: str | os.PathLike,
    seconds: float | None = None,
    title: str | None = None,
    reference: Events | None = None,
) -> None:
    """Write a PNG of azimuth and elevation over time, and of distance if events have it.

    Args:
        events: the events to plot.
        id2label: class names.
        path: the file; it appears whole or not at all.
        seconds: end of the time axis. Defaults to the end of the last event.
        title: title of the plot.
        reference: ground truth, drawn as a grey band in the background.
    """
    from matplotlib.figure import Figure

    names = ["azimuth", "elevation", *["distance"] * (events.distance is not None)]
    classes = np.unique(events.class_id)
    # Tall enough for the legend of all classes.
    figure = Figure(figsize=(11, max(3 * len(names), 0.2 * len(classes) + 0.5)), layout="constrained")
    rows = figure.subplots(len(names), 1, sharex=True)
    if reference is not None and len(reference):
        for axes, name in zip(rows, names, strict=True):
            if (values := getattr(reference, name)) is not None:
                style = {"s": 90, "c": "#d9d9d9", "marker": "s", "label": "ground truth"}
                axes.scatter((reference.frame + 0.5) * FRAME_SECONDS, values, **style)
    for number, class_id in enumerate(classes):
        of_class = events[events.class_id == class_id]
        label = str(id2label[int(class_id)]).replace("$", r"\$")
        style = {
            "c": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number // len(COLOURS) % len(MARKERS)],
            # Matplotlib leaves labels that begin with an underscore out of the legend.
            "label": f" {label}" if label.startswith("_") else label,
        }
        for axes, name in zip(rows, names, strict=True):
            values = getattr(of_class, name)
            axes.scatter((of_class.frame + 0.5) * FRAME_SECONDS, values, s=14, linewidths=0, **style)
    last = max((part.frame.max(initial=-1) + 1 for part in (events, reference) if part is not None), default=0)
    end = seconds if seconds is not None else max(last * FRAME_SECONDS, 1.0)
    for axes, name in zip(rows, names, strict=True):
        if name == "distance":
            axes.set(xlim=(0, end), ylabel="distance (metres)")
            axes.set_ylim(bottom=0)
        else:
            limit, step = {"azimuth": (180, 60), "elevation": (90, 30)}[name]
            ticks = range(-limit, limit + 1, step)
            axes.set(xlim=(0, end), ylim=(-limit, limit), ylabel=f"{name} (degrees)", yticks=ticks)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("time (s)")
    if title:
        # File names need not be UTF-8.
        title = os.fsencode(title).decode(errors="replace")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, parse_math=False)
    handles, labels = rows[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, markerscale=1.3)
    else:
        rows[0].text(0.5, 0.5, "no events", transform=rows[0].transAxes, ha="center", color="#808080")
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # File names may have characters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(temporary, dpi=120)
