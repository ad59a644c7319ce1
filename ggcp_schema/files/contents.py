"""What a file can be filled with: bytes, text, JSON, or tensors as safetensors. For GGUF see `mapping.gguf`."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import IO, Any, NamedTuple, Protocol

from ggcp_schema.constructs.errors import counted
from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import MalformedError, UnfitError
from ggcp_schema.files.compare import Difference, data_differences, json_differences, table_differences
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.source import Ahead, Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import Progress, TensorEntry

Inspect = Callable[[TensorEntry, bytes | memoryview], None]
RESERVED = 1 << 20  # bytes for which it is worth while to reserve room
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""The element types of safetensors files, with their sizes in bytes."""
ALIGNMENT = 8  # of their data
METADATA = "__metadata__"  # the name of what is no tensor in their headers
MAX_HEADER = 100_000_000  # bytes, as the safetensors package allows
MAX_DIMS = 64  # as numpy allows
MAX_DIFFERENCES = 10  # of a JSON file
MAX_QUOTED = 200  # characters that an error repeats
TensorInfo = tuple[str, str, tuple[int, ...]]
"""The name of a tensor, its element type, and its shape in numpy's order."""


class Content(Protocol):
    """The whole content of a file that is to be written."""

    @property
    def tensors(self) -> Sequence[TensorEntry]:
        """The tensors, in the order in which their data is written."""

    @property
    def nbytes(self) -> int:
        """The bytes of data that will be written, which are nearly all of the file: for a bar of progress."""

    def write(self, place: str, *, progress: Progress | None = None, inspect: Inspect | None = None) -> None:
        """Write the file in constant memory. An existing one is overwritten.

        `progress` is called with the number of bytes just written, `inspect` with each chunk of a tensor's data.
        """

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        """Yield how a file differs from this content, in constant memory. Data of tensors is only compared with `data`.

        Raises `MalformedError` for a file of tensors that cannot be read.
        """


@dataclass(frozen=True)
class Blob:
    """Bytes."""

    data: bytes

    tensors: tuple[TensorEntry, ...] = ()

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def write(self, place: str, *, progress: Progress | None = None, inspect: Inspect | None = None) -> None:
        with open(place, "wb") as file:
            file.write(self.data)
        if progress:
            progress(len(self.data))

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        with closing(Source(place)) as source:
            if source.size != len(self.data) or source.read(0, source.size) != self.data:
                yield Difference("file", "", f"is another one than the expected {counted(len(self.data), 'byte')}")
        if data and progress:
            progress(len(self.data))


class Text(Blob):
    """Text, written as UTF-8. Bytes of a file name that are not are replaced."""

    def __init__(self, text: str) -> None:
        super().__init__(text.encode(errors="replace"))

    @property
    def text(self) -> str:
        return self.data.decode()


@dataclass(frozen=True)
class Json(Blob):
    """An object in JSON. Other bytes of the same values are no difference, nor is any value of the keys `free`."""

    free: Collection[str] = ()

    @property
    def value(self) -> dict[str, Any]:
        """The object."""
        value: dict[str, Any] = json.loads(self.data)
        return value

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        if any(super().differences(place, data=data, progress=progress)):
            expected, found = (
                {key: item for key, item in value.items() if key not in self.free}
                for value in (self.value, read_json(place))
            )
            for path, text in islice(json_differences(expected, found), MAX_DIFFERENCES):
                yield Difference("file", path, text)


