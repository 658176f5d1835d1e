"""Speed of the scene synthesiser on one core, compared with the cost of its convolutions alone.

    python tests/benchmarks/bench_synthesize.py [--sounds ../shared/events] [--device cpu]

Times are CPU times of the process, so that other load on the machine matters little; with a GPU, wall-clock times.
Scenes have two layers of events with hardly any pauses, in rooms with an RT60 of 0.6 s. Offline scenes last a minute
and are written as FLAC with metadata; they include their share of the time for the responses of their room. On-the-fly
scenes last ten seconds and are rendered from a bank in memory.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from datasets_scripts.scenes import render as scene_render
from datasets_scripts.scenes.recipe import EventRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.render_torch import SceneBank
from datasets_scripts.scenes.rooms import SimulatedRoom
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import sounds_from_folder
from datasets_scripts.scenes.synthesize import SceneFolder, SceneMaker
from tests.folders import SHARED


EVENTS = SHARED / "events"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, default=EVENTS, help="sounds by class (default: made of noise)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scenes", type=int, default=20, help="scenes a measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        events = options.sounds if options.sounds.is_dir() else _noises(Path(folder) / "noises")
        sounds = sounds_from_folder(events).measure()
        for moving in (0.0, 1.0):
            _offline(sounds, moving, options.scenes, Path(folder) / f"moving{moving:.0f}")
        for moving in (0.0, 1.0):
            _on_the_fly(sounds, moving, options.scenes, options.device)


def _recipe(moving: float, seconds: float, rooms: int) -> SceneRecipe:
    rooms = RoomRecipe(number=rooms, rt60=(0.6, 0.6), positions=24, paths=4)
    events = EventRecipe(polyphony={2: 1.0}, gap=(0.0, 0.2), moving=moving)
    return SceneRecipe(scene_seconds=seconds, rooms=rooms, events=events)


def _offline(sounds, moving: float, count: int, path: Path) -> None:
    scene_set = SceneSet(_recipe(moving, 60.0, rooms=1), sounds)
    folder = SceneFolder(path)
    for form in ("foa", "metadata"):
        (path / form).mkdir(parents=True)
    maker = SceneMaker(scene_set, folder)
    maker.renderer._noise("foa")
    clock = time.process_time
    with (
        _timed(SimulatedRoom, "responses", clock) as responses,
        _timed(scene_render, "_convolve", clock) as convolutions,
    ):
        start = clock()
        maker(list(range(count)))
        seconds = clock() - start
    hours = count * 60 / seconds
    alone = count * 60 / convolutions["_convolve"]
    name = "moving" if moving else "static"
    print(
        f"offline, {name}: {hours:.0f} hours of scenes an hour and core; convolution alone {alone:.0f}; "
        f"{count} scenes of a room, its responses {100 * responses['responses'] / seconds:.0f} % of the time"
    )


def _on_the_fly(sounds, moving: float, count: int, device: str) -> None:
    recipe = _recipe(moving, 10.0, rooms=2)
    recipe = replace(recipe, rooms=replace(recipe.rooms, path_step=0.1))
    scene_set = SceneSet(recipe, sounds)
    bank = SceneBank(scene_set, device=device)
    on_gpu = device.startswith("cuda")
    batch = count if on_gpu else 1
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if on_gpu else (time.process_time, lambda: None)
    scenes = [scene_set.scene(index) for index in range(count)]
    bank.render(scenes[:batch])
    best = np.inf
    for _ in range(5):
        wait()
        start = clock()
        for first in range(0, count, batch):
            bank.render(scenes[first : first + batch])
        wait()
        best = min(best, clock() - start)
    start = clock()
    for index in range(count):
        scene_set.labels(scene_set.scene(index))
    drawing = (clock() - start) / count
    with _timed(torch.fft, "rfft", clock, wait) as transforms, _timed(torch.fft, "irfft", clock, wait) as inverse:
        for first in range(0, count, batch):
            bank.render(scenes[first : first + batch])
    fourier = transforms["rfft"] + inverse["irfft"]
    print(
        f"on the fly, {'moving' if moving else 'static'}, {device}: {count / best:.0f} scenes of 10 s a second; "
        f"Fourier transforms alone {count / fourier:.0f}; drawing a scene and its labels {1e3 * drawing:.1f} ms"
    )


@contextmanager
def _timed(owner, name: str, clock, wait=lambda: None):
    """Add up the time spent in a function during the context."""
    original, spent = getattr(owner, name), defaultdict(float)

    def timed(*args, **kwargs):
        wait()
        start = clock()
        result = original(*args, **kwargs)
        wait()
        spent[name] += clock() - start
        return result

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, original)


def _noises(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for class_name in "abcdefgh":
        (folder / class_name).mkdir(parents=True)
        for number in range(6):
            noise = 0.1 * generator.standard_normal(round(generator.uniform(1, 6) * 24000))
            soundfile.write(folder / class_name / f"{number}.wav", noise, 24000)
    return folder


if __name__ == "__main__":
    main()
