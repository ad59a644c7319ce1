"""`export`: a checkpoint becomes a GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Finding
    from ggcp_schema.gguf.model import Model
    from ggcp_schema.gguf.vocabulary import Vocabulary

ERAS = "the trainers used 1e-6 from June 2023, 5e-6 from 25 July, 1e-5 from 21 August"


def export(
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="The checkpoint: ggcp, or GGUF to resume from.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The GGUF model to write.")],
    vocab: Annotated[
        Path,
        typer.Option(
            "--vocab",
            help="The vocabulary: a llama GGUF, ggml-vocab.bin or another ggjt file, or a sentencepiece "
            "tokenizer.model. It must be the one of the training (--vocab-model).",
        ),
    ],
    context_length: Annotated[
        int,
        typer.Option(
            "--context-length",
            metavar="N",
            min=1,
            max=(1 << 32) - 1,
            help="Tokens of context, which no checkpoint states: the trainer's --ctx, 128 by default.",
        ),
    ],
    rms_eps: Annotated[
        float | None,
        typer.Option(
            "--rms-eps",
            help=f"Epsilon of the RMS norm, which no ggcp file states: {ERAS}.",
            show_default="1e-5, or what a GGUF INPUT states",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name.", show_default="that of INPUT")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUTPUT if it exists.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte written with the checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be written; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Describe what is written as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")] = False,
) -> None:
    """Make a model that today's llama.cpp runs.

    The model's tensors and a vocabulary, without the state of the training.
    """
    from ggcp_schema.atomic import check_output
    from ggcp_schema.cli.output import print_json, progress
    from ggcp_schema.cli.report import echo_output, findings_as_dicts, output_as_dict
    from ggcp_schema.gguf.entries import tensor_entries
    from ggcp_schema.gguf.model import export_entries, model_of
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.gguf.vocabulary import read_vocabulary

    with open_any(input) as opened:
        model, vocabulary = model_of(opened), read_vocabulary(vocab)
        entries = export_entries(model, vocabulary.keys, context_length=context_length, rms_eps=rms_eps, name=name)
        check_output(output, (input, vocab), overwrite=force or dry_run)
        written = None
        if not dry_run:
            from ggcp_schema.gguf.writer import write_gguf

            total = sum(entry.nbytes for entry in tensor_entries(entries)) * (2 if verify else 1)
            with progress(total, "Exporting", quiet=quiet) as advance:
                written = write_gguf(output, entries, overwrite=force, verify=verify, progress=advance)
        findings = [f for f in getattr(opened, "findings", ()) if not f.path.startswith("optimizer.")]
        if as_json:
            told = as_dict(model, vocabulary, context_length, rms_eps)
            print_json(
                {"input": model.path, "output": str(output), **told, "findings": findings_as_dicts(findings)}
                | output_as_dict(entries, written)
            )
        elif not quiet:
            echo_model(model, vocabulary, context_length, rms_eps, findings)
            echo_output(entries, output, written, verified=verify)


def echo_model(
    model: Model, vocabulary: Vocabulary, context_length: int, rms_eps: float | None, findings: Sequence[Finding]
) -> None:
    """Says what goes into the model, and where each thing that the checkpoint does not state comes from."""
    from ggcp_schema.cli.output import echo, escape, float32
    from ggcp_schema.cli.report import echo_findings
    from ggcp_schema.gguf.model import epsilon

    heads = f"{model.n_head} heads of {model.head_size}"
    width = f"width {model.n_embd}, {heads}, feed-forward width {model.n_ff}"
    echo(f"{escape(model.path)}: {model.n_params:,} parameters: {model.n_layer} layers, {width}")
    echo(f"vocabulary: {vocabulary.n_tokens} tokens from {escape(vocabulary.path)} ({vocabulary.kind})")
    echo(f"context length: {context_length}")
    source = "by --rms-eps" if rms_eps is not None else "as the file states" if model.rms_eps else "by default"
    echo(f"RMS epsilon: {float32(epsilon(model, rms_eps))} {source}; {ERAS}")
    if model.n_rot < model.head_size:
        echo(f"note: {model.n_rot} of each head's {model.head_size} dimensions are rotated: in rope_freqs.weight")
    if vocabulary.note:
        echo(f"note: {escape(vocabulary.path)}: {vocabulary.note}")
    echo_findings(findings)


def as_dict(model: Model, vocabulary: Vocabulary, context_length: int, rms_eps: float | None) -> dict[str, Any]:
    """The same as data."""
    from ggcp_schema.gguf.model import epsilon

    numbers = ("n_vocab", "n_embd", "n_head", "n_layer", "n_rot", "n_ff", "head_size", "n_params")
    return {
        "model": {name: getattr(model, name) for name in numbers},
        "vocabulary": {
            "path": vocabulary.path,
            "kind": vocabulary.kind,
            "n_tokens": vocabulary.n_tokens,
            "note": vocabulary.note or None,
        },
        "context_length": context_length,
        "rms_eps": epsilon(model, rms_eps),
    }
