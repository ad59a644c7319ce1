"""The programs that wrote training checkpoints: when, in which form, and what their numbers mean.

Four facts are in no ggcp file: the epsilon of the RMS norm, whether the gradient was summed or averaged, what the
stored losses are, and the order of the optimizer's flat vectors. They follow from the program that wrote the file.
`WRITERS` lists the programs, and `conclude` decides from what a file shows which of them may have written it. The
commands, their help texts and the README take these facts from here.

Sources: the programs, built from their history at these dates and run; for llama.cpp's trainer of 21 to 27 August
2023, its source code.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

DEFAULT_RMS_EPS = 1e-5  # for a file of no known writer: what all trainers since 28 August 2023 compute with

Names = Literal["llama", "gguf"]  # layers.0.attention.wq.weight or blk.0.attn_q.weight
Gradient = Literal["sum", "mean"]  # over the n_ctx * n_batch tokens of a batch
Loss = Literal["last rows", "mean"]  # each thread's loss of its last row, summed over the threads; or as the gradient
_T = TypeVar("_T")


class Writer(NamedTuple):
    """A program during a time in which its files and its numbers were of one kind.

    Attributes:
        key: its name in JSON.
        program: its name in words.
        first, last: the first and the last day of that time.
        layouts: of the optimizer block, as the schema names them; empty if the program wrote GGUF.
        file_version: `training.file_version` if the program wrote GGUF, else None.
        names: how it named the model's tensors.
        n_mult_fits: True if n_ff follows from the stored n_mult.
        rms_eps: the epsilon of the forward pass. The backward pass used 1e-6 in June and in July, so the gradients
            that a v0 file stores do not show when the forward pass changed.
        gradient, loss: how the gradients and the stored losses were computed; None if that differs.
        orders: the orders of the optimizer's flat vectors, each with the options that lead to it.
    """

    key: str
    program: str
    first: datetime.date
    last: datetime.date
    layouts: tuple[str, ...]
    names: Names
    rms_eps: float
    gradient: Gradient | None
    loss: Loss | None
    orders: tuple[tuple[str, str], ...]
    n_mult_fits: bool = True
    file_version: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the writer for JSON, with dates as `2023-06-13`."""
        return {
            "key": self.key,
            "program": self.program,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "rms_eps": self.rms_eps,
            "gradient": self.gradient,
            "loss": self.loss,
            "orders": dict(self.orders),
        }


def _day(month: int, day: int, year: int = 2023) -> datetime.date:
    return datetime.date(year, month, day)


_MASTER = "llama.cpp's trainer"
_BRANCH = "the author's training branch"
_JUNE_ORDERS = (("A", "by default"), ("B", "--no-scratch"), ("C", "--no-scratch --no-flash"))
_JULY_ORDERS = (
    ("A", "by default"),
    ("B", "--no-checkpointing --no-scratch"),
    ("C", "--no-checkpointing --no-scratch --no-flash"),
)
_AUGUST_ORDERS = (("B", "by default"), ("C", "--no-flash"))
_LAST_ORDERS = (
    ("B", "evaluation order LEFT_TO_RIGHT, in 2023"),
    ("C", "evaluation order LEFT_TO_RIGHT, in 2023 with --no-flash"),
    ("A", "evaluation order RIGHT_TO_LEFT"),
)

