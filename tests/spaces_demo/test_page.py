"""The page in a browser: what visitors see, hear and press, and the messages they get."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from modeling_pseldnet.events import FRAME_SECONDS
from spaces_demo.models import load_own
from spaces_demo.precompute import EXAMPLES
from spaces_demo.results import find_events, write_result


SCENE = json.loads((EXAMPLES / "scene" / "scene.scene.json").read_text(encoding="utf-8"))
RECORDS = SCENE["records"]
DRAWN = "JSON.parse(document.querySelector('#picture').dataset.names)"
LISTED = "[...document.querySelectorAll('#now [data-label]')].map(item => item.dataset.label)"


def sounding(time: float, records: list[dict] = RECORDS) -> list[str]:
    """The labels of the events that are active at a time, in frames of 100 ms."""
    frame = int(time / FRAME_SECONDS + 1e-6)
    return sorted(r["label"] for r in records if round(r["onset"] * 10) <= frame < round(r["offset"] * 10))


@pytest.fixture(scope="module")
def tab(browser):
    """A browser tab for all tests, as opening new ones is slow."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write", "microphone"])
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab, server):
    """The page with its example, freshly loaded; its scripts must not raise errors."""
    errors = []
    tab.on("pageerror", note := lambda error: errors.append(str(error)))
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    visit(tab, server)
    yield tab
    tab.remove_listener("pageerror", note)
    tab.unroute_all()
    assert errors == []


def visit(tab, server, link="") -> None:
    """Open another address of the page with a full reload, even if only the part after # differs."""
    tab.goto("about:blank")
    tab.goto(f"{server.url}/{link}")
    tab.wait_for_selector("#stage:not([hidden])")


def upload(page, recording) -> None:
    page.set_input_files("#file", recording)
    page.click("#run")


def hold(page, address) -> list:
    """Hold the next request to an address until the test continues it; return a list that will contain it."""
    held = []
    page.route(address, lambda route: held.append(route), times=1)
    return held


def test_it_opens_with_a_scene_that_can_be_seen_and_heard(page):
    kinds = {record["label"] for record in RECORDS}
    assert page.inner_text("#summary") == f"{len(RECORDS)} events of {len(kinds)} kinds in 16.0 s"
    assert set(page.evaluate(DRAWN)) == kinds
    assert page.locator("#list tbody tr").count() == len(RECORDS)
    page.wait_for_function("document.querySelector('#audio').duration > 15.5")
    assert "48 sounds" in page.inner_text("#honest")


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
    page.evaluate(f"window.seen = []; document.addEventListener('keydown', () => seen.push({DRAWN}))")
    for _ in range(160):
        page.keyboard.press("ArrowUp")
    drawn = page.evaluate("seen")
    for number in range(1, 161):
        time = min(number / 10, 16)
        assert sorted(drawn[number - 1]) == sounding(time), time
    assert page.get_attribute("#timeline", "aria-valuenow") == "16.0"


def test_keys_play_and_seek_and_the_text_follows(page):
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Pause]")
    page.keyboard.press("Space")
    page.wait_for_selector("#play[aria-label=Play]")
    page.focus("#timeline")
    page.keyboard.press("Home")
    second = next(second for second in range(1, 16) if len(sounding(second)) == 1)
    for _ in range(second):
        page.keyboard.press("ArrowRight")
    (label,) = sounding(second)
    name = label.replace("_", " ")
    assert page.get_attribute("#timeline", "aria-valuenow") == f"{second}.0"
    assert page.get_attribute("#timeline", "aria-valuetext") == f"{second}.0 s of 16.0 s: {name}"
    place = rf"{name} (ahead|behind|left|right|(ahead|behind) (left|right)), "
    assert re.match(f"At {second}.0 s: {place}", page.get_attribute("#picture", "aria-label"))
    page.keyboard.press("End")
    assert page.get_attribute("#timeline", "aria-valuenow") == "16.0"


