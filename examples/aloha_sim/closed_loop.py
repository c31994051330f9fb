#!/usr/bin/env python3
"""Steers the real ALOHA simulation (gym-aloha, MuJoCo) with a policy server, as openpi's aloha_sim example does.

The server answers with chunks of 50 actions; openpi-client's broker hands them out one a control step and asks again
after --action-horizon of them. Start a server first, here with made-up weights (the arms twitch, nothing is grasped):

    pi0 serve --config pi0_aloha_sim --model tiny-pi0 --tokenizer tests/data/golden/tokenizer/tiny.model
    pip install gym-aloha openpi-client typing_extensions 'numpy<2'
    python examples/aloha_sim/closed_loop.py --steps 100

Needs an off-screen OpenGL: Debian's libosmesa6 (MUJOCO_GL=osmesa, the default here) or a GPU with EGL (MUJOCO_GL=egl).
"""

import argparse
import json
import os
import time

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

import gym_aloha  # noqa: E402,F401  registers the environments
import gymnasium  # noqa: E402
import numpy as np  # noqa: E402
from openpi_client import image_tools  # noqa: E402
from openpi_client.action_chunk_broker import ActionChunkBroker  # noqa: E402
from openpi_client.websocket_client_policy import WebsocketClientPolicy  # noqa: E402

TASKS = {"gym_aloha/AlohaTransferCube-v0": "Transfer cube", "gym_aloha/AlohaInsertion-v0": "Insert the peg"}


def request(observation, prompt):
    """What the policy gets: one camera, 224x224, channels first; 14 joints."""
    image = image_tools.convert_to_uint8(image_tools.resize_with_pad(observation["pixels"]["top"], 224, 224))
    return {"state": observation["agent_pos"], "images": {"cam_high": np.transpose(image, (2, 0, 1))}, "prompt": prompt}


class Eyes:
    """The environment would draw three cameras after every step, which takes far longer than the physics where the
    processor draws. The policy looks through the top one, and only when it is asked."""

    def __init__(self, environment):
        self.task = environment.unwrapped._env.task
        self.open, self.image = True, None
        self.task.get_observation = self.observe

    def observe(self, physics):
        if self.open:
            self.image = physics.render(height=480, width=640, camera_id="top")
        return {"qpos": self.task.get_qpos(physics), "images": {"top": self.image}}


def run(options):
    policy = WebsocketClientPolicy(options.host, options.port, options.api_key)
    broker = ActionChunkBroker(policy, options.action_horizon)
    environment = gymnasium.make(options.task, obs_type="pixels_agent_pos")
    eyes = Eyes(environment)
    observation, _ = environment.reset(seed=options.seed)
    rewards, latencies, states = [], [], [observation["agent_pos"]]
    for step in range(options.steps):
        asks = step % options.action_horizon == 0
        begin = time.perf_counter()
        answer = broker.infer(request(observation, TASKS[options.task]))
        if asks:
            latencies.append((time.perf_counter() - begin) * 1000)
        eyes.open = (step + 1) % options.action_horizon == 0
        observation, reward, terminated, truncated, _ = environment.step(answer["actions"].astype(np.float32))
        states.append(observation["agent_pos"])
        rewards.append(float(reward))
        if terminated or truncated:
            break
    environment.close()
    return {"steps": len(rewards), "requests": len(latencies), "reward": max(rewards),
            "latency_p50_ms": float(np.median(latencies)), "moved": float(np.ptp(np.array(states), axis=0).max())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key")
    parser.add_argument("--task", choices=TASKS, default="gym_aloha/AlohaTransferCube-v0")
    parser.add_argument("--steps", type=int, default=400, help="control steps of 20 ms")
    parser.add_argument("--action-horizon", type=int, default=10, help="actions used of every answer")
    parser.add_argument("--seed", type=int, default=0, help="places the cube")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
