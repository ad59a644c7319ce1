"""What the tests share: the genuine files, what they are converted to, and four ways to run the command."""

from __future__ import annotations

import fcntl
import gc
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from hypothesis import settings

from ggcp_schema.cli import run
from ggcp_schema.files.tensor_entries import TensorEntry

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TRUNCATED = FIXTURES / "truncated-v0-lbfgs.ggcp"
GENUINE = sorted(path for path in FIXTURES.glob("*.ggcp") if path != TRUNCATED)
ORDERS = sorted((FIXTURES / "orders").glob("*.ggcp"))
ONE_OF_EACH = [  # one of each: layout, optimizer, raw parameters, past losses, size of the feed-forward layer, order
    *(FIXTURES / f"{name}.ggcp" for name in ("v0-adam", "v1-adam-past5", "v1-adam-raw-params", "v1-lbfgs")),
    *(FIXTURES / f"{name}.ggcp" for name in ("twin-lbfgs.v0", "twin-ff48.v1", "orders/jun-A-3", "orders/aug-B-3")),
]
FEW = [ONE_OF_EACH[number] for number in (0, 3, 5)]  # v0 with Adam, v1 with L-BFGS, an odd feed-forward layer
COMMAND = (sys.executable, "-m", "ggcp_schema")
DECISIVE = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"}
TIMEOUT = 120  # seconds after which a process counts as hung
Item = TypeVar("Item")