def read_json(place: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `FileError`, or `MalformedError`."""
    try:
        with closing(Source(place)) as source:
            value = json.loads(source.read(0, source.size))
    except (ValueError, RecursionError) as error:
        raise malformed_json(place, "JSON", str(error)) from error
    if not isinstance(value, dict):
        raise malformed_json(place, "an object", type(value).__name__)
    return value


def malformed_json(place: str | os.PathLike[str], expected: str, found: str) -> MalformedError:
    """Return the error for a JSON file that has not what was written."""
    message = f"{os.fsdecode(place)}: expected {expected}, found {found}"
    return MalformedError(message, "Export the folder again.", path="file", offset=0, expected=expected, found=found)


@dataclass(frozen=True)
class Safetensors:
    """A safetensors file: the length of the header (UINT64), the header (JSON), the data, all little-endian.

    Shapes in the header are those of numpy, in which the last number is the fastest-varying. Raises `UnfitError` for a
    tensor of a type that safetensors does not have, or for two of the same name.
    """

    metadata: Mapping[str, str]
    tensors: Sequence[TensorEntry]

    def __post_init__(self) -> None:
        names = set()
        for tensor in self.tensors:
            if tensor.type not in DTYPES:
                raise UnfitError(
                    f"tensor {tensor.name} is {tensor.type}, but safetensors files get {', '.join(DTYPES)} only"
                )
            if tensor.name in names or tensor.name == "__metadata__":
                raise UnfitError(f"a safetensors file cannot have two entries named {tensor.name}")
            names.add(tensor.name)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def header(self) -> bytes:
        """Return what precedes the data."""
        return header([(tensor.name, tensor.type, tensor.shape[::-1]) for tensor in self.tensors], self.metadata)

    def write(self, place: str, *, progress: Progress | None = None, inspect: Inspect | None = None) -> None:
        with open(place, "wb") as file:
            file.write(self.header())
            copy = Copy(progress, inspect)
            for tensor in self.tensors:
                copy.write(tensor, file)

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        with closing(Source(place)) as source:
            tensors, found = read_tensors(source)
            if not isinstance(found, dict) or not self.metadata.items() <= found.items():
                yield Difference("file", METADATA, f"is {json.dumps(found):.100}, expected {json.dumps(self.metadata)}")
            yield from table_differences(tensors, self.tensors)
            if data:
                yield from data_differences(tensors, self.tensors, progress)
            source.check_unchanged()


@json_keys("path offset size reason")
class Patch(NamedTuple):
    """Bytes to replace: the path of their field, where they lie, what takes their place, and why.

    `content` yields the new bytes, in pieces.
    """

    path: str
    offset: int
    size: int
    reason: str
    content: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Patched:
    """A copy of a file in which some bytes are others. No two of the patches are of the same bytes."""

    source: Source
    patches: Sequence[Patch]

    tensors: tuple[TensorEntry, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.source.size

    def _chunks(self) -> Iterator[bytes | memoryview]:
        at = 0
        for patch in sorted(self.patches, key=lambda patch: patch.offset):
            yield from self.source.stream([(at, patch.offset - at)], at)
            yield from patch.content()
            at = patch.offset + patch.size
        yield from self.source.stream([(at, self.source.size - at)], at)

    def write(self, place: str, *, progress: Progress | None = None, inspect: Inspect | None = None) -> None:
        with open(place, "wb") as file:
            for data in self._chunks():
                file.write(data)
                if progress:
                    progress(len(data))
        self.source.check_unchanged()

    def differences(self, place: str, *, data: bool, progress: Progress | None = None) -> Iterator[Difference]:
        with open(place, "rb") as file:
            if os.fstat(file.fileno()).st_size != self.source.size:
                yield Difference("file", "", "has not the size of the file that was copied")
            elif data:
                for chunk in self._chunks():
                    if file.read(len(chunk)) != chunk:
                        yield Difference("file", "", "differs from the file that was copied")
                        return
                    if progress:
                        progress(len(chunk))


class Copy:
    """Writes the data of tensors, one after the other; the parameters are those of `Content.write`."""

    def __init__(self, progress: Progress | None, inspect: Inspect | None) -> None:
        self.progress, self.inspect, self._ahead = progress, inspect, Ahead()

    def write(self, tensor: TensorEntry, file: IO[bytes]) -> None:
        """Write a tensor's data."""
        small = tensor.small(self._ahead)
        chunks: Iterable[bytes | memoryview] = () if small is None else (small,)
        if small is None:
            _reserve(file, tensor.nbytes)
            if blocks := tensor.blocks():
                self._copy(tensor, blocks, file)
            else:
                chunks = tensor.chunks(file.tell() if tensor.nbytes > CHUNK else 0)
        for chunk in chunks:
            self._look(tensor, chunk)
            file.write(chunk)

    def _copy(self, tensor: TensorEntry, blocks: Iterable[tuple[int, int]], file: IO[bytes]) -> None:
        """Let the system copy a tensor's data, which is faster than writing it, and look at the data meanwhile."""
        from concurrent.futures import ThreadPoolExecutor

        (source,) = tensor.sources
        file.flush()
        with ThreadPoolExecutor(1) as system:
            for offset, size in blocks:
                place = file.tell()
                copying = system.submit(source.copy_to, file.fileno(), place, offset, size)
                if self.inspect:
                    for chunk in source.stream([(offset, size)]):
                        self._look(tensor, chunk)
                elif self.progress:
                    self.progress(size)
                done = copying.result()
                file.seek(place + done)
                for chunk in source.stream([(offset + done, size - done)], place + done):
                    file.write(chunk)

    def _look(self, tensor: TensorEntry, chunk: bytes | memoryview) -> None:
        if self.inspect:
            self.inspect(tensor, chunk)
        if self.progress:
            self.progress(len(chunk))


def _reserve(file: IO[bytes], nbytes: int) -> None:
    """Take room on the disk for bytes that will be written next, which makes writing them faster, where that works."""
    if nbytes < RESERVED or not hasattr(os, "posix_fallocate"):
        return
    file.flush()
    try:
        os.posix_fallocate(file.fileno(), file.tell(), nbytes)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


# Safetensors ------------------------------------------------------------------------------------------------


def header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return what precedes the data in the file, in which that of the tensors follows each other in this order."""
    entries, end = [f'"{METADATA}": {json.dumps(dict(metadata))}'], 0
    for name, dtype, shape in tensors:
        start, end = end, end + prod(shape) * DTYPES[dtype]
        entry = f'"dtype": "{dtype}", "shape": {list(shape)}, "data_offsets": [{start}, {end}]'
        entries.append(f"{json.dumps(name)}: {{{entry}}}")
    text = f"{{{', '.join(entries)}}}".encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def read_tensors(source: Source) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors in a safetensors file by name, and its metadata: None or, if it is sound, texts by key.

    Raises `MalformedError`, also for types that are not written.

    As the safetensors package demands, the data has no holes, no overlaps, and nothing after it.
    Shapes are those of ggml, in which the first number is the fastest-varying.
    """
    size = int.from_bytes(source.read(0, 8), "little") if source.size >= 8 else source.size
    if size > min(source.size - 8, MAX_HEADER):
        raise _malformed(source, "a header that the file has", f"one of {size:,} bytes")
    start, found = 8 + size, {}
    try:
        entries = json.loads(source.read(8, size).decode("utf-8"))
        metadata = entries.pop(METADATA, None)
        for name, entry in entries.items():
            shape, (first, last) = _numbers(entry["shape"]), _numbers(entry["data_offsets"])
            if last - first != prod(shape) * DTYPES[entry["dtype"]]:
                raise ValueError(f"tensor {name} of {entry['dtype']} {shape} at {first} to {last}")
            found[name] = Tensor(name, name, shape[::-1], start + first, last - first, source, entry["dtype"])
        end = start
        for tensor in sorted(found.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
            if tensor.offset != end:
                raise ValueError(f"tensor {tensor.name} at {tensor.offset - start}, after others to {end - start}")
            end += tensor.nbytes
        if end != source.size:
            raise ValueError(f"tensors to {end - start} of {source.size - start} bytes of data")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = f"a table of tensors in {', '.join(DTYPES)} that fill the file"
        raise _malformed(source, expected, f"{error!s:.{MAX_QUOTED}}") from error
    return found, metadata


def _numbers(values: Any) -> tuple[int, ...]:
    """Return numbers of elements or bytes. Raises `ValueError` for anything else."""
    if not isinstance(values, list) or len(values) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError(f"{values!r:.{MAX_QUOTED}} in place of numbers")
    return tuple(values)


def _malformed(source: Source, expected: str, found: str) -> MalformedError:
    message = f"{source.path}: header: expected {expected}, found {found}"
    return MalformedError(message, "Write the file again.", path="header", offset=8, expected=expected, found=found)
