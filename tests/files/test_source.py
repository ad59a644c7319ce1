"""Reading from a file: the right bytes, and clear errors if they are gone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import FileError
from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.files import source as module
from ggcp_schema.files.source import Rows, Source


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "numbers"
    path.write_bytes(np.arange(300, dtype=np.uint16).tobytes())
    return path


def without_preadv(patch: pytest.MonkeyPatch) -> None:
    """Make this system lack what Windows lacks."""
    patch.delattr(os, "preadv")


@given(
    extents=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=8),
    chunk=st.integers(1, 40),
    windows=st.booleans(),
)
def test_pieces_cover_the_extents_exactly(
    numbers: Path, extents: list[tuple[int, int]], chunk: int, windows: bool
) -> None:
    data = numbers.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        if windows:
            without_preadv(patch)
        source = Source(numbers)
        pieces = [bytes(piece) for piece in source.stream(extents)]
        source.close()
    assert b"".join(pieces) == b"".join(data[start : start + size] for start, size in extents)
    assert max(map(len, pieces), default=0) <= chunk


@pytest.mark.parametrize(("at", "ends"), [(0, 0), (1056, 0), (1058, 2)])
def test_chunks_end_where_a_file_is_written_fastest_but_never_inside_of_a_number(
    at: int, ends: int, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(bytes(1_000_000))
    source = Source(tmp_path / "data")
    pieces = [len(piece) for piece in source.stream([(32, 300_000), (500_000, 400_000)], at)]
    places = [at + sum(pieces[:number]) for number in range(1, len(pieces))]
    source.close()
    assert sum(pieces) == 700_000
    assert [place % CHUNK for place in places if place != at + 300_000] == [ends] * (len(places) - 1)


@given(
    extents=st.lists(st.builds(Rows, *(st.integers(0, most) for most in (200, 12, 6, 20))), max_size=8),
    chunk=st.integers(1, 40),
)
def test_rows_that_lie_apart_are_joined(numbers: Path, extents: list[Rows], chunk: int) -> None:
    data, source = numbers.read_bytes(), Source(numbers)
    extents = [rows if rows.stride >= rows.size else rows._replace(stride=rows.size) for rows in extents]
    starts = [(rows.offset + row * rows.stride, rows.size) for rows in extents for row in range(rows.n_rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        pieces = [bytes(piece) for piece in source.stream(extents)]
    source.close()
    assert b"".join(pieces) == b"".join(data[start : start + size] for start, size in starts)
    assert max(map(len, pieces), default=0) <= chunk


def test_without_preadv_the_same_file_is_read_after_chdir(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_preadv(monkeypatch)
    monkeypatch.chdir(numbers.parent)
    source = Source(numbers.name)
    source.file.seek(17)
    (tmp_path / numbers.name).write_bytes(bytes(600))
    monkeypatch.chdir(tmp_path)
    assert source.read(10, 20) == numbers.read_bytes()[10:30]
    assert source.file.tell() == 17
    source.close()
    with pytest.raises(FileError, match="is closed"):
        source.read(0, 1)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("at", [0, 3, 30])
def test_a_stream_that_ends_early_is_an_error(
    numbers: Path, at: int, windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(numbers.read_bytes())
    monkeypatch.setattr(module, "CHUNK", 16)
    if windows:
        without_preadv(monkeypatch)
    source = Source(path)
    pieces = source.stream([(0, 600)])
    for _ in range(at):
        next(pieces)
    os.truncate(path, at * 16)
    with pytest.raises(FileError, match="was truncated while in use"):
        list(pieces)
    source.close()


def test_a_stream_may_be_left_early(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk is full: the reader must not hang, nor fail because the file is closed."""
    monkeypatch.setattr(module, "CHUNK", 16)
    source = Source(numbers)
    pieces = source.stream([(0, 600)])
    assert bytes(next(pieces)) == numbers.read_bytes()[:16]
    pieces.close()
    source.close()


def test_two_streams_of_one_file_do_not_mix(numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    data = numbers.read_bytes()
    source = Source(numbers)
    for index, (a, b) in enumerate(zip(source.stream([(0, 288)]), source.stream([(300, 288)]), strict=True)):
        assert bytes(a) == data[index * 16 : index * 16 + 16]
        assert bytes(b) == data[300 + index * 16 : 316 + index * 16]
    source.close()


# Changes ---------------------------------------------------------------------------------------------------


def change_size(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")
    os.utime(path, ns=(0, 0))


def change_time(path: Path) -> None:
    os.utime(path, ns=(0, 10**9))


@pytest.mark.parametrize("change", [change_size, change_time])
def test_a_file_that_changed_is_noticed(tmp_path: Path, change: object) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(0, 0))
    source = Source(path)
    source.check_unchanged()
    change(path)
    with pytest.raises(FileError, match=r"file was changed by another program while it was read\nWait until the other"):
        source.check_unchanged()
    source.close()
    with pytest.raises(FileError, match=r"is closed\nRead tensors inside the `with` block"):
        source.check_unchanged()


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("offset", [0, 4, 4092, 1 << 16, (1 << 16) + 8])
def test_a_map_leaves_the_position_of_the_parser(offset: int, windows: bool, tmp_path: Path) -> None:
    """Which may be at work in another thread."""
    numbers = np.arange(20_000, dtype="<f4")
    numbers.tofile(tmp_path / "file")
    with pytest.MonkeyPatch.context() as patch:
        if windows:
            without_preadv(patch)
        source = Source(tmp_path / "file")
        source.file.seek(12)
        array = source.map(offset, 100)
        assert source.file.read(4) == numbers[3:4].tobytes()
        source.close()
    assert array.tobytes() == numbers[offset // 4 : offset // 4 + 25].tobytes()
    assert not array.flags.writeable


def test_an_array_of_a_file_that_shrank_is_refused(tmp_path: Path) -> None:
    """Reading a map beyond the end of its file would end the process."""
    path = tmp_path / "file"
    path.write_bytes(bytes(64))
    source = Source(path)
    assert source.map(0, 64).shape == (16,)
    assert source.map(64, 0).shape == (0,)
    os.truncate(path, 60)
    with pytest.raises(FileError, match="it has 60 bytes, but its data should reach offset 64"):
        source.map(0, 64)
    source.close()


# Files that cannot be opened -------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere: No such file or directory"):
        Source(tmp_path / "nowhere")
    with pytest.raises(FileError, match="is a directory"):
        Source(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match=r"is not a regular file\nRandom access is required"):
        Source(tmp_path / "fifo")  # and is not waited for
    with pytest.raises(FileError, match="embedded null"):
        Source("a\0b")


def test_every_error_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Source(tmp_path / "nowhere")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(name, "wb") as file:
        file.write(b"content")
    for path in (name, os.fsdecode(name)):
        source = Source(path)
        assert source.read(0, 7) == b"content"
        assert os.fsencode(source.path) == name
        source.close()
