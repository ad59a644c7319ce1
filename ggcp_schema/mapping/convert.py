"""From a checkpoint to a GGUF checkpoint from which training can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.output import WHOLE
from ggcp_schema.formats.file import File
from ggcp_schema.formats.rules import Finding
from ggcp_schema.llama import names
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.facts import Fact, Remedy
from ggcp_schema.llama.parameters import RESUME_ORDER
from ggcp_schema.llama.scale import COSTS, SAFER
from ggcp_schema.llama.training import Study, Training, study
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, epsilon_fact, epsilon_of, rescued, rotation_facts
from ggcp_schema.mapping.resume import Recipe, kept_rotation, record_of, resume_content, verbatim_recipe
from ggcp_schema.mapping.trainers import finetune_words, has_mixed_ranks, is_resumed, resume_words
from ggcp_schema.schema.inference import ADAM

RESUME: Final = "resume"
AS_THEY_ARE = "m and v are copied as they are"
OF_2023 = "the converter of 2023 always wrote it"
NO_LBFGS = (
    "no trainer goes on from the state of L-BFGS and saves: that of July 2024 saves nothing and exits with 0, that of "
    "28 August 2023 ignores the state. A fresh optimizer is written as Adam's, from which they go on; `export` makes a "
    "model of the file"
)


class ResumeOptions(NamedTuple):
    """What may be stated of a checkpoint to resume from: the parameters of `convert`."""

    rms_eps: float | None = None
    order: str | None = None
    n_batch: int | None = None
    fresh_optimizer: bool = False
    verbatim: bool = False
    partial: bool = False


def plan_resume(file: File, options: ResumeOptions = ResumeOptions()) -> Plan:  # noqa: B008
    """Plan a GGUF checkpoint from which training can be resumed.

    Raises `MalformedError` if the file is damaged, `UsageError` if it contains no training state or if options
    contradict each other.
    """
    if file.damage is not None and not options.partial:
        raise rescued(file, _remedy(file))
    rms_eps, order, n_batch, fresh_optimizer, verbatim, _ = options
    fresh_optimizer = fresh_optimizer or file.damage is not None
    is_stated = any(value is not None for value in (rms_eps, order, n_batch))
    converted = file.converted()
    if converted is not None:
        if fresh_optimizer or verbatim or is_stated:
            raise UsageError(
                f"{file.path}: a checkpoint of finetune is converted exactly as it is",
                "Omit what was stated: epsilon, order, batch, a fresh optimizer or a verbatim conversion.",
            )
        return _plan_finetune(file, Gguf(*converted))
    training = file.training() if file.damage is None else file.model_training()
    if verbatim:
        if fresh_optimizer or is_stated:
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
    epsilon = epsilon_of(rms_eps, training.model.rms_eps, conclusions.era)
    scale = conclusions.scale.s if conclusions.scale.summed and not fresh_optimizer else None
    rotation, problem = kept_rotation(training)
    recipe = Recipe(
        epsilon.value,
        conclusions.order.order if conclusions.order.is_certain else None,
        scale or 1,
        rotation,
        fresh_optimizer,
        record=record_of(training, conclusions.era, certain=rms_eps is None and conclusions.era.rms_eps_certain),
        scale_certain=not conclusions.scale.assumed,
    )
    content = resume_content(file, training, recipe)
    changed = _change_facts(training, content, recipe)
    words = "ggcp-schema", "convert", file.path, "FRESH.gguf", "--fresh-optimizer"
    fresh = None if fresh_optimizer else Command("to train on, convert without the optimizer's state", words)
    return _plan(
        file,
        content,
        facts=(epsilon, *_resume_facts(training, conclusions, recipe, problem), *changed),
        warnings=tuple(_warnings(file, training, conclusions, problem, fresh=fresh_optimizer)),
        next=(resume_command(training) if fresh is None or is_resumed(training, conclusions) else fresh,),
        fresh=fresh,
        study=conclusions,
    )


def _remedy(file: File) -> str:
    """Return what can be done with a damaged file whose model is whole."""
    try:
        file.model_training()
    except GgcpError:
        return "Export it, with partial=True."
    return "Use partial=True to convert it with a fresh optimizer, or to export it."


def _plan_finetune(file: File, content: Gguf) -> Plan:
    from ggcp_schema.llama.adapter import adapter_facts

    values = {entry.key: entry.value for entry in content.keys}
    past, is_adam = values[names.OPTIMIZER_PAST_COUNT], values[names.OPTIMIZER_TYPE] == ADAM
    adapter = file.adapter()
    context = context_of(values[names.TRAINING_SAMPLE_COUNT], values[names.TRAINING_TOKEN_COUNT])
    purpose = "resume with llama.cpp of October 2023 to February 2024 (tried: commits a03ce38 and ab336a9)"
    purpose += ", and the --rank options of the training" if has_mixed_ranks(adapter) else ""
    warning = "finetune of October 2023 and after crashes on L-BFGS; that of 29 August 2023 goes on from it"
    return _plan(
        file,
        content,
        facts=(epsilon_fact(values[names.RMS_EPSILON], OF_2023), *adapter_facts(adapter)),
        warnings=(*file.findings, *([] if is_adam else [Finding("optimizer.type", warning)])),
        next=(Command(purpose, finetune_words(adapter, context, past, OUTPUT)),) if is_adam else (),
    )


def _plan_verbatim(file: File, training: Training) -> Plan:
    if file.key_values:
        raise UsageError(f"{file.path} is a {file.format.title}; the converter of 2023 read only ggcp checkpoints")
    recipe = verbatim_recipe(training)
    copied = Fact("verbatim", "the optimizer's vectors and n_rot are copied as they are")
    return _plan(
        file,
        resume_content(file, training, recipe),
        facts=(epsilon_fact(recipe.rms_eps, OF_2023), copied),
        warnings=file.findings,
        next=(resume_command(training),),
    )


def _plan(file: File, content: Gguf, **told: Any) -> Plan:
    return Plan(target=RESUME, file=file, inputs=(file.path,), parts={WHOLE: content}, **told)


def _warnings(file: File, training: Training, conclusions: Study, problem: str, *, fresh: bool) -> Iterator[Finding]:
    """Yield the findings, the problem with the rotation unless they name it, and doubts in the optimizer's state."""
    yield from file.findings
    if problem and not any(finding.path in {"hparams.n_rot", "hparams.n_head"} for finding in file.findings):
        yield Finding("hparams.n_rot", problem)
    if not fresh:
        doubts = [NO_LBFGS] if training.optimizer != ADAM else []
        yield from (Finding("optimizer.state", doubt) for doubt in (*doubts, *conclusions.contradictions))


