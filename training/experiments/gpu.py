"""What one GPU can do in nine minutes: run its tests, measure throughput, and train the default model further.

Training starts from the weights of a model with a new optimizer. The learning rate follows the clock, so that its
schedule ends in the available time, however long an update takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
from tqdm import tqdm

from datasets_scripts.scenes.sounds import SOURCE_TABLE, sounds_from_folder
from modeling_pseldnet.files import write_atomically
from modeling_pseldnet.tools.cli import CommandParser, number, program, whole_number
from modeling_pseldnet.tools.extras import require

from ..recipes import Recipe, read_recipe, write_recipe
from .markdown import markdown_table


if TYPE_CHECKING:
    import torch

    from ..trainer import SELDTrainer


ROOT = Path(__file__).parents[2]
PARTS = ("tests", "training", "table")
# Seconds that the tests may take, and that are reserved for the evaluation and the table after training.
TESTS_SECONDS, EVALUATION_SECONDS, TABLE_SECONDS = 90, 20, 60
# Share of the training time during which the learning rate falls to 0.
FALLING = 0.6
# Number of timed calls.
REPEATS = 10
# Size of the square matrices whose product measures the peak throughput of the device.
PEAK_SIDES = {"cuda": 8192, "cpu": 512}

EXAMPLE = """\
examples:
  python -m training.experiments.gpu pack sounds/ packed/sounds
  python -m training.experiments.gpu run packed/sounds --output runs/gpu --override \\
      teacher.module=tagger.py data.train.interference_dir=packed/others model.pretrained=runs/default_model

`pack` writes sounds as Opus at 24 kHz, at about 60 % of their size as Ogg Vorbis, with the table of their
recordings. At the end, the output folder of `run` has tests.txt, the model in half precision and table.md.
"""


def pack(sounds_dir: Path, folder: Path) -> None:
    """Write the sounds of a folder as Opus, small enough to transfer, with a table of their recordings.

    Raises:
        ValueError: there are no sounds, one cannot be read, or one would be overwritten.
    """
    if folder.resolve().is_relative_to(sounds_dir.resolve()):
        raise ValueError(f"{folder} lies in {sounds_dir}, where the sounds are read from: choose another folder")
    bank = sounds_from_folder(sounds_dir).measure()
    rows, packed = ["path\tsource_id\tsplit"], set()
    for index, sound in enumerate(tqdm(bank.sounds, desc="packed", unit="sound")):
        path = folder / Path(sound.name).with_suffix(".ogg")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in packed:
            raise ValueError(
                f"two sounds would be written to {path.relative_to(folder)}: rename one, such as {sound.name}"
            )
        packed.add(path)
        soundfile.write(path, bank.read(index), bank.sampling_rate, format="OGG", subtype="OPUS")
        rows.append(f"{path.relative_to(folder).as_posix()}\t{sound.recording}\t{sound.split}")
    write_atomically(folder / SOURCE_TABLE, "\n".join(rows) + "\n")
    print(f"{len(bank.sounds)} sounds, {sum(path.stat().st_size for path in folder.rglob('*.ogg')) / 2**20:.1f} MiB")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: what was timed, the seconds it takes once, and a remark."""

    what: str
    seconds: float
    remark: str = ""

    def cells(self) -> list[str]:
        return [self.what, f"{1e3 * self.seconds:.2f}", f"{1 / self.seconds:,.0f}", self.remark]


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the mean time of a call in seconds, after two warm-up calls."""
    import torch

    def finish() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    for _ in range(2):
        call()
    begin = finish()
    for _ in range(repeats):
        call()
    return (finish() - begin) / repeats


def throughput(trainer: SELDTrainer) -> Iterator[Row]:
    """Time each part of training and prediction on the trainer's device; this trains the model a little."""
    import torch

    device, size = trainer.args.device, trainer.args.train_batch_size
    bank = trainer.train_dataset.bank
    scenes = [bank.scene_set.scene(number) for number in range(size)]
    yield Row("playing the sounds of a scene, one core", seconds_of(lambda: bank.plan(scenes), device, 3) / size)
    plan = bank.plan(scenes)
    yield Row(f"rendering a scene, {device.type}", seconds_of(lambda: bank.mix(plan), device, 3) / size)
    waveforms = bank.mix(plan).to(device)
    extract = trainer.feature_extractor.features
    yield Row("features of a scene", seconds_of(lambda: extract(waveforms), device, REPEATS) / size)
    if trainer.distillation is not None:
        teacher = trainer.distillation.teacher
        yield Row("a teacher's answers to a scene", seconds_of(lambda: teacher(waveforms), device, REPEATS) / size)
    batches = iter(trainer.get_train_dataloader())
    batch, begin = next(batches), time.perf_counter()
    loaded = size * sum(1 for _ in islice(batches, 2 * REPEATS))
    workers = f"{trainer.args.dataloader_num_workers} workers"
    loading = Row("loading a scene", (time.perf_counter() - begin) / max(loaded, 1), workers)
    yield loading
    del batches
    trainer.model.train()
    prepare = Row(
        "preparing a scene on the device: rendering, augmentation, features, answers",
        seconds_of(lambda: trainer._prepare_inputs(batch), device, 3) / size,
    )
    yield prepare
    inputs = trainer._prepare_inputs(batch)
    views = len(inputs["input_features"])
    model, features = trainer.model.eval(), inputs["input_features"]

    @torch.inference_mode()
    def predict():
        with torch.autocast(device.type, torch.bfloat16):
            model.predict(features)

    yield Row("prediction of a window", seconds_of(predict, device, REPEATS) / views)
    trainer.model.train()
    for row in training_steps(trainer, inputs):
        yield row
        on_device = prepare.seconds * size + row.seconds * views
        share = 100 * loading.seconds * size / (loading.seconds * size + on_device)
        yield Row(
            "the same per scene, including preparation, with loading in parallel",
            max(on_device / size, loading.seconds),
            f"loading alone is {share:.0f} % of both",
        )


