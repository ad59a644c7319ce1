"""An open file from which tensor data is read at random places, and the tensors in it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import IO, TYPE_CHECKING, Any

from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.filetype import open_regular

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK = 1 << 21
READ_AHEAD = 2  # pieces
READ_AHEAD_FROM = 64  # pieces; for fewer a thread costs more than it gains


class Source:
    """A file open for reading; `size` in bytes is that at the time it was opened."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = open_regular(path)
        self.size = os.fstat(self.file.fileno()).st_size

    def close(self) -> None:
        self.file.close()

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """The file from its start, for a parser; what the system refuses to read becomes a `FileError`."""
        self.insist_open()
        try:
            self.file.seek(0)
            yield self.file
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror}") from error

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer from that offset. Raises `FileError` if the file has become too short."""
        self.insist_open()
        fd, done = self.file.fileno(), 0
        while done < len(buffer):
            try:
                count = os.preadv(fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise FileError(f"{self.path}: {error.strerror} at offset {offset + done}") from error
            if not count:
                raise self._shrank(offset + len(buffer))
            done += count

    def stream(self, extents: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """The bytes of these (offset, size) extents, in order, in pieces of at most 2 MiB of one extent each.

        While the caller works on one piece the next two are read, which makes copying as fast as cp; so a piece
        is good only until the next is asked for.
        """
        pieces = [
            (at, min(CHUNK, start + size - at)) for start, size in extents for at in range(start, start + size, CHUNK)
        ]
        if len(pieces) < READ_AHEAD_FROM:
            for offset, size in pieces:
                yield self._read(memoryview(bytearray(size)), offset)
            return
        from concurrent.futures import Future, ThreadPoolExecutor

        buffers = [memoryview(bytearray(CHUNK)) for _ in range(READ_AHEAD + 1)]
        ahead: deque[Future[memoryview]] = deque()
        with ThreadPoolExecutor(max_workers=1) as reader:
            for turn, (offset, size) in enumerate(pieces):
                ahead.append(reader.submit(self._read, buffers[turn % len(buffers)][:size], offset))
                if len(ahead) == len(buffers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, buffer: memoryview, offset: int) -> memoryview:
        self.read_into(buffer, offset)
        return buffer

    def map(self, offset: int, nbytes: int) -> npt.NDArray[np.float32]:
        """A read-only float32 view of a piece of the file. Raises `FileError` if the file has become too short."""
        import numpy as np

        self.insist_open()
        if os.fstat(self.file.fileno()).st_size < offset + nbytes:
            raise self._shrank(offset + nbytes)
        if not nbytes:
            empty = np.empty(0, "<f4")
            empty.flags.writeable = False
            return empty
        return np.memmap(self.file, dtype="<f4", mode="r", offset=offset, shape=(nbytes // 4,))

    def insist_open(self) -> None:
        """Raises `FileError` if the file was closed."""
        if self.file.closed:
            raise FileError(f"{self.path}: is closed", "Read tensors inside the `with` block, or open the file again.")

    def _shrank(self, end: int) -> FileError:
        size = os.fstat(self.file.fileno()).st_size
        return FileError(
            f"{self.path}: was cut short while in use: {size} bytes, where data up to {end} was expected",
            "Something else writes to the file; wait for it, then open it again.",
        )


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, unread.

    `path` is its field path (`layers[0].wq`), or its name in a GGUF file. `shape` is in ggml order, the first
    number the fastest-varying; a NULL tensor has shape `()` and no data. `offset` and `nbytes` are in bytes.
    `type` is ggml's name of the element type: F32 in every checkpoint. `padding` bytes lie before the data.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    source: Source = field(repr=False, compare=False)
    type: str = "F32"
    padding: int = 0

    @property
    def is_null(self) -> bool:
        return not self.shape

    @property
    def n_elements(self) -> int:
        return prod(self.shape) if self.shape else 0

    def array(self) -> npt.NDArray[np.float32]:
        """A read-only float32 view of the data, of numpy's shape: `shape` reversed.

        The view maps the file and outlives the checkpoint it comes from. Raises `FileError` if the file is
        closed or has become too short, `UsageError` if the elements are not F32.
        """
        if self.type != "F32":
            raise UsageError(f"{self.path}: holds {self.type}; only F32 is read")
        return self.source.map(self.offset, self.nbytes).reshape(self.shape[::-1] if self.shape else (0,))

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes from `start` to `stop`, in pieces of at most 2 MiB, each overwritten when the next is asked for."""
        stop = self.nbytes if stop is None else min(stop, self.nbytes)
        return self.source.stream([(self.offset + start, max(0, stop - start))])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        return np.asarray(self.array(), dtype=dtype)
