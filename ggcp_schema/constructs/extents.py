"""Data that is skipped while parsing, and read only when it is asked for."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from construct import Construct, Container

from ggcp_schema.constructs.described import Described, Node
from ggcp_schema.constructs.errors import DataGoneError, FieldError, count_bytes, negative, too_short
from ggcp_schema.constructs.expressions import compiled, expression_tree
from ggcp_schema.constructs.streams import CHUNK, position, stream_end

BYTE_FORMATS = ("B", "b", "c")
LEAST_HOLE = 1 << 12  # bytes: a block of most filesystems


class Origin:
    """The stream that something was parsed from; its file is opened again if the stream was closed meanwhile.

    Several threads may read from it.
    """

    __slots__ = ("_lock", "path", "stamp", "stream")

    def __init__(self, stream: IO[bytes]) -> None:
        name = getattr(stream, "name", None)
        self.stream: IO[bytes] | None = stream
        self.path = os.path.abspath(os.fsdecode(name)) if isinstance(name, str | bytes) else None
        self.stamp = _stamp(stream)
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            raise TypeError("data that was not read, of a stream that is not a file, cannot be pickled")
        return Origin._reopened, (self.path, self.stamp)

    @classmethod
    def _reopened(cls, path: str, stamp: tuple[int, int] | None) -> Origin:
        origin = object.__new__(cls)
        origin.stream, origin.path, origin.stamp, origin._lock = None, path, stamp, threading.RLock()
        return origin

    @classmethod
    def of(cls, stream: IO[bytes], context: Container) -> Origin:
        """Return the origin that all fields of this parse share."""
        params = context["_params"]
        if "_origin" not in params:
            params["_origin"] = cls(stream)
        origin: Origin = params["_origin"]
        return origin

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Yield the stream, locked for this thread. Keep it only briefly.

        Raises `DataGoneError` if there is none, or if it has changed.
        """
        with self._lock:
            if self.stream is not None and not self.stream.closed:
                self._check_unchanged(self.stream)
                here = self.stream.tell()  # in the middle of a parse if a field is computed from earlier ones
                try:
                    yield self.stream
                finally:
                    self.stream.seek(here)
                return
            if self.path is None:
                raise DataGoneError(None, "the stream that the data was parsed from is closed, and it was not a file")
            with open(self.path, "rb") as stream:
                self._check_unchanged(stream)
                yield stream

    def _check_unchanged(self, stream: IO[bytes]) -> None:
        if _stamp(stream) != self.stamp:
            raise DataGoneError(self.path, "the file has changed since it was parsed")


