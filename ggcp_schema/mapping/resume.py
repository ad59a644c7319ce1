"""A training state as the GGUF checkpoint that the trainers of late August 2023 and after resume from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.errors import UnfitError, UsageError, shell_word
from ggcp_schema.files.key_values import INTEGERS, KeyValue, is_copied
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import FileData, TensorEntry, Transform, Zeros, stored
from ggcp_schema.formats.file import File
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import DEFAULT_RMS_EPS, EraConclusion
from ggcp_schema.llama.keys import trainer_keys
from ggcp_schema.llama.parameters import FLAT_FIELDS, RESUME_ORDER, permuted_extents
from ggcp_schema.llama.rotation import FREQ_BASE
from ggcp_schema.llama.scale import divided
from ggcp_schema.llama.training import Training
from ggcp_schema.schema.inference import ADAM

if TYPE_CHECKING:
    from ggcp_schema.mapping.gguf import Gguf

FRESH = {
    names.TRAINING_ITERATION_COUNT: 0,  # the trainers take the optimizer's iteration from this key
    names.OPTIMIZER_ITERATION_COUNT: 0,
    names.OPTIMIZER_TYPE: ADAM,
    names.ADAM_NO_IMPROVEMENT_COUNT: 0,
}
"""The values of an Adam that has not started yet."""

LBFGS_KEYS = "optimizer.lbfgs."
PAST = range(1 << 31)  # a C int

ADDED = ((names.HEAD_COUNT_KV, "UINT32", "hparams.n_head"), (names.VOCAB_SIZE, "UINT32", "hparams.n_vocab"))
"""Keys that the converter of 2023 did not write."""


class Recipe(NamedTuple):
    """How the values of a training state are written.

    Attributes:
        rms_eps: the epsilon of the RMS norm.
        order: the order of the flat vectors if they are to be written in order C; None copies them as they are.
        scale: what m is divided by, and v by its square.
        rotation: `rope.dimension_count` and, unless None, `rope.freq_base`.
        fresh: write an optimizer that has not started yet.
        verbatim: write only the keys that the converter of 2023 wrote.
        record: what was known of the ggcp file, as keys.
        scale_certain: True unless the scale is an estimate.
    """

    rms_eps: float
    order: str | None
    scale: int
    rotation: tuple[int, float | None]
    fresh: bool = False
    verbatim: bool = False
    record: tuple[KeyValue, ...] = ()
    scale_certain: bool = False

    @property
    def permutes(self) -> bool:
        """True if the flat vectors are written in another order than they are stored in."""
        return self.order is not None and self.order != RESUME_ORDER and not self.fresh


def verbatim_recipe(training: Training) -> Recipe:
    """Return how the converter of 2023 wrote a checkpoint: epsilon 1e-5, the vectors and n_rot as they are."""
    return Recipe(DEFAULT_RMS_EPS, None, 1, (training.model.n_rot, None), verbatim=True)


def record_of(training: Training, era: EraConclusion, *, certain: bool) -> tuple[KeyValue, ...]:
    """Return keys that keep what is known of the program that wrote a ggcp file; none for a GGUF file.

    `certain` tells whether the epsilon is that of all programs that may have written the file.
    """
    if training.model.evidence.is_gguf or not era.writers:
        return ()
    threads = training.n_threads if "last-rows" in era.losses else None
    return (
        KeyValue(names.CONVERTED_WRITERS, "STRING", " ".join(writer.key for writer in era.writers)),
        KeyValue(names.CONVERTED_EPSILON_CERTAIN, "BOOL", certain),
        *([KeyValue(names.CONVERTED_THREADS, "UINT32", threads)] if threads is not None and threads > 0 else []),
    )


def kept_rotation(training: Training) -> tuple[tuple[int, float | None], str]:
    """Return the rotation's keys, and the reason if they must be written as stored; otherwise an empty text.

    They are `rope.dimension_count` and `rope.freq_base`, which is None where it is the default of the trainers that
    resume.
    """
    try:
        dimension_count, freq_base = training.model.rotation
    except UsageError as error:
        return (training.model.n_rot, None), error.message
    return (dimension_count, None if freq_base == FREQ_BASE else freq_base), ""


def resume_content(file: File, training: Training, recipe: Recipe) -> Gguf:
    """Return the keys and tensors of the resume checkpoint, in the order in which the trainer wrote them.

    A GGUF checkpoint keeps its own keys, and the order of its tensors. Raises `UnfitError` if a count is out of range
    for its GGUF type, `UsageError` if something cannot be copied.
    """
    from ggcp_schema.mapping.gguf import Gguf  # `info`, which asks for the keys only, starts without it

    if recipe.fresh and training.past not in PAST:  # of which it writes as many zeros
        raise UnfitError(
            f"{file.path}: {names.OPTIMIZER_PAST_COUNT} is {training.past}, more than a trainer can count",
            f"Write a copy with another value: `ggcp-schema edit INPUT OUTPUT {names.OPTIMIZER_PAST_COUNT}=0`.",
        )
    try:
        keys = resume_keys(training, recipe)
    except UnfitError as error:
        raise UnfitError(f"{file.path}: {error.message}", error.hint) from error
    if recipe.fresh:
        keys = [*_fresh_keys(keys)]
    return Gguf(keys, [*_tensors(file, training, recipe)])


def resume_keys(training: Training, recipe: Recipe) -> list[KeyValue]:
    """Return the keys of the resume checkpoint: those of the file with what changes, or made of the training."""
    return _made_keys(training, recipe) if training.keys is None else _kept_keys(training, training.keys, recipe)


def _fresh_keys(keys: Iterable[KeyValue]) -> Iterator[KeyValue]:
    """Yield the keys with the values they have before an Adam starts; L-BFGS, from which no trainer goes on, ends."""
    losses = (names.ADAM_BEST_LOSS, names.ADAM_PREVIOUS_LOSS)
    for entry in keys:
        if entry.key in FRESH:
            yield _fresh_key(entry.key, entry.type)
        elif not entry.key.startswith(LBFGS_KEYS):
            yield entry
        elif entry.key == names.LBFGS_BEST_LOSS:
            yield from (KeyValue(key, entry.type, entry.value) for key in losses)
        elif entry.key == names.LBFGS_NO_IMPROVEMENT_COUNT:
            yield _fresh_key(names.ADAM_NO_IMPROVEMENT_COUNT, entry.type)


def _fresh_key(key: str, type: str) -> KeyValue:
    """Return a key of an Adam that has not started yet, of the type in the file, unless the value does not fit it."""
    value = FRESH[key]
    usual = "STRING" if isinstance(value, str) else "UINT32"
    return KeyValue(key, type if type == usual or type in INTEGERS else usual, value)


def _made_keys(training: Training, recipe: Recipe) -> list[KeyValue]:
    model = training.model
    if not model.n_ff:
        raise UsageError(f"{model.path}: n_ff is unknown, because the model has no layers and n_mult is 0")
    dimension_count, freq_base = recipe.rotation
    written = {"hparams.n_rot": dimension_count, "n_ff": model.n_ff}

    def key_of(key: str, type: str, path: str) -> KeyValue:
        return KeyValue(key, type, written[path]) if path in written else _key_of_field(training, key, type, path)

    keys = trainer_keys(names.TRAIN_MODEL, recipe.rms_eps, training.optimizer, key_of)
    if not recipe.verbatim:
        keys += starmap(key_of, ADDED)
        if freq_base is not None:
            keys.append(KeyValue(names.ROPE_FREQ_BASE, "FLOAT32", freq_base))
        keys += _recorded(recipe)
    return keys


def _key_of_field(training: Training, key: str, type: str, path: str) -> KeyValue:
    """Return the key with the value of a field. Raises `UnfitError` with a remedy if it is out of range."""
    value = training.value(path)
    try:
        return KeyValue(key, type, bool(value) if type == "BOOL" else value)
    except UnfitError as error:
        allowed = INTEGERS[type]
        words = "ggcp-schema", "edit", training.model.path, "OUTPUT", f"{path}={max(allowed.start, 0)}"
        remedy = f"Write a copy with another value: {' '.join(map(shell_word, words))}"
        raise UnfitError(
            f"{path} is {value}, but {key} ({type}) holds {allowed.start} to {allowed.stop - 1}",
            remedy if path in training.stated else "",
        ) from error


def _recorded(recipe: Recipe) -> list[KeyValue]:
    """Return the keys that record how the optimizer's vectors were changed, so that `verify` can compare them."""
    if recipe.fresh:
        return [*recipe.record, KeyValue(names.CONVERTED_FRESH, "BOOL", True)]
    changes = list(recipe.record)
    if recipe.permutes:
        changes.append(KeyValue(names.CONVERTED_FROM_ORDER, "STRING", recipe.order))
    if recipe.scale != 1:
        changes.append(KeyValue(names.CONVERTED_SCALE, "UINT64", recipe.scale))
        changes.append(KeyValue(names.CONVERTED_SCALE_CERTAIN, "BOOL", recipe.scale_certain))
    return changes


