"""Runs build/pi0 and makes the small files its tests need."""

import json
import os
import pathlib
import struct
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
PI0 = pathlib.Path(os.environ.get("PI0_BUILD", ROOT / "build")) / "pi0"
DATA = pathlib.Path(os.environ.get("PI0_TEST_DATA", ROOT / "tests" / "data"))
GOLDEN = DATA / "golden"

DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U8": "u1", "BOOL": "?"}


def pi0(*arguments, env=None, timeout=120, **keywords):
    """The finished process; stdout and stderr as text."""
    environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | (env or {})
    return subprocess.run([str(PI0), *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          env=environment, stdin=subprocess.DEVNULL, **keywords)


# what `pi0 bench` takes from the environment
ENVIRONMENT = ("WARMUP", "ITERATIONS", "NUM_STEPS", "OPENPI_PI05", "OPENPI_ACTION_HORIZON", "OPENPI_BATCH_SIZE",
               "OPENPI_TIMING", "PROFILE", "PROFILE_DIR")


def ok(*arguments, **keywords):
    done = pi0(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ok_json(*arguments, **keywords):
    return json.loads(ok(*arguments, "--json", **keywords))


def refused(*arguments, codes=(1, 2), says=(), **keywords):
    """Fails as a command should: exit code 1 or 2, nothing on stdout, one message that begins with `pi0: `."""
    done = pi0(*arguments, **keywords)
    assert done.returncode in codes, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("pi0: warning: ")]
    assert len(lines) >= 1 and lines[0].startswith("pi0: "), done.stderr
    for text in [says] if isinstance(says, str) else says:
        assert text in done.stderr, done.stderr
    return done.stderr


def read_safetensors(path):
    """(tensors, metadata)"""
    raw = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(raw[8 + size + begin:8 + size + end], DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors, metadata


def read_header(path):
    """{tensor name: shape}"""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def write_safetensors(path, tensors, metadata):
    names = {np.dtype(text): name for name, text in DTYPES.items()}
    header, blobs, offset = {"__metadata__": metadata}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return path
