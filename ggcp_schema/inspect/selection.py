"""The tensors of a file under all their names, and which of them a pattern means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ggcp_schema.checkpoint import Checkpoint, unknown_path
from ggcp_schema.gguf import keys

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile
    from ggcp_schema.source import Tensor

STATE = "optimizer.state."


@dataclass(frozen=True)
class Listed:
    """A tensor, its field path, its GGUF name, and what it is for, in words.

    `path` is None for a tensor that no ggcp file has, `gguf_name` for one that `convert` does not write: a NULL, and
    the work tensors of Adam in v0.
    """

    tensor: Tensor
    path: str | None
    gguf_name: str | None
    role: str

    @property
    def name(self) -> str:
        """What the tensor goes by in this file: its path, or its name in a GGUF file."""
        return self.tensor.path

    @property
    def moment(self) -> str | None:
        """The optimizer's name for it (`m`, `v`, `pf`, `lmal`, …); None for a tensor of the model."""
        return self.path.removeprefix(STATE) if self.path and self.path.startswith(STATE) else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: path, gguf_name, shape (ggml order; null for NULL), offset and nbytes (in bytes), type, role."""
        tensor = self.tensor
        return {
            "path": self.path,
            "gguf_name": self.gguf_name,
            "shape": None if tensor.is_null else list(tensor.shape),
            "offset": tensor.offset,
            "nbytes": tensor.nbytes,
            "type": tensor.type,
            "role": self.role,
        }


def listing(file: Checkpoint | GgufFile) -> list[Listed]:
    """All tensors, in file order."""
    if not isinstance(file, Checkpoint):
        return [_in_gguf(name, tensor) for name, tensor in file.tensors.items()]
    optimizer = file.fields.get("optimizer")
    kind = optimizer.get("type") if optimizer else None
    return [_in_checkpoint(path, tensor, kind) for path, tensor in file.tensors.items()]


def _in_checkpoint(path: str, tensor: Tensor, optimizer: str | None) -> Listed:
    name, role = keys.tensor_name(path, optimizer), _role(path, optimizer)
    if name is None:
        role += ", not converted"
    return Listed(tensor, path, None if tensor.is_null else name, role)


def _in_gguf(name: str, tensor: Tensor) -> Listed:
    path = keys.field_path(name)
    return Listed(
        tensor, path, name, _role(path or "", name.split(".")[1] if path and path.startswith(STATE) else None)
    )


def _role(path: str, optimizer: str | None) -> str:
    """`model`, or the optimizer, the schema's words for the field, and its name: `adam first moments (m)`."""
    from ggcp_schema.inference import ADAM, LBFGS
    from ggcp_schema.schema.optimizer import ADAM_STATE_V0, LBFGS_STATE

    states = {ADAM: ADAM_STATE_V0, LBFGS: LBFGS_STATE}
    if optimizer not in states or not path.startswith(STATE):
        return "model"
    name = path.removeprefix(STATE)
    words = next(field.docs for field in states[optimizer].subcons if field.name == name)
    return f"{optimizer} {words} ({name})"


def select(file: Checkpoint | GgufFile, pattern: str | None) -> list[Listed]:
    """The tensors that the pattern means, in file order; all, if it is None.

    A path or a GGUF name means that tensor. The path of a record (`layers[0]`, `optimizer`; `blk.0`) means all
    tensors in it. Otherwise `*` stands for any text and `?` for one character; brackets stand for themselves. Raises
    `UsageError` if that is nothing; in a damaged file its damage, which may hide what was meant.
    """
    tensors = listing(file)
    if pattern is None:
        return tensors
    found = matching(tensors, pattern)
    if found:
        return found
    if isinstance(file, Checkpoint) and file.damage is not None:
        raise file.damage
    raise unknown_path(pattern, dict.fromkeys(name for item in tensors for name in _names(item)))


def matching(tensors: Sequence[Listed], pattern: str) -> list[Listed]:
    """Those that the pattern means, as `select` has it; perhaps none."""
    literal = [item for item in tensors if pattern in _names(item)]
    if literal:
        return literal
    text = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    regex = re.compile(rf"{text}([.\[].*)?" if not set("*?") & set(pattern) else text, re.DOTALL)
    return [item for item in tensors if any(map(regex.fullmatch, _names(item)))]


def _names(item: Listed) -> list[str]:
    return [name for name in (item.path, item.gguf_name) if name]
