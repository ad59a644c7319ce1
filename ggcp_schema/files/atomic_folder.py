"""Output folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from ggcp_schema.errors import FileError
from ggcp_schema.files.atomic import ExistsError, Output, check_output, locked, published, synchronize

# Flags of Linux's renameat2
NOREPLACE = 1
EXCHANGE = 2
AT_FDCWD = -100  # a path is relative to the working folder
NOT_SUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def check_folder(
    path: str | os.PathLike[str], inputs: tuple[str | os.PathLike[str], ...], names: Collection[str]
) -> None:
    """Check that a folder with files of these names can be written to `path`, before any work is done.

    An existing folder is only replaced if it has no files of other names. Raises `FileError` if it has, or if `path`
    is something else, contains an input, or is in a folder that does not exist.
    """
    name = os.fspath(path)
    if not os.path.isdir(name):
        check_output(name, inputs)
        if os.path.lexists(name):
            raise FileError(f"{name} is a file, but the output is a folder", "Choose another output.")
        return
    target = os.path.realpath(name)
    for other in inputs:
        if os.path.commonpath([target, os.path.realpath(other)]) == target:
            raise FileError(f"{name} contains the input {os.fspath(other)}", "Choose another output.")
    _check_contents(name, name, names)


def _check_contents(path: str, folder: str, names: Collection[str]) -> None:
    """Check that a folder has no files but those of these names. `path` is how the user named it."""
    for name in sorted(os.listdir(folder)):
        if name not in names or os.path.isdir(os.path.join(folder, name)):
            raise FileError(
                f"{path} contains {name}, which is none of the files that would be written",
                "Only a folder that was written in this way is replaced. Choose another output.",
            )


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], names: Collection[str], *, overwrite: bool, sync: bool = True
) -> Iterator[str]:
    """Yield a folder to write files of these names into, and give it its name when the block succeeds.

    It is what `atomic_output` is for a file: if the block fails, `path` is unchanged and nothing is left beside it; if
    the process is killed, at most one hidden folder is left, which the next output to `path` removes. An existing
    folder is replaced by exchanging the two names, and its permissions and those of its files are passed on. Where the
    system cannot do that, the old folder is renamed first; if the process is killed in that moment, `path` does not
    exist until the next output to it brings the old folder back.

    Raises `ExistsError` if the folder exists and `overwrite` is false, and `FileError` if it has files of other names
    or cannot be written.
    """
    output = FolderOutput(os.fspath(path), names)
    with published(output, overwrite=overwrite, sync=sync) as place:
        yield place


class FolderOutput(Output):
    """An output folder from its creation until it has its name. It is locked as `Output` is."""

    def __init__(self, path: str, names: Collection[str]) -> None:
        super().__init__(path)
        self.names = names
        self.aside = self.temporary.removesuffix(".part") + ".old"  # of the folder that is replaced
        self.has_name = True

    def create(self) -> None:
        """Create the folder, and put away what processes that were killed have left."""
        self._remove_abandoned()
        mode = 0o700 if os.path.isdir(self.target) else 0o777  # until it has the mode of the folder it replaces
        while True:
            os.mkdir(self.temporary, mode)
            with suppress(FileNotFoundError):
                if os.name != "nt":  # Windows opens no folders
                    self.fd = os.open(self.temporary, os.O_RDONLY)
                if self._lock():
                    return
            self.close()  # another process has taken the folder for an abandoned one
            self.temporary = self._temporary_path()

    def publish(self, *, overwrite: bool, sync: bool) -> None:
        exists = os.path.lexists(self.target)
        if exists and not overwrite:
            raise ExistsError(self.path)
        if exists:
            self._pass_on_modes()
        if sync:
            for name in os.listdir(self.temporary):
                synchronize(os.path.join(self.temporary, name))
            synchronize(self.temporary)
        if exists:
            self._replace()
        elif not renameat2(self.temporary, self.target, NOREPLACE):
            os.rename(self.temporary, self.target)
        self.published = True
        if sync:
            synchronize(self.folder)

    def remove_temporary(self) -> None:
        """Remove what is left beside the output: the new folder if it was not published, else the one it replaced."""
        if os.path.lexists(self.aside):
            if os.path.lexists(self.target):
                self._remove(self.aside)
            else:
                os.rename(self.aside, self.target)
        self._remove(self.temporary)

    def _replace(self) -> None:
        """Exchange the new folder and the old one, which `remove_temporary` then finds under the other name."""
        with locked(self.target):  # the old folder
            _check_contents(self.path, self.target, self.names)
            if not renameat2(self.temporary, self.target, EXCHANGE):
                os.rename(self.target, self.aside)
                os.rename(self.temporary, self.target)
                return
            try:
                _check_contents(self.path, self.temporary, self.names)  # a file may have come since
            except BaseException:
                renameat2(self.temporary, self.target, EXCHANGE)
                raise

    def _pass_on_modes(self) -> None:
        """Give the folder and its files the permissions of the ones they replace."""
        for name in ("", *os.listdir(self.temporary)):
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.stat(os.path.join(self.target, name)).st_mode)
                os.chmod(os.path.join(self.temporary, name), mode & 0o777)

    def _open_left(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def _put_away(self, path: str) -> None:
        if path.endswith(".old") and not os.path.lexists(self.target):
            os.rename(path, self.target)
        else:
            self._remove(path)

    def _remove(self, folder: str) -> None:
        """Remove the files of this output from a folder, if it exists, and the folder if no others are in it."""
        if not os.path.lexists(folder):
            return
        for name in self.names:
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))
        with suppress(OSError):
            os.rmdir(folder)


def renameat2(old: str, new: str, flag: int) -> bool:
    """Rename a folder with one of Linux's flags, in one step. Return False if the system does not have that.

    Raises `OSError` as `os.rename` does, and `FileExistsError` where `NOREPLACE` finds the name in use.
    """
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if call(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), new)
