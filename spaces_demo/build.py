"""Makes the folder of a Hugging Face Space, which `hf upload user/space DIR . --repo-type space` publishes.

The folder holds all code that it runs: the packages lie beside the app, and the requirements are those that this
project declares, with torch for CPUs. Nothing is looked up under a name that somebody else could take.
"""

import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

import modeling_pseldnet
import spaces_demo
from modeling_pseldnet.files import staged_files
from modeling_pseldnet.tools.cli import CommandParser, program


PROJECT, EXTRA = "pseldnets", "demo"
PACKAGES = (modeling_pseldnet, spaces_demo)
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"
APP = '''"""The app of the Space; everything is in spaces_demo."""

import sys

from spaces_demo import main


if __name__ == "__main__":
    sys.exit(main([]))
'''


def requirements() -> list[str]:
    """Return what the page needs: the declared requirements of the project and of its extra for the page."""
    needed = (line.partition(";") for line in requires(PROJECT))
    return [
        name.strip() for name, _, marker in needed if not marker or f'extra == "{EXTRA}"' in marker.replace("'", '"')
    ]


def build(folder: Path) -> None:
    """Write the folder; other files in it, such as those of a clone of the Space, stay."""
    with staged_files(folder) as new:
        for package in PACKAGES:
            source = Path(package.__file__).parent
            shutil.copytree(source, new / package.__name__, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copy(new / spaces_demo.__name__ / "README.md", new)
        (new / "app.py").write_text(APP, encoding="utf-8")
        (new / "requirements.txt").write_text("\n".join([CPU_TORCH, *requirements()]) + "\n", encoding="utf-8")


@program("python -m spaces_demo.build")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `python -m spaces_demo.build`."""
    parser = CommandParser(prog="python -m spaces_demo.build", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write; other files in it stay")
    folder = parser.parse_args(arguments).folder
    build(folder)
    print(f"{folder}: to publish it, run hf upload user/space {folder} . --repo-type space")


if __name__ == "__main__":
    sys.exit(main())
