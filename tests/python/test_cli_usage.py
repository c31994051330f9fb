"""The command line itself: help, versions, mistakes."""

import os
import pty
import re
import subprocess

import pytest

from command import PI0, ok, ok_json, pi0, refused

COMMANDS = re.findall(r"^  (\w+) ", ok("--help").split("examples:")[0], re.M)


def test_commands_are_listed():
    assert {"infer", "bench", "verify", "devices"} <= set(COMMANDS)


def test_no_command_is_wrong_usage():
    done = pi0()
    assert done.returncode == 2 and done.stdout == "" and "usage: pi0 COMMAND" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help(words):
    text = ok(*words)
    assert "usage: pi0 COMMAND" in text and "examples:" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches(command):
    text = ok(command, "--help")
    assert ok("help", command) == text
    assert f"pi0 {command}" in text.split("examples:")[1], "expected examples"
    for flag in ("--backend", "--device", "--precision", "--threads", "--rope", "--kernels", "--json", "--version"):
        assert flag in text
    assert max(map(len, text.splitlines())) <= 130


def test_help_shows_defaults_whatever_else_is_given():
    assert "(default 10)" in ok("bench", "--num-steps", "3", "--help")


@pytest.mark.parametrize("words", [["--version"], *[[c, "--version"] for c in ("bench", "devices")]])
def test_version(words):
    assert re.fullmatch(r"pi0 \d+\.\d+\.\d+\n", ok(*words))


def test_unknown_command_names_the_nearest():
    assert "did you mean 'verify'" in refused("verfy", codes=[2])
    refused("frobnicate", codes=[2], says="--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flag_names_the_nearest(command):
    refused(command, "--jsno", codes=[2], says=["--jsno", "did you mean --json?", f"pi0 {command} --help"])
    refused(command, "--no-such-thing-at-all", codes=[2], says="--no-such-thing-at-all")


@pytest.mark.parametrize("words, says", [
    (["--threads"], "expected a value"),
    (["--threads", "--json"], "expected a value"),
    (["--threads", "two"], "expected a whole number, found 'two'"),
    (["--threads", "2.5"], "expected a whole number, found '2.5'"),
    (["--threads", ""], "expected a whole number"),
    (["--threads", "-1"], "found -1"),
    (["--threads", "99999999999999999999"], "expected a whole number"),
    (["--precision", "f16"], "expected one of auto|f32|bf16|fp8, found 'f16'"),
    (["--precision=f16"], "expected one of"),
    (["--backend=tpu"], "found 'tpu'"),
    (["--json=yes"], "takes no value"),
    (["stray"], "unexpected argument 'stray'"),
    (["--", "x"], "unknown option"),
])
def test_bad_values(words, says):
    refused("devices", *words, codes=[2], says=says)


def test_both_spellings_of_a_value():
    assert ok("devices", "--threads=1") == ok("devices", "--threads", "1")


def test_missing_operand():
    refused("verify", codes=[2], says="expected GOLDEN.safetensors")


def test_devices_json():
    devices = ok_json("devices")["devices"]
    cpu = [d for d in devices if d["backend"] == "cpu"]
    assert len(cpu) == 1 and cpu[0]["usable"] and cpu[0]["units"] == os.cpu_count() and cpu[0]["memory_bytes"] > 2**28
    for device in devices:
        assert {"backend", "index", "name", "arch", "features", "memory_bytes", "units", "usable"} <= device.keys()
        assert device["usable"] or device["reason"]


def test_full_disk_is_noticed():
    with open("/dev/full", "w") as full:
        done = subprocess.run([PI0, "devices"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "pi0: cannot write to standard output\n"


def test_control_characters_of_names_do_not_reach_the_terminal():
    assert "\x1b" not in refused("verify", "/nowhere/\x1b[2Jgolden")


def stderr_on_a_terminal(*arguments):
    """What a command shows on a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([PI0, *arguments], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait(60) == 0
    return shown.decode()


BENCH = ["bench", "--model", "tiny-pi0", "--warmup", "1", "--iterations", "2"]


def test_progress_on_a_terminal_only():
    assert pi0(*BENCH).stderr == ""
    shown = stderr_on_a_terminal(*BENCH)
    assert "timing [" in shown and "%" in shown
    assert shown.endswith("\r\x1b[K"), "expected the bar to be taken away"
    assert stderr_on_a_terminal(*BENCH, "-q") == ""
