"""`dump`: every field, in file order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Annotated, Any

import typer

from ggcp_schema.cli import options
from ggcp_schema.cli.complete import complete_path
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.get import Place, print_json_values
from ggcp_schema.cli.output import echo, json_text, output_width, paint, say, until_closed, write, write_array
from ggcp_schema.constructs import Field
from ggcp_schema.files.tensor import BLOCKS, Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.formats.elements import Values
from ggcp_schema.formats.file import File
from ggcp_schema.inspect import paths
from ggcp_schema.inspect.fields import Fields
from ggcp_schema.inspect.paths import reading
from ggcp_schema.inspect.text import (
    cells,
    count_text,
    escape,
    json_value,
    json_value_of,
    plain_text,
    readable,
    shape_text,
    shorten,
    shorten_middle,
    size_text,
    value_text,
)

LIST_SHOWN = 4  # elements of a list
DATA_SHOWN = 4  # elements of a tensor's data
AT_ONCE = 1 << 12  # elements that are converted to text at a time
INDENT = "  "
LEAST_KEY, LEAST_VALUE = 16, 10  # cells of a key that is shortened, and of " = " and the value after it
LEAST_TEXT = 32  # characters for names and values: columns are dropped to leave as many


def dump(
    file: options.File,
    path: Annotated[
        str,
        typer.Argument(
            metavar="[PATH]",
            help="Show only this field and those in it, or these elements.",
            autocompletion=complete_path,
            show_default=False,
        ),
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="Show all of long lists, of tensor data and of values.")] = False,
    depth: Annotated[
        int,
        typer.Option(
            "--depth", metavar="N", min=1, help="Show this many levels, below PATH if given.", show_default=False
        ),
    ] = 99,
    width: options.Width = None,
    as_json: options.Json = False,
) -> None:
    """Print every field with its offset, size, type and value.

    On a terminal, and with --width, long values are shortened; a pipe gets whole lines. --json prints a row for each
    leaf, which together cover the file without gaps; padding is shown as hex and tensor data as null. Of a list of more
    than 1,000 values or tokens the first are given, and the others as one row {…, more}; of a text of more than 65,536
    bytes the beginning, and more. With --full all are. Type "derived" is a value that is computed from others (size 0).

    Exit code 4 if the file is damaged: the fields before the damage are shown.

    Example, the keys of a GGUF file: ggcp-schema dump model.gguf metadata_kv --depth 1
    """
    with open_file(file, partial=True) as opened, reading(opened):
        found = opened.lookup(path)
        with until_closed():
            if as_json:
                if isinstance(found, Field):
                    write_array([json_text(row)] for row in rows(found, full=full))
                else:
                    write("[")
                    print_json_values(found)
                    write("]\n")
            else:
                tree = Tree(opened, full, output_width(width))
                echo(paint(f"{tree.numbers('offset', 'size', 'type')}field", dim=True))
                if not isinstance(found, Field):
                    tree.print_values(found)
                elif path:
                    tree.print([found], depth + 1)
                else:
                    tree.print(found.elements(), depth)
        if isinstance(found, Values) and found.note:
            say(escape(found.note))
        raise_damage(opened.damage)


class Leaf(Place):
    """A leaf as JSON."""

    value: Any


class Cut(Leaf):
    """A leaf that is cut, or the rest of a list: `more` is the number of elements or characters that are left out."""

    more: int


JSON = list[Leaf | Cut]


def rows(field: Field, *, full: bool) -> Iterator[Leaf | Cut]:
    """Yield each leaf for JSON, and what is left out of a list of values or tokens."""
    if field.is_leaf:
        place: Place = {"path": field.path, "type": field.type, "offset": field.offset, "size": field.size}
        value = field.value
        if not full and isinstance(value, str | bytes) and len(value) > paths.MAX_TEXT:
            text = json_value_of(value[: paths.MAX_TEXT], field.type)
            yield {**place, "value": text, "more": len(value) - paths.MAX_TEXT}
        else:
            yield {**place, "value": json_value(field)}
        return
    if full or not (paths.is_long(field) or (field.is_list and len(field.value) > paths.MAX_KEYS)):
        for child in field.elements():
            yield from rows(child, full=full)
        return
    shown, count = paths.MAX_LIST, len(field.value)
    for child in field.elements(0, shown):
        yield from rows(child, full=full)
    offset = field.children()[shown].offset
    rest: Place = {"path": f"{field.path}[{shown}:]", "type": "array", "offset": offset, "size": field.end - offset}
    yield {**rest, "value": None, "more": count - shown}


class Tree:
    """The fields as an indented tree, printed as they are met. `width` is None for lines of any length."""

    def __init__(self, file: File, full: bool, width: int | None) -> None:
        self.full, self.width = full, width
        self.file, self.fields = file, Fields(file)
        digits = len(f"{file.size:,}")
        self.columns = [f"{{offset:>{max(6, digits)}}} ", f"{{size:>{max(4, digits)}}} ", " {type:<8} "]
        while width is not None and len(self.columns) > 1 and len(self.numbers()) + LEAST_TEXT > width:
            self.columns.pop()

    def numbers(self, offset: str = "", size: str = "", type: str = "") -> str:
        """Return what stands before a field, or the names of these columns."""
        return "".join(self.columns).format(offset=offset, size=size, type=type)

    def print(self, fields: Iterable[Field], depth: int, level: int = 0) -> None:
        """Print the fields and those in them, `depth` levels; long lists are abridged to their ends."""
        for field in fields:
            self._print_field(field, level)
            if level + 1 < depth and not field.is_leaf:
                self._print_inside(field, depth, level + 1)

    def print_values(self, values: Values) -> None:
        """Print elements of a list or of data in one line; with `full` all of them."""
        numbers, name = self.numbers(f"{values.offset:,}", f"{values.size:,}", values.type), escape(values.path)
        write(f"{paint(numbers, dim=True)}{name} {paint('=', dim=True)}")
        if self.full:
            for chunk in values.chunks():
                write(f" {' '.join(plain_text(value, values.type) for value in chunk)}")
            echo()
            return
        first = islice(chain.from_iterable(values.chunks()), DATA_SHOWN)
        more = f"… ({count_text(values.count, 'value')})" if values.count > DATA_SHOWN else ""
        text = " ".join(filter(None, [*(plain_text(value, values.type) for value in first), more]))
        room = None if self.width is None else self.width - cells(numbers + name) - 3
        echo(f" {shorten(text, room)}".rstrip())

    def _print_inside(self, field: Field, depth: int, level: int) -> None:
        count = len(field.children())
        if self.full or not field.is_list or count <= LIST_SHOWN or _has_keys(field):
            self.print(field.elements(), depth, level)
            return
        self.print(field.elements(0, LIST_SHOWN - 2), depth, level)
        more = f"… {count - LIST_SHOWN + 1:,} more"
        echo(f"{self.numbers()}{INDENT * level}{paint(more, dim=True)}")
        self.print(field.elements(count - 1), depth, level)

    def _print_field(self, field: Field, level: int) -> None:
        kind = field.type if field.is_leaf else ""
        numbers = self.numbers(f"{field.offset:,}", f"{field.size:,}", kind)
        name = escape(field.path.rpartition(".")[2] if level else self.fields.label(field))  # `ne[1]`
        indent = INDENT * level
        start = len(numbers) + len(indent) + cells(name)
        room = None if self.width is None or self.full else self.width - start
        label = paint(name, bold=True, colour="cyan") if not field.is_leaf else name
        line = f"{paint(numbers, dim=True)}{indent}{label}"
        if not field.is_leaf:
            caption = self._caption(field, name, room).removeprefix(f"{name} ")  # a record may be shown by its name
            echo(f"{line}{shorten(f' {caption}' if caption else '', room)}")
            return
        line = f"{line} {paint('=', dim=True)}"
        tensor = self.file.tensor_of_data(field) if field.type == "data" else None
        if self.full and tensor is not None and _is_decoded(tensor):
            write(line)
            self._print_data(tensor, start + 2, len(numbers) + len(indent) + len(INDENT))
        else:
            echo(f"{line} {_value_text(field, tensor, None if room is None else room - 3)}".rstrip())

    def _caption(self, field: Field, name: str, room: int | None) -> str:
        """Return what tells a record from others of its kind: a key, a name, a tensor's shape.

        A key that would leave no room for its value is shortened in its middle.
        """
        if field.is_list:
            return ""
        inner = {child.name: child for child in field.children()}
        label = next((inner[name].value for name in ("key", "name") if name in inner), b"")
        text = escape(readable(label)) if isinstance(label, str | bytes) else ""
        value = self.fields.value_of(field)
        if "key" in inner and value is not None:
            after = f" = {value_text(value)}"
            kept = 0 if room is None or text == name else room - 1 - min(cells(after), LEAST_VALUE)
            return (shorten_middle(text, kept) if kept >= LEAST_KEY else text) + after
        if "text" in inner:
            return value_text(inner["text"])
        if "data" in inner and "ne" not in inner:
            tensor = self.file.tensor_of_data(inner["data"])
            return "" if tensor is None else f"{escape(tensor.path)} {shape_text(tensor.shape)} {tensor.type}"
        shape = next((inner[name].value for name in ("ne", "dimensions") if name in inner), None)
        if shape is None:
            return text
        # an index does not tell which tensor it is, as a path in a checkpoint does
        return f"{text} {shape_text(shape)}" if field.is_element else shape_text(shape)

    def _print_data(self, tensor: Tensor, column: int, indent: int) -> None:
        """Print all elements of a tensor, in lines of the output's width if it has one."""
        for values in tensor.values():
            for at in range(0, len(values), AT_ONCE):
                numbers = values[at : at + AT_ONCE].tolist()
                texts = [plain_text(number, tensor.type.lower()) for number in numbers]
                if self.width is None:
                    write(f" {' '.join(texts)}")
                else:
                    column = self._wrap(texts, column, indent)
        echo()

    def _wrap(self, texts: Iterable[str], column: int, indent: int) -> int:
        """Print the texts after `column`, in lines that begin after `indent`. Return the last column."""
        width = self.width or 0
        for text in texts:
            if column + 1 + len(text) > width > indent:
                write(f"\n{' ' * (indent - 1)}")
                column = indent - 1
            write(f" {text}")
            column += 1 + len(text)
        return column


