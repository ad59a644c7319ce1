"""The facts of a file, as data: what it is, how far the training has come, what the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ggcp_schema.errors import MalformedError, UnfitError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.formats.ggcp.checkpoint import is_optimizer
from ggcp_schema.inspect.damage import Condition
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama import names
from ggcp_schema.llama.context import Context, context_of
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.losses import Losses, explain_losses
from ggcp_schema.llama.order import OrderDecision, floats
from ggcp_schema.llama.rotation import FREQ_BASE, n_rot_of
from ggcp_schema.llama.scale import ScaleDecision
from ggcp_schema.llama.training import (
    Study,
    Training,
    evidence_of,
    evidence_of_gguf,
    study,
    training_of,
)
from ggcp_schema.mapping.resume import KEYS, verbatim_recipe
from ggcp_schema.schema.inference import Inference, n_ff_by_formula

Line = tuple[str, str]

MAX_PAST = 1000  # past losses that are read; the trainers' default was 0
KINDS = {
    "ggcp": "ggcp training checkpoint",
    "gguf-resume": "GGUF training checkpoint, to resume from",
    "gguf-finetune": "GGUF training checkpoint of llama.cpp's finetune: the state of a LoRA adapter, without a model",
    "gguf-model": "GGUF model, to run",
    "gguf-vocabulary": "GGUF vocabulary, without a model",
    "gguf": "GGUF file",
    "ggml-model": "model of 2023",
    "ggml-vocabulary": "vocabulary of 2023, without a model",
}
SHORT_KINDS = {
    "ggcp": "checkpoint",
    "gguf": "GGUF file",
    "gguf-resume": "GGUF checkpoint",
    "gguf-finetune": "LoRA checkpoint",
    "gguf-model": "GGUF model",
    "gguf-vocabulary": "GGUF vocabulary",
}


class OptimizerSummary(NamedTuple):
    """The optimizer's counts; None for what the file does not store. `inference` tells how the type of v1 was found."""

    type: str | None
    inference: Inference | None = None
    iter: int | None = None
    just_initialized: bool | None = None
    n_params: int | None = None
    past: int | None = None
    lbfgs_m: int | None = None
    n_no_improvement: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON. `confirmed` is null if the type is stored."""
        inference = self.inference
        return {
            "type": self.type,
            "inferred": inference is not None,
            "by_size": inference and inference.by_size,
            "by_records": inference and inference.by_records,
            "confirmed": inference and inference.confirmed,
            "iter": self.iter,
            "just_initialized": self.just_initialized,
            "n_params": self.n_params,
            "past": self.past,
            "lbfgs_m": self.lbfgs_m,
            "n_no_improvement": self.n_no_improvement,
        }


class Summary(NamedTuple):
    """What `info` says about a file. None for what the file does not say, or what damage hides.

    Attributes:
        file, size: its path, and its size in bytes.
        format: the name of its format: ggcp, gguf, ggjt, ggmf or ggml.
        kind: what it is; the keys of `KINDS`.
        version: of the format.
        layout: of the optimizer block of a ggcp file.
        train_its, train_samples, train_tokens: the counts of the training.
        hparams: the hyper-parameters by name, with n_ctx if the file stores it.
        n_ff, n_ff_source: the width of the feed-forward layers, and where it is from, in words.
        n_params: the parameters of the model.
        tensor_types: the number of tensors by element type.
        n_tokens: the tokens of the vocabulary that the file contains.
        bytes: the bytes of the file by use: model, optimizer, waste, headers. Waste is padding, and the tensors of v0
            that no reader needs.
        era, order, scale, losses: see `ggcp_schema.mapping`; None if the file is no training checkpoint.
        rms_eps: the epsilon of the RMS norm: stored, or that of the era.
        condition: of a damaged file.
        next: commands that make something of the file.
    """

    file: str
    size: int
    format: str
    kind: str
    version: int | None = None
    layout: str | None = None
    train_its: int | None = None
    train_samples: int | None = None
    train_tokens: int | None = None
    hparams: Mapping[str, int | None] | None = None
    n_ff: int | None = None
    n_ff_source: str | None = None
    n_params: int | None = None
    tensor_types: Mapping[str, int] | None = None
    n_tokens: int | None = None
    bytes: Mapping[str, int] | None = None
    optimizer: OptimizerSummary | None = None
    losses: Losses | None = None
    era: EraConclusion | None = None
    order: OrderDecision | None = None
    scale: ScaleDecision | None = None
    rms_eps: float | None = None
    findings: tuple[Finding, ...] = ()
    damage: MalformedError | None = None
    condition: Condition | None = None
    next: tuple[str, ...] = ()

    @property
    def context(self) -> Context:
        """The tokens of a sample of the training, and what is known of them in words."""
        return context_of(self.train_samples, self.train_tokens, (self.hparams or {}).get("n_ctx"))

    @property
    def loss(self) -> float | None:
        """The latest loss that is stored, of one token: divided by the number of threads if it is a sum over them."""
        if self.losses is None:
            return None
        latest = self.losses.best if self.losses.previous is None else self.losses.previous
        return latest / (self.losses.divisor or 1)

    @property
    def verdict(self) -> str:
        """The condition and the kind in a few words."""
        if self.condition is not None:
            return self.condition.verdict
        noted = f", {count_text(len(self.findings), 'note')}" if self.findings else ""
        return f"{SHORT_KINDS.get(self.kind, self.format + ' ' + self.kind.partition('-')[2])}{noted}"

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for JSON, under stable keys; null for what is not known."""
        losses = None if self.losses is None else self.losses.as_dict()
        return {
            "file": self.file,
            "format": self.format,
            "kind": self.kind,
            "size": self.size,
            "version": self.version,
            "layout": self.layout,
            "writer": None if self.era is None else self.era.writer_text,
            "era": self.era and self.era.as_dict(),
            "rms_eps": self.rms_eps,
            "train_its": self.train_its,
            "train_samples": self.train_samples,
            "train_tokens": self.train_tokens,
            "n_ctx": self.context.tokens,
            "context": self.context.text or None,
            "loss": losses or {"best": None, "previous": None},
            "optimizer": self.optimizer and self.optimizer.as_dict(),
            "order": self.order and self.order.as_dict(),
            "scale": self.scale and self.scale.as_dict(),
            "hparams": None if self.hparams is None else dict(self.hparams),
            "n_ff": self.n_ff,
            "n_ff_source": self.n_ff_source,
            "n_params": self.n_params,
            "tensor_types": self.tensor_types and dict(self.tensor_types),
            "n_tokens": self.n_tokens,
            "bytes": self.bytes and dict(self.bytes),
            "findings": [finding._asdict() for finding in self.findings],
            "damage": self.damage and self.damage.as_dict(),
            "condition": self.condition and self.condition.as_dict(),
            "next": list(self.next),
        }


