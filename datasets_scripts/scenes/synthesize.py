"""Makes labelled spatial scenes from isolated sounds, on several cores or a Ray cluster."""

import argparse
import errno
import io
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from datasets_scripts.scenes.measured_rooms import is_same_digest
from datasets_scripts.scenes.recipe import FOLDERS, read_scene_recipe, scene_recipe_from_dict, scene_recipe_text
from datasets_scripts.scenes.render import Renderer
from datasets_scripts.scenes.scene_set import SceneSet, is_same_bank, measured_as_told, scene_set_from_dict
from datasets_scripts.scenes.sounds import SPLITS, SoundBank, sounds_from_dataset, sounds_from_folder
from datasets_scripts.scenes.verify import verify
from datasets_scripts.scenes.worker_pool import in_workers
from modeling_pseldnet.events import read_csv, write_csv
from modeling_pseldnet.files import atomic_path, write_atomically
from modeling_pseldnet.tools.cli import CommandParser, program, whole_number
from modeling_pseldnet.tools.csv_folders import FORMS
from modeling_pseldnet.tools.extras import require
from modeling_pseldnet.tools.labels import read_numbered_labels
from modeling_pseldnet.tools.ray_pool import map_on_ray


# Fold in the file names of each split, as in the published scenes.
FOLDS = {"train": 0, "all": 0, "test": 1, "validation": 2}
# Scenes of one room that a worker makes in one go with the same responses.
CHUNK = 32
VERIFIED_SCENES = 20

EXAMPLE = """\
examples:
  pseldnet-synthesize data/train200_ov3 --sounds sounds/ --scenes 200 --workers 8 --verify
  pseldnet-synthesize data/test20_ov3 --sounds sounds/ --scenes 20 --formats foa mic sum
  pseldnet-synthesize data/train200_ov3 --plot 0 1

sounds/ has one folder of audio files per class. An optional table SOURCE_IDS.tsv beside them says which clips belong
to the same recording (columns path, source_id), and which recordings are always in train, validation or test (column
split). After an interruption, run the same command again to continue. To read the scenes, use the builder
SyntheticSELD with data_dir="data".
"""


class DiskFullError(OSError):
    """No space left for scenes."""


@dataclass(frozen=True)
class SceneFolder:
    """The files of a scene set, in the layout of the published synthetic scenes.

    `path` holds `foa`, `mic` or `sum` (FLAC), `metadata` (CSV) and a manifest; its parent holds the class list.
    """

    path: Path
    formats: tuple[str, ...] = ("foa",)

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def scene_list(self) -> Path:
        return self.path / "scenes.jsonl"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    def files(self, scene_set: SceneSet, index: int) -> dict[str, Path]:
        """Return the files of a scene by format, and its `"metadata"`, which is written last."""
        name = f"fold{FOLDS[scene_set.split]}_room{index % scene_set.number_of_rooms}_mix{index:06d}"
        files = {form: self.path / form / f"{name}.flac" for form in self.formats}
        return {**files, "metadata": self.path / "metadata" / f"{name}.csv"}

    def missing(self, scene_set: SceneSet, indices: Iterable[int]) -> list[int]:
        """List the scenes that are missing or incomplete."""
        there = {path for form in (*self.formats, "metadata") for path in (self.path / form).glob("[!.]*")}
        return [index for index in indices if not there.issuperset(self.files(scene_set, index).values())]

    def made(self) -> list[int]:
        """List the scenes that exist."""
        found = (path.stem.rpartition("mix")[2] for path in (self.path / "metadata").glob("[!.]*.csv"))
        return sorted({int(number) for number in found if number.isdecimal()})

    def remove_unfinished(self, scenes: Iterable[dict[str, Path]] = ()) -> None:
        """Remove the temporary files of a killed run, and the audio of those scenes that have no metadata."""
        for form in (*FORMS, "metadata", "."):
            for path in (self.path / form).glob(".*.tmp*"):
                path.unlink(missing_ok=True)
        for files in scenes:
            if not files["metadata"].exists():
                for path in files.values():
                    path.unlink(missing_ok=True)


