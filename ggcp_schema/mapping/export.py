"""From a checkpoint to a GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ggcp_schema.errors import MalformedError, UsageError
from ggcp_schema.files.output import WHOLE
from ggcp_schema.formats.file import File, Finding
from ggcp_schema.formats.ggcp.checkpoint import is_optimizer
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.training import study
from ggcp_schema.mapping.model import model_content, rescued
from ggcp_schema.mapping.notes import model_facts
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, epsilon_of
from ggcp_schema.mapping.vocabulary import read_vocabulary

GGUF = "gguf"


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
    model = file.model()
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
    vocabulary = file.vocabulary() if vocab is None else read_vocabulary(vocab)
    is_known = rms_eps is not None or model.rms_eps is not None
    era = conclude(model.evidence) if is_known else _era(file, model)
    epsilon = epsilon_of(rms_eps, model.rms_eps, era)
    content = model_content(model, vocabulary.keys, context_length=length, rms_eps=epsilon.value, name=name)
    return Plan(
        target=GGUF,
        file=file,
        inputs=(file.path,) if vocab is None else (file.path, os.fspath(vocab)),
        parts={WHOLE: content},
        facts=(epsilon, *model_facts(model, vocabulary, file.damage, context_length)),
        warnings=(*file.findings, *_left_out(file, model)),
        next=(Command("run", ("llama-completion", "-m", OUTPUT, "-p", "Once upon a time")),),
    )


def _left_out(file: File, model: Model) -> Iterator[Finding]:
    """Yield the tensors of a GGUF file that belong neither to the model nor to the optimizer."""
    for tensor in file.tensors.values():
        _, name, _ = file.names_of(tensor)
        if name is not None and name not in model.tensors and not is_optimizer(name):
            yield Finding("tensor_infos", f"{name!r} is no tensor of a llama model and is left out")


def _era(file: File, model: Model) -> EraConclusion:
    """Return the era of a model, by the optimizer's state too if that is whole."""
    try:
        return study(file.training()).era
    except (MalformedError, UsageError):  # a damaged optimizer, or a model without one
        return conclude(model.evidence)
