"""Plot a scene, and statistics of a set of scenes."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from tqdm import tqdm

from datasets_scripts.scenes.rooms import SimulatedRoom, turned
from datasets_scripts.scenes.scene_set import SceneSet, position_at
from modeling_pseldnet.events import FRAME_SECONDS, Events
from modeling_pseldnet.files import atomic_path


GREY = "0.55"


def plot_scene(scene_set: SceneSet, index: int, path: Path) -> Path:
    """Plot a scene: the room from above, and class, azimuth and elevation over time; return `path`."""
    scene, rate = scene_set.scene(index), scene_set.recipe.sampling_rate
    room, labels = scene_set.room(scene.room), scene_set.labels(scene)
    classes = sorted({event.class_id for event in scene.events})
    colours = dict(zip(classes, cycle(matplotlib.colormaps["tab20"].colors), strict=False))
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplot_mosaic(
        [["top", "active"], ["top", "azimuth"], ["top", "elevation"]],
        width_ratios=[1, 1.3],
        height_ratios=[2, 1, 1],
    )

    top = axes["top"]
    if isinstance(room, SimulatedRoom):
        corner = turned(-room.array_position, -room.array_yaw)[:2]
        top.add_patch(Rectangle(corner, *room.size[:2], angle=-room.array_yaw, fill=False, linewidth=2))
    top.plot(0, 0, "k+", markersize=12, markeredgewidth=2)
    for event in scene.events:
        x, y, _ = position_at(room, event, np.linspace(event.start, event.stop, 50)).T
        top.plot(x, y, color=colours[event.class_id], linewidth=2)
        top.plot(x[0], y[0], "o", color=colours[event.class_id], markersize=7, markeredgecolor="white")
    top.set(aspect="equal", xlabel="x, front (m)", ylabel="y, left (m)")
    top.margins(0.08)
    rotation = f", turned by {scene.yaw:.0f}° in the labels" if scene.yaw else ""
    top.set_title(f"room {scene.room}, RT60 {room.rt60:.2f} s, array at +{rotation}", fontsize=10)

    rows = {class_id: row for row, class_id in enumerate(classes)}
    # The row of a class holds a line of each layer.
    line = 0.8 / max([3, *(event.track + 1 for event in scene.events)])
    for event in scene.events:
        span = (event.start / rate, event.length / rate)
        low = rows[event.class_id] - 0.4 + line * event.track
        axes["active"].broken_barh([span], (low, 0.9 * line), color=colours[event.class_id])
    axes["active"].set_yticks(range(len(classes)), [scene_set.sounds.class_names[c] for c in classes], fontsize=8)
    axes["active"].set_ylim(len(classes) - 0.4, -0.6)
    axes["active"].set_title("events, a line a layer", fontsize=10)
    colour_of_row = [colours[class_id] for class_id in labels.class_id.tolist()]
    for name, values, limit in (("azimuth", labels.azimuth, 180), ("elevation", labels.elevation, 90)):
        axes[name].scatter((labels.frame + 0.5) * FRAME_SECONDS, values, c=colour_of_row, s=3)
        axes[name].set(ylim=(-limit, limit), yticks=np.linspace(-limit, limit, 5), ylabel=f"{name} (°)")
        axes[name].grid(color="0.9")
    for name in ("active", "azimuth", "elevation"):
        axes[name].set_xlim(0, scene_set.recipe.scene_seconds)
        axes[name].tick_params(labelbottom=name == "elevation")
    axes["elevation"].set_xlabel("time (s)")
    still = Line2D([], [], color=GREY, marker="o", linestyle="none", label="static, or start")
    moving = Line2D([], [], color=GREY, linewidth=2, label="trajectory")
    top.legend(handles=[still, moving], fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    figure.suptitle(f"scene {index}: {len(scene.events)} events")
    return _save(figure, path)


def plot_set(scene_set: SceneSet, indices: Sequence[int], path: Path) -> Path:
    """Plot how scenes are distributed: classes, azimuth, elevation, distance, overlap and RT60; return `path`.

    Classes are in minutes, overlap in shares of all frames, RT60 in scenes, the rest in shares of labelled frames.
    """
    scenes = [scene_set.scene(index) for index in tqdm(indices, desc="histograms", unit="scene")]
    parts = [scene_set.labels(scene) for scene in scenes]
    labels = Events.concatenate(parts)
    frames = round(scene_set.recipe.scene_seconds / FRAME_SECONDS)
    overlap = [np.bincount(part.frame, minlength=frames)[:frames] for part in parts]
    names = scene_set.sounds.class_names
    figure = Figure(figsize=(13, max(7.0, 0.22 * len(names) + 2)), layout="constrained")
    axes = figure.subplot_mosaic(
        [["class", "azimuth", "elevation"], ["class", "distance", "overlap"], ["class", "both", "rt60"]]
    )

    minutes = np.bincount(labels.class_id, minlength=len(names)) * FRAME_SECONDS / 60
    axes["class"].barh(range(len(names)), minutes)
    axes["class"].set_yticks(range(len(names)), names, fontsize=8)
    axes["class"].set(ylim=(len(names) - 0.4, -0.6), xlabel="minutes", title="classes")
    _histogram(axes["azimuth"], labels.azimuth, np.arange(-180, 181, 20), "azimuth (°)")
    _histogram(axes["elevation"], labels.elevation, np.arange(-90, 91, 10), "elevation (°)")
    metres = labels.distance if len(labels) else np.zeros(0)
    _histogram(axes["distance"], metres, np.arange(0, metres.max(initial=1) + 0.5, 0.5), "distance (m)")
    counts = np.bincount(np.concatenate(overlap)) if parts else np.zeros(1)
    axes["overlap"].bar(range(len(counts)), counts / max(counts.sum(), 1))
    axes["overlap"].set(xlabel="simultaneous events", ylabel="share of frames", xticks=range(len(counts)))
    rt60 = np.array([scene_set.room(scene.room).rt60 for scene in scenes])
    axes["rt60"].hist(rt60, bins=np.arange(0, rt60.max(initial=1) + 0.2, 0.1))
    axes["rt60"].set(xlabel="RT60 (s)", ylabel="scenes")
    edges = np.arange(-180, 181, 10), np.arange(-90, 91, 10)
    axes["both"].hist2d(labels.azimuth, labels.elevation, bins=edges)
    axes["both"].set(xlabel="azimuth (°)", ylabel="elevation (°)", xticks=edges[0][::9], yticks=edges[1][::9])
    hours = len(scenes) * scene_set.recipe.scene_seconds / 3600
    figure.suptitle(f"{len(scenes)} scenes, {hours:.2f} h, split {scene_set.split}")
    return _save(figure, path)


def _histogram(axes, values: np.ndarray, edges: np.ndarray, name: str) -> None:
    axes.hist(values, bins=edges, weights=np.full(len(values), 1 / max(len(values), 1)))
    if edges[0] < 0:
        axes.set_xticks(np.linspace(edges[0], edges[-1], 5))
    axes.set(xlabel=name, ylabel="share of frames")


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
    return path
