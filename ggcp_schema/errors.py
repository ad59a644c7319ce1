"""Exceptions. Every message is one or two lines: what is wrong and where, then what to do next."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self


APOSTROPHES, QUOTES = "'\u2018\u2019\u201a\u201b", "\u201c\u201d\u201e"
"""What ends a text between apostrophes, or between quotation marks, in PowerShell."""
PLAIN = b" ./_+,:=@0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The bytes that stand for themselves in a shell's quotes, and in the first argument of `printf`."""


def shell_word(path: str) -> str:
    """Return a path as a word for a shell, also if it begins with a dash or is not printable."""
    return quoted(f"./{path}" if path.startswith("-") else path)


def quoted(text: str) -> str:
    """Return an argument as one word for sh, bash, zsh and fish, and for PowerShell if that can have it as one word.

    What is not printable is what `printf` prints, which PowerShell does not have. So are backslashes that fish reads as
    one, or as part of an apostrophe, but not on Windows.
    """
    means_less = os.name != "nt" and any(pair in f"{text}'" for pair in ("\\\\", "\\'"))
    if text.isprintable() and not means_less:
        if {*APOSTROPHES} & {*text} and not {*'"$`\\!', *QUOTES} & {*text}:
            return f'"{text}"'
        word = shlex.quote(text)
        means_more = word == text and ("," in text or text[0] in "=@")  # in PowerShell, and = in zsh
        return f"'{text}'" if means_more else word
    octal = "".join(chr(byte) if byte in PLAIN else f"\\{byte:03o}" for byte in text.encode("utf-8", "surrogateescape"))
    return f"$'{octal}'" if text.endswith("\n") else f"\"$(printf '{octal}')\""  # which drops a newline at the end


class GgcpError(Exception):
    """The base of all exceptions of this package.

    `hint` says what to do next; it may be empty. `exit_code` is the exit status of the command line, `option` the
    parameter that the hint names: it shows `--force` for `force=True`. It shows `shell_hint` instead, if there is one.
    """

    message: str
    hint: str
    exit_code = 2
    option = ""
    shell_hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)

    def again(self) -> Self:
        """Return a copy to raise. An exception that is raised again itself keeps the traceback of each time."""
        error: Self = _restored(type(self), self.args, self.__dict__)
        return error

    def with_hint(self, hint: str, option: str = "") -> Self:
        """Return a copy with another hint."""
        error = self.again()
        error.hint, error.option, error.shell_hint = hint, option, ""
        return error


def _restored(kind: type[Any], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Return an exception with these attributes. The parameters of `__init__` need not be among its `args`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class FileError(GgcpError, OSError):
    """A file cannot be read or written: it is missing, a directory, in use, or there is no permission or space."""


class UsageError(GgcpError):
    """A request that does not suit the file, such as a vocabulary of another size."""


class PathError(UsageError, KeyError):
    """A field path, key or tensor name that the file does not have."""


class UnfitError(GgcpError):
    """A value is out of range for its GGUF type, so the file is damaged or was written by an unknown program."""

    exit_code = 4


class MalformedError(GgcpError):
    """The file breaks a rule of its format.

    `path` is the path of the field (`layers[3].wq.ne[1]`) and `offset` its place in the file in bytes; `expected` and
    `found` are words. `is_unknown` is True if a later program may have written the value, so that this is no damage.
    `is_restorable` is True if all of the file was changed on its way, as in a transfer as text, and nothing is lost:
    the hint says what restores it.
    """

    exit_code = 4

    path: str
    offset: int
    expected: str
    found: str
    is_unknown: bool = False
    is_restorable: bool = False
    json_keys = "path offset expected found message"

    def __init__(self, message: str, hint: str = "", *, path: str, offset: int, expected: str, found: str) -> None:
        super().__init__(message, hint)
        self.path, self.offset, self.expected, self.found = path, offset, expected, found

    def as_dict(self) -> dict[str, str | int]:
        """Return path, offset, expected, found and message as JSON data."""
        return {key: getattr(self, key) for key in self.json_keys.split()}


class TruncatedError(MalformedError):
    """The file ends inside a field, which lacks `missing` bytes.

    `file_missing` is the number of bytes that the whole file lacks, or None if that is not known.
    """

    missing: int = 0
    file_missing: int | None = None


class NotACheckpointError(MalformedError):
    """The file is of another format than it should be, or of none; the hint says what it is, if that is known."""

    exit_code = 2
