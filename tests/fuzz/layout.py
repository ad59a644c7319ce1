"""A naive walker over all formats: a file as a list of named pieces. It shares nothing with the package."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

ALIGNMENT = 32
HPARAMS = ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot")
LAYER = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
ADAM_PARAMS = ("sched", "decay", "alpha", "beta1", "beta2", "eps", "eps_f", "eps_g")
LBFGS_PARAMS = ("eps", "ftol", "wolfe", "min_step", "max_step")
ADAM_V0 = ("x", "g1", "g2", "m", "v", "mh", "vh", "pf")
ADAM_V1 = ("m", "v", "pf")
LBFGS = ("x", "xp", "g", "gp", "d", "pf", "lmal", "lmys", "lms", "lmy")
GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
GGUF_STRING, GGUF_ARRAY = 8, 9
BYTES, PADDING, DATA = "bytes", "padding", "data"  # kinds that are not formats of `struct`


class WalkError(Exception):
    """The file cannot be walked to its end."""


@dataclass
class Piece:
    """A piece of a file. `kind` is a format of `struct` (`<I`), or "bytes", "padding" (to 32 bytes) or "data"."""

    name: str
    content: bytes
    kind: str

    @property
    def value(self) -> int | float:
        value: int | float = struct.unpack(self.kind, self.content)[0]
        return value

    @property
    def is_number(self) -> bool:
        return self.kind not in {BYTES, PADDING, DATA}


class Walker:
    """Cuts a file into pieces. `records` are the names of what may be moved as a whole: tensors, keys, tokens."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.order = "<"
        self.pieces: list[Piece] = []
        self.records: list[str] = []

    def raw(self, name: str, size: int, kind: str = BYTES) -> bytes:
        if size > len(self.data) - self.at:
            raise WalkError(f"{name} needs {size:#x} bytes at {self.at}, and the file ends at {len(self.data)}")
        content = self.data[self.at : self.at + size]
        self.pieces.append(Piece(name, content, kind))
        self.at += size
        return content

    def number(self, name: str, kind: str) -> int:
        """The next number; a float's value is not needed here."""
        kind = self.order + kind
        content = self.raw(name, struct.calcsize(kind), kind)
        return int.from_bytes(content, "big" if self.order == ">" else "little", signed=kind[1] in "iq")

    def pad(self, name: str) -> None:
        self.raw(name, -self.at % ALIGNMENT, PADDING)


def walk(data: bytes) -> Walker:
    """Cut a file of any format into pieces, which make the whole file again when joined. Raises `WalkError`."""
    walker = Walker(data)
    _walk(walker)
    if walker.at != len(data):
        walker.raw("trailing", len(data) - walker.at)
    return walker


def walk_to_damage(data: bytes) -> Walker:
    """Cut a file into pieces as far as it goes."""
    walker = Walker(data)
    with suppress(WalkError):
        _walk(walker)
    return walker


def _walk(walker: Walker) -> None:
    readers: dict[bytes, Callable[[Walker], None]] = {b"pcgg": _ggcp, b"GGUF": _gguf}
    readers |= dict.fromkeys((b"tjgg", b"fmgg", b"lmgg"), _ggml)
    readers.get(walker.data[:4], _sentencepiece)(walker)


# ggcp -------------------------------------------------------------------------------------------------------


def _ggcp(walker: Walker) -> None:
    walker.raw("magic", 4)
    for name in ("version", "train_its", "train_samples", "train_tokens"):
        walker.number(name, "I")
    n_layer = {name: walker.number(f"hparams.{name}", "I") for name in HPARAMS}["n_layer"]
    for name in ("tok_embeddings", "norm", "output"):
        _tensor(walker, name)
    for layer in range(n_layer):
        for name in LAYER:
            _tensor(walker, f"layers[{layer}].{name}")
    version = walker.number("optimizer.version", "I")
    raw_params = version == 0 or not _vector_follows(walker.data, walker.at)
    if raw_params:
        is_lbfgs = _params(walker) == 1
    else:
        walker.number("optimizer.past", "I")
        walker.number("optimizer.lbfgs_m", "I")
    nx = walker.number("optimizer.nx", "q")
    walker.number("optimizer.iter", "i")
    walker.number("optimizer.just_initialized", "I")
    if not raw_params:
        is_lbfgs = _third_record_is_a_vector(walker.data, walker.at, nx)
    names = LBFGS if is_lbfgs else ADAM_V0 if version == 0 else ADAM_V1
    for name in names:
        _tensor(walker, f"optimizer.state.{name}")
    walker.number("optimizer.state.fx_best", "f")
    walker.number("optimizer.state." + ("step" if is_lbfgs else "fx_prev"), "f")
    for name in ("j", "k", "end", "n_no_improvement") if is_lbfgs else ("n_no_improvement",):
        walker.number(f"optimizer.state.{name}", "i")


