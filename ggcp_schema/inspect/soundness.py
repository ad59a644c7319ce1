"""Whether the values of a checkpoint can be what its program wrote, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Callable

from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import state_of
from ggcp_schema.llama.soundness import examine
from ggcp_schema.llama.state import Unsound


def soundness(file: File, progress: Callable[[int], None] | None = None) -> list[Unsound]:
    """Return what is unsound in a file, in file order; nothing for a file without a training state.

    Reads the weights, m, v, mh, vh and x in pieces. Raises `FileError` if the file cannot be read.
    """
    state = state_of(file)
    return [] if state is None else examine(state, progress)
