"""Load the windows that a recipe trains and evaluates on."""

import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from datasets_scripts.dcase2021 import DCASE2021
from datasets_scripts.dcase2022_synthetic import DCASE2022Synthetic
from datasets_scripts.dcase2025_stereo import DCASE2025Stereo
from datasets_scripts.l3das22 import L3DAS22
from datasets_scripts.scenes.recipe import read_scene_recipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import SoundBank, sounds_from_folder
from datasets_scripts.segments import SegmentedDataset, segment_frames
from datasets_scripts.starss23 import STARSS23
from datasets_scripts.synthetic_seld import SyntheticSELD
from modeling_pseldnet.events import FRAME_SECONDS
from modeling_pseldnet.keywords import first_few
from modeling_pseldnet.tools.labels import class_mapping

from .recipes import DataRecipe
from .windows import MixedWindows, MonoClips, ReadableWindows, RenderedScenes, Windows


BUILDERS = {
    "dcase2021": DCASE2021,
    "dcase2022_synthetic": DCASE2022Synthetic,
    "dcase2025_stereo": DCASE2025Stereo,
    "l3das22": L3DAS22,
    "starss23": STARSS23,
    "synthetic_seld": SyntheticSELD,
}
# Largest share of frames of mono data with several sources, which rounded times can produce.
MOST_OVERLAP = 0.01


def mix_windows(windows: Windows, recipe: DataRecipe, window_seconds: float, num_workers: int) -> Windows:
    """Add the data that a recipe's `mix_in` names to its windows.

    Raises:
        ValueError: the share gives no window, or the data does not match.
    """
    share, others = recipe.mix_in["share"], load_windows(recipe.others, window_seconds, num_workers=num_workers)
    if (others.sampling_rate, others.mono) != (windows.sampling_rate, windows.mono):
        raise ValueError("data.train and data.train.mix_in must have the same sampling rate and the same mono")
    if unknown := sorted(set(others.class_names) - set(windows.class_names)):
        raise ValueError(f"data.train.mix_in has classes that data.train lacks: {first_few(unknown, 5)}")
    numbers = (
        None if others.class_names == windows.class_names else class_mapping(others.class_names, windows.class_names)
    )
    mixed = MixedWindows(windows.dataset, others.dataset, share, numbers, windows.mono)
    if mixed.count == 0:
        raise ValueError(
            f"data.train.mix_in.share {share} of {len(windows.dataset)} windows adds no window: increase it"
        )
    return replace(windows, dataset=mixed)


def check_data(recipe: DataRecipe, window_seconds: float, evaluation: bool = False) -> None:
    """Check what [`load_windows`] is asked for, without reading any data.

    Raises:
        FileNotFoundError: the folder of isolated sounds, or the scene recipe, is missing.
        ValueError: there is no such source, a field has no effect or is for training only, or the windows do not fit.
    """
    if recipe.source not in (*BUILDERS, *OTHER_SOURCES):
        raise ValueError(
            f"unknown data source {recipe.source!r}: choose from {', '.join([*BUILDERS, *OTHER_SOURCES])}"
        )
    if evaluation and recipe.source == "mono_clips":
        raise ValueError(f"data.eval.source: mono_clips is for training only: use scenes or {', '.join(BUILDERS)}")
    if evaluation and recipe.mono:
        raise ValueError("data.eval.mono would score directions drawn at random: set data.train.mono instead")
    if evaluation and recipe.mix_in is not None:
        raise ValueError("data.eval.mix_in is not supported: other data can be mixed in for training only")
    if evaluation and recipe.keep_features:
        raise ValueError("data.eval.keep_features has no effect: set data.train.keep_features instead")
    if recipe.mix_in is not None:
        check_data(recipe.others, window_seconds)
    for name in UNUSED.get(recipe.source, ("interference_dir",)):
        if (value := getattr(recipe, name)) != getattr(DataRecipe, name):
            side = "eval" if evaluation else "train"
            raise ValueError(f"data.{side}.{name} ({value}) has no effect with source {recipe.source}: remove it")
    if recipe.source in OTHER_SOURCES and recipe.data_dir is None:
        raise FileNotFoundError(
            f"data_dir is missing: {recipe.source} needs a folder of isolated sounds, such as FSD50K or ESC-50,"
            " sorted into one folder per class"
        )
    segment_frames(window_seconds, recipe.hop_seconds)
    if recipe.source == "scenes":
        scene_seconds = read_scene_recipe(recipe.scene_recipe).scene_seconds
        if scene_seconds != window_seconds:
            raise ValueError(
                f"scenes of {scene_seconds:g} s do not match windows of {window_seconds:g} s: choose another"
                " scene_recipe"
            )


