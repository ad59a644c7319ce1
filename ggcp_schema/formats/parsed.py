"""A parsed file: its fields and its tensors, by path and by place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.constructs import Field, Steps, root_field
from ggcp_schema.errors import GgcpError, MalformedError, PathError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor, Tensors
from ggcp_schema.formats.elements import Values, elements_at, moments_of, values_of
from ggcp_schema.formats.paths import parse_path, value_at
from ggcp_schema.formats.suggestions import sample, unknown_path
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import ORDERS, Order

if TYPE_CHECKING:
    from typing_extensions import Self

    from ggcp_schema.formats.file import Format
    from ggcp_schema.llama.order import OrderDecision

LONGEST_NAME = 64  # bytes of a field whose size is hardly wrong
DEEPEST = 4  # steps that follow a name in a path


class ParsedFile:
    """An open file of a known format, without a meaning: the base of `File`, which says what it is.

    Attributes:
        format: the format.
        source: the bytes.
        container: the parsed values, as construct returns them; long lists are parsed when they are asked for.
        root: the tree of all fields with their places.
        damage: the error that ended the parse; None for a whole file, and always unless opened with `partial=True`.
    """

    def __init__(self, source: Source, format: Format, container: Container, damage: MalformedError | None) -> None:
        self.source, self.format, self.container, self.damage = source, format, container, damage
        self.root: Field = root_field(format.schema, container)

    @property
    def path(self) -> str:
        """The path of the file."""
        return self.source.path

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.source.size

    # The tensors.

    @cached_property
    def tensors(self) -> Tensors:
        """All tensors by path, in file order; those after the damage are missing."""
        end = self.proven_end
        return Tensors((one.path, one) for one in self.stored_tensors() if one.offset + one.nbytes <= end)

    @property
    def first_tensor(self) -> Tensor | None:
        """The first tensor, for which no table of all is made; None if there is none."""
        return next(self.stored_tensors(), None)

    @cached_property
    def proven_end(self) -> int:
        """Where the bytes end that are proven: where zeros up to the end begin, if the damage lies in them."""
        zeros = self.size if self.damage is None else self.source.zeros_at_end()
        return zeros if self.damage is not None and zeros < self.damage.offset + LONGEST_NAME else self.size

    def stored_tensors(self) -> Iterator[Tensor]:
        """Yield the tensors in file order; also those after the damage."""
        return iter(())

    def tensor_of_data(self, field: Field) -> Tensor | None:
        """Return the tensor whose data a field is; None for a NULL tensor and for one without elements."""
        tensor = self.tensors.at(field.offset) if field.size else None
        return tensor if tensor is not None and tensor.offset == field.offset else None

    @cached_property
    def model_tensors(self) -> Tensors:
        """The tensors of a llama model by ggcp path, in file order."""
        return self._parts[0]

    @cached_property
    def state_tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the optimizer's state by field name (`m`, `v`, …), in file order."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[Tensors, dict[str, Tensor]]:
        model, state = Tensors(), dict[str, Tensor]()
        for tensor in self.tensors.values():
            path = self.path_of(tensor)
            if path is not None and path.startswith(STATE):
                state[path.removeprefix(STATE)] = tensor
            elif path is not None:
                model[path] = tensor
        return model, state

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        """Return the path of a tensor in ggcp files, its name in GGUF files, and the type of the optimizer.

        Each is None if there is none; the last for a tensor of a model.
        """
        return None, None, None

    def path_of(self, tensor: Tensor) -> str | None:
        """Return the first of `names_of`."""
        return self.names_of(tensor)[0]

    @property
    def orders(self) -> tuple[Order, ...]:
        """The orders that a program can have written the flat vectors of an optimizer in."""
        return tuple(ORDERS)

    @cached_property
    def order(self) -> OrderDecision:
        """The order of the parameters in the optimizer's flat vectors, as far as the tensors tell it."""
        from ggcp_schema.llama.order import OrderDecision, decide_order

        model = self.model_tensors
        state = {field: tensor for field, tensor in self.state_tensors.items() if not tensor.is_null}
        other = next((tensor for tensor in (*model.values(), *state.values()) if tensor.type != "F32"), None)
        if other is not None:
            return OrderDecision(None, "undecidable", f"{other.path} is {other.type}, not F32")
        return decide_order(model, state, self.orders)

    def order_or(self, stated: str | None) -> OrderDecision:
        """Return the order that the user states, or `order` if that is None.

        Raises `UsageError` if there is no such order, or if the bytes exclude it.
        """
        from ggcp_schema.llama.order import stated_order

        if stated is None:
            return self.order
        return stated_order(stated, self.order, self.model_tensors, self.path, self.orders)

    def moments(self, path: str | None = None, *, order: str | None = None) -> dict[str, Any]:
        """Return what the optimizer holds for one parameter, by state field: `m` and `v` for Adam.

        `path` is that of a tensor of the model, `layers[0].wq`; without it, those of all are returned by path. The
        arrays are read-only and of its numpy shape; those of lms and lmy have one dimension more, the steps remembered.
        `order` replaces the decision; a warning is issued if that is only likely. Raises `PathError` for an unknown
        path, `UsageError` if the file has no model with the state of an optimizer, if the order is not known, or if the
        bytes exclude the one stated.
        """
        found, notes = moments_of(self, self.model_tensors if path is None else [path], order)
        for note in notes:
            warnings.warn(f"{self.path}: {note}", stacklevel=2)
        return found if path is None else found[path]

    # Paths: what the same path means in every command and in Python.

    def lookup(self, path: str) -> Field | Values:
        """Return the field at a path, or the elements that a path means which is not that of a field.

        `layers[0].wq`, `optimizer.nx` and `norm.ne[0]` are fields; the empty path is the whole file. Other names of a
        field are accepted too, alone or before what is in it: see `alias` and `named`. `PATH[i]` and `PATH[a:b]` are
        elements of data and lists as in Python, without a step. Elements of data count in file order, so that `[0]` to
        `[ne[0] - 1]` are the first row; `PATH[row,column]` and `PATH[row,a:b]` are elements of a matrix as in numpy.
        `optimizer.state.m[layers[0].wq]` is the part of a flat vector that belongs to a parameter.

        Raises `PathError` for a path that does not exist, `UsageError` for data that cannot be read, and the damage if
        what was meant may lie after it.
        """
        found = self._meant(path)
        if found is None:
            raise self.unknown_path(path)
        return found

    def _meant(self, path: str) -> Field | Values | None:
        found = self.field(path)
        return elements_at(self, path) if found is None else found

    def field(self, path: str) -> Field | None:
        """Return the field at a path; None if there is none."""
        if path in ("", "file"):
            return self.root
        with self.source.parsing():
            found, stem = self._at(path), path.removesuffix(".data")
            if found is None and stem != path:  # by another name the tensor is its data, or a record that has it
                found = self._at(stem)
                found = found if found is None or found.type == "data" else found.child("data")
            return found

    def _at(self, path: str) -> Field | None:
        for find in (parse_path, self.alias):  # a key or a tensor may have the path of a field as its name
            steps = find(path)
            found = None if steps is None else self.root.find(steps)
            if found is not None:
                return found
        return self._after_name(path)

    def _after_name(self, path: str) -> Field | None:
        """Return the field at a path that begins with another name than that of a field; None if there is none."""
        at = len(path)
        for _ in range(DEEPEST):
            at = max(path.rfind(".", 0, at), path.rfind("[", 0, at))
            if at < 1:
                break
            inner = parse_path(path[at:])
            for start in self.named(path[:at]):
                found = None if inner is None else self.root.find((*start, *inner))
                if found is not None:
                    return found
        return None

    def find(self, path: str) -> Field:
        """Return the field at a path, as `lookup`. Raises `PathError` if there is no such field."""
        field = self.field(path)
        if field is None:
            raise self.unknown_path(path)
        return field

    def values(self, path: str) -> Values:
        """Return the values at a path, as `lookup`. Raises `UsageError` for a record."""
        found = self.lookup(path)
        return values_of(self, found, path) if isinstance(found, Field) else found

    def alias(self, name: str) -> Steps | None:
        """Return the path of the field for which there is another name, as in another format; None if there is none."""
        return None

    def named(self, name: str) -> Iterator[Steps]:
        """Yield the paths of the fields in which what follows a name may be: `KEY[3]`, `KEY.value_type`."""
        steps = self.alias(name)
        if steps is not None:
            yield steps

    def at(self, offset: int) -> Field | None:
        """Return the leaf that holds the byte at `offset`; None if no field does, as after the damage."""
        with self.source.parsing():
            return self.root.at(offset)

    def get(self, path: str, default: Any = None) -> Any:
        """Return the value or the values at a path; `default` if the file, or its undamaged part, has none.

        Raises `PathError` for what is no path, nor an index or a slice of one.
        """
        with self.source.parsing():
            value = value_at(self.container, parse_path(path))
        if value is not None:
            return value
        field = self.field(path)
        if field is not None:
            return field.value
        with suppress(PathError, MalformedError):
            elements = elements_at(self, path)
            if elements is not None:
                return elements.value()
        if self.damage is None and parse_path(path) is None:
            self.lookup(path)  # raises the error that says what is wrong
        return default

    def __contains__(self, path: object) -> bool:
        with suppress(PathError, UsageError, MalformedError):
            return isinstance(path, str) and self._meant(path) is not None
        return False

    def __getitem__(self, path: str) -> Any:
        """Return a tensor, or what else is at a path: `"layers[0].wq"`, `"optimizer.nx"`, `"norm.data[0:2]"`.

        The part of a flat vector is a tensor, except of those with several columns. Raises `PathError`.
        """
        if path in self.tensors:
            return self.tensors[path]
        found = self.lookup(path)
        if not isinstance(found, Field):
            return found.value() if found.tensor is None else found.tensor
        tensor = self.tensors.get(found.path)
        data = found if found.is_leaf else found.child("data")
        if tensor is None and data is not None and data.type == "data":
            tensor = self.tensor_of_data(data)
        return found.value if tensor is None else tensor

    def __iter__(self) -> Iterator[str]:
        return (field.path for field in self.root.children())

    def keys(self) -> list[str]:
        """Return the paths of the fields at the top, which `dict(file)` asks for."""
        return list(self)

    def unknown_path(self, path: str) -> GgcpError:
        """Return the error for a path that does not exist: the damage that may hide it, or one with similar paths."""
        return unknown_path(self, path)

    def candidates(self) -> list[str]:
        """Return paths of fields of all kinds, and other names, to compare a misspelt path with."""
        return [field.path for field in sample(self)]

    def close(self) -> None:
        """Close the file. Tensors can no longer be read; arrays that were mapped stay valid."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
