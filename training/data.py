"""Load the windows that a recipe trains and evaluates on."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets_scripts.dcase2021 import DCASE2021
from datasets_scripts.dcase2022_synthetic import DCASE2022Synthetic
from datasets_scripts.dcase2025_stereo import DCASE2025Stereo
from datasets_scripts.l3das22 import L3DAS22
from datasets_scripts.scenes.recipe import read_scene_recipe
from datasets_scripts.scenes.render_torch import SceneBank
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import SoundBank, sounds_from_folder
from datasets_scripts.scenes.worker_pool import end_with_program
from datasets_scripts.segments import SegmentedDataset
from datasets_scripts.starss23 import STARSS23
from datasets_scripts.synthetic_seld import SyntheticSELD
from modeling_pseldnet.audio import check_samples
from modeling_pseldnet.events import FRAME_SECONDS, Events
from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor
from modeling_pseldnet.keywords import first_few
from modeling_pseldnet.tools.labels import class_mapping

from .collate import ARRAYS, collate_features, take_examples_apart
from .recipes import DataRecipe
from .teacher import WindowTeacher


BUILDERS = {
    "dcase2021": DCASE2021,
    "dcase2022_synthetic": DCASE2022Synthetic,
    "dcase2025_stereo": DCASE2025Stereo,
    "l3das22": L3DAS22,
    "starss23": STARSS23,
    "synthetic_seld": SyntheticSELD,
}
# After this many unusable windows in a row, the disk rather than a file is taken to be at fault.
MAX_UNREADABLE = 10
# Largest share of frames of mono data with several sources, which rounded times can produce.
MOST_OVERLAP = 0.01

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windows:
    """A map-style data set with items as in [`SegmentedDataset`], and what a model must know about it."""

    dataset: Dataset
    class_names: list[str]
    sampling_rate: int
    mono: bool = False

    def class_numbers(self, labels: Sequence[str]) -> np.ndarray | None:
        """Return the index that a model has for each class, by name; `None` if the order is the same.

        Raises:
            ValueError: the model has different classes.
        """
        only_here, only_there = (
            sorted(set(some) - set(others))
            for some, others in ((self.class_names, labels), (labels, self.class_names))
        )
        if only_here or only_there:
            differing = [("the data", only_here), ("the model", only_there)]
            told = "; ".join(f"only {owner} has {first_few(names, 5)}" for owner, names in differing if names)
            raise ValueError(f"the classes of the data and of the model differ: {told}")
        return None if self.class_names == list(labels) else class_mapping(self.class_names, labels)


class ByEpoch(Dataset):
    """Base class of data sets whose windows change every epoch.

    A window depends only on the seed of the run, the epoch and its index, not on the worker that draws it, so that a
    run can be resumed within an epoch.
    """

    def __init__(self):
        self.seed = torch.initial_seed()
        # In shared memory, since persistent workers have copies of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose windows are drawn from now on, also in running workers."""
        self._epoch.fill_(epoch)

    def draw(self, index: int, count: int) -> int:
        """Draw an integer from 0 to `count` - 1 for the item `index`."""
        return int(np.random.default_rng((self.seed, self.epoch, index)).integers(count))


def set_epoch(windows: Dataset, epoch: int) -> None:
    """Call [`ByEpoch.set_epoch`] if the windows change with the epoch."""
    if hasattr(windows, "set_epoch"):
        windows.set_epoch(epoch)


