"""Where the records of a damaged ggcl or ggla file are."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered
from ggcp_schema.formats.lora.schema import GGCL, GGLA, TYPES
from ggcp_schema.formats.records.headers import BLOCKS, Kind
from ggcp_schema.formats.records.joints import Bytes
from ggcp_schema.formats.records.named import Names, Series, recover
from ggcp_schema.formats.records.places import SEARCHED_FIRST
from ggcp_schema.formats.trailing import are_added_after, zeros_follow
from ggcp_schema.llama.names import field_path, llama_field_path, llama_name, tensor_name
from ggcp_schema.schema.inference import V1

# ggcl ------------------------------------------------------------------------------------------------------


def _name(path: str, kind: str) -> str | None:
    """Return the name until 28 August 2023."""
    stem, _, part = path.rpartition("_")
    name = llama_name(stem)
    return None if name is None else f"{name}.lora{part.upper()}"


def _later_name(path: str, kind: str) -> str | None:
    """Return the name of 29 August 2023: without `layers.`, and the optimizer's tensors have one too."""
    name = _name(path, kind)
    return tensor_name(path, kind) if name is None else name.removeprefix("layers.")


def _gguf_name(path: str, kind: str) -> str | None:
    """Return the name in ggla files from 27 August 2023 on."""
    stem, _, part = path.rpartition("_")
    return f"{tensor_name(stem)}.lora{part.upper()}"


FINETUNE = Kind(GGCL, (_name, _later_name), tuple(block for block in BLOCKS if block.layout == V1))

# ggla ------------------------------------------------------------------------------------------------------

HEAD = struct.pack("<4sI", b"algg", 1)
MOST_R = 1 << 16
FIRST = len(HEAD) + 8  # where the records begin, after r and alpha, which nothing else tells


def _usual(names: Iterable[str]) -> list[tuple[str, Sequence[Any]]]:
    """Return the names and shapes as finetune wrote them."""
    stems = [name.rpartition(".")[0] for name in names]
    is_later = any(field_path(stem) and not llama_field_path(stem) for stem in stems)
    return [(str((_gguf_name if is_later else _name)(path, "")), shape) for path, shape in FINETUNE.tensors(2)]


ADAPTER = Series(HEAD, TYPES, re.compile(rb"[\w.]+\.weight\.lora[AB]"), b".weight.lora", 1, _usual)


def recover_adapter(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a ggla file whose parse ended with an error; None if that is no more."""
    container = error.partial or Container()
    records = [record for record in container.get("tensors") or () if "_size" in record]
    names = None if zeros_follow(source, error) else Names(Bytes(source), ADAPTER, FIRST)
    is_followed = error.missing is None and records and names and names.is_last(records[-1]["_offset"])
    if is_followed and are_added_after(source, records[-1]):
        return None
    places = None if names is None else names.places(FIRST)
    found = recover(source, error, GGLA, places)
    if found is not None and places is not None:
        container, is_lost = found.container, places.is_head_lost
        is_doubtful = places.known[0] != 0 or not places.records[0].header
    else:
        is_lost, is_doubtful = False, error.steps[:2] == ["tensors", 0]
        for record in records:
            if not ADAPTER.name.fullmatch(record["name"]):
                record.pop("_size")
    for name in ("r", "alpha"):  # the damage may begin before the first header
        if name in container and (is_lost or (is_doubtful and not 0 < container[name] <= MOST_R)):
            container[name] = None
    return found


def is_adapter(source: Source) -> bool:
    """Return True if most records of an adapter, and nothing else, are where they must be."""
    places = Names(Bytes(source, SEARCHED_FIRST), ADAPTER, FIRST).places(FIRST)
    is_all = places is not None and all(place.header for place in places.records)  # no optimizer follows
    return places is not None and is_all and 2 * places.found > len(places.joints)
