"""How many labelled scenes does a new task need? Compare four methods on few scenes, many scenes and mono clips.

A small network is pre-trained on scenes made from two thirds of the classes in a folder of isolated sounds. The other
third is the new task: scenes with classes, sounds and rooms that the network has never heard.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets_scripts.scenes.recipe import read_scene_recipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import SOURCE_TABLE, sounds_from_folder
from datasets_scripts.scenes.synthesize import SceneFolder, synthesize
from modeling_pseldnet.files import atomic_path, write_atomically
from modeling_pseldnet.tools.cli import CommandParser, program, whole_number
from modeling_pseldnet.tools.extras import require
from modeling_pseldnet.tools.plots import COLOURS, MARKERS

from ..recipes import Recipe, read_recipe
from ..train import run
from .markdown import markdown_table


@dataclass(frozen=True)
class Method:
    """A way to learn the task.

    Attributes:
        recipe: the training recipe, a name within the folder of recipes.
        learning_rate: the peak learning rate of the schedule.
        pretrained: whether to start from the pre-trained network.
    """

    recipe: str
    learning_rate: float
    pretrained: bool = True


RECIPES = "data_efficiency"
METHODS = {
    "from scratch": Method("target", 1e-3, pretrained=False),
    "full fine-tuning": Method("target", 5e-4),
    "AdapterBit": Method("adapterbit", 2e-3),
    "LoRA": Method("lora", 2e-3),
}
# Shares of the task's training scenes; the mono clips are the sounds that these scenes are made of.
MONO = "mono clips"
SHARES = {"1 %": 0.01, "10 %": 0.1, "100 %": 1.0, MONO: None}
# Unless classes are named, every third one belongs to the task.
EVERY = 3
# Seed of the task's rooms and scenes; those of pre-training have seed 0.
SCENE_SEED = 1

EXAMPLE = """\
examples:
  python -m training.experiments.data_efficiency --sounds sounds/ --output runs/data_efficiency
  python -m training.experiments.data_efficiency --sounds sounds/ --output runs/longer --updates 1000 --seeds 5 \\
      --pretrained runs/data_efficiency/pretrained
  python -m training.experiments.data_efficiency --sounds sounds/ --output runs/held_out \\
      --recipes data_efficiency/default_model --pretrain-override teacher.module=tagger.py \\
      --classes bird cow drill gunshot insect laughter telephone train

sounds/ has one folder of audio files per class. Run the same command again to continue an interrupted experiment, or
with more --seeds or --methods to add runs. The last example is for the network of the recipe default_model, trained
anew without eight of its classes. At the end, the output folder has results.json, table.md and data_efficiency.png.
"""


def split_classes(events: Path, folder: Path, task: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Link the classes of `events` into two folders below `folder`: those to pre-train on, and those of the task.

    Args:
        task: names of the task's classes. Defaults to every third class.

    Raises:
        ValueError: there are too few classes, or a named class does not exist.
    """
    names = sounds_from_folder(events).class_names
    if task and (unknown := sorted(set(task) - set(names))):
        raise ValueError(f"{events} has no class {', '.join(unknown)}")
    task = set(task or names[EVERY - 1 :: EVERY])
    if not 0 < len(task) < len(names):
        raise ValueError(
            f"{events} has {len(names)} classes, {len(task)} of them for the task: both tasks need at least one"
        )
    parts = folder / "pretrain", folder / "target"
    for name in names:
        link = parts[name in task] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to((events / name).resolve())
    if (table := (events / SOURCE_TABLE).resolve()).is_file():
        for part in parts:
            write_atomically(part / SOURCE_TABLE, table.read_text(encoding="utf-8"))
    return parts


def claim(folder: Path, settings: dict) -> None:
    """Record the settings of the experiment in a folder, so that no other is mixed with it.

    Raises:
        ValueError: the folder holds an experiment with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if differing := [name for name in settings if known.get(name) != settings[name]]:
            raise ValueError(
                f"{folder} holds an experiment that differs in {', '.join(differing)}: choose another folder"
            )
    write_atomically(path, json.dumps(settings, indent=2) + "\n")


def make_scenes(recipe: Recipe, sounds_dir: Path, folder: Path) -> None:
    """Render the training and test scenes that the recipe asks for; existing ones are kept."""
    scene_recipe = read_scene_recipe(recipe.train.scene_recipe)
    sounds = sounds_from_folder(sounds_dir, scene_recipe.sampling_rate).measure()
    for data in (recipe.train, recipe.eval):
        scene_set = SceneSet(scene_recipe, sounds, SCENE_SEED, data.split)
        synthesize(scene_set, SceneFolder(folder / data.split), data.scenes, workers=os.cpu_count() or 1)


def pretrain(recipe: str, sounds_dir: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Pre-train the network, or resume doing so."""
    if not (folder / "eval_results.json").exists():
        values = _overrides({"data.data_dir": sounds_dir, "training.output_dir": folder})
        run(read_recipe(recipe, [*overrides, *values]), resume=True)


