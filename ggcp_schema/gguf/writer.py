"""Writes entries to a GGUF file. The one module that touches `gguf.GGUFWriter`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from ggcp_schema.atomic import atomic_output
from ggcp_schema.errors import FileError, MalformedError
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import Entry, Progress, TensorEntry, key_values, tensor_data, tensor_entries
from ggcp_schema.gguf.verify import differences


def write_gguf(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    *,
    overwrite: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> int:
    """Writes the entries to a GGUF file, all or nothing, and gives its size in bytes.

    Tensor data is streamed in constant memory. Before the file takes its name it is opened again and its
    keys, tensor table and size are compared with the entries; with `verify` every byte of data as well.
    `progress` is called with the number of bytes just copied or compared. Raises `FileError`.
    """
    with atomic_output(path, overwrite=overwrite) as place:
        _write(place, entries, progress)
        try:
            difference = next(differences(place, entries, data=verify, progress=progress), None)
        except MalformedError as error:
            difference = f"{error.expected} is expected, but {error.found}"
        if difference:
            raise FileError(
                f"{os.fspath(path)}: was not written as it should be: {difference}",
                "Nothing was kept. This may be a failing disk, or another program at work on the input.",
            )
        return os.stat(place).st_size


def _write(place: str, entries: Sequence[Entry], progress: Progress | None) -> None:
    from gguf import GGUFEndian, GGUFValueType, GGUFWriter

    architecture = next(entry.value for entry in key_values(entries) if entry.key == keys.ARCHITECTURE)
    writer = GGUFWriter(place, architecture)
    try:
        for entry in key_values(entries):
            if entry.key != keys.ARCHITECTURE:  # GGUFWriter has written it
                kind, _, item = entry.type.partition("/")
                writer.add_key_value(
                    entry.key, entry.value, GGUFValueType[kind], sub_type=GGUFValueType[item] if item else None
                )
        tensors = tensor_entries(entries)
        data = tensor_data(tensors)
        for tensor in tensors:
            streamed = cast(Any, _Streamed(tensor, data, progress))
            writer.add_tensor(tensor.name, streamed, tensor_endianess=GGUFEndian.LITTLE)
        writer.open_output_file()
        os.close(os.open(place, os.O_WRONLY))  # ext4 flushes at the first close after a truncation: spend it now
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


class _Streamed:
    """What GGUFWriter needs of an array: it copies its bytes when it is told to write itself."""

    def __init__(self, entry: TensorEntry, data: Iterator[memoryview], progress: Progress | None) -> None:
        import numpy as np

        self.shape = entry.shape[::-1]
        self.dtype = np.dtype(np.float32)
        self.nbytes = entry.nbytes
        self.data, self.progress = data, progress

    def tofile(self, file: IO[bytes]) -> None:
        left = self.nbytes
        while left:
            piece = next(self.data)
            file.write(piece)
            left -= len(piece)
            if self.progress:
                self.progress(len(piece))
