"""Run commands and measure them: seconds from start to end, and bytes of memory at the peak.

The process that measures must stay small, because on Linux the peak memory of a process counts from that of the process
that started it. So files are made in processes of their own, and neither numpy nor the package is imported here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from tempfile import TemporaryFile
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.benchmarks.browse import write_checkpoint

PACKAGE = "ggcp-schema"
ROOT = Path(__file__).resolve().parents[2]
PIECE = 1 << 20  # bytes of a command's output read at a time
MB = 1_000_000

# Without the variables that change how Python starts.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

Command = Sequence[str | os.PathLike[str]]


class Run(NamedTuple):
    """What a process took: seconds from start to end, and bytes of memory at its peak."""

    seconds: float
    peak: int


class Result(NamedTuple):
    """A line of the table: what was measured, the target, what was found, and whether the target was met."""

    what: str
    target: str
    found: str
    met: bool


class Bench(NamedTuple):
    """Where and how to measure.

    Attributes:
        folder: for the files, which may take 10 GB.
        rounds: how often each command runs. The least time counts, because other processes only ever add to it.
        python: an interpreter that has only what the package itself needs.
    """

    folder: Path
    rounds: int
    python: Path

    def command(self, *args: str | os.PathLike[str]) -> Command:
        """Return a command line of ggcp-schema."""
        return [self.python.with_name(PACKAGE), *args]

    def script(self, text: str, *args: str | os.PathLike[str]) -> Command:
        """Return the command line of a Python script."""
        return [self.python, "-I", "-c", text, *args]  # -I, so that nothing is imported from the current folder

    @property
    def bare(self) -> Command:
        """The command line of an interpreter that does nothing."""
        return [self.python, "-c", "pass"]

    def in_turns(
        self,
        commands: Mapping[str, Command],
        output: Path | None = None,
        *,
        exits: Collection[int] = (0,),
        times: int = 1,
    ) -> dict[str, list[Run]]:
        """Run each command once a round, or so many times. The first round fills the caches and does not count.

        `output` is removed before each run.
        """
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(self.rounds + 1):
            for name, command in commands.items():
                found = [run(command, output, exits=exits) for _ in range(times)]
                if turn:
                    runs[name] += found
        return runs

    def numbers(self, script: str, *args: str | os.PathLike[str]) -> list[float]:
        """Run a Python script that prints numbers, once a round, and return the least of each."""
        texts = [output_of(self.script(script, *args)) for _ in range(self.rounds)]
        return [min(column) for column in zip(*(map(float, text.split()) for text in texts))]


def run(command: Command, output: Path | None = None, *, exits: Collection[int] = (0,), read: int | None = None) -> Run:
    """Run a command. `output` is removed first; `exits` are the exit codes expected.

    With `read`, the pipe that receives the command's output is closed after that many bytes.
    """
    if output is not None and output.is_dir():
        rmtree(output)
    elif output is not None:
        output.unlink(missing_ok=True)
    os.sync()  # so that what was written before does not count
    with TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if read is None else subprocess.PIPE,
            stderr=errors,
            env=ENVIRONMENT,
        )
        if process.stdout is not None and read is not None:
            left = read
            while left > 0 and (piece := os.read(process.stdout.fileno(), PIECE)):
                left -= len(piece)
            process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in exits:
            errors.seek(0)
            text = errors.read().decode(errors="replace")
            raise SystemExit(f"exit {process.returncode}: {' '.join(map(str, command))}\n{text}")
    return Run(seconds, usage.ru_maxrss * 1024)


def output_of(command: Command) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT).stdout


def least(runs: Sequence[Run]) -> float:
    """Return the least number of seconds."""
    return min(found.seconds for found in runs)


def at_most(what: str, target: float, found: float, unit: str, details: str = "") -> Result:
    """Compare a number with the most that it may be."""
    return Result(
        what, f"<= {target:g} {unit}", f"{details}{found:.{1 if unit == 'MB' else 3}f} {unit}", found <= target
    )


def at_least(what: str, target: float, found: float, unit: str) -> Result:
    """Compare a number with the least that it must be."""
    return Result(what, f">= {target:,g} {unit}", f"{found:,.0f} {unit}", found >= target)


def peak(what: str, target: float, runs: Sequence[Run]) -> Result:
    """Compare the greatest memory of some runs, in MB, with the most that it may be."""
    return at_most(f"{what}: memory", target, max(found.peak for found in runs) / MB, "MB")


def ratio(what: str, target: float, runs: Sequence[Run], others: Sequence[Run]) -> Result:
    """Compare how many times as long some runs take as others."""
    time, other = least(runs), least(others)
    return at_most(what, target, time / other, "x", f"{time:.3f} s / {other:.3f} s = ")


def per_extra_byte(
    what: str, target: float, ours: tuple[list[Run], list[Run]], theirs: tuple[list[Run], list[Run]]
) -> Result:
    """Compare how many times as long each byte takes; each pair is of a small file and a large one.

    The difference of the two leaves out the time that a command takes to start.
    """
    time, other = (least(large) - least(small) for small, large in (ours, theirs))
    return at_most(what, target, time / other, "x", f"{time:.3f} s / {other:.3f} s = ")


def make(kind: str, path: Path, size: int = 0) -> Path:
    """Make a file of a kind that `tests.benchmarks.make` knows, in a process of its own, and return its path."""
    run([sys.executable, "-m", "tests.benchmarks.make", kind, path, str(size)])
    return path


def make_sparse(path: Path, gigabytes: int) -> Path:
    """Make a checkpoint of about that many gigabytes, whose values are zero and take no room on the disk."""
    n_layer = max(1, gigabytes - 1)  # each takes 0.8 GB with its moments
    write_checkpoint(path, n_vocab=16_000, n_embd=2048, n_layer=n_layer, n_ff=8192)
    return path


# An environment with what the package needs, and nothing else ----------------------------------------------


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with a compiled copy of the package, and links to what it requires.

    Return its interpreter. Start-up times depend on what is installed: gguf imports sentencepiece where it can, and the
    hooks of other packages run in every interpreter.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    copytree(ROOT / "ggcp_schema", site / "ggcp_schema", ignore=ignore_patterns("__pycache__"))
    run([sys.executable, "-m", "compileall", "-q", site / "ggcp_schema"])
    for required in {dist.metadata["Name"]: dist for dist in requirements(PACKAGE)}.values():
        for name in {file.parts[0] for file in required.files or ()} - {"..", "__pycache__"}:
            target = Path(str(required.locate_file(name)))
            if target.suffix != ".pth" and not (site / name).exists():
                (site / name).symlink_to(target)
    script = folder / "bin" / PACKAGE
    script.write_text(
        f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom ggcp_schema.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return folder / "bin" / "python"


def requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """Yield an installed distribution and all that it requires; some more than once."""
    found = distribution(name)
    yield found
    for requirement in map(Requirement, found.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield from requirements(requirement.name, frozenset(requirement.extras))
