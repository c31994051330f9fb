#!/usr/bin/env python3
"""Answers a folder of recorded observations on many processes or machines: one `pi0 infer --batch` a rank.

    mpirun -n 4 python examples/cluster/infer_mpi.py --batch recorded/ --out answers/ --batch-size 8 \\
        -- --config pi05_droid --checkpoint DIR --tokenizer paligemma_tokenizer.model

`recorded/` holds NNNNNN.msgpack files, as `pi0 serve --record-dir` writes them; each is answered as answers/NNNNNN.npy.
What follows `--` goes to every `pi0 infer` as it is. Both folders have to be seen by all ranks under the same name.

Rank R of N takes every N-th file from the R-th on. A file that is no request is named and left out. Answers that are
there already are left alone, so a run that was cut short goes on when it is started again. Rank 0 prints one JSON line;
every rank's exit code is 0 only if all of them answered everything.

Needs an MPI (Debian: openmpi-bin) and `pip install mpi4py`.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from mpi4py import MPI

BUILT = pathlib.Path(__file__).resolve().parents[2] / "build" / "pi0"


def command(options, rank, size, local_rank, local_size):
    """What this rank runs: its share of the files, of the machine's GPUs or else of its cores."""
    words = [options.pi0, "infer", "--batch", options.batch, "--out", options.out, "--batch-size", options.batch_size,
             "--shard", f"{rank}/{size}", "--resume", "--keep-going", "--json", *options.rest]
    if options.gpus:
        words += ["--device", local_rank % options.gpus]
    elif "--threads" not in options.rest:
        words += ["--threads", max(1, len(os.sched_getaffinity(0)) // local_size)]
    return [str(word) for word in words]


def answer(words, rank):
    """Runs it; what it says on stderr goes on with the rank before each line."""
    begin = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            print(f"rank {rank}: {line}", end="", file=sys.stderr, flush=True)
        printed = process.stdout.read()
    told = json.loads(printed) if printed.strip() else {"requests": 0, "already_answered": 0, "refused": 0}
    return {"rank": rank, "exit_code": process.returncode, "seconds": round(time.monotonic() - begin, 3),
            **{key: told[key] for key in ("requests", "already_answered", "refused")}}


def main():
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pi0", default=str(BUILT) if BUILT.exists() else shutil.which("pi0") or "pi0")
    parser.add_argument("--batch", required=True, metavar="FOLDER")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of a machine, shared out to its ranks")
    options = parser.parse_args(words[:cut])
    options.rest = words[cut + 1:]

    world = MPI.COMM_WORLD
    machine = world.Split_type(MPI.COMM_TYPE_SHARED)
    if world.rank == 0:
        pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    world.Barrier()
    mine = answer(command(options, world.rank, world.size, machine.rank, machine.size), world.rank)
    ranks = world.allgather(mine)
    if world.rank == 0:
        print(json.dumps({**{key: sum(rank[key] for rank in ranks)
                             for key in ("requests", "already_answered", "refused")}, "ranks": ranks}))
    return 0 if all(rank["exit_code"] == 0 for rank in ranks) else 1


if __name__ == "__main__":
    sys.exit(main())