def test_a_click_on_the_line_of_time_or_a_row_seeks_and_marks_the_row(page):
    box = page.locator("#timeline").bounding_box()
    time = next(tenth / 10 for tenth in range(160) if sounding((tenth - 1) / 10) == sounding((tenth + 1) / 10) != [])
    page.mouse.click(box["x"] + box["width"] * time / 16, box["y"] + 20)
    assert float(page.get_attribute("#timeline", "aria-valuenow")) == pytest.approx(time, abs=0.1)
    marked = [row.split("\t")[0].strip() for row in page.locator("tr[aria-current]").all_inner_texts()]
    assert sorted(name.replace(" ", "_") for name in marked) == sounding(time)
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


def test_what_no_class_was_found_for_is_said(page, server):
    """The event of the longest sound is removed here."""
    longest = max(RECORDS, key=lambda record: record["offset"] - record["onset"])
    without = {**SCENE, "records": [record for record in RECORDS if record is not longest]}
    page.route("**/scene.scene.json", lambda route: route.fulfill(json=without))
    visit(page, server)
    gap = page.locator("#lanes .gap").first.bounding_box()
    page.mouse.click(gap["x"] + gap["width"] / 2, gap["y"] - 60)
    assert page.inner_text("#now") == "not one of its classes"


def test_a_link_gives_the_same_view(page, server):
    page.click(".chip[data-label=drum]")
    page.fill("#least", "0.6")
    page.click("#tab-map")
    page.locator("#list tbody tr th").nth(1).click()
    page.click("#link")
    page.wait_for_function("document.querySelector('#link').textContent === 'Copied'")
    texts = [f"document.querySelector('{part}').textContent" for part in ("#clock", "#list", "[aria-selected=true]")]
    before = [page.evaluate(read) for read in (DRAWN, LISTED, *texts)]
    visit(page, server, page.evaluate("navigator.clipboard.readText()").split("/")[-1])
    assert [page.evaluate(read) for read in (DRAWN, LISTED, *texts)] == before


def test_the_way_to_another_part_of_the_page_leaves_what_is_shown(page):
    page.click("#examples [data-id=band]")
    page.wait_for_selector("#about-scene:text('band')")
    page.evaluate("window.ways = 0; addEventListener('hashchange', () => { ways += 1; })")
    page.click("nav a[href='#python']")
    page.go_back()
    page.wait_for_function("ways === 2")
    page.wait_for_load_state("networkidle")
    assert "band" in page.inner_text("#about-scene")


def test_a_last_frame_that_is_partly_filled_stays_within_the_line_of_time(page, server):
    end = {**RECORDS[0], "onset": 59.0, "offset": 60.0}
    page.route("**/scene.scene.json", lambda route: route.fulfill(json={**SCENE, "seconds": 59.96, "records": [end]}))
    visit(page, server)
    assert page.inner_text("#clock") == "0:00.0 / 1:00.0"
    line, bar = (page.locator(part).bounding_box() for part in ("#lanes", "#lanes i:not(.gap)"))
    assert bar["x"] + bar["width"] <= line["x"] + line["width"] + 0.1


def test_any_number_of_distances_has_its_rings(page):
    assert page.evaluate("""async () => {
        const {draw, theme} = await import('./page/draw.js');
        const trajectory = Array(200000).fill({time: 0, azimuth: 0, elevation: 0, distance: 2});
        const records = [{label: 'a', onset: 0, offset: 20000, trajectory}];
        const styles = new Map([['a', {colour: 0, shape: 'ring'}]]);
        const look = {records, all: records, styles, time: null, colours: theme()};
        return draw(new OffscreenCanvas(600, 350).getContext('2d'), 'radar', 600, 350, look).names;
    }""") == ["a"]


def test_a_visitor_uploads_looks_listens_and_downloads(page, scene, predicted, tmp_path):
    page.set_input_files("#file", scene)
    assert page.is_hidden("#stage"), "an old result stays beside a new file"
    page.click("#run")
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)
    records = json.loads(predicted.with_suffix(".json").read_text())
    assert page.inner_text("#said") == f"Result ready: {page.inner_text('#summary')}"
    assert page.inner_text("#summary").startswith(f"{len(records)} events of ")
    assert page.locator("#list tbody tr").count() == len(records)
    assert page.is_disabled("#link"), "a link to what is deleted soon"
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


