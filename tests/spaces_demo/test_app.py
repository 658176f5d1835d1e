import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.applications import Starlette
from starlette.testclient import TestClient

from modeling_pseldnet import PSELDNetForSELD, read_csv
from modeling_pseldnet.tools.predict import main as predict
from spaces_demo import main
from spaces_demo.answers import answering
from spaces_demo.app import Finder, build, page_routes
from tests.helpers import tiny_config


@pytest.fixture(scope="module")
def detect(server, tmp_path_factory):
    """Call the endpoint with a new client; return the paths of CSV, JSON, picture and preview."""

    def call(recording, **inputs) -> tuple[str, str, str, str]:
        client = Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("client"))
        return client.predict(recording=handle_file(recording), api_name="/detect", **inputs)

    with pytest.MonkeyPatch.context() as patch:
        # The client leaves an empty folder there for each downloaded file.
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("left")))
        yield call


def test_the_endpoint_gives_what_the_program_writes(detect, scene, predicted):
    csv, text, picture, preview = detect(scene)
    assert len(read_csv(csv)) > 10
    assert Path(csv).read_text() == predicted.with_suffix(".csv").read_text()
    assert Path(text).read_text() == predicted.with_suffix(".json").read_text()
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert soundfile.info(preview).duration == pytest.approx(12, abs=0.2)


def test_a_model_of_stereo_is_called_with_nothing_but_a_recording(stereo_model, make_recording):
    recording, visitor = str(make_recording("stereo.wav", channels=2)), SimpleNamespace(session_hash="visitor")
    for csv, *_, picture, _ in Finder(str(stereo_model)).detect(
        recording, request=visitor, progress=lambda *_, **__: None
    ):
        assert not read_csv(csv).elevation.any()
        assert Path(picture).stat().st_size > 1000


def test_the_page_tells_what_its_model_takes_and_that_one_channel_tells_no_directions(tmp_path):
    said = {
        ("logmel", 1): ("one channel and names each sound, ten times a second.", '"mono": true'),
        ("logmel_gcc", 10): ("the four capsules of a microphone array, names each sound and", '"mono": false'),
    }
    for (features, channels), (takes, mono) in said.items():
        PSELDNetForSELD(tiny_config(num_channels=channels, feature_type=features)).save_pretrained(tmp_path / features)
        finder = Finder(str(tmp_path / features))
        page = TestClient(Starlette(routes=page_routes(finder, build(finder)))).get("/").text
        assert f"A network listens to {takes}" in page
        assert mono in page


def test_cancelling_ends_the_work_after_the_windows_in_hand(model, make_recording):
    finder, visitor, seen = Finder(str(model)), SimpleNamespace(session_hash="visitor"), []

    def progress(done, **_) -> None:
        if isinstance(done, tuple):
            seen.append(done)
            finder.cancel(visitor)

    assert list(finder.scene(str(make_recording("a.wav", seconds=180)), request=visitor, progress=progress)) == []
    assert seen == [(8, 18)]
    assert not finder.running


def test_ten_clients_at_once_all_get_their_results(detect, make_recording):
    short = make_recording("short.wav", seconds=2)
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(detect, [short] * 10))
    assert len({Path(csv).read_text() for csv, *_ in results}) == 1
    assert len(read_csv(results[0][0])) > 10


def text_file(make_recording) -> Path:
    path = make_recording("text.wav")
    path.write_text("not audio")
    return path


def truncated_file(make_recording) -> Path:
    path = make_recording("truncated.wav")
    path.write_bytes(path.read_bytes()[:50000])
    return path