class SceneMaker:
    """Render scenes of a set and write them; each worker has one."""

    def __init__(self, scene_set: SceneSet, folder: SceneFolder):
        self.scene_set, self.folder = scene_set, folder

    @cached_property
    def renderer(self) -> Renderer:
        """The renderer, which cannot be sent to a worker."""
        return Renderer(self.scene_set)

    def __call__(self, indices: list[int]) -> int:
        """Make the scenes and return their number."""
        for index in indices:
            self._make_scene(index)
        return len(indices)

    def _make_scene(self, index: int) -> None:
        scene_set = self.scene_set
        scene = scene_set.scene(index)
        files = self.folder.files(scene_set, index)
        for form in self.folder.formats:
            audio = self.renderer.dry(scene) if form == "sum" else self.renderer.scene(scene, form)
            _write_flac(files[form], audio, scene_set.recipe.sampling_rate)
        with _naming_full_disk(files["metadata"]):
            write_csv(files["metadata"], scene_set.labels(scene))


def synthesize(
    scene_set: SceneSet,
    folder: SceneFolder,
    count: int,
    workers: int = 1,
    ray_address: str | None = None,
) -> int:
    """Make those of the first `count` scenes that `folder` does not hold yet; return how many were made.

    The files are identical for any number of workers, with or without Ray.

    Args:
        workers: processes on this machine, or actors on the cluster.
        ray_address: `"local"` or the address of a Ray cluster that sees the same folders.

    Raises:
        ValueError: the folder holds scenes of another recipe, seed, split or sounds, a set beside it is for another
            split but of the same sounds, or a room or format cannot exist.
        DiskFullError: there is no space left; finished scenes are kept.
    """
    # Fail now rather than after hours.
    for form in folder.formats:
        if form != "sum":
            scene_set.recipe.check_array(form)
    _refuse_shared_sounds(scene_set, folder)
    for number in range(min(count, scene_set.number_of_rooms)):
        scene_set.room(number)
    for form in (*folder.formats, "metadata"):
        (folder.path / form).mkdir(parents=True, exist_ok=True)
    folder.remove_unfinished()
    with _naming_full_disk(folder.manifest):
        _write_classes(scene_set, folder)
        _write_manifest(scene_set, folder)
        write_atomically(folder.recipe, scene_recipe_text(scene_set.recipe))
    todo = folder.missing(scene_set, range(count))
    chunks = list(_chunks(scene_set, todo))
    progress = tqdm(total=count, initial=count - len(todo), unit="scene", desc=folder.path.name)
    try:
        with progress, closing(_run(scene_set, folder, chunks, workers, ray_address)) as makers:
            for made in makers:
                progress.update(made)
    finally:
        # Terminated workers may have left temporary files, and audio without labels, which cannot be read as a set.
        folder.remove_unfinished(folder.files(scene_set, index) for index in folder.missing(scene_set, todo))
    with _naming_full_disk(folder.scene_list):
        _write_scene_list(scene_set, folder)
    return len(todo)


def _chunks(scene_set: SceneSet, indices: list[int]) -> Iterator[list[int]]:
    """Yield groups of scenes that share a room, so that its responses are computed once."""
    by_room = defaultdict(list)
    for index in indices:
        by_room[index % scene_set.number_of_rooms].append(index)
    for found in by_room.values():
        for first in range(0, len(found), CHUNK):
            yield found[first : first + CHUNK]


def _run(scene_set, folder, chunks: list[list[int]], workers: int, ray_address: str | None) -> Iterator[int]:
    if ray_address is not None:
        yield from map_on_ray(SceneMaker, (scene_set, folder), chunks, workers, ray_address)
    elif workers <= 1:
        yield from map(SceneMaker(scene_set, folder), ([index] for chunk in chunks for index in chunk))
    else:
        yield from in_workers(SceneMaker(scene_set, folder), chunks, workers, in_order=False)


def _refuse_shared_sounds(scene_set: SceneSet, folder: SceneFolder) -> None:
    """Check that no set beside this one that is read as another split draws from the same sounds."""
    sounds = (scene_set.sounds.sounds[number] for number in scene_set.sound_numbers())
    own = {(sound.name, sound.digest) for sound in sounds}
    for path in sorted({manifest.parent for manifest in folder.path.parent.glob("*/manifest.json")} - {folder.path}):
        if not SceneFolder(path).made():
            continue
        split, drawn = _drawn_sounds(path)
        if FOLDS[split] != FOLDS[scene_set.split] and (shared := sorted(own & drawn)):
            raise ValueError(
                f"{path} (split {split}) has {len(shared)} sounds of split {scene_set.split}, such as"
                f" {shared[0][0]}: make both sets from the same sounds with the same test_fraction and"
                " validation_fraction, each for its split, or choose another parent folder"
            )


