"""What lerobot's evaluation calls a policy, in front of `pi0 serve` or of libpi0 in this process.

    bridge = Bridge(lambda: WebsocketClientPolicy("localhost", 8000), KEYS["aloha_sim"])    # a server
    bridge = Bridge(lambda: robot, KEYS["lerobot"])                                         # python/pi0: a pi0.Robot
    action = bridge.select_action(batch)                                                    # [environments, width]

Takes lerobot's batches (images float [B,3,H,W] in 0..1 or uint8, `observation.state` [B,n], `task`: B texts) as torch
tensors or numpy arrays, and answers in kind. Needs numpy alone; `lerobot_policy` makes a torch module of it.
"""

from __future__ import annotations

import collections
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

IMAGES, STATE, TASK = "observation.images.", "observation.state", "task"


@dataclasses.dataclass(frozen=True)
class Keys:
    """How a robot's requests are made of lerobot's observations. "a/b" below is the entry b of a map a where nested."""

    images: Mapping[str, str]  # camera in lerobot's words, without "observation.images.": key of the request
    state: Mapping[str, slice]  # key of the request: which numbers of observation.state
    nested: bool = False  # images in a map of their own
    channels_first: bool = False  # images [3,h,w], not [h,w,3]
    prompt: str = "prompt"


WHOLE = slice(None)
KEYS = {
    # a lerobot checkpoint: `pi0 serve --checkpoint LEROBOT_DIR` knows lerobot's own words; every camera goes along
    "lerobot": Keys(images={}, state={STATE: WHOLE}, prompt=TASK),
    "aloha_sim": Keys(images={"top": "images/cam_high", "cam_high": "images/cam_high"}, state={"state": WHOLE},
                      nested=True, channels_first=True),
    "aloha": Keys(images={name: f"images/{name}" for name in ("cam_high", "cam_low", "cam_left_wrist",
                                                              "cam_right_wrist")},
                  state={"state": WHOLE}, nested=True, channels_first=True),
    "libero": Keys(images={"image": "observation/image", "image2": "observation/wrist_image",
                           "wrist_image": "observation/wrist_image"}, state={"observation/state": WHOLE}),
    "droid": Keys(images={"exterior_1_left": "observation/exterior_image_1_left",
                          "wrist_left": "observation/wrist_image_left"},
                  state={"observation/joint_position": slice(0, 7), "observation/gripper_position": slice(7, 8)}),
}


