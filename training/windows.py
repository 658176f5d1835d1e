"""The windows that models are trained and evaluated on, as data sets for `torch.utils.data.DataLoader`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets_scripts.scenes.render_torch import SceneBank
from datasets_scripts.scenes.scene_set import Scene, SceneSet
from datasets_scripts.scenes.sounds import SoundBank
from datasets_scripts.scenes.worker_pool import end_with_program
from modeling_pseldnet.audio import check_samples
from modeling_pseldnet.events import FRAME_SECONDS, Events
from modeling_pseldnet.feature_extraction_pseldnet import PSELDNetFeatureExtractor
from modeling_pseldnet.keywords import first_few
from modeling_pseldnet.tools.labels import class_mapping

from .collate import ARRAYS, collate_features, take_examples_apart
from .teacher import WindowTeacher


# After this many unusable windows in a row, the disk rather than a file is taken to be at fault.
MAX_UNREADABLE = 10

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
        self.num_frames = round(scene_set.recipe.scene_seconds / FRAME_SECONDS)

    def __len__(self) -> int:
        return self.count

    def references(self) -> Iterator[tuple[str, Events]]:
        """Yield the name and the events of each scene of the epoch."""
        for index in range(self.count):
            name, _, events = self._draw(index)
            yield name, events

    def _draw(self, index: int) -> tuple[str, Scene, Events]:
        scene_set, number = self.bank.scene_set, self.epoch * self.count + index
        scene = scene_set.scene(number)
        events = scene_set.labels(scene)
        return f"scene{number}", scene, events[events.frame < self.num_frames]

    def __getitem__(self, index: int) -> dict:
        name, scene, events = self._draw(index)
        plan = self.bank.plan([scene])
        return {
            **({"plan": plan} if self.mixed_later else {"waveform": self.bank.mix(plan)[0].numpy()}),
            "sampling_rate": self.bank.scene_set.recipe.sampling_rate,
            "events": events,
            "recording": name,
            "start_frame": 0,
            "num_frames": self.num_frames,
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
            "sampling_rate": self.sounds.sampling_rate,
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
