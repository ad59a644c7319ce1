"""Whole files: convert against cp, stats against cat, each per extra byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import MB, Bench, Command, Result, at_most, make, output_of, peak, per_extra_byte

ORDER = ("--order", "A")  # the vectors are written in order C then, and divided, because the files' gradients are sums
RECORDS = ("ggcp.parameter_order", "ggcp.gradient_scale")  # the keys that say so
READ = 'cat "$1" | tail -c 1'  # through a pipe, because cat copies nothing when its output is /dev/null
COPY_AND_SYNC = 'cp "$1" "$2" && sync "$2"'
BYTES_READ = """
import atexit
atexit.register(lambda: print(open("/proc/self/io").readline().split()[1]))
from ggcp_schema.cli import run
run()
"""


def converting(bench: Bench) -> Iterator[Result]:
    """Compare convert with cp, on 100 MB and 1 GB: with what it copies only, and with what it reorders and divides."""
    sizes = {"100 MB": make("v1", bench.folder / "100.ggcp", 100), "1 GB": make("v1", bench.folder / "1000.ggcp", 1000)}
    output = bench.folder / "output"
    check_order(bench, sizes["100 MB"], output)
    commands = {
        f"{what}, {size}": command for size, file in sizes.items() for what, command in ways(bench, file, output)
    }
    runs = bench.in_turns(commands, output, times=2)  # the run after one of cp is often delayed
    pairs = {what: (runs[f"{what}, 100 MB"], runs[f"{what}, 1 GB"]) for what, _ in ways(bench, output, output)}
    for sync, copy in ((" --no-sync", "cp"), ("", "cp and sync")):
        yield per_extra_byte(
            f"convert{sync}, per extra byte, against {copy}", 1.10, pairs[f"convert{sync}"], pairs[copy]
        )
        what = f"reorder and divide{sync}"
        yield per_extra_byte(f"{what}, per extra byte, against {copy}", 1.6, pairs[what], pairs[copy])
    for name in commands:
        if not name.startswith("cp"):
            yield peak(name, 64, runs[name])
    for file in (*sizes.values(), output):
        file.unlink()


def ways(bench: Bench, file: Path, output: Path) -> Iterator[tuple[str, Command]]:
    """Yield the ways to copy a file with their command lines."""
    yield "cp", ["cp", file, output]
    yield "convert --no-sync", bench.command("convert", file, output, "-q", "--no-sync")
    yield "reorder and divide --no-sync", bench.command("convert", file, output, "-q", "--no-sync", *ORDER)
    yield "cp and sync", ["sh", "-c", COPY_AND_SYNC, "sh", file, output]
    yield "convert", bench.command("convert", file, output, "-q")
    yield "reorder and divide", bench.command("convert", file, output, "-q", *ORDER)


def check_order(bench: Bench, file: Path, output: Path) -> None:
    """Check that the vectors are copied as they are by default, and reordered and divided with `ORDER`."""
    for options, changed in (((), False), (ORDER, True)):
        command = bench.command("convert", file, output, "--dry-run", *options)
        text = output_of(command)
        if any((key in text) is not changed for key in RECORDS):
            raise SystemExit(f"expected the keys {RECORDS} {'in' if changed else 'not in'} the output:\n{text}")


def stats(bench: Bench) -> Iterator[Result]:
    """Compare stats with cat through a pipe."""
    files = [make("v1", bench.folder / f"{size}.ggcp", size) for size in (100, 1000)]
    commands = {f"stats {file}": bench.command("stats", file) for file in files}
    commands |= {f"cat {file}": ("sh", "-c", READ, "sh", file) for file in files}
    runs = bench.in_turns(commands)
    ours, theirs = ((runs[f"{name} {files[0]}"], runs[f"{name} {files[1]}"]) for name in ("stats", "cat"))
    yield per_extra_byte("stats, per extra byte, against cat through a pipe", 3, ours, theirs)
    yield peak("stats, 1 GB", 100, ours[1])
    for file in files:
        file.unlink()


def dropping(bench: Bench) -> Iterator[Result]:
    """Count the bytes read in converting v0, of which 5 of 8 parts are dropped.

    What is read to decide the order counts as well, and so do the modules.
    """
    file, output = make("v0", bench.folder / "v0.ggcp", 200), bench.folder / "output"
    read = int(output_of(bench.script(BYTES_READ, "convert", file, output, "-q"))) / MB
    size = file.stat().st_size / MB
    yield at_most(f"convert of v0, {size:.0f} MB: bytes read", round(0.6 * size), read, "MB")
    file.unlink()
    output.unlink()
