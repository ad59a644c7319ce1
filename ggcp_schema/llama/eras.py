"""Who wrote a training checkpoint, as far as the file shows it, and what follows from that.

Four facts are in no ggcp file: the epsilon of the RMS norm, whether the gradient was summed or averaged, what the
stored losses are, and the order of the optimizer's flat vectors. They follow from the program that wrote the file.
`writers` lists the programs, and `conclude` decides from what a file shows which of them may have written it. Often
several remain; only what they share is certain.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.llama.writers import (
    WRITERS,
    Gradient,
    Loss,
    Writer,
    date_text,
    days_of,
    epsilon_text,
    grouped,
    join_words,
    times_text,
    writers_text,
)

DEFAULT_RMS_EPS = 1e-5  # for a file of no known writer: what all trainers since 28 August 2023 compute with
CLIPPED = 1e-4  # the average of the squared length lies this near to 1; 7e-6 after 1,184 iterations
MORE_LOST = "; what is lost may tell another one"
COST_OF_EPSILON = "a wrong one costs 1e-4 to 9e-3 in log probability"  # measured on genuine files


class Clue(NamedTuple):
    """A piece of evidence: what was found, what follows from it in words, and what that is.

    It `fits` some writers, whom `why` names, and excludes the others; it is only a `hint`; no writer that is left fits
    it, so that it is `ignored`; or it proves that the writer is `unknown`.
    """

    statement: str
    why: str
    effect: Literal["fits", "hint", "ignored", "unknown"]


class Evidence(NamedTuple):
    """What a file shows of its writer, in plain values; None for what it does not show.

    Attributes:
        layout: of the optimizer block: v0, v1 or v1-raw-params.
        first_tensor: the name of the first tensor as stored.
        n_mult: as stored.
        n_ff: as the shape of w1 states it.
        n_ff_by_formula: as n_embd and n_mult give it.
        long_gradient: True if the moments prove a gradient longer than a mean can be.
        square_length: of the gradient of all parameters, averaged as v is.
        losses_differ: True if the two stored losses differ.
        order: the proven order of the optimizer's flat vectors.
        is_gguf: True of a GGUF file, which a trainer saved, or which was made from a ggcp file.
        file_version: `training.file_version` of a GGUF checkpoint.
        converted: True if a GGUF checkpoint was made from a ggcp file, and no trainer has saved it since.
        recorded: the keys of the writers that `convert` recorded in a GGUF checkpoint.
        rms_eps: the epsilon that a GGUF file stores.
        rms_eps_certain: what `convert` recorded of it.
        modified: the file's modification date.
        damaged: True if damage may hide more.
        is_model: True of a model file before GGUF, which other programs than the trainers wrote too.
    """

    layout: str | None = None
    first_tensor: str | None = None
    n_mult: int | None = None
    n_ff: int | None = None
    n_ff_by_formula: int | None = None
    long_gradient: bool = False
    square_length: float | None = None
    losses_differ: bool | None = None
    order: str | None = None
    is_gguf: bool = False
    file_version: int | None = None
    converted: bool = False
    recorded: tuple[str, ...] | None = None
    rms_eps: float | None = None
    rms_eps_certain: bool | None = None
    modified: datetime.date | None = None
    damaged: bool = False
    is_model: bool = False


@json_keys(
    "writers likely=likely_keys first last gradient losses rms_eps rms_eps_certain rms_eps_alternatives "
    "rms_eps_reason evidence"
)
class EraConclusion(NamedTuple):
    """Who may have written a file, and what follows. Only what all these writers share is certain.

    Attributes:
        writers: all that remain, in the order of `WRITERS`; empty for a file of no known writer.
        likely: those of them that are likelier than the others: the file was modified in their time; or the lengths of
            the gradients fit them, and they needed the fewest options for the order of the flat vectors.
        rms_eps: the epsilon to compute with.
        rms_eps_certain: True if all writers that remain used it, and none of them took another one as an option; or if
            a trainer that computed with it stored it.
        rms_eps_alternatives: the other epsilons of the writers that remain, ascending.
        rms_eps_reason: in plain words, without a full stop.
        evidence: what was found, each with what follows from it.
        is_recorded: True if `convert` stored the epsilon, and whether it was certain.
    """

    writers: tuple[Writer, ...]
    likely: tuple[Writer, ...]
    rms_eps: float
    rms_eps_certain: bool
    rms_eps_alternatives: tuple[float, ...]
    rms_eps_reason: str
    evidence: tuple[Clue, ...]
    is_recorded: bool

    @property
    def is_default(self) -> bool:
        """True if all writers that remain used this epsilon, unless an option set another one."""
        return bool(self.writers) and all(writer.rms_eps == self.rms_eps for writer in self.writers)

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
        gradients = {writer.gradient for writer in self.writers}
        return gradients.pop() if len(gradients) == 1 else None

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What the stored losses may be, the likelier first."""
        days = {loss: days_of(group) for loss, group in grouped(self.writers, lambda writer: writer.loss).items()}
        likely = {writer.loss for writer in self.likely}
        return tuple(sorted(days, key=lambda loss: (loss not in likely, -days[loss])))

    @property
    def writer_text(self) -> str:
        """The writers that remain, in words."""
        return writers_text(self.writers) or "unknown"

    @property
    def likely_keys(self) -> list[str]:
        """The keys of the likely writers."""
        return [writer.key for writer in self.likely]