BAD_FILES = {
    "mono": (lambda make: make("mono.wav", channels=1), "mono.wav: 1 channel, but .*which cannot be recovered"),
    "stereo": (lambda make: make("stereo.flac", channels=2), "stereo.flac: 2 channels, .*a model for stereo"),
    "second order": (
        lambda make: make("2nd order.wav", channels=9),
        "this model needs 4. This is ambisonics of order 2: .* sox '2nd order.wav' first-order.wav",
    ),
    "other channels": (lambda make: make("six.wav", channels=6), "six.wav: 6 channels, .*Export the four"),
    "too long": (lambda make: make("long.flac", seconds=601, sampling_rate=2000), "10:01 minutes, .* is 10:"),
    "not audio": (text_file, "text.wav: not readable audio"),
    "truncated": (truncated_file, "truncated.wav: truncated"),
    "empty": (lambda make: make("empty.wav", seconds=0), "empty.wav: contains no samples"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_by_name_without_a_path_of_the_server(detect, make_recording, name):
    make, message = BAD_FILES[name]
    with pytest.raises(Exception, match=message) as caught:
        detect(make(make_recording))
    assert "/files/" not in str(caught.value)


def test_a_file_that_is_too_large_is_refused_while_it_is_sent(server, tmp_path):
    with open(tmp_path / "large.wav", "w+b") as file:
        file.truncate(101 * 2**20)
        answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=60)
    assert answer.status_code == 413
    assert "maximum allowed size" in answer.text


def test_of_an_upload_that_is_cancelled_nothing_is_kept(server):
    """The fixture of the server checks that nothing is logged either."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: page\r\nContent-Length: 1000000\r\n"
    part = '--cut\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nRIFF'

    def change(before: set[Path]) -> set[Path]:
        deadline = time.monotonic() + 20
        while (files := {*server.files.rglob("*")}) == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return files

    before = {*server.files.rglob("*")}
    with socket.create_connection((host, int(port))) as visitor:
        visitor.sendall(f"{head}Content-Type: multipart/form-data; boundary=cut\r\n\r\n{part}".encode())
        during = change(before)
    assert change(during) == before


def test_a_model_of_the_hub_comes_without_code_and_without_pickles(detect, server, scene, predicted):
    csv, *_ = detect(scene, model="user/model")
    assert Path(csv).read_text() == predicted.with_suffix(".csv").read_text()
    assert "model.safetensors" in server.downloads
    assert {Path(name).suffix for name in server.downloads} <= {".json", ".safetensors"}


def test_no_address_is_fetched_whatever_it_is_given_as(server, scene):
    client = Client(server.url, verbose=False)
    address = {"path": f"{server.url}/example/scene.flac", "meta": {"_type": "gradio.FileData"}}
    for inputs in ([address, "ambix", "", 0, 0], [handle_file(scene), "ambix", address, 0, 0]):
        with pytest.raises(AppError, match="Web addresses are not opened here"):
            client.predict(*inputs, api_name="/detect")


def test_an_input_that_a_call_cannot_have_is_refused_in_one_line(server, scene):
    """The fixture of the server checks that nothing is logged either."""
    client = Client(server.url, verbose=False)
    for inputs in ({"threshold": 0.07}, {"channel_format": "other"}, {"overlap": "much"}, {"recording": "/a/path"}):
        with pytest.raises(AppError, match=r"^(Value: .* not in the list of choices: .*|1 validation error.*)\.$"):
            client.predict(**{"recording": handle_file(scene), **inputs}, api_name="/detect")


def test_what_nobody_foresaw_gets_an_apology_with_a_number_that_is_in_the_log(caplog):
    with pytest.raises(gr.Error, match=r"Sorry.*number [0-9a-f]{6}") as caught, answering():
        raise RuntimeError("/secret/path")
    assert caught.value.message.split()[-1].rstrip(".") in caplog.text
    assert "secret" not in caught.value.message


def test_a_visitor_reaches_no_model_that_is_not_on_the_hub(detect, scene, model):
    for name in ("user/none", str(model), "../tiny"):
        with pytest.raises(AppError, match="no model on the Hub that can be used here"):
            detect(scene, model=name)


def test_threshold_overlap_and_channel_format_are_used(detect, scene, model, tmp_path):
    options = ["--threshold", "0.9", "--hop", "5", "--channel-format", "fuma"]
    assert predict([str(scene), "--model", str(model), "--output", str(tmp_path), *options]) == 0
    csv, *_ = detect(scene, threshold=0.9, overlap=0.5, channel_format="fuma")
    assert Path(csv).read_text() == (tmp_path / scene.stem).with_suffix(".csv").read_text()


def test_the_program_names_an_address_that_it_cannot_listen_to_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--port", port]) == 2
    assert main(["--host", "192.0.2.1"]) == 2
    with pytest.raises(SystemExit):
        main(["--port", "99999"])
    assert capsys.readouterr().err.splitlines() == [
        f"pseldnet-demo: error: --host 127.0.0.1 --port {port}: Address already in use: choose another one",
        "pseldnet-demo: error: --host 192.0.2.1: Cannot assign requested address: choose another one",
        "pseldnet-demo: error: argument --port: '99999' is not a whole number from 1 up to 65535",
    ]


def test_the_program_names_a_model_that_cannot_be_loaded_in_one_line(capsys, tmp_path):
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
