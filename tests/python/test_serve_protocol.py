"""pi0 serve as openpi-client sees it: metadata, requests of every robot, answers, errors."""

import json
import socket

import msgpack
import numpy as np
import pytest
import websockets.sync.client
from openpi_client import msgpack_numpy

from command import GOLDEN, ok
from serving import CLOSE_REASON, TOKENIZER, Server, observation, refusal

WIRE = GOLDEN / "wire"
ROBOTS = {"pi0_aloha_sim": (50, 14), "pi05_aloha": (50, 14), "pi0_droid": (10, 8), "pi05_droid": (15, 8),
          "pi0_libero": (50, 7), "pi05_libero": (10, 7), "pi0_ur5": (50, 7), "pi05_ur5": (50, 7)}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def infer(config, request, tmp_path, seed):
    """What `pi0 infer` makes of the same bytes."""
    (tmp_path / "r.msgpack").write_bytes(request)
    model = "tiny-pi05" if "pi05" in config else "tiny-pi0"
    ok("infer", "--model", model, "--config", config, "--tokenizer", TOKENIZER, "--threads", "1", "--seed", seed,
       "--request", tmp_path / "r.msgpack", "--out", tmp_path / "a.npy")
    return np.load(tmp_path / "a.npy")


@pytest.mark.parametrize("config", ROBOTS)
def test_every_robot(config, tmp_path):
    request = observation(config)
    with Server(config=config, seed=5) as server:
        client = server.policy()
        golden = json.loads((GOLDEN / "policy" / "configs.json").read_text())
        assert client.get_server_metadata() == golden.get(config, {}).get("policy_metadata", {})
        first, second = client.infer(request), client.infer(request)
    assert list(first) == ["actions", "policy_timing", "server_timing"]
    assert list(first["policy_timing"]) == list(first["server_timing"]) == ["infer_ms"]
    assert list(second["server_timing"]) == ["infer_ms", "prev_total_ms"]
    assert all(isinstance(x, float) and x > 0 for x in second["server_timing"].values())
    assert first["server_timing"]["infer_ms"] >= first["policy_timing"]["infer_ms"] > 0
    assert first["actions"].shape == ROBOTS[config] and first["actions"].dtype == np.float64
    assert np.array_equal(first["actions"], second["actions"]), "the noise of --seed is the same for every request"
    assert np.array_equal(first["actions"], infer(config, msgpack_numpy.packb(request), tmp_path, 5))


def test_without_a_seed_every_request_draws_its_noise():
    with Server(seed=None) as server:
        client, request = server.policy(), observation("pi0_aloha_sim")
        assert not np.array_equal(client.infer(request)["actions"], client.infer(request)["actions"])


@pytest.mark.parametrize("robot, config", [("aloha", "pi0_aloha"), ("droid", "pi0_droid"), ("libero", "pi0_libero")])
def test_recorded_messages(robot, config):
    """Requests packed by the real client; the answers have the form of the reference server's."""
    def shape(node):
        if isinstance(node, np.ndarray):
            return node.shape, node.dtype
        return {k: shape(v) for k, v in node.items()} if isinstance(node, dict) else type(node)

    with Server(config=config) as server, server.connect() as socket_:
        assert socket_.metadata == (msgpack_numpy.unpackb((WIRE / "metadata_aloha.msgpack").read_bytes())
                                    if robot == "aloha" else {})
        for name in (f"response_{robot}", f"response_{robot}_second"):
            socket_.send((WIRE / f"request_{robot}.msgpack").read_bytes())
            expected = msgpack_numpy.unpackb((WIRE / f"{name}.msgpack").read_bytes())
            answer = msgpack_numpy.unpackb(socket_.recv())
            assert shape(answer) == shape(expected) and list(answer) == list(expected)


@pytest.mark.parametrize("name", sorted(path.stem for path in WIRE.glob("bad_*.msgpack")))
def test_bad_messages(server, name):
    with server.connect() as socket_:
        text, code, reason = refusal(socket_, (WIRE / f"{name}.msgpack").read_bytes())
    assert (code, reason) == (1011, CLOSE_REASON) and text.startswith("pi0: ")


