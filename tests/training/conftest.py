"""A tiny data set in the layout of the synthetic scenes: plane waves of noise, in a different band for each class."""

import numpy as np
import pytest
import soundfile

# Each training begins with garbage collection, so its modules are imported early: see tests/conftest.py.
import training.trainer  # noqa: F401
from modeling_pseldnet.events import FRAME_SECONDS, Events, write_csv
from training.recipes import read_recipe
from training.train import run


CLASS_NAMES = ["low", "middle", "high"]
SAMPLING_RATE = 24000
# For one-second windows; the rest of the square is padding.
TINY_MODEL = {
    "window_seconds": 1,
    "spec_size": 128,
    "patch_size": 8,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "drop_path_rate": 0.0,
}

# Patches of 0.4 s every 0.2 s at 8 kHz; the answers are random projections of the levels of eight bands.
TAGGER = """
import torch

class Teacher(torch.nn.Module):
    sampling_rate, patch_seconds, hop_seconds = 8000, 0.4, 0.2

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.embed = torch.nn.Parameter(torch.randn(8, 6, generator=generator))
        self.classify = torch.nn.Parameter(torch.randn(6, 5, generator=generator))

    def forward(self, waveforms):
        bins = torch.fft.rfft(waveforms.unfold(1, 3200, 1600)).abs()[..., :1600]
        embedding = (bins.unflatten(2, (8, 200)).mean(3) + 0.1).log() @ self.embed / 4
        return embedding, embedding @ self.classify - 3
"""


def band_noise(class_id: int, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Noise (samples,) in one of three octaves."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)
    low = 500 * 4**class_id
    spectrum[(frequency < low) | (frequency > 2 * low)] = 0
    noise = np.fft.irfft(spectrum, samples)
    return 0.1 * noise / noise.std()


def plane_waves(events: Events, num_frames: int, generator: np.random.Generator) -> np.ndarray:
    """Render first-order ambisonics (4, samples) in which each event comes from its direction, frame by frame."""
    length = round(FRAME_SECONDS * SAMPLING_RATE)
    x, y, z = events.vector.T
    sounds = [band_noise(class_id, num_frames * length, generator) for class_id in range(len(CLASS_NAMES))]
    waveform = 1e-4 * generator.standard_normal((4, num_frames * length))
    for row, frame in enumerate(events.frame):
        part = slice(frame * length, (frame + 1) * length)
        gains = np.array([1, y[row], z[row], x[row]])
        waveform[:, part] += gains[:, None] * sounds[events.class_id[row]][part]
    return waveform.astype(np.float32)


def random_scene(generator: np.random.Generator, num_frames: int) -> Events:
    """One or two sources of different classes, at fixed directions for the whole scene."""
    frame = np.arange(num_frames)
    parts = [
        Events(frame, *(np.full(num_frames, value) for value in (class_id, track, azimuth, elevation)))
        for track, class_id in enumerate(generator.permutation(len(CLASS_NAMES))[: generator.integers(1, 3)])
        for azimuth, elevation in [(generator.integers(-179, 181), generator.integers(-60, 61))]
    ]
    return Events.concatenate(parts).sort()


@pytest.fixture(scope="session")
def make_scenes():
    """A function that makes `count` scenes (waveforms and events) of `num_frames` frames."""

    def make(count, num_frames=10, seed=7):
        generator = np.random.default_rng(seed)
        events = [random_scene(generator, num_frames) for _ in range(count)]
        return [(plane_waves(of_scene, num_frames, generator), of_scene) for of_scene in events]

    return make


@pytest.fixture(scope="session")
def write_scenes():
    """A function that writes scenes to a folder, in the layout that the builder SyntheticSELD reads."""

    def write(root, scenes, splits=("train", "test")):
        rows = [f"{index}\t-\t{name}\t1\t1.0\n" for index, name in enumerate(CLASS_NAMES)]
        root.mkdir(exist_ok=True)
        (root / "cls_indices_train.tsv").write_text("".join(rows))
        for split in splits:
            for folder in ("foa", "metadata"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            for number, (waveform, events) in enumerate(scenes):
                name = f"fold{['train', 'test'].index(split)}_room1_mix{number:03d}"
                audio = root / split / "foa" / f"{name}.wav"
                soundfile.write(audio, np.clip(waveform, -1, 1).T, SAMPLING_RATE)
                write_csv(root / split / "metadata" / f"{name}.csv", events)
        return root

    return write


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory, make_scenes, write_scenes):
    """Twelve one-second scenes to overfit; the test split has the same scenes."""
    return write_scenes(tmp_path_factory.mktemp("data") / "tiny", make_scenes(12))


@pytest.fixture(scope="session")
def tiny_overrides(tmp_path_factory):
    """A function that makes overrides for a tiny model and tiny data, without evaluation and checkpoints."""
    cache = tmp_path_factory.mktemp("cache")

    def overrides(data_dir, output_dir, *more):
        values = {
            **{f"model.{name}": value for name, value in TINY_MODEL.items()},
            "data.data_dir": data_dir,
            "data.cache_dir": cache,
            "augmentation": "null",
            "schedule.step_epochs": 1000,
            "training.output_dir": output_dir,
            "training.per_device_train_batch_size": 4,
            "training.num_train_epochs": 2,
            "training.eval_strategy": "no",
            "training.save_strategy": "no",
            "training.load_best_model_at_end": "false",
            "training.dataloader_num_workers": 0,
            "training.dataloader_pin_memory": "false",
            "training.disable_tqdm": "true",
        }
        return [f"{key}={value}" for key, value in values.items()] + list(more)

    return overrides


@pytest.fixture
def train(tiny_data, tiny_overrides, tmp_path):
    """Run a recipe on the tiny data, with additional overrides."""

    def train(*more, recipe="synth_accdoa", data_dir=tiny_data, output_dir=tmp_path / "run", **options):
        return run(read_recipe(recipe, tiny_overrides(data_dir, output_dir, *more)), **options)

    return train


@pytest.fixture(scope="session")
def write_recordings():
    """A function that writes three recordings of half a second of noise per class, in one folder per class."""

    def write(folder, class_names):
        generator = np.random.default_rng(0)
        for name in class_names:
            (folder / name).mkdir(parents=True)
            for recording in ("first", "second", "third"):
                noise = 0.1 * generator.standard_normal(SAMPLING_RATE // 2)
                soundfile.write(folder / name / f"{recording}.wav", noise, SAMPLING_RATE)
        return folder

    return write


@pytest.fixture(scope="session")
def tagger(tmp_path_factory):
    """A module of a small teacher."""
    path = tmp_path_factory.mktemp("teacher") / "tagger.py"
    path.write_text(TAGGER)
    return path
