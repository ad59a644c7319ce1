"""Whether a GGUF file states as many keys and tensors as it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import until
from ggcp_schema.formats.gguf.headers import end_of, fits, length_size, reader_of, stop_of
from ggcp_schema.schema.gguf import alignment

KEY_NAME = re.compile(r"[a-z]\w*(\.[\w-]+)+")
FIRST = 8  # where the number of tensors is, and then that of keys


def too_few(source: Source, container: Container) -> FieldError | None:
    """Return an error if one more tensor or key follows the last one, in a file with bytes after its end.

    A tensor is proven by its offset, which is the end of the data before; a key, after which no tensors are stated, by
    its name.
    """
    infos, keys = container["tensor_infos"], container["metadata_kv"]
    if container["trailing"] is None or not (infos or keys):
        return None
    with source.reading() as stream:
        at = stop_of((infos or keys)[-1])
        stream.seek(at)
        info = reader_of(stream, container, "tensor_infos")()
        stream.seek(at)
        key = None if infos else reader_of(stream, container, "metadata_kv")()
    if info is not None and fits(info, end_of(infos[-1], container["alignment"]) if infos else 0):
        return _wrong("tensor_count", FIRST, f"more than {len(infos)}", until(container, "alignment"))
    if key is not None and KEY_NAME.fullmatch(key["key"]):
        before = until(container, "tensor_infos")
        return _wrong("metadata_kv_count", FIRST + length_size(container), f"more than {len(keys)}", before)
    return None


def wrong_count(
    container: Container, keys: Sequence[Container], infos: Sequence[Container], start: int | None
) -> FieldError | None:
    """Return the error of a count, if these keys and tensors are all that there are, and fewer or more are stated.

    They are if each begins where another ends, from the counts to the data, which begins at `start`, or to the end.
    """
    size = length_size(container)
    at = FIRST + 2 * size
    for record in (*keys, *infos):
        if record["_offset"] != at or "_size" not in record:
            return None
        at = stop_of(record)
    if infos and start != at + -at % alignment(Container(metadata_kv=keys)):  # type: ignore[no-untyped-call]
        return None
    for name, offset, records in (("tensor_count", FIRST, infos), ("metadata_kv_count", FIRST + size, keys)):
        if container.get(name, len(records)) != len(records):
            return _wrong(name, offset, f"{len(records)}, as many as there are", container)
    return None


def _wrong(name: str, offset: int, expected: str, container: Container) -> FieldError:
    return FieldError(offset, expected, str(container[name]), steps=[name], partial=container)
