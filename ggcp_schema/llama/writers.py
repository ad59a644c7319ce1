"""The programs that wrote training checkpoints: when, in which form, and what their numbers mean.

The commands, their help texts and the README take these facts from here.

Sources: the programs, built from their history at these dates and run; for llama.cpp's trainer of 21 to 27 August and
the branch's of 15 June to 2 July 2023 their source code too.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, TypeVar

from ggcp_schema.files.json_keys import json_keys

Gradient = Literal["sum", "clipped-sum", "mean"]  # over the n_ctx * n_batch tokens of a batch
Loss = Literal["last-rows", "mean", "constant"]
"""Each thread's loss of its last row, summed over the threads; the mean over a batch; the same number for any model."""

_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


@json_keys("key program first last rms_eps gradient loss orders")
class Writer(NamedTuple):
    """A program during a time in which its files and its numbers were of one kind.

    Attributes:
        key: its name in JSON, and in the files that `convert` writes.
        program: its name in words.
        first, last: the first and the last day of that time.
        layouts: of the optimizer block, as the schema names them; empty if the program wrote GGUF.
        first_tensor: how it named the first tensor, and the others in the same style.
        rms_eps: the epsilon of the forward pass; of a program that wrote GGUF its default, since the file stores it.
            The backward pass used 1e-6 in June and in July, so the gradients that a v0 file stores do not show when the
            forward pass changed.
        gradient, loss: how the gradients and the stored losses were computed.
        orders: the options that lead to each order of the optimizer's flat vectors.
        n_mult_fits: True if n_ff follows from the stored n_mult.
        file_version: `training.file_version` if the program wrote GGUF, else None.
    """

    key: str
    program: str
    first: datetime.date
    last: datetime.date
    layouts: tuple[str, ...]
    first_tensor: Literal["tok_embeddings", "token_embd"]
    rms_eps: float
    gradient: Gradient
    loss: Loss
    orders: Mapping[str, str]
    n_mult_fits: bool = True
    file_version: int | None = None

    @property
    def takes_epsilon(self) -> bool:
        """True if --norm-rms-eps set another epsilon, as in all programs since 28 August 2023."""
        return self.first >= _day(8, 28)

    @property
    def short(self) -> str:
        """The program in a few words."""
        return "train-text-from-scratch" + (", xaedes' branch" if self.program.startswith(_BRANCH) else "")


def _day(month: int, day: int, year: int = 2023) -> datetime.date:
    return datetime.date(year, month, day)


_MASTER = "llama.cpp's train-text-from-scratch"
_BRANCH = f"{_MASTER}, pull request branch by xaedes"
_JUNE_ORDERS = {"A": "by default", "B": "--no-scratch", "C": "--no-scratch --no-flash"}
_JULY_ORDERS = {
    "A": "by default",
    "B": "--no-checkpointing --no-scratch",
    "C": "--no-checkpointing --no-scratch --no-flash",
}
_AUGUST_ORDERS = {"B": "by default", "C": "--no-flash"}
_LAST_ORDERS = {
    "B": "evaluation order LEFT_TO_RIGHT, in 2023",
    "C": "evaluation order LEFT_TO_RIGHT, in 2023 with --no-flash",
    "A": "evaluation order RIGHT_TO_LEFT, in 2023 with --no-flash",
    "D": "evaluation order RIGHT_TO_LEFT, in 2023",
}

