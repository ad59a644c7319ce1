"""`verify`: the proof that a GGUF file holds what a checkpoint does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ggcp_schema.gguf.verify import Proof


def verify(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The ggcp checkpoint.")],
    gguf: Annotated[Path, typer.Argument(metavar="GGUF", help="The file that was made of it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON.")] = False,
) -> None:
    """Prove that a GGUF file holds exactly what a checkpoint holds.

    Takes what `convert`, `export` and the trainers of 2023 wrote. Compares keys, types, values, shapes and every
    byte of the tensors. Keys beyond the checkpoint's do no harm. Exit codes: 0 the same, 1 different, 4 one of the
    files is damaged.
    """
    from ggcp_schema.cli.output import progress
    from ggcp_schema.gguf.reader import open_gguf
    from ggcp_schema.gguf.verify import verify as prove
    from ggcp_schema.reader import open_checkpoint

    with open_checkpoint(checkpoint) as ckpt, open_gguf(gguf) as file:
        with progress(sum(tensor.nbytes for tensor in file.tensors.values()), "Comparing") as advance:
            proof = prove(ckpt, file, advance)
        if as_json:
            from ggcp_schema.cli.output import print_json

            print_json(as_dict(ckpt.path, file.path, proof))
        else:
            show(ckpt.path, file.path, proof)
    if not proof.same:
        raise typer.Exit(1)


def as_dict(checkpoint: str, gguf: str, proof: Proof) -> dict[str, Any]:
    """The result as data. `kind` of a difference is key, tensor, data or file."""
    return {
        "checkpoint": checkpoint,
        "gguf": gguf,
        "kind": proof.kind,
        "same": proof.same,
        "compared": {
            "keys": proof.keys,
            "tensors": proof.tensors,
            "bytes": proof.nbytes,
            "parameters": proof.n_params,
        },
        "rms_eps": proof.rms_eps,
        "extra_keys": list(proof.extra_keys),
        "differences": [difference._asdict() for difference in proof.differences],
    }


def show(checkpoint: str, gguf: str, proof: Proof) -> None:
    """What was compared, a line for each difference, and the verdict."""
    from ggcp_schema.cli.output import echo, escape, float32, paint

    what = {"resume": "a checkpoint to resume from", "model": "a model"}[proof.kind]
    compared = f"{proof.keys:,} keys, {proof.tensors:,} tensors, {proof.nbytes:,} bytes of data compared"
    echo(f"{escape(gguf)} is {what}: {compared}; {proof.n_params:,} parameters")
    if proof.rms_eps is not None:
        echo(f"RMS epsilon: {float32(proof.rms_eps)}, which no checkpoint states")
    if proof.extra_keys:
        echo(f"keys beyond the checkpoint's: {escape(', '.join(proof.extra_keys))}")
    for difference in proof.differences:
        echo(f"{paint('difference:', 'red')} {escape(str(difference))}")
    same = paint("same", "green", bold=True)
    verdict = same if proof.same else paint("different", "red", bold=True)
    count = f" in {len(proof.differences):,} points" if len(proof.differences) > 1 else ""
    echo(f"{verdict}{count}: {escape(checkpoint)} and {escape(gguf)}")