def _drawn_sounds(path: Path) -> tuple[str, set[tuple[str, str]]]:
    """Return the split of a set, and names and digests of its sounds; none if its manifest is damaged or older."""
    try:
        values = _read_manifest(path)
        files = values["sounds"]["files"]
        return values["split"], {(files[number][0], files[number][4]) for number in values["drawn"]}
    except (ValueError, LookupError, TypeError):
        return "all", set()


def _write_manifest(scene_set: SceneSet, folder: SceneFolder) -> None:
    told = _as_json(scene_set.describe())
    made = [path.name for path in (folder.path / "metadata").glob("[!.]*")]
    if folder.manifest.exists():
        known = _read_manifest(folder.path)
        differing = [name for name in told if not _is_same(name, known.get(name), told[name])]
        if differing and made:
            raise ValueError(
                f"{folder.path} holds scenes that differ in {' and '.join(differing)} (see "
                f"{folder.manifest.name}): choose another folder or delete this one"
            )
    if others := [name for name in made if not name.startswith(f"fold{FOLDS[scene_set.split]}_")]:
        raise ValueError(f"{folder.path} holds scenes of another split, such as {others[0]}: choose another folder")
    drawn = scene_set.sound_numbers().tolist()
    write_atomically(folder.manifest, json.dumps({**told, "drawn": drawn}, ensure_ascii=False))


def _is_same(name: str, known, told) -> bool:
    """Whether two values of a manifest agree; `known` may lack details, if an earlier version wrote it.

    The contents of folders count, and not where they lie.
    """
    if name == "recipe":
        return _without_folders(asdict(scene_recipe_from_dict(known))) == _without_folders(told)
    if name == "responses":
        return is_same_digest(known, told)
    return is_same_bank(known, told) if name in ("sounds", "interference") else known == told


def _without_folders(recipe: dict) -> dict:
    recipe = _as_json(recipe)
    for section, name in FOLDERS:
        recipe[section][name] = recipe[section][name] is not None
    return recipe


def _as_json(values: dict) -> dict:
    return json.loads(json.dumps(values))


