"""Requests of a robot: what they become before the model, and what its actions become after it."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import time
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from pi0 import _library as c
from pi0._handle import Handle, LogFunction, PathLike, encoded, log_callback, number_of
from pi0._pack import pack
from pi0.engine import FAMILIES, MODELS, Engine, Floats, Session, Timings, noise

RequestLike = Union["Request", Mapping[str, Any], bytes]


class Request(Handle):
    """A map from the robot's keys to images, numbers and text.

    Request() is empty, for the set_ methods; Request(map) takes the map that openpi-client would send (nested maps and
    numpy arrays), Request(bytes) one that was packed already, such as a file that `pi0 serve --record-dir` wrote.
    """

    _close_name = "request_free"

    def __init__(self, content: Union[Mapping[str, Any], bytes, None] = None) -> None:
        super().__init__()
        if content is None:
            self._create(self._library.request_new)
        else:
            raw = bytes(content) if isinstance(content, (bytes, bytearray, memoryview)) else pack(dict(content))
            self._create(self._library.request_decode, raw, len(raw))

    def set_image(self, key: str, pixels: npt.ArrayLike) -> None:
        """uint8 [height,width,3] RGB."""
        array = np.ascontiguousarray(pixels)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{key}: expected uint8 [height,width,3], found {array.dtype} {list(array.shape)}")
        self._call(self._library.request_set_image, encoded(key), array.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte)),
                   array.shape[0], array.shape[1])

    def set_image_file(self, key: str, path: PathLike) -> None:
        """A PNG or JPEG file."""
        self._call(self._library.request_set_image_file, encoded(key), encoded(path))

    def set_state(self, values: npt.ArrayLike, key: Optional[str] = None) -> None:
        """The robot's state, or the part of it that has this key."""
        array = np.ascontiguousarray(values, np.float64).reshape(-1)
        self._call(self._library.request_set_state, encoded(key),
                   array.ctypes.data_as(ctypes.POINTER(ctypes.c_double)), array.size)

    def set_prompt(self, text: str) -> None:
        self._call(self._library.request_set_prompt, text.encode())

    def set_tokens(self, tokens: npt.ArrayLike) -> None:
        """Token ids in place of a prompt."""
        array = np.ascontiguousarray(tokens, np.int32).reshape(-1)
        self._call(self._library.request_set_tokens, array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), array.size)


@dataclasses.dataclass(frozen=True)
class PolicyInfo:
    """What a policy makes of requests."""

    family: str
    cameras: int  # slots the model gets
    horizon: int  # rows of the answer
    max_prompt_tokens: int
    image_size: int
    action_dim: int  # the model's: 32
    robot_action_dim: int  # columns of the answer
    float32_actions: bool  # the reference answers float32 here, else float64
    config: Optional[str]
    metadata: Mapping[str, Any]  # what openpi's server sends on connect
    num_steps: int  # Euler steps the checkpoint asks for


class Policy(Handle):
    """One of openpi's named configs, or a lerobot checkpoint's own processors. Immutable: share it between threads.

    config: such as "pi05_droid"; None: the model's own inputs, or the lerobot directory's. tokenizer: PaliGemma's
    SentencePiece file, without which requests bring tokens. Other arguments are those of `pi0 infer`.
    """

    _close_name = "policy_close"

    def __init__(self, config: Optional[str] = None, *, checkpoint: PathLike = "synthetic:1", model: str = "auto",
                 norm_stats: Optional[PathLike] = None, tokenizer: Optional[PathLike] = None,
                 default_prompt: Optional[str] = None, image_size: int = 0, horizon: int = 0,
                 log: Optional[LogFunction] = None) -> None:
        super().__init__()
        o = c.PolicyOptions()
        self._library.policy_options_default(ctypes.byref(o))
        o.config, o.checkpoint, o.norm_stats = encoded(config), encoded(checkpoint), encoded(norm_stats)
        o.tokenizer, o.default_prompt = encoded(tokenizer), encoded(default_prompt)
        o.image_size, o.horizon, o.model = image_size, horizon, number_of(MODELS, model, "model")
        self._log = o.log = log_callback(log)
        self._create(self._library.policy_open, ctypes.byref(o))
        self.info = self._describe()

    def _describe(self) -> PolicyInfo:
        i = c.PolicyInfo(struct_size=ctypes.sizeof(c.PolicyInfo))
        self._call(self._library.policy_describe, ctypes.byref(i))
        return PolicyInfo(FAMILIES[i.family], i.cameras, i.horizon, i.max_prompt_tokens, i.image_size, i.action_dim,
                          i.robot_action_dim, i.float32_actions, i.config.decode() if i.config else None,
                          json.loads(i.metadata_json) if i.metadata_json else {}, i.num_steps)

    def prepare(self, request: RequestLike) -> "Input":
        """The request as the model sees it: images resized, prompt tokenised, state normalised."""
        if isinstance(request, Request):
            return Input(self, request)
        with Request(request) as made:
            return Input(self, made)

    def finish(self, prepared: "Input", model_actions: npt.ArrayLike) -> "npt.NDArray[np.floating[Any]]":
        """The model's actions [H,action_dim] as the robot's [H,robot_action_dim]: float64, or float32 where the
        reference answers float32."""
        i = self.info
        given = np.ascontiguousarray(model_actions, np.float32)
        if given.shape != (i.horizon, i.action_dim):
            raise ValueError(f"actions: expected shape {[i.horizon, i.action_dim]}, found {list(given.shape)}")
        actions = np.empty((i.horizon, i.robot_action_dim), np.float64)
        with prepared._in_use() as pointer:
            self._call(self._library.policy_finish, pointer, given.ctypes.data, actions.ctypes.data)
        return actions.astype(np.float32) if i.float32_actions else actions


