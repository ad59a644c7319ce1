"""Opens a ggcp file: parses it with the schema, turns construct's errors into ours, gives a Checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from construct import Container, ListContainer

from ggcp_schema.checkpoint import Checkpoint, Fields, Finding
from ggcp_schema.constructs import Extent, FieldError, format_path
from ggcp_schema.errors import MalformedError, NotACheckpointError, TruncatedError
from ggcp_schema.filetype import describe_magic
from ggcp_schema.inference import Inference, n_ff_by_formula
from ggcp_schema.schema import CHECKPOINT
from ggcp_schema.schema.lookahead import lbfgs_m, past
from ggcp_schema.source import Source, Tensor


def open_checkpoint(path: str | os.PathLike[str], *, partial: bool = False) -> Checkpoint:
    """Opens a ggcp checkpoint; use it in a `with` block, or close it.

    Headers are parsed; no tensor data is read. Raises `FileError` if the file cannot be read and
    `MalformedError` if it is not a whole, well-formed checkpoint. With `partial` a damaged file gives what
    can be read up to the damage, and the error as `damage`.
    """
    source = Source(path)
    try:
        return _read(source, partial)
    except BaseException:
        source.close()
        raise


def _read(source: Source, partial: bool) -> Checkpoint:
    damage = None
    try:
        with source.reading() as file:
            root = CHECKPOINT.parse_stream(file)
    except FieldError as error:
        damage = malformed(error, source)
        if not partial or isinstance(damage, NotACheckpointError):
            raise damage from error
        root = error.partial
    return checkpoint_of(root, source, inference_of(root) if damage is None else None, damage)


def inference_of(root: Container) -> Inference | None:
    """How the optimizer's type was found; None where it was stored, or was not reached."""
    inference: Inference | None = getattr((root.get("optimizer") or {}).get("type"), "inference", None)
    return inference


def checkpoint_of(
    root: Container, source: Source, inference: Inference | None, damage: MalformedError | None = None
) -> Checkpoint:
    """The checkpoint that was parsed, as far as the damage lets it."""
    tensors: dict[str, Tensor] = {}
    fields = _fields(root, (), tensors, source)
    optimizer = root.get("optimizer") or {}
    counted = "nx" in optimizer
    n_ff = _n_ff(root)
    return Checkpoint(
        source=source,
        fields=fields,
        tensors=tensors,
        n_ff=n_ff,
        past=past(optimizer) if counted else None,
        lbfgs_m=lbfgs_m(optimizer) if counted else None,
        inference=inference,
        findings=tuple(_findings(root, tensors, n_ff, inference)),
        damage=damage,
    )


def malformed(error: FieldError, source: Source) -> MalformedError:
    """Our error for construct's, with what to do next."""
    where = format_path(error.steps)
    kind, hint = MalformedError, "See all that is wrong with `ggcp-schema validate`."
    if error.missing is not None:
        kind, hint = TruncatedError, "The file is cut short: fetch it again, or look at what is left of it."
    if where == "magic":
        source.file.seek(0)
        head = source.file.read(4)
        kind = NotACheckpointError
        what = describe_magic(head)
        hint = f"This is {what}." if what else "This is not a file of llama.cpp's train-text-from-scratch."
        if error.missing is not None:
            hint = "The file is empty." if not head else "The file is too short to be anything."
    result = kind(
        f"{source.path}: {error}", hint, path=where, offset=error.offset, expected=error.expected, found=error.found
    )
    if isinstance(result, TruncatedError):
        result.missing = error.missing or 0
    return result


def _fields(value: Any, steps: tuple[str | int, ...], tensors: dict[str, Tensor], source: Source) -> Any:
    """The parsed containers as read-only fields; records with data as tensors. Damaged ones are left out."""
    if isinstance(value, ListContainer):
        items = [_fields(item, (*steps, index), tensors, source) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not None)
    if not isinstance(value, Container):
        return value
    if "n_dims" not in value:
        parts = {name: _fields(item, (*steps, name), tensors, source) for name, item in value.items()}
        return Fields({name: part for name, part in parts.items() if part is not None})
    data = value.get("data")
    if not isinstance(data, Extent):
        return None
    path, name = format_path(steps), value["name"].decode("utf-8", "backslashreplace")
    padding = len(value["padding"])
    tensors[path] = Tensor(path, name, tuple(value["ne"]), data.offset, data.nbytes, source, padding=padding)
    return tensors[path]


def _n_ff(root: Container) -> int | None:
    try:
        ne: list[int] = root["layers"][0]["w1"]["ne"]
        return ne[1]
    except (KeyError, IndexError, TypeError):
        hparams = root.get("hparams") or {}
        return n_ff_by_formula(hparams["n_embd"], hparams["n_mult"]) if "n_mult" in hparams else None


def _findings(
    root: Container, tensors: dict[str, Tensor], n_ff: int | None, inference: Inference | None
) -> Iterator[Finding]:
    hparams, nx = root.get("hparams") or {}, (root.get("optimizer") or {}).get("nx")
    if "n_rot" in hparams and n_ff is not None:
        formula = n_ff_by_formula(hparams["n_embd"], hparams["n_mult"])
        if formula != n_ff:
            would = f"n_embd and n_mult {hparams['n_mult']} would give {formula}"
            yield Finding("hparams.n_mult", f"n_ff is {n_ff} by the shape of w1; {would}")
    if nx is not None:
        n_params = sum(tensor.n_elements for path, tensor in tensors.items() if not path.startswith("optimizer."))
        if nx != n_params:
            yield Finding("optimizer.nx", f"the optimizer holds {nx} of the model's {n_params} parameters")
    if inference is not None and not inference.confirmed:
        if inference.by_records:
            size, records = f"by its size the state would be {inference.by_size}'s", inference.by_records
            yield Finding("optimizer.type", f"{size}; by its third tensor it is {records}'s")
        else:
            yield Finding("optimizer.type", f"{inference.by_size} by size alone; the third tensor does not tell")
