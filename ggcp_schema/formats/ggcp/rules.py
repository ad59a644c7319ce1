"""What is odd in a checkpoint: values that no trainer wrote, and misplaced names; and how many records it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from construct import Container

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.records.extent import state_schemas
from ggcp_schema.formats.records.headers import tensor_fields
from ggcp_schema.formats.rules import Finding, Oddity, odd_findings, odd_padding
from ggcp_schema.llama.names import STATE, field_path, llama_field_path, llama_name, n_tensors, tensor_name
from ggcp_schema.schema.inference import ADAM, LBFGS, n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File
    from ggcp_schema.formats.parsing import Parse

MAX_MISPLACED = 12  # misplaced names that are listed; the others are counted
MAX_NAME = 80  # bytes of a name that are shown


def odd_hparams(checkpoint: Container) -> Iterator[Finding]:
    """Find hyper-parameters that no trainer wrote, or that contradict each other."""
    hparams = checkpoint.get("hparams") or {}
    if "_size" not in hparams:
        return
    n_embd, n_mult, n_head, n_rot = (hparams[name] for name in ("n_embd", "n_mult", "n_head", "n_rot"))
    found = {name: "is 0" for name, value in hparams.items() if value == 0 and not name.startswith("_")}
    formula, n_ff = n_ff_by_formula(n_embd, n_mult), checkpoint.get("n_ff")
    if None not in (formula, n_ff) and formula != n_ff:
        found["n_mult"] = f"n_ff is {n_ff} according to w1, but {formula} according to n_embd and n_mult ({n_mult})"
    if n_head and n_embd % n_head:
        found["n_head"] = f"n_embd {n_embd} is not divisible by n_head {n_head}"
    elif n_head and n_rot > n_embd // n_head:
        found["n_rot"] = f"n_rot is {n_rot}, but a head has only {n_embd // n_head} dimensions"
    elif n_rot % 2:
        found["n_rot"] = f"n_rot is {n_rot}, but dimensions are rotated in pairs"
    for name in hparams:
        if name in found:
            yield Finding(f"hparams.{name}", found[name])


def odd_optimizer(checkpoint: Container, n_params: int) -> Iterator[Finding]:
    """Find values of the optimizer that no trainer wrote, or that are not certain."""
    optimizer = checkpoint.get("optimizer") or Container()
    if "nx" in optimizer and optimizer["nx"] != n_params:
        message = f"the optimizer is for {optimizer['nx']} parameters, but the model has {n_params}"
        yield Finding("optimizer.nx", message)
    if (optimizer.get("iter") or 0) < 0:
        yield Finding("optimizer.iter", negative_count(optimizer["iter"]))
    inference = optimizer.get("inference")
    if inference is not None and not inference.confirmed:
        if inference.by_records:
            evidence = f"the shape of its third tensor shows it is {inference.type}"
            yield Finding("optimizer.type", f"its size suggests {inference.by_size}, but {evidence}")
        else:
            message = f"inferred as {inference.type} from its size only; its third tensor is inconclusive"
            yield Finding("optimizer.type", message)
    state = optimizer.get("state") or Container()
    for name, value in state.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield Finding(f"optimizer.state.{name}", not_finite(value))
    if (state.get("n_no_improvement") or 0) < 0:
        yield Finding("optimizer.state.n_no_improvement", negative_count(state["n_no_improvement"]))


def negative_count(value: int) -> str:
    """Return what is odd about a negative count."""
    return f"is {value}; a negative count cannot be stored in GGUF"


def not_finite(value: float) -> str:
    """Return what is odd about a NaN or an infinity."""
    return f"is {'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'}"


# Names -----------------------------------------------------------------------------------------------------


def usual_names(path: str) -> tuple[str, ...]:
    """Return the names that the trainers gave to a tensor: until 27 August 2023, and afterwards.

    It is the empty name for the tensors of the optimizer.
    """
    return tuple(dict.fromkeys((llama_name(path) or "", tensor_name(path) or "")))


def place_of(name: bytes) -> str | None:
    """Return the path of the tensor to which the trainers gave that name; None if there is none."""
    if len(name) > MAX_NAME:
        return None
    text = name.decode("utf-8", "replace")
    return llama_field_path(text) or field_path(text)


def misplaced_names(model_tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Find tensors that have the name of another one.

    The programs read and wrote the tensors by their places, with names that agree. If a name contradicts the place, the
    file was changed or made by other means, and one of the two is wrong.
    """
    norm = model_tensors.get("norm")
    name_of = tensor_name if norm is not None and norm.name == tensor_name("norm") else llama_name
    misplaced = [
        (path, tensor.name, place)
        for path, tensor in model_tensors.items()
        if tensor.name not in {name_of(path), ""} and (place := place_of(tensor.name.encode())) not in {None, path}
    ]
    for path, name, place in misplaced[:MAX_MISPLACED]:
        message = f"expected the name {name_of(path)!r}, found {name!r}, which is that of {place}"
        yield Finding(f"{path}.name", message)
    if len(misplaced) > MAX_MISPLACED:
        more = len(misplaced) - MAX_MISPLACED
        tensors = "tensor from here on has" if more == 1 else "tensors from here on have"
        yield Finding(f"{misplaced[MAX_MISPLACED][0]}.name", f"{more} more {tensors} the name of another one")