@pytest.mark.parametrize("message, says", [
    ("hello", "text frame"), (b"", "empty"), (msgpack.packb([1, 2]), "map"), (msgpack.packb({}), "state"),
    (msgpack_numpy.packb({"state": np.zeros(14), "images": {"cam_high": np.zeros((3, 8, 8), np.uint8),
                                                            "cam_\u00e9\u4e16": np.zeros((3, 8, 8), np.uint8)}}),
     "cam_\u00e9\u4e16")])
def test_refusals_say_what_is_wrong(server, message, says):
    with server.connect() as socket_:
        text, code, reason = refusal(socket_, message)
    assert (code, reason) == (1011, CLOSE_REASON) and says in text


def test_openpi_client_shows_the_reason(server):
    client = server.policy()
    with pytest.raises(RuntimeError, match="expected 14 numbers"):
        client.infer(observation("pi0_aloha_sim") | {"state": np.zeros(13)})
    server.policy().infer(observation("pi0_aloha_sim"))


def test_fragments_and_pipelined_requests(server):
    """Messages may come in pieces, and before the answer to the one before; answers keep the order."""
    request = msgpack_numpy.packb(observation("pi0_aloha_sim"))
    with server.connect() as socket_:
        socket_.send([request[:1], request[1:70000], request[70000:]])
        for _ in range(4):
            socket_.send(request)
        answers = [msgpack_numpy.unpackb(socket_.recv(timeout=20)) for _ in range(5)]
    assert all(np.array_equal(answer["actions"], answers[0]["actions"]) for answer in answers)


def test_any_path_and_no_compression(server):
    with websockets.sync.client.connect(server.uri + "/some/where?x=1", compression="deflate", proxy=None) as socket_:
        assert socket_.recv() == b"\x80" and socket_.response.headers.get("Sec-WebSocket-Extensions") is None


def test_healthz(server):
    response, body = server.get("/healthz")
    assert response.status == 200 and body == b"OK\n"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == "3" and response.headers["Connection"] == "close"
    assert server.get("/healthz", "HEAD")[1] == b"" and server.get("/healthz/")[0].status == 404
    assert server.get("/healthz", "POST")[0].status == 405


@pytest.mark.parametrize("target", ["/../etc/passwd", "/etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
                                    "/camera/../../x", "/" + "a" * 3000])
def test_nothing_else_is_there(server, target):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = raw.recv(4096)
    assert b"root:" not in head and (not head or b" 4" in head.split(b"\r\n")[0])


@pytest.mark.parametrize("spelling", [
    ["--env", "ALOHA_SIM"],
    ["--env=ALOHA_SIM", "--default_prompt", "transfer cube"],
    ["--default-prompt=transfer cube", "policy:checkpoint", "--policy.config=pi0_aloha_sim", "--policy.dir",
     GOLDEN / "tiny_pi0_checkpoint"],
    ["policy:checkpoint", "--policy.config", "pi0_aloha_sim", "--policy.dir=synthetic:1", "--no-record"]])
def test_spelling_of_openpi(spelling, tmp_path):
    stats = tmp_path / "norm_stats.json"
    row = {"mean": [0] * 14, "std": [1] * 14, "q01": [-1] * 14, "q99": [1] * 14}
    stats.write_text(json.dumps({"norm_stats": {"state": row, "actions": row}}))
    with Server(*spelling, "--norm_stats", stats, config=None) as server:
        answer = server.policy().infer(observation("pi0_aloha_sim"))
    assert answer["actions"].shape == (50, 14)


def test_default_prompt(tmp_path):
    request = observation("pi05_libero")
    with Server("--default-prompt", request.pop("prompt"), config="pi05_libero", seed=1) as server:
        answer = server.policy().infer(request)
    expected = infer("pi05_libero", msgpack_numpy.packb(observation("pi05_libero")), tmp_path, 1)
    assert np.array_equal(answer["actions"], expected)


def test_a_bare_model_and_float32():
    """No robot: the model's own inputs; the answer has its state too."""
    rng = np.random.default_rng(1)
    names = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    images = {name: rng.integers(0, 256, (56, 56, 3), dtype=np.uint8) for name in names}
    request = {"image": images, "image_mask": {name: np.True_ for name in names}, "state": np.zeros(32, np.float32),
               "prompt": "go"}
    with Server(config=None) as server:
        answer = server.policy().infer(request)
    assert answer["actions"].shape == (10, 32) and np.isfinite(answer["actions"]).all()
