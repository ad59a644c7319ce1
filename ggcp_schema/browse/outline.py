"""The rows of the tree pane: which node stands in row `i` of a partly expanded tree.

A list of 200,000 records can be expanded at once: only expanded nodes are kept, a row costs a few bisections, and
fields are taken from the file when their row is shown.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field


class Row(NamedTuple):
    """A line of the tree. `depth` counts from 0; `place` is the field's index among its parent's children."""

    field: Field
    depth: int
    expanded: bool
    branch: Branch
    place: int


class Branch:
    """An expanded node and the expanded nodes below it. `pinned` if the user expanded it, and not a jump.

    `changes` counts how often a node below it was expanded or collapsed.
    """

    __slots__ = (
        "changes",
        "children",
        "depth",
        "field",
        "index",
        "opened",
        "order",
        "parent",
        "pinned",
        "starts",
        "total",
    )

    def __init__(self, field: Field, parent: Branch | None, index: int, *, pinned: bool) -> None:
        self.field, self.parent, self.index, self.pinned = field, parent, index, pinned
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: Sequence[Field] = field.children()
        self.opened: dict[int, Branch] = {}
        self.order: list[int] = []  # the keys of `opened`, sorted
        self.starts: list[int] = []  # the row of each of them, counted from this branch's first child
        self.total = len(self.children)
        self.changes = 0

    def open(self, index: int, *, pinned: bool) -> Branch:
        """Expand the child with that index, unless it is expanded already."""
        if index not in self.opened:
            self.opened[index] = Branch(self.children[index], self, index, pinned=pinned)
            insort(self.order, index)
            self._count()
        branch = self.opened[index]
        branch.pinned |= pinned
        return branch

    def close(self, index: int) -> None:
        """Collapse the child with that index."""
        if self.opened.pop(index, None):
            self.order.remove(index)
            self._count()

    def _count(self) -> None:
        """Count the rows again, here and in all branches above."""
        branch: Branch | None = self
        while branch:
            extra, branch.starts = 0, []
            for index in branch.order:
                branch.starts.append(index + extra)
                extra += branch.opened[index].total
            branch.total = len(branch.children) + extra
            branch.changes += 1
            branch = branch.parent

    def locate(self, row: int) -> tuple[Branch, int]:
        """Return the branch and the index of the child that stands in that row below this branch."""
        branch = self
        while True:
            before = bisect_right(branch.starts, row) - 1
            if before < 0:
                return branch, row
            index = branch.order[before]
            inner, below = branch.opened[index], row - branch.starts[before] - 1
            if below < 0:
                return branch, index
            if below >= inner.total:
                return branch, index + 1 + below - inner.total
            branch, row = inner, below

    def row_of(self, index: int) -> int:
        """Return the row of a child, counted from the top of the whole tree."""
        before = bisect_left(self.order, index)
        row = index + sum(self.opened[opened].total for opened in self.order[:before])
        return row if self.parent is None else self.parent.row_of(self.index) + 1 + row


class Outline:
    """A tree as rows. The root has no row; its children are the outermost rows."""

    def __init__(self, root: Field) -> None:
        self.root = Branch(root, None, 0, pinned=True)

    def __len__(self) -> int:
        return self.root.total

    def __getitem__(self, row: int) -> Row:
        if not 0 <= row < len(self):
            raise IndexError(row)
        branch, index = self.root.locate(row)
        return Row(branch.children[index], branch.depth, index in branch.opened, branch, index)

    def expand(self, row: int) -> bool:
        """Expand the node in that row; False if it is a leaf or expanded already."""
        found = self[row]
        if found.expanded or found.field.is_leaf:
            return False
        branch: Branch | None = found.branch.open(found.place, pinned=True)
        while branch:  # what leads to a node that the user expanded stays expanded too
            branch.pinned, branch = True, branch.parent
        return True

    def collapse(self, row: int) -> bool:
        """Collapse the node in that row; False if it is not expanded."""
        found = self[row]
        if found.expanded:
            found.branch.close(found.place)
        return found.expanded

    def parent(self, row: int) -> int | None:
        """Return the row of the parent; None for the outermost rows."""
        branch = self[row].branch
        return None if branch.parent is None else branch.parent.row_of(branch.index)

    def reveal(self, field: Field) -> int | None:
        """Expand what leads to the field, and return its row; None if it is not in the tree.

        Nodes that an earlier call expanded, and not the user, are collapsed again, so that walking through a file
        does not fill the tree.
        """
        path = self._path_to(field)
        if not path:
            return None
        branch = self.root
        for index in path[:-1]:
            self._tidy(branch, keep=index)
            branch = branch.open(index, pinned=False)
        self._tidy(branch, keep=-1)
        return branch.row_of(path[-1])

    @staticmethod
    def _tidy(branch: Branch, keep: int) -> None:
        for index in [index for index, inner in branch.opened.items() if index != keep and not inner.pinned]:
            branch.close(index)

    def _path_to(self, field: Field) -> list[int]:
        """Return the index of the child to take at each level; an empty list if the field is not in the tree."""
        path, node = [], self.root.field
        for step in field.steps:
            children = node.children()
            index = _find(children, step, field.offset)
            if index is None:
                return []
            path.append(index)
            node = children[index]
        return path


def _find(children: Sequence[Field], step: str | int, offset: int) -> int | None:
    """Return the index of the child with that last step; `offset` lies in it."""
    if isinstance(step, int) and step < len(children) and children[step].steps[-1] == step:
        return step
    if len(children) > 64:  # children are in file order
        after = bisect_right(range(len(children)), offset, key=lambda index: children[index].offset)
        near: Sequence[int] = range(max(0, after - 8), min(len(children), after + 8))
    else:
        near = range(len(children))
    return next((index for index in near if children[index].steps[-1] == step), None)
