"""`convert`: a ggcp file becomes a GGUF checkpoint that training resumes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.gguf.entries import Entry


def convert(
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="The ggcp checkpoint.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The GGUF file to write.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUTPUT if it exists.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte written with the checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be written; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Describe what is written as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")] = False,
    rms_eps: Annotated[
        float, typer.Option("--rms-eps", help="Epsilon of the RMS norm, which no checkpoint states.")
    ] = 1e-5,
) -> None:
    """Convert a checkpoint to GGUF, to resume its training.

    The trainers of late August 2023 and after go on from the result. To run the model, use `export`.
    """
    from ggcp_schema.atomic import check_output
    from ggcp_schema.cli.output import progress
    from ggcp_schema.gguf.entries import tensor_entries
    from ggcp_schema.gguf.resume import resume_entries
    from ggcp_schema.reader import open_checkpoint

    with open_checkpoint(input) as ckpt:
        entries = resume_entries(ckpt, rms_eps)
        check_output(output, (input,), overwrite=force or dry_run)
        written = None
        if not dry_run:
            from ggcp_schema.gguf.writer import write_gguf

            total = sum(entry.nbytes for entry in tensor_entries(entries)) * (2 if verify else 1)
            with progress(total, "Converting", quiet=quiet) as advance:
                written = write_gguf(output, entries, overwrite=force, verify=verify, progress=advance)
        report(ckpt, entries, output, written, verified=verify, as_json=as_json, quiet=quiet)


def report(
    ckpt: Checkpoint,
    entries: Sequence[Entry],
    output: Path,
    written: int | None,
    *,
    verified: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Says what the checkpoint was and what was written, or would be if `written` is None."""
    from ggcp_schema.cli.output import echo, escape, print_json, size
    from ggcp_schema.cli.report import echo_findings, echo_output
    from ggcp_schema.inspect.summary import describe_optimizer

    if as_json:
        print_json(as_dict(ckpt, entries, output, written))
    elif not quiet:
        echo(f"{escape(ckpt.path)}: ggcp checkpoint, optimizer block {ckpt.optimizer.layout}, {size(ckpt.size)}")
        echo(f"optimizer: {describe_optimizer(ckpt)}")
        echo_findings(ckpt.findings)
        echo_output(entries, output, written, verified=verified)


def as_dict(ckpt: Checkpoint, entries: Sequence[Entry], output: Path, written: int | None) -> dict[str, Any]:
    """The report as data: `size` is null, and `written` false, where nothing was written."""
    from ggcp_schema.cli.report import findings_as_dicts, output_as_dict
    from ggcp_schema.inspect.summary import optimizer_summary

    return {
        "input": ckpt.path,
        "output": str(output),
        "layout": ckpt.optimizer.layout,
        "optimizer": optimizer_summary(ckpt),
        "findings": findings_as_dicts(ckpt.findings),
        **output_as_dict(entries, written),
    }
