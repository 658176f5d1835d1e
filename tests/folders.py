"""Where the repository is, and the shared data beside it: known without an import of PyTorch."""

from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


def shared_folder(name: str) -> Path:
    """A folder beside the repository; a test that asks for it is skipped where it is absent."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
