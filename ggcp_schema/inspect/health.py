"""The health of a training: each parameter with its moments, and the tokens that never occurred in training.

This module imports numpy, as `ggcp_schema.inspect.stats` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ggcp_schema.errors import GgcpError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.source import Ahead
from ggcp_schema.files.tensor import Tensor, decode
from ggcp_schema.formats.file import File
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.soundness import soundness
from ggcp_schema.inspect.stats import Sums, finish, sums
from ggcp_schema.inspect.tensors import Listed, moments
from ggcp_schema.inspect.text import count_text
from ggcp_schema.inspect.words import HEALTH, UNTRAINED, Healthy
from ggcp_schema.llama.state import Unsound

PIECE = 1 << 18  # elements read at a time
EMBEDDINGS = "tok_embeddings"  # its rows are those of tokens


@dataclass(frozen=True)
class Moments:
    """The parts of m and v that belong to each parameter, by the tensor's path in this file; empty if not known.

    `evidence` says in words how the order of the parts is known, or why it is not. `embeddings` is the path of the
    tensor with a row for each token. `assumed_order` is the order if it is likely, but not proven.
    """

    parts: Mapping[str, tuple[Tensor, Tensor]]
    evidence: str
    embeddings: str | None = None
    assumed_order: str | None = None

    @property
    def doubt(self) -> str:
        """What has to be said after what follows from the order, if that is not proven."""
        return f" if the order is {self.assumed_order}" if self.assumed_order else ""


def find_moments(file: File) -> Moments:
    """Return the moments by parameter. Reads as much of them as the decision about their order takes."""
    model = file.model_tensors
    state = (Listed.of(file, tensor) for tensor in file.state_tensors.values() if tensor.nbytes)
    vectors = [item for item in state if item.moment in ("m", "v")]
    if not file.tensors and file.damage is None:
        return Moments({}, "The file has no tensors.")
    if len(vectors) < 2:
        if file.damage is not None:
            return Moments({}, f"No m and v could be read: the file is damaged at {file.damage.path}.")
        return Moments({}, "The file has no moments of Adam (m and v).")
    decision = file.order
    if decision.order is None:
        return Moments({}, f"The order of the parameters in m and v is undecidable: {decision.reason}.")
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        for part in moments(file, decision, vectors):
            if part.parameter is not None and part.moment is not None:
                parts.setdefault(model[part.parameter].path, {})[part.moment] = part.tensor
    except GgcpError as error:
        return Moments({}, error.message)
    return Moments(
        {path: (both["m"], both["v"]) for path, both in parts.items() if len(both) == 2},
        f"m and v in order {decision.order}, {decision.certainty}: {decision.reason}",
        model[EMBEDDINGS].path if EMBEDDINGS in model else None,
        None if decision.is_certain else decision.order,
    )


@json_keys("path=tensor.path type=tensor.type rms nan inf m v ratio unused")
@dataclass(frozen=True)
class Health:
    """The state of a parameter and its moments.

    `rms` is None if the tensor has no finite value, cannot be read, or its squares are too large; `largest` is the
    largest absolute value. `nan` and `inf` count the elements of the tensor and of its moments. `m` is the root mean
    square of m, `v` the mean of v, `ratio` the root mean square of m/√v where v > 0, and `unused` the share of v that
    is 0; they are None where the moments are not known.
    """

    tensor: Tensor
    rms: float | None
    nan: int = 0
    inf: int = 0
    m: float | None = None
    v: float | None = None
    ratio: float | None = None
    unused: float | None = None
    largest: float | None = None


@json_keys(
    "verdict moments=moments.evidence n_tokens dead_tokens=dead assumed_order=moments.assumed_order "
    "unsound tensors=rows"
)
@dataclass
class Examination:
    """What is known so far: a row for each of `total` tensors, and the tokens whose embeddings had no gradient.

    `unsound` are the places that the program which wrote a checkpoint cannot have written, as `validate` finds them.
    `examine` adds to it, while another thread may show it. `damage` is the path at which the file is damaged, if it is.
    """

    total: int
    moments: Moments
    damage: str | None = None
    rows: list[Health] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    unsound: list[Unsound] = field(default_factory=list)
    n_tokens: int = 0
    nan: int = 0
    inf: int = 0
    skipped: int = 0

    def add(self, row: Health) -> None:
        """Add the next tensor."""
        self.nan, self.inf = self.nan + row.nan, self.inf + row.inf
        self.skipped += not row.tensor.is_readable
        self.rows.append(row)

    def row_of(self, token: int) -> int:
        """Return the offset of a token's row in the embeddings."""
        tensor = next(row.tensor for row in self.rows if row.tensor.path == self.moments.embeddings)
        return tensor.offset + token * (tensor.nbytes // tensor.shape[1])

    @property
    def is_sound(self) -> bool:
        """True if no NaN, no infinity and no place that is unsound was found."""
        return not (self.nan or self.inf or self.unsound)

    @property
    def verdict(self) -> Healthy:
        """The result as a code."""
        if not self.is_sound:
            return "not-finite" if self.nan or self.inf else "unsound"
        return "healthy" if len(self.rows) > self.skipped else "not-measured"

    @property
    def untrained(self) -> str:
        """How many tokens were not trained, in words; and in which order of the moments, if it is not proven."""
        return f"{len(self.dead):,} of {count_text(self.n_tokens, 'token')} {UNTRAINED}{self.moments.doubt}"

    @property
    def text(self) -> str:
        """The result in one line."""
        words = [f"{count_text(self.nan, 'NaN', 'NaN')}, {count_text(self.inf, 'infinity', 'infinities')}"]
        if self.unsound:
            places = count_text(len(self.unsound), "unsound place")
            words.append(f"{places}, the first at offset {self.unsound[0].start:,}")
        if self.n_tokens:
            words.append(self.untrained)
        if self.skipped:
            words.append(f"{self.skipped:,} not measured")
        if not self.moments.parts:
            words.append("only weights were measured")
        if self.verdict == "not-measured":
            words = [f"{count_text(self.skipped, 'tensor')} of types that cannot be read"] if self.skipped else []
        result = ": ".join([HEALTH[self.verdict], *filter(None, [", ".join(words)])])
        return result if self.damage is None else f"the file is damaged at {self.damage}; what is whole: {result}"


def parameters(file: File) -> list[Tensor]:
    """Return the tensors of the model, in file order, without NULL ones."""
    state = {tensor.path for tensor in file.state_tensors.values()}
    return [tensor for path, tensor in file.tensors.items() if tensor.nbytes and path not in state]


def examine(file: File, report: Report = lambda found: None) -> Examination:
    """Measure each parameter, and its moments if their order is known, in one pass; then look for what is unsound.

    `report` gets the same growing result each time. Raises `FileError` if the file becomes too short.
    """
    damage = None if file.damage is None else file.damage.path
    found = examine_tensors(parameters(file), find_moments(file), report, damage)
    found.unsound += soundness(file, lambda nbytes: report(None))
    return found


@np.errstate(over="ignore", invalid="ignore")
def examine_tensors(
    tensors: Sequence[Tensor], moments: Moments, report: Report, damage: str | None = None
) -> Examination:
    """Measure these parameters; see `examine`."""
    found = Examination(len(tensors), moments, damage)
    report(found)
    aheads = Ahead(), Ahead(), Ahead()
    for tensor in tensors:
        found.add(examine_tensor([tensor, *moments.parts.get(tensor.path, ())], aheads, report))
        report(found)
    if moments.embeddings is not None and moments.embeddings in moments.parts:
        _, v = moments.parts[moments.embeddings]
        found.n_tokens = v.shape[1]
        for row in dead_rows(v, report):
            found.dead.append(row)
    return found


def block(tensor: Tensor, start: int, stop: int, ahead: Ahead | None = None) -> npt.NDArray[np.float32]:
    """Read some elements as one array."""
    small = tensor.small(ahead) if ahead else None
    if small is not None:
        return decode(small, tensor.type, tensor.byte_order)[start:stop]
    return np.concatenate([np.empty(0, np.float32), *tensor.values(start, stop)])


def examine_tensor(tensors: Sequence[Tensor], aheads: Sequence[Ahead], report: Report) -> Health:
    """Read a parameter, and its moments if they follow it, once.

    Of a type whose elements cannot be read, nothing is read.
    """
    tensor = tensors[0]
    if not tensor.is_readable:
        return Health(tensor, None)
    totals, ratios = [Sums() for _ in tensors], Sums()
    for at in range(0, tensor.n_elements, PIECE):
        stop = min(at + PIECE, tensor.n_elements)
        pieces = [block(each, at, stop, ahead) for each, ahead in zip(tensors, aheads)]
        for total, piece in zip(totals, pieces):
            total.add(sums(piece))
        if len(pieces) > 1:
            _, m, v = pieces
            used = (v > 0) & np.isfinite(v) & np.isfinite(m)
            ratios.add(sums(np.asarray(m[used] / np.sqrt(v[used]), np.float32)))
        report(None)
    nan, inf = sum(total.nan for total in totals), sum(total.inf for total in totals)
    weights, *moments = map(finish, totals)
    largest = None if weights.min is None or weights.max is None else max(-weights.min, weights.max)
    if not moments:
        return Health(tensor, weights.rms, nan, inf, largest=largest)
    first, second = moments
    unused = second.zeros / second.finite if second.finite else None
    return Health(tensor, weights.rms, nan, inf, first.rms, second.mean, finish(ratios).rms, unused, largest)


def dead_rows(v: Tensor, report: Report) -> Iterator[int]:
    """Yield the rows of the embeddings' v that are all zero: no gradient reached them since the optimizer started."""
    n_embd, n_vocab = v.shape[0], v.shape[1]
    step = max(1, PIECE // n_embd)
    for row in range(0, n_vocab, step):
        stop = min(n_vocab, row + step)
        part = block(v, row * n_embd, stop * n_embd).reshape(-1, n_embd)
        yield from (row + int(index) for index in (~part.any(axis=1)).nonzero()[0])
        report(None)
