"""From a checkpoint to a GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ggcp_schema.errors import MalformedError, UsageError
from ggcp_schema.files.atomic import check_output
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.formats.ggcp.checkpoint import is_optimizer
from ggcp_schema.gguf.entries import Progress
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.training import study
from ggcp_schema.mapping.model import Model, export_entries, model_of, rescued
from ggcp_schema.mapping.notes import model_notes
from ggcp_schema.mapping.plan import Plan, Written, chosen_epsilon, write
from ggcp_schema.mapping.vocabulary import read_vocabulary, vocabulary_of


class MissingError(UsageError):
    """A parameter that has to be given, because the file does not contain the value. `parameter` is its name."""

    def __init__(self, message: str, hint: str, parameter: str) -> None:
        super().__init__(message, hint)
        self.parameter = parameter


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
        warnings=(*file.findings, *_left_out(file, model)),
        model=model,
        vocabulary=vocabulary,
    )


def _left_out(file: File, model: Model) -> Iterator[Finding]:
    """Yield the tensors of a GGUF file that belong neither to the model nor to the optimizer."""
    if file.format.name == "gguf":
        for name in file.tensors:
            if name not in model.tensors and not is_optimizer(name):
                yield Finding("tensor_infos", f"{name!r} is no tensor of a llama model and is left out")


def _era(file: File, model: Model) -> EraConclusion:
    """Return the era of a model, by the optimizer's state too if that is whole."""
    try:
        return study(file.training()).era
    except (MalformedError, UsageError):  # a damaged optimizer, or a model without one
        return conclude(model.evidence)


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
