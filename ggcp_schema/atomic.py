"""An output file that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ggcp_schema.errors import FileError


def check_output(path: str | os.PathLike[str], inputs: tuple[str | os.PathLike[str], ...], *, overwrite: bool) -> None:
    """Raises `FileError` if the path cannot be written, is one of the inputs, or is in the way."""
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(os.path.realpath(name))
        if not os.path.isdir(folder):
            raise FileError(f"{name}: there is no folder {folder}") from None
        return
    except OSError as error:
        raise FileError(f"{name}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{name}: is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}")
    for other in inputs:
        with suppress(OSError):
            if os.path.samefile(name, other):
                raise FileError(f"{name}: is the input itself", "Give the output another name.")
    if not overwrite:
        raise FileError(f"{name}: exists already", "Use --force to replace it.")


@contextmanager
def atomic_output(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[str]:
    """Gives a path to write to. When the block ends well, what was written there takes the place of `path`;
    when it does not, even by a kill, `path` is as it was and nothing is left behind.

    On Linux the file has no name until it is whole; elsewhere it is a temporary file beside the output, which
    an error or an interrupt removes. Raises `FileError`.
    """
    target = os.path.realpath(path)
    try:
        with _nameless(target, overwrite) or _named(target, overwrite) as place:
            yield place
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise FileError(f"{os.fspath(path)}: exists already", "Use --force to replace it.") from error
        raise FileError(f"{os.fspath(path)}: {error.strerror or error}") from error


def _nameless(target: str, overwrite: bool):  # type: ignore[no-untyped-def]
    try:
        fd = os.open(os.path.dirname(target), os.O_TMPFILE | os.O_RDWR, 0o666)
    except (AttributeError, OSError):
        return None
    place = f"/proc/self/fd/{fd}"
    if not os.path.exists(place):
        os.close(fd)
        return None
    return _link_at_end(fd, place, target, overwrite)


@contextmanager
def _link_at_end(fd: int, place: str, target: str, overwrite: bool) -> Iterator[str]:
    try:
        yield place
        if not (overwrite and os.path.exists(target)):
            os.link(place, target, src_dir_fd=fd, follow_symlinks=True)  # a dir_fd makes it linkat, which follows
            return
        os.fchmod(fd, stat.S_IMODE(os.stat(target).st_mode))
        beside = _unused_name(target)
        os.link(place, beside, src_dir_fd=fd, follow_symlinks=True)
        _replace(beside, target)
    finally:
        os.close(fd)


@contextmanager
def _named(target: str, overwrite: bool) -> Iterator[str]:
    existed = os.path.exists(target)
    mode = stat.S_IMODE(os.stat(target).st_mode) if existed else 0o666 & ~_umask()
    place = _unused_name(target)
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield place
        os.chmod(place, mode)
        if not overwrite and os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        _replace(place, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(place)


def _replace(place: str, target: str) -> None:
    try:
        os.replace(place, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(place)
        raise


def _unused_name(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{os.urandom(6).hex()}.part")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