def training_steps(trainer: SELDTrainer, inputs: dict) -> Iterator[Row]:
    """Time a training step in bfloat16 per view, in eager mode and, on a GPU, compiled."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device, views = trainer.args.device, len(inputs["input_features"])
    optimizer = trainer.create_optimizer()

    def step(model):
        with torch.autocast(device.type, torch.bfloat16):
            loss = trainer.compute_loss(model, dict(inputs))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step(trainer.model)
    side = PEAK_SIDES[device.type]
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    peak = 2 * side**3 / seconds_of(lambda: matrix @ matrix, device, REPEATS)
    models = {"": trainer.model} | ({", compiled": torch.compile(trainer.model)} if device.type != "cpu" else {})
    for how, model in models.items():
        try:
            seconds = seconds_of(lambda m=model: step(m), device, REPEATS)
        except Exception as error:
            if not how:
                raise
            # A failing compiler must not end the run.
            print(f"a training step{how} failed: {error}", file=sys.stderr)
            continue
        used = 100 * counter.get_total_flops() / seconds / peak
        remark = f"{used:.0f} % of the {peak / 1e12:.1f} TFLOP/s of a product of {side}² matrices"
        yield Row(f"a training step per view, {views} at a time{how}", seconds / views, remark)


def gpu_tests(path: Path) -> None:
    """Run the tests marked `gpu` and write their output to a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    # Missing packages do not matter: tests that need them do not need a GPU.
    command += ["--continue-on-collection-errors", str(ROOT / "tests")]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS)
        text = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        text = f"{(error.stdout or b'').decode()}\nnot finished after {TESTS_SECONDS} s\n"
    write_atomically(path, text)
    print(text.strip().splitlines()[-1])


