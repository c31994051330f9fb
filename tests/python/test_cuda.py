"""The CUDA backend through the command. Without a usable device most of it is skipped, and the rest says what a machine
without one hears."""

import json
import os
import subprocess

import numpy as np
import pytest

import reference
from command import GOLDEN, PI0, ok, ok_json, pi0, refused, write_safetensors
from test_reference import PROBLEMS

BASE, LEFT, RIGHT = reference.CAMERAS


def cuda_devices(env=None):
    return [d for d in ok_json("devices", env=env)["devices"] if d["backend"] == "cuda"]


BUILT = not any("no CUDA backend" in d.get("reason", "") for d in cuda_devices())
USABLE = any(d["usable"] for d in cuda_devices())
with_device = pytest.mark.skipif(not USABLE, reason="no CUDA device")
without_device = pytest.mark.skipif(USABLE or not BUILT, reason="there is a CUDA device, or no CUDA backend")
built = pytest.mark.skipif(not BUILT, reason="no CUDA backend in this build")
KERNELS = ["auto", "portable"]

# as many kinds of problem as a minute allows: prompts to 200, horizons 1 to 64, steps 1 to 100, each mask
MORE = [
    ("pi0", 3, 200, 0, 64, 1, []),
    ("pi0", 4, 199, 1, 16, 100, [LEFT]),
    ("pi0", 6, 0, 0, 15, 2, [RIGHT]),
    ("pi0", 8, 33, 31, 17, 5, [BASE, RIGHT]),
    ("pi0", 2**63, 7, 0, 1, 10, [LEFT, RIGHT]),
    ("pi05", 10, 200, 0, 10, 10, []),
    ("pi05", 11, 1, 0, 63, 4, [BASE]),
    ("pi05", 12, 64, 136, 32, 30, [BASE, LEFT, RIGHT]),
    ("pi05", 13, 100, 0, 1, 1, [BASE, RIGHT]),
]


def verified(*arguments):
    done = pi0("verify", *arguments, "--backend", "cuda", "--json", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["backend"] == "cuda" and result["precision"] == "bf16" and result["ok"] is True
    return {t["name"]: t["relative_error"] for t in result["tensors"]}


@with_device
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.safetensors")), ids=lambda p: p.stem)
def test_golden(path, kernels):
    errors = verified(path, "--kernels", kernels)
    # no further from float32 than openpi's own bf16 mode, give or take a tenth
    theirs = {"tiny_pi0": (5.5e-3, 1.5e-3), "tiny_pi05": (4.9e-3, 1.4e-3), "full_pi0": (7.7e-3, 2.85e-3),
              "full_pi05": (1.01e-2, 2.6e-3)}.get(path.stem)
    if theirs:
        assert errors["v"] <= 1.1 * theirs[0] and errors["actions"] <= 1.1 * theirs[1]


@with_device
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_weights_from_a_checkpoint(family, kernels):
    golden = GOLDEN / f"tiny_{family}.safetensors"
    from_file = verified(golden, "--checkpoint", GOLDEN / f"tiny_{family}_checkpoint", "--kernels", kernels)
    assert from_file == verified(golden, "--kernels", kernels), "weights made on the GPU are those of the file"


@with_device
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("problem", PROBLEMS + MORE, ids=lambda p: f"{p[0]}-{p[1]}")
def test_other_problems(problem, kernels, tmp_path):
    path = write_safetensors(tmp_path / "g.safetensors", *reference.solve(*problem))
    assert len(verified(path, "--kernels", kernels)) == 6


@with_device
@pytest.mark.parametrize("arguments", [
    [], ["--no-graph"], ["--kernels", "portable"], ["--gemm", "own"], ["--attention", "naive"], ["--no-fuse-qkv"],
    ["--batch-size", "64", "--masked-images", "1"], ["--masked-images", "2", "--no-skip-masked-images"],
    ["--horizon", "64", "--num-steps", "3", "--prompt-tokens", "200"], ["--timing", "device"], ["--cameras", "1"],
], ids=" ".join)
def test_bench(arguments):
    result = ok_json("bench", "--backend", "cuda", "--model", "tiny-pi0", "--warmup", "2", "--iterations", "5", *arguments)
    assert result["backend"] == "cuda" and result["precision"] == "bf16"
    assert result["graph"] is ("--no-graph" not in arguments)
    assert 0 < result["device_ms"]["p50"] <= result["latency_ms"]["p50"] < 1000
    assert [s["name"] for s in result["stages"]] == ["ViT", "LLM prefill", "Diffusion", "Other"]
    assert sum(s["ms"] for s in result["stages"]) == pytest.approx(result["latency_ms"]["mean"], rel=0.3)
    assert all(s["ms"] > 0 for s in result["stages"][:3])
    assert result["memory_bytes"]["weights"] > 0 and result["memory_bytes"]["workspace"] > 0


@with_device
def test_actions_are_the_cpus(tmp_path):
    files = {}
    for backend in ("cuda", "cpu"):
        files[backend] = tmp_path / f"{backend}.npy"
        ok("infer", "--model", "tiny-pi05", "--tokens", "5,7,11", "--seed", "3", "--backend", backend, "--precision",
           "bf16" if backend == "cuda" else "f32", "--out", files[backend])
    ours, theirs = (np.load(files[backend]) for backend in ("cuda", "cpu"))
    assert np.linalg.norm(ours - theirs) <= 6.5e-3 * np.linalg.norm(theirs)


@with_device
def test_precision_that_is_not_there():
    refused("bench", "--backend", "cuda", "--precision", "f32", "--model", "tiny-pi0", codes=[1], says="f32")
    refused("bench", "--backend", "cuda", "--device", "99", "--model", "tiny-pi0", codes=[1, 2], says="99")


def hears(env, says):
    """What a command without a device says; with auto the CPU does the work."""
    refused("bench", "--backend", "cuda", "--model", "tiny-pi0", codes=[1], says=["backend cuda", says], env=env)
    refused("verify", GOLDEN / "tiny_pi0.safetensors", "--backend", "cuda", codes=[1], says=says, env=env)
    device, = cuda_devices(env)
    assert not device["usable"] and says in device.get("reason", "")
    assert ok_json("verify", GOLDEN / "tiny_pi0.safetensors", env=env)["backend"] == "cpu"


@without_device
def test_machine_without_a_device():
    hears({}, "no ")


@built
def test_hidden_devices():
    hears({"CUDA_VISIBLE_DEVICES": ""}, "no ")


@built
@pytest.mark.parametrize("kind, says", [
    ("old", "the NVIDIA driver supports CUDA 12.4, this build needs 13."), ("none", "no CUDA device is visible"),
    ("broken", "no CUDA device is visible"), ("empty", "no NVIDIA driver was found"),
])
def test_stand_in_for_the_driver(kind, says):
    folder = PI0.parent / "tests" / "standin"
    if not (folder / "libcuda.so.1").exists():
        pytest.skip("no stand-in was built")
    path = os.environ.get("LD_LIBRARY_PATH")
    hears({"STANDIN_CUDA": kind, "LD_LIBRARY_PATH": f"{folder}:{path}" if path else str(folder)}, says)


@built
def test_the_command_needs_no_library_of_the_driver():
    needed = subprocess.run(["ldd", PI0], capture_output=True, text=True).stdout
    assert not any(name in needed for name in ("libcuda", "cudart", "cublas", "cupti", "nccl")), needed
