"""Read the vocabulary in a file of any kind: a llama GGUF, a ggjt, ggmf or ggml file, or a sentencepiece model."""

from __future__ import annotations

import os
from contextlib import closing

from ggcp_schema.errors import MalformedError, NotACheckpointError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import ACCEPTED, File
from ggcp_schema.formats.sentencepiece.model import begins_like_a_model, vocabulary_of_model
from ggcp_schema.llama.model import Model
from ggcp_schema.llama.vocabulary import ANOTHER, Vocabulary


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read the vocabulary in a file, whose format is recognised by its first bytes. Weights are not read.

    Raises `FileError` if the file cannot be read, `MalformedError` if the vocabulary is damaged, llama.cpp would refuse
    it, or the file is of another kind, and `UsageError` if a file of a known format contains no llama vocabulary.
    """
    if os.path.isfile(inner := os.path.join(path, "tokenizer.model")):
        raise UsageError(f"{os.fsdecode(path)} is a folder", f"The vocabulary in it is {os.fsdecode(inner)}.")
    with closing(Source(path)) as source:
        if begins_like_a_model(source):
            return vocabulary_of_model(source)
    try:
        file = open_file(path, partial=True)
    except NotACheckpointError as error:
        raise error.with_hint(f"{error.hint} {ACCEPTED}") from error
    with file:
        try:
            vocabulary = file.vocabulary()
        except MalformedError as error:
            raise error.with_hint(ANOTHER) from error
        file.source.check_unchanged()
        return vocabulary


def vocabulary_of(file: File, model: Model, vocab: str | os.PathLike[str] | None) -> Vocabulary | None:
    """Return the vocabulary in the file `vocab` or, without one, that of the model's own file; None if it has none."""
    if vocab is not None:
        return read_vocabulary(vocab)
    return file.vocabulary() if model.has_vocabulary else None
