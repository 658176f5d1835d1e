"""Packages that only some uses need, and the extra of this package that brings each."""

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
    """What to say where a module is missing: one line."""
    package = module.partition(".")[0]
    source = f"'pseldnets[{EXTRAS[package]}]'" if package in EXTRAS else package
    return f"the package {package} is missing: pip install {source}"


def require(*modules: str) -> ModuleType:
    """Imports modules of packages that extras bring, and returns the first.

    Raises:
        ModuleNotFoundError: one of them is not installed; the message is one line and says what to install.
    """
    try:
        first, *_ = [import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(how_to_install(error.name), name=error.name) from None
    return first
