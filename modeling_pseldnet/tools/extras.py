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
    "plotly": "demo",
    "pyarrow": "train",
    "pyroomacoustics": "synth",
    "ray": "ray",
    "sounddevice": "stream",
}


def require(*packages: str) -> ModuleType:
    """Imports packages that extras bring, and returns the first.

    Raises:
        ImportError: one of them is not installed; the message is one line and says what to install.
    """
    try:
        first, *_ = [import_module(package) for package in packages]
    except ModuleNotFoundError as error:
        missing = error.name.partition(".")[0]
        source = f"'pseldnets[{EXTRAS[missing]}]'" if missing in EXTRAS else missing
        raise ImportError(f"the package {missing} is missing: pip install {source}", name=missing) from None
    return first
