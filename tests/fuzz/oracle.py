"""Runs every command and the Python API on a file, and says what does not hold.

Whatever the file is, a command must not let an exception of Python out, take more than a second or 100 MB, end with
another exit code than 0, 1 (a negative verdict), 2 or 4, leave files beside its output, write control characters or
invalid JSON, or disagree with `open_file` on whether the file is whole. And what it accepts, it must read as an
independent reader does.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from ggcp_schema.errors import GgcpError
from ggcp_schema.formats import open_file
from tests.fuzz import independent
from tests.fuzz.mutate import Recipe
from tests.fuzz.seeds import seed
from tests.helpers import FIXTURES, run_cli

VERDICTS = {"validate", "verify", "diff", "repair"}  # whose exit code may be 1
BIDI = "\u200e\u200f\u061c" + "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
UNTOUCHED = "All bytes of what was asked for were read."  # by the damage, which is told nevertheless
CONTROL = re.compile(rf"[\x00-\x09\x0b-\x1f\x7f-\x9f{BIDI}]")
ODD_NAME = b"odd \x1b[31m\n\xff\xe2\x80\xae name"
HUNG = 20.0  # seconds of computing after which a command is stopped
HEADROOM = 700 << 20  # bytes of address space that a command may map, so that the machine survives the worst
MAX_LEAVES = 2000

READING: tuple[tuple[str, ...], ...] = (
    ("info", "{file}"),
    ("info", "{file}", "--json"),
    ("dump", "{file}"),
    ("dump", "{file}", "--json"),
    ("get", "{file}", "{path}"),
    ("get", "{file}", "{path}", "--json"),
    ("hex", "{file}", "{path}"),
    ("hex", "{file}", "0:512", "--json"),
    ("tensors", "{file}"),
    ("tensors", "{file}", "--json"),
    ("search", "{file}", "a"),
)
MEASURING: tuple[tuple[str, ...], ...] = (
    ("dump", "{file}", "--full"),
    ("dump", "{file}", "--full", "--json"),
    ("stats", "{file}"),
    ("stats", "{file}", "--json"),
    ("validate", "{file}"),
    ("validate", "{file}", "--data", "--json"),
    ("diff", "{file}", "{file}"),
    ("diff", "{seed}", "{file}", "--json"),
    ("verify", "{file}", "{resume}", "--json"),
    ("verify", "{tiny}", "{file}"),
)
WRITING: tuple[tuple[str, ...], ...] = (
    ("convert", "{file}", "{out}.gguf", "--verify", "--no-sync"),
    ("convert", "{file}", "{out}.gguf", "--verbatim", "--no-sync", "--json"),
    ("convert", "{file}", "{out}.gguf", "--fresh-optimizer", "--no-sync", "--quiet"),
    ("convert", "{file}", "{out}.gguf", "--strict", "--no-sync"),
    ("convert", "{file}", "{out}.gguf", "--dry-run", "--json"),
    ("export", "{file}", "{out}.gguf", "--vocab", "{vocab}", "--ctx", "16", "--no-sync", "--verify"),
    ("export", "{file}", "{out}.gguf", "--vocab", "{vocab}", "--ctx", "16", "--no-sync", "--partial", "--json"),
    ("export", "{file}", "{out}.gguf", "--ctx", "16", "--no-sync"),
    ("export", "{tiny}", "{out}.gguf", "--vocab", "{file}", "--ctx", "16", "--no-sync", "--json"),
    ("extract", "{file}", "{tensor}", "{out}.npy"),
    ("extract", "{file}", "*", "{out}.safetensors", "--json"),
    ("edit", "{file}", "{out}.ggcp", "train_its=5", "--no-sync"),
    ("edit", "{file}", "{out}.ggcp", "{path}=1", "--no-sync", "--json"),
    ("repair", "{file}", "{out}.ggcp", "--no-sync"),
    ("repair", "{file}", "{out}.ggcp", "--dry-run", "--json"),
)
COMMANDS = READING + MEASURING + WRITING
FOR_HOLES = tuple(command for command in READING if command != ("dump", "{file}", "--json"))  # of a few lines
SHOWING = {"info", "dump", "tensors", "hex"}  # succeed on every whole file


class TooLong(BaseException):
    """A command computed for longer than HUNG."""


@dataclass(frozen=True)
class Finding:
    """What a command did that it must not do."""

    kind: str
    command: str
    detail: str
    recipe: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.kind}: {self.command}\n    {self.detail}\n    {self.recipe}"

    @property
    def signature(self) -> tuple[str, str, str]:
        """What findings of one cause have in common."""
        where = re.sub(r"[^ ]*/|\d+|'[^']*'|\"[^\"]*\"", "#", self.detail)[:90]
        return self.kind, self.command.split()[0], where


class Oracle:
    """Makes files from recipes in a folder of its own and examines them."""

    def __init__(self, folder: Path, *, seconds: float = 1.0, megabytes: int = 100) -> None:
        self.folder, self.seconds, self.megabytes = folder, seconds, megabytes
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        for made in (self.inputs, self.outputs):
            made.mkdir(parents=True, exist_ok=True)
        self.executions = 0
        self.given = {"vocab": FIXTURES / "vocab.gguf", "tiny": folder / "tiny.ggcp", "resume": folder / "resume.gguf"}
        self.given["tiny"].write_bytes(seed("tiny-v1-adam"))
        self.given["resume"].write_bytes(seed("tiny-resume-little"))
        # What the first runs import is not to be counted as theirs.
        for command in COMMANDS:
            self._run([text.format(**self._names(self.given["tiny"])) for text in command])
        self._clear()

    def examine(
        self, recipe: Recipe, rng: random.Random | None = None, commands: int | None = None
    ) -> Iterator[Finding]:
        """Run the commands, or as many of them as `commands` says, on the file that the recipe makes."""
        rng = rng or random.Random(str(recipe))
        is_odd = rng.random() < 0.1 and not recipe.checks  # whose texts do not expect an odd name
        path = self.inputs / (os.fsdecode(ODD_NAME) if is_odd else "input.bin")
        recipe.write(path)
        (self.inputs / "seed.bin").write_bytes(seed(recipe.seed))
        data = recipe.make()
        opened = yield from self._open(path, recipe)
        usable = FOR_HOLES if recipe.is_sparse else COMMANDS
        chosen = list(usable) if commands is None else rng.sample(usable, min(commands, len(usable)))
        names = independent.paths(seed(recipe.seed))
        for template in chosen:
            tensor = rng.choice(names.tensors) if names.tensors else "norm"
            place = rng.choice(names.pieces)
            filled = [text.format(**self._names(path, tensor, place)) for text in template]
            for kind, detail in self._examine_command(filled, template, path, data, opened, sparse=recipe.is_sparse):
                yield Finding(kind, self._shown(filled), detail, str(recipe))
        for check in recipe.checks:
            filled = [text.format(**self._names(path)) for text in check["command"]]
            result, problem, _ = self._run(filled)
            for detail in [problem] if result is None else _unmet(check, result):
                yield Finding("expectation", self._shown(filled), detail, str(recipe))
            self._clear()
        path.unlink()

    def _names(self, path: Path, tensor: str = "norm", place: str = "magic") -> dict[str, str]:
        given = {name: str(file) for name, file in self.given.items()}
        places = {"file": str(path), "out": str(self.outputs / "out"), "tensor": tensor, "path": place}
        return given | places | {"seed": str(self.inputs / "seed.bin")}

    def _shown(self, args: Sequence[str]) -> str:
        return " ".join(
            re.sub(rf"^{re.escape(str(self.folder))}/|^{re.escape(str(FIXTURES))}/", "", arg) for arg in args
        )

    def _clear(self) -> None:
        for left in self.outputs.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    # Running ------------------------------------------------------------------------------------------------

    def _run(self, args: Sequence[str]) -> tuple[CompletedProcess[str] | None, str, float]:
        """Run a command; return the result, or None and what happened instead, and the seconds it computed."""
        self.executions += 1
        result, problem = None, ""
        start = time.process_time()
        try:
            with _limits():
                result = run_cli(*args)
        except TooLong:
            problem = f"stopped after {HUNG} s of computing"
        except BaseException as error:
            problem = _describe(error)
        return result, problem, time.process_time() - start

    def _open(self, path: Path, recipe: Recipe) -> Generator[Finding, None, BaseException | None]:
        """Open the file by the API, whole and partially; yield findings and return the error, None if there is none."""
        error: BaseException | None = None
        for partial in (False, True):
            call = f"open_file(partial={partial})"
            before = _memory_now()
            start = time.process_time()
            try:
                with _limits(), open_file(path, partial=partial) as file:
                    for _, leaf in zip(range(MAX_LEAVES), file.root.leaves(), strict=False):
                        _ = leaf.path, leaf.offset, leaf.size, leaf.value, leaf.rule
                    _ = [(tensor.shape, tensor.nbytes) for tensor in file.tensors.values()]
                    _ = str(file.findings), file.describe()
                    file.find("")
            except GgcpError as expected:
                if not partial:
                    error = expected
            except TooLong:
                yield Finding("time", call, f"stopped after {HUNG} s of computing", str(recipe))
            except BaseException as foreign:
                yield Finding("exception", call, _describe(foreign), str(recipe))
                error = foreign
            for kind, detail in self._costs(time.process_time() - start, before, sparse=recipe.is_sparse):
                yield Finding(kind, call, detail, str(recipe))
        return error

    def _costs(self, seconds: float, before: int, *, sparse: bool) -> Iterator[tuple[str, str]]:
        if seconds > self.seconds * (5 if sparse else 1):
            yield "time", f"computed for {seconds:.1f} s"
        grown = (_memory_peak() - before) >> 20
        if grown > self.megabytes:
            yield "memory", f"needed {grown} MB"

    def _examine_command(
        self,
        args: list[str],
        template: Sequence[str],
        path: Path,
        data: bytes,
        opened: BaseException | None,
        *,
        sparse: bool,
    ) -> Iterator[tuple[str, str]]:
        before = _memory_now()
        status = path.stat()
        result, problem, seconds = self._run(args)
        yield from self._costs(seconds, before, sparse=sparse)
        if result is None:
            yield "time" if problem.startswith("stopped") else "exception", problem
            self._clear()
            return
        changed = path.stat()
        if (status.st_size, status.st_mtime_ns) != (changed.st_size, changed.st_mtime_ns):
            yield "input", "the input was changed"
        yield from _wrong_result(args, result)
        yield from self._litter(args, result.returncode, path)
        if problem := _contradiction(template, result.returncode, opened, result.stderr):
            yield "exit code", problem + f": {result.stderr.strip()!r}"
        if result.returncode == 0 and UNTOUCHED not in result.stderr:
            yield from (("unfaithful", wrong) for wrong in self._compare(template, args, result.stdout, data))
        self._clear()

    def _compare(self, template: Sequence[str], args: Sequence[str], stdout: str, data: bytes) -> list[str]:
        """Return what a command that accepted the file made of it, and an independent reader does not find in it."""
        try:
            with _limits():
                return list(independent.compare(template, args, stdout, data, self.given["tiny"]))
        except independent.WalkError as error:
            return [f"accepted, but an independent reader cannot read it: {error}"]
        except TooLong:
            return ["accepted, but the independent reader hangs"]
        except Exception as error:
            return [f"accepted, but an independent reader says {_describe(error)}"]

    def _litter(self, args: list[str], code: int, path: Path) -> Iterator[tuple[str, str]]:
        found = sorted(left.name for left in self.outputs.iterdir())
        wanted = [Path(arg).name for arg in args[:4] if arg.startswith(str(self.outputs))]
        if "--dry-run" in args or (code and (args[0], code) not in {("extract", 4), ("repair", 1)}):
            wanted = []
        may_be_missing = code == 4 or (args[0], code) == ("repair", 1)  # 1: nothing to repair, or not all
        if found != wanted and not (may_be_missing and not found):
            yield "litter", f"exit code {code}, and the folder of the output holds {found}, expected {wanted}"
        others = {left.name for left in self.inputs.iterdir()} - {path.name, "seed.bin"}
        if others:
            yield "litter", f"beside the input: {sorted(others)}"


# What must hold ---------------------------------------------------------------------------------------------


def _wrong_result(args: Sequence[str], result: CompletedProcess[str]) -> Iterator[tuple[str, str]]:
    code, out, err = result.returncode, result.stdout, result.stderr
    allowed = {0, 1, 2, 4} if args[0] in VERDICTS else {0, 2, 4}
    if code not in allowed:
        yield "exit code", f"exit code {code}: {err.strip()[-200:]!r}"
    if "Traceback" in err:
        yield "exception", err.strip().splitlines()[-1]
    if "out of memory" in err:
        yield "memory", "out of memory"
    messages = err.splitlines()
    if code in {2, 4} and args[0] not in VERDICTS and not (messages and len(messages) <= 2 and "ggcp-schema: " in err):
        yield "message", f"exit code {code}, and not a message of one or two lines: {err[:300]!r}"
    for name, text in (("stdout", out), ("stderr", err)):
        is_raw = args[0] == "get" and "--json" not in args and name == "stdout"  # one value as it is, for scripts
        if (found := CONTROL.search(text)) and not is_raw:
            around = text[max(0, found.start() - 30) : found.end() + 10]
            yield "control character", f"{name} has {found.group()!r}: {around!r}"
    if "--json" in args and (out or code == 0):
        try:
            json.loads(out, parse_constant=_refuse)
        except ValueError as error:
            yield "JSON", f"exit code {code}: {error}: {out[-60:]!r}"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _contradiction(template: Sequence[str], code: int, error: BaseException | None, said: str) -> str:
    """Return how the exit code contradicts what `open_file` found; empty if it does not."""
    if error is not None and not isinstance(error, GgcpError):
        return ""
    name = template[0]
    only_file = template[1] == "{file}" and "--partial" not in template and name != "repair"
    if error is None:
        return f"exit code {code} for a whole file" if name in SHOWING and "{path}" not in template and code else ""
    usage = code == 2 and len(template) > 2  # another error may come before that of the file
    if name in {"get", "hex", "extract"} and code == 0 and UNTOUCHED in said:
        return ""
    if only_file and code != error.exit_code and not usage:
        return f"exit code {code} for a file that cannot be opened ({error.message})"
    return ""


def _unmet(check: dict[str, Any], result: CompletedProcess[str]) -> Iterator[str]:
    said = result.stdout + result.stderr
    if result.returncode != check.get("code", result.returncode):
        yield f"exit code {result.returncode}, expected {check['code']}: {said.strip()[-300:]!r}"
    if not re.search(check.get("says", ""), said, re.DOTALL):
        yield f"does not say {check['says']!r}: {said.strip()[-600:]!r}"
    if "never" in check and re.search(check["never"], said, re.DOTALL):
        yield f"says {check['never']!r}: {said.strip()[-600:]!r}"


def _describe(error: BaseException) -> str:
    """Return an exception with the last places it came through in the package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ggcp_schema" in frame.filename]
    places = " < ".join(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno}" for f in reversed(frames[-3:]))
    text = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {text} at {places}"


# Limits -----------------------------------------------------------------------------------------------------


@contextmanager
def _limits() -> Iterator[None]:
    """Stop what computes too long, and refuse memory before the machine runs out of it."""

    def stop(number: int, frame: object) -> None:
        raise TooLong

    old_handler = signal.signal(signal.SIGPROF, stop)
    old_limit = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, old_limit[1]))
    signal.setitimer(signal.ITIMER_PROF, HUNG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old_handler)
        resource.setrlimit(resource.RLIMIT_AS, old_limit)


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except FileNotFoundError:  # not on Linux: memory is not measured
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _memory_now() -> int:
    """Return the memory that this process uses, and count its peak from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return 1 << 62  # the peak cannot be set back, so no growth is found
    return _status("VmRSS")


def _memory_peak() -> int:
    return _status("VmHWM")
