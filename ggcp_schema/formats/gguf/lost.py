"""The headers that are lost in a GGUF file, where only one order of names and shapes explains what is left."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice, pairwise
from math import prod
from typing import Any

from construct import Container, ListContainer

from ggcp_schema.files.source import Source
from ggcp_schema.formats.gguf.headers import end_of, explain, length_size, stop_of, whole_records
from ggcp_schema.formats.lora.records import FINETUNE
from ggcp_schema.formats.records.headers import GGCP, Record
from ggcp_schema.formats.records.series import Series
from ggcp_schema.formats.records.template import MOST_LOST, START, Part, Template
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import OPTIMIZER, RANKS, STATE, paths_by_key
from ggcp_schema.llama.names import tensor_name
from ggcp_schema.schema.ggml import GGML_TYPES, data_size
from ggcp_schema.schema.inference import ADAM

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

Usual = Callable[[Iterable[str]], list[tuple[str, Sequence[Any]]]]
"""Returns the names and shapes of tensors in the order of a program, for names that are found."""


def lost_headers(
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
    at = stop_of(earlier[-1]) if earlier else _end_of_keys(container, is_followed=bool(later))
    if not 0 < count <= MOST_LOST or not (later or at):
        return []
    keys, known = {entry["key"]: entry["value"] for entry in entries}, (*earlier, *later)
    numbers, begin, found = _numbers(keys), end_of(earlier[-1], unit) if earlier else 0, []
    for usual in _orders_of(keys, earlier, later):
        series = Headers(GGML_TYPES, re.compile(b""), b"", 0, usual, numbers, unit)
        template = Template(
            series, [series.record(i["offset"], i["name"], i["dimensions"] or [1], i["type"]) for i in known]
        )
        parts = [*islice(template.chain(Part.of(earlier[-1]["name"]) if earlier else START), count)]
        if len(parts) == count - 1 and NORM not in {info["name"] for info in known}:  # each model has one
            parts.append(Part.of(NORM))
            template.shapes.setdefault(NORM, ["hparams.n_embd"])
        if len(parts) < count:
            continue
        length = length_size(container)
        sizes = [length * (1 + len(template.shapes.get(part.name, ()))) + len(part.text) + 16 for part in parts]
        first = later[0]["_offset"] - sum(sizes) if at is None else at
        after = first + sum(sizes)
        end = later[0]["offset"] if later else source.size - after - -after % unit
        if names.TRAINING_TYPE in keys and not _is_counted(template, parts, begin, end):
            continue
        for level in range(3):
            laid = (_infos(records, sizes, first) for records in template.laid(parts, begin, level))
            fits = [infos for infos in laid if explain(source, infos, later, unit)]
            if len(fits) == 1:
                found += fits
                break
    return found[0] if found and all(infos == found[0] for infos in found) else []


def _is_counted(template: Template, parts: Sequence[Part], begin: int, end: int) -> bool:
    """Give the order of a trainer's file the numbers of tokens and parameters, of which one tells the other.

    If none is known, the size of the data of these parts does, which is between two offsets. Return False if the
    numbers that are known contradict each other.
    """
    model = [part for part in islice(template.chain(START), MOST_LOST) if not names.is_optimizer(part.name)]
    shapes, known = [template.shapes[part.name] for part in model], dict(template.numbers)
    if not {name for name in chain(*shapes) if isinstance(name, str)} <= {*known, "hparams.n_vocab"}:
        return True

    def n_params(n_vocab: int) -> int:
        template.numbers["hparams.n_vocab"] = n_vocab
        return sum(prod(template.numbers.get(name, name) for name in shape) for shape in shapes)

    def end_of(n_vocab: int) -> int:
        template.numbers["optimizer.nx"] = n_params(n_vocab)
        return next((records[-1].end for records in template.laid(parts, begin)), 0)

    stated = known.get("optimizer.nx")
    number, target = (end_of, end) if stated is None else (n_params, stated)
    n_vocab = known.get("hparams.n_vocab") or bisect_left(range(MOST_TOKENS), target, key=number)
    template.numbers["optimizer.nx"] = n_params(n_vocab)
    return stated in {None, template.numbers["optimizer.nx"]}


def _end_of_keys(container: Container, is_followed: bool) -> int | None:
    """Return where the keys end if only the last ones of a trainer are missing; None if that is not known.

    If other headers follow, those tell it better than keys that may be damaged.
    """
    entries, count, known = whole_records(container, "metadata_kv"), container.get("metadata_kv_count"), [*LAST_KEYS]
    last = next((entry for entry in reversed(entries) if entry["key"] in LAST_KEYS), None)
    if last is not None:
        following = known[known.index(last["key"]) + 1 :]
        if entries.index(last) + 1 + len(following) == count:
            size = LAST_KEYS[last["key"]] or last["_size"]  # the damage may begin in its value
            return stop_of(last | {"_size": size}) + sum(LAST_KEYS[key] for key in following)
    return stop_of(entries[-1]) if entries and len(entries) == count and not is_followed else None


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
    if keys.get(names.TRAINING_TYPE) == names.FINETUNE_LORA:
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
