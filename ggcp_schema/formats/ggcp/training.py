"""The model in a ggcp checkpoint, and the state of its training."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import TYPE_CHECKING

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama import keys
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.names import n_tensors
from ggcp_schema.llama.scale import BETA2
from ggcp_schema.llama.training import Training
from ggcp_schema.schema.inference import ADAM

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint


def training_of_checkpoint(checkpoint: Checkpoint) -> Training:
    """Return the state of the training. Raises the damage of a damaged file."""
    if checkpoint.damage is not None:
        raise checkpoint.damage.again()
    optimizer, params = checkpoint.optimizer, checkpoint.optimizer.params
    adam = params.adam if params and optimizer.type == ADAM else None
    state = {name: tensor for name, tensor in checkpoint.state_tensors.items() if not tensor.is_null}
    return _training(checkpoint, _model(checkpoint), state, optimizer.type)._replace(
        iteration=optimizer.iter,
        n_iter=adam.n_iter if adam else None,
        has_usual_beta2=adam is not None and isclose(adam.beta2, BETA2, rel_tol=1e-6),
        n_threads=params.n_threads if params else None,
    )


def training_of_model(checkpoint: Checkpoint) -> Training:
    """Return a training without an optimizer's state. Raises the damage if the model is not whole."""
    return _training(checkpoint, model_of_checkpoint(checkpoint), {}, ADAM)


def _training(checkpoint: Checkpoint, model: Model, state: Mapping[str, Tensor], optimizer: str) -> Training:
    paths = (path for _, _, path in (*keys.COUNTS, *keys.OPTIMIZER, *keys.STATE[optimizer]))
    stated = {path: value for path in paths if (value := checkpoint.get(path)) is not None}  # damage may hide some
    return Training(
        model=model,
        state=state,
        optimizer=optimizer,
        train_its=checkpoint.get("train_its") or 0,
        train_samples=checkpoint.get("train_samples") or 0,
        train_tokens=checkpoint.get("train_tokens") or 0,
        iteration=0,
        past=checkpoint.get("optimizer.past") or 0,
        stated=stated,
    )


def model_of_checkpoint(checkpoint: Checkpoint) -> Model:
    """Return the model. Raises the damage if it is not whole, `UsageError` if llama.cpp cannot run it."""
    checkpoint.check_whole(len(checkpoint.model_tensors), n_tensors(checkpoint.hparams.n_layer))
    return _model(checkpoint).checked()


def _model(checkpoint: Checkpoint) -> Model:
    hparams = checkpoint.hparams
    return Model(
        path=checkpoint.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=checkpoint.n_ff or 0,
        n_rot=hparams.n_rot,
        tensors=checkpoint.model_tensors,
        evidence=checkpoint.evidence(),
        context=context_of(checkpoint.get("train_samples"), checkpoint.get("train_tokens")),
    )
