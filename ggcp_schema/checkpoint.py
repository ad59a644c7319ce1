"""A checkpoint as a program sees it: the fields by their names, and tensors that are read when asked."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

from ggcp_schema.constructs import Span
from ggcp_schema.errors import MalformedError, UsageError
from ggcp_schema.inference import Inference
from ggcp_schema.source import Source, Tensor


class Fields:
    """The fields of a record, by attribute or by item, in file order."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a checkpoint is read-only: {name}")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def items(self) -> ItemsView[str, Any]:
        values: Mapping[str, Any] = self._values
        return values.items()

    def __dir__(self) -> list[str]:
        return list(self._values)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._values)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {_short(value)}" for name, value in self._values.items())


def _short(value: Any) -> str:
    if isinstance(value, Fields):
        return "{" + ", ".join(value) + "}"
    if isinstance(value, tuple):
        return f"{len(value)} × {_short(value[0])}" if value else "none"
    return repr(value)


class Finding(NamedTuple):
    """Something worth a report that does not stop the reading."""

    path: str
    message: str


@dataclass(frozen=True)
class Checkpoint:
    """A ggcp checkpoint. The schema's fields are attributes: `ckpt.hparams.n_embd`, `ckpt.layers[0].wq`.

    Attributes:
        path: the file's.
        size: in bytes.
        fields: the root of the fields.
        tensors: all tensors by path, in file order, the optimizer's included.
        n_ff: width of the feed-forward layers, as the shape of w1 states it.
        past: the number of past losses that the optimizer keeps.
        lbfgs_m: the number of iterations that L-BFGS remembers.
        inference: how the optimizer's type was found, in a v1 file; None where it is stored.
        findings: what is odd but not wrong.
        damage: the error that ended the reading; None unless the file was opened with `partial=True`. It
            may hide n_ff, past and lbfgs_m, which are then None.
    """

    source: Source
    fields: Fields
    tensors: Mapping[str, Tensor]
    n_ff: int | None
    past: int | None
    lbfgs_m: int | None
    inference: Inference | None
    findings: tuple[Finding, ...]
    damage: MalformedError | None = None

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def model_tensors(self) -> dict[str, Tensor]:
        """The model's tensors by path, in file order."""
        return {path: tensor for path, tensor in self.tensors.items() if not path.startswith("optimizer.")}

    @property
    def n_params(self) -> int:
        """The number of parameters: elements of the model's tensors."""
        return sum(tensor.n_elements for tensor in self.model_tensors.values())

    @cached_property
    def spans(self) -> dict[str, Span]:
        """Every leaf of the file by path, in file order; up to the damage if there is some."""
        from ggcp_schema.spans import read_spans

        return read_spans(self.source)

    def span(self, path: str) -> Span:
        """Where a leaf lies and what it holds. Raises `UsageError` for an unknown path."""
        try:
            return self.spans[path]
        except KeyError:
            raise unknown_path(path, self.spans) from None

    def __getitem__(self, path: str) -> Any:
        """A record, tensor or value by its path: `"layers[0].wq"`, `"optimizer.nx"`, `"norm.ne[0]"`."""
        if path in self.tensors:
            return self.tensors[path]
        value: Any = self.fields
        try:
            for step in path.replace("[", ".[").split("."):
                value = value[int(step[1:-1])] if step.startswith("[") else value[step]
            return value
        except (KeyError, IndexError, ValueError, TypeError):
            return self.span(path).value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.fields, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.fields]

    def _ipython_key_completions_(self) -> list[str]:
        return [*self.tensors, *self.spans]

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {self._in_words()}>"

    def _in_words(self) -> str:
        if self.damage is not None:
            return f"damaged, {len(self.tensors)} whole tensors before {self.damage.path}"
        hparams, optimizer = self.fields.hparams, self.fields.optimizer
        model = f"{hparams.n_layer} layers, n_embd {hparams.n_embd}, n_vocab {hparams.n_vocab}"
        return f"{model}, {self.n_params:,} parameters, {optimizer.type} at iteration {optimizer.iter:,}"

    def _repr_html_(self) -> str:
        from html import escape

        rows = [(tensor.path, str(list(tensor.shape)), tensor.nbytes, tensor.name) for tensor in self.tensors.values()]
        head = "".join(f"<th>{title}</th>" for title in ("tensor", "shape (ggml order)", "bytes", "name in the file"))
        body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        title = f"<b>{escape(self.path)}</b>: {escape(self._in_words())}"
        return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def close(self) -> None:
        self.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unknown_path(path: str, known: Mapping[str, Any]) -> UsageError:
    """The error for a path that does not exist, with the nearest that do."""
    import difflib

    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    return UsageError(f"no field {path!r} in this file", f"Did you mean {', '.join(near)}?" if near else "")
