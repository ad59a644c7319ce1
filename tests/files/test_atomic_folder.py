"""An output folder appears complete or not at all, and nothing else is left."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema.errors import FileError
from ggcp_schema.files import atomic, atomic_folder
from ggcp_schema.files.atomic import ExistsError, abandon_output
from ggcp_schema.files.atomic_folder import check_folder
from tests.files.writers import kill, refuse, start

NAMES = ("config.json", "model.safetensors")
OLD, NEW = dict.fromkeys(NAMES, b"old"), dict.fromkeys(NAMES, b"new")


@pytest.fixture(params=["exchange", "rename", "without locks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to write: where two names can be exchanged and where they cannot, with and without locks."""
    if request.param == "rename":
        monkeypatch.setattr(atomic_folder, "renameat2", lambda *names: False)
    if request.param == "without locks":
        monkeypatch.setattr(atomic, "fcntl", None)
    return str(request.param)


def make(folder: Path, files: dict[str, bytes] = OLD) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(folder: Path, *, overwrite: bool = False, meanwhile: Callable[[], object] = bool, sync: bool = True) -> None:
    with atomic_folder.atomic_folder(folder, NAMES, overwrite=overwrite, sync=sync) as place:
        for name in NAMES:
            (Path(place) / name).write_bytes(b"new")
        meanwhile()


# Without interruption --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder(existing: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if existing:
        make(out)
    write(out, overwrite=existing, meanwhile=lambda: out.exists() == existing)
    assert content(out) == NEW
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_an_empty_folder_and_one_with_some_of_the_files_are_replaced(tmp_path: Path) -> None:
    make(tmp_path / "empty", {})
    make(tmp_path / "some", {NAMES[0]: b"old"})
    for name in ("empty", "some"):
        write(tmp_path / name, overwrite=True)
        assert content(tmp_path / name) == NEW
    assert sorted(os.listdir(tmp_path)) == ["empty", "some"]


@pytest.mark.usefixtures("way", "umask")
def test_the_permissions(tmp_path: Path) -> None:
    """Of a new folder they are those that the umask gives; one that is replaced passes on its own."""
    out = tmp_path / "out"
    write(out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o750
    assert {stat.S_IMODE((out / name).stat().st_mode) for name in NAMES} == {0o640}
    out.chmod(0o700)
    (out / NAMES[1]).chmod(0o600)
    seen = []

    def look() -> None:
        (temporary,) = tmp_path.glob(".ggcp-*")
        seen.append(stat.S_IMODE(temporary.stat().st_mode))

    write(out, overwrite=True, meanwhile=look)
    assert seen == [0o700]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert [stat.S_IMODE((out / name).stat().st_mode) for name in NAMES] == [0o640, 0o600]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ["out/", "x" * 255, "a b", "\udcff"])
def test_names_of_any_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with atomic_folder.atomic_folder(name, NAMES, overwrite=True) as place:
            (Path(place) / NAMES[0]).write_bytes(b"new")
        assert content(tmp_path / name) == {NAMES[0]: b"new"}
    assert os.listdir(tmp_path) == [name.rstrip("/")]


