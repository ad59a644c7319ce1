"""Whether the values of a checkpoint can be what its program wrote, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import state_of
from ggcp_schema.llama.soundness import LEAST, examine
from ggcp_schema.llama.state import RULES, Unsound, place_text

HEADER = 16  # bytes of the shortest header of a vector
BLOCK = 1 << 16  # values read at a time


def soundness(file: File, progress: Callable[[int], None] | None = None) -> list[Unsound]:
    """Return what is unsound in a file, in file order; nothing for a file without a training state.

    Reads the weights, m, v, mh, vh and x in pieces. Raises `FileError` if the file cannot be read.
    """
    state = state_of(file)
    return [] if state is None else [*examine(state, progress), *_hole(file)]


def _hole(file: File) -> Iterator[Unsound]:
    """Yield the zeros at the end of the last tensor before the damage, if only zeros follow where a header should."""
    if file.damage is None:
        return
    before = [tensor for tensor in file.tensors.values() if tensor.offset + tensor.nbytes <= file.damage.offset]
    last = max(before, key=lambda tensor: tensor.offset, default=None)
    if last is None or last.type != "F32" or not last.nbytes:
        return
    end = last.offset + last.nbytes
    header = file.source.read(end, min(HEADER, file.size - end))
    if file.damage.offset - end > HEADER or not header or any(header):
        return
    start = last.n_elements
    while start:
        block = file.source.read(last.offset + 4 * max(0, start - BLOCK), 4 * min(start, BLOCK))
        kept = -(-len(block.rstrip(b"\0")) // 4)
        start = max(0, start - BLOCK) + kept
        if kept:
            break
    if last.n_elements - start >= LEAST:
        first = last.offset + 4 * start
        text = f"{RULES['zeros-before-hole']}: {place_text(last, first, end)}"
        yield Unsound(last.path, first, end, "zeros-before-hole", text)
