"""Files with a LoRA adapter in them: ggla and ggcl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.constructs import FieldError, Steps, counted
from ggcp_schema.errors import GgcpError, PathError, UnfitError, UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import stored
from ggcp_schema.formats.file import Converted, File, Recovered
from ggcp_schema.formats.lora.records import ADAPTER, FINETUNE, FIRST, is_adapter, recover_adapter
from ggcp_schema.formats.lora.schema import TYPES
from ggcp_schema.formats.paths import parse_path
from ggcp_schema.formats.records.extent import expected_tensors
from ggcp_schema.formats.records.named import doubtful_name
from ggcp_schema.formats.records.recovery import doubt, is_proven, recover
from ggcp_schema.formats.records.tensors import tensor_of_record, tensors_in
from ggcp_schema.formats.rules import Rules, odd_findings
from ggcp_schema.formats.trailing import doubtful_end
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import SCRIPT, Adapter, checked_pair, gguf_name, needs_base, pairs_of
from ggcp_schema.llama.eras import DEFAULT_RMS_EPS
from ggcp_schema.llama.keys import paths_by_key, stated_of, trainer_keys

if TYPE_CHECKING:
    from ggcp_schema.files.source import Source
    from ggcp_schema.formats.file import Format
    from ggcp_schema.formats.parsing import Parse
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.training import Training


class LoraFile(File):
    """A file whose only meaning is an adapter."""

    @property
    def has_adapter(self) -> bool:
        return True

    def rules(self, parse: Parse) -> Rules:
        return Rules(len(self.tensors), parse.expected(len(self.tensors)), [], odd_findings(self))

    def facts(self) -> dict[str, Any]:
        """Return what the file states of itself, and what is known of its adapter."""
        return self.adapter_facts() or super().facts()

    def training(self) -> Training:
        """Raise `UsageError`, or the damage: what it has is not the training of a model."""
        raise self.damage or needs_base(self.path, f"a {self.format.title}: it contains no model that is trained")

    def model(self) -> Model:
        """Raise `UsageError`, or the damage: a model is made of it and its base."""
        raise self.damage or needs_base(self.path, f"a {self.format.title}: it contains no model")


class GglaFile(LoraFile):
    """A ggla file. The path of a tensor is its name."""

    def stored_tensors(self) -> Iterator[Tensor]:
        for record in self.container.get("tensors") or ():
            if "_size" in record:
                yield tensor_of_record(record, None, self.source, TYPES[record["type"]].name)

    def alias(self, name: str) -> Steps | None:
        """Return the path of the tensor of that name, or of that name in GGUF files."""
        for index, record in enumerate(self.container.get("tensors") or ()):
            own = record.get("name", b"").decode("utf-8", "backslashreplace")
            if name == own or (".lora_" in name and name == gguf_name(own)):
                return ("tensors", index)
        return None

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        """Return the name in GGUF files; no ggcp file has such a tensor."""
        return None, gguf_name(tensor.path), None

    def candidates(self) -> list[str]:
        """Return the names of tensors and paths of fields, with which a misspelt one is compared."""
        return [*self.tensors, *super().candidates()]

    def unknown_path(self, path: str) -> GgcpError:
        """Return the error for a path that does not exist; for that of a tensor of the model it names the pair."""
        with suppress(GgcpError):
            pair = self.adapter().pairs.get(names.field_path(path) or path)
            if pair is not None:
                return PathError(f"{self.path} has no field {path!r}", f"Its pair is {pair.a.path}, {pair.b.path}.")
        return super().unknown_path(path)

    def compares_by_field(self, other: File) -> bool:
        """Return True for another ggla file with the same names, which are those of llama.cpp or of GGUF."""
        return isinstance(other, GglaFile) and self.tensors.keys() == other.tensors.keys()

    def adapter(self) -> Adapter:
        """Return the adapter, whose scale is `alpha / r`. Raises the damage of a damaged file.

        Raises `UsageError` if r is 0, or it is the adapter of another architecture.
        """
        if self.damage is not None:
            raise self.damage.again()
        r, alpha = self.container["r"], self.container["alpha"]
        if not r:
            raise UsageError(f"{self.path}: r is 0, so the scale alpha / r cannot be told", "State the scale.")
        adapter = Adapter(self.path, pairs_of(self.path, self.tensors.values()), alpha / r, r, alpha)
        return replace(adapter, hf_rows=adapter.writer == SCRIPT)

    def describe(self) -> str:
        if self.damage is not None:
            return super().describe()
        return f"ggla LoRA adapter with {counted(len(self.tensors), 'tensor')}"

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        """Return an error if a tensor has another name than the others prove, or bytes after the end may be its own."""
        return doubtful_name(source, container, ADAPTER, FIRST) or doubtful_end(source, container)

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        return is_adapter(source)

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        return recover_adapter(source, error)


class GgclFile(LoraFile):
    """A ggcl checkpoint. The path of a tensor is that of its field: `layers[0].wq_a`, `optimizer.state.m`."""

    @classmethod
    def doubt(cls, source: Source, container: Container) -> FieldError | None:
        return doubt(source, container)

    @classmethod
    def is_proven(cls, source: Source, format: Format) -> bool:
        return is_proven(source, FINETUNE)

    @classmethod
    def recovered(cls, source: Source, format: Format, error: FieldError) -> Recovered | None:
        return recover(source, error, FINETUNE)

    def alias(self, name: str) -> Steps | None:
        """Return the path of the field for a GGUF key, or for a tensor's name in GGUF files."""
        stem, _, part = name.rpartition(".lora_")
        path = names.field_path(stem or name)
        if path is None:
            path = paths_by_key(self.container.get("optimizer", {}).get("type")).get(name)
        elif stem:
            path = f"{path}_{part}"
        return None if path is None else parse_path(path)

    def names_of(self, tensor: Tensor) -> tuple[str | None, str | None, str | None]:
        """Return None, for no ggcp file has such a tensor, its name in GGUF files, and the type of the optimizer."""
        optimizer = self.container.get("optimizer", {}).get("type")
        if names.is_optimizer(tensor.path):
            return None, None if tensor.is_null else names.tensor_name(tensor.path, optimizer), optimizer
        path, _, part = tensor.path.rpartition("_")
        return None, f"{names.tensor_name(path)}.lora_{part}", None

    def expected_tensors(self) -> list[str] | None:
        return expected_tensors(self)

    def stored_tensors(self) -> Iterator[Tensor]:
        return tensors_in(self)

    @cached_property
    def state_tensors(self) -> Mapping[str, Tensor]:
        state = ((path, tensor) for path, tensor in self.tensors.items() if path.startswith(names.STATE))
        return {path.removeprefix(names.STATE): tensor for path, tensor in state}

    @property
    def dense_tensors(self) -> Mapping[str, Tensor]:
        """Every A. The programs of August 2023 began with a random B as well, but later ones begin with zeros."""
        return {path: tensor for path, tensor in self.tensors.items() if path.endswith("_a")}

    def adapter(self) -> Adapter:
        self.check_adapter()
        parts = {path: tensor for path, tensor in self.tensors.items() if not names.is_optimizer(path)}
        paths = [path.removesuffix("_a") for path in parts if path.endswith("_a")]
        return Adapter(
            self.path, {path: checked_pair(self.path, path, parts[f"{path}_a"], parts[f"{path}_b"]) for path in paths}
        )

    def converted(self) -> Converted:
        """Return the GGUF checkpoint from which finetune of 29 August 2023 and after resumes.

        The keys, their order and the tensors are those of convert-finetune-checkpoint-to-gguf.py. Raises the damage of
        a damaged file, `UnfitError` if a count is out of range for its GGUF type, `UsageError` if the model has no
        layers.
        """
        if self.damage is not None:
            raise self.damage.again()
        adapter = self.adapter()
        if self.get("n_ff") is None:
            raise UsageError(f"{self.path}: n_ff is unknown, because the model has no layers")
        optimizer = str(self.get("optimizer.type"))

        def key_of(key: str, kind: str, path: str) -> KeyValue:
            value = self.get(path)
            return KeyValue(key, kind, bool(value) if kind == "BOOL" else value)

        try:
            keys = trainer_keys(names.FINETUNE_LORA, DEFAULT_RMS_EPS, optimizer, key_of)
        except UnfitError as error:
            raise UnfitError(f"{self.path}: {error.message}", error.hint) from error
        pairs = (
            stored(f"{names.tensor_name(path)}.lora_{part}", tensor)
            for path, pair in adapter.pairs.items()
            for part, tensor in pair._asdict().items()
        )
        state = (
            stored(str(names.tensor_name(path, optimizer)), tensor)
            for path, tensor in self.tensors.items()
            if names.is_optimizer(path) and not tensor.is_null
        )
        return Converted(keys, [*pairs, *state])

    def facts(self) -> dict[str, Any]:
        stated = stated_of(self.get, self.state_tensors.get("pf"))
        return {**self.adapter_facts(), **stated, "version": self.get("version"), "hparams": self.hparams_stated()}

    def describe(self) -> str:
        if self.damage is not None:
            return super().describe()
        return f"ggcl checkpoint of {counted(len(self.container['layers']), 'layer')}"
