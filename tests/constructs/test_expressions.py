"""Expressions of earlier fields: their values, and their text in messages and in the reference."""

from __future__ import annotations

from typing import Any

import pytest
from construct import Container, len_

from ggcp_schema.constructs import compiled, expression_text, expression_tree, prod_, this

CONTEXT = Container(n=3, ne=[2, 5], hparams=Container(n_embd=4))
CONTEXT["_root"] = CONTEXT


def double(context: Container) -> int:
    """Twice n."""
    return 2 * context["n"]


@pytest.mark.parametrize(
    ("expression", "value", "text", "tree"),
    [
        (7, 7, "7", 7),
        ("v0", "v0", "'v0'", "v0"),
        (this.n, 3, "n", {"field": "n"}),
        (this._root.hparams.n_embd, 4, "n_embd", {"field": "_root.hparams.n_embd"}),
        (this.n * 2 + 1, 7, "(n * 2) + 1", {"op": "+", "args": [{"op": "*", "args": [{"field": "n"}, 2]}, 1]}),
        (
            4 * prod_(this.ne),
            40,
            "4 * prod(ne)",
            {"op": "*", "args": [4, {"function": "prod", "args": [{"field": "ne"}]}]},
        ),
        (len_(this.ne), 2, "len(ne)", {"function": "len", "args": [{"field": "ne"}]}),
        (-this.n, -3, "- n", {"op": "-", "args": [{"field": "n"}]}),
        (this.n != 0, True, "n != 0", {"op": "!=", "args": [{"field": "n"}, 0]}),
        (double, 6, "double", {"function": "double", "note": "Twice n."}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_expression(expression: Any, value: Any, text: str, tree: Any) -> None:
    assert compiled(expression)(CONTEXT) == value
    assert not callable(expression) or expression(CONTEXT) == value  # construct's own evaluation
    assert expression_text(expression) == text
    assert expression_tree(expression) == tree
