"""Makes the example recordings of the project, with their ground truth and credits, from isolated sounds.

`python -m training.experiments.example_scene --sounds DIR` writes them to the folder `example`; DIR also holds
SOURCES.tsv, with the licence and the author of each sound. Run `python -m spaces_demo.precompute` afterwards.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

import spaces_demo
from datasets_scripts.scenes.recipe import EventRecipe, NoiseRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.rooms import Room
from datasets_scripts.scenes.scene_set import Scene, SceneEvent, SceneSet
from datasets_scripts.scenes.sounds import sounds_from_folder
from modeling_pseldnet.events import vector_to_direction, wrap_azimuth, write_csv
from modeling_pseldnet.files import atomic_path, write_atomically
from modeling_pseldnet.tools.cli import CommandParser, program


EXAMPLE = Path(spaces_demo.__file__).with_name("example")
SECONDS = 16.0
Source = tuple[str, float, float | None, float]
# For each recording, the seed of its room and its sources: sound, onset (s), azimuth (degrees; None if it moves), and
# level above the noise (dB). None of the sounds was used to train the model that comes with the package. Most were
# chosen because it recognises them when they are played alone, which makes the scenes easier than average: see the
# model's card.
SCENES: dict[str, tuple[int, list[Source]]] = {
    "scene": (
        0,
        [
            ("door/homedecor-homedecor-door-open.ogg", 0.6, 75.0, 26.0),
            ("footsteps/minetest-default-hard-footstep-2.ogg", 1.8, 60.0, 26.0),
            ("footsteps/flare-step-echo2.ogg", 2.5, 45.0, 26.0),
            ("footsteps/minetest-default-dirt-footstep-1.ogg", 3.3, 30.0, 26.0),
            ("footsteps/flare-step-echo3.ogg", 4.0, 15.0, 26.0),
            ("footsteps/minetest-default-hard-footstep-2.ogg", 4.9, 0.0, 26.0),
            ("piano/tonejsinstr-piano-a2.ogg", 5.6, -60.0, 24.0),
            ("wind_instrument/tonejsinstr-flute-c5.ogg", 7.2, None, 24.0),
            ("drum/bjapacific-bja-pacific-bd-05.ogg", 11.4, 120.0, 26.0),
            ("drum/sonicpi-drum-tom-lo-soft.ogg", 12.1, 120.0, 26.0),
            ("drum/bjapacific-bja-pacific-tm2-06.ogg", 13.0, 120.0, 26.0),
            ("plucked_string/tonejsinstr-guitar-acoustic-a4.ogg", 13.2, -130.0, 24.0),
            ("drum/bjapacific-bja-pacific-sn4-06.ogg", 14.2, 120.0, 26.0),
        ],
    ),
    "band": (
        37,
        [
            ("piano/tonejsinstr-piano-ds2.ogg", 0.5, 100.0, 24.0),
            ("drum/sonicpi-drum-tom-lo-soft.ogg", 1.2, -70.0, 28.0),
            ("drum/bjapacific-bja-pacific-sn4-06.ogg", 2.2, -70.0, 26.0),
            ("plucked_string/tonejsinstr-harp-b5.ogg", 2.6, -140.0, 24.0),
            ("drum/sonicpi-tabla-tas3.ogg", 3.2, -70.0, 26.0),
            ("wind_instrument/tonejsinstr-trombone-gs2.ogg", 4.6, 170.0, 24.0),
            ("piano/tonejsinstr-piano-a5.ogg", 5.4, 100.0, 24.0),
            ("drum/sonicpi-drum-tom-lo-soft.ogg", 6.4, -70.0, 26.0),
            ("drum/bjapacific-bja-pacific-tm2-06.ogg", 7.4, -70.0, 26.0),
            ("wind_instrument/tonejsinstr-flute-c5.ogg", 8.8, 10.0, 24.0),
            ("plucked_string/tonejsinstr-guitar-acoustic-as2.ogg", 9.6, -140.0, 24.0),
            ("drum/bjapacific-bja-pacific-bd-05.ogg", 10.6, -70.0, 26.0),
            ("drum/bjapacific-bja-pacific-sn4-06.ogg", 11.6, -70.0, 26.0),
            ("piano/tonejsinstr-piano-e4.ogg", 11.8, 100.0, 24.0),
        ],
    ),
}
RECIPE = SceneRecipe(
    scene_seconds=SECONDS,
    test_fraction=0.15,
    validation_fraction=0.1,
    rooms=RoomRecipe(number=1, rt60=(0.35, 0.35), positions=72, paths=4, path_step=0.1, elevation=(-25.0, 35.0)),
    events=EventRecipe(),
    noise=NoiseRecipe(level=(-60.0, -60.0)),
)


def nearest_position(room: Room, azimuth: float) -> int:
    """Return the static position whose azimuth is nearest to `azimuth` in degrees."""
    choices = room.choices(moving=False)
    found = np.array([vector_to_direction(room.paths[path][0])[0] for path in choices])
    return choices[int(np.abs(wrap_azimuth(found - azimuth)).argmin())]


def longest_path(room: Room) -> int:
    return max(room.choices(moving=True), key=lambda path: len(room.paths[path]))


def make_scene(scene_set: SceneSet, sources: Sequence[Source]) -> Scene:
    """Make a scene of the given sources; a moving source travels the whole of the room's longest path.

    Raises:
        ValueError: a sound was used in training, or is too short for an event.
    """
    sounds, recipe = scene_set.sounds, scene_set.recipe
    trained_on = np.concatenate(sounds.numbers_by_class("train", recipe.test_fraction, recipe.validation_fraction))
    held_out = set(map(int, scene_set.sound_numbers())).difference(trained_on.tolist())
    numbers = {sounds.sounds[number].name: number for number in held_out}
    if missing := [name for name, *_ in sources if name not in numbers]:
        raise ValueError(f"these sounds are not held out, or too short: {', '.join(missing)}")
    room, rate = scene_set.room(0), recipe.sampling_rate
    events = []
    for track, (name, start, azimuth, snr) in enumerate(sources):
        sound = sounds.sounds[numbers[name]]
        path = longest_path(room) if azimuth is None else nearest_position(room, azimuth)
        progress = (0.0, len(room.paths[path]) - 1.0)
        first = round(start * rate)
        length = min(sound.length, recipe.scene_samples - first)
        events.append(SceneEvent(numbers[name], sound.class_id, track, first, length, 0, snr, path, progress))
    return Scene(0, 0, recipe.noise.level[0], 0.0, 0.0, tuple(events))


def credits_text(table: Path) -> str:
    """Return the credits of the sounds.

    Raises:
        ValueError: a sound is not in the table, or may not be redistributed.
    """
    with table.open(encoding="utf-8") as file:
        rows = {row.get("path"): row for row in csv.DictReader(file, delimiter="\t")}
    lines = []
    for name in dict.fromkeys(name for _, sources in SCENES.values() for name, *_ in sources):
        row = rows.get(name, {})
        if absent := sorted({"attribution", "source_collection", "licence", "redistributable"} - row.keys()):
            raise ValueError(f"{table} has no {absent[0]} of {name}, so it is unknown whether it may be redistributed")
        if row["redistributable"] != "yes":
            raise ValueError(f"{name} may not be redistributed: choose another sound")
        lines.append(f"- `{name}`: {row['attribution']}; {row['source_collection']}, {row['licence']}")
    return f"""# Credits of the examples