def conclude(evidence: Evidence) -> EraConclusion:
    """Decide who may have written a file that shows this evidence, and which epsilon it was trained with.

    The kind of file, its layout and its tensor names must fit; if no writer is left, the file is of none that is
    known. n_mult, the gradient's scale and the order are ignored if no writer would remain, because weights and
    moments can be changed later. Where the epsilon is still open, it is that of the writers whose time includes the
    modification date; else of the writers with the fewest options for this order; else the one in use for most days.
    """
    writers: tuple[Writer, ...] = WRITERS
    found = []
    for statement, required, fits in _tests(evidence):
        left = tuple(writer for writer in writers if fits(writer))
        if left or required:
            writers = left
            why = Clue(statement, f"true of {writers_text(left)}", "fits")
            found.append(why if left else Clue(statement, "no known writer is left", "unknown"))
        else:
            found.append(Clue(statement, "not true of any writer that fits the rest; ignored", "ignored"))
    dated = [writer for writer in writers if evidence.modified and writer.first <= evidence.modified <= writer.last]
    if evidence.modified and 0 < len(dated) < len(writers):
        statement = f"the file was last modified on {date_text(evidence.modified)}"
        found.append(Clue(statement, f"a weak hint at {writers_text(dated)}", "hint"))
    eps, certain, reason, likely = _rms_eps(evidence, writers, dated)
    same = epsilon_text(eps)  # a file stores it as float32
    others = set() if certain else {writer.rms_eps for writer in writers if epsilon_text(writer.rms_eps) != same}
    is_recorded = evidence.rms_eps is not None and evidence.rms_eps_certain is not None
    return EraConclusion(writers, tuple(likely), eps, certain, tuple(sorted(others)), reason, tuple(found), is_recorded)


def _tests(evidence: Evidence) -> Iterator[tuple[str, bool, Callable[[Writer], bool]]]:
    """Yield each piece of evidence: a description, whether it is binding, and a test for a writer."""
    if evidence.file_version is not None and not evidence.converted:
        version = evidence.file_version
        yield f"GGUF, training.file_version is {version}", True, lambda writer: writer.file_version == version
        return
    if evidence.recorded is not None:
        recorded = evidence.recorded
        yield "converted by ggcp-schema, which recorded the writers", True, lambda writer: writer.key in recorded
        return
    if evidence.converted:
        yield "converted from a ggcp checkpoint, and not saved by a trainer since", True, _wrote_ggcp
    elif evidence.layout is not None:
        layout = evidence.layout
        yield f"the layout of the optimizer block is {layout}", True, lambda writer: layout in writer.layouts
    elif not evidence.is_gguf:
        yield "a model file before GGUF" if evidence.is_model else "a ggcp checkpoint", True, _wrote_ggcp
    if evidence.first_tensor is not None:
        stem = evidence.first_tensor.partition(".")[0]
        yield f"the first tensor is named {evidence.first_tensor!r}", True, lambda writer: writer.first_tensor == stem
    if None not in (evidence.n_ff, evidence.n_ff_by_formula) and evidence.n_ff != evidence.n_ff_by_formula:
        statement = f"n_ff is {evidence.n_ff}, which does not follow from n_mult {evidence.n_mult}"
        yield statement, False, lambda writer: not writer.n_mult_fits and evidence.n_mult == 256  # its default
    if evidence.long_gradient:
        statement = "the gradients are longer than means can be: they were summed over the tokens"
        yield statement, False, lambda writer: writer.gradient == "sum"
    if evidence.losses_differ:
        yield "the stored losses differ", False, lambda writer: writer.loss != "constant"
    if evidence.order is not None:
        order = evidence.order
        statement = f"the optimizer's vectors are in order {order}"
        yield statement, False, lambda writer: order in writer.orders


