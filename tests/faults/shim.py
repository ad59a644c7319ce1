"""Inject a fault into the n-th I/O call of this process. It knows nothing of the package.

Calls are those of `os` and those that file objects of `open` make. Imports are not counted: they use other functions.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

FUNCTIONS = (
    *("open", "close", "read", "pread", "preadv", "write", "pwrite", "writev", "fsync", "link", "rename", "replace"),
    *("fstat", "stat", "listdir", "chmod", "fchmod", "mkdir", "truncate", "ftruncate", "copy_file_range"),
)
TRANSFERS = {"read", "pread", "preadv", "write", "pwrite", "writev", "copy_file_range"}


class Shim:
    """Counts the calls in `calls`, and applies the fault to one of them.

    `fault` is the name of an error (EIO, ENOSPC, …), which the call raises; of a signal (SIGKILL, SIGHUP, …), which the
    process receives before the call; SHORT, which makes a read or write transfer one byte; or a function that is called
    before the call.
    """

    def __init__(self, fault: str | Callable[[], object] = "EIO") -> None:
        self.at, self.fault = 0, fault
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.real = {name: getattr(os, name) for name in FUNCTIONS if hasattr(os, name)}

    def install(self) -> None:
        for name in self.real:
            setattr(os, name, self._wrap(name))
        builtins.open = io.open = self._open

    def start(self, at: int) -> None:
        """Count from now on; the fault is for call number `at` (from 1), or for none if `at` is 0."""
        self.calls.clear()
        self.at = at

    def strike(self, name: str, path: object = None) -> bool:
        """Count a call. Raise if it must fail; return True if it must be short."""
        with self.lock:
            self.calls.append(name)
            if len(self.calls) != self.at:
                return False
        if callable(self.fault):
            self.fault()
        elif self.fault == "SHORT":
            return name in TRANSFERS
        elif self.fault.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.fault])
        else:
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number), path if isinstance(path, str) else None)
        return False

    def _wrap(self, name: str) -> Callable[..., Any]:
        real = self.real[name]

        def call(*args: Any, **options: Any) -> Any:
            if name == "close":  # the descriptor is free even if close fails
                real(*args)
                return self.strike(name)
            if self.strike(name, args[0] if args else None):
                return real(*_shortened(name, args), **options)
            return real(*args, **options)

        return call

    def _open(  # as io.open
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        self.strike("open", file)
        raw = _File(self, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        buffered = kind(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class _File(io.FileIO):
    def __init__(self, shim: Shim, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        self.shim = shim
        super().__init__(file, mode, closefd, opener)

    def readinto(self, buffer: Any) -> int | None:
        short = self.shim.strike("read")
        return super().readinto(memoryview(buffer).cast("B")[:1] if short else buffer)

    def readall(self) -> bytes:
        self.shim.strike("read")
        return super().readall()

    def read(self, size: int | None = -1) -> bytes | None:
        return super().read(1 if self.shim.strike("read") else size)

    def write(self, data: Any) -> int | None:
        short = self.shim.strike("write")
        return super().write(memoryview(data).cast("B")[:1] if short else data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.shim.strike("close")


def _shortened(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments for a transfer of one byte."""
    fd, what, *rest = args
    if name == "copy_file_range":
        return fd, what, 1, *rest[1:]
    if name in {"preadv", "writev"}:
        return fd, [memoryview(what[0])[:1]], *rest
    return fd, 1 if name in {"read", "pread"} else memoryview(what)[:1], *rest
