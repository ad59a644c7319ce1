"""A LoRA adapter: pairs of small matrices whose products are added to the tensors of a base model.

llama.cpp's finetune trains all tensors of a model, the embeddings and the norms too, and writes F32 pairs for all of
them. convert-lora-to-ggml.py wrote the pairs of a PEFT adapter, never one of a norm, which PEFT cannot have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.errors import MalformedError, UsageError, shell_word
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.names import MODEL_TENSORS, field_path, layer_and_name, llama_field_path, n_tensors, tensor_name
from ggcp_schema.llama.rotation import Heads, halves, order_of_halves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Factor = npt.NDArray[np.float32]

FINETUNE = "llama.cpp's finetune"
SCRIPT = "convert-lora-to-ggml.py"

NORMS = ("norm", "attention_norm", "ffn_norm")
PARTS = {"loraA": "a", "loraB": "b", "lora_a": "a", "lora_b": "b"}  # how the name of a tensor ends


class Pair(NamedTuple):
    """The tensors A, [r, n_in], and B, [r, n_out], in ggml order; B of a norm is [r, 1] or [r].

    Added to the base is `scale * B @ A.T` in numpy's order, where A is (n_in, r) and B (n_out, r).
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product, in ggml order; that of a norm is [n_in, 1]."""
        return self.a.shape[1], self.b.shape[1] if len(self.b.shape) == 2 else 1


@json_keys("scale r alpha hf_rows n_params ranks matrices norms")
@dataclass(frozen=True, repr=False)
class Adapter:
    """A LoRA adapter. Raises `UsageError` if the scale is no finite number.

    Attributes:
        path: the file.
        pairs: by the ggcp path of the tensor in the base model (`layers[0].wq`), in file order.
        scale: what each product is multiplied by, whatever the pair's rank.
        r, alpha: as a ggla file states them; None in a checkpoint.
        hf_rows: True if B of wq and wk has its rows in the order in which PEFT trained them, that of Hugging Face's
            models. convert-lora-to-ggml.py did not reorder them as the converters of models did, so that llama.cpp
            computed something else; with False they are taken as llama.cpp took them.
    """

    path: str
    pairs: Mapping[str, Pair]
    scale: float = 1.0
    r: int | None = None
    alpha: int | None = None
    hf_rows: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UsageError(f"{self.path}: the scale of an adapter must be a finite number, got {self.scale}")

    def __repr__(self) -> str:
        return f"<Adapter {self.path}: {counted(len(self.pairs), 'pair')}, scale {self.scale:g}>"

    @property
    def n_layer(self) -> int:
        """The number of layers up to the last that has a pair."""
        return 1 + max((layer for path in self.pairs if (layer := layer_and_name(path)[0]) is not None), default=-1)

    @property
    def n_params(self) -> int:
        """The number of elements of all pairs."""
        return sum(tensor.n_elements for pair in self.pairs.values() for tensor in pair)

    @property
    def norms(self) -> list[str]:
        """The paths of the norms that have a pair."""
        return [path for path in self.pairs if is_norm(path)]

    @property
    def matrices(self) -> list[str]:
        """The paths of all others."""
        return [path for path in self.pairs if not is_norm(path)]

    @property
    def ranks(self) -> dict[str, list[int]]:
        """The ranks that occur, by the name of the tensor without its layer, in file order."""
        ranks: dict[str, set[int]] = {}
        for path, pair in self.pairs.items():
            ranks.setdefault(layer_and_name(path)[1], set()).add(pair.rank)
        return {name: sorted(found) for name, found in ranks.items()}

    @property
    def writer(self) -> str | None:
        """`FINETUNE` if the file has an F32 pair for every tensor, `SCRIPT` if for no norm; else None."""
        types = {tensor.type for pair in self.pairs.values() for tensor in pair}
        if len(self.pairs) == n_tensors(self.n_layer) and types == {"F32"}:
            return FINETUNE
        return SCRIPT if self.matrices and not self.norms else None

    @property
    def is_reordered(self) -> bool:
        """True if rows are in Hugging Face's order, in which llama.cpp of 2023 did not take them."""
        return self.hf_rows and any(path.endswith((".wq", ".wk")) for path in self.pairs)

    def factors(self, path: str, heads: Heads, *, hf_rows: bool = False) -> tuple[Factor, Factor]:
        """Return A, (n_in, r), and B, (n_out, r), as float32, with the rows of wq and wk in that order."""
        pair = self.pairs[path]
        a, b = pair.a.array().reshape(-1, pair.rank), pair.b.array().reshape(-1, pair.rank)
        if hf_rows != self.hf_rows and (n_head := heads.of(path)):
            order = order_of_halves(len(b), n_head)
            b = b[order if hf_rows else order.argsort()]
        return a, b

    def product(self, path: str, heads: Heads) -> npt.NDArray[np.float64]:
        """Return what is added to a tensor, in numpy's order of dimensions; a norm's is a vector."""
        whole = product(*self.factors(path, heads), self.scale)
        return whole[0] if is_norm(path) else whole


