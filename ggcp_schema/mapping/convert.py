"""From a checkpoint to a GGUF checkpoint from which training can be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ggcp_schema.errors import UsageError
from ggcp_schema.files.atomic import check_output
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.gguf.entries import Progress
from ggcp_schema.llama.training import Study, Training, study
from ggcp_schema.mapping.model import rescued
from ggcp_schema.mapping.notes import resume_notes
from ggcp_schema.mapping.plan import Plan, Written, chosen_epsilon, write
from ggcp_schema.mapping.resume import Recipe, record_of, resume_entries, rotation_of, verbatim_recipe
from ggcp_schema.schema.inference import ADAM


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
    training = file.training()
    if verbatim:
        if fresh_optimizer or any(value is not None for value in (rms_eps, order, n_batch)):
            raise UsageError(
                "a verbatim conversion allows no epsilon, order, batch or fresh optimizer to be stated",
                "Omit the request for a verbatim conversion, or the other ones.",
            )
        return _plan_verbatim(file, training)
    if fresh_optimizer and (order is not None or n_batch is not None):
        raise UsageError(
            "a fresh optimizer has zeros for moments, which no order and no batch changes",
            "Omit the order and the batch, or the request for a fresh optimizer.",
        )
    conclusions = study(training, order=order, n_batch=n_batch)
    eps, reason = chosen_epsilon(rms_eps, training.rms_eps, conclusions.era)
    scale = conclusions.scale.s if conclusions.scale.summed and not fresh_optimizer else None
    rotation, problem = _rotation(training)
    recipe = Recipe(
        eps,
        conclusions.order.order if conclusions.order.is_certain else None,
        scale or 1,
        rotation,
        fresh_optimizer,
        record=record_of(training, conclusions.era, certain=rms_eps is None and conclusions.era.rms_eps_certain),
    )
    return Plan(
        kind="resume",
        file=file,
        inputs=(file.path,),
        entries=resume_entries(file, training, recipe),
        rms_eps=eps,
        rms_eps_reason=reason,
        notes=tuple(resume_notes(training, conclusions, recipe, problem)),
        warnings=_warnings(file, problem, _doubts(training, conclusions, fresh=fresh_optimizer)),
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


def _rotation(training: Training) -> tuple[tuple[int, float | None], str]:
    """Return the keys of the rotation, and why they have to stay as they are stored; empty if they have not."""
    try:
        return rotation_of(training), ""
    except UsageError as error:
        return (training.n_rot, None), error.message


def _doubts(training: Training, conclusions: Study, *, fresh: bool) -> Iterator[str]:
    """Yield what a person should know of the optimizer's state before it is written."""
    if fresh:
        return
    if training.optimizer != ADAM:
        yield (
            "no trainer goes on from the state of L-BFGS and saves: that of July 2024 saves nothing and exits with 0, "
            "that of 28 August 2023 ignores the state. A fresh optimizer is written as Adam's, from which they go on; "
            "`export` makes a model of the file"
        )
    yield from conclusions.contradictions


def _warnings(file: File, problem: str, doubts: Iterable[str]) -> tuple[Finding, ...]:
    """Return the findings, the problem with the rotation unless they name it, and the doubts."""
    findings = list(file.findings)
    if problem and not any(finding.path in {"hparams.n_rot", "hparams.n_head"} for finding in findings):
        findings.append(Finding("hparams.n_rot", problem))
    findings += (Finding("optimizer.state", doubt) for doubt in doubts)
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
        order: the order of the flat vectors (A, B, C or D) if you know it. None decides from the bytes, and changes the
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


def resume_command(plan: Plan, output: str) -> list[str]:
    """Return the command of the last trainer, that of July 2024, that resumes from the output of a resume plan."""
    assert plan.training is not None  # noqa: S101 - a resume plan has one
    training = plan.training
    numbers = {
        "--threads": os.cpu_count(),  # by default 6, which hardly move on fewer cores
        "--ctx": training.context.tokens,
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
