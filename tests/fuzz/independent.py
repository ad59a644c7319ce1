"""What the package wrote, read by other programs: `gguf.GGUFReader`, numpy, json, and the walker of `layout.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUFReader

import tests.mapping.independent_order as order
from tests.fuzz.layout import Walker, WalkError, walk, walk_to_damage
from tests.gguf_names import LAYER, MODEL, STATE

__all__ = ["WalkError", "compare", "paths"]

Written = dict[str, tuple[list[int], bytes]]  # the shape in ggml order and the bytes of each tensor
COUNTS = {
    "train_its": "training.iteration_count",
    "train_samples": "training.sample_count",
    "train_tokens": "training.token_count",
    "hparams.n_embd": "llama.embedding_length",
    "hparams.n_head": "llama.attention.head_count",
    "hparams.n_layer": "llama.block_count",
    "optimizer.nx": "optimizer.parameter_count",
    "optimizer.iter": "optimizer.iteration_count",
}
FIRST_PIECE = 259  # of the old vocabularies: before it come <unk>, <s>, </s> and the bytes


class Paths(NamedTuple):
    """Names to ask commands for."""

    tensors: list[str]
    pieces: list[str]


@lru_cache
def paths(data: bytes) -> Paths:
    """The names of tensors and of pieces in a seed."""
    try:
        walker = walk(data)
    except WalkError:
        return Paths([], ["magic"])
    names = [piece.name for piece in walker.pieces]
    tensors = [name.removesuffix(".data") for name in names if name.endswith(".data")]
    data_slices = [f"{name}[0:4]" for name in names if name.endswith(".data")]
    return Paths(tensors, names[:40] + names[-20:] + data_slices + walker.records[:20])


def compare(template: Sequence[str], args: Sequence[str], stdout: str, data: bytes, tiny: Path) -> Iterator[str]:
    """Yield what a command that succeeded wrote otherwise than the file says. Raises `WalkError`."""
    name = template[0]
    output = Path(next((arg for arg, text in zip(args, template, strict=True) if text.startswith("{out}")), ""))
    is_ggcp = data[:4] == b"pcgg"
    if name in {"convert", "export"} and "--dry-run" in template:
        return
    if name == "convert" and is_ggcp:
        yield from _compare_checkpoint(walk(data), GGUFReader(output), template)
        if not {"--verbatim", "--fresh-optimizer"} & set(template):
            yield from _compare_moments(Path(args[1]), GGUFReader(output))
    elif name == "export" and template[1] == "{file}" and "--partial" not in template:
        yield from _compare_model(data, args[1], GGUFReader(output), stdout)
    elif name == "export" and template[1] == "{tiny}":
        yield from _compare_model(tiny.read_bytes(), args[1], GGUFReader(output), stdout)
        yield from _compare_vocabulary(data, GGUFReader(output))
    elif name == "extract" and is_ggcp:
        yield from _compare_arrays(walk(data), args[2], output)
    elif name == "edit" and template[3] == "train_its=5" and is_ggcp:
        if output.read_bytes() != data[:8] + (5).to_bytes(4, "little") + data[12:]:
            yield "edit train_its=5 changed other bytes"
    elif name == "dump" and "--json" in template:
        yield from _compare_leaves(json.loads(stdout), data)
    elif name == "tensors" and "--json" in template and is_ggcp:
        yield from _compare_list(walk(data), json.loads(stdout))


def _numbers(walker: Walker) -> dict[str, Any]:
    return {piece.name: piece.value for piece in walker.pieces if piece.is_number}


def _contents(walker: Walker) -> dict[str, bytes]:
    return {piece.name: piece.content for piece in walker.pieces}


def _shape(walker: Walker, path: str) -> list[int]:
    return [int(p.value) for p in walker.pieces if p.name.startswith(f"{path}.ne[")]


def _written(reader: GGUFReader) -> Written:
    """The tensors of a little-endian file."""
    return {tensor.name: (tensor.shape.tolist(), tensor.data.tobytes()) for tensor in reader.tensors}


def _key(reader: GGUFReader, key: str) -> Any:
    return None if key not in reader.fields else reader.fields[key].contents()


def _model_names(n_layer: int) -> dict[str, str]:
    layers = {f"layers[{i}].{name}": f"blk.{i}.{gguf}.weight" for i in range(n_layer) for name, gguf in LAYER.items()}
    return MODEL | layers


def _compare_tensors(walker: Walker, written: Written, names: dict[str, str]) -> Iterator[str]:
    contents = _contents(walker)
    for path, name in names.items():
        expected = _shape(walker, path), contents[f"{path}.data"]
        if name not in written:
            if expected[0]:
                yield f"{name} is missing"
        elif written[name][0] != expected[0]:
            yield f"{name} has the shape {written[name][0]}, expected {expected[0]}"
        elif written[name][1] != expected[1]:
            yield f"{name} has other values than {path}"


def _compare_checkpoint(walker: Walker, reader: GGUFReader, template: Sequence[str]) -> Iterator[str]:
    numbers, written = _numbers(walker), _written(reader)
    yield from _compare_tensors(walker, written, _model_names(numbers["hparams.n_layer"]))
    for path, key in COUNTS.items():
        fresh = "--fresh-optimizer" in template and key.startswith(("training.", "optimizer.iter"))
        if not fresh and _key(reader, key) != numbers[path]:
            yield f"{key} is {_key(reader, key)}, and {path} {numbers[path]}"
    kind = _key(reader, "optimizer.type")
    state = {f"optimizer.state.{name}": f"optimizer.{kind}.{gguf}" for name, gguf in STATE[kind].items()}
    if "--verbatim" in template:
        yield from _compare_tensors(walker, written, state)
    for path, name in state.items():
        fresh = "--fresh-optimizer" in template  # it is Adam, whatever the file has
        if not fresh and name in written and written[name][0] != _shape(walker, path):
            yield f"{name} has the shape {written[name][0]}, expected {_shape(walker, path)}"
        if fresh and name in written and any(written[name][1]):
            yield f"{name} is not zero"


def _compare_moments(path: Path, reader: GGUFReader) -> Iterator[str]:
    """The vectors in order C and divided by the scale, if the order of the file can be proven, as order.py has it."""
    try:
        file = order.read(path)
        sizes = order.sizes_of(file)
        proven = order.proven_order(file)
    except AssertionError:  # nx is not the number of parameters, or no order fits
        return
    stated = _key(reader, "ggcp.parameter_order")
    if stated != (None if proven == "C" else proven):
        yield f"the order is {proven}, and {stated} was assumed"
        return
    kind, scale, written = _key(reader, "optimizer.type"), _key(reader, "ggcp.gradient_scale") or 1, _written(reader)
    for name, gguf in STATE[kind].items():
        expected = file.state[name].data
        if f"optimizer.{kind}.{gguf}" not in written:
            continue
        if name not in {"pf", "lmal", "lmys"} and stated:
            expected = order.change_order(expected, stated, "C", sizes)
        expected = expected / np.float32(scale**2 if name == "v" else scale if name == "m" else 1)
        found = np.frombuffer(written[f"optimizer.{kind}.{gguf}"][1], "<f4")
        if not np.allclose(found, expected, rtol=1e-6, atol=0, equal_nan=True):
            yield f"{gguf} has other values than {name} in order C, divided by {scale}"


def _compare_model(data: bytes, path: str, reader: GGUFReader, stdout: str) -> Iterator[str]:
    written = _written(reader)
    if data[:4] == b"pcgg":
        walker = walk(data)
        yield from _compare_tensors(walker, written, _model_names(int(_numbers(walker)["hparams.n_layer"])))
    elif data[:4] == b"GGUF":
        try:
            source, big = GGUFReader(path), data[4:6] == b"\0\0"
        except KeyError:  # a key is there twice, which the package notes and this reader refuses
            return
        for tensor in source.tensors:
            if not tensor.name.startswith("optimizer."):
                raw = np.frombuffer(data, ">f4" if big else "<f4", tensor.n_elements, tensor.data_offset).astype("<f4")
                if tensor.name not in written:
                    if "is left out" not in stdout:
                        yield f"{tensor.name} is missing"
                elif written[tensor.name][1] != raw.tobytes():
                    yield f"{tensor.name} has other values"


def _compare_vocabulary(data: bytes, reader: GGUFReader) -> Iterator[str]:
    tokens, scores = _key(reader, "tokenizer.ggml.tokens"), _key(reader, "tokenizer.ggml.scores")
    if len(set(tokens)) != len(tokens):
        yield "a token occurs twice"
    if scores is not None and not np.isfinite(scores).all():
        yield "a score is not a finite number"
    for name in ("bos", "eos", "unknown", "padding"):
        number = _key(reader, f"tokenizer.ggml.{name}_token_id")
        if number is not None and number != (1 << 32) - 1 and not 0 <= number < len(tokens):
            yield f"the {name} token is {number} of {len(tokens)}"
    contents = _contents(walk_to_damage(data))
    if data[:4] == b"GGUF":
        texts = [contents.get(f"tokenizer.ggml.tokens[{index}].value.text", b"") for index in range(len(tokens))]
        if [token.encode() for token in tokens] != texts:
            yield "the tokens are others than those of the vocabulary"
        return
    kind = "pieces" if data[:1] == b"\n" else "tokens"
    for index in range(FIRST_PIECE, len(tokens)):
        text = contents[f"{kind}[{index}].text"]
        if tokens[index] != text.decode("utf-8", "replace").replace(" ", "▁"):
            yield f"token {index} is {tokens[index]!r}, and {text!r} in the vocabulary"
            return


def _compare_arrays(walker: Walker, path: str, output: Path) -> Iterator[str]:
    contents = _contents(walker)
    if output.suffix == ".npy":
        array = np.load(output)
        if array.tobytes() != contents[f"{path}.data"] or list(array.shape) != _shape(walker, path)[::-1]:
            yield f"the array is not {path}"
        return
    raw = output.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if raw[start + begin : start + end] != contents[f"{name}.data"]:
                yield f"{name} has other values"


def _compare_leaves(items: list[dict[str, Any]], data: bytes) -> Iterator[str]:
    """The leaves tile the file."""
    at = 0
    for item in items:
        if item["type"] == "derived":
            continue
        if item["offset"] != at:
            yield f"{item['path']} is at {item['offset']}, and the field before ends at {at}"
            return
        at += item["size"]
    if at != len(data):
        yield f"the last field ends at {at}, the file at {len(data)}"


def _compare_list(walker: Walker, items: list[dict[str, Any]]) -> Iterator[str]:
    contents = _contents(walker)
    for item in items:
        if item["shape"] is not None and item["shape"] != _shape(walker, item["path"]):
            yield f"{item['path']} has the shape {item['shape']}, expected {_shape(walker, item['path'])}"
        if item["nbytes"] != len(contents[f"{item['path']}.data"]):
            yield f"{item['path']} has {item['nbytes']} bytes"
