import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modeling_pseldnet import PSELDNetConfig, PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from modeling_pseldnet.tools import export
from tests.helpers import scattered, tiny_config


SECONDS = 1
NETWORKS = {
    "htsat": {"depths": [2, 1], "num_heads": [1, 2]},
    "passt": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "cnn14_conformer": {"hidden_sizes": [4, 4, 4, 8, 8, 16]},
    "crnn": {"hidden_sizes": [4, 4, 8, 16], "decoder_layers": 1},
}
# With that of stereo, every encoder and every format.
CASES = [("htsat", "multi_accdoa"), ("passt", "einv2"), ("cnn14_conformer", "seddoa")]


def network(backbone: str, output_format: str, **fields) -> PSELDNetForSELD:
    fields = {"window_seconds": SECONDS, **NETWORKS[backbone], **fields}
    config = tiny_config(backbone=backbone, output_format=output_format, **fields)
    return scattered(PSELDNetForSELD(config)).eval()


def outputs_of(
    model: PSELDNetForSELD, waveforms: np.ndarray, extractor: PSELDNetFeatureExtractor | None = None
) -> dict[str, np.ndarray]:
    features = (extractor or PSELDNetFeatureExtractor())(waveforms, sampling_rate=24000)["input_features"]
    with torch.no_grad():
        return {name: output.numpy() for name, output in model.predict(features).items()}


def run_onnx(path, waveforms: np.ndarray) -> dict[str, np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["waveform"]
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"waveform": waveforms}), strict=True))


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, output in expected.items():
        np.testing.assert_allclose(found[name], output, atol=tolerance, rtol=0, err_msg=name)


