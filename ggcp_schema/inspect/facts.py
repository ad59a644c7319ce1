"""The facts of a file, as data: what it is, how far the training has come, what the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from ggcp_schema.errors import GgcpError, MalformedError, UnfitError, UsageError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.formats.file import File
from ggcp_schema.formats.rules import Finding, Problem
from ggcp_schema.formats.state import is_examinable, study_of, unsound_fields
from ggcp_schema.inspect.damage import Condition
from ggcp_schema.inspect.words import NffSource
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter
from ggcp_schema.llama.context import Context, context_of
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.facts import Line
from ggcp_schema.llama.losses import Losses, stored_losses, unexplained
from ggcp_schema.llama.order import OrderDecision
from ggcp_schema.llama.scale import ScaleDecision
from ggcp_schema.llama.state import Unsound
from ggcp_schema.llama.training import Training
from ggcp_schema.mapping.trainers import finetune_words, is_ready, is_resumed, resume_words
from ggcp_schema.schema.inference import ADAM, LBFGS, Inference, Layout, OptimizerType

if TYPE_CHECKING:
    from ggcp_schema.llama.model import Model

T = TypeVar("T")
State = Literal["whole", "damaged", "invalid", "unsound", "unknown"]


class StoredLosses(NamedTuple):
    """Losses as a file stores them, of which it is not known what they measure; None if it stores none."""

    best: float | None = None
    previous: float | None = None
    latest: None = None


@json_keys(
    "type inferred by_size=inference.by_size by_records=inference.by_records confirmed=inference.confirmed iter "
    "just_initialized n_params past lbfgs_m n_no_improvement"
)
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

    @property
    def inferred(self) -> bool:
        """True if the file does not store the type."""
        return self.inference is not None


@json_keys(
    "file format kind size state version layout writer=era.writer_text era rms_eps train_its train_samples "
    "train_tokens n_ctx=context.tokens context=context_text loss=stored_loss optimizer order scale hparams n_ff "
    "n_ff_source n_ff_by_n_mult n_params adapter tensor_types n_tokens bytes details findings unsound damage "
    "condition next"
)
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
        n_params: the parameters of the model; an adapter has its own.
        tensor_types: the number of tensors by element type.
        n_tokens: the tokens of the vocabulary that the file contains.
        bytes: the bytes of the file by use: model, optimizer, waste, headers. Waste is padding, and the tensors of v0
            that no reader needs.
        era, order, scale, losses: see `ggcp_schema.mapping`; None if the file is no training checkpoint.
        unexplained: the losses of finetune.
        epsilon: what is concluded of the epsilon of the RMS norm, if the file has a model and does not store it.
        rms_eps: the epsilon of the RMS norm: stored, or that of the era.
        adapter: the LoRA adapter that the file contains.
        is_lora: True for a GGUF adapter, which llama.cpp takes with a model.
        has_model: True if the file contains a whole model that can be exported.
        makes_folder: True if a folder for transformers can have the model, and the vocabulary if the file contains one.
        has_usual_tokenizer: False if the tokenizer of the vocabulary is one that the trainers did not support.
        runs: True if llama.cpp runs the file as it is.
        trains: True if `convert` takes the training; of a damaged file with a fresh optimizer.
        keeps_state: True unless no trainer goes on from the optimizer's state, whatever `convert` makes of it.
        resume: the words of the command with which llama.cpp goes on from the file as it is; empty if it does not.
        broken: the rules of the format that the file breaks, which can be read all the same.
        unsound: what its program cannot have written; None if the values were not examined.
        is_examinable: True if it has a training state, whose values can be examined.
        details: what only files of this format have, each with a label.
        condition: of a damaged file.
        is_repairable: True if `repair` takes back something of a damaged or unsound file.
        advice: commands that make something of the file, labelled by what for.
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
    unexplained: StoredLosses = StoredLosses()
    era: EraConclusion | None = None
    epsilon: EraConclusion | None = None
    order: OrderDecision | None = None
    scale: ScaleDecision | None = None
    rms_eps: float | None = None
    findings: tuple[Finding, ...] = ()
    damage: MalformedError | None = None
    adapter: Adapter | None = None
    is_lora: bool = False
    has_model: bool = False
    makes_folder: bool = False
    has_usual_tokenizer: bool = True
    runs: bool = False
    trains: bool = False
    keeps_state: bool = True
    resume: tuple[str, ...] = ()
    broken: Sequence[Problem] = ()
    unsound: tuple[Unsound, ...] | None = None
    is_examinable: bool = False
    details: tuple[Line, ...] = ()
    condition: Condition | None = None
    is_repairable: bool = False
    advice: tuple[Line, ...] = ()

    @property
    def next(self) -> tuple[str, ...]:
        """The commands that make something of the file."""
        return tuple(command for _, command in self.advice)

    @property
    def is_counted(self) -> bool:
        """False if `train_its` is 0 because the trainers of 2023 do not count the iterations of L-BFGS."""
        return self.train_its != 0 or self.optimizer is None or self.optimizer.type != LBFGS

    @property
    def context(self) -> Context:
        """The tokens of a sample of the training, and what is known of them in words."""
        return context_of(self.train_samples, self.train_tokens, (self.hparams or {}).get("n_ctx"))

    @property
    def context_text(self) -> str | None:
        """What is known of them, in words; None if nothing is."""
        return self.context.text or None

    @property
    def stored_loss(self) -> Losses | StoredLosses:
        """The losses, explained if it is known what they measure."""
        return self.losses or self.unexplained

    @property
    def loss(self) -> float | None:
        """The latest loss that is stored, of one token."""
        return None if self.losses is None else self.losses.latest

    @property
    def impossible_loss(self) -> float | None:
        """The least stored loss that no training leaves; None if there is none."""
        rules = {bad.rule for bad in self.unsound or ()}
        if "loss-negative" in rules:
            stored = () if self.losses is None else (self.losses.best, self.losses.previous)
            return min((loss for loss in stored if loss is not None and loss < 0), default=None)
        return 0.0 if "loss-zero" in rules else None

    @property
    def is_optimizer_unsound(self) -> bool:
        """True if the optimizer's state is known to hold what no training leaves."""
        return any(bad.of_optimizer for bad in self.unsound or ())

    @property
    def state(self) -> State:
        """Whether the file is `whole`, `damaged`, or `unsound`: well-formed, and yet not what its program wrote.

        It is `unknown` if it is of a later version, or a value is of a later type, and `invalid` if it can be read,
        and yet breaks a rule of its format.
        """
        if self.condition is not None:
            return "unknown" if self.condition.damage.is_unknown else "damaged"
        if self.broken:
            return "invalid"
        return "unsound" if self.unsound else "whole"


