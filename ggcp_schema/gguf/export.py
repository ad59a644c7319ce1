"""From a checkpoint to a GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ggcp_schema.atomic import check_output
from ggcp_schema.gguf.entries import Entry, Progress
from ggcp_schema.gguf.model import Model, export_entries, model_of
from ggcp_schema.gguf.opening import open_any
from ggcp_schema.gguf.vocabulary import Vocabulary, read_vocabulary
from ggcp_schema.gguf.writer import write_gguf


@dataclass(frozen=True)
class Exported:
    """What was written: the model and the vocabulary it came from, the entries, and the file's size in bytes."""

    model: Model
    vocabulary: Vocabulary
    entries: list[Entry]
    size: int


def export_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    vocab: str | os.PathLike[str],
    context_length: int,
    rms_eps: float | None = None,
    name: str | None = None,
    force: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes the model in the checkpoint at `source`, ggcp or GGUF, as one that present-day llama.cpp runs.

    `vocab` is a llama GGUF, a ggjt, ggmf or ggml file of 2023, or a sentencepiece model; `context_length` is in
    tokens. `rms_eps` is the epsilon of the RMS norm: 1e-5 unless a GGUF source states another. `name` is the
    model's, the source's file name if it is None, and left out if it is empty. The rest is as in `convert`.

    Raises `MalformedError` if a file is damaged, `UsageError` if they do not go together, `FileError` if a file
    cannot be read or written.
    """
    with open_any(source) as opened:
        model, vocabulary = model_of(opened), read_vocabulary(vocab)
        entries = export_entries(model, vocabulary.keys, context_length=context_length, rms_eps=rms_eps, name=name)
        check_output(output, (source, vocab), overwrite=force)
        size = write_gguf(output, entries, overwrite=force, verify=verify, progress=progress)
        return Exported(model, vocabulary, entries, size)
