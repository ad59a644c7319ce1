"""The Health tab: each parameter tensor with its moments, and the tokens that training never met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.segment import Segment

from ggcp_schema.browse.document import Document, Report
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.panes import Jump, Pane
from ggcp_schema.browse.text import bar, fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.text import escape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ggcp_schema.formats.file import File

PIECE = 1 << 18  # elements read at a time


@dataclass(frozen=True)
class Moments:
    """The parts of m and v that belong to each parameter tensor, by the tensor's path in this file.

    `evidence` says in words how the order of the parts is known. `embeddings` is the path of the tensor with a row for
    each token.
    """

    parts: Mapping[str, tuple[Tensor, Tensor]]
    evidence: str
    embeddings: str | None = None


FindMoments = Callable[["File"], "Moments | str"]


@dataclass(frozen=True)
class Health:
    """The state of a parameter tensor. What the moments say is None where their order is not known.

    `ratio` is the root mean square of m/√v where v > 0, `unused` the share of v that is 0.
    """

    tensor: Tensor
    rms: float | None
    nan: int
    inf: int
    m: float | None = None
    v: float | None = None
    ratio: float | None = None
    unused: float | None = None


@dataclass(frozen=True)
class Examination:
    """What is known so far: a row per tensor, and the tokens whose embeddings were never trained."""

    rows: tuple[Health, ...]
    total: int
    evidence: str = ""
    dead: tuple[int, ...] = field(default=())
    n_tokens: int = 0


@dataclass
class Sum:
    """A running mean of squares of finite values."""

    count: int = 0
    squares: float = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add values, which must be finite."""
        import numpy as np

        self.count += len(values)
        self.squares += float(np.square(values.astype(np.float64)).sum())

    @property
    def rms(self) -> float | None:
        """The root of the mean of the squares; None if there was no value."""
        return math.sqrt(self.squares / self.count) if self.count else None


