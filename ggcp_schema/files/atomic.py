"""Output files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ggcp_schema.errors import FileError, GgcpError

try:
    import fcntl
except ImportError:  # Windows, where a file that a process has open cannot be removed
    fcntl = None  # type: ignore[assignment]

PREFIX = ".ggcp-"  # of the names of temporary files
NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}  # what such filesystems answer

_current: Output | None = None  # these two are for `abandon_output`
_written: list[str] = []


class ExistsError(FileError):
    """The output exists, and `force=True` was not given."""

    option = "force"  # the command line writes --force where the hint says force=True

    def __init__(self, path: str, what: str = "") -> None:
        super().__init__(f"{path} already exists{what}", "Use force=True to overwrite it.")


def check_output(path: str | os.PathLike[str], inputs: tuple[str | os.PathLike[str], ...]) -> None:
    """Check that an output can be written to `path`, if what is there may be replaced, before any work is done.

    Raises `FileError` if it is "-", one of the inputs, not a regular file, or in a folder that does not exist.
    """
    name = os.fspath(path)
    if name == "-":
        raise FileError(
            "cannot write to standard output: the output is read again and checked before it is put in place",
            "Give the name of a file. If its name really is -, give its absolute path.",
        )
    try:
        status = os.stat(name)
    except FileNotFoundError:
        if not os.path.basename(name):
            raise FileError(f"{name!r} is not the name of a file", "Give the name of the file to write.") from None
        # As it is typed, too: of `missing/../new` the system finds nothing, though `realpath` drops `missing/..`.
        for folder in (os.path.dirname(os.path.realpath(name)), os.path.dirname(name)):
            if folder and not os.path.isdir(folder):
                raise FileError(f"{name}: the folder {folder} does not exist", "Create it first.") from None
        return
    except OSError as error:
        raise FileError(f"{name}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{name} is a directory", "Add the name of the file to write.")
        raise FileError(f"{name} is not a regular file")
    for other in inputs:
        if os.path.exists(other) and os.path.samestat(status, os.stat(other)):
            raise FileError(f"{name}: output and input are the same file", "Choose another output.")


def temporary_files(folder: str) -> list[str]:
    """Return the names of the temporary files in a folder; none if it cannot be read."""
    try:
        return [name for name in os.listdir(folder) if name.startswith(PREFIX)]
    except OSError:
        return []


@contextmanager
def atomic_output(
    path: str | os.PathLike[str], *, overwrite: bool, sync: bool = True, left: Sequence[str] | None = None
) -> Iterator[str]:
    """Yield a path to write to, and give the file its name when the block succeeds.

    If the block fails, `path` is unchanged and nothing else is left in its folder. If the process is killed, `path` is
    unchanged too; at most one temporary file is left, which the next output to `path` removes. On Linux there is a
    temporary file only for the moment in which it replaces an existing one: until then the file has no name. A file
    that is replaced passes on its permissions. A symbolic link is followed.

    With `sync` the file is on the disk before it gets its name, and the name is on the disk before this returns, so
    that a power failure leaves the old file or the new one. Without it, it may leave an empty file.

    `left` are the temporary files in the folder, if very many outputs are written there, so that it is listed once.
    Raises `ExistsError` if the file exists and `overwrite` is false, and `FileError` if it cannot be written.
    """
    with published(Output(os.fspath(path), left), overwrite=overwrite, sync=sync) as place:
        yield place


@contextmanager
def published(output: Output, *, overwrite: bool, sync: bool) -> Iterator[str]:
    """Create an output, yield the path to write to, and publish it; see `atomic_output`."""
    global _current  # noqa: PLW0603
    _current = output
    try:
        try:
            output.create()
            yield output.place
            output.publish(overwrite=overwrite, sync=sync)
        finally:
            output.close()
            if output.published:
                _written.append(output.path)
            _current = None
    except GgcpError:
        raise
    except OSError as error:
        if output.published:
            raise FileError(
                f"{output.path} was written, but its folder cannot be synchronized with the disk: {error.strerror}",
                "A power failure may undo it.",
            ) from error
        raise FileError(f"{output.path}: {error.strerror or error}") from error


def abandon_output() -> list[str]:
    """Remove the temporary file of the output that is being written; return the outputs that this process has written.

    For a signal handler that ends the process at once: it may be called at any point of `atomic_output`.
    """
    written = dict.fromkeys(_written)
    if _current is not None:
        _current.remove_temporary()
        if _current.is_in_place():
            written[_current.path] = None
    return list(written)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other processes from taking a folder for an abandoned one."""
    if fcntl is None:
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # another process replaces it too, or the filesystem has no locks
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


