import re

import soundfile

from modeling_pseldnet import read_csv
from spaces_demo.first_run import main


def test_the_first_run_writes_a_scene_whose_directions_the_features_see(tmp_path, capsys):
    assert main(tmp_path) == 0
    printed = capsys.readouterr().out
    errors = [float(error) for error in re.findall(r"([\d.]+)°$", printed, flags=re.MULTILINE)]
    assert len(errors) == 6
    assert max(errors) < 5
    assert "UNTRAINED" in printed
    assert soundfile.info(tmp_path / "scene.wav").channels == 4
    assert read_csv(tmp_path / "truth.csv").frame.max() == 109
    assert {"scene.csv", "scene.json", "scene.png", "truth.png"} <= {file.name for file in tmp_path.iterdir()}
