"""The content of a GGUF output. This is the only module that uses `gguf.GGUFWriter`."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple, cast

from ggcp_schema.constructs import NaN, counted
from ggcp_schema.errors import UnfitError
from ggcp_schema.files.compare import Difference, data_differences, table_differences
from ggcp_schema.files.contents import Copy, Inspect
from ggcp_schema.files.key_values import ALIGNMENT, ARCHITECTURE, QUIET, KeyValue, quieted
from ggcp_schema.files.tensor_entries import Progress, TensorEntry
from ggcp_schema.files.values import LISTS, first_different, same_value
from ggcp_schema.formats.gguf.file import GgufFile, open_gguf


class Gguf(NamedTuple):
    """The content of a GGUF file: keys, among them `general.architecture`, and tensors, both in file order."""

    keys: Sequence[KeyValue]
    tensors: Sequence[TensorEntry] = ()

    @property
    def nbytes(self) -> int:
        """The bytes of tensor data."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def write(self, place: str, *, progress: Progress | None = None, inspect: Inspect | None = None) -> None:
        """Write the file, with tensor data streamed in constant memory. The parameters are those of `Content`."""
        from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter

        architecture = next(entry.value for entry in self.keys if entry.key == ARCHITECTURE)
        writer, kinds = GGUFWriter(place, architecture), GGMLQuantizationType.__members__
        copy = Copy(progress, inspect)
        try:
            for entry in self.keys:
                if entry.key != ARCHITECTURE:  # GGUFWriter has written it
                    kind, _, item = entry.type.partition("/")
                    value = _Elements(entry.value) if item else packable(entry.value)
                    element_type = GGUFValueType[item] if item else None
                    writer.add_key_value(packable(entry.key), value, GGUFValueType[kind], sub_type=element_type)
            for tensor in self.tensors:
                kind = kinds.get(tensor.type)
                if kind is None:
                    raise UnfitError(f"tensor {tensor.name} is {tensor.type}, which the gguf package cannot write")
                streamed = cast(Any, _Streamed(tensor, copy))
                writer.add_tensor(packable(tensor.name), streamed, raw_dtype=kind, tensor_endianess=GGUFEndian.LITTLE)
            writer.open_output_file()
            # ext4 (auto_da_alloc) flushes a truncated file when it is first closed. Close it once while it is empty,
            # so that the flush costs nothing; the content is made durable before the file gets its name.
            os.close(os.open(place, os.O_WRONLY))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        with open_gguf(place) as gguf:
            yield from differences(gguf, self.keys, self.tensors, data=data, progress=progress)
            yield from (Difference("key", key, "is unexpected") for key in extra_keys(gguf, self.keys))


def packable(value: Any) -> Any:
    """Return a value as GGUFWriter writes it bit for bit: text as bytes, and a NaN with its sign and payload."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, NaN):
        return struct.unpack("<d", _bits_of_double(value).to_bytes(8, "little"))[0]
    return value


def _bits_of_double(value: NaN) -> int:
    """Return the bits of the double that is packed to this NaN."""
    if value.size == 8:
        return value.bits
    sign, payload = value.bits >> 31, (value.bits | QUIET) & ((1 << 23) - 1)
    return sign << 63 | 0x7FF << 52 | payload << 29


class _Elements(Sequence[Any]):
    """The elements of an array, converted one at a time when GGUFWriter asks for them."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return packable(self.values[index])

    def __iter__(self) -> Iterator[Any]:
        return map(packable, self.values)


class _Streamed:
    """A substitute for an ndarray: GGUFWriter uses only its shape, dtype, nbytes and tofile()."""

    dtype = None  # the type of the elements is given separately

    def __init__(self, entry: TensorEntry, copy: Copy) -> None:
        self.shape, self.nbytes = entry.shape[::-1], entry.nbytes
        self.entry, self.copy = entry, copy

    def tofile(self, file: IO[bytes]) -> None:
        self.copy.write(self.entry, file)


# Comparing -----------------------------------------------------------------------------------------------


def differences(
    gguf: GgufFile,
    keys: Sequence[KeyValue],
    tensors: Sequence[TensorEntry],
    *,
    data: bool = True,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """Compare the keys, the tensor table, the end, and with `data` every byte of the tensors, in constant memory.

    Keys beyond those expected are not reported: see `extra_keys`.
    """
    yield from key_differences(gguf, keys)
    yield from table_differences(gguf.tensors, tensors)
    if "trailing" in gguf:
        yield Difference("file", "", f"has {counted(gguf['trailing'].nbytes, 'byte')} after its end")
    if data:
        yield from data_differences(gguf.tensors, tensors, progress)


def key_differences(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[Difference]:
    """Compare keys, types and values. Keys beyond those expected are not reported: see `extra_keys`."""
    for entry in expected:
        found = gguf.key_values.get(entry.key)
        if found is None:
            yield Difference("key", entry.key, "is missing")
        elif found.type != entry.type:
            yield Difference("key", entry.key, f"has type {found.type}, expected {entry.type}")
        elif message := _difference(found.value, entry.value, entry.type):
            yield Difference("key", entry.key, message)


def _difference(found: Any, expected: Any, kind: str) -> str:
    """Return how values differ as they are written: of FLOAT32 numbers all NaNs are quiet ones. Empty if they do not.

    Of arrays the first element that differs is shown.
    """
    if not isinstance(expected, LISTS):
        return "" if same_value(found, expected) else f"is {_shown(found)}, expected {_shown(expected)}"
    if len(found) != len(expected):
        return f"has {len(found):,} elements, expected {len(expected):,}"
    if kind == "ARRAY/FLOAT32":
        found, expected = list(map(quieted, found)), list(map(quieted, expected))
    index = first_different(found, expected)
    return "" if index is None else f"has [{index}] {_shown(found[index])}, expected {_shown(expected[index])}"


def _shown(value: Any) -> str:
    """Return a value for a message: a NaN with its bits, the beginning of a long text."""
    return f"NaN ({value.bits:#x})" if isinstance(value, NaN) else f"{value!r:.100}"


def extra_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> list[str]:
    """Return the keys of the file that are not among those expected, in file order."""
    known = {entry.key for entry in expected} | {ALIGNMENT}
    return [key for key in gguf.key_values if key not in known]
