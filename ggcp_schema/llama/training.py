"""A training state, whatever the format of its file: hyper-parameters, counts, weights, the optimizer's vectors.

`study` decides what the file does not say: who wrote it and what follows from that, the order of the parameters in the
flat vectors, and the scale of the gradients.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.llama import names
from ggcp_schema.llama.context import Context, context_of
from ggcp_schema.llama.eras import EraConclusion, Evidence, Gradient, conclude
from ggcp_schema.llama.order import OrderDecision, decide_order, stated_order
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, FLAT_FIELDS, ORDERS, RESUME_ORDER, Order
from ggcp_schema.llama.rotation import FREQ_BASE
from ggcp_schema.llama.scale import Counts, ScaleDecision, decide_scale, gradient_ratio, is_long, mean_square_length
from ggcp_schema.schema import CHECKPOINT, LAYER
from ggcp_schema.schema.inference import ADAM, LBFGS, n_ff_by_formula
from ggcp_schema.schema.tensor import declared_shape

BATCHES = range(1, 1 << 31)  # a C int


@dataclass(frozen=True)
class Training:
    """A training state, with the values that mean the same in every format.

    Attributes:
        n_rot: the R of RoPE's frequencies, `freq_base ** (-2 * i / R)`.
        freq_base: their base.
        model: the model's tensors by ggcp path (`layers[0].wq`), in file order.
        state: the optimizer's tensors by field (`m`), in file order.
        optimizer: adam or lbfgs.
        iteration: the optimizer's count of iterations.
        past: the number of past losses that the optimizer keeps.
        n_iter: iterations per batch, `adam.n_iter`; None if not stored.
        rms_eps: the epsilon, if the file stores it.
        context_length: in tokens, if the file stores it.
        evidence: what the file shows of its writer, except the scale of the gradients.
        orders: the orders that a program can have written into a file of this kind.
        begin: the id of the token that begins every sample, if the file states it.
        n_threads: of the program that wrote the losses, if the file stores it.
        divided: what `convert` divided m by, and v by its square; None if it did not.
        reordered: True if `convert` wrote the flat vectors in order C.
    """

    path: str
    source: Source
    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_ff: int
    n_rot: int
    freq_base: float
    model: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    optimizer: str
    train_its: int
    train_samples: int
    train_tokens: int
    iteration: int
    past: int
    n_iter: int | None
    rms_eps: float | None
    context_length: int | None
    evidence: Evidence
    orders: tuple[Order, ...] = CHECKPOINT_ORDERS
    begin: int | None = None
    n_threads: int | None = None
    divided: int | None = None
    reordered: bool = False

    @cached_property
    def n_params(self) -> int:
        """The number of parameters of the model."""
        return sum(tensor.n_elements for tensor in self.model.values())

    @property
    def context(self) -> Context:
        """The tokens of a sample, as stored or as the counts tell."""
        return context_of(self.train_samples, self.train_tokens, self.context_length)

    @cached_property
    def vectors(self) -> Mapping[str, Tensor]:
        """The flat vectors of the state: without pf, lmal and lmys."""
        return {name: tensor for name, tensor in self.state.items() if name in FLAT_FIELDS}


class Study(NamedTuple):
    """What follows from a training state: its era, the order of its flat vectors, the scale of its gradients.

    `contradictions` say how the file contradicts what the user states.
    """

    era: EraConclusion
    order: OrderDecision
    scale: ScaleDecision
    contradictions: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the conclusions for JSON."""
        return {"era": self.era.as_dict(), "order": self.order.as_dict(), "scale": self.scale.as_dict()}


