"""What can be made of a file, and the functions of the Python API that make it."""

from __future__ import annotations

import os
from collections.abc import Callable

from ggcp_schema.errors import UsageError
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.mapping.convert import ResumeOptions, plan_resume
from ggcp_schema.mapping.export import GGUF, ModelOptions, plan_model
from ggcp_schema.mapping.hf import HF, plan_hf
from ggcp_schema.mapping.plan import Plan, Written, write

EXPORTS: dict[str, Callable[[File, ModelOptions], Plan]] = {GGUF: plan_model, HF: plan_hf}
"""What plans that which `export` makes of a model, by its name."""


def planner(name: str) -> Callable[[File, ModelOptions], Plan]:
    """Return what plans the export with that name. Raises `UsageError`."""
    if name not in EXPORTS:
        raise UsageError(
            f"{name!r} is not among what can be exported to", f"Choose from: {', '.join(EXPORTS)} (for PyTorch)."
        )
    return EXPORTS[name]


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    rms_eps: float | None = None,
    order: str | None = None,
    n_batch: int | None = None,
    fresh_optimizer: bool = False,
    verbatim: bool = False,
    partial: bool = False,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Convert the checkpoint at `source`, ggcp or GGUF, to a GGUF checkpoint from which training can be resumed.

    Parameters:
        rms_eps: the epsilon of the RMS norm. None takes that of the file, or of its era.
        order: the order of the flat vectors (A, B, C or D) if you know it. None decides from the bytes, and changes the
            order only if it is proven.
        n_batch: the samples of a batch, by which summed gradients are scaled. None estimates it from the counts.
        fresh_optimizer: write zeros for the optimizer's state, and iteration counts of 0.
        verbatim: write what the converter of 2023 wrote.
        partial: of a damaged file whose model is whole, write the model with a fresh optimizer.
        strict: refuse a file with findings, and tensors with NaN or infinite values.
        force: overwrite an existing output.
        verify: compare every byte with the checkpoint before the output gets its name.
        sync: wait until the output is on the disk.
        progress: called with the number of bytes just copied or compared.

    Raises `MalformedError` if the checkpoint is damaged, `UsageError` if it contains no training state, `UnfitError` if
    GGUF cannot store one of its numbers, `FileError` if a file cannot be read or written.
    """
    stated = ResumeOptions(rms_eps, order, n_batch, fresh_optimizer, verbatim, partial)
    with open_file(source, partial=True) as file:
        return write(plan_resume(file, stated), output, WriteOptions(strict, force, verify, sync, progress))


def export_model(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str = "gguf",
    vocab: str | os.PathLike[str] | None = None,
    context_length: int | None = None,
    rms_eps: float | None = None,
    name: str | None = None,
    partial: bool = False,
    dtype: str | None = None,
    strict: bool = False,
    force: bool = False,
    verify: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Written:
    """Export the model in the file at `source` for present-day programs.

    The file is a checkpoint, ggcp or GGUF, or a model, GGUF, ggjt, ggmf or ggml.

    Parameters:
        to: what to make of it, a name in `EXPORTS`: gguf, a file for llama.cpp, or hf, a folder for transformers.
        vocab: a llama GGUF, a ggjt, ggmf or ggml file of 2023, or a sentencepiece model. None takes the vocabulary that
            the file itself contains.
        context_length: in tokens. None takes the one that a GGUF file stores, or the tokens of a sample by the counts
            of a checkpoint, if they are a whole number.
        rms_eps: the epsilon of the RMS norm. None takes the one that the file stores or its era used.
        name: the model's name; None takes the one that a GGUF model stores, or else that of the file, and an empty one
            writes none.
        partial: accept a damaged file if all tensors of the model are whole.
        dtype: of hf: the type of the weights, f32, f16 or bf16. None takes f32.

    The other parameters are those of `convert`. Raises `MalformedError` if a file is damaged, `UsageError` if the files
    do not go together, `FileError` if a file cannot be read or written.
    """
    plan, stated = planner(to), ModelOptions(vocab, context_length, rms_eps, name, dtype, partial)
    with open_file(source, partial=True) as file:
        return write(plan(file, stated), output, WriteOptions(strict, force, verify, sync, progress))
