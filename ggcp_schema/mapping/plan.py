"""From a file to a file: the plan that the command line and the Python API share.

A plan is made from an open file, and says everything about the output before anything is written: its entries, what was
changed and on what evidence. `write` carries it out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ggcp_schema.checkpoint.formats import open_file
from ggcp_schema.errors import GgcpError, MalformedError, UsageError
from ggcp_schema.files.atomic import check_output
from ggcp_schema.files.file import File, Finding
from ggcp_schema.gguf.entries import Entry, Progress, TensorEntry, tensor_entries
from ggcp_schema.gguf.writer import write_gguf
from ggcp_schema.mapping.eras import EraConclusion, conclude
from ggcp_schema.mapping.model import Model, export_entries, model_of
from ggcp_schema.mapping.notes import model_notes, resume_notes
from ggcp_schema.mapping.resume import Recipe, checked_epsilon, resume_entries, rotation_of, verbatim_recipe
from ggcp_schema.mapping.training import Study, Training, study, training_of
from ggcp_schema.mapping.vocabulary import Vocabulary, read_vocabulary, vocabulary_of


class MissingError(UsageError):
    """A parameter that has to be given, because the file does not contain the value. `parameter` is its name."""

    def __init__(self, message: str, hint: str, parameter: str) -> None:
        super().__init__(message, hint)
        self.parameter = parameter


@dataclass(frozen=True)
class Plan:
    """What will be written, and why.

    Attributes:
        kind: "resume", a checkpoint to resume from, or "model", to be run.
        file: the input. It is open while the plan is carried out.
        inputs: the paths of all inputs, which the output must not replace.
        entries: the keys and tensors of the output, in file order.
        rms_eps: the epsilon of the RMS norm.
        rms_eps_reason: where the epsilon is from, in words.
        notes: what is changed and on what evidence, one sentence each, in words for a person.
        warnings: what is odd in the input; `strict` refuses it.
        training: the training state that is written; None in the plan of a model.
        study: what was concluded from the training state; None if that was not needed.
        recipe: how the training state is written; None in the plan of a model.
        model: the model that is written; None in the plan of a checkpoint.
        vocabulary: that of the model; None in the plan of a checkpoint.
    """

    kind: Literal["resume", "model"]
    file: File
    inputs: tuple[str | os.PathLike[str], ...]
    entries: Sequence[Entry]
    rms_eps: float
    rms_eps_reason: str
    notes: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()
    training: Training | None = None
    study: Study | None = None
    recipe: Recipe | None = None
    model: Model | None = None
    vocabulary: Vocabulary | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of tensor data that will be written."""
        return sum(entry.nbytes for entry in tensor_entries(self.entries))


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        plan: the plan that was carried out. Its file is closed.
        size: the size of the output in bytes.
        not_finite: the number of NaN and infinite values by the GGUF name of the tensor that has them.
    """

    plan: Plan
    size: int
    not_finite: dict[str, int] = field(default_factory=dict)


# To resume from --------------------------------------------------------------------------------------------


def plan_resume(
    file: File,
    *,
    rms_eps: float | None = None,
    order: str | None = None,
    n_batch: int | None = None,
    fresh_optimizer: bool = False,
    verbatim: bool = False,
) -> Plan:
    """Plan a GGUF checkpoint from which training can be resumed.

    The parameters are those of `convert`. Raises `MalformedError` if the file is damaged, `UsageError` if it contains
    no training state or if parameters contradict each other.
    """
    if file.damage is not None:
        raise rescued(file, "`ggcp-schema export --partial` exports it.")
    training = training_of(file)
    if verbatim:
        if fresh_optimizer or any(value is not None for value in (rms_eps, order, n_batch)):
            raise UsageError(
                "a verbatim conversion allows no epsilon, order, batch or fresh optimizer to be stated",
                "Omit the request for a verbatim conversion, or the other ones.",
            )
        return _plan_verbatim(file, training)
    conclusions = study(training, order=order, n_batch=n_batch)
    eps, reason = chosen_epsilon(rms_eps, training.rms_eps, conclusions.era)
    scale = conclusions.scale.s if conclusions.scale.summed and not fresh_optimizer else None
    rotation, problem = _rotation(training)
    certain = conclusions.order.is_certain
    recipe = Recipe(eps, conclusions.order.order if certain else None, scale or 1, rotation, fresh_optimizer)
    return Plan(
        kind="resume",
        file=file,
        inputs=(file.path,),
        entries=resume_entries(file, training, recipe),
        rms_eps=eps,
        rms_eps_reason=reason,
        notes=tuple(resume_notes(training, conclusions, recipe, problem)),
        warnings=_warnings(file, problem, conclusions.contradiction),
        training=training,
        study=conclusions,
        recipe=recipe,
    )


def _plan_verbatim(file: File, training: Training) -> Plan:
    if file.format.name != "ggcp":
        raise UsageError(f"{file.path} is a {file.format.title}; the converter of 2023 read only ggcp checkpoints")
    recipe = verbatim_recipe(training)
    return Plan(
        kind="resume",
        file=file,
        inputs=(file.path,),
        entries=resume_entries(file, training, recipe),
        rms_eps=recipe.rms_eps,
        rms_eps_reason="the converter of 2023 always wrote it",
        notes=("verbatim: the optimizer's vectors and n_rot are copied as they are",),
        warnings=file.findings,
        training=training,
        recipe=recipe,
    )


def chosen_epsilon(stated: float | None, stored: float | None, era: EraConclusion) -> tuple[float, str]:
    """Return the epsilon of the RMS norm and where it is from: stated by the user, stored, or of the era."""
    if stated is not None:
        return checked_epsilon(stated), "stated by the user"
    if stored is not None:
        return checked_epsilon(stored), "stored in the file"
    return era.rms_eps, era.rms_eps_reason


def _rotation(training: Training) -> tuple[tuple[int, float | None], str]:
    """Return the keys of the rotation, and why they have to stay as they are stored; empty if they have not."""
    try:
        return rotation_of(training), ""
    except UsageError as error:
        return (training.n_rot, None), error.message


def _warnings(file: File, problem: str, contradiction: str) -> tuple[Finding, ...]:
    """Return the findings, the problem with the rotation unless they name it, and the contradicted order."""
    findings = list(file.findings)
    if problem and not any(finding.path in {"hparams.n_rot", "hparams.n_head"} for finding in findings):
        findings.append(Finding("hparams.n_rot", problem))
    if contradiction:
        findings.append(Finding("optimizer.state", contradiction))
    return tuple(findings)


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    rms_eps: float | None = None,
    order: str | None = None,
    n_batch: int | None = None,
    fresh_optimizer: bool = False,
    verbatim: bool = False,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Convert the checkpoint at `source`, ggcp or GGUF, to a GGUF checkpoint from which training can be resumed.

    Parameters:
        rms_eps: the epsilon of the RMS norm. None takes the one that the file stores or its era used.
        order: the order of the flat vectors (A, B or C) if you know it. None decides from the bytes, and changes the
            order only if it is proven.
        n_batch: the samples of a batch, by which summed gradients are scaled. None estimates it from the counts.
        fresh_optimizer: write zeros for the optimizer's state, and iteration counts of 0.
        verbatim: write what the converter of 2023 wrote.
        strict: refuse a file with findings, and tensors with NaN or infinite values.
        force: overwrite an existing output.
        verify: compare every byte with the checkpoint before the output gets its name.
        sync: wait until the output is on the disk.
        progress: called with the number of bytes just copied or compared.

    Raises `MalformedError` if the checkpoint is damaged, `UsageError` if it contains no training state, `UnfitError` if
    GGUF cannot store one of its numbers, `FileError` if a file cannot be read or written.
    """
    check_output(output, (source,), overwrite=force)
    with open_file(source, partial=True) as file:
        plan = plan_resume(
            file, rms_eps=rms_eps, order=order, n_batch=n_batch, fresh_optimizer=fresh_optimizer, verbatim=verbatim
        )
        return write(plan, output, strict=strict, force=force, verify=verify, sync=sync, progress=progress)


