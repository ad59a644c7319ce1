"""English for codes: what the command line and the browser show where JSON and the code have a word that never changes.

Codes of texts that depend on numbers too (the rules of `Unsound`, the orders, the losses) have them beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff import Verdict
    from ggcp_schema.inspect.facts import NffSource, Summary
    from ggcp_schema.inspect.health import Verdict as Healthy
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
OPTIMIZERS: Mapping[str, str] = {"adam": "Adam", "lbfgs": "L-BFGS"}
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
VERDICT_TEXTS: Mapping[Any, str] = {
    **VERDICTS,
    "valid": "every rule holds",
    "invalid": "a rule is broken",
    "damaged": "the file cannot be read to its end",
    "unreadable": "the file cannot be read",
    "unknown": "the file has none of the formats",
    **HEALTH,
    "unsound": "well-formed, and yet not what its program wrote",
}
CODES: Mapping[str, Mapping[Any, str]] = {"flags": FLAGS, "n_ff_source": N_FF_SOURCES, "verdict": VERDICT_TEXTS}
"""What codes mean, by the key under which JSON has them, if it has that beside them. docs/JSON.md lists all codes."""
WITH_TEXT: Mapping[str, Any] = {"flags": list[str], "n_ff_source": str | None, "verdict": str}
"""The keys of codes that JSON has the text of beside them, as `verdict_text`, and the types of that."""


def optimizer_text(kind: str) -> str:
    """Return the name of an optimizer; a GGUF file may name another one."""
    return OPTIMIZERS.get(kind, kind)


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
