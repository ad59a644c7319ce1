"""A training state, whatever the format of its file: a model, counts, the optimizer's vectors.

`study` decides what the file does not say: who wrote it and what follows from that, the order of the parameters in the
flat vectors, and the scale of the gradients.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from functools import cache
from operator import index
from typing import Any, NamedTuple

from ggcp_schema.errors import UsageError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.order import OrderDecision, decide_order, stated_order
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, FLAT_FIELDS, RESUME_ORDER, Order
from ggcp_schema.llama.scale import (
    Counts,
    ScaleDecision,
    decide_scale,
    gradient_ratio,
    is_long,
    least_ratio,
    mean_square_length,
)
from ggcp_schema.llama.writers import Gradient
from ggcp_schema.schema.inference import ADAM, optimizer_text

BATCHES = range(1, 1 << 31)  # a C int


class Training(NamedTuple):
    """A model with the state of its training, in the values that mean the same in every format.

    Attributes:
        state: the optimizer's tensors by field (`m`), in file order.
        optimizer: adam or lbfgs.
        iteration: the optimizer's count of iterations.
        past: the number of past losses that the optimizer keeps.
        n_iter: iterations per batch, `adam.n_iter`; None if not stored.
        has_usual_beta2: True if the file states that Adam's beta2 was the default.
        orders: the orders that a program can have written into a file of this kind.
        begin: the id of the token that begins every sample, if the file states it.
        n_threads: of the program that wrote the losses, if the file stores it.
        divided: what `convert` divided m by, and v by its square; None if it did not.
        divided_exactly: True if that was known, no estimate.
        reordered: True if `convert` wrote the flat vectors in order C.
        stated: the values of fields of a ggcp file, by path, which a GGUF file has keys for.
        keys: the keys of a GGUF file, which a conversion keeps; None if the file has none.
    """

    model: Model
    state: Mapping[str, Tensor]
    optimizer: str
    train_its: int
    train_samples: int
    train_tokens: int
    iteration: int
    past: int
    n_iter: int | None = None
    has_usual_beta2: bool = False
    orders: tuple[Order, ...] = CHECKPOINT_ORDERS
    begin: int | None = None
    n_threads: int | None = None
    divided: int | None = None
    divided_exactly: bool = False
    reordered: bool = False
    stated: Mapping[str, Any] = {}
    keys: tuple[KeyValue, ...] | None = None

    def __repr__(self) -> str:
        return f"<Training {self.model.path}: {optimizer_text(self.optimizer)} at iteration {self.iteration:,}>"

    def value(self, path: str) -> Any:
        """Return the value of a field that a ggcp file of this training has; 0 where the training does not tell."""
        model = self.model
        if path in self.stated:
            return self.stated[path]
        if path == "optimizer.nx":
            return model.n_params  # which counts all tensors
        values = {
            "train_its": self.train_its,
            "train_samples": self.train_samples,
            "train_tokens": self.train_tokens,
            **{f"hparams.{name}": getattr(model, name) for name in ("n_vocab", "n_embd", "n_head", "n_layer")},
            "optimizer.past": self.past,
            "optimizer.iter": self.iteration,
            "optimizer.type": self.optimizer,
        }
        return values.get(path, 0)

    @property
    def vectors(self) -> Mapping[str, Tensor]:
        """The flat vectors of the state: without pf, lmal and lmys."""
        return {name: tensor for name, tensor in self.state.items() if name in FLAT_FIELDS}


@json_keys("era order scale")
class Study(NamedTuple):
    """What follows from a training state: its era, the order of its flat vectors, the scale of its gradients.

    `contradictions` say how the file contradicts what the user states.
    """

    era: EraConclusion
    order: OrderDecision
    scale: ScaleDecision
    contradictions: tuple[str, ...] = ()


def study(training: Training, *, order: str | None = None, n_batch: int | None = None) -> Study:
    """Decide what the file does not say. `order` and `n_batch` are what the user knows: they replace the decision.

    Reads as little of the optimizer's vectors as the decision needs. Raises `UsageError` for an impossible batch or
    order, and for one that the bytes exclude; `FileError` if the file cannot be read.
    """
    n_batch = None if n_batch is None else index(n_batch)
    if n_batch is not None and n_batch not in BATCHES:
        raise UsageError(f"a batch of {n_batch} samples is impossible", "State the samples of a batch, 1 or more.")
    decided = order_of(training)
    decision, contradictions = decided, []
    if order is not None:
        _check_lengths(training)
        decision = stated_order(order, decided, training.model.tensors, training.model.path, training.orders)
        if decision.order not in training.orders:
            contradictions.append(
                f"order {order} was stated, which no program is known to have written into such a file"
            )
    certain = decision.order if decision.is_certain else None
    ratio = least = None
    if certain is not None and "v" in training.vectors:
        ratio = gradient_ratio(training.model.tensors, training.vectors["v"], certain, training.iteration)
        if not training.has_usual_beta2:
            least = least_ratio(training.model.tensors, training.vectors, certain)
    proven = decided.order if decided.is_certain else certain
    evidence = training.model.evidence._replace(
        order=proven, long_gradient=not training.divided and is_long(ratio, least)
    )
    era, square_length = conclude(evidence), None
    if "v" in training.vectors and "clipped-sum" in {writer.gradient for writer in era.writers}:
        square_length = mean_square_length(training.vectors["v"], training.iteration, is_zero=decided.harmless)
        era = conclude(evidence._replace(square_length=square_length))
    scale = _scale(training, era, n_batch, ratio, least, square_length, is_zero=decided.harmless)
    if scale.contradiction:
        contradictions.append(scale.contradiction)
    return Study(era, decision, scale, tuple(contradictions))


def order_of(training: Training) -> OrderDecision:
    """Decide in which order the flat vectors are: by the bytes, or else as `convert` recorded it."""
    decided = decide_order(training.model.tensors, training.vectors, training.orders, training.begin)
    if training.reordered and not decided.is_certain:
        return decided._replace(order=RESUME_ORDER, certainty="stated", reason="ggcp-schema recorded it")
    return decided


def _scale(
    training: Training,
    era: EraConclusion,
    n_batch: int | None,
    ratio: float | None,
    least: float | None,
    square_length: float | None,
    *,
    is_zero: bool,
) -> ScaleDecision:
    n_ctx = training.model.context.tokens
    if training.divided or is_zero or training.optimizer != ADAM:
        reason = "all moments are zero, and have no scale" if is_zero else "only Adam's moments have a scale"
        if training.divided:
            reason = f"ggcp-schema has divided m by {training.divided:,}, v by its square"
        stated = "" if n_batch is None else f"a batch was stated, but m and v are not divided: {reason}"
        gradient: Gradient | None = "mean" if training.divided else None
        return ScaleDecision(gradient, reason, n_ctx=n_ctx, ratio=ratio, contradiction=stated)
    counts = Counts(training.train_its, training.train_samples, n_ctx, training.n_iter, n_batch)
    gradients = {writer.gradient for writer in era.writers}
    return decide_scale(ratio, gradients, counts, square_length, least)


def _check_lengths(training: Training) -> None:
    """Check that the flat vectors have a value for each parameter of the model. Raises `UsageError`."""
    for name, vector in training.vectors.items():
        if vector.shape[0] != training.model.n_params:
            found = f"{name} holds {vector.shape[0]} values, but the model has {training.model.n_params} parameters"
            raise UsageError(
                f"{training.model.path}: {found}", "Do not state an order, to copy the values as they are."
            )


def modification_date(source: Source) -> datetime.date | None:
    """Return the day on which the file was last modified, in UTC; None for a year after 9999."""
    try:
        return datetime.datetime.fromtimestamp(source.modified, datetime.timezone.utc).date()
    except (OverflowError, ValueError, OSError):
        return None


def whole_model(
    file: str,
    tensors: Mapping[str, Tensor],
    name_of: Callable[[str], str | None],
    n_vocab: int,
    n_embd: int,
    n_layer: int,
    n_ff: int,
    *,
    n_embd_kv: int | None = None,
    any_type: bool = False,
) -> dict[str, Tensor]:
    """Return the tensors of a llama model of these sizes by ggcp path; `name_of` gives the name of a path in the file.

    `n_embd_kv` is the number of rows of wk and wv, if it is another one than n_embd: queries are grouped. Raises
    `UsageError` if one is missing, of a wrong shape, or not F32, unless it may be of `any_type`.
    """
    found = {}
    # A false n_layer costs no more than a layer for each tensor: the first that is missing ends the search.
    for path, usual in model_shapes(n_vocab, n_embd, min(n_layer, len(tensors)), n_ff).items():
        name = str(name_of(path))
        tensor = tensors.get(name)
        is_shared = n_embd_kv is not None and path.endswith((".wk", ".wv"))
        shape = (n_embd, n_embd_kv) if is_shared else usual
        if tensor is None or tensor.shape != shape or not (any_type or tensor.type == "F32"):
            instead = f"{tensor.type} {list(tensor.shape)}" if tensor else "none"
            raise UsageError(
                f"{file}: tensor {name}: expected {'' if any_type else 'F32 '}{list(shape)}, found {instead}",
                "Pass a checkpoint that contains a complete llama model.",
            )
        found[path] = tensor
    return found


def model_shapes(n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors in ggml order, by ggcp path in file order, as the schema declares them."""
    from ggcp_schema.schema.checkpoint import CHECKPOINT  # a file without a model does not need it
    from ggcp_schema.schema.model import tensors_of

    scope = {"_root": {"hparams": {"n_vocab": n_vocab, "n_embd": n_embd}, "n_ff": n_ff}}
    shape_of = cache(lambda field: tuple(field.shape_in(scope)))  # each layer has the same fields
    return {path: shape_of(field) for path, field in tensors_of(CHECKPOINT, n_layer)}