def facts(file: File) -> Summary:
    """Summarize a file without its condition and the next commands."""
    return SUMMARIES[file.format.name](file)


# ggcp ------------------------------------------------------------------------------------------------------


def _of_checkpoint(ckpt: Any) -> Summary:
    training, conclusions = _study(ckpt)
    era = conclude(evidence_of(ckpt)) if conclusions is None else conclusions.era
    hparams = ckpt.get("hparams") or {}
    optimizer = ckpt.get("optimizer") or {}
    state = optimizer.get("state") or {}
    params = optimizer.get("params") or {}
    losses = None
    if "fx_best" in state:
        losses = explain_losses(
            era,
            optimizer=optimizer["type"],
            fx_best=state["fx_best"],
            fx_prev=state.get("fx_prev"),
            n_vocab=hparams["n_vocab"],
            n_threads=params.get("n_threads"),
            iteration=optimizer["iter"],
            train_its=ckpt.train_its,
            k=state.get("k"),
            past=_past_losses(ckpt.state_tensors.get("pf")),
        )
    initialized = optimizer.get("just_initialized")
    return Summary(
        file=ckpt.path,
        size=ckpt.size,
        format=ckpt.format.name,
        kind="ggcp",
        version=ckpt.get("version"),
        layout=optimizer.get("layout"),
        train_its=ckpt.get("train_its"),
        train_samples=ckpt.get("train_samples"),
        train_tokens=ckpt.get("train_tokens"),
        hparams={name: value for name, value in hparams.items() if not name.startswith("_")} or None,
        n_ff=ckpt.n_ff,
        n_ff_source=_n_ff_source(ckpt),
        n_params=ckpt.n_params if "version" in optimizer else None,
        tensor_types=ckpt.tensors.types(),
        bytes=_byte_budget(ckpt) if ckpt.damage is None else None,
        optimizer=OptimizerSummary(
            optimizer.get("type"),
            optimizer.get("inference"),
            optimizer.get("iter"),
            None if initialized is None else bool(initialized),
            optimizer.get("nx"),
            optimizer.get("past"),
            optimizer.get("lbfgs_m"),
            state.get("n_no_improvement"),
        ),
        losses=losses,
        era=era,
        order=None if conclusions is None else conclusions.order,
        scale=None if conclusions is None else conclusions.scale,
        rms_eps=era.rms_eps,
        findings=(*ckpt.findings, *_refusals(ckpt, training)),
        damage=ckpt.damage,
    )


def _study(file: File) -> tuple[Training | None, Study | None]:
    """Return the training state and what follows from it; None if the file is damaged or has none."""
    try:
        training = training_of(file)
        return training, study(training)
    except (MalformedError, UnfitError, UsageError):
        return None, None


