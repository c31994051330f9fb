"""Engine and session: from what the model sees to what it answers."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from pi0 import _library as c
from pi0._handle import Handle, LogFunction, PathLike, encoded, log_callback, number_of

FAMILIES = ("pi0", "pi05")
MODELS = ("auto", "pi0", "pi05", "tiny-pi0", "tiny-pi05")
BACKENDS = ("auto", "cpu", "cuda", "hip")
PRECISIONS = ("auto", "f32", "bf16", "fp8")
ROPES = ("exact", "openpi-torch-bf16")
KERNELS = ("auto", "portable")
GEMMS = ("auto", "cublaslt", "own")
ATTENTIONS = ("auto", "naive")
TRACE_KINDS = ("inference", "stage", "step", "layer", "op", "kernel", "copy", "api", "thread")

ProgressFunction = Callable[[str, float], Optional[bool]]  # what, fraction; False cancels
Floats = npt.NDArray[np.float32]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What was loaded, and where it runs."""

    family: str
    action_dim: int  # width of state, noise and actions: 32
    image_size: int  # pixels a side
    tokens_per_image: int
    vocabulary: int
    parameters: int  # that inference reads
    backend: str
    precision: str
    device_name: str
    device_arch: str
    layout: str  # "openpi", "lerobot" or "synthetic"
    weights_bytes: int


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that was found; one that cannot be used says why."""

    backend: str
    index: int
    name: str
    arch: str
    features: tuple[str, ...]
    memory_bytes: int
    units: int  # cores or multiprocessors
    usable: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Timings:
    """Of a session's last inference, in milliseconds."""

    total_ms: float
    device_ms: float  # 0 where the backend has no device timer
    stages: Mapping[str, float]  # "ViT", "LLM prefill", "Diffusion", "Other"
    ops: Mapping[str, Mapping[str, tuple[float, int]]]  # stage, op: milliseconds and calls; of a profiling session
    workspace_bytes: int  # memory the session holds


@dataclasses.dataclass(frozen=True)
class TraceEvent:
    """One thing that took time during an inference."""

    kind: str  # one of TRACE_KINDS
    category: Optional[str]
    name: str
    track: int
    start_us: float
    duration_us: float
    flow: int
    values: Mapping[str, Union[float, str]]


@dataclasses.dataclass
class Observation:
    """What the model sees. R is the engine's image_size, A its action_dim, H the session's horizon.

    images: one entry a camera slot: uint8 [R,R,3] RGB, or float32 [3,R,R] in [-1,1]; None masks the camera out.
    tokens: integers [N]; token_mask: booleans [N], those that are False are left out (default: all are valid).
    state: [A], normalised and padded; pi0.5 reads none. noise: [H,A], where the denoising starts.
    """

    images: Sequence[Optional[npt.ArrayLike]] = ()
    tokens: npt.ArrayLike = ()
    state: Optional[npt.ArrayLike] = None
    noise: Optional[npt.ArrayLike] = None
    token_mask: Optional[npt.ArrayLike] = None


