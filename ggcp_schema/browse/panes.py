"""What all panes have in common, and the two lines at the top of the screen."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from textwrap import wrap
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from rich.cells import cell_len
from rich.text import Text
from textual.containers import Container
from textual.message import Message
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Footer

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.text import fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.text import count_text, escape
from ggcp_schema.llama.eras import epsilon_text

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


class Frame(Container):
    """The border around a pane. It is drawn again whenever its title changes, which should not lay out its text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(classes="frame", **options)

    def render_line(self, y: int) -> Strip:
        return Strip.blank(self.size.width, self.visual_style.rich_style)


class Jump(Message):
    """A pane wants a place of the file to be selected: a byte, or a tensor."""

    def __init__(self, offset: int | None = None, tensor: Tensor | None = None) -> None:
        super().__init__()
        self.offset, self.tensor = offset, tensor


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

    def message(self, y: int, width: int) -> str:
        """Return a line of the reason why there is nothing to see, or of the words that stand there meanwhile."""
        lines = wrap(self.error or ("reading …" if self.working else ""), max(1, width))
        return lines[y] if y < len(lines) else ""


def cannot_show(tensor: Tensor | None, what: str) -> str:
    """Return why there is nothing to see of a tensor; empty if there is. `what` would be seen of it."""
    if tensor is None:
        return f"Press n for the first tensor, to see {what}."
    if not tensor.n_elements:
        return "A NULL tensor has no values."
    if not tensor.is_readable:
        return f"{tensor.path} is {tensor.type}: its values cannot be read."
    return ""


class TopBar(Widget):
    """The names of the files, the verdict or what is going on, and as much of what is known as there is room for."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--name", "bar--good", "bar--bad", "bar--fact", "bar--pane"}

    def __init__(self, title: str, document: Document) -> None:
        super().__init__()
        self.title, self.document = title, document
        self.panes: tuple[list[str], int] | None = None
        self.trouble = self.note = ""

    def put(self, **attributes: Any) -> None:
        """Set `note`, `trouble`, `panes` or `document`, and show that."""
        for name, value in attributes.items():
            setattr(self, name, value)
        self.refresh()

    @property
    def verdict(self) -> tuple[str, str]:
        """Return what is going on, or whether the file is whole, and the style for it."""
        if self.note:
            return self.note, "pane"
        if self.trouble:
            return f"✗ {self.trouble}", "bad"
        damage = self.document.file.damage
        return ("✓ whole", "good") if damage is None else (f"✗ damaged at {damage.path}", "bad")

    def facts(self) -> list[str]:
        """Return what is known, the most important first."""
        summary = self.document.summary
        if summary is None:
            return [self.document.file.format.title]
        words = []
        if summary.train_its is not None:
            words.append(count_text(summary.train_its, "iteration"))
        if summary.loss is not None:
            words.append(f"loss {number(summary.loss)}")
        if summary.n_params:
            words.append(count_text(summary.n_params, "parameter"))
        layout = f" {summary.layout}" if summary.layout else ""
        words.append(f"{summary.format}{layout}")
        if summary.rms_eps is not None:
            certain = summary.era is None or summary.era.rms_eps_certain
            words.append(f"ε {epsilon_text(summary.rms_eps)}{'' if certain else ' (likely)'}")
        if summary.era is not None:
            words.append(summary.era.writer_text)
        return words

    def render(self) -> Text:
        width = self.size.width
        styles = {kind: self.get_component_rich_style(f"bar--{kind}") for kind in ("name", "fact", "pane")}
        words, kind = self.verdict
        verdict = Text(fit(words, width // 2) if cell_len(words) > width // 2 else words)
        verdict.stylize(self.get_component_rich_style(f"bar--{kind}"))
        panes = Text(style=styles["pane"])
        if self.panes is not None:
            names, chosen = self.panes
            panes.append(" ".join(f"[{part}]" if index == chosen else f" {part} " for index, part in enumerate(names)))
            if verdict.cell_len + panes.cell_len + 8 > width:
                panes = Text(f"[{names[chosen]}]", styles["pane"])
        title = escape(self.title)
        room = max(4, width - verdict.cell_len - panes.cell_len - 4)
        name = Text(f" {fit(title, min(room, cell_len(title)))} ", styles["name"])
        gap = width - name.cell_len - panes.cell_len - verdict.cell_len - 1
        first = Text.assemble(name, panes, " " * max(0, gap), verdict, " ", no_wrap=True, end="\n")
        facts = [escape(fact) for fact in self.facts()]
        while len(facts) > 1 and cell_len("  ·  ".join(facts)) >= width:
            facts.pop()
        return Text.assemble(first, Text(fit(f" {'  ·  '.join(facts)}", width), styles["fact"]))


class Keys(Footer):
    """Textual's footer, which is made anew only if other keys are to be seen: that takes longer than a key should."""

    _shown: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__(show_command_palette=False)

    def bindings_changed(self, screen: Screen[Any]) -> Any:  # a coroutine in Textual 4
        shown = tuple(each.binding.description for each in screen.active_bindings.values() if each.binding.show)
        if shown != self._shown:
            self._shown = shown
            return super().bindings_changed(screen)
        return None
