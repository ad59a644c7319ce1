"""The rules of a GGUF file that its schema does not state, and what is odd in it.

Errors are what llama.cpp of 2026 refuses; a test compares its verdicts. It also refuses version 1, gaps between
tensors, arrays of arrays, and the byte order of other machines, which are no errors by GGUF's specification: these are
warnings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from math import prod
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.constructs import count_bytes, counted, each
from ggcp_schema.formats.gguf import contents
from ggcp_schema.formats.gguf.doubt import NAMES
from ggcp_schema.formats.gguf.headers import each_whole
from ggcp_schema.formats.rules import Finding, Oddity, Problem, Refusal, Rules, broken_field, odd_padding, repeated
from ggcp_schema.formats.trailing import trailing_bytes
from ggcp_schema.llama.names import ALIGNMENT, ARCHITECTURE, TOKENS
from ggcp_schema.llama.state import Unsound
from ggcp_schema.schema.ggml import GGML_TYPES, REMOVED_TYPES, type_name
from ggcp_schema.schema.gguf import BIG, DEFAULT_ALIGNMENT, MAX_ALIGNMENT, Extents, in_order

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile
    from ggcp_schema.formats.parsing import Parse

ALIGNMENT_TYPE, BOOL, STRING, ARRAY = 4, 7, 8, 9  # UINT32
MAX_NAME = 64  # bytes of a tensor's name with its terminator: ggml's GGML_MAX_NAME
MAX_DIMS = 4  # ggml's GGML_MAX_DIMS
SAID = {*contents.SPLIT_TYPES, "byte_order", "trailing", TOKENS}  # the paths of findings that are warnings
MAX_ELEMENTS = (1 << 63) - 1
MAX_REPEATED = 20  # names of which a finding says that they are used twice
FOREIGN = (
    "big: llama.cpp refuses the file where numbers are little-endian, as on most machines; "
    "`gguf-convert-endian FILE little` of the package gguf changes it in place, so copy it before"
)
NO_UTF8 = re.compile("[\udc80-\udcff]")  # the bytes that are not
NO_TEXT = re.compile("[\0\udc80-\udcff]")  # NUL, and bytes that are not UTF-8
HOLE = re.compile("\0{16,}(?=[^\0])|\udcff{16,}")  # in a text, which zeros may follow


def gguf_rules(parse: Parse, file: GgufFile) -> Rules:
    """Return what the rules find."""
    container = parse.container
    places = _refused_places(container) if "data_start" in container else ()
    errors: list[Iterable[Problem | Refusal]] = [
        repeated("metadata_kv", "key", each_whole(container, "metadata_kv")),
        repeated("tensor_infos", "name", each_whole(container, "tensor_infos")),
        _refused_keys(each_whole(container, "metadata_kv")),
        _refused_tensors(each_whole(container, "tensor_infos")),
        places,
        (broken_field(file.find(key), expected, found) for key, expected, found in contents.odd_parts(file)),
    ]
    is_odd = parse.damage or parse.errors
    missing = contents.needs_architecture(file) and not (is_odd or ARCHITECTURE in file.key_values)
    odd = (finding for finding in file.findings if finding.path in SAID)
    warnings = chain(
        _odd_keys(each_whole(container, "metadata_kv")),
        _odd_paddings(file),
        [Oddity("version", 4, "is 1, which llama.cpp refuses")] * (container.get("version") == 1),
        [Oddity("metadata_kv", 0, f"the key {ARCHITECTURE} is missing")] * missing,
        (
            Oddity(field.path, field.offset, finding.message)
            for finding in chain(odd, odd_texts(file))
            for field in [file.find(finding.path)]
        ),
    )
    lost = container.get("_lost", ())
    whole = sum(end <= file.size and index not in lost for index, (_, end) in enumerate(file.extents))
    return Rules(whole, container.get("tensor_count"), chain.from_iterable(errors), warnings)


def _odd_keys(keys: Iterable[Container]) -> Iterator[Oddity]:
    for index, item in enumerate(keys):
        kind, value, path = item["value_type"], item["value"], f"metadata_kv[{index}].value"
        if kind == ARRAY and value["type"] == ARRAY:
            yield Oddity(path, value["_offset"], "is an array of arrays, which llama.cpp refuses")
        elif kind == BOOL and not isinstance(value, bool):
            yield Oddity(path, item["_offset"] + item["_size"] - 1, f"is {value}, but a bool is 0 or 1")
        elif kind == ARRAY and value["type"] == BOOL:
            flags, end = value["array"], item["_offset"] + item["_size"]
            at, odd = next(((at, flag) for at, flag in enumerate(flags) if not isinstance(flag, bool)), (0, None))
            if odd is not None:
                text = f"is {odd}, but a bool is 0 or 1"
                yield Oddity(f"{path}.array[{at}]", end - len(flags) + at, text)


def _odd_paddings(file: GgufFile) -> Iterator[Oddity]:
    for path in ("padding", "end_padding"):
        padding = file.root.child(path)
        if padding is not None:
            yield from odd_padding(path, padding.value, padding.end)
    is_told = "_begins" in file.container  # by damaged headers, so that a tensor that is lost would be padding
    for index, data in enumerate(file.container.get("tensor_data") or ()):
        if "_size" not in data or is_told:
            continue
        start: int = data["_offset"]
        end, usual = data["data"].offset, -start % file.container["alignment"]
        path = f"tensor_data[{index}].padding"
        yield from odd_padding(path, data["padding"], end)
        if end - start > usual:
            text = f"{count_bytes(end - start)} of padding, where {usual} would do; llama.cpp refuses a gap"
            yield Oddity(path, start, text)


def _refused_keys(keys: Iterable[Container]) -> Iterator[Refusal]:
    for index, item in enumerate(keys):
        refuse, value = _refusing("metadata_kv", index, item), item["value"]
        if not item["key"]:
            yield refuse("a key", "none", "key")
        if item["key"] == ALIGNMENT and item["value_type"] != ALIGNMENT_TYPE:
            yield refuse(f"{ALIGNMENT_TYPE} (UINT32)", item["value_type"], "value_type")
        elif item["key"] == ALIGNMENT and value.bit_count() != 1:
            yield refuse("a power of two", value, "value")
        elif item["key"] == ALIGNMENT and value > MAX_ALIGNMENT:
            yield refuse(f"at most {MAX_ALIGNMENT}", value, "value")


def _refusing(place: str, index: int, record: Container) -> Callable[..., Refusal]:
    """Return what makes an error of a record from what llama.cpp expects, what it finds, and the field."""

    def refuse(expected: str, found: Any, *steps: str | int) -> Refusal:
        return Refusal(record["_offset"], (place, index, *steps), expected, str(found))

    return refuse


def _refused_tensors(infos: Iterable[Container]) -> Iterator[Refusal]:
    for index, info in enumerate(infos):
        refuse, dimensions, number = _refusing("tensor_infos", index, info), info["dimensions"], info["type"]
        length = len(info["name"].encode("utf-8", "surrogateescape"))
        if length >= MAX_NAME:
            yield refuse(f"fewer than {MAX_NAME} bytes", length, "name")
        if info["n_dimensions"] > MAX_DIMS:
            yield refuse(f"at most {MAX_DIMS}", info["n_dimensions"], "n_dimensions")
        if max(prod(dimensions), *dimensions, 0) > MAX_ELEMENTS:
            yield refuse("fewer than 2**63 elements", list(dimensions), "dimensions")
        if number not in GGML_TYPES or number in REMOVED_TYPES:
            found = f"{number} ({type_name(number)})" if number in GGML_TYPES else number
            yield refuse("a type that llama.cpp of 2026 has", found, "type")
        elif dimensions and dimensions[0] % GGML_TYPES[number].block_size:
            kind = GGML_TYPES[number]
            yield refuse(
                f"a multiple of {kind.block_size} (the block size of {kind.name})", dimensions[0], "dimensions", 0
            )


def _refused_places(container: Container) -> Iterator[Refusal]:
    """Yield the offsets of tensors that are not aligned, and of those whose data does not follow that of the last.

    A gap between the data of two tensors is not among them, nor are places to which inserted or lost bytes moved it.
    """
    if container.get("_begins"):
        return
    alignment, start = container["alignment"], container["data_start"]
    places, end, before = Extents(container), start, -1
    for index in in_order(places):
        (offset, stop), expected = places[index], ""
        if (offset - start) % alignment:
            expected = f"a multiple of {alignment} (alignment)"
        elif offset < end:
            expected = f"at least {end - start}, the end of the data of tensor_infos[{before}]"
        elif index < before:
            expected = f"the offset to be less than that of tensor_infos[{before}], as the index is"
        if expected:
            yield _refusing("tensor_infos", index, container["tensor_infos"][index])(expected, offset - start, "offset")
        end, before = max(end, stop or offset), index


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
    yield from islice(odd_texts(gguf), MAX_REPEATED)
    yield from contents.odd_split_keys(gguf)
    yield from contents.missing_parts(gguf)
    yield from contents.odd_tokens(gguf)


def odd_texts(gguf: GgufFile) -> Iterator[Finding]:
    """Yield a finding for each text that damage may have left: a name that no program writes, a value with no UTF-8."""
    for place, field in NAMES.items():
        for index, text in enumerate(each(gguf.container.get(place) or (), field)):
            if text and NO_TEXT.search(text):
                shown = text.encode("utf-8", "surrogateescape")[:64]
                yield Finding(f"{place}[{index}].{field}", f"{shown!r} is no text")
    for item in each_whole(gguf.container, "metadata_kv"):
        found = NO_UTF8.findall(item["value"]) if item["value_type"] == STRING else ()
        if found and not HOLE.search(item["value"]):
            at = _offset_in(item, item["value"].index(found[0]))
            words = f"{counted(len(found), 'byte')} of the text {'is' if len(found) == 1 else 'are'} not UTF-8"
            yield Finding(item["key"], f"{words}; the first is byte {at:,} of the file")


def lost_texts(gguf: GgufFile) -> Iterator[Unsound]:
    """Yield the holes in the values that are texts, as a lost page leaves them: runs of zeros or of 0xFF."""
    for item in each_whole(gguf.container, "metadata_kv"):
        text = item["value"] if item["value_type"] == STRING else ""
        if hole := HOLE.search(text):
            begin = _offset_in(item, hole.start())
            fill, stop = "zeros" if hole[0][0] == "\0" else "0xFF", begin + len(hole[0])
            message = f"bytes {begin:,} to {stop - 1:,} of the file are {fill}, which no text has"
            yield Unsound(item["key"], begin, stop, "hole-in-text", message)


def _offset_in(item: Container, index: int) -> int:
    """Return the offset in the file of a character of a key's value, with which its record ends."""
    offset: int = item["_offset"] + item["_size"]
    return offset - len(item["value"][index:].encode("utf-8", "surrogateescape"))


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
