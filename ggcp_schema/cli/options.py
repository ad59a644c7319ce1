"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

FILES_HELP = "Files as `info` reads them: ggcp, GGUF, ggjt, ggmf, ggml, ggla, ggcl; or folders of such files."
FILE_HELP = "A file as `info` reads them: ggcp, GGUF, ggjt, ggmf, ggml, ggla, ggcl."


def one_of(*words: str) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def option_of(parameter: str) -> str:
    """Return the option that stands for a parameter of the Python API: `--rms-eps` for `rms_eps`."""
    return "--" + {"n_batch": "batch"}.get(parameter, parameter).replace("_", "-")


File = Annotated[Path, typer.Argument(metavar="FILE", help=FILE_HELP)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print everything, with the evidence.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, which `schema --json-of COMMAND` describes.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors; the exit code gives the result.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite the output if it exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be written; write nothing.")]
NoSync = Annotated[
    bool, typer.Option("--no-sync", help="Do not flush the output to disk. Faster, but a power failure may lose it.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Treat findings as errors.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare every byte written with the checkpoint.")]
RmsEps = Annotated[
    float | None,
    typer.Option(
        "--rms-eps",
        metavar="NUMBER",
        help="RMS norm epsilon, which ggcp files do not store. Default: that of the program which wrote the file, as "
        "far as `info -v` can tell.",
    ),
]
Width = Annotated[
    int | None,
    typer.Option("--width", metavar="COLUMNS", help="Fit into this many columns. Default: the terminal's width."),
]
