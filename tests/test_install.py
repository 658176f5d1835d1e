"""The installed package: what it contains, what it imports when, and where it registers."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import modeling_pseldnet
from modeling_pseldnet.tools import convert, predict, registration
from modeling_pseldnet.tools.extras import EXTRAS, require
from tests.folders import REPOSITORY


PUBLIC_NAMES = {
    "AdapterBitConfig",
    "DEFAULT_MODEL",
    "DataCollatorForSELD",
    "Events",
    "PSELDNetConfig",
    "PSELDNetFeatureExtractor",
    "PSELDNetForSELD",
    "PSELDNetModel",
    "PSELDNetPreTrainedModel",
    "SELDMetrics",
    "SELD_METRIC",
    "SoundEventLocalizationAndDetectionPipeline",
    "detect",
    "detect_stream",
    "load",
    "load_for_transfer",
    "load_published",
    "read_csv",
    "write_csv",
}
# Importing each of these takes a good part of a second.
HEAVY = "torch", "transformers", "datasets", "peft", "matplotlib", "pandas", "gradio", "scipy.signal", "scipy.stats"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PROGRAMS = [
    *(entry.removesuffix(":main") for entry in PROJECT["scripts"].values()),
    "modeling_pseldnet.tools.convert_adapterbit",
    "training.experiments.data_efficiency",
    "training.experiments.default_model",
    "training.experiments.example_scene",
]


@pytest.fixture
def run_python(tmp_path):
    """Run Python code in a process of its own, beside files that users may well have; return what it prints."""
    for name in ("training", "datasets_scripts"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user was imported')")

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-W", "error::UserWarning:modeling_pseldnet", "-c", code, *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_the_public_names_are_these_and_each_is_there():
    assert set(modeling_pseldnet.__all__) == PUBLIC_NAMES
    assert set(dir(modeling_pseldnet)) >= PUBLIC_NAMES
    assert all(hasattr(modeling_pseldnet, name) for name in PUBLIC_NAMES)
    assert not hasattr(modeling_pseldnet, "another")
    assert Path(modeling_pseldnet.SELD_METRIC, "seld.py").is_file()


def test_type_checkers_see_each_public_name_where_it_is():
    tree = ast.parse(Path(modeling_pseldnet.__file__).read_text())
    (block,) = (part for part in tree.body if isinstance(part, ast.If))
    seen = {name.name: line.module for line in block.body for name in line.names}
    assert seen == modeling_pseldnet._MODULES


def test_importing_the_package_imports_neither_torch_nor_transformers(run_python):
    code = "import sys, modeling_pseldnet; print([name for name in sys.argv[1:] if name in sys.modules])"
    assert run_python(code, *HEAVY).strip() == "[]"


def test_each_program_helps_without_the_imports_of_its_work(run_python, tmp_path):
    for name in ("training", "datasets_scripts"):
        (tmp_path / f"{name}.py").unlink()
    code = f"""
import contextlib, importlib, io, sys
for module in {PROGRAMS}:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            importlib.import_module(module).main(["--help"])
        except SystemExit as stopped:
            assert stopped.code == 0
    assert printed.getvalue().startswith("usage: "), module
    assert "example" in printed.getvalue() or module.startswith("training.experiments"), module
    print(module, *[name for name in sys.argv[1:] if name in sys.modules])
"""
    assert run_python(code, *HEAVY).splitlines() == PROGRAMS


def test_scoring_files_takes_neither_torch_nor_transformers(run_python, tmp_path):
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.csv").write_text("0,1,0,10,0\n1,1,0,12,0\n")
    code = """
import sys
from modeling_pseldnet.tools.evaluate_files import main
assert not main(["--reference", "reference", "--prediction", "prediction", "--jackknife"])
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    assert "macro" in run_python(code)