def check_splits(train: DataRecipe, evaluation: DataRecipe) -> None:
    """Check that isolated sounds are split alike for training and evaluation.

    Raises:
        ValueError: scene recipes hold out different shares of the same sounds, so that splits overlap.
    """
    parts = [evaluation, train] + ([train.others] if train.mix_in is not None else [])
    shares: dict[str, set[tuple]] = {}
    for part in parts:
        if part.source in OTHER_SOURCES:
            recipe = read_scene_recipe(part.scene_recipe)
            shares.setdefault(part.data_dir, set()).add((recipe.test_fraction, recipe.validation_fraction))
    if any(len(found) > 1 for found in shares.values()):
        raise ValueError(
            "data.train and data.eval would share sounds: give both a scene_recipe with the same test_fraction and"
            " validation_fraction"
        )


def load_windows(
    recipe: DataRecipe,
    window_seconds: float,
    evaluation: bool = False,
    device: str | torch.device | None = None,
    num_workers: int = 0,
) -> Windows:
    """Load the windows of a recipe.

    Args:
        evaluation: whether windows must cover every frame of a recording, and a damaged file is an error.
        device: where the trainer renders training scenes, unless other data is mixed in (see [`RenderedScenes`]).
        num_workers: processes that prepare sounds and rooms of scenes.

    Raises:
        FileNotFoundError: the data is missing; the message says how to get it.
        ValueError: the recipe asks for something that the data does not have.
    """
    check_data(recipe, window_seconds, evaluation)
    if recipe.mix_in is not None:
        windows = load_windows(replace(recipe, mix_in=None), window_seconds, num_workers=num_workers)
        return mix_windows(windows, recipe, window_seconds, num_workers)
    if recipe.source in OTHER_SOURCES:
        return OTHER_SOURCES[recipe.source](recipe, window_seconds, device, num_workers)
    builder = BUILDERS[recipe.source](
        config_name=recipe.config_name, data_dir=recipe.data_dir, cache_dir=recipe.cache_dir
    )
    builder.download_and_prepare()
    recordings = _choose(builder.as_dataset(split=recipe.split), recipe)
    mode = "evaluation" if evaluation else "train"
    windows = SegmentedDataset(recordings, window_seconds, recipe.hop_seconds, mode)
    if recipe.mono:
        check_single_sources(windows)
    return Windows(
        windows if evaluation else ReadableWindows(windows),
        list(builder.class_names),
        builder.config.sampling_rate,
        recipe.mono,
    )


def check_single_sources(windows: SegmentedDataset) -> None:
    """Check that mono recordings have one source at a time, so that they can be placed at random directions.

    Raises:
        ValueError: several sources are active at the same time.
    """
    sources = [np.unique(events.frame, return_counts=True)[1] for _, events in windows.references() if events]
    sources = np.concatenate([np.ones(1, int), *sources])
    if (share := (sources > 1).mean()) > MOST_OVERLAP:
        raise ValueError(
            f"data.train.mono: several sources overlap in {share:.0%} of the frames, and one channel cannot tell them"
            " apart: choose recordings with one source at a time in data.train.recordings"
        )


