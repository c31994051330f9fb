"""Ctrl-C and SIGTERM end any command within a second, with exit code 130 and nothing half-written."""

import signal
import subprocess
import time

import pytest

from command import GOLDEN, PI0

LONG_BENCH = ["bench", "--model", "tiny-pi0", "--iterations", "1000000", "--max-seconds", "0"]


def interrupted(arguments, number, after, cwd=None):
    process = subprocess.Popen([PI0, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
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
