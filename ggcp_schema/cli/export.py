"""`export`: the model of a checkpoint becomes a GGUF file that llama.cpp runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet, Strict, Verify
from ggcp_schema.cli.output import echo, escape, print_json, progress
from ggcp_schema.cli.report import echo_entries, echo_plan, echo_written, plan_as_dict
from ggcp_schema.errors import UsageError
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama.eras import help_text_epsilon
from ggcp_schema.mapping import plan as plans
from ggcp_schema.mapping.export import MissingError, plan_model
from ggcp_schema.mapping.model import rescued

OPTIONS = {"vocab": "--vocab", "context_length": "--context-length"}


def export(
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="A checkpoint, ggcp or GGUF.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The GGUF file to write.")],
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
    strict: Strict = False,
    verify: Verify = False,
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export the model of a checkpoint as GGUF, to run it in llama.cpp.

    The vocabulary and the context length are not stored in ggcp files; a GGUF checkpoint that a trainer saved contains
    both. To resume training, use `convert`.

    JSON keys: those of `convert`, and vocabulary {path, kind, tokens, note}.

    Example: ggcp-schema export checkpoint.bin model.gguf --vocab ggml-vocab.bin --ctx 128
    """
    with open_file(input, partial=True) as file:
        if file.damage is not None and not partial:
            command = ["ggcp-schema", "export", "--partial", *sys.argv[sys.argv.index("export") + 1 :]]
            raise rescued(file, f"Run: {shlex.join(command)}")
        try:
            plan = plan_model(
                file, vocab=vocab, context_length=context_length, rms_eps=rms_eps, name=name, partial=partial
            )
        except MissingError as error:
            raise UsageError(f"Missing option {OPTIONS[error.parameter]}: {error.message}", error.hint) from error
        plans.check(plan, output, strict=strict, force=force or dry_run)
        vocabulary = plan.vocabulary
        assert vocabulary is not None  # noqa: S101 - a model plan has one
        written = None
        if not dry_run:
            with progress(plan.nbytes * (2 if verify else 1), "Exporting", quiet=quiet) as advance:
                written = plans.write(
                    plan, output, strict=strict, force=force, verify=verify, sync=not no_sync, progress=advance
                )
        if as_json:
            described = {
                "path": vocabulary.path,
                "kind": vocabulary.kind,
                "tokens": vocabulary.n_tokens,
                "note": vocabulary.note or None,
            }
            print_json({**plan_as_dict(plan, output, written), "vocabulary": described})
            return
        if quiet:
            return
        echo_plan(plan)
        tokens = count_text(vocabulary.n_tokens, "token")
        echo(f"vocabulary: {escape(vocabulary.path)}, {escape(vocabulary.kind)}, {tokens}")
        if written:
            echo_written(written, output, verified=verify)
            command = ["llama-completion", "-m", os.fsdecode(output), "-p", "Once upon a time"]
            echo(f"run: {escape(shlex.join(command))}")
        else:
            echo_entries(plan, output)
