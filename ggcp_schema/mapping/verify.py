"""Compare a GGUF file, by this package or by another program, with the file it was made from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from math import isfinite
from typing import NamedTuple

from ggcp_schema.errors import UsageError
from ggcp_schema.files.compare import Difference, comparable, data_differences
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats.file import File
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.llama import names
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.parameters import ORDERS
from ggcp_schema.llama.rotation import FREQ_BASE, n_rot_of
from ggcp_schema.llama.training import Training, study
from ggcp_schema.llama.vocabulary import key_type
from ggcp_schema.mapping.export import hparam_keys, model_tensors
from ggcp_schema.mapping.gguf import Gguf, differences, extra_keys
from ggcp_schema.mapping.plan import Kind, rescued
from ggcp_schema.mapping.resume import Recipe, kept_rotation, resume_content, verbatim_recipe
from ggcp_schema.mapping.vocabulary import vocabulary_of

FOLDERS = ("hf", "peft")
COMPARED, NO_TOKENS = "compared", "not compared without the vocabulary it was made with"
OPTIONAL_KEYS = (names.HEAD_COUNT_KV, names.VOCAB_SIZE, names.ROPE_SCALE_LINEAR)
"""Keys that the trainer did not always write: they follow from others, or have llama.cpp's default."""

SEPARATE_KEYS = (names.RMS_EPSILON, names.ROPE_DIMENSION_COUNT, names.ROPE_FREQ_BASE)
"""Keys that are not compared for equality: any epsilon is allowed, and a rotation can be stated in several ways."""


RESTATED_KEYS = (names.NAME, names.SIZE_LABEL, names.QUANTIZATION_VERSION, names.CONTEXT_LENGTH)
"""Keys of a model that `export` writes anew, as stated or as it computes them."""


class Compared(NamedTuple):
    """How much was compared: keys, also of the JSON of a folder, bytes of the tensors' data, the model's parameters."""

    keys: int
    tensors: int
    bytes: int
    parameters: int


@json_keys("checkpoint kind same optimizer tokens compared rms_eps extra_keys differences gguf folder")
class Verification(NamedTuple):
    """What was compared between a checkpoint and a GGUF file, and what differs.

    Attributes:
        checkpoint, output: the paths.
        kind: resume, model, adapter, or of a folder hf or peft.
        compared: how much was compared.
        rms_eps: the epsilon of the GGUF file, None if missing or invalid.
        optimizer: how the optimizer's vectors were changed, in words; None for a model.
        extra_keys: the keys that have no counterpart in a checkpoint, as the vocabulary's.
        differences: what differs; empty if nothing does.
        tokens: whether the tokens were compared, in words; None for a file to resume from.
    """

    checkpoint: str
    output: str
    kind: Kind
    compared: Compared
    rms_eps: float | None
    optimizer: str | None
    extra_keys: tuple[str, ...]
    differences: tuple[Difference, ...]
    tokens: str | None = None

    @property
    def same(self) -> bool:
        """True if nothing differs."""
        return not self.differences

    @property
    def gguf(self) -> str | None:
        """The path of the GGUF file; None if it is a folder."""
        return None if self.kind in FOLDERS else self.output

    @property
    def folder(self) -> str | None:
        """The path of the folder; None if it is a GGUF file."""
        return self.output if self.kind in FOLDERS else None


def verify(
    file: File,
    gguf: GgufFile,
    progress: Progress | None = None,
    *,
    vocab: str | os.PathLike[str] | None = None,
    partial: bool = False,
) -> Verification:
    """Compare what a file contains with the GGUF file made from it: keys, types and values, tensor table, every byte.

    The GGUF file may be one to resume from, by any program, or a model to run. Vectors that `convert` wrote in another
    order or scale are compared through the same permutation and division, value by value. Extra keys are ignored; extra
    tensors are differences. What may be stated anew is not compared: a name, the context length, and the epsilon of the
    RMS norm, which must be a positive number. `vocab` is the vocabulary of a model, as for `verify_folder`; with
    `partial`, a damaged file is accepted if the model is whole. Raises `UsageError` if no such file can be made from
    the file.
    """
    if file.damage is not None and not partial:
        raise rescued(file, "Use partial=True to compare it.")
    kind = kind_of(gguf)
    tokens = None
    if kind == "resume":
        if vocab is not None:
            raise UsageError(f"{gguf.path} is a checkpoint to resume from, which no vocabulary is for", "Leave it out.")
        training = file.training() if file.damage is None else file.model_training()
        recipe = recipe_of(file, training, gguf)
        model, content, optimizer = training.model, resume_content(file, training, recipe), _in_words(recipe)
    else:
        model = file.model()
        vocabulary = vocabulary_of(file, model, vocab)
        tokens, tokenizer = (NO_TOKENS, ()) if vocabulary is None else (COMPARED, vocabulary.keys)
        kept = (entry for entry in model.kept if entry.key in gguf.key_values and entry.key not in RESTATED_KEYS)
        keys = {entry.key: entry for entry in (*kept, *hparam_keys(model), *tokenizer)}
        content, optimizer = Gguf([*keys.values()], model_tensors(model)), ""
    expected = [
        entry
        for entry in content.keys
        if not _is_separate(entry.key) and (entry.key in gguf.key_values or entry.key not in OPTIONAL_KEYS)
    ]
    tensors = content.tensors
    n_params = sum(
        tensor.n_elements
        for name, tensor in gguf.tensors.items()
        if names.field_path(name) is not None and not names.is_optimizer(name)
    )
    epsilon = gguf.key_values.get(names.RMS_EPSILON)
    wrong_epsilon = [*_epsilon_differences(epsilon)]
    found = [
        *(item for item in differences(gguf, expected, tensors, progress=progress) if item.name != names.ROPE_FREQS),
        *_rotation_differences(model, gguf),
        *wrong_epsilon,
        *_vocabulary_differences(model, gguf, required=kind == "model"),
    ]
    if n_params != model.n_params:
        found.append(Difference("file", "", f"has {n_params} parameters, expected {model.n_params}"))
    compared = comparable(gguf.tensors, tensors)
    extra = extra_keys(gguf, expected)
    n_keys = sum(entry.key in gguf.key_values for entry in expected) + (names.ROPE_DIMENSION_COUNT in gguf.key_values)
    return Verification(
        file.path,
        gguf.path,
        kind,
        Compared(n_keys, len(compared), sum(tensor.nbytes for tensor in compared), n_params),
        epsilon.value if epsilon and not wrong_epsilon else None,
        optimizer or None,
        tuple(key for key in extra if not _is_separate(key)),
        tuple(found),
        tokens,
    )