@pytest.mark.usefixtures("way")
def test_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    make(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")
    write(tmp_path / "link", overwrite=True)
    assert content(tmp_path / "folder") == NEW
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


# Interrupted -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_what_was(error: type[BaseException], existing: bool, tmp_path: Path) -> None:
    if existing:
        make(tmp_path / "out")

    def fail() -> None:
        raise error

    with pytest.raises(FileError if error is OSError else error):
        write(tmp_path / "out", overwrite=True, meanwhile=fail)
    assert os.listdir(tmp_path) == ["out"] * existing
    assert not existing or content(tmp_path / "out") == OLD


@pytest.mark.usefixtures("way")
def test_any_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the old one or the new one, and nothing is beside it."""
    number = calls = 0  # which call fails, and how many there were
    while number <= calls:
        number, calls = number + 1, 0
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "out")

        def counted(name: str, number: int = number) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch, suppress(FileError):
            for name in ("open", "mkdir", "chmod", "fsync", "rename", "listdir", "stat", "fstat"):
                patch.setattr(os, name, counted(name))
            write(folder / "out", overwrite=True)
        assert content(folder / "out") in (OLD, NEW), number
        assert os.listdir(folder) == ["out"], number
    assert content(folder / "out") == NEW  # no call failed
    assert number > 10


@pytest.mark.usefixtures("way")
def test_a_file_that_comes_into_the_old_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    with pytest.raises(FileError, match="out contains notes, which is none of the files"):
        write(out, overwrite=True, meanwhile=lambda: (out / "notes").write_bytes(b"mine"))
    assert content(out) == OLD | {"notes": b"mine"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_comes_in_the_very_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    make(out)
    real = atomic_folder.renameat2

    def late(old: str, new: str, flag: int) -> bool:
        if not (out / "notes").exists() and content(out) == OLD:
            (out / "notes").write_bytes(b"mine")
        return real(old, new, flag)

    monkeypatch.setattr(atomic_folder, "renameat2", late)
    with pytest.raises(FileError, match="out contains notes"):
        write(out, overwrite=True)
    assert content(out) == OLD | {"notes": b"mine"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ExistsError, match="out already exists"):
        write(tmp_path / "out", meanwhile=lambda: make(tmp_path / "out"))
    assert content(tmp_path / "out") == OLD
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        write(tmp_path / "out", overwrite=True, meanwhile=lambda: (tmp_path / "out").write_bytes(b"mine"))
    assert (tmp_path / "out").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failing_second_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out")
    monkeypatch.setattr(atomic_folder, "renameat2", lambda *names: False)
    real, calls = os.rename, []

    def rename(old: str, new: str) -> None:
        calls.append(new)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(FileError, match="out: Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == OLD
    assert os.listdir(tmp_path) == ["out"]


# Durable ---------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that make a folder durable or visible, in order."""
    made: list[str] = []
    fsync, rename = os.fsync, atomic_folder.renameat2

    def record_fsync(fd: int) -> None:
        made.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def record_rename(old: str, new: str, flag: int) -> bool:
        made.append("rename")
        return rename(old, new, flag)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(atomic_folder, "renameat2", record_rename)
    return made


@pytest.mark.parametrize("existing", [False, True])
def test_everything_is_on_the_disk_before_the_folder_gets_its_name(
    existing: bool, calls: list[str], tmp_path: Path
) -> None:
    if existing:
        make(tmp_path / "out")
    write(tmp_path / "out", overwrite=existing)
    *files, folder, rename, parent = calls
    assert sorted(files) == sorted(NAMES)
    assert folder.startswith(".ggcp-")
    assert (rename, parent) == ("rename", tmp_path.name)


def test_without_sync_nothing_waits_for_the_disk(calls: list[str], tmp_path: Path) -> None:
    write(tmp_path / "out", sync=False)
    assert calls == ["rename"]


@pytest.mark.usefixtures("way")
def test_what_cannot_be_brought_to_the_disk_does_not_get_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(tmp_path / "out")
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(FileError, match="out: Input/output error"):
        write(tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == OLD
    assert os.listdir(tmp_path) == ["out"]


# Other writers, living and dead ----------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from ggcp_schema.files import atomic_folder
way, path = sys.argv[1:]
die = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
if way == "before the exchange":
    atomic_folder.renameat2 = die
elif way == "after the exchange":
    atomic_folder.FolderOutput._remove = die
elif way == "between the renames":
    real = os.rename
    atomic_folder.renameat2 = lambda *names: False
    os.rename = lambda old, new: die() if new.endswith("out") else real(old, new)
with atomic_folder.atomic_folder(path, ("config.json", "model.safetensors"), overwrite=True) as place:
    for name in ("config.json", "model.safetensors"):
        with open(os.path.join(place, name), "wb") as file:
            file.write(b"another's")
    if way == "while writing":
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("moment", ["while writing", "before the exchange", "after the exchange"])
def test_what_a_killed_writer_left_is_removed_by_the_next(moment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    for _ in range(2):
        kill(WRITER, moment, out)
        assert content(out) == (dict.fromkeys(NAMES, b"another's") if moment == "after the exchange" else OLD)
        assert len(os.listdir(tmp_path)) == 2
    write(out, overwrite=True)
    assert content(out) == NEW
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_a_folder_that_a_killed_writer_renamed_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    kill(WRITER, "between the renames", out)
    assert not out.exists()
    with suppress(FileError):
        write(out, overwrite=True, meanwhile=refuse(errno.EIO))
    assert content(out) == OLD
    assert os.listdir(tmp_path) == ["out"]


def test_the_folder_of_a_living_writer_is_not_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = start(WRITER, "while writing", out)
    write(out)
    assert content(out) == NEW
    assert len(os.listdir(tmp_path)) == 2
    writer.communicate()
    assert writer.returncode == 0
    assert content(out) == dict.fromkeys(NAMES, b"another's")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_a_signal_handler_can_abandon_an_output(tmp_path: Path) -> None:
    out = tmp_path / secrets.token_hex()  # other tests in this process may have written to a folder of the same name
    make(out)

    def abandon() -> None:
        assert str(out) not in abandon_output()
        assert os.listdir(tmp_path) == [out.name]
        raise FileError("the process ends here")

    with pytest.raises(FileError, match="the process ends here"):
        write(out, overwrite=True, meanwhile=abandon)
    assert content(out) == OLD
    write(out, overwrite=True)
    assert abandon_output()[-1] == str(out)


# What may be an output -------------------------------------------------------------------------------------


def refuse_output(output: Path | str, message: str, *inputs: Path) -> None:
    with pytest.raises(FileError, match=message):
        check_folder(output, (Path(__file__), *inputs), NAMES)


def test_what_is_no_output(tmp_path: Path) -> None:
    refuse_output("-", "cannot write to standard output")
    refuse_output(tmp_path / "none" / "out", "does not exist")
    (tmp_path / "file").touch()
    refuse_output(tmp_path / "file", "file is a file, but the output is a folder")
    refuse_output(Path(os.devnull), "not a regular file")
    make(tmp_path / "out")
    check_folder(tmp_path / "out", (), NAMES)
    check_folder(tmp_path / "new", (), NAMES)


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    make(tmp_path / "out", OLD | {"notes": b"mine"})
    refuse_output(tmp_path / "out", "out contains notes, which is none of the files that would be written")
    make(tmp_path / "nested")
    (tmp_path / "nested" / NAMES[0]).unlink()
    (tmp_path / "nested" / NAMES[0]).mkdir()
    refuse_output(tmp_path / "nested", "nested contains config.json, which is none")


def test_a_folder_with_an_input_is_no_output(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in ("out", "link", "out/"):
        refuse_output(f"{tmp_path}/{folder}", "contains the input", tmp_path / "out" / NAMES[1])
