"""`export`: the model of a file becomes one that present-day programs run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet, Strict, Verify
from ggcp_schema.cli.output import print_json
from ggcp_schema.cli.report import carry_out, echo_parts, echo_plan, echo_written, plan_as_dict
from ggcp_schema.errors import UsageError
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.formats import open_file
from ggcp_schema.llama.eras import help_text_epsilon
from ggcp_schema.mapping.export import GGUF, MissingError
from ggcp_schema.mapping.hf import DTYPES
from ggcp_schema.mapping.model import rescued
from ggcp_schema.mapping.targets import EXPORTS, export_target

OPTIONS = {"vocab": "--vocab", "context_length": "--context-length"}


def export(
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A checkpoint, ggcp or GGUF; or a model, GGUF, ggjt, ggmf or ggml.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file or the folder to write.")],
    to: Annotated[
        str, typer.Option("--to", metavar="|".join(EXPORTS), help="What to make of the model.", show_default=True)
    ] = GGUF,
    vocab: Annotated[
        Path | None,
        typer.Option(
            "--vocab",
            metavar="VOCABULARY",
            help="A llama GGUF, a ggjt, ggmf or ggml file, or a sentencepiece model with the vocabulary that the model "
            "was trained with (--vocab-model).",
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            "--context-length",
            "--ctx",
            metavar="TOKENS",
            help="Context length (not stored in ggcp checkpoints). Use the trainer's --ctx, which defaulted to 128.",
        ),
    ] = None,
    rms_eps: Annotated[
        float | None, typer.Option("--rms-eps", show_default=False, help=f"RMS norm epsilon. {help_text_epsilon()}")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the model. Default: the name of the input.", show_default=False),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a damaged file if all tensors of the model are whole.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="|".join(DTYPES), help="Type of the weights of --to hf. Default: f32."),
    ] = None,
    strict: Strict = False,
    verify: Verify = False,
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export the model of a checkpoint: as GGUF, to run it in llama.cpp, or as a folder, to go on in PyTorch.

    The vocabulary and the context length are not stored in ggcp files; a GGUF checkpoint that a trainer saved contains
    both. A model in GGUF, ggjt, ggmf or ggml is exported too: its tensors keep their types, and a ggjt, ggmf or ggml
    file contains the vocabulary. To resume training with llama.cpp, use `convert`.

    `--to hf` writes a folder that transformers, MLX and vLLM open, with the state of the optimizer for PyTorch where
    its order and scale are certain.

    JSON keys: those of `convert`, and vocabulary {path, kind, tokens, note}.

    Example: ggcp-schema export checkpoint.bin model.gguf --vocab ggml-vocab.bin --ctx 128
    """
    target = export_target(to)
    options = WriteOptions(strict, force, verify, sync=not no_sync)
    with open_file(input, partial=True) as file:
        if file.damage is not None and not partial:
            command = ["ggcp-schema", "export", "--partial", *sys.argv[sys.argv.index("export") + 1 :]]
            raise rescued(file, f"Run: {shlex.join(command)}")
        try:
            plan = target.plan(
                file,
                vocab=vocab,
                context_length=context_length,
                rms_eps=rms_eps,
                name=name,
                partial=partial,
                **target.checked(dtype=dtype),
            )
        except MissingError as error:
            raise UsageError(f"Missing option {OPTIONS[error.parameter]}: {error.message}", error.hint) from error
        written = carry_out(plan, output, options, "Exporting", dry_run=dry_run, quiet=quiet)
        if as_json:
            print_json({**plan_as_dict(plan, output, written), "vocabulary": plan.fact("vocabulary").value})
        elif not quiet:
            echo_plan(plan)
            if written:
                echo_written(written, output, verified=verify)
            else:
                echo_parts(plan, output)
