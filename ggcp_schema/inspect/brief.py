"""The summary of a file on one screen: what it is, its state, and what can be done with it, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ggcp_schema.constructs import short_size
from ggcp_schema.inspect.commands import PYTORCH, with_blanks
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.text import cells, count_text, shorten, shorten_middle
from ggcp_schema.llama.eras import MORE_LOST
from ggcp_schema.llama.losses import Losses, loss_text
from ggcp_schema.llama.writers import epsilon_text, join_words, months_text, times_text
from ggcp_schema.schema.inference import optimizer_text

LINES, COLUMNS = 10, 80
OF_ERROR = 2  # lines in which it is said where a file is damaged
TYPES = 3  # element types that are named where there are more than one more
SHOWN = ("rescue", "run", "train on", PYTORCH, "measure", "look")  # the purposes of commands; of each the first one
WEIGHTS = "weights"  # the label of the line that has the element types too, if there is one
LONGEST = COLUMNS + COLUMNS // 2  # of a command that is shown
LEAST = 12  # cells of a name that is shortened
CALLED = "FILE is "  # before the name, if a command has FILE in its place


def brief_lines(summary: Summary, how: str = "-v examines them") -> list[tuple[str, str]]:
    """Return the summary in at most ten lines of 80 columns, labels and texts; a text may take two lines.

    `how` says how the values are examined if they were not.
    """
    commands = dict(reversed(summary.advice))
    commands = {label: _shown(commands[label]) for label in SHOWN if label in commands}
    written = dict(_written(summary))
    details = dict(_detail(line, _types(summary)) for line in summary.details)
    facts = _facts(summary, how)
    width = COLUMNS - 1 - max(map(len, ("file", *facts, *written, *details, *commands)))
    wide = width + width // 2  # in two lines, whose words do not fill the first
    first = {"file": _heading(summary, wide), "state": shorten(facts.pop("state"), wide)}
    others = {label: shorten(text, width) for label, text in (written | facts | details).items()}
    lines = first | others | commands
    spared = 0 if summary.condition is None else OF_ERROR

    def room() -> int:
        return LINES - sum(_n_rows(text, width) for text in lines.values())

    # What stands for a line, or for nothing, while there is no room for all: the first is missed the least.
    blanks = {label: with_blanks(text, summary.file) for label, text in commands.items()}
    in_pytorch = blanks.pop(PYTORCH, "")
    instead = [("measure", ""), *((label, "") for label in reversed((*written, *details)))]
    instead += [(PYTORCH, in_pytorch), (PYTORCH, ""), ("file", _heading(summary, width))]
    instead += reversed(blanks.items())  # the file is named above, and the first command is the commonest
    for label, text in instead:
        if room() < (0 if label in blanks else spared) and _n_rows(text, width) < _n_rows(lines.get(label, ""), width):
            lines[label] = text
    if in_pytorch and not lines[PYTORCH] and _n_rows(in_pytorch, width) <= room() - spared:
        lines[PYTORCH] = in_pytorch
    if any(lines[label] not in ("", text) for label, text in commands.items()):
        most = wide if _n_rows(lines["file"], width) > 1 else width
        lines["file"] = CALLED + _heading(summary, most - len(CALLED))
    if not lines.get("written", "") and summary.era is not None and summary.era.writers:
        dated = f"{lines['file']}, of {months_text(summary.era.writers)}"
        lines["file"] = lines["file"] if cells(dated) > width else dated
    for label, text in details.items():
        if room() > 0 and lines[label] and cells(text) > width:
            lines[label] = shorten(text, wide)
    return [(label, text) for label, text in lines.items() if text]


def _heading(summary: Summary, width: int) -> str:
    """Return what the file is. A name for which there is no room is shortened in its middle."""
    what = f": {summary.short}, {short_size(summary.size)}"
    return shorten_middle(summary.file, max(LEAST, width - cells(what))) + what


def _n_rows(text: str, width: int) -> int:
    """Return how many rows of a terminal a text takes that is not wrapped between words."""
    return -(-cells(text) // width)


def _shown(command: str) -> str:
    """Return a command, or of a very long one of a trainer its name."""
    program, *_ = command.partition(" ")
    return command if program == "ggcp-schema" or cells(command) <= LONGEST else f"by {program}: -v shows the command"


def in_short(summary: Summary) -> list[str]:
    """Return the summary as phrases of a few words, the most important first."""
    loss = [f"loss {number}"] if (number := loss_in_short(summary)) else []
    written = f"{summary.format} {summary.layout}" if summary.layout else summary.short
    pairs = [count_text(summary.adapter.n_params, "parameter")] if summary.adapter else []
    model = [*_model(summary), *_types(summary)]
    doubts = [f"doubtful: {doubt}" for doubt in _doubts(summary)]
    return [*islice(_training(summary), 1), *loss, *pairs, *model, written, *doubts]


def _facts(summary: Summary, more: str) -> dict[str, str]:
    types = [] if WEIGHTS in dict(summary.details) else _types(summary)
    texts = {
        "state": state_text(summary, more),
        "model": ", ".join((*_model(summary), *types)),
        "training": ", ".join(_training(summary)),
        "loss": "" if summary.losses is None else _loss(summary, summary.losses),
        "doubtful": "; ".join(_doubts(summary)),
    }
    return {label: text for label, text in texts.items() if text}


def state_text(summary: Summary, more: str = "") -> str:
    """Return the state of a file in a line; `more` says how the values are examined if they were not."""
    if summary.condition is not None:
        return f"✗ {summary.condition.verdict}"
    if summary.broken:
        rule = summary.broken[0]
        return f"✗ invalid{_more(summary.broken)}: {rule.path}: {rule.message}"
    if summary.unsound:
        bad = summary.unsound[0]
        return f"✗ unsound{_more(summary.unsound)}: {bad.path}: {bad.message}"
    if summary.findings:
        first = summary.findings[0]
        return f"✓ whole; note{_more(summary.findings)}: {first.path}: {first.message}"
    unexamined = more and summary.is_examinable and summary.unsound is None
    return f"✓ whole; values not examined ({more})" if unexamined else "✓ whole"


def _more(findings: Sequence[object]) -> str:
    return f" (and {len(findings) - 1:,} more)" if len(findings) > 1 else ""


def _written(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield when and by which programs the file may have been written."""
    era = summary.era
    if era is not None and era.writers:
        programs = {writer.short for writer in era.writers}
        program = programs.pop() if len(programs) == 1 else "train-text-from-scratch"
        yield "written", f"{times_text(era.writers)}, by {program}"