def check_references(windows: Windows, has_distance: bool, metric: str = "") -> None:
    """Check before training that recordings can be scored.

    Args:
        has_distance: whether distances are scored.
        metric: the metric for the best model. One such as `ov1_F` needs recordings with that many simultaneous events.

    Raises:
        ValueError: a recording has no labels, its labels lack distances, or there are no recordings for the metric.
    """
    by_overlap = metric.startswith("ov")
    if isinstance(windows.dataset, RenderedScenes) and not by_overlap:
        # They have labels with distances; to draw thousands of them takes a while.
        return
    overlaps = set()
    for name, events in windows.dataset.references():
        if events is None:
            raise ValueError(f"{name} has no labels to score against: choose another data.eval.split")
        if has_distance and len(events) and (events.distance is None or not (events.distance > 0).all()):
            raise ValueError(
                f"{name} has events without a distance, which evaluation.variant scores: choose dcase2023 or pseldnets"
            )
        overlaps.add(f"ov{events.max_overlap}")
    if by_overlap and metric.partition("_")[0] not in overlaps:
        raise ValueError(
            f"training.metric_for_best_model {metric!r} cannot be computed, as data.eval has no such recordings, only"
            f" {', '.join(sorted(overlaps))}"
        )


def _choose(recordings, recipe: DataRecipe):
    """Select the recordings that the recipe asks for."""
    if recipe.recordings is not None:
        fits = [bool(re.match(recipe.recordings, name)) for name in recordings["id"]]
        recordings = recordings.select(np.flatnonzero(fits))
        if len(recordings) == 0:
            raise ValueError(f"no recording of split {recipe.split!r} matches {recipe.recordings!r}")
    count = max(round(recipe.fraction * len(recordings)), 1)
    chosen = np.random.default_rng(recipe.seed).permutation(len(recordings))[:count]
    return recordings.select(np.sort(chosen))


@lru_cache(maxsize=2)
def _measured_sounds(folder: str, sampling_rate: int, num_workers: int) -> SoundBank:
    """Measure the sounds of a folder, once for both training and evaluation."""
    return sounds_from_folder(folder, sampling_rate).measure(num_workers)


def _load_scenes(
    recipe: DataRecipe, window_seconds: float, device: str | torch.device | None, num_workers: int
) -> Windows:
    scene_recipe = read_scene_recipe(recipe.scene_recipe)
    sounds = _measured_sounds(recipe.data_dir, scene_recipe.sampling_rate, num_workers)
    if recipe.interference_dir is not None:
        interference = replace(scene_recipe.interference, folder=recipe.interference_dir)
        scene_recipe = replace(scene_recipe, interference=interference)
    scene_set = SceneSet(scene_recipe, sounds, recipe.seed, recipe.split)
    scenes = RenderedScenes(scene_set, recipe.scenes, device, num_workers)
    return Windows(scenes, list(sounds.class_names), sounds.sampling_rate)


def _load_mono_clips(
    recipe: DataRecipe, window_seconds: float, device: str | torch.device | None, num_workers: int
) -> Windows:
    scenes = read_scene_recipe(recipe.scene_recipe)
    sounds = _measured_sounds(recipe.data_dir, scenes.sampling_rate, num_workers)
    by_class = sounds.numbers_by_class(
        recipe.split, scenes.test_fraction, scenes.validation_fraction, scenes.events.classes
    )
    clips = MonoClips(sounds, np.sort(np.concatenate(by_class)), round(window_seconds / FRAME_SECONDS))
    return Windows(ReadableWindows(clips), list(sounds.class_names), sounds.sampling_rate, mono=True)


OTHER_SOURCES = {"scenes": _load_scenes, "mono_clips": _load_mono_clips}
# Fields that each of these sources ignores; all other sources ignore `interference_dir`.
UNUSED = {
    "scenes": ("recordings", "fraction", "hop_seconds", "mono"),
    "mono_clips": ("recordings", "fraction", "hop_seconds", "interference_dir"),
}
