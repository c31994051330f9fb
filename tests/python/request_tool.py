"""Talks to build/tests/request_tool, which calls the library's own functions (tests/support/request_tool.c)."""

import os
import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("PI0_BUILD", ROOT / "build")) / "tests" / "request_tool"
DATA = pathlib.Path(os.environ.get("PI0_TEST_DATA", ROOT / "tests" / "data"))


class Refused(Exception):
    pass


class RequestTool:
    def __init__(self):
        self.process = subprocess.Popen([str(TOOL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0

    def call(self, name, payload, first=0, second=0, third=0, option="-"):
        self.process.stdin.write(f"{name} {first} {second} {third} {option} {len(payload)}\n".encode() + payload)
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode().rstrip("\n")
        assert line, "the tool ended"
        kind, _, rest = line.partition(" ")
        if kind == "error":
            raise Refused(rest)
        return self.process.stdout.read(int(rest))

    def resize(self, pixels, size=224, option="auto"):
        height, width, _ = pixels.shape
        answer = self.call("resize", pixels.tobytes(), size, height, width, option)
        return np.frombuffer(answer, np.uint8).reshape(size, size, 3)

    def resize_torch(self, pixels, size=224):
        height, width, _ = pixels.shape
        return np.frombuffer(self.call("torch", pixels.tobytes(), size, height, width), np.float32).reshape(3, size, size)

    def image(self, file):
        answer = self.call("image", file)
        height, width = np.frombuffer(answer[:8], np.int32)
        return np.frombuffer(answer[8:], np.uint8).reshape(height, width, 3)

    def encode(self, text):
        return np.frombuffer(self.call("encode", text.encode()), np.int32).tolist()

    def prompt(self, text, state=None, max_tokens=48, option=None):
        numbers = np.asarray([] if state is None else state, np.float64)
        option = option or ("plain" if state is None else "state")
        answer = self.call("prompt", numbers.tobytes() + text.encode(), max_tokens, len(numbers), 0, option)
        return np.frombuffer(answer, np.int32).tolist()
