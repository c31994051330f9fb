"""pi0: the pi0 and pi0.5 robot policies, over libpi0.

    Engine    the weights on one backend; share it between threads
    Session   the buffers of one inference at a time; one a thread
    Policy    what a robot's request becomes before the model and its actions after it; share it
    Robot     the three in one: request in, actions out

    with pi0.Robot("checkpoint/", config="pi05_droid", tokenizer="paligemma_tokenizer.model") as robot:
        actions = robot.infer(request)["actions"]

The library is PI0_LIBRARY, or libpi0.so beside this package, or the system's; it is loaded on first use. Every call
that computes lets other Python threads run.
"""

from pi0._library import library as _load
from pi0.engine import Device, Engine, EngineInfo, Observation, Session, Timings, TraceEvent, devices, noise
from pi0.errors import (ArgumentError, CancelledError, DeviceError, Error, FileError, FormatError, LibraryError,
                        OutOfMemoryError, UnsupportedError)
from pi0.policy import Input, Policy, PolicyInfo, Request, Robot

__version__ = "0.1.0"

__all__ = ["ArgumentError", "CancelledError", "Device", "DeviceError", "Engine", "EngineInfo", "Error", "FileError",
           "FormatError", "Input", "LibraryError", "Observation", "OutOfMemoryError", "Policy", "PolicyInfo", "Request",
           "Robot", "Session", "Timings", "TraceEvent", "UnsupportedError", "devices", "library_path",
           "library_version", "noise"]


def library_version() -> str:
    """Of libpi0, such as "0.1.0"."""
    return str(_load().version().decode())


def library_path() -> str:
    """Where the loaded libpi0 is, or the name the system found it under."""
    return str(_load().path)