# Past errors ---------------------------------------------------------------------------------------------


def expected_records(parse: Parse) -> int | None:
    """Return the number of tensor records in the file; None if damage hides it."""
    optimizer = parse.container.get("optimizer") or {}
    if "state" not in optimizer:
        return None
    schemas = state_schemas(optimizer)
    if len(schemas) > 1 and parse.damage is not None:
        return None
    state = schemas.get(optimizer["type"], next(iter(schemas.values())))
    return n_tensors(int(parse.container["hparams"]["n_layer"])) + len(tensor_fields(state))


def oddities(parse: Parse) -> Iterator[Oddity]:
    """Yield the findings, unless an error takes away the evidence, and what is odd in tensors and parameters."""
    doubtful = parse.damage is not None or any(path.startswith(STATE) for path, _ in parse.located)
    yield from (odd for odd in odd_findings(parse.file) if not (doubtful and odd.path == "optimizer.type"))
    yield from _odd_tensors(parse.file)
    yield from _odd_params(parse.file)


def _odd_tensors(file: File) -> Iterator[Oddity]:
    for path, tensor in file.tensors.items():
        if tensor.padding:
            padding = file.source.read(tensor.offset - tensor.padding, tensor.padding)
            yield from odd_padding(f"{path}.padding", padding, tensor.offset)
        usual = usual_names(path)
        if tensor.name in usual or (not path.startswith(STATE) and place_of(tensor.name.encode()) is not None):
            continue  # the name of another tensor is among the findings
        text = tensor.name[:MAX_NAME] + "…" * (len(tensor.name) > MAX_NAME)
        trainers = " or ".join(map(repr, usual)) if any(usual) else "no name"
        name = file.find(f"{path}.name")
        yield Oddity(name.path, name.offset, f"is {text!r}; the trainers wrote {trainers}")


def _odd_params(file: File) -> Iterator[Oddity]:
    """Yield odd values of the C struct; that of the other optimizer may hold anything."""
    params = file.root.find(("optimizer", "params"))
    kind = file.get("optimizer.type")
    for field in params.leaves() if params is not None else ():
        unused = field.steps[2] in {ADAM, LBFGS} and field.steps[2] != kind
        if field.type == "f32" and not unused and not math.isfinite(field.value):
            yield Oddity(field.path, field.offset, not_finite(field.value))
        elif field.type == "u8" and field.value not in {0, 1}:
            yield Oddity(field.path, field.offset, f"is {field.value}, but a bool is 0 or 1")