def _model(summary: Summary) -> Iterator[str]:
    hparams = summary.hparams or {}
    if summary.n_params:
        yield count_text(summary.n_params, "parameter")
    if hparams.get("n_layer"):
        width = f" of {hparams['n_embd']}" if hparams.get("n_embd") else ""
        yield f"{count_text(hparams['n_layer'] or 0, 'layer')}{width}"
    if hparams.get("n_head"):
        yield count_text(hparams["n_head"] or 0, "head")
    n_tokens = summary.n_tokens or hparams.get("n_vocab")
    if n_tokens:
        yield count_text(n_tokens, "token")


def _types(summary: Summary) -> list[str]:
    """Return the element types, the most frequent first; none if all are F32. Those of an adapter are of its pairs."""
    types = {} if summary.adapter else summary.tensor_types or {}
    names = sorted(types, key=lambda name: -types[name])
    kept = names[: TYPES if len(names) > TYPES + 1 else None]
    more = [f"{len(names) - TYPES} more types"] if kept != names else []
    return [*kept, *more] if set(types) - {"F32"} else []


def _detail(line: tuple[str, str], types: Sequence[str]) -> tuple[str, str]:
    label, text = line
    if label == WEIGHTS:
        return label, f"{text}: {', '.join(types)}" if types else text
    return ("written", f"by {text}") if label == "written by" else line


def iterations_text(summary: Summary) -> str:
    """Return how many iterations the trainer has counted, in words."""
    optimizer = summary.optimizer and summary.optimizer.type
    if not summary.train_its and summary.train_samples and optimizer is None:
        return "iterations not counted, or none"
    return count_text(summary.train_its or 0, "iteration") if summary.is_counted else "iterations not counted"


def _training(summary: Summary) -> Iterator[str]:
    if summary.train_its is None:
        return
    kind = None if summary.optimizer is None else summary.optimizer.type
    yield iterations_text(summary)
    if summary.train_samples:
        tokens, mean = summary.context.tokens, " on average" * summary.context.is_mean
        size = f" of {count_text(tokens, 'token')}{mean}" if tokens else ""
        yield count_text(summary.train_samples, "sample") + size
    if kind is not None:
        yield optimizer_text(kind)


def loss_in_short(summary: Summary) -> str:
    """Return the latest loss, with ~ if it is rough, and ✗ if no training reaches it; empty if there is none."""
    if summary.impossible_loss is not None:
        return f"✗ {summary.impossible_loss:.4g}"
    return "" if summary.losses is None else f"{'~' * summary.losses.is_rough}{loss_text(summary.losses.latest)}"


def _loss(summary: Summary, losses: Losses) -> str:
    if summary.impossible_loss is not None:
        return f"{summary.impossible_loss:.4g}, which no training reaches"
    about = "about " if losses.divisor is not None and losses.is_rough else ""
    unless = f", {losses.doubt}" if losses.doubt else ""
    untrained = "" if losses.untrained is None else f" (an untrained model has {losses.untrained:.2f})"
    return f"{about}{loss_text(losses.latest)}{unless}{untrained}"


def _doubts(summary: Summary) -> Iterator[str]:
    """Yield what is not certain and makes a difference to what the file becomes."""
    order, scale, era = summary.order, summary.scale, summary.epsilon
    if order is not None and not order.is_certain and not order.harmless:
        yield "order of the optimizer's state"
    if scale is not None and scale.summed and (scale.assumed or scale.s is None):
        yield "batch size"
    if era is not None and not era.rms_eps_certain and not era.is_default:
        others = join_words(map(epsilon_text, era.rms_eps_alternatives))
        lost = MORE_LOST if summary.damage is not None and others else ""
        yield f"RMS epsilon {epsilon_text(era.rms_eps)}" + (f" (or {others}){lost}" if others else "")
