"""What there is to say of an adapter: who wrote it, its pairs, ranks and scale."""

from __future__ import annotations

from collections.abc import Iterator

from ggcp_schema.constructs import counted
from ggcp_schema.llama.adapter import FINETUNE, SCRIPT, Adapter
from ggcp_schema.llama.facts import Fact


def reordered(adapter: Adapter) -> bool:
    """Return whether rows of the adapter are in Hugging Face's order, in which llama.cpp of 2023 did not take them."""
    return adapter.hf_rows and any(path.endswith((".wq", ".wk")) for path in adapter.pairs)


def adapter_facts(adapter: Adapter) -> Iterator[Fact]:
    """Yield the facts about an adapter, in words for a person."""
    why = {
        FINETUNE: f"F32 pairs for all tensors of {counted(adapter.n_layer, 'layer')}, the norms too",
        SCRIPT: "pairs of matrices alone; finetune always writes those of norms too",
        None: "neither all pairs, which finetune writes, nor matrices alone, as in an adapter made from PEFT",
    }
    yield Fact("written by", adapter.writer or "unknown", why[adapter.writer])
    yield Fact("pairs", f"{len(adapter.pairs)}: {len(adapter.matrices)} of matrices, {len(adapter.norms)} of norms")
    yield Fact("ranks", _ranks(adapter))
    stated = adapter.r is not None
    yield Fact("scale", f"{adapter.scale:g}", f"alpha {adapter.alpha} / r {adapter.r}" if stated else "of a checkpoint")
    if stated and adapter.writer == FINETUNE and adapter.alpha != adapter.r:
        yield Fact("trained with scale", "1", "finetune used alpha and r for nothing but the header of this file")
    if adapter.norms:
        yield Fact("norms", "trained", "llama.cpp ignores them in an adapter, so the base needs them")
    if reordered(adapter):
        yield Fact("rows of wq, wk", "as PEFT trained them", "llama.cpp of 2023 took them for rows in its own order")


def _ranks(adapter: Adapter) -> str:
    """Return `4; 1 for norm, attention_norm`: the most frequent rank, then the others."""
    if not adapter.pairs:
        return "none"
    by_ranks: dict[str, list[str]] = {}
    for name, ranks in adapter.ranks.items():
        by_ranks.setdefault(" and ".join(map(str, ranks)), []).append(name)
    usual, *others = sorted(by_ranks, key=lambda ranks: -len(by_ranks[ranks]))
    return "; ".join([usual, *(f"{ranks} for {', '.join(by_ranks[ranks])}" for ranks in others)])
