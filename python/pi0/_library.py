"""libpi0 through ctypes: where it is, and include/pi0.h in ctypes' words. The rest of the package is built on this."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import pathlib
import threading
from ctypes import POINTER, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_ubyte
from ctypes import c_uint, c_uint64, c_void_p
from typing import Any, Optional

from pi0.errors import LibraryError, from_status

ABI = 1
MAX_CAMERAS = 8
STAGES, OPS = 4, 6  # PI0_STAGE_COUNT, PI0_OP_COUNT

LOG_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
PROGRESS_FUNCTION = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_double)


class Error(ctypes.Structure):
    _fields_ = [("status", c_int), ("message", c_char * 1000)]


class EngineOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("checkpoint", c_char_p), ("model", c_int), ("backend", c_int), ("device", c_int),
        ("precision", c_int), ("threads", c_int), ("rope", c_int), ("keep_f32_weights", c_bool), ("kernels", c_int),
        ("gemm", c_int), ("attention", c_int), ("fuse_qkv", c_bool), ("calibration", c_char_p), ("log", LOG_FUNCTION),
        ("log_user", c_void_p), ("progress", PROGRESS_FUNCTION), ("progress_user", c_void_p)]


class EngineInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("family", c_int), ("action_dim", c_int), ("image_size", c_int),
        ("tokens_per_image", c_int), ("vocabulary", c_int), ("parameters", c_int64), ("backend", c_int),
        ("precision", c_int), ("device_name", c_char * 128), ("device_arch", c_char * 64), ("layout", c_char * 16),
        ("weights_bytes", c_int64), ("choices", c_uint)]


class TraceValue(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("number", c_double), ("text", c_char_p)]


class TraceEvent(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("kind", c_int), ("category", c_char_p), ("name", c_char_p), ("track", c_int),
        ("start_us", c_double), ("duration_us", c_double), ("flow", c_uint64), ("values", POINTER(TraceValue)),
        ("value_count", c_int)]


TRACE_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p, POINTER(TraceEvent))


class SessionOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("cameras", c_int), ("max_batch", c_int), ("max_prompt_tokens", c_int),
        ("horizon", c_int), ("num_steps", c_int), ("skip_masked_images", c_bool), ("lerobot_time", c_bool),
        ("graph", c_bool), ("record", c_bool), ("profile", c_bool), ("trace", TRACE_FUNCTION), ("trace_user", c_void_p)]


class Observation(ctypes.Structure):
    _fields_ = [
        ("images", c_void_p * MAX_CAMERAS), ("float_images", c_void_p * MAX_CAMERAS), ("tokens", c_void_p),
        ("token_mask", c_void_p), ("token_count", c_int), ("state", c_void_p), ("noise", c_void_p)]


class Timings(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("total_ms", c_double), ("device_ms", c_double), ("stage_ms", c_double * STAGES),
        ("op_ms", (c_double * OPS) * STAGES), ("op_calls", (c_int64 * OPS) * STAGES), ("workspace_bytes", c_int64)]


class DeviceInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("backend", c_int), ("index", c_int), ("name", c_char * 128), ("arch", c_char * 64),
        ("features", c_char * 256), ("memory_bytes", c_int64), ("units", c_int), ("usable", c_bool),
        ("reason", c_char * 256)]


class PolicyOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("config", c_char_p), ("checkpoint", c_char_p), ("norm_stats", c_char_p),
        ("tokenizer", c_char_p), ("default_prompt", c_char_p), ("image_size", c_int), ("model", c_int),
        ("horizon", c_int), ("log", LOG_FUNCTION), ("log_user", c_void_p)]


class PolicyInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("family", c_int), ("cameras", c_int), ("horizon", c_int),
        ("max_prompt_tokens", c_int), ("image_size", c_int), ("action_dim", c_int), ("robot_action_dim", c_int),
        ("float32_actions", c_bool), ("config", c_char_p), ("metadata_json", c_char_p), ("num_steps", c_int)]


# The header's structs by their C names: a test compares sizes and offsets with what the C compiler makes of them.
STRUCTS = {
    "pi0_error": Error, "pi0_engine_options": EngineOptions, "pi0_engine_info": EngineInfo,
    "pi0_trace_value": TraceValue, "pi0_trace_event": TraceEvent, "pi0_session_options": SessionOptions,
    "pi0_observation": Observation, "pi0_timings": Timings, "pi0_device_info": DeviceInfo,
    "pi0_policy_options": PolicyOptions, "pi0_policy_info": PolicyInfo}

_error, _handle, _handle_out = POINTER(Error), c_void_p, POINTER(c_void_p)

# name: result, arguments. Pointers to arrays are void pointers, so that addresses of numpy arrays fit.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "pi0_abi": (c_int, []),
    "pi0_version": (c_char_p, []),
    "pi0_status_text": (c_char_p, [c_int]),
    "pi0_engine_options_default": (None, [POINTER(EngineOptions)]),
    "pi0_engine_open": (c_int, [_handle_out, POINTER(EngineOptions), _error]),
    "pi0_engine_close": (None, [_handle_out]),
    "pi0_engine_describe": (c_int, [_handle, POINTER(EngineInfo), _error]),
    "pi0_session_options_default": (None, [POINTER(SessionOptions), _handle]),
    "pi0_session_open": (c_int, [_handle_out, _handle, POINTER(SessionOptions), _error]),
    "pi0_session_close": (None, [_handle_out]),
    "pi0_session_infer": (c_int, [_handle, POINTER(Observation), c_int, c_void_p, _error]),
    "pi0_noise": (None, [c_uint64, POINTER(c_float), c_size_t]),
    "pi0_stage_name": (c_char_p, [c_int]),
    "pi0_op_name": (c_char_p, [c_int]),
    "pi0_session_timings": (c_int, [_handle, POINTER(Timings), _error]),
    "pi0_session_read": (c_int, [_handle, c_char_p, c_int, c_void_p, c_size_t, POINTER(c_size_t), _error]),
    "pi0_devices": (c_int, [POINTER(DeviceInfo), c_int, POINTER(c_int), _error]),
    "pi0_request_new": (c_int, [_handle_out, _error]),
    "pi0_request_decode": (c_int, [_handle_out, c_char_p, c_size_t, _error]),
    "pi0_request_free": (None, [_handle_out]),
    "pi0_request_set_image": (c_int, [_handle, c_char_p, POINTER(c_ubyte), c_int, c_int, _error]),
    "pi0_request_set_image_file": (c_int, [_handle, c_char_p, c_char_p, _error]),
    "pi0_request_set_state": (c_int, [_handle, c_char_p, POINTER(c_double), c_int, _error]),
    "pi0_request_set_prompt": (c_int, [_handle, c_char_p, _error]),
    "pi0_request_set_tokens": (c_int, [_handle, POINTER(c_int32), c_int, _error]),
    "pi0_policy_options_default": (None, [POINTER(PolicyOptions)]),
    "pi0_policy_open": (c_int, [_handle_out, POINTER(PolicyOptions), _error]),
    "pi0_policy_close": (None, [_handle_out]),
    "pi0_policy_describe": (c_int, [_handle, POINTER(PolicyInfo), _error]),
    "pi0_policy_prepare": (c_int, [_handle, _handle, _handle_out, _error]),
    "pi0_input_free": (None, [_handle_out]),
    "pi0_input_observation": (None, [_handle, POINTER(Observation)]),
    "pi0_policy_finish": (c_int, [_handle, _handle, c_void_p, c_void_p, _error]),
}


def candidates() -> list[str]:
    """Where the library is looked for, in this order. PI0_LIBRARY, if set, is the only place."""
    asked = os.environ.get("PI0_LIBRARY")
    if asked:
        return [asked]
    beside = pathlib.Path(__file__).resolve().parent
    built = beside.parents[1] / "build"  # the package used from the repository, or installed with `pip install -e`
    found = [str(folder / "libpi0.so") for folder in (beside, built)]
    system = ctypes.util.find_library("pi0")
    return [*found, *([system] if system else []), "libpi0.so.1", "libpi0.so"]


def _open() -> tuple[ctypes.CDLL, str]:
    failures = []
    for place in candidates():
        if "/" in place and not os.path.exists(place):
            failures.append(f"{place}: no such file")
            continue
        try:
            return ctypes.CDLL(place), place
        except OSError as error:
            text = str(error)
            failures.append(text if place in text else f"{place}: {text}")
    raise LibraryError("cannot load libpi0; build it and set PI0_LIBRARY to libpi0.so, put it beside the package, or "
                       "install it where the system finds it. Tried: " + "; ".join(failures))


class Library:
    """The loaded library: its functions as attributes, with types."""

    def __init__(self) -> None:
        self.handle, self.path = _open()
        try:
            self._declare()
        except AttributeError as error:
            raise LibraryError(f"{self.path}: not the library this package was written for: {error}") from None

    def _declare(self) -> None:
        abi = self.handle.pi0_abi
        abi.restype, abi.argtypes = c_int, []
        if abi() != ABI:
            raise LibraryError(f"{self.path}: expected a library with ABI {ABI}, found ABI {abi()}")
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(self.handle, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name[4:], function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"libpi0 has no function pi0_{name}")


_loaded: Optional[Library] = None
_loading = threading.Lock()


def library() -> Library:
    """The library, loaded on first use."""
    global _loaded
    with _loading:
        if _loaded is None:
            _loaded = Library()
        return _loaded


def check(status: int, error: Error) -> None:
    """Raises what a failed call has to say."""
    if status:
        raise from_status(status, error.message.decode("utf-8", "replace"))