def _read_manifest(path: Path) -> dict:
    """Read and check the manifest of a folder made by `synthesize`."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise ValueError(f"no {manifest}: nothing was synthesised there; to make scenes, give --scenes and --sounds")
    try:
        values = json.loads(manifest.read_text(encoding="utf-8"))
        scene_recipe_from_dict(values["recipe"])
        split, seed, sounds = values["split"], values["seed"], values["sounds"]
        names, numbers = [sounds["source"], *sounds["class_names"]], [seed]
        for name, recording, *measured in sounds["files"]:
            names += [name, recording]
            numbers += measured[:2]
        whole = sounds["files"] and sounds["class_names"] and split in SPLITS and seed >= 0
        if not (whole and {*map(type, names)} == {str} and {*map(type, numbers)} == {int}):
            raise ValueError("a value is missing or has the wrong type")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{manifest} is damaged ({reason}): delete its folder") from None
    return values


def scene_set_of(path: Path, sounds: SoundBank | None = None) -> SceneSet:
    """Rebuild the scene set of a folder made by `synthesize`, with its original sounds or with `sounds`.

    Raises:
        ValueError: there is no manifest, or the sounds are missing or differ.
    """
    values = _read_manifest(path)
    if sounds is None:
        source = values["sounds"]["source"]
        # The name of a file has its class folder; that of a dataset's row has none.
        if "/" not in values["sounds"]["files"][0][0] or not Path(source).is_dir():
            raise ValueError(f"the scenes of {path} were made from sounds in {source}: give --sounds or --dataset too")
        sounds = sounds_from_folder(source, scene_recipe_from_dict(values["recipe"]).sampling_rate)
    return scene_set_from_dict(values, sounds)


def _write_classes(scene_set: SceneSet, folder: SceneFolder) -> None:
    """Write `cls_indices_<split>.tsv`: index, AudioSet id (unknown, hence `-`), label, number and seconds of sounds.

    Raises:
        ValueError: other sets in the parent folder have already written one, with other classes, or another number of
            them for the same split.
    """
    bank = scene_set.sounds
    path, names = folder.path.parent / f"cls_indices_{scene_set.split}.tsv", dict(enumerate(bank.class_names))
    for other in sorted(path.parent.glob("cls_indices*.tsv")):
        known = read_numbered_labels(other)
        # The two unions differ if a class has two names.
        if known | names != names | known or (other == path and known != names):
            raise ValueError(
                f"{other} lists the classes of other sets: write this set under another parent folder, or delete those"
                " sets and the list"
            )
    lengths: list[list[int]] = [[] for _ in bank.class_names]
    for number in scene_set.sound_numbers():
        lengths[bank.sounds[number].class_id].append(bank.sounds[number].length)
    rows = (
        f"{class_id}\t-\t{name}\t{len(found)}\t{sum(found) / bank.sampling_rate:.1f}\n"
        for class_id, (name, found) in enumerate(zip(bank.class_names, lengths, strict=True))
    )
    write_atomically(path, "".join(rows))


def _write_scene_list(scene_set: SceneSet, folder: SceneFolder) -> None:
    """Write one JSON object per scene: its room, and its events with the sounds they play."""
    lines = []
    for index in folder.made():
        scene = scene_set.scene(index)
        # Leave out fields at their defaults, which most scenes do not use.
        left_out = [entry.name for entry in fields(scene) if getattr(scene, entry.name) == entry.default]
        values = {name: value for name, value in asdict(scene).items() if name not in left_out}
        values["room"] = {"number": values["room"], **scene_set.room(values["room"]).describe()}
        for bank, events in (
            (scene_set.sounds, values["events"]),
            (scene_set.interference, values.get("interference")),
        ):
            for event in events or ():
                event["sound"] = bank.sounds[event["sound"]].name
        name = folder.files(scene_set, index)["metadata"].stem
        lines.append(json.dumps({"name": name, **values}, ensure_ascii=False) + "\n")
    write_atomically(folder.scene_list, "".join(lines))


def _write_flac(path: Path, audio: np.ndarray, sampling_rate: int) -> None:
    """Write (channels, samples) as 16-bit FLAC, under a temporary name first."""
    encoded = io.BytesIO()
    soundfile.write(encoded, audio.T, sampling_rate, format="FLAC", subtype="PCM_16")
    with _naming_full_disk(path), atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getvalue())


@contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = "no space left: free some and run the same command again; finished scenes are kept"
        raise DiskFullError(error.errno, message, str(path)) from None


@program("pseldnet-synthesize", interrupted="run the same command again to continue")
def main(arguments: list[str] | None = None) -> int:
    """Run the program `pseldnet-synthesize`; return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.scenes is None and not (options.verify or options.plot is not None):
        parser.error("nothing to do: give --scenes with --sounds or --dataset, or --verify or --plot")
    if options.scenes is None:
        of_making = ("recipe", "seed", "split", "formats", "workers", "ray")
        parser.refuse(options, of_making, "only for making scenes: add --scenes")
    if options.dataset is None:
        of_rows = ("dataset_split", "audio_column", "label_column", "recording_column")
        parser.refuse(options, of_rows, "only with --dataset")
    try:
        return _run_program(options)
    except BrokenProcessPool:
        message = "a worker process died, perhaps out of memory: run the command again with fewer --workers"
        raise ValueError(message) from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="pseldnet-synthesize",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder of this set, inside the folder that holds all sets and the list of classes")
    add("--scenes", type=whole_number(1), metavar="N", help="make scenes until there are N")
    sounds = parser.add_mutually_exclusive_group()
    sounds.add_argument("--sounds", metavar="DIR", help="isolated sounds, with one folder per class")
    sounds.add_argument("--dataset", metavar="NAME", help="isolated sounds: an audio dataset on the Hub or on disk")
    add("--dataset-split", default="train", metavar="SPLIT", help="split of the dataset (default: train)")
    add("--audio-column", default="audio", metavar="NAME", help="column with the audio (default: audio)")
    add("--label-column", default="label", metavar="NAME", help="column with a ClassLabel or strings (default: label)")
    add("--recording-column", metavar="NAME", help="column that says which rows belong to the same recording")
    add("--recipe", default="default", metavar="YAML", help="file or name: default (one minute), on_the_fly (10 s), …")
    add("--seed", type=whole_number(), default=0, help="random seed (default: 0)")
    add("--split", choices=SPLITS, help="recordings to use (default: what the folder's name begins with, else all)")
    add("--formats", nargs="+", choices=FORMS, default=["foa"], help="default: foa; sum is the dry mix")
    add("--workers", type=whole_number(1), default=1, metavar="N", help="number of processes (default: 1)")
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help="run on the Ray cluster at ADDRESS, or a local one")
    add("--verify", action="store_true", help="compare the direction of isolated sources with their labels")
    add("--plot", nargs="*", type=whole_number(), metavar="N", help="draw scenes (default: 0) and the set as a whole")
    return parser


