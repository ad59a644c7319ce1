"""Measures against the targets and prints a table: `python -m tests.benchmarks [--folder F] [--rounds N]`.

What is compared is measured in turns in one run, so that a machine's mood falls on both sides. This process stays
small, and makes its files in others: a child's peak memory counts from its parent's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PYTHON = sys.executable
GGCP = (str(Path(PYTHON).with_name("ggcp-schema")),)
BARE = (PYTHON, "-c", "pass")
FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "v1-adam.ggcp"
MEGA = 1_000_000

PARSE = """
import sys, time
from ggcp_schema import open_checkpoint
best = float("inf")
for _ in range(5):
    start = time.perf_counter()
    with open_checkpoint(sys.argv[1]) as ckpt:
        best = min(best, time.perf_counter() - start)
print(len(ckpt.tensors) / best)
"""
MANY_TENSORS = """
import sys
from tests.builder import build_checkpoint
open(sys.argv[1], "wb").write(build_checkpoint(n_vocab=1, n_embd=1, n_mult=1, n_layer=6000))
"""
BYTES_READ = """
import atexit, sys
atexit.register(lambda: print(open("/proc/self/io").readline().split()[1]))
from ggcp_schema.cli import main
main()
"""


class Run(NamedTuple):
    """What a process took: seconds from start to end, and bytes of memory at its peak."""

    seconds: float
    peak: int


def run(*command: str | os.PathLike[str], remove: Path | None = None) -> Run:
    """Runs a command that must succeed, on a quiet disk; `remove` is its output of the last time."""
    if remove is not None:
        remove.unlink(missing_ok=True)
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(list(map(os.fspath, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {command}")
    return Run(seconds, usage.ru_maxrss * 1024)


def in_turns(
    commands: Sequence[Sequence[str | os.PathLike[str]]], rounds: int, out: Path | None = None
) -> list[list[Run]]:
    """Runs each command once a round; the first round warms the caches and does not count."""
    runs: list[list[Run]] = [[] for _ in commands]
    for turn in range(rounds + 1):
        for index, command in enumerate(commands):
            found = run(*command, remove=out)
            if turn:
                runs[index].append(found)
    return runs


def seconds(runs: Sequence[Run]) -> float:
    """The least: what the machine does besides only ever adds."""
    return min(found.seconds for found in runs)


def row(what: str, target: str, measured: str, *, good: bool) -> None:
    print(f"{what:<46} {target:>12} {measured:>40}  {'ok' if good else 'MISSED'}", flush=True)


def ratio(what: str, target: float, found: float, details: str = "") -> None:
    row(what, f"<= {target:g} x", f"{details}{found:.2f} x", good=found <= target)


def memory(what: str, runs: Sequence[Run], target: int = 64) -> None:
    peak = max(found.peak for found in runs) / (1 << 20)
    row(what, f"<= {target} MB", f"{peak:.1f} MB", good=peak <= target)


def make(path: Path, megabytes: int, *options: str) -> Path:
    run(PYTHON, "-m", "tests.benchmarks.make", path, str(megabytes), *options)
    return path


def start_up(folder: Path, rounds: int) -> None:
    out = folder / "small.gguf"
    bare, usage, small = in_turns([BARE, (*GGCP, "--help"), (*GGCP, "convert", FIXTURE, out)], rounds, out)
    ratio("--help, against a bare interpreter", 13, seconds(usage) / seconds(bare))
    ratio("convert of a small file, the same", 20, seconds(small) / seconds(bare))


def parsing(folder: Path) -> None:
    path = folder / "many.ggcp"
    run(PYTHON, "-c", MANY_TENSORS, path)
    rate = float(subprocess.run([PYTHON, "-c", PARSE, path], capture_output=True, check=True).stdout)
    row("tensor records a second", ">= 50,000", f"{rate:,.0f}", good=rate >= 50_000)
    path.unlink()


def copying(folder: Path, rounds: int) -> None:
    files, out = [make(folder / "100.ggcp", 100), make(folder / "1000.ggcp", 1000)], folder / "out"
    for options, what in (((), "convert"), (("--verify",), "convert --verify")):
        commands = [c for file in files for c in (("cp", file, out), (*GGCP, "convert", file, out, "-q", *options))]
        small_cp, small, large_cp, large = in_turns(commands, rounds, out)
        if not options:
            extra_cp, extra = seconds(large_cp) - seconds(small_cp), seconds(large) - seconds(small)
            ratio("convert, per extra byte, against cp", 1.10, extra / extra_cp, f"{extra:.3f} s / {extra_cp:.3f} s = ")
        memory(f"{what} of 100 MB", small)
        memory(f"{what} of 1 GB", large)
    small_cat, small, large_cat, large = in_turns(
        [c for file in files for c in (("cat", file), (*GGCP, "stats", file, "-q"))], rounds
    )
    extra_cat, extra = seconds(large_cat) - seconds(small_cat), seconds(large) - seconds(small)
    ratio("stats, per extra byte, against cat", 2, extra / extra_cat, f"{extra:.3f} s / {extra_cat:.3f} s = ")
    memory("stats of 1 GB", large)
    for file in (*files, out):
        file.unlink(missing_ok=True)


def dropping(folder: Path) -> None:
    """Bytes read in converting v0, of which 5 of 8 parts are dropped; reading the modules counts as well."""
    file, out = make(folder / "v0.ggcp", 200, "v0"), folder / "out"
    command = [PYTHON, "-c", BYTES_READ, "convert", file, out, "-q"]
    done = int(subprocess.run(command, capture_output=True, check=True).stdout)
    kept, size = out.stat().st_size, file.stat().st_size
    measured = f"{done / MEGA:.0f} MB of {size / MEGA:.0f} MB"
    row("convert of v0 reads only what it keeps", f"{kept / MEGA:.0f} MB", measured, good=done < kept + 20 * MEGA)
    file.unlink()
    out.unlink()


def looking(folder: Path, rounds: int) -> None:
    file = make(folder / "sparse.ggcp", 2000, "--sparse")
    views = [("info",), ("dump", "layers[0].wq"), ("get", "optimizer.nx"), ("hex", "layers[0].wq.ne")]
    commands = [(*GGCP, name, file, *rest) for name, *rest in views]
    bare, *runs = in_turns([BARE, *commands], rounds)
    for (name, *_), found in zip(views, runs, strict=True):
        took = seconds(found)
        ratio(f"{name} of 2 GB, against a bare interpreter", 20, took / seconds(bare), f"{took:.3f} s = ")
        memory(f"{name} of 2 GB", found)
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where 4 GB may be written (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each command runs (default: 7)")
    parser.add_argument("--only", choices=("start-up", "parsing", "copying", "dropping", "looking"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggcp-benchmark-", dir=options.folder))
    parts = {
        "start-up": lambda: start_up(folder, 3 * options.rounds),
        "parsing": lambda: parsing(folder),
        "copying": lambda: copying(folder, options.rounds),
        "dropping": lambda: dropping(folder),
        "looking": lambda: looking(folder, options.rounds),
    }
    try:
        print(f"{'':<46} {'target':>12} {'measured':>40}")
        for name, part in parts.items():
            if options.only in (None, name):
                part()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
