"""The typed parts of a checkpoint have the fields of the schema, in its order, with the types that it gives them."""

from __future__ import annotations

from functools import reduce
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import FORMATS
from ggcp_schema.formats.ggcp import records
from ggcp_schema.inspect.reference import reference
from ggcp_schema.schema import inference

PARTS = {
    "hparams": records.Hparams,
    "layer": records.Layer,
    "optimizer": records.Optimizer,
    "params": records.Params,
    "adam_params": records.AdamParams,
    "lbfgs_params": records.LbfgsParams,
    "adam_state": records.AdamState,
    "adam_state_v0": records.AdamState,
    "lbfgs_state": records.LbfgsState,
    "tensor": Tensor,
}
SIMPLE = {  # by the first letter of the kind
    "i": int,
    "u": int,
    "f": float,
    "p": bytes,
    "n": NoneType,
}


def records_of(node):
    """Return the fields of every record in a type by the name of the record."""
    inner = [field["type"] for field in node.get("fields", ())] + [case["type"] for case in node.get("cases", ())]
    inner += [node[key] for key in ("then", "else", "of") if key in node]
    own = {node["name"]: node["fields"]} if node["kind"] == "struct" else {}
    return reduce(lambda found, each: found | records_of(each), inner, own)


RECORDS = records_of(reference(FORMATS["ggcp"])["root"])


def types_of(node, fields):
    """Return the types that a value can have. `fields` are those of its record, to which expressions refer."""
    kind = node["kind"]
    if kind == "struct":
        return {PARTS[node["name"]]}
    if kind == "if":
        return types_of(node["then"], fields) | types_of(node["else"], fields)
    if kind == "switch":
        return {each for case in node["cases"] for each in types_of(case["type"], fields)}
    if kind == "computed" and "function" in node["value"]:
        returned = get_type_hints(getattr(inference, node["value"]["function"]))["return"]
        return members(returned) - {NoneType}  # which stands for what damage hides
    if kind == "computed":
        first, _, rest = node["value"]["field"].partition(".")
        found = next(field["type"] for field in fields if field["name"] == first)
        inner = found.get("then", found)
        value = {"kind": "computed", "value": {"field": rest}}
        return types_of(value, inner["fields"]) if rest else types_of(found, fields)
    return {SIMPLE[kind[0]]}


def members(hint):
    return set(get_args(hint)) or {hint}


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"tensor", "adam_state", "adam_state_v0"}))
def test_a_part_is_the_record_of_the_schema(name):
    stated = [(field, members(hint)) for field, hint in get_type_hints(PARTS[name]).items()]
    assert stated == [(field["name"], types_of(field["type"], RECORDS[name])) for field in RECORDS[name]]


def test_adam_has_the_state_of_both_layouts():
    v1, v0 = ({field["name"]: types_of(field["type"], ()) for field in RECORDS[f"adam_state{v}"]} for v in ("", "_v0"))
    stated = {field: members(hint) for field, hint in get_type_hints(records.AdamState).items()}
    assert stated == v1 | {name: types | {NoneType} for name, types in v0.items() if name not in v1}
    assert v1.items() <= v0.items()


def test_no_record_is_without_a_part():
    assert RECORDS.keys() - {"checkpoint", "trailing"} <= PARTS.keys()
