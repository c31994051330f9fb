"""pi0 serve under pressure: limits, deadlines, vanishing clients, shutting down, mistakes of the operator."""

import json
import os
import resource
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
import websockets.exceptions
import websockets.sync.client
from openpi_client import msgpack_numpy

from command import PI0, ok, refused
from serving import CLOSE_REASON, TOKENIZER, Server, free_port, observation, refusal

REQUEST = msgpack_numpy.packb(observation("pi0_aloha_sim"))
SLOW = ["--num-steps", "1000"]  # some tenths of a second for one request
LONG = ["--num-steps", "1000", "--horizon", "150"]  # a second at least, on any machine


def answer(socket_, timeout=60):
    message = socket_.recv(timeout=timeout)
    assert isinstance(message, bytes), message
    return msgpack_numpy.unpackb(message)


def in_threads(work, items):
    results = [None] * len(items)

    def run(i):
        results[i] = work(items[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---- while a request runs ----


def test_pings_and_health_are_answered_while_a_request_runs():
    with Server(*SLOW) as server, server.connect() as busy, server.connect() as other:
        busy.send(REQUEST)
        server.wait_for("pi0_running_requests", 1)
        start = time.monotonic()
        assert busy.ping().wait(5) and other.ping().wait(5)
        assert server.get("/healthz")[1] == b"OK\n"
        assert server.metrics()["pi0_running_requests"] == 1 and time.monotonic() - start < 0.4
        answer(busy)


def test_a_full_queue():
    with Server(*SLOW, "--max-queue", "1") as server:
        sockets = [server.connect() for _ in range(4)]
        sockets[0].send(REQUEST)
        server.wait_for("pi0_running_requests", 1)
        sockets[1].send(REQUEST)
        server.wait_for("pi0_queue_length", 1)
        for socket_ in sockets[2:]:
            text, code, _ = refusal(socket_, REQUEST)
            assert code == 1013 and "queue is full" in text
        answer(sockets[0]), answer(sockets[1])
        assert server.metrics()['pi0_errors_total{kind="queue_full"}'] == 2


def test_clients_that_vanish_cost_nothing():
    """Their requests leave the queue at once; who waits behind them is served next."""
    with Server(*SLOW, "--max-queue", "8") as server, server.connect() as running, server.connect() as last:
        running.send(REQUEST)
        server.wait_for("pi0_running_requests", 1)
        gone = [server.raw() for _ in range(8)]
        frame = struct.pack("!BBQ4x", 0x82, 0xff, len(REQUEST)) + REQUEST
        for raw in gone:
            raw.sendall(frame)
        server.wait_for("pi0_queue_length", 8)
        for raw in gone:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
        server.wait_for("pi0_queue_length", 0)
        last.send(REQUEST)
        answer(running), answer(last)
        metrics = server.metrics()
    assert metrics["pi0_abandoned_requests_total"] == 8 and metrics["pi0_requests_total"] == 2


def test_a_client_that_is_killed():
    with Server(*SLOW) as server:
        code = ("import sys; from openpi_client.websocket_client_policy import WebsocketClientPolicy as P;"
                "from serving import observation; P('127.0.0.1', int(sys.argv[1])).infer(observation('pi0_aloha_sim'))")
        client = subprocess.Popen([os.sys.executable, "-c", code, str(server.port)], cwd=os.path.dirname(__file__))
        server.wait_for("pi0_running_requests", 1, timeout=30)
        client.kill()
        client.wait()
        server.wait_for("pi0_clients", 0)
        assert server.policy().infer(observation("pi0_aloha_sim"))["actions"].shape == (50, 14)


def test_a_request_has_a_deadline():
    with Server(*LONG, "--request-timeout-ms", "200") as server:
        with server.connect() as socket_:
            start = time.monotonic()
            text, code, reason = refusal(socket_, REQUEST)
            assert time.monotonic() - start < 1.0
        assert (code, reason) == (1011, CLOSE_REASON) and "time" in text
        assert server.metrics()['pi0_errors_total{kind="timeout"}'] == 1


# ---- peers that do not do their part ----


def closed_within(raw, seconds):
    """Bytes until the server ends the connection."""
    raw.settimeout(seconds)
    received = b""
    try:
        while piece := raw.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def test_slow_and_silent_peers():
    """All at once, because each takes its time: an unfinished message, unfinished headers, silence, one byte a time."""
    with Server("--request-timeout-ms", "1000", "--idle-timeout-s", "1.5") as server, server.connect() as alive:
        unfinished, dripping, idle = server.raw(), server.raw(), server.raw()
        silent = socket.create_connection(("127.0.0.1", server.port))
        headers = socket.create_connection(("127.0.0.1", server.port))
        headers.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        unfinished.sendall(struct.pack("!BBQ4x", 0x82, 0xff, 1000) + b"a")
        dripping.sendall(struct.pack("!BBQ4x", 0x82, 0xff, 1000))

        def drip(raw, until=time.monotonic() + 14):
            try:
                while time.monotonic() < until:
                    raw.sendall(b"a")
                    time.sleep(0.1)
            except OSError:
                return True
            return False

        drippers = threading.Thread(target=lambda: in_threads(drip, [dripping, headers]))
        drippers.start()
        over = threading.Event()
        answers = []

        def ask():  # another client notices nothing
            while not over.wait(0.05):
                alive.send(REQUEST)
                answers.append(answer(alive))

        asker = threading.Thread(target=ask)
        asker.start()
        start = time.monotonic()
        assert b"in time" in closed_within(unfinished, 5)
        assert b"long time" in closed_within(idle, 5) and time.monotonic() - start < 4
        closed_within(dripping, 5)
        closed_within(silent, 13), closed_within(headers, 13)
        drippers.join()
        over.set()
        asker.join()
        assert len(answers) > 20 and alive.ping().wait(5)


def test_pings_of_both_sides():
    """Every ping of a client gets its pong with the payload it sent, whatever the server pings in between."""
    with Server("--ping-interval-s", "0.2", "--num-steps", "1") as server:
        raw, dead = server.raw(), server.raw()
        start = time.monotonic()
        sent, pongs, pings, buffer = 0, 0, 0, b""
        while time.monotonic() - start < 3:
            payload = struct.pack("!I", sent)
            raw.sendall(b"\x89\x84\0\0\0\0" + payload)  # ping, masked with zeros
            sent += 1
            while pongs < sent:
                while len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
                    piece = raw.recv(4096)
                    assert piece, server.stderr()
                    buffer += piece
                frame, buffer = buffer[:2 + buffer[1]], buffer[2 + buffer[1]:]
                if frame[0] == 0x8A:
                    assert frame[2:] == payload
                    pongs += 1
                elif frame[0] == 0x89:
                    pings += 1
                    raw.sendall(b"\x8a\x84\0\0\0\0" + frame[2:])
        assert sent > 100 and 5 < pings < 20
        assert len(closed_within(dead, 5)) < 4096  # who answers none is cut off
        assert "answers no pings" in server.stderr()


def test_a_client_that_does_not_read():
    """It asks and asks; the server keeps at most one answer and one request of it, and cuts it off."""
    with Server("--horizon", "4000", "--num-steps", "1", "--request-timeout-ms", "1000") as server:
        raw = server.raw()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small = msgpack_numpy.packb({"state": np.zeros(14), "prompt": "x",
                                     "images": {"cam_high": np.zeros((3, 8, 8), np.uint8)}})
        frame = struct.pack("!BBH4x", 0x82, 0xfe, len(small)) + small
        raw.settimeout(30)
        with pytest.raises(OSError):
            while True:
                raw.sendall(frame)
        server.wait_for("pi0_clients", 0, timeout=20)
        assert server.resident_bytes() < 400 << 20


def test_messages_that_are_too_large():
    with Server("--max-message-bytes", "700000") as server:
        with server.connect() as socket_:
            text, code, _ = refusal(socket_, bytes(700001))
            assert code == 1009 and "700000" in text
        with server.connect() as socket_:
            text, code, _ = refusal(socket_, [bytes(400000), bytes(400000)])
            assert code == 1009
        raws = [server.raw() for _ in range(3)]
        for raw, announced in zip(raws, (700001, 1 << 40, (1 << 63) - 1)):  # announced, never sent
            raw.sendall(struct.pack("!BBQ4x", 0x82, 0xff, announced) + b"abc")
        for raw in raws:
            assert b"700000" in closed_within(raw, 5)
        before = server.resident_bytes()
        raws = [server.raw() for _ in range(50)]
        for raw in raws:
            raw.sendall(struct.pack("!BBQ4x", 0x82, 0xff, 700000) + b"abc")
        assert server.policy().infer(observation("pi0_aloha_sim"))["actions"].shape == (50, 14)
        assert server.resident_bytes() - before < 30 << 20


def test_frames_that_break_the_websocket_protocol():
    frames = [b"\x83\x80\0\0\0\0", b"\xc2\x80\0\0\0\0", b"\x82\x01a", b"\x80\x80\0\0\0\0",
              b"\x89\xfe\x01\x00" + bytes(260), b"\xff" * 64]
    with Server("--request-timeout-ms", "500") as server:
        raws = [server.raw() for _ in frames]
        for raw, frame in zip(raws, frames):
            raw.sendall(frame)
        for raw in raws:
            closed_within(raw, 12)
        server.wait_for("pi0_clients", 0)


# ---- who may connect ----


def rejected(server, **keywords):
    with pytest.raises(websockets.exceptions.InvalidStatus) as info:
        server.connect(**keywords)
    return info.value.response.status_code


def test_too_many_clients():
    with Server("--max-clients", "2") as server:
        with server.connect(), server.connect():
            assert rejected(server) == 503
            assert server.get("/healthz")[0].status == 200
        server.wait_for("pi0_clients", 0)
        with server.connect() as socket_:
            socket_.send(REQUEST)
            answer(socket_)
        assert server.metrics()['pi0_rejected_connections_total{reason="clients"}'] == 1


def test_api_key(tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    with Server("--api-key-file", tmp_path / "key") as server:
        assert rejected(server) == 401
        for wrong in ("", "s3cre", "s3cret2", "S3cret", "s3crets3cret", "x" * 900):
            assert rejected(server, additional_headers={"Authorization": f"Api-Key {wrong}"}) == 401
        assert rejected(server, additional_headers={"Authorization": "Bearer s3cret"}) == 401
        answered = server.policy(api_key="s3cret").infer(observation("pi0_aloha_sim"))
        assert answered["actions"].shape == (50, 14)
        assert server.get("/healthz")[0].status == 200 and server.get("/metrics")[0].status == 401
        response, body = server.get("/metrics", headers={"Authorization": "Api-Key s3cret"})
        assert response.status == 200 and b'reason="auth"} 9\n' in body
        assert server.get("/metrics", headers={"Authorization": "Basic cm9ib3Q6czNjcmV0"})[0].status == 200


def test_origin():
    """Only pages of the server itself may connect from a browser."""
    with Server() as server:
        for origin in ("http://evil.example", f"http://127.0.0.1:{server.port + 1}", "null"):
            assert rejected(server, origin=origin) == 403
        rebound = {"Host": f"evil.example:{server.port}"}
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"GET / HTTP/1.1\r\nHost: {rebound['Host']}\r\nOrigin: http://{rebound['Host']}\r\n"
                        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n".encode())
            assert b" 403 " in raw.recv(4096).split(b"\r\n")[0]
        server.connect(origin=f"http://127.0.0.1:{server.port}").close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem", "-out",
                    folder / "cert.pem"], check=True, capture_output=True)
    return folder


def test_tls(certificate):
    arguments = ["--tls-cert", certificate / "cert.pem", "--tls-key", certificate / "key.pem"]
    with Server(*arguments, tls=True) as server:
        assert server.first_line.startswith("listening on wss://")
        context = ssl.create_default_context(cafile=certificate / "cert.pem")
        with server.connect(ssl=context) as socket_:
            for _ in range(3):
                socket_.send(REQUEST)
                assert answer(socket_)["actions"].shape == (50, 14)
            text, code, reason = refusal(socket_, b"\xc1")
            assert (code, reason) == (1011, CLOSE_REASON)
        assert server.get("/healthz")[1] == b"OK\n"
        with socket.create_connection(("127.0.0.1", server.port)) as raw:  # no TLS spoken
            raw.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 4)
            assert b"OK" not in closed_within(raw, 12)


