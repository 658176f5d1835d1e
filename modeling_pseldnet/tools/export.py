"""Features and network as one graph that runs without this package: the program `pseldnet-export`."""

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


# The ONNX release whose operators are used: the first whose DFT and GRU are all that is needed.
OPSET = 20


def to_exported_program(
    model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor, seconds: float | None = None
) -> torch.export.ExportedProgram:
    """The graph that PyTorch traces: `waveform` (any batch, audio channels, samples) to the format's outputs by name.

    Args:
        model, feature_extractor: as loaded, on the CPU.
        seconds: length of the waveform that the graph takes; the model's window if left out.

    Raises:
        ValueError: the length is not one that the model takes, or the extractor is not of this model.
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
    # The size of a batch of one would be taken for a constant.
    waveform = torch.zeros(2, num_channels, round(seconds * feature_extractor.sampling_rate))
    with in_evaluation_mode(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = WaveformModel(model, feature_extractor).eval()
        return torch.export.export(graph, (waveform,), dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}})


def to_onnx(
    model: PSELDNetForSELD, feature_extractor: PSELDNetFeatureExtractor, seconds: float | None = None
) -> torch.onnx.ONNXProgram:
    """The same graph in ONNX; arguments and errors as of [`to_exported_program`].

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
    """Writes the graph as ONNX (`.onnx`) or as a program of `torch.export` (`.pt2`), with the model's config in it.

    Args:
        model, feature_extractor, seconds: as for [`to_exported_program`].
        path: the file to write; nothing is left there if something goes wrong.
        int8: whether the linear layers are to compute in 8-bit integers, of which the activations' scales are found
            anew for each input; ONNX only.

    Returns:
        The shapes of input and outputs by name; the size of the batch, which is free, is `"batch"`.

    Raises:
        ValueError: the path or the length makes no sense.
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
    # Runtimes have no bfloat16 for most operators, and what is saved in half precision computes here in float32.
    model = in_dtype(model, "float32")
    if path.suffix == ".pt2":
        exported = to_exported_program(model, feature_extractor, seconds)
        exported.example_inputs = None
        import torch

        with atomic_path(path) as temporary, warnings.catch_warnings():
            # It is told of the Hann window, which PyTorch makes as a part of a longer tensor.
            warnings.simplefilter("ignore")
            torch.export.save(exported, temporary, extra_files={"config.json": model.config.to_json_string()})
    else:
        program = to_onnx(model, feature_extractor, seconds)
        exported = program.exported_program
        with atomic_path(path) as temporary:
            program.save(temporary)
            if int8:
                quantize_linear_layers(temporary)
    return named_shapes(exported, ["waveform", *model.output_format.output_names])


def quantize_linear_layers(path: Path) -> None:
    """Replaces the linear layers of the network in an ONNX file by dynamic 8-bit ones, with a scale for each output.

    The features stay as they are: their powers span too wide a range.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path).graph
    linear = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and any("'model." in entry.value for entry in node.metadata_props)
    ]
    logger = logging.getLogger()
    level = logger.level
    # It recommends a preparation that these graphs have had.
    logger.setLevel(logging.ERROR)
    try:
        # Seven bits of weights: with eight, sums saturate on processors without instructions for such products.
        quantize_dynamic(
            path, path, nodes_to_quantize=linear, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    finally:
        logger.setLevel(level)


@contextmanager
def _written_out_attention(model: PSELDNetForSELD) -> Iterator[None]:
    """Attention as matrix products: PyTorch's fused one cannot be taken apart for a batch of any size."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def named_shapes(exported: torch.export.ExportedProgram, names: list[str]) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the inputs and the outputs, which have these names; a size that is free is `"batch"`."""
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
        description="Writes a model, its features included, as one ONNX or torch.export file.",
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
