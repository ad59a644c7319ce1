"""The vocabulary and model files of llama.cpp before GGUF: ggml, ggmf and ggjt."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ggcp_schema.constructs import Steps, counted
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File, tensor_of_record
from ggcp_schema.formats.ggcp.parts import Hparams, part_of
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2


class GgmlFile(File):
    """A ggml, ggmf or ggjt file. A vocabulary file has no tensors."""

    @cached_property
    def hparams(self) -> Hparams:
        """The hyper-parameters of the model."""
        value = self.container.get("hparams")
        if value is None or "_size" not in value:
            assert self.damage is not None  # noqa: S101 - a whole file has them
            raise self.damage
        return part_of(Hparams, value, "hparams", self.source)

    def _tensors(self) -> Iterator[Tensor]:
        for _, tensor in self._with_indices():
            yield tensor

    def _with_indices(self) -> Iterator[tuple[int, Tensor]]:
        types = GGML_TYPES if self.container.get("version") == 3 else GGML_TYPES_UNTIL_V2
        for index, record in enumerate(self.container.get("tensors") or ()):
            if "_size" in record:
                name = record["name"].decode("utf-8", "backslashreplace")
                yield index, tensor_of_record(record, name, self.source, types[record["type"]].name)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {tensor.path: index for index, tensor in self._with_indices()}

    def alias(self, name: str) -> Steps | None:
        """Return the path of the tensor of that name."""
        index = self._indices.get(name)
        return None if index is None else ("tensors", index)

    def describe(self) -> str:
        """Return what the file is, in a few words."""
        if self.damage is not None:
            return super().describe()
        kind = f"model with {counted(len(self.tensors), 'tensor')}" if self.tensors else "vocabulary"
        return f"{self.format.name} {kind} of {counted(self.hparams.n_vocab, 'token')}"