def _overrides(values: dict) -> list[str]:
    """Format overrides: text literally, and other values as JSON, which is valid YAML."""
    texts = (str(value) if isinstance(value, str | Path) else json.dumps(value) for value in values.values())
    return [f"{key}={text}" for key, text in zip(values, texts, strict=True)]


def recipe_of_run(
    method: str, data: str, seed: int, output: Path, pretrained: Path, overrides: Sequence[str], recipes: str = RECIPES
) -> Recipe:
    """Build the recipe of one run on the scenes or the sounds in `output`."""
    chosen, share = METHODS[method], SHARES[data]
    values = {
        "data.data_dir": output / "scenes",
        "data.cache_dir": output / "cache",
        "data.train.seed": seed,
        "training.seed": seed,
        "training.learning_rate": chosen.learning_rate,
        "training.output_dir": output / "runs" / f"{method}, {data}, seed {seed}",
    }
    if chosen.pretrained:
        values["model.pretrained"] = pretrained
    if data == MONO:
        values |= {"data.train.source": "mono_clips", "data.train.data_dir": output / "sounds" / "target"}
        values["data.train.keep_features"] = False
    else:
        values["data.train.fraction"] = share
    return read_recipe(f"{recipes}/{chosen.recipe}", [*overrides, *_overrides(values)])


