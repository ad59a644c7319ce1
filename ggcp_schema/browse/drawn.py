"""The base of the views that draw their lines themselves."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.style import Style
from textual.geometry import Region
from textual.scroll_view import ScrollView


class DrawnView(ScrollView, can_focus=True):
    """A view that draws lines in the styles of its component classes, whose names begin with `PREFIX`.

    The styles are kept until they change. Textual computes the style of the background for each line, and the styles
    of the component classes after each `refresh`.
    """

    PREFIX: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._styles: dict[str, Style] = {}

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    @property
    def rich_style(self) -> Style:
        """The style of the background."""
        if "" not in self._styles:
            self._styles[""] = super().rich_style
        return self._styles[""]

    def style_of(self, name: str) -> Style:
        """Return the style of a component class."""
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"{self.PREFIX}--{name}")
        return self._styles[name]

    def redraw(self, first: int, stop: int) -> None:
        """Draw the visible lines `first` to `stop - 1` again, and no others; 0 is the uppermost line."""
        if first < stop:
            self.refresh(Region(0, first, self.size.width, stop - first))
