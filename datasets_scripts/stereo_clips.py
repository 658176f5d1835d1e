"""Make stereo clips as of DCASE 2025 Task 3 (arXiv 2507.12042) from labelled first-order ambisonics; audio only."""

import random
import re
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from datasets_scripts.recordings import (
    Part,
    find_class_lists,
    find_recordings,
    read_audio_header,
    read_class_lists,
)
from modeling_pseldnet.ambisonics import channel_rotation, yaw_rotation
from modeling_pseldnet.audio import Recording
from modeling_pseldnet.events import FRAME_SECONDS, Events, fold_azimuth, read_csv, wrap_azimuth, write_csv
from modeling_pseldnet.files import atomic_path
from modeling_pseldnet.tools.cli import CommandParser, program, whole_number


CLIP_FRAMES = 50
OFFICIAL_SEED = 20250305
# A clip with larger samples is left out, as in the challenge.
LARGEST_SAMPLE = 0.9999
# Size of the video picture in pixels, and its horizontal field of view in degrees.
SCREEN, FIELD_OF_VIEW = (640, 360), 100.0
PARTS = (
    Part(audio=("foa_dev",), labels=("metadata_dev",), splits={"challenge": ".+"}, optional=("challenge",)),
    Part(
        audio=("foa",),
        labels=("metadata",),
        splits={"validation": "(.*/)?fold2_.+", "synthetic": ".+"},
        optional=("validation", "synthetic"),
        in_subsets=True,
    ),
)


