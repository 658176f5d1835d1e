"""Makes of a training run the model that comes with the package: thresholds, scores and card.

Sounds and rooms are others than in training: thresholds are chosen on the validation split, and the scores are those
of the test split. Beside them stands the score on sounds of training, which tells what is known by heart.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from datasets_scripts.scenes.recipe import read_scene_recipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import SoundBank, sounds_from_folder
from modeling_pseldnet import DEFAULT_MODEL
from modeling_pseldnet.events import Events, angle_between
from modeling_pseldnet.files import atomic_path
from modeling_pseldnet.tools.cli import CommandParser, program
from modeling_pseldnet.tools.evaluate_files import format_scores
from modeling_pseldnet.tools.scores import MAX_ANGLE_DEGREES, seld_scores


if TYPE_CHECKING:
    import torch

    from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
    from modeling_pseldnet.inference import Window


VALIDATION_SCENES, TEST_SCENES, TRAINING_SCENES, ROOMS = 400, 600, 300, 60
THRESHOLDS = np.arange(0.1, 0.81, 0.05)
RT60_EDGES = (0.1, 0.3, 0.5, 0.7, 1.0)
NOTHING = "nothing"
CARD = Path(__file__).with_name("default_model_card.md")

Prediction = list["Window"]
Predict = Callable[["torch.Tensor"], dict[str, "torch.Tensor"]]


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes, what is in them and what a model makes of them.

    Attributes:
        references: the events.
        outputs: as `decode_windows` takes them.
        rt60: reverberation times, seconds.
    """

    references: list[Events]
    outputs: list[Prediction]
    rt60: list[float]

    def predictions(self, model: PSELDNetForSELD, threshold: float | np.ndarray) -> list[Events]:
        from modeling_pseldnet.inference import decode_windows

        return [decode_windows(model.output_format, windows, threshold) for windows in self.outputs]


def run_scenes(
    extractor: PSELDNetFeatureExtractor, sounds: SoundBank, recipe: str, split: str, count: int, *predicts: Predict
) -> list[Scenes]:
    """Renders scenes of a split, and makes of their features each of the predictions."""
    import torch

    from modeling_pseldnet.inference import Window

    from ..data import RenderedScenes

    made = read_scene_recipe(recipe)
    made = dataclasses.replace(made, rooms=dataclasses.replace(made.rooms, number=ROOMS))
    scene_set = SceneSet(made, sounds, seed=1, split=split)
    rendered = RenderedScenes(scene_set, count)
    references, rt60, outputs = [], [], [[] for _ in predicts]
    for number in tqdm(range(count), desc=f"{split} scenes", unit="scene"):
        item = rendered[number]
        features = extractor.features(torch.from_numpy(item["waveform"])[None])
        peak = np.abs(item["waveform"]).max(0).reshape(item["num_frames"], -1).max(1)
        for predict, made_of_scenes in zip(predicts, outputs, strict=True):
            found = {name: values[0].numpy() for name, values in predict(features).items()}
            made_of_scenes.append([Window(0, found, peak)])
        references.append(item["events"])
        rt60.append(scene_set.room(number % scene_set.number_of_rooms).rt60)
    return [Scenes(references, made_of_scenes, rt60) for made_of_scenes in outputs]


def choose_thresholds(model: PSELDNetForSELD, scenes: Scenes) -> np.ndarray:
    """The threshold of each class, (classes,), at which its SELD score is best; the median for classes without events.

    The F-score alone would take many false alarms for a little recall, which the error rate in the SELD score forbids.
    """
    count = model.config.num_labels
    scores = [
        seld_scores(scenes.references, scenes.predictions(model, threshold), count)["classwise"]["SELD"]
        for threshold in tqdm(THRESHOLDS, desc="thresholds")
    ]
    # The mean of three neighbours: a single best value owes much to chance.
    smooth = np.array([np.convolve(np.pad(f, 1, mode="edge"), np.ones(3) / 3, "valid") for f in np.transpose(scores)])
    best = THRESHOLDS[smooth.argmin(1)]
    heard = np.bincount(Events.concatenate(scenes.references).class_id, minlength=count) > 0
    return np.where(heard, best, np.median(best[heard])).round(2)


