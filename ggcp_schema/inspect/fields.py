"""What a field of a file is about: the tensor that it belongs to, its name, and what is known of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property

from ggcp_schema.constructs import LISTS, Field
from ggcp_schema.errors import GgcpError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.paths import number, place
from ggcp_schema.inspect.tensors import Listed
from ggcp_schema.inspect.text import plain_text, readable, shape_text, size_text, value_text
from ggcp_schema.llama import names

FIRST = 8  # fields of a record among which its name and its value are
MEMBERS = 40  # fields of a record or list that `describe` lists
LONGEST = 2000  # characters of a value that `describe` gives
FIRST_NUMBER = re.compile(r"\d+")


class Fields:
    """The fields of a file with the tensors that they belong to, and with their names.

    `tokens` gives the text of a token of the vocabulary, if one is known.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        self.file, self.tokens = file, tokens

    def field(self, name: str) -> Field | None:
        """Return the field with a path, or with another name; None if there is none, or damage hides it."""
        try:
            return self.file.field(name)
        except GgcpError:
            return None

    def resolve(self, text: str) -> tuple[Field | None, int]:
        """Return the field and the offset that a path, an element of data, or an offset means: as `hex` does.

        Raises `GgcpError` if there is no such place.
        """
        text = text.strip()
        offset, _ = place(self.file, text.replace(",", "") if text.replace(",", "").isdecimal() else text)
        field = self.file.field(text)
        return (self.file.at(offset), offset) if field is None else (field, field.offset)

    def first_place(self) -> tuple[Field | None, int]:
        """Return the first field; of a damaged file the place of the damage, with its field or the one before."""
        damage = self.file.damage
        if damage is None:
            return next(iter(self.file.root.children()), None), 0
        offset = min(damage.offset, max(0, self.file.size - 1))
        return self.field(damage.path) or self.file.at(max(0, offset - 1)), offset

    def next_start(self, offset: int, step: int) -> int:
        """Return where the field after the one at `offset` starts; `offset` itself if that is in the last field.

        With a step of -1, return where the field at `offset` starts, or the field before it if that is `offset`. From a
        byte after the damage, which is of no field, return the last byte of a field.
        """
        here = self.file.at(offset)
        if here is None:
            return max(0, self.file.root.end - 1)
        if step > 0:
            return here.end if here.end < self.file.size else offset
        before = self.file.at(offset - 1) if 0 < offset == here.offset else here
        return 0 if before is None else before.offset

    # Tensors ----------------------------------------------------------------------------------------------

    @cached_property
    def by_path(self) -> bool:
        """Whether the tensors' paths are those of their records, and not names that the file stores."""
        first = self.file.first_tensor
        return first is not None and self._is_at(first.path, first.path)

    def _is_at(self, name: str, path: str) -> bool:
        field = self.field(name)
        return field is not None and field.path == path

    def tensor_of(self, field: Field | None) -> Tensor | None:
        """Return the tensor that the field is or belongs to, or that the list element around it names; else None."""
        node = field
        while node is not None:
            tensor = self.tensor_at_node(node)
            if tensor is None and not self.by_path and node.is_element:
                tensor = self.file.tensors.get(_text_in(node))
            if tensor is not None:
                return tensor
            node = node.parent
        return None

    def tensor_at_node(self, field: Field) -> Tensor | None:
        """Return the tensor whose record or data the field is; None for a part of a record, and for all others."""
        if self.by_path or not self.file.tensors:
            return self.file.tensors.get(field.path)
        tensor = self.file.tensors.at(field.end - 1) if field.size else None
        if tensor is None:
            return None
        holds = field.offset >= tensor.offset - tensor.padding
        return tensor if holds or self._is_at(tensor.path, field.path) else None

    def field_of(self, tensor: Tensor) -> Field | None:
        """Return the tensor's record, or where a format has none, its data."""
        return self.field(tensor.path) or self.file.at(tensor.offset)

    def element_at(self, offset: int, field: Field | None) -> int | None:
        """Return the index of the element that holds the byte, if it is in the data of the field's tensor."""
        tensor = self.tensor_of(field)
        if tensor is None or not tensor.offset <= offset < tensor.offset + tensor.nbytes:
            return None
        return (offset - tensor.offset) * tensor.n_elements // tensor.nbytes

    @cached_property
    def groups(self) -> dict[str, list[Tensor]]:
        """The tensors whose paths differ in the first number only, by the path with `*` for that number."""
        groups: dict[str, list[Tensor]] = {}
        for path, tensor in self.file.tensors.items():
            if tensor.nbytes and FIRST_NUMBER.search(path):
                groups.setdefault(FIRST_NUMBER.sub("*", path, count=1), []).append(tensor)
        return groups

    # Names ------------------------------------------------------------------------------------------------

    def name_of(self, field: Field) -> str:
        """Return the name by which a list element is known: its own, or that of its tensor; empty if it has none."""
        own = _text_in(field)
        tensor = None if own else self.tensor_at_node(field)
        return own if tensor is None else tensor.name or tensor.path

    def value_of(self, field: Field) -> Field | None:
        """Return the field with the value of a key, or of another record that has a value; of a list its elements."""
        value = field.child("value")
        return value and (value.child("array") or value)

    def label(self, field: Field) -> str:
        """Return a name by which every command finds the field, `general.name.value_type`; else its path."""
        node: Field | None = field
        while node is not None and not self.by_path:
            name = self.name_of(node) if node.is_element else ""
            meant = self.field(name) if name else None
            if meant is not None:
                whole = meant if field.steps[: len(meant.steps)] == meant.steps else node
                label = name + field.path[len(whole.path) :]
                if label.isprintable() and number(label) is None and self._is_at(label, field.path):
                    return label
            node = node.parent
        return field.path

    # Words ------------------------------------------------------------------------------------------------

    def place_text(self, field: Field | None, offset: int) -> str:
        """Return what is at a byte, in a line: the field and its value, or the element of its tensor."""
        words = [f"0x{offset:x}"]
        if field is not None and field.size and not field.offset <= offset < field.end:
            words.append("not parsed: after the damage")
        elif field is not None:
            words.append(self.label(field))
            element, tensor = self.element_at(offset, field), self.tensor_of(field)
            if element is not None and tensor is not None:
                words.append(f"element {element:,}")
                with suppress(GgcpError):  # there are types whose elements are not decoded
                    words += (
                        plain_text(number, tensor.type.lower()) for number in tensor.numbers(element, element + 1)
                    )
            elif field.is_leaf:
                words += [field.type, value_text(field, 200)]
        return "  ".join(words)

    def describe(self, field: Field) -> Iterator[tuple[str, str]]:
        """Yield what is known of a field as labels and texts."""
        yield "path", field.path
        yield "type", field.type
        if field.is_leaf and field.type != "padding":
            yield "value", value_text(field, LONGEST)
        if field.rule:
            yield "rule", field.rule
        if field.docs:
            yield "note", field.docs
        yield "offset", f"{field.offset:,} (0x{field.offset:x})"
        yield "size", size_text(field.size)
        tensor = self.tensor_of(field)
        if tensor is not None:
            yield "tensor", tensor.path
            if tensor.name:
                yield "name", tensor.name
            shape = shape_text(tensor.shape)
            numpy = ", ".join(map(str, reversed(tensor.shape)))
            yield "shape", f"{shape} (ggml order), ({numpy}) in numpy" if tensor.shape else shape
            yield "elements", f"{tensor.n_elements:,} {tensor.type}"
        for finding in self.file.findings:
            if finding.path == field.path:
                yield "finding", finding.message
        damage = self.file.damage
        if damage is not None and field.path in (damage.path, *holders(damage.path)):
            yield "damage", f"{damage.path}: expected {damage.expected}, found {damage.found}"
        if not field.is_leaf:
            yield "fields", f"{len(field.children()):,}"
            for child in field.children()[:MEMBERS]:
                yield "", f"{child.name:<18} {child.type:<8} {child.docs}"

    # Tokens -----------------------------------------------------------------------------------------------

    @cached_property
    def token_texts(self) -> Callable[[int], str] | None:
        """The text of a token: of the vocabulary that was given, or else of the file's own."""
        texts = self.file.get(names.TOKENS)
        is_list = isinstance(texts, LISTS) and len(texts) and isinstance(texts[0], str | bytes)
        if self.tokens is not None or not is_list:
            return self.tokens
        return text_of_token(texts)

    def row_text(self, tensor: Tensor) -> Callable[[int], str] | None:
        """Return what gives the text of the token to which a row belongs; None if the rows are not of tokens."""
        rows = Listed.of(self.file, tensor).path in ("tok_embeddings", "output") and len(tensor.shape) == 2
        return self.token_texts if rows else None


def text_of_token(texts: Sequence[bytes | str]) -> Callable[[int], str]:
    """Return what gives the text of a token, with spaces in place of sentencepiece's mark for them."""
    return lambda token: readable(texts[token]).replace("▁", " ") if token < len(texts) else "?"


def _text_in(field: Field) -> str:
    """Return the first text that a record holds, by which it is known."""
    texts = (child for child in field.children()[:FIRST] if child.is_leaf and child.type != "padding")
    return next((readable(text.value) for text in texts if isinstance(text.value, str | bytes)), "")


def holders(path: str) -> Iterator[str]:
    """Yield the paths of the records and lists that hold the field, from the inside to the outside."""
    for index in range(len(path) - 1, 0, -1):
        if path[index] in ".[":
            yield path[:index]


def counterpart(field: Field, here: Fields, there: Fields) -> Field | None:
    """Return the field of the other file that is the same: by its path, or by its tensor's name."""
    tensor = here.tensor_of(field)
    return there.field(field.path) or (None if tensor is None else there.field(tensor.path))
