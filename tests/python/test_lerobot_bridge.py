"""examples/lerobot/bridge.py without lerobot: batches as its evaluation makes them, in numpy and in something that
behaves like a torch tensor, against `pi0 serve` and against the library."""

import os
import sys

import numpy as np
import pytest

from command import GOLDEN, PI0, ROOT
from serving import TOKENIZER, Server, observation

os.environ.setdefault("PI0_LIBRARY", str(PI0.parent / "libpi0.so"))
sys.path[:0] = [str(ROOT / "examples" / "lerobot"), str(ROOT / "python")]

import pi0  # noqa: E402
from bridge import KEYS, Bridge, requests_of  # noqa: E402


class Tensor:
    """As much of a torch tensor as the bridge may use."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.values

    def new_tensor(self, values):
        return Tensor(np.asarray(values, self.values.dtype))

    def __getitem__(self, index):
        return Tensor(self.values[index])


# lerobot's camera names for what our requests hold
CASES = {"aloha_sim": ("pi0_aloha_sim", {"top": ("images", "cam_high")}),
         "aloha": ("pi0_aloha", {name: ("images", name) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")}),
         "libero": ("pi0_libero", {"image": ("observation/image",), "image2": ("observation/wrist_image",)}),
         "droid": ("pi05_droid", {"exterior_1_left": ("observation/exterior_image_1_left",),
                                  "wrist_left": ("observation/wrist_image_left",)})}


def batch_of(keys, count, wrap=np.asarray):
    """What lerobot's preprocess_observation makes of `count` environments, and the requests it stands for."""
    config, cameras = CASES[keys]
    wanted = [observation(config, seed=i) for i in range(count)]
    states, batch = [], {}
    for request in wanted:
        for key in KEYS[keys].state:  # the environment's state is float32
            request[key] = request[key].astype(np.float32)
        states.append(np.concatenate([request[key] for key in KEYS[keys].state]))
    batch["observation.state"] = wrap(np.stack(states))
    batch["task"] = [request["prompt"] for request in wanted]
    for camera, path in cameras.items():
        images = []
        for request in wanted:
            image = request[path[0]] if len(path) == 1 else request[path[0]][path[1]]
            images.append((image if image.shape[0] == 3 else np.moveaxis(image, 2, 0)).astype(np.float32) / 255)
        batch[f"observation.images.{camera}"] = wrap(np.stack(images))
    return batch, wanted


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return np.array_equal(a, b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0)


@pytest.mark.parametrize("wrap", [np.asarray, Tensor])
@pytest.mark.parametrize("keys", CASES)
def test_requests_are_the_robots(keys, wrap):
    batch, wanted = batch_of(keys, 2, wrap)
    found = requests_of(batch, KEYS[keys])
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True))


def test_every_value_of_a_pixel_survives():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for pixels in (np.moveaxis(values, 3, 1).astype(np.float32) / 255, np.moveaxis(values, 3, 1), values):
        batch = {"observation.state": np.zeros((1, 14), np.float32), "observation.images.top": pixels}
        assert np.array_equal(requests_of(batch, KEYS["lerobot"])[0]["observation.images.top"], values[0])


def test_refusals():
    state = np.zeros((1, 14), np.float32)
    image = np.zeros((1, 3, 8, 8), np.float32)
    for batch, says in [({"observation.images.top": image}, "observation.state"),
                        ({"observation.state": state}, "images"),
                        ({"observation.state": state, "observation.images.side": image}, "side"),
                        ({"observation.state": state[0], "observation.images.top": image}, "environments"),
                        ({"observation.state": state, "observation.images.top": image - 1}, "0..1"),
                        ({"observation.state": state, "observation.images.top": image[0]}, "3,height,width"),
                        ({"observation.state": state, "observation.images.top": image.astype(int)}, "uint8")]:
        with pytest.raises((KeyError, ValueError), match=says):
            requests_of(batch, KEYS["aloha_sim"])


def test_with_a_server():
    """Three environments at once: each its own connection, one batch; chunks handed out action by action."""
    with Server("--batch", "3", "--batch-window-ms", "200") as server:
        bridge = Bridge(server.policy, KEYS["aloha_sim"], n_action_steps=4)
        batch, wanted = batch_of("aloha_sim", 3, Tensor)
        chunk = bridge.predict_action_chunk(batch)
        assert isinstance(chunk, Tensor) and chunk.values.shape == (3, 50, 14) and chunk.values.dtype == np.float32
        alone = server.policy()
        for i, request in enumerate(wanted):
            expected = alone.infer(request)["actions"]
            assert np.linalg.norm(chunk.values[i] - expected) <= 1e-5 * np.linalg.norm(expected)
        before = server.metrics()["pi0_requests_total"]
        actions = [bridge.select_action(batch).values for _ in range(6)]
        assert server.metrics()["pi0_requests_total"] - before == 6  # two rounds for three environments
        assert all(np.allclose(actions[i], chunk.values[:, i % 4], atol=1e-4) for i in range(6))
        bridge.reset()  # what was left is forgotten
        assert np.allclose(bridge.select_action(batch).values, chunk.values[:, 0], atol=1e-4)
        assert server.metrics()["pi0_requests_total"] - before == 9
        bridge.close()


def test_with_the_library():
    with pi0.Robot(config="pi0_aloha_sim", model="tiny-pi0", tokenizer=TOKENIZER, threads=1, precision="f32",
                   backend="cpu", seed=3, max_batch=2) as robot:
        bridge = Bridge(lambda: robot, KEYS["aloha_sim"], task="fold it")
        batch, wanted = batch_of("aloha_sim", 3)
        chunk = bridge.predict_action_chunk(batch)
        for i, request in enumerate(wanted):
            assert np.allclose(chunk[i], robot.infer(request)["actions"], atol=1e-4)
        batch["task"] = [""] * 3  # as lerobot says for environments without words
        other = bridge.predict_action_chunk(batch)
        assert np.allclose(other[0], robot.infer(wanted[0] | {"prompt": "fold it"})["actions"], atol=1e-4)
        with pytest.raises(ValueError, match="n_action_steps"):
            Bridge(lambda: robot, KEYS["aloha_sim"], n_action_steps=51).select_action(batch)


def test_with_a_lerobot_checkpoint():
    """Its own words for cameras, state and task go through as they are."""
    with pi0.Robot(GOLDEN / "lerobot_tiny_pi0", tokenizer=TOKENIZER, threads=1, precision="f32", backend="cpu",
                   seed=0) as robot:
        names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
        batch, _ = batch_of("aloha", 1)
        bridge = Bridge(lambda: robot, KEYS["lerobot"])
        chunk = bridge.predict_action_chunk(batch)
        request = {f"observation.images.{name}": np.rint(np.moveaxis(batch[f"observation.images.{name}"][0], 0, 2) *
                                                         255).astype(np.uint8) for name in names}
        request |= {"observation.state": batch["observation.state"][0], "task": batch["task"][0]}
        assert chunk.shape == (1, 10, 14) and np.array_equal(chunk[0], robot.infer(request)["actions"])