class MixedWindows(ByEpoch):
    """Windows, followed by random windows of another data set that make up a given share of the total.

    Args:
        windows, others: data sets as in [`Windows`].
        share: share of `others` in the total, below 1.
        class_numbers: the index in `windows` of each class of `others`, (classes,). Defaults to the same indices.
        mono: whether to keep only the first channel, as isolated sounds have no others.
    """

    def __init__(
        self,
        windows: Dataset,
        others: Dataset,
        share: float,
        class_numbers: np.ndarray | None = None,
        mono: bool = False,
    ):
        super().__init__()
        self.windows, self.others, self.class_numbers, self.mono = windows, others, class_numbers, mono
        self.count = round(len(windows) * share / (1 - share))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch for the choice of `others`, and for both data sets."""
        super().set_epoch(epoch)
        set_epoch(self.windows, epoch)
        set_epoch(self.others, epoch)

    def __len__(self) -> int:
        return len(self.windows) + self.count

    def __getitem__(self, index: int) -> dict:
        if index < len(self.windows):
            item = self.windows[index]
        else:
            item = self.others[self.draw(index, len(self.others))]
            if self.class_numbers is not None:
                events = item["events"]
                item = item | {"events": events.replace(class_id=self.class_numbers[events.class_id])}
        return item | {"waveform": item["waveform"][:1]} if self.mono else item


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


def check_data(recipe: DataRecipe, evaluation: bool = False) -> None:
    """Check what [`load_windows`] is asked for, without reading anything.

    Raises:
        FileNotFoundError: the folder of isolated sounds is missing.
        ValueError: there is no such source, or a field has no effect or is for training only.
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
        check_data(recipe.others)
    for name in UNUSED.get(recipe.source, ("interference_dir",)):
        if (value := getattr(recipe, name)) != getattr(DataRecipe, name):
            side = "eval" if evaluation else "train"
            raise ValueError(f"data.{side}.{name} ({value}) has no effect with source {recipe.source}: remove it")
    if recipe.source in OTHER_SOURCES and recipe.data_dir is None:
        raise FileNotFoundError(
            f"data_dir is missing: {recipe.source} needs a folder of isolated sounds, such as FSD50K or ESC-50,"
            " sorted into one folder per class"
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
    check_data(recipe, evaluation)
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
    if not isinstance(windows.dataset, SegmentedDataset):
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
    if metric.startswith("ov") and metric.partition("_")[0] not in overlaps:
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


class ReadableWindows(Dataset):
    """Windows in which a damaged one is named in a warning and replaced by the next usable one.

    Raises:
        OSError: `MAX_UNREADABLE` windows in a row are unusable.
    """

    def __init__(self, windows: Dataset):
        self.windows = windows

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the windows."""
        set_epoch(self.windows, epoch)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict:
        for attempt in range(MAX_UNREADABLE):
            try:
                return self.windows[(index + attempt) % len(self)]
            except (OSError, ValueError) as error:
                problem = error
            logger.warning("skipping a training window: %s", problem)
        raise OSError(f"{MAX_UNREADABLE} windows in a row cannot be used; the last one: {problem}")


class RenderedScenes(ByEpoch):
    """Scenes rendered on demand, different ones every epoch.

    In evaluation there are no epochs, and each scene is a recording: `recording` (count,) has their numbers.

    Args:
        scene_set: the scenes; all its rooms are held in memory.
        count: scenes per epoch.
        device: where the consumer renders whole batches: items then hold a `plan`, from which `bank.mix` makes
            waveforms. By default, items hold a `waveform` rendered on the CPU.
        num_workers: processes that prepare sounds and rooms.
    """

    def __init__(
        self, scene_set: SceneSet, count: int, device: str | torch.device | None = None, num_workers: int = 0
    ):
        super().__init__()
        self.bank = SceneBank(scene_set, device=device or "cpu", progress=True, num_workers=num_workers)
        self.count, self.mixed_later = count, device is not None
        self.recording = np.arange(count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        number = self.epoch * self.count + index
        scene = self.bank.scene_set.scene(number)
        num_frames = round(self.bank.scene_set.recipe.scene_seconds / FRAME_SECONDS)
        events = self.bank.scene_set.labels(scene)
        plan = self.bank.plan([scene])
        return {
            **({"plan": plan} if self.mixed_later else {"waveform": self.bank.mix(plan)[0].numpy()}),
            "events": events[events.frame < num_frames],
            "recording": f"scene{number}",
            "start_frame": 0,
            "num_frames": num_frames,
        }


class MonoClips(ByEpoch):
    """Isolated sounds, each at a random time in a silent window; longer sounds are cut.

    The waveform has one channel, and the events have no direction yet: see `augmentation.place_mono`.
    """

    def __init__(self, sounds: SoundBank, numbers: Sequence[int], window_frames: int):
        super().__init__()
        self.sounds, self.numbers, self.window_frames = sounds, numbers, window_frames

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        number = int(self.numbers[index])
        frame_samples = round(FRAME_SECONDS * self.sounds.sampling_rate)
        sound = self.sounds.read(number)[: self.window_frames * frame_samples]
        check_samples(np.abs(sound).max(initial=0), self.sounds.sounds[number].name)
        length = -(-len(sound) // frame_samples)
        first = self.draw(index, self.window_frames - length + 1)
        waveform = np.zeros((1, self.window_frames * frame_samples), dtype=np.float32)
        waveform[0, first * frame_samples :][: len(sound)] = sound
        frame, same = np.arange(first, first + length), np.ones(length)
        return {
            "waveform": waveform,
            "events": Events(frame, self.sounds.sounds[number].class_id * same, 0 * same, 0 * same, 0 * same),
            "recording": self.sounds.sounds[number].name,
            "start_frame": 0,
            "num_frames": self.window_frames,
        }


class KeptFeatures(Dataset):
    """Windows with features and a teacher's answers in memory, in half precision, instead of waveforms.

    Args:
        batches: batches of the windows, from `collate_features`.
        window_frames: label frames per window.
    """

    def __init__(self, batches: DataLoader, window_frames: int):
        self.details: list[dict] = []
        self.arrays: dict[str, np.ndarray] = {}
        for batch in tqdm(batches, desc="features", unit="batch"):
            first, size = len(self.details), len(batch["features"])
            for name in (name for name in ARRAYS if name in batch):
                values = batch[name].numpy()
                if not first:
                    # One large allocation: small ones between those of the batches would fragment the memory.
                    self.arrays[name] = np.empty((len(batches.dataset), *values.shape[1:]), dtype=np.float16)
                self.arrays[name][first : first + size] = values
            for row, events in enumerate(take_examples_apart(batch["events"], size, window_frames)):
                details = {name: batch[name][row] for name in ("recording", "start_frame", "num_frames")}
                self.details.append({"events": events, **details})

    def __len__(self) -> int:
        return len(self.details)

    def __getitem__(self, index: int) -> dict:
        return {**{name: values[index] for name, values in self.arrays.items()}, **self.details[index]}


def keep_features(
    windows: Windows,
    window_seconds: float,
    extractor: PSELDNetFeatureExtractor,
    num_workers: int = 0,
    teacher: WindowTeacher | None = None,
) -> Windows:
    """Compute the features of windows, and a teacher's answers to them, and keep them in memory instead of the audio.

    Raises:
        ValueError: the windows are mono clips, whose features depend on where they are placed.
    """
    if windows.mono:
        raise ValueError("keep_features does not work with mono clips, which get a new direction each time")
    window_frames = round(window_seconds / FRAME_SECONDS)
    # Features are computed in the workers, one core each; threads of this process would only get in their way.
    collate_windows = partial(
        collate_features, window_frames=window_frames, extract=extractor.features, teacher=teacher
    )
    batches = DataLoader(
        windows.dataset,
        batch_size=8,
        collate_fn=collate_windows,
        num_workers=num_workers,
        worker_init_fn=end_with_program,
    )
    return replace(windows, dataset=KeptFeatures(batches, window_frames))


@lru_cache(maxsize=2)
def _measured_sounds(folder: str, sampling_rate: int, num_workers: int) -> SoundBank:
    """Measure the sounds of a folder, once for both training and evaluation."""
    return sounds_from_folder(folder, sampling_rate).measure(num_workers)


def _load_scenes(
    recipe: DataRecipe, window_seconds: float, device: str | torch.device | None, num_workers: int
) -> Windows:
    scene_recipe = read_scene_recipe(recipe.scene_recipe)
    if scene_recipe.scene_seconds != window_seconds:
        raise ValueError(
            f"scenes of {scene_recipe.scene_seconds:g} s do not match windows of {window_seconds:g} s: choose another"
            " scene_recipe"
        )
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