def study(training: Training, *, order: str | None = None, n_batch: int | None = None) -> Study:
    """Decide what the file does not say. `order` and `n_batch` are what the user knows: they replace the decision.

    Reads as little of the optimizer's vectors as the decision needs. Raises `UsageError` for an impossible order or
    batch, `FileError` if the file cannot be read.
    """
    if n_batch is not None and n_batch not in BATCHES:
        raise UsageError(f"a batch of {n_batch} samples is impossible", "State the samples of a batch, 1 or more.")
    decided = order_of(training)
    decision, contradictions = decided, []
    if order is not None:
        _check_lengths(training)
        decision = stated_order(order)
        if decision.order not in training.orders:
            contradictions.append(
                f"order {order} was stated, which no program is known to have written into such a file"
            )
        if decided.is_certain and decided.order != decision.order:
            contradictions.append(f"order {order} was stated, but the bytes prove {decided.order}: {decided.reason}")
    certain = decision.order if decision.is_certain else None
    ratio = None
    if certain is not None and "v" in training.vectors:
        ratio = gradient_ratio(training.model, training.vectors["v"], certain, training.iteration)
    proven = decided.order if decided.is_certain else certain
    evidence = training.evidence._replace(order=proven, long_gradient=None if training.divided else is_long(ratio))
    era, square_length = conclude(evidence), None
    if "v" in training.vectors and "clipped sum" in {writer.gradient for writer in era.writers}:
        square_length = mean_square_length(training.vectors["v"], training.iteration)
        era = conclude(evidence._replace(square_length=square_length))
    scale = _scale(training, era, n_batch, ratio, square_length)
    if scale.contradiction:
        contradictions.append(scale.contradiction)
    return Study(era, decision, scale, tuple(contradictions))


def order_of(training: Training) -> OrderDecision:
    """Decide in which order the flat vectors are: by the bytes, or else as `convert` recorded it."""
    decided = decide_order(training.model, training.vectors, training.orders, training.begin)
    if training.reordered and not decided.is_certain:
        return decided._replace(order=RESUME_ORDER, certainty="stated", reason="ggcp-schema recorded it")
    return decided


def _scale(
    training: Training, era: EraConclusion, n_batch: int | None, ratio: float | None, square_length: float | None
) -> ScaleDecision:
    n_ctx = training.context.tokens
    if training.divided or training.optimizer != ADAM:
        reason = "only Adam's moments have a scale"
        if training.divided:
            reason = f"ggcp-schema has divided m by {training.divided:,}, v by its square"
        stated = "" if n_batch is None else f"a batch was stated, but m and v are not divided: {reason}"
        gradient: Gradient | None = "mean" if training.divided else None
        return ScaleDecision(gradient, reason, n_ctx=n_ctx, ratio=ratio, contradiction=stated)
    counts = Counts(training.train_its, training.train_samples, n_ctx, training.n_iter, n_batch)
    return decide_scale(ratio, era.gradient, counts, square_length)


def _check_lengths(training: Training) -> None:
    """Check that the flat vectors have a value for each parameter of the model. Raises `UsageError`."""
    for name, vector in training.vectors.items():
        if vector.shape[0] != training.n_params:
            found = f"{name} holds {vector.shape[0]} values, but the model has {training.n_params} parameters"
            raise UsageError(f"{training.path}: {found}", "Do not state an order, to copy the values as they are.")


def training_of(file: File) -> Training:
    """Return the training state in a ggcp checkpoint, or in a GGUF checkpoint by this package or by a trainer.

    Raises `UsageError` if the file is no checkpoint of a whole model, `MalformedError` if it is damaged.
    """
    if file.damage is not None:
        raise file.damage
    read = READERS.get(file.format.name)
    if read is None:
        raise UsageError(f"{file.path} is a {file.format.title}, not a checkpoint", CHECKPOINT_NEEDED)
    return read(file)


CHECKPOINT_NEEDED = "Pass a checkpoint of train-text-from-scratch: a ggcp file, or a GGUF file made from one."


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


def modification_date(source: Source) -> datetime.date | None:
    """Return the day on which the file was last modified, in UTC; None for a year after 9999."""
    try:
        return datetime.datetime.fromtimestamp(source.modified, datetime.timezone.utc).date()
    except (OverflowError, ValueError, OSError):
        return None


def _of_checkpoint(ckpt: Checkpoint) -> Training:
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