# fmt: off
WRITERS = (
    Writer("master-june", _MASTER, _day(6, 13), _day(7, 24), ("v0",), "llama",
           1e-6, "sum", "last rows", _JUNE_ORDERS),
    Writer("master-july", _MASTER, _day(7, 25), _day(8, 20), ("v0",), "llama",
           5e-6, "sum", "last rows", _JUNE_ORDERS),
    # llama.cpp read GGUF by now; checkpoints kept their format and their tensor names for one more week
    Writer("master-august", _MASTER, _day(8, 21), _day(8, 27), ("v0",), "llama",
           1e-5, "sum", "last rows", _JUNE_ORDERS),
    Writer("branch-one-day", _BRANCH, _day(6, 15), _day(6, 15), ("v1-raw-params",), "llama",
           1e-6, "sum", "last rows", _JUNE_ORDERS),
    Writer("branch-june", _BRANCH, _day(6, 15), _day(7, 1), ("v1",), "llama",
           1e-6, "sum", "last rows", _JUNE_ORDERS),
    Writer("branch-july", _BRANCH, _day(7, 2), _day(7, 24), ("v1",), "llama",
           1e-6, "mean", "mean", _JULY_ORDERS),
    # the branch took 5e-6 over from llama.cpp after 24 July; which day before 14 August is not known
    Writer("branch-august", _BRANCH, _day(7, 25), _day(8, 24), ("v1",), "llama",
           5e-6, "mean", "mean", _AUGUST_ORDERS),
    Writer("compatibility", "the author's compatibility writer", _day(8, 28), _day(8, 28), ("v0", "v1"), "gguf",
           1e-5, "mean", "mean", _AUGUST_ORDERS, n_mult_fits=False),
    # a converter copies the moments and losses of any earlier writer
    Writer("gguf-0", f"{_MASTER}, or a converter of ggcp checkpoints", _day(8, 28), _day(9, 27), (), "gguf",
           1e-5, None, None, _AUGUST_ORDERS, file_version=0),
    Writer("gguf-1", _MASTER, _day(9, 28), _day(7, 24, 2024), (), "gguf",
           1e-5, "mean", "mean", _LAST_ORDERS, file_version=1),
)
# fmt: on


class Evidence(NamedTuple):
    """What a file shows of its writer, in plain values; None for what it does not show.

    Attributes:
        layout: of the optimizer block: v0, v1 or v1-raw-params.
        first_tensor: the name of the first tensor as stored.
        n_mult: as stored.
        n_ff: as the shape of w1 states it.
        n_ff_by_formula: as n_embd and n_mult give it.
        gradient_summed: True if the moments prove a summed gradient, False if they prove an averaged one.
        order: the proven order of the optimizer's flat vectors.
        file_version: `training.file_version` of a GGUF checkpoint.
        rms_eps: the epsilon that a GGUF file stores.
        modified: the file's modification date.
    """

    layout: str | None = None
    first_tensor: str | None = None
    n_mult: int | None = None
    n_ff: int | None = None
    n_ff_by_formula: int | None = None
    gradient_summed: bool | None = None
    order: str | None = None
    file_version: int | None = None
    rms_eps: float | None = None
    modified: datetime.date | None = None


class EraConclusion(NamedTuple):
    """Who may have written a file, and what follows.

    Attributes:
        writers: those that remain, in the order of `WRITERS`; empty for a file of no known writer.
        rms_eps: the epsilon to compute with.
        rms_eps_certain: True if it is stored in the file, or all writers that remain used it.
        rms_eps_alternatives: the other epsilons of the writers that remain, ascending.
        rms_eps_reason: in plain words, without a full stop.
        evidence: what was found, each with what follows from it.
    """

    writers: tuple[Writer, ...]
    rms_eps: float
    rms_eps_certain: bool
    rms_eps_alternatives: tuple[float, ...]
    rms_eps_reason: str
    evidence: tuple[tuple[str, str], ...]

    @property
    def first(self) -> datetime.date | None:
        """The first day on which the file may have been written."""
        return min((writer.first for writer in self.writers), default=None)

    @property
    def last(self) -> datetime.date | None:
        """The last such day."""
        return max((writer.last for writer in self.writers), default=None)

    @property
    def gradient(self) -> Gradient | None:
        """How the gradient was computed; None if the writers that remain differ."""
        return _common(writer.gradient for writer in self.writers)

    @property
    def loss(self) -> Loss | None:
        """What the stored losses are; None if the writers that remain differ."""
        return _common(writer.loss for writer in self.writers)

    @property
    def writer_text(self) -> str:
        """The writers that remain, in words."""
        return writers_text(self.writers) or "unknown"

    def as_dict(self) -> dict[str, Any]:
        """Return the conclusion for JSON, with dates as `2023-06-13`."""
        return {
            "writers": [writer.as_dict() for writer in self.writers],
            "first": self.first and self.first.isoformat(),
            "last": self.last and self.last.isoformat(),
            "gradient": self.gradient,
            "loss": self.loss,
            "rms_eps": self.rms_eps,
            "rms_eps_certain": self.rms_eps_certain,
            "rms_eps_alternatives": list(self.rms_eps_alternatives),
            "rms_eps_reason": self.rms_eps_reason,
            "evidence": [{"statement": statement, "why": why} for statement, why in self.evidence],
        }


