"""What a ggcp checkpoint states of itself, for a summary. Damage may hide some of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.llama import names
from ggcp_schema.llama.keys import stated_of
from ggcp_schema.schema.inference import n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint


def facts_of(ckpt: Checkpoint) -> dict[str, Any]:
    """Return values for the fields of a summary, by their names."""
    hparams = ckpt.get("hparams") or {}
    return {
        **stated_of(ckpt.get, ckpt.state_tensors.get("pf")),
        "version": ckpt.get("version"),
        "layout": ckpt.get("optimizer.layout"),
        "hparams": {name: value for name, value in hparams.items() if not name.startswith("_") and value is not None}
        or None,
        "n_ff": ckpt.n_ff,
        "n_ff_source": _n_ff_source(ckpt),
        "n_params": ckpt.n_params if "optimizer.version" in ckpt else None,
        "bytes": _byte_budget(ckpt) if ckpt.damage is None else None,
    }


def _n_ff_source(ckpt: Checkpoint) -> str | None:
    """Describe where n_ff comes from and whether it matches the n_mult formula."""
    if ckpt.n_ff is None:
        return None
    if "layers[0].w1" not in ckpt.tensors:
        return "computed from n_embd and n_mult, because no w1 states it"
    n_embd, n_mult = ckpt.get("hparams.n_embd"), ckpt.get("hparams.n_mult")
    if n_mult is None:
        return "by the shape of w1"
    formula = n_ff_by_formula(n_embd, n_mult)
    agrees = "as n_mult gives" if formula == ckpt.n_ff else f"where n_mult {n_mult} would give {formula}"
    return f"by the shape of w1, {agrees}"


def _byte_budget(ckpt: Checkpoint) -> dict[str, int]:
    """Return the file's bytes by use; the four numbers sum to the file's size."""
    kind = ckpt.get("optimizer.type")
    state = {tensor.path: tensor.nbytes for tensor in ckpt.state_tensors.values()}
    needed = sum(nbytes for path, nbytes in state.items() if names.tensor_name(path, kind))
    model, waste = ckpt.model_tensors.nbytes, sum(state.values()) - needed + ckpt.tensors.padding
    return {"model": model, "optimizer": needed, "waste": waste, "headers": ckpt.size - model - needed - waste}
