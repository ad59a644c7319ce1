"""What a file is and means: what every format can tell of its files, with what follows from the schema alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from construct import Container

from ggcp_schema.constructs import Field, FieldError, Struct
from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.parsed import LONGEST_NAME, ParsedFile
from ggcp_schema.formats.rules import Finding, Found, Problem, Rules
from ggcp_schema.llama.names import is_optimizer

if TYPE_CHECKING:
    from ggcp_schema.files.contents import Patch
    from ggcp_schema.files.key_values import KeyValue
    from ggcp_schema.files.tensor_entries import TensorEntry
    from ggcp_schema.formats.parsing import Parse
    from ggcp_schema.llama.adapter import Adapter
    from ggcp_schema.llama.eras import Evidence
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.order import OrderDecision
    from ggcp_schema.llama.state import State, Unsound
    from ggcp_schema.llama.training import Training
    from ggcp_schema.llama.vocabulary import Vocabulary

REPAIR = "`ggcp-schema repair` takes back what the file holds twice."
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

    def __repr__(self) -> str:
        return f"<Format {self.name}>"


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


Repairable = tuple["State", list["Patch"]]
"""Where the weights and the vectors of a file are, and the patches of headers and numbers that follow from others."""


def until(container: Container, field: str) -> Container:
    """Return the values before a field."""
    return Container(takewhile(lambda item: item[0] != field, container.items()))


class File(ParsedFile):
    """An open file of a known format, and what it means. Use it in a `with` block, or close it.

    The attributes are those of `ParsedFile`.
    """

    format: Format
    copied_lists: ClassVar[Mapping[str, Collection[str]]] = {}
    """Lists of very many records, each with the fields of the file whose change leaves all bytes of the list alone."""
    _inner: ClassVar[frozenset[str]] = frozenset()
    """What a class adds for this package alone, which completion does not show."""

    @property
    def expected_size(self) -> int | None:
        """The size in bytes that the whole file has at least; None if what is left of it does not tell."""
        return self.format.expected_size(self.container)

    @property
    def dense_tensors(self) -> Mapping[str, Tensor]:
        """The weights that begin as random numbers and are trained, so that none has a run of zeros by chance."""
        return self.model_tensors

    @cached_property
    def order(self) -> OrderDecision:
        """The order of the parameters in the optimizer's flat vectors, of which as little is read as is needed."""
        from ggcp_schema.llama.training import order_of

        try:
            return order_of(self.training())
        except GgcpError:  # damaged, or not a whole checkpoint: the tensors may tell the order all the same
            return super().order

    # What a view shows of the file, and its meanings.

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
        """Return the bytes of the file by their use, with the rest as headers; None if it is damaged."""
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
        """The latest loss of one token; None if the file stores none, or one of finetune, whose meaning is not known.

        See `Losses` for what it is worth.
        """
        from ggcp_schema.llama.eras import conclude
        from ggcp_schema.llama.losses import stored_losses

        evidence = self.evidence()
        losses = None if evidence is None else stored_losses(self.facts(), conclude(evidence))
        return None if losses is None else losses.latest

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

    def compares_by_field(self, other: File) -> bool:
        """Return True if the fields of the two files mean the same; if not, what they become in GGUF is compared."""
        return self.format is other.format

    # What damage leaves.

    def rules(self, parse: Parse) -> Rules:
        """Return what breaks a rule that the schema does not state, and what is odd."""
        return Rules(len(self.tensors), None, [], [])

    @cached_property
    def broken_rules(self) -> Found[Problem]:
        """The errors among them, of a file that is read to its end."""
        from ggcp_schema.formats.parsing import Parse

        return Found.of(() if self.damage else self.rules(Parse(self, (), None)).errors, self.root)

    def lost_texts(self) -> Iterable[Unsound]:
        """Return the holes in its texts, as lost pages leave them."""
        return ()

    @classmethod
    def is_cut(cls, error: FieldError) -> bool:
        """Return True if the file ends within a field whose size is certain: of a long text it may be wrong."""
        return error.steps[-1:] in (["data"], ["padding"]) or error.size <= LONGEST_NAME

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        """Return True if a file is of this format whatever it begins with, as what follows proves."""
        return False

    @classmethod
    def repairable(cls, source: Source) -> Repairable | None:
        """Return what `repair` needs to know of a file, damaged or not; None if the format holds nothing twice."""
        return None

    @cached_property
    def is_repairable(self) -> bool:
        """True if `repair` takes back something of the file, damaged or unsound.

        Reads the values only if all headers and numbers are right. Raises `FileError` if the file cannot be read.
        """
        from ggcp_schema.formats.state import repairable_of
        from ggcp_schema.llama.repair import value_patches

        found = repairable_of(self)
        return found is not None and bool(found[1] or value_patches(found[0]))

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        """Return an error if a file was parsed to its end, but its parts may be at other places; else None."""
        return None

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        """Return what can be read of a file whose parse ended with an error; None if it is not more than was parsed."""
        return None

    def check(self) -> None:
        """Check that what was read can be of this format. Raises `NotACheckpointError`."""

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
            if self.damage.is_restorable:
                raise self.damage.again()
            saved = ", which `ggcp-schema extract --partial` can save." if found else "."
            if self.is_repairable:
                saved = f". {REPAIR}"
            raise self.damage.with_hint(
                f"The {part} is not whole: the file has {found:,} of its {total:,} tensors{saved}"
            )

    def check_adapter(self) -> None:
        """Check that all tensors of the adapter in a checkpoint are whole. Raises the damage, which is why not."""
        if self.damage is None:
            return
        expected = self.expected_tensors()
        if expected is None:
            raise self.damage.again()
        found, total = (sum(not is_optimizer(path) for path in paths) for paths in (self.tensors, expected))
        self.check_whole(found, total, "adapter")

    def adapter_facts(self) -> dict[str, Any]:
        """Return what a summary shows of the adapter, and the facts about it as lines with labels.

        Nothing if the file has none, or if it is not whole or of another architecture.
        """
        from ggcp_schema.llama.adapter import adapter_facts

        try:
            adapter = self.adapter()
        except GgcpError:
            return {}
        facts = adapter_facts(adapter)
        lines = tuple((fact.label, f"{fact.text} ({fact.reason})" if fact.reason else fact.text) for fact in facts)
        return {"adapter": adapter, "details": lines}

    def _lacks(self, what: str, hint: str = CHECKPOINT_NEEDED) -> GgcpError:
        return self.damage or UsageError(f"{self.path} is a {self.format.title}, {what}", hint)

    def __dir__(self) -> list[str]:
        inner = {name for name in (*vars(File), *vars(ParsedFile)) if not name.startswith("_")} - SHOWN | self._inner
        return [name for name in super().__dir__() if name not in inner | {"container"}]

    def __repr__(self) -> str:
        closed = ", closed" if self.source.file.closed else ""
        return f"<{type(self).__name__} {self.path}{closed}: {self.describe()}>"

    def describe(self) -> str:
        """Return what the file is, in a few words."""
        if self.damage is not None:
            return f"{self.format.title}, {'unknown' if self.damage.is_unknown else 'damaged'} at {self.damage.path}"
        return self.format.title
