"""An open file with what the browser derives from it. All knowledge of formats is asked of `inspect` and `mapping`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from construct import ConstructError

from ggcp_schema.errors import GgcpError

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.formats.file import File
    from ggcp_schema.inspect.facts import Summary

MODEL, M, V, STATE, WASTE, PADDING, FIELDS, UNKNOWN = (
    "model",
    "m",
    "v",
    "other state",
    "waste",
    "padding",
    "fields",
    "after the damage",
)
USES = (MODEL, M, V, STATE, WASTE, PADDING, FIELDS, UNKNOWN)
READ_ERRORS = (GgcpError, OSError, ConstructError)  # of a file that was changed while it is shown
Report = Callable[[Any], None]
CELLS = 2520  # parts of the map; divisible by most widths
NUMBER = re.compile(r"\d+")


class Region(NamedTuple):
    """Bytes of one use, next to each other."""

    use: str
    offset: int
    size: int


class Document:
    """A file and its name, marks, tensors and facts.

    `tokens` gives the text of a token of the vocabulary, if one is known. `summary` is what `info` says, `usage` what
    the bytes are used for; both are None until `study` has found them.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        self.file, self.tokens = file, tokens
        self.summary: Summary | None = None
        self.usage: Usage | None = None

    def prepare(self) -> None:
        """Compute what the first picture needs and what takes long for a file of many tensors.

        What `study` needs is imported here, because an import keeps the screen waiting when it shows something.
        """
        import ggcp_schema.inspect.summary  # noqa: F401

        _ = self.marks, self._by_path, self.file.tensors.at(0)

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file.path).name

    @cached_property
    def marks(self) -> dict[str, str]:
        """What is odd, by path: `damage`, `finding`; and `damage inside`, `finding inside` for what holds it."""
        marks: dict[str, str] = {}
        for finding in self.file.findings:
            _mark(marks, finding.path, "finding")
        if self.file.damage is not None:
            _mark(marks, self.file.damage.path, "damage")
        return marks

    def broken_off(self, field: Field) -> str:
        """Return the name of the damaged field if it should follow in this one, but is not there; else nothing."""
        damage = self.file.damage
        if damage is None or self.marks.get(field.path) != "damage inside":
            return ""
        if next(holders(damage.path), None) != field.path or self.path_of(damage.path) is not None:
            return ""
        return damage.path.removeprefix(field.path).lstrip(".")

    # Tensors ----------------------------------------------------------------------------------------------

    @cached_property
    def _by_path(self) -> bool:
        """Whether the tensors' paths are those of their records, and not names that the file stores."""
        first = next(iter(self.file.tensors), None)
        return first is not None and self.path_of(first) == first

    def path_of(self, name: str) -> str | None:
        """Return the path of the field that has a name; None if there is none, or damage hides it."""
        try:
            return self.file.find(name).path
        except GgcpError:
            return None

    def offset_of(self, path: str) -> int:
        """Return where a field begins; 0 if there is none."""
        try:
            return self.file.find(path).offset
        except GgcpError:
            return 0

    def tensor_of(self, field: Field | None) -> Tensor | None:
        """Return the tensor that the field is, or is a part of."""
        node = field
        while node is not None:
            tensor = self.tensor_at_node(node)
            if tensor is not None:
                return tensor
            node = node.parent
        return None

    def tensor_at_node(self, field: Field) -> Tensor | None:
        """Return the tensor whose record or data the field is; not that of which it is a smaller part."""
        if self._by_path or not self.file.tensors:
            return self.file.tensors.get(field.path)
        tensor = self.file.tensors.at(field.end - 1) if field.size else None
        if tensor is None:
            return None
        holds = field.offset >= tensor.offset - tensor.padding
        return tensor if holds or self.path_of(tensor.path) == field.path else None

    def field_of(self, tensor: Tensor) -> Field | None:
        """Return the tensor's record, or where a format has none, its data."""
        try:
            return self.file.find(tensor.path)
        except GgcpError:
            return self.file.at(tensor.offset)

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

    def groups(self) -> dict[str, list[Tensor]]:
        """Return the tensors whose paths differ in the first number only, by the path with `*` for that number."""
        groups: dict[str, list[Tensor]] = {}
        for path, tensor in self.file.tensors.items():
            if tensor.nbytes and NUMBER.search(path):
                groups.setdefault(NUMBER.sub("*", path, count=1), []).append(tensor)
        return groups

    # Facts ------------------------------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> list[Tensor]:
        """The tensors of the model, in file order."""
        from ggcp_schema.inspect.tensors import listing

        return [item.tensor for item in listing(self.file) if item.moment is None and item.tensor.nbytes]

    def shared_name(self, tensor: Tensor) -> str:
        """Return the tensor's name in GGUF files; empty if it has none."""
        from ggcp_schema.inspect.tensors import lister

        return lister(self.file)(tensor).gguf_name or ""

    def study(self, report: Report) -> None:
        """Find out what `info` says, and what the bytes are used for. Reads some tensor data, so it takes a while."""
        from ggcp_schema.inspect.summary import summarize

        usage = Usage(self.file.size)
        for count, region in enumerate(self._regions()):
            usage.add(region)
            if count % 100 == 0:
                report(None)
        summary = summarize(self.file)
        report(None)
        self.usage, self.summary = usage, summary

    def _regions(self) -> Iterator[Region]:
        """Yield what the bytes of the file are used for, from its start to its end."""
        from ggcp_schema.inspect.tensors import lister

        at, listed = 0, lister(self.file)
        for tensor in self.file.tensors.in_file_order():
            item = listed(tensor)
            use = {None: MODEL, "m": M, "v": V}.get(item.moment, STATE)
            if item.moment and item.gguf_name is None:
                use = WASTE
            start = tensor.offset - tensor.padding
            yield from (
                Region(FIELDS, at, start - at),
                Region(PADDING, start, tensor.padding),
                Region(use, tensor.offset, tensor.nbytes),
            )
            at = max(at, tensor.offset + tensor.nbytes)
        damage, size = self.file.damage, self.file.size
        known = size if damage is None else max(at, min(damage.offset, size))
        yield Region(FIELDS, at, known - at)
        yield Region(UNKNOWN, known, size - known)


