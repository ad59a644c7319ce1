"""What readers of vocabularies share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ggcp_schema.constructs import FieldError
from ggcp_schema.errors import MalformedError, TruncatedError
from ggcp_schema.formats.file import File
from ggcp_schema.formats.parsing import malformed
from ggcp_schema.llama.vocabulary import MAX_BYTES, damaged

# Fields that follow the vocabulary; `file` is the end of the file.
AFTER_VOCABULARY = {"tensors", "tensor_infos", "alignment", "padding", "tensor_data", "end_padding", "file"}

COUNTS = {"tensor_count", "metadata_kv_count"}


def is_after_vocabulary(damage: MalformedError) -> bool:
    """Return True if the damage of a file that may contain a vocabulary is in what follows that."""
    is_miscounted = damage.path in COUNTS and not isinstance(damage, TruncatedError)  # the records tell the number
    return is_miscounted or damage.path.partition("[")[0] in AFTER_VOCABULARY


def check_damage(file: File) -> None:
    """Raise the damage of the file if it precedes the end of the vocabulary."""
    if file.damage is not None and not is_after_vocabulary(file.damage):
        raise file.damage.again()


def items_of(file: File, path: str, values: Sequence[Any]) -> list[Any]:
    """Return the elements of a list in the file. Raises `MalformedError` if they would need too much memory."""
    field = file.find(path)
    if field.size > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes, more than any vocabulary needs"
        raise damaged(file.path, path, field.offset, expected, f"{field.size:,}")
    try:
        with file.source.reading():
            return list(values)
    except FieldError as error:  # the file has changed since it was opened
        raise malformed(error, file.source, file.format) from error
