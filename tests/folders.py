"""Paths of the repository and of the shared data beside it, without importing PyTorch."""

from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"


def shared_folder(name: str) -> Path:
    """Return a folder of shared data; skip the test if it is missing."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
