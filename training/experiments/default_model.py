"""Turns a training run into the model that comes with the package: thresholds, scores and card.

Sounds and rooms are held out from training: thresholds are chosen on the validation split, and scores are computed on
the test split. For comparison, the card also has scores on training sounds, which show how much was memorised, false
alarms on out-of-class sounds, and the scores of another model on the same scenes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from datasets_scripts.scenes.recipe import InterferenceRecipe, SceneRecipe, read_scene_recipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import SoundBank, sounds_from_folder
from modeling_pseldnet import DEFAULT_MODEL
from modeling_pseldnet.events import Events
from modeling_pseldnet.files import atomic_path
from modeling_pseldnet.tools.cli import CommandParser, program
from modeling_pseldnet.tools.scores import seld_scores

from ..recipes import read_recipe
from .model_card import LIVELY_RT60, MUSIC, Heard, Report, card, plot_confusion


if TYPE_CHECKING:
    import torch

    from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
    from modeling_pseldnet.inference import Window


VALIDATION_SCENES, TEST_SCENES, TRAINING_SCENES, ROOMS = 400, 600, 300, 60
# Lower ones are not tried: even a common threshold of 0.5 loses hardly any F20, and they cause more false alarms.
THRESHOLDS = np.arange(0.5, 0.81, 0.05)
LIVELY_SCENES, EMPTY_SCENES = 200, 360

Prediction = list["Window"]
Predict = Callable[["torch.Tensor"], dict[str, "torch.Tensor"]]


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The events of scenes and the outputs of a model for them.

    Attributes:
        references: the true events.
        outputs: the model's outputs, in the form that `decode_windows` takes.
        rt60: reverberation times, seconds.
    """

    references: list[Events]
    outputs: list[Prediction]
    rt60: list[float]

    def predictions(self, model: PSELDNetForSELD, threshold: float | np.ndarray) -> list[Events]:
        from modeling_pseldnet.inference import decode_windows

        return [decode_windows(model.output_format, windows, threshold) for windows in self.outputs]


def run_scenes(
    model: PSELDNetForSELD, extractor: PSELDNetFeatureExtractor, scene_set: SceneSet, count: int, *predicts: Predict
) -> list[Scenes]:
    """Render the first `count` scenes of a set, and predict each with each of the functions."""
    from modeling_pseldnet.inference import window_outputs

    from ..windows import RenderedScenes

    rendered = RenderedScenes(scene_set, count)
    references, rt60, outputs = [], [], [[] for _ in predicts]
    for number in tqdm(range(count), desc=f"{scene_set.split} scenes", unit="scene"):
        item = rendered[number]
        for predict, made_of_scenes in zip(predicts, outputs, strict=True):
            made_of_scenes.append(window_outputs(model, predict, extractor, [item["waveform"]], [0]))
        references.append(item["events"])
        rt60.append(scene_set.room(number % scene_set.number_of_rooms).rt60)
    return [Scenes(references, made_of_scenes, rt60) for made_of_scenes in outputs]


def without_events(recipe: SceneRecipe, folder: str | None = None) -> SceneRecipe:
    """Return the recipe without events; with out-of-class sounds of `folder`, if given, in sequence and as loud."""
    interference = InterferenceRecipe(folder, probability=1.0, gap=recipe.events.gap, snr=recipe.events.snr)
    events = dataclasses.replace(recipe.events, polyphony={0: 1.0})
    return dataclasses.replace(recipe, events=events, interference=interference)


def further_scenes(
    recipe: SceneRecipe, sounds: SoundBank, interference: str | None
) -> dict[str, tuple[str, int, SceneRecipe]]:
    """Return split, number of scenes and recipe of the scenes besides those of the test, by field of `Report`."""
    scenes = {
        "known": ("train", TRAINING_SCENES, recipe),
        "noise": ("test", EMPTY_SCENES, without_events(recipe)),
    }
    if recipe.rooms.measured is None:
        rooms = dataclasses.replace(recipe.rooms, rt60=LIVELY_RT60)
        scenes["lively"] = ("test", LIVELY_SCENES, dataclasses.replace(recipe, rooms=rooms))
    if interference:
        scenes["unlabelled"] = ("test", EMPTY_SCENES, without_events(recipe, interference))
    if MUSIC in sounds.class_names:
        alone = dataclasses.replace(recipe.events, polyphony={1: 1.0}, classes=[MUSIC])
        scenes["music"] = ("test", EMPTY_SCENES, dataclasses.replace(recipe, events=alone))
    return scenes


def about_scenes(recipe: SceneRecipe, name: str) -> str:
    """Describe the scenes of a recipe in words."""
    events, rooms = recipe.events, recipe.rooms
    low, high = events.snr
    reverberation = "in measured rooms" if rooms.measured else f"RT60 of {rooms.rt60[0]:g} to {rooms.rt60[1]:g} s"
    return (
        f"{recipe.scene_seconds:g} seconds (recipe `{name}`: up to {max(events.polyphony)} sources at a time,"
        f" {events.moving:.0%} of them\nmoving, at {low:g} to {high:g} dB above the noise, {reverberation})"
    )


def about_teacher(path: Path) -> str:
    """Describe the tagger whose outputs a run learnt, from its recipe; empty if there is no tagger or no recipe."""
    module = read_recipe(path).teacher.module if path.is_file() else None
    return f", and the outputs of the tagger `{Path(module).stem}` for the same scenes" if module else ""


