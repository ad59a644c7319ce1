"""`verify`: compare a GGUF file or a folder with the checkpoint it was made from."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.mistakes import check_options
from ggcp_schema.cli.options import Json, Quiet
from ggcp_schema.cli.output import echo, paint, print_json, progress
from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.inspect.text import count_text, escape, names_text
from ggcp_schema.llama.writers import epsilon_text
from ggcp_schema.mapping.verify import NO_TOKENS, Verification
from ggcp_schema.mapping.verify import verify as compare
from ggcp_schema.mapping.verify_adapter import made_with_base, verify_adapter, verify_with_base
from ggcp_schema.mapping.verify_hf import verify_folder

JSON = Verification
MAX_NAMES = 30  # of keys
KINDS = {
    "resume": "a checkpoint to resume from",
    "model": "a model",
    "adapter": "an adapter without pairs of norms",
    "hf": "a folder for transformers",
    "peft": "a folder for PEFT",
}


def verify(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The input of `convert` or `export`.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The GGUF file, or the folder, made from it.")],
    vocab: Annotated[
        Path | None,
        typer.Option("--vocab", metavar="VOCABULARY", help="The vocabulary that the model was exported with."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a damaged input if all tensors of the model are whole.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="MODEL", help="The model with which the output of an adapter was made."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a GGUF file, or a folder, with the checkpoint it was made from.

    Accepts what `convert`, `export` and the trainers of 2023 wrote. Compares keys, types, values, shapes and every byte
    of the tensors; vectors that `convert` reordered or scaled are compared through the same change. Extra keys are
    ignored. Of a folder for transformers every weight and moment is compared, in its order of rows, and the numbers of
    its configuration; other files that programs may read are differences. The tokens of a model are compared with
    --vocab, or with the vocabulary that the input contains. Of a LoRA adapter of 2023 a GGUF adapter is compared, and
    what `convert` makes of it; with --base also a folder for PEFT and a merged model, with what `export` makes of the
    two without --scale and --verbatim; but no patched base.

    Exit codes: 0 the same, 1 different, 2 it cannot be compared, 4 one of the files is damaged.

    Example: ggcp-schema verify checkpoint.bin resume.gguf
    """
    if checkpoint.is_dir() and not output.is_dir():
        raise UsageError(f"{checkpoint} is a directory", "The checkpoint comes first.")
    with open_file(checkpoint, partial=True) as file, nullcontext() if base is None else open_file(base) as model:
        if not file.has_adapter:
            check_options(checkpoint, {"--base": base})
        total = sum(part.stat().st_size for part in (output, *output.glob("*.safetensors")) if part.exists())
        with progress(total, "Comparing", quiet=quiet) as advance:
            if model is not None:
                result = verify_with_base(file, model, os.fsdecode(output), advance, vocab=vocab, partial=partial)
                model.source.check_unchanged()
            elif not output.is_dir():
                result = _with_gguf(file, output, advance, vocab, partial=partial)
            elif file.has_adapter:
                raise made_with_base(file, os.fsdecode(output))
            else:
                result = verify_folder(file, output, vocab=vocab, partial=partial, progress=advance)
        file.source.check_unchanged()
    if as_json:
        print_json(result)
    elif not quiet:
        show(result)
    if not result.same:
        raise typer.Exit(1)


def _with_gguf(
    file: File, output: Path, advance: Progress | None, vocab: Path | None, *, partial: bool
) -> Verification:
    with open_file(output, partial=True) as gguf:
        if not isinstance(gguf, GgufFile) or gguf.kind == "gguf-vocabulary":
            swapped = isinstance(file, GgufFile) and not isinstance(gguf, GgufFile)
            raise UsageError(
                f"expected a checkpoint and a GGUF file made from it, found a {file.short} and a {gguf.short}",
                "The checkpoint comes first." if swapped else "`ggcp-schema diff` compares any two files.",
            )
        raise_damage(gguf.damage)
        if file.has_adapter:
            result = verify_adapter(file, gguf, advance, partial=partial)
        else:
            result = compare(file, gguf, advance, vocab=vocab, partial=partial)
        gguf.source.check_unchanged()
    return result


def show(result: Verification) -> None:
    """Print what was compared, a line for each difference, and the verdict."""
    keys, tensors, nbytes, parameters = map(count_text, result.compared, ("key", "tensor", "byte", "parameter"))
    what = f"{keys}, {tensors}, {nbytes} of data compared; {parameters}"
    echo(f"{escape(result.output)} is {KINDS[result.kind]}: {what}")
    if result.optimizer:
        echo(f"optimizer: {result.optimizer}")
    if result.tokens:
        echo(f"tokens: {result.tokens}{' (--vocab)' * (result.tokens == NO_TOKENS)}")
    if result.rms_eps is not None:
        where = "" if result.kind == "hf" else " (not compared)"
        echo(f"RMS epsilon: {epsilon_text(result.rms_eps)}{where}")
    if names := result.extra_keys:
        echo(f"keys that the checkpoint does not have: {escape(names_text(names, MAX_NAMES))}")
    for difference in result.differences:
        echo(f"{paint('difference:', 'red')} {escape(str(difference))}")
    if result.same:
        echo(f"{paint('same:', 'green', bold=True)} {escape(result.checkpoint)} and {escape(result.output)}")
    else:
        count = count_text(len(result.differences), "difference")
        echo(f"{paint(count, 'red', bold=True)} between {escape(result.checkpoint)} and {escape(result.output)}")
