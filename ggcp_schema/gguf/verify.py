"""Compares a GGUF file with what it should hold, and proves that it holds what a checkpoint does."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import isfinite, isnan
from typing import NamedTuple

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import Entry, KeyValue, Progress, TensorEntry, key_values, tensor_data, tensor_entries
from ggcp_schema.gguf.reader import GgufFile, open_gguf
from ggcp_schema.gguf.resume import resume_entries

RESUME, MODEL = "resume", "model"
OPTIONAL_KEYS = (keys.HEAD_COUNT_KV, keys.VOCAB_SIZE, keys.ROPE_FREQ_BASE, keys.ROPE_SCALE_LINEAR)
"""Keys that the trainer did not always write: they follow from others, or are as llama.cpp takes them to be."""


class Difference(NamedTuple):
    """What is not as it should be: `kind` is key, tensor (its presence, type or shape), data, or file."""

    kind: str
    name: str
    message: str

    def __str__(self) -> str:
        subject = {"key": self.name, "file": "the file"}.get(self.kind, f"tensor {self.name}")
        return f"{subject} {self.message}"


def differences(
    path: str | os.PathLike[str], entries: Sequence[Entry], *, data: bool, progress: Progress | None = None
) -> Iterator[str]:
    """What in the GGUF file is not as the entries say: keys, types and values; the tensor table and the size;
    with `data` every byte of the tensors, in constant memory. Nothing, if it is all there and no more."""
    with open_gguf(path) as gguf:
        yield from map(str, _in_keys(gguf, key_values(entries)))
        for key in extra_keys(gguf, key_values(entries)):
            yield f"{key} is not in the checkpoint"
        yield from map(str, _in_table(gguf, tensor_entries(entries)))
        if gguf.size != gguf.data_end:
            yield f"the file has {gguf.size} bytes, its tensors end at {gguf.data_end}"
        elif data:
            yield from map(str, _in_data(gguf, tensor_entries(entries), progress))


class Proof(NamedTuple):
    """What was compared of a checkpoint and a GGUF file, and what differs.

    `kind` is resume or model. `keys`, `tensors` and `nbytes` (of tensor data) count what was compared; `n_params`
    is the number of the model's parameters in the GGUF file. `extra_keys` are those that no checkpoint speaks of,
    as the vocabulary's; `rms_eps` is as the GGUF file has it, None if it has none that could be right.
    """

    kind: str
    keys: int
    tensors: int
    nbytes: int
    n_params: int
    rms_eps: float | None
    extra_keys: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        return not self.differences


def verify(ckpt: Checkpoint, gguf: GgufFile, progress: Progress | None = None) -> Proof:
    """Compares all that the checkpoint holds with the GGUF file: keys, types and values, the tensor table, every byte.

    The file may be one to resume from, by whatever program, or a model to run. Keys beyond the checkpoint's do no
    harm; tensors do. The epsilon of the RMS norm, which no checkpoint states, must be a positive number. Raises
    `UsageError` if no such file can be made of the checkpoint.
    """
    kind = kind_of(gguf)
    entries = resume_entries(ckpt) if kind == RESUME else _model_entries(ckpt, gguf)
    expected = [
        entry
        for entry in key_values(entries)
        if entry.key != keys.RMS_EPSILON and (entry.key in gguf.keys or entry.key not in OPTIONAL_KEYS)
    ]
    tensors = tensor_entries(entries)
    n_params = sum(tensor.n_elements for name, tensor in gguf.tensors.items() if _is_weight(name))
    rms_eps = gguf.keys.get(keys.RMS_EPSILON)
    found = [
        *_in_keys(gguf, expected),
        *_in_rms_epsilon(rms_eps),
        *_in_vocabulary(ckpt, gguf, required=kind == MODEL),
        *_in_table(gguf, tensors),
    ]
    if n_params != ckpt.n_params:
        found.append(Difference("file", "", f"has {n_params} parameters, not {ckpt.n_params}"))
    if gguf.size > gguf.data_end:
        found.append(Difference("file", "", f"has {gguf.size - gguf.data_end} more bytes behind its last tensor"))
    found += _in_data(gguf, tensors, progress)
    comparable = _comparable(gguf, tensors)
    return Proof(
        kind,
        sum(entry.key in gguf.keys for entry in expected),
        len(comparable),
        sum(tensor.nbytes for tensor in comparable),
        n_params,
        None if rms_eps is None or [*_in_rms_epsilon(rms_eps)] else rms_eps.value,
        tuple(key for key in extra_keys(gguf, key_values(entries)) if key != keys.RMS_EPSILON),
        tuple(found),
    )


def kind_of(gguf: GgufFile) -> str:
    """Whether the file is one to resume training from, or a model."""
    training = keys.TRAINING_TYPE in gguf.keys or keys.OPTIMIZER_TYPE in gguf.keys
    return RESUME if training or any(name.startswith("optimizer.") for name in gguf.tensors) else MODEL


def _model_entries(ckpt: Checkpoint, gguf: GgufFile) -> list[Entry]:
    """What a model has of the checkpoint, by `export` or by the trainer itself.

    Where only a part of each head is rotated, the trainer said so in a key, which present-day programs ignore.
    """
    from ggcp_schema.gguf import model

    source = model.model_of(ckpt)
    if source.n_rot == source.head_size or keys.ROPE_FREQS in gguf.tensors:
        return [*model.hparam_keys(source), *model.model_tensors(source)]
    rotated = KeyValue(keys.ROPE_DIMENSION_COUNT, "UINT32", source.n_rot)
    return [
        *(rotated if entry.key == rotated.key else entry for entry in model.hparam_keys(source)),
        *(entry for entry in model.model_tensors(source) if entry.name != keys.ROPE_FREQS),
    ]


def extra_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> list[str]:
    """The keys of the file that are not among those expected, in file order."""
    known = {entry.key for entry in expected}
    return [key for key in gguf.keys if key not in known]


def _in_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[Difference]:
    for entry in expected:
        found = gguf.keys.get(entry.key)
        if found is None:
            yield Difference("key", entry.key, "is missing")
        elif found.type != entry.type:
            yield Difference("key", entry.key, f"has type {found.type}, not {entry.type}")
        elif not same_value(found.value, entry.value):
            yield Difference("key", entry.key, f"is {found.value!r}, not {entry.value!r}")


def _in_rms_epsilon(entry: KeyValue | None) -> Iterator[Difference]:
    if entry is None:
        yield Difference("key", keys.RMS_EPSILON, "is missing")
    elif entry.type != "FLOAT32":
        yield Difference("key", keys.RMS_EPSILON, f"has type {entry.type}, not FLOAT32")
    elif not (isfinite(entry.value) and entry.value > 0):
        yield Difference("key", keys.RMS_EPSILON, f"is {entry.value!r}, not a positive number")


def _in_vocabulary(ckpt: Checkpoint, gguf: GgufFile, *, required: bool) -> Iterator[Difference]:
    tokens = gguf.keys.get(keys.TOKENS)
    if tokens is None:
        if required:
            yield Difference("key", keys.TOKENS, "is missing")
    elif tokens.type != "ARRAY/STRING" or len(tokens.value) != ckpt.hparams.n_vocab:
        count = len(tokens.value) if isinstance(tokens.value, Collection) else 1
        yield Difference("key", keys.TOKENS, f"is {count} {tokens.type}, not {ckpt.hparams.n_vocab} ARRAY/STRING")


def _in_table(gguf: GgufFile, expected: Sequence[TensorEntry]) -> Iterator[Difference]:
    names = {entry.name for entry in expected}
    for entry in expected:
        if entry.name not in gguf.tensors:
            yield Difference("tensor", entry.name, "is missing")
    for name in gguf.tensors:
        if name not in names:
            yield Difference("tensor", name, "is not in the checkpoint")
    for entry in expected:
        tensor = gguf.tensors.get(entry.name)
        if tensor is not None and (tensor.type, tensor.shape) != ("F32", entry.shape):
            message = f"is {tensor.type} {list(tensor.shape)}, not F32 {list(entry.shape)}"
            yield Difference("tensor", entry.name, message)


def _comparable(gguf: GgufFile, expected: Sequence[TensorEntry]) -> list[TensorEntry]:
    return [
        entry
        for entry in expected
        if (tensor := gguf.tensors.get(entry.name)) and (tensor.type, tensor.shape) == ("F32", entry.shape)
    ]


def _in_data(gguf: GgufFile, expected: Sequence[TensorEntry], progress: Progress | None) -> Iterator[Difference]:
    import numpy as np

    both = _comparable(gguf, expected)
    written = tensor_data([TensorEntry(entry.name, gguf.tensors[entry.name]) for entry in both])
    original = tensor_data(both)
    for entry in both:
        at = count = first = 0
        while at < entry.nbytes:
            found, wanted = (np.frombuffer(next(data), "<u4") for data in (written, original))
            if not np.array_equal(found, wanted):
                wrong = np.flatnonzero(found != wanted)
                first = first if count else at // 4 + int(wrong[0])
                count += len(wrong)
            at += wanted.nbytes
            if progress:
                progress(wanted.nbytes)
        if count:
            message = f"differs from element {first} on, in {count} of {entry.nbytes // 4}"
            yield Difference("data", entry.name, message)


def _is_weight(name: str) -> bool:
    path = keys.field_path(name)
    return path is not None and not path.startswith("optimizer.")


def same_value(a: object, b: object) -> bool:
    """Equality in which a NaN equals a NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (isnan(a) and isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    return type(a) is type(b) and a == b
