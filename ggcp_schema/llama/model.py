"""A model, whatever the format of its file: hyper-parameters and weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.errors import UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.context import UNKNOWN, Context
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.rotation import FREQ_BASE, rope_entries

EXPORTED = "Only models with the tensors of the trainers' models are exported."


class Model(NamedTuple):
    """A model: hyper-parameters and weights.

    Attributes:
        n_rot, freq_base: RoPE turns pair i by `freq_base ** (-2 * i / n_rot)` at each position.
        freq_scale: `rope.scale_linear`.
        tensors: by ggcp path (`layers[0].wq`), in file order.
        evidence: what the file shows of its writer, except what the optimizer's state shows.
        n_head_kv: the heads of keys and values, which groups of queries share; None for as many as n_head.
        rms_eps: the epsilon of the RMS norm, if the file stores it.
        has_vocabulary: True if the file contains one.
        context: the context length, if the file stores it or its counts tell.
        file_type: the number for the type of most weights.
        name: the name that a model file stores.
        kept: the other keys of a model file, which the output has too.
    """

    path: str
    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_ff: int
    n_rot: int
    tensors: Mapping[str, Tensor]
    evidence: Evidence
    freq_base: float = FREQ_BASE
    freq_scale: float = 1.0
    n_head_kv: int | None = None
    rms_eps: float | None = None
    has_vocabulary: bool = False
    context: Context = UNKNOWN
    file_type: int = 0
    name: str | None = None
    kept: tuple[KeyValue, ...] = ()

    def __repr__(self) -> str:
        sizes = f"{counted(self.n_layer, 'layer')}, n_embd {self.n_embd}, n_vocab {self.n_vocab}"
        return f"<Model {self.path}: {sizes}, {counted(self.n_params, 'parameter')}>"

    def checked(self) -> Model:
        """Return the model if llama.cpp can run it. Raises `UsageError` if not."""
        try:
            rope_entries(self.n_embd, self.n_head, self.n_rot, self.freq_base)
        except UsageError as error:
            raise self._impossible(error.message) from error
        if self.n_head_kv is not None and (not self.n_head_kv or self.n_head % self.n_head_kv):
            raise self._impossible(f"{self.n_head} heads of queries cannot share {self.n_head_kv} of keys and values")
        if not self.n_layer:
            raise self._impossible("it has no layers")
        return self

    def _impossible(self, why: str) -> UsageError:
        return UsageError(f"{self.path}: {why}", "llama.cpp cannot run this model.")

    @property
    def n_params(self) -> int:
        """The number of parameters."""
        return sum(tensor.n_elements for tensor in self.tensors.values())

    @property
    def rotation(self) -> tuple[int, float]:
        """`rope.dimension_count` and `rope.freq_base`."""
        return rope_entries(self.n_embd, self.n_head, self.n_rot, self.freq_base)


def check_no_others(path: str, found: Iterable[str], tensors: Collection[Tensor]) -> None:
    """Check that a model has no tensors but these. Raises `UsageError`: without the others it is another model."""
    known = {tensor.path for tensor in tensors}
    for name in found:
        if name not in known:
            raise UsageError(f"{path}: tensor {name} is none of a llama model as the trainers wrote it", EXPORTED)
