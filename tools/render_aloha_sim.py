#!/usr/bin/env python3
"""Renders a scene of the real ALOHA simulation for examples/aloha_sim: what openpi's aloha_sim client would send.

gym-aloha's "transfer cube" task (MuJoCo) is reset, the arms move towards the cube for some steps, and the top camera and
the joint positions are written: cam_high.png (640x480 RGB) and state.json (14 numbers: per arm six joints in radians
and the gripper's opening from 0 to 1).

Needs `pip install gym-aloha pillow` and an off-screen OpenGL: Debian's libosmesa6 (MUJOCO_GL=osmesa, the default here)
or EGL (MUJOCO_GL=egl).

    tools/render_aloha_sim.py [FOLDER] [--seed N] [--steps N]
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

import gym_aloha  # noqa: E402,F401  registers the environments
import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Joint targets of either arm: bent over the table, gripper open.
REACH = np.array([0.0, -0.6, 0.9, 0.0, 0.5, 0.0, 1.0])


def scene(seed, steps):
    """(image uint8 [480,640,3], state float64 [14])"""
    environment = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    observation, _ = environment.reset(seed=seed)
    start = observation["agent_pos"].copy()
    goal = np.concatenate([REACH, REACH])
    for step in range(steps):
        blend = (step + 1) / steps
        action = (start * (1 - blend) + goal * blend).astype(np.float32)
        observation, _, _, _, _ = environment.step(action)
    environment.close()
    return observation["pixels"]["top"], observation["agent_pos"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=ROOT / "examples" / "aloha_sim")
    parser.add_argument("--seed", type=int, default=0, help="places the cube")
    parser.add_argument("--steps", type=int, default=25, help="simulation steps of 20 ms before the picture")
    options = parser.parse_args()
    image, state = scene(options.seed, options.steps)
    assert image.shape == (480, 640, 3) and image.dtype == np.uint8 and state.shape == (14,)
    options.folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(options.folder / "cam_high.png", optimize=True)
    (options.folder / "state.json").write_text(json.dumps([float(x) for x in state], indent=1) + "\n")
    print(f"{options.folder}: cam_high.png, state.json {np.round(state, 3).tolist()}")


if __name__ == "__main__":
    main()
