import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import spaces_demo
from modeling_pseldnet import PSELDNetFeatureExtractor, PSELDNetForSELD
from modeling_pseldnet.events import direction_to_vector
from modeling_pseldnet.hub_folder import model_card, save_hub_folder
from modeling_pseldnet.tools.predict import main as predict
from tests.helpers import scattered, tiny_config
from tests.modeling_pseldnet.hub_server import serve_hub


@pytest.fixture(scope="session")
def make_recording(tmp_path_factory):
    """Write noise from one direction, by default as 4-channel audio."""

    def make(name, seconds=1.0, azimuth=90, elevation=0, channels=4, sampling_rate=24000) -> Path:
        path = tmp_path_factory.mktemp("recordings") / name
        x, y, z = direction_to_vector(azimuth, elevation)
        source = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * sampling_rate)).astype(np.float32)
        soundfile.write(path, np.outer(source, np.resize([1, y, z, x], channels)), sampling_rate)
        return path

    return make


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A Hub folder of a tiny network with random weights that reports many events, and a pickle beside it."""
    network = scattered(PSELDNetForSELD(tiny_config(threshold=0.7))).eval()
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    save_hub_folder(network, folder, model_card(network.config, "test"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="session")
def stereo_model(tmp_path_factory):
    """A Hub folder of a tiny stereo network that also estimates distances."""
    network = scattered(PSELDNetForSELD(tiny_config(threshold=0.7, num_channels=5, num_axes=2, distance=True))).eval()
    folder = tmp_path_factory.mktemp("hub") / "stereo"
    extractor = PSELDNetFeatureExtractor(feature_type="stereo")
    save_hub_folder(network, folder, model_card(network.config, "test"), extractor)
    return folder


@pytest.fixture(scope="session")
def scene(make_recording):
    return make_recording("from the left.wav", seconds=12)


@pytest.fixture(scope="session")
def predicted(scene, model, tmp_path_factory):
    """The path, without suffix, of what pseldnet-predict writes for the scene."""
    folder = tmp_path_factory.mktemp("predicted")
    assert predict([str(scene), "--model", str(model), "--output", str(folder), "--json"]) == 0
    return folder / scene.stem


class Server(NamedTuple):
    """The page as served by a Space: its address, the folder of its files, and a counter of downloads from the Hub."""

    url: str
    files: Path
    downloads: Counter


@contextmanager
def serve(model: Path, folder: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "files").mkdir()
    with serve_hub(model, "user/model") as (endpoint, downloads):
        environment = {
            "PSELDNET_MODEL": str(model),
            "GRADIO_SERVER_PORT": str(port),
            "TMPDIR": str(folder / "files"),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf"),
            "NO_PROXY": "127.0.0.1",
        }
        # Run from its own folder, as in a Space.
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=Path(spaces_demo.__file__).parent,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Server(wait_for(f"http://127.0.0.1:{port}", process), folder / "files", downloads)
        finally:
            process.terminate()
            log, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert b"Traceback" not in log, log.decode()


def wait_for(url: str, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return url
        except OSError:
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")


@pytest.fixture(scope="session")
def server(model, tmp_path_factory):
    with serve(model, tmp_path_factory.mktemp("server")) as running:
        yield running
    left = [file for file in running.files.rglob("*") if file.is_file()]
    assert left == [], "files of visitors are left when the server has stopped"


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    # No WebGL; no sandbox, as root has none; no background requests; a fake two-channel microphone that beeps.
    options = "--no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic"
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync"
    beeps = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=f"{options} {quiet} {beeps}".split())
        yield browser
        browser.close()
