"""The lines at the edges of the screen: what the file is, the tabs, the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.text import fit, number
from ggcp_schema.inspect.text import count_text, escape
from ggcp_schema.llama.eras import epsilon_text


class TopBar(Widget):
    """The file's name and verdict, and as much of what else is known as there is room for."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--name", "bar--good", "bar--bad", "bar--fact", "bar--pane"}

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document
        self.panes: tuple[list[str], int] | None = None
        self.trouble = ""

    @property
    def verdict(self) -> tuple[str, bool]:
        """Whether the file is whole, in words and as a truth value."""
        if self.trouble:
            return f"✗ {self.trouble}", False
        damage = self.document.file.damage
        if damage is None:
            return "✓ whole", True
        return f"✗ damaged at {damage.path}", False

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
        if summary.rms_eps is not None:
            certain = summary.era is None or summary.era.rms_eps_certain
            words.append(f"ε {epsilon_text(summary.rms_eps)}{'' if certain else ' (likely)'}")
        layout = f" {summary.layout}" if summary.layout else ""
        words.append(f"{summary.format}{layout}")
        if summary.era is not None:
            words.append(summary.era.writer_text)
        return words

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        name, good, bad, fact, pane = (
            self.get_component_rich_style(f"bar--{kind}") for kind in ("name", "good", "bad", "fact", "pane")
        )
        if y == 1:
            text = "  ·  ".join(self.facts())
            return Strip([Segment(fit(f" {text}", width), fact)])
        verdict, whole = self.verdict
        if len(verdict) > width // 2:
            verdict = fit(verdict, width // 2)
        title = f" {escape(self.document.name)} "
        segments, used = [], len(verdict) + 1
        if self.panes is not None:
            names, chosen = self.panes
            text = " ".join(f"[{part}]" if index == chosen else f" {part} " for index, part in enumerate(names))
            if used + len(text) + 8 > width:
                text = f"[{names[chosen]}]"
            segments.append(Segment(f"{text} ", pane))
            used += len(text) + 1
        title = fit(title, min(len(title), max(4, width - used)))
        gap = Segment(" " * max(0, width - used - len(title)), base)
        end = [Segment(verdict, good if whole else bad), Segment(" ", base)]
        return Strip([Segment(title, name), *segments, gap, *end]).adjust_cell_length(width, base)


class TabStrip(Widget):
    """The names of the tabs in one line; where there is no room, the closed tabs shrink to their numbers."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--tab", "tabs--active"}

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__()
        self.titles, self.active = list(titles), 0

    def labels(self) -> list[str]:
        """Return the labels that fit the width."""
        width = self.size.width
        forms = (
            [f"  {index + 1} {title}  " for index, title in enumerate(self.titles)],
            [f" {index + 1} {title} " for index, title in enumerate(self.titles)],
            [f" {title} " for title in self.titles],
            [f" {title} " if index == self.active else f"{title} " for index, title in enumerate(self.titles)],
            [f" {title} " if index == self.active else f" {index + 1} " for index, title in enumerate(self.titles)],
        )
        return next((labels for labels in forms if sum(map(len, labels)) <= width), forms[-1])

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        tab, active = (self.get_component_rich_style(f"tabs--{kind}") for kind in ("tab", "active"))
        segments = [
            Segment(label, active if index == self.active else tab) for index, label in enumerate(self.labels())
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def on_click(self, event: events.Click) -> None:
        start = 0
        for index, label in enumerate(self.labels()):
            start += len(label)
            if event.x < start:
                self.post_message(self.Chosen(index))
                return


class Key(NamedTuple):
    """A key for the bar: what to press, what it does, and the action of the screen."""

    key: str
    label: str
    action: str


class KeyBar(Widget):
    """The most important keys, as many as fit. Each can be clicked. A message of work in progress goes first."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--label", "keys--message"}

    def __init__(self, keys: Sequence[Key], **options: Any) -> None:
        super().__init__(**options)
        self.keys = list(keys)
        self.own: list[Key] = []
        self.message = ""

    def show_message(self, message: str) -> None:
        """Show a message instead of some of the keys."""
        self.message = message
        self.refresh()

    def _shown(self) -> list[Key]:
        left = self.size.width - len(self.message) - 2
        last = self.keys[-2:]  # help and quit are always there
        left -= sum(len(key.key) + len(key.label) + 3 for key in last)
        shown = []
        for key in [*self.own, *self.keys[:-2]]:
            left -= len(key.key) + len(key.label) + 3
            if left < 0:
                break
            shown.append(key)
        return [*shown, *last]

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        key_style, label, message = (
            self.get_component_rich_style(f"keys--{kind}") for kind in ("key", "label", "message")
        )
        segments = [Segment(f" {self.message} ", message)] if self.message else []
        for key in self._shown():
            segments += [Segment(f" {key.key}", key_style), Segment(f" {key.label} ", label)]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    async def on_click(self, event: events.Click) -> None:
        start = len(self.message) + 2 if self.message else 0
        for key in self._shown():
            start += len(key.key) + len(key.label) + 3
            if event.x < start:
                target = self.screen.focused if key in self.own and self.screen.focused else self.screen
                await target.run_action(key.action)
                return
