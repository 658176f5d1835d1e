import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spaces_demo.build import main


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "space"
    assert main([str(folder)]) == 0
    return folder


def test_the_folder_is_a_space(space):
    front_matter = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front_matter["sdk"] == "gradio"
    assert (space / front_matter["app_file"]).is_file()
    assert (space / front_matter["thumbnail"]).is_file()
    assert {"emoji", "colorFrom", "colorTo", "python_version", "suggested_hardware"} <= front_matter.keys()


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(capsys):
    assert main(["/dev/null/space"]) == 2
    assert capsys.readouterr().err == "python -m spaces_demo.build: error: /dev/null/space: Not a directory\n"


def test_other_files_in_the_folder_stay_and_ours_are_replaced(space):
    (space / ".git").mkdir()
    (space / "spaces_demo" / "old.py").touch()
    assert main([str(space)]) == 0
    assert (space / ".git").is_dir()
    assert not (space / "spaces_demo" / "old.py").exists()
    assert (space / "app.py").is_file()


def test_it_installs_nothing_under_a_name_of_ours_and_torch_for_cpus(space):
    index, *lines = (space / "requirements.txt").read_text().splitlines()
    names = [re.match(r"[\w-]+", line)[0].replace("_", "-").lower() for line in lines]
    assert index.endswith("/cpu")
    assert {"torch", "transformers", "gradio", "soundfile"} <= set(names)
    assert not [name for name in names if "pseldnet" in name]


def test_the_folder_alone_holds_all_that_runs(space, tmp_path):
    """Run it without the project on the path: the modules come from the folder."""
    script = "import app, spaces_demo.app, modeling_pseldnet; print(spaces_demo.__file__, modeling_pseldnet.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=space, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert [Path(path).parents[1] for path in printed.split()[-2:]] == [space, space]
