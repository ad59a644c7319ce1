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
from ggcp_schema.formats.records.named import Names
from ggcp_schema.formats.records.reading import recovered_at
from ggcp_schema.formats.records.search import SEARCHED_FIRST, Searched
from ggcp_schema.formats.records.series import Series
from ggcp_schema.formats.trailing import are_added_after, zeros_follow
from ggcp_schema.llama.names import field_path, llama_field_path, llama_name, tensor_name
from ggcp_schema.schema.inference import V1

# ggcl ------------------------------------------------------------------------------------------------------


def _name(path: str, optimizer: str = "") -> str:
    """Return the name until 28 August 2023."""
    stem, _, part = path.rpartition("_")
    name = llama_name(stem)
    return f"{name}.lora{part.upper()}" if name else ""


def _later_name(path: str, optimizer: str = "") -> str:
    """Return the name of 29 August 2023: without `layers.`, and the optimizer's tensors have one too."""
    return _name(path).removeprefix("layers.") or tensor_name(path, optimizer) or ""


def _gguf_name(path: str) -> str:
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
    return [(_gguf_name(path) if is_later else _name(path), shape) for path, shape in FINETUNE.tensors(2)]


ADAPTER = Series(TYPES, re.compile(rb"[\w.]+\.weight\.lora[AB]"), b".weight.lora", 1, _usual)


def recover_adapter(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a ggla file whose parse ended with an error; None if that is no more."""
    container = error.partial or Container()
    records = [record for record in container.get("tensors") or () if "_size" in record]
    names = None if zeros_follow(source, error) else Names(Searched(source), ADAPTER, FIRST)
    is_followed = error.missing is None and records and names and names.is_last(records[-1]["_offset"])
    if is_followed and are_added_after(source, records[-1]):
        return None
    places = None if names is None else names.places(FIRST)
    wrong = [at for at in range(0, len(HEAD), 4) if source.read(at, 4) != HEAD[at : at + 4]] if places else []
    if places is not None:
        places.wrong += wrong
    found = recovered_at(source, error, GGLA, places, {0: HEAD})
    if found is not None and places is not None:
        container, is_lost = found.container, bool(wrong)
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
    places = Names(Searched(source, SEARCHED_FIRST), ADAPTER, FIRST).places(FIRST)
    is_all = places is not None and all(place.header for place in places.records)  # no optimizer follows
    return places is not None and is_all and places.is_likely
