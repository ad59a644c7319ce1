"""A GGUF file: keys with their types, and tensors that are read when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar

from construct import Container

from ggcp_schema.constructs import Field, FieldError, Steps, counted, each
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.later import Later
from ggcp_schema.files.tensor import Tensor, same_shape
from ggcp_schema.formats.file import File, Format, Recovered
from ggcp_schema.formats.parsing import Parse, open_path
from ggcp_schema.formats.rules import Finding
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import paths_by_key
from ggcp_schema.llama.names import OPTIMIZER_TYPE, STATE, field_path, tensor_name
from ggcp_schema.schema.ggml import type_name
from ggcp_schema.schema.gguf import DEFAULT_ALIGNMENT, GGUF, VALUE_TYPES, Extents, in_order

if TYPE_CHECKING:
    from ggcp_schema.files.source import Source
    from ggcp_schema.formats.gguf import contents, doubt, keys, meanings, recovery, rules
    from ggcp_schema.formats.rules import Rules
    from ggcp_schema.llama.adapter import Adapter
    from ggcp_schema.llama.eras import Evidence
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.parameters import Order
    from ggcp_schema.llama.state import Unsound
    from ggcp_schema.llama.training import Training
    from ggcp_schema.llama.vocabulary import Vocabulary
else:
    contents, doubt, keys = Later("formats.gguf.contents"), Later("formats.gguf.doubt"), Later("formats.gguf.keys")
    meanings, recovery = Later("formats.gguf.meanings"), Later("formats.gguf.recovery")
    rules = Later("formats.gguf.rules")

ARRAY = 9
MAX_LOST = 100  # holes in texts that are told


class GgufFile(File):
    """A GGUF file of version 1 to 3, in either byte order."""

    copied_lists: ClassVar = dict.fromkeys(("tensor_infos", "tensor_data"), ("metadata_kv", "metadata_kv_count"))
    _inner = frozenset({"counts_tensors", "extents", "stored_model"})

    @property
    def counts_tensors(self) -> bool:
        """True if the file has tensors, or states that it has some."""
        return bool(self.container.get("tensor_count") or self.tensors)

    @property
    def byte_order(self) -> str:
        """The byte order of numbers and data: "little" or "big"."""
        return str(self.container.get("byte_order", "little"))

    @cached_property
    def key_values(self) -> Mapping[str, KeyValue]:
        """The keys with their types and values, in file order. A long array is read when its elements are asked for."""
        items = (item for item in self.container.get("metadata_kv") or () if "_size" in item)
        return {item["key"]: KeyValue(item["key"], *typed(item["value_type"], item["value"])) for item in items}

    def key_field(self, key: str) -> Field | None:
        """Return the field with the value of a key; None if there is none. Of several of that name it is the last."""
        steps = self._key_steps(key)
        return None if steps is None else self.root.find(steps)

    def key_type(self, name: str) -> tuple[int, str] | None:
        return keys.key_type(name)

    def set_keys(self, container: Container, wanted: Mapping[str, tuple[int, Any] | None]) -> None:
        keys.set_keys(self, container, wanted)

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key; `default` if the file does not have the key."""
        entry = self.key_values.get(key)
        return default if entry is None else entry.value

    @cached_property
    def extents(self) -> Extents:
        """Where the data of each tensor of `tensor_infos` begins and ends; none if the headers are not whole."""
        is_known = "data_start" in self.container
        return Extents(self.container if is_known else {"data_start": 0, "tensor_infos": ()}, self.size)

    @classmethod
    def is_cut(cls, error: FieldError) -> bool:
        """Return True if the file ends too early, and not if an offset or a shape contradicts the others.

        Nor if it ends in the padding of an unusual alignment, which may be wrong.
        """
        if error.steps == ["padding"]:
            return bool(error.partial["alignment"] == DEFAULT_ALIGNMENT)
        if error.steps[:1] != ["tensor_data"]:
            return super().is_cut(error)
        return doubt.is_dense(error.partial)

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        return recovery.is_proven(source)

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        return doubt.doubt(source, container)

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        return recovery.recover(source, error)

    @cached_property
    def _order(self) -> Sequence[int]:
        """The indices of the tensors in the order of their data; as they come if the headers are not whole."""
        return in_order(self.extents) if self.extents else range(len(self.container.get("tensor_infos") or ()))

    def stored_tensors(self) -> Iterator[Tensor]:
        if not self.extents:
            return
        found = self._placed() if isinstance(self._order, range) else sorted(self._placed())
        infos, source, order = self.container["tensor_infos"], self.source, self.byte_order
        lost = self.container.get("_lost", ())
        fields = (each(infos, field) for field in ("name", "type", "dimensions"))
        for name, kind, lengths, (index, start, end, padding) in zip(*fields, found, strict=True):
            if end <= self.size and index not in lost:
                shape = same_shape(*lengths or (1,))
                yield Tensor(name, name, shape, start, end - start, source, type_name(kind), order, padding)

    def _placed(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield the index of each tensor, where its data begins and ends, and the padding before, in that order."""
        before = self.container["data_start"]
        for index in self._order:
            start, end = self.extents[index]
            yield index, start, end, max(0, start - before)
            before = max(before, end)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd but can be read."""
        return tuple(rules.oddities(self))

    def lost_texts(self) -> Iterator[Unsound]:
        return islice(rules.lost_texts(self), MAX_LOST)

    @cached_property
    def _keys(self) -> dict[str, int]:
        """The indices of the keys that have a value, also if it is not whole."""
        items = self.container.get("metadata_kv") or ()
        return {item["key"]: index for index, item in enumerate(items) if "value" in item}

    @cached_property
    def _places(self) -> dict[str, int]:
        """The indices of the tensors in `tensor_data`, by name."""
        infos = self.container.get("tensor_infos") or ()
        if self.damage is None:
            found = list(each(infos, "name"))
            return {found[info]: index for index, info in enumerate(self._order)}
        return {infos[info]["name"]: index for index, info in enumerate(self._order) if "name" in infos[info]}

    def _steps(self, name: str) -> Steps | None:
        """Return the path of the field that the name of a tensor or a key means; None if it means none."""
        if name in self._places:
            return "tensor_data", self._places[name], "data"
        return self._key_steps(name)

    def _key_steps(self, name: str) -> Steps | None:
        """Return the path of the value of a key, the last of that name; None if there is none."""
        index = self._keys.get(name)
        if index is None:
            return None
        is_array = isinstance(self.container["metadata_kv"][index]["value"], Container)
        return ("metadata_kv", index, "value", *(["array"] if is_array else []))

    def alias(self, name: str) -> Steps | None:
        """Return the path of the value of a key, or of the data of a tensor, also by the path of a ggcp file."""
        if found := self._steps(name):
            return found
        optimizer = self.value(OPTIMIZER_TYPE)
        kind = optimizer if isinstance(optimizer, str) else None
        own = tensor_name(name, kind) or next((key for key, path in paths_by_key(kind).items() if path == name), None)
        return self._steps(own) if own else None

    def named(self, name: str) -> Iterator[Steps]:
        """Yield the path of what a name means, and those of the records that have the name."""
        if found := self._steps(name):
            yield from (found, found[:2])
        if name in self._places:
            yield "tensor_infos", self._order[self._places[name]]

    def candidates(self) -> list[str]:
        """Return the keys and tensor names, with which a misspelt one is compared."""
        return [*islice(chain(self.key_values, self._places), 1000), *super().candidates()]

    @cached_property
    def kind(self) -> str:
        return contents.kind_of(self)

    @property
    def what(self) -> str:
        return contents.in_words(self)[0]

    @property
    def short(self) -> str:
        return contents.in_words(self)[1]

    @property
    def runs(self) -> bool:
        """True for a model with a vocabulary that fits it, which llama.cpp is not known to refuse."""
        return (
            self.damage is None
            and self.kind == "gguf-model"
            and names.TOKENS in self.key_values
            and not any(contents.odd_tokens(self))
            and self.get("version") not in (None, 1)
            and self.byte_order == "little"
            and not self.broken_rules
            and meanings.is_complete(self)
        )

    def facts(self) -> dict[str, Any]:
        return contents.facts_of(self)

    @property
    def has_adapter(self) -> bool:
        """True for a checkpoint of finetune."""
        return self.kind == "gguf-finetune"

    @property
    def dense_tensors(self) -> Mapping[str, Tensor]:
        """The weights of a model, or every A of a checkpoint of finetune, of which a B begins with zeros."""
        if not self.has_adapter:
            return self.model_tensors
        return {name: tensor for name, tensor in self.tensors.items() if name.endswith(".lora_a")}

    def adapter(self) -> Adapter:
        return meanings.adapter_of_gguf(self)

    def vocabulary(self) -> Vocabulary:
        return meanings.vocabulary_of_gguf(self)

    def check_all_in_one(self) -> None:
        contents.check_not_split(self)

    def model_training(self) -> Training:
        return meanings.training_of_model(self)

    def model(self) -> Model:
        return meanings.model_of_gguf(self)

    @cached_property
    def stored_model(self) -> Model:
        """The model, whether llama.cpp can run it or not. Raises `UsageError` if it is not whole."""
        return meanings.stored_model(self)

    def training(self) -> Training:
        return meanings.training_of_gguf(self)

    def evidence(self) -> Evidence | None:
        return meanings.evidence_of_gguf(self) if self.kind == "gguf-resume" else None

    @property
    def orders(self) -> tuple[Order, ...]:
        return meanings.orders_of_gguf(self)

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        path = field_path(tensor.path)
        optimizer = tensor.path.split(".")[1] if path and path.startswith(STATE) else None
        return path, tensor.path, optimizer

    def path_of(self, tensor: Tensor) -> str | None:
        return field_path(tensor.path)

    def compares_by_field(self, other: File) -> bool:
        """Return False: keys and tensors are compared, wherever they stand."""
        return False

    def rules(self, parse: Parse) -> Rules:
        return rules.gguf_rules(parse, self)

    def expected_tensors(self) -> list[str] | None:
        """Return the ggcp paths or the names of the tensors that the whole file had, which its table tells."""
        infos = self.container.get("tensor_infos") or ()
        found = [info["name"] for info in infos if "_size" in info]
        if len(found) != self.container.get("tensor_count"):
            return None
        return [field_path(name) or name for name in found]

    def whole_sizes(self) -> dict[str, int]:
        size = expected_size(self.container) if self.container.get("tensor_infos") else None
        return {} if size is None else {str(self.get("optimizer.type", "")): size}

    def describe(self) -> str:
        if self.damage is not None:
            return super().describe()
        words = f"{counted(len(self.key_values), 'key')}, {counted(len(self.tensors), 'tensor')}"
        return f"GGUF version {self.container['version']}, {words}"


def typed(value_type: int, value: Any) -> tuple[str, Any]:
    """Return a value with its type in words: `UINT32`, or `ARRAY/STRING` for an array of strings."""
    name = VALUE_TYPES[value_type]
    if value_type == ARRAY:
        return f"{name}/{VALUE_TYPES[value['type']]}", value["array"]
    return name, value


def expected_size(gguf: Container) -> int | None:
    """Return the offset of the first byte after the last tensor, which the headers tell; None if they are not whole."""
    if "data_start" not in gguf:
        return None
    return max((end or begin for begin, end in Extents(gguf)), default=int(gguf["data_start"]))


DESCRIPTION = "In version 1, of August 2023, counts, lengths and dimensions are u32 instead of u64."
GGUF_FORMAT = Format("gguf", b"GGUF", GGUF, "GGUF file", GgufFile, DESCRIPTION, expected_size)
FORMATS = (GGUF_FORMAT,)


def open_gguf(path: str | os.PathLike[str], *, partial: bool = False) -> GgufFile:
    """Open a GGUF file; use it in a `with` block, or close it.

    Raises `FileError` if it cannot be read and `MalformedError` if it is damaged. With `partial`, a damaged file opens
    with what precedes the damage.
    """
    opened = open_path(path, lambda source: GGUF_FORMAT, partial=partial)
    assert isinstance(opened, GgufFile)  # noqa: S101 - GGUF_FORMAT opens nothing else
    return opened
