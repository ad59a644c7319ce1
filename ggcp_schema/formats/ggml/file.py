"""The vocabulary and model files of llama.cpp before GGUF: ggml, ggmf and ggjt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.constructs import FieldError, Steps, counted
from ggcp_schema.errors import MalformedError, NotACheckpointError
from ggcp_schema.files.identify import LLAMA_ONLY, OTHER
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.other_programs import OTHER_NAMES, is_of_another_program
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File, Format, Recovered
from ggcp_schema.formats.ggcp.records import Hparams, record_of
from ggcp_schema.formats.ggml.recovery import SCHEMAS, doubt, is_proven, recover
from ggcp_schema.formats.records.extent import n_layer_of
from ggcp_schema.formats.records.headers import GGCP
from ggcp_schema.formats.records.numbers import impossible
from ggcp_schema.formats.records.tensors import tensor_of_record
from ggcp_schema.formats.rules import Problem, Refusal, Rules, broken_rows, odd_findings, odd_padding, repeated
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import HPARAMS
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2, TYPES_OF_GGUF, UNQUANTIZED, GgmlType
from ggcp_schema.schema.ggml_model import GGJT, GGMF, GGML

if TYPE_CHECKING:
    from ggcp_schema.formats.parsing import Parse
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.vocabulary import Vocabulary


NEXT = 128  # bytes in which the name of the first tensor is looked for


class GgmlFile(File):
    """A ggjt file, or a ggmf or ggml file. A vocabulary file has no tensors."""

    _inner = frozenset({"types_of_gguf"})

    def check(self) -> None:
        """Check that the first tensor has no name that other programs use. Raises `NotACheckpointError`."""
        first: Mapping[str, Any] = next(iter(self.container.get("tensors") or ()), {})
        if "name" in first:  # its data may be cut off
            begin = first["_offset"] + 12 + 4 * first["n_dims"]
            before = self.source.read(begin - 1, 1)  # a letter, if damage lets the name begin within that of a llama
            if OTHER_NAMES.match(before + first["name"], 1):
                raise another_program(self.source, begin, first["name"])
        elif self.damage is not None and self.damage.path.startswith("tensors[0]"):
            data = self.source.read(self.damage.offset, min(self.size - self.damage.offset, NEXT))
            if OTHER_NAMES.search(data):
                raise another_program(self.source, self.damage.offset, data)

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        return doubt(source, container)

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        return is_proven(source, format.schema)

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        return recover(source, error, format.schema)

    @cached_property
    def hparams(self) -> Hparams:
        """The hyper-parameters of the model."""
        value = self.container.get("hparams")
        if value is None or "_size" not in value:
            assert self.damage is not None  # noqa: S101 - a whole file has them
            raise self.damage.again()
        return record_of(Hparams, value, "hparams", self.source)

    @property
    def types_of_gguf(self) -> Collection[str]:
        """The element types of this version whose data GGUF stores alike."""
        return TYPES_OF_GGUF.get(self.container.get("version", 0), UNQUANTIZED)

    def stored_tensors(self) -> Iterator[Tensor]:
        for record in self.container.get("tensors") or ():
            if "_size" in record:
                kind = self._types[record["type"]].name
                yield tensor_of_record(record, None, self.source, kind, is_known=kind in self.types_of_gguf)

    @property
    def _types(self) -> dict[int, GgmlType]:
        return GGML_TYPES if self.container.get("version") == 3 else GGML_TYPES_UNTIL_V2

    def expected_tensors(self) -> list[str] | None:
        """Return the paths of the model's tensors; None for a vocabulary, or if the number of layers is not known."""
        n_layer = n_layer_of(self)
        return [path for path, _ in GGCP.tensors(n_layer)] if n_layer is not None and self.tensors else None

    def alias(self, name: str) -> Steps | None:
        """Return the path of the tensor of that name, which may be that of another format."""
        other = names.llama_name(names.field_path(name) or name)
        tensor = self.tensors.get(name) or (None if other is None else self.tensors.get(other))
        if tensor is None:
            return None
        field = self.at(tensor.offset - 1)  # the byte of its record before its data
        return None if field is None else field.steps[:2]

    def hparams_stated(self) -> dict[str, int] | None:
        """Return the hyper-parameters that the file states; None if damage has made some those of no model."""
        stated = super().hparams_stated()
        if self.damage is None or stated is None or stated.keys() != {*Hparams._fields}:
            return stated
        is_odd = n_layer_of(self) is None or impossible({f"hparams.{name}": number for name, number in stated.items()})
        return None if is_odd else stated

    @property
    def kind(self) -> str:
        return "ggml-model" if self.tensors else "ggml-vocabulary"

    @property
    def what(self) -> str:
        version = self.container.get("version")
        what = "model of 2023" if self.tensors else "vocabulary of 2023, without a model"
        if "hparams" not in self.container:
            return self.format.title  # what it holds is lost
        return f"{self.format.name}{'' if version is None else f' version {version}'}, {what}"

    @property
    def short(self) -> str:
        if "hparams" not in self.container:
            return f"{self.format.name} file"
        return f"{self.format.name} {'model' if self.tensors else 'vocabulary'}"

    def facts(self) -> dict[str, Any]:
        tensors, tokens = self.tensors, self.container.get("tokens")
        w1 = next((tensor for name, tensor in tensors.items() if name.endswith("feed_forward.w1.weight")), None)
        hparams = self.hparams_stated()
        return {
            "version": self.container.get("version"),
            "hparams": hparams,
            "n_ff": w1.shape[1] if w1 is not None and len(w1.shape) == 2 else None,
            "n_ff_source": None if w1 is None else "shape",
            "n_params": tensors.n_elements or None,
            "n_tokens": len(tokens) if tokens and len(tokens) == (hparams or {}).get("n_vocab") else None,
            "bytes": self.uses(tensors.nbytes, waste=tensors.padding),
        }

    def vocabulary(self) -> Vocabulary:
        from ggcp_schema.formats.ggml.meanings import vocabulary_of_ggml

        return vocabulary_of_ggml(self)

    def model(self) -> Model:
        from ggcp_schema.formats.ggml.meanings import model_of_ggml

        return model_of_ggml(self)

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        path = names.field_path(tensor.path) or names.llama_field_path(tensor.path)
        return path, path and names.tensor_name(path), None

    @property
    def key_values(self) -> Mapping[str, KeyValue]:
        """The GGUF keys that the hyper-parameters mean."""
        hparams = self.container.get("hparams") or {}
        stored = {key: hparams.get(name) for name, key in HPARAMS.items() if key}  # a cut file has some of them
        return {key: KeyValue(key, "UINT32", value) for key, value in stored.items() if value is not None}

    def compares_by_field(self, other: File) -> bool:
        """Return True for another file of these formats, which differ little."""
        return isinstance(other, GgmlFile)

    def rules(self, parse: Parse) -> Rules:
        records = self.container.get("tensors") or ()
        checked = len(records) - bool(records and "_size" not in records[-1])
        errors: list[Iterable[Problem | Refusal]] = [
            repeated("tensors", "name", islice(records, checked)),
            broken_rows("tensors", "ne", islice(records, checked), self._types),
        ]
        paddings = chain.from_iterable(
            odd_padding(f"tensors[{index}].padding", record.get("padding", b""), record["data"].offset)
            for index, record in enumerate(islice(records, checked))
        )
        findings = chain(paddings, odd_findings(self))
        return Rules(checked, parse.expected(checked), chain.from_iterable(errors), findings)

    def describe(self) -> str:
        if self.damage is not None:
            return super().describe()
        kind = f"model with {counted(len(self.tensors), 'tensor')}" if self.tensors else "vocabulary"
        return f"{self.format.name} {kind} of {counted(self.hparams.n_vocab, 'token')}"


def check_program(source: Source) -> None:
    """Check that a ggml, ggmf or ggjt file can be a llama's. Raises `NotACheckpointError`."""
    head = source.read(0, min(source.size, 4096))
    if is_of_another_program(head) and not is_proven(source, SCHEMAS[int.from_bytes(head[:4], "little")]):
        raise another_program(source, 4, head[4:32])


def another_program(source: Source, offset: int, found: bytes) -> NotACheckpointError:
    """Return the error for a ggml file that is not a llama's."""
    error = NotACheckpointError(
        f"{source.path} is {OTHER}",
        LLAMA_ONLY,
        path="hparams" if offset < 32 else "tensors[0].name",
        offset=offset,
        expected="a llama's",
        found=found.hex(" ") if offset < 32 else found.decode("utf-8", "backslashreplace"),
    )
    error.exit_code = MalformedError.exit_code  # it begins as a known format, and cannot be read
    return error


FORMATS = (
    Format("ggjt", b"tjgg", GGJT, "ggjt file", GgmlFile, check=check_program),
    Format("ggmf", b"fmgg", GGMF, "ggmf file", GgmlFile, check=check_program),
    Format("ggml", b"lmgg", GGML, "ggml file", GgmlFile, check=check_program),
)
