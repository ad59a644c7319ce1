"""`export`: the model of a file, for present-day programs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ggcp_schema.cli.mistakes import check_options
from ggcp_schema.cli.options import (
    DryRun,
    Force,
    Json,
    NoSync,
    Quiet,
    RmsEps,
    Strict,
    Verbose,
    Verify,
    one_of,
    option_of,
)
from ggcp_schema.cli.output import print_json
from ggcp_schema.cli.report import PlanJson, carry_out, echo_outcome, plan_as_dict
from ggcp_schema.errors import GgcpError, UsageError, quoted
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.commands import NEEDED, OUTPUTS, output_name
from ggcp_schema.mapping import lora
from ggcp_schema.mapping.export import BASE_NEEDED, GGUF, MissingError, ModelOptions
from ggcp_schema.mapping.hf import DTYPES
from ggcp_schema.mapping.plan import rescued
from ggcp_schema.mapping.targets import EXPORTS, planner

MADE = tuple(dict.fromkeys((*EXPORTS, *lora.TARGETS)))


class JSON(PlanJson, total=False):
    """A plan and what was written, with the vocabulary."""

    vocabulary: Any


def export(
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A checkpoint, ggcp or GGUF; a model, GGUF, ggjt, ggmf or ggml; or an adapter."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUTPUT",
            help="The file or the folder to write. Default: the name of the input with "
            f"{OUTPUTS['gguf']}, {OUTPUTS['hf']}, {OUTPUTS['adapter']} or {OUTPUTS['peft']}, in the current folder.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            callback=lambda name: name and name.lower(),
            metavar="|".join(MADE),
            autocompletion=one_of(*MADE),
            help=f"What to make of it. A model: {', '.join(EXPORTS)} (the first by default). An adapter: "
            f"{', '.join(lora.TARGETS)} (the first by default).",
            show_default=False,
        ),
    ] = None,
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
            help="Context length: the trainer's --ctx. Default: that of the file, or its tokens / samples if that is a "
            "whole number.",
        ),
    ] = None,
    rms_eps: RmsEps = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="TEXT",
            help="Name of the model. Default: the name that the input stores, or else its file name; for an adapter, "
            "the name of --base.",
            show_default=False,
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Accept a damaged file if all tensors of the model, or of the adapter, are whole."
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="|".join(DTYPES),
            autocompletion=one_of(*DTYPES),
            help="Type of the weights of --to hf. Default: f32.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="MODEL", help="The model that an adapter was trained on: GGUF, ggjt or ggcp."),
    ] = None,
    patched_base: Annotated[
        Path | None,
        typer.Option(
            "--patched-base",
            metavar="NEW",
            help="Write a copy of --base with the adapter's norms added: GGUF; of --to peft a folder for transformers.",
        ),
    ] = None,
    norms: Annotated[
        str | None,
        typer.Option(
            "--norms", metavar="ignore", autocompletion=one_of("ignore"), help="Leave the norms of an adapter out."
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", metavar="NUMBER", help="Scale of an adapter. Default: that of its file.")
    ] = None,
    verbatim: Annotated[
        bool,
        typer.Option("--verbatim", help="Take an adapter made from PEFT as llama.cpp of 2023 did, not as trained."),
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
    """Export the model of a checkpoint, as GGUF for llama.cpp or as a folder for PyTorch; or a LoRA adapter of 2023.

    ggcp files contain no vocabulary, and the context length only as the ratio of two counts; a GGUF checkpoint that a
    trainer saved contains both. A model in GGUF, ggjt, ggmf or ggml is exported too: its tensors keep their types, and
    a ggjt, ggmf or ggml file contains the vocabulary. To resume training with llama.cpp, use `convert`.

    `--to hf` writes a folder that transformers, MLX and vLLM open, with the state of the optimizer for PyTorch where
    its order is certain, and its scale certain or likely.

    A LoRA adapter (ggla, ggcl, or a GGUF checkpoint of finetune) needs --base, and becomes an adapter for llama.cpp, a
    folder for PEFT, or a merged model, GGUF or a folder. Where a model is made of a base that is not GGUF, or a folder,
    the base is exported as it would be alone.

    Example: ggcp-schema export checkpoint.bin model.gguf --vocab ggml-vocab.bin
    """
    options = WriteOptions(strict, force, verify, sync=not no_sync)
    with ExitStack() as stack:
        file = stack.enter_context(open_file(input, partial=True))
        model = ModelOptions(vocab, context_length, rms_eps, name, dtype, partial)
        try:
            if not file.has_adapter:
                of_adapters = {"--base": base, "--patched-base": patched_base, "--norms": norms, "--scale": scale}
                check_options(input, {**of_adapters, "--verbatim": verbatim or None})
            elif base is None:
                raise UsageError(
                    "Missing option --base: an adapter is exported for the model that it was trained on", BASE_NEEDED
                )
            if file.damage is not None and not partial:
                blanks = [] if file.has_adapter else _blanks(file, to or GGUF, model._replace(partial=True))
                command = ["ggcp-schema", "export", "--partial", *sys.argv[sys.argv.index("export") + 1 :], *blanks]
                raise rescued(file, f"Run: {' '.join(map(quoted, command))}")
            if base is not None:
                output = output or Path(output_name(input, OUTPUTS.get(to or lora.TARGETS[0], "")))
                plan = lora.plan_adapter(
                    file,
                    stack.enter_context(open_file(base)),
                    to=to or lora.TARGETS[0],
                    scale=scale,
                    verbatim=verbatim,
                    ignore_norms=lora.ignored(norms),
                    patched_base=patched_base,
                    model=model,
                )
            else:
                plan_export = planner(to or GGUF)
                output = output or Path(output_name(input, OUTPUTS[to or GGUF]))
                plan = plan_export(file, model)
        except MissingError as error:
            options_text = " and ".join(map(option_of, error.parameters))
            raise UsageError(f"Missing option {options_text}: {error.message}", error.hint) from error
        written = carry_out(plan, output, options, "Exporting", dry_run=dry_run, quiet=quiet)
        if as_json:
            vocabulary = next(({"vocabulary": fact.value} for fact in plan.facts if fact.label == "vocabulary"), {})
            print_json({**plan_as_dict(plan, output, written), **vocabulary})
        elif not quiet:
            echo_outcome(plan, output, written, verified=verify, verbose=verbose)


def _blanks(file: File, to: str, model: ModelOptions) -> list[str]:
    """Return the options that the export of a damaged file lacks, with the words that the user replaces."""
    try:
        planner(to)(file, model)
    except MissingError as error:
        return [word for name in error.parameters for word in NEEDED[name].split()]
    except GgcpError:  # it is raised by the export, of what is whole
        pass
    return []