# fmt: off
WRITERS = (
    Writer("master-june", _MASTER, _day(6, 13), _day(7, 24), ("v0",), "tok_embeddings",
           1e-6, "sum", "last-rows", _JUNE_ORDERS),
    Writer("master-july", _MASTER, _day(7, 25), _day(8, 20), ("v0",), "tok_embeddings",
           5e-6, "sum", "last-rows", _JUNE_ORDERS),
    # llama.cpp read GGUF by now; checkpoints kept their format and their tensor names for one more week
    Writer("master-august", _MASTER, _day(8, 21), _day(8, 27), ("v0",), "tok_embeddings",
           1e-5, "sum", "last-rows", _JUNE_ORDERS),
    Writer("branch-raw-june", _BRANCH, _day(6, 15), _day(6, 15), ("v1-raw-params",), "tok_embeddings",
           1e-6, "sum", "last-rows", _JUNE_ORDERS),
    # the branch was put on top of a later llama.cpp on this day: its first commits computed with another epsilon then
    Writer("branch-raw-july", _BRANCH, _day(7, 28), _day(7, 28), ("v1-raw-params",), "tok_embeddings",
           5e-6, "sum", "last-rows", _JUNE_ORDERS),
    # the summed gradient was clipped to a length of 1, by default
    Writer("branch-june", _BRANCH, _day(6, 15), _day(7, 2), ("v1",), "tok_embeddings",
           1e-6, "clipped-sum", "last-rows", _JULY_ORDERS),
    Writer("branch-july", _BRANCH, _day(7, 3), _day(7, 27), ("v1",), "tok_embeddings",
           1e-6, "mean", "mean", _JULY_ORDERS),
    Writer("branch-rebased", _BRANCH, _day(7, 28), _day(8, 14), ("v1",), "tok_embeddings",
           5e-6, "mean", "mean", _JULY_ORDERS),
    # 18:44 to 20:56: it trained on wrong logits
    Writer("branch-wrong-logits", _BRANCH, _day(8, 14), _day(8, 14), ("v1",), "tok_embeddings",
           5e-6, "mean", "constant", _AUGUST_ORDERS),
    Writer("branch-august", _BRANCH, _day(8, 14), _day(8, 24), ("v1",), "tok_embeddings",
           5e-6, "mean", "mean", _AUGUST_ORDERS),
    Writer("branch-last-day", _BRANCH, _day(8, 24), _day(8, 24), ("v1",), "tok_embeddings",
           1e-5, "mean", "mean", _AUGUST_ORDERS),
    Writer("compatibility", f"{_BRANCH}, compatibility writer", _day(8, 28), _day(8, 28), ("v0", "v1"), "token_embd",
           1e-5, "mean", "mean", _AUGUST_ORDERS, n_mult_fits=False),
    Writer("gguf-0", _MASTER, _day(8, 28), _day(9, 27), (), "token_embd",
           1e-5, "mean", "mean", _AUGUST_ORDERS, file_version=0),
    Writer("gguf-1", _MASTER, _day(9, 28), _day(7, 24, 2024), (), "token_embd",
           1e-5, "mean", "mean", _LAST_ORDERS, file_version=1),
)
# fmt: on


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Return the items, such as writers, by what they have in common, in their order."""
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def epsilon_text(eps: float) -> str:
    """Write an epsilon as people do: `1e-5`, also for the float32 nearest to it."""
    return f"{eps:g}".replace("e-0", "e-")


def writers_text(writers: Iterable[Writer]) -> str:
    """Name the programs with their times, joining the times of one program; empty without writers."""
    groups = grouped(writers, lambda writer: writer.program)
    return join_words(f"{program} ({times_text(group)})" for program, group in groups.items())


def times_text(writers: Iterable[Writer]) -> str:
    """Return the times of the writers in words, with the year once: `3 to 27 July or 14 to 24 August 2023`."""
    texts = [period_text(first, last) for first, last in _periods(writers)]
    years = {text.rpartition(" ")[2] for text in texts}
    if len(years) == 1 and all(text.count(year) == 1 for text in texts for year in years):
        texts = [*(text.rpartition(" ")[0] for text in texts[:-1]), *texts[-1:]]
    return join_words(texts)


def months_text(writers: Iterable[Writer]) -> str:
    """Return from which month to which the writers were current, in words: `June to August 2023`."""
    periods = _periods(writers)
    first, last = periods[0][0], periods[-1][1]
    if first.year != last.year:
        return f"{first:%B %Y} to {last:%B %Y}"
    return f"{last:%B %Y}" if first.month == last.month else f"{first:%B} to {last:%B %Y}"


def days_of(writers: Iterable[Writer]) -> int:
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
