"""The tree pane: the fields of the file, with the shape, type and size of tensors beside their names."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import reads_file
from ggcp_schema.browse.lines import ink
from ggcp_schema.browse.panes import Moved
from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.text import cells, count_text, escape, shape_text, shorten_middle, value_text

SIGNS = {"damage": ("✗", "error"), "finding": ("!", "warning"), "changed": ("≠", "accent"), "only": ("+", "accent")}
MANY = 1000  # elements of a list that unfold at once
GROUP = 100  # elements of a group in a longer one: a jump to one of them adds them all to the tree
CUT = 14  # characters of a value that are kept, rather than what stands at the right
LONGEST = 200  # characters of a text that are looked at


class Group(NamedTuple):
    """Some elements of a long list, which unfold together."""

    parent: Field
    start: int
    stop: int


Node = TreeNode["Field | Group"]


class TreeView(Tree["Field | Group"]):
    """The tree of fields. A field's children are asked for when it is expanded."""

    BINDING_GROUP_TITLE = "This pane"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "cursor_up", "Up", show=False),
        Binding("down,j", "cursor_down", "Down", show=False),
        Binding("left,h", "out", "Collapse, or to the parent", show=False),
        Binding("right,l", "into", "Expand, or to the first child", show=False),
        Binding("enter,space", "toggle_node", "Expand or collapse", show=False),
    ]
    LINES = dict.fromkeys(("default", "bold", "double"), ("│ ", "│ ", "│ ", "│ "))

    def __init__(self, document: Document) -> None:
        super().__init__("", document.file.root)
        self.document = document
        self.show_root, self.guide_depth = False, 2
        self._opened: set[Node] = set()  # what `reveal` has expanded, and not the user
        self.fill(self.root)
        self.root.expand()
        named = next((node for node in self.root.children if node.allow_expand), None)
        if named is not None and not document.by_path:  # the keys of a GGUF file: its fields alone say little
            self.fill(named)
            named.expand()

    def on_mount(self) -> None:
        with self.prevent(Tree.NodeHighlighted):
            self.cursor_line = 0
        self.call_after_refresh(self.expand_some)

    @reads_file
    def expand_some(self) -> None:
        """Expand what there is room for: fields that are no tensors, and of a list its first element."""
        room, nodes = self.size.height - 1 - self.last_line, list(self.root.children)
        for node in nodes:  # which grows
            field = node.data
            if not isinstance(field, Field) or node.is_expanded or self.document.tensor_at_node(field) is not None:
                continue
            count = len(field.children())
            if 0 < count <= room:
                self.fill(node)
                node.expand()
                room -= count
                nodes += list(node.children)[:1]

    # Unfolding ---------------------------------------------------------------------------------------------

    def fill(self, node: Node) -> None:
        """Add the children of a node, if that was not done. Long lists become groups."""
        if node.children or node.data is None:
            return
        field, start, stop = node.data if isinstance(node.data, Group) else (node.data, 0, None)
        children = field.children()
        stop = len(children) if stop is None else stop
        step = 1
        while stop - start > MANY * step:
            step *= GROUP
        for at in range(start, stop, step):
            data = children[at] if step == 1 else Group(field, at, min(stop, at + step))
            node.add("", data, allow_expand=isinstance(data, Group) or not data.is_leaf)

    def _child(self, node: Node, step: str | int) -> list[Node]:
        """Return the nodes that lead from a node to its child, which comes last; an empty list if it has none."""
        self.fill(node)
        for each in node.children:
            if isinstance(each.data, Group) and each.data.start <= step < each.data.stop:  # type: ignore[operator]
                return [each, *self._child(each, step)]
            if isinstance(each.data, Field) and each.data.steps[-1] == step:
                return [each]
        return []

    def reveal(self, field: Field) -> None:
        """Put the cursor on a field, and expand what leads to it.

        Nodes that an earlier call expanded, and not the user, are collapsed again, so that walking through a file does
        not fill the tree.
        """
        path = [self.root]
        for step in field.steps:
            found = self._child(path[-1], step)
            if not found:
                return
            path += found
        with self.prevent(Tree.NodeHighlighted, Tree.NodeExpanded, Tree.NodeCollapsed):
            for node in self._opened.difference(path[:-1]):
                node.collapse()
                node.remove_children()
                self._opened.discard(node)
            for node in path[:-1]:
                if not node.is_expanded:
                    node.expand()
                    self._opened.add(node)
            top = round(self.scroll_y)
            _ = self.last_line  # the lines are known after that
            self.move_cursor(path[-1])
            if not top <= path[-1].line < top + self.size.height:
                self.scroll_to(y=max(0, path[-1].line - self.size.height // 3), animate=False)

    @reads_file
    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Any]) -> None:
        """Fill what the user expanded; it stays expanded, with all that leads to it."""
        self.fill(event.node)
        up: Node | None = event.node
        while up is not None:
            self._opened.discard(up)
            up = up.parent

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Any]) -> None:
        if isinstance(event.node.data, Field) and event.node is not self.root:  # the root has no row
            self.post_message(Moved(self, self.document, field=event.node.data))

    def action_into(self) -> None:
        node = self.cursor_node
        if node is not None and node.is_expanded:
            self.action_cursor_down()
        elif node is not None and node.allow_expand:
            node.expand()

    def action_out(self) -> None:
        node = self.cursor_node
        if node is not None and node.is_expanded:
            node.collapse()
        elif node is not None and node.parent not in (None, self.root):
            self.move_cursor(node.parent)

    # Drawing -----------------------------------------------------------------------------------------------

    def get_label_width(self, node: Node) -> int:
        """Return a width that every tree has, so that only visible labels are made."""
        return 1

    def render_label(self, node: Node, base_style: Style, style: Style) -> Text:
        depth, up = -1, node.parent
        while up is not None:
            depth, up = depth + 1, up.parent
        width = max(1, self.scrollable_content_region.width - 2 * depth)
        try:
            text, name, value, details = self._parts(node)
        except READ_ERRORS:
            text, name, value, details = Text("(cannot be read)", ink(self, "error")), "", "", []
        lengths = [text.cell_len + cells(name + part) for part in (value, value[:CUT])]
        detail = next((each for length in lengths for each in details if length + len(each) < width), "")
        room = max(0, width - len(detail) - 1)
        if name:  # which gives way to the value only; its end tells as much as its head
            name = "  " + shorten_middle(name[2:], max(CUT, room - text.cell_len - min(cells(value), CUT) - 2))
        text.append(name, ink(self, "name")).append(value, ink(self, "value"))
        text.truncate(room, overflow="ellipsis", pad=True)
        text.append(f" {detail}", ink(self, "detail"))
        text.stylize_before(style)
        return text

    def _parts(self, node: Node) -> tuple[Text, str, str, list[str]]:
        """Return the head of a row, the name and the value after it, and what may stand at the right, longest first."""
        field, arrow = node.data, "▾ " if node.is_expanded else "▸ "
        arrow = "  " if isinstance(field, Field) and field.is_leaf else arrow
        text = Text.assemble((arrow, ink(self, "guide")), no_wrap=True, end="")
        if not isinstance(field, Field):
            label = f"[{field.start:,} … {field.stop - 1:,}]" if field else ""
            return text.append(label, ink(self, "index")), "", "", []
        sign, sign_ink = SIGNS.get(self.document.marks.get(field.path, ""), ("", "name"))
        name = escape(field.name)
        if field.is_element and field.parent is not None:  # what follows begins in one column
            name = name.ljust(len(f"[{len(field.parent.children()) - 1}]"))
        text.append(f"{sign} " if sign else "", ink(self, sign_ink))
        text.append(name, ink(self, "name" if field.is_leaf else "index" if name.startswith("[") else "holder"))
        named, value = (f"  {escape(words)}" if words else "" for words in self._words(field))
        return text, named, value, self._details(field)

    def _details(self, field: Field) -> list[str]:
        """Return what stands at the right, from the longest form to the shortest."""
        size = short_size(field.size)
        tensor = self.document.tensor_at_node(field)
        if tensor is not None:
            shape = shape_text(tensor.shape)
            if not tensor.shape:
                return [shape]
            size = short_size(tensor.nbytes)
            rest = f"{tensor.type:<4} {size:>8}"
            return [f"{shape:>10}  {rest}", f"{shape} {rest}", f"{shape} {size:>8}", f"{shape} {size}", size]
        if field.type == "array":
            count = count_text(len(field.children()), "item")
            return [f"{count} {size:>8}", f"{count} {size}", size]
        if not field.is_leaf:
            return [f"{size:>8}", size]
        return [f"{field.type} {size:>8}", size] if field.type in ("padding", "data") else [field.type]

    def _words(self, field: Field) -> tuple[str, str]:
        """Return what follows the name of a field: for an element of a list the name that it holds; and the value."""
        broken = self.document.broken_off(field)
        if broken:
            return f"broken off at {broken}", ""
        if field.is_leaf:
            return "", "" if field.type in ("padding", "data") else value_text(field, LONGEST)
        name = self.document.name_of(field) if field.is_element else ""
        value = self.document.value_of(field) if name else None
        return name, "" if value is None else value_text(value, LONGEST)
