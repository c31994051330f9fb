"""The engine against an independent model, on problems that no golden file has: other seeds, masks, shapes."""

import json

import numpy as np
import pytest

import reference
from command import GOLDEN, pi0, read_safetensors, write_safetensors

BASE, LEFT, RIGHT = reference.CAMERAS

PROBLEMS = [
    # family, seed, prompt, pad, horizon, steps, masked cameras
    ("pi0", 2, 0, 5, 1, 1, [BASE]),
    ("pi0", 9, 13, 2, 33, 7, [BASE, LEFT, RIGHT]),
    ("pi0", 77, 1, 199, 80, 20, [RIGHT, BASE]),
    ("pi0", 12345678901, 48, 0, 50, 10, []),
    ("pi05", 0, 20, 3, 10, 100, [LEFT]),
    ("pi05", 5, 0, 0, 3, 50, [BASE, LEFT]),
    ("pi05", 2**64 - 1, 200, 0, 64, 3, [LEFT]),
    ("pi05", 31, 60, 140, 15, 10, [RIGHT]),
]


@pytest.mark.parametrize("name", ["tiny_pi0", "tiny_pi05", "tiny_pi0_masked_padded", "tiny_pi05_masked_padded"])
def test_the_independent_model_agrees_with_the_golden_files(name):
    golden, metadata = read_safetensors(GOLDEN / f"{name}.safetensors")
    masked = metadata["mask"].split("+") if metadata["mask"] else []
    tensors, _ = reference.solve(metadata["family"], *(int(metadata[k]) for k in ("seed", "prompt", "pad", "horizon",
                                                                                 "steps")), masked)
    assert tensors.keys() == golden.keys()
    for key, ours in tensors.items():
        theirs = np.where(np.isnan(ours), np.nan, golden[key])
        assert np.sqrt(np.nansum((ours - theirs) ** 2) / np.nansum(theirs**2)) < 2e-6, key


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p[0]}-{p[1]}")
def test_verify(problem, precision, tmp_path):
    path = write_safetensors(tmp_path / "g.safetensors", *reference.solve(*problem))
    done = pi0("verify", path, "--precision", precision, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout)["tensors"]) == 6
