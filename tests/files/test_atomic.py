"""An output appears complete or not at all, and nothing else is left."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files import atomic
from ggcp_schema.files.atomic import ExistsError, abandon_output, atomic_output, check_output
from tests.files.writers import kill, refuse, start
from tests.helpers import thinned

LENGTHS = [1, 230, 236, 237, 243, 254, 255]  # bytes of a name; 255 is the most that Linux allows


@pytest.fixture(params=["nameless", "named", "without links", "without locks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to write: to a file without a name, or to a temporary one, on filesystems with and without hard links
    and on systems with and without flock."""
    if request.param != "nameless":
        monkeypatch.delattr(os, "O_TMPFILE")
    if request.param == "without links":
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    if request.param == "without locks":
        monkeypatch.setattr(atomic, "fcntl", None)
    return str(request.param)


def write(
    path: Path, content: bytes = b"new", *, overwrite: bool = False, meanwhile: Callable[[], object] = bool
) -> None:
    with atomic_output(path, overwrite=overwrite) as place:
        Path(place).write_bytes(content)
        meanwhile()


# Without interruption --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_new_file(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_where_the_way_leads(way: str, tmp_path: Path) -> None:
    """So that the other tests do test both ways."""
    with atomic_output(tmp_path / "out", overwrite=False) as place:
        assert place.startswith("/proc/self/fd/") == (way == "nameless")
        assert len(os.listdir(tmp_path)) == (0 if way == "nameless" else 1)


@pytest.mark.usefixtures("way", "umask")
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.usefixtures("way", "umask")
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    out.chmod(mode)
    write(out, overwrite=True)
    assert (out.read_bytes(), stat.S_IMODE(out.stat().st_mode)) == (b"new", mode)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_whoever_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with out.open("rb") as old:
        write(out, overwrite=True)
        assert old.read() == b"old"


@pytest.mark.usefixtures("way")
def test_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/file")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "far") == ["file"]


@pytest.mark.usefixtures("way")
def test_a_dangling_link_gives_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write(tmp_path / "link")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "name",
    ["with space", "-dash", "ünïcode", "new\nline", os.fsdecode(b"\xff\xfe"), *("x" * n for n in LENGTHS), "ü" * 127],
)
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    write(tmp_path / name, b"newer", overwrite=True)
    assert (tmp_path / name).read_bytes() == b"newer"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.usefixtures("way")
def test_a_path_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("out"))
    assert os.listdir(tmp_path) == ["out"]


# With an error ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_what_was(error: type[BaseException], existing: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if existing:
        out.write_bytes(b"old")

    def fail() -> None:
        raise error("in the middle")

    with pytest.raises(FileError if error is OSError else error):
        write(out, overwrite=True, meanwhile=fail)
    assert os.listdir(tmp_path) == (["out"] if existing else [])
    assert not existing or out.read_bytes() == b"old"


@pytest.mark.usefixtures("way")
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExistsError, match="already exists"):
        write(out, meanwhile=lambda: out.write_bytes(b"another's"))
    assert out.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_appears_meanwhile_is_kept(overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileError, match=r"out( already exists|: Is a directory)"):
        write(out, overwrite=overwrite, meanwhile=out.mkdir)
    assert os.listdir(tmp_path) == ["out"]
    assert out.is_dir()


