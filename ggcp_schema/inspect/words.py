"""Codes, the words of JSON that never change, and the English that the command line and the browser show for them.

Codes of texts that depend on numbers too (the rules of `Unsound`, the orders, the losses) have them beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["equal", "different", "only-a", "only-b"]
Healthy = Literal["healthy", "not-finite", "unsound", "not-measured"]
NffSource = Literal["shape", "n-mult", "stored"]
Flag = Literal[
    "nan", "inf", "huge", "all-zero", "constant", "negative-loss", "negative-v", "m-without-v", "v-too-small"
]
VERDICTS: Mapping[Verdict, str] = {
    "equal": "equal",
    "different": "different",
    "only-a": "only in A",
    "only-b": "only in B",
}
PART = "part of the optimizer's vectors", "parts of the optimizer's vectors"
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
    "unsound": "unsound",
    "not-measured": "nothing was measured",
}
UNTRAINED = "not trained since the optimizer started"
"""What v = 0 says: the weights may be those of an earlier training, and only the optimizer's state new."""
N_FF_SOURCES: Mapping[NffSource, str] = {
    "shape": "from the shape of w1",
    "n-mult": "computed from n_embd and n_mult: the file has no w1",
    "stored": "stored in the file",
}
VERDICT_TEXTS: Mapping[Any, str] = {
    **VERDICTS,
    "valid": "every rule holds",
    "invalid": "a rule is broken",
    "damaged": "something in the file cannot be read",
    "unreadable": "the file cannot be read",
    "unknown": "of a format, a version or a type that this program does not know",
    **HEALTH,
    "unsound": "well-formed, and yet not what its program wrote",
}
CODES: Mapping[str, Mapping[Any, str]] = {"flags": FLAGS, "n_ff_source": N_FF_SOURCES, "verdict": VERDICT_TEXTS}
"""What codes mean, by the key under which JSON has them, if it has that beside them. docs/JSON.md lists all codes."""
WITH_TEXT: Mapping[str, Any] = {"flags": list[str], "n_ff_source": str | None, "verdict": str}
"""The keys of codes that JSON has the text of beside them, as `verdict_text`, and the types of that."""