KNOWN = """
import modeling_pseldnet
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioFrameClassification
from transformers.pipelines import PIPELINE_REGISTRY

path = modeling_pseldnet.DEFAULT_MODEL
assert type(AutoConfig.from_pretrained(path)) is modeling_pseldnet.PSELDNetConfig
assert type(AutoFeatureExtractor.from_pretrained(path)) is modeling_pseldnet.PSELDNetFeatureExtractor
assert type(AutoModel.from_pretrained(path)) is modeling_pseldnet.PSELDNetModel
assert type(AutoModelForAudioFrameClassification.from_pretrained(path)) is modeling_pseldnet.PSELDNetForSELD
assert "sound-event-localization-and-detection" in PIPELINE_REGISTRY.supported_tasks
assert PEFT_TYPE_TO_CONFIG_MAPPING["ADAPTERBIT"] is modeling_pseldnet.AdapterBitConfig
"""
WORKS = """
import evaluate
from peft import AutoPeftModel, PeftModel, get_peft_model

model, _ = modeling_pseldnet.load(path, "cpu")
get_peft_model(model, modeling_pseldnet.AdapterBitConfig(r=1)).save_pretrained("adapter")
PeftModel.from_pretrained(modeling_pseldnet.load(path, "cpu")[0], "adapter")
AutoPeftModel.from_pretrained("adapter", import_allowlist=["modeling_pseldnet"])
modeling_pseldnet.load("adapter", "cpu")
evaluate.load(modeling_pseldnet.SELD_METRIC, cache_dir="cache")
import spaces_demo.first_run
from modeling_pseldnet.tools import convert, convert_adapterbit, export, predict
"""


FIRST = [
    "import peft; from transformers import AutoModel, Trainer, pipeline",
    # These modules are only partly executed when registration begins.
    "import modeling_pseldnet; from transformers.modeling_layers import GradientCheckpointingLayer",
    "import modeling_pseldnet.modeling_htsat",
]


def test_transformers_and_peft_know_the_package_whatever_is_imported_first(run_python):
    # Each has a process of its own, with what transformers imports from others, which takes longest, imported before.
    run_python(f"""
import os, scipy.optimize, sys, torch._dynamo, torch.distributed.tensor
assert not {{"transformers", "peft"}} & sys.modules.keys()
for first in {FIRST}:
    if not (child := os.fork()):
        exec(first + {KNOWN!r})
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, first
""")


def test_a_users_own_file_named_training_is_in_nobodys_way(run_python):
    first = "from modeling_pseldnet import AdapterBitConfig, SoundEventLocalizationAndDetectionPipeline"
    run_python(f"{first}\n{KNOWN}\n{WORKS}")


def test_a_library_does_not_fail_for_a_registration_that_does(monkeypatch):
    def fail() -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(registration, "_pairs", [("their.module", "modeling_pseldnet.events", fail)])
    monkeypatch.setattr(registration, "_executed", {"modeling_pseldnet.events", "their.module"})
    monkeypatch.setattr(registration._imports, "fresh", {"their.module"})
    with pytest.warns(UserWarning, match=r"could not register with their\.module: RuntimeError: not today"):
        registration._register_fresh()


def test_a_missing_package_is_a_line_that_names_the_extra_which_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(ModuleNotFoundError, match=r"the package pyroomacoustics is missing: .*synth"):
        require("pyroomacoustics")
    assert require("json.decoder") is import_module("json.decoder")


@pytest.mark.parametrize(
    "code",
    [
        "from modeling_pseldnet import AdapterBitConfig",
        "from datasets_scripts.starss23 import STARSS23",
        "from datasets_scripts.segments import SegmentedDataset",
    ],
)
def test_what_is_imported_without_its_extra_names_it(code, run_python):
    run_python(f"""
import re, sys

class Missing:
    def find_spec(name, *_):
        if name in ("datasets", "peft", "pyarrow"):
            raise ModuleNotFoundError(name=name)

# Without the folder of the user, whose own datasets_scripts would be found first.
sys.path.remove("")
sys.meta_path.insert(0, Missing)
try:
    {code}
except ModuleNotFoundError as error:
    assert re.fullmatch("the package [a-z]+ is missing: pip install 'pseldnets.train.'", str(error)), error
else:
    raise AssertionError
""")


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_brings_what_is_said_of_it(package):
    requirements = PROJECT["optional-dependencies"][EXTRAS[package]]
    assert package in [re.match(r"\w+", requirement)[0] for requirement in requirements]


def test_what_the_help_lists_is_what_there_is():
    from modeling_pseldnet.audio import CHANNEL_FORMATS
    from modeling_pseldnet.output_formats import FORMATS
    from modeling_pseldnet.tools.stream import SAMPLE_FORMATS

    assert tuple(sorted(CHANNEL_FORMATS)) == predict.CHANNEL_FORMATS
    assert tuple(sorted(SAMPLE_FORMATS)) == predict.SAMPLE_FORMATS
    assert tuple(sorted(FORMATS)) == convert.OUTPUT_FORMATS
