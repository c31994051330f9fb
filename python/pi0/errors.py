"""What can go wrong, one class for each pi0_status."""

from __future__ import annotations


class Error(Exception):
    """A call of libpi0 failed; the message says what was expected, what was found, and where."""

    status = 0


class LibraryError(Error, ImportError):
    """libpi0 was not found, or is not the one that this package was written for."""


class ArgumentError(Error, ValueError):
    """An argument or option is wrong."""

    status = 1


class FileError(Error):
    """A file cannot be opened, read or written."""

    status = 2


class FormatError(Error, ValueError):
    """A file or message is not what it claims to be."""

    status = 3


class OutOfMemoryError(Error, MemoryError):
    """Not enough memory on the host or the device."""

    status = 4


class UnsupportedError(Error):
    """Valid, but not something this build or machine can do."""

    status = 5


class DeviceError(Error):
    """A GPU or its driver failed."""

    status = 6


class CancelledError(Error):
    """A progress function asked to stop."""

    status = 7


_BY_STATUS = {kind.status: kind for kind in (ArgumentError, FileError, FormatError, OutOfMemoryError, UnsupportedError,
                                             DeviceError, CancelledError)}


def from_status(status: int, message: str) -> Error:
    return _BY_STATUS.get(status, Error)(message)
