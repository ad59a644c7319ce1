"""What a ggcp checkpoint states of itself, for a summary. Damage may hide some of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ggcp_schema.formats.file import File
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import stated_of
from ggcp_schema.schema.inference import n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint


def facts_of(ckpt: Checkpoint) -> dict[str, Any]:
    """Return values for the fields of a summary, by their names."""
    hparams = ckpt.get("hparams") or {}
    n_embd, n_mult = hparams.get("n_embd"), hparams.get("n_mult")
    return {
        **stated_of(partial(File.get, ckpt), ckpt.state_tensors.get("pf")),
        "version": ckpt.get("version"),
        "layout": ckpt.get("optimizer.layout"),
        "hparams": ckpt.hparams_stated(),
        "n_ff": ckpt.n_ff,
        "n_ff_source": None if ckpt.n_ff is None else "shape" if "layers[0].w1" in ckpt.tensors else "n-mult",
        "n_ff_by_n_mult": None if n_embd is None or n_mult is None else n_ff_by_formula(n_embd, n_mult),
        "n_params": ckpt.n_params if "optimizer.version" in ckpt else None,
        "bytes": _uses(ckpt),
    }


def _uses(ckpt: Checkpoint) -> dict[str, int] | None:
    kind = ckpt.get("optimizer.type")
    state = {tensor.path: tensor.nbytes for tensor in ckpt.state_tensors.values()}
    needed = sum(nbytes for path, nbytes in state.items() if names.tensor_name(path, kind))
    return ckpt.uses(ckpt.model_tensors.nbytes, needed, sum(state.values()) - needed + ckpt.tensors.padding)
