"""A ggcl checkpoint as the GGUF checkpoint that finetune of 29 August 2023 and after resumes from.

The keys, their order and the tensors are those of convert-finetune-checkpoint-to-gguf.py.
"""

from __future__ import annotations

from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import stored
from ggcp_schema.formats.file import Converted
from ggcp_schema.formats.lora.files import FINETUNE_LORA, GgclFile
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import DEFAULT_RMS_EPS
from ggcp_schema.llama.keys import trainer_keys

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

    def key_of(key: str, kind: str, path: str) -> KeyValue:
        value = ggcl.get(path)
        return KeyValue(key, kind, bool(value) if kind == "BOOL" else value)

    try:
        keys = trainer_keys(FINETUNE_LORA, DEFAULT_RMS_EPS, optimizer, key_of, RANKS)
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
        if names.is_optimizer(path) and not tensor.is_null
    )
    return Converted(keys, [*pairs, *state])
