"""What is chosen when an adapter is written: its scale, the order of its rows, and where its norms go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from ggcp_schema.errors import UsageError
from ggcp_schema.llama.adapter import FINETUNE, Adapter, Base, fit
from ggcp_schema.llama.facts import Fact

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
