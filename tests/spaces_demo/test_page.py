"""The page in a browser: what people see, hear, press and are told."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from modeling_pseldnet.events import FRAME_SECONDS
from spaces_demo.precompute import EXAMPLES


RECORDS = json.loads((EXAMPLES / "scene" / "scene.scene.json").read_text(encoding="utf-8"))["records"]
DRAWN = "JSON.parse(document.querySelector('#picture').dataset.names)"
LISTED = "[...document.querySelectorAll('#now [data-label]')].map(item => item.dataset.label)"


def sounding(time: float, records: list[dict] = RECORDS) -> list[str]:
    """The labels of what sounds at a time, by frames of 100 ms."""
    frame = int(time / FRAME_SECONDS + 1e-6)
    return sorted(r["label"] for r in records if round(r["onset"] * 10) <= frame < round(r["offset"] * 10))


@pytest.fixture
def open_page(browser, server):
    """Opens the page with its example, and closes it in the end; nothing may go wrong in its scripts."""
    contexts, errors = [], []

    def open_page(path="", width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server.url}/{path}")
        page.wait_for_selector("#stage:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(open_page):
    return open_page()


def find_events(page, recording) -> None:
    page.set_input_files("#file", recording)
    page.click("#run")


def test_it_opens_with_a_scene_that_can_be_seen_and_heard(page):
    kinds = {record["label"] for record in RECORDS}
    assert page.inner_text("#summary") == f"{len(RECORDS)} events of {len(kinds)} kinds in 16.0 s"
    assert set(page.evaluate(DRAWN)) == kinds
    assert page.locator("#list tbody tr").count() == len(RECORDS)
    page.wait_for_function("document.querySelector('#audio').duration > 15.5")
    assert "24 sounds" in page.inner_text("#honest")


LOOK_WHILE_IT_PLAYS = f"""() => {{
    window.seen = [];
    const audio = document.querySelector('#audio');
    audio.muted = true;
    audio.playbackRate = 4;
    const look = () => {{
        const {{names, time}} = document.querySelector('#picture').dataset;
        if (time !== '') seen.push([Number(time), JSON.parse(names), {LISTED}]);
        requestAnimationFrame(look);
    }};
    look();
}}"""


def test_while_it_plays_the_names_are_those_that_sound_at_every_tenth_of_a_second(page):
    page.evaluate(LOOK_WHILE_IT_PLAYS)
    page.click("#play")
    page.wait_for_function("document.querySelector('#audio').ended", timeout=30000)
    seen = page.evaluate("seen")
    assert len({int(10 * time) for time, *_ in seen}) > 30
    for time, drawn, listed in seen:
        assert sorted(drawn) == sorted(listed) == sounding(time), time


def test_every_tenth_of_a_second_can_be_reached_by_keys(page):
    page.focus("#timeline")
    page.keyboard.press("Home")
    for number in range(1, 161):
        page.keyboard.press("ArrowUp")
        time = min(number / 10, 16)
        assert sorted(page.evaluate(DRAWN)) == sounding(time), time
    assert page.get_attribute("#timeline", "aria-valuenow") == "16.0"


def test_keys_play_and_seek_and_the_text_follows(page):
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Pause]")
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Play]")
    page.focus("#timeline")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#timeline", "aria-valuenow") == "1.0"
    assert page.get_attribute("#timeline", "aria-valuetext") == "1.0 s of 16.0 s: water"
    assert page.get_attribute("#picture", "aria-label").startswith("At 1.0 s: water ahead left, ")
    page.keyboard.press("End")
    assert page.get_attribute("#timeline", "aria-valuenow") == "16.0"


def test_a_click_on_the_line_of_time_or_a_row_seeks_and_marks_the_row(page):
    box = page.locator("#timeline").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 6.5 / 16, box["y"] + 20)
    assert float(page.get_attribute("#timeline", "aria-valuenow")) == pytest.approx(6.5, abs=0.1)
    assert page.locator("tr[aria-current]").all_inner_texts()[0].startswith("wind instrument")
    row = page.locator("#list tbody tr").nth(1)
    row.locator("th").click()
    assert float(page.get_attribute("#timeline", "aria-valuenow")) == RECORDS[1]["onset"]
    assert row.get_attribute("aria-current") == "true"
    page.click("#whole")
    assert len(page.evaluate(DRAWN)) > 3
    assert page.is_disabled("#whole")


def test_one_filter_rules_figure_list_and_line_of_time_without_another_run(page):
    page.fill("#least", "0.7")
    kept = [record for record in RECORDS if record["confidence"] >= 0.7]
    assert page.locator("#list tbody tr").count() == page.locator("#lanes i:not(.gap)").count() == len(kept)
    assert set(page.evaluate(DRAWN)) == {record["label"] for record in kept}
    page.click(f".chip[data-label={kept[0]['label']}]")
    assert kept[0]["label"] not in page.evaluate(DRAWN)
    page.fill("#least", "1")
    assert page.inner_text("#none") == "The filter hides all events."


def test_what_no_class_was_found_for_is_said(page):
    gap = page.locator("#lanes .gap").bounding_box()
    page.mouse.click(gap["x"] + gap["width"] / 2, gap["y"] - 60)
    assert page.inner_text("#now") == "not one of its classes"


def test_a_link_gives_the_same_view_and_only_of_examples(open_page, scene):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.click(".chip[data-label=drum]")
    page.fill("#least", "0.6")
    page.click("#tab-map")
    page.locator("#list tbody tr th").nth(1).click()
    page.click("#link")
    page.wait_for_function("document.querySelector('#link').textContent === 'Copied'")
    link = page.evaluate("navigator.clipboard.readText()")
    other = open_page(link.split("/")[-1])
    texts = [f"document.querySelector('{part}').textContent" for part in ("#clock", "#list", "[aria-selected=true]")]
    for read in (DRAWN, LISTED, *texts):
        assert other.evaluate(read) == page.evaluate(read)
    find_events(page, scene)
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)
    assert page.is_disabled("#link")


def test_a_visitor_uploads_looks_listens_and_downloads(page, scene, predicted, tmp_path):
    page.set_input_files("#file", scene)
    assert page.is_hidden("#stage"), "an old result stays beside a new file"
    page.click("#run")
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)
    records = json.loads(predicted.with_suffix(".json").read_text())
    assert page.inner_text("#said") == f"Result ready: {page.inner_text('#summary')}"
    assert page.inner_text("#summary").startswith(f"{len(records)} events of ")
    assert page.locator("#list tbody tr").count() == len(records)
    for kind in ("csv", "json"):
        with page.expect_download() as download:
            page.click(f"#{kind}")
        assert download.value.suggested_filename == f"from the left.{kind}"
        assert Path(download.value.path()).read_text() == predicted.with_suffix(f".{kind}").read_text()
    page.focus("#timeline")
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    assert sorted(page.evaluate(LISTED)) == sounding(10, records)

    stereo = page.get_attribute("#audio", "src")
    page.check("[name=listen][value=binaural]")
    assert page.get_attribute("#audio", "src") != stereo
    page.locator(".solo").first.click()
    page.wait_for_function("document.querySelector('#audio').src.endsWith('solo.mp3')")
    page.wait_for_selector("#play[aria-label=Pause]")
    assert page.locator(".solo[aria-pressed=true]").count() == 1


def test_pictures_and_videos_are_made(page, tmp_path):
    with page.expect_download() as download:
        page.click("#image")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.click("#film")
    page.wait_for_function("document.querySelector('#film').textContent.startsWith('Stop,')")
    page.click("#film")
    page.wait_for_function("document.querySelector('#film').textContent === 'Video'")


def test_a_video_holds_the_radar_and_its_sound(page):
    """A film of the last one and a half seconds, made by the same function as that of the whole."""
    size, kind = page.evaluate("""async () => {
        const {film} = await import('./page/share.js');
        const scene = await (await fetch('example/scene/scene.scene.json')).json();
        const {styles} = await import('./page/scene.js');
        const look = (time) => ({records: scene.records, all: scene.records, styles: styles(scene.records), time});
        const stop = new AbortController();
        const blob = await film(scene, look, 'example/scene/scene.mp3', 14.5, () => {}, stop.signal);
        const video = document.createElement('video');
        video.src = URL.createObjectURL(blob);
        video.muted = true;
        await video.play();
        return [[video.videoWidth, blob.size], blob.type];
    }""")
    assert size[0] == 1280
    assert size[1] > 5000
    assert kind == "video/webm"


def test_a_file_that_cannot_be_used_is_refused_in_words_that_help(page, make_recording):
    find_events(page, make_recording("mono.wav", channels=1))
    page.wait_for_selector("#error:not([hidden])")
    message = page.inner_text("#error p")
    assert "mono.wav: 1 channels where first-order ambisonics has 4" in message
    assert "record with an ambisonic or a tetrahedral microphone" in message
    assert "tmp" not in message
    assert page.is_visible("#run")
    assert page.is_visible("#ready")
    page.click("#error button")
    assert page.is_hidden("#error")


def test_a_server_that_is_gone_is_said_and_the_file_kept(page, scene):
    page.route("**/gradio_api/**", lambda route: route.abort())
    find_events(page, scene)
    page.wait_for_selector("#error:not([hidden])")
    assert "The server does not answer" in page.inner_text("#error p")
    assert page.inner_text("#chosen") == scene.name


def test_a_visitor_can_cancel(page, make_recording, scene):
    page.click("#options summary")
    page.select_option("#overlap", "0.9")
    find_events(page, make_recording("long.wav", seconds=200, sampling_rate=8000))
    page.wait_for_function("document.querySelector('#doing').textContent.includes('windows')", timeout=60000)
    page.click("#cancel")
    assert page.is_visible("#run")
    page.select_option("#overlap", "0.0")
    find_events(page, scene)
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)


CUT = """() => [...document.querySelectorAll('h1, h2, p, .chip, button, th, td, label, #lanes span, #ticks span')]
    .filter(part => part.offsetParent && !part.closest('.unseen, thead'))
    .filter(part => {
        const {left, right, width} = part.getBoundingClientRect();
        const hidden = part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflow !== 'visible';
        return width && (left < -1 || right > innerWidth + 1 || hidden);
    })
    .map(part => part.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_in_either_scheme(open_page, scheme):
    page = open_page(width=390, height=844, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(CUT) == []
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(11, 15, 20)") == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_drawn_has_contrast(open_page, scheme):
    """Texts in figures have 4.5:1 against what is behind them, marks 3:1 against the ground of the figure."""
    page = open_page(color_scheme=scheme)
    colours = page.evaluate("""async () => {
        const {theme} = await import('./page/draw.js');
        return theme();
    }""")

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted([luminance(one), luminance(other)])
        return (high + 0.05) / (low + 0.05)

    grounds = [colours[name] for name in ("card", "disc", "rim")]
    assert min(contrast(colours[name], ground) for name in ("ink", "soft") for ground in grounds) >= 4.5
    assert min(contrast(mark, ground) for mark in colours["classes"] for ground in grounds) >= 3


@pytest.fixture(scope="module")
def axe():
    """The text of axe-core, from the folder of global npm packages."""
    npm = shutil.which("npm")
    root = npm and subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=True).stdout.strip()
    file = Path(root or ".", "axe-core", "axe.min.js")
    if not file.is_file():
        pytest.skip("needs axe-core: npm install --global axe-core")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, axe, scheme):
    page = open_page(color_scheme=scheme)
    page.evaluate(axe)
    for state in ("() => {}", "() => document.querySelectorAll('details').forEach(e => { e.open = true; })"):
        page.evaluate(state)
        violations = page.evaluate("axe.run().then(result => result.violations)")
        found = [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in violations]
        assert found == []


def test_the_tab_order_is_that_of_the_page(page):
    order = []
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert order[4:] == [
        "file",
        "run",
        "BUTTON",
        "SUMMARY",
        "play",
        "listen",
        "timeline",
        "tab-radar",
        "BUTTON",
        "BUTTON",
    ]


def test_a_link_to_the_page_has_a_picture_of_its_own(page, server):
    read = "[...document.querySelectorAll('meta[property]')].map(tag => [tag.getAttribute('property'), tag.content])"
    tags = dict(page.evaluate(read))
    assert tags["og:title"] == page.title() == "What sounds, and from where?"
    assert tags["og:image"] == f"{server.url}/page/share.png"
    answer = page.request.get(tags["og:image"])
    assert answer.body().startswith(b"\x89PNG")
    assert len(answer.body()) < 300_000
