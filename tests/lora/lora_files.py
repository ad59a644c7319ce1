"""The genuine LoRA files, opened, and outputs written by gguf's own writer."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from ggcp_schema import open_file
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor_entries import Computed, TensorEntry
from ggcp_schema.formats.file import File
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.formats.gguf.meanings import adapter_of_gguf
from ggcp_schema.formats.lora import FORMATS
from ggcp_schema.formats.lora.files import GgclFile, GglaFile
from ggcp_schema.formats.parsing import open_source
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors, patched_norms
from ggcp_schema.mapping.lora import base_of
from tests.helpers import FIXTURES
from tests.lora import independent

FOLDER = FIXTURES / "lora"
GGLA = sorted(FOLDER.glob("*.ggla"))
GGCL = sorted(FOLDER.glob("*.ggcl"))
CHECKPOINTS = sorted(FOLDER.glob("*.checkpoint.gguf"))
EVERY = [*GGLA, *GGCL, *CHECKPOINTS]
BASE = FOLDER / "base.gguf"
PEFT = FOLDER / "peft-layers-names.ggla"


def stem(path: Path) -> str:
    return path.name.split(".")[0]


@contextmanager
def opened(path: Path, *, partial: bool = False) -> Iterator[File]:
    with closing(Source(path)) as source:
        head = source.read(0, 4)
        known = next(known for known in FORMATS if known.magic == head)
        yield open_source(source, known, partial=partial)


@contextmanager
def adapter_of(path: Path, **changes: Any) -> Iterator[Adapter]:
    """Yield the adapter in a file, with other values for some of its attributes."""
    if path.suffix == ".gguf":
        with open_gguf(path) as gguf:
            yield replace(adapter_of_gguf(gguf), **changes)
        return
    with opened(path) as file:
        assert isinstance(file, GglaFile | GgclFile)
        yield replace(file.adapter(), **changes)


@contextmanager
def base_in(path: Path = BASE) -> Iterator[Base]:
    with open_file(path) as file:
        yield base_of(file)


def expected(path: Path) -> dict[str, np.ndarray]:
    """Return the log probabilities that were computed for the adapter, which a checkpoint shares with the ggla."""
    with np.load(FOLDER / f"{stem(path)}.ggla.logprobs.npz") as stored:
        return dict(stored)


def array(tensor: TensorEntry) -> np.ndarray:
    """Return the values of an F32 or F16 tensor, in numpy's order of dimensions."""
    data = b"".join(tensor.chunks())
    assert len(data) == tensor.nbytes
    return np.frombuffer(data, "<f4" if tensor.type == "F32" else "<f2").reshape(tensor.shape[::-1])