@pytest.mark.parametrize("step", ["upload", "queue/join", "file=**.scene.json"])
def test_the_result_is_that_of_the_file_chosen_last(page, make_recording, scene, predicted, step):
    held = hold(page, f"**/gradio_api/{step}")
    with page.expect_request(f"**/gradio_api/{step}"):
        upload(page, make_recording("other.wav"))
    page.set_input_files("#file", scene)
    assert page.inner_text("#ready h2") == f"{scene.name} is ready"
    held[0].continue_()
    page.click("#run")
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)
    assert page.inner_text("#about-scene").startswith(scene.name)
    assert page.locator("#list tbody tr").count() == len(json.loads(predicted.with_suffix(".json").read_text()))


def test_an_example_takes_the_place_of_a_recording_that_is_worked_on_and_the_reverse(page, scene):
    held = hold(page, "**/gradio_api/queue/join")
    with page.expect_request("**/gradio_api/queue/join"):
        upload(page, scene)
    page.click("#examples [data-id=scene]")
    page.wait_for_selector("#stage:not([hidden])")
    with page.expect_request("**/gradio_api/cancel"):
        held[0].continue_()
    assert page.is_visible("#run")
    assert page.is_hidden("#error")
    assert page.inner_text("#about-scene").startswith(SCENE["title"])

    held = hold(page, "**/scene.scene.json")
    with page.expect_request("**/scene.scene.json"):
        page.click("#examples [data-id=scene]")
    page.set_input_files("#file", scene)
    with page.expect_response("**/scene.scene.json") as response:
        held[0].continue_()
    response.value.finished()
    assert page.is_hidden("#stage")
    assert page.inner_text("#chosen") == scene.name


PRESSED = "[...document.querySelectorAll('.solo')].map(button => button.getAttribute('aria-pressed') === 'true')"


def test_of_two_events_the_one_pressed_last_is_heard_alone_and_stays_marked(page):
    held = hold(page, "**/gradio_api/queue/join")
    page.locator(".solo").nth(0).click()
    page.locator(".solo").nth(1).click()
    # Paused, because the full recording resumes when it ends.
    alone = "src.endsWith('solo.mp3') && (this.pause(), true)"
    page.wait_for_function(f"(function () {{ return this.{alone} }}).call(document.querySelector('#audio'))")
    sound = page.get_attribute("#audio", "src")
    held[0].continue_()
    page.wait_for_function("!document.querySelector('.busy')")
    assert page.get_attribute("#audio", "src") == sound
    page.fill("#least", "0.05")
    assert [number for number, pressed in enumerate(page.evaluate(PRESSED)) if pressed] == [1]


# Record the texts that are drawn in the frames of a video.
READ_FRAMES = """() => {
    const {fillText} = CanvasRenderingContext2D.prototype;
    window.texts = [];
    CanvasRenderingContext2D.prototype.fillText = function (words, ...place) {
        if (this.canvas.width === 1280) texts.push(words);
        return fillText.call(this, words, ...place);
    };
}"""


def test_pictures_and_videos_are_made_of_what_is_shown_when_they_are_asked_for(page):
    with page.expect_download() as download:
        page.click("#image")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.click("#film")
    page.wait_for_function("document.querySelector('#film').textContent.startsWith('Stop,')")
    page.click("#examples [data-id=band]")
    page.wait_for_selector("#about-scene:text('A band')")
    page.evaluate(READ_FRAMES)
    page.wait_for_function(f"texts.includes({json.dumps(SCENE['title'])})")
    page.wait_for_function("texts.includes('footsteps')")
    page.click("#film")
    assert "A band all around you" not in page.evaluate("texts")
    page.wait_for_function("document.querySelector('#film').textContent === 'Video'")


