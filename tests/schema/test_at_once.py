"""Records that are read at once are what the parse of their fields gives, also in damaged files."""

from __future__ import annotations

import io
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema.constructs import (
    Extent,
    FieldError,
    LongList,
    Record,
    Struct,
    lists,
    records,
    root_field,
)
from ggcp_schema.constructs.lists import FixedRecord
from ggcp_schema.schema import gguf
from ggcp_schema.schema.checkpoint import CHECKPOINT
from tests.helpers import FIXTURES, thinned


def plain(value: Any) -> Any:
    """Return parsed values with the classes and the order of their records, and the places of their data."""
    if isinstance(value, dict):
        kind = Record if type(value) is FixedRecord else type(value)
        return kind, [(name, plain(item)) for name, item in value.items()]
    if isinstance(value, Extent):
        return value.offset, value.nbytes
    return [plain(item) for item in value] if isinstance(value, list | LongList) else repr(value)


def parsed(schema: Struct, data: bytes) -> Any:
    """Return what a tolerant parse finds: the values, the errors, and the error that ended it."""
    log, end = [], None
    try:
        values = schema.parse_stream(io.BytesIO(data), errors=log)
    except FieldError as error:
        values, end = error.partial, (str(error), error.steps, error.missing)
    return plain(values), end, [(str(error), error.steps) for error in log]


def damaged(schema: Struct, data: bytes) -> list[bytes]:
    """Return the data whole, cut, with a changed byte, with bytes taken out, and with bytes put in."""
    fields = [field.offset for field in root_field(schema, schema.parse(data)).leaves() if field.type != "data"]
    choose, made = random.Random(0), [data]
    for _ in thinned(range(200)):
        at = min(choose.choice(fields) + choose.randrange(4), len(data) - 1)
        changed = data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]
        made += [data[:at], changed, data[:at] + data[at + choose.randrange(40) :], data[:at] + b"\1\0" + data[at:]]
    return made


CASES = [*product(["twin-adam.v0.ggcp", "twin-lbfgs.v1.ggcp", "lora/base.gguf", "vocab.gguf"], [records.MANY, 1])]


@pytest.mark.parametrize(("path", "many"), thinned(CASES, CASES[::3]))
def test_it_is_the_same(path: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (FIXTURES / Path(path)).read_bytes()
    schema = gguf.GGUF if path.endswith("gguf") else CHECKPOINT
    files = damaged(schema, data)
    with monkeypatch.context() as limits:
        limits.setattr(records, "MANY", many)
        limits.setattr(lists, "PACK", 3)
        found = [parsed(schema, each) for each in files]
    monkeypatch.setattr(Struct, "at_once", property(lambda self: None), raising=False)
    for each, values in zip(files, found, strict=True):
        assert parsed(schema, each) == values
