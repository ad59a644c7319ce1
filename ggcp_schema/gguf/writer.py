"""Write entries to a GGUF file. This is the only module that uses `gguf.GGUFWriter`."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

from construct import ConstructError

from ggcp_schema.constructs import NaN
from ggcp_schema.errors import FileError, MalformedError
from ggcp_schema.files.atomic import atomic_output
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.gguf.compare import data_differences, extra_keys, key_differences, table_differences
from ggcp_schema.gguf.entries import (
    ARCHITECTURE,
    Entry,
    Progress,
    TensorEntry,
    key_values,
    sources,
    tensor_data,
    tensor_entries,
)

Inspect = Callable[[TensorEntry, memoryview], None]


def write_gguf(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    *,
    overwrite: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
    inspect: Inspect | None = None,
) -> int:
    """Write the entries to a GGUF file, completely or not at all, and return its size in bytes.

    Tensor data is streamed in constant memory. Before the file gets its name it is opened again and its keys, tensor
    table and size are compared with the entries; with `verify` every byte of data as well. The files that the data
    comes from must not have changed meanwhile. `progress` is called with the number of bytes just copied or compared,
    `inspect` with each chunk of data. `sync` is as in `atomic_output`. Raises `FileError`.
    """
    with atomic_output(path, overwrite=overwrite, sync=sync) as place:
        try:
            _write(place, entries, progress, inspect)
            for source in sources(entries):
                source.check_unchanged()
            difference = next(differences(place, entries, data=verify, progress=progress), None)
        except ConstructError as error:  # an array of the input is read again, and the file has changed
            raise FileError(f"{os.fsdecode(path)} was not written: {error}", "Try again.") from error
        if difference:
            raise FileError(
                f"{os.fsdecode(path)}: verification failed: {difference}",
                "The output was discarded. Either the disk is failing or another program modified the input.",
            )
        return os.stat(place).st_size


def differences(
    path: str | os.PathLike[str], entries: Sequence[Entry], *, data: bool, progress: Progress | None = None
) -> Iterator[str]:
    """Yield what differs between a GGUF file and the entries it should contain: keys, tensor table, size.

    With `data`, compare every byte of the tensors too, in constant memory.
    """
    try:
        with open_gguf(path) as gguf:
            keys, tensors = key_values(entries), tensor_entries(entries)
            yield from map(str, key_differences(gguf, keys))
            yield from (f"{key} is unexpected" for key in extra_keys(gguf, keys))
            yield from map(str, table_differences(gguf, tensors))
            if data:
                yield from map(str, data_differences(gguf, tensors, progress))
    except MalformedError as error:
        yield f"expected {error.expected}, found {error.found}"


def _write(place: str, entries: Sequence[Entry], progress: Progress | None, inspect: Inspect | None) -> None:
    from gguf import GGUFEndian, GGUFValueType, GGUFWriter

    architecture = next(entry.value for entry in key_values(entries) if entry.key == ARCHITECTURE)
    writer = GGUFWriter(place, architecture)
    try:
        for entry in key_values(entries):
            if entry.key != ARCHITECTURE:  # GGUFWriter has written it
                kind, _, item = entry.type.partition("/")
                value = _Elements(entry.value) if item else packable(entry.value)
                element_type = GGUFValueType[item] if item else None
                writer.add_key_value(packable(entry.key), value, GGUFValueType[kind], sub_type=element_type)
        tensors = tensor_entries(entries)
        data = tensor_data(tensors)
        for tensor in tensors:
            streamed = cast(Any, _Streamed(tensor, data, progress, inspect))
            writer.add_tensor(packable(tensor.name), streamed, tensor_endianess=GGUFEndian.LITTLE)
        writer.open_output_file()
        # ext4 (auto_da_alloc) flushes a truncated file when it is first closed. Close it once while it is empty, so
        # that the flush costs nothing; `atomic_output` makes the content durable if that is wanted.
        os.close(os.open(place, os.O_WRONLY))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def packable(value: Any) -> Any:
    """Return a value as one that GGUFWriter writes bit for bit: text as bytes, and a NaN with its sign and payload."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, NaN):
        sign, payload = value.bits >> 31, value.bits & ((1 << 23) - 1)
        return struct.unpack("<d", (sign << 63 | 0x7FF << 52 | payload << 29).to_bytes(8, "little"))[0]
    return value


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

    def __init__(
        self, entry: TensorEntry, data: Iterator[memoryview], progress: Progress | None, inspect: Inspect | None
    ) -> None:
        import numpy as np

        self.shape = entry.shape[::-1]
        self.dtype = np.dtype(np.float32)
        self.nbytes = entry.nbytes
        self.entry, self.data, self.progress, self.inspect = entry, data, progress, inspect

    def tofile(self, file: IO[bytes]) -> None:
        left = self.nbytes
        while left:
            chunk = next(self.data)
            if self.inspect:
                self.inspect(self.entry, chunk)
            file.write(chunk)
            left -= len(chunk)
            if self.progress:
                self.progress(len(chunk))