def conclude(evidence: Evidence) -> EraConclusion:
    """Decide who may have written a file that shows this evidence, and which epsilon it was trained with.

    The kind of file, its layout and its tensor names must fit; if no writer is left, the file is of none that is
    known. n_mult, the gradient's scale and the order are used only as far as they leave a writer, for weights and
    moments can be changed later. Where the epsilon is still open, the one whose time includes the modification date is
    taken; else the one whose writer needed the fewest options for this order; else the one in use for most days.
    """
    writers: tuple[Writer, ...] = WRITERS
    found = []
    for statement, required, fits in _tests(evidence):
        left = tuple(writer for writer in writers if fits(writer))
        if left or required:
            writers = left
            found.append((statement, f"used by {writers_text(left)}" if left else "no known writer is left"))
        else:
            found.append((statement, "not true of any writer that fits the rest; ignored"))
    dated = [writer for writer in writers if evidence.modified and writer.first <= evidence.modified <= writer.last]
    if dated and evidence.modified:
        statement = f"the file was last modified on {date_text(evidence.modified)}"
        found.append((statement, f"a weak hint at {writers_text(dated)}"))
    eps, reason = _rms_eps(evidence, writers, dated)
    others = {writer.rms_eps for writer in writers} - {eps} if evidence.rms_eps is None else set()
    certain = evidence.rms_eps is not None or (bool(writers) and not others)
    return EraConclusion(writers, eps, certain, tuple(sorted(others)), reason, tuple(found))


def _tests(evidence: Evidence) -> Iterator[tuple[str, bool, Callable[[Writer], bool]]]:
    """Yield each piece of evidence in words, whether a writer must fit it, and the test whether one does."""
    if evidence.file_version is not None:
        version = evidence.file_version
        yield f"GGUF, training.file_version is {version}", True, lambda writer: writer.file_version == version
        return
    if evidence.layout is None:
        yield "a ggcp checkpoint", True, lambda writer: writer.file_version is None
    else:
        layout = evidence.layout
        yield f"the layout of the optimizer block is {layout}", True, lambda writer: layout in writer.layouts
    if evidence.first_tensor is not None:
        stem = evidence.first_tensor.partition(".")[0]
        names = {"tok_embeddings": "llama", "token_embd": "gguf"}.get(stem)
        yield f"the first tensor is named {evidence.first_tensor!r}", True, lambda writer: writer.names == names
    if None not in (evidence.n_ff, evidence.n_ff_by_formula) and evidence.n_ff != evidence.n_ff_by_formula:
        statement = f"n_ff is {evidence.n_ff}, which does not follow from n_mult {evidence.n_mult}"
        yield statement, False, lambda writer: not writer.n_mult_fits and evidence.n_mult == 256  # its default
    if evidence.gradient_summed is not None:
        gradient = "sum" if evidence.gradient_summed else "mean"
        kind = "summed" if evidence.gradient_summed else "averaged"
        yield f"the gradients were {kind} over the tokens", False, lambda writer: writer.gradient == gradient
    if evidence.order is not None:
        order = evidence.order
        statement = f"the optimizer's vectors are in order {order}"
        yield statement, False, lambda writer: order in dict(writer.orders)


