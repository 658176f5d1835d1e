"""Export features and network as one graph that runs without this package: the program `pseldnet-export`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_path
from .cli import CommandParser, number, program
from .extras import require


if TYPE_CHECKING:
    import torch

    from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor
    from ..modeling_pseldnet import PSELDNetForSELD


# ONNX operator set: the first whose DFT and GRU are sufficient.
OPSET = 20


def to_exported_program(
    model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor, seconds: float | None = None
) -> torch.export.ExportedProgram:
    """Trace the graph from `waveform` (any batch, audio channels, samples) to the format's outputs, by name.

    Args:
        model, feature_extractor: a model on the CPU and its extractor.
        seconds: length of the waveform that the graph takes. Defaults to the model's window.

    Raises:
        ValueError: the model does not take this length, or the extractor does not fit it.
    """
    import torch

    from ..feature_extraction_pseldnet import FEATURE_TYPES
    from ..fitting import check_extractor
    from ..inference import in_evaluation_mode
    from .waveform_model import WaveformModel

    check_extractor(feature_extractor, model.config)
    seconds = model.config.window_seconds if seconds is None else seconds
    if not 0.1 <= seconds <= model.config.window_seconds:
        raise ValueError(f"seconds must be between 0.1 and {model.config.window_seconds}, not {seconds:g}")
    num_channels = FEATURE_TYPES[feature_extractor.feature_type].num_audio_channels
    # A batch size of 1 would be treated as a constant.
    waveform = torch.zeros(2, num_channels, round(seconds * feature_extractor.sampling_rate))
    with in_evaluation_mode(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = WaveformModel(model, feature_extractor).eval()
        return torch.export.export(graph, (waveform,), dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}})


def to_onnx(
    model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor, seconds: float | None = None
) -> torch.onnx.ONNXProgram:
    """Return the same graph in ONNX; arguments and errors as in [`to_exported_program`].

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript")
    import torch

    with _written_out_attention(model):
        exported = to_exported_program(model, feature_extractor, seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=["waveform"],
            output_names=list(model.output_format.output_names),
            verbose=False,
        )
    program.model.metadata_props["config.json"] = model.config.to_json_string()
    return program


def export(
    model: PSELDNetForSELD,
    feature_extractor: PSELDNetFeatureExtractor,
    path: str | os.PathLike,
    seconds: float | None = None,
    int8: bool = False,
) -> dict[str, tuple[int | str, ...]]:
    """Write the graph as ONNX (`.onnx`) or as a `torch.export` program (`.pt2`), with the model's config in it.

    Args:
        model, feature_extractor, seconds: as in [`to_exported_program`].
        path: the file to write; nothing is left there if the export fails.
        int8: whether the linear layers use 8-bit integers, with activations quantized dynamically; ONNX only.

    Returns:
        The shapes of input and outputs by name; the dynamic batch size is `"batch"`.

    Raises:
        ValueError: the path or the length is invalid.
        ImportError: a package that ONNX needs is not installed; the message names it.
    """
    from ..inference import in_dtype

    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{path}: the name must end in .onnx or .pt2")
    if int8 and path.suffix != ".onnx":
        raise ValueError(f"{path}: 8-bit integers need ONNX: give a name that ends in .onnx")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    if int8:
        require("onnx", "onnxscript", "onnxruntime")
    # Runtimes lack bfloat16 for most operators, so models saved in half precision are exported in float32.
    model = in_dtype(model, "float32")
    with atomic_path(path) as temporary:
        if path.suffix == ".pt2":
            import torch

            exported = to_exported_program(model, feature_extractor, seconds)
            (waveform,), _ = exported.example_inputs
            # AOTInductor needs them, but one zero in the file is enough.
            exported.example_inputs = ((torch.zeros(()).expand(waveform.shape),), {})
            with warnings.catch_warnings():
                # PyTorch warns about the Hann window, which is a view of a longer tensor.
                warnings.simplefilter("ignore")
                torch.export.save(exported, temporary, extra_files={"config.json": model.config.to_json_string()})
        else:
            program = to_onnx(model, feature_extractor, seconds)
            exported = program.exported_program
            program.save(temporary)
            if int8:
                quantize_linear_layers(temporary)
    return named_shapes(exported, ["waveform", *model.output_format.output_names])


def quantize_linear_layers(path: Path) -> None:
    """Replace the network's linear layers in an ONNX file with dynamic 8-bit ones, with a scale per output.

    The features are left in float32, because their powers span too wide a range.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path).graph
    # Not the relative positions of a conformer, constants of four axes, which onnxruntime cannot multiply in 8 bits.
    matrices = {value.name for value in graph.initializer if len(value.dims) == 2}
    linear = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        and node.input[1] in matrices
        and any("'model." in entry.value for entry in node.metadata_props)
    ]
    logger = logging.getLogger()
    level = logger.level
    # onnxruntime recommends a preprocessing step that these graphs have already had.
    logger.setLevel(logging.ERROR)
    try:
        # 7-bit weights: with 8 bits, sums saturate on processors without instructions for such products.
        quantize_dynamic(
            path, path, nodes_to_quantize=linear, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    finally:
        logger.setLevel(level)


@contextmanager
def _written_out_attention(model: PSELDNetForSELD) -> Iterator[None]:
    """Use eager attention: PyTorch's fused attention cannot be decomposed for a dynamic batch size."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def named_shapes(exported: torch.export.ExportedProgram, names: list[str]) -> dict[str, tuple[int | str, ...]]:
    """Return the shapes of the inputs and outputs under these names; a dynamic size is `"batch"`."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if "val" in node.meta}
    nodes = [*exported.graph_signature.user_inputs, *exported.graph_signature.user_outputs]
    return {
        name: tuple(size if isinstance(size, int) else "batch" for size in values[node].shape)
        for name, node in zip(names, nodes, strict=True)
    }


@program("pseldnet-export")
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `pseldnet-export`; returns the exit status."""
    parser = CommandParser(
        prog="pseldnet-export",
        description="Exports a model with its feature extraction to one ONNX or torch.export file.",
        epilog="example: pseldnet-export user/pseldnet-htsat pseldnet-htsat.onnx",
    )
    parser.add_argument("model", help="folder or Hub repository of a converted or trained model")
    parser.add_argument("output", type=Path, help="file to write: .onnx, or .pt2 for torch.export")
    parser.add_argument(
        "--seconds", type=number(above=0), help="length of the input; default: the model's window, usually 10"
    )
    parser.add_argument("--int8", action="store_true", help="use 8-bit linear layers, for a smaller file (.onnx)")
    options = parser.parse_args(arguments)
    from transformers.utils import logging as transformers_logging

    from .loading import load

    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model, feature_extractor = load(options.model, "cpu")
    shapes = export(model, feature_extractor, options.output, options.seconds, options.int8)
    named = [f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items()]
    print(f"{options.output}: {named[0]} at {feature_extractor.sampling_rate} Hz to {', '.join(named[1:])}")


if __name__ == "__main__":
    sys.exit(main())
