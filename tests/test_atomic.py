"""The output appears whole or not at all, whatever happens to the writer."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggcp_schema import FileError, atomic
from ggcp_schema.atomic import atomic_output, check_output
from tests.builder import build_checkpoint
from tests.helpers import COMMAND, FIXTURES, assert_no_traceback, environment, run_cli

SMALL = FIXTURES / "v1-adam.ggcp"


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write: to a file without a name, and, where a system has none, to a temporary one."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


@pytest.fixture
def umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


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
@pytest.mark.parametrize("name", ["with space", "-dash", "ünïcode", "new\nline", "x" * 230])
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
    with pytest.raises(FileError, match="exists already"):
        write(out, meanwhile=lambda: out.write_bytes(b"another's"))
    assert out.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_appears_meanwhile_is_kept(overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileError, match=r"out: (exists already|[Ii]s a directory)"):
        write(out, overwrite=overwrite, meanwhile=out.mkdir)
    assert os.listdir(tmp_path) == ["out"]
    assert out.is_dir()


@pytest.mark.usefixtures("way")
def test_a_failing_rename_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "the disk is on fire")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError, match="the disk is on fire"):
        write(out, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_bytes() == b"old"


@pytest.mark.usefixtures("way")
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal comes from a stand-in for the system call."""
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if (flags & os.O_RDWR and os.path.dirname(path).startswith(str(tmp_path))) or path == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest)

    monkeypatch.setattr(atomic.os, "open", refuse)
    with pytest.raises(FileError, match="out: Permission denied"):
        write(tmp_path / "out")
    assert os.listdir(tmp_path) == []


# What may be an output -------------------------------------------------------------------------------------


def refuse_output(output: Path, message: str, source: Path = SMALL) -> None:
    with pytest.raises(FileError, match=message):
        check_output(output, (source,), overwrite=True)


def test_a_directory_is_no_output(tmp_path: Path) -> None:
    refuse_output(tmp_path, "is a directory")


def test_a_device_is_no_output() -> None:
    refuse_output(Path(os.devnull), "is not a regular file")


def test_a_pipe_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refuse_output(tmp_path / "fifo", "is not a regular file")


def test_a_missing_folder(tmp_path: Path) -> None:
    refuse_output(tmp_path / "none" / "out", "there is no folder .*none")


def test_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse_output(tmp_path / "file" / "out", "Not a directory|there is no folder")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refuse_output(tmp_path / "loop", "Too many levels of symbolic links")


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "another spelling"])
def test_the_input_is_no_output(how: str, tmp_path: Path) -> None:
    source = tmp_path / "in.ggcp"
    source.write_bytes(SMALL.read_bytes())
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
    refuse_output(output, "is the input itself", source)
    result = run_cli("convert", source, output, "--force")
    assert result.returncode == 2
    assert "is the input itself" in result.stderr
    assert source.read_bytes() == SMALL.read_bytes()


@pytest.mark.parametrize("output", ["/dev/null", "/dev/full"])
def test_a_device_is_never_replaced(output: str) -> None:
    before = os.stat(output)
    result = run_cli("convert", SMALL, output, "--force")
    assert (result.returncode, result.stdout) == (2, "")
    assert "is not a regular file" in result.stderr
    assert os.path.samestat(before, os.stat(output))


# Interrupted -----------------------------------------------------------------------------------------------

NAMED_WAY = "import os, sys; del os.O_TMPFILE; from ggcp_schema.cli import main; main()"
OLD = b"what was there before"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v1 Adam checkpoint of 60 MB: converting it takes long enough to be interrupted in the middle."""
    path = tmp_path_factory.mktemp("large") / "large.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=4000, n_embd=256, n_mult=256, n_head=4, n_rot=64, n_layer=3))
    return path


@pytest.fixture(scope="module")
def whole(large: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """What the conversion gives, and how many seconds it takes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    start = time.monotonic()
    run_cli("convert", large, out, "--verify", check=True)
    taken = time.monotonic() - start
    content = out.read_bytes()
    out.unlink()
    return content, taken


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("command", [COMMAND, (sys.executable, "-c", NAMED_WAY)], ids=["nameless", "named"])
def test_an_interruption_leaves_the_old_file_or_the_new(
    command: tuple[str, ...], existing: bool, number: int, large: Path, whole: tuple[bytes, float], tmp_path: Path
) -> None:
    content, taken = whole
    moments = random.Random(number + existing)
    out = tmp_path / "out"
    killed = 0
    for turn in range(6):
        out.unlink(missing_ok=True)
        if existing:
            out.write_bytes(OLD)
        process = subprocess.Popen(
            [*command, "convert", large, out, "--force", "--verify"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        try:
            process.wait(taken * (0.2 + 0.13 * turn + 0.1 * moments.random()))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        killed += process.returncode != 0
        assert b"Traceback" not in stderr
        if process.returncode == 0:
            assert out.read_bytes() == content
        elif existing:
            assert out.read_bytes() in (OLD, content)
        else:
            assert not out.exists() or out.read_bytes() == content
        litter = set(os.listdir(tmp_path)) - {"out"}
        if number == signal.SIGKILL and command is not COMMAND:
            for name in litter:  # nothing can remove a named file after that; it says what it is
                assert name.startswith(".out.")
                assert name.endswith(".part")
                (tmp_path / name).unlink()
        else:
            assert not litter
    assert killed >= 2, "the interruptions came too late to test anything"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_says_so_by_its_exit_code(
    number: int, code: int, large: Path, whole: tuple[bytes, float], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "convert", large, tmp_path / "out", "--verify"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(whole[1] / 2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in (code, -number)
    assert stdout == b""
    assert b"Traceback" not in stderr


INTERRUPT_AT_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))
module, number, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Interrupt())
from ggcp_schema.cli import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "ggcp_schema.cli.app", "ggcp_schema.cli.convert", "construct", "gguf"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_modules_load_is_quiet(module: str, number: int, code: int, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPT_AT_IMPORT, module, str(int(number)), "convert", SMALL, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in result.stderr
    assert result.returncode in (code, -number)
    assert os.listdir(tmp_path) == []


# A disk that is full ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("command", [COMMAND, (sys.executable, "-c", NAMED_WAY)], ids=["nameless", "named"])
@pytest.mark.parametrize("limit", [100, 3000, 1 << 16, 1 << 20])
def test_a_full_disk(command: tuple[str, ...], existing: bool, limit: int, large: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands in for the disk: at it, writing fails as on a full one."""
    out = tmp_path / "out"
    if existing:
        out.write_bytes(OLD)

    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = subprocess.run(
        [*command, "convert", large, out, "--force"],
        capture_output=True,
        text=True,
        preexec_fn=restrict,
        env=environment({"PYTHONDONTWRITEBYTECODE": "1"}),
        check=False,
    )
    assert_no_traceback(result)
    assert result.returncode == 2
    assert result.stderr == f"ggcp-schema: {out}: File too large\n"
    assert os.listdir(tmp_path) == (["out"] if existing else [])
    assert not existing or out.read_bytes() == OLD
