"""A running `pi0 serve` with the tiny model, and requests of every robot."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

import numpy as np
import websockets.sync.client
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from command import GOLDEN, PI0

TOKENIZER = GOLDEN / "tokenizer" / "tiny.model"
CLOSE_REASON = "Internal server error. Traceback included in previous frame."


class Server:
    """Started with `with`; stopped with SIGTERM, which has to end it with exit code 0."""

    def __init__(self, *arguments, config="pi0_aloha_sim", seed=3, expect=0, tls=False, preexec=None):
        command = [PI0, "serve", "--model", "tiny-pi05" if "pi05" in (config or "") else "tiny-pi0", "--checkpoint",
                   "synthetic:1", "--tokenizer", TOKENIZER, "--port", "0", "--threads", "1"]
        command += ["--config", config] if config else []
        command += ["--seed", seed] if seed is not None else []
        self.command = [str(word) for word in [*command, *arguments]]
        self.expect, self.tls, self.preexec = expect, tls, preexec

    def __enter__(self):
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=environment, stdin=subprocess.DEVNULL, preexec_fn=self.preexec)
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            self.process.wait(10)
            self.reader.join(5)
            raise AssertionError("".join(self.errors))
        line = self.first_line
        url = json.loads(line)["url"] if line.startswith("{") else line.split()[2]
        self.port = int(url.rsplit(":", 1)[1])
        self.uri = f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"
        return self

    def stop(self, number=signal.SIGTERM, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.reader.join(5)
        return code

    def __exit__(self, kind, error, trace):
        try:
            code = self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert kind or code == self.expect, (code, "".join(self.errors))

    def stderr(self):
        return "".join(self.errors)

    def policy(self, **keywords):
        return WebsocketClientPolicy("127.0.0.1", self.port, **keywords)

    def connect(self, **keywords):
        """A plain websocket whose metadata has been read."""
        options = {"compression": None, "max_size": None, "proxy": None} | keywords
        socket_ = websockets.sync.client.connect(self.uri, **options)
        socket_.metadata = msgpack_numpy.unpackb(socket_.recv())
        return socket_

    def get(self, path, method="GET", headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        if self.tls:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()

    def metrics(self):
        """{'pi0_clients': 1.0, 'pi0_errors_total{kind="request"}': 0.0, ...}"""
        lines = self.get("/metrics")[1].decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def wait_for(self, name, value, timeout=10):
        end = time.monotonic() + timeout
        while (found := self.metrics()[name]) != value:
            assert time.monotonic() < end, f"{name}: expected {value}, found {found}"
            time.sleep(0.02)

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def raw(self):
        """A TCP connection that has been upgraded by hand; what follows is up to the test."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        raw.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += raw.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        return raw


def image(rng, chw=False, size=224):
    return rng.integers(0, 256, (3, size, size) if chw else (size, size, 3), dtype=np.uint8)


def observation(config, seed=0):
    """What the robot of a config sends."""
    rng = np.random.default_rng(seed)
    if "aloha" in config:
        cameras = ["cam_high"] if config == "pi0_aloha_sim" else ["cam_high", "cam_left_wrist", "cam_right_wrist"]
        return {"state": rng.normal(size=14), "images": {name: image(rng, chw=True) for name in cameras},
                "prompt": "transfer cube"}
    if "droid" in config:
        return {"observation/exterior_image_1_left": image(rng), "observation/wrist_image_left": image(rng),
                "observation/joint_position": rng.normal(size=7), "observation/gripper_position": rng.uniform(size=1),
                "prompt": "put the marker in the cup"}
    if "libero" in config:
        return {"observation/state": rng.normal(size=8), "observation/image": image(rng),
                "observation/wrist_image": image(rng), "prompt": "open the drawer"}
    if "ur5" in config:
        return {"joints": rng.normal(size=6), "gripper": rng.uniform(size=1), "base_rgb": image(rng),
                "wrist_rgb": image(rng), "prompt": "pick up the block"}
    raise KeyError(config)


def refusal(socket_, message):
    """What a request is refused with: (text, close code, close reason)."""
    socket_.send(message)
    text = socket_.recv(timeout=20)
    assert isinstance(text, str), "expected a text frame"
    try:
        socket_.recv(timeout=20)
    except websockets.exceptions.ConnectionClosed as closed:
        return text, closed.rcvd.code, closed.rcvd.reason
    raise AssertionError("expected the connection to be closed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