def test_a_video_of_a_long_recording_begins_anew_where_that_is_over(page, make_recording):
    upload(page, make_recording("minute.wav", seconds=61))
    page.wait_for_selector("#about-scene:text('minute.wav')")
    page.focus("#timeline")
    page.keyboard.press("End")
    page.click("#film")
    page.wait_for_function("/^Stop, [1-9] %$/.test(document.querySelector('#film').textContent)")
    page.click("#film")
    page.wait_for_selector("#film:text-is('Video')")


def test_a_video_holds_the_radar_and_its_sound(page):
    """A video of the last 1.5 seconds, made by the same function as that of a whole recording."""
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
    upload(page, make_recording("mono.wav", channels=1))
    page.wait_for_selector("#error:not([hidden])")
    message = page.inner_text("#error p")
    assert "mono.wav: 1 channel, but this model needs 4. One channel carries no" in message
    assert "record with an ambisonic or a tetrahedral microphone" in message
    assert "tmp" not in message
    assert page.is_visible("#run")
    assert page.is_visible("#ready")
    page.click("#error button")
    assert page.is_hidden("#error")


def test_a_server_that_is_gone_is_said_and_the_file_kept(page, scene):
    page.route("**/gradio_api/**", lambda route: route.abort())
    upload(page, scene)
    page.wait_for_selector("#error:not([hidden])")
    assert "The server does not answer" in page.inner_text("#error p")
    assert page.inner_text("#chosen") == scene.name


