"""A ggcl checkpoint as the GGUF checkpoint that finetune of 29 August 2023 and after resumes from.

The keys, their order and the tensors are those of convert-finetune-checkpoint-to-gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import stored
from ggcp_schema.formats.file import Converted
from ggcp_schema.formats.lora.files import FINETUNE_LORA, STATE, GgclFile
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import DEFAULT_RMS_EPS
from ggcp_schema.llama.keys import COUNTS, OPTIMIZER
from ggcp_schema.llama.keys import STATE as STATE_KEYS

SIZES = (
    (names.ROPE_DIMENSION_COUNT, "UINT32", "hparams.n_rot"),
    (names.FEED_FORWARD_LENGTH, "UINT32", "n_ff"),
)
RANKS = tuple(
    (f"training.lora.rank.{gguf}", "UINT32", f"n_rank.{field}")
    for field, gguf in (names.MODEL_TENSORS | names.LAYER_TENSORS).items()
)


def resume_content(ggcl: GgclFile) -> Converted:
    """Return the keys and tensors of the checkpoint. Raises the damage of a damaged file.

    Raises `UnfitError` if a count is out of range for its GGUF type, `UsageError` if the model has no layers.
    """
    if ggcl.damage is not None:
        raise ggcl.damage.again()
    adapter = ggcl.adapter()
    if ggcl.get("n_ff") is None:
        raise UsageError(f"{ggcl.path}: n_ff is unknown, because the model has no layers")
    optimizer = str(ggcl.get("optimizer.type"))
    try:
        keys = [
            KeyValue(names.ARCHITECTURE, "STRING", "llama"),
            KeyValue(names.FILE_TYPE, "UINT32", 0),
            KeyValue(names.RMS_EPSILON, "FLOAT32", DEFAULT_RMS_EPS),
            KeyValue(names.TRAINING_FILE_VERSION, "UINT32", 0),
            KeyValue(names.TRAINING_TYPE, "STRING", FINETUNE_LORA),
            *_keys(ggcl, (*COUNTS, *SIZES)),
            *_keys(ggcl, RANKS),
            KeyValue(names.OPTIMIZER_FILE_VERSION, "UINT32", 0),
            *_keys(ggcl, OPTIMIZER),
            *_keys(ggcl, STATE_KEYS[optimizer]),
        ]
    except UnfitError as error:
        raise UnfitError(f"{ggcl.path}: {error.message}", error.hint) from error
    pairs = (
        stored(f"{names.tensor_name(path)}.lora_{part}", tensor)
        for path, pair in adapter.pairs.items()
        for part, tensor in pair._asdict().items()
    )
    state = (
        stored(str(names.tensor_name(path, optimizer)), tensor)
        for path, tensor in ggcl.tensors.items()
        if path.startswith(STATE) and not tensor.is_null
    )
    return Converted(keys, [*pairs, *state])


def _keys(ggcl: GgclFile, table: tuple[tuple[str, str, str], ...]) -> Iterator[KeyValue]:
    for key, kind, path in table:
        value = ggcl.get(path)
        yield KeyValue(key, kind, bool(value) if kind == "BOOL" else value)
