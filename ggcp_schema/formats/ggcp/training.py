"""The state of a training in a ggcp checkpoint."""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any

from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.keys import COUNTS, OPTIMIZER, STATE
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.names import n_tensors
from ggcp_schema.llama.scale import BETA2
from ggcp_schema.llama.training import Training, modification_date
from ggcp_schema.schema.inference import ADAM, n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint


def training_of_checkpoint(ckpt: Checkpoint) -> Training:
    """Return the state of the training. Raises the damage of a damaged file."""
    if ckpt.damage is not None:
        raise ckpt.damage.again()
    optimizer = ckpt.optimizer
    adam = optimizer.params.adam if optimizer.params and optimizer.type == ADAM else None
    return Training(
        model=_model_of(ckpt),
        state={name: tensor for name, tensor in ckpt.state_tensors.items() if not tensor.is_null},
        optimizer=optimizer.type,
        train_its=ckpt.train_its,
        train_samples=ckpt.train_samples,
        train_tokens=ckpt.train_tokens,
        iteration=optimizer.iter,
        past=optimizer.past,
        n_iter=adam.n_iter if adam else None,
        has_usual_beta2=adam is not None and isclose(adam.beta2, BETA2, rel_tol=1e-6),
        n_threads=optimizer.params.n_threads if optimizer.params else None,
        stated=_stated(ckpt, optimizer.type),
    )


def training_of_model(ckpt: Checkpoint) -> Training:
    """Return a training without an optimizer's state. Raises the damage if the model is not whole."""
    return Training(
        model=ckpt.model(),
        state={},
        optimizer=ADAM,
        train_its=ckpt.get("train_its") or 0,
        train_samples=ckpt.get("train_samples") or 0,
        train_tokens=ckpt.get("train_tokens") or 0,
        iteration=0,
        past=ckpt.get("optimizer.past") or 0,
        stated=_stated(ckpt, ADAM),
    )


def _stated(ckpt: Checkpoint, optimizer: str) -> dict[str, Any]:
    """Return the values of the fields that a GGUF file has keys for; damage may hide some."""
    values = {path: ckpt.get(path) for _, _, path in (*COUNTS, *OPTIMIZER, *STATE[optimizer])}
    return {path: value for path, value in values.items() if value is not None}


def evidence_of(ckpt: Checkpoint) -> Evidence:
    """Return what a ggcp file shows of its writer. Damage may hide some of it."""
    hparams = ckpt.get("hparams") or {}
    name = ckpt.get("tok_embeddings.name")
    n_embd, n_mult = hparams.get("n_embd"), hparams.get("n_mult")
    formula = None if n_embd is None or n_mult is None else n_ff_by_formula(n_embd, n_mult)
    losses = (ckpt.get("optimizer.state.fx_best"), ckpt.get("optimizer.state.fx_prev"))
    return Evidence(
        layout=ckpt.get("optimizer.layout"),
        first_tensor=None if name is None else name.decode("utf-8", "backslashreplace"),
        n_mult=n_mult,
        n_ff=ckpt.n_ff,
        n_ff_by_formula=formula,
        losses_differ=None if None in losses else losses[0] != losses[1],
        modified=modification_date(ckpt.source),
        damaged=ckpt.damage is not None,
    )


def model_of_checkpoint(ckpt: Checkpoint) -> Model:
    """Return the model. A damaged file is accepted if the model is whole. Otherwise raise its damage."""
    ckpt.check_whole(len(ckpt.model_tensors), n_tensors(ckpt.hparams.n_layer))
    return _model_of(ckpt).checked()


def _model_of(ckpt: Checkpoint) -> Model:
    hparams = ckpt.hparams
    return Model(
        path=ckpt.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=ckpt.n_ff or 0,
        n_rot=hparams.n_rot,
        tensors=ckpt.model_tensors,
        evidence=evidence_of(ckpt),
        context=context_of(ckpt.train_samples, ckpt.train_tokens),
    )
