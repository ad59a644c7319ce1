"""Fields that depend on a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import construct
from construct import Construct, Container, Renamed, evaluate

from ggcp_schema.constructs.described import Described, Node, Sizes, reference_of, rule_text, unwrap
from ggcp_schema.constructs.errors import FieldError
from ggcp_schema.constructs.expressions import compiled, expression_text, expression_tree
from ggcp_schema.constructs.fields import MOST_LISTED, Pass


def static_construct(field: Construct) -> Construct | None:
    """Return the construct without wrappers; None if it depends on a condition."""
    field = unwrap(field)
    return None if isinstance(field, construct.IfThenElse | construct.Switch) else field


def chosen(field: Construct, context: Container) -> Construct:
    """Return the construct that is used in this context: the case of a Switch or an If, without wrappers."""
    while True:
        if isinstance(field, Renamed):
            field = field.subcon
        elif isinstance(field, construct.IfThenElse):
            field = field.thensubcon if evaluate(field.condfunc, context) else field.elsesubcon
        elif isinstance(field, construct.Switch):
            field = field.cases.get(evaluate(field.keyfunc, context), field.default)
        else:
            return field


class Switch(Described, construct.Switch):
    """A Switch that calls no `parsed` hooks. Give `default=Error` so that an unknown key is an error."""

    def __init__(self, keyfunc: Any, cases: Mapping[Any, Construct], default: Construct | None = None) -> None:
        super().__init__(keyfunc, {key: unwrap(case) for key, case in cases.items()}, default)
        self.flagbuildnone = all(case.flagbuildnone for case in self.cases.values())
        self.key_of = compiled(keyfunc)

    def sizes(self) -> Sizes:
        return Sizes.of_either((*self.cases.values(), self.default))

    def reference(self) -> Node:
        cases = [{"key": key, "type": reference_of(case)} for key, case in self.cases.items()]
        default = None if self.default is construct.Error else reference_of(self.default)
        return {"kind": "switch", "on": expression_tree(self.keyfunc), "cases": cases, "default": default}

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        return self._case(stream, context)._parse(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        return self._case(stream, context)._build(obj, stream, context, path)

    def _case(self, stream: IO[bytes], context: Container) -> Construct:
        key = self.key_of(context)
        case = self.cases.get(key, self.default)
        if case is construct.Error:
            valid = rule_text({"one_of": self.cases}, MOST_LISTED)
            raise FieldError(stream.tell(), f"{expression_text(self.keyfunc)} to be {valid}", str(key))
        return case


class IfThenElse(Described, construct.IfThenElse):
    """One field or another. It calls no `parsed` hooks."""

    def __init__(self, condfunc: Any, thensubcon: Construct, elsesubcon: Construct) -> None:
        super().__init__(condfunc, unwrap(thensubcon), unwrap(elsesubcon))
        self.condition_of = compiled(condfunc)

    def sizes(self) -> Sizes:
        return Sizes.of_either((self.thensubcon, self.elsesubcon))

    def reference(self) -> Node:
        then, otherwise = reference_of(self.thensubcon), reference_of(self.elsesubcon)
        return {"kind": "if", "condition": expression_tree(self.condfunc), "then": then, "else": otherwise}

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        case = self.thensubcon if self.condition_of(context) else self.elsesubcon
        return case._parse(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        case = self.thensubcon if self.condition_of(context) else self.elsesubcon
        return case._build(obj, stream, context, path)


def If(condfunc: Any, subcon: Construct) -> IfThenElse:  # noqa: N802 - construct's name
    """Return a field that is there only under a condition; otherwise it occupies no bytes and is None."""
    field = IfThenElse(condfunc, subcon, Pass)
    field.flagbuildnone = True
    return field
