"""Optional dependencies, and the extra of this package that installs each."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "evaluate": "train",
    "gradio": "demo",
    "h5py": "synth",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "peft": "train",
    "pyarrow": "train",
    "pyroomacoustics": "synth",
    "ray": "ray",
    "sounddevice": "stream",
}


def how_to_install(module: str) -> str:
    """Return a one-line message that says how to install a missing module."""
    package = module.partition(".")[0]
    source = f"'pseldnets[{EXTRAS[package]}]'" if package in EXTRAS else package
    return f"the package {package} is missing: pip install {source}"


@contextmanager
def naming_extras() -> Iterator[None]:
    """Have the error of an import that fails for a missing module say in one line what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name:
            raise
        raise ModuleNotFoundError(how_to_install(error.name), name=error.name) from None


def require(*modules: str) -> ModuleType:
    """Import modules of optional dependencies, and return the first.

    Raises:
        ModuleNotFoundError: one is not installed; the message says in one line what to install.
    """
    with naming_extras():
        first, *_ = [import_module(module) for module in modules]
    return first