def _kept_keys(training: Training, keys: Iterable[KeyValue], recipe: Recipe) -> list[KeyValue]:
    dimension_count, freq_base = recipe.rotation
    changed = {
        names.RMS_EPSILON: KeyValue(names.RMS_EPSILON, "FLOAT32", recipe.rms_eps),
        names.ROPE_DIMENSION_COUNT: KeyValue(names.ROPE_DIMENSION_COUNT, "UINT32", dimension_count),
    }
    if freq_base is not None:
        changed[names.ROPE_FREQ_BASE] = KeyValue(names.ROPE_FREQ_BASE, "FLOAT32", freq_base)
    changed |= {entry.key: entry for entry in _recorded(recipe)}
    kept = [changed.pop(entry.key, entry) for entry in keys if is_copied(training.model.path, entry)]
    return [*kept, *changed.values()]


def _tensors(file: File, training: Training, recipe: Recipe) -> Iterator[TensorEntry]:
    """Yield the tensors that have a GGUF name. A NULL is not written."""
    state = {tensor.path: field for field, tensor in training.state.items()}
    for path, tensor in file.tensors.items():
        _, name, _ = file.names_of(tensor)
        if name is None or tensor.is_null or (recipe.fresh and (names.field_path(name) or "").startswith(names.STATE)):
            continue
        field = state.get(path)
        if field is None:
            yield stored(name, tensor)
        else:
            yield _changed(stored(name, tensor), tensor, field, training, recipe)
    if recipe.fresh:
        for field, count in {"m": training.model.n_params, "v": training.model.n_params, "pf": training.past}.items():
            if count:
                name = str(names.tensor_name(f"{names.STATE}{field}", ADAM))
                yield TensorEntry(name, (count,), Zeros())


def _changed(entry: TensorEntry, tensor: Tensor, field: str, training: Training, recipe: Recipe) -> TensorEntry:
    """Return the entry of a tensor of the optimizer's state in the order and the scale of the recipe."""
    data = entry.data
    divisor = recipe.scale ** {"m": 1, "v": 2}.get(field, 0)
    if not isinstance(data, FileData) or field not in FLAT_FIELDS or (divisor == 1 and not recipe.permutes):
        return entry
    extents, transform = data.extents, data.transform
    if recipe.permutes:
        extents = tuple(permuted_extents(tensor, str(recipe.order), RESUME_ORDER, training.model.tensors))
    if divisor != 1:
        transform = _then(transform, partial(divided, divisor=divisor))
    return entry._replace(data=FileData(data.path, data.source, extents, transform))


def _then(first: Transform | None, second: Transform) -> Transform:
    return second if first is None else lambda chunk: second(first(chunk))