def _params(walker: Walker) -> int:
    def number(name: str, kind: str) -> int:
        return walker.number(f"optimizer.params.{name}", kind)

    kind = number("type", "i")
    number("n_threads", "i")
    number("past", "i")
    number("delta", "f")
    number("max_no_improvement", "i")
    number("print_forward_graph", "B")
    number("print_backward_graph", "B")
    number("padding", "H")
    number("adam.n_iter", "i")
    for name in ADAM_PARAMS:
        number(f"adam.{name}", "f")
    for name in ("m", "n_iter", "max_linesearch"):
        number(f"lbfgs.{name}", "i")
    for name in LBFGS_PARAMS:
        number(f"lbfgs.{name}", "f")
    number("lbfgs.linesearch", "i")
    return kind


def _vector_follows(data: bytes, at: int) -> bool:
    """True if the header of a vector of nx elements follows the fields of v1, which begin at `at`."""
    nx = data[at + 8 : at + 16]
    n_dims, ne = data[at + 24 : at + 28], data[at + 36 : at + 40]
    return n_dims == b"\1\0\0\0" and ne + bytes(4) == nx


def _third_record_is_a_vector(data: bytes, at: int, nx: int) -> bool:
    ahead = Walker(data)
    ahead.at = at
    _tensor(ahead, "first")
    _tensor(ahead, "second")
    before = len(ahead.pieces)
    _tensor(ahead, "third")
    return any(piece.name == "third.ne[0]" and piece.value == nx for piece in ahead.pieces[before:])


def _tensor(walker: Walker, name: str) -> int:
    """A tensor record of a ggcp file; its number of elements."""
    walker.records.append(name)
    n_dims = walker.number(f"{name}.n_dims", "I")
    name_len = walker.number(f"{name}.name_len", "I")
    walker.number(f"{name}.type", "I")
    if n_dims > len(walker.data) // 4:
        raise WalkError(f"{name} has {n_dims} dimensions")
    ne = [walker.number(f"{name}.ne[{index}]", "I") for index in range(n_dims)]
    walker.raw(f"{name}.name", name_len)
    walker.pad(f"{name}.padding")
    count = math.prod(ne) if ne else 0
    walker.raw(f"{name}.data", 4 * count, DATA)
    return count


# ggjt, ggmf, ggml -------------------------------------------------------------------------------------------

GGML_TYPE_SIZES = {0: 4, 1: 2}  # the seeds have no others


def _ggml(walker: Walker) -> None:
    magic = walker.raw("magic", 4)
    if magic != b"lmgg":
        walker.number("version", "I")
    n_vocab = {name: walker.number(f"hparams.{name}", "I") for name in HPARAMS}["n_vocab"]
    walker.number("ftype", "I")
    for index in range(n_vocab):
        name = f"tokens[{index}]"
        walker.records.append(name)
        walker.raw(f"{name}.text", walker.number(f"{name}.len", "I"))
        if magic != b"lmgg":
            walker.number(f"{name}.score", "f")
    index = 0
    while walker.at < len(walker.data):
        name = f"tensors[{index}]"
        walker.records.append(name)
        n_dims = walker.number(f"{name}.n_dims", "I")
        name_len = walker.number(f"{name}.name_len", "I")
        size = GGML_TYPE_SIZES.get(walker.number(f"{name}.type", "I"), 4)
        if n_dims > len(walker.data) // 4:
            raise WalkError(f"{name} has {n_dims} dimensions")
        ne = [walker.number(f"{name}.ne[{dim}]", "I") for dim in range(n_dims)]
        walker.raw(f"{name}.name", name_len)
        if magic == b"tjgg":
            walker.pad(f"{name}.padding")
        walker.raw(f"{name}.data", size * math.prod(ne), DATA)
        index += 1


