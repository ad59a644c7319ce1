"""What all panes have in common, and the two lines at the top of the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from textwrap import wrap
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.message import Message
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import Drawn, fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.text import count_text, escape
from ggcp_schema.llama.writers import epsilon_text

P = ParamSpec("P")
M = TypeVar("M", bound=MessagePump)


class Unreadable(Message):
    """The file cannot be read as it was: another program has changed it, or the disk fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def reads_file(handler: Callable[Concatenate[M, P], None]) -> Callable[Concatenate[M, P], None]:
    """Let a handler of a key, a click or a message send `Unreadable` if it fails because the file cannot be read."""

    @wraps(handler)
    def guarded(self: M, /, *args: P.args, **options: P.kwargs) -> None:
        try:
            handler(self, *args, **options)
        except READ_ERRORS as error:
            self.post_message(Unreadable(error))

    return guarded


class Moved(Message):
    """The user moved in a pane to a byte, or to a tensor."""

    def __init__(self, origin: Widget, offset: int | None = None, tensor: Tensor | None = None) -> None:
        super().__init__()
        self.origin, self.offset, self.tensor = origin, offset, tensor


class Pane(Widget):
    """A tab. `show` is called while the tab can be seen: after the selection has moved, and when the tab is opened."""

    TITLE: ClassVar[str]
    document: Document

    def show(self, field: Field | None) -> None:
        """Update the tab for the selected field."""
        raise NotImplementedError

    def hide(self) -> None:
        """Stop background work, because the tab is hidden."""


class JobPane(Working, Pane):
    """A tab that shows what a job has found so far (`found`), or why there is nothing to see (`error`)."""

    found: Any = None
    error = ""

    def hide(self) -> None:
        if self.working:
            self.stop()
            self.forget()

    def forget(self) -> None:
        """Take note that the job was stopped, so that it begins anew when the tab is opened again."""
        self.found = None

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Exception):
            self.error = getattr(result, "message", str(result))
        else:
            self.found = result
        self.refresh()

    @property
    def message(self) -> str:
        """The reason why there is nothing to see, or the words that stand there meanwhile."""
        return self.error or ("reading …" if self.working else "")


class TensorPane(JobPane):
    """A tab about the selected tensor. `tensor` is None, and `error` says why, if there is nothing to see of it."""

    WHAT: ClassVar[str]  # is to be seen
    tensor: Tensor | None = None

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        if tensor is not None and tensor == self.tensor:
            return
        self.stop()
        self.tensor, self.found, self.error = None, None, ""
        if tensor is None:
            self.error = f"Press n for the first tensor, to see {self.WHAT}."
        elif not tensor.n_elements:
            self.error = "A NULL tensor has no values."
        elif not tensor.is_readable:
            self.error = f"{tensor.path} is {tensor.type}: its values cannot be read."
        else:
            self.tensor = tensor
        self.begin(self.tensor)

    def begin(self, tensor: Tensor | None) -> None:
        """Show another tensor, or none."""
        raise NotImplementedError

    def forget(self) -> None:
        self.tensor = None


def wrapped(text: str, y: int, width: int) -> str:
    """Return a line of a text that is wrapped at words."""
    lines = wrap(text, max(1, width))
    return lines[y] if y < len(lines) else ""


class TopBar(Drawn):
    """The names of the files, the verdict or what is going on, and as much of what is known as there is room for."""

    def __init__(self, title: str, document: Document) -> None:
        super().__init__()
        self.title, self.document = title, document
        self.pane = self.trouble = self.note = ""

    def put(self, **attributes: Any) -> None:
        """Set `note`, `trouble`, `pane` or `document`, and show that."""
        for name, value in attributes.items():
            setattr(self, name, value)
        self.refresh()

    def _verdict(self) -> tuple[str, str]:
        """Return what is going on, or whether the file is whole, and the ink for it."""
        damage = self.document.file.damage
        if self.note or self.trouble:
            return (self.note, "accent") if self.note else (f"✗ {self.trouble}", "error")
        return ("✓ whole", "value") if damage is None else (f"✗ damaged at {damage.path}", "error")

    def _facts(self) -> list[str]:
        """Return what is known, the most important first."""
        summary = self.document.summary
        if summary is None:
            return [self.document.file.format.title]
        words = [count_text(summary.train_its, "iteration")] if summary.train_its is not None else []
        words += [f"loss {number(summary.loss)}"] if summary.loss is not None else []
        words += [count_text(summary.n_params, "parameter")] if summary.n_params else []
        words += [count_text(summary.n_tokens, "token")] if summary.n_tokens and not summary.n_params else []
        words.append(f"{summary.format} {summary.layout or ''}".rstrip())
        if summary.era is not None:
            likely = "" if summary.era.rms_eps_certain else " (likely)"
            words += [f"ε {epsilon_text(summary.era.rms_eps)}{likely}", summary.era.writer_text]
        return words

    def line(self, y: int, width: int) -> Iterable[Segment]:
        if y:
            facts = [escape(fact) for fact in self._facts()]
            while len(facts) > 1 and cell_len("  ·  ".join(facts)) >= width:
                facts.pop()
            return [self.text(fit(f" {'  ·  '.join(facts)}", width), "detail")]
        words, ink = self._verdict()
        verdict = fit(words, min(cell_len(words), width // 2))
        title, pane = escape(self.title), f" {self.pane}" if self.pane else ""
        room = max(0, width - cell_len(verdict) - cell_len(pane) - 3)
        name = self.text(f" {fit(title, min(room, cell_len(title)))}", "holder")
        gap = " " * (width - cell_len(name.text) - cell_len(pane) - cell_len(verdict) - 1)
        return [name, self.text(pane, "accent"), self.text(gap), self.text(verdict, ink)]


class Keys(Footer):
    """Textual's footer, which is made anew only if other keys are to be seen: that takes longer than a key should."""

    _shown: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__(show_command_palette=False)

    def bindings_changed(self, screen: Screen[Any]) -> Any:  # a coroutine in Textual 4
        shown = tuple(each.binding.description for each in screen.active_bindings.values() if each.binding.show)
        before, self._shown = self._shown, shown
        return super().bindings_changed(screen) if shown != before else None
