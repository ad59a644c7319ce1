"""List the tensors of a file and select them by path, GGUF name or pattern; also the parts of the flat vectors.

The optimizer's flat vectors hold a value for each parameter of the model. The part that belongs to one tensor of the
model is a tensor of its own here, `optimizer.state.m[layers[0].wq]`, if the order of the parameters is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from ggcp_schema.errors import GgcpError, PathError, UsageError, shell_word
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.tensor import ELEMENT_SIZES, Tensor
from ggcp_schema.formats.elements import elements_at
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.text import value_text
from ggcp_schema.llama import names
from ggcp_schema.llama.names import STATE, llama_name
from ggcp_schema.llama.order import OrderDecision
from ggcp_schema.llama.parameters import FLAT_FIELDS, Layout, PartPath
from ggcp_schema.schema.inference import ADAM, LBFGS, optimizer_text

Role = Literal["model", "adam", "lbfgs"]
"""What a tensor belongs to: the model, or the state of an optimizer."""
OPTIMIZERS: dict[str, Role] = {ADAM: "adam", LBFGS: "lbfgs"}


@json_keys("path gguf_name shape offset=tensor.offset nbytes=tensor.nbytes type=tensor.type role description")
class Listed(NamedTuple):
    """A tensor with its names and its role.

    Attributes:
        path: its path in a ggcp file; None for a tensor that no ggcp file has.
        gguf_name: its name in a GGUF checkpoint; None for a tensor that is not converted: a NULL, and the work tensors
            of Adam in v0.
        parameter, order: the path of the model's tensor, if this is a part of a flat vector, and the order of that.
    """

    tensor: Tensor
    path: str | None
    gguf_name: str | None
    role: Role = "model"
    parameter: str | None = None
    order: str | None = None

    @classmethod
    def of(cls, file: File, tensor: Tensor) -> Listed:
        """Return a tensor of the file with its names and its role."""
        path, name, optimizer = file.names_of(tensor)
        role = OPTIMIZERS.get(optimizer or "", "model") if (path or tensor.path).startswith(STATE) else "model"
        return cls(tensor, path, name, role)

    @property
    def name(self) -> str:
        """The name that the tensor has in this file: its path, or its name in a GGUF or ggml file."""
        return self.tensor.path

    @property
    def names(self) -> list[str]:
        """All names by which the tensor can be selected."""
        names = self.name, self.path, self.gguf_name, llama_name(self.path or "")
        return [name for name in dict.fromkeys(names) if name is not None]

    @property
    def moment(self) -> str | None:
        """The field of the optimizer's state (`m`, `v`, `pf`, `lmal`, …); None for a tensor of the model."""
        path = self.path or self.tensor.path
        return path.removeprefix(STATE).partition("[")[0] if path.startswith(STATE) else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape in ggml order; None of a NULL."""
        return self.tensor.shape or None

    @property
    def description(self) -> str:
        """What it is: `model`, or `Adam first moments (m)`, with the schema's note on the field."""
        if self.role == "model":
            return "model"
        from ggcp_schema.schema.optimizer import ADAM_STATE_V0, LBFGS_STATE

        state = ADAM_STATE_V0 if self.role == "adam" else LBFGS_STATE  # v0 has all fields that other layouts have
        note = next(field.docs for field in state.subcons if field.name == self.moment)
        order = f", order {self.order}" if self.order else ""
        return f"{optimizer_text(self.role)} {note} ({self.moment}){'' if self.gguf_name else ', not converted'}{order}"


# Listing ---------------------------------------------------------------------------------------------------


def listing(file: File) -> list[Listed]:
    """Return all tensors in file order; those after the damage of a damaged file are missing."""
    return [Listed.of(file, tensor) for tensor in file.tensors.values()]


# Parts of the flat vectors ---------------------------------------------------------------------------------


def moments(file: File, decision: OrderDecision, fields: Sequence[Listed] | None = None) -> Iterator[Listed]:
    """Yield the parts of the flat vectors by parameter, in the order in which they are stored.

    `fields` are the vectors; all by default. lms and lmy, which hold several columns, have no parts. Raises
    `UsageError` if the order is not known.
    """
    vectors = listing(file) if fields is None else fields
    if not any(vector.moment in FLAT_FIELDS for vector in vectors):
        return
    if decision.order is None:
        raise UsageError(
            f"the order of the parameters in the optimizer's vectors is not known: {decision.reason}",
            "If you know it, state it with --order.",
        )
    model = file.model_tensors
    layout = Layout.of(decision.order, model)
    for vector in vectors:
        tensor = vector.tensor
        if vector.moment not in FLAT_FIELDS or tensor.shape != (layout.n_params,) or tensor.type not in ELEMENT_SIZES:
            continue
        for place in layout:
            path, name = str(PartPath(vector.moment, place.path)), names.tensor_name(place.path)
            (part,) = place.of(tensor, path, model[place.path].shape, layout.n_params)
            gguf_name = f"{vector.gguf_name}[{name}]" if vector.gguf_name else None
            yield Listed(part, path, gguf_name, vector.role, place.path, decision.order)