def noise(seed: int, shape: Union[int, tuple[int, ...]]) -> Floats:
    """The standard normal numbers of `pi0 infer --seed`, the same on every machine; shape is usually (H, 32)."""
    values = np.empty(shape, np.float32)
    c.library().noise(seed % (1 << 64), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
    return values


def devices() -> list[Device]:
    """Every device of every backend, usable or not."""
    count, error = ctypes.c_int(), c.Error()
    capacity = 64
    found = (c.DeviceInfo * capacity)()
    for entry in found:
        entry.struct_size = ctypes.sizeof(c.DeviceInfo)
    c.check(c.library().devices(found, capacity, ctypes.byref(count), ctypes.byref(error)), error)
    return [Device(BACKENDS[d.backend], d.index, _text(d.name), _text(d.arch), tuple(_text(d.features).split()),
                   d.memory_bytes, d.units, d.usable, _text(d.reason)) for d in found[:min(count.value, capacity)]]


class Engine(Handle):
    """The weights on one backend. Immutable: share it between threads, and give each thread a session.

    checkpoint: a directory in openpi's or lerobot's layout, or "synthetic[:SEED]" with `model` to say which.
    progress: called as progress(what, fraction) while weights are loaded; returning False cancels (CancelledError).
    log: called as log(level, message), from any thread that is inside a call.
    """

    _close_name = "engine_close"

    def __init__(self, checkpoint: PathLike = "synthetic:1", *, model: str = "auto", backend: str = "auto",
                 device: int = 0, precision: str = "auto", threads: int = 0, rope: str = "exact",
                 keep_f32_weights: bool = False, kernels: str = "auto", gemm: str = "auto", attention: str = "auto",
                 fuse_qkv: bool = True, calibration: Optional[PathLike] = None, log: Optional[LogFunction] = None,
                 progress: Optional[ProgressFunction] = None) -> None:
        super().__init__()
        o = c.EngineOptions()
        self._library.engine_options_default(ctypes.byref(o))
        o.checkpoint = encoded(checkpoint)
        o.model = number_of(MODELS, model, "model")
        o.backend = number_of(BACKENDS, backend, "backend")
        o.device = device
        o.precision = number_of(PRECISIONS, precision, "precision")
        o.threads = threads
        o.rope = number_of(ROPES, rope, "rope")
        o.keep_f32_weights = keep_f32_weights
        o.kernels = number_of(KERNELS, kernels, "kernels")
        o.gemm = number_of(GEMMS, gemm, "gemm")
        o.attention = number_of(ATTENTIONS, attention, "attention")
        o.fuse_qkv = fuse_qkv
        o.calibration = encoded(calibration)
        self._log = o.log = log_callback(log)
        raised: list[BaseException] = []

        def report(_: object, what: bytes, fraction: float) -> int:
            try:
                return int(progress is not None and progress(_text(what), fraction) is False)
            except BaseException as error:  # noqa: BLE001 - it goes on once the library has returned
                raised.append(error)
                return 1

        if progress is not None:
            o.progress = c.PROGRESS_FUNCTION(report)
        try:
            self._create(self._library.engine_open, ctypes.byref(o))
        except Exception:
            if raised:
                raise raised[0] from None
            raise
        self.info = self._describe()

    def _describe(self) -> EngineInfo:
        info = c.EngineInfo(struct_size=ctypes.sizeof(c.EngineInfo))
        self._call(self._library.engine_describe, ctypes.byref(info))
        return EngineInfo(FAMILIES[info.family], info.action_dim, info.image_size, info.tokens_per_image,
                          info.vocabulary, info.parameters, BACKENDS[info.backend], PRECISIONS[info.precision],
                          _text(info.device_name), _text(info.device_arch), _text(info.layout), info.weights_bytes)

    def session(self, **options: object) -> "Session":
        """Session(engine, **options)."""
        return Session(self, **options)  # type: ignore[arg-type]


class Session(Handle):
    """The buffers of one inference at a time, all taken when it opens.

    Threads that share one take turns; for inferences at the same time open one session a thread.
    record: keep stage results for read(). profile: fill Timings.ops. trace: called with a TraceEvent for everything an
    inference did, from the thread that is in infer().
    """

    _close_name = "session_close"

    def __init__(self, engine: Engine, *, cameras: int = 3, max_batch: int = 1, max_prompt_tokens: int = 200,
                 horizon: int = 10, num_steps: int = 10, skip_masked_images: bool = True,
                 lerobot_time: Optional[bool] = None, graph: bool = True, record: bool = False, profile: bool = False,
                 trace: Optional[Callable[[TraceEvent], None]] = None) -> None:
        super().__init__()
        self.engine, self.cameras, self.max_batch, self.horizon = engine, cameras, max_batch, horizon
        self._turn = threading.Lock()
        o = c.SessionOptions()
        with engine._in_use() as pointer:
            self._library.session_options_default(ctypes.byref(o), pointer)
            o.cameras, o.max_batch, o.max_prompt_tokens, o.horizon = cameras, max_batch, max_prompt_tokens, horizon
            o.num_steps, o.skip_masked_images, o.graph = num_steps, skip_masked_images, graph
            o.record, o.profile = record, profile
            if lerobot_time is not None:
                o.lerobot_time = lerobot_time
            if trace is not None:
                self._trace = o.trace = _trace_callback(trace)
            self._create(self._library.session_open, pointer, ctypes.byref(o))
            engine._children.add(self)

    def infer(self, observation: Observation) -> Floats:
        """One observation's actions, float32 [H,A]."""
        actions: Floats = self.infer_batch([observation])[0]
        return actions

    def infer_batch(self, observations: Sequence[Observation]) -> Floats:
        """Actions of up to max_batch observations in one inference, float32 [batch,H,A]."""
        keep: list[object] = []  # the arrays that the pointers point into
        records = (c.Observation * len(observations))(*(self._convert(o, keep) for o in observations))
        return self.infer_raw(records)

    def infer_raw(self, records: "ctypes.Array[c.Observation]") -> Floats:
        """The same for observations in the library's own form, as Input.observation gives them."""
        actions = np.empty((len(records), self.horizon, self.engine.info.action_dim), np.float32)
        with self._turn:
            self._call(self._library.session_infer, records, len(records), actions.ctypes.data)
        return actions

    def _convert(self, o: Observation, keep: list[object]) -> c.Observation:
        info, record = self.engine.info, c.Observation()

        def address(values: npt.ArrayLike, dtype: npt.DTypeLike, shape: tuple[int, ...], what: str) -> int:
            array = np.ascontiguousarray(values, dtype)
            if array.shape != shape:
                raise ValueError(f"{what}: expected shape {list(shape)}, found {list(array.shape)}")
            keep.append(array)
            return array.ctypes.data

        if len(o.images) > self.cameras:
            raise ValueError(f"images: expected at most the session's {self.cameras}, found {len(o.images)}")
        for slot, picture in enumerate(o.images):
            if picture is None:
                continue
            array, side = np.asarray(picture), info.image_size
            if array.dtype == np.uint8:
                record.images[slot] = address(array, np.uint8, (side, side, 3), f"image {slot}")
            elif array.dtype.kind == "f":
                record.float_images[slot] = address(array, np.float32, (3, side, side), f"image {slot}")
            else:
                raise TypeError(f"image {slot}: expected uint8 or float32, found {array.dtype}")
        tokens = np.asarray(o.tokens)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise ValueError(f"tokens: expected a list of integers, found {tokens.dtype} {list(tokens.shape)}")
        if tokens.size and not (0 <= int(tokens.min()) and int(tokens.max()) < info.vocabulary):
            raise ValueError(f"tokens: expected 0 to {info.vocabulary - 1}, found {tokens.min()} to {tokens.max()}")
        record.token_count = tokens.size
        record.tokens = address(tokens, np.int32, tokens.shape, "tokens")
        if o.token_mask is not None:
            record.token_mask = address(o.token_mask, np.bool_, tokens.shape, "token_mask")
        if o.state is not None:
            record.state = address(o.state, np.float32, (info.action_dim,), "state")
        elif info.family == "pi0":
            raise ValueError("state: pi0 needs one, found None")
        if o.noise is None:
            raise ValueError("noise: expected an array, such as pi0.noise(seed, (H, A)), found None")
        record.noise = address(o.noise, np.float32, (self.horizon, info.action_dim), "noise")
        return record

    def timings(self) -> Timings:
        """Of the last inference."""
        t, names = c.Timings(struct_size=ctypes.sizeof(c.Timings)), self._library
        self._call(self._library.session_timings, ctypes.byref(t))
        stages = [_text(names.stage_name(i)) for i in range(c.STAGES)]
        ops = [_text(names.op_name(i)) for i in range(c.OPS)]
        table = {stage: {op: (t.op_ms[i][k], t.op_calls[i][k]) for k, op in enumerate(ops)}
                 for i, stage in enumerate(stages)}
        return Timings(t.total_ms, t.device_ms, dict(zip(stages, t.stage_ms)), table, t.workspace_bytes)

    def read(self, name: str, index: int = 0) -> Floats:
        """A stage result of a recording session's last inference, for one observation of the batch, as flat float32:
        "prefix_embeddings" [P,width], "prefix_keys" and "prefix_values" [layers,P,head_dim], "x" and "v" [steps,H,A].
        """
        count = ctypes.c_size_t()
        self._call(self._library.session_read, encoded(name), index, None, 0, ctypes.byref(count))
        values = np.empty(count.value, np.float32)
        self._call(self._library.session_read, encoded(name), index, values.ctypes.data, values.size,
                   ctypes.byref(count))
        return values


def _trace_callback(trace: Callable[[TraceEvent], None]) -> Any:
    def tell(_: object, pointer: "ctypes._Pointer[c.TraceEvent]") -> None:
        e = pointer.contents
        values = {_text(v.name): _text(v.text) if v.text is not None else v.number
                  for v in (e.values[i] for i in range(e.value_count))}
        trace(TraceEvent(TRACE_KINDS[e.kind], _text(e.category) if e.category else None, _text(e.name), e.track,
                         e.start_us, e.duration_us, e.flow, values))

    return c.TRACE_FUNCTION(tell)
