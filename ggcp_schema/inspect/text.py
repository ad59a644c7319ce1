"""Values as text: the same in every view. The functions are pure: they read nothing but the field they are given."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from construct import Container

from ggcp_schema.constructs import Const, Extent, Field, LongList, count_bytes
from ggcp_schema.constructs.described import number_text

MAX_HEX = 64  # bytes of a bytes value that are shown
MAX_ITEMS = 8  # elements of a list that are shown


def escape(text: str, *, keep_newlines: bool = False) -> str:
    """Return the text with everything that a terminal might obey, or that is not printable, as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (keep_newlines and char == "\n") else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that was not valid UTF-8: see PEP 383
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def readable(text: bytes | str) -> str:
    r"""Return text of a file as `str`. A byte that is not valid UTF-8 becomes a backslash escape, `\xff`."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def count_text(number: int, noun: str, plural: str = "") -> str:
    """Return `1 error`, `2,000 errors`, `no errors`; `plural` is for nouns that do not take an s."""
    noun = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,} {noun}" if number else f"no {noun}"


def names_text(names: Sequence[str], most: int, count: int = 0) -> str:
    """Return the first names and how many more there are of `count`, or else of these: `norm, output and 3 more`."""
    count = count or len(names)
    return ", ".join(names[:most]) + (f" and {count - most:,} more" if count > most else "")


def size_text(nbytes: int) -> str:
    """Return a size in bytes and in a larger unit: `269,056 bytes (262.8 KiB)`, `1 byte`."""
    exact = count_bytes(nbytes)
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{exact} ({nbytes / scale:.1f} {unit})"
    return exact


def short_number(value: float | None, digits: int = 4) -> str:
    """Return a number for a column: with that many significant digits, or one less before an exponent; `-` for None."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float | None) -> str:
    """Return a share in percent: `0.521 %`; `-` for None."""
    return "-" if share is None else f"{100 * share:.3g} %"


def float_text(value: float, bits: int = 32) -> str:
    """Return the shortest text that gives the same float32 again, or the same float64 if `bits` is 64."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if bits == 64:
        return repr(float(value))
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        return repr(float(value))
    text = ""
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("<f", float(text)) == packed:
            break
    return text if set(text) & set(".e") else f"{text}.0"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape in ggml order, `[48, 32]`; `NULL` for a tensor that the program did not have."""
    return str(list(shape)) if shape else "NULL"


def value_text(field: Field, limit: int | None = None) -> str:
    """Return the value of a field as `dump` shows it, with its meaning: text quoted, bytes in hex, `0 (F32)`.

    Data and long lists are given by their sizes. Of a text at most `limit` characters are shown, and then `…`.
    """
    value = field.value
    if isinstance(field.construct, Const):
        return number_text(value) if isinstance(value, int) else plain_text(value, "char")
    if isinstance(value, Container):
        return count_text(len(field.children()), "field")
    text = plain_text(value, field.element_type, limit)
    return f"{text} ({field.meaning})" if field.meaning else text


def plain_text(value: Any, type: str = "", limit: int | None = None) -> str:  # noqa: PLR0911 - a return for each kind of value
    """Return a value as text; `type` is its type in the reference, which tells text from bytes.

    Only the first `limit` characters of a text are looked at, however long it is.
    """
    if isinstance(value, Extent):
        return f"{count_bytes(value.nbytes)} of data"
    is_text = (isinstance(value, str) and type != "derived") or (isinstance(value, bytes) and type == "char")
    if limit is not None and is_text and len(value) > limit:
        return f"{plain_text(value[:limit], type)[:-1]}…'"
    if isinstance(value, bytes):
        return f"'{escape(readable(value))}'" if type == "char" else _bytes_text(value, zeros=type == "padding")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return float_text(value, 64 if type == "f64" else 32)
    if isinstance(value, str):
        return value if type == "derived" else f"'{escape(value)}'"
    if isinstance(value, Container):
        return f"{{{', '.join(name for name in value if not name.startswith('_'))}}}"
    if isinstance(value, LongList | list):
        items = ", ".join(plain_text(item, type, limit) for item in value[:MAX_ITEMS])
        return f"[{items}, …] ({len(value):,} elements)" if len(value) > MAX_ITEMS else f"[{items}]"
    return str(value)


def _bytes_text(value: bytes, *, zeros: bool) -> str:
    if zeros and value and not any(value):
        return f"{len(value)} × 00"
    return value[:MAX_HEX].hex(" ") + (f" … {len(value):,} bytes" if len(value) > MAX_HEX else "")


def line_text(value: Any, type: str = "") -> str:
    """Return a value as `get` prints it: text as it is, bytes in hex without spaces, numbers as in `plain_text`."""
    if isinstance(value, bytes):
        return readable(value) if type == "char" else value.hex()
    return readable(value) if isinstance(value, str) else plain_text(value, type)


def json_value(field: Field) -> Any:
    """Return the value of a leaf for JSON: data as None, text as `str`, bytes in hex."""
    return json_value_of(field.value, field.type)


def json_value_of(value: Any, type: str) -> Any:
    """Return a value of that type for JSON."""
    if isinstance(value, Extent):
        return None
    if isinstance(value, bytes):
        return readable(value) if type == "char" else value.hex()
    if hasattr(value, "_asdict"):  # a NamedTuple: how the optimizer's type was inferred
        return value._asdict()
    return value


NARROW = dict.fromkeys(map(ord, "✓✗…×–"), "x")  # of one cell, and frequent; for others rich is imported


def cells(text: str) -> int:
    """Return the width of the text on a terminal, where `日` takes two cells and a combining accent none."""
    if text.isascii() or text.translate(NARROW).isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return the text with as many spaces as make it `width` cells wide, before it if it is aligned to the right."""
    space = " " * (width - cells(text))
    return f"{space}{text}" if right else f"{text}{space}"


def shorten_middle(text: str, width: int) -> str:
    """Return the text with `…` in place of its middle, so that it takes at most `width` cells, if these are any."""
    for kept in range(width if cells(text) > width else 0, 0, -1):
        short = f"{text[: kept - 1 - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if cells(short) <= width:
            return short
    return text


def shorten(text: str, width: int | None) -> str:
    """Return the text cut at a word, so that it takes at most `width` cells if that is given; `…` marks the cut."""
    if width is None or cells(text) <= width:
        return text
    if width < 1:
        return ""
    kept = text[: width - 1]
    while cells(kept) > width - 1:
        kept = kept[:-1]
    if text[len(kept)] != " " and " " in kept.strip():
        kept = kept.rstrip().rpartition(" ")[0] + " "
    return f"{kept}…"