def confusion(references: Sequence[Events], predictions: Sequence[Events], num_classes: int) -> np.ndarray:
    """Shares (classes + 1, classes + 1) of what is reported where a source of a class is; the last stands for nothing.

    A source of a frame goes with the event nearest to it, if that is within 20°; events near no source go to the last
    row, whose numbers are shares of all events reported.
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


def plot_confusion(shares: np.ndarray, labels: Sequence[str], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    names = [label.replace("_", " ") for label in labels] + [NOTHING]
    figure = Figure(figsize=(8.6, 7.8), layout="constrained")
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
    axes.axhline(len(labels) - 0.5, color="grey", linewidth=0.8)
    axes.axvline(len(labels) - 0.5, color="grey", linewidth=0.8)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share")
    with matplotlib.rc_context({"svg.hashsalt": "pseldnets"}):
        figure.savefig(path, dpi=90)


def band(rt60: float) -> str:
    """The range of reverberation times that one falls into."""
    number = int(np.clip(np.searchsorted(RT60_EDGES, rt60) - 1, 0, len(RT60_EDGES) - 2))
    return f"{RT60_EDGES[number]:.1f}–{RT60_EDGES[number + 1]:.1f} s"


def _row(name: str, scores: dict, jackknife: dict | None = None) -> str:
    def text(score: str) -> str:
        digits, unit = (1, "°") if score == "LE" else (3, "")
        low_high = jackknife and f" ({jackknife[score][0]:.{digits}f}–{jackknife[score][1]:.{digits}f})"
        return f"{scores[score]:.{digits}f}{unit}{low_high or ''}"

    return "| " + " | ".join([name, *map(text, ("F", "ER", "LE", "LR", "SELD"))]) + " |"


def card(
    model: PSELDNetForSELD,
    test: Scenes,
    predictions: list[Events],
    averaged: list[Events],
    known: dict,
    trained_on: str,
) -> str:
    """The model card, with the scores on the test scenes.

    Args:
        predictions, averaged: the events found in the test scenes, without and with `--tta`.
        known: the macro scores on sounds of training.
        trained_on: what the training was.
    """
    labels, thresholds = list(model.config.id2label.values()), model.config.threshold
    overlap = [f"{np.bincount(events.frame).max(initial=0)}" for events in test.references]
    by_overlap, with_tta = (
        seld_scores(test.references, found, len(labels), groups=overlap, jackknife=True)
        for found in (predictions, averaged)
    )
    by_rt60 = seld_scores(test.references, predictions, len(labels), groups=[band(seconds) for seconds in test.rt60])
    print(format_scores({**by_overlap, "num_classes": len(labels), "overlap": by_overlap["groups"]}, by="overlap"))
    heading = "| {} | F20 | ER20 | LE | LR | SELD |\n|---|---|---|---|---|---|"
    overlaps = [
        _row(f"all{how}" if name == "all" else f"{name} at a time{how}", part["macro"], part["jackknife"]["macro"])
        for how, scores in (("", by_overlap), (", with `--tta`", with_tta))
        for name, part in {**scores["groups"], "all": scores}.items()
        if name != "0"
    ]
    overlaps.append(_row("all, micro means", by_overlap["micro"], by_overlap["jackknife"]["micro"]))
    overlaps.append(_row("all, of sounds of training", known))
    reverberation = [_row(name, part["macro"]) for name, part in by_rt60["groups"].items()]
    classes = [
        f"| {label} | {by_overlap['classwise']['F'][n]:.2f} | {by_overlap['classwise']['LE'][n]:.0f}° |"
        f" {by_overlap['classwise']['LR'][n]:.2f} | {thresholds[n]:.2f} |"
        for n, label in enumerate(labels)
    ]
    macro = by_overlap["macro"]
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        classes=len(labels),
        labels=", ".join(labels),
        millions=f"{model.num_parameters() / 1e6:.1f}",
        trained_on=trained_on,
        sampling_rate=model.config.sampling_rate,
        window_seconds=model.config.window_seconds,
        scenes=len(test.references),
        validation_scenes=VALIDATION_SCENES,
        f20=f"{macro['F']:.3f}",
        le=f"{macro['LE']:.1f}",
        by_sources="\n".join([heading.format("sources"), *overlaps]),
        by_rt60="\n".join([heading.format("RT60"), *reverberation]),
        by_class="\n".join(classes),
    )


@program("python -m training.experiments.default_model")
def main(arguments: Sequence[str] | None = None) -> None:
    """The program behind `make default-model`, once the training is done."""
    parser = CommandParser(prog="python -m training.experiments.default_model", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="folder of the training run")
    add("--sounds", required=True, metavar="DIR", help="the isolated sounds that it was trained on")
    add("--scene-recipe", default="default_model", help="default: %(default)s")
    add("--trained-on", required=True, metavar="TEXT", help="what the model was trained on, for its card")
    add("--output", default=DEFAULT_MODEL, type=Path, help="default: where the package looks for it")
    options = parser.parse_args(arguments)
    finish(options)


def finish(options: argparse.Namespace) -> None:
    from modeling_pseldnet.hub_folder import save_hub_folder
    from modeling_pseldnet.inference import evaluating, rotation_averaging
    from modeling_pseldnet.tools.loading import load

    model, extractor = load(options.run, "cpu")
    sounds = sounds_from_folder(options.sounds, extractor.sampling_rate).measure()
    if list(sounds.class_names) != list(model.config.id2label.values()):
        raise ValueError(f"the classes in {options.sounds} are not those of {options.run}")
    scenes = extractor, sounds, options.scene_recipe
    averaging = rotation_averaging(model, extractor)
    with evaluating(model):
        (validation,) = run_scenes(*scenes, "validation", VALIDATION_SCENES, model.predict)
        test, averaged = run_scenes(*scenes, "test", TEST_SCENES, model.predict, averaging)
        (known,) = run_scenes(*scenes, "train", TRAINING_SCENES, model.predict)
    thresholds = choose_thresholds(model, validation)
    model.config.threshold = thresholds.tolist()
    predictions, with_tta, of_known = (scenes.predictions(model, thresholds) for scenes in (test, averaged, known))
    known_scores = seld_scores(known.references, of_known, model.config.num_labels)["macro"]
    text = card(model, test, predictions, with_tta, known_scores, options.trained_on)
    save_hub_folder(model, options.output, text, extractor)
    lighten(options.output)
    shares = confusion(test.references, predictions, model.config.num_labels)
    plot_confusion(shares, list(sounds.class_names), options.output / "confusion.png")


def lighten(folder: Path) -> None:
    """Halves the weights on disk, which are read as float32, and leaves out the code, which is the package's own."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
        # safetensors writes files that only their owner can read.
        temporary.chmod(0o644)
    for file in folder.glob("*.py"):
        file.unlink()


if __name__ == "__main__":
    sys.exit(main())