def _is_separate(key: str) -> bool:
    """Check if a key is not compared for equality, as the record of what `convert` did."""
    return key in SEPARATE_KEYS or key.startswith(names.CONVERTED)


def kind_of(gguf: GgufFile) -> Kind:
    """Return whether the file is one to resume training from, or a model."""
    training = names.TRAINING_TYPE in gguf.key_values or names.OPTIMIZER_TYPE in gguf.key_values
    return "resume" if training or any(names.is_optimizer(name) for name in gguf.tensors) else "model"


def recipe_of(file: File, training: Training, gguf: GgufFile) -> Recipe:
    """Return how the GGUF file was made from the file, as far as its keys tell.

    A file without these keys holds the vectors as they are in the checkpoint; or in order C, if a program dropped the
    keys. Order C is assumed if the checkpoint's order is another one and the vectors agree.
    """
    order, scale = gguf.value(names.CONVERTED_FROM_ORDER), gguf.value(names.CONVERTED_SCALE)
    recipe = verbatim_recipe(training)._replace(
        order=order if isinstance(order, str) and order in ORDERS else None,
        scale=scale if isinstance(scale, int) and scale > 0 else 1,
        rotation=kept_rotation(training)[0],
        fresh=gguf.value(names.CONVERTED_FRESH) is True or file.damage is not None,
        verbatim=False,
    )
    if order is None and not recipe.fresh:
        decision = study(training).order
        other = recipe._replace(order=decision.order if decision.is_certain else None)
        if other.permutes and not _agrees(file, training, gguf, recipe) and _agrees(file, training, gguf, other):
            return other
    return recipe


def _agrees(file: File, training: Training, gguf: GgufFile, recipe: Recipe) -> bool:
    """Return True if no vector of the optimizer's state differs from what the recipe gives."""
    vectors = [entry for entry in resume_content(file, training, recipe).tensors if names.is_optimizer(entry.name)]
    return next(data_differences(gguf.tensors, vectors), None) is None


def _in_words(recipe: Recipe) -> str:
    if recipe.fresh:
        return "an optimizer that has not started yet"
    changes = [f"the optimizer's vectors from order {recipe.order} in order C"] if recipe.permutes else []
    if recipe.scale != 1:
        changes.append(f"m divided by {recipe.scale:,}, v by its square")
    return ", ".join(changes) or "the optimizer's vectors as in the checkpoint"


def _rotation_differences(model: Model, gguf: GgufFile) -> Iterator[Difference]:
    """Compare the rotation that the file states with that of n_rot."""
    if names.ROPE_FREQS in gguf.tensors:
        yield Difference("tensor", names.ROPE_FREQS, "changes the rotation, which no trainer of 2023 did")
    count, base = gguf.value(names.ROPE_DIMENSION_COUNT), gguf.value(names.ROPE_FREQ_BASE, FREQ_BASE)
    if not isinstance(count, int) or not isinstance(base, float):
        wrong = gguf.key_values.get(names.ROPE_FREQ_BASE if isinstance(count, int) else names.ROPE_DIMENSION_COUNT)
        message = f"has type {wrong.type}" if wrong else "is missing"
        yield Difference("key", wrong.key if wrong else names.ROPE_DIMENSION_COUNT, message)
        return
    as_stored = count == model.n_rot and base == model.freq_base  # also of an impossible n_rot
    if not as_stored and n_rot_of(count, base) != (n_rot_of(model.n_rot, model.freq_base) or model.n_rot):
        stated = f"{count} with {names.ROPE_FREQ_BASE} {base:g}"
        message = f"is {stated}, which is not the rotation of n_rot {model.n_rot}"
        yield Difference("key", names.ROPE_DIMENSION_COUNT, message)


def _epsilon_differences(entry: KeyValue | None) -> Iterator[Difference]:
    if entry is None:
        yield Difference("key", names.RMS_EPSILON, "is missing")
    elif entry.type != "FLOAT32":
        yield Difference("key", names.RMS_EPSILON, f"has type {entry.type}, expected FLOAT32")
    elif not (isfinite(entry.value) and entry.value > 0):
        yield Difference("key", names.RMS_EPSILON, f"is {entry.value!r}, expected a positive number")


def _vocabulary_differences(model: Model, gguf: GgufFile, *, required: bool) -> Iterator[Difference]:
    tokens = gguf.key_values.get(names.TOKENS)
    if tokens is None:
        if required:
            yield Difference("key", names.TOKENS, "is missing")
    elif tokens.type != key_type(names.TOKENS):
        yield Difference("key", names.TOKENS, f"has type {tokens.type}, expected {key_type(names.TOKENS)}")
    elif isinstance(tokens.value, Collection) and len(tokens.value) != model.n_vocab:
        yield Difference("key", names.TOKENS, f"has {len(tokens.value)} tokens, expected {model.n_vocab}")