def as_numpy(values: Any) -> np.ndarray:
    """Of a torch tensor on any device, or of anything numpy understands."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def as_pixels(image: Any, channels_first: bool) -> np.ndarray:
    """One image of a batch as uint8. lerobot divides by 255; that is undone exactly."""
    pixels = as_numpy(image)
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[2]):
        raise ValueError(f"expected an image [3,height,width], found {list(pixels.shape)}")
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("expected an image with values in 0..1: the policy's own preprocessor must not run before "
                             "this, because the server normalises")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise ValueError(f"expected an image of floats in 0..1 or of uint8, found {pixels.dtype}")
    is_first = pixels.shape[0] == 3
    if is_first != channels_first:
        pixels = np.moveaxis(pixels, 0, 2) if is_first else np.moveaxis(pixels, 2, 0)
    return np.ascontiguousarray(pixels)


def requests_of(batch: Mapping[str, Any], keys: Keys) -> list[dict[str, Any]]:
    """One request for each environment of a batch."""
    if STATE not in batch:
        raise KeyError(f"expected '{STATE}' in the observation, found {sorted(batch)}")
    states = as_numpy(batch[STATE])
    if states.ndim != 2:
        raise ValueError(f"{STATE}: expected [environments, numbers], found {list(states.shape)}")
    tasks = batch.get(TASK)
    if isinstance(tasks, str):
        tasks = [tasks] * len(states)
    cameras = {name[len(IMAGES):]: value for name, value in batch.items() if name.startswith(IMAGES)}
    known = {name: keys.images[name] for name in cameras if name in keys.images}
    if not keys.images:
        known = {name: IMAGES + name for name in cameras}
    if not known:
        raise KeyError(f"expected images of {sorted(keys.images) or 'any camera'}, found {sorted(cameras)}")
    requests = []
    for i, state in enumerate(states):
        request: dict[str, Any] = {key: state[part] for key, part in keys.state.items()}
        for camera, key in known.items():
            pixels = as_pixels(cameras[camera][i], keys.channels_first)
            if keys.nested:
                outer, inner = key.split("/", 1)
                request.setdefault(outer, {})[inner] = pixels
            else:
                request[key] = pixels
        if tasks is not None and tasks[i]:
            request[keys.prompt] = tasks[i]
        requests.append(request)
    return requests


class Bridge:
    """select_action, predict_action_chunk and reset, as lerobot calls them.

    connect: makes something with infer(request) -> {"actions": [H, width]}; called once for each environment of a
    batch, so that `pi0 serve --batch N` gets the requests of all at once. Where it has infer_batch(requests), as
    pi0.Robot does, it is called once only. n_action_steps: actions of a chunk that are used before the next is asked
    for (default: all). task: said to the policy where the environment has none.
    """

    def __init__(self, connect: Callable[[], Any], keys: Keys, n_action_steps: int = 0, task: Optional[str] = None):
        self.keys, self.n_action_steps, self.task = keys, n_action_steps, task
        self._connect = connect
        self._policies = [connect()]
        self._threads: Optional[ThreadPoolExecutor] = None
        self._queue: collections.deque[np.ndarray] = collections.deque()

    def reset(self) -> None:
        """A new episode: what is left of the last chunk is forgotten."""
        self._queue.clear()

    def predict_action_chunk(self, batch: Mapping[str, Any], **_: Any) -> Any:
        """[environments, H, width]"""
        return self._in_kind(self._chunk(batch), batch)

    def select_action(self, batch: Mapping[str, Any], **_: Any) -> Any:
        """[environments, width]: the next action of the chunk, or the first of a new one."""
        if not self._queue:
            chunk = self._chunk(batch)
            used = self.n_action_steps or chunk.shape[1]
            if used > chunk.shape[1]:
                raise ValueError(f"n_action_steps is {used}, but the policy answers with {chunk.shape[1]} actions")
            self._queue.extend(np.moveaxis(chunk[:, :used], 1, 0))
        return self._in_kind(self._queue.popleft(), batch)

    def close(self) -> None:
        if self._threads:
            self._threads.shutdown()

    def _chunk(self, batch: Mapping[str, Any]) -> np.ndarray:
        requests = requests_of(batch, self.keys)
        if self.task:
            for request in requests:
                request.setdefault(self.keys.prompt, self.task)
        return np.stack([np.asarray(answer["actions"], np.float32) for answer in self._infer(requests)])

    def _infer(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        first = self._policies[0]
        if hasattr(first, "infer_batch"):
            most = first.session.max_batch
            parts = [requests[at:at + most] for at in range(0, len(requests), most)]
            return [answer for part in parts for answer in first.infer_batch(part)]
        if len(requests) == 1:
            return [first.infer(requests[0])]
        while len(self._policies) < len(requests):
            self._policies.append(self._connect())
            self._threads = None
        if not self._threads:
            self._threads = ThreadPoolExecutor(len(self._policies))
        return list(self._threads.map(lambda policy, request: policy.infer(request), self._policies, requests))

    @staticmethod
    def _in_kind(values: np.ndarray, batch: Mapping[str, Any]) -> Any:
        """As a torch tensor beside the state's, or as numpy where that is numpy."""
        state = batch[STATE]
        return state.new_tensor(values.tolist()) if hasattr(state, "new_tensor") else values


def lerobot_policy(bridge: Bridge) -> Any:
    """The bridge as the torch module that lerobot's eval_policy asks for. Needs lerobot."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.pretrained import PreTrainedPolicy

    @dataclasses.dataclass
    class BridgeConfig(PreTrainedConfig):
        """Nothing to configure: the server or the library knows the model."""

        observation_delta_indices = action_delta_indices = reward_delta_indices = None

        def get_optimizer_preset(self) -> Any:
            raise NotImplementedError("this policy is not trained here")

        def get_scheduler_preset(self) -> Any:
            return None

        def validate_features(self) -> None:
            pass

    class BridgePolicy(PreTrainedPolicy):
        config_class, name = BridgeConfig, "pi0_bridge"

        def get_optim_params(self) -> dict:
            return {}

        def forward(self, batch: dict) -> Any:
            raise NotImplementedError("this policy is not trained here")

        def reset(self) -> None:
            bridge.reset()

        def predict_action_chunk(self, batch: dict, **keywords: Any) -> Any:
            return bridge.predict_action_chunk(batch, **keywords)

        def select_action(self, batch: dict, **keywords: Any) -> Any:
            return bridge.select_action(batch, **keywords)

    return BridgePolicy(BridgeConfig(device="cpu"))
