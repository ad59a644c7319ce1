"""The values of a GGUF file's keys by their types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import CHECKPOINT_NEEDED
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import COUNTS, OPTIMIZER, STATE

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

THREADS = (names.CONVERTED_THREADS, "UINT32", "optimizer.params.n_threads")


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    return "an array of arrays" if isinstance(value, list) else repr(value)[:40]


class Keys:
    """The values of a GGUF file's keys; None for a key that is missing or of another type."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf

    def own(self, key: str) -> str:
        """Return the key of llama under the name that a file of another architecture has for it."""
        return f"{self.text(names.ARCHITECTURE) or 'llama'}.{key.removeprefix('llama.')}"

    def integer(self, key: str) -> int | None:
        """Return an integer."""
        value = self.gguf.value(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def count(self, key: str, least: int = 0) -> int | None:
        """Return an integer of at least that value."""
        value = self.integer(key)
        return None if value is None or value < least else value

    def required(self, key: str, default: int | None = None) -> int:
        """Return a count; `default` if the key is missing. Raises `UsageError` if there is none."""
        if key not in self.gguf.key_values and default is not None:
            return default
        value = self.count(key)
        if value is None:
            raise self.unexpected(key, "a count")
        return value

    def finite(self, key: str, default: float) -> float:
        """Return a finite number; `default` if the key is missing. Raises `UsageError` for another value."""
        value = self.gguf.value(key, default)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self.unexpected(key, "a number")
        return value

    def unexpected(self, key: str, expected: str) -> UsageError:
        """Return the error for a key without the expected value."""
        value = self.gguf.value(key)
        found = "missing" if value is None else shown(value)
        return UsageError(f"{self.gguf.path}: {key} is {found}, expected {expected}", CHECKPOINT_NEEDED)

    def real(self, key: str) -> float | None:
        """Return a floating-point number."""
        value = self.gguf.value(key)
        return value if isinstance(value, float) else None

    def text(self, key: str) -> str | None:
        """Return a string."""
        value = self.gguf.value(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        """Return a boolean."""
        value = self.gguf.value(key)
        return value if isinstance(value, bool) else None

    def field(self, path: str) -> Any:
        """Return the value of the key that a field of a ggcp file becomes."""
        optimizer = self.text(names.OPTIMIZER_TYPE) or ""
        for key, kind, field in (*COUNTS, *OPTIMIZER, *STATE.get(optimizer, ()), THREADS):
            if field == path:
                read = {"STRING": self.text, "BOOL": self.flag, "FLOAT32": self.real}.get(kind, self.integer)
                return read(key)
        return None

    def length(self, key: str) -> int | None:
        """Return the length of an array."""
        entry = self.gguf.key_values.get(key)
        return len(entry.value) if entry is not None and entry.type.startswith("ARRAY/") else None