# To run ----------------------------------------------------------------------------------------------------


def plan_model(
    file: File,
    *,
    vocab: str | os.PathLike[str] | None = None,
    context_length: int | None = None,
    rms_eps: float | None = None,
    name: str | None = None,
    partial: bool = False,
) -> Plan:
    """Plan a GGUF model for present-day llama.cpp.

    The parameters and exceptions are those of `export_model`. `MissingError` is raised if the vocabulary or the context
    length is neither given nor in the file.
    """
    if file.damage is not None and not partial:
        raise rescued(file, "Use partial=True to export it.")
    model = model_of(file)
    if vocab is None and not model.has_vocabulary:
        raise MissingError(
            f"{file.path} contains no vocabulary",
            "Give the file that was the trainer's --vocab-model (ggml-vocab.bin), or a llama GGUF or a sentencepiece "
            "tokenizer.model with the same vocabulary.",
            "vocab",
        )
    length = model.context_length if context_length is None else context_length
    if length is None:
        raise MissingError(
            f"{file.path} does not store the context length",
            "Give the number of tokens that was the trainer's --ctx; it defaulted to 128.",
            "context_length",
        )
    vocabulary = vocabulary_of(file) if vocab is None else read_vocabulary(vocab)
    is_known = rms_eps is not None or model.rms_eps is not None
    era = conclude(model.evidence) if is_known else _era(file, model)
    eps, reason = chosen_epsilon(rms_eps, model.rms_eps, era)
    return Plan(
        kind="model",
        file=file,
        inputs=(file.path,) if vocab is None else (file.path, vocab),
        entries=export_entries(model, vocabulary.keys, context_length=length, rms_eps=eps, name=name),
        rms_eps=eps,
        rms_eps_reason=reason,
        notes=tuple(model_notes(model, vocabulary, file.damage, context_length)),
        warnings=file.findings,
        model=model,
        vocabulary=vocabulary,
    )