def product(a: Factor, b: Factor, scale: float) -> npt.NDArray[np.float64]:
    """Return `scale * b @ a.T`, computed in float64."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # factors that are infinite give NaN
        whole: npt.NDArray[np.float64] = scale * (b.astype("f8") @ a.astype("f8").T)
    return whole


class Base(NamedTuple):
    """A base model: its file, its tensors by ggcp path in file order, and its heads."""

    path: str
    tensors: Mapping[str, Tensor]
    heads: Heads


def is_norm(path: str) -> bool:
    """Return whether the path is that of a norm."""
    return layer_and_name(path)[1] in NORMS


# Reading ---------------------------------------------------------------------------------------------------


def pairs_of(file: str, tensors: Iterable[Tensor]) -> dict[str, Pair]:
    """Return the pairs of tensors by the ggcp path of what they belong to, from the names that the file stores.

    Understood are the names of both generations (`layers.0.attention.wq.weight.loraA`, `blk.0.attn_q.weight.loraA`) and
    those of GGUF checkpoints (`blk.0.attn_q.weight.lora_a`). Raises `UsageError` for a tensor of no llama model,
    `MalformedError` if tensors do not make up pairs.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        name, _, end = tensor.name.rpartition(".")
        path = model_path(name)
        if path is None or end not in PARTS:
            raise UsageError(
                f"{file}: {tensor.name!r} is no part of an adapter of a llama model",
                "Adapters of other architectures cannot be converted.",
            )
        if found.setdefault(path, {}).setdefault(PARTS[end], tensor) is not tensor:
            raise _odd(file, tensor, "one tensor of that name", "two")
    for parts in found.values():
        if len(parts) == 1:
            [(part, tensor)] = parts.items()
            raise _odd(file, tensor, "tensors A and B", f"no tensor {'B' if part == 'a' else 'A'}")
    return {path: checked_pair(file, path, **parts) for path, parts in found.items()}


def checked_pair(file: str, path: str, a: Tensor, b: Tensor) -> Pair:
    """Return a pair whose shapes go together. Raises `MalformedError`."""
    if len(a.shape) != 2 or not a.n_elements:
        raise _odd(file, a, "two dimensions, [r, n_in]", str(list(a.shape)))
    r = a.shape[0]
    ok = b.shape in ((r,), (r, 1)) if is_norm(path) else len(b.shape) == 2 and b.shape[0] == r and b.n_elements
    if not ok:
        raise _odd(file, b, f"[{r}, {1 if is_norm(path) else 'n_out'}]", str(list(b.shape)))
    return Pair(a, b)


def _odd(file: str, tensor: Tensor, expected: str, found: str) -> MalformedError:
    return MalformedError(
        f"{file}: tensor {tensor.name or tensor.path}: expected {expected}, found {found}",
        "Without it the adapter cannot be used. Look for another copy of the file.",
        path=tensor.path,
        offset=tensor.offset,
        expected=expected,
        found=found,
    )


def model_path(name: str) -> str | None:
    """Return the ggcp path of a model's tensor from its name of either generation; None if it is no such tensor."""
    path = field_path(name) or llama_field_path(name) if name.endswith(".weight") else None
    return path if path in MODEL_TENSORS or (path and layer_and_name(path)[0] is not None) else None


def gguf_name(name: str) -> str | None:
    """Return the name in GGUF files of a tensor of a pair; None if the name is that of no such tensor."""
    stem, _, end = name.rpartition(".")
    path = model_path(stem)
    return f"{tensor_name(path)}.lora_{PARTS[end]}" if path and end in PARTS else None


