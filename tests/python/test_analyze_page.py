"""The page of analyze --html, in a real browser: what it shows, its keys, light, dark and paper."""

import html.parser
import re
import shutil
import subprocess

import pytest

from command import DATA, ok, pi0

H200 = DATA / "traces" / "h200_pi0_torch_profiler.json.gz"
MI350 = DATA / "traces" / "mi350_pi0_torch_profiler.json.gz"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "h200.html"
    ok("analyze", H200, "--html", path)
    return path


def chromium(*arguments):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run_in(page, tmp_path, script, *arguments):
    """The document after `script` ran in the page: results are what it leaves in out(name, value)."""
    test = tmp_path / "test.html"
    text = page.read_text().replace("</body></html>", "<pre id='out'></pre><script>const out=(n,v)=>document.getElementById('out')"
                                    ".textContent+=n+'='+v+'\\n';window.onerror=m=>out('error',m);" + script + "</script></body></html>")
    test.write_text(text)
    dom = chromium("--dump-dom", *arguments, test.as_uri()).stdout
    lines = re.search(r"<pre id=\"out\">(.*?)</pre>", dom, re.S).group(1).strip().splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert "error" not in found, found
    return found, dom


class Checker(html.parser.HTMLParser):
    VOID = {"meta", "link", "input", "br", "hr", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href"):
                self.sources.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()


def test_page_is_whole_and_needs_no_network(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and len(checker.ids) == len(set(checker.ids))
    assert all(source.startswith(("#", "data:")) for source in checker.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    for link in (s[1:] for s in checker.sources if s.startswith("#")):
        assert link in checker.ids


def test_page_of_two_and_of_nothing_known(tmp_path):
    path = tmp_path / "two.html"
    ok("analyze", H200, "--compare", MI350, "--html", path)
    assert "compare-table" in path.read_text() and "less than one whole inference" in path.read_text()
    trace = tmp_path / "trace.json"
    trace.write_text('[{"ph":"X","cat":"kernel","name":"</script><b>&\\"\'<!--","ts":1,"dur":2}]')
    assert pi0("analyze", trace, "--html", path).returncode == 0
    text = path.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and "</script><b>" not in text and "unknown structure" in text


@browser
def test_shown(page, tmp_path):
    found, dom = run_in(page, tmp_path, """
        const rows=[...document.querySelectorAll('#stage-table tbody tr')].map(r=>[...r.cells].map(c=>c.textContent));
        out('stages',rows.map(r=>r[0]).join('|'));out('vit',rows[0][1]);out('kernels',rows[0][3]);
        out('bars',document.querySelectorAll('#stages .bar i').length);
        const c=document.getElementById('timeline');out('drawn',c.width>300&&c.getContext('2d').getImageData(0,0,c.width,c.height).data.some(v=>v));
        out('list',document.querySelectorAll('#kernels-table tbody tr').length);
        const box=document.querySelector('input[data-filter=kernels-table]');box.value='gelu';box.dispatchEvent(new Event('input'));
        out('filtered',[...document.querySelectorAll('#kernels-table tbody tr')].filter(r=>!r.hidden).length);
        out('wide',document.documentElement.scrollWidth<=window.innerWidth);""", "--window-size=900,900")
    assert found["stages"] == "ViT|LLM prefill|Diffusion|Other"
    assert abs(float(found["vit"]) - 5.203) < 0.16 and abs(int(found["kernels"]) - 1239) < 37
    assert int(found["bars"]) >= 15 and found["drawn"] == "true" and found["list"] == "25"
    assert 0 < int(found["filtered"]) < 10 and found["wide"] == "true"
    assert "NVIDIA H200" in dom


@browser
def test_keys(page, tmp_path):
    found, _ = run_in(page, tmp_path, """
        const c=document.getElementById('timeline'),at=()=>[+c.dataset.from,+c.dataset.to];
        const press=k=>c.dispatchEvent(new KeyboardEvent('keydown',{key:k,bubbles:true,cancelable:true}));
        c.focus();out('focus',document.activeElement===c);const all=at();press('+');press('+');const near=at();
        out('zoomed',((all[1]-all[0])/(near[1]-near[0])).toFixed(2));
        press('ArrowRight');out('moved',at()[0]>near[0]);press('ArrowLeft');out('back',Math.abs(at()[0]-near[0])<1e-6);
        press('Home');out('home',at().join()===all.join());
        press('ArrowDown');press('n');out('chosen',c.dataset.chosen);out('told',document.getElementById('told').textContent);
        for(let i=0;i<60;i++)press('+');out('least',at()[1]-at()[0]>0);for(let i=0;i<60;i++)press('-');out('most',at().join()===all.join());
        document.querySelector('button[data-act=in]').click();out('button',at()[1]-at()[0]<all[1]-all[0]);
        let reach=0;for(const e of document.querySelectorAll('a,button,input,canvas'))if(e.tabIndex>=0)reach++;out('reach',reach);""")
    assert found["focus"] == "true" and found["zoomed"] == "4.00"
    assert all(found[k] == "true" for k in ("moved", "back", "home", "least", "most", "button"))
    assert found["chosen"] == "1" and found["told"].startswith("kernel 2 of 4845") and int(found["reach"]) >= 15


@browser
def test_light_dark_and_paper(page, tmp_path):
    script = "const s=getComputedStyle(document.body);out('paper',s.backgroundColor);out('ink',s.color);"
    light, _ = run_in(page, tmp_path, script)
    dark, _ = run_in(page, tmp_path, script, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)" and dark["paper"] != light["paper"] and dark["ink"] != light["ink"]
    pdf = tmp_path / "page.pdf"
    chromium(f"--print-to-pdf={pdf}", page.as_uri())
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 20_000
    shot = tmp_path / "page.png"
    chromium("--window-size=1200,1400", f"--screenshot={shot}", page.as_uri())
    assert shot.stat().st_size > 50_000