def _run_program(options: argparse.Namespace) -> int:
    folder = SceneFolder(options.folder.absolute(), tuple(dict.fromkeys(options.formats)))
    if absent := set(options.plot or ()) - {*folder.made(), *range(options.scenes or 0)}:
        raise ValueError(f"no scene {min(absent)} to plot in {folder.path}: make more with --scenes, or plot another")
    if options.scenes is not None:
        recipe = read_scene_recipe(options.recipe)
        sounds = _measure(_open_sounds(options, recipe.sampling_rate), folder, options.workers)
        split = options.split or next((name for name in SPLITS if folder.path.name.startswith(name)), "all")
        scene_set = SceneSet(recipe, sounds, options.seed, split)
        synthesize(scene_set, folder, options.scenes, options.workers, options.ray)
    else:
        rate = scene_recipe_from_dict(_read_manifest(folder.path)["recipe"]).sampling_rate
        given = _open_sounds(options, rate) if options.sounds or options.dataset else None
        scene_set = scene_set_of(folder.path, given)
    return _report(options, scene_set, folder)


def _open_sounds(options: argparse.Namespace, sampling_rate: int) -> SoundBank:
    if options.sounds:
        return sounds_from_folder(options.sounds, sampling_rate)
    if not options.dataset:
        raise ValueError("no sounds: give --sounds DIR, or --dataset NAME")
    datasets = require("datasets")
    if (Path(options.dataset) / "state.json").is_file():
        dataset = datasets.load_from_disk(options.dataset)
    else:
        try:
            dataset = datasets.load_dataset(options.dataset, split=options.dataset_split)
        except datasets.exceptions.DatasetGenerationError as error:
            raise ValueError(f"{options.dataset}: {error.__cause__ or error}") from None
    columns = options.audio_column, options.label_column, options.recording_column
    # Name a folder independently of the working directory.
    source = os.path.abspath(options.dataset) if Path(options.dataset).exists() else options.dataset
    return sounds_from_dataset(dataset, sampling_rate, *columns, source=source)


def _measure(sounds: SoundBank, folder: SceneFolder, workers: int) -> SoundBank:
    """Measure a bank, or take the measurements from the folder's manifest if it has the same sounds at this rate."""
    if folder.manifest.exists():
        with suppress(ValueError):
            known = _read_manifest(folder.path)
            if scene_recipe_from_dict(known["recipe"]).sampling_rate == sounds.sampling_rate:
                told = measured_as_told(sounds, known["sounds"])
                # Recordings and their splits come from the folder of sounds, not from the manifest.
                pairs = zip(told.sounds, sounds.sounds, strict=True)
                own = (replace(sound, recording=found.recording, split=found.split) for sound, found in pairs)
                return replace(told, sounds=tuple(own))
    return sounds.measure(workers)


def _report(options: argparse.Namespace, scene_set: SceneSet, folder: SceneFolder) -> int:
    status = 0
    indices = folder.made()
    if options.verify:
        spread = indices[:: max(1, len(indices) // VERIFIED_SCENES)][:VERIFIED_SCENES]
        labelled = (
            (scene_set.scene(index), read_csv(folder.files(scene_set, index)["metadata"]))
            for index in tqdm(spread, desc="verify", unit="scene")
        )
        verification = verify(scene_set, labelled)
        print(f"angle between intensity vector and label, {len(spread)} scenes of {folder.path}")
        print(verification)
        status = 0 if verification.passed else 1
    if options.plot is not None:
        from datasets_scripts.scenes.plot import plot_scene, plot_set

        pictures = folder.path / "pictures"
        pictures.mkdir(exist_ok=True)
        for index in options.plot or [0]:
            print(plot_scene(scene_set, index, pictures / f"scene{index:06d}.png"))
        print(plot_set(scene_set, indices, pictures / "set.png"))
    return status


if __name__ == "__main__":
    sys.exit(main())
