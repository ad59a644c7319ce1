"""ggml's element types: names and sizes. They are numbered as in the files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import starmap
from math import prod
from typing import Any, NamedTuple


class GgmlType(NamedTuple):
    """An element type: blocks of `block_size` elements, which occupy `type_size` bytes each."""

    name: str
    block_size: int
    type_size: int


# fmt: off
GGML_TYPES = dict(enumerate(starmap(GgmlType, (  # the number of the first type stands after each row
    ("F32", 1, 4), ("F16", 1, 2), ("Q4_0", 32, 18), ("Q4_1", 32, 20), ("Q4_2", 16, 10),  # 0
    ("Q4_3", 16, 12), ("Q5_0", 32, 22), ("Q5_1", 32, 24), ("Q8_0", 32, 34), ("Q8_1", 32, 36),  # 5
    ("Q2_K", 256, 84), ("Q3_K", 256, 110), ("Q4_K", 256, 144), ("Q5_K", 256, 176), ("Q6_K", 256, 210),  # 10
    ("Q8_K", 256, 292), ("IQ2_XXS", 256, 66), ("IQ2_XS", 256, 74), ("IQ3_XXS", 256, 98), ("IQ1_S", 256, 50),  # 15
    ("IQ4_NL", 32, 18), ("IQ3_S", 256, 110), ("IQ2_S", 256, 82), ("IQ4_XS", 256, 136), ("I8", 1, 1),  # 20
    ("I16", 1, 2), ("I32", 1, 4), ("I64", 1, 8), ("F64", 1, 8), ("IQ1_M", 256, 56),  # 25
    ("BF16", 1, 2), ("Q4_0_4_4", 32, 18), ("Q4_0_4_8", 32, 18), ("Q4_0_8_8", 32, 18), ("TQ1_0", 256, 54),  # 30
    ("TQ2_0", 256, 66), ("IQ4_NL_4_4", 32, 18), ("IQ4_NL_4_8", 32, 18), ("IQ4_NL_8_8", 32, 18), ("MXFP4", 32, 17),  # 35
    ("NVFP4", 64, 36), ("Q1_0", 128, 18), ("Q2_0", 64, 18),  # 40
))))
# fmt: on
"""The types of GGUF files, and of ggjt version 3: those of llama.cpp in 2026, and removed ones."""

LATER_VERSION = ", a later version than this program knows"
"""What a message adds to the number of a version."""

REMOVED_TYPES = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
"""The numbers of the types that llama.cpp no longer reads."""

GGML_TYPES_UNTIL_V2 = {
    **{number: GGML_TYPES[number] for number in (0, 1, 4, 5, 6, 7)},
    2: GgmlType("Q4_0", 32, 20),
    3: GgmlType("Q4_1", 32, 24),
    8: GgmlType("Q8_0", 32, 36),
}
"""The types until ggjt version 2 (12 May 2023), whose scales were float32. Version 3 made them half as wide."""

UNQUANTIZED = frozenset({"F32", "F16"})
TYPES_OF_GGUF = {2: UNQUANTIZED | {"Q5_0", "Q5_1"}, 3: frozenset(kind.name for kind in GGML_TYPES.values())}
"""The types whose data is laid out as in GGUF, by the version of ggjt; before version 2 only unquantized ones.

Version 2 (12 May 2023) changed the order of the bits in Q4_0, Q4_1, Q5_0 and Q5_1, version 3 (19 May 2023) the width of
the scales in Q4_0, Q4_1 and Q8_0. GGUF took over the blocks of version 3.
"""


def type_name(number: int) -> str:
    """Return the name of an element type of a GGUF file; `type 139` for an unknown one."""
    return GGML_TYPES[number].name if number in GGML_TYPES else f"type {number}"


def names_of(types: dict[int, GgmlType]) -> dict[int, str]:
    """Return the names of the types by number."""
    return {number: kind.name for number, kind in types.items()}


def kaitai_size(types: Mapping[int, GgmlType], ne: str, n_dims: str, max_dims: int) -> dict[str, Any]:
    """Return what `kaitai` needs for `data_size`: the expression, and the tables of the types as instances."""
    known = [types.get(number, GgmlType("", 0, 0)) for number in range(max(types) + 1)]
    others = "".join(f" * ({n_dims} > {i} ? {ne}[{i}] : 1)" for i in range(1, max_dims))
    return {
        "value": f"({ne}[0] + block_size - 1) / block_size * type_size{others}",
        "instances": {
            "block_size": {"value": f"{[kind.block_size for kind in known]}[type.to_i]"},
            "type_size": {"value": f"{[kind.type_size for kind in known]}[type.to_i]"},
        },
    }


def data_size(kind: GgmlType, ne: list[int]) -> int:
    """Return the size of a tensor's data in bytes. A NULL tensor, which has no dimensions, has no data.

    A row, the first dimension, is a whole number of blocks.
    """
    return -(-ne[0] // kind.block_size) * kind.type_size * prod(ne[1:]) if ne else 0
