"""`convert`: checkpoints become GGUF checkpoints from which training can be resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ggcp_schema.cli.errors import Unread, echo_error, unread
from ggcp_schema.cli.files import files_in
from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet, RmsEps, Strict, Verbose, Verify, one_of
from ggcp_schema.cli.output import echo, json_text, say, write
from ggcp_schema.cli.report import PlanJson, carry_out, echo_outcome, name_text, plan_as_dict
from ggcp_schema.errors import FileError, GgcpError, UsageError
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.formats import open_file
from ggcp_schema.formats.existing import ANOTHER
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.commands import OUTPUTS, output_name
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, ORDERS
from ggcp_schema.mapping.convert import ResumeOptions, plan_resume

SUFFIX = OUTPUTS["resume"]

One = Callable[[Path, Path, str], bool]

JSON = PlanJson | Unread


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT [OUTPUT]",
            help=f"The checkpoint, and the GGUF file to write (default: its name with {SUFFIX}, in the current "
            "folder). With --into: checkpoints, or folders. Files in a folder that hold no training, or have the name "
            "of an output, are left out.",
        ),
    ],
    into: Annotated[
        Path | None,
        typer.Option(
            "--into", metavar="FOLDER", help=f"Write each output to FOLDER, named after its input, with {SUFFIX}."
        ),
    ] = None,
    rms_eps: RmsEps = None,
    order: Annotated[
        str | None,
        typer.Option(
            "--order",
            metavar="|".join(ORDERS),
            autocompletion=one_of(*ORDERS),
            help="Order of the parameters in the optimizer's vectors, if you know it. Default: detected. "
            f"{' '.join(f'{name}: {order}.' for name, order in ORDERS.items())} "
            f"ggcp files have {', '.join(CHECKPOINT_ORDERS[:-1])} or {CHECKPOINT_ORDERS[-1]}.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", help="Samples per batch, to scale summed gradients. Default: estimated."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh-optimizer", help="Write zeros for the optimizer's state, and iteration counts of 0."),
    ] = False,
    verbatim: Annotated[
        bool, typer.Option("--verbatim", help="Reproduce the output of the 2023 converter, bugs included.")
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Of a damaged file whose model is whole, write the model with a fresh optimizer."
        ),
    ] = False,
    strict: Strict = False,
    verify: Verify = False,
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    verbose: Verbose = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to GGUF so that training can be resumed.

    Trainers from late August 2023 onwards accept the result. Values are adjusted so that training continues as
    it would have in the original trainer; what is printed says what was changed, and with -v on what evidence. To run
    the model, use `export`.

    --json prints one object on a line for each file; with --into, including files that cannot be converted.

    Example: ggcp-schema convert checkpoint.bin resume.gguf --verify
    """
    stated = ResumeOptions(rms_eps, order, batch, fresh, verbatim, partial)
    options = WriteOptions(strict, force, verify, sync=not no_sync)

    def one(source: Path, output: Path, what: str) -> bool:
        """Convert a file. Return False for one of a folder that has no training, which is left out."""
        with open_file(source, partial=True) as file:
            if source not in files and not has_training(file):
                return False
            plan = plan_resume(file, stated)
            is_new = into is not None and not into.exists()  # as in a dry run
            try:
                written = carry_out(plan, output, options, what, dry_run=dry_run, quiet=quiet, is_new=is_new)
            except ExistsError as error:
                if error.hint != ANOTHER or into is not None:
                    raise
                raise error.with_hint(f"{ANOTHER} For several inputs, give --into FOLDER.") from error
            if batch is not None and not quiet and not (plan.study and plan.study.scale.summed):
                say("--batch changes nothing here: the gradients are no sums that would be divided by it")
            if as_json:
                write(json_text(plan_as_dict(plan, output, written)) + "\n")
            elif not quiet:
                echo_outcome(plan, output, written, verified=verify, verbose=verbose)
                if into is not None:  # the next file follows
                    echo()
        return True

    if into is not None:
        found = files_in(files, quiet=quiet or as_json)
        done = [file for file in found if file.name.endswith(SUFFIX) and file not in files]
        outputs = {source: into / output_name(source, SUFFIX) for source in found if source not in done}
        check_outputs(outputs, files)
        if done and not (quiet or as_json):
            echo(f"left out {count_text(len(done), 'file')} of a name that ends in {SUFFIX}, as outputs have it")
        convert_all(outputs, into, one, quiet=quiet, as_json=as_json, dry_run=dry_run)
    elif folders := [file for file in files if file.is_dir()]:
        hint = "For the files in a folder, or to write into one, give --into FOLDER."
        raise UsageError(f"{name_text(folders[0])} is a directory", hint)
    elif len(files) <= 2:
        one(files[0], files[-1] if len(files) == 2 else Path(output_name(files[0], SUFFIX)), "Converting")
    else:
        raise UsageError(
            f"expected INPUT and OUTPUT, found {count_text(len(files), 'name')}",
            "For several inputs, give --into FOLDER.",
        )


def check_outputs(outputs: Mapping[Path, Path], files: Sequence[Path]) -> None:
    """Check that no two inputs that would be converted have one output. Raises `UsageError`."""
    sources: dict[Path, list[Path]] = {}
    for source, output in outputs.items():
        sources.setdefault(output, []).append(source)
    for output, same in sources.items():
        known = [source for source in same if source in files or is_converted(source)] if len(same) > 1 else same
        if len(known) > 1:
            raise UsageError(
                f"{name_text(known[0])} and {name_text(known[1])} would both be written to {name_text(output)}",
                "Nothing was converted. Convert them one at a time, or rename one of them.",
            )


def is_converted(source: Path) -> bool:
    """Return False for a file in a folder that is left out, or cannot be read."""
    try:
        with open_file(source, partial=True) as file:
            return has_training(file)
    except GgcpError:
        return False


def has_training(file: File) -> bool:
    """Return False for a file of another kind than `convert` takes, which is no error in a folder."""
    try:
        return file.converted() is not None if file.has_adapter else bool(file.training())
    except GgcpError as error:
        return file.has_adapter or not isinstance(error, UsageError)  # one of an adapter says why it is not converted


def convert_all(
    outputs: Mapping[Path, Path], folder: Path, one: One, *, quiet: bool, as_json: bool, dry_run: bool
) -> None:
    """Convert each file into the folder, go on after an error, and exit with the worst exit code."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    if not dry_run:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise FileError(f"{os.fsdecode(folder)}: cannot make a folder: {error.strerror}") from error
    codes: list[int] = []
    for number, (source, output) in enumerate(outputs.items(), 1):
        what = f"Converting {number} of {len(outputs)}"
        try:
            if one(source, output, what):
                codes.append(0)
        except GgcpError as error:
            if as_json:
                write(json_text(unread(source, error)) + "\n")
            echo_error(error)
            codes.append(error.exit_code)
    if 0 not in codes and not dry_run:
        with suppress(OSError):  # another program may have written there
            for each in made:
                each.rmdir()
    if not quiet and not as_json:
        if others := len(outputs) - len(codes):
            echo(f"left out {count_text(others, 'file')} without a training to convert")
        verb = "would convert" if dry_run else "converted"
        if codes:
            echo(f"{verb} {codes.count(0):,} of {count_text(len(codes), 'file')} into {name_text(folder)}")
    if any(codes):
        raise typer.Exit(max(codes))
