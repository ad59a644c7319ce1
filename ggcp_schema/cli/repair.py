"""`repair`: a copy of a damaged checkpoint in which everything is right again that the file holds twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet
from ggcp_schema.cli.output import echo, print_json, progress
from ggcp_schema.cli.report import check_place, echo_made, name_text
from ggcp_schema.errors import shell_word
from ggcp_schema.files.contents import Patch
from ggcp_schema.files.source import Source
from ggcp_schema.inspect.text import count_text, escape, size_text
from ggcp_schema.llama.state import Unsound


class JSON(NamedTuple):
    """What was repaired, and what is left; null if that is not known before it is written."""

    input: str
    output: str
    changes: Sequence[Patch]
    left: Sequence[Unsound] | None
    written: bool


def repair(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help="The ggcp file to copy.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")],
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a copy of a damaged ggcp checkpoint with everything taken back that the file holds twice.

    Weights come from x and x from the weights, bit for bit (layout v0, and L-BFGS); m and v from mh and vh, but for
    their last bits (layout v0, Adam); headers, names and paddings of records from the hyper-parameters. Only what is
    proven to be wrong is changed. Exit code 1: something unsound is left, or there is nothing to repair, so that no
    file is written.

    Example: ggcp-schema repair damaged.ggcp repaired.ggcp
    """
    from ggcp_schema.mapping.repair import patches, remaining, write_repaired

    with closing(Source(file)) as source:
        replaced = check_place(output, file, force=force or dry_run)
        with progress(source.size, "Reading", quiet=as_json or quiet) as advance:
            wanted = patches(source, advance)
        writes = bool(wanted) and not dry_run
        left = write_repaired(source, output, wanted, force=force, sync=not no_sync) if writes else []
        if not wanted:
            left = remaining(source)
    if as_json:
        print_json(JSON(source.path, os.fsdecode(output), wanted, None if wanted and dry_run else left, writes))
    elif not quiet:
        for patch in wanted:
            where = f"bytes {patch.offset:,} to {patch.offset + patch.size - 1:,}"
            echo(f"{escape(patch.path)}: {where}: {escape(patch.reason)}")
        for finding in left:
            echo(f"left: {escape(finding.path)}: {escape(finding.message)}")
        if not wanted:
            echo(f"nothing to repair in {name_text(file)}; no file was written")
        else:
            what = f"{size_text(source.size)}, {count_text(len(wanted), 'change')}"
            echo_made(output, replaced, what, dry_run=dry_run)
        if left and writes:
            echo(f"what is left: ggcp-schema info {shell_word(os.fsdecode(output))}")
    if left or not wanted:
        raise typer.Exit(1)
