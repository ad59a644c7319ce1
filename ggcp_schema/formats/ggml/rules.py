"""The rules of a ggml, ggmf or ggjt file that its schema does not state, and what is odd in it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING

from ggcp_schema.formats.rules import Problem, Refusal, Rules, broken_rows, odd_findings, odd_padding, repeated
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2

if TYPE_CHECKING:
    from ggcp_schema.formats.parsing import Parse


def ggml_rules(parse: Parse) -> Rules:
    """Return what the rules find."""
    version = parse.container.get("version")
    records = parse.container.get("tensors") or ()
    checked = len(records) - bool(records and "_size" not in records[-1])
    types = GGML_TYPES if version == 3 else GGML_TYPES_UNTIL_V2
    errors: list[Iterable[Problem | Refusal]] = [
        repeated("tensors", "name", islice(records, checked)),
        broken_rows("tensors", "ne", islice(records, checked), types),
    ]
    paddings = chain.from_iterable(
        odd_padding(f"tensors[{index}].padding", record.get("padding", b""), record["data"].offset)
        for index, record in enumerate(islice(records, checked))
    )
    return Rules(
        checked,
        None if parse.damage else checked,
        chain.from_iterable(errors),
        chain(paddings, odd_findings(parse.file)),
    )