def choose_thresholds(model: PSELDNetForSELD, scenes: Scenes) -> np.ndarray:
    """Choose the threshold of each class, (classes,), by its SELD score; the median for classes without events.

    The F-score alone would accept many false alarms for a little recall, which the error rate in the SELD score
    prevents.
    """
    count = model.config.num_labels
    scores = [
        seld_scores(scenes.references, scenes.predictions(model, threshold), count)["classwise"]["SELD"]
        for threshold in tqdm(THRESHOLDS, desc="thresholds")
    ]
    # Average over three neighbours, since a single best value is partly due to chance.
    smooth = np.array([np.convolve(np.pad(f, 1, mode="edge"), np.ones(3) / 3, "valid") for f in np.transpose(scores)])
    best = THRESHOLDS[smooth.argmin(1)]
    heard = np.bincount(Events.concatenate(scenes.references).class_id, minlength=count) > 0
    return np.where(heard, best, np.median(best[heard])).round(2)


@program("python -m training.experiments.default_model")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program behind `make default-model`, after the training."""
    parser = CommandParser(prog="python -m training.experiments.default_model", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="folder of the training run")
    add("--sounds", required=True, metavar="DIR", help="isolated sounds that it was trained on")
    add("--scene-recipe", default="default_model", help="recipe of the scenes to score it on (default: %(default)s)")
    add("--trained-on", required=True, metavar="TEXT", help="what the model was trained on, for its card")
    add("--output", type=Path, metavar="DIR", help="folder to write (default: packaged, in the folder of the run)")
    add("--sounds-of", metavar="TEXT", help="what the sounds are, for its card (default: the name of their folder)")
    add("--interference", metavar="DIR", help="sounds of other classes, to count false alarms on (default: none)")
    add("--beside", metavar="MODEL", help="another model to score on the same scenes, for the classes that both know")
    options = parser.parse_args(arguments)
    options.output = options.output or Path(options.run, "packaged")
    finish(options)
    print(f"{options.output}: its README.md has the scores; to keep the model, copy the folder over {DEFAULT_MODEL}")


def finish(options: argparse.Namespace) -> None:
    from modeling_pseldnet.fitting import check_extractor
    from modeling_pseldnet.hub_folder import check_output, save_hub_folder
    from modeling_pseldnet.inference import evaluating
    from modeling_pseldnet.rotation_averaging import rotation_averaging
    from modeling_pseldnet.tools.loading import load

    check_output(options.output, overwrite=True, made_from=options.run)
    model, extractor = load(options.run, "cpu")
    other = load(options.beside, "cpu")[0] if options.beside else None
    if other:
        # Both models get the same features.
        check_extractor(extractor, other.config)
    sounds = sounds_from_folder(options.sounds, extractor.sampling_rate).measure()
    if list(sounds.class_names) != list(model.config.id2label.values()):
        raise ValueError(f"the classes in {options.sounds} are not those of the model in {options.run}")
    recipe = read_scene_recipe(options.scene_recipe)
    recipe = dataclasses.replace(recipe, rooms=dataclasses.replace(recipe.rooms, number=ROOMS))

    def run(split: str, count: int, *predicts: Predict, recipe: SceneRecipe = recipe) -> list[Scenes]:
        return run_scenes(model, extractor, SceneSet(recipe, sounds, seed=1, split=split), count, *predicts)

    with evaluating(model):
        (validation,) = run("validation", VALIDATION_SCENES, model.predict)
        predicts = [model.predict, rotation_averaging(model, extractor), *([other.predict] if other else [])]
        test, averaged, *beside = run("test", TEST_SCENES, *predicts)
        more = {
            name: run(split, count, model.predict, recipe=of_part)[0]
            for name, (split, count, of_part) in further_scenes(recipe, sounds, options.interference).items()
        }
    thresholds = choose_thresholds(model, validation)
    model.config.threshold = thresholds.tolist()

    def heard(scenes: Scenes) -> Heard:
        return scenes.references, scenes.predictions(model, thresholds)

    report = Report(
        model,
        test=heard(test),
        rt60=test.rt60,
        scene_seconds=recipe.scene_seconds,
        averaged=heard(averaged),
        beside=other and (other, beside[0].predictions(other, np.asarray(other.config.threshold))),
        usual_distance=float(np.median(Events.concatenate(validation.references).distance)),
        **{name: heard(scenes) for name, scenes in more.items()},
    )
    text = card(
        report,
        VALIDATION_SCENES,
        trained_on=options.trained_on,
        sounds=options.sounds_of or f"the sounds in `{Path(options.sounds).resolve().name}`",
        taught=about_teacher(Path(options.run, "recipe.yaml")),
        about_scenes=about_scenes(recipe, options.scene_recipe),
    )
    save_hub_folder(model, options.output, text, extractor)
    lighten(options.output)
    plot_confusion(report, options.output / "confusion.png")


def lighten(folder: Path) -> None:
    """Store the weights in half precision, to be loaded as float32, and drop the code, which is the package's own."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
        # safetensors writes files that only the owner can read.
        temporary.chmod(0o644)
    for file in folder.glob("*.py"):
        file.unlink()


if __name__ == "__main__":
    sys.exit(main())
