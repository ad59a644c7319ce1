"""English for codes: what the command line and the browser show where JSON and the code have a word that never changes.

Codes of texts that depend on numbers too (the rules of `Unsound`, the orders, the losses) have them beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ggcp_schema.llama.parameters import ORDERS

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff import Verdict
    from ggcp_schema.inspect.facts import NffSource, Summary
    from ggcp_schema.inspect.health import Verdict as Healthy
    from ggcp_schema.inspect.matching import Cause
    from ggcp_schema.inspect.stats import Flag
    from ggcp_schema.inspect.tensors import Listed

VERDICTS: Mapping[Verdict, str] = {
    "equal": "equal",
    "different": "different",
    "only-a": "only in A",
    "only-b": "only in B",
}
FLAGS: Mapping[Flag, str] = {
    "nan": "NaN",
    "inf": "Inf",
    "huge": "huge",
    "all-zero": "all zero",
    "constant": "constant",
    "negative-loss": "loss < 0",
    "negative-v": "v < 0",
    "m-without-v": "m without v",
    "v-too-small": "v too small for m",
}
HEALTH: Mapping[Healthy, str] = {
    "healthy": "healthy",
    "not-finite": "damaged weights or moments",
    "unsound": "damaged weights or moments",
    "not-measured": "nothing was measured",
}
N_FF_SOURCES: Mapping[NffSource, str] = {
    "shape": "by the shape of w1",
    "n-mult": "computed from n_embd and n_mult, because no w1 states it",
    "stored": "stored in the file",
}
CAUSES: Mapping[Cause, str] = {
    "hidden": "the damage of the other file hides it",
    "no-place": "a GGUF checkpoint has no place for it",
    "not-stored": "the other format does not store it",
    "of-training": "the other file is a model",
    "of-model": "no checkpoint has it",
    "one-file": "the other file has no such key",
    "rotation": "compared as n_rot instead",
}
SIDES = {"A": "the first file", "B": "the second file"}
OPTIMIZERS = {"adam": "Adam", "lbfgs": "L-BFGS"}
LOSSES = {
    "last-rows": "each thread's loss of its last row, summed over the threads",
    "mean": "the mean over a batch",
    "constant": "the same number for any model",
}
UNSOUND = "well-formed, and yet not what its program wrote"
CODES: Mapping[str, Mapping[Any, str]] = {
    "ahead": SIDES,
    "by_records": OPTIMIZERS,
    "by_size": OPTIMIZERS,
    "cause": CAUSES,
    "certainty": {
        "proven": "by the bytes",
        "likely": "not proven by them",
        "undecidable": "they do not tell",
        "stated": "by the user",
    },
    "effect": {
        "fits": "some programs fit the evidence, and the others are excluded",
        "hint": "the evidence is only a hint",
        "ignored": "no program that is left fits the evidence",
        "unknown": "the evidence leaves no known program",
    },
    "flags": FLAGS,
    "gradient": {
        "sum": "summed over the tokens of a batch",
        "clipped-sum": "summed, and clipped to a length of 1",
        "mean": "averaged over the tokens of a batch",
    },
    "kind": {
        "resume": "a GGUF checkpoint",
        "model": "a GGUF model",
        "hf": "a model folder",
        "adapter": "a LoRA adapter in GGUF",
        "peft": "a folder with a LoRA adapter",
        "key": "what differs is a key",
        "tensor": "what differs is a tensor's presence, type or shape",
        "data": "what differs is the data of a tensor",
        "file": "what differs is a file of a folder",
    },
    "layout": {
        "v0": "version 0",
        "v1": "version 1",
        "v1-raw-params": "version 1 with the parameters of version 0",
    },
    "loss": LOSSES,
    "losses": LOSSES,
    "meaning": LOSSES,
    "meanings": LOSSES,
    "n_ff_source": N_FF_SOURCES,
    "order": ORDERS,
    "role": {"model": "the model", "adam": "the state of Adam", "lbfgs": "the state of L-BFGS"},
    "side": SIDES,
    "state": {"whole": "well-formed", "damaged": "not well-formed", "unsound": UNSOUND},
    "type": OPTIMIZERS,
    "verdict": {
        **VERDICTS,
        "valid": "every rule holds",
        "invalid": "a rule is broken",
        "damaged": "the file cannot be read to its end",
        "unreadable": "the file cannot be read",
        "unknown": "the file has none of the formats",
        **HEALTH,
        "unsound": UNSOUND,
    },
}
"""What the codes mean, by the key under which JSON has them."""
WITH_TEXT: Mapping[str, Any] = {"flags": list[str], "n_ff_source": str | None, "verdict": str}
"""The keys of codes that JSON has the text of beside them, as `verdict_text`, and the types of that."""


def role_text(item: Listed) -> str:
    """Return what a tensor is: `model`, or `adam first moments (m)`, with the schema's note on the field."""
    if item.role == "model":
        return "model"
    from ggcp_schema.schema.optimizer import ADAM_STATE_V0, LBFGS_STATE

    state = ADAM_STATE_V0 if item.role == "adam" else LBFGS_STATE  # v0 has all fields that other layouts have
    note = next(field.docs for field in state.subcons if field.name == item.moment)
    order = f", order {item.order}" if item.order else ""
    return f"{item.role} {note} ({item.moment}){'' if item.gguf_name else ', not converted'}{order}"


def n_ff_text(summary: Summary) -> str:
    """Return n_ff, where it is from, and whether n_mult gives the same."""
    n_ff, other = summary.n_ff, summary.n_ff_by_n_mult
    text = f"{n_ff} ({N_FF_SOURCES[summary.n_ff_source or 'stored']}"
    if other is None or summary.n_ff_source != "shape":
        return f"{text})"
    n_mult = (summary.hparams or {}).get("n_mult")
    return f"{text}, {'as n_mult gives' if other == n_ff else f'where n_mult {n_mult} would give {other}'})"