def thinned(items: Sequence[Item], few: Sequence[Item] | None = None) -> Sequence[Item]:
    """Return `few` of them, or one in 16; all in the profile in which hypothesis makes 16 times as many examples."""
    step = max(1, 200 // settings().max_examples)
    return items[::step] if few is None or step == 1 else few


def expected_resume(path: Path) -> dict[str, Any]:
    """Return the keys and tensors that the GGUF resume checkpoint made from this checkpoint must have."""
    return _expected(path, "resume")


def expected_model(path: Path) -> dict[str, Any]:
    """Return the keys and tensors of the model that the trainer itself exported from these weights; twins only."""
    return _expected(path, "model")


def _expected(path: Path, kind: str) -> dict[str, Any]:
    stem = path.name.removesuffix(".ggcp").removesuffix(".v0").removesuffix(".v1")
    expected: dict[str, Any] = json.loads((FIXTURES / f"{stem}.{kind}.json").read_text("utf-8"))
    return expected


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with `env`, and without the variables that change how a command prints."""
    kept = {key: value for key, value in os.environ.items() if key not in DECISIVE}
    return kept | {"TERM": "xterm"} | dict(env or {})


# In this process -------------------------------------------------------------------------------------------


def run_cli(
    *args: str | bytes | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    text: bool = True,
    check: bool = False,
) -> subprocess.CompletedProcess[Any]:
    """Run the command in this process, as if its output went to pipes and its input were empty.

    This takes a few milliseconds instead of the start-up time of a process. `env` is added to the environment. With
    `check` the command must exit 0. An exception that the command does not handle fails the test. Use `run_process`
    for pipes, signals, limits, and whatever happens at start-up.
    """
    argv = ["ggcp-schema", *(os.fsdecode(arg) for arg in args)]
    out, err = io.BytesIO(), io.BytesIO()
    streams = [_text_stream(stream) for stream in (io.BytesIO(), out, err)]  # an output is closed with its stream
    code = _run(argv, streams, env, cwd)
    captured = [stream.getvalue().decode("utf-8") if text else stream.getvalue() for stream in (out, err)]
    return _checked(subprocess.CompletedProcess(argv, code, *captured), check=check)


def _run(
    argv: list[str],
    streams: Sequence[io.TextIOWrapper],
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
) -> int:
    stdin, stdout, stderr = streams
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdin", stdin),
        mock.patch.object(sys, "stdout", stdout),
        mock.patch.object(sys, "stderr", stderr),
        _environment({"TERM": "xterm"} | dict(env or {})),
        _folder(cwd),
        _process_settings(),
    ):
        code = run()
        for stream in (stdout, stderr):
            stream.flush()
    return code


def _text_stream(stream: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Set what `environment` returns. To set all variables anew, as `mock.patch.dict` does, takes longer."""
    before = {key: os.environ.pop(key, None) for key in DECISIVE | env.keys()}
    os.environ.update(env)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextmanager
def _folder(path: str | os.PathLike[str] | None) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(before if path is None else path)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _process_settings() -> Iterator[None]:
    """Restore what the command changes for its whole process: the signal handlers, and garbage collection.

    The command collects the youngest objects alone, which are its own: it switches the collection off when it begins.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    collects = gc.isenabled()
    try:
        with mock.patch.object(gc, "collect", partial(gc.collect, 0)):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if collects:
            gc.enable()


def run_pty(
    *args: str | bytes | os.PathLike[str],
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> tuple[int, str]:
    """Run the command in this process, on a pseudo terminal of that width that has the standard descriptors.

    Return its exit code and all that the terminal received. Line ends are those of a program: `\\n`, where the
    terminal receives `\\r\\n`. Use `run_pty_process` for whatever depends on the terminal at start-up.
    """
    ours, theirs = _terminal(columns)
    kept = [os.dup(number) for number in range(3)]
    with ThreadPoolExecutor() as pool:
        received = pool.submit(_received, ours)
        try:
            for number in range(3):
                os.dup2(theirs, number)
            streams = [os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")]
            code = _run(["ggcp-schema", *(os.fsdecode(arg) for arg in args)], streams, env, cwd)
        finally:
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.close(theirs)
        return code, received.result()


# In a process of its own -----------------------------------------------------------------------------------


def run_process(
    *args: str | bytes | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: Any = subprocess.DEVNULL,
    cwd: str | os.PathLike[str] | None = None,
    text: bool = True,
    check: bool = False,
    timeout: float = TIMEOUT,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run the command in a process of its own, with its output in pipes; `options` are those of `subprocess.run`."""
    if "preexec_fn" in options:  # a limit on the size of files must not cut bytecode that other processes read
        env = {"PYTHONDONTWRITEBYTECODE": "1"} | dict(env or {})
    if not {"stdout", "stderr"} & set(options):
        options["capture_output"] = True
    result = subprocess.run(
        [*COMMAND, *map(os.fspath, args)],
        env=environment(env),
        stdin=stdin,
        cwd=cwd,
        encoding="utf-8" if text else None,
        timeout=timeout,
        check=False,
        **options,
    )
    return _checked(result, check=check)


def run_pty_process(
    *args: str | os.PathLike[str], columns: int = 80, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Do what `run_pty` does in a process of its own."""
    ours, theirs = _terminal(columns)
    process = subprocess.Popen(
        [*COMMAND, *map(os.fspath, args)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(env)
    )
    os.close(theirs)
    received = _received(ours)
    return process.wait(TIMEOUT), received


def _terminal(columns: int) -> tuple[int, int]:
    """Return a new pseudo terminal: our end, and the one of a program."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    return ours, theirs


def _received(ours: int) -> str:
    """Return all that the terminal receives, and close our end."""
    received = bytearray()
    try:
        while piece := os.read(ours, 1 << 16):
            received += piece
    except OSError:
        pass  # Linux reports EIO after the last writer has closed the terminal
    finally:
        os.close(ours)
    return received.decode("utf-8", "replace").replace("\r\n", "\n")


def _checked(result: subprocess.CompletedProcess[Any], *, check: bool) -> subprocess.CompletedProcess[Any]:
    if check:
        assert result.returncode == 0, f"exit {result.returncode}: {result.stderr!r}"
    return result


def assert_no_traceback(result: subprocess.CompletedProcess[Any]) -> None:
    """Check that the command ended by itself, and did not print a Python traceback."""
    stderr = result.stderr if isinstance(result.stderr, str) else result.stderr.decode("utf-8", "replace")
    assert "Traceback" not in stderr, stderr
    assert result.returncode >= 0, f"killed by signal {-result.returncode}: {stderr}"


class CountingStream(io.BytesIO):
    """Counts the reads."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        return super().read(size)


def tensor_data(tensors: Iterable[TensorEntry]) -> Iterator[memoryview]:
    """Yield the data of an output's tensors one after another."""
    return chain.from_iterable(tensor.chunks() for tensor in tensors)
