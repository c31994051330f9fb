#!/usr/bin/env python3
"""lerobot's own evaluation (environments, rollouts, success rate) of a policy that runs in pi0.c.

    pi0 serve --config pi0_aloha_sim --checkpoint DIR --tokenizer paligemma_tokenizer.model --batch 4 &
    python examples/lerobot/evaluate.py --env aloha --task AlohaTransferCube-v0 --keys aloha_sim --port 8000 \\
        --batch-size 4 --episodes 8

With --checkpoint the library runs it in this process, without a server. Prints one JSON line. See README.md.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bridge import KEYS, Bridge, lerobot_policy  # noqa: E402
from lerobot.envs.configs import EnvConfig  # noqa: E402
from lerobot.envs.factory import make_env, make_env_pre_post_processors  # noqa: E402
from lerobot.envs.utils import close_envs  # noqa: E402
from lerobot.scripts.lerobot_eval import eval_policy  # noqa: E402


def connection(options):
    """What makes the thing that answers: a server's client, or the library."""
    if options.checkpoint:
        import pi0
        robot = pi0.Robot(options.checkpoint, config=options.config, model=options.model, tokenizer=options.tokenizer,
                          max_batch=options.batch_size)
        return lambda: robot
    from openpi_client.websocket_client_policy import WebsocketClientPolicy
    return lambda: WebsocketClientPolicy(options.host, options.port, options.api_key)


def evaluate(options):
    settings = {"task": options.task} if options.task else {}
    environment = EnvConfig.get_choice_class(options.env)(**settings)
    if options.max_steps:
        environment = dataclasses.replace(environment, episode_length=options.max_steps)
    bridge = Bridge(connection(options), KEYS[options.keys], options.n_action_steps, options.prompt)
    policy = lerobot_policy(bridge)
    before, after = make_env_pre_post_processors(environment, policy.config)
    results = {}
    groups = make_env(environment, n_envs=options.batch_size)
    for group, tasks in groups.items():
        for number, vector in tasks.items():
            # the server or the library normalises: lerobot's own processors of a policy have nothing to do
            done = eval_policy(vector, policy, before, after, lambda batch: batch, lambda action: action,
                               options.episodes, start_seed=options.seed)
            results[f"{group}/{number}"] = done["aggregated"]
    close_envs(groups)
    bridge.close()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="aloha", help="lerobot's environment: aloha, libero, ...")
    parser.add_argument("--task", help="the environment's task, such as AlohaTransferCube-v0 or libero_spatial")
    parser.add_argument("--keys", choices=KEYS, default="aloha_sim", help="what the policy's robot calls its inputs")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key")
    parser.add_argument("--checkpoint", help="run this with the library, in place of asking a server")
    parser.add_argument("--config", help="with --checkpoint: one of openpi's named configs")
    parser.add_argument("--model", default="auto", help="with --checkpoint synthetic: tiny-pi0, ...")
    parser.add_argument("--tokenizer", help="with --checkpoint: PaliGemma's SentencePiece file")
    parser.add_argument("--prompt", help="said to the policy where the environment has no task text")
    parser.add_argument("--n-action-steps", type=int, default=10, help="actions used of every answer")
    parser.add_argument("--batch-size", type=int, default=1, help="environments at once")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--max-steps", type=int, help="of an episode (default: the environment's)")
    parser.add_argument("--seed", type=int, default=1000)
    print(json.dumps(evaluate(parser.parse_args())))


if __name__ == "__main__":
    main()
