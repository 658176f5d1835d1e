"""Verify the labels of scenes: the intensity vector of each isolated source must point where its label says."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from datasets_scripts.scenes.render import Renderer, rotated
from datasets_scripts.scenes.scene_set import Scene, SceneEvent, SceneSet
from modeling_pseldnet.events import FRAME_SECONDS, Events, angle_between, vector_to_direction


# Median error of the direct sound above which labels are wrong, degrees; single points have fewer frames.
LARGEST_MEDIAN, LARGEST_MEDIAN_OF_POINT = 5.0, 10.0
# Power of Y, Z and X, relative to that of W, above which channels are not SN3D: FuMa gives 2, N3D 3.
LARGEST_WEIGHT = 1.5
# Frames this far below an event's loudest frame are too weak to show a direction.
WEAK_DB = -30.0
RT60_EDGES = (0.0, 0.4, 0.8, 1.2, 1.6, np.inf)


@dataclass(frozen=True)
class Verification:
    """Angles between intensity vectors and labels, one per frame of an event.

    Attributes:
        rt60: reverberation time of the scene's room, seconds (frames,).
        point: description of the path's point that the event is nearest to (frames,).
        direct, reverberant: errors without and with the room's reflections, degrees (frames,).
        weight: power of Y, Z and X together in the direct sound, relative to that of W (frames,).
    """

    rt60: np.ndarray
    point: np.ndarray
    direct: np.ndarray
    reverberant: np.ndarray
    weight: np.ndarray

    @property
    def passed(self) -> bool:
        return not self.fault

    @cached_property
    def fault(self) -> str:
        """What is wrong with the labels or the weights of the channels, in one line; empty if nothing is."""
        if not len(self.direct):
            return "no events in these scenes: there is nothing to compare"
        medians = {point: np.median(self.direct[self.point == point]) for point in np.unique(self.point)}
        worst = max(medians, key=medians.get)
        if medians[worst] > LARGEST_MEDIAN_OF_POINT:
            return f"labels are wrong in {worst}: median error of the direct sound {medians[worst]:.1f}°"
        if (median := np.median(self.direct)) > LARGEST_MEDIAN:
            return f"labels are wrong: median error of the direct sound {median:.1f}°, above {LARGEST_MEDIAN:g}°"
        if (weight := np.median(self.weight)) > LARGEST_WEIGHT:
            return f"the responses are not SN3D: their Y, Z and X have {weight:.1f} times the power of W, expected 1"
        return ""

    def __str__(self) -> str:
        rows = [("direct sound", self.direct)]
        for low, high in pairwise(RT60_EDGES):
            within = (self.rt60 >= low) & (self.rt60 < high)
            name = f"RT60 {low:g} to {high:g} s" if np.isfinite(high) else f"RT60 above {low:g} s"
            rows.append((name, self.reverberant[within]))
        lines = [f"{'':<18}{'frames':>8}{'median':>9}{'90 %':>9}"]
        for name, errors in rows:
            if len(errors):
                median, most = np.percentile(errors, [50, 90])
                lines.append(f"{name:<18}{len(errors):>8}{median:>8.1f}°{most:>8.1f}°")
        return "\n".join([*lines, self.fault] if self.fault else lines)


def verify(scene_set: SceneSet, labelled: Iterable[tuple[Scene, Events]]) -> Verification:
    """Render every event of the scenes alone and without noise, and compare its direction with its labels.

    Args:
        scene_set: the set that the scenes belong to.
        labelled: scenes with the labels to verify, from `SceneSet.labels` or read from disk.

    Raises:
        ValueError: labels are missing, or there are more than the scene's events have.
    """
    renderer = Renderer(scene_set)
    rt60, points, direct, reverberant, weight = [], [], [], [], []
    for scene, labels in labelled:
        expected, numbers = scene_set.labels_by_event(scene)
        given = {key: row for row, key in enumerate(_keys(labels))}
        if sorted(given) != sorted(_keys(expected)):
            raise ValueError(
                f"the labels of scene {scene.index} do not match its events: frames, classes or tracks differ"
            )
        # Events whose frames all belong to longer ones have no labels.
        for number in np.unique(numbers):
            event = scene.events[number]
            own = labels[[given[key] for key in _keys(expected[numbers == number])]]
            energy, directional, errors = _direction_errors(renderer, scene, event, own, direct_only=True)
            _, _, reverberant_errors = _direction_errors(renderer, scene, event, own, direct_only=False)
            strong = energy > energy.max(initial=0.0) * 10 ** (WEAK_DB / 10)
            weight.append(directional[strong] / energy[strong])
            direct.append(errors[strong])
            reverberant.append(reverberant_errors[strong])
            rt60.append(np.full(strong.sum(), scene_set.room(scene.room).rt60))
            middles = (own.frame[strong] + 0.5) * FRAME_SECONDS * scene_set.recipe.sampling_rate
            nearest, which = np.unique(np.rint(event.place(middles)).astype(int), return_inverse=True)
            words = [_point_in_words(scene_set, scene.room, event.path, point) for point in nearest]
            points.append(np.array(words)[which])
    columns = (rt60, points, direct, reverberant, weight)
    return Verification(*(np.concatenate(parts or [np.zeros(0)]) for parts in columns))


def _point_in_words(scene_set: SceneSet, room_number: int, path: int, point: int) -> str:
    room = scene_set.room(room_number)
    points = room.paths[path]
    azimuth, elevation = vector_to_direction(points[point])
    where = f"room {room.describe().get('name', room_number)}, path {path}" + f", point {point}" * (len(points) > 1)
    return f"{where} (azimuth {azimuth:.0f}°, elevation {elevation:.0f}°)"


def _keys(labels: Events) -> list[tuple[int, int, int]]:
    return list(zip(labels.frame.tolist(), labels.class_id.tolist(), labels.track.tolist(), strict=True))


def _direction_errors(renderer: Renderer, scene: Scene, event: SceneEvent, labels: Events, direct_only: bool):
    """Return the energy of W, that of Y, Z and X, and the error in degrees of each labelled frame of one event."""
    start, audio = renderer.event(scene, event, direct_only=direct_only)
    audio = rotated(audio, scene.yaw).astype(np.float64)
    seconds = (labels.frame[:, None] + [0, 1]) * FRAME_SECONDS
    edges = np.rint(seconds * renderer.scene_set.recipe.sampling_rate).astype(int) - start
    edges = np.clip(edges, 0, audio.shape[1])
    frames = [audio[:, low:high] for low, high in edges]
    energy, directional = (
        np.array([np.square(frame[channels]).sum() for frame in frames]) for channels in (0, slice(1, None))
    )
    intensity = np.array([frame[1:] @ frame[0] for frame in frames])[:, [2, 0, 1]]
    return energy, directional, angle_between(intensity, labels.vector)
