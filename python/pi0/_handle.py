"""What the library's objects have in common here: a pointer, a close that waits for calls under way, `with`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from typing import Any, Callable, Iterator, Optional, Union

from pi0._library import LOG_FUNCTION, Error, check, library
from pi0.errors import ArgumentError

LogFunction = Callable[[str, str], None]  # level, message
LEVELS = ("error", "warning", "info", "debug")
PathLike = Union[str, "os.PathLike[str]"]


def encoded(text: Union[PathLike, bytes, None]) -> Optional[bytes]:
    """Text or a path as the library takes it."""
    if text is None:
        return None
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise ArgumentError(f"expected text without NUL, found {text!r}")
    return raw


def number_of(choices: tuple[str, ...], name: str, what: str) -> int:
    if name not in choices:
        raise ArgumentError(f"{what}: expected one of {', '.join(choices)}, found {name!r}")
    return choices.index(name)


def log_callback(log: Optional[LogFunction]) -> Any:
    """Keep the result as long as the library may call it."""
    if log is None:
        return LOG_FUNCTION()
    function = log
    return LOG_FUNCTION(lambda _, level, message: function(LEVELS[level], message.decode("utf-8", "replace")))


class Handle:
    """One object of the library. Closing it closes what was made from it first, and waits for calls that use it."""

    _close_name = ""

    def __init__(self) -> None:
        self._library = library()
        self._pointer = ctypes.c_void_p()
        self._users = 0
        self._changed = threading.Condition()
        self._children: "weakref.WeakSet[Handle]" = weakref.WeakSet()

    def _create(self, function: Any, *arguments: Any) -> None:
        error = Error()
        check(function(ctypes.byref(self._pointer), *arguments, ctypes.byref(error)), error)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[ctypes.c_void_p]:
        """The pointer, which stays valid within."""
        with self._changed:
            if not self._pointer:
                raise ArgumentError(f"the {type(self).__name__.lower()} is closed")
            self._users += 1
        try:
            yield self._pointer
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _call(self, function: Any, *arguments: Any) -> None:
        """function(pointer, arguments.., error), as an exception where it fails."""
        error = Error()
        with self._in_use() as pointer:
            check(function(pointer, *arguments, ctypes.byref(error)), error)

    @property
    def closed(self) -> bool:
        return not self._pointer

    def close(self) -> None:
        """Frees everything. Closing twice does nothing; using it afterwards raises ArgumentError."""
        for child in list(self._children):
            child.close()
        with self._changed:
            pointer, self._pointer = self._pointer, ctypes.c_void_p()
            while self._users:
                self._changed.wait()
            if pointer:
                getattr(self._library, self._close_name)(ctypes.byref(pointer))

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self.close()
