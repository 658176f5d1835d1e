import json
import re

from modeling_pseldnet import read_csv
from spaces_demo.first_run import main


def test_the_first_run_finds_events_of_the_scene_where_they_are(tmp_path, capsys):
    assert main(["--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    score, error = (float(re.search(rf"{name} ([\d.]+)", printed).group(1)) for name in ("F20", "localization error"))
    assert score > 0.6
    assert error < 15
    assert {"scene.csv", "scene.json", "scene.png"} == {file.name for file in tmp_path.iterdir()}
    assert len(read_csv(tmp_path / "scene.csv")) > 50
    assert {"onset", "offset", "label", "azimuth", "elevation"} <= json.loads((tmp_path / "scene.json").read_text())[
        0
    ].keys()
