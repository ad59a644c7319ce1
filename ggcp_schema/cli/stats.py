"""`stats`: what the tensors hold, in numbers and at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggcp_schema.cli.complete import complete_tensor

if TYPE_CHECKING:
    from ggcp_schema.inspect.stats import Stats

NUMBERS = ("min", "max", "mean", "std", "RMS", "zeros", "NaN", "Inf")
HEAD = ("tensor", *NUMBERS, "histogram", "flags")
BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", ".:-=+*#@"


def stats(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ggcp checkpoint, or a GGUF file made from one.")],
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]",
            help="Which tensors: a path, a GGUF name, or either with * and ?; all by default.",
            autocompletion=complete_tensor,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON: an array of objects.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure the tensors: min, max, mean, std, RMS, zeros, NaN, Inf, a histogram from min to max; flag odd ones.

    NaN and Inf are counted and left out of the other numbers. A histogram is of 16,384 elements at most, evenly
    spread. Flags: NaN, Inf, huge (exploded); all zero, constant (dead); v < 0, m without v, v too small for m, loss < 0
    (optimizer state that no training gives).

    JSON keys: those of `tensors`; count, nan, inf, zeros, min, max, mean, std, rms, histogram (counts), sampled; flags.
    """
    from ggcp_schema.cli.output import echo, escape, paint, print_json, progress, raise_damage
    from ggcp_schema.cli.table import print_table
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.selection import select
    from ggcp_schema.inspect.stats import Stats, Training, flags, measure

    with open_any(file, partial=True) as opened:
        tensors = select(opened, pattern)
        with progress(sum(item.tensor.nbytes for item in tensors), "Measuring", quiet=quiet) as advance:
            measured = list(zip(tensors, measure([item.tensor for item in tensors], advance), strict=True))
        flagged = flags(measured, Training.of(opened))
        if as_json:
            unread = dict.fromkeys(Stats.__dataclass_fields__)
            print_json(
                [
                    item.as_dict() | (found.as_dict() if found else unread) | {"flags": words}
                    for (item, found), words in zip(measured, flagged, strict=True)
                ]
            )
        else:
            rows = [
                (item.name, *cells(found), ", ".join(words))
                for (item, found), words in zip(measured, flagged, strict=True)
            ]
            print_table(HEAD, rows, right=NUMBERS)
            echo()
            for (item, _), words in zip(measured, flagged, strict=True):
                if words:
                    echo(f"{paint('flag', 'red')} {escape(item.name)}: {', '.join(words)}")
            if not any(flagged):
                echo("no flags")
        raise_damage(getattr(opened, "damage", None))


def cells(stats: Stats | None) -> list[str]:
    """The columns of a row but the first and the last."""
    if stats is None:
        return [""] * (len(HEAD) - 2)
    numbers = (stats.min, stats.max, stats.mean, stats.std, stats.rms)
    counts = (stats.zeros, stats.nan, stats.inf)
    return [
        *("-" if number is None else f"{number:.4g}" for number in numbers),
        *(f"{count:,}" for count in counts),
        bars(stats.histogram),
    ]


def bars(counts: tuple[int, ...]) -> str:
    """The counts as bars of eight heights; nothing at all is a space, anything a bar."""
    import sys

    try:
        BLOCKS.encode(sys.stdout.encoding)
        heights = BLOCKS
    except UnicodeEncodeError:
        heights = PLAIN
    peak = max(counts, default=0)
    return "".join(heights[-(-len(heights) * count // peak) - 1] if count else " " for count in counts)
