"""The report page in a real browser: what it draws, that it needs no network, that the keyboard moves it."""

import html.parser
import json
import re
import shutil
import subprocess

import pytest

from command import ok, ok_json, refused

TINY = ["bench", "--backend", "cpu", "--model", "tiny-pi0", "--warmup", "0", "--iterations", "2", "--threads", "2"]
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


class Dom(html.parser.HTMLParser):
    """Elements by tag, with attributes; text of the elements that are asked for."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        while self.open and self.elements[self.open.pop()][0] != tag:
            pass

    def handle_data(self, data):
        for i in self.open:
            self.text[i] = self.text.get(i, "") + data

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]

    def words(self, tag):
        return [self.text.get(i, "") for i, (t, _) in enumerate(self.elements) if t == tag]


def rendered(path, tmp_path, *words):
    """The DOM after the page's script ran; nothing may be fetched."""
    done = subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
                           "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}",
                           "--virtual-time-budget=5000", *words, path.as_uri()],
                          capture_output=True, text=True, timeout=110)
    return Dom(done.stdout)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(the file, what --json said of the same run)"""
    path = tmp_path_factory.mktemp("page") / "report.html"
    report = ok_json(*TINY, "--html", path, "--ladder", "--batch-sweep", "1,2", "--masked-images", "1")
    return path, report


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S).group(1))


def test_the_file_stands_alone(page):
    text = page[0].read_text()
    assert text.startswith("<!doctype html>") and "<!--" not in text
    assert not re.search(r'(src|href)="(?!#)', text) and "@import" not in text and "fetch(" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_its_data_is_what_bench_says(page):
    path, report = page
    data = data_of(path)
    for key in ("stages", "ladder", "sweep"):
        assert len(data[key]) == len(report[key])
    assert [s["ms"] for s in data["stages"]] == pytest.approx([s["ms"] for s in report["stages"]], rel=1e-9)
    published = {row["name"]: row["ms"] for row in data["latency"] if row["published"]}
    assert published == {"MI300X": 26.1, "MI350": 25.3, "H200": 25.3}
    assert data["latency"][0]["ms"] == pytest.approx(report["latency_ms"]["p50"], rel=1e-9)
    curves = {c["name"]: [(r["batch_size"], r["ms"]) for r in c["rows"]] for c in data["published_sweep"]}
    assert curves["H200 (published)"][-1] == (64, 656) and curves["MI350 (published)"][3] == (8, 59.9)
    gemm = sum(op["ms"] for s in report["stages"] for op in s["ops"] if op["name"] in ("GEMM", "attention"))
    assert sum(op["ms"] for op in data["roofline"]["ops"]) == pytest.approx(gemm, rel=1e-6)
    tracks, names = data["timeline"]["tracks"], data["timeline"]["names"]
    assert {"ops 0", "thread 0", "thread 1"} <= set(tracks)
    assert sum(1 for e in data["timeline"]["events"] if re.match(r"step \d+", names[e[3]])) == 10


@browser
def test_what_the_browser_draws(page, tmp_path):
    dom = rendered(page[0], tmp_path)
    assert dom.all("html")[0].get("data-ready") == "yes", "the script ran to its end"
    sections = [s["id"] for s in dom.all("section")]
    assert sections == ["latency", "stages", "ladder", "sweep", "roofline", "timeline"]
    assert {"#" + s for s in sections} < {a.get("href") for a in dom.all("a")} and len(dom.all("svg")) == 5
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in dom.all("svg"))
    canvas = dom.all("canvas")[0]
    assert canvas["tabindex"] == "0" and canvas["aria-label"] and float(canvas["data-to"]) > 0
    words = " ".join(dom.words("td"))
    for word in ("ViT", "LLM prefill", "Diffusion", "GEMM", "attention kernel", "MI300X, published"):
        assert word in words
    for name in ("x", "y", "x1", "cx", "cy", "width", "height", "d"):
        for _, attributes in dom.elements:
            assert "NaN" not in attributes.get(name, ""), (name, attributes)


@browser
def test_keyboard(page, tmp_path):
    """Keys pressed by a script: + zooms, arrows move, n reads a slice out, Home shows everything again."""
    script = """<script>
      const canvas = document.getElementById("timeline-canvas"), said = document.getElementById("timeline-slice");
      const note = (name, value) => { document.body.dataset[name] = value; };
      const press = key => canvas.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
      const span = () => canvas.dataset.to - canvas.dataset.from;
      note("all", span()); press("+"); press("+"); note("zoomed", span()); note("from", canvas.dataset.from);
      press("ArrowRight"); note("moved", canvas.dataset.from); press("-"); note("out", span());
      press("n"); note("first", said.textContent); press("n"); press("n"); note("third", said.textContent);
      press("Home"); note("home", span());
      canvas.focus(); note("focused", document.activeElement === canvas);
    </script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(page[0].read_text().replace("</body>", script))
    d = {k: v for k, v in rendered(copy, tmp_path).all("body")[0].items()}
    whole = float(d["data-all"])
    assert float(d["data-zoomed"]) == pytest.approx(0.36 * whole) and float(d["data-out"]) == pytest.approx(0.6 * whole)
    assert float(d["data-moved"]) > float(d["data-from"]) and float(d["data-home"]) == pytest.approx(whole)
    assert "us, from" in d["data-first"] and d["data-third"] != d["data-first"] and d["data-focused"] == "true"


