"""The state of a training in a ggcp checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggcp_schema.llama import names
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.rotation import FREQ_BASE
from ggcp_schema.llama.training import Training, modification_date
from ggcp_schema.schema.inference import ADAM, n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint


def training_of_checkpoint(ckpt: Checkpoint) -> Training:
    """Return the state of the training. Raises the damage of a damaged file."""
    if ckpt.damage is not None:
        raise ckpt.damage.again()
    hparams, optimizer = ckpt.hparams, ckpt.optimizer
    is_adam = optimizer.type == ADAM
    return Training(
        path=ckpt.path,
        source=ckpt.source,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=ckpt.n_ff or 0,
        n_rot=hparams.n_rot,
        freq_base=FREQ_BASE,
        model=ckpt.model_tensors,
        state={name: tensor for name, tensor in ckpt.state_tensors.items() if not tensor.is_null},
        optimizer=optimizer.type,
        train_its=ckpt.train_its,
        train_samples=ckpt.train_samples,
        train_tokens=ckpt.train_tokens,
        iteration=optimizer.iter,
        past=optimizer.past,
        n_iter=optimizer.params.adam.n_iter if optimizer.params and is_adam else None,
        rms_eps=None,
        context_length=None,
        evidence=evidence_of(ckpt),
        n_threads=optimizer.params.n_threads if optimizer.params else None,
    )


def evidence_of(ckpt: Checkpoint) -> Evidence:
    """Return what a ggcp file shows of its writer. Damage may hide some of it."""
    hparams = ckpt.get("hparams") or {}
    name = ckpt.get("tok_embeddings.name")
    formula = n_ff_by_formula(hparams["n_embd"], hparams["n_mult"]) if "n_mult" in hparams else None
    losses = (ckpt.get("optimizer.state.fx_best"), ckpt.get("optimizer.state.fx_prev"))
    return Evidence(
        layout=ckpt.get("optimizer.layout"),
        first_tensor=None if name is None else name.decode("utf-8", "backslashreplace"),
        n_mult=hparams.get("n_mult"),
        n_ff=ckpt.n_ff,
        n_ff_by_formula=formula,
        losses_differ=None if None in losses else losses[0] != losses[1],
        modified=modification_date(ckpt.source),
    )


def model_of_checkpoint(ckpt: Checkpoint) -> Model:
    """Return the model. A damaged file will do if the model is whole; otherwise its damage is raised."""
    hparams = ckpt.hparams
    ckpt.check_whole(len(ckpt.model_tensors), 3 + 9 * hparams.n_layer)
    return Model(
        path=ckpt.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=ckpt.n_ff or 0,
        n_rot=hparams.n_rot,
        tensors={str(names.tensor_name(path)): tensor for path, tensor in ckpt.model_tensors.items()},
        evidence=evidence_of(ckpt),
        context=context_of(ckpt.train_samples, ckpt.train_tokens),
    )