def needs_base(path: str, what: str, more: str = "") -> UsageError:
    """Return the error for an adapter that is taken for a model or its training. The hint begins with `more`."""
    hint = "Pass a checkpoint of a whole model; or the adapter to export_adapter, with its base."
    error = UsageError(f"{path} is {what}", f"{more}{hint}")
    error.shell_hint = f"{more}To use it with its base: ggcp-schema export {shell_word(path)} --base BASE.gguf"
    return error


# Fitting ---------------------------------------------------------------------------------------------------


def fit(adapter: Adapter, base: Base) -> None:
    """Check that a base model has a tensor of the right shape for each pair, and no others if finetune wrote the pairs.

    Raises `UsageError`, which names the first that does not fit. No data is read.
    """

    def unfit(path: str, has: str, wants: str) -> UsageError:
        message = f"{adapter.path} does not fit {base.path}: {path} of the adapter is {wants}, of the base {has}"
        return UsageError(message, "Pass the model that was finetuned, or one made from it.")

    for path, pair in adapter.pairs.items():
        tensor = base.tensors.get(path)
        has = list(tensor.shape) if tensor else []
        wants = list(pair.shape[: 1 if is_norm(path) else 2])
        if has != wants:
            raise unfit(path, str(has) if tensor else "missing", str(wants))
    if adapter.writer == FINETUNE:
        for path in base.tensors:
            if path not in adapter.pairs:
                raise unfit(path, str(list(base.tensors[path].shape)), "missing")
    for path, pair in adapter.pairs.items():
        if n_head := base.heads.of(path):
            halves(0, 1, pair.shape[1], n_head)


# What there is to say of an adapter ------------------------------------------------------------------------


def adapter_facts(adapter: Adapter) -> Iterator[Fact]:
    """Yield the facts about an adapter, in words for a person."""
    why = {
        FINETUNE: "F32 pairs for all tensors, the norms too",
        SCRIPT: "no norms, which finetune writes",
        None: "neither all pairs, as by finetune, nor matrices alone",
    }
    yield Fact("written by", adapter.writer or "unknown", why[adapter.writer])
    norms = f" and {counted(len(adapter.norms), 'norm')}" if adapter.norms else ""
    matrices = f"{len(adapter.matrices)} {'matrix' if len(adapter.matrices) == 1 else 'matrices'}"
    a, b = map(_typed, "AB", zip(*adapter.pairs.values(), strict=True) if adapter.pairs else ((), ()))
    yield Fact("pairs", f"{a} and {b} for {matrices}{norms}: {adapter.n_params:,} parameters")
    yield Fact("ranks", _ranks(adapter))
    stated = adapter.r is not None
    scale = f"alpha {adapter.alpha} / r {adapter.r}" if stated else "no checkpoint stores one"
    yield Fact("scale", f"{adapter.scale:g}", scale)
    if stated and adapter.writer == FINETUNE and adapter.alpha != adapter.r:
        yield Fact("trained with scale", "1", "finetune used alpha and r for nothing but the header of this file")
    if adapter.norms:
        yield Fact("norms", "trained", "llama.cpp ignores them in an adapter: the base needs them")
    if adapter.is_reordered:
        yield Fact("rows of wq, wk", "as PEFT trained them", "llama.cpp of 2023 used its own order")


def _typed(letter: str, tensors: Iterable[Tensor]) -> str:
    """Return the letter of A or B, and the types of these tensors if they are not all F32."""
    types = sorted({tensor.type for tensor in tensors})
    return letter if types in ([], ["F32"]) else f"{letter} ({', '.join(types)})"


def _ranks(adapter: Adapter) -> str:
    """Return `4; 1 for norm, attention_norm`: the most frequent rank, then the others."""
    if not adapter.pairs:
        return "none"
    by_ranks: dict[str, list[str]] = {}
    for name, ranks in adapter.ranks.items():
        by_ranks.setdefault(" and ".join(map(str, ranks)), []).append(name)
    usual, *others = sorted(by_ranks, key=lambda ranks: -len(by_ranks[ranks]))
    return "; ".join([usual, *(f"{ranks} for {', '.join(by_ranks[ranks])}" for ranks in others)])