# ---- the end ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_quiet_end(number):
    """What was asked before is answered, what is new is refused, the exit code is 0."""
    with Server(*SLOW) as server:
        waiting, idle = [server.connect() for _ in range(3)], server.connect()
        for socket_ in waiting:
            socket_.send(REQUEST)
        server.wait_for("pi0_queue_length", 2)
        server.process.send_signal(number)
        time.sleep(0.2)
        assert rejected(server) == 503 and server.get("/healthz")[0].status == 503
        text, code, _ = refusal(idle, REQUEST)
        assert code == 1001 and "shutting down" in text
        for socket_ in waiting:
            assert answer(socket_)["actions"].shape == (50, 14)
            with pytest.raises(websockets.exceptions.ConnectionClosed) as info:
                socket_.recv(timeout=5)
            assert info.value.rcvd.code == 1001
        start = time.monotonic()
        assert server.process.wait(5) == 0 and time.monotonic() - start < 2


def test_the_end_has_a_deadline():
    with Server(*LONG, "--drain-timeout-s", "0.3", expect=1) as server:
        with server.connect() as socket_:
            socket_.send(REQUEST)
            server.wait_for("pi0_running_requests", 1)
            start = time.monotonic()
            assert server.stop() == 1 and time.monotonic() - start < 2
            assert "drain time" in server.stderr()