def _resume_facts(training: Training, conclusions: Study, recipe: Recipe, problem: str) -> Iterator[Fact]:
    """Yield what is changed in a checkpoint to resume from. `problem` is why its rotation stays as it is stored."""
    scale = conclusions.scale
    if recipe.fresh:
        adam = "" if training.optimizer == ADAM else " Adam, which replaces L-BFGS,"
        yield Fact("optimizer", f"written as one that has not started yet,{adam} with zeros and iteration counts of 0")
    else:
        yield _order_fact(training, conclusions, recipe)
        if scale.summed:
            estimate = ", an estimate" * scale.assumed
            effect = (
                f"m is divided by {recipe.scale:,}{estimate}, v by its square" if recipe.scale != 1 else AS_THEY_ARE
            )
            yield Fact("scale", scale.reason, effect=effect, short=effect)
            if scale.assumed or scale.s is None:
                yield Fact("batch", SAFER, effect=COSTS, remedy=Remedy("n_batch", "N"), short=SAFER)
        elif scale.gradient != "mean" and training.optimizer == ADAM and not conclusions.order.harmless:
            yield Fact("scale", scale.reason, effect=AS_THEY_ARE, short=AS_THEY_ARE)
    if problem:
        yield Fact("rotation", problem, effect=f"n_rot {training.model.n_rot} is kept as it is")
    else:
        yield from rotation_facts(training.model.n_rot, *recipe.rotation)


def _order_fact(training: Training, conclusions: Study, recipe: Recipe) -> Fact:
    order = conclusions.order
    if recipe.permutes:
        text = f"the optimizer's vectors are rewritten from order {order.order} to order {RESUME_ORDER}"
        return Fact("order", text, order.reason, short=text)
    if order.is_certain:
        text = f"the optimizer's vectors are in order {RESUME_ORDER} already"
        return Fact("order", text, order.reason, short=text)
    copied = "the optimizer's vectors are copied as they are"
    if order.harmless:
        return Fact("order", copied, order.reason, short=copied)
    known = f"likely {order.order}" if order.order else "unknown"
    *others, last = training.orders
    remedy = Remedy("order", f"{', '.join(others)} or {last}")
    return Fact("order", known, order.reason, copied, remedy, short=f"{known}; {copied}")


def _change_facts(training: Training, content: Gguf, recipe: Recipe) -> Iterator[Fact]:
    """Yield what becomes of an input that is a GGUF checkpoint already."""
    if training.keys is None:
        return
    stored = {entry.key: (entry.type, entry.value) for entry in training.keys}
    changed = [entry.key for entry in content.keys if (entry.type, entry.value) != stored.get(entry.key)]
    if recipe.fresh or recipe.permutes or recipe.scale != 1:
        changed.append("the optimizer's vectors")
    done = f"changed are {', '.join(changed)}" if changed else "nothing had to be converted, and all is copied as it is"
    yield Fact("input", f"it is a GGUF checkpoint already; {done}")


def resume_command(training: Training) -> Command:
    """Return the command that resumes from the output."""
    doubt = "; --ctx is by the counts" * training.model.context.is_mean
    purpose = f"resume with llama.cpp from before 25 July 2024 (before June 2024, without llama-{doubt})"
    return Command(purpose, resume_words(training, OUTPUT))
