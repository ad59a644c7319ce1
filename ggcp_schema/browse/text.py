"""Short forms of numbers for narrow columns. Whole values come from `ggcp_schema.inspect.text`."""

from __future__ import annotations

import math

from rich.cells import cell_len, set_cell_size

BLOCKS = " ▁▂▃▄▅▆▇█"
BARS = " ▏▎▍▌▋▊▉█"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with that many significant digits, `–` for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "−Inf"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}".replace("-", "−")
    return f"{value:.{digits - 2}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def fit(text: str, width: int, *, left: bool = False) -> str:
    """Return the text in exactly that many cells of a terminal, cut with `…` at the end, or at the start if `left`."""
    spare = width - cell_len(text)
    if spare >= 0:
        return text + " " * spare
    if width < 1:
        return ""
    if not left:
        return set_cell_size(text, width - 1) + "…"
    return "…" + set_cell_size(text[::-1], width - 1)[::-1]


def column(share: float, height: int) -> list[str]:
    """Return a vertical bar as one character per line, the top line first; `share` is 0 to 1, and NaN counts as 0."""
    eighths = round(min(share, 1.0) * height * 8) if share > 0 else 0
    if share > 0:
        eighths = max(eighths, 1)
    return [BLOCKS[min(8, max(0, eighths - 8 * line))] for line in reversed(range(height))]


def bar(share: float, width: int) -> str:
    """Return a horizontal bar of `share` (0 to 1; NaN counts as 0), in steps of an eighth of a character."""
    eighths = round(min(share, 1.0) * width * 8) if share > 0 else 0
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BARS[rest] if rest else "")).ljust(width)