# GGUF -------------------------------------------------------------------------------------------------------


def _gguf(walker: Walker) -> None:
    walker.raw("magic", 4)
    walker.order = ">" if walker.data[4:6] == b"\0\0" and walker.data[6:8] != b"\0\0" else "<"
    walker.number("version", "I")
    n_tensors = walker.number("tensor_count", "Q")
    for _ in range(walker.number("metadata_kv_count", "Q")):
        first = len(walker.pieces)
        key = _string(walker, "key")
        walker.records.append(key)
        for piece in walker.pieces[first:]:
            piece.name = f"{key}.{piece.name}"
        _value(walker, key, walker.number(f"{key}.value_type", "I"))
    shapes: dict[str, int] = {}
    for _ in range(n_tensors):
        first = len(walker.pieces)
        name = _string(walker, "name")
        walker.records.append(f"{name}.info")
        for piece in walker.pieces[first:]:
            piece.name = f"{name}.info.{piece.name}"
        n_dims = walker.number(f"{name}.info.n_dimensions", "I")
        if n_dims > len(walker.data) // 8:
            raise WalkError(f"{name} has {n_dims} dimensions")
        ne = [walker.number(f"{name}.info.dimensions[{index}]", "Q") for index in range(n_dims)]
        size = GGML_TYPE_SIZES.get(walker.number(f"{name}.info.type", "I"), 4)
        walker.number(f"{name}.info.offset", "Q")
        shapes[name] = size * math.prod(ne)
    if walker.at < len(walker.data):
        walker.pad("padding")
    for name, nbytes in shapes.items():
        walker.raw(f"{name}.data", nbytes, DATA)
        walker.pad(f"{name}.padding")


def _string(walker: Walker, name: str) -> str:
    size = walker.number(f"{name}.len", "Q")
    return walker.raw(f"{name}.text", size).decode("utf-8", "backslashreplace")


def _value(walker: Walker, name: str, kind: int) -> None:
    if kind in GGUF_SCALARS:
        walker.number(f"{name}.value", GGUF_SCALARS[kind])
    elif kind == GGUF_STRING:
        _string(walker, f"{name}.value")
    elif kind == GGUF_ARRAY:
        element = walker.number(f"{name}.array_type", "I")
        for index in range(walker.number(f"{name}.array_len", "Q")):
            _value(walker, f"{name}[{index}]", element)
    else:
        raise WalkError(f"{name} has the type {kind}")


# sentencepiece ----------------------------------------------------------------------------------------------


def _sentencepiece(walker: Walker) -> None:
    """A ModelProto: its fields are pieces of the vocabulary (1) or taken as they are."""
    index = 0
    while walker.at < len(walker.data):
        tag, size = _varints(walker.data, walker.at)
        name = f"pieces[{index}]" if tag == 0x0A else f"field{index}"
        walker.records.append(name)
        walker.raw(f"{name}.tag", 1, "<B")
        walker.raw(f"{name}.size", size[0])
        if tag == 0x0A and walker.data[walker.at : walker.at + 1] == b"\x0a" and size[1] > 8:  # text, score, type
            text_size = walker.data[walker.at + 1]
            walker.raw(f"{name}.text_tag", 1, "<B")
            walker.raw(f"{name}.text_size", 1, "<B")
            walker.raw(f"{name}.text", text_size)
            walker.raw(f"{name}.score_tag", 1, "<B")
            walker.number(f"{name}.score", "f")
            walker.raw(f"{name}.rest", size[1] - text_size - 7)
        else:
            walker.raw(f"{name}.content", size[1])
        index += 1


def _varints(data: bytes, at: int) -> tuple[int, tuple[int, int]]:
    """The tag of a protobuf field, and of the number after it how long it is and how much."""
    tag, size, value = data[at], 0, 0
    while True:
        if at + 1 + size >= len(data) or size > 9:
            raise WalkError(f"no protobuf field at {at}")
        byte = data[at + 1 + size]
        value |= (byte & 0x7F) << 7 * size
        size += 1
        if byte < 0x80:
            return tag, (size, value)
