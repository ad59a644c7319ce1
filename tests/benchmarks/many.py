"""Many tensors: how fast they are parsed, and what commands take on 20,000 and 200,000 of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.benchmarks.measure import Bench, Command, Result, at_least, at_most, least, make, peak

PARSE = """
import sys, time
from ggcp_schema import CHECKPOINT, open_checkpoint
best = [float("inf")] * 2
for _ in range(5):
    with open(sys.argv[1], "rb", buffering=4096) as file:
        start = time.perf_counter()
        CHECKPOINT.parse_stream(file)
        best[0] = min(best[0], time.perf_counter() - start)
    start = time.perf_counter()
    with open_checkpoint(sys.argv[1]) as ckpt:
        best[1] = min(best[1], time.perf_counter() - start)
print(*best, len(ckpt.tensors))
"""
EXITS = 0, 1, 2  # 1 for values that no training leaves, 2 for a path that does not exist


def parsing(bench: Bench) -> Iterator[Result]:
    """Count the tensor records parsed in a second."""
    file = make("tensors", bench.folder / "many.ggcp", 54_000)
    parse, opening, count = bench.numbers(PARSE, file)
    yield at_least("CHECKPOINT.parse_stream: tensor records", 75_000, count / parse, "a second")
    yield at_least("open_checkpoint: tensor records", 75_000, count / opening, "a second")
    file.unlink()


def tensors(bench: Bench) -> Iterator[Result]:
    """Run commands on many tensors, in checkpoints and in a GGUF file."""
    for count, seconds, megabytes in ((20_000, 0.7, 100), (200_000, 6, 500)):
        file = make("tensors", bench.folder / f"{count}.ggcp", count)
        last = f"layers[{count // 9}]"
        commands = {
            "info": bench.command("info", file),
            "get": bench.command("get", file, f"{last}.wq.ne[0]"),
            "dump PATH": bench.command("dump", file, f"{last}.wq"),
            "validate": bench.command("validate", file),
            "get of a misspelt path": bench.command("get", file, f"{last}.wx"),
        }
        few = bench if count < 100_000 else bench._replace(rounds=max(1, bench.rounds // 2))
        yield from limited(few, commands, f"{count:,} tensors", seconds, megabytes)
        if count >= 100_000:
            output = bench.folder / "output"
            whole = {  # commands that read all of a file
                "diff": bench.command("diff", file, file),
                "validate --data": bench.command("validate", "--data", file),
                "stats --health": bench.command("stats", "--health", file),
                "convert": bench.command("convert", file, output, "--force"),
                "repair": bench.command("repair", file, output, "--force"),
            }
            yield from limited(bench._replace(rounds=1), whole, f"{count:,} tensors", seconds, megabytes)
            output.unlink()
        file.unlink()
    file = make("tensors in GGUF", bench.folder / "many.gguf", count)
    commands = {name: bench.command(name, file) for name in ("info", "validate")}
    yield from limited(few, commands, f"{count:,} tensors in GGUF", seconds, megabytes)
    file.unlink()


def limited(
    bench: Bench, commands: Mapping[str, Command], what: str, seconds: float, megabytes: float
) -> Iterator[Result]:
    """Run commands, and compare what each takes with the limits."""
    for name, runs in bench.in_turns(commands, exits=EXITS).items():
        yield at_most(f"{name}, {what}", seconds, least(runs), "s")
        yield peak(f"{name}, {what}", megabytes, runs)
