import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import soundfile
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import spaces_demo
from modeling_pseldnet import read_csv
from modeling_pseldnet.tools.predict import main as predict
from spaces_demo import main
from spaces_demo.app import Finder


FOLDER = Path(spaces_demo.__file__).parent
FIGURES = "[...document.querySelectorAll('#results .js-plotly-plot')]"


@pytest.fixture(scope="module")
def scene(make_recording):
    return make_recording("from the left.wav", seconds=12)


@pytest.fixture(scope="module")
def predicted(scene, model, tmp_path_factory):
    """What pseldnet-predict writes of the scene: the path without suffix."""
    folder = tmp_path_factory.mktemp("predicted")
    assert predict([str(scene), "--model", str(model), "--output", str(folder), "--json"]) == 0
    return folder / scene.stem


@pytest.fixture(scope="module")
def detect(server, tmp_path_factory):
    """Calls the endpoint as a client of its own; returns the paths of CSV, JSON, picture and preview."""

    def call(recording, **inputs) -> tuple[str, str, str, str]:
        client = Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("client"))
        return client.predict(recording=handle_file(recording), api_name="/detect", **inputs)

    return call


@pytest.fixture
def page(server, browser):
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_selector("#run")
    yield page
    page.close()


def find_events(page, recording) -> None:
    page.set_input_files("#inputs input[type=file]", recording)
    page.wait_for_selector(".file-preview")
    page.click("#run")


def test_the_endpoint_gives_what_the_program_writes(detect, scene, predicted):
    csv, text, picture, preview = detect(scene)
    assert len(read_csv(csv)) > 10
    assert Path(csv).read_text() == predicted.with_suffix(".csv").read_text()
    assert Path(text).read_text() == predicted.with_suffix(".json").read_text()
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert soundfile.info(preview).duration == pytest.approx(12, abs=0.2)


def test_a_visitor_uploads_looks_listens_and_downloads(page, scene, predicted, tmp_path):
    find_events(page, scene)
    page.wait_for_selector("#results .js-plotly-plot .bars", timeout=60000)
    records = json.loads(predicted.with_suffix(".json").read_text())
    labels = {record["label"] for record in records}
    assert page.inner_text("#results h2").startswith(
        f"{len(records)} events of {len(labels)} kinds in 12.0\N{NO-BREAK SPACE}s"
    )
    assert page.evaluate(f"{FIGURES}.length") == 3
    paths = page.evaluate(f"{FIGURES}.map(f => f.data.filter(t => t.meta === 'path').map(t => t.name))")
    assert [set(names) for names in paths] == [labels, labels, set()]

    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "events.csv")
    assert download.value.suggested_filename == "from the left.csv"
    assert (tmp_path / "events.csv").read_text() == predicted.with_suffix(".csv").read_text()

    page.fill("#time", "4.2")
    assert page.evaluate(f"{FIGURES}[2].layout.shapes[0].x0") == 4.2
    now = page.evaluate(f"{FIGURES}[0].data.find(t => t.meta === 'now').text.filter(Boolean)")
    assert sorted(now) == sorted(r["label"] for r in records if r["onset"] <= 4.2 < r["offset"] - 1e-6)
    dimmed = f"{FIGURES}[0].data.filter(t => t.meta === 'path').every(t => t.opacity < 1)"
    assert page.evaluate(dimmed)
    page.click("#whole")
    assert not page.evaluate(dimmed)

    page.click("#play")
    page.wait_for_function("document.querySelector('#time').value > 0.3")
    assert page.evaluate(dimmed)


def test_a_mono_file_is_refused_in_words_that_help(page, make_recording):
    find_events(page, make_recording("mono.wav", channels=1))
    message = page.inner_text(".toast-body")
    assert "mono.wav: 1 channels where first-order ambisonics has 4" in message
    assert "four channels of an ambisonic or a tetrahedral microphone" in message
    assert "/" not in message.replace("ambisonic/", "")
    page.wait_for_selector("#run")


def test_a_visitor_can_cancel(page, make_recording, detect, scene):
    page.click("text=Options")
    page.click("text=10 times the work")
    find_events(page, make_recording("long.wav", seconds=200, sampling_rate=8000))
    page.wait_for_selector("#status .progress-level")
    page.click("#cancel")
    page.wait_for_selector("#run")
    detect(scene)
    assert not page.is_visible("#results")


def test_cancelling_ends_the_work_after_the_windows_in_hand(model, make_recording):
    finder, visitor, seen = Finder(str(model)), SimpleNamespace(session_hash="visitor"), []

    def progress(done, **_) -> None:
        if isinstance(done, tuple):
            seen.append(done)
            finder.cancel(visitor)

    assert list(finder.find(make_recording("a.wav", seconds=180), request=visitor, progress=progress)) == []
    assert seen == [(8, 18)]
    assert not finder.running


def test_ten_clients_at_once_all_get_their_results(detect, scene, predicted):
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(detect, [scene] * 10))
    assert {Path(csv).read_text() for csv, *_ in results} == {predicted.with_suffix(".csv").read_text()}


def text_file(make_recording) -> Path:
    path = make_recording("text.wav")
    path.write_text("not audio")
    return path


def truncated_file(make_recording) -> Path:
    path = make_recording("truncated.wav")
    path.write_bytes(path.read_bytes()[:50000])
    return path


BAD_FILES = {
    "stereo": (lambda make: make("stereo.flac", channels=2), "stereo.flac: 2 channels"),
    "too many channels": (lambda make: make("six.wav", channels=6), "six.wav: 6 channels"),
    "too long": (lambda make: make("long.flac", seconds=610, sampling_rate=2000), "long.flac: 10.2 minutes where 10"),
    "not audio": (text_file, "text.wav: not readable audio"),
    "truncated": (truncated_file, "truncated.wav: truncated"),
    "empty": (lambda make: make("empty.wav", seconds=0), "empty.wav: no samples"),
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


def test_a_model_of_the_hub_comes_without_code_and_without_pickles(detect, server, scene, predicted):
    csv, *_ = detect(scene, model="user/model")
    assert Path(csv).read_text() == predicted.with_suffix(".csv").read_text()
    assert "model.safetensors" in server.downloads
    assert {Path(name).suffix for name in server.downloads} <= {".json", ".safetensors"}


def test_a_visitor_reaches_no_model_that_is_not_on_the_hub(detect, scene, model):
    for name in ("user/none", str(model), "../tiny"):
        with pytest.raises(AppError, match="no model of the Hub that can be used here"):
            detect(scene, model=name)


def test_threshold_overlap_and_channel_format_are_used(detect, scene, model, tmp_path):
    options = ["--threshold", "0.9", "--hop", "5", "--channel-format", "fuma"]
    assert predict([str(scene), "--model", str(model), "--output", str(tmp_path), *options]) == 0
    csv, *_ = detect(scene, threshold=0.9, overlap=0.5, channel_format="fuma")
    assert Path(csv).read_text() == (tmp_path / scene.stem).with_suffix(".csv").read_text()


def test_the_program_names_a_model_that_cannot_be_loaded_in_one_line(capsys, tmp_path):
    assert main(["--model", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_folder_is_a_space():
    front_matter = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert front_matter["sdk"] == "gradio"
    assert (FOLDER / front_matter["app_file"]).is_file()
    assert (FOLDER / "requirements.txt").read_text().startswith("pseldnets[demo]")
