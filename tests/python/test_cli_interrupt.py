"""Ctrl-C and SIGTERM end any command within a second, with exit code 130 and nothing half-written."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from command import GOLDEN, PI0

LONG_BENCH = ["bench", "--model", "tiny-pi0", "--iterations", "1000000", "--max-seconds", "0"]


def interrupted(arguments, number, after, cwd=None):
    """`after`: seconds, or what to wait for: a function of the process id."""
    process = subprocess.Popen([PI0, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
    if callable(after):
        begin = time.monotonic()
        while process.poll() is None and not after(process.pid):
            assert time.monotonic() - begin < 300
            time.sleep(0.02)
    else:
        time.sleep(after)
    assert process.poll() is None, "expected it to be at work still"
    start = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - start < 1
    assert process.returncode == 130 and errors == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_the_middle_of_inference(number):
    interrupted(LONG_BENCH, number, 1.0)


def test_while_weights_are_made():
    """The full-size model: several gigabytes that take seconds to fill, cut short at the beginning."""
    interrupted(["bench"], signal.SIGINT, 0.5)


def resident(limit):
    def enough(number):
        with open(f"/proc/{number}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") > limit
    return enough


def test_when_the_weights_are_made():
    """Gigabytes to give back, and the first inference or the measuring of the machine under way."""
    interrupted(["bench"], signal.SIGINT, resident(6.4e9))


def test_nothing_is_left_behind(tmp_path):
    interrupted([*LONG_BENCH, "--csv", "result.csv"], signal.SIGINT, 1.0, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_long_inference(tmp_path):
    interrupted(["infer", "--checkpoint", GOLDEN / "tiny_pi0_checkpoint", "--tokens", "5", "--horizon", "4000",
                 "--steps", "1000", "--out", "x.npy"], signal.SIGINT, 1.0, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_being_written(tmp_path):
    """Not one file or directory stays, and the ones that were there before do."""
    interrupted(["synth", "new/deep", "--config", "pi0_aloha_sim"], signal.SIGINT, 0.5, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    interrupted(["synth", "old"], signal.SIGTERM, 0.5, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and list((tmp_path / "old").iterdir()) == []


def test_a_checkpoint_nearly_written(tmp_path):
    """A file of gigabytes takes more than a second to remove, which must not be waited for."""
    if shutil.disk_usage(tmp_path).free < 9e9:
        pytest.skip("no place for 7 GB")
    file = tmp_path / "d" / "model.safetensors.tmp"
    interrupted(["synth", "d"], signal.SIGINT,
                lambda _: file.exists() and os.stat(file).st_blocks * 512 > 6.2e9, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
