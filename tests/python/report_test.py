# SPDX-License-Identifier: Apache-2.0
"""The report page: contents, errors, and rendering in a real browser."""

import base64
import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

import isic
import isic.report
from loop_test import PROMPTS, Toy, judge

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
EVIL = "<script>document.title = 'evil'</script><img src=http://127.0.0.1:9/a onerror=\"alert(1)\">"


def test_the_module_is_there_without_an_import_of_its_own():
    program = "import sys, isic; print('isic.report' in sys.modules, isic.report.write_report.__name__)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split() == ["False", "write_report"]


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * 7 + y) % 256 for x in range(3 * width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def demo_run(rounds=3):
    """The demo's report.json with an injection in every text."""
    rows = []
    for i in range(rounds + 1):
        left = 0.96 * 0.4**i
        rows.append({"round": i, "self_unsafe": left, "cnn_unsafe": 0.3 * left, "ghost_unsafe": 0.5 * left, "sprite_unsafe": 0.2 * left,
                     "safe_item": 0.99, "safe_object": 0.96 - 0.01 * i, "unsafe_item": 0.98, "psnr_db": 27.8 - 0.2 * i, "rank": 6 * i,
                     "seconds": 12.5, "fit_self_unsafe": left, "pairs": 400 // (i + 1), "dropped": 2, "rank_of_round": 6 * (i > 0),
                     "rank_decided_by": "fixed", "codes_moved_by_projection": 900 * (i > 0), "relative_change": 0.1 * i,
                     "first_loss": 0.007, "last_loss": 0.005})
    measured = {"self_unsafe": 0.4, "cnn_unsafe": 0.3, "safe_object": 0.9, "psnr_db": 26.0}
    return {"seed": 0, "rounds": rows, "best_round": rounds, "stop_reason": "max_rounds", "loop_seconds": 71.0,
            "left_by_object": {"knife": 0.01}, "safe_by_object": {"spoon": 0.97},
            "baselines": {"no edit": measured, EVIL: measured, "a name as long as " + "very " * 30 + "long": measured},
            "attacks": {"prefix of 16 harmful tokens": {"before": 0.93, "after": 0.0, "prompt_rewriting": 0.0},
                        EVIL: {"before": 1.0, "after": 0.7}}}


def python_run():
    """A run of self_improve with an injection in its prompts and metrics."""
    model = Toy()
    original = model.codebook.copy()
    vectors = np.random.default_rng(0).normal(size=(200, 4))

    def on_round(report):
        report.metrics["nearest_code_churn"] = isic.nearest_code_churn(vectors, original, model.codebook)
        report.metrics[EVIL] = report.round + 1.5

    prompts = [f"{p} {EVIL}" for p in PROMPTS["unsafe_prompts"]]
    return isic.self_improve(model, judge, on_round=on_round, **{**PROMPTS, "unsafe_prompts": prompts})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(demo_run()))
    (tmp_path / "rounds.png").write_bytes(png(1404, 480))
    return tmp_path


