"""What can be read of a GGUF file with damaged headers: the tensors whose places are proven.

The data of each tensor follows that of the one before, and that of the last ends the file. So tensors after the damage
are found again by their names and offsets, and prove where the data begins.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from math import prod
from typing import IO, Any

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError
from ggcp_schema.constructs.records import new_scope, outermost
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.ggcp.headers import GGCP, Record
from ggcp_schema.formats.ggcp.joints import EVIDENCE
from ggcp_schema.formats.ggcp.named import MOST_LOST, START, Order, Part, Series
from ggcp_schema.formats.ggcp.places import MOST_MOVED
from ggcp_schema.formats.gguf.doubt import is_dense, is_named, zeros_in
from ggcp_schema.formats.gguf.moved import are_numbers, moved_by, recover_moved
from ggcp_schema.formats.lora.files import FINETUNE_LORA
from ggcp_schema.formats.lora.records import FINETUNE
from ggcp_schema.formats.lora.resume import RANKS
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import OPTIMIZER, STATE, paths_by_key
from ggcp_schema.llama.names import tensor_name
from ggcp_schema.schema.ggml import GGML_TYPES, data_size, type_name
from ggcp_schema.schema.gguf import BIG, DEFAULT_ALIGNMENT, GGUF, LITTLE, alignment, size_of
from ggcp_schema.schema.inference import ADAM

LEAST_DATA = 1 << 10  # bytes; less may be the rest of a file that was cut off in its headers
SEARCHED = 1 << 25  # bytes in which the headers of the tensors are looked for
SEARCHED_FIRST = 1 << 23  # of a file of which it is not known whether it is of this format
MOST_OFFSET = 1 << 40
LONGEST_HEADER = 256  # bytes of a tensor
LEAST_DENSE = 2  # tensors without a gap, after which one with a gap is odd
LONGEST_FILL = 1 << 20  # bytes of a hole in the data of which the end is looked for
NORM = f"{names.MODEL_TENSORS['norm']}.weight"
MOMENTS: list[tuple[str, Sequence[Any]]] = [
    (str(tensor_name(f"{names.STATE}{name}", ADAM)), ["optimizer.nx"]) for name in "mv"
]
VALUE_SIZES = {"BOOL": 1, "UINT32": 4, "FLOAT32": 4, "UINT64": 8, "STRING": 8 + len(ADAM)}
LAST_KEYS = {"training.shuffle.rng_state": 0} | {
    key: 12 + len(key) + VALUE_SIZES[kind]
    for key, kind, _ in (
        ("training.shuffle.sample_count", "UINT64", ""),
        ("training.shuffle.next_sample", "UINT64", ""),
        (names.OPTIMIZER_FILE_VERSION, "UINT32", ""),
        *(*OPTIMIZER, *STATE[ADAM]),
    )
}
"""The keys that the trainers wrote last, with their sizes; 0 for the state of random numbers, whose length varies."""
MOST_TOKENS = 1 << 22  # of a vocabulary
SAMPLES = {"F32": 64, "F16": 128}  # bytes of noise that are not numbers of a model by chance
LENGTHS = {  # of a name, by the byte order and the size of a length
    ("little", 8): rb"([\x01-\x7f])\0{7}",
    ("little", 4): rb"([\x01-\x7f])\0{3}",
    ("big", 8): rb"\0{7}([\x01-\x7f])",
}
NAME = rb"([!-~]{1,127})(?=[\x01-\x08]\0{3}|\0{3}[\x01-\x08])"
KEY = rb"([a-z][\w-]*\.[\w.-]+)(?=[\0-\x0c]\0{3}|\0{3}[\0-\x0c])"


def _are_intact(container: Container) -> bool:
    """Return True if each header states what a tensor can have, as in a file with gaps or shared data that was cut.

    A hole that begins in the last header, and goes on in the data, would make its offset less than others if it is of
    zeros, and else very large, or the padding odd. So would a byte that is inserted into it, or lost.
    """
    infos, unit = container["tensor_infos"], container["alignment"]
    offsets, ends = [info["offset"] for info in infos], [_end(info, unit) for info in infos]
    is_last_odd = len(infos) > LEAST_DENSE and offsets[:-1] == [0, *ends[:-2]] and offsets[-1] != ends[-2]
    return (
        max(offsets) == offsets[-1] < MOST_OFFSET
        and not is_last_odd
        and not any(container["padding"])
        and all(is_named(info) and info["offset"] % unit == 0 and size_of(info) != 0 for info in infos)
    )


def is_proven(source: Source) -> bool:
    """Return True if there are headers of tensors whose data ends with the file, whatever it begins with."""
    with source.reading() as stream:
        return len(_after(source, stream, Container(), DEFAULT_ALIGNMENT, SEARCHED_FIRST)) > 1


def recover(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error; None if that is no more."""
    container = error.partial
    if container is not None and "data_start" in container and (error.steps == ["trailing"] or is_dense(container)):
        count = moved_by(source, container)
        return recover_moved(source, container, error, count) if count else None
    if container is None or ("data_start" in container and _are_intact(container)):
        return None
    if error.steps == ["version"] and container["byte_order"] == BIG and is_proven(source):
        container["byte_order"] = LITTLE  # it was concluded from a damaged version
    zeros = zeros_in(source, container)
    error = zeros or error
    kept = until(error.partial, "tensor_infos")
    parsed, believed = _whole(kept, "metadata_kv"), _before_damage(source, error)
    is_doubtful = len(believed) < len(parsed)
    if is_doubtful:
        kept["metadata_kv"] = ListContainer(believed)
    with source.reading() as stream:
        unit = alignment(Container(metadata_kv=_whole(container, "metadata_kv")))  # type: ignore[no-untyped-call]
        infos = list(_found(source, stream, container, believed, unit))
        start = by_offset = None
        if infos:
            start = _data_start(source, infos, unit)
            if start is None:
                start = by_offset = _start_by_offset(source, container, infos, unit)
        is_some = len(infos) < container.get("tensor_count", 0)
        if start is not None and start % unit and is_some and _end(infos[-1], unit) < LEAST_DATA:
            infos = []
        later: list[Container] = []
        if (infos[0]["offset"] if infos else container.get("tensor_count")) == 0:
            begin = parsed[len(believed)]["_offset"] + 1 if is_doubtful else _stop(parsed[-1]) if parsed else 0
            stop = infos[0]["_offset"] if infos else source.size
            later = _later_keys(source, stream, container, begin, stop, 0 if infos else unit - 1)
        if not infos and not later:
            return Recovered(kept, [error], error) if zeros or is_doubtful or "data_start" in container else None
        error.missing = None  # the data ends where the file ends
        kept["metadata_kv"] = ListContainer([*(kept.get("metadata_kv") or ()), *later])
        stream.seek(_stop((infos or later)[-1]))
        begins = None if start is None else [start + info["offset"] for info in infos]
        counts = {"tensor_count": len(infos), "metadata_kv": _whole(container, "metadata_kv")}
        before = Container({**kept, "tensor_infos": ListContainer(infos), "_begins": begins, **counts})
        whole = GGUF.resume(stream, before)
    for name in counts:
        whole.pop(name)  # what the file has in their place is in `kept`
    touched = _touched(source, container, infos, begins) if begins and by_offset is None else set()
    return Recovered(Container({**kept, **whole}, _lost=touched), [error], None)