def _rms_eps(evidence: Evidence, writers: Sequence[Writer], dated: Sequence[Writer]) -> tuple[float, str]:
    """Return the epsilon and the reason for it."""
    if evidence.rms_eps is not None:
        return evidence.rms_eps, "stored in the file"
    if not writers:
        default = epsilon_text(DEFAULT_RMS_EPS)
        return DEFAULT_RMS_EPS, f"the file is of no known writer; all trainers since 28 August 2023 use {default}"
    by_eps: dict[float, list[Writer]] = {}
    for writer in writers:
        by_eps.setdefault(writer.rms_eps, []).append(writer)
    if len(by_eps) == 1:
        option = ", unless --norm-rms-eps was given" if writers[0].names == "gguf" else ""
        return writers[0].rms_eps, f"{writers_text(writers)} computed with {epsilon_text(writers[0].rms_eps)}{option}"
    times = join_words(f"{epsilon_text(eps)} ({_times(group)})" for eps, group in sorted(by_eps.items()))
    if dated and evidence.modified:
        day = date_text(evidence.modified)
        return dated[0].rms_eps, f"the writer computed with {times}, and the file was last modified on {day}"
    usual = [
        writer
        for writer in writers
        if evidence.order and _options(writer, evidence.order) == _least(writers, evidence.order)
    ]
    if usual and len({writer.rms_eps for writer in usual}) == 1:
        return usual[0].rms_eps, (
            f"the writer computed with {times}; order {evidence.order} of the optimizer's vectors needed the fewest "
            f"options in {writers_text(usual)}"
        )
    days, longest = max((_days(group), eps) for eps, group in by_eps.items())
    return longest, (
        f"the writer computed with {times}; the file does not show which, "
        f"so the one in use for most days was taken ({days} days)"
    )


def _options(writer: Writer, order: str) -> int:
    """Return how many options the writer needed to write this order."""
    return (
        dict(writer.orders)[order].count("--") if order in dict(writer.orders) else 1 << 8
    )  # more than any writer has


def _least(writers: Sequence[Writer], order: str) -> int:
    return min(_options(writer, order) for writer in writers)


def help_text_epsilon() -> str:
    """Return the default of `--rms-eps` in words, for help texts and the README."""
    last = {(writer.program, writer.rms_eps): date_text(writer.last) for writer in WRITERS}
    return (
        "No ggcp file stores the epsilon of the RMS norm. It is chosen by the program that wrote the file: "
        f"1e-6 until {last[_MASTER, 1e-6]}, 5e-6 until {last[_MASTER, 5e-6]} ({last[_BRANCH, 5e-6]} in {_BRANCH}), "
        f"1e-5 after that. For a file of no known program it is {epsilon_text(DEFAULT_RMS_EPS)}."
    )


def epsilon_text(eps: float) -> str:
    """Write an epsilon as people do: `1e-5`, also for the float32 nearest to it."""
    return f"{eps:g}".replace("e-0", "e-")


def writers_text(writers: Iterable[Writer]) -> str:
    """Name the programs with their times, joining the times of one program; empty without writers."""
    by_program: dict[str, list[Writer]] = {}
    for writer in writers:
        by_program.setdefault(writer.program, []).append(writer)
    return join_words(f"{program} ({_times(group)})" for program, group in by_program.items())


def _times(writers: Iterable[Writer]) -> str:
    """Return the times of the writers in words."""
    return join_words(period_text(first, last) for first, last in _periods(writers))


def _days(writers: Iterable[Writer]) -> int:
    """Return the number of days on which at least one of the writers was current."""
    return sum((last - first).days + 1 for first, last in _periods(writers))


def _periods(writers: Iterable[Writer]) -> list[tuple[datetime.date, datetime.date]]:
    """Return the times of the writers; times that overlap or follow each other become one."""
    periods: list[tuple[datetime.date, datetime.date]] = []
    for first, last in sorted((writer.first, writer.last) for writer in writers):
        if periods and first <= periods[-1][1] + datetime.timedelta(days=1):
            periods[-1] = periods[-1][0], max(last, periods[-1][1])
        else:
            periods.append((first, last))
    return periods


def period_text(first: datetime.date, last: datetime.date) -> str:
    """Return a time in words: `13 June to 24 July 2023`, `2 to 24 July 2023`, `28 August 2023`."""
    if first == last:
        return date_text(last)
    start = date_text(first)
    if first.year == last.year:
        start = start.rpartition(" ")[0]
        if first.month == last.month:
            start = str(first.day)
    return f"{start} to {date_text(last)}"


def date_text(day: datetime.date) -> str:
    """Return a date in words: `24 July 2023`."""
    return f"{day.day} {day:%B %Y}"


def join_words(words: Iterable[str]) -> str:
    """Join words as a sentence does: `a`, `a or b`, `a, b or c`."""
    *head, tail = [*words] or [""]
    return f"{', '.join(head)} or {tail}" if head else tail


def _common(values: Iterable[_T]) -> _T | None:
    """Return the value that all have; None if they differ or there is none."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
