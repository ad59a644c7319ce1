"""The first bytes of a file of which it is not known what it is."""

from __future__ import annotations

import codecs
import re
import struct
from typing import NamedTuple

HEAD = 1 << 18  # bytes that are looked at
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
NAME = re.compile(rb"\w+([./]\w+)+")  # of a tensor


class Head(NamedTuple):
    """The first bytes of a file, `HEAD` or all of them, and its size, if it is known."""

    data: bytes
    size: int | None = None

    @property
    def text(self) -> str | None:
        """The bytes as text; None if they are none, not UTF-8, or contain control characters."""
        cut = self.size is not None and self.size > len(self.data)
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(self.data, final=not cut)
        except UnicodeDecodeError:
            return None
        return text if text and not CONTROL.search(text) else None

    def words(self, count: int, at: int = 0) -> tuple[int, ...]:
        """Return 32-bit numbers, 0 for each that the file does not have."""
        return struct.unpack(f"<{count}i", self.data[at : at + 4 * count].ljust(4 * count, b"\0"))

    def begins_a_tensor(self, at: int) -> bool:
        """Return True if a ggml tensor may begin there: its number of dimensions, type, dimensions and name are so."""
        n_dims, length, kind = self.words(3, at)
        if not (1 <= n_dims <= 4 and 4 <= length <= 128 and 0 <= kind < 40):
            return False
        at += 12 + 4 * n_dims
        return min(self.words(n_dims, at - 4 * n_dims)) > 0 and NAME.fullmatch(self.data[at : at + length]) is not None
