"""What all tabs have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.containers import Container
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ggcp_schema.browse.document import Document
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor

EMPTY = "No tensor is selected. Press n for the first tensor, to see {}."


class Frame(Container):
    """The border around a pane.

    It is drawn again whenever its title changes. Textual would lay out an empty text of its size each time.
    """

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
    """A tab. `show` is called while the tab can be seen: after the selection has moved, and when the tab is opened.

    `document` is the file. The keys of the pane are its bindings.
    """

    TITLE: ClassVar[str]
    document: Document

    def show(self, field: Field | None) -> None:
        """Show what there is to say about the field."""
        raise NotImplementedError

    def hide(self) -> None:
        """End work in the background: the tab is not seen any more."""
