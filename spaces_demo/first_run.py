"""A first run: the default model's predictions for a scene with known ground truth."""

import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_pseldnet import DEFAULT_MODEL, Events, read_csv
from modeling_pseldnet.timeline import to_records
from modeling_pseldnet.tools.cli import CommandParser, program
from modeling_pseldnet.tools.plots import plot_events
from modeling_pseldnet.tools.predict import main as predict
from modeling_pseldnet.tools.scores import seld_scores


NAME = "python -m spaces_demo.first_run"
SCENE = Path(__file__).with_name("example") / "scene.flac"
SECONDS = 16


def print_events(title: str, events: Events, labels: dict[int, str]) -> None:
    """Print when each event sounds, what it is, and its mean direction."""
    print(f"\n{title}\n{'from':>7}{'to':>8}   {'sound':<16}{'azimuth':>8}{'elevation':>11}")
    for record in to_records(events, labels):
        print(
            f"{record['onset']:6.1f}s{record['offset']:7.1f}s   {record['label']:<16}"
            f"{record['azimuth']:7.0f}°{record['elevation']:10.0f}°"
        )


@program(NAME)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program `python -m spaces_demo.first_run`; return its exit status."""
    parser = CommandParser(prog=NAME, description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder; default: %(default)s")
    output = parser.parse_args(arguments).output
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    labels = AutoConfig.from_pretrained(DEFAULT_MODEL).id2label
    print("A simulated scene with sounds and a room that the model never heard in training:", SCENE)
    if status := predict([str(SCENE), "--output", str(output), "--json"]):
        return status
    truth, found = read_csv(SCENE.with_suffix(".csv")), read_csv(output / "scene.csv")
    title = "What the model finds in the scene (grey: what is there)"
    plot_events(found, labels, output / "scene.png", SECONDS, title=title, reference=truth)
    print_events("What is there:", truth, labels)
    print_events("What the model finds:", found, labels)
    scores = seld_scores([truth], [found], len(labels))["micro"]
    print(
        f"\nScores: F20 {scores['F']:.2f} (right sound, and direction within 20°), error rate"
        f" {scores['ER']:.2f}, localization error {scores['LE']:.0f}°, recall {scores['LR']:.2f}"
    )
    print("(This scene is easier than most: for the scores on others, see the card of the model.)")
    print(f"Events: {output / 'scene.csv'}, scene.json; picture: {output / 'scene.png'}")
    print("For your own recordings: pseldnet-predict RECORDING.wav --plot, or the page that pseldnet-demo serves.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
