"""Summarize a file: what it is, how far the training has come, what the model is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggcp_schema.formats.file import File
from ggcp_schema.inspect.brief import iterations_text, state_text
from ggcp_schema.inspect.commands import next_commands
from ggcp_schema.inspect.damage import condition_of
from ggcp_schema.inspect.facts import Summary, facts
from ggcp_schema.inspect.text import count_text, size_text
from ggcp_schema.inspect.words import N_FF_SOURCES
from ggcp_schema.llama.order import OrderDecision
from ggcp_schema.llama.parameters import ORDERS
from ggcp_schema.llama.writers import epsilon_text, join_words
from ggcp_schema.schema.inference import optimizer_text


def summarize(file: File, *, data: bool = False, progress: Callable[[int], None] | None = None) -> Summary:
    """Summarize a file that was opened with `partial=True`.

    Of tensor data only as much is read as the decision of the order and the scale needs, and the past losses; with
    `data` also all values of a training state, to see whether they are sound. `progress` is called with the number of
    bytes just read for that. Raises `FileError` if the file cannot be read.
    """
    summary = facts(file)._replace(condition=condition_of(file), broken=file.broken_rules)
    if data:
        from ggcp_schema.inspect.soundness import soundness

        unsound = soundness(file, progress)
        if unsound or summary.is_examinable:
            summary = summary._replace(unsound=tuple(unsound))
    if summary.state in {"damaged", "unsound"}:
        summary = summary._replace(is_repairable=file.is_repairable)
    return summary._replace(advice=tuple(next_commands(summary)))


def summary_lines(summary: Summary) -> list[tuple[str, str]]:
    """Return the summary in words: labels and texts. What is not known has no line."""
    return [*_lines(summary)]


def _lines(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "file", summary.file
    yield "what", f"{summary.what}, {size_text(summary.size)}"
    if summary.condition is not None:
        yield from summary.condition.lines()
    elif summary.broken:
        yield "state", state_text(summary)
    elif not summary.unsound:
        yield "state", "✓ whole" + "; no impossible value was found in its tensors" * (summary.unsound is not None)
    for bad in summary.unsound or ():
        yield "unsound", f"{bad.path}: {bad.message}"
    if summary.era is not None:
        yield "written by", summary.era.writer_text
        # what follows from the evidence is said where that is not simply that some writers fit
        clues = (clue.statement + (f" ({clue.why})" * (clue.effect != "fits")) for clue in summary.era.evidence)
        yield "because", "; ".join(clues)
    yield from summary.details
    yield from _training_lines(summary)
    yield from _model_lines(summary)
    if summary.order is not None and summary.order.order is not None:
        yield f"order {summary.order.order} is", ORDERS[summary.order.order]
    for finding in summary.findings:
        yield "note", f"{finding.path}: {finding.message}"
    yield from summary.advice


def _training_lines(summary: Summary) -> Iterator[tuple[str, str]]:
    if summary.train_its is not None:
        counts = (summary.train_samples, "sample"), (summary.train_tokens, "token")
        known = (count_text(count, noun) for count, noun in counts if count is not None)
        yield "training", ", ".join((iterations_text(summary), *known))
    if summary.context.text and summary.train_its is not None:
        yield "context", summary.context.text
    if summary.losses is not None:
        yield from summary.losses.lines
    optimizer = summary.optimizer
    if optimizer is None or optimizer.type is None:
        return
    words = [optimizer_text(optimizer.type)]
    if optimizer.iter is not None:
        words.append(f"iteration {optimizer.iter:,}")
    if optimizer.past:
        words.append(count_text(optimizer.past, "past loss", "past losses"))
    if optimizer.type == "lbfgs" and optimizer.lbfgs_m is not None:
        words.append(f"memory of {count_text(optimizer.lbfgs_m, 'step')}")
    yield "optimizer", ", ".join(words)
    if optimizer.inference is not None:
        yield "type", str(optimizer.inference)
    if summary.order is not None:
        yield "order", _order_text(summary.order)
    if summary.scale is not None and summary.scale.ratio is not None:
        yield "scale", summary.scale.reason


def _order_text(order: OrderDecision) -> str:
    if order.harmless:
        return f"of the parameters in the optimizer's vectors does not matter: {order.reason}"
    if order.order is None:
        return f"of the parameters in the optimizer's vectors is not known: {order.reason}"
    return f"{order.order} ({order.certainty}), of the parameters in the optimizer's vectors: {order.reason}"


def _model_lines(summary: Summary) -> Iterator[tuple[str, str]]:
    if summary.hparams:
        yield "model", ", ".join(f"{name} {value}" for name, value in summary.hparams.items() if value is not None)
    if summary.n_ff is not None:
        yield "n_ff", _n_ff_text(summary)
    if summary.n_params is not None:
        yield "parameters", f"{summary.n_params:,}"
    types = summary.tensor_types or {}
    if set(types) - {"F32"}:
        yield "tensors", ", ".join(f"{count:,} {name}" for name, count in types.items())
    if summary.n_tokens is not None:
        yield "vocabulary", count_text(summary.n_tokens, "token")
    if summary.rms_eps is not None or summary.epsilon is not None:
        yield "RMS epsilon", _epsilon_text(summary)
    if summary.bytes:
        words = {"waste": "padding" if summary.optimizer is None else "other optimizer vectors and padding"}
        words |= {"model": "adapter"} if summary.adapter else {}
        uses = (f"{words.get(use, use)} {size_text(count)}" for use, count in summary.bytes.items() if count)
        yield "bytes", "; ".join(uses)


def _epsilon_text(summary: Summary) -> str:
    era = summary.epsilon
    if era is None:
        return f"{epsilon_text(summary.rms_eps or 0.0)}, stored in the file"
    eps = era.rms_eps
    others = join_words(map(epsilon_text, era.rms_eps_alternatives))
    return f"{epsilon_text(eps)}: {era.rms_eps_reason}" + (f"; use --rms-eps for {others}" if others else "")


def _n_ff_text(summary: Summary) -> str:
    """Return n_ff, where it is from, and whether n_mult gives the same."""
    n_ff, other = summary.n_ff, summary.n_ff_by_n_mult
    text = f"{n_ff} ({N_FF_SOURCES[summary.n_ff_source or 'stored']}"
    if other is None or summary.n_ff_source != "shape":
        return f"{text})"
    n_mult = (summary.hparams or {}).get("n_mult")
    return f"{text}, {'as n_mult gives' if other == n_ff else f'where n_mult {n_mult} would give {other}'})"
