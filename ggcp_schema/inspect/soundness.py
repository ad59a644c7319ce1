"""Whether the values of a checkpoint can be what its program wrote, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ggcp_schema.files.tensor import Tensor, stream_pieces
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import state_of, unsound_anyway
from ggcp_schema.llama.soundness import Floats, Look, examine
from ggcp_schema.llama.state import Unsound, order_of_x


def soundness(file: File, progress: Callable[[int], None] | None = None, look: Look | None = None) -> list[Unsound]:
    """Return what is unsound in a file, in file order; without a training state only what `unsound_anyway` finds.

    Reads the weights, m, v, mh, vh and x in pieces. The parameters and exceptions are those of `examine`.
    """
    state = state_of(file)
    return [*unsound_anyway(file), *([] if state is None else examine(state, progress, look))]


def look_once(
    file: File | None, tensors: Sequence[Tensor], look: Look, progress: Callable[[int], None]
) -> list[Unsound]:
    """Show the values of these tensors to `look`, and return what is unsound in the training state of a file.

    What both need is read once. Without a file nothing is examined. `progress` is called with the number of bytes just
    read. Raises `FileError` if the file becomes too short, `UsageError` if the elements of a tensor cannot be read.
    """
    left = {tensor.path: tensor for tensor in tensors}

    def look_at_left(tensor: Tensor, at: int, values: Floats) -> None:
        if tensor.path in left:
            look(tensor, at, values)
            if at + len(values) == tensor.n_elements:
                del left[tensor.path]

    unsound = [] if file is None else soundness(file, progress, look_at_left)
    for tensor, at, values in stream_pieces([*left.values()]):
        look(tensor, at, values)
        progress(tensor.nbytes * len(values) // tensor.n_elements)
    return unsound


def bytes_read(file: File, tensors: Sequence[Tensor]) -> int:
    """Return the number of bytes that `look_once` reads: x and the weights twice if x holds them, and lms and lmy."""
    state = state_of(file)
    if state is None:
        return sum(tensor.nbytes for tensor in tensors)
    vectors = state.vectors
    examined = [*state.model.values(), *(vectors[name] for name in ("x", "m", "v", "mh", "vh") if name in vectors)]
    nbytes = {tensor.path: tensor.nbytes for tensor in (*examined, *tensors)}
    again = 0 if order_of_x(state) is None else 2 * vectors["x"].nbytes
    return sum(nbytes.values()) + again + sum(vectors[name].nbytes for name in ("lms", "lmy") if name in vectors)
