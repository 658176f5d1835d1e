import gc
import importlib.util
import os
from pathlib import Path

import pytest

from tests.folders import SHARED, shared_folder


# Tests are many small computations, which threads waiting for each other only slow down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Imported modules stay, so the garbage collector need not go through them, neither during imports nor later.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def modules_of_earlier_tests_frozen():
    """Leave what other tests have imported out of garbage collections, with which each training begins."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_terminal_summary(terminalreporter):
    if not SHARED.is_dir():
        terminalreporter.write_line(f"the golden tests were skipped: {SHARED} is absent", yellow=True)


@pytest.fixture(autouse=True)
def seeded():
    """Make the networks of tests the same in every run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of outputs of the published system."""
    return shared_folder("reference")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real recordings."""
    return shared_folder("real")


@pytest.fixture(scope="session")
def events_folder() -> Path:
    """The folder of isolated sounds, with one sub-folder per class."""
    return shared_folder("events")


@pytest.fixture(scope="session")
def values(reference):
    """The module that reproduces the published checkpoints and their inputs."""
    spec = importlib.util.spec_from_file_location("reference_values", reference / "values.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
