"""What can go wrong. Every message is one or two lines: what and where, then what to do next."""

from __future__ import annotations


class GgcpError(Exception):
    """The base of all errors of this package. `hint` says what to do next; it may be empty."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class FileError(GgcpError):
    """A file that cannot be read or written: missing, a directory, in the way, no permission, disk full."""


class UsageError(GgcpError):
    """A request that makes no sense for this file: an unknown path, a vocabulary of another size."""


class UnfitError(GgcpError):
    """A number of the checkpoint that its GGUF type cannot hold: it is damaged, or from no known trainer."""

    exit_code = 4


class MalformedError(GgcpError):
    """The file breaks a rule of its format.

    `path` is the field's (`layers[3].wq.ne[1]`), `offset` its place in the file in bytes; `expected` and
    `found` are words.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "", *, path: str, offset: int, expected: str, found: str) -> None:
        super().__init__(message, hint)
        self.path, self.offset, self.expected, self.found = path, offset, expected, found

    def as_dict(self) -> dict[str, str | int]:
        """For JSON: path, offset, expected, found, message."""
        return {
            "path": self.path,
            "offset": self.offset,
            "expected": self.expected,
            "found": self.found,
            "message": self.message,
        }


class TruncatedError(MalformedError):
    """The file ends inside a field, `missing` bytes too early."""

    missing: int = 0


class NotACheckpointError(MalformedError):
    """The file is something else; the hint says what, if that is known."""
