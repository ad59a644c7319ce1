"""From a checkpoint to a GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Final, NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.errors import MalformedError, UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.output import WHOLE
from ggcp_schema.files.tensor_entries import TensorEntry, stored
from ggcp_schema.formats.file import File
from ggcp_schema.formats.rules import Finding
from ggcp_schema.formats.state import study_of
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import EraConclusion, conclude
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.training import Study
from ggcp_schema.llama.vocabulary import Vocabulary
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.plan import OUTPUT, Command, Plan, damage_facts, epsilon_of, rescued, rotation_facts
from ggcp_schema.mapping.vocabulary import vocabulary_of

GGUF: Final = "gguf"
VOCABULARY_NEEDED = (
    "Give the file that was the trainer's --vocab-model (ggml-vocab.bin), or a llama GGUF or a sentencepiece "
    "tokenizer.model with the same vocabulary."
)
OF_LLAMA = 32_000
OF_LLAMA_HINT = "One of 32,000 tokens is in nearly any Llama 1 or 2 GGUF, unless it was made for the training."
BASE_NEEDED = "Give the model that it was trained on: a GGUF of any type, a ggjt file or a ggcp checkpoint."
CONTEXT_NEEDED = (
    "Give the number of tokens that it was trained with: the trainer's --ctx, which defaulted to 128; "
    "2048 for Llama 1, 4096 for Llama 2."
)


class MissingError(UsageError):
    """Parameters that have to be given, because the file does not tell the values. `parameters` are their names."""

    def __init__(self, message: str, hint: str, parameters: tuple[str, ...]) -> None:
        super().__init__(message, hint)
        self.parameters = parameters


class ModelOptions(NamedTuple):
    """What may be stated of a model that is made: the parameters of `export_model`."""

    vocab: str | os.PathLike[str] | None = None
    context_length: int | None = None
    rms_eps: float | None = None
    name: str | None = None
    dtype: str | None = None
    partial: bool = False


class Choices(NamedTuple):
    """What every export of a model takes from its file, from the user, or from a vocabulary.

    Attributes:
        epsilon: of the RMS norm, as a fact.
        era: who may have written the file.
        study: what follows from the state of the training; None if it was not needed, or there is none.
        facts: the epsilon, and where the other parts are from.
        warnings: what is odd in the file.
        inputs: the paths of all inputs.
    """

    model: Model
    vocabulary: Vocabulary
    context_length: int
    epsilon: Fact
    era: EraConclusion
    study: Study | None
    facts: tuple[Fact, ...]
    warnings: tuple[Finding, ...]
    inputs: tuple[str, ...]

    def gguf(self, name: str | None) -> Gguf:
        """Return the keys and tensors of the GGUF model. `name` is that which the user states."""
        return model_content(self.model, self.vocabulary, self.context_length, self.epsilon.value, name)


def choose(file: File, options: ModelOptions, *, needs_study: bool = False) -> Choices:
    """Choose what goes into an exported model. With `needs_study` the state of the training is examined in any case.

    The exceptions are those of `plan_model`.
    """
    vocab, context_length, rms_eps, *_ = options
    if file.damage is not None and not options.partial:
        raise rescued(file, "Use partial=True to export it.")
    model = file.model()
    try:
        vocabulary = vocabulary_of(file, model, vocab)
    except MalformedError as error:
        raise error if vocab is not None else error.with_hint(VOCABULARY_NEEDED) from error
    if vocabulary is not None:
        check_vocabulary(model, vocabulary)
    context_length = None if context_length is None else index(context_length)
    length = model.context.tokens if context_length is None else context_length
    if length is not None and not 0 < length < 1 << 32:
        raise UsageError(f"the context length must be between 1 and {(1 << 32) - 1} tokens, got {length}")
    if vocabulary is None or length is None:
        raise _missing(model, vocab=vocabulary is None, context=length is None)
    is_known = rms_eps is not None or model.rms_eps is not None
    conclusions = study_of(file)[1] if needs_study or not is_known else None
    era = conclusions.era if conclusions else conclude(model.evidence)
    epsilon = epsilon_of(rms_eps, model.rms_eps, era)
    return Choices(
        model,
        vocabulary,
        length,
        epsilon,
        era,
        conclusions,
        facts=(epsilon, *_model_facts(model, vocabulary, file.damage, context_length)),
        warnings=(*file.findings, *_left_out(file, model)),
        inputs=(file.path,) if vocab is None else (file.path, os.fspath(vocab)),
    )


def plan_model(file: File, options: ModelOptions = ModelOptions()) -> Plan:  # noqa: B008
    """Plan a GGUF model for present-day llama.cpp.

    The exceptions are those of `export_model`. `MissingError` is raised if the vocabulary or the context length is
    neither given nor told by the file.
    """
    if options.dtype is not None:
        raise UsageError("dtype means nothing for a GGUF model for llama.cpp", "Leave it out.")
    chosen = choose(file, options)
    return Plan(
        target=GGUF,
        file=file,
        inputs=chosen.inputs,
        parts={WHOLE: chosen.gguf(options.name)},
        facts=chosen.facts,
        warnings=chosen.warnings,
        next=(Command("run", ("llama-completion", "-m", OUTPUT, "-p", "Once upon a time")),),
    )


def _missing(model: Model, *, vocab: bool, context: bool) -> MissingError:
    """Return the error that names all that is missing."""
    missing = {}
    if vocab:
        hint = f"{VOCABULARY_NEEDED} {OF_LLAMA_HINT}" if model.n_vocab == OF_LLAMA else VOCABULARY_NEEDED
        missing["vocab"] = "contains no vocabulary", hint
    if context:
        reason = f" ({model.context.reason})" if model.context.reason else ""
        missing["context_length"] = f"does not tell the context length{reason}", CONTEXT_NEEDED
    whats, hints = zip(*missing.values(), strict=True)
    return MissingError(f"{model.path} {' and '.join(whats)}", " ".join(hints), tuple(missing))


def _model_facts(
    model: Model, vocabulary: Vocabulary, damage: MalformedError | None, context_length: int | None
) -> Iterator[Fact]:
    """Yield where the parts of a model are from; `context_length` is what the user states."""
    yield from damage_facts(damage, "model")
    known = model.context
    if context_length is None:
        yield Fact("context length", f"{known.tokens} tokens", known.reason)
    else:
        differs = known.tokens is not None and known.tokens != context_length
        warning = f"but the file says {known.text}" if differs else ""
        yield Fact("context length", f"{context_length} tokens", "stated by the user", warning)
    yield from rotation_facts(model.n_rot, *model.rotation)
    described = {
        "path": vocabulary.path,
        "kind": vocabulary.kind,
        "tokens": vocabulary.n_tokens,
        "note": vocabulary.note or None,
    }
    n_tokens = counted(vocabulary.n_tokens, "token")
    yield Fact("vocabulary", f"{vocabulary.path}, {vocabulary.kind}, {n_tokens}", value=described)
    if vocabulary.note:
        yield Fact("vocabulary", vocabulary.note)


def _left_out(file: File, model: Model) -> Iterator[Finding]:
    """Yield the tensors of a GGUF file that belong neither to the model nor to the optimizer."""
    for tensor in file.tensors.values():
        path, name, _ = file.names_of(tensor)
        if name is not None and path not in model.tensors and not names.is_optimizer(name):
            yield Finding("tensor_infos", f"{name!r} is no tensor of a llama model and is left out")


# The GGUF model ---------------------------------------------------------------------------------------------


def model_content(
    model: Model, vocabulary: Vocabulary, context_length: int, rms_eps: float, name: str | None = None
) -> Gguf:
    """Return the keys and tensors of a model that llama.cpp runs, without the state of the training.

    `context_length` is in tokens, `name` that of `name_of`.
    """
    keys = [
        *hparam_keys(model, context_length),
        KeyValue(names.RMS_EPSILON, "FLOAT32", rms_eps),
        *_general_keys(model, name_of(model, name)),
        *vocabulary.keys,
    ]
    written = {entry.key for entry in keys} | {names.NAME}
    return Gguf([*keys, *(entry for entry in model.kept if entry.key not in written)], model_tensors(model))


def check_vocabulary(model: Model, vocabulary: Vocabulary) -> None:
    """Check that the vocabulary has as many tokens as the model. Raises `UsageError`."""
    if vocabulary.n_tokens != model.n_vocab:
        raise UsageError(
            f"the vocabulary has {vocabulary.n_tokens} tokens; the model {model.path} was trained with {model.n_vocab}",
            "Use the file that was the trainer's --vocab-model, or one with the same vocabulary.",
        )


def name_of(model: Model, stated: str | None) -> str:
    """Return the name of a model: as stated, or else as its file stores it, or the name of the file."""
    name = stated
    if name is None:
        name = Path(model.path).stem if model.name is None else model.name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file name may be any bytes


def hparam_keys(model: Model, context_length: int | None = None) -> list[KeyValue]:
    """Return the keys that follow from the model; the context length, which no checkpoint stores, if it is given."""
    dimension_count, freq_base = model.rotation
    counts = {
        names.CONTEXT_LENGTH: context_length,
        names.EMBEDDING_LENGTH: model.n_embd,
        names.FEED_FORWARD_LENGTH: model.n_ff,
        names.HEAD_COUNT: model.n_head,
        names.HEAD_COUNT_KV: model.n_head if model.n_head_kv is None else model.n_head_kv,
        names.BLOCK_COUNT: model.n_layer,
        names.ROPE_DIMENSION_COUNT: dimension_count,
        names.VOCAB_SIZE: model.n_vocab,
    }
    return [
        KeyValue(names.ARCHITECTURE, "STRING", "llama"),
        KeyValue(names.FILE_TYPE, "UINT32", model.file_type),
        *(KeyValue(key, "UINT32", count) for key, count in counts.items() if count is not None),
        KeyValue(names.ROPE_FREQ_BASE, "FLOAT32", freq_base),
        KeyValue(names.ROPE_SCALE_LINEAR, "FLOAT32", model.freq_scale),
    ]


def _general_keys(model: Model, name: str) -> list[KeyValue]:
    from gguf.constants import GGML_QUANT_VERSION
    from gguf.utility import size_label

    return [
        *([KeyValue(names.NAME, "STRING", name)] if name else []),
        KeyValue(names.SIZE_LABEL, "STRING", size_label(model.n_params, 0, 0, 0)),
        KeyValue(names.QUANTIZATION_VERSION, "UINT32", GGML_QUANT_VERSION),
    ]


def model_tensors(model: Model) -> list[TensorEntry]:
    """Return the model's tensors."""
    return [stored(str(names.tensor_name(path)), tensor) for path, tensor in model.tensors.items()]