class Usage:
    """What the bytes of a file are used for: the bytes of each use, and what each of `CELLS` equal parts holds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sizes = dict.fromkeys(USES, 0)
        self.cells: list[dict[str, int]] = [{} for _ in range(min(CELLS, size))]

    def add(self, region: Region) -> None:
        """Count a region of the file. Regions may come in any order, but must not overlap."""
        if region.size <= 0:
            return
        self.sizes[region.use] += region.size
        stop, count = region.offset + region.size, len(self.cells)
        for index in range(region.offset * count // self.size, (stop - 1) * count // self.size + 1):
            first, last = -(-index * self.size // count), -(-(index + 1) * self.size // count)
            share = self.cells[index]
            share[region.use] = share.get(region.use, 0) + min(stop, last) - max(region.offset, first)

    def pooled(self, parts: int) -> list[str]:
        """Return for each of so many equal parts of the file the use that takes most of it."""
        uses, count = [], len(self.cells)
        for part in range(parts):
            start = count * part // parts
            share: dict[str, int] = {}
            for cell in self.cells[start : max(start + 1, count * (part + 1) // parts)]:
                for use, size in cell.items():
                    share[use] = share.get(use, 0) + size
            uses.append(max(share, key=share.__getitem__) if share else UNKNOWN)
        return uses


def _mark(marks: dict[str, str], path: str, kind: str) -> None:
    marks[path] = kind
    for holder in holders(path):
        marks[holder] = f"{kind} inside"


def holders(path: str) -> Iterator[str]:
    """Give the paths of the records and lists that hold the field, from the inside to the outside."""
    for index in range(len(path) - 1, 0, -1):
        if path[index] in ".[":
            yield path[:index]