def _of_gguf(gguf: GgufFile) -> Training:
    check_whole_model(gguf)
    optimizer = gguf.value(names.OPTIMIZER_TYPE)
    if gguf.value(names.TRAINING_TYPE) is None and optimizer is None:
        raise UsageError(f"{gguf.path} is a GGUF file without a training state", CHECKPOINT_NEEDED)
    if optimizer not in (ADAM, LBFGS):
        message = f"{gguf.path}: {names.OPTIMIZER_TYPE} is {_stated(optimizer)}, expected '{ADAM}' or '{LBFGS}'"
        raise UsageError(message, CHECKPOINT_NEEDED)
    model = model_tensors_of(gguf)
    state = {}
    for name, tensor in gguf.tensors.items():
        if name.startswith(f"optimizer.{optimizer}."):
            path = names.field_path(name)
            if path is not None:
                state[path.removeprefix(names.STATE)] = tensor
    n_embd, n_head = integer(gguf, names.EMBEDDING_LENGTH), integer(gguf, names.HEAD_COUNT)
    return Training(
        path=gguf.path,
        source=gguf.source,
        n_vocab=model["tok_embeddings"].shape[-1],
        n_embd=n_embd,
        n_head=n_head,
        n_layer=integer(gguf, names.BLOCK_COUNT),
        n_ff=integer(gguf, names.FEED_FORWARD_LENGTH),
        n_rot=integer(gguf, names.ROPE_DIMENSION_COUNT, n_embd // n_head if n_head else 0),
        freq_base=real(gguf, names.ROPE_FREQ_BASE, FREQ_BASE),
        model=model,
        state=state,
        optimizer=optimizer,
        train_its=integer(gguf, names.TRAINING_ITERATION_COUNT, 0),
        train_samples=integer(gguf, names.TRAINING_SAMPLE_COUNT, 0),
        train_tokens=integer(gguf, names.TRAINING_TOKEN_COUNT, 0),
        iteration=integer(gguf, names.OPTIMIZER_ITERATION_COUNT, 0),
        past=integer(gguf, names.OPTIMIZER_PAST_COUNT, 0),
        n_iter=None,
        rms_eps=stored_epsilon(gguf),
        context_length=stored_context_length(gguf),
        evidence=evidence_of_gguf(gguf),
        orders=orders_of_gguf(gguf),
        begin=_begin(gguf),
        n_threads=_count(gguf, names.CONVERTED_THREADS),
        divided=_count(gguf, names.CONVERTED_SCALE),
        reordered=names.CONVERTED_FROM_ORDER in gguf.keys,
    )


def orders_of_gguf(gguf: GgufFile) -> tuple[Order, ...]:
    """Return the orders that the flat vectors of a GGUF checkpoint can have.

    Order D is that of programs from November 2023 on, which wrote `training.file_version` 1.
    """
    return CHECKPOINT_ORDERS if gguf.value(names.TRAINING_FILE_VERSION) == 0 else tuple(ORDERS)


def _begin(gguf: GgufFile) -> int | None:
    """Return the id of `<s>`, if the file states a llama tokenizer: it begins every sample."""
    if gguf.value(names.TOKENIZER_MODEL) != "llama":
        return None
    return _count(gguf, names.TOKEN_ID.format("bos"))


def _count(gguf: GgufFile, key: str) -> int | None:
    value = gguf.value(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def evidence_of_gguf(gguf: GgufFile) -> Evidence:
    """Return what a GGUF checkpoint shows of its writer.

    A file that a trainer saved has a context length; one that was converted from a ggcp file has none.
    """
    version = _count(gguf, names.TRAINING_FILE_VERSION)
    recorded = gguf.value(names.CONVERTED_WRITERS)
    certain = gguf.value(names.CONVERTED_EPSILON_CERTAIN)
    return Evidence(
        file_version=version,
        converted=version == 0 and names.CONTEXT_LENGTH not in gguf.keys,
        recorded=tuple(recorded.split()) if isinstance(recorded, str) else None,
        rms_eps=stored_epsilon(gguf),
        rms_eps_certain=certain if isinstance(certain, bool) else None,
        modified=modification_date(gguf.source),
    )


def stored_epsilon(gguf: GgufFile) -> float | None:
    """Return the epsilon of the RMS norm that a GGUF file states; None if it states none."""
    value = gguf.value(names.RMS_EPSILON)
    return value if isinstance(value, float) else None


def stored_context_length(gguf: GgufFile) -> int | None:
    """Return the context length in tokens that a GGUF file states; None if it states none."""
    value = gguf.value(names.CONTEXT_LENGTH)
    return value if isinstance(value, int) and value > 0 else None


def integer(gguf: GgufFile, key: str, default: int | None = None) -> int:
    """Return the value of a key that is a count. Raises `UsageError` if it is missing or none."""
    value = gguf.value(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{gguf.path}: {key} is {_stated(value)}, expected a count", CHECKPOINT_NEEDED)
    return value


def real(gguf: GgufFile, key: str, default: float) -> float:
    """Return the value of a key that is a finite number. Raises `UsageError` if it is none."""
    value = gguf.value(key, default)
    if not isinstance(value, float) or not math.isfinite(value):
        raise UsageError(f"{gguf.path}: {key} is {_stated(value)}, expected a number", CHECKPOINT_NEEDED)
    return value


def _stated(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


def check_whole_model(gguf: GgufFile) -> None:
    """Check that a GGUF file is of the llama architecture, and not a checkpoint of finetune. Raises `UsageError`."""
    architecture = gguf.value(names.ARCHITECTURE)
    if architecture != "llama":
        message = f"{gguf.path}: {names.ARCHITECTURE} is {_stated(architecture)}, expected 'llama'"
        raise UsageError(message, CHECKPOINT_NEEDED)
    kind = gguf.value(names.TRAINING_TYPE, names.TRAIN_MODEL)
    if kind != names.TRAIN_MODEL:
        what = "a checkpoint of llama.cpp's finetune: it contains a LoRA adapter, not a whole model"
        raise UsageError(f"{gguf.path} ({names.TRAINING_TYPE} {_stated(kind)}) is {what}", CHECKPOINT_NEEDED)


def model_tensors_of(gguf: GgufFile) -> dict[str, Tensor]:
    """Return the tensors of a llama model by ggcp path. Raises `UsageError` if one is missing or of a wrong shape."""
    n_embd, n_layer, n_ff = (
        integer(gguf, key) for key in (names.EMBEDDING_LENGTH, names.BLOCK_COUNT, names.FEED_FORWARD_LENGTH)
    )
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    n_vocab = embeddings.shape[-1] if embeddings else 0
    tensors = {}
    # A false n_layer costs no more than a layer for each tensor: the first that is missing ends the search.
    for path, shape in model_shapes(n_vocab, n_embd, min(n_layer, len(gguf.tensors)), n_ff).items():
        name = str(names.tensor_name(path))
        tensor = gguf.tensors.get(name)
        if tensor is None or (tensor.type, tensor.shape) != ("F32", shape):
            found = f"{tensor.type} {list(tensor.shape)}" if tensor else "none"
            raise UsageError(
                f"{gguf.path}: tensor {name}: expected F32 {list(shape)}, found {found}",
                "Pass a checkpoint that contains a complete llama model.",
            )
        tensors[path] = tensor
    return tensors


def model_shapes(n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors in ggml order, by ggcp path in file order, as the schema declares them."""
    root = {"hparams": {"n_vocab": n_vocab, "n_embd": n_embd}, "n_ff": n_ff}
    shapes = {}
    for prefix, record in (("", CHECKPOINT), *((f"layers[{layer}].", LAYER) for layer in range(n_layer))):
        for name, field in record.fields:
            shape = declared_shape(field)
            if shape:
                shapes[f"{prefix}{name}"] = tuple(int(length({"_root": root})) for length in shape)
    return shapes


READERS: dict[str, Callable[[Any], Training]] = {"ggcp": _of_checkpoint, "gguf": _of_gguf}
