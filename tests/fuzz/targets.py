"""What must hold of any bytes, by what reads them. `atheris_target.py` searches for bytes of which it does not hold.

A target takes bytes, and raises an exception if they break what its docstring says. Whatever the bytes are, no
exception but those of the package may come out of it. `good` has bytes for each target to begin with.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from ggcp_schema.cli.output import json_text
from ggcp_schema.constructs import Extent, Field
from ggcp_schema.errors import GgcpError, NotACheckpointError
from ggcp_schema.files.contents import DTYPES, MAX_DIMS, Safetensors, read_tensors
from ggcp_schema.files.key_values import ARCHITECTURE, KeyValue
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import TensorEntry, Zeros
from ggcp_schema.files.values import same_value
from ggcp_schema.formats import format_of, open_file
from ggcp_schema.formats.file import File
from ggcp_schema.formats.parsing import parse_past_errors
from ggcp_schema.huggingface.tokenizer import inexpressible, tokenizer_config, tokenizer_json
from ggcp_schema.inspect.edit import Change, changes, check, edit, parse_assignment
from ggcp_schema.inspect.paths import pieces, place
from ggcp_schema.inspect.summary import summarize, summary_lines
from ggcp_schema.inspect.tensors import select
from ggcp_schema.inspect.validate import examine_data, validate
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.lora import base_of
from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.fuzz.little import LITTLE, little
from tests.fuzz.seeds import seed
from tests.helpers import FIXTURES

KEYS = "metadata_kv"  # and `metadata_kv_count`: of GGUF files
MOST = 40  # fields, tensors and values that are looked at
TEMPORARY = tempfile.TemporaryDirectory(prefix="ggcp-fuzz-")
FOLDER = Path(TEMPORARY.name)


def files(data: bytes) -> None:
    """A file, whole or not, of any format.

    `validate` finds what makes `open_file` refuse it, and nothing else that the schema states. A file that is opened is
    built again to the same bytes, each byte belongs to one field, and the path of each field leads to it. Its tensors
    lie in the file, and what it means is said without another exception.
    """
    path = _given(data)
    error: GgcpError | None = None
    try:
        with open_file(path) as file:
            out = io.BytesIO()
            file.format.schema.build_stream(file.container, out)
            assert out.getvalue() == data, "built otherwise"
            assert sum(leaf.size for leaf in file.root.leaves()) == len(data), "bytes without a field"
    except GgcpError as refused:
        error = refused
    with closing(Source(path)) as source:
        try:
            report = validate(source)
        except NotACheckpointError:
            assert isinstance(error, NotACheckpointError), f"open_file says {error}"
            return
        assert error is None or not report.valid, f"valid, but open_file says {error}"
        if error is None and not report.valid:  # by the rules that are not of the schema
            parse = parse_past_errors(source, format_of(source))
            assert not parse.errors and parse.damage is None, f"opened, but {parse.errors or parse.damage}"  # noqa: PT018
        examine_data(report)
    with suppress(NotACheckpointError), open_file(path, partial=True) as file:
        assert (file.damage is None) == (error is None), f"damage {file.damage}, error {error}"
        _look(file)


def _look(file: File) -> None:
    """Look at the fields, the tensors and the meanings of a file."""
    end = 0
    is_moved = file.damage is not None  # fields are where they should be, or were found elsewhere
    for leaf in islice(file.root.leaves(), MOST):
        found = file.root.find(leaf.steps)
        assert found is not None
        assert (found.offset, found.size) == (leaf.offset, leaf.size), f"{leaf.path} is elsewhere"
        assert is_moved or not leaf.size or leaf.offset >= end, f"{leaf.path} overlaps the field before"
        assert is_moved or leaf.end <= file.size, f"{leaf.path} is not in the file"
        end = max(end, leaf.end)
    assert is_moved or not end or file.at(end - 1) is not None, f"no field at {end - 1}"
    for tensor in islice(file.tensors.values(), MOST):
        _read(tensor)
    summary = summarize(file, data=True)
    summary_lines(summary)
    json_text(summary)
    for meaning in (file.model, file.training, file.model_training, file.vocabulary, file.adapter, file.converted):
        with suppress(GgcpError):
            meaning()
    with suppress(GgcpError):
        base_of(file)
    str((file.findings, file.describe(), file.kind, file.what, file.short, file.runs, file.expected_tensors()))


def _read(tensor: Tensor) -> None:
    assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= tensor.source.size, f"{tensor} is not in the file"
    if tensor.is_readable:
        first = tensor.numbers(0, min(tensor.n_elements, MOST))
        assert len(first) == min(tensor.n_elements, MOST)
        if tensor.n_elements:
            tensor.array()


def paths(data: bytes) -> None:
    """A path in a good file, which the first byte selects.

    A field is found again by its own path; a slice has the values that the same slice of all values has in Python. What
    `hex` would show lies in the file.
    """
    file, path = _opened(data), data[1:].decode("utf-8", "surrogateescape")
    with suppress(GgcpError):
        found = file.lookup(path)
        if isinstance(found, Field):
            again = file.field(found.path)
            assert again is not None
            assert again.steps == found.steps, f"{found.path} is another field"
        else:
            values = [value for chunk in found.chunks() for value in chunk]
            assert len(values) == found.count, f"{len(values)} values, not {found.count}"
            assert found.single == (not isinstance(found.value(), list)), "single"
            stem, bracket, index = path.removesuffix("]").rpartition("[")
            if bracket and set(index) <= set("-:0123456789"):
                everything = file.values(stem).value()
                start, colon, stop = index.partition(":")
                part = slice(*(int(text) if text else None for text in (start, stop))) if colon else int(start)
                wanted = everything[part] if colon else [everything[part]]
                assert same_value(values, wanted), f"other values than in Python: {values[:9]}, {wanted[:9]}"
        assert file.get(path) is not None or path not in file or file.find(path).value is None
        file.values(path)
    with suppress(GgcpError):
        file[path]
    with suppress(GgcpError):
        offset, size = place(file, path)
        assert 0 <= offset < file.size
        shown = list(islice(pieces(file, offset, 256 if size is None else size), MOST))
        assert all(piece.offset >= 0 and piece.offset + piece.size <= file.size for piece in shown)
    with suppress(GgcpError):
        assert select(file, path)


def vocabularies(data: bytes) -> None:
    """A vocabulary in a file of any kind. What is read of it, written to a GGUF file, is read the same again."""
    try:
        vocabulary = read_vocabulary(_given(data))
    except GgcpError:
        return
    assert vocabulary.n_tokens > 0
    copy = FOLDER / "copy.gguf"
    Gguf([KeyValue(ARCHITECTURE, "STRING", "llama"), *vocabulary.keys]).write(str(copy))
    again = {entry.key: (entry.type, entry.value) for entry in read_vocabulary(copy).keys}
    for entry in vocabulary.keys:
        assert same_value(again[entry.key], (entry.type, entry.value)), f"{entry.key} is another one"
    inexpressible(vocabulary)
    for document in (tokenizer_json(vocabulary), tokenizer_config(vocabulary, 16)):
        json.dumps(document, allow_nan=False).encode()


def edits(data: bytes) -> None:
    """Assignments, one on each line, for a good file, which the first byte selects; `-KEY` removes a key.

    The copy has the size that a dry run says, and opens. It has the values that were asked for, and all others as
    before, but for those that follow from them.
    """
    file = _opened(data)
    lines = data[1:].decode("utf-8", "surrogateescape").split("\n")
    if any("=@" in line and {"/", ".."} & set(line) for line in lines):
        return  # no files but those of the folder
    os.chdir(FOLDER)
    with suppress(GgcpError):
        assigned = [parse_assignment(line) for line in lines if not line.startswith("-")]
        wanted = changes(file, assigned, [line[1:] for line in lines if line.startswith("-")])
        try:
            size: int | None = check(file, wanted).size
        except GgcpError:
            size = None
        if any("value_type" in change.path for change in wanted):
            return  # after which the value is another one
        output = FOLDER / "edited"
        output.unlink(missing_ok=True)
        try:
            written = edit(file, output, wanted, sync=False).size
        except GgcpError as error:
            if size is not None:
                raise AssertionError("refused after a dry run") from error
            return
        assert written == size == output.stat().st_size, f"dry run {size}, written {written}"
        with open_file(output) as edited:
            before, after = _values(file, wanted), _values(edited, wanted)
            assert before.keys() == after.keys(), f"fields {before.keys() ^ after.keys()}"
            other = [path for path in before if not same_value(before[path], after[path])]
            assert not other, f"{other} changed too"


def _values(file: File, wanted: list[Change]) -> dict[str, Any]:
    """Return values of a file that no change means: of all fields; if keys are added or removed, those of keys by key.

    Lengths, counts, offsets and paddings are left out, which follow from the rest.
    """
    values = {
        leaf.path: file.source.read(leaf.offset, leaf.size) if isinstance(leaf.value, Extent) else leaf.value
        for leaf in file.root.leaves()
        if leaf.type not in ("derived", "padding") and leaf.name not in ("len", "name_len")
    }
    if any(change.key for change in wanted):
        values = {
            path: value for path, value in values.items() if not path.startswith(KEYS) and not path.endswith(".offset")
        }
        if not any(change.path.startswith(KEYS) for change in wanted):
            values |= {key: (entry.type, entry.value) for key, entry in file.key_values.items()}
    changed = {change.path for change in wanted}
    return {path: value for path, value in values.items() if path not in changed}


def safetensors(data: bytes) -> None:
    """A safetensors file. What is read lies in the file; what the safetensors package reads of these types, is read."""
    path = _given(data)
    with closing(Source(path)) as source:
        try:
            tensors, _ = read_tensors(source)
        except GgcpError as error:
            if _read_by_others(path):
                raise AssertionError("refused") from error
            return
        for tensor in islice(tensors.values(), MOST):
            _read(tensor)


def _read_by_others(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            return all(each.get_dtype() in DTYPES and len(each.get_shape()) <= MAX_DIMS for each in slices)
    except SafetensorError:
        return False


# The bytes -------------------------------------------------------------------------------------------------


def _given(data: bytes) -> Path:
    """Write the bytes to a file that was not there before: some readers look at its time."""
    path = FOLDER / "given"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def _opened(data: bytes) -> File:
    """Return the little file that the first byte selects."""
    return _little_files()[data[0] % len(LITTLE) if data else 0]


@cache
def _little_files() -> list[File]:
    """Return all little files, open. Beside them lie a text and an array, for edits."""
    (FOLDER / "t").write_text("a text", "utf-8")
    np.save(FOLDER / "n", np.arange(4, dtype="<f4"))
    for name in LITTLE:
        (FOLDER / name).write_bytes(little(name))
    return [open_file(FOLDER / name) for name in LITTLE]


def _safetensors() -> Iterator[bytes]:
    """Files of a few tensors of all types, and of none."""
    for kinds in (list(DTYPES), ["F32"], []):
        path = FOLDER / "written"
        tensors = [TensorEntry(f"of {kind}", (3, 2), Zeros(), kind) for kind in kinds]
        Safetensors({"format": "np"}, tensors).write(str(path))
        yield path.read_bytes()


def _texts(texts: Sequence[str]) -> list[bytes]:
    return [bytes([number]) + text.encode() for number in range(len(LITTLE)) for text in texts]


PATHS = (
    "",
    "file",
    "layers[0].wq.data[1:-1]",
    "layers[0].wq.ne",
    "norm[0:4]",
    "optimizer.state.m[layers[0].wq]",
    "optimizer.state.v[norm][1:3]",
    "optimizer.adam.first_moments[blk.0.attn_q.weight][-1]",
    "tokens[3].text",
    "tokens[3:5]",
    "tokenizer.ggml.tokens[2:4]",
    "general.architecture",
    "metadata_kv[1].value.array[0]",
    "blk.0.*.weight",
    "tensors[0].data:8",
    "0x10:16",
    "12",
)
EDITS = (
    "train_its=7",
    "train_its=0x10\noptimizer.iter=3",
    "layers[0].wq.name=a longer name than before",
    "norm.data=@n.npy",
    "norm.type=1",
    "tokens[4].text=@t\ntokens[5].score=-inf",
    "general.name=@@t",
    "general.alignment:u32=64",
    "x:string=1\n-general.name",
    "x:bool=true\ny:f64=nan\nz:i8=-1",
    "tensor_infos[0].name=b",
    "hparams.n_head=1",
    "optimizer.past=1",
    "r=8\ntensors[0].name=b",
)
VOCABULARIES = ("vocab.gguf", "vocab.ggjt", "alice-tokenizer.model", "tiny-sentencepiece")

TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (files, paths, vocabularies, edits, safetensors)
}


def kept(target: str) -> Iterator[bytes]:
    """Yield what a search for that target kept: the fewest inputs that reach all code it has reached, and findings."""
    path = Path(__file__).parent / "corpus" / f"{target}.zip"
    if path.exists():
        with ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())


def good(target: str) -> Iterator[bytes]:
    """Yield what is good for a target."""
    if target in ("files", "vocabularies"):
        yield from map(little, LITTLE)
        yield from (seed(name) for name in VOCABULARIES)
        yield from (path.read_bytes() for path in (FIXTURES / "strange").glob("*.gguf") if path.stat().st_size < 4000)
    elif target == "safetensors":
        yield from _safetensors()
    else:
        yield from _texts(PATHS if target == "paths" else EDITS)
