"""Optional dependencies, and the extra of this package that installs each."""

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


def require(*modules: str) -> ModuleType:
    """Import modules of optional dependencies, and return the first.

    Raises:
        ModuleNotFoundError: one is not installed; the message says in one line what to install.
    """
    try:
        first, *_ = [import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(how_to_install(error.name), name=error.name) from None
    return first
