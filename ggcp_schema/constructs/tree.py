"""The fields of a parsed file with their places: a tree, computed from the schema and the container together.

There is no second parse. A container knows its offset, and the schema tells the size of each field, so the place of
every field follows; the children of a record are computed when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, overload

import construct
from construct import Construct, Container, ListContainer

from ggcp_schema.constructs.conditions import chosen, static_construct
from ggcp_schema.constructs.described import docs_of, reference_of, rule_text, sizes_of
from ggcp_schema.constructs.errors import Step, Steps, format_path
from ggcp_schema.constructs.extents import Extent
from ggcp_schema.constructs.fields import OneOf, PascalString
from ggcp_schema.constructs.lazy import LazyList
from ggcp_schema.constructs.lists import LISTS
from ggcp_schema.constructs.records import Struct, Variants, new_scope, outermost

BRANCHES = (Container, *LISTS)  # the classes of the values that have fields in them
PLAIN = {int, float, bool, str, bytes}  # classes of leaves, known without asking an abstract class


class Field:
    """A field of a parsed file: a record, a list, or a leaf.

    Attributes:
        steps: the path from the root, as names and indices.
        offset, size: where the field lies, in bytes. A computed field has size 0.
        value: a Container, a sequence, or the value of a leaf; data that was not read is an `Extent`.
        construct: the construct that parses it, without wrappers and conditions.
    """

    __slots__ = ("construct", "context", "declared", "offset", "parent", "size", "steps", "value")

    def __init__(
        self,
        parent: Field | None,
        step: Step | None,
        declared: Construct,
        value: Any,
        offset: int,
        context: Container,
        construct: Construct | None = None,
        size: int | None = None,
    ) -> None:
        self.parent, self.offset, self.value, self.context = parent, offset, value, context
        self.steps: Steps = () if parent is None or step is None else (*parent.steps, step)
        self.declared = declared
        self.construct = chosen(declared, context) if construct is None else construct
        self.size = self._measure(value) if size is None else size

    @property
    def docs(self) -> str:
        """The schema's note on the field."""
        return docs_of(self.declared)

    @property
    def meaning(self) -> str:
        """What the schema says that a number stands for; empty if it says nothing."""
        valids = self.construct.valids if isinstance(self.construct, OneOf) else None
        return str(valids.get(self.value, "")) if isinstance(valids, dict) else ""

    @property
    def path(self) -> str:
        """The path as text: `layers[0].wq.ne[1]`; the root is `file`."""
        return format_path(self.steps)

    @property
    def name(self) -> str:
        """The last step of the path: `wq`, or `[1]` for an element of a list."""
        return format_path(self.steps[-1:])

    @property
    def end(self) -> int:
        """The offset of the first byte after the field."""
        return self.offset + self.size

    @property
    def is_leaf(self) -> bool:
        """True if the field has no fields in it."""
        return type(self.value) in PLAIN or not isinstance(self.value, BRANCHES)

    @property
    def type(self) -> str:
        """The type as in the reference: `u32`, `f32`, `char`, `padding`, `data`, `derived`; `struct` and `array`."""
        if self.is_leaf:
            return kind_of(self.construct)
        return "struct" if isinstance(self.value, Container) else "array"

    @property
    def is_list(self) -> bool:
        """True if the field is a list."""
        return isinstance(self.value, LISTS)

    @property
    def is_element(self) -> bool:
        """True if the field is an element of a list."""
        return bool(self.steps) and isinstance(self.steps[-1], int)

    @property
    def is_whole(self) -> bool:
        """False if an error may have ended the parse in this record or list."""
        if isinstance(self.value, Container):
            return "_size" in self.value
        if self.is_leaf or self.parent is None or self.parent.is_whole:
            return True
        return self.parent.children()[-1].steps != self.steps

    @property
    def element_type(self) -> str:
        """The type of a leaf; of a list, the type of its elements."""
        if self.is_leaf:
            return self.type
        return next((element.type for element in self.children()[:1]), "")

    @property
    def rule(self) -> str:
        """What the schema requires of the value, in words; empty if any value is valid."""
        return rule_text(reference_of(self.construct))

    def children(self) -> Sequence[Field]:
        """Return the fields in this one, in file order; a leaf has none.

        The children are computed on each call (those of a list on access). Storing them would create reference cycles
        with their parents.
        """
        if isinstance(self.value, Container):
            return list(self._fields(self.value))
        return () if self.is_leaf else Elements(self)

    def elements(self, start: int = 0, stop: int | None = None) -> Iterator[Field]:
        """Yield the children from `start` to `stop`; those of a `LazyList` are parsed in sequence."""
        items = self.value
        if not isinstance(items, LazyList):
            children = self.children()
            yield from (children[index] for index in range(*slice(start, stop).indices(len(children))))
            return
        offset = items.offset_of(start)
        for index, value in enumerate(items.iterate(start, len(items) if stop is None else stop), start):
            child = Field(self, index, self.construct.subcon, value, offset, self.context)
            offset = child.end
            yield child

    def _measure(self, value: Any) -> int:
        if type(value) in PLAIN:
            return self._measure_leaf(value)
        if isinstance(value, Extent | LazyList):
            return int(value.nbytes)
        if isinstance(value, Container) and "_size" in value:
            return int(value["_size"])
        if isinstance(value, BRANCHES):  # a list, or a record in which an error ended the parse
            children = self.children()
            return children[-1].end - self.offset if children else 0
        return self._measure_leaf(value)

    def _measure_leaf(self, value: Any) -> int:
        if value is None or kind_of(self.construct) == "derived":
            return 0
        if isinstance(value, bytes):
            return len(value)
        if isinstance(self.construct, PascalString):
            prefix = chosen(self.construct.lengthfield, self.context)._sizeof(self.context, "")
            return int(prefix) + len(value.encode(self.construct.encoding, "surrogateescape"))
        return int(self.construct._sizeof(self.context, ""))

    def _fields(self, value: Container, only: Step | None = None) -> Iterator[Field]:
        """Yield the fields of a record, or the one of a name, for which the others before it are only passed."""
        scope = new_scope(self.construct, None, self.context)
        dict.update(scope, value)  # construct's own takes longer
        if self.is_element:
            scope["_index"] = self.steps[-1]
        offset = self.offset
        for declared, name, fixed, size in members(self.construct):
            if name not in value:
                if name:
                    break  # the parse ended here
                continue
            if value[name] is None:
                offset += size or 0  # of a value that is lost
                continue
            offset = _place(value[name], offset)
            if only is not None and name != only and size is not None:
                offset += size
                continue
            field = Field(self, name, declared, value[name], offset, scope, fixed, size)
            if only is None or name == only:
                yield field
            offset = field.end

    def child(self, step: Step) -> Field | None:
        """Return the field of that name or index; None if there is none."""
        if isinstance(step, int):
            return self.children()[step] if self.is_list and 0 <= step < len(self.value) else None
        if isinstance(self.value, Container) and step in self.value:
            return next(self._fields(self.value, step), None)
        return None

    def find(self, steps: Sequence[Step]) -> Field | None:
        """Return the field at the steps below this one; None if there is none."""
        field: Field | None = self
        for step in steps:
            if field is None:
                return None
            field = field.child(step)
        return field

    def leaves(self) -> Iterator[Field]:
        """Yield the leaves at or below this field, in file order. Leaves that hold bytes cover it without gaps."""
        if self.is_leaf:
            yield self
        else:
            for field in self.elements():
                yield from field.leaves()

    def at(self, offset: int) -> Field | None:
        """Return the leaf that holds the byte at `offset`; None if no field of this one does."""
        field = self
        while not field.is_leaf:
            children = field.children()
            if isinstance(children, Elements):
                index = children.index_at(offset)
                if index is None:
                    return None
                field = children[index]
            else:
                index = bisect_right(children, offset, key=lambda child: child.offset) - 1
                while index >= 0 and not children[index].size:
                    index -= 1
                if index < 0:
                    return None
                field = children[index]
            if not field.offset <= offset < field.end:
                return None
        return field if field.size else None

    def __repr__(self) -> str:
        return f"<Field {self.path}: {self.type} at offset {self.offset}, {self.size} bytes>"


