"""A LoRA adapter of 2023 as the GGUF adapter that present-day llama.cpp takes, and its base with the adapter added.

llama.cpp multiplies a pair by alpha divided by the pair's own rank, and by 1 if alpha is 0; so alpha is 0 here, and B
is multiplied by the scale. It accepts pairs of norms and ignores them, so they are left out: they can be added to the
norms of the base, which are F32 in quantized models too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Patch
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import ELEMENT_SIZES, MARKS, Tensor, encode
from ggcp_schema.files.tensor_entries import TYPES, Computed, TensorEntry
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import FINETUNE, Adapter, Base, fit, product
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.rotation import Heads, order_of_halves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Target = Literal["adapter", "peft", "gguf", "hf"]
MERGED = {"gguf": True, "hf": False}
"""The targets that are the base with the adapter merged into it; True if its tensors keep the types of the base."""
Norms = Literal["merged", "saved", "base", "ignored", "none"]

NORMS_COST = "without them the worst log probability of small finetunes was 0.8 to 10.8 off"
AT_RUN_TIME = "that of the adapter at run time"
COSTS = {
    "F16": f"next to nothing: on a small model the divergence was {AT_RUN_TIME}",
    "BF16": "on a small model log probabilities were up to 0.038 off, with the adapter at run time 0.025",
    "Q8_0": f"next to nothing: on a small model the divergence was {AT_RUN_TIME}",
    "Q4_0": f"on a small model the divergence was twice {AT_RUN_TIME}",
}
"""What rounding to the type of the base again costs, as measured."""


def small(name: str, shape: tuple[int, ...], values: Callable[[], npt.NDArray[np.floating]]) -> TensorEntry:
    """Return an F32 tensor whose values are computed at once; `shape` is in ggml order."""

    def chunks() -> Iterator[bytes]:
        import numpy as np

        with np.errstate(over="ignore"):  # the result is infinite
            data = values().astype("<f4").tobytes()
        yield data

    return TensorEntry(name, shape, Computed(chunks))


def adapter_keys() -> list[KeyValue]:
    """Return the keys of a GGUF adapter."""
    return [
        KeyValue(names.ARCHITECTURE, "STRING", "llama"),
        KeyValue("general.type", "STRING", "adapter"),
        KeyValue("adapter.type", "STRING", "lora"),
        KeyValue(names.LORA_ALPHA, "FLOAT32", 0.0),
    ]


def adapter_tensors(adapter: Adapter, heads: Heads, only: Iterable[str] | None = None) -> list[TensorEntry]:
    """Return the tensors of a GGUF adapter, two for each pair: of the matrices, or of `only` these.

    `lora_a` is A transposed, [n_in, r], and `lora_b` is B, [r, n_out]. The embeddings, of which rows are looked up,
    have them exchanged and neither transposed. `heads` are those of the base.
    """
    tensors = []
    for path in adapter.matrices if only is None else only:
        name, pair = names.tensor_name(path), adapter.pairs[path]
        n_in, n_out = pair.shape
        a, b = (partial(_factor, adapter, heads, path, index) for index in (0, 1))
        if path == "tok_embeddings":
            tensors.append(small(f"{name}.lora_a", (pair.rank, n_out), b))
            tensors.append(small(f"{name}.lora_b", (pair.rank, n_in), a))
        else:
            tensors.append(small(f"{name}.lora_a", (n_in, pair.rank), lambda a=a: a().T))  # type: ignore[misc]
            tensors.append(small(f"{name}.lora_b", (pair.rank, n_out), b))
    return tensors


def _factor(adapter: Adapter, heads: Heads, path: str, index: int) -> npt.NDArray[np.floating]:
    """Return A, or B with the scale."""
    factor = adapter.factors(path, heads)[index]
    return factor.astype("f8") * adapter.scale if index and adapter.scale != 1 else factor


def patched_norms(adapter: Adapter, base: Base) -> Iterator[Patch]:
    """Yield the patches of the base that add the norms of the adapter to its own, in the type and byte order they have.

    Raises `UsageError` if a norm is not F32.
    """
    for path in adapter.norms:
        tensor = base.tensors[path]
        data = new_norm(adapter, base, path).astype(f"{MARKS[tensor.byte_order]}f4").tobytes()
        yield Patch(path, tensor.offset, len(data), "that of the adapter is added", partial(iter, [data]))


def new_norm(adapter: Adapter, base: Base, path: str) -> npt.NDArray[np.floating]:
    """Return a norm of the base with that of the adapter added. Raises `UsageError` if it is not F32."""
    tensor = base.tensors[path]
    if tensor.type != "F32":
        raise UsageError(f"{base.path}: {tensor.name} is {tensor.type}, expected F32, as llama.cpp requires of a norm")
    return tensor.array().astype("f8") + adapter.product(path, base.heads)


def chosen(adapter: Adapter, base: Base, *, scale: float | None = None, verbatim: bool = False) -> Adapter:
    """Return the adapter as it will be written: it fits the base, and has the scale that is stated, if one is.

    With `verbatim` the rows of wq and wk of an adapter made from PEFT are taken as llama.cpp of 2023 took them. Raises
    `UsageError` if it does not fit, or `verbatim` means nothing for it.
    """
    fit(adapter, base)
    if verbatim and not adapter.is_reordered:
        raise UsageError(
            f"{adapter.path}: there is nothing that llama.cpp of 2023 took otherwise than it was trained",
            "Leave --verbatim out: it is for adapters that were made from PEFT and have pairs of wq or wk.",
        )
    return replace(adapter, scale=adapter.scale if scale is None else scale, hf_rows=adapter.hf_rows and not verbatim)


def norms_of(adapter: Adapter, target: Target, *, patched_base: bool, ignore: bool) -> Norms:
    """Return where the norms of the adapter go.

    They are merged into the output, saved in it, added to a base that is written too, or ignored; "none" if there are
    none. Raises `UsageError` if they would be lost and that is not stated, or if an option means nothing.
    """
    why = "the output is the whole model" if target in MERGED else "they are to be ignored" if ignore else ""
    why = why if adapter.norms else "there are none"
    if patched_base and why:
        raise UsageError(f"{adapter.path}: a base with the norms of the adapter cannot be written, because {why}")
    if ignore and target in MERGED:
        raise UsageError(f"{adapter.path}: norms are not ignored when an adapter is merged")
    if not adapter.norms:
        return "none"
    if target in MERGED:
        return "merged"
    if patched_base or ignore:
        return "base" if patched_base else "ignored"
    if target == "peft":
        return "saved"
    error = UsageError(
        f"{adapter.path}: the adapter has trained norms, which llama.cpp ignores without a word: {NORMS_COST}",
        'Write a base with them too (patched_base="NEW.gguf"), or leave them out (norms="ignore").',
    )
    error.shell_hint = "Write a base with them too (--patched-base NEW.gguf), or leave them out (--norms ignore)."
    raise error


def choice_notes(adapter: Adapter, base: Base, target: Target, norms: Norms) -> Iterator[Fact]:
    """Yield what has been chosen and what it costs; `adapter` is as it will be written."""
    if adapter.r and adapter.alpha is not None and adapter.scale != adapter.alpha / adapter.r:
        yield Fact("scale", f"{adapter.scale:g}", f"stated; the file says alpha {adapter.alpha} / r {adapter.r}")
    elif adapter.writer == FINETUNE and adapter.alpha != adapter.r:
        yield Fact("scale", f"{adapter.scale:g}", "as llama.cpp applied it; finetune had trained with 1")
    if norms == "ignored":
        yield Fact("norms", "left out", NORMS_COST)
    if norms == "base":
        yield Fact("norms", "added to the base", "the adapter goes with that base, at a scale of 1")
    if MERGED.get(target):
        for kind in dict.fromkeys(tensor.type for path, tensor in base.tensors.items() if path in adapter.pairs):
            if kind != "F32":
                cost = COSTS.get(kind, "what it costs was not measured")
                yield Fact(f"rounded to {kind} again", cost, "an adapter leaves the base as it is")


def merged(
    adapter: Adapter, base: Base, *, type: str | None = None, hf_rows: bool = False, every: bool = False
) -> dict[str, TensorEntry]:
    """Return the tensors of the base that have a pair, with it added, by path in the base's order.

    They are computed in float64, a few rows at a time, and rounded to `type`, or to the type they have in the base.
    With `hf_rows` the rows of wq and wk are in Hugging Face's order; with `every` the tensors without a pair are
    returned too. The adapter must fit the base. Raises `UsageError` if a tensor cannot be read, or gguf cannot write
    its type, as Q4_K; before anything is read.
    """
    chosen = {path: tensor for path, tensor in base.tensors.items() if every or path in adapter.pairs}
    for tensor in chosen.values():
        check_types(base, tensor, type or tensor.type)
    return {path: _merged(adapter, base, path, type or tensor.type, hf_rows=hf_rows) for path, tensor in chosen.items()}


def check_types(base: Base, tensor: Tensor, type: str) -> None:
    """Check that a tensor can be read, and written as `type`. Raises `UsageError`."""
    import numpy as np

    name = f"{base.path}: {tensor.name} is {tensor.type}"
    if not tensor.is_known:
        raise UsageError(
            f"{name} in the blocks of an older version, which cannot be read",
            "Quantize the model again from the file with F16 or F32 weights that this one was made from.",
        )
    if not tensor.is_readable:
        raise UsageError(f"{name} of a kind that cannot be read", "Pass a model in another type.")
    try:
        _encoded(np.zeros((1, TYPES[type].block_size)), type)
    except (NotImplementedError, KeyError) as error:  # a KeyError for a type that the installed gguf does not know
        raise UsageError(
            f"{base.path}: {tensor.name} is {type}, which cannot be written, so the adapter cannot be merged into this "
            "model",
            "Make an adapter for it instead (--to adapter), which goes with a model of any type.",
        ) from error


def _merged(adapter: Adapter, base: Base, path: str, type: str, *, hf_rows: bool) -> TensorEntry:
    tensor, pair = base.tensors[path], adapter.pairs.get(path)
    n_head = base.heads.of(path) if hf_rows else None
    n_in, n_rows = (*tensor.shape, 1)[:2]

    def chunks() -> Iterator[memoryview]:
        import numpy as np

        a, b = adapter.factors(path, base.heads) if pair else (None, None)
        head_size = n_rows // n_head if n_head else 1
        step = max(1, CHUNK // (8 * n_in * head_size)) * head_size  # whole heads, whose rows change places
        for start in range(0, n_rows, step):
            values = tensor.values(start * n_in, min(start + step, n_rows) * n_in)
            rows: npt.NDArray[np.floating] = np.concatenate([*values]).reshape(-1, n_in)
            if a is not None and b is not None:
                rows = product(a, b[start : start + step], adapter.scale) + rows
            yield _encoded(rows[order_of_halves(len(rows), len(rows) // head_size)] if n_head else rows, type)

    sources = (*((pair.a.source,) if pair else ()), tensor.source)
    return TensorEntry(str(names.tensor_name(path)), tensor.shape, Computed(chunks, sources), type)


def _encoded(rows: npt.NDArray[np.floating], type: str) -> memoryview:
    """Return the little-endian data of rows as `type`.

    Raises `NotImplementedError` or `KeyError` if gguf does not know the type.
    """
    if type in ELEMENT_SIZES:
        return encode(rows, type)
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    with np.errstate(all="ignore"):  # what is out of range becomes infinite
        blocks: npt.NDArray[np.uint8] = quantize(rows.astype(np.float32), GGMLQuantizationType[type])
    return blocks.data.cast("B")