class Input(Handle):
    """A prepared request; comes from Policy.prepare."""

    _close_name = "input_free"

    def __init__(self, policy: Policy, request: Request) -> None:
        super().__init__()
        self.policy = policy
        with policy._in_use() as pointer, request._in_use() as source:
            error = c.Error()
            c.check(self._library.policy_prepare(pointer, source, ctypes.byref(self._pointer), ctypes.byref(error)),
                    error)
            policy._children.add(self)

    def observation(self) -> c.Observation:
        """The model's view, for Session.infer_raw once its noise is set; its pointers are valid until close()."""
        record = c.Observation()
        with self._in_use() as pointer:
            self._library.input_observation(pointer, ctypes.byref(record))
        return record


class Robot:
    """Policy, engine and session in one: from a robot's request to its actions.

        with pi0.Robot(checkpoint, config="pi05_droid", tokenizer="paligemma_tokenizer.model") as robot:
            actions = robot.infer(request)["actions"]

    infer() takes and gives what openpi's policies do. Threads that share a Robot take turns; robots that share an
    engine (`engine=`) and a policy (`policy=`) run at the same time and hold the weights once. What was handed in stays
    open.
    """

    def __init__(self, checkpoint: PathLike = "synthetic:1", *, config: Optional[str] = None, model: str = "auto",
                 tokenizer: Optional[PathLike] = None, norm_stats: Optional[PathLike] = None,
                 default_prompt: Optional[str] = None, horizon: int = 0, num_steps: int = 0, max_batch: int = 1,
                 seed: Optional[int] = None, engine: Optional[Engine] = None, policy: Optional[Policy] = None,
                 profile: bool = False, log: Optional[LogFunction] = None, **engine_options: Any) -> None:
        self._owned: list[Handle] = []
        try:
            if policy is None:
                policy = Policy(config, checkpoint=checkpoint, model=model, norm_stats=norm_stats, tokenizer=tokenizer,
                                default_prompt=default_prompt, horizon=horizon, log=log)
                self._owned.append(policy)
            if engine is None:
                made = policy.info.family if model == "auto" and config else model
                engine = Engine(checkpoint, model=made, log=log, **engine_options)
                self._owned.append(engine)
            info = policy.info
            self.policy, self.engine, self.seed = policy, engine, seed
            self.session = Session(engine, cameras=info.cameras, max_batch=max_batch, horizon=info.horizon,
                                   max_prompt_tokens=info.max_prompt_tokens, num_steps=num_steps or info.num_steps,
                                   profile=profile)
            self._owned.append(self.session)
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What openpi's server sends on connect."""
        return self.policy.info.metadata

    def infer(self, request: RequestLike, *, seed: Optional[int] = None,
              noise: Optional[npt.ArrayLike] = None) -> dict[str, Any]:
        """{"actions": [H, robot's width], "policy_timing": {"infer_ms"}}. The noise is `noise` [H,32], else that of
        `seed` (or the Robot's), else drawn anew."""
        return self.infer_batch([request], seeds=[seed], noises=[noise])[0]

    def infer_batch(self, requests: Sequence[RequestLike], *, seeds: Optional[Sequence[Optional[int]]] = None,
                    noises: Optional[Sequence[Optional[npt.ArrayLike]]] = None) -> list[dict[str, Any]]:
        """Answers to up to max_batch requests in one inference."""
        inputs: list[Input] = []
        starts = [self._noise(seeds[i] if seeds else None, noises[i] if noises else None)
                  for i in range(len(requests))]
        try:
            records = (c.Observation * len(requests))()
            for i, request in enumerate(requests):
                inputs.append(self.policy.prepare(request))
                records[i] = inputs[i].observation()
                records[i].noise = starts[i].ctypes.data
            begin = time.perf_counter()
            model_actions = self.session.infer_raw(records)
            infer_ms = (time.perf_counter() - begin) * 1000
            return [{"actions": self.policy.finish(one, model_actions[i]), "policy_timing": {"infer_ms": infer_ms}}
                    for i, one in enumerate(inputs)]
        finally:
            for one in inputs:
                one.close()

    def _noise(self, seed: Optional[int], given: Optional[npt.ArrayLike]) -> Floats:
        shape = (self.policy.info.horizon, self.policy.info.action_dim)
        if given is not None:
            array = np.ascontiguousarray(given, np.float32)
            if array.shape != shape:
                raise ValueError(f"noise: expected shape {list(shape)}, found {list(array.shape)}")
            return array
        seed = self.seed if seed is None else seed
        return noise(int.from_bytes(os.urandom(8), "little") if seed is None else seed, shape)

    def timings(self) -> Timings:
        """Of the last inference."""
        return self.session.timings()

    def reset(self) -> None:
        """Nothing to forget: every inference stands alone. Here because openpi's policies have it."""

    def close(self) -> None:
        for part in reversed(self._owned):
            part.close()
        self._owned.clear()

    def __enter__(self) -> "Robot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