class Output:
    """An output from the creation of the file until it has its name.

    The file is created without a name where the system can do that (O_TMPFILE), otherwise as a temporary file
    in the folder of the output. Either way it stays locked (flock) until it is closed, so that a temporary file without
    a lock is one whose writer was killed.
    """

    def __init__(self, path: str, left: Sequence[str] | None = None) -> None:
        self.path, self.left = path, left
        self.target = os.path.realpath(path)
        self.folder, name = os.path.split(self.target)
        # A checksum, because the name itself may have the maximal length. It makes this output's temporary files
        # recognizable: those of others stay alone, because some network filesystems hide the locks of other machines.
        self.prefix = f"{PREFIX}{zlib.crc32(os.fsencode(name)):08x}-"
        self.temporary = self._temporary_path()
        self.fd = -1
        self.has_name = self.published = False

    @property
    def place(self) -> str:
        """The path to write to."""
        return self.temporary if self.has_name else f"/proc/self/fd/{self.fd}"

    def create(self) -> None:
        """Create the file and remove temporary files of processes that were killed."""
        self._remove_abandoned()
        mode = self._mode_of_target()
        mode = 0o666 if mode is None else mode | 0o600  # no one else may read what they could not read before
        try:
            self.fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR, mode)
            if os.path.exists(self.place):
                self._lock()
                return
            self._close()  # /proc is not mounted
        except (AttributeError, OSError):  # the system or the filesystem has no O_TMPFILE
            pass
        self.has_name = True
        while True:
            self.fd = os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
            if self._lock():
                return
            self._close()  # another process has taken the file for an abandoned one
            self.temporary = self._temporary_path()

    def publish(self, *, overwrite: bool, sync: bool) -> None:
        """Give the file its name."""
        if sync:
            os.fsync(self.fd)
        try:
            if overwrite and self.has_name:
                self._replace()
            else:
                self._link(self.target)
        except FileExistsError as error:
            if not overwrite:
                raise ExistsError(self.path) from error
            self._link(self.temporary)
            self._replace()
        self.published = True
        if sync:
            synchronize(self.folder)

    def close(self) -> None:
        """Close the file, and remove it unless it was published."""
        with suppress(OSError):  # errors of writing have been reported by the writer's own close, and by fsync
            self._close()
        self.remove_temporary()

    def _close(self) -> None:
        """Close the descriptor once: its number may then be that of another thread's file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def remove_temporary(self) -> None:
        with suppress(OSError):
            os.unlink(self.temporary)

    def is_in_place(self) -> bool:
        """Return whether the output has its new content, even if `publish` has not returned yet."""
        try:
            return self.published or os.path.samestat(os.fstat(self.fd), os.stat(self.target))
        except OSError:
            return False

    def _temporary_path(self) -> str:
        return os.path.join(self.folder, f"{self.prefix}{os.urandom(6).hex()}.part")

    def _lock(self) -> bool:
        """Lock the file. Return whether it still exists, or never had a name."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a filesystem without locks: then no process can lock the file in order to remove it
        return not self.has_name or os.fstat(self.fd).st_nlink > 0

    def _remove_abandoned(self) -> None:
        names = temporary_files(self.folder) if self.left is None else self.left
        for name in names:
            if not name.startswith(self.prefix):
                continue
            path = os.path.join(self.folder, name)
            with suppress(OSError):  # locked by a living writer, or another user's
                if fcntl is None:
                    self._put_away(path)
                    continue
                fd = self._open_left(path)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._put_away(path)
                finally:
                    os.close(fd)

    def _open_left(self, path: str) -> int:
        """Open what a killed process has left, to lock it."""
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)

    def _put_away(self, path: str) -> None:
        """Remove what a killed process has left."""
        os.unlink(path)

    def _link(self, path: str) -> None:
        """Give the file a name that does not exist. Raises `FileExistsError`."""
        if not self.has_name:
            # src_dir_fd has no effect on an absolute path, but makes Python call linkat with AT_SYMLINK_FOLLOW.
            os.link(self.place, path, src_dir_fd=self.fd, follow_symlinks=True)
            return
        try:
            os.link(self.temporary, path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            self._rename(path)

    def _replace(self) -> None:
        """Rename the temporary file to the target's name, with the target's permissions."""
        mode = self._mode_of_target()
        if mode is not None and mode != stat.S_IMODE(os.fstat(self.fd).st_mode):
            os.chmod(self.temporary, mode)
        self._rename(self.target)

    def _rename(self, path: str) -> None:
        if os.name == "nt":  # Windows does not rename open files
            self._close()
        os.replace(self.temporary, path)

    def _mode_of_target(self) -> int | None:
        """Permissions of the file at the target, None if there is none. Set-user-ID and the like are not passed on."""
        try:
            return stat.S_IMODE(os.stat(self.target).st_mode) & 0o777
        except FileNotFoundError:
            return None


def synchronize(path: str) -> None:
    """Wait until a file or a folder is on the disk."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.path.isdir(path):  # that may be written but not read, and any folder on Windows
            return
        raise
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a filesystem that cannot synchronize folders
            raise
    finally:
        os.close(fd)
