"""Compare a model folder with the checkpoint or the model it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from ggcp_schema.errors import MalformedError
from ggcp_schema.files.compare import Difference, comparable, data_differences, table_differences
from ggcp_schema.files.contents import Safetensors
from ggcp_schema.files.safetensors import read_tensors
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor_entries import Progress
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import study_of
from ggcp_schema.huggingface.config import TORCH_DTYPES, json_bytes
from ggcp_schema.huggingface.sentencepiece_writer import checked_types
from ggcp_schema.llama.vocabulary import Vocabulary
from ggcp_schema.mapping.hf import (
    CONFIG,
    DTYPES,
    HF,
    METADATA,
    MOMENTS,
    TOKENIZER_MODEL,
    WEIGHTS,
    Folder,
    moments_of,
)
from ggcp_schema.mapping.model import rescued
from ggcp_schema.mapping.verify import COMPARED, NO_TOKENS, Compared, Verification
from ggcp_schema.mapping.vocabulary import vocabulary_of

MAX_DIFFERENCES = 10  # of a JSON file
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
    if it has none, tokens are not compared. README.md is for people, and is not compared; other files are ignored.

    Raises `MalformedError` if a file of the folder is damaged, `FileError` if one cannot be read, and `UsageError` if
    no folder can be made from the file. With `partial`, a damaged file is accepted if the model is whole.
    """
    if file.damage is not None and not partial:
        raise rescued(file, "Use partial=True to compare it.")
    place, config = Path(folder), read_json(Path(folder, CONFIG))
    model = file.model()
    vocabulary = vocabulary_of(file, model, vocab)
    if vocabulary is not None:
        checked_types(vocabulary)
    expected = Folder(model, vocabulary or Vocabulary("", "", []), *stated_in(place / CONFIG, config))
    differences: list[Difference] = []
    n_values = 0
    for name, value in expected.json():
        if vocabulary is not None or name == CONFIG:
            skipped = SPECIAL_IDS if vocabulary is None else set()
            some = _file_differences(place / name, value, skipped)
            differences += (Difference("file", f"{name}: {path}", text) for path, text in islice(some, MAX_DIFFERENCES))
            n_values += len(value)
    if vocabulary is not None:
        differences += _tokenizer_differences(place / TOKENIZER_MODEL, expected)
    moments, fact = moments_of(file, study_of(file)[1])
    contents = {WEIGHTS: expected.weights()} | ({MOMENTS: Safetensors(METADATA, moments)} if moments else {})
    if not moments and (place / MOMENTS).exists():
        why = f"should not be there: {fact.reason}; a folder is compared with the file that it was exported from"
        differences.append(Difference("file", MOMENTS, why))
    n_tensors = nbytes = 0
    for name, content in contents.items():
        if not (place / name).exists():
            differences.append(Difference("file", name, "is missing"))
            continue
        with closing(Source(place / name)) as source:
            tensors = read_tensors(source)
            compared = comparable(tensors, content.tensors)
            differences += table_differences(tensors, content.tensors)
            differences += data_differences(tensors, content.tensors, progress)
            source.check_unchanged()
        n_tensors, nbytes = n_tensors + len(compared), nbytes + sum(tensor.nbytes for tensor in compared)
    return Verification(
        file.path,
        os.fsdecode(folder),
        HF,
        Compared(n_values, n_tensors, nbytes, model.n_params),
        expected.rms_eps,
        fact.text,
        (),
        tuple(differences),
        NO_TOKENS if vocabulary is None else COMPARED,
    )


def _file_differences(path: Path, expected: Mapping[str, Any], skipped: Collection[str]) -> Iterator[tuple[str, str]]:
    """Compare a JSON file as `json_differences` does. Its values are only read if it is not what was written."""
    if _content(path) != json_bytes(expected):
        wanted = {key: item for key, item in expected.items() if key not in skipped}
        yield from json_differences(wanted, read_json(path), skipped)


def _content(path: Path) -> bytes:
    with closing(Source(path)) as source:
        return source.read(0, source.size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `FileError`, or `MalformedError`."""
    try:
        value = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "JSON", str(error)) from error
    if not isinstance(value, dict):
        raise _malformed(path, "an object", type(value).__name__)
    return value


def json_differences(
    expected: Any, found: Any, skipped: Collection[str] = (), path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the path of each value that differs, and how; keys of the outermost object can be skipped."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected and key not in skipped)]:
            inner = f"{path}.{key}" if path else key
            if key not in found:
                yield inner, "is missing"
            elif key not in expected:
                yield inner, "is unexpected"
            else:
                yield from json_differences(expected[key], found[key], path=inner)
    elif isinstance(expected, list | tuple) and isinstance(found, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found)):
            yield from json_differences(*pair, path=f"{path}[{index}]")
    elif type(expected) is not type(found) or expected != found:
        yield path, f"is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else json.dumps(value, ensure_ascii=False)[:60]


def stated_in(path: Path, config: dict[str, Any]) -> tuple[int, float, str]:
    """Return what the user can have stated: context length, epsilon, type of the weights. Raises `MalformedError`."""
    length, epsilon = config.get("max_position_embeddings"), config.get("rms_norm_eps")
    dtypes = {TORCH_DTYPES[kind]: name for name, kind in DTYPES.items()}
    dtype = dtypes.get(str(config.get("dtype")))
    if not isinstance(length, int) or length < 1:
        raise _malformed(path, "a positive max_position_embeddings", repr(length))
    if not isinstance(epsilon, float) or not (isfinite(epsilon) and epsilon > 0):
        raise _malformed(path, "a positive rms_norm_eps", repr(epsilon))
    if dtype is None:
        raise _malformed(path, f"a dtype among {', '.join(dtypes)}", repr(config.get("dtype")))
    return length, epsilon, dtype


def _tokenizer_differences(path: Path, expected: Folder) -> Iterator[Difference]:
    """Compare tokenizer.model; the first piece that differs is named by its offset."""
    found, wanted = _content(path), expected.tokenizer_model().data
    if found != wanted:
        first = next(
            (at for at, pair in enumerate(zip(found, wanted)) if len({*pair}) > 1), min(len(found), len(wanted))
        )
        yield Difference("file", path.name, f"is another one of {len(found)} bytes, from byte {first} on")


def _malformed(path: Path, expected: str, found: str) -> MalformedError:
    message = f"{path}: expected {expected}, found {found}"
    return MalformedError(message, "Export the folder again.", path="file", offset=0, expected=expected, found=found)
