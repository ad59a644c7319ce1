"""Files of tensors for the tests of order and scale: genuine checkpoints, and vectors made in a known order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from tests.mapping.independent_order import Located, Vector, join, read

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FLAGS = {
    name: flags
    for table in ("orders/orders.json", "truth/truth.json")
    for name, flags in json.loads((FIXTURES / table).read_text("utf-8")).items()
}
# What is known of the others: the trainers of June, and the branch's of 3 July, walked the graph in order A.
ORDER_OF = {
    "v0-adam": "A",
    "v1-adam-raw-params": "A",
    "v1-adam": "A",
    "v1-adam-past5": "C",
    "v1-lbfgs": "C",
    "rotmax8-v0": "C",
    "rotmax8-v1": "C",
    "alice": "C",
    "twin-adam.v0": "C",
    "twin-adam.v1": "C",
    "twin-ff48.v0": "C",
    "twin-ff48.v1": "C",
    "twin-lbfgs.v0": "C",
    "twin-lbfgs.v1": "C",
} | {name.removesuffix(".ggcp"): flags["order"] for name, flags in FLAGS.items() if name.endswith(".ggcp")}
NOT_TRAINED = "17a-B-3"  # only norm and output had gradients
DECIDED = {name: order for name, order in ORDER_OF.items() if name != NOT_TRAINED}


_OPEN: list[Source] = []


def close_all() -> None:
    """Close the files of all tensors made so far."""
    while _OPEN:
        _OPEN.pop().close()


def _source(path: Path) -> Source:
    _OPEN.append(Source(path))
    return _OPEN[-1]


@dataclass
class Tensors:
    """The two mappings that the functions under test take."""

    model: Mapping[str, Tensor]
    state: Mapping[str, Tensor]


def genuine(name: str) -> Path:
    """The path of a genuine checkpoint."""
    return next(path for folder in ("", "orders", "truth") if (path := FIXTURES / folder / f"{name}.ggcp").exists())


def opened(name: str) -> Tensors:
    """The tensors of a genuine checkpoint, where the independent reader found them."""
    file, source = read(genuine(name)), _source(genuine(name))

    def tensor(path: str, located: Located) -> Tensor:
        return Tensor(path, "", located.shape, located.offset, located.data.nbytes, source)

    return Tensors(
        {path: tensor(path, located) for path, located in file.model.items()},
        {field: tensor(f"optimizer.state.{field}", located) for field, located in file.state.items()},
    )


def written(
    path: Path, model: Mapping[str, Vector], state: Mapping[str, Vector], byte_order: str = "little"
) -> Tensors:
    """Tensors of these values in a new file; a vector of columns has numpy's shape `(m, n_params)`."""
    offset, content = 0, b""

    def tensor(name: str, values: Vector) -> tuple[str, tuple[int, ...], int, int]:
        nonlocal offset, content
        data = values.astype("<f4" if byte_order == "little" else ">f4").tobytes()
        content += data
        offset += len(data)
        return name, values.shape[::-1], offset - len(data), len(data)

    places = [tensor(name, values) for name, values in [*model.items(), *state.items()]]
    path.write_bytes(content)
    source = _source(path)
    tensors = {place[0]: Tensor(place[0], "", *place[1:], source, byte_order=byte_order) for place in places}
    return Tensors({name: tensors[name] for name in model}, {name: tensors[name] for name in state})


def shapes_of(n_vocab: int, n_embd: int, n_ff: int, n_layer: int) -> dict[str, tuple[int, int]]:
    """The shape of each of the model's tensors in numpy's order, norms as one row."""
    shapes = {"tok_embeddings": (n_vocab, n_embd), "norm": (1, n_embd), "output": (n_vocab, n_embd)}
    square, wide = (n_embd, n_embd), (n_ff, n_embd)
    for layer in range(n_layer):
        sizes = {"attention_norm": (1, n_embd), "wq": square, "wk": square, "wv": square, "wo": square}
        sizes |= {"ffn_norm": (1, n_embd), "w1": wide, "w2": (n_embd, n_ff), "w3": wide}
        shapes |= {f"layers[{layer}].{name}": shape for name, shape in sizes.items()}
    return shapes


def made_moments(
    shapes: Mapping[str, tuple[int, int]], order: str, seen: list[bool], spread: float, rng: np.random.Generator
) -> Vector:
    """v of a training in which the tokens `seen` occurred, in that order.

    Each tensor has a scale of its own; `spread` is the standard deviation of its logarithm.
    """
    parts = {}
    for path, shape in shapes.items():
        part = np.exp(rng.normal(rng.normal(-18, spread), 1, shape))
        if path == "tok_embeddings":
            part[~np.array(seen)] = 0
        parts[path] = part.astype(np.float32).ravel()
    return join(parts, order)


def made_model(shapes: Mapping[str, tuple[int, int]], rng: np.random.Generator) -> dict[str, Vector]:
    """Weights of these shapes."""
    return {path: rng.normal(0, 0.02, shape[0] * shape[1]).astype(np.float32) for path, shape in shapes.items()}
