"""Too little memory is said before any is taken; a full disk leaves nothing behind."""

import os
import pathlib
import resource
import subprocess
import time

import pytest

from command import PI0, refused

GIB = 1 << 30


def starved(arguments, before):
    """Refused for want of memory: at once, and having taken next to nothing."""
    start = time.monotonic()
    with subprocess.Popen([PI0, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=before) as process:
        out, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 1 and out == "", errors
    assert errors.startswith("pi0: not enough memory for the weights: expected 6"), errors
    assert errors.count("\n") == 1 and "available" in errors
    assert usage.ru_maxrss < 200 << 10 and time.monotonic() - start < 5
    return int(errors.split(" bytes, ")[1].split()[0])


@pytest.mark.parametrize("arguments", [
    ["bench"], ["infer", "--checkpoint", "synthetic:1", "--model", "pi05", "--tokens", "5", "--out", "x.npy"]])
def test_more_weights_than_address_space(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    available = starved(arguments, lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB)))
    assert 2 * GIB < available < 4 * GIB
    assert list(tmp_path.iterdir()) == []


def control_group():
    """A new control group of this machine with 2 GiB, version 1 or 2; None where there is no right to make one."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = pathlib.Path(root) / f"pi0_test_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(2 * GIB))
            return group
        except OSError:
            group.rmdir()
    return None


def test_more_weights_than_the_control_group_has():
    group = control_group()
    if not group:
        pytest.skip("no right to make a control group")
    try:
        available = starved(["bench"], lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        assert GIB < available <= 2 * GIB
    finally:
        group.rmdir()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_no_place_for_a_checkpoint_is_said_before(small_disk):
    says = refused("synth", small_disk / "new" / "d", "--model", "pi0", codes=[1], says="not enough space: expected ")
    assert " free" in says and list(small_disk.iterdir()) == []


def test_results_on_a_full_disk(small_disk):
    (small_disk / "fill").write_bytes(bytes(4 << 20))
    tiny = ["--checkpoint", "synthetic:1", "--model", "tiny-pi0", "--tokens", "5"]
    refused("infer", *tiny, "--out", small_disk / "x.npy", codes=[1], says="No space left on device")
    refused("infer", *tiny, "--dump-inputs", small_disk / "x.safetensors", "--no-run", codes=[1],
            says="No space left on device")
    refused("synth", small_disk / "d", "--model", "tiny-pi0", codes=[1], says="space")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path):
    """A limit on a file's size fails in the middle of the weights, where the space looked enough before."""
    limit = 300 << 10
    refused("synth", tmp_path / "d", "--model", "tiny-pi0", "--config", "pi0_aloha_sim", codes=[1],
            says=["model.safetensors", "File too large"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert list(tmp_path.iterdir()) == []
