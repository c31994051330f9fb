"""examples/aloha_sim/closed_loop.py: the real simulator, openpi-client and its chunk broker against `pi0 serve`."""

import json
import os
import subprocess
import sys

from command import ROOT
from serving import Server


def test_closed_loop():
    """100 control steps, one request for every 10, and as many pictures, which the processor draws."""
    with Server() as server:
        done = subprocess.run([sys.executable, ROOT / "examples" / "aloha_sim" / "closed_loop.py", "--port",
                               str(server.port), "--steps", "100"], capture_output=True, text=True, timeout=900,
                              env={"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"} | os.environ)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["steps"] == 100 and result["requests"] == 10 and result["moved"] > 0.01
        assert server.metrics()["pi0_requests_total"] == 10