def test_a_visitor_can_cancel(page, make_recording, scene):
    page.click("#options summary")
    page.select_option("#overlap", "0.9")
    upload(page, make_recording("long.wav", seconds=200, sampling_rate=8000))
    page.wait_for_function("document.querySelector('#doing').textContent.includes('windows')", timeout=60000)
    page.click("#cancel")
    assert page.is_visible("#run")
    page.select_option("#overlap", "0.0")
    upload(page, scene)
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
def test_on_a_phone_nothing_is_cut_in_either_scheme(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth === 390", timeout=10000)
    assert page.evaluate(CUT) == []
    assert page.evaluate("(list => list.scrollWidth <= list.clientWidth)(document.querySelector('#list'))")
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(11, 15, 20)") == (scheme == "dark")


def test_on_a_phone_names_of_what_sounds_are_whole_while_it_listens_live(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("document.querySelector('#clock').textContent = '0:06.0, told 1.1 s after it sounds'")
    page.evaluate("document.querySelector('#now').innerHTML = '<li>plucked string</li><li>wind instrument</li>'")
    heights = page.evaluate("[...document.querySelectorAll('#now li')].map(name => name.clientHeight)")
    assert max(heights) < 30, "a line each"
    assert page.evaluate("(now => now.scrollHeight <= now.clientHeight)(document.querySelector('#now'))")


def test_on_a_phone_the_longest_name_of_a_class_stays_within_the_page(page, server):
    page.set_viewport_size({"width": 390, "height": 844})
    long = [{**record, "label": "a_name_of_many_words_" * 5} for record in RECORDS]
    page.route("**/scene.scene.json", lambda route: route.fulfill(json={**SCENE, "records": long}))
    visit(page, server)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_of_many_kinds_of_sounds_the_line_of_time_and_the_filter_fit_on_a_screen(page, server):
    many = [{**RECORDS[0], "label": f"kind_{number}"} for number in range(100)]
    page.route("**/scene.scene.json", lambda route: route.fulfill(json={**SCENE, "records": many}))
    visit(page, server)
    assert page.locator("#timeline").bounding_box()["height"] < 800
    assert page.locator("#chips").bounding_box()["height"] <= 210


@pytest.mark.parametrize("width", [620, 1010, 1170, 1280])
def test_the_list_fits_its_place_late_in_a_long_recording_too(page, server, width):
    page.set_viewport_size({"width": width, "height": 900})
    late = [{**record, **{name: record[name] + 500 for name in ("onset", "offset")}} for record in RECORDS]
    page.route("**/scene.scene.json", lambda route: route.fulfill(json={**SCENE, "seconds": 600, "records": late}))
    visit(page, server)
    assert page.evaluate("(list => list.scrollWidth <= list.clientWidth)(document.querySelector('#list'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_drawn_has_contrast(page, scheme):
    """Text in figures has a contrast of 4.5:1 with its background, and marks have 3:1 with that of the figure."""
    page.emulate_media(color_scheme=scheme)
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
    """The source of axe-core, from the global npm packages."""
    npm = shutil.which("npm")
    root = npm and subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=True).stdout.strip()
    file = Path(root or ".", "axe-core", "axe.min.js")
    if not file.is_file():
        pytest.skip("needs axe-core: npm install --global axe-core")
    return file.read_text(encoding="utf-8")


def test_axe_finds_nothing(page, axe):
    """Everything that can be opened is open; in dark mode only the colours differ."""
    page.evaluate(axe)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        options = {**rules, "resultTypes": ["violations"]}
        violations = page.evaluate("options => axe.run(options).then(result => result.violations)", options)
        assert [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in violations] == [], scheme


def test_the_tab_order_is_that_of_the_page(page):
    order = []
    for _ in range(16):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert order[4:] == [
        "file",
        "run",
        *["BUTTON"] * 2,
        "live",
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


# A four-channel microphone that plays the example, as Chromium's fake one has two channels.
FOUR_CHANNELS = """() => { navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext();
    const sound = await context.decodeAudioData(await (await fetch('example/scene.flac')).arrayBuffer());
    const options = {channelCount: 4, channelCountMode: 'explicit', channelInterpretation: 'discrete'};
    const microphone = new MediaStreamAudioDestinationNode(context, options);
    const source = new AudioBufferSourceNode(context, {buffer: sound});
    source.connect(microphone);
    source.start();
    return microphone.stream;
}; }"""


def test_a_microphone_is_heard_live_and_can_be_looked_at_afterwards(page):
    page.evaluate(FOUR_CHANNELS)
    page.click("#live")
    page.wait_for_function(f"{LISTED}.length > 0", timeout=60000)
    assert re.fullmatch(r"0:\d\d\.\d, shown \d+\.\d s after it sounds", page.inner_text("#clock"))
    assert sorted(page.evaluate(DRAWN)) == sorted(page.evaluate(LISTED))
    page.click("#cancel")
    page.wait_for_selector("#cancel", state="hidden", timeout=60000)
    assert page.inner_text("#said") == f"Stopped listening: {page.inner_text('#summary')}"
    assert page.is_hidden("#play")
    page.click("#run")
    assert page.inner_text("#error p") == "There is no recording yet: choose a file."
    row = page.locator("#list tbody tr").first
    row.locator("th").click()
    assert row.get_attribute("aria-current") == "true"


def test_while_it_listens_only_the_latest_events_are_listed(page):
    """All of them, made anew with every answer, would soon take the page longer than the sound."""
    page.evaluate(FOUR_CHANNELS)
    page.evaluate("() => { window.EventSource = class { constructor() { window.news = this; } close() {} }; }")
    page.click("#live")
    page.wait_for_function("Boolean(window.news?.onmessage)")
    page.evaluate("""() => {
        window.tell = (message) => news.onmessage({data: JSON.stringify(message)});
        tell({scene: {ambisonic: true, model: 'a model', classes: ['a'], scores: {}}, channels: 4});
        const events = [{label: 'a', track: 0, azimuth: 0, elevation: 0, confidence: 0.5}];
        for (let frame = 0; frame < 150; frame += 2) tell({time: frame / 10, events});
    }""")
    assert page.locator("#list tbody tr").count() == 50
    page.evaluate("tell({end: ''})")
    page.wait_for_function("document.querySelectorAll('#list tbody tr').length === 75")


def test_a_file_that_is_chosen_ends_live_listening(page, scene):
    page.evaluate(FOUR_CHANNELS)
    page.click("#live")
    page.wait_for_selector("#clock:text('shown')", timeout=60000)
    page.set_input_files("#file", scene)
    assert page.inner_text("#ready h2") == f"{scene.name} is ready"
    upload(page, scene)
    page.wait_for_selector("#stage:not([hidden])", timeout=60000)
    assert page.inner_text("#about-scene").startswith(scene.name)


def test_a_tab_that_is_closed_gives_up_its_place(page):
    page.evaluate(FOUR_CHANNELS)
    page.click("#live")
    page.wait_for_selector("#clock:text('shown')", timeout=60000)
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    page.wait_for_selector("#said:text('Stopped listening')", state="attached", timeout=5000)


def test_a_microphone_of_too_few_channels_is_refused_in_words_that_help(page):
    page.click("#live")
    page.wait_for_selector("#error:not([hidden])", timeout=60000)
    message = page.inner_text("#error p")
    assert message.startswith("Your microphone has 2 channels, but this model needs 4. Two channels can only")
    assert page.is_enabled("#live")


def test_of_stereo_left_and_right_and_distance_are_drawn(page, server, stereo_model, make_recording, tmp_path):
    model, recording = load_own(str(stereo_model)), str(make_recording("stereo.wav", channels=2))
    written = write_result(model, recording, find_events(model, recording), tmp_path)
    records = json.loads(Path(written.scene).read_text())["records"]
    page.route("**/scene.scene.json", lambda route: route.fulfill(path=written.scene))
    visit(page, server)
    assert page.is_hidden("#tab-map")
    assert page.is_hidden("#listen")
    assert page.inner_text("#list tbody td small").endswith(f"°, {records[0]['distance']:.1f}\u00a0m")
    assert " m" in page.get_attribute("#picture", "aria-label")
    assert "level" not in page.get_attribute("#picture", "aria-label")
    # All positions lie in the upper half of a circle around the listener, those at the side on its edge.
    places = page.evaluate("""async () => {
        const {draw, theme} = await import('./page/draw.js');
        const {styles} = await import('./page/scene.js');
        const {records} = await (await fetch('example/scene/scene.scene.json')).json();
        const look = {records, all: records, stereo: true, styles: styles(records), time: null, colours: theme()};
        const context = new OffscreenCanvas(600, 350).getContext('2d');
        return draw(context, 'radar', 600, 350, look).points.map(({x, y}) => [x, y]);
    }""")
    assert len(places) == sum(len(record["trajectory"]) for record in records)
    assert all(0 < x < 600 and 0 < y <= 312.5 for x, y in places)


def test_of_one_channel_no_direction_is_promised(page, server):
    page.route("**/scene.scene.json", lambda route: route.fulfill(json={**SCENE, "mono": True}))
    visit(page, server)
    assert page.inner_text("#honest").endswith("one channel, which carries no direction: those shown mean nothing.")


def test_in_a_small_picture_no_name_covers_another(page):
    pictures = page.evaluate("""async () => {
        const {VIEWS, draw, theme} = await import('./page/draw.js');
        const {styles} = await import('./page/scene.js');
        const pictures = [];
        for (const example of ['scene', 'band']) {
            const {records} = await (await fetch(`example/${example}/${example}.scene.json`)).json();
            const look = {records, all: records, styles: styles(records), time: null, colours: theme()};
            for (const view of Object.keys(VIEWS)) {
                const context = new OffscreenCanvas(346, 288).getContext('2d');
                const boxes = [];
                context.roundRect = (...box) => boxes.push(box);
                const {names} = draw(context, view, 346, 288, {...look, turn: {yaw: 0, pitch: 0.45}});
                pictures.push([[...look.styles.keys()], names.map((name, i) => [name, ...boxes[i]])]);
            }
        }
        return pictures;
    }""")
    for kinds, names in pictures:
        assert {name for name, *_ in names} == set(kinds)
        for i, (name, left, top, width, height, _) in enumerate(names):
            assert 0 <= left <= left + width <= 346
            for other, x, y, w, h, _ in names[:i]:
                assert x + w <= left or left + width <= x or y + h <= top or top + height <= y, (name, other)