# ---- mistakes of the operator ----


def serve(*arguments, **keywords):
    return refused("serve", "--model", "tiny-pi0", "--config", "pi0_aloha_sim", "--tokenizer", TOKENIZER, "-q",
                   *arguments, timeout=30, **keywords)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        serve("--port", taken.getsockname()[1], codes=[1], says=["Address already in use", "cannot listen"])


def test_missing_and_wrong_files(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "junk.pem").write_text("junk")
    serve("--port", 0, "--tls-cert", tmp_path / "no.pem", "--tls-key", tmp_path / "no.pem", codes=[1], says="no.pem")
    serve("--port", 0, "--tls-cert", tmp_path / "junk.pem", "--tls-key", tmp_path / "junk.pem", codes=[1],
          says="certificate")
    serve("--port", 0, "--api-key-file", tmp_path / "none", codes=[1], says="none")
    serve("--port", 0, "--api-key-file", tmp_path / "empty", codes=[1], says="key")
    serve("--port", 0, "--record-dir", tmp_path / "empty" / "x", codes=[1], says="empty")
    serve("--port", 0, "--checkpoint", tmp_path / "nowhere", codes=[1, 2], says="nowhere")


@pytest.mark.parametrize("arguments, says", [
    (["--host", "203.0.113.1"], "203.0.113.1"), (["--host", "no such host"], "no such host"),
    (["--tls-cert", "x"], "--tls-key"), (["--port", "70000"], "--port"), (["--max-queue", "0"], "--max-queue"),
    (["--env", "MARS"], "MARS"), (["--config", "pi0_mars"], "pi0_mars"), (["--batch-window-ms", "5"], "--batch"),
    (["policy:checkpoint", "--policy.dir", "gs://openpi-assets/checkpoints/pi05_droid"], "gs://"),
    (["--polcy.dir", "x"], "--polcy.dir")])