class Elements(Sequence[Field]):
    """The elements of a list field, each made when it is asked for."""

    __slots__ = ("field", "items", "offsets", "size", "subcon")

    def __init__(self, field: Field) -> None:
        self.field, self.items = field, field.value
        self.subcon = field.construct.subcon
        self.size: int | None = getattr(field.construct, "element_size", None)  # construct's own Array has none
        self.offsets = [field.offset]  # of elements that do not know their own, so far

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Field]:
        return self.field.elements()

    @overload
    def __getitem__(self, index: int) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> list[Field]: ...
    def __getitem__(self, index: int | slice) -> Field | list[Field]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        value = self.items[index]
        context = Container({**self.field.context, "_index": index})  # not shared: threads index the same list
        return Field(self.field, index, self.subcon, value, self._offset_of(index, value), context, None, self.size)

    def _offset_of(self, index: int, value: Any) -> int:
        if isinstance(self.items, LazyList):
            return self.items.offset_of(index)
        if isinstance(value, Container) and "_offset" in value:
            offset: int = value["_offset"]
            return offset
        if self.size is not None:
            return self.field.offset + index * self.size
        while len(self.offsets) <= index:
            self.offsets.append(self[len(self.offsets) - 1].end)
        return self.offsets[index]

    def index_at(self, offset: int) -> int | None:
        """Return the index of the element that holds the byte at `offset`; None if there is none."""
        if not len(self):
            return None
        if isinstance(self.items, LazyList):
            index = self.items.index_at(offset)
            return index if index < len(self) else None
        index = bisect_right(range(len(self)), offset, key=lambda i: self._offset_of(i, self.items[i])) - 1
        return index if index >= 0 else None


def root_field(schema: Struct, value: Container, **params: Any) -> Field:
    """Return the root of the fields of a container that `schema` has parsed, completely or up to an error."""
    if isinstance(schema, Variants):
        schema = schema.of(value)
    context = outermost({**params, "_root": value})
    return Field(None, None, schema, value, value.get("_offset", 0), context)


def _place(value: Any, offset: int) -> int:
    """Return where a value lies: as it or its first element says, or else `offset`, where the field before it ends."""
    if type(value) is Extent:
        return value.offset
    if type(value) is ListContainer and value and isinstance(value[0], Container):
        return int(value[0].get("_offset", offset))
    return int(value.get("_offset", offset)) if type(value) is Container else offset


@cache
def members(struct: Construct) -> list[tuple[Construct, str | None, Construct | None, int | None]]:
    """Return the fields of a Struct with their names, and with their construct and size if these never vary.

    It may be construct's own Struct.
    """
    return [(field, field.name, static_construct(field), sizes_of(field).fixed) for field in struct.subcons]


def kind_of(field: Construct) -> str:
    """Return the name of a leaf's type in the reference."""
    while not hasattr(type(field), "kind") and isinstance(field, construct.Subconstruct | construct.IfThenElse):
        field = field.thensubcon if isinstance(field, construct.IfThenElse) else field.subcon
    return str(getattr(field, "kind", type(field).__name__))
