"""What can be read of a damaged ggml, ggmf or ggjt file: the tensors whose headers are found, or follow from others."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from typing import Any

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError, Struct
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.records.headers import GGCP
from ggcp_schema.formats.records.named import Names, doubtful_name
from ggcp_schema.formats.records.numbers import impossible
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.formats.records.reading import recovered_at
from ggcp_schema.formats.records.search import NAMED, SEARCHED, SEARCHED_FIRST, Searched
from ggcp_schema.formats.records.series import Series
from ggcp_schema.formats.trailing import are_added_after, doubtful_end, zeros_follow
from ggcp_schema.llama.names import llama_name
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2
from ggcp_schema.schema.ggml_model import GGJT, GGMF, GGML
from ggcp_schema.schema.tensor import ALIGNMENT

NAME = re.compile(rb"[\w.]+\.weight")
SCHEMAS = {schema.fields[0][1].value: schema for schema in (GGML, GGMF, GGJT)}
OF_2023 = {number: GGML_TYPES[number] for number in range(16)}
ZERO = 3  # the token of byte 0, whose text is empty in the files of the trainer of August 2023
META = (1, 2, 3, 4, 0, 6, 7, 8, 5)  # the tensors of a layer
LEAST = 32  # bytes before the tokens
MAGIC = GGJT.fields[0][1].value
VERSIONS = {GGJT: (3, 2), GGMF: (1,), GGML: (None,)}  # of ggjt 2 stands for 1, whose tensors have the same sizes
HPARAMS = {GGJT: 8, GGMF: 8, GGML: 4}  # where they begin
TOLD = "hparams.n_vocab", "hparams.n_embd"  # the first two, which the headers of the tensors tell too


def _usual(names: Iterable[str]) -> list[tuple[str, Sequence[Any]]]:
    """Return the names and shapes in the order of the trainers, or of Meta's files, which is that of convert.py."""
    trained: list[tuple[str, Sequence[Any]]] = [(str(llama_name(path)), shape) for path, shape in GGCP.tensors(2)]
    meta = [trained[index] for index in (0, 1, 2, *(3 + 9 * layer + at for layer in range(2) for at in META))]
    pairs = {*pairwise(names)}
    return max(trained, meta, key=lambda tensors: len(pairs & {*pairwise(name for name, _ in tensors)}))


def series_of(container: Container, schema: Struct) -> Series:
    """Return what tells where the records of a file of the schema are that begins with these values."""
    types = OF_2023 if container.get("version") == 3 else GGML_TYPES_UNTIL_V2
    numbers = {f"hparams.{name}": n for name, n in (container.get("hparams") or {}).items() if not name.startswith("_")}
    return Series(types, NAME, NAMED, 0, _usual, numbers, ALIGNMENT if schema is GGJT else 1)


def end_of_tokens(container: Container) -> int:
    """Return where the tokens end that were parsed."""
    last = (container["tokens"] or [container["hparams"]])[-1]
    end: int = last["_offset"] + last["_size"]
    return end if container["tokens"] else end + 4  # after ftype


def doubt(source: Source, container: Container) -> FieldError | None:
    """Return an error if a tensor has another name than the others prove, or if bytes after the end may be its own."""
    series = series_of(container, SCHEMAS[container["magic"]])
    name = doubtful_name(source, container, series, end_of_tokens(container))
    return name or doubtful_end(source, container, is_complete=_is_complete(container))


def _is_complete(container: Container) -> bool:
    """Return True if all tensors of the model are whole."""
    records = [record for record in container.get("tensors") or () if "_size" in record]
    n_layer = container["hparams"].get("n_layer", 0)
    if not records or len(records) != 3 + n_layer * len(META):
        return False
    names = {record["name"].decode("utf-8", "replace") for record in records}
    return names == {llama_name(path) for path, _ in GGCP.tensors(n_layer)}


def _is_followed(source: Source, error: FieldError) -> bool:
    """Return True if the model is complete, and what follows its last tensor is no part of it."""
    records = [record for record in error.partial.get("tensors") or () if "_size" in record]
    is_header = error.steps[2:] == ["n_dims"]
    return is_header and _is_complete(error.partial) and are_added_after(source, records[-1])


def is_proven(source: Source, schema: Struct) -> bool:
    """Return True if the tensors of a llama follow each other up to the end of the file, as in one of this schema.

    Those of ggmf and ggml are laid out alike. What is before the hyper-parameters tells which it is, if they are found.
    """
    if 0 not in _gaps(source, schema, SEARCHED_FIRST).values():
        return False
    at = _hparams_at(source, schema)
    return schema is GGJT or at is None or abs(at - HPARAMS[schema]) < 2


