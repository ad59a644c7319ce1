"""What is odd in a GGUF file that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ggcp_schema.constructs import each
from ggcp_schema.formats.gguf.contents import missing_parts, odd_split_keys, odd_tokens
from ggcp_schema.formats.rules import Finding
from ggcp_schema.formats.trailing import trailing_bytes
from ggcp_schema.llama.names import ALIGNMENT
from ggcp_schema.schema.gguf import BIG, DEFAULT_ALIGNMENT

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

MAX_REPEATED = 20  # names of which a finding says that they are used twice
NAMES = {"metadata_kv": "key", "tensor_infos": "name"}  # the fields with names, by the list of records
FOREIGN = (
    "big: llama.cpp refuses the file where numbers are little-endian, as on most machines; "
    "`gguf-convert-endian FILE little` of the package gguf changes it in place, so copy it before"
)
NO_TEXT = re.compile("[\0\udc80-\udcff]")  # NUL, and bytes that are not UTF-8


def oddities(gguf: GgufFile) -> Iterator[Finding]:
    """Yield what is odd: the alignment, the byte order, bytes after the end, names, parts, and tokens."""
    stated = gguf.value(ALIGNMENT, DEFAULT_ALIGNMENT)
    used = gguf.container.get("alignment", stated)
    if stated != used:
        yield Finding("alignment", f"{ALIGNMENT} is {stated}, but {used} is used")
    if gguf.byte_order == BIG:
        yield Finding("byte_order", FOREIGN)
    yield from trailing_bytes(gguf.container)
    for place, field in NAMES.items():
        again = _repeated(gguf, place, field)
        yield from islice(again, MAX_REPEATED)
        if more := sum(1 for _ in again):
            yield Finding(place, f"{more:,} more of these have the {field} of another")
    yield from islice(odd_names(gguf), MAX_REPEATED)
    yield from odd_split_keys(gguf)
    yield from missing_parts(gguf)
    yield from odd_tokens(gguf)


def odd_names(gguf: GgufFile) -> Iterator[Finding]:
    """Yield a finding for each name of a key or a tensor that no program writes, as damage may leave it."""
    for place, field in NAMES.items():
        for index, text in enumerate(each(gguf.container.get(place) or (), field)):
            if text and NO_TEXT.search(text):
                shown = text.encode("utf-8", "surrogateescape")[:64]
                yield Finding(f"{place}[{index}].{field}", f"{shown!r} is no text")


def _repeated(gguf: GgufFile, place: str, field: str) -> Iterator[Finding]:
    """Yield a finding for each record with the key or the name of an earlier one."""
    texts = [text for text in each(gguf.container.get(place) or (), field) if text is not None]
    if len(set(texts)) == len(texts):
        return
    seen: dict[str, int] = {}
    for index, text in enumerate(texts):
        if seen.setdefault(text, index) != index:
            message = f"{text!r} is also the {field} of {place}[{seen[text]}]; llama.cpp refuses such a file"
            yield Finding(f"{place}[{index}].{field}", message)
