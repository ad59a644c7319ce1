"""The facts of a file, as data: what it is, how far the training has come, what the model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from ggcp_schema.errors import GgcpError, MalformedError, UnfitError, UsageError
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.inspect.damage import Condition, ConditionJson
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama.context import Context, context_of
from ggcp_schema.llama.eras import EraConclusion, EraJson, conclude
from ggcp_schema.llama.losses import LineJson, Losses, LossesJson, stored_losses
from ggcp_schema.llama.order import OrderDecision
from ggcp_schema.llama.scale import ScaleDecision
from ggcp_schema.llama.state import Unsound
from ggcp_schema.llama.training import Study, Training, study
from ggcp_schema.mapping.resume import resume_keys, verbatim_recipe
from ggcp_schema.schema.inference import Inference, Layout, OptimizerType

if TYPE_CHECKING:
    from ggcp_schema.llama.adapter import Adapter

Line = tuple[str, str]
State = Literal["whole", "damaged", "unsound"]
NffSource = Literal["shape", "n-mult", "stored"]
"""Where n_ff is from: the shape of w1; n_embd and n_mult, for w1 is missing; or the file states it."""


class OptimizerJson(TypedDict):
    """An `OptimizerSummary` as JSON."""

    type: OptimizerType | None
    inferred: bool
    by_size: OptimizerType | None
    by_records: OptimizerType | None
    confirmed: bool | None
    iter: int | None
    just_initialized: bool | None
    n_params: int | None
    past: int | None
    lbfgs_m: int | None
    n_no_improvement: int | None


class DamageJson(TypedDict):
    """The error that ended the parse, as JSON."""

    path: str
    offset: int
    expected: str
    found: str
    message: str


class NoLosses(TypedDict):
    """The losses of a file that stores none."""

    best: None
    previous: None


class SummaryJson(TypedDict):
    """A `Summary` as JSON; null for what is not known."""

    file: str
    format: str
    kind: str
    size: int
    state: State
    version: int | None
    layout: Layout | None
    writer: str | None
    era: EraJson | None
    rms_eps: float | None
    train_its: int | None
    train_samples: int | None
    train_tokens: int | None
    n_ctx: int | None
    context: str | None
    loss: LossesJson | NoLosses
    optimizer: OptimizerJson | None
    order: OrderDecision | None
    scale: ScaleDecision | None
    hparams: Mapping[str, int | None] | None
    n_ff: int | None
    n_ff_source: NffSource | None
    n_ff_by_n_mult: int | None
    n_params: int | None
    tensor_types: Mapping[str, int] | None
    n_tokens: int | None
    bytes: Mapping[str, int] | None
    details: list[LineJson]
    findings: Sequence[Finding]
    unsound: Sequence[Unsound] | None
    damage: DamageJson | None
    condition: ConditionJson | None
    next: Sequence[str]


class OptimizerSummary(NamedTuple):
    """The optimizer's counts; None for what the file does not store. `inference` tells how the type of v1 was found."""

    type: OptimizerType | None
    inference: Inference | None = None
    iter: int | None = None
    just_initialized: bool | None = None
    n_params: int | None = None
    past: int | None = None
    lbfgs_m: int | None = None
    n_no_improvement: int | None = None

    def as_dict(self) -> OptimizerJson:
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
        kind: what it is, as a stable word; `what` in words, `short` in one or two.
        version: of the format.
        layout: of the optimizer block of a ggcp file.
        train_its, train_samples, train_tokens: the counts of the training.
        hparams: the hyper-parameters by name, with n_ctx if the file stores it.
        n_ff, n_ff_source: the width of the feed-forward layers, and where it is from.
        n_ff_by_n_mult: what n_embd and n_mult give instead, if the file states them.
        n_params: the parameters of the model.
        tensor_types: the number of tensors by element type.
        n_tokens: the tokens of the vocabulary that the file contains.
        bytes: the bytes of the file by use: model, optimizer, waste, headers. Waste is padding, and the tensors of v0
            that no reader needs.
        era, order, scale, losses: see `ggcp_schema.mapping`; None if the file is no training checkpoint.
        rms_eps: the epsilon of the RMS norm: stored, or that of the era.
        adapter: the LoRA adapter that the file contains.
        has_model: True if the file contains a whole model that can be exported.
        runs: True if llama.cpp runs the file as it is.
        unsound: what its program cannot have written; None if the values were not examined.
        details: what only files of this format have, each with a label.
        condition: of a damaged file.
        next: commands that make something of the file.
    """

    file: str
    size: int
    format: str
    kind: str
    what: str
    short: str
    version: int | None = None
    layout: Layout | None = None
    train_its: int | None = None
    train_samples: int | None = None
    train_tokens: int | None = None
    hparams: Mapping[str, int | None] | None = None
    n_ff: int | None = None
    n_ff_source: NffSource | None = None
    n_ff_by_n_mult: int | None = None
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
    adapter: Adapter | None = None
    has_model: bool = False
    runs: bool = False
    unsound: tuple[Unsound, ...] | None = None
    details: tuple[Line, ...] = ()
    condition: Condition | None = None
    next: tuple[str, ...] = ()

    @property
    def context(self) -> Context:
        """The tokens of a sample of the training, and what is known of them in words."""
        return context_of(self.train_samples, self.train_tokens, (self.hparams or {}).get("n_ctx"))

    @property
    def loss(self) -> float | None:
        """The latest loss that is stored, of one token."""
        return None if self.losses is None else self.losses.latest

    @property
    def is_loss_impossible(self) -> bool:
        """True if a loss is 0 after training."""
        return any(bad.rule == "loss-zero" for bad in self.unsound or ())

    @property
    def state(self) -> State:
        """Whether the file is `whole`, `damaged`, or `unsound`: well-formed, and yet not what its program wrote."""
        return "damaged" if self.condition is not None else "unsound" if self.unsound else "whole"

    @property
    def verdict(self) -> str:
        """The condition and the kind in a few words."""
        if self.condition is not None:
            return self.condition.verdict
        noted = f", {count_text(len(self.findings), 'note')}" if self.findings else ""
        return f"{self.short}{noted}"

    def as_dict(self) -> SummaryJson:
        """Return the summary for JSON, under stable keys; null for what is not known."""
        none: NoLosses = {"best": None, "previous": None}
        damage = self.damage
        return {
            "file": self.file,
            "format": self.format,
            "kind": self.kind,
            "size": self.size,
            "state": self.state,
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
            "loss": none if self.losses is None else self.losses.as_dict(),
            "optimizer": self.optimizer and self.optimizer.as_dict(),
            "order": self.order,
            "scale": self.scale,
            "hparams": self.hparams,
            "n_ff": self.n_ff,
            "n_ff_source": self.n_ff_source,
            "n_ff_by_n_mult": self.n_ff_by_n_mult,
            "n_params": self.n_params,
            "tensor_types": self.tensor_types,
            "n_tokens": self.n_tokens,
            "bytes": self.bytes,
            "details": [{"label": label, "text": text} for label, text in self.details],
            "findings": self.findings,
            "unsound": self.unsound,
            "damage": None if damage is None else _damage_as_dict(damage),
            "condition": self.condition and self.condition.as_dict(),
            "next": self.next,
        }


def _damage_as_dict(damage: MalformedError) -> DamageJson:
    return {
        "path": damage.path,
        "offset": damage.offset,
        "expected": damage.expected,
        "found": damage.found,
        "message": damage.message,
    }


def facts(file: File) -> Summary:
    """Summarize a file without its condition and the next commands."""
    stated = file.facts()
    training, conclusions = _study(file)
    evidence = file.evidence()
    era = conclusions.era if conclusions else conclude(evidence) if evidence else None
    losses = None if era is None else stored_losses(stated, era)
    optimizer, _ = stated.pop("optimizer", None), stated.pop("stored_losses", None)
    if era is not None:
        stated["rms_eps"] = era.rms_eps
    return Summary(
        file=file.path,
        size=file.size,
        format=file.format.name,
        kind=file.kind,
        what=file.what,
        short=file.short,
        tensor_types=file.tensors.types(),
        optimizer=None if optimizer is None else OptimizerSummary(**optimizer),
        losses=losses,
        era=era,
        order=None if conclusions is None else conclusions.order,
        scale=None if conclusions is None else conclusions.scale,
        has_model=_has_model(file),
        runs=file.runs,
        unsound=None if losses is None else _zero_losses(file, losses),
        findings=(*file.findings, *_refusals(file, training)),
        damage=file.damage,
        **stated,
    )


def _zero_losses(file: File, losses: Losses) -> tuple[Unsound, ...] | None:
    """Return what the losses alone prove; None if nothing."""
    if 0 not in {losses.best, losses.previous}:
        return None
    from ggcp_schema.formats.state import state_of

    state = state_of(file)
    return (tuple(state.zero_losses()) or None) if state is not None else None


def _has_model(file: File) -> bool:
    try:
        file.model()
    except GgcpError:
        return False
    return True


def _study(file: File) -> tuple[Training | None, Study | None]:
    """Return the training state and what follows from it; None if the file is damaged or has none."""
    try:
        training = file.training()
        return training, study(training)
    except (MalformedError, UnfitError, UsageError):
        return None, None


def _refusals(file: File, training: Training | None) -> Iterator[Finding]:
    """Yield why `convert` would refuse the checkpoint: a count that GGUF cannot store."""
    if training is not None:
        try:
            resume_keys(file, training, verbatim_recipe(training))
        except (UnfitError, UsageError) as error:
            yield Finding("convert", f"not possible: {error.message}")
