"""Whether headers of a GGUF file that can be read are what was written, and all; or damage that reads as headers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError, count_bytes, counted, each
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import until
from ggcp_schema.formats.gguf.headers import end_of, fits, is_named, length_size, reader_of, stop_of
from ggcp_schema.formats.gguf.moved import may_be_moved, moved_by
from ggcp_schema.formats.parsing import how_altered
from ggcp_schema.schema.gguf import Extents, alignment, in_order, size_of

NAMES = {"metadata_kv": "key", "tensor_infos": "name"}  # the fields with names, by the list of records
SAMPLE = 4096  # bytes after the end, which are of no tensor if they are zeros
KEY_NAME = re.compile(r"[a-z]\w*(\.[\w-]+)+")
FIRST = 8  # where the number of tensors is, and then that of keys


def doubt(source: Source, container: Container) -> FieldError | None:
    """Return an error if headers are not all, or zeros read as records, or if bytes were put into the data."""
    trailing, start = container["trailing"], container["data_start"]
    error = _too_few(source, container) or zeros_in(source, container)
    error = error or (None if trailing is None else _lost_at_end(source, container))
    if error is not None or (trailing is None and (source.size - start) % container["alignment"] == 0):
        return error
    count = moved_by(source, container)
    if not count or not may_be_moved(source, container, count):
        return None
    words = f"{count_bytes(abs(count))} {'more' if count > 0 else 'fewer'}, which may belong before it"
    offset = source.size - max(0, count)
    return FieldError(offset, "the end of the file", words, steps=["trailing"], partial=container)


def _lost_at_end(source: Source, container: Container) -> FieldError | None:
    """Return an error if bytes follow the end in which headers may be lost, or the file was changed on its way."""
    trailing, start = container["trailing"], container["data_start"]
    found = counted(trailing.nbytes, "more byte")
    is_lost = source.zeros_at_end(least=1) <= start  # no tensor of such a file has another value than 0
    is_odd = is_lost or any(source.read(trailing.offset, min(trailing.nbytes, SAMPLE)))
    if is_odd and _may_end_in_zeros(container, is_lost):
        found += ", which may be of its tensors"
    elif not how_altered(source, start):
        return None
    partial = until(container, "data_start")
    return FieldError(trailing.offset, "the end of the file", found, steps=["trailing"], partial=partial)


def is_dense(container: Container) -> bool:
    """Return True if the data of each tensor follows that of the one before, with no more than padding between."""
    found, at = Extents(container), container["data_start"]
    for begin, end in (found[index] for index in in_order(found)):
        if not at <= begin < at + container["alignment"]:
            return False
        at = begin if end is None else end
    return True


def _may_end_in_zeros(container: Container, is_lost: bool) -> bool:
    """Return True if the headers may end in zeros: of all tensors the last is not the last, or one has no name.

    Or the only one has no data, or no dimensions. If all data is zero, the last one may also share data, or have no
    dimensions.
    """
    infos = container["tensor_infos"]
    if not infos:
        return not container["metadata_kv"]
    last = infos[-1]
    has_data = last["n_dimensions"] and size_of(last)
    if (is_lost and not last["n_dimensions"]) or (len(infos) == 1 and not has_data):
        return True
    if is_dense(container) and all(map(size_of, infos)):
        return False
    least = last["offset"] + (not is_lost)
    return any(info["offset"] >= least for info in infos[:-1]) or not all(map(is_named, infos))


def zeros_in(source: Source, container: Container) -> FieldError | None:
    """Return an error if keys or tensors are zeros that were read as records, from within a name or as a whole.

    No tensor has such a name. A key may: it is evidence only if the next record begins with zeros too.
    """
    zeros = (
        (place, index, field)
        for place, field in NAMES.items()
        for index, text in enumerate(each(container.get(place) or (), field))
        if text is not None and (not text or text[-1] == "\0") and _is_zero(container[place][index])
        if place == "tensor_infos" or _goes_on(source, container, index)
    )
    place, index, field = next(zeros, (None, 0, ""))
    if place is None:
        return None
    record = container[place][index]
    begin = len(source.read(record["_offset"], record.get("_size", 0)).rstrip(b"\0"))
    partial = until(container, place)
    partial[place] = ListContainer(container[place][:index])
    steps = place, index, field
    return FieldError(record["_offset"] + begin, f"a {field}", "zeros", steps=steps, partial=partial)


def _is_zero(record: Container) -> bool:
    """Return True if all that a record has after its name is 0; a tensor then has no dimensions."""
    return not any(record.get(field) for field in ("value_type", "value", "n_dimensions", "type", "offset"))


def _goes_on(source: Source, container: Container, index: int) -> bool:
    """Return True if there is a record after a key, and its name has no length; of a key that is cut, zeros follow."""
    record, count = container["metadata_kv"][index], container["metadata_kv_count"] + container["tensor_count"]
    end = record["_offset"] + record.get("_size", source.size)
    return index + 1 < count and not any(source.read(end, max(0, min(8, source.size - end))))


# The counts of keys and tensors ----------------------------------------------------------------------------


def _too_few(source: Source, container: Container) -> FieldError | None:
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