def _value_text(field: Field, tensor: Tensor | None, room: int | None) -> str:
    """Return the value of a leaf, of data the first elements of its tensor, in at most `room` characters."""
    if tensor is not None and _is_decoded(tensor):
        return _data_text(tensor, room)
    if field.type == "data":
        return "" if tensor is None else shorten(f"{tensor.type}, {size_text(tensor.nbytes)}", room)
    return shorten(value_text(field) if field.type != "padding" or field.size else "", room)


def _is_decoded(tensor: Tensor) -> bool:
    """Return True if the numbers of a tensor are shown."""
    return tensor.is_readable and tensor.type not in BLOCKS


def _data_text(tensor: Tensor, room: int | None) -> str:
    """Return the first elements of a tensor, as many as there is room for, and their number."""
    count = tensor.n_elements
    first = [plain_text(number, tensor.type.lower()) for number in tensor.numbers(0, min(count, DATA_SHOWN))]
    if count <= DATA_SHOWN and (room is None or len(" ".join(first)) <= room):
        return " ".join(first)
    ending = f"… ({count_text(count, 'value')})"
    while room is not None and first and len(" ".join([*first, ending])) > room:
        first.pop()
    return shorten(" ".join([*first, ending]), room)


def _has_keys(field: Field) -> bool:
    """Return True for a list of keys and values: of such a list nothing is left out, unless there are very many."""
    return len(field.value) <= paths.MAX_KEYS and field.children()[0].child("key") is not None