Each `.flac` is a simulated scene of first-order ambisonics (AmbiX, 24 kHz), made by
`training/experiments/example_scene.py`; the events in it are listed in the `.csv` of its name (frame of 100 ms, class,
track, azimuth and elevation in degrees). The sounds in it were downmixed, resampled, cut, scaled and placed in a
simulated room. It is under CC BY-SA 4.0, as some of them ask for that.

{chr(10).join(lines)}
"""


@program("python -m training.experiments.example_scene")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(prog="python -m training.experiments.example_scene", description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", required=True, type=Path, help="folder of isolated sounds with SOURCES.tsv")
    parser.add_argument("--output", default=EXAMPLE, type=Path, help="default: %(default)s")
    options = parser.parse_args(arguments)
    from datasets_scripts.scenes.render_torch import SceneBank

    sounds = sounds_from_folder(options.sounds, RECIPE.sampling_rate).measure()
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / "CREDITS.md", credits_text(options.sounds / "SOURCES.tsv"))
    for name, (seed, sources) in SCENES.items():
        scene_set = SceneSet(RECIPE, sounds, seed=seed, split="all")
        scene = make_scene(scene_set, sources)
        mixture = SceneBank(scene_set).render([scene])[0].numpy()
        with atomic_path(options.output / f"{name}.flac") as temporary:
            soundfile.write(temporary, mixture.T, RECIPE.sampling_rate, subtype="PCM_16")
        write_csv(options.output / f"{name}.csv", scene_set.labels(scene))


if __name__ == "__main__":
    sys.exit(main())
