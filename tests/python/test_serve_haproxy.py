"""HAProxy with deploy/haproxy.cfg in front of three servers: one is killed under load, one told to stop."""

import contextlib
import os
import shutil
import subprocess
import threading
import time

import pytest
import websockets.exceptions
import websockets.sync.client
from openpi_client import msgpack_numpy

from command import ROOT
from serving import Server, free_port, observation

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed")
REQUEST = msgpack_numpy.packb(observation("pi0_aloha_sim"))


@contextlib.contextmanager
def proxy(servers):
    port = free_port()
    addresses = {f"PI0_SERVER_{i + 1}": f"127.0.0.1:{server.port}" for i, server in enumerate(servers)}
    environment = os.environ | addresses | {"PI0_BIND": f"127.0.0.1:{port}"}
    command = ["haproxy", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    checked = subprocess.run([*command, "-c"], env=environment, capture_output=True, text=True)
    assert checked.returncode == 0 and "[WARNING]" not in checked.stderr, checked.stderr
    process = subprocess.Popen([*command, "-db"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class Robot(threading.Thread):
    """Asks without end; after a disconnection it connects again and repeats the question."""

    def __init__(self, uri, over):
        super().__init__()
        self.uri, self.over, self.answers, self.reconnections, self.longest = uri, over, 0, 0, 0.0
        self.start()

    def connect(self, patience=10):
        end = time.monotonic() + patience
        while True:
            try:
                socket_ = websockets.sync.client.connect(self.uri, compression=None, max_size=None, proxy=None)
                socket_.recv(timeout=10)
                return socket_
            except (OSError, websockets.exceptions.WebSocketException):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def run(self):
        socket_ = self.connect()
        while not self.over.is_set():
            start = time.monotonic()
            while True:
                try:
                    socket_.send(REQUEST)
                    answer = socket_.recv(timeout=10)
                    if isinstance(answer, bytes):
                        break
                    socket_.close()
                except websockets.exceptions.ConnectionClosed:
                    pass
                self.reconnections += 1
                socket_ = self.connect()
            self.answers += 1
            self.longest = max(self.longest, time.monotonic() - start)
        socket_.close()


def wait_until(condition, timeout=20):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_servers_come_and_go():
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server("--num-steps", "2", expect=expect)) for expect in (0, 0, -9)]
        uri = stack.enter_context(proxy(servers))
        over = threading.Event()
        robots = [Robot(uri, over) for _ in range(6)]
        try:
            wait_until(lambda: all(robot.answers > 5 for robot in robots))
            assert [server.metrics()["pi0_clients"] for server in servers] == [2, 2, 2], "the least busy gets the next"

            servers[2].process.kill()
            before = [robot.answers for robot in robots]
            wait_until(lambda: all(robot.answers > n + 20 for robot, n in zip(robots, before)))
            assert sum(server.metrics()["pi0_clients"] for server in servers[:2]) == 6

            assert servers[1].stop() == 0
            before = [robot.answers for robot in robots]
            wait_until(lambda: all(robot.answers > n + 20 for robot, n in zip(robots, before)))
            assert servers[0].metrics()["pi0_clients"] == 6
        finally:
            over.set()
            for robot in robots:
                robot.join()
        assert max(robot.longest for robot in robots) < 8
        assert 4 <= sum(robot.reconnections for robot in robots) <= 12