def test_wrong_usage(arguments, says):
    serve("--port", 0, *arguments, says=says)


def test_help():
    text = ok("serve", "--help")
    for option in ("--policy.config", "--batch-window-ms", "--tls-cert", "--dashboard-images", "--drain-timeout-s"):
        assert option in text


# ---- records and logs ----


def test_records(tmp_path):
    folder = tmp_path / "records"
    for first in (0, 2):  # a second run goes on where the first ended
        with Server("--record-dir", folder) as server, server.connect() as socket_:
            for number in (first, first + 1):
                socket_.send(REQUEST)
                response = socket_.recv()
                assert (folder / f"{number:06}.msgpack").read_bytes() == REQUEST
                assert (folder / f"{number:06}.response.msgpack").read_bytes() == response
    out = tmp_path / "out"
    ok("infer", "--model", "tiny-pi0", "--config", "pi0_aloha_sim", "--tokenizer", TOKENIZER, "--threads", "1",
       "--seed", "3", "--batch", folder, "--batch-size", "1", "--out", out)
    assert np.array_equal(np.load(out / "000000.npy"), msgpack_numpy.unpackb(response)["actions"])


def test_a_full_disk(tmp_path):
    """Files stop at 100 KB; requests are answered all the same, and nothing half-written stays."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    with Server("--record-dir", tmp_path, preexec=limit) as server, server.connect() as socket_:
        for _ in range(3):
            socket_.send(REQUEST)
            answer(socket_)
        assert server.metrics()["pi0_record_errors_total"] == 3
    assert server.stderr().count("not recorded") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"00000{i}.response.msgpack" for i in range(3)]


def test_json_logs():
    with Server("--log-json") as server:
        address = json.loads(server.first_line)
        assert address["port"] == server.port and address["host"] == "127.0.0.1"
        with server.connect() as socket_:
            socket_.send(REQUEST)
            answer(socket_)
            refusal(socket_, b"\x81\xa3a\xc3\xa9\x01")
    lines = [json.loads(line) for line in server.stderr().splitlines()]
    events = [line["event"] for line in lines if line["event"] != "library"]
    assert events == ["listening", "connected", "answered", "refused", "disconnected", "stopping"]
    assert all(line.keys() >= {"time", "level", "event", "message"} for line in lines)
    answered = next(line for line in lines if line["event"] == "answered")
    assert answered["total_ms"] >= answered["infer_ms"] > 0 and answered["batch"] == 1


# ---- batches ----


def test_an_engine_error_costs_only_its_own_request():
    """Everything of this observation is masked out: it can be prepared, but not run. Its neighbours of the batch can."""
    rng = np.random.default_rng(0)
    good = {"state": rng.normal(size=32), "image": {"base_0_rgb": rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)},
            "tokenized_prompt": np.array([2, 5, 9])}
    bad = good | {"image_mask": {"base_0_rgb": np.False_}, "tokenized_prompt_mask": np.zeros(3, bool)}
    with Server("--batch", "3", "--batch-window-ms", "500", config=None) as server:
        expected = server.policy().infer(good)["actions"]
        sockets = [server.connect() for _ in range(3)]

        def ask(i):
            if i == 1:
                return refusal(sockets[i], msgpack_numpy.packb(bad))
            sockets[i].send(msgpack_numpy.packb(good))
            return answer(sockets[i])["actions"]

        first, (text, code, reason), last = in_threads(ask, range(3))
        assert (code, reason) == (1011, CLOSE_REASON) and text.startswith("pi0: ")
        assert np.allclose(first, expected, atol=1e-4) and np.allclose(last, expected, atol=1e-4)
        assert server.metrics()['pi0_errors_total{kind="engine"}'] == 1
        assert server.policy().infer(good)["actions"].shape == (10, 32)


def test_batches_answer_as_if_alone():
    requests = [msgpack_numpy.packb(observation("pi0_aloha_sim", seed)) for seed in range(8)]
    with Server("--batch", "4", "--batch-window-ms", "200") as server:
        with server.connect() as socket_:
            alone = []
            for request in requests:
                socket_.send(request)
                alone.append(answer(socket_)["actions"])

        def ask(request):
            with server.connect() as own:
                own.send(request)
                return answer(own)["actions"]

        together = in_threads(ask, requests)
        metrics = server.metrics()
    assert metrics["pi0_batch_size_count"] < 16 and metrics["pi0_batch_size_sum"] == 16
    for one, many in zip(alone, together):
        assert np.linalg.norm(one - many) <= 1e-5 * np.linalg.norm(one)


# ---- the port ----


def test_it_listens_on_loopback_unless_told_otherwise():
    port = free_port()
    with Server("--port", port) as server:
        assert f"ws://127.0.0.1:{port}" in server.first_line and "0.0.0.0" in server.first_line
    with Server("--host", "0.0.0.0") as server:
        assert "ws://0.0.0.0" in server.first_line
    with Server("--port", port):  # free again at once
        pass