def block(tensor: Tensor, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Read some elements as one array."""
    import numpy as np

    parts = list(tensor.values(start, stop))
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.float32)


def examine(tensors: Sequence[Tensor], moments: Moments | str, report: Report) -> Examination:
    """Measure each tensor, and its moments if their order is known; `moments` otherwise says why it is not."""
    rows: list[Health] = []
    evidence = moments if isinstance(moments, str) else moments.evidence
    for tensor in tensors:
        rows.append(examine_tensor(tensor, None if isinstance(moments, str) else moments, report))
        report(Examination(tuple(rows), len(tensors), evidence))
    dead: tuple[int, ...] = ()
    n_tokens = 0
    if not isinstance(moments, str) and moments.embeddings is not None:
        embeddings = next((tensor for tensor in tensors if tensor.path == moments.embeddings), None)
        if embeddings is not None:
            n_tokens = embeddings.shape[1]
            dead = tuple(dead_rows(moments, embeddings, report))
    return Examination(tuple(rows), len(tensors), evidence, dead, n_tokens)


def examine_tensor(tensor: Tensor, moments: Moments | None, report: Report) -> Health:
    """Read a tensor and its moments once."""
    import numpy as np

    weights, first, second, ratios = Sum(), Sum(), Sum(), Sum()
    nan = inf = zeros = 0
    parts = None if moments is None else moments.parts.get(tensor.path)
    for at in range(0, tensor.n_elements, PIECE):
        stop = min(at + PIECE, tensor.n_elements)
        values = block(tensor, at, stop)
        finite = values[np.isfinite(values)]
        nan += int(np.count_nonzero(np.isnan(values)))
        inf += int(np.count_nonzero(np.isinf(values)))
        weights.add(finite)
        if parts is not None:
            m, v = (block(part, at, stop) for part in parts)
            good = np.isfinite(m) & np.isfinite(v)
            nan += int(np.count_nonzero(np.isnan(m)) + np.count_nonzero(np.isnan(v)))
            inf += int(np.count_nonzero(np.isinf(m)) + np.count_nonzero(np.isinf(v)))
            m, v = m[good], v[good]
            zeros += int(np.count_nonzero(v == 0))
            first.add(m)
            second.add(np.sqrt(np.abs(v)))
            used = v > 0
            ratios.add(m[used] / np.sqrt(v[used]))
        report(None)
    if parts is None:
        return Health(tensor, weights.rms, nan, inf)
    mean_v = None if second.rms is None else second.rms**2
    unused = zeros / second.count if second.count else None
    return Health(tensor, weights.rms, nan, inf, first.rms, mean_v, ratios.rms, unused)


def dead_rows(moments: Moments, embeddings: Tensor, report: Report) -> Iterator[int]:
    """Give the rows of the embeddings whose v is all zero: tokens that never occurred in the training text."""
    n_embd, n_vocab = embeddings.shape[0], embeddings.shape[1]
    _, part = moments.parts[embeddings.path]
    step = max(1, PIECE // n_embd)
    for row in range(0, n_vocab, step):
        stop = min(n_vocab, row + step)
        v = block(part, row * n_embd, stop * n_embd).reshape(-1, n_embd)
        yield from (row + int(index) for index in (~v.any(axis=1)).nonzero()[0])
        report(None)


COLUMNS = ("RMS", "m", "v", "m/√v", "v = 0", "NaN", "Inf")
WIDTHS = (8, 8, 8, 8, 8, 6, 6)  # no value is negative
NAME = 20  # columns for a path: enough to show the layer of an attention_norm


class HealthView(LineView, Working, Pane):
    """The Health tab."""

    TITLE = "Health"
    top = 2

    def __init__(self, document: Document, find_moments: FindMoments, **options: Any) -> None:
        super().__init__(**options)
        self.document, self.find_moments = document, find_moments
        self.found: Examination | None = None
        self.error = ""

    def show(self, field: Field | None) -> None:
        if self.found is None and not self.working:
            self.start(self._examine)
        self._tensor = self.document.tensor_of(field)
        self._follow()

    _tensor: Tensor | None = None

    def _follow(self) -> None:
        """Put the cursor on the selected tensor."""
        tensor = self._tensor
        if self.found is not None and tensor is not None:
            for index, row in enumerate(self.found.rows):
                if row.tensor.path == tensor.path and index != self.cursor:
                    self.put(index)

    def _examine(self, report: Report) -> Examination:
        return examine(self.document.parameters, self.find_moments(self.document.file), report)

    def hide(self) -> None:
        if self.working:
            self.stop()
            self.found = None

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Exception):
            self.error = getattr(result, "message", str(result))
        else:
            self.found = result
            if done:
                self._follow()
        self.relayout()

    def count(self) -> int:
        if self.found is None:
            return 0
        return len(self.found.rows) + (2 + len(self.found.dead) if self.found.n_tokens else 0)

    def moved(self) -> None:
        if self.found is not None and self.cursor < len(self.found.rows):
            self.post_message(Jump(tensor=self.found.rows[self.cursor].tensor))

    def chosen(self) -> None:
        if self.found is None or self.cursor < len(self.found.rows) + 2:
            return
        row = self.found.dead[self.cursor - len(self.found.rows) - 2]
        embeddings = next((item.tensor for item in self.found.rows if len(item.tensor.shape) == 2), None)
        if embeddings is not None:
            size = embeddings.nbytes // embeddings.n_elements
            self.post_message(Jump(offset=embeddings.offset + row * embeddings.shape[0] * size, tensor=embeddings))

    # Drawing -----------------------------------------------------------------------------------------------

    def _columns(self, width: int) -> int:
        """Return how many columns there is room for."""
        count = len(COLUMNS)
        while count > 1 and sum(WIDTHS[:count]) + NAME > width:
            count -= 1
        return count

    def draw_top(self, index: int, width: int) -> list[Segment]:
        if self.error:
            return [self.text(self.error, "error")] if index == 0 else []
        if self.found is None:
            return [self.text("reading …", "detail")] if index == 0 else []
        if index == 0:
            words = self.found.evidence
            if len(self.found.rows) < self.found.total:
                words = f"{bar(len(self.found.rows) / self.found.total, 12)} {words}"
            return [self.text(fit(words, width), "detail")]
        count = self._columns(width)
        room = width - sum(WIDTHS[:count])
        titles = "".join(f"{title:>{size}}" for title, size in zip(COLUMNS[:count], WIDTHS))
        return [self.text(f"{'parameter':<{room}}{titles}", "head")]

    def draw(self, index: int, width: int) -> list[Segment]:
        assert self.found is not None  # noqa: S101 - lines are drawn when there are some
        if index >= len(self.found.rows):
            return self._dead(index - len(self.found.rows), width)
        row, count = self.found.rows[index], self._columns(width)
        room = width - sum(WIDTHS[:count])
        segments = [self.text(fit(escape(row.tensor.path), room - 1, left=True) + " ", "name")]
        unused = None if row.unused is None else f"{100 * row.unused:.3g} %"
        cells = [number(value, 3) for value in (row.rms, row.m, row.v, row.ratio)]
        cells += ["–" if unused is None else unused, str(row.nan), str(row.inf)]
        for position, (cell, size) in enumerate(zip(cells[:count], WIDTHS)):
            bad = position >= 5 and cell != "0"
            idle = position == 4 and row.unused == 1
            style = "error" if bad else "warning" if idle else "detail" if cell in ("0", "0 %", "–") else "value"
            segments.append(self.text(f"{cell:>{size}}", style))
        return segments

    def _dead(self, line: int, width: int) -> list[Segment]:
        assert self.found is not None  # noqa: S101 - as above
        if line == 0:
            return []
        if line == 1:
            count, total = len(self.found.dead), self.found.n_tokens
            noun = "token" if count == 1 else "tokens"
            return [self.text(f"{count:,} of {total:,} {noun} never trained (v of the row is all zero)", "head")]
        token = self.found.dead[line - 2]
        text = "" if self.document.tokens is None else f"  {escape(repr(self.document.tokens(token)))}"
        return [self.text(f"{token:>7}", "value"), self.text(text, "index")]
