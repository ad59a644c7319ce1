"""`verify`: compare a GGUF file with the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ggcp_schema.cli.options import Json, Quiet
from ggcp_schema.cli.output import echo, escape, paint, print_json, progress
from ggcp_schema.formats import open_checkpoint
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama.eras import epsilon_text
from ggcp_schema.mapping.verify import Verification
from ggcp_schema.mapping.verify import verify as compare

KINDS = {"resume": "a checkpoint to resume from", "model": "a model"}


def verify(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The ggcp checkpoint.")],
    gguf: Annotated[Path, typer.Argument(metavar="GGUF", help="The file that was made from it.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a GGUF file with the checkpoint it was made from.

    Accepts what `convert`, `export` and the trainers of 2023 wrote. Compares keys, types, values, shapes and every byte
    of the tensors; vectors that `convert` reordered or scaled are compared through the same change. Extra keys are
    ignored. Exit codes: 0 the same, 1 different, 4 one of the files is damaged.

    JSON keys: checkpoint, gguf, kind, same, optimizer, compared {keys, tensors, bytes, parameters}, rms_eps,
    extra_keys, differences {kind, name, message}.

    Example: ggcp-schema verify checkpoint.bin resume.gguf
    """
    with open_checkpoint(checkpoint) as ckpt, open_gguf(gguf) as file:
        total = sum(tensor.nbytes for tensor in file.tensors.values())
        with progress(total, "Comparing", quiet=quiet) as advance:
            result = compare(ckpt, file, advance)
        ckpt.source.check_unchanged()
        file.source.check_unchanged()
        if as_json:
            print_json(as_dict(ckpt.path, file.path, result))
        elif not quiet:
            show(ckpt.path, file.path, result)
    if not result.same:
        raise typer.Exit(1)


def as_dict(checkpoint: str, gguf: str, result: Verification) -> dict[str, Any]:
    """Return the result for JSON. `kind` of a difference is key, tensor, data or file."""
    return {
        "checkpoint": checkpoint,
        "gguf": gguf,
        "kind": result.kind,
        "same": result.same,
        "optimizer": result.optimizer or None,
        "compared": {
            "keys": result.keys,
            "tensors": result.tensors,
            "bytes": result.nbytes,
            "parameters": result.n_params,
        },
        "rms_eps": result.rms_eps,
        "extra_keys": list(result.extra_keys),
        "differences": [difference._asdict() for difference in result.differences],
    }


def show(checkpoint: str, gguf: str, result: Verification) -> None:
    """Print what was compared, a line for each difference, and the verdict."""
    compared = (
        f"{count_text(result.keys, 'key')}, {count_text(result.tensors, 'tensor')}, "
        f"{count_text(result.nbytes, 'byte')} of data compared"
    )
    echo(f"{escape(gguf)} is {KINDS[result.kind]}: {compared}; {count_text(result.n_params, 'parameter')}")
    if result.optimizer:
        echo(f"optimizer: {result.optimizer}")
    if result.rms_eps is not None:
        echo(f"RMS epsilon: {epsilon_text(result.rms_eps)} (not stored in the checkpoint)")
    if result.extra_keys:
        echo(f"keys that the checkpoint does not have: {escape(', '.join(result.extra_keys))}")
    for difference in result.differences:
        echo(f"{paint('difference:', 'red')} {escape(str(difference))}")
    if result.same:
        echo(f"{paint('same:', 'green', bold=True)} {escape(checkpoint)} and {escape(gguf)}")
    else:
        count = count_text(len(result.differences), "difference")
        echo(f"{paint(count, 'red', bold=True)} between {escape(checkpoint)} and {escape(gguf)}")
