"""The vocabulary in a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggcp_schema.errors import UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.formats.file import ACCEPTED
from ggcp_schema.formats.vocabularies import check_damage, items_of
from ggcp_schema.llama import names
from ggcp_schema.llama.vocabulary import NO_SCORES, NO_TYPES, Vocabulary, damaged, is_id, key_type, shown

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

MODELS = {"llama", "gpt2"}  # the tokenizers whose checkpoints the trainers saved
NO_TOKEN = 0xFFFFFFFF  # the id by which the trainers say that there is no such token


def vocabulary_of_gguf(gguf: GgufFile) -> Vocabulary:
    """Return the tokenizer keys with their types; without empty lists, and ids that stand for "no such token"."""
    check_damage(gguf)
    model = gguf.key_values.get(names.TOKENIZER_MODEL)
    if model is None or names.TOKENS not in gguf.key_values:
        raise UsageError(f"{gguf.path} is a GGUF file without a vocabulary", ACCEPTED)
    if model.type == "STRING" and model.value not in MODELS:
        message = f"its tokenizer is {shown(model.value)}; the trainers supported llama (sentencepiece) and gpt2"
        raise UsageError(f"{gguf.path}: {message}", ACCEPTED)

    if model.value == "gpt2" and names.MERGES not in gguf.key_values:
        raise UsageError(f"{gguf.path}: its tokenizer is gpt2, but {names.MERGES} is missing, which it needs", ACCEPTED)

    def locate(key: str, index: int | None) -> tuple[str, int]:
        path = key if index is None else f"{key}[{index}]"
        return path, gguf.find(path).offset

    keys = []
    for key, entry in gguf.key_values.items():
        if key.startswith(names.TOKENIZER):
            expected = key_type(key)
            if expected and entry.type != expected:
                raise damaged(gguf.path, *locate(key, None), f"a value of type {expected}", entry.type)
            if entry.type == "ARRAY/ARRAY":
                raise damaged(gguf.path, *locate(key, None), "an array of numbers or strings", "one of arrays")
            value = items_of(gguf, key, entry.value) if entry.type.startswith("ARRAY/") else entry.value
            if value != [] and not (is_id(key) and value == NO_TOKEN):
                keys.append(KeyValue(key, entry.type, value))
    found = {entry.key for entry in keys}
    notes = [note for key, note in ((names.TOKEN_SCORES, NO_SCORES), (names.TOKEN_TYPES, NO_TYPES)) if key not in found]
    return Vocabulary(gguf.path, "GGUF", keys, "; ".join(notes)).checked(locate)
