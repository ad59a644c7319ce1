"""Expressions of earlier fields: construct's `this`, with its text for messages and the reference."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import reduce
from operator import getitem, itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from construct.expr import BinExpr, FuncPath, Path, UniExpr, opnames, this

__all__ = ["Kaitai", "compiled", "expression_text", "expression_tree", "kaitai", "prod_", "this"]

Function = TypeVar("Function", bound=Callable[..., Any])

prod_ = FuncPath(math.prod)
"""The product of a list, like construct's `sum_`."""


class Kaitai(NamedTuple):
    """What a function of a schema is in the language of Kaitai Struct.

    Attributes:
        value: the expression; None if there is none, and so a field that needs it is left out.
        seq: what stands in the sequence where the value is computed, to look ahead: the keys of one attribute.
        instances: more instances of the record, which the expression uses.
        types: types that it uses; of a type that the schema has, what is added to it.
    """

    value: str | None = None
    seq: Mapping[str, Any] = MappingProxyType({})
    instances: Mapping[str, Any] = MappingProxyType({})
    types: Mapping[str, Any] = MappingProxyType({})


def kaitai(value: str | None = None, **more: Any) -> Callable[[Function], Function]:
    """Return a decorator that states what a function is in the language of Kaitai Struct: see `Kaitai`."""

    def decorate(function: Function) -> Function:
        function.kaitai = Kaitai(value, **more)  # type: ignore[attr-defined]
        return function

    return decorate


def path_names(path: Path) -> list[str]:
    """Return the names of a path: `this._root.hparams.n_embd` as `["_root", "hparams", "n_embd"]`."""
    names: list[str] = []
    while (parent := path._Path__parent) is not None:
        names.insert(0, path._Path__field)
        path = parent
    return names


def compiled(expression: Any) -> Callable[[Any], Any]:
    """Return a function that evaluates the expression in a context. It may also be a constant or a function.

    This takes a third of the time of construct's own evaluation, which follows the path recursively.
    """
    if isinstance(expression, Path):
        names = path_names(expression)
        return itemgetter(names[0]) if len(names) == 1 else lambda context: reduce(getitem, names, context)
    if isinstance(expression, BinExpr):
        operation, lhs, rhs = expression.op, compiled(expression.lhs), compiled(expression.rhs)
        return lambda context: operation(lhs(context), rhs(context))
    if isinstance(expression, FuncPath) and expression._FuncPath__operand is not None:
        of_operand, operand = expression._FuncPath__func, compiled(expression._FuncPath__operand)
        return lambda context: of_operand(operand(context))
    if callable(expression):
        function: Callable[[Any], Any] = expression
        return function
    return lambda context: expression


def expression_text(expression: Any) -> str:
    """Return an expression, or its JSON data, as text for people: `this._root.hparams.n_embd * 4` as `n_embd * 4`.

    A function is shown by its name, anything else by its repr.
    """
    tree = expression_tree(expression)
    if not isinstance(tree, dict):
        return repr(tree)
    if "bytes" in tree:
        return repr(bytes.fromhex(tree["bytes"]))
    if "field" in tree:
        names = reversed(tree["field"].split("."))
        return next((name for name in names if not name.startswith("_")), "this")
    if "op" in tree:
        texts = [f"({text})" if _is_binary(arg) else text for arg in tree["args"] for text in [expression_text(arg)]]
        return " ".join([*texts[:-1], tree["op"], texts[-1]])
    args = tree.get("args")
    return tree["function"] if args is None else f"{tree['function']}({', '.join(map(expression_text, args))})"


def _is_binary(tree: Any) -> bool:
    return isinstance(tree, dict) and "op" in tree and len(tree["args"]) > 1


def expression_tree(expression: Any) -> Any:
    """Return an expression as JSON data, which is returned unchanged.

    It is a literal, `{"bytes": hex}`, `{"field": path}`, `{"op": …, "args": […]}` or `{"function": name, "note":
    docstring, "kaitai": Kaitai}`. A path is relative to the record that contains the field: `_` is the enclosing
    record, `_root` the outermost one.
    """
    if isinstance(expression, Path):
        return {"field": ".".join(map(str, path_names(expression)))}
    if isinstance(expression, BinExpr):
        return {
            "op": opnames[expression.op],
            "args": [expression_tree(expression.lhs), expression_tree(expression.rhs)],
        }
    if isinstance(expression, UniExpr):
        return {"op": opnames[expression.op], "args": [expression_tree(expression.operand)]}
    if isinstance(expression, FuncPath):
        return {"function": _function_name(expression), "args": [expression_tree(expression._FuncPath__operand)]}
    if callable(expression):
        tree = {"function": _function_name(expression), "note": inspect.getdoc(expression) or ""}
        return tree | ({"kaitai": expression.kaitai} if hasattr(expression, "kaitai") else {})
    return {"bytes": expression.hex()} if isinstance(expression, bytes) else expression


def _function_name(function: Callable[..., Any]) -> str:
    if isinstance(function, FuncPath):
        function = function._FuncPath__func
    name: str = getattr(function, "__name__", type(function).__name__)
    return name
