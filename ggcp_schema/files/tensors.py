"""The tensors of a file by path, and by place."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

from ggcp_schema.errors import PathError
from ggcp_schema.files.tensor import Tensor


class Tensors(dict[str, Tensor]):
    """The tensors of a file by path. It is not changed after it has been made."""

    def __missing__(self, path: str) -> Tensor:
        raise PathError(
            f"no tensor has the path {path!r}", "The file itself takes other names and paths too: file[PATH]."
        )

    @property
    def n_elements(self) -> int:
        """The elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.values())

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors' data."""
        return sum(tensor.nbytes for tensor in self.values())

    @property
    def padding(self) -> int:
        """The bytes of padding before the data of all tensors."""
        return sum(tensor.padding for tensor in self.values())

    def types(self) -> dict[str, int]:
        """Return the number of tensors of each element type."""
        return dict(Counter(tensor.type for tensor in self.values()))

    def in_file_order(self) -> Iterator[Tensor]:
        """Yield all tensors by their offsets."""
        return iter(sorted(self.values(), key=lambda tensor: tensor.offset))

    def at(self, offset: int) -> Tensor | None:
        """Return the tensor whose data holds the byte, of several that share it the first; None if there is none."""
        place = self._place_before(offset)
        if not self._holds(place, offset):
            return None
        first = bisect_left(self._filled, self._filled[place].offset, key=lambda tensor: tensor.offset)
        return next(self._filled[shared] for shared in range(first, place + 1) if self._holds(shared, offset))

    def next_to(self, offset: int, step: int) -> Tensor | None:
        """Return the first tensor with data after the byte, and after the tensor that holds it.

        With a step of -1, return the last one before. None if there is none.
        """
        place = self._place_before(offset)
        place = place + 1 if step > 0 else place - self._holds(place, offset)
        return self._filled[place] if 0 <= place < len(self._filled) else None

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the tensors with padding or data in these bytes, in file order."""
        for tensor in islice(self._filled, max(0, self._place_before(start)), None):
            if tensor.offset - tensor.padding >= stop:
                return
            if tensor.offset + tensor.nbytes > start:
                yield tensor

    @cached_property
    def _filled(self) -> list[Tensor]:
        """The tensors that have data, by offset."""
        return [tensor for tensor in self.in_file_order() if tensor.nbytes]

    def _place_before(self, offset: int) -> int:
        """Return the place, by offset, of the last tensor that does not begin after the byte; -1 if there is none."""
        return bisect_right(self._filled, offset, key=lambda tensor: tensor.offset) - 1

    def _holds(self, place: int, offset: int) -> bool:
        return place >= 0 and offset < self._filled[place].offset + self._filled[place].nbytes