def scores_of_run(recipe: Recipe) -> dict[str, float]:
    """Return macro scores on the test scenes and `trained_parameters` of a run, which is only done if it is new."""
    folder = Path(recipe.training["output_dir"])
    path = folder / "scores.json"
    if not path.exists():
        # What an interrupted run left cannot be resumed.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with (folder / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log):
            trainer = run(recipe)
        trained = sum(values.numel() for values in trainer.model.parameters() if values.requires_grad)
        write_atomically(path, json.dumps({**trainer.scores["macro"], "trained_parameters": trained}, indent=2) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def run_experiment(options: argparse.Namespace) -> None:
    """Do what is missing of the experiment, and write its table and its plot.

    Args:
        options: options of the program.

    Raises:
        OSError, ValueError: an input is invalid, or the output folder holds another experiment.
        FloatingPointError: training diverged.
    """
    output = options.output.absolute()
    given = (
        "sounds",
        "recipes",
        "classes",
        "pretrained",
        "updates",
        "pretrain_updates",
        "pretrain_override",
        "override",
    )
    claim(output, json.loads(json.dumps({name: getattr(options, name) for name in given}, default=os.path.abspath)))
    to_pretrain, to_learn = (
        [*options.override, *([] if count is None else [f"training.max_steps={count}"])]
        for count in (options.pretrain_updates, options.updates)
    )
    target = read_recipe(f"{options.recipes}/target", to_learn)
    pretrain_sounds, target_sounds = split_classes(options.sounds, output / "sounds", options.classes)
    make_scenes(target, target_sounds, output / "scenes")
    pretrained = options.pretrained
    if pretrained is None:
        pretrained = output / "pretrained"
        to_pretrain += options.pretrain_override
        pretrain(f"{options.recipes}/pretrain", pretrain_sounds, pretrained, to_pretrain)
    runs = []
    methods = dict.fromkeys(options.methods)
    todo = [(seed, data, method) for seed in range(options.seeds) for data in SHARES for method in methods]
    with tqdm(todo, desc="runs", unit="run") as progress:
        for seed, data, method in progress:
            progress.set_postfix_str(f"{method}, {data}")
            run_options = (method, data, seed, output, pretrained.absolute(), to_learn, options.recipes)
            scores = scores_of_run(recipe_of_run(*run_options))
            runs.append({"method": method, "data": data, "seed": seed, **scores})
    write_atomically(output / "results.json", json.dumps(runs, indent=2) + "\n")
    text = table(runs, target.train.scenes)
    write_atomically(output / "table.md", text)
    plot(runs, target.train.scenes, output / "data_efficiency.png")
    print(text)


def by_seed(runs: Sequence[dict], method: str, data: str, score: str) -> np.ndarray:
    """Return a score of a method's runs on some data, (seeds,)."""
    return np.array([run[score] for run in runs if (run["method"], run["data"]) == (method, data)])


def methods_of(runs: Sequence[dict]) -> list[str]:
    """List the methods of the runs, in the order of `METHODS`."""
    found = {entry["method"] for entry in runs}
    return [method for method in METHODS if method in found]


def spread(values: np.ndarray) -> float:
    """Return the standard deviation over seeds; 0 for a single seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def headings(scenes: int, separator: str) -> list[str]:
    """Return the headings of `SHARES`, given the total number of scenes."""
    counts = {data: round(share * scenes) for data, share in SHARES.items() if share is not None}
    return [f"{data}{separator}{max(counts[data], 1)} scenes" if data in counts else data for data in SHARES]


def table(runs: Sequence[dict], scenes: int) -> str:
    """Format F20, with LE below it, as mean ± standard deviation over the seeds, in Markdown."""

    def cell(method: str, data: str) -> str:
        lines = []
        for score, digits, unit in (("F", 3, ""), ("LE", 1, "°")):
            values = by_seed(runs, method, data, score)
            lines.append(f"{values.mean():.{digits}f} ± {spread(values):.{digits}f}{unit}")
        return "<br>".join(lines)

    rows = []
    for method in methods_of(runs):
        trained = by_seed(runs, method, MONO, "trained_parameters")[0]
        rows.append([method, f"{trained:,.0f}", *(cell(method, data) for data in SHARES)])
    return markdown_table(["", "trained parameters", *headings(scenes, ", ")], rows) + "\n"


def plot(runs: Sequence[dict], scenes: int, path: Path) -> None:
    """Plot F20 and LE over the share of scenes, with one line per method, and for mono clips at the right.

    Error bars are ± one standard deviation over the seeds.
    """
    from matplotlib.figure import Figure

    # Evenly spaced, as the shares are powers of ten, with a gap before the mono clips.
    places = np.arange(len(SHARES)) + 0.3 * np.array([data == MONO for data in SHARES])
    scenes_only = slice(0, list(SHARES).index(MONO))
    methods = methods_of(runs)
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, score, title in zip(panels, ("F", "LE"), ("F20", "LE (degrees)"), strict=True):
        for number, method in enumerate(methods):
            values = [by_seed(runs, method, data, score) for data in SHARES]
            mean, bars = np.array([[of_data.mean(), spread(of_data)] for of_data in values]).T
            x = places + 0.07 * (number - (len(methods) - 1) / 2)
            colour = COLOURS[number]
            axes.errorbar(x, mean, bars, fmt=MARKERS[number], color=colour, markersize=6, capsize=3, label=method)
            axes.plot(x[scenes_only], mean[scenes_only], color=colour)
        axes.axvline(places[-1] - 0.65, color="#c0c0c0", linewidth=0.8)
        axes.set_xticks(places, headings(scenes, "\n"))
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


@program("python -m training.experiments.data_efficiency", interrupted="run the same command again to continue")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `python -m training.experiments.data_efficiency`."""
    parser = CommandParser(
        prog="python -m training.experiments.data_efficiency",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--sounds", required=True, type=Path, metavar="DIR", help="isolated sounds, one folder per class")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for all results")
    add("--recipes", default=RECIPES, metavar="NAME", help="folder of packaged recipes (default: %(default)s)")
    add("--classes", nargs="+", metavar="NAME", help="classes of the task (default: every third)")
    add("--pretrained", type=Path, metavar="DIR", help="start from this network instead of training one")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods to compare (default: all)")
    add("--seeds", type=whole_number(1), default=3, metavar="N", help="repeat each run with N seeds (default: 3)")
    add("--updates", type=whole_number(1), metavar="N", help="updates of each run (default: as in the recipe target)")
    add("--pretrain-updates", type=whole_number(1), metavar="N", help="default: as in the recipe pretrain")
    add("--pretrain-override", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change that recipe")
    add("--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change all recipes")
    options = parser.parse_args(arguments)
    require("accelerate", "datasets", "peft", "pyarrow")
    run_experiment(options)


if __name__ == "__main__":
    sys.exit(main())
