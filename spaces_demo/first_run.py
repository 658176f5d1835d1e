"""A first run: makes a scene whose truth is known, looks at its directions, and runs a network over it."""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers.utils import logging

from modeling_pseldnet import Events, PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD, read_csv, write_csv
from modeling_pseldnet.events import FRAME_SECONDS, angle_between, direction_to_vector, vector_to_direction
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from modeling_pseldnet.plotting import plot_events
from modeling_pseldnet.predict import main as predict


SAMPLING_RATE = 24000
SECONDS = 12
LABELS = ["horn", "rain", "bird"]
# Each source: first and last second, azimuth at both, elevation at both (degrees).
SOURCES = [((1.0, 5.0), (60, 60), (10, 10)), ((3.0, 8.0), (-120, -120), (-20, -20)), ((6.0, 11.0), (-30, 45), (0, 40))]


def source_signals(seconds: np.ndarray) -> list[np.ndarray]:
    """A horn, rain and a bird, as far as arithmetic makes them, (samples) each."""
    rng = np.random.default_rng(0)
    horn = sum(np.sin(2 * np.pi * 220 * harmonic * seconds) / harmonic for harmonic in range(1, 12))
    rain = rng.standard_normal(len(seconds)) * (rng.random(len(seconds)) < 0.02)
    bird = np.sin(2 * np.pi * (3000 * seconds - 120 * np.cos(2 * np.pi * 6 * seconds)))
    return [0.05 * horn, 0.5 * rain, 0.1 * bird * (np.sin(2 * np.pi * 3 * seconds) > -0.3)]


def make_scene() -> tuple[np.ndarray, Events]:
    """First-order ambisonics (4, samples) in a free field with faint diffuse noise, and its events."""
    seconds = np.arange(SECONDS * SAMPLING_RATE) / SAMPLING_RATE
    waveform = 0.0005 * np.random.default_rng(1).standard_normal((4, len(seconds)))
    parts = []
    for class_id, (signal, (when, azimuths, elevations)) in enumerate(
        zip(source_signals(seconds), SOURCES, strict=True)
    ):
        x, y, z = direction_to_vector(np.interp(seconds, when, azimuths), np.interp(seconds, when, elevations)).T
        sounding = (seconds >= when[0]) & (seconds < when[1])
        waveform += signal * sounding * np.stack([np.ones_like(x), y, z, x])
        frame = np.arange(round(when[0] / FRAME_SECONDS), round(when[1] / FRAME_SECONDS))
        middle = (frame + 0.5) * FRAME_SECONDS
        angles = np.interp(middle, when, azimuths), np.interp(middle, when, elevations)
        parts.append(Events(frame, np.full_like(frame, class_id), np.zeros_like(frame), *angles))
    return waveform.astype(np.float32), Events.concatenate(parts)


def seen_direction(waveform: np.ndarray, frame: int) -> tuple[float, float]:
    """Azimuth and elevation of the mean intensity vector of one 100-ms frame."""
    samples = round(FRAME_SECONDS * SAMPLING_RATE)
    piece = waveform[:, frame * samples : (frame + 1) * samples]
    y, z, x = PSELDNetFeatureExtractor()(piece, sampling_rate=SAMPLING_RATE)["input_features"][0, 4:].mean((1, 2))
    azimuth, elevation = vector_to_direction([x, y, z])
    return float(azimuth), float(elevation)


def print_directions(waveform: np.ndarray, truth: Events) -> None:
    """Where single sources are, and where the features of the network see them."""
    alone = truth[np.isin(truth.frame, np.flatnonzero(np.bincount(truth.frame) == 1))]
    each = [np.flatnonzero(alone.class_id == class_id) for class_id in range(len(LABELS))]
    print(f"\n{'time':>6}  {'source':<8}{'truth':>16}{'intensity vector':>20}{'error':>8}")
    for row in np.concatenate([rows[[len(rows) // 3, 2 * len(rows) // 3]] for rows in each]):
        truth_direction = float(alone.azimuth[row]), float(alone.elevation[row])
        seen = seen_direction(waveform, int(alone.frame[row]))
        error = angle_between(direction_to_vector(*truth_direction), direction_to_vector(*seen))
        print(
            f"{alone.frame[row] * FRAME_SECONDS:5.1f}s  {LABELS[alone.class_id[row]]:<8}"
            f"{truth_direction[0]:9.0f}°{truth_direction[1]:5.0f}°{seen[0]:13.0f}°{seen[1]:5.0f}°{error:7.1f}°"
        )


def untrained_model(folder: Path) -> None:
    """A Hub folder of a small network as it is before training."""
    torch.manual_seed(0)
    config = PSELDNetConfig(
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        embed_dim=24,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
    )
    save_hub_folder(PSELDNetForSELD(config).eval(), folder, model_card(config, "nothing: it is untrained"))


def main(output: Path = Path("outputs/demo")) -> int:
    """Writes a scene, its truth, an untrained network and what that makes of it; returns the exit status."""
    logging.disable_progress_bar()
    output.mkdir(parents=True, exist_ok=True)
    waveform, truth = make_scene()
    soundfile.write(output / "scene.wav", waveform.T, SAMPLING_RATE, subtype="PCM_16")
    write_csv(output / "truth.csv", truth)
    plot_events(truth, dict(enumerate(LABELS)), output / "truth.png", SECONDS, title="The scene: what is there")
    print(f"A scene of three sources: {output / 'scene.wav'}, and what is in it: {output / 'truth.csv'}, truth.png")
    print_directions(waveform, truth)

    print(
        "\nNow a network over the whole scene. It is UNTRAINED: its events mean nothing, and show only that all runs."
    )
    print("Convert a published checkpoint with pseldnet-convert, and put it in its place with --model.\n")
    untrained_model(output / "untrained")
    arguments = ["--model", str(output / "untrained"), "--output", str(output), "--json"]
    status = predict([str(output / "scene.wav"), *arguments])
    if status == 0:
        title = "An untrained network on the scene (grey: what is there)"
        events = read_csv(output / "scene.csv")
        plot_events(events, dict(enumerate(LABELS)), output / "scene.png", SECONDS, title=title, reference=truth)
        print(f"Its events: {output / 'scene.csv'}, scene.json, scene.png")
    return status


if __name__ == "__main__":
    sys.exit(main())