def _refusals(file: File, training: Training | None) -> Iterator[Finding]:
    """Yield why `convert` would refuse the checkpoint: a count that GGUF cannot store."""
    if training is not None:
        try:
            KEYS[file.format.name](file, training, verbatim_recipe(training))
        except (UnfitError, UsageError) as error:
            yield Finding("convert", f"not possible: {error.message}")


def _n_ff_source(ckpt: Any) -> str | None:
    """Describe where n_ff comes from and whether it matches the n_mult formula."""
    if ckpt.n_ff is None:
        return None
    if "layers[0].w1" not in ckpt.tensors:
        return "computed from n_embd and n_mult, because no w1 states it"
    hparams = ckpt.hparams
    formula = n_ff_by_formula(hparams.n_embd, hparams.n_mult)
    agrees = "as n_mult gives" if formula == ckpt.n_ff else f"where n_mult {hparams.n_mult} would give {formula}"
    return f"by the shape of w1, {agrees}"


def _byte_budget(ckpt: Any) -> dict[str, int]:
    """Return the file's bytes by use; the four numbers sum to the file's size."""
    kind = ckpt.get("optimizer.type")
    state = {tensor.path: tensor.nbytes for tensor in ckpt.state_tensors.values()}
    needed = sum(nbytes for path, nbytes in state.items() if names.tensor_name(path, kind))
    model, waste = ckpt.model_tensors.nbytes, sum(state.values()) - needed + ckpt.tensors.padding
    return {"model": model, "optimizer": needed, "waste": waste, "headers": ckpt.size - model - needed - waste}


# GGUF ------------------------------------------------------------------------------------------------------


