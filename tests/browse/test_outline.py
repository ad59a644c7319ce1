from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ggcp_schema.browse.outline import Outline


@dataclass
class Node:
    """A field as far as the tree pane needs one. Every byte is one leaf."""

    steps: tuple[str | int, ...] = ()
    inner: list[Node] = field(default_factory=list)
    offset: int = 0

    @property
    def is_leaf(self) -> bool:
        return not self.inner

    def children(self) -> list[Node]:
        return self.inner


def build(shape: Any, steps: tuple[str | int, ...] = (), offset: int = 0) -> tuple[Node, int]:
    node = Node(steps, [], offset)
    for index, inner in enumerate(shape):
        child, offset = build(inner, (*steps, index), offset)
        node.inner.append(child)
    return node, offset + (not shape)


SHAPES = st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=5), max_leaves=40)


def flat(node: Node, expanded: set[tuple[str | int, ...]]) -> list[tuple[str | int, ...]]:
    """The rows, found by walking through the whole tree."""
    rows = []
    for child in node.inner:
        rows.append(child.steps)
        if child.steps in expanded:
            rows += flat(child, expanded)
    return rows


@settings(max_examples=200, deadline=None)
@given(SHAPES, st.lists(st.tuples(st.sampled_from(["expand", "collapse"]), st.integers(0, 60)), max_size=30))
def test_rows_are_those_of_a_walk_through_the_expanded_tree(shape: Any, moves: list[tuple[str, int]]) -> None:
    root, _ = build(shape)
    outline, expanded = Outline(root), set()
    for move, number in moves:
        if not len(outline):
            break
        row = number % len(outline)
        steps = outline[row].field.steps
        if move == "expand":
            if outline.expand(row):
                expanded.add(steps)
        elif outline.collapse(row):
            expanded = {other for other in expanded if other[: len(steps)] != steps}
        assert [outline[index].field.steps for index in range(len(outline))] == flat(root, expanded)
        for index in range(len(outline)):
            parent = outline.parent(index)
            own = outline[index].field.steps
            assert (() if parent is None else outline[parent].field.steps) == own[:-1]


@settings(max_examples=200, deadline=None)
@given(SHAPES.filter(len), st.lists(st.integers(0, 1000), min_size=1, max_size=10))
def test_reveal_expands_what_leads_to_a_field_and_no_more(shape: Any, picks: list[int]) -> None:
    root, _ = build(shape)
    every = dict(walk(root))
    outline = Outline(root)
    for pick in picks:
        steps = list(every)[pick % len(every)]
        row = outline.reveal(every[steps])
        assert row is not None
        assert outline[row].field.steps == steps
        ancestors = {steps[:depth] for depth in range(1, len(steps))}
        assert [outline[index].field.steps for index in range(len(outline))] == flat(root, ancestors)


def walk(node: Node) -> list[tuple[tuple[str | int, ...], Node]]:
    return [pair for child in node.inner for pair in ((child.steps, child), *walk(child))]


def test_what_the_user_expanded_stays_expanded() -> None:
    root, _ = build([[[], []], [[], []]])
    outline = Outline(root)
    outline.expand(0)
    outline.reveal(root.inner[1].inner[0])
    assert [outline[index].field.steps for index in range(len(outline))] == [(0,), (0, 0), (0, 1), (1,), (1, 0), (1, 1)]


def test_a_list_of_a_million_fields_is_expanded_without_making_them() -> None:
    made = []

    class Children:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> Node:
            made.append(index)
            return Node(("list", index), [], index)

    root, _ = build([[[]]])
    root.inner[0].children = Children  # type: ignore[method-assign]
    outline = Outline(root)
    outline.expand(0)
    assert len(outline) == 1_000_001
    assert outline[777_778].field.offset == 777_777
    assert len(made) < 10
