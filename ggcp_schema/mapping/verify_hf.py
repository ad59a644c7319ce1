"""Compare a model folder with the checkpoint or the model it was made from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files.compare import Difference
from ggcp_schema.files.contents import Content, Json, Safetensors, malformed_json, read_json
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import study_of
from ggcp_schema.huggingface.config import TORCH_DTYPES
from ggcp_schema.huggingface.sentencepiece_writer import checked_types
from ggcp_schema.llama.vocabulary import Vocabulary
from ggcp_schema.mapping import hf
from ggcp_schema.mapping.peft import PEFT, PEFT_CONFIG, PEFT_WEIGHTS
from ggcp_schema.mapping.plan import rescued
from ggcp_schema.mapping.verify import COMPARED, NO_TOKENS, Compared, Verification
from ggcp_schema.mapping.vocabulary import vocabulary_of

TOKENS = (hf.GENERATION, hf.TOKENIZER, hf.TOKENIZER_CONFIG, hf.TOKENIZER_MODEL)
READ = (".safetensors", ".json", ".model", ".jinja")
"""How the names end of files that transformers, PEFT, vLLM or MLX may read beside, or in place of, those written."""
IN_PLACE = "pytorch_model", "adapter_model"
"""How the names begin of files of weights that end in .bin, as PyTorch writes them."""
SPECIAL_IDS = {"bos_token_id", "eos_token_id"}


def verify_folder(
    file: File,
    folder: str | os.PathLike[str],
    *,
    vocab: str | os.PathLike[str] | None = None,
    partial: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Compare all that a checkpoint or a model contains with a folder that `export` wrote: every value of every file.

    The weights and the moments are compared in the order of rows, and in the type, of the folder. The numbers of the
    configuration and the tokens are compared too; the epsilon, the context length and the type of the weights, which
    can be stated, only have to be possible. `vocab` is the vocabulary to compare with; None takes the file's own, and
    if it has none, tokens are not compared. README.md is for people, and is not compared; of other files only those
    are reported that a program which opens the folder may read.

    Raises `MalformedError` if a file of the folder is damaged, `FileError` if one cannot be read, and `UsageError` if
    no folder can be made from the file. With `partial`, a damaged file is accepted if the model is whole.
    """
    if file.damage is not None and not partial:
        raise rescued(file, "Use partial=True to compare it.")
    place = Path(folder)
    if folder_kind(place) != hf.HF:
        hint = "Pass the adapter that it was made from, with --base MODEL."
        raise UsageError(f"{place} is a folder for PEFT, but {file.path} contains no LoRA adapter", hint)
    config, model = read_json(place / hf.CONFIG), file.model()
    vocabulary = vocabulary_of(file, model, vocab)
    if vocabulary is not None:
        checked_types(vocabulary)
    expected = hf.Folder(model, vocabulary or Vocabulary("", "", []), *stated_in(place / hf.CONFIG, config))
    lost: list[str] = []
    if vocabulary is None:
        parts: dict[str, Content] = {hf.CONFIG: replace(expected.config(), free=SPECIAL_IDS)}
        lost += (name for name in TOKENS if not (place / name).exists())
    else:
        parts = {hf.CONFIG: expected.config(), **expected.tokens()}
    n_values = sum(len(content.value) for content in parts.values() if isinstance(content, Json))
    differences = [item for name, content in parts.items() for item in part_differences(place, name, content)]
    differences += (Difference("file", name, "is missing") for name in lost)
    differences += unexpected_files(place, {hf.CONFIG, hf.WEIGHTS, hf.MOMENTS, *TOKENS})
    moments, fact = hf.moments_of(file, study_of(file)[1])
    contents = {hf.WEIGHTS: expected.weights()} | ({hf.MOMENTS: Safetensors(hf.METADATA, moments)} if moments else {})
    if not moments and (place / hf.MOMENTS).exists():
        why = f"should not be there: {fact.reason}; a folder is compared with the file that it was exported from"
        differences.append(Difference("file", hf.MOMENTS, why))
    n_tensors = nbytes = 0
    for name, content in contents.items():
        found = [*part_differences(place, name, content, progress)]
        unlike = {item.name for item in found if item.kind == "tensor"}
        compared = [entry for entry in content.tensors if entry.name not in unlike] if (place / name).exists() else []
        n_tensors, nbytes = n_tensors + len(compared), nbytes + sum(entry.nbytes for entry in compared)
        differences += found
    return Verification(
        file.path,
        os.fsdecode(folder),
        hf.HF,
        Compared(n_values, n_tensors, nbytes, model.n_params),
        expected.rms_eps,
        fact.text,
        (),
        tuple(differences),
        NO_TOKENS if vocabulary is None else COMPARED,
    )


def folder_kind(folder: Path) -> str:
    """Return what a folder is, hf or peft. Raises `FileError` without its configuration, `UsageError` for another."""
    parts = {hf.HF: (hf.CONFIG, hf.WEIGHTS), PEFT: (PEFT_CONFIG, PEFT_WEIGHTS)}
    lost = {kind: [name for name in names if not (folder / name).exists()] for kind, names in parts.items()}
    kind = min(lost, key=lambda kind: len(lost[kind]))
    if len(lost[kind]) == len(parts[kind]):
        message = f"{folder} is no folder for transformers or PEFT: it has no {hf.CONFIG} or {PEFT_CONFIG}"
        raise UsageError(message, "Pass a folder that `ggcp-schema export` wrote, or a GGUF file.")
    if parts[kind][0] in lost[kind]:
        raise FileError(f"{folder}: {parts[kind][0]} is missing", "Export the folder again.")
    return kind


def unexpected_files(folder: Path, names: Collection[str]) -> Iterator[Difference]:
    """Report the files of other names that programs may read. What people put there, as a README, does no harm."""
    for name in sorted(os.listdir(folder)):
        is_read = name.endswith(READ) or (name.endswith(".bin") and name.startswith(IN_PLACE))
        if name not in names and is_read and not name.startswith(".") and os.path.isfile(folder / name):
            yield Difference("file", name, "should not be there: programs that open the folder may read it")


def part_differences(
    folder: Path, name: str, content: Content, progress: Progress | None = None
) -> Iterator[Difference]:
    """Yield how a file of a folder, or the file `folder` itself if the name is empty, differs from its content."""
    if not (folder / name).exists():
        yield Difference("file", name, "is missing")
        return
    for item in content.differences(str(folder / name), data=True, progress=progress):
        is_named = item.kind == "file" and name
        yield item._replace(name=f"{name}: {item.name}" if item.name else name) if is_named else item


def stated_in(path: Path, config: dict[str, Any]) -> tuple[int, float, str]:
    """Return what the user can have stated: context length, epsilon, type of the weights. Raises `MalformedError`."""
    length, epsilon = config.get("max_position_embeddings"), config.get("rms_norm_eps")
    dtypes = {TORCH_DTYPES[kind]: name for name, kind in hf.DTYPES.items()}
    dtype = dtypes.get(str(config.get("dtype")))
    if not isinstance(length, int) or length < 1:
        raise malformed_json(path, "a positive max_position_embeddings", repr(length))
    if not isinstance(epsilon, float) or not (isfinite(epsilon) and epsilon > 0):
        raise malformed_json(path, "a positive rms_norm_eps", repr(epsilon))
    if dtype is None:
        raise malformed_json(path, f"a dtype among {', '.join(dtypes)}", repr(config.get("dtype")))
    return length, epsilon, dtype
