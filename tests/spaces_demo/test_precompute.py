import json

import pytest

from modeling_pseldnet import DEFAULT_MODEL, read_csv
from modeling_pseldnet.tools.scores import seld_scores
from spaces_demo import precompute
from spaces_demo.models import load_own
from spaces_demo.results import find_events


RECORDINGS = sorted(precompute.EXAMPLES.glob("*.flac"))


def test_what_ships_of_the_examples_was_made_of_what_ships():
    """If this fails, run `python -m spaces_demo.precompute` and commit what it writes."""
    for recording in RECORDINGS:
        scene = json.loads((recording.with_suffix("") / f"{recording.stem}.scene.json").read_text(encoding="utf-8"))
        assert scene["made_of"] == precompute.fingerprint(*precompute.sources(recording))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)
def test_the_command_writes_what_the_page_opens_with(tmp_path, monkeypatch, recording):
    """The committed files are the same up to differences between machines; if not, run it and commit its files."""
    monkeypatch.setattr(precompute, "EXAMPLES", tmp_path)
    (tmp_path / "a_scene.flac").symlink_to(recording)
    assert precompute.main([]) == 0
    folder = tmp_path / "a_scene"
    assert {file.name.removeprefix("a_scene") for file in folder.iterdir()} == {
        ".csv", ".json", ".scene.json", ".mp3", "-headphones.mp3",
    }  # fmt: skip
    written, model = read_csv(folder / "a_scene.csv"), load_own(DEFAULT_MODEL)
    assert len(written) == len(find_events(model, str(recording)))
    shipped = read_csv(recording.with_suffix("") / f"{recording.stem}.csv")
    scores = seld_scores([shipped], [written], model.network.config.num_labels)["micro"]
    assert scores["F"] > 0.95
    assert scores["LE"] < 0.5
    assert precompute.examples() == [{"id": "a_scene", "title": "A scene"}]
    assert json.loads((folder / "a_scene.scene.json").read_text())["records"] == json.loads(
        (folder / "a_scene.json").read_text()
    )