def _era(file: File, model: Model) -> EraConclusion:
    """Return the era of a model, by the optimizer's state too if that is whole."""
    try:
        return study(training_of(file)).era
    except (MalformedError, UsageError):  # a damaged optimizer, or a model without one
        return conclude(model.evidence)


def rescued(file: File, remedy: str) -> GgcpError:
    """Return the damage of a file with what can be done: the remedy if the model is whole, else how much of it is."""
    try:
        model_of(file)
    except GgcpError as error:
        return error
    assert file.damage is not None  # noqa: S101 - the caller has looked
    file.damage.hint = f"All tensors of the model are whole. {remedy}"
    file.damage.option = "partial"
    return file.damage


def export_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    vocab: str | os.PathLike[str] | None = None,
    context_length: int | None = None,
    rms_eps: float | None = None,
    name: str | None = None,
    partial: bool = False,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Export the model in the checkpoint at `source`, ggcp or GGUF, as one that present-day llama.cpp runs.

    Parameters:
        vocab: a llama GGUF, a ggjt, ggmf or ggml file of 2023, or a sentencepiece model. None takes the vocabulary that
            a GGUF checkpoint of a trainer contains.
        context_length: in tokens. None takes the one that a GGUF checkpoint stores; a ggcp file stores none.
        rms_eps: the epsilon of the RMS norm. None takes the one that the file stores or its era used.
        name: the model's name; None takes the file's name, and an empty one writes none.
        partial: accept a damaged file if all tensors of the model are whole.

    The other parameters are those of `convert`. Raises `MalformedError` if a file is damaged, `UsageError` if the files
    do not go together, `FileError` if a file cannot be read or written.
    """
    check_output(output, (source,) if vocab is None else (source, vocab), overwrite=force)
    with open_file(source, partial=True) as file:
        plan = plan_model(file, vocab=vocab, context_length=context_length, rms_eps=rms_eps, name=name, partial=partial)
        return write(plan, output, strict=strict, force=force, verify=verify, sync=sync, progress=progress)


# Both ------------------------------------------------------------------------------------------------------


def write(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Write what is planned, completely or not at all. The parameters are those of `convert`."""
    check(plan, output, strict=strict, force=force)
    not_finite: dict[str, int] = {}
    inspect = _FiniteCheck(plan, not_finite, strict=strict)
    size = write_gguf(
        output, plan.entries, overwrite=force, verify=verify, sync=sync, progress=progress, inspect=inspect
    )
    return Written(plan, size, not_finite)


def check(plan: Plan, output: str | os.PathLike[str] | None, *, strict: bool, force: bool) -> None:
    """Check the output unless it is None, and with `strict` the findings. Raises `FileError`, or `UsageError`."""
    if output is not None:
        check_output(output, plan.inputs, overwrite=force)
    if strict and plan.warnings:
        finding = plan.warnings[0]
        raise refused(plan, f"{finding.path}: {finding.message}")


def refused(plan: Plan, finding: str) -> UsageError:
    """Return the error for a finding that `strict` refuses."""
    return UsageError(
        f"{plan.file.path}: {finding}", "Nothing was written. Without strict checks it is written, with a note."
    )


class _FiniteCheck:
    """Counts the NaN and infinite values of each tensor while its data is copied."""

    def __init__(self, plan: Plan, found: dict[str, int], *, strict: bool) -> None:
        self.plan, self.found, self.strict = plan, found, strict

    def __call__(self, entry: TensorEntry, chunk: memoryview) -> None:
        import numpy as np

        finite = np.isfinite(np.frombuffer(chunk, "<f4"))
        if finite.all():
            return
        if self.strict:
            raise refused(self.plan, f"tensor {entry.name} has values that are NaN or infinite")
        self.found[entry.name] = self.found.get(entry.name, 0) + int(finite.size - np.count_nonzero(finite))


def resume_command(plan: Plan, output: str) -> list[str]:
    """Return the command of the last trainer, that of July 2024, that resumes from the output of a resume plan."""
    assert plan.training is not None  # noqa: S101 - a resume plan has one
    training = plan.training
    numbers = {
        "--ctx": training.n_ctx,
        "--embd": training.n_embd,
        "--head": training.n_head,
        "--layer": training.n_layer,
        "--ff": training.n_ff,
        "--opt-past": training.past,  # it refuses a checkpoint with another number
    }
    return [
        "llama-train-text-from-scratch",
        *("--checkpoint-in", output, "--checkpoint-out", "chk-LATEST.gguf", "--model-out", "model.gguf"),
        *("--vocab-model", "VOCABULARY.gguf", "--train-data", "TEXT"),
        *(word for option, number in numbers.items() if number for word in (option, str(number))),
        *("--no-flash", "--use-checkpointing"),
    ]