def _wrote_ggcp(writer: Writer) -> bool:
    return writer.file_version is None


def _rms_eps(
    evidence: Evidence, writers: Sequence[Writer], dated: Sequence[Writer]
) -> tuple[float, bool, str, Sequence[Writer]]:
    """Return the epsilon, whether it is certain, the reason for it, and the likely writers."""
    usual = dated or _with_fewest_options(_by_length(writers, evidence.square_length), evidence.order)
    if evidence.rms_eps is not None:
        if evidence.rms_eps_certain is not None:
            how = "as certain" if evidence.rms_eps_certain else "as a default, for the file did not show it"
            return evidence.rms_eps, evidence.rms_eps_certain, f"stored in the file by ggcp-schema, {how}", usual
        if evidence.converted or evidence.file_version is None:
            reason = "stored in the file; the converter of 2023 wrote 1e-5 whatever the training had computed with"
            unless = "" if evidence.converted else ", if it made the file"
            return evidence.rms_eps, False, f"{reason}{unless}", usual
        return evidence.rms_eps, True, "stored in the file", usual
    default = epsilon_text(DEFAULT_RMS_EPS)
    if not writers:
        reason = f"the file is of no known writer; all trainers since 28 August 2023 use {default}"
        return DEFAULT_RMS_EPS, False, reason, usual
    by_eps = grouped(writers, lambda writer: writer.rms_eps)
    if len(by_eps) == 1:
        takes_epsilon = any(writer.takes_epsilon for writer in writers)
        option = ", unless --norm-rms-eps was given" if takes_epsilon else ""
        return writers[0].rms_eps, not takes_epsilon, f"that of {writers_text(writers)}{option}", usual
    times = join_words(f"{epsilon_text(eps)} ({times_text(group)})" for eps, group in sorted(by_eps.items()))
    choices = f"the trainer of the file used {times}"
    if evidence.is_model:
        choices = f"nothing shows which program made the file; train-text-from-scratch used {times}"
    in_use = grouped(usual, lambda writer: writer.rms_eps)  # the one for most days; of two such the earlier
    eps = max(in_use, key=lambda eps: (days_of(in_use[eps]), -min(writer.first for writer in in_use[eps]).toordinal()))
    if len({writer.rms_eps for writer in usual}) > 1:
        among = "" if len(usual) == len(writers) else " by the programs that usually write such vectors and gradients"
        why = f"{epsilon_text(eps)} was used for the most days{among}{MORE_LOST * evidence.damaged}"
    elif dated and evidence.modified:
        why = f"the file was last modified on {date_text(evidence.modified)}"
    else:
        why = f"the order of the vectors and the lengths of the gradients are more usual in {writers_text(usual)}"
    return eps, False, f"{choices}; {why}; {COST_OF_EPSILON}", usual


def _by_length(writers: Sequence[Writer], square_length: float | None) -> Sequence[Writer]:
    """Return the writers whose gradients have such lengths: a sum that is always clipped has the length 1."""
    if square_length is None:
        return writers
    return [writer for writer in writers if (writer.gradient == "clipped-sum") == is_clipped(square_length)] or writers


def is_clipped(square_length: float) -> bool:
    """Return True if the gradients had a length of 1 in every iteration."""
    return abs(square_length - 1) < CLIPPED


def _with_fewest_options(writers: Sequence[Writer], order: str | None) -> Sequence[Writer]:
    """Return the writers that needed the fewest options to write this order; all if it is not known."""
    options = {writer.key: text.count("--") for writer in writers if (text := writer.orders.get(order or ""))}
    least = min(options.values(), default=None)
    return [writer for writer in writers if options.get(writer.key) == least] if options else writers