def _stamp(stream: IO[bytes]) -> tuple[int, int] | None:
    try:
        status = os.fstat(stream.fileno())
    except (OSError, AttributeError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class Extent:
    """Where data lies in the stream: `offset` and `nbytes`. The bytes are read only when `chunks()` is called.

    Extents are equal if their offsets and sizes are: two parses of one file compare equal.
    """

    __slots__ = ("nbytes", "offset", "origin")

    def __init__(self, offset: int, nbytes: int, origin: Origin) -> None:
        self.offset, self.nbytes, self.origin = offset, nbytes, origin

    def __repr__(self) -> str:
        return f"Extent(offset={self.offset}, nbytes={self.nbytes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extent) and (self.offset, self.nbytes) == (other.offset, other.nbytes)

    def __hash__(self) -> int:
        return hash((self.offset, self.nbytes))

    def __deepcopy__(self, memo: dict[int, Any]) -> Extent:
        return self

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB. Raises `DataGoneError` if they are no longer there."""
        at, end = self.offset, self.offset + self.nbytes
        while at < end:
            with self.origin.open() as stream:
                stream.seek(at)
                piece = stream.read(min(end - at, CHUNK))
            if not piece:
                lost = count_bytes(end - at)
                raise DataGoneError(None, f"the data at offset {self.offset} has lost its last {lost}")
            at += len(piece)
            yield piece

    def copy_to(self, stream: IO[bytes]) -> None:
        """Write the bytes to a stream. For a `Hollow` they are not read."""
        if isinstance(stream, Hollow):
            stream.leave(self.nbytes)
            return
        for piece in self.chunks():
            stream.write(piece)


class PatchedExtent(Extent):
    """Data that lies in the stream, but for some bytes: `patches` are bytes, each with its offset in the data."""

    __slots__ = ("patches",)

    def __init__(self, extent: Extent, start: int, data: bytes) -> None:
        super().__init__(extent.offset, extent.nbytes, extent.origin)
        before: Sequence[tuple[int, bytes]] = extent.patches if isinstance(extent, PatchedExtent) else ()
        self.patches: Sequence[tuple[int, bytes]] = (*before, (start, data))

    def chunks(self) -> Iterator[bytes]:
        at = 0
        for piece in super().chunks():
            patched = bytearray(piece)
            for start, data in self.patches:
                begin, end = max(start, at), min(start + len(data), at + len(piece))
                if begin < end:
                    patched[begin - at : end - at] = data[begin - start : end - start]
            at += len(piece)
            yield bytes(patched)


class Hollow(io.RawIOBase):
    """A stream that writes to a file and leaves holes in the place of data, to check what would be built."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file

    def write(self, data: Any) -> int:
        """Write the bytes."""
        return self.file.write(data)

    def tell(self) -> int:
        """Return the number of bytes so far."""
        return self.file.tell()

    def leave(self, nbytes: int) -> None:
        """Leave a hole; a small one is written as zeros, which is faster."""
        if nbytes < LEAST_HOLE:
            self.file.write(bytes(nbytes))
            return
        self.file.truncate(self.file.seek(nbytes, os.SEEK_CUR))


def skip(stream: IO[bytes], nbytes: int, context: Container) -> Extent:
    """Skip `nbytes` of the stream and return where they lie. Raises `FieldError` if the stream ends first."""
    here = position(stream)
    available = stream_end(stream, context) - here
    if nbytes < 0:
        raise negative(here, nbytes)
    if nbytes > available:
        raise too_short(here, nbytes, available)
    stream.seek(here + nbytes)
    return Extent(here, nbytes, Origin.of(stream, context))


class Payload(Described, Construct):
    """Data that is skipped while parsing, and parsed to its `Extent`. Builds from an `Extent` or a buffer.

    The buffer holds bytes, or elements of one of `formats`, which are those of `struct` ("<f"). If it has more than one
    dimension, they must be those of `shape`, an expression. `types` is the table of element types, by number, that the
    expression `nbytes` refers to, for the reference.
    """

    kind = "data"

    def __init__(
        self, nbytes: Any, formats: Collection[str] = (), shape: Any = None, types: Mapping[int, Any] | None = None
    ) -> None:
        super().__init__()
        self.types = types
        self.nbytes, self.nbytes_of, self.formats = nbytes, compiled(nbytes), formats
        self.shape_of = compiled(shape)

    def reference(self) -> Node:
        node: Node = {"kind": "data", "size": expression_tree(self.nbytes)}
        if self.types:
            node["element_types"] = {str(number): kind._asdict() for number, kind in self.types.items()}
        return node

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Extent:
        return skip(stream, self.nbytes_of(context), context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        wanted = self.nbytes_of(context)
        if isinstance(obj, Extent):
            self._check_size(obj.nbytes, wanted, stream)
            obj.copy_to(stream)
            return obj
        try:
            view = memoryview(obj)
        except TypeError:
            raise FieldError(stream.tell(), f"{count_bytes(wanted)} of data", repr(obj)) from None
        self._check_elements(view, stream, context)
        self._check_size(view.nbytes, wanted, stream)
        stream.write(view if view.c_contiguous else view.tobytes())
        return obj

    def _check_size(self, found: int, wanted: int, stream: IO[bytes]) -> None:
        if found != wanted:
            raise FieldError(stream.tell(), f"{count_bytes(wanted)} of data", str(found))

    def _check_elements(self, view: memoryview, stream: IO[bytes], context: Container) -> None:
        if view.format in BYTE_FORMATS:
            return
        own = "<" if sys.byteorder == "little" else ">"
        if (own + view.format if view.format[:1].isalpha() else view.format) not in self.formats:
            expected = " or ".join(["bytes", *(f"elements of format {code!r}" for code in self.formats)])
            raise FieldError(stream.tell(), expected, f"format {view.format!r}")
        shape = self.shape_of(context)
        if view.ndim > 1 and shape is not None and view.shape != tuple(shape):
            raise FieldError(stream.tell(), f"an array of shape {tuple(shape)}", str(view.shape))

    def _sizeof(self, context: Container, path: str) -> int:
        size: int = self.nbytes_of(context)
        return size