@pytest.fixture(scope="module")
def waveforms(real) -> np.ndarray:
    """Two excerpts of a real recording, (2, 4, samples)."""
    samples, rate = soundfile.read(real / "starss23_clip.wav", dtype="float32")
    return np.stack([samples[start : start + SECONDS * rate].T for start in (0, 3 * rate)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that returns a network of an encoder and a format, its ONNX file and reported shapes, cached."""

    @cache
    def export_once(backbone: str, output_format: str) -> tuple[PSELDNetForSELD, Path, dict]:
        model = network(backbone, output_format, distance=True)
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        return model, path, export.export(model, PSELDNetFeatureExtractor(), path)

    return export_once


@pytest.mark.parametrize(("backbone", "output_format"), CASES)
def test_onnx_runtime_agrees_on_a_real_recording_in_a_batch_of_any_size(backbone, output_format, waveforms, exported):
    pytest.importorskip("onnxscript")
    model, path, shapes = exported(backbone, output_format)
    expected = outputs_of(model, waveforms)
    assert shapes == {
        "waveform": ("batch", 4, 24000),
        **{name: ("batch", *output.shape[1:]) for name, output in expected.items()},
    }
    assert max(output.std() for output in expected.values()) > 0.05
    assert_close(run_onnx(path, waveforms), expected, 1e-5)
    single = {name: output[1:] for name, output in expected.items()}
    assert_close(run_onnx(path, waveforms[1:]), single, 1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_onnx_runtime_agrees_on_stereo_that_ends_in_silence(tmp_path):
    pytest.importorskip("onnxscript")
    extractor = PSELDNetFeatureExtractor(feature_type="stereo")
    of_stereo = {"num_channels": extractor.num_channels, "feature_type": "stereo"}
    model = network("crnn", "accdoa", distance=True, **of_stereo)
    export.export(model, extractor, tmp_path / "model.onnx")
    waveforms = 0.1 * torch.randn(2, 2, 24000 * SECONDS, generator=torch.Generator().manual_seed(0)).numpy()
    waveforms[1, :, 12000:] = 0
    assert_close(run_onnx(tmp_path / "model.onnx", waveforms), outputs_of(model, waveforms, extractor), 1e-5)


@pytest.mark.parametrize("backbone", ["htsat", "passt", "cnn14_conformer"])
def test_a_saved_program_gives_what_the_model_gives(backbone, waveforms, tmp_path):
    model = network(backbone, "seddoa", distance=True)
    export.export(model, PSELDNetFeatureExtractor(), tmp_path / "model.pt2")
    config = {"config.json": ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=config)
    # As AOTInductor needs it, in four bytes of the file.
    (waveform,), _ = loaded.example_inputs
    assert (waveform.shape, waveform.untyped_storage().nbytes()) == ((2, 4, 24000 * SECONDS), 4)
    program = loaded.module()
    for batch in (waveforms, waveforms[:1]):
        found = {name: output.detach().numpy() for name, output in program(torch.from_numpy(batch)).items()}
        assert_close(found, outputs_of(model, batch), 1e-5)
    assert PSELDNetConfig(**json.loads(config["config.json"])).id2label == model.config.id2label


def test_a_model_in_training_is_exported_as_it_predicts_and_stays_in_training():
    model = network("crnn", "accdoa").train()
    waveform = torch.randn(2, 4, 24000 * SECONDS, generator=torch.Generator().manual_seed(0))
    graph = export.to_exported_program(model, PSELDNetFeatureExtractor()).module()
    assert model.training
    model.eval()
    assert_close({"accdoa": graph(waveform)["accdoa"].detach().numpy()}, outputs_of(model, waveform.numpy()), 1e-5)


def test_a_model_in_half_precision_is_exported_in_float32(waveforms, tmp_path):
    model = network("passt", "accdoa").to(torch.bfloat16)
    export.export(model, PSELDNetFeatureExtractor(), tmp_path / "model.pt2")
    found = torch.export.load(tmp_path / "model.pt2").module()(torch.from_numpy(waveforms))
    assert_close(
        {name: output.detach().numpy() for name, output in found.items()}, outputs_of(model.float(), waveforms), 1e-5
    )


def test_int8_is_for_the_linear_layers_of_the_network_alone_and_close(waveforms, exported, tmp_path):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, path, _ = exported("htsat", "multi_accdoa")
    export.quantize_linear_layers(shutil.copy(path, tmp_path / "int8.onnx"))
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    quantized = [node for node in nodes if node.op_type in ("MatMulInteger", "DynamicQuantizeMatMul")]
    # Four projections and two MLP layers in each of three blocks, and the patch merging between the stages.
    assert len(quantized) == 3 * 6 + 1
    expected = outputs_of(model, waveforms)
    found = run_onnx(tmp_path / "int8.onnx", waveforms)
    assert_close(found, expected, 0.2)
    assert np.abs(found["accdoa"] - expected["accdoa"]).mean() < 0.03


def test_int8_of_a_conformer_runs(waveforms, exported, tmp_path):
    pytest.importorskip("onnxscript")
    model, path, _ = exported("cnn14_conformer", "seddoa")
    export.quantize_linear_layers(shutil.copy(path, tmp_path / "int8.onnx"))
    assert_close(run_onnx(tmp_path / "int8.onnx", waveforms), outputs_of(model, waveforms), 0.1)


@pytest.fixture
def run(capsys):
    """Run the program; return its status, standard output and standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        try:
            status = export.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = network("passt", "accdoa")
    path = tmp_path_factory.mktemp("hub") / "model"
    save_hub_folder(model, path, model_card(model.config, "test"))
    return path


def test_the_program_says_in_one_line_what_goes_in_and_out(run, folder, waveforms, tmp_path):
    status, printed, _ = run(folder, tmp_path / "model.pt2", "--seconds", "0.5")
    assert status == 0
    assert printed == (
        f"{tmp_path / 'model.pt2'}: waveform (batch, 4, 12000) at 24000 Hz to accdoa (batch, 5, 1, 3, 3)\n"
    )
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert program(torch.from_numpy(waveforms[..., :12000]))["accdoa"].shape == (2, 5, 1, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["model.tflite"], "must end in .onnx or .pt2"),
        (["model.pt2", "--int8"], "ends in .onnx"),
        (["model.pt2", "--seconds", "11"], "between 0.1 and 1, not 11"),
        (["model.pt2", "--seconds", "0"], "'0' is not a number above 0"),
        (["absent/model.pt2"], "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_status_2(run, folder, tmp_path, arguments, complaint):
    status, _, error = run(folder, tmp_path / arguments[0], *arguments[1:])
    assert status == 2
    (line,) = error.splitlines()
    assert complaint in line
    assert not list(tmp_path.iterdir())


def test_a_model_whose_extractor_is_anothers_is_refused(run, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "feature_size": 32}))
    status, _, error = run(copy, tmp_path / "model.pt2")
    assert status == 2
    assert "features with a feature_size of 32 do not fit the model, which needs 64" in error.splitlines()[-1]


def test_packages_that_onnx_needs_are_named_before_any_work(run, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, error = run(folder, tmp_path / "model.onnx", "--int8")
    assert status == 2
    assert error.strip().endswith("the package onnxruntime is missing: pip install 'pseldnets[export]'")