def run(options: argparse.Namespace) -> None:
    """Run the tests, the training and the table, one after the other.

    Raises:
        OSError, ValueError: the sounds or the model are missing, or the recipe does not fit them.
    """
    deadline = time.monotonic() + 60 * options.minutes
    import torch

    from ..teacher import read_teacher
    from ..train import build_trainer

    output, parts = options.output, options.only or PARTS
    output.mkdir(parents=True, exist_ok=True)
    values = {
        "data.data_dir": options.sounds,
        "data.train.scene_recipe": "default_model_48_gpu",
        # A single endless epoch, as workers are restarted after each epoch.
        "data.train.scenes": 10**6,
        "schedule.muon_learning_rate": 0.01,
        "training.learning_rate": 1e-3,
        "training.warmup_steps": 60,
        "training.per_device_train_batch_size": 128,
        "training.dataloader_num_workers": max((os.cpu_count() or 1) - 1, 1),
        "training.bf16": json.dumps(torch.accelerator.is_available()),
        "training.output_dir": output / "run",
        "training.eval_strategy": "no",
        "training.save_strategy": "no",
        # Progress depends on the clock, not on the number of updates.
        "training.disable_tqdm": "true",
    }
    recipe = read_recipe(options.recipe, [*(f"{key}={value}" for key, value in values.items()), *options.override])
    if recipe.peft:
        raise ValueError(f"the recipe {options.recipe} trains an adapter: set peft to null to train the whole model")
    training = bool({"training", "table"} & set(parts))
    if "tests" in parts:
        if training:
            # Report anything missing before spending time.
            sounds_from_folder(options.sounds)
            read_teacher(recipe)
        gpu_tests(output / "tests.txt")
    if not training:
        return
    trainer = build_trainer(recipe)
    if "training" in parts:
        train_until(trainer, deadline - (TABLE_SECONDS if "table" in parts else 0), options.updates)
        save(trainer, recipe, output)
    if "table" in parts:
        rows = []
        for row in throughput(trainer):
            rows.append(row.cells())
            print(*rows[-1], sep="  ", flush=True)
            write_atomically(output / "table.md", markdown_table(["what", "ms", "per second", ""], rows) + "\n")


def train_until(trainer: SELDTrainer, deadline: float, updates: int | None) -> None:
    """Train as long as time allows, leaving some for the evaluation, or for a number of updates.

    Args:
        deadline: the end, in seconds of the monotonic clock.

    Raises:
        ValueError: no time is left.
    """
    import torch
    from transformers import TrainerCallback

    begin, end = time.monotonic(), deadline - EVALUATION_SECONDS
    if end <= begin and not updates:
        raise ValueError(f"no time is left to train, {begin - end:.0f} s too little: increase --minutes")
    warmup = max(trainer.args.warmup_steps, 1)
    falling = FALLING * max(end - begin, 1.0)

    def rate(step: int) -> float:
        return max(min(1.0, (step + 1) / warmup, (end - time.monotonic()) / falling), 0.0)

    class StopInTime(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= time.monotonic() > end

    trainer.args.max_steps = updates or 10**6
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), rate)
    trainer.add_callback(StopInTime())
    trainer.train()


def save(trainer: SELDTrainer, recipe: Recipe, output: Path) -> None:
    """Save the model in half precision, and its scores on the validation scenes."""
    from .default_model import lighten

    trainer.save_model(str(output / "model"))
    lighten(output / "model")
    write_recipe(recipe, output / "model" / "recipe.yaml", names_only=True)
    print(f"{trainer.state.global_step} updates of {trainer.args.train_batch_size} scenes each", flush=True)
    trainer.save_metrics("eval", trainer.evaluate())
    print(trainer.score_table(), flush=True)


@program("python -m training.experiments.gpu")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `python -m training.experiments.gpu`."""
    parser = CommandParser(
        prog="python -m training.experiments.gpu",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="compress sounds for transfer")
    packing.add_argument("sounds", type=Path, help="isolated sounds, one folder per class")
    packing.add_argument("folder", type=Path, help="folder to write them to")
    running = commands.add_parser("run", help="test, measure and train")
    add = running.add_argument
    add("sounds", type=Path, help="isolated sounds, one folder per class")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for all results")
    add("--minutes", type=number(above=0), default=9.0, help="total time (default: %(default)g)")
    add("--updates", type=whole_number(1), metavar="N", help="train for N updates at most (default: as many as fit)")
    add("--recipe", default="default_model", help="recipe of a training on rendered scenes (default: %(default)s)")
    add("--only", nargs="+", choices=PARTS, help="parts to run (default: all)")
    add("--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the recipe")
    options = parser.parse_args(arguments)
    require("accelerate", "datasets", "peft", "pyarrow")
    if options.command == "pack":
        pack(options.sounds, options.folder)
    else:
        run(options)


if __name__ == "__main__":
    sys.exit(main())
