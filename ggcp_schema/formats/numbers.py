"""Whether bytes are numbers of a model: those, and the scales of blocks, have usual sizes, other bytes nearly any."""

from __future__ import annotations

import struct

from ggcp_schema.files.source import Source
from ggcp_schema.schema.ggml import GGML_TYPES
from ggcp_schema.schema.gguf import BIG

WINDOW = 512  # bytes that are looked at
F32 = 1e-20, 1e4, 8
F16 = 0, 64, 16
FLOATS = {"F32": ("<f", *F32), "F16": ("<e", *F16), "BF16": ("<f", *F32[:2], 16)} | {
    f"{BIG} F32": (">f", *F32),
    f"{BIG} F16": (">e", *F16),
}
"""How numbers are stored, the sizes that those of a model are between, and how many of them are not so by chance."""

SCALES = {  # where they are in a block
    "<e{}x": "Q1_0 Q2_0 Q4_0 Q5_0 Q8_0 IQ1_S IQ2_S IQ2_XS IQ2_XXS IQ3_S IQ3_XXS IQ4_NL IQ4_XS",
    "<ee{}x": "Q4_1 Q4_K Q5_1 Q5_K",
    "<{}xe": "Q3_K Q6_K TQ1_0 TQ2_0",
    "<{}xee": "Q2_K",
}
SIZES = {kind.name: kind.type_size for kind in GGML_TYPES.values()} | {f"{BIG} F32": 4, f"{BIG} F16": 2}
RANGES = FLOATS | {
    name: (code.format(SIZES[name] - 2 * code.count("e")), 0, 4, 16)
    for code, names in SCALES.items()
    for name in names.split()
}


def sizes_of_numbers(source: Source, kind: str, start: int, stop: int) -> list[float]:
    """Return the sizes of numbers, or of the scales of blocks, without their signs."""
    data, code = source.read(start, max(0, stop - start)), RANGES[kind][0]
    if kind == "BF16":  # the upper halves of F32
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data) - 1, 2))
    data = data[: len(data) - len(data) % struct.calcsize(code)]
    return [abs(number) for block in struct.iter_unpack(code, data) for number in block]


def are_numbers(source: Source, kind: str, start: int, stop: int) -> bool | None:
    """Return True if these bytes are numbers of a model, False if not, None if there are too few to tell."""
    if kind not in RANGES or start >= stop or stop > source.size:
        return None
    _, above, below, enough = RANGES[kind]
    numbers = [*filter(None, sizes_of_numbers(source, kind, start, stop))]
    if not all(above < number < below for number in numbers):
        return False
    return len(numbers) >= enough or None


def are_added(source: Source, kind: str, begin: int, end: int) -> bool:
    """Return True if the bytes after a tensor, from `end` on, were added there, and not inserted into it.

    Its last numbers are where it ends, and not where the file does.
    """
    if kind not in FLOATS:
        return False
    size = SIZES[kind]
    count = max(1, min(source.size - end, WINDOW) // size) * size
    is_moved = are_numbers(source, kind, source.size - count, source.size)
    return is_moved is False and are_numbers(source, kind, max(begin, end - count), end) is not False
