"""What all open files have in common: the parsed fields with their places, the tensors, and the damage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from itertools import takewhile
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from construct import Container

from ggcp_schema.constructs import LISTS, Field, FieldError, Steps, Struct, root_field
from ggcp_schema.errors import GgcpError, MalformedError, PathError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensors import Tensors
from ggcp_schema.formats.paths import (
    Values,
    elements_at,
    field_after_name,
    moments_of,
    parse_path,
    sample,
    unknown_path,
    values_of,
)
from ggcp_schema.formats.rules import Finding, Rules
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import ORDERS, Order

if TYPE_CHECKING:
    from typing_extensions import Self

    from ggcp_schema.files.contents import Change
    from ggcp_schema.files.key_values import KeyValue
    from ggcp_schema.files.tensor_entries import TensorEntry
    from ggcp_schema.formats.parsing import Parse
    from ggcp_schema.llama.adapter import Adapter
    from ggcp_schema.llama.eras import Evidence
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.order import OrderDecision
    from ggcp_schema.llama.state import State
    from ggcp_schema.llama.training import Training
    from ggcp_schema.llama.vocabulary import Vocabulary

REPAIR = "`ggcp-schema repair` takes back what the file holds twice."
LONGEST_NAME = 64  # bytes of a field whose size is hardly wrong
ACCEPTED = "Use a llama GGUF, a ggjt file such as ggml-vocab.bin, or a sentencepiece tokenizer.model."
CHECKPOINT_NEEDED = "Pass a checkpoint of train-text-from-scratch: ggcp, or GGUF."
SHOWN = {
    *("adapter", "close", "damage", "find", "findings", "format", "get", "has_adapter", "key_values", "keys", "loss"),
    *("model", "moments", "order", "path", "root", "size", "source", "tensors", "training", "values", "vocabulary"),
}
"""Attributes of every file that completion shows; the others are for this package, and for formats to define."""


class Format(NamedTuple):
    """A file format: its name, the bytes that its files begin with, its schema, a title, and the class of its files.

    Without a class its files are `File`, which shows the fields and knows nothing of their meaning.

    `expected_size` returns the least size of the whole file, from the values that were parsed; None if they do not tell
    it. `check` raises `NotACheckpointError` for a file of another kind that begins with the same bytes.
    """

    name: str
    magic: bytes
    schema: Struct
    title: str
    file_class: type[File] | None = None
    description: str = ""
    expected_size: Callable[[Container], int | None] = lambda container: None
    check: Callable[[Source], None] = lambda source: None


class Recovered(NamedTuple):
    """What was read of a damaged file by what its fields must be.

    Attributes:
        container: the values that must be in the file, whatever is stored there.
        errors: what is there instead, by offset; one at least.
        damage: the error that ended this parse; None if it came to the end.
    """

    container: Container
    errors: list[FieldError]
    damage: FieldError | None


class Converted(NamedTuple):
    """The GGUF checkpoint that a file of finetune becomes as it is: its keys and tensors, in order."""

    keys: list[KeyValue]
    tensors: list[TensorEntry]


Repairable = tuple["State", list["Change"]]
"""Where the weights and the vectors of a file are, and the changes of headers and numbers that follow from others."""


def until(container: Container, field: str) -> Container:
    """Return the values before a field."""
    return Container(takewhile(lambda item: item[0] != field, container.items()))


def value_at(value: Any, steps: Steps | None) -> Any:
    """Return the value that the field at these steps has, without making fields; None if there is none, or no step."""
    for step in steps or ("",):
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, Container) and step[:1] != "_" else None
        else:
            value = value[step] if isinstance(value, LISTS) and 0 <= step < len(value) else None
    return value


class File:
    """An open file of a known format. Use it in a `with` block, or close it.

    Attributes:
        format: the format.
        source: the bytes.
        container: the parsed values, as construct returns them; long lists are parsed when they are asked for.
        root: the tree of all fields with their places.
        damage: the error that ended the parse; None for a whole file, and always unless opened with `partial=True`.
    """

    format: Format
    copied_lists: ClassVar[Mapping[str, Collection[str]]] = {}
    """Lists of very many records, each with the fields of the file whose change leaves all bytes of the list alone."""

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

    @property
    def expected_size(self) -> int | None:
        """The size in bytes that the whole file has at least; None if what is left of it does not tell."""
        return self.format.expected_size(self.container)

    @cached_property
    def tensors(self) -> Tensors:
        """All tensors by path, in file order; those after the damage are missing."""
        end = self.proven_end
        return Tensors((one.path, one) for one in self._tensors() if one.offset + one.nbytes <= end)

    @property
    def first_tensor(self) -> Tensor | None:
        """The first tensor, for which no table of all is made; None if there is none."""
        return next(self._tensors(), None)

    @cached_property
    def proven_end(self) -> int:
        """Where the bytes end that are proven: where zeros up to the end begin, if the damage lies in them."""
        zeros = self.size if self.damage is None else self.source.zeros_at_end()
        return zeros if self.damage is not None and zeros < self.damage.offset + LONGEST_NAME else self.size

    def _tensors(self) -> Iterator[Tensor]:
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

    @property
    def dense_tensors(self) -> Mapping[str, Tensor]:
        """The weights that begin as random numbers and are trained, so that none has a run of zeros by chance."""
        return self.model_tensors

    @cached_property
    def order(self) -> OrderDecision:
        """The order of the parameters in the optimizer's flat vectors, of which as little is read as is needed."""
        from ggcp_schema.llama.order import OrderDecision, decide_order
        from ggcp_schema.llama.training import order_of

        try:
            return order_of(self.training())
        except GgcpError:  # damaged, or not a whole checkpoint: these tensors may tell the order all the same
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
        return stated_order(stated, self.order, self.model_tensors, self.path)

    # What a view shows of the file, and its meanings; the defaults follow from the schema alone.

    @property
    def kind(self) -> str:
        """What the file is, as a stable word: the name of its format, or a more exact one."""
        return self.format.name

    @property
    def what(self) -> str:
        """What the file is, in words."""
        return self.format.title

    @property
    def short(self) -> str:
        """What the file is, in one or two words."""
        return self.format.title

    @property
    def runs(self) -> bool:
        """True for a model that llama.cpp runs as it is."""
        return False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd but not wrong: by default the bytes after the end, if there are some."""
        from ggcp_schema.formats.trailing import trailing_bytes

        return tuple(trailing_bytes(self.container))

    def facts(self) -> dict[str, Any]:
        """Return what the file states of itself: values for the fields of `inspect.facts.Summary`, by their names."""
        scalars = (field for field in self.root.children() if field.is_leaf and isinstance(field.value, int | float))
        return {
            "details": tuple((each.name, each.meaning or str(each.value)) for each in scalars if each.name != "magic")
        }

    def hparams_stated(self) -> dict[str, int] | None:
        """Return the hyper-parameters that the file states, as far as they were read; None if there are none."""
        hparams = self.container.get("hparams") or {}
        return {name: n for name, n in hparams.items() if not name.startswith("_") and n is not None} or None

    def uses(self, model: int, optimizer: int = 0, waste: int = 0) -> dict[str, int] | None:
        """Return how many bytes of the file are of use for what, the rest for headers; None if it is damaged."""
        if self.damage is not None:
            return None
        headers = self.size - model - optimizer - waste
        return {"model": model, "optimizer": optimizer, "waste": waste, "headers": headers}

    def check_all_in_one(self) -> None:
        """Check that the file is no part of several. Raises `UsageError`, which says how they are joined."""

    def training(self) -> Training:
        """Return the state of a training. Raises `UsageError` if the file has none, the damage if it is not whole."""
        raise self._lacks("not a checkpoint")

    @property
    def loss(self) -> float | None:
        """The latest loss of one token; None if the file stores none. See `Losses` for what it is worth."""
        from ggcp_schema.llama.eras import conclude
        from ggcp_schema.llama.losses import stored_losses

        evidence = self.evidence()
        losses = None if evidence is None else stored_losses(self.facts(), conclude(evidence))
        return None if losses is None else losses.latest

    def moments(self, path: str | None = None, *, order: str | None = None) -> dict[str, Any]:
        """Return what the optimizer holds for one parameter, by state field: `m` and `v` for Adam.

        `path` is that of a tensor of the model, `layers[0].wq`; without it, those of all are returned by path. The
        arrays are read-only and of its numpy shape; those of lms and lmy have one dimension more, the steps remembered.
        `order` replaces the decision; a warning is issued if that is only likely. Raises `PathError` for an unknown
        path, `UsageError` if the order is not known, or if the bytes exclude the one stated.
        """
        if path is None:
            return {each: moments_of(self, each, order) for each in self.model_tensors}
        return moments_of(self, path, order)

    def model_training(self) -> Training:
        """Return a training without an optimizer's state, of a damaged file whose model is whole.

        Raises the damage if the format or the file allows none.
        """
        return self.training()

    def model(self) -> Model:
        """Return the model. Raises `UsageError` if the file has none, the damage if it is not whole."""
        raise self._lacks("not a checkpoint")

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary. Raises `UsageError` if the file has none, the damage if it is not whole."""
        raise self._lacks("which contains no vocabulary", ACCEPTED)

    @property
    def has_adapter(self) -> bool:
        """True for a file that is made to hold a LoRA adapter, also if damage hides it."""
        return False

    def adapter(self) -> Adapter:
        """Return the LoRA adapter. A damaged file is accepted if all of it is whole.

        Raises `UsageError` if the file has none, the damage if it is not whole.
        """
        raise self._lacks("which contains no adapter", "Pass a ggla adapter, or a checkpoint of llama.cpp's finetune.")

    def converted(self) -> Converted | None:
        """Return the GGUF checkpoint that a file of finetune becomes as it is; None for all other files."""
        return None

    def evidence(self) -> Evidence | None:
        """Return what the file shows of the program that wrote it; None if it is no checkpoint."""
        return None

    @property
    def orders(self) -> tuple[Order, ...]:
        """The orders that a program can have written the flat vectors of an optimizer in."""
        return tuple(ORDERS)

    @property
    def key_values(self) -> Mapping[str, KeyValue]:
        """The GGUF keys that the file has."""
        return {}

    def key_field(self, key: str) -> Field | None:
        """Return the field with the value of a key, whatever else has that name; None if there is none."""
        return None

    def key_type(self, name: str) -> tuple[int, str] | None:
        """Return the number of a type of GGUF keys and its name in the schema; None if it has no keys of that type."""
        return None

    def set_keys(self, container: Container, wanted: Mapping[str, tuple[int, Any] | None]) -> None:
        """In a changed copy of the values, set each key to a type and a value, or remove it if that is None."""

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        """Return the path of a tensor in ggcp files, its name in GGUF files, and the type of the optimizer.

        Each is None if there is none; the last for a tensor of a model.
        """
        return None, None, None

    def path_of(self, tensor: Tensor) -> str | None:
        """Return the first of `names_of`."""
        return self.names_of(tensor)[0]

    def compares_by_field(self, other: File) -> bool:
        """Return True if the fields of the two files mean the same; if not, what they become in GGUF is compared."""
        return self.format is other.format

    # What damage leaves.

    def rules(self, parse: Parse) -> Rules:
        """Return what breaks a rule that the schema does not state, and what is odd."""
        return Rules(len(self.tensors), None, [], [])

    @classmethod
    def is_cut(cls, error: FieldError) -> bool:
        """Return True if the file ends within a field whose size is certain: of a long text it may be wrong."""
        return error.steps[-1:] in (["data"], ["padding"]) or error.size <= LONGEST_NAME

    @classmethod
    def is_proven(cls, source: Source) -> bool:
        """Return True if a file is of this format whatever it begins with, as what follows proves."""
        return False

    @classmethod
    def repairable(cls, source: Source) -> Repairable | None:
        """Return what a file must hold, damaged or not; None if the format holds nothing twice."""
        return None

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        """Return an error of a file that was parsed to its end, but whose parts may be at other places."""
        return None

    @classmethod
    def recovered(cls, source: Source, error: FieldError) -> Recovered | None:
        """Return what can be read of a file whose parse ended with an error; None if that is no more."""
        return None

    def expected_tensors(self) -> list[str] | None:
        """Return the ggcp paths of the tensors that the whole file had, or else their names; None if it is not known.

        If the type of the optimizer is not known, those of all types are returned.
        """
        return None

    def whole_sizes(self) -> dict[str, int]:
        """Return the sizes in bytes that the whole file can have had, by the type of the optimizer."""
        return {}

    def least_size(self) -> int | None:
        """Return the size at which the model ends, if no size of the whole file is known."""
        return None

    def check_whole(self, found: int, total: int, part: str = "model") -> None:
        """Check that all tensors of the model are whole. Raises the damage of the file, which is why they are not.

        `part` is what the file holds in place of a model.
        """
        if found < total and self.damage is not None:
            from ggcp_schema.formats.state import is_repairable

            saved = ", which `ggcp-schema extract --partial` can save." if found else "."
            if is_repairable(self):
                saved = f". {REPAIR}"
            raise self.damage.with_hint(
                f"The {part} is not whole: the file has {found:,} of its {total:,} tensors{saved}"
            )

    def _lacks(self, what: str, hint: str = CHECKPOINT_NEEDED) -> GgcpError:
        return self.damage or UsageError(f"{self.path} is a {self.format.title}, {what}", hint)

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
        found = self.field(path)
        elements = elements_at(self, path) if found is None else None
        if found is None and elements is None:
            raise self.unknown_path(path)
        return found or elements  # type: ignore[return-value]

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
        return field_after_name(self, path)

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
        """Return the value or the values at a path; `default` if the file, or its undamaged part, has none."""
        with self.source.parsing():
            value = value_at(self.container, parse_path(path))
        if value is not None:
            return value
        field = self.field(path)
        if field is not None:
            return field.value
        try:
            elements = elements_at(self, path)
        except (PathError, MalformedError):
            return default
        return default if elements is None else elements.value()

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.field(path) is not None

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

    def __dir__(self) -> list[str]:
        inner = {name for name in vars(File) if not name.startswith("_")} - SHOWN
        return [name for name in super().__dir__() if name not in inner]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}: {self.describe()}>"

    def describe(self) -> str:
        """Return what the file is, in a few words."""
        if self.damage is not None:
            return f"{self.format.title}, damaged at {self.damage.path}"
        return self.format.title
