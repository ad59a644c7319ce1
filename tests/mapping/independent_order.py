"""An implementation of format.md's account of order and scale that shares nothing with the package.

It reads ggcp files with `struct`, whole into memory, and looks at every value. From the repository's root,
`python -m tests.mapping.independent_order FILE.ggcp …` prints what it finds.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass
class Located:
    """A tensor: its shape in ggml order, the offset of its data in the file, and the data."""

    shape: tuple[int, ...]
    offset: int
    data: Vector


@dataclass
class File:
    """What a ggcp file says: the model's tensors by path, those of the optimizer's state by field, and the counts."""

    train_its: int
    train_samples: int
    train_tokens: int
    n_vocab: int
    n_embd: int
    n_layer: int
    model: dict[str, Located] = field(default_factory=dict)
    state: dict[str, Located] = field(default_factory=dict)
    iterations: int = 0
    n_iter: int | None = None


def read(path: Path) -> File:
    data = path.read_bytes()
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(f"<{kind}")
        return int(value)

    def tensor() -> Located:
        nonlocal at
        n_dims, name_len, kind = number("I"), number("I"), number("I")
        assert kind == 0
        shape = tuple(number("I") for _ in range(n_dims))
        at += name_len
        at += -at % 32
        count = prod(shape) if shape else 0
        found = Located(shape, at, np.frombuffer(data, "<f4", count, at))
        at += 4 * count
        return found

    assert number("I") == 0x67676370
    assert number("I") == 0
    its, samples, tokens, n_vocab, n_embd, _, _, n_layer, _ = (number("I") for _ in range(9))
    file = File(its, samples, tokens, n_vocab, n_embd, n_layer)
    for name in ("tok_embeddings", "norm", "output"):
        file.model[name] = tensor()
    for layer in range(n_layer):
        for name in ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3"):
            file.model[f"layers[{layer}].{name}"] = tensor()
    nx = sum(len(located.data) for located in file.model.values())

    version = number("I")
    # In v1, nx follows past and lbfgs_m; otherwise the struct of 96 bytes does.
    if version == 0 or struct.unpack_from("<q", data, at + 8)[0] != nx:
        file.n_iter = struct.unpack_from("<i", data, at + 24)[0]
        at += 96
    else:
        at += 8
    assert number("q") == nx
    file.iterations = number("i")
    at += 4
    records = []
    while len(data) - at > 24:
        records.append(tensor())
    adam = ["x", "g1", "g2", "m", "v", "mh", "vh", "pf"] if version == 0 else ["m", "v", "pf"]
    lbfgs = ["x", "xp", "g", "gp", "d", "pf", "lmal", "lmys", "lms", "lmy"]
    # Adam's end is 12 bytes, so a NULL record of pf, of at least 12 bytes, may be left.
    names = lbfgs if len(records) == len(lbfgs) else adam
    file.state = dict(zip(names, records, strict=False))
    return file


def order_of_paths(order: str, n_layer: int) -> list[str]:
    """The four orders, written out."""
    up, down = list(range(n_layer)), list(range(n_layer))[::-1]
    if order in "AD":
        attention = {"A": ["attention_norm", "wq", "wk", "wv"], "D": ["wv", "attention_norm", "wk", "wq"]}
        layer = [*attention[order], "wo", "ffn_norm", "w3", "w1", "w2"]
        middle = [f"layers[{i}].{name}" for i in up for name in layer]
        return ["tok_embeddings", *middle, "norm", "output"]
    first = {
        "B": ["w2", "w1", "ffn_norm", "wo", "wq", "attention_norm"],
        "C": ["w2", "w1", "ffn_norm", "wo", "attention_norm"],
    }
    second = {"B": ["wk", "wv", "w3"], "C": ["wv", "wk", "wq", "w3"]}
    return [
        "output",
        "norm",
        *(f"layers[{i}].{name}" for i in down for name in first[order]),
        "tok_embeddings",
        *(f"layers[{i}].{name}" for i in up for name in second[order]),
    ]


def split(vector: Vector, order: str, sizes: dict[str, int]) -> dict[str, Vector]:
    """A flat vector in that order, as the part of each tensor."""
    n_layer = (len(sizes) - 3) // 9
    parts, start = {}, 0
    for path in order_of_paths(order, n_layer):
        parts[path] = vector[start : start + sizes[path]]
        start += sizes[path]
    assert start == len(vector)
    return parts


def join(parts: dict[str, Vector], order: str) -> Vector:
    """The inverse of `split`."""
    return np.concatenate([parts[path] for path in order_of_paths(order, (len(parts) - 3) // 9)])


def change_order(vector: Vector, old: str, new: str, sizes: dict[str, int]) -> Vector:
    """A flat vector, or the columns of lms or lmy one after the other, in another order."""
    n_params = sum(sizes.values())
    columns = [vector[start : start + n_params] for start in range(0, len(vector), n_params)]
    return np.concatenate([join(split(column, old, sizes), new) for column in columns])


def sizes_of(file: File) -> dict[str, int]:
    return {path: len(located.data) for path, located in file.model.items()}


def proven_order(file: File) -> str | None:
    """The order in which x equals the weights, or the only one with all rows of zeros in tok_embeddings."""
    sizes = sizes_of(file)
    if "x" in file.state:
        for order in "ABC":
            weights = join({path: located.data for path, located in file.model.items()}, order)
            if weights.tobytes() == file.state["x"].data.tobytes():
                return order
    vector = file.state["v" if "v" in file.state else "g"].data
    fitting = []
    for order in "ABC":
        with_zeros = set()
        for path, part in split(vector, order, sizes).items():
            if any(not row.any() for row in part.reshape(-1, file.n_embd)):
                with_zeros.add(path)
        if with_zeros == {"tok_embeddings"}:
            fitting.append(order)
    return fitting[0] if len(fitting) == 1 else None


def gradient_ratio(file: File, order: str) -> float:
    """The figure that is above 1 if gradients were summed."""
    v = split(file.state["v"].data, order, sizes_of(file))["output"].astype(np.float64)
    largest = float(np.abs(file.model["norm"].data).max())
    return sqrt(v.sum() / (1 - 0.999**file.iterations) / (2 * file.n_embd)) / largest


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        checkpoint = read(Path(argument))
        found = proven_order(checkpoint)
        ratio = f", ratio {gradient_ratio(checkpoint, found):.3g}" if found and "v" in checkpoint.state else ""
        print(f"{argument}: order {found}{ratio}")