class Keys:
    """The values of a GGUF file's keys; None for a key that is missing or of another type."""

    def __init__(self, gguf: Any) -> None:
        self.gguf = gguf

    def integer(self, key: str) -> int | None:
        """Return an integer."""
        value = self.gguf.value(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def real(self, key: str) -> float | None:
        """Return a floating-point number."""
        value = self.gguf.value(key)
        return value if isinstance(value, float) else None

    def text(self, key: str) -> str | None:
        """Return a string."""
        value = self.gguf.value(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        """Return a boolean."""
        value = self.gguf.value(key)
        return value if isinstance(value, bool) else None

    def length(self, key: str) -> int | None:
        """Return the length of an array."""
        entry = self.gguf.keys.get(key)
        return len(entry.value) if entry is not None and entry.type.startswith("ARRAY/") else None


def _of_gguf(gguf: Any) -> Summary:
    keys = Keys(gguf)
    kind = _kind_of_gguf(gguf, keys)
    training, conclusions = _study(gguf) if kind == "gguf-resume" else (None, None)
    era = conclusions.era if conclusions else conclude(evidence_of_gguf(gguf)) if kind == "gguf-resume" else None
    model = {name: tensor for name, tensor in gguf.tensors.items() if not is_optimizer(name)}
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    optimizer_bytes = gguf.tensors.nbytes - model_bytes
    rest = gguf.size - model_bytes - optimizer_bytes
    n_ff = keys.integer(names.FEED_FORWARD_LENGTH)
    return Summary(
        file=gguf.path,
        size=gguf.size,
        format=gguf.format.name,
        kind=kind,
        version=gguf.get("version"),
        train_its=keys.integer(names.TRAINING_ITERATION_COUNT),
        train_samples=keys.integer(names.TRAINING_SAMPLE_COUNT),
        train_tokens=keys.integer(names.TRAINING_TOKEN_COUNT),
        hparams=_hparams_of_gguf(gguf, keys),
        n_ff=n_ff,
        n_ff_source=None if n_ff is None else names.FEED_FORWARD_LENGTH,
        n_params=sum(tensor.n_elements for name, tensor in model.items() if name != names.ROPE_FREQS) or None,
        tensor_types=gguf.tensors.types(),
        n_tokens=keys.length(names.TOKENS),
        bytes={"model": model_bytes, "optimizer": optimizer_bytes, "waste": 0, "headers": rest}
        if gguf.damage is None
        else None,
        optimizer=_optimizer_of_gguf(keys),
        losses=None if era is None else _losses_of_gguf(gguf, keys, era),
        era=era,
        order=None if conclusions is None else conclusions.order,
        scale=None if conclusions is None else conclusions.scale,
        rms_eps=keys.real(names.RMS_EPSILON) if era is None else era.rms_eps,
        findings=(*gguf.findings, *_refusals(gguf, training)),
        damage=gguf.damage,
    )


def _kind_of_gguf(gguf: Any, keys: Keys) -> str:
    kind, optimizer = keys.text(names.TRAINING_TYPE), keys.text(names.OPTIMIZER_TYPE)
    if kind not in (None, names.TRAIN_MODEL):
        return "gguf-finetune"
    if kind or optimizer:
        return "gguf-resume"
    has_tokens = names.TOKENS in gguf.keys
    if not gguf.get("tensor_count"):
        return "gguf-vocabulary" if has_tokens else "gguf"
    return "gguf-model" if has_tokens or names.CONTEXT_LENGTH in gguf.keys else "gguf"


def _hparams_of_gguf(gguf: Any, keys: Keys) -> dict[str, int | None] | None:
    embeddings = gguf.tensors.get(names.tensor_name("tok_embeddings"))
    dimensions = keys.integer(names.ROPE_DIMENSION_COUNT)
    freq_base = keys.real(names.ROPE_FREQ_BASE)
    n_vocab = keys.integer(names.VOCAB_SIZE)
    hparams = {
        "n_vocab": embeddings.shape[1] if embeddings and len(embeddings.shape) == 2 else n_vocab,
        "n_embd": keys.integer(names.EMBEDDING_LENGTH),
        "n_mult": None,
        "n_head": keys.integer(names.HEAD_COUNT),
        "n_layer": keys.integer(names.BLOCK_COUNT),
        "n_rot": n_rot_of(dimensions, FREQ_BASE if freq_base is None else freq_base) if dimensions else None,
        "n_ctx": keys.integer(names.CONTEXT_LENGTH),
    }
    return hparams if any(value is not None for value in hparams.values()) else None


def _optimizer_of_gguf(keys: Keys) -> OptimizerSummary | None:
    kind = keys.text(names.OPTIMIZER_TYPE)
    if kind is None:
        return None
    return OptimizerSummary(
        kind,
        None,
        keys.integer(names.OPTIMIZER_ITERATION_COUNT),
        keys.flag(names.OPTIMIZER_JUST_INITIALIZED),
        keys.integer(names.OPTIMIZER_PARAMETER_COUNT),
        keys.integer(names.OPTIMIZER_PAST_COUNT),
        keys.integer(names.LBFGS_APPROX_HESSIAN_COUNT),
        keys.integer(f"optimizer.{kind}.no_improvement_count"),
    )


def _losses_of_gguf(gguf: Any, keys: Keys, era: EraConclusion) -> Losses | None:
    kind = keys.text(names.OPTIMIZER_TYPE) or ""
    best = keys.real(f"optimizer.{kind}.best_loss")
    if best is None:
        return None
    hparams = _hparams_of_gguf(gguf, keys) or {}
    return explain_losses(
        era,
        optimizer=kind,
        fx_best=best,
        fx_prev=keys.real(names.ADAM_PREVIOUS_LOSS),
        n_vocab=hparams.get("n_vocab"),
        n_threads=keys.integer(names.CONVERTED_THREADS),
        iteration=keys.integer(names.OPTIMIZER_ITERATION_COUNT) or 0,
        train_its=keys.integer(names.TRAINING_ITERATION_COUNT) or 0,
        k=keys.integer(names.LBFGS_LINE_SEARCH_K),
        past=_past_losses(gguf.tensors.get(names.tensor_name("optimizer.state.pf", kind))),
    )


# ggjt, ggmf, ggml ------------------------------------------------------------------------------------------


def _of_ggml(file: Any) -> Summary:
    tensors = file.tensors
    hparams = file.get("hparams") or {}
    tokens = file.get("tokens")
    data, padding = tensors.nbytes, tensors.padding
    w1 = next((tensor for name, tensor in tensors.items() if name.endswith("feed_forward.w1.weight")), None)
    return Summary(
        file=file.path,
        size=file.size,
        format=file.format.name,
        kind="ggml-model" if tensors else "ggml-vocabulary",
        version=file.get("version"),
        hparams={name: value for name, value in hparams.items() if not name.startswith("_")} or None,
        n_ff=w1.shape[1] if w1 is not None and len(w1.shape) == 2 else None,
        n_ff_source=None if w1 is None else "by the shape of w1",
        n_params=tensors.n_elements or None,
        tensor_types=tensors.types(),
        n_tokens=None if tokens is None else len(tokens),
        bytes={"model": data, "optimizer": 0, "waste": padding, "headers": file.size - data - padding}
        if file.damage is None
        else None,
        findings=file.findings,
        damage=file.damage,
    )


SUMMARIES: dict[str, Callable[[Any], Summary]] = {
    "ggcp": _of_checkpoint,
    "gguf": _of_gguf,
    "ggjt": _of_ggml,
    "ggmf": _of_ggml,
    "ggml": _of_ggml,
}


def _past_losses(pf: Tensor | None) -> tuple[float, ...]:
    """Return the past losses as they are stored; none if they are so many that no trainer wrote them."""
    if pf is None or not 0 < pf.n_elements <= MAX_PAST or pf.type != "F32":
        return ()
    return tuple(floats(b"".join(pf.chunks()), pf.byte_order))
