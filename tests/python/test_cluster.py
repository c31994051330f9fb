"""examples/cluster/infer_mpi.py: two ranks of Open MPI share a folder that `pi0 serve --record-dir` wrote."""

import json
import os
import subprocess
import sys

import numpy as np

from command import PI0, ROOT
from serving import TOKENIZER, Server, observation

REQUESTS = 5


def mpi(folder, out, *arguments):
    """Two ranks, as root too and on machines with one core; no network but this machine's."""
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                                "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl": "self,vader",
                                "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
                                "OMPI_MCA_hwloc_base_binding_policy": "none", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(["mpirun", "-n", "2", sys.executable, ROOT / "examples" / "cluster" / "infer_mpi.py", "--pi0",
                           PI0, "--batch", folder, "--out", out, "--batch-size", "2", "--", "--config", "pi0_aloha_sim",
                           "--model", "tiny-pi0", "--tokenizer", TOKENIZER, "--seed", "3", "--threads", "1",
                           *arguments], capture_output=True, text=True, env=environment, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return done, json.loads(lines[0]) if lines else None


def test_two_ranks(tmp_path):
    recorded, out = tmp_path / "recorded", tmp_path / "answers" / "deep"
    recorded.mkdir()
    with Server("--record-dir", recorded, seed=3) as server:
        policy = server.policy()
        answers = [policy.infer(observation("pi0_aloha_sim", seed=i))["actions"] for i in range(REQUESTS)]
    files = sorted(path.name for path in recorded.iterdir() if "response" not in path.name)
    assert len(files) == REQUESTS

    done, told = mpi(recorded, out)
    assert done.returncode == 0, done.stderr
    assert (told["requests"], told["refused"], told["already_answered"]) == (REQUESTS, 0, 0)
    assert sorted(rank["requests"] for rank in told["ranks"]) == [2, 3]
    for name, expected in zip(files, answers):
        found = np.load(out / name.replace("msgpack", "npy"))
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)

    # once more, with one answer lost, one request spoiled and its answer lost
    (out / files[1].replace("msgpack", "npy")).unlink()
    (out / files[2].replace("msgpack", "npy")).unlink()
    (recorded / files[2]).write_bytes(b"\xc1")
    done, told = mpi(recorded, out)
    assert done.returncode != 0 and files[2] in done.stderr
    assert (told["requests"], told["refused"], told["already_answered"]) == (1, 1, REQUESTS - 2)
    assert len(list(out.iterdir())) == REQUESTS - 1

    # a rank that cannot begin
    done, told = mpi(recorded, out, "--config", "no_such_config")
    assert done.returncode != 0 and "no_such_config" in done.stderr