def moments_of(file: File, found: Sequence[Listed], order: str | None = None) -> list[Listed]:
    """Return the parts of the flat vectors that belong to these tensors: all of a vector, or those of a parameter.

    Tensors that are such parts already are returned as they are. `order` is the order of the parameters, if the user
    states it. Raises `UsageError` if it is not known.
    """
    whole = [item for item in found if item.name in file.tensors]
    if not whole:
        return list(found)
    vectors, paths = {item.moment for item in whole}, {item.path for item in whole}
    parts = moments(file, file.order_or(order))
    return [part for part in parts if part.moment in vectors or part.parameter in paths]


# Selecting -------------------------------------------------------------------------------------------------


def select(file: File, pattern: str | None, *, order: str | None = None) -> list[Listed]:
    """Return the tensors that a pattern matches, in file order; all tensors if it is None.

    A path or a GGUF name matches that tensor. The path of a record (`layers[0]`, `optimizer`; `blk.0`) matches all
    tensors in it. Otherwise `*` stands for any text and `?` for one character; brackets have no special meaning.
    `VECTOR[PARAMETER]`, each a name or a pattern, matches parts of flat vectors; `order` is the order of the
    parameters, if the user states it. `PATH[a:b]` are elements of a tensor or of such a part.

    Raises `PathError` if nothing matches, `UsageError` if the pattern names something else than tensors or the order of
    the parameters is not known, and the damage of a damaged file, which may hide what was meant.
    """
    items = listing(file)
    if pattern is None:
        return items
    found = matching(items, pattern) or matching(items, pattern.removesuffix(".data"))
    found = found or list(_matching_moments(file, items, pattern, order))
    return found or list(_elements(file, pattern)) or _no_match(file, pattern)


def matching(items: Sequence[Listed], pattern: str) -> list[Listed]:
    """Return the tensors that the pattern matches; see `select`."""
    literal = [item for item in items if pattern in item.names]
    if literal:
        return literal
    if set("*?") & set(pattern):
        return [item for item in items if any(matches(pattern, name) for name in item.names)]
    records = (f"{pattern}.", f"{pattern}[")
    return [item for item in items if any(name.startswith(records) for name in item.names)]


def split_moments(pattern: str) -> tuple[str, str] | None:
    """Return the two parts of `VECTOR[PARAMETER]`; None if the pattern is not of this form."""
    vector, bracket, rest = pattern.partition("[")
    return (vector, rest[:-1]) if bracket and rest.endswith("]") and vector.startswith(("optimizer", "*")) else None


def _matching_moments(file: File, items: Sequence[Listed], pattern: str, order: str | None) -> Iterator[Listed]:
    parts = split_moments(pattern)
    if parts is None:
        return
    vectors = [item for item in matching(items, parts[0]) if item.moment in FLAT_FIELDS]
    parameters = {item.path for item in matching([item for item in items if item.moment is None], parts[1])}
    if vectors and parameters:
        found = moments(file, file.order_or(order), vectors)
        yield from (item for item in found if item.parameter in parameters)


def _elements(file: File, path: str) -> Iterator[Listed]:
    """Yield the elements of a tensor at a path as a tensor of one dimension, if they are; else raise `UsageError`."""
    found = None if set("*?") & set(path) or file.field(path) else elements_at(file, path)
    within = None if found is None or not found.count else file.tensors.at(found.offset)
    if found is None or within is None:
        return
    if within.type not in ELEMENT_SIZES or found.size != found.count * ELEMENT_SIZES[within.type]:
        hint = f"Run `ggcp-schema get {shell_word(file.path)} {shell_word(path)}` to print them."
        raise UsageError(f"{path} is no tensor: its elements do not lie one after the other", hint)
    place = found.offset, found.size, within.source, within.type, within.byte_order
    part = Tensor(path, "", (found.count,), *place)
    yield Listed.of(file, within)._replace(tensor=part, path=path, gguf_name=None)


def _no_match(file: File, pattern: str) -> list[Listed]:
    if file.field(pattern) is not None:
        field = file.find(pattern)
        if field.path in file.tensors:  # layers[00].wq
            return matching(listing(file), field.path)
        if file.damage is not None and "data" in (child.name for child in field.children()):
            raise file.damage.again()  # it is not proven that all of the tensor is there
        what = f"a field of type {field.type}, not a tensor: {value_text(field)}" if field.is_leaf else "not a tensor"
        words = "get" if field.is_leaf else "dump", shell_word(file.path), shell_word(pattern)
        raise UsageError(f"{pattern} is {what}", f"Run `ggcp-schema {' '.join(words)}` to print it.")
    error: GgcpError = file.unknown_path(pattern)
    if isinstance(error, PathError) and not set("*?") & set(pattern) and matching(listing(file), f"*{pattern}*"):
        error = error.with_hint(f"Did you mean '*{pattern}*'?")
    if file.damage is None and not file.tensors:
        error = UsageError(f"{file.path} has no tensors")
    elif file.damage is None and set("*?") & set(pattern):
        error = PathError(
            f"no tensor matches {pattern!r}", f"`ggcp-schema tensors {shell_word(file.path)}` lists them."
        )
    raise error


def matches(pattern: str, text: str) -> bool:
    """Return whether the text is of the form of the pattern: `*` is any text, `?` any character."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))