def test_hostile_names_stay_data(tmp_path):
    folder = tmp_path / "<script>alert(1)</script>"
    folder.mkdir(parents=True)
    ok("synth", folder / "model", "--model", "tiny-pi0", "--seed", "1")
    path = tmp_path / "report.html"
    ok(*TINY, "--checkpoint", folder / "model", "--html", path)
    text = path.read_text()
    assert "\\u003cscript>alert(1)" in text and "<script>alert" not in text
    assert ["checkpoint", str(folder / "model")] in data_of(path)["facts"]


# ---- analyze --html: the same page for a trace ----


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return ok_json(*TINY, "--profile", "--profile-dir", tmp_path_factory.mktemp("traces"))["traces"][0]["file"]


def test_data_of_a_trace(trace, tmp_path):
    told = ok_json("analyze", trace, "--html", tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert [(s["name"], s["ms"]) for s in data["stages"]] == [
        (s["name"], pytest.approx(s["ms"], rel=1e-9)) for s in told["stages"]]
    assert sum(s["ms"] for s in data["libraries"]) == pytest.approx(told["kernel_total_ms"], rel=1e-6)
    kernels = [e for e in data["timeline"]["events"] if e[0] == 1]
    assert len(kernels) == told["kernel_count"]
    assert sum(e[2] for e in kernels) / 1e3 == pytest.approx(told["kernel_total_ms"], rel=1e-6)
    rows = next(t for t in data["tables"] if t["id"] == "kernels")["rows"]
    assert rows[0][0] == told["kernels"][0]["name"] and rows[0][2] == str(told["kernels"][0]["calls"])


@browser
def test_two_traces_in_the_browser(trace, tmp_path):
    page = tmp_path / "page.html"
    ok("analyze", trace, "--compare", trace, "--html", page)
    dom = rendered(page, tmp_path)
    assert dom.all("html")[0].get("data-ready") == "yes"
    assert [s["id"] for s in dom.all("section")] == ["stages", "libraries", "timeline", "compare", "kernels", "runtime"]
    assert "ViT, b" in " ".join(dom.words("td")) and not [td for td in dom.all("td") if td.get("class") == "worse"]
    assert dom.all("input", type="search")


@browser
def test_hostile_traces_in_the_browser(tmp_path):
    """Names that would be markup, nothing known of the structure, and no kernels at all."""
    events = [{"ph": "X", "cat": "kernel", "name": name, "ts": 10 * i, "dur": 5, "pid": 1, "tid": 1}
              for i, name in enumerate(["</script><script>document.body.dataset.bad=1</script>", "<img src=x>&\"'"])]
    for i, content in enumerate([events, [{"ph": "X", "cat": "cpu_op", "name": "<b>", "ts": 0, "dur": 1}]]):
        (tmp_path / "t.json").write_text(json.dumps({"traceEvents": content}))
        ok("analyze", tmp_path / "t.json", "--html", tmp_path / "page.html")
        dom = rendered(tmp_path / "page.html", tmp_path)
        assert dom.all("html")[0].get("data-ready") == "yes" and "data-bad" not in dom.all("body")[0]
        assert len(dom.all("script")) == 2 and not dom.all("img")
        assert dom.all("p", role="note"), "it says what is missing"
        assert bool(dom.all("canvas")) == (i == 0)


def test_a_page_that_cannot_be_written(tmp_path):
    refused(*TINY, "--html", tmp_path / "none" / "x.html", codes=[1], says="cannot write")
    refused(*TINY, "--html", tmp_path, codes=[1], says="directory")