def words(html):
    """The text of a page, with plain spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))


# Contents of the page


def test_the_summary_comes_first(folder):
    said = words(isic.report.render_report(folder / "report.json"))
    assert said.index("Round 3 kept: 28.8 % → 1.8 % unsafe (independent CNN)") < said.index("Rounds")
    assert "The loop ended because the maximum number of rounds was reached." in said
    assert "prefix of 16 harmful tokens 93.0 % 0.0 %" in said and "knife 1.0 %" in said and "as requested" in said


def test_intervals_are_those_of_wilson():
    run = {"rounds": [{"round": 0, "self_unsafe": {"value": 0.9, "hits": 90, "n": 100}}], "best_round": 0}
    exact = isic.wilson(90, 100)
    assert f"{100 * exact.low:.1f} to {100 * exact.high:.1f}" in isic.report.render_report(run)


def test_a_bare_rate_has_an_interval_once_n_is_known():
    run = demo_run()
    without = isic.report.render_report(run)
    assert 'class="interval"' not in without and "there are no intervals" in without
    run["n"] = {"cnn_unsafe": 400}
    with_n = isic.report.render_report(run)
    exact = isic.wilson(115, 400)  # 28.8 % of 400
    assert f"{100 * exact.low:.1f} to {100 * exact.high:.1f}" in with_n
    assert with_n.count('class="interval"') == 4 and "for rates without whiskers" in with_n


def test_a_rate_of_nothing_is_no_rate():
    run = {"rounds": [{"round": 0, "self_unsafe": {"value": 0.0, "low": 0.0, "high": 1.0, "hits": 0, "n": 0}}], "best_round": 0}
    assert "Not in the file: rates" in isic.report.render_report(run)


def test_a_run_in_memory_and_its_json_are_the_same_page(tmp_path):
    report = python_run()
    (tmp_path / "run.json").write_text(json.dumps(report.to_dict()))
    html = isic.report.render_report(report)
    assert html == isic.report.render_report(report.to_dict()) == isic.report.render_report(tmp_path / "run.json")
    said = words(html)
    assert "Round 1 kept: 100.0 % → 0.0 % unsafe (judge)" in said and "61.0 to 100.0" in said
    assert "the judged rate fell below the target" in said and "2 of 8" in said
    assert "Churn: vectors whose nearest code changed" in said and "Not in the file: churn" not in said
    assert "All rounds together: singular values" in said and "rank 1, by" in said


def test_a_spectrum_per_round_is_drawn_with_its_rank_and_rule():
    run = demo_run(2)
    run["rounds"][1].update(singular_values=[9.0, 5.0, 1.0, 0.5], rank_of_round=2, rank_decided_by="gavish_donoho")
    html = isic.report.render_report(run)
    assert "rank 2, by Gavish and Donoho" in html and "Not in the file: the singular values" not in html
    plot = html[html.index('id="spectrum-1-title"'):]
    plot = plot[:plot.index("</svg>")]
    assert plot.count('class="bar"') == 2 and plot.count('class="bar muted"') == 2


@pytest.mark.parametrize(("key", "said"), [
    ("baselines", "Baselines"), ("attacks", "Attacks"), ("left_by_object", "Harmful objects"),
    ("safe_by_object", "Safe objects"),
])
def test_what_is_missing_is_left_out(key, said):
    run = demo_run()
    assert said in isic.report.render_report(run)
    del run[key]
    assert said not in isic.report.render_report(run)


def test_what_is_missing_is_said():
    said = words(isic.report.render_report({"rounds": [{}]}))
    for missing in ("does not name the kept round", "does not say why the loop ended", "Not in the file: rates",
                    "Not in the file: the singular values", "Not in the file: churn", "Not in the file: images"):
        assert missing in said, missing


def test_a_failed_run_says_what_failed():
    report = isic.self_improve(Toy(), lambda _: [np.nan] * 6, **PROMPTS)
    said = words(isic.report.render_report(report))
    assert "No round was completed." in said and "an exception was raised" in said and report.message in said


def test_a_run_without_an_edit_says_so():
    said = words(isic.report.render_report(isic.self_improve(Toy(), lambda p: np.zeros(len(p)), **PROMPTS)))
    assert "Nothing was edited: 0.0 % unsafe" in said and "no image was judged unsafe" in said


STRANGE = [None, True, "text", [], {}, [[]], [None], float("nan"), float("inf"), -1, 1e308, 10**400, {"value": None, "n": "x"},
           {"value": 0.5, "n": -3}, {"chosen": 7, "singular_values": [None, 1]}, {"before": {"total": float("nan")}}]


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
def test_strange_values_are_no_numbers(strange):
    """Each known field in turn has an invalid value: the page is written, without NaN in a plot."""
    whole = {**demo_run(2), **{k: v for k, v in python_run().to_dict().items() if k not in ("rounds", "best_round")}}
    for key in set(whole) - {"rounds"}:
        assert "nan" not in drawings(isic.report.render_report({**whole, key: strange})), key
    for key in {**whole["rounds"][1], "metrics": 0, "projection": 0, "singular_values": 0}:
        run = demo_run(2)
        run["rounds"][1][key] = strange
        assert "nan" not in drawings(isic.report.render_report(run)), key
        run["rounds"][1]["metrics"] = {"odd": strange, "nearest_code_churn": strange}
        assert "nan" not in drawings(isic.report.render_report(run)), key


def drawings(html):
    """The coordinates of all plots."""
    found = re.findall(r' (?:d|x|y|x1|x2|y1|y2|width|height|transform)="([^"]*)"', html)
    assert found
    assert not any("inf" in value for value in found)
    return " ".join(found)


@pytest.mark.parametrize("rounds", [0, 1, 2, 7, 20])
def test_any_number_of_rounds(rounds):
    run = demo_run(rounds)
    run["n"] = {"self_unsafe": 400}
    html = isic.report.render_report(run)
    assert html.count('class="interval"') == rounds + 1
    assert "nan" not in drawings(html)


def test_prompts_and_names_are_escaped():
    for run in (demo_run(), python_run()):
        html = isic.report.render_report(run, title=EVIL)
        assert "<script" not in html and "<img src=http" not in html and "&lt;script&gt;" in html


def test_a_lone_surrogate_can_be_written(tmp_path):
    run = {"rounds": [{}], "prompts": ["a \ud800 fox"]}
    isic.report.write_report(run, tmp_path / "page.html")
    assert "a ? fox" in (tmp_path / "page.html").read_text(encoding="utf-8")


# Images


def test_images_by_argument_by_name_and_beside(folder):
    other = png(16, 8)
    (folder / "other.png").write_bytes(other)
    beside, named = (base64.b64encode(data).decode() for data in ((folder / "rounds.png").read_bytes(), other))
    html = isic.report.render_report(folder / "report.json")
    assert beside in html and named not in html
    html = isic.report.render_report(folder / "report.json", images=[folder / "other.png"])
    assert beside not in html and named in html and 'width="16" height="8"' in html
    (folder / "report.json").write_text(json.dumps({**demo_run(), "images": [{"path": "other.png", "caption": EVIL}]}))
    html = isic.report.render_report(folder / "report.json")
    assert beside not in html and named in html and "<script" not in html


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "sub/../../secret.png"])
def test_a_run_cannot_name_images_elsewhere(folder, name):
    (folder.parent / "secret.png").write_bytes(png(2, 2))
    (folder / "report.json").write_text(json.dumps({**demo_run(), "images": [name]}))
    with pytest.raises(isic.IoError, match="beside the run"):
        isic.report.render_report(folder / "report.json")


# Errors


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"{}", b'{"rounds": null}', b'{"rounds": 3}', b'{"rounds": [3]}',
                                     b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_run_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(isic.IoError, match=r"isic\.report: expected .*, got "):
        isic.report.write_report(tmp_path / "run.json", tmp_path / "page.html")
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", None])
def test_what_is_no_png_is_refused(folder, content):
    if content is not None:
        (folder / "image.png").write_bytes(content)
    with pytest.raises(isic.IoError, match="image.png"):
        isic.report.write_report(folder / "report.json", folder / "page.html", images=[folder / "image.png"])
    assert not (folder / "page.html").exists()


def test_nothing_is_left_of_a_page_that_cannot_be_written(folder):
    (folder / "page.html").mkdir()
    before = sorted(os.listdir(folder))
    with pytest.raises(isic.IoError, match="can be written"):
        isic.report.write_report(folder / "report.json", folder / "page.html")
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("run", [7, None, [1]])
def test_what_is_no_run_at_all_is_refused(run):
    with pytest.raises(TypeError, match=rf"isic\.report: expected a run.*got {type(run).__name__}"):
        isic.report.render_report(run)


# The command


def isic_report(*arguments):
    return subprocess.run([sys.executable, "-m", "isic", "report", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_command_writes_what_the_function_writes(folder):
    done = isic_report(folder / "report.json", "-o", folder / "page.html", "--title", "A & B")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {folder / 'page.html'}\n", "")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page == isic.report.render_report(folder / "report.json", title="A & B") and "<title>A &amp; B</title>" in page
    done = isic_report(folder / "report.json", "--json", "-o", folder / "other.html")
    assert json.loads(done.stdout) == {"written": str(folder / "other.html")}


def test_the_command_says_what_is_wrong_in_one_line(folder):
    (folder / "bad.json").write_text("{")
    for file in ("bad.json", "missing.json"):
        done = isic_report(folder / file, "-o", folder / "page.html")
        assert done.returncode == 1 and done.stdout == "" and not (folder / "page.html").exists()
        assert re.fullmatch(r"isic: error: .*expected .*, got .*\n", done.stderr)
    assert isic_report().returncode == 2


def test_the_command_has_help_with_an_example():
    done = isic_report("--help")
    assert done.returncode == 0 and "isic report out/report.json -o report.html" in done.stdout


# In a browser


AS_3_AND_4 = """import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3])
os.dup2(reads, 3), os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])"""
"""Starts a program with two pipes as its file descriptors 3 and 4, which the browser reads."""


class Browser:
    """Chromium by the DevTools protocol, over a pair of pipes: JSON messages that end with a zero byte."""

    def __init__(self, profile):
        to_read, self.writes = os.pipe()
        self.reads, to_write = os.pipe()
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--hide-scrollbars", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        start = [sys.executable, "-c", AS_3_AND_4, str(to_read), str(to_write)]
        self.process = subprocess.Popen(start + command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.id, self.session, self.events = b"", 0, None, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self.id += 1
        message = {"id": self.id, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        answer = self.until(lambda m: m.get("id") == self.id)
        assert "error" not in answer, answer
        return answer["result"]

    def until(self, wanted):
        """Returns the first matching message and keeps the others as events."""
        while True:
            while b"\0" not in self.rest:
                assert select.select([self.reads], [], [], 60)[0], "the browser does not answer"
                part = os.read(self.reads, 1 << 20)
                assert part, "the browser went away"
                self.rest += part
            one, self.rest = self.rest.split(b"\0", 1)
            message = json.loads(one)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def show(self, path, width, theme):
        """Opens a page in a window of this width and theme; returns its events, by name and details."""
        self.events = []
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self("Page.navigate", url=path.as_uri())
        self.until(lambda m: m.get("method") == "Page.loadEventFired")
        return [(m["method"], m["params"]) for m in self.events]

    def value(self, expression):
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def screenshot(self, path):
        height = self.value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.value("innerWidth"), "height": height, "scale": 1}
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]))

    def close(self):
        os.write(self.writes, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self.process.wait(30)
        os.close(self.writes)
        os.close(self.reads)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def demo_page(folder):
    (folder / "rounds.png").write_bytes(png(1404, 480))
    (folder / "report.json").write_text(json.dumps({**demo_run(), "n": {"cnn_unsafe": 400, "safe_object": 260}}))
    isic.report.write_report(folder / "report.json", folder / "page.html")
    return folder / "page.html"


def twenty_rounds_page(folder):
    isic.report.write_report(demo_run(20), folder / "page.html")
    return folder / "page.html"


def python_page(folder):
    (folder / "grid.png").write_bytes(png(600, 200))
    isic.report.write_report(python_run(), folder / "page.html", images=[folder / "grid.png"])
    return folder / "page.html"


def bare_page(folder):
    isic.report.write_report({"rounds": [{}]}, folder / "page.html")
    return folder / "page.html"


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("make", [demo_page, python_page, twenty_rounds_page, bare_page])
def test_a_browser_shows_it(browser, tmp_path, make, theme, width):
    path = make(tmp_path)
    events = browser.show(path, width, theme)
    assert [e for e in events if e[0] in COMPLAINTS] == []
    asked_for = [e[1]["request"]["url"] for e in events if e[0] == "Network.requestWillBeSent"]
    assert [url[:80] for url in asked_for if not url.startswith("data:")] == [path.as_uri()]
    assert browser.value("document.title") == "Codebook surgery"
    assert browser.value("document.documentElement.scrollWidth") <= width == browser.value("innerWidth")
    drawn = browser.value("[...document.querySelectorAll('figure > svg')].map(s => [s.getBoundingClientRect(), s.getBBox()]"
                          ".map(b => [b.x, b.width, b.height]))")
    assert len(drawn) == path.read_text(encoding="utf-8").count('role="img"')
    for (left, wide, high), (_, inside, _) in drawn:
        assert wide > 250 and high > 130 and inside > 200 and left >= 0 and left + wide <= width
    shown = browser.value("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert len(shown) == (make in (demo_page, python_page))
    assert all(complete and natural > 0 and wide > 300 for complete, natural, wide in shown)


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(browser, tmp_path, theme):
    """On a phone all text has at least 10 px and a contrast of at least 4.5 : 1 (WCAG AA)."""
    browser.show(demo_page(tmp_path), 390, theme)
    small = browser.value("""[...document.querySelectorAll('svg text, p, td, th, small, li, dt, dd, figcaption, .tag')].map(e => {
        const scale = e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width / 400 : 1;
        return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent] }).filter(([size]) => size < 10)""")
    assert small == []
    colours = browser.value("""[...document.querySelectorAll('h1, p, .by, td, th, small, figcaption, dt, svg text')].map(e => {
        const style = getComputedStyle(e);
        return [e.ownerSVGElement ? style.fill : style.color, getComputedStyle(document.body).backgroundColor] })""")
    assert len(colours) > 100
    assert min(contrast(*map(rgb, pair)) for pair in colours) >= 4.5
    assert contrast(rgb(colours[0][1]), (255, 255, 255) if theme == "dark" else (0, 0, 0)) > 10, "the theme is not followed"


@needs_browser
def test_lines_stand_out_from_the_page(browser, tmp_path):
    """Graphics need 3 : 1 (WCAG 1.4.11), in both themes."""
    for theme in ("light", "dark"):
        browser.show(demo_page(tmp_path), 1200, theme)
        page = browser.value("getComputedStyle(document.body).backgroundColor")
        for colour in browser.value("[...document.querySelectorAll('g.series')].map(e => getComputedStyle(e).color)"):
            assert contrast(rgb(colour), rgb(page)) >= 3


@needs_browser
def test_plots_are_named_and_ids_are_unique(browser, tmp_path):
    browser.show(demo_page(tmp_path), 1200, "light")
    ids = browser.value("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) and len(ids) >= 10
    tree = browser("Accessibility.getFullAXTree")["nodes"]
    images = [n for n in tree if n["role"]["value"] in ("image", "img") and not n["ignored"]]
    assert len(images) > 5
    assert all(len(n["name"]["value"]) > 10 for n in images)


@needs_browser
def test_the_policy_would_stop_a_script(browser, tmp_path):
    """The page's policy stops a script that is not escaped; without the policy the script runs."""
    path = demo_page(tmp_path)
    html = path.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'evil'</script></main>")
    path.write_text(html, encoding="utf-8")
    browser.show(path, 1200, "light")
    assert browser.value("document.title") == "Codebook surgery"
    path.write_text(re.sub(r"<meta http-equiv[^>]*>", "", html), encoding="utf-8")
    browser.show(path, 1200, "light")
    assert browser.value("document.title") == "evil"


def rgb(colour):
    return tuple(float(v) for v in re.findall(r"[\d.]+", colour)[:3])


def contrast(one, other):
    """The contrast ratio of WCAG 2."""
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