def _gaps(source: Source, schema: Struct, searched: int = SEARCHED) -> dict[int | None, int]:
    """Return the versions of which the tensors of a llama are found, with the records that nothing tells."""
    found, file = {}, Searched(source, searched)
    for version in VERSIONS[schema]:
        names = Names(file, series_of(Container(version=version), schema), LEAST)
        if names.template.numbers.keys() >= {*TOLD}:
            places = names.places(names.first())
            if places is not None:
                found[version] = sum(not place.header for place in places.records)
    return found


def _hparams_at(source: Source, schema: Struct) -> int | None:
    """Return where the hyper-parameters begin: with the numbers that the headers of the tensors tell; None if lost."""
    series = series_of(Container(version=VERSIONS[schema][0]), schema)
    numbers = Names(Searched(source), series, LEAST).template.numbers
    told = struct.pack("<2i", *(numbers.get(name, -1) for name in TOLD))
    at = source.read(0, min(source.size, HPARAMS[schema] + MOST_MOVED)).find(told)
    return None if at < 0 else at


def recover(source: Source, error: FieldError, schema: Struct) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error; None if that is no more."""
    container = error.partial
    has_head = error.missing is not None or error.steps not in (["magic"], ["version"])
    if not has_head:
        container = _after_head(source, schema)
    if not container or "hparams" not in container or zeros_follow(source, error):
        return None
    if has_head and _is_followed(source, error):
        return None
    series = series_of(container, schema)
    names = Names(Searched(source), series, LEAST)
    if not names.found:
        for record in (container.get("tensors") or ())[-2:]:
            record.pop("_size", None)  # it may be damaged as what follows it is
        return None
    first = end_of_tokens(container) if "tensors" in container else None
    has_tokens = first is not None and names.is_first(first)
    if first is not None and has_tokens and has_head:
        return recovered_at(source, error, schema, names.places(first), {})
    kept = until(container, "tensors") if has_tokens else _up_to_damage(container, names)
    begin = names.first()
    places = names.places(begin)
    if not has_head and places is not None:
        places.wrong += [error.offset] + [0] * (error.partial.get("magic") not in SCHEMAS)
    elif first is not None:
        error = FieldError(first, f"tokens up to offset {begin}", "the end of the tokens", steps=["tokens"])
    error.missing = None
    found = recovered_at(source, error, schema, places, {}, kept)
    if found is None or has_head:
        return found and found._replace(errors=[error, *(other for other in found.errors if other is not error)])
    if "version" in container and _version(source, container["hparams"]["_offset"]) is None:
        versions = container["_versions"]
        found.container["version"] = versions[0] if versions in ([1], [3]) else None  # others store the tensors alike
    return found


def _version(source: Source, offset: int) -> int | None:
    """Return ggjt's version before the hyper-parameters, which follows the last byte of the magic; None if lost."""
    stated = source.read(max(0, offset - 5), 5)
    return next((version for version in (1, 2, 3) if stated == struct.pack("<BI", MAGIC >> 24, version)), None)


def _after_head(source: Source, schema: Struct) -> Container:
    """Return what can be parsed of a file after its magic and version, of which one is damaged.

    The hyper-parameters may be moved. `_versions` are those of which most tensors are found; none if it may be a ggml
    file as well as a ggmf file.
    """
    at, gaps = _hparams_at(source, schema), _gaps(source, schema)
    start = HPARAMS[schema] if at is None else at
    versions = [version for version, count in gaps.items() if count == min(gaps.values())]
    versions = [] if schema is GGMF and at is None else versions
    kept = Container(_offset=0, magic=schema.fields[0][1].value, _versions=versions)
    if schema is GGJT:
        kept["version"] = _version(source, start) or next(iter(versions), 3)
    elif schema is GGMF:
        kept["version"] = 1
    with source.reading() as stream:
        stream.seek(start)
        try:
            return schema.resume(stream, kept)
        except FieldError as ended:
            return ended.partial


def _up_to_damage(container: Container, names: Names) -> Container:
    """Return the values before the first token that may be damaged."""
    kept, tokens = until(container, "tokens"), container.get("tokens") or [{}]
    numbers = {name.removeprefix("hparams."): names.template.numbers.get(name) for name in names.series.numbers}
    is_odd = impossible({f"hparams.{name}": number for name, number in kept["hparams"].items()})
    is_other = any(kept["hparams"][name] != number for name, number in numbers.items())
    if is_odd or is_other or not tokens[0].get("text"):
        kept["ftype"] = None  # the damage may begin before the tokens
        kept["hparams"] = Container(kept["hparams"] | dict.fromkeys(numbers))
        kept["hparams"].pop("_size", None)
    sound = takewhile(lambda one: "_size" in one[1] and (one[1]["text"] or one[0] == ZERO), enumerate(tokens))
    kept["tokens"] = ListContainer(tokens[: max(0, len([*sound]) - 1)])  # the damage may begin in the last
    return kept