def _before_damage(source: Source, error: FieldError) -> list[Container]:
    """Return the keys before damage, without those that it may reach into.

    Records with names that no program writes are of the damage. Where the first of them begins with what begins no
    name, or where damage was noticed at the beginning of a record, it may begin in the key before that.
    """
    keys = _whole(error.partial, "metadata_kv")
    if error.missing is not None:
        return keys
    records = [*(error.partial.get("metadata_kv") or ()), *(error.partial.get("tensor_infos") or ())]
    texts = [record.get("key", record.get("name", "")) for record in records]
    count = len(texts)
    while count and not (texts[count - 1] and texts[count - 1].isprintable()):
        count -= 1
    before = keys[:count]
    first = texts[count] if count < len(texts) else ""
    begin = records[count]["_offset"] if count < len(records) else error.offset
    if first and first[0].isprintable():
        return before  # the damage begins in the name
    return before[:-1] if _may_begin_in(source, before, begin, _length_size(error.partial)) else before


def _may_begin_in(source: Source, keys: Sequence[Container], begin: int, length: int) -> bool:
    """Return True if damage that was noticed at the beginning of a record may begin in the key before that.

    A hole that is filled with one byte begins where another byte is before it.
    """
    if not keys or begin != _stop(keys[-1]):
        return False
    data = source.read(begin - 1, min(1 + length, source.size - begin + 1))
    run = len(data) - len(data.rstrip(data[-1:]))
    return not (length // (2 if data[-1] else 1) <= run <= length)  # a length that is right has zeros too


def _found(
    source: Source, stream: IO[bytes], container: Container, entries: Sequence[Container], unit: int
) -> Iterator[Container]:
    """Yield the headers of the tensors that are proven: those before the damage, in it, and after it.

    `entries` are the keys before it.
    """
    later = _after(source, stream, container, unit)
    end, earlier = 0, []
    for info in _whole(container, "tensor_infos"):
        if (later and info["_offset"] >= later[0]["_offset"]) or not _fits(info, end):
            break
        earlier.append(info)
        end = _end(info, unit)
    if earlier and not (later and end == later[0]["offset"]) and not earlier[-1]["offset"]:
        earlier.pop()  # its offset, and what is before it, may be zeros of the damage
    lost = _lost(source, container, entries, earlier, later, unit)
    if later or lost:
        if not later or end <= later[0]["offset"]:
            yield from earlier
        yield from lost
        yield from later
    elif earlier and len(earlier) + 1 == container.get("tensor_count"):
        last = _with_offset(source, stream, container, earlier[-1], unit)
        if last or _start_by_offset(source, container, earlier, unit) is not None:
            yield from earlier
            yield from last


def _with_offset(
    source: Source, stream: IO[bytes], container: Container, before: Container, unit: int
) -> list[Container]:
    """Return the last header with the offset that it must have, if the data of its tensor ends with the file so."""
    stream.seek(_stop(before))
    info = _records(stream, container, "tensor_infos")()
    if info is None or not is_named(info) or not size_of(info):
        return []
    info["offset"] = _end(before, unit)
    return [info] if _explain(source, [info], later=(), unit=unit) else []


Usual = Callable[[Iterable[str]], list[tuple[str, Sequence[Any]]]]


class Headers(Series):
    """What tells where the data of the tensors is, from the padding on."""

    def record(self, at: int, name: str, shape: Iterable[int], type: int) -> Record:
        """Return the data of a tensor as a record without a header."""
        size = data_size(self.types[type], [*shape])
        return Record(name, tuple(shape), at, b"", at, at + size + -size % self.alignment, type)


def _trained(found: Iterable[str] = ()) -> list[tuple[str, Sequence[Any]]]:
    """Return the names and shapes as train-text-from-scratch, and this program, write them."""
    return [(str(tensor_name(path)), shape) for path, shape in GGCP.tensors(2)] + MOMENTS


def _finetuned(found: Iterable[str] = ()) -> list[tuple[str, Sequence[Any]]]:
    """Return the names and shapes as finetune writes them."""
    parts = ((path.rpartition("_"), shape) for path, shape in FINETUNE.tensors(2))
    return [(f"{tensor_name(stem)}.lora_{part}", shape) for (stem, _, part), shape in parts] + MOMENTS


def _finetuned_later(found: Iterable[str] = ()) -> list[tuple[str, Sequence[Any]]]:
    """Return the names and shapes as finetune writes them from December 2023 on, with vectors for single rows."""
    return [(name, shape[:-1] if shape[-1] == 1 else shape) for name, shape in _finetuned()]


def _orders_of(keys: Mapping[str, Any], *runs: Sequence[Container]) -> list[Usual]:
    """Return the names and shapes in the orders of the programs that may have written the file; none if not proven.

    Other programs write other orders, in which no two names of a layer follow each other so.
    """
    usual = {*pairwise(Part.of(name).name for name, _ in _trained())}
    found = {*chain(*(pairwise(Part.of(info["name"]).name for info in infos) for infos in runs))}
    if keys.get(names.TRAINING_TYPE) == FINETUNE_LORA:
        is_told = any(info["name"].endswith("norm.weight.lora_b") for infos in runs for info in infos)
        return [_finetuned] if is_told else [_finetuned, _finetuned_later]
    is_usual = found <= usual and any("#" in name for pair in found for name in pair)
    return [_trained if is_usual or names.TRAINING_TYPE in keys else lambda found: []]


def _numbers(keys: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers that are in shapes, by the path of the field in which a ggcp or ggcl file has them."""
    own = f"{keys.get(names.ARCHITECTURE, 'llama')}."
    paths = paths_by_key(None) | {key: path for key, _, path in RANKS}
    numbers = {path: keys.get(key.replace("llama.", own)) for key, path in paths.items()}
    if isinstance(keys.get(names.TOKENS), Container):
        numbers["hparams.n_vocab"] = keys[names.TOKENS]["len"]
    return {path: number for path, number in numbers.items() if isinstance(number, int) and number > 0}


def _lost(
    source: Source,
    container: Container,
    entries: Sequence[Container],
    earlier: Sequence[Container],
    later: Sequence[Container],
    unit: int,
) -> list[Container]:
    """Return the headers between these, which only one order of names and shapes explains; none if that is not so.

    Without any before, they follow the last key. `entries` are the keys before the damage.
    """
    count = container.get("tensor_count", 0) - len(earlier) - len(later)
    at = _stop(earlier[-1]) if earlier else _end_of_keys(container, is_followed=bool(later))
    if not 0 < count <= MOST_LOST or not (later or at):
        return []
    keys, known = {entry["key"]: entry["value"] for entry in entries}, (*earlier, *later)
    numbers, begin, found = _numbers(keys), _end(earlier[-1], unit) if earlier else 0, []
    for usual in _orders_of(keys, earlier, later):
        series = Headers(b"", GGML_TYPES, re.compile(b""), b"", 0, usual, numbers, unit)
        order = Order(series, [series.record(i["offset"], i["name"], i["dimensions"] or [1], i["type"]) for i in known])
        parts = [*islice(order.chain(Part.of(earlier[-1]["name"]) if earlier else START), count)]
        if len(parts) == count - 1 and NORM not in {info["name"] for info in known}:  # each model has one
            parts.append(Part.of(NORM))
            order.shapes.setdefault(NORM, ["hparams.n_embd"])
        if len(parts) < count:
            continue
        length = _length_size(container)
        sizes = [length * (1 + len(order.shapes.get(part.name, ()))) + len(part.text) + 16 for part in parts]
        first = later[0]["_offset"] - sum(sizes) if at is None else at
        after = first + sum(sizes)
        end = later[0]["offset"] if later else source.size - after - -after % unit
        if names.TRAINING_TYPE in keys and not _is_counted(order, parts, begin, end):
            continue
        for level in range(3):
            laid = (_infos(records, sizes, first) for records in order.laid(parts, begin, level))
            fits = [infos for infos in laid if _explain(source, infos, later, unit)]
            if len(fits) == 1:
                found += fits
                break
    return found[0] if found and all(infos == found[0] for infos in found) else []


def _is_counted(order: Order, parts: Sequence[Part], begin: int, end: int) -> bool:
    """Give the order of a trainer's file the numbers of tokens and parameters, of which one tells the other.

    If none is known, the size of the data of these parts does, which is between two offsets. Return False if the
    numbers that are known contradict each other.
    """
    model = [part for part in islice(order.chain(START), MOST_LOST) if not names.is_optimizer(part.name)]
    shapes, known = [order.shapes[part.name] for part in model], dict(order.numbers)
    if not {name for name in chain(*shapes) if isinstance(name, str)} <= {*known, "hparams.n_vocab"}:
        return True

    def n_params(n_vocab: int) -> int:
        order.numbers["hparams.n_vocab"] = n_vocab
        return sum(prod(order.numbers.get(name, name) for name in shape) for shape in shapes)

    def end_of(n_vocab: int) -> int:
        order.numbers["optimizer.nx"] = n_params(n_vocab)
        return next((records[-1].end for records in order.laid(parts, begin)), 0)

    stated = known.get("optimizer.nx")
    number, target = (end_of, end) if stated is None else (n_params, stated)
    n_vocab = known.get("hparams.n_vocab") or bisect_left(range(MOST_TOKENS), target, key=number)
    order.numbers["optimizer.nx"] = n_params(n_vocab)
    return stated in {None, order.numbers["optimizer.nx"]}


def _end_of_keys(container: Container, is_followed: bool) -> int | None:
    """Return where the keys end if only the last ones of a trainer are missing; None if that is not known.

    If other headers follow, those tell it better than keys that may be damaged.
    """
    entries, count, known = _whole(container, "metadata_kv"), container.get("metadata_kv_count"), [*LAST_KEYS]
    last = next((entry for entry in reversed(entries) if entry["key"] in LAST_KEYS), None)
    if last is not None:
        following = known[known.index(last["key"]) + 1 :]
        if entries.index(last) + 1 + len(following) == count:
            size = LAST_KEYS[last["key"]] or last["_size"]  # the damage may begin in its value
            return _stop(last | {"_size": size}) + sum(LAST_KEYS[key] for key in following)
    return _stop(entries[-1]) if entries and len(entries) == count and not is_followed else None


def _touched(source: Source, container: Container, infos: Sequence[Container], begins: Sequence[int]) -> set[int]:
    """Return the indices of the tensors into whose data damage may reach that covers the end of the headers.

    It ends where other bytes follow a run of the same, or before numbers of a model.
    """
    order, last = _order(container), infos[-1]
    start = begins[0] - infos[0]["offset"]
    at, tail = _stop(last), struct.pack(f"{order}IQ", last["type"], last["offset"])
    if any(tail) and source.read(at - len(tail), start - at + len(tail)) == tail + bytes(start - at):
        return set()  # it ends inside of the last header
    filled, after = source.read(start - EVIDENCE, EVIDENCE), source.read(start, min(source.size - start, LONGEST_FILL))
    other = len(after) - len(after.lstrip(filled[:1]))
    stop = start + other if len({*filled}) == 1 and other < len(after) else source.size
    touched: set[int] = set()
    for index, info in enumerate(infos):
        kind, begin = type_name(info["type"]) if order == "<" else "", begins[index]
        end = begin + size_of(info)
        if begin >= stop and are_numbers(source, kind, begin, min(begin + SAMPLES.get(kind, 0), end)) is not False:
            break
        touched.add(index)
        if _ends_in_numbers(source, kind, begin, end):
            break
    return touched


def _ends_in_numbers(source: Source, kind: str, begin: int, end: int) -> bool:
    """Return True if the last numbers of a tensor are those of a model; of an adapter, they may be zeros."""
    size = SAMPLES.get(kind, 0)
    while 0 < size <= min(end - begin, LONGEST_FILL):
        told = are_numbers(source, kind, end - size, end)
        if told is not None:
            return told
        size *= 2
    return False


def _infos(records: Sequence[Record], sizes: Sequence[int], at: int) -> list[Container]:
    """Return the headers of tensors, of which the first begins at an offset."""
    infos = []
    for record, size in zip(records, sizes, strict=True):
        shape = ListContainer(record.shape)
        infos.append(
            Container(
                _offset=at,
                name=record.path,
                n_dimensions=len(shape),
                dimensions=shape,
                type=record.type,
                offset=record.start,
                _size=size,
            )
        )
        at += size
    return infos


def _explain(source: Source, infos: Sequence[Container], later: Sequence[Container], unit: int) -> bool:
    """Return True if these headers, and the data of their tensors, end where the next begin, or the file ends."""
    if not later:
        return _data_start(source, infos, unit) is not None
    moved = (source.size - _end(later[-1], unit) + MOST_MOVED) % unit - MOST_MOVED  # bytes inserted or lost, if any
    return later[0]["_offset"] - _stop(infos[-1]) in {0, moved} and _end(infos[-1], unit) == later[0]["offset"]


def _data_start(source: Source, infos: Sequence[Container], unit: int) -> int | None:
    """Return where the data begins that follows these headers, if it ends with the file; None if it does not.

    Bytes may be inserted or lost before them, so that it is not aligned.
    """
    last = infos[-1]
    at, size, padded = _stop(last), last["offset"] + size_of(last), _end(last, unit)
    for moved in sorted(range(-MOST_MOVED, MOST_MOVED + 1), key=abs):
        start: int = at + -(at - moved) % unit
        if start + padded == source.size and not (moved and any(source.read(at, start - at))):
            return start
        if not moved and start + size == source.size and any(source.read(start + 2 * size - padded, padded - size)):
            return start  # without padding after the last tensor
    return None


def _start_by_offset(source: Source, container: Container, infos: Sequence[Container], unit: int) -> int | None:
    """Return where the data begins if one header, which is damaged, follows these; None if that is not proven.

    It ends with the offset that follows from the others.
    """
    at, offset, moved = _stop(infos[-1]), _end(infos[-1], unit), source.size % unit
    header = source.read(at, min(LONGEST_HEADER, source.size - at))
    pattern = re.escape(struct.pack(f"{_order(container)}Q", offset))
    # Bytes were inserted or lost, or there is no padding after the last tensor, whose size then is hardly odd.
    shifts = {moved} if moved % 2 and not any(size_of(info) % 2 for info in infos) else {0, moved}
    starts = set()
    for match in re.finditer(pattern, header):
        end = at + match.end()
        for start in (end + -(end - shift) % unit for shift in shifts):
            if start + offset < source.size and not any(source.read(end, start - end)):
                starts.add(start)
    return starts.pop() if len(starts) == 1 else None


def _order(container: Container) -> str:
    """Return the byte order as struct has it."""
    return ">" if container.get("byte_order") == BIG else "<"


def _length_size(container: Container) -> int:
    """Return the size of a length."""
    return 4 if container.get("version") == 1 else 8


def _records(stream: IO[bytes], container: Container, place: str) -> Callable[[], Container | None]:
    """Return a function that reads the next record of such a list; None if there is none."""
    schema = GGUF.of(container)  # type: ignore[no-untyped-call]
    subcon, scope = dict(schema.fields)[place].subcon, new_scope(schema, stream, outermost({}))

    def read() -> Container | None:
        try:
            record: Container = subcon._parse(stream, scope, "")
        except FieldError:
            return None
        return record

    return read


def _later_keys(
    source: Source, stream: IO[bytes], container: Container, start: int, stop: int, padding: int
) -> list[Container]:
    """Return the keys after damage. At `stop` the headers of the tensors begin; the last key ends there.

    In a file without tensors it ends at most `padding` zeros before the end.
    """
    read, at = _records(stream, container, "metadata_kv"), start
    pattern = LENGTHS[container.get("byte_order", "little"), _length_size(container)] + KEY
    for match in re.finditer(pattern, source.read(start, max(0, min(stop - start, SEARCHED)))):
        if start + match.start() < at or match[1][0] != len(match[2]):
            continue
        stream.seek(start + match.start())
        keys: list[Container] = []
        # Zeros read as keys without a name, of which a file may have millions.
        while (at := stream.tell()) < stop and (key := read()) is not None and key["key"]:
            keys.append(key)
        if stop - padding <= at <= stop and not any(source.read(at, stop - at)):
            return keys
        at = max(at, stream.tell())  # a long array that is read in vain is not read again from its middle
    return []


def _after(
    source: Source, stream: IO[bytes], container: Container, unit: int, searched: int = SEARCHED
) -> list[Container]:
    """Return the headers that no other follows, and whose data ends with the file."""
    data = source.read(0, min(source.size, searched))
    read, at = _records(stream, container, "tensor_infos"), 0
    pattern = LENGTHS[container.get("byte_order", "little"), _length_size(container)] + NAME
    for match in re.finditer(pattern, data):
        if match.start() < at or match[1][0] != len(match[2]):
            continue
        stream.seek(match.start())
        infos: list[Container] = []
        while True:
            at, info = stream.tell(), read()
            if info is None or not _fits(info, _end(infos[-1], unit) if infos else info["offset"] // unit * unit):
                break
            infos.append(info)
        if infos and _explain(source, infos, later=(), unit=unit):
            return infos
        if len(infos) < 2:
            at = 0  # a key before the first header may be read as one, and reach into it
    return []


def _fits(info: Container, offset: int) -> bool:
    """Return True if a header is that of a tensor with data, of a known type, at this offset."""
    return is_named(info) and size_of(info) > 0 and info["offset"] == offset


def _end(info: Container, unit: int) -> int:
    """Return the offset at which the data after that of a tensor begins."""
    end: int = info["offset"] + size_of(info)
    return end + -end % unit


def _stop(record: Container) -> int:
    """Return the offset of the first byte after a record."""
    return int(record["_offset"] + record["_size"])


def _whole(container: Container, place: str) -> list[Container]:
    return [record for record in container.get(place) or () if "_size" in record]
