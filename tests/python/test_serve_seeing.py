"""What pi0 serve shows of itself: /metrics for Prometheus and the dashboard, in a real browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from serving import Server, observation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def server():
    """After six requests and one mistake."""
    with Server("--dashboard-images", config="pi0_aloha") as running:
        client = running.policy()
        for seed in range(6):
            client.infer(observation("pi0_aloha", seed))
        with pytest.raises(RuntimeError):
            running.policy().infer({"state": np.zeros(3), "note": "<script>document.title='broken'</script>"})
        yield running


def test_metrics(server):
    response, body = server.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    if shutil.which("promtool"):
        checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True)
        assert checked.returncode == 0, checked.stderr
    metrics = server.metrics()
    assert metrics["pi0_requests_total"] == 6 and metrics['pi0_errors_total{kind="request"}'] == 1
    assert metrics["pi0_clients"] == 1 and metrics["pi0_queue_length"] == 0
    assert 1e6 < metrics["pi0_resident_bytes"] < 1e9
    histograms = {re.sub(r'_count(\{.*\})?$', r"\1", name) for name in metrics if re.search(r"_count(\{|$)", name)}
    assert histograms >= {f'pi0_stage_seconds{{stage="{stage}"}}' for stage in ("vit", "prefill", "denoise")}
    for name in ("pi0_inference_seconds", "pi0_batch_size"):
        buckets = [value for key, value in metrics.items() if key.startswith(name + "_bucket")]
        assert buckets == sorted(buckets) and buckets[-1] == metrics[name + "_count"] == 6
    assert 0 < metrics["pi0_inference_seconds_sum"] < 60


def test_status(server):
    status = json.loads(server.get("/status.json")[1])
    assert status["requests"] == 6 and status["errors"] == 1 and "expected 14 numbers" in status["last_error"]
    for stage in ("total", "infer", "vit", "prefill", "denoise", "prepare", "wait"):
        assert status[stage]["count"] >= 6 and 0 <= status[stage]["p50_ms"] <= status[stage]["p99_ms"]
    assert status["cameras"]["names"] == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]


def test_camera_images_are_those_the_model_saw(server):
    size = json.loads(server.get("/status.json")[1])["cameras"]["size"]
    pixels = np.frombuffer(server.get("/camera/0")[1], np.uint8).reshape(size, size, 3)
    sent = observation("pi0_aloha", 5)["images"]["cam_high"].transpose(1, 2, 0).astype(float)
    blocks = sent.reshape(size, 224 // size, size, 224 // size, 3).mean(axis=(1, 3))
    assert np.abs(pixels - blocks).mean() < 12 and np.corrcoef(pixels.ravel(), blocks.ravel())[0, 1] > 0.8
    assert server.get("/camera/3")[0].status == server.get("/camera/00")[0].status == 404


def test_images_are_shown_on_request_only():
    with Server() as plain:
        plain.policy().infer(observation("pi0_aloha_sim"))
        assert plain.get("/camera/0")[0].status == 404
        assert "cameras" not in json.loads(plain.get("/status.json")[1])


def test_one_page_without_anything_from_elsewhere(server):
    response, body = server.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    page = body.decode()
    assert not re.search(r"https?://|src=|@import|url\(", page) and "prefers-color-scheme: dark" in page


def test_other_names_are_refused(server):
    """A page elsewhere whose name was turned to this address must not read it."""
    for path in ("/", "/status.json", "/camera/0"):
        assert server.get(path, headers={"Host": f"evil.example:{server.port}"})[0].status == 403
        assert server.get(path, headers={"Host": f"localhost:{server.port}"})[0].status == 200


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_in_a_browser(server, tmp_path):
    page = subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
                           "--virtual-time-budget=2500", "--dump-dom", f"http://127.0.0.1:{server.port}/"],
                          capture_output=True, text=True, timeout=120).stdout

    def text(name):
        return re.search(rf'id="{name}"[^>]*>([^<]*)<', page).group(1)

    assert text("state") == "live" and text("requests") == "6" and text("errors") == "1" and text("clients") == "1"
    assert float(text("p50")) > 0 and float(text("p99")) >= float(text("p50"))
    assert "expected 14 numbers" in text("error") and "<title>pi0 serve</title>" in page
    assert page.count("<canvas") == 3 and "left_wrist_0_rgb" in page
    assert "ViT" in page and "diffusion" in page and re.search(r'<path d="M', page)