def facts(file: File) -> Summary:
    """Summarize a file without its condition and the advice."""
    stated, runs = file.facts(), file.runs
    training, conclusions = study_of(file)
    evidence = file.evidence()
    era = conclusions.era if conclusions else conclude(evidence) if evidence else None
    losses = None if era is None else stored_losses(stated, era)
    optimizer, numbers = stated.pop("optimizer", None), stated.pop("stored_losses", None)
    details = tuple(map(Line._make, stated.pop("details", ())))
    is_unexplained = file.has_adapter and numbers is not None
    if is_unexplained:
        details = (*details, unexplained(numbers))
    model = _or_none(file.model)
    if model is not None and model.has_vocabulary and stated.get("n_tokens") is None:
        vocabulary = _or_none(file.vocabulary)  # which llama.cpp may refuse
        stated["n_tokens"] = vocabulary and vocabulary.n_tokens
    epsilon = era
    if era is not None:
        stated["rms_eps"] = era.rms_eps
    elif model is not None and model.rms_eps is None:
        epsilon = conclude(model.evidence)
    adapter, resume = stated.get("adapter"), tuple[str, ...]()
    is_finetune = adapter is not None and optimizer is not None and file.damage is None
    if adapter and is_finetune and file.key_values and optimizer["type"] == ADAM:
        n_ctx = (stated["hparams"] or {}).get("n_ctx")
        context = context_of(stated["train_samples"], stated["train_tokens"], n_ctx)
        resume = finetune_words(adapter, context, optimizer["past"] or 0, file.path)
    elif training is not None and conclusions is not None and is_ready(training, conclusions):
        resume = resume_words(training, file.path)
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
        unexplained=StoredLosses(numbers["fx_best"], numbers["fx_prev"]) if is_unexplained else StoredLosses(),
        era=era,
        epsilon=epsilon,
        order=None if conclusions is None else conclusions.order,
        scale=None if conclusions is None else conclusions.scale,
        is_lora=names.LORA_ALPHA in file.key_values,
        has_model=model is not None,
        makes_folder=model is not None and _makes_folder(file, model),
        runs=runs,
        trains=bool(resume) or _trains(file, training, is_finetune=is_finetune),
        keeps_state=training is None or conclusions is None or is_resumed(training, conclusions),
        resume=resume,
        unsound=unsound_fields(file) or None,
        is_examinable=is_examinable(file),
        findings=(*file.findings, *_refusals(file, training)),
        damage=file.damage,
        details=details,
        **stated,
    )


def _or_none(meaning: Callable[[], T]) -> T | None:
    """Return a meaning of the file; None if it has none that can be read."""
    try:
        return meaning()
    except GgcpError:
        return None


def _trains(file: File, training: Training | None, *, is_finetune: bool) -> bool:
    """Return True if `convert` makes a checkpoint to resume from of the file."""
    if file.damage is None:
        return training is not None or (is_finetune and not file.key_values)
    return _or_none(file.model_training) is not None


def _makes_folder(file: File, model: Model) -> bool:
    """Return False if a folder cannot have the weights, the positions or the vocabulary of the model."""
    from ggcp_schema.huggingface.config import rope_factor
    from ggcp_schema.huggingface.sentencepiece_writer import checked_types
    from ggcp_schema.huggingface.tensors import weight_tensors

    try:
        weight_tensors(model.tensors, n_head=model.n_head, n_head_kv=model.n_head_kv)
        rope_factor(model)
        if model.has_vocabulary:
            checked_types(file.vocabulary())
    except GgcpError:
        return False
    return True


def _refusals(file: File, training: Training | None) -> Iterator[Finding]:
    """Yield why `convert` would refuse the checkpoint: a count that GGUF cannot store."""
    if training is not None:
        from ggcp_schema.mapping.resume import resume_keys, verbatim_recipe

        try:
            resume_keys(training, verbatim_recipe(training))
        except (UnfitError, UsageError) as error:
            yield Finding("convert", f"not possible: {error.message}")
