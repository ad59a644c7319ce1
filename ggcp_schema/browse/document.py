"""An open file with what the browser derives from it, and what differs between two. Formats are known to `inspect`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from construct import ConstructError

from ggcp_schema.constructs import LISTS
from ggcp_schema.errors import GgcpError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.paths import place
from ggcp_schema.inspect.search import Index
from ggcp_schema.inspect.tensors import Listed
from ggcp_schema.inspect.text import float_text, plain_text, readable, shape_text, value_text
from ggcp_schema.inspect.usage import Usage, usage
from ggcp_schema.llama import names

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.formats.file import File
    from ggcp_schema.inspect.diff import FieldRow, TensorRow
    from ggcp_schema.inspect.facts import Summary
    from ggcp_schema.inspect.health import Examination
    from ggcp_schema.inspect.matching import Operand
    from ggcp_schema.llama.state import Unsound

READ_ERRORS = (GgcpError, OSError, ConstructError)  # of a file that was changed while it is shown
LONGEST = 200  # characters of a value that are shown
NUMBER = re.compile(r"\d+")


class Document:
    """A file and its name, marks, tensors and facts.

    `tokens` gives the text of a token of the vocabulary, if one is known. `summary` is what `info` says, `usage` what
    the bytes are used for; both are None until `study` has found them; `problem` says why it could not.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        self.file, self.tokens = file, tokens
        self.summary: Summary | None = None
        self.usage: Usage | None = None
        self.problem = ""
        self._unsound: list[Unsound] | None = None
        self._examined: Examination | None = None

    @cached_property
    def index(self) -> Index:
        """What can be searched for."""
        return Index(self.file)

    def prepare(self) -> None:
        """Compute what the first picture needs and what takes long for a file of many tensors.

        What `study` needs is imported here, because an import keeps the screen waiting when it shows something.
        """
        import ggcp_schema.inspect.summary  # noqa: F401

        _ = self.marks, self.by_path, self.file.tensors.at(0)

    @property
    def advice(self) -> tuple[str, ...]:
        """The commands that `info` gives, as far as they are known."""
        return () if self.summary is None else self.summary.next

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file.path).name

    @cached_property
    def marks(self) -> dict[str, str]:
        """What is odd, by path: `damage`, `finding`, `changed` or `only`, for the field and for what holds it."""
        marks: dict[str, str] = {}
        damage = () if self.file.damage is None else ((self.file.damage.path, "damage"),)
        for path, kind in (*damage, *((finding.path, "finding") for finding in self.file.findings)):
            mark(marks, path, kind)
        return marks

    def broken_off(self, field: Field) -> str:
        """Return the name of the damaged field if it should follow in this one, but is not there; else nothing."""
        path = "" if self.file.damage is None else self.file.damage.path
        if next(holders(path), None) != field.path or self.field(path) is not None:
            return ""
        return path.removeprefix(field.path).lstrip(".")

    # Tensors ----------------------------------------------------------------------------------------------

    @cached_property
    def by_path(self) -> bool:
        """Whether the tensors' paths are those of their records, and not names that the file stores."""
        first = next(iter(self.file.tensors), None)
        return first is not None and self._is_at(first, first)

    def field(self, name: str) -> Field | None:
        """Return the field with a path, or with another name; None if there is none, or damage hides it."""
        try:
            return self.file.field(name)
        except GgcpError:
            return None

    def _is_at(self, name: str, path: str) -> bool:
        field = self.field(name)
        return field is not None and field.path == path

    def tensor_of(self, field: Field | None) -> Tensor | None:
        """Return the tensor that the field is, or is a part of; or which an element of a list, that it is in, names."""
        node = field
        while node is not None:
            tensor = self.tensor_at_node(node)
            if tensor is None and not self.by_path and node.steps and isinstance(node.steps[-1], int):
                tensor = self.file.tensors.get(self._own_name(node))
            if tensor is not None:
                return tensor
            node = node.parent
        return None

    def tensor_at_node(self, field: Field) -> Tensor | None:
        """Return the tensor whose record or data the field is; not that of which it is a smaller part."""
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

    def element_size(self, offset: int) -> int:
        """Return the size of an element of the tensor whose data holds the byte; 1 if there is none."""
        tensor = self.file.tensors.at(offset)
        return 1 if tensor is None else max(1, tensor.nbytes // tensor.n_elements)

    @cached_property
    def groups(self) -> dict[str, list[Tensor]]:
        """The tensors whose paths differ in the first number only, by the path with `*` for that number."""
        groups: dict[str, list[Tensor]] = {}
        for path, tensor in self.file.tensors.items():
            if tensor.nbytes and NUMBER.search(path):
                groups.setdefault(NUMBER.sub("*", path, count=1), []).append(tensor)
        return groups

    def resolve(self, text: str) -> tuple[Field | None, int]:
        """Return the field and the offset that a path, an element of data, or an offset means: as `hex` does.

        Raises `GgcpError` if there is no such place.
        """
        text = text.strip()
        offset, _ = place(self.file, text.replace(",", "") if text.replace(",", "").isdecimal() else text)
        field = self.file.field(text)
        return (self.file.at(offset), offset) if field is None else (field, field.offset)

    # Facts ------------------------------------------------------------------------------------------------

    def name_of(self, field: Field) -> str:
        """Return the name that an element of a list stands for: that of its tensor, or its own; else nothing."""
        tensor = self.tensor_at_node(field)
        if tensor is not None:
            return tensor.name or tensor.path
        return self._own_name(field)

    def _own_name(self, field: Field) -> str:
        texts = (child for child in field.children()[:8] if child.is_leaf and child.type != "padding")
        return next((readable(text.value) for text in texts if isinstance(text.value, str | bytes)), "")

    def label(self, field: Field) -> str:
        """Return the path; where a list holds what has names, with the name: `general.name.value_type`."""
        node: Field | None = field
        while node is not None and not self.by_path:
            name = self.name_of(node) if node.steps and isinstance(node.steps[-1], int) else ""
            if name:
                return name + field.path[len(node.path) :]
            node = node.parent
        return field.path

    def place_text(self, field: Field | None, offset: int) -> str:
        """Return what is at a byte, in a line: the field and its value, or the element of its tensor."""
        words = [f"0x{offset:x}"]
        if field is not None and field.size and not field.offset <= offset < field.end:
            words.append("no field: after the damage")
        elif field is not None:
            words.append(self.label(field))
            element, tensor = self.element_at(offset, field), self.tensor_of(field)
            if element is not None and tensor is not None:
                words.append(f"element {element:,}")
                with suppress(GgcpError):  # quantized elements are not decoded
                    words += map(float_text, tensor.numbers(element, element + 1))
            elif field.is_leaf:
                words += [field.type, value_text(field, 200)]
        return "  ".join(words)

    @cached_property
    def token_texts(self) -> Callable[[int], str] | None:
        """The text of a token: of the vocabulary that was given, or else of the file's own."""
        texts = self.file.get(names.TOKENS)
        is_list = isinstance(texts, LISTS) and len(texts) and isinstance(texts[0], str | bytes)
        if self.tokens is not None or not is_list:
            return self.tokens
        return lambda token: readable(texts[token]).replace("▁", " ") if token < len(texts) else "?"

    def row_text(self, tensor: Tensor) -> Callable[[int], str] | None:
        """Return what gives the text of the token to which a row belongs; None if the rows are not of tokens."""
        rows = Listed.of(self.file, tensor).path in ("tok_embeddings", "output") and len(tensor.shape) == 2
        return self.token_texts if rows else None

    def examine(self, report: Report) -> Examination:
        """Return the health of the parameters. Reads all weights and moments once."""
        from ggcp_schema.inspect.health import examine

        if self._examined is None:
            self._examined = examine(self.file, report)
        return self._examined

    def unsound(self, report: Report) -> list[Unsound]:
        """Return what the program that wrote the file cannot have written. Reads all weights and moments once."""
        from ggcp_schema.inspect.soundness import soundness

        if self._unsound is None:
            self._unsound = soundness(self.file, lambda nbytes: report(None))
        return self._unsound

    def study(self, report: Report) -> None:
        """Find out what `info` says, and what the bytes are used for. Reads some tensor data, so it takes a while."""
        from ggcp_schema.inspect.summary import summarize

        used = usage(self.file, report)
        summary = summarize(self.file)
        report(None)
        self.usage, self.summary = used, summary


def mark(marks: dict[str, str], path: str, kind: str) -> None:
    """Mark a field and what holds it, unless it has a mark."""
    marks.setdefault(path, kind)
    for holder in holders(path):
        marks.setdefault(holder, "changed" if kind == "only" else kind)


def holders(path: str) -> Iterator[str]:
    """Give the paths of the records and lists that hold the field, from the inside to the outside."""
    for index in range(len(path) - 1, 0, -1):
        if path[index] in ".[":
            yield path[:index]


class Change(NamedTuple):
    """A row of `diff`, its name as both trees have it, and where it is in both files: a field and an offset."""

    row: FieldRow | TensorRow
    name: str
    places: tuple[tuple[Field | None, int | None], ...]

    @property
    def words(self) -> list[str | None]:
        """What stands in A and in B; None where only the other file has it."""
        return [None if side is None else _words(side) for side in (self.row.a, self.row.b)]


def _words(side: KeyValue | Operand) -> str:
    if isinstance(side, KeyValue):
        return plain_text(side.value, side.type, LONGEST)
    return f"{side.tensor.type} {shape_text(side.tensor.shape)}"


def place_of(document: Document, row: FieldRow | TensorRow, side: KeyValue | Operand | None) -> Any:
    """Return the field and the offset of a row: of a tensor its record, or its data where a format has no record."""
    if side is None:
        return None, None
    if isinstance(side, KeyValue):
        return document.field(row.name), None
    offset = side.tensor.offset
    tensor = document.file.tensors.at(offset)
    return (None if tensor is None else document.field_of(tensor)), offset


class Comparison:
    """What is known so far: `done` of `total` tensors were compared. The comparison adds to it while it is shown.

    `training` says what happened in the training.
    """

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.training = ""
        self.fields = self.done = self.total = self.omitted = self.widest = 0

    def add(self, documents: tuple[Document, Document], row: FieldRow | TensorRow) -> None:
        """Add what is not the same in both files, and mark it in both."""
        places = tuple(place_of(each, row, side) for each, side in zip(documents, (row.a, row.b)))
        paths = (field.path for field, _ in places if field is not None)
        by_path = all(document.by_path for document in documents)  # then the trees know no name of GGUF
        change = Change(row, next(paths, row.name) if by_path else row.name, places)
        for document, (field, _) in zip(documents, places):
            if field is not None:
                mark(document.marks, field.path, "only" if row.a is None or row.b is None else "changed")
        self.widest = max(self.widest, len(change.name))
        self.fields += isinstance(row.a or row.b, KeyValue)
        self.rows.append(change)  # last: the other thread counts the rows


def compare(a: Document, b: Document, report: Report) -> Comparison:
    """Compare the files as `diff` does: all fields, then the tensors one after another."""
    from ggcp_schema.inspect.diff import field_rows, tensor_rows
    from ggcp_schema.inspect.matching import sides
    from ggcp_schema.inspect.training_change import change_between, change_lines

    left, right, _ = sides(a.file, b.file)
    found = Comparison()
    found.training = "; ".join(change_lines(change_between(left.summary, right.summary, {})))
    found.total = len(left.tensors) + sum(name not in left.tensors for name in right.tensors)
    found.omitted = left.omitted.counts.total() + right.omitted.counts.total()
    for field in field_rows(left, right):
        if field.verdict != "equal":
            found.add((a, b), field)
    report(found)
    for found.done, (row, _) in enumerate(tensor_rows(left, right, progress=lambda nbytes: report(None)), 1):
        if row.verdict != "equal":
            found.add((a, b), row)
        report(found)
    return found


def counterpart(field: Field, here: Document, there: Document) -> Field | None:
    """Return the field of the other file that is the same: by its path, or by its tensor's name."""
    tensor = here.tensor_of(field)
    return there.field(field.path) or (None if tensor is None else there.field(tensor.path))
