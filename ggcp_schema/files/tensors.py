"""The tensors of a file as a table, from which each is made when it is asked for."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from math import prod

from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor


class Columns:
    """Tensors without their paths, a column for each attribute: about 70 bytes each, a tenth of that of an object."""

    def __init__(self) -> None:
        self.offsets, self.sizes, self.paddings = array("Q"), array("Q"), array("Q")
        self.kinds = array("L")
        self.shapes: dict[tuple[tuple[int, ...], str, str], int] = {}  # shape, type and byte order, by kind
        self.names, self.ends = bytearray(), array("Q", [0])

    def append(self, tensor: Tensor) -> None:
        """Add a tensor."""
        self.offsets.append(tensor.offset)
        self.sizes.append(tensor.nbytes)
        self.paddings.append(tensor.padding)
        self.kinds.append(self.shapes.setdefault((tensor.shape, tensor.type, tensor.byte_order), len(self.shapes)))
        self.names += tensor.name.encode("utf-8", "surrogatepass")
        self.ends.append(len(self.names))

    def extend(self, other: Columns) -> None:
        """Add the tensors of other columns."""
        self.offsets += other.offsets
        self.sizes += other.sizes
        self.paddings += other.paddings
        kinds = [self.shapes.setdefault(shape, len(self.shapes)) for shape in other.shapes]
        self.kinds.extend(kinds[kind] for kind in other.kinds)
        start = len(self.names)
        self.names += other.names
        self.ends.extend(start + end for end in other.ends[1:])


class Tensors(Mapping[str, Tensor]):
    """The tensors of a file by path. A file may have hundreds of thousands, so each is made when it is asked for.

    `paths` are those of the rows of the columns; no two may be the same. The row of a path is asked for with `index`.
    """

    def __init__(self, columns: Columns, paths: Sequence[str], source: Source) -> None:
        self._source, self._paths = source, paths
        self._offsets, self._sizes, self._paddings = columns.offsets, columns.sizes, columns.paddings
        self._kinds, self._shapes = columns.kinds, list(columns.shapes)
        self._names, self._ends = columns.names, columns.ends
        self._rows = range(len(self._offsets))
        self._sorted: array[int] | None = None

    @classmethod
    def of(cls, tensors: Iterable[Tensor], source: Source) -> Tensors:
        """Return these tensors, in this order, by their paths; of two with the same path, only the last."""
        unique = {tensor.path: tensor for tensor in tensors}
        columns = Columns()
        for tensor in unique.values():
            columns.append(tensor)
        return cls(columns, _Paths(list(unique)), source)

    def first(self, count: int) -> Tensors:
        """Return the first tensors, of which there may be fewer."""
        part = object.__new__(Tensors)
        part.__dict__ |= self.__dict__ | {"_rows": self._rows[:count], "_sorted": None}
        return part

    def _tensor(self, row: int, path: str | None = None) -> Tensor:
        shape, element_type, byte_order = self._shapes[self._kinds[row]]
        name = self._names[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")
        return Tensor(
            self._paths[row] if path is None else path,
            name,
            shape,
            self._offsets[row],
            self._sizes[row],
            self._source,
            element_type,
            byte_order,
            self._paddings[row],
        )

    # As a mapping -----------------------------------------------------------------------------------------

    def __getitem__(self, path: str) -> Tensor:
        return self._tensor(self._row(path), path)

    def _row(self, path: str) -> int:
        try:
            row = self._paths.index(path)
        except ValueError:
            raise KeyError(path) from None
        if row not in self._rows:
            raise KeyError(path)
        return row

    def __contains__(self, path: object) -> bool:
        try:
            return isinstance(path, str) and self._paths.index(path) in self._rows
        except ValueError:
            return False

    def __iter__(self) -> Iterator[str]:
        return map(self._paths.__getitem__, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self) -> ValuesView[Tensor]:
        """Return the tensors."""
        return _Values(self)

    def items(self) -> ItemsView[str, Tensor]:
        """Return the tensors with their paths."""
        return _Items(self)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors of {self._source.path}>"

    # As a whole -------------------------------------------------------------------------------------------

    @property
    def n_elements(self) -> int:
        """The elements of all tensors."""
        counts = Counter(self._kinds[: self._rows.stop])
        return sum(prod(self._shapes[kind][0]) * count for kind, count in counts.items() if self._shapes[kind][0])

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors' data."""
        return sum(self._sizes[: self._rows.stop])

    @property
    def padding(self) -> int:
        """The bytes of padding before the data of all tensors."""
        return sum(self._paddings[: self._rows.stop])

    def types(self) -> dict[str, int]:
        """Return the number of tensors of each element type."""
        counts: Counter[str] = Counter()
        for kind, count in Counter(self._kinds[: self._rows.stop]).items():
            counts[self._shapes[kind][1]] += count
        return dict(counts)

    # By place ---------------------------------------------------------------------------------------------

    def at(self, offset: int) -> Tensor | None:
        """Return the tensor whose data holds the byte; None if there is none."""
        place = self._place_before(offset)
        return self._tensor(self._by_offset[place]) if self._holds(place, offset) else None

    def next_to(self, offset: int, step: int) -> Tensor | None:
        """Return the first tensor with data after the byte, and after the tensor that holds it.

        With a step of -1, return the last one before. None if there is none.
        """
        place = self._place_before(offset)
        place = place + 1 if step > 0 else place - self._holds(place, offset)
        return self._tensor(self._by_offset[place]) if 0 <= place < len(self._by_offset) else None

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the tensors with padding or data in these bytes, in file order."""
        for row in self._by_offset[max(0, self._place_before(start)) :]:
            if self._offsets[row] - self._paddings[row] >= stop:
                return
            if self._offsets[row] + self._sizes[row] > start:
                yield self._tensor(row)

    def in_file_order(self) -> Iterator[Tensor]:
        """Yield all tensors by their offsets."""
        return map(self._tensor, sorted(self._rows, key=self._offsets.__getitem__))

    @property
    def _by_offset(self) -> Sequence[int]:
        """The rows of the tensors that have data, by offset."""
        if self._sorted is None:
            rows = (row for row in self._rows if self._sizes[row])
            self._sorted = array("Q", sorted(rows, key=self._offsets.__getitem__))
        return self._sorted

    def _place_before(self, offset: int) -> int:
        """Return the place, by offset, of the last tensor that does not begin after the byte; -1 if there is none."""
        return bisect_right(self._by_offset, offset, key=self._offsets.__getitem__) - 1

    def _holds(self, place: int, offset: int) -> bool:
        if place < 0:
            return False
        row = self._by_offset[place]
        return offset < self._offsets[row] + self._sizes[row]


class _Paths(Sequence[str]):
    """Paths that are kept, with their rows."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.rows = {path: row for row, path in enumerate(paths)}

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        return self.paths[row]

    def __len__(self) -> int:
        return len(self.paths)

    def index(self, path: str, start: int = 0, stop: int = 0) -> int:
        """Return the row of a path. Raises `ValueError` if there is none."""
        if path not in self.rows:
            raise ValueError(path)
        return self.rows[path]


class _Values(ValuesView[Tensor]):
    _mapping: Tensors

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._mapping._tensor, self._mapping._rows)


class _Items(ItemsView[str, Tensor]):
    _mapping: Tensors

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((tensor.path, tensor) for tensor in _Values(self._mapping))
