"""An open file with random-access reads; and why one cannot be opened: the file that may have been meant."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import FileError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEAST = 512  # bytes: a block of a disk
MOST_ZEROS = 1 << 30  # bytes at the end of a file
WIDEST = 8  # bytes of the widest number, which no chunk may end inside of
GIVE_A_FILE = "Give a file."
SUGGESTIONS = 3  # files that may have been meant
MOST_NAMES = 10_000  # of a folder, that are compared with the name of a missing file
STREAMS = ("/dev/stdin", "/dev/fd/")  # begin the names of what is another file for the next command


class Rows(NamedTuple):
    """Rows of `size` bytes in a file, each `stride` bytes after the one before; a single one is an (offset, size)."""

    offset: int
    size: int
    n_rows: int = 1
    stride: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes of the rows."""
        return self.size * self.n_rows

    @property
    def is_dense(self) -> bool:
        """True if it is faster to read what lies between the rows too than to read each row alone."""
        return self.stride <= 4 * self.size

    @property
    def buffered(self) -> int:
        """The bytes of memory that reading the rows takes."""
        return (self.n_rows - 1) * self.stride + self.size if self.is_dense and self.n_rows else self.nbytes

    def chunks(self, at: int = 0) -> Iterator[Rows]:
        """Yield the rows in parts for which a buffer of `CHUNK` bytes is enough.

        A row longer than that is cut into pieces. They end at multiples of `CHUNK` in an output where the first byte is
        written at `at`, unless that would be inside of a number.
        """
        offset, size, n_rows, stride = self
        if n_rows > 1 and 0 < size <= CHUNK:
            step = max(1, CHUNK // (stride if self.is_dense else size))
            for row in range(0, n_rows, step):
                yield Rows(offset + row * stride, size, min(step, n_rows - row), stride)
        else:
            for row in range(n_rows):
                done = 0
                while done < size:
                    place = at + row * size + done
                    count = min(CHUNK - (place - place % WIDEST) % CHUNK, size - done)
                    yield Rows(offset + row * stride + done, count)
                    done += count


class Ahead:
    """Reads small pieces of files, one after the other. Several that lie close together take a single read."""

    LARGEST = 1 << 12  # bytes of a piece
    BLOCK = 1 << 14  # bytes that are read at once

    def __init__(self) -> None:
        self.source: Source | None = None
        self.start, self.data = 0, b""

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`. Raises `FileError` if the file has become too short."""
        at = offset - self.start
        if source is not self.source or not 0 <= at <= len(self.data) - size:
            self.source, self.start, at = source, offset, 0
            self.data = source.read(offset, max(size, min(self.BLOCK, source.size - offset)))
        return self.data[at : at + size]


class Source:
    """A file open for reading. `size` is its size in bytes and `modified` its modification time when it was opened.

    Reads do not move the position of `file`, which the parser uses, and may come from several threads. Two sources are
    equal if they are of the same file, which nobody has changed between.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fsdecode(path)
        self.file = open_regular(path)
        self._reader = None if hasattr(os, "preadv") else open_regular(path, buffering=0)  # on Windows
        status = os.fstat(self.file.fileno())
        self.size = status.st_size
        self._identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        self.modified = status.st_mtime
        self._lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"<Source {self.path}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path} is open, and cannot be copied or pickled: pass its path, and open it there")

    def close(self) -> None:
        """Close the file; tensors can no longer be read."""
        self.file.close()
        if self._reader is not None:
            self._reader.close()

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """Yield the file, positioned at its start, for a parser. Errors of the system become `FileError`."""
        self.check_open()
        with self.parsing():
            self.file.seek(0)
            yield self.file

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Let errors of the system, and a file that has changed since it was parsed, become `FileError`."""
        try:
            yield
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise file_error(self.path, error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`. Raises `FileError` if the file has become too short."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def zeros_at_end(self, least: int = LEAST) -> int:
        """Return the offset from which all bytes up to the end are zero; the size if there are fewer than `least`.

        At most 1 GiB is read. If all of it is zero, the offset at which it begins is returned.
        """
        start, most = self.size, max(0, self.size - MOST_ZEROS)
        while start > most:
            size = min(start - most, CHUNK if start < self.size else LEAST)
            piece = self.read(start - size, size)
            left = 0 if piece == bytes(size) else len(piece.rstrip(b"\0"))  # a comparison is much faster
            start -= size - left
            if left:
                break
        return start if self.size - start >= least else self.size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from `offset`. Raises `FileError` if the file has become too short."""
        self.check_open()
        done = 0
        while done < len(buffer):
            try:
                count = self._read_some(buffer[done:], offset + done)
            except OSError as error:
                raise FileError(f"{self.path}: {error.strerror} at offset {offset + done}") from error
            if not count:
                raise self._shrank(offset + len(buffer))
            done += count

    def _read_some(self, buffer: memoryview, offset: int) -> int:
        if self._reader is None:
            return os.preadv(self.file.fileno(), [buffer], offset)
        with self._lock:
            self._reader.seek(offset)
            data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def copy_to(self, target: int, place: int, offset: int, size: int) -> int:
        """Let the system copy bytes to `place` in another open file. Return how many it has copied, which may be none.

        The reason for fewer bytes is not told: reading and writing the others shows it.
        """
        done = 0
        with suppress(AttributeError, OSError):  # not on every system, nor between any two file systems
            while done < size:
                count = os.copy_file_range(self.file.fileno(), target, size - done, offset + done, place + done)
                if not count:
                    break
                done += count
        return done

    def stream(self, extents: Sequence[tuple[int, int] | Rows], at: int = 0) -> Iterator[memoryview]:
        """Yield the bytes of these extents, in order, in chunks of at most 256 KiB of one extent each.

        An extent is (offset, size), or `Rows`, of which a chunk holds whole ones unless one row is larger than a chunk.
        The bytes are for a file, where they begin at `at`: chunks end at multiples of 256 KiB there, which the system
        writes fastest, unless they would end inside of a number.
        A yielded chunk is only valid until the next one is requested, because there is only one buffer.
        """
        rows = [Rows(*extent) for extent in extents]
        buffer = memoryview(bytearray(min(CHUNK, max((extent.buffered for extent in rows), default=0))))
        for extent in rows:
            for chunk in extent.chunks(at):
                yield self._read(buffer, chunk)
            at += extent.nbytes

    def _read(self, buffer: memoryview, chunk: Rows) -> memoryview:
        """Read a chunk into the buffer and return that part of it; rows close to each other are read at once."""
        offset, size, n_rows, stride = chunk
        if chunk.is_dense:
            self.read_into(buffer[: chunk.buffered], offset)
            for row in range(1, n_rows):
                buffer[row * size : (row + 1) * size] = buffer[row * stride : row * stride + size]
        else:
            for row in range(n_rows):
                self.read_into(buffer[row * size : (row + 1) * size], offset + row * stride)
        return buffer[: chunk.nbytes]

    def map(self, offset: int, nbytes: int) -> npt.NDArray[np.float32]:
        """Return a read-only view of little-endian float32 data. Raises `FileError` if the file is too short now."""
        import mmap

        import numpy as np

        self.check_open()
        if os.fstat(self.file.fileno()).st_size < offset + nbytes:
            raise self._shrank(offset + nbytes)
        if not nbytes:
            empty = np.empty(0, "<f4")
            empty.flags.writeable = False
            return empty
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self._lock:  # on Windows mmap moves the position of the descriptor
                descriptor = (self._reader or self.file).fileno()
                mapped = mmap.mmap(descriptor, offset + nbytes - start, access=mmap.ACCESS_READ, offset=start)
        except (OSError, ValueError) as error:
            raise file_error(self.path, error) from error
        return np.frombuffer(mapped, "<f4", nbytes // 4, offset - start)

    def check_open(self) -> None:
        """Check that the file was not closed. Raises `FileError`."""
        if self.file.closed:
            raise FileError(f"{self.path} is closed", "Read tensors inside the `with` block, or open the file again.")

    def check_unchanged(self) -> None:
        """Check that the file has the size and the modification time it had when it was opened. Raises `FileError`."""
        self.check_open()
        status = os.fstat(self.file.fileno())
        if (status.st_size, status.st_mtime_ns) != self._identity[2:]:
            raise FileError(
                f"{self.path} was changed by another program while it was read",
                "Wait until the other program has finished, and try again.",
            )

    def check_same(self) -> None:
        """Check that the path still leads to the file that is open, and that it is unchanged. Raises `FileError`."""
        self.check_unchanged()
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno())):
                return
        raise FileError(f"{self.path} was replaced by another file, or deleted, while it was open", "Open it again.")

    def _shrank(self, end: int) -> FileError:
        size = os.fstat(self.file.fileno()).st_size
        return FileError(
            f"{self.path} was truncated while in use: it has {size:,} bytes, but its data should reach offset {end}",
            "Another program is writing to this file. Wait for it to finish and try again.",
        )


def open_regular(path: str | os.PathLike[str], buffering: int = 4096) -> IO[bytes]:
    """Open a regular file with a small read buffer, since headers are tiny and payloads are skipped.

    Raises `FileError`.
    """
    name = os.fsdecode(path)
    if name == "-":
        raise FileError(
            "cannot read standard input: random access is required",
            "Save it to a file first. If the name of the file really is -, write ./-",
        )
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISREG(mode):
            return open(name, "rb", buffering=buffering)
    except (OSError, ValueError) as error:
        raise file_error(name, error) from error
    if stat.S_ISDIR(mode):
        raise FileError(f"{name} is a directory", GIVE_A_FILE)
    hint = "Random access is required: pass a regular file, not a pipe."
    raise FileError(f"{name} is not a regular file", hint)


def file_error(name: str, error: OSError | ValueError) -> FileError:
    """Return a FileError for an exception of the system: `x.ggcp: No such file or directory`."""
    hint = near(name) if isinstance(error, FileNotFoundError) else ""
    return FileError(f"{name or repr(name)}: {getattr(error, 'strerror', None) or error}", hint)


def near(name: str) -> str:
    """Return a hint for a file that does not exist."""
    import glob

    if os.path.islink(name):
        return f"It is a link to {os.readlink(name)}, which does not exist."
    if glob.has_magic(name) and next(glob.iglob(name), None):
        return "Files match this name, but quotes keep the shell from expanding it."
    if name.startswith("~/"):
        return "Quotes keep the shell from taking ~ for the home folder."
    scheme, slash, _ = name.partition(":/")
    if slash and len(scheme) > 1 and scheme.isalpha():  # C:/ is a drive
        return "This is an address. Download the file, and give its path."
    return f"Did you mean {', '.join(found)}?" if (found := names_like(name)) else ""


def names_like(name: str) -> list[str]:
    """Return the files whose names are like this one, in its folder or in one of nearly its name.

    That both end in .gguf does not make them alike.
    """
    from difflib import get_close_matches

    folder, base = os.path.split(name)
    parent, last = os.path.split(folder)
    folders = [folder]
    if folder and not os.path.isdir(folder):
        folders = [os.path.join(parent, each) for each in get_close_matches(last, _names(parent))]
    stem, found = os.path.splitext(base)[0], list[str]()
    for each in folders:
        stems = {name: os.path.splitext(name)[0] for name in _names(each)}
        alike = {*get_close_matches(stem, {*stems.values()})}
        names = [name for name in stems if stems[name] in alike]
        found += [os.path.join(each, name) for name in get_close_matches(base, names, SUGGESTIONS, cutoff=0)]
    return found[:SUGGESTIONS]


def _names(folder: str) -> list[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return [entry.name for entry in islice(entries, MOST_NAMES)]
    except OSError:
        return []