def to_stereo(waveform: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate W, Y, Z, X (4, samples) and return left and right (2, samples): two cardioids facing the sides.

    Args:
        degrees: counter-clockwise rotation of the sound field; the viewer faces what was at azimuth -`degrees`.
    """
    turned = channel_rotation(yaw_rotation(degrees)) @ waveform
    return np.stack([turned[0] + turned[1], turned[0] - turned[1]])


@cache
def screen_table() -> np.ndarray:
    """Return whether a camera facing forward sees each direction, (361, 181).

    Azimuths are whole degrees from -180°, elevations from -90°. As in the challenge's table, a direction is seen if
    any pixel of the picture uses it when the picture is interpolated bilinearly from a 360 × 180 image of the sphere.
    """
    across = np.tan(np.radians(FIELD_OF_VIEW / 2))
    down = across * SCREEN[1] / SCREEN[0]
    x, y = np.meshgrid(np.linspace(-across, across, SCREEN[0]), np.linspace(down, -down, SCREEN[1]))
    column = 180 + np.degrees(np.arctan(x)) - 0.5
    row = 90 - np.degrees(np.arctan2(y, np.hypot(x, 1))) - 0.5
    seen = np.zeros((361, 181), dtype=bool)
    for near_column in (np.floor(column), np.ceil(column)):
        for near_row in (np.floor(row), np.ceil(row)):
            # Column 180 is the front, and azimuth falls from left to right; row 90 is the horizon.
            seen[(360 - near_column).astype(int).ravel(), (180 - near_row).astype(int).ravel()] = True
    return seen


def on_screen(azimuth, elevation) -> np.ndarray:
    """Whether a camera facing forward, 100° wide, sees directions in degrees, which are rounded to whole degrees."""
    azimuth, elevation = np.rint(wrap_azimuth(azimuth)).astype(int), np.rint(elevation).astype(int)
    return screen_table()[azimuth + 180, np.clip(elevation, -90, 90) + 90]


def clip_events(events: Events, start_frame: int, degrees: float) -> Events:
    """Return the events of a clip as its viewer perceives them: folded to the front, on screen or not."""
    events = events[(events.frame >= start_frame) & (events.frame < start_frame + CLIP_FRAMES)]
    azimuth = wrap_azimuth(events.azimuth + degrees)
    return events.replace(
        frame=events.frame - start_frame,
        azimuth=fold_azimuth(azimuth),
        elevation=np.zeros(len(events)),
        onscreen=on_screen(azimuth, events.elevation),
    )


def of_challenge(path: Path) -> bool:
    """Whether a file lies in folders of the challenge, where folds 1 and 2 are synthetic training scenes."""
    return not {"foa_dev", "metadata_dev"}.isdisjoint(path.parts)


def clip_name(audio: Path, degrees: int, start_frame: int) -> str:
    """Name a clip as the challenge does; folds 0 and 1 (train and test) of synthetic sets become folds 3 and 4."""
    recording = audio.stem
    if not of_challenge(audio):
        recording = re.sub(r"^fold([01])_", lambda fold: f"fold{int(fold[1]) + 3}_", recording)
    return f"{recording}_deg{degrees:03d}_start{start_frame:04d}"


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return pairs of audio file and labels below a folder of ambisonics, in order, as the builders find them.

    Fold 2 of synthetic sets, which is for validation, is left out.

    Raises:
        FileNotFoundError: there are none, or one lacks its labels.
        ValueError: two files claim to be the same recording.
    """
    found = find_recordings(folder, PARTS)
    kept = [recording for split in ("challenge", "synthetic") for recording in found.get(split, [])]
    return sorted((recording.audio, recording.labels) for recording in kept)


def make_clips(folder: Path, output: Path, num_clips: int, seed: int = OFFICIAL_SEED) -> int:
    """Write random clips in the layout of the challenge; return how many were left out as too loud.

    Each clip is a different combination of a recording (drawn in proportion to its length), a first frame and a
    viewing direction. Class lists, `cls_indices*.tsv`, are copied.

    Raises:
        FileNotFoundError: the folder holds no ambisonics, or some without labels.
        ValueError: a recording cannot be used, labels lack distances, there is too little audio for that many clips,
            most would be too loud, or the output holds clips with other classes.
    """
    recordings, lengths = [], []
    for audio, labels in find_pairs(folder):
        header = read_audio_header(audio)
        if header.num_channels != 4:
            raise ValueError(f"{audio}: first-order ambisonics has 4 channels, not {header.num_channels}")
        events = read_csv(labels)
        if len(events) and (events.distance is None or np.isnan(events.distance).any()):
            raise ValueError(f"{labels}: events without a distance, which the clips of the challenge need")
        if (frames := int(header.num_samples / header.sampling_rate / FRAME_SECONDS + 1e-6)) >= CLIP_FRAMES:
            recordings.append((audio, header.sampling_rate, events))
            lengths.append(frames)
    if num_clips > sum(360 * (length - CLIP_FRAMES + 1) for length in lengths) // 2:
        raise ValueError(f"{folder}: too little sound for {num_clips} clips of 5 s")
    lists = find_class_lists(folder)
    if (output / "stereo_dev").is_dir() and listed_classes(lists) != listed_classes(
        [*output.glob("cls_indices*.tsv")]
    ):
        raise ValueError(f"{output} holds clips with other classes than {folder}: choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    for path in lists:
        # The output may be inside the folder, or be the folder itself.
        if path.parent.resolve() != output.resolve():
            shutil.copyfile(path, output / path.name)
    draw, made, too_loud = random.Random(seed), set(), 0
    with tqdm(total=num_clips, unit="clip", disable=None) as bar:
        while len(made) < num_clips:
            number = draw.choices(range(len(recordings)), lengths)[0]
            start, degrees = draw.randint(0, lengths[number] - CLIP_FRAMES), draw.randrange(360)
            audio, sampling_rate, events = recordings[number]
            name = clip_name(audio, degrees, start)
            if name in made:
                continue
            stereo = read_stereo(audio, sampling_rate, start, degrees)
            if np.abs(stereo).max() > LARGEST_SAMPLE:
                too_loud += 1
                if too_loud > 10 * num_clips + 100:
                    raise ValueError(f"{folder}: most clips would clip: reduce the level of the recordings by 6 dB")
                continue
            part = audio.parent.name if audio.parent.name.startswith("dev-") else part_of(name)
            clip, labels = output / "stereo_dev" / part / f"{name}.wav", output / "metadata_dev" / part / f"{name}.csv"
            for path in (clip, labels):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_csv(labels, clip_events(events, start, degrees), "dcase2025")
            with atomic_path(clip) as temporary:
                soundfile.write(temporary, stereo.T, sampling_rate, format="WAV", subtype="PCM_16")
            made.add(name)
            bar.update()
    return too_loud


def listed_classes(lists: list[Path]) -> list[str]:
    """Return the classes that the builder reads from class lists; without any, those of the challenge."""
    from datasets_scripts.starss23 import CLASS_NAMES

    return read_class_lists(lists) if lists else list(CLASS_NAMES)


def part_of(name: str) -> str:
    """Return the folder for a clip whose recording is in none of the challenge's folders."""
    return {"fold3": "dev-train", "fold4": "dev-test"}.get(name[:5], "dev-train-synth")


def read_stereo(audio: Path, sampling_rate: int, start_frame: int, degrees: float) -> np.ndarray:
    """Read five seconds of a recording at its own `sampling_rate` in Hz, in stereo: see [`to_stereo`].

    Raises:
        ValueError: the recording is truncated, or samples are NaN, infinite or far beyond full scale.
    """
    start, length = (round(frames * FRAME_SECONDS * sampling_rate) for frames in (start_frame, CLIP_FRAMES))
    with Recording(audio, sampling_rate, "ambix") as recording:
        return to_stereo(recording.read(start, length), degrees)


@program("python -m datasets_scripts.stereo_clips")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `python -m datasets_scripts.stereo_clips`."""
    parser = CommandParser(
        prog="python -m datasets_scripts.stereo_clips",
        description="Makes stereo clips as in DCASE 2025 Task 3 from first-order ambisonics with labels.",
        epilog="example: python -m datasets_scripts.stereo_clips STARSS23 DCASE2025 --clips 30000",
    )
    parser.add_argument("folder", type=Path, help="folder of STARSS23, or with foa_dev or foa and their metadata")
    parser.add_argument("output", type=Path, help="folder for the new folders stereo_dev and metadata_dev")
    parser.add_argument("--clips", type=whole_number(1), default=1000, help="number of clips (default: %(default)s)")
    parser.add_argument(
        "--seed", type=whole_number(0), default=OFFICIAL_SEED, help="random seed (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    too_loud = make_clips(options.folder, options.output, options.clips, options.seed)
    print(f"{options.output}: {options.clips} clips written, {too_loud} skipped as too loud")


if __name__ == "__main__":
    sys.exit(main())
