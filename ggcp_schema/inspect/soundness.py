"""Whether the values of a checkpoint can be what its program wrote, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Callable

from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import state_of
from ggcp_schema.llama.soundness import Look, examine
from ggcp_schema.llama.state import Unsound, order_of_x


def soundness(file: File, progress: Callable[[int], None] | None = None, look: Look | None = None) -> list[Unsound]:
    """Return what is unsound in a file, in file order; nothing for a file without a training state.

    Reads the weights, m, v, mh, vh and x in pieces. The parameters and exceptions are those of `examine`.
    """
    state = state_of(file)
    return [] if state is None else examine(state, progress, look)


def bytes_read_again(file: File) -> int:
    """Return the number of bytes that `soundness` reads a second time: x and the weights, if x holds them."""
    state = state_of(file)
    return 0 if state is None or order_of_x(state) is None else 2 * state.vectors["x"].nbytes
