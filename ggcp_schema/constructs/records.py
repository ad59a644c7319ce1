"""Fields that hold others: records, lists, and what is there only under a condition."""

from __future__ import annotations

from typing import IO, Any

from construct import Array, Construct, Container, IfThenElse, ListContainer, Renamed, Struct

from ggcp_schema.atomic import atomic_output
from ggcp_schema.constructs.base import Expr, FieldError, end_of


class Record(Struct):
    """A Struct whose errors and traces know where they are."""

    def __init__(self, *subcons: Construct) -> None:
        super().__init__(*subcons)
        self.fields = [(field.name, unlabelled(field)) for field in subcons]

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Container:
        params = context["_params"]
        scope = Container(
            _=context,
            _params=params,
            _root=context.get("_root"),
            _parsing=True,
            _building=False,
            _sizing=False,
            _subcons=self._subcons,
            _io=stream,
            _index=context.get("_index"),
        )
        if scope["_root"] is None:
            scope["_root"] = scope
        trace = params.get("trace")
        obj = Container()
        for name, field in self.fields:
            try:
                value = field._parse(stream, scope, path) if trace is None else trace.parse(name, field, stream, scope)
            except FieldError as error:
                raise error.within(name, obj) from None
            if name:
                obj[name] = scope[name] = value
        return obj

    def build_file(self, obj: Any, filename: str, **contextkw: Any) -> None:
        """Builds into a file, whole or not at all: it may be the one that the data's extents are in."""
        with atomic_output(filename, overwrite=True) as place:
            super().build_file(obj, place, **contextkw)


class Items(Array):
    """An Array. `floor` is the least size of an element in bytes: a count that the file cannot hold fails at
    once, before the first element is read."""

    def __init__(self, count: Expr, subcon: Construct, floor: int) -> None:
        super().__init__(count, subcon)
        self.floor = floor

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> ListContainer:
        count, end = self.count(context), end_of(stream, context)
        if count * self.floor > end:
            most = f"{self.count} to be at most {end // self.floor} in a file of {end} bytes"
            raise FieldError(stream.tell(), most, str(count))
        trace = context["_params"].get("trace")
        items = ListContainer()
        for index in range(count):
            context["_index"] = index
            try:
                if trace is None:
                    items.append(self.subcon._parse(stream, context, path))
                else:
                    items.append(trace.parse(index, self.subcon, stream, context))
            except FieldError as error:
                raise error.within(index, items) from None
        return items


class If(IfThenElse):
    """A field that is there only under a condition; otherwise no bytes, and None."""

    def __init__(self, condition: Expr, subcon: Construct) -> None:
        super().__init__(condition, subcon, Absent())
        self.condition = condition
        self.flagbuildnone = True


class Choice(Construct):
    """One of several records, by a key that is known to be among them."""

    def __init__(self, key: Expr, cases: dict[str, Construct]) -> None:
        super().__init__()
        self.key, self.cases = key, cases

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        return self.cases[self.key(context)]._parse(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        return self.cases[self.key(context)]._build(obj, stream, context, path)

    def _sizeof(self, context: Container, path: str) -> int:
        size: int = self.cases[self.key(context)]._sizeof(context, path)
        return size


class Absent(Construct):
    """No bytes, None."""

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _sizeof(self, context: Container, path: str) -> int:
        return 0


def unlabelled(field: Construct) -> Construct:
    """The construct under its name and notes."""
    while isinstance(field, Renamed):
        field = field.subcon
    return field