def write(path: Path, keys: Iterable[KeyValue], tensors: Iterable[TensorEntry]) -> Path:
    """Write tensors of any type with gguf's own writer."""
    writer = GGUFWriter(path, "llama")
    for entry in keys:
        kind, _, item = entry.type.partition("/")
        if entry.key != "general.architecture":
            value = list(entry.value) if item else entry.value
            writer.add_key_value(entry.key, value, GGUFValueType[kind], sub_type=GGUFValueType[item] if item else None)
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.type]
        if tensor.type in ("F32", "F16"):
            writer.add_tensor(tensor.name, array(tensor))
        else:
            data = np.frombuffer(b"".join(tensor.chunks()), np.uint8)
            writer.add_tensor(tensor.name, data.reshape(tensor.shape[1], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(path: Path, adapter: Adapter, base: Base) -> Path:
    return write(path, adapter_keys(), adapter_tensors(adapter, base.heads))


def write_patched(path: Path, adapter: Adapter, base: Base) -> Path:
    content = bytearray(Path(base.path).read_bytes())
    for patch in patched_norms(adapter, base):
        content[patch.offset : patch.offset + len(b"".join(patch.content()))] = b"".join(patch.content())
    path.write_bytes(content)
    return path


def write_model(path: Path, base: Path, tensors: dict[str, TensorEntry]) -> Path:
    """Write the base again, with some tensors replaced, by GGUF name."""
    with open_gguf(base) as gguf:
        keys = list(gguf.key_values.values())
        return write(path, keys, [tensors.get(name, tensor) for name, tensor in same(base).items()])


@cache
def base_weights() -> Mapping[str, independent.Array]:
    """Return the weights of the base, which is read once: no test can change them."""
    weights = independent.weights(BASE)
    for values in weights.values():
        values.flags.writeable = False
    return MappingProxyType(weights)


def same(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a GGUF file, to be written again."""
    return {
        tensor.name: TensorEntry(
            tensor.name,
            tuple(int(length) for length in tensor.shape),
            Computed(lambda tensor=tensor: [tensor.data.tobytes()]),  # type: ignore[misc]
            tensor.tensor_type.name,
        )
        for tensor in GGUFReader(path).tensors
    }


def quantized(path: Path, kind: str, source: Path = BASE) -> Path:
    """Write the base with its matrices quantized by gguf."""
    from gguf.quants import quantize

    tensors = {}
    for tensor in GGUFReader(source).tensors:
        if len(tensor.shape) == 2:
            data = quantize(tensor.data, GGMLQuantizationType[kind]).tobytes()
            shape = tuple(int(length) for length in tensor.shape)
            tensors[tensor.name] = TensorEntry(tensor.name, shape, Computed(lambda data=data: iter([data])), kind)  # type: ignore[misc]
    return write_model(path, source, tensors)


# Made up ---------------------------------------------------------------------------------------------------

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def ggla(pairs: Mapping[str, Shapes], r: int = 2, alpha: int = 2) -> bytes:
    """Return a file with pairs of such shapes, in ggml order, by name."""
    out = bytearray(struct.pack("<4sI2i", b"algg", 1, r, alpha))
    for name, shapes in pairs.items():
        for part, shape in zip("AB", shapes, strict=True):
            if shape:
                label = f"{name}.weight.lora{part}".encode()
                out += struct.pack(f"<3I{len(shape)}I", len(shape), len(label), 0, *shape) + label
                out += bytes(-len(out) % 32) + np.ones(int(np.prod(shape)), "<f4").tobytes()
    return bytes(out)


def write_grouped_base(path: Path) -> Path:
    """Write the base with two heads of keys and values for its four of queries."""
    tensors = {}
    for tensor in GGUFReader(BASE).tensors:
        if tensor.name.endswith(("attn_k.weight", "attn_v.weight")):
            data = tensor.data[:16].tobytes()
            tensors[tensor.name] = TensorEntry(tensor.name, (32, 16), Computed(lambda data=data: iter([data])), "F32")  # type: ignore[misc]
    write_model(path, BASE, tensors)
    heads = GGUFReader(path, "r+").fields["llama.attention.head_count_kv"]
    heads.parts[heads.data[0]][:] = 2
    return path


def write_grouped_lora(path: Path, *, by_script: bool) -> Path:
    """Write a ggla of random numbers for that base, with ranks 1 to 4, r 4 and alpha 6."""

    def layer(i: int) -> dict[str, Shapes]:
        matrices = {"attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16), "attn_output": (32, 32)}
        matrices |= {"ffn_gate": (32, 96), "ffn_down": (96, 32), "ffn_up": (32, 96)}
        pairs: dict[str, Shapes] = {f"blk.{i}.{name}": ((3, a), (3, b)) for name, (a, b) in matrices.items()}
        norms: dict[str, Shapes] = {f"blk.{i}.{name}": ((1, 32), (1,)) for name in ("attn_norm", "ffn_norm")}
        return pairs if by_script else pairs | norms

    model: dict[str, Shapes] = {
        "token_embd": ((2, 32), (2, 320)),
        "output_norm": ((1, 32), (1,)),
        "output": ((4, 32), (4, 320)),
    }
    shapes = layer(0) | layer(1) | ({} if by_script else model)
    content, rng, at = bytearray(ggla(shapes, r=4, alpha=6)), np.random.default_rng(3), 16
    while at < len(content):
        _, values, end = independent.read_record(bytes(content), at)
        content[end - values.nbytes : end] = (rng.standard_normal(values.size) * 0.2).astype("<f4").tobytes()
        at = end
    path.write_bytes(content)
    return path
