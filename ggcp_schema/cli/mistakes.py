"""What is said of arguments that are meant otherwise than they were typed."""

from __future__ import annotations

import os
import sys

from ggcp_schema.errors import FileError, GgcpError, UsageError, shell_word


def put_right(error: GgcpError) -> GgcpError:
    """Return the error with the hint that this command line needs."""
    if isinstance(error, FileError) and isinstance(error.__cause__, FileNotFoundError):
        words = sys.argv[1:]
        first = words[1] if len(words) > 2 else ""
        if first and error.message.startswith(f"{first}: ") and os.path.isfile(words[2]):
            words[1:3] = words[2], words[1]
            return error.with_hint(f"The file comes first: ggcp-schema {' '.join(map(shell_word, words))}")
    return error


def check_order(words: list[str], commands: list[str]) -> None:
    """Check that no command stands after the file that the words begin with. Raises `UsageError`."""
    later = next((word for word in words[1:] if word in commands and not os.path.lexists(word)), None)
    if later is not None:
        raise UsageError(f"{later} is a command, which comes first", f"Run: ggcp-schema {later} {words[0]} …")
