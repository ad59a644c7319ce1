"""The rules of a ggcp checkpoint that its schema does not state, and what is odd in it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ggcp_schema.formats.file import File
from ggcp_schema.formats.ggcp.extent import state_schemas
from ggcp_schema.formats.ggcp.oddities import MAX_NAME, not_finite, place_of, usual_names
from ggcp_schema.formats.parsing import Parse
from ggcp_schema.formats.rules import Oddity, Rules, odd_padding
from ggcp_schema.llama.names import LAYER_TENSORS, MODEL_TENSORS, STATE
from ggcp_schema.schema.inference import ADAM, LBFGS
from ggcp_schema.schema.tensor import Tensor


def checkpoint_rules(parse: Parse) -> Rules:
    """Return what the rules find."""
    warnings = [*_findings(parse), *_odd_tensors(parse.file), *_odd_params(parse.file)]
    return Rules(len(parse.file.tensors), _expected_records(parse), [], warnings)


def _expected_records(parse: Parse) -> int | None:
    """Return the number of tensor records in the file; None if damage hides it."""
    optimizer = parse.container.get("optimizer") or {}
    if "state" not in optimizer:
        return None
    schemas = state_schemas(optimizer)
    if len(schemas) > 1 and parse.damage is not None:
        return None
    state = schemas.get(optimizer["type"], next(iter(schemas.values())))
    layers = len(LAYER_TENSORS) * int(parse.container["hparams"]["n_layer"])
    return len(MODEL_TENSORS) + layers + sum(isinstance(field, Tensor) for _, field in state.fields)


def _findings(parse: Parse) -> Iterator[Oddity]:
    """Yield what is odd in the values, unless an error takes away the evidence."""
    doubtful = parse.damage is not None or any(path.startswith(STATE) for path, _ in parse.located)
    for finding in parse.file.findings:
        if not (doubtful and finding.path == "optimizer.type"):
            yield Oddity(finding.path, parse.file.find(finding.path).offset, finding.message)


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
