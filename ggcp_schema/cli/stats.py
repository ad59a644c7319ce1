"""`stats`: what the tensors hold, in numbers and at a glance."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.options import File, Json, Width
from ggcp_schema.cli.output import echo, paint, print_json, progress, say
from ggcp_schema.cli.table import print_table
from ggcp_schema.cli.tensors import Moments, Order, Pattern, check_order, none_text
from ggcp_schema.errors import UsageError
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.health import Examination, examine
from ggcp_schema.inspect.soundness import bytes_read
from ggcp_schema.inspect.stats import Measured, flags, measure
from ggcp_schema.inspect.tensors import moments_of, select
from ggcp_schema.inspect.text import count_text, escape, percent, short_number
from ggcp_schema.inspect.words import FLAGS, UNTRAINED, Flag

NUMBERS = ("min", "max", "mean", "std", "RMS", "zeros", "NaN", "Inf")
HEAD = ("tensor", *NUMBERS, "histogram", "flags")
DROPPED = ("RMS", "std", "mean", "Inf", "histogram", "zeros", "NaN")  # on a narrow terminal, in this order
MAX_TENSORS = 10_000  # that are measured
BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", ".:-=+*#@"
HEALTH = ("parameter", "RMS", "m", "v", "m/√v", "v = 0", "NaN", "Inf")


JSON = list[Measured] | Examination


def stats(
    file: File,
    pattern: Pattern = None,
    by_parameter: Moments = False,
    order: Order = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar.")] = False,
    health: Annotated[
        bool, typer.Option("--health", help="Measure the parameters with their moments; find untrained tokens.")
    ] = False,
    width: Width = None,
) -> None:
    """Measure the tensors: range, mean, deviation, NaN, a histogram, warning flags.

    NaN and Inf are counted and left out of the other numbers. A histogram is of at most 16,384 elements, evenly spread.
    The flags are NaN, Inf, huge (exploded); all zero, constant (dead); v < 0, m without v, v too small for m, loss < 0
    (impossible optimizer state). Quantized tensors are measured by the values that they stand for. At most
    10,000 tensors are measured. On a narrow terminal some columns are left out.

    With --health, each parameter has a line: RMS, RMS of m, mean of v, RMS of m/√v, share of zeros in v, NaN and Inf of
    the three.

    Of a training state it is said too which values no training can have left, as after a lost page of a disk: unsound.

    Exit codes: 0 done; 2 the file cannot be read or no tensor matches; 4 it is damaged.

    Example: ggcp-schema stats alice.ggcp 'optimizer.state.v[layers[*].wq]'
    """
    if health and (pattern or by_parameter or order):
        raise UsageError("--health measures all parameters with their moments", "Leave PATTERN and the options out.")
    if health:
        show_health(file, as_json=as_json, width=width)
        return
    with open_file(file, partial=True) as opened:
        found = select(opened, pattern, order=order)
        if by_parameter:
            found = moments_of(opened, found, order)
        check_order(order, lambda: found)
        left_out = len(found) - MAX_TENSORS
        del found[MAX_TENSORS:]
        tensors = [item.tensor for item in found]
        total = sum(tensor.nbytes for tensor in tensors) if pattern else bytes_read(opened, tensors)
        with progress(total, "Measuring", quiet=quiet) as advance:
            results, unsound = measure(tensors, advance, None if pattern else opened)
        opened.source.check_unchanged()
        flagged = flags(list(zip(found, results, strict=True)), opened)
        rows = [
            Measured(item, result, codes, [bad for bad in unsound if bad.path == (item.path or item.name)])
            for item, result, codes in zip(found, results, flagged, strict=True)
        ]
        if as_json:
            print_json(rows)
        else:
            if rows:
                print_table(HEAD, lambda: map(_cells, rows), right=NUMBERS, optional=DROPPED, width=width)
                echo()
            for row in rows:
                if row.flags:
                    echo(f"{paint('flag', 'red')} {escape(row.item.name)}: {flags_text(row.flags)}")
            for bad in unsound:
                echo(f"{paint('unsound', 'red')} {escape(bad.path)}: {escape(bad.message)}")
            if not any(flagged):
                unread = results.count(None)
                said = "no flags" if results else none_text(opened, by_parameter=by_parameter)
                echo(said + (f"; {count_text(unread, 'tensor')} not measured" if unread else ""))
        if left_out > 0:
            say(f"{left_out:,} more tensors were not measured: name them by a PATTERN")
        raise_damage(opened.damage)


def flags_text(flags: Sequence[Flag]) -> str:
    """Return the flags in words."""
    return ", ".join(FLAGS[flag] for flag in flags)


def show_health(file: Path, *, as_json: bool, width: int | None) -> None:
    """Print the state of each parameter and its moments, and the tokens that were not trained."""
    with open_file(file, partial=True) as opened:
        found = examine(opened)
        opened.source.check_unchanged()
        if as_json:
            print_json(found)
        else:
            table = []
            for row in found.rows:
                cells = map(short_number, (row.rms, row.m, row.v, row.ratio))
                table.append((row.tensor.path, *cells, percent(row.unused), f"{row.nan:,}", f"{row.inf:,}"))
            if table:
                print_table(HEALTH, table, right=HEALTH[1:], optional=(), width=width)
                echo()
            echo(found.text)
            echo(escape(found.moments.evidence))
            if found.dead:
                echo(f"tokens {UNTRAINED}{found.moments.doubt}: {', '.join(ranges(found.dead))}")
        raise_damage(opened.damage)


def ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Yield ascending numbers in short: `0`, `2-12`."""
    start = 0
    for index, number in enumerate(numbers, 1):
        if index == len(numbers) or numbers[index] != number + 1:
            yield f"{numbers[start]}-{number}" if index - start > 1 else str(number)
            start = index


def _cells(row: Measured) -> list[str]:
    stats = row.stats
    if stats is None:
        return [row.item.name, *[""] * (len(HEAD) - 2), f"{row.item.tensor.type}, not measured"]
    numbers = (stats.min, stats.max, stats.mean, stats.std, stats.rms)
    counts = (stats.zeros, stats.nan, stats.inf)
    return [
        row.item.name,
        *map(short_number, numbers),
        *(f"{count:,}" for count in counts),
        bars(stats.histogram),
        flags_text(row.flags),
    ]


def bars(counts: tuple[int, ...]) -> str:
    """Return the counts as bars of eight heights. A count of zero is a space, any other at least the lowest bar."""
    try:
        BLOCKS.encode(sys.stdout.encoding)
        heights = BLOCKS
    except UnicodeEncodeError:
        heights = PLAIN
    peak = max(counts, default=0)
    return "".join(heights[-(-len(heights) * count // peak) - 1] if count else " " for count in counts)