@pytest.mark.usefixtures("way")
def test_a_failing_rename_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")

    monkeypatch.setattr(os, "replace", refuse(errno.EIO))
    with pytest.raises(FileError, match="out: Input/output error"):
        write(out, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_bytes() == b"old"


@pytest.mark.usefixtures("way")
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal comes from a stand-in for the system call."""
    real = os.open

    def open_elsewhere(path: str, flags: int, *rest: int) -> int:
        if (flags & os.O_RDWR and os.path.dirname(path).startswith(str(tmp_path))) or path == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest)

    with monkeypatch.context() as patch:  # not for pytest, which removes the folder
        patch.setattr(os, "open", open_elsewhere)
        with pytest.raises(FileError, match="out: Permission denied"):
            write(tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", [0o600, 0o400, 0])
def test_the_new_content_is_as_private_as_the_old(mode: int, tmp_path: Path) -> None:
    """While it is written, too; and the owner can write it then, even if the old file is read-only."""
    out = tmp_path / "out"
    out.write_bytes(b"old")
    out.chmod(mode)
    with atomic_output(out, overwrite=True) as place:
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
        Path(place).write_bytes(b"new")
    assert stat.S_IMODE(out.stat().st_mode) == mode


@pytest.mark.usefixtures("way")
def test_a_set_user_id_bit_is_not_passed_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    out.chmod(0o4755)
    write(out, overwrite=True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.usefixtures("way")
def test_errors_of_this_package_pass_unchanged(tmp_path: Path) -> None:
    """A `FileError` is an `OSError` too, but speaks of another file than the output."""
    for error in (FileError("in: Input/output error"), UsageError("no")):
        with pytest.raises(type(error)) as caught, atomic_output(tmp_path / "out", overwrite=False):
            raise error
        assert caught.value is error


# Durable ---------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that make a file durable or visible, in order."""
    made: list[str] = []

    def record(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            made.append("fsync folder" if folder else name)
            return real(*args, **options)

        return call

    for name in ("fsync", "link", "replace"):
        monkeypatch.setattr(os, name, record(name))
    return made


def test_the_file_is_on_the_disk_before_it_gets_its_name(calls: list[str], tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert calls == ["fsync", "link", "fsync folder"]


def test_the_file_is_on_the_disk_before_it_replaces_another(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    write(tmp_path / "out", overwrite=True)
    assert calls == ["fsync", "link", "link", "replace", "fsync folder"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_named_file_is_on_the_disk_before_it_gets_its_name(
    overwrite: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    write(tmp_path / "out", overwrite=overwrite)
    assert calls == ["fsync", "replace" if overwrite else "link", "fsync folder"]


def test_without_sync_nothing_waits_for_the_disk(calls: list[str], tmp_path: Path) -> None:
    with atomic_output(tmp_path / "out", overwrite=False, sync=False) as place:
        Path(place).write_bytes(b"new")
    assert calls == ["link"]


@pytest.mark.usefixtures("way")
def test_what_cannot_be_brought_to_the_disk_does_not_get_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(FileError, match="out: Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def fail_for_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: refuse(number)() if stat.S_ISDIR(os.fstat(fd).st_mode) else real(fd))


def test_a_folder_that_cannot_be_synchronized_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_for_folders(monkeypatch, errno.EIO)
    with pytest.raises(FileError, match="out was written, but its folder cannot be synchronized with the disk"):
        write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_filesystem_that_does_not_synchronize_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_for_folders(monkeypatch, errno.EINVAL)
    write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


# Other writers, living and dead ----------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from ggcp_schema.files.atomic import atomic_output
way, path = sys.argv[1:]
if way == "named":
    del os.O_TMPFILE
else:  # killed between the two steps of replacing
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
with atomic_output(path, overwrite=True) as place:
    with open(place, "wb") as file:
        file.write(b"another's")
    if way == "named":
        print("ready", flush=True)
        sys.stdin.read()
"""
KILLS = [*product(["out", "x" * 255], ["nameless", "named"])]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("name", "killed"), thinned(KILLS, KILLS[::3]))
def test_what_a_killed_writer_left_is_removed_by_the_next(name: str, killed: str, tmp_path: Path) -> None:
    out = tmp_path / name
    out.write_bytes(b"old")
    for _ in range(2):
        kill(WRITER, killed, out)
        assert out.read_bytes() == b"old"
        assert len(os.listdir(tmp_path)) == 2
    write(out, overwrite=True)
    assert out.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [name]


def test_what_a_writer_to_another_output_left_is_not_touched(tmp_path: Path) -> None:
    kill(WRITER, "named", tmp_path / "other")
    (left,) = os.listdir(tmp_path)
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [left, "out"]


@pytest.mark.parametrize("way", ["nameless", "named"], indirect=True)
def test_the_file_of_a_living_writer_is_not_removed(way: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = start(WRITER, "named", out)
    write(out, overwrite=True)
    assert out.read_bytes() == b"new"
    assert len(os.listdir(tmp_path)) == 2
    writer.communicate()
    assert writer.returncode == 0
    assert out.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("locked", [False, True])
def test_a_file_that_is_removed_before_it_is_locked_is_created_again(
    locked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Between its creation and its locking, another process may take it for an abandoned one and lock or remove it."""
    monkeypatch.delattr(os, "O_TMPFILE")
    real, taken = atomic.fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if not taken:
            taken.extend(os.listdir(tmp_path))
            (tmp_path / taken[0]).unlink()
            if locked:
                raise BlockingIOError
        real(fd, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    with atomic_output(tmp_path / "out", overwrite=False) as place:
        assert os.path.exists(place)
        assert os.path.basename(place) not in taken
        Path(place).write_bytes(b"new")
    assert len(taken) == 1
    assert (tmp_path / "out").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("way", ["nameless", "named"], indirect=True)
def test_a_signal_handler_can_abandon_an_output(way: str, tmp_path: Path) -> None:
    out = tmp_path / secrets.token_hex()  # other tests in this process may have written to a folder of the same name
    out.write_bytes(b"old")
    with suppress(FileError), atomic_output(out, overwrite=True) as place:
        Path(place).write_bytes(b"new")
        assert str(out) not in abandon_output()
        assert os.listdir(tmp_path) == [out.name]
        raise FileError("the process ends here")
    assert out.read_bytes() == b"old"
    write(out, overwrite=True)
    assert abandon_output()[-1] == str(out)


# What may be an output -------------------------------------------------------------------------------------


def refuse_output(output: Path, message: str, source: Path = Path(__file__)) -> None:
    with pytest.raises(FileError, match=message):
        check_output(output, (source,))


def test_an_existing_file_is_overwritten_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with atomic_output(tmp_path / "out", overwrite=True) as place:
        Path(place).touch()
    with pytest.raises(ExistsError) as caught, atomic_output(tmp_path / "out", overwrite=False):
        pass
    assert str(caught.value) == f"{tmp_path / 'out'} already exists\nUse force=True to overwrite it."
    assert caught.value.option == "force"


def test_what_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    refuse_output(Path("-"), "cannot write to standard output: the output is read again")
    refuse_output(tmp_path, "is a directory")
    refuse_output(Path(os.devnull), "is not a regular file")
    refuse_output(tmp_path / "fifo", "is not a regular file")
    refuse_output(tmp_path / "none" / "out", "the folder .*none does not exist")
    refuse_output(tmp_path / "file" / "out", "Not a directory")
    refuse_output(tmp_path / "loop", "Too many levels of symbolic links")


def test_a_descriptor_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the file is lost and cannot be created again: the number may be that of another thread's file by then."""
    monkeypatch.delattr(os, "O_TMPFILE")
    close, closed = os.close, []

    def flock(fd: int, operation: int) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        monkeypatch.setattr(os, "open", refuse(errno.EMFILE))

    def close_and_tell(fd: int) -> None:
        closed.append(fd)
        close(fd)

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    monkeypatch.setattr(os, "close", close_and_tell)
    with pytest.raises(FileError, match="Too many open files"), atomic_output(tmp_path / "out", overwrite=False):
        pass
    assert len(closed) == 1


@pytest.mark.parametrize("name", ["new/", ""])
def test_a_name_of_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=f"'{name}' is not the name of a file\nGive the name of the file to write"):
        check_output(name, ())


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "another spelling"])
def test_the_input_is_no_output(how: str, tmp_path: Path) -> None:
    source = tmp_path / "in.ggcp"
    source.touch()
    output = tmp_path / "out"
    if how == "itself":
        output = source
    elif how == "hard link":
        os.link(source, output)
    elif how == "symbolic link":
        output.symlink_to(source)
    else:
        (tmp_path / "sub").mkdir()
        output = tmp_path / "sub" / ".." / "in.ggcp"
    refuse_output(output, "output and input are the same file", source)
