"""Take back lost values of a training state from where the file holds them a second time.

x (layout v0, L-BFGS) holds the weights bit for bit. mh and vh (v0) tell m and v, but for their last bits. A value is
only replaced if it is proven to be the wrong one of the two: because it cannot be, or because it contradicts two others
that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ggcp_schema.files.contents import Patch
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.adam import AdamParams
from ggcp_schema.llama.runs import Run
from ggcp_schema.llama.soundness import HUGE_WEIGHT, LEAST, Floats, Watch, is_loss_of_relation
from ggcp_schema.llama.state import State


def value_patches(state: State, progress: Callable[[int], None] | None = None) -> list[Patch]:
    """Return the patches that take back values of the weights, x, m and v, in file order.

    Reads all of them in pieces. Raises `FileError` if the file cannot be read.
    """
    return sorted([*_weights_and_x(state, progress), *_moments(state, progress)], key=lambda change: change.offset)


def _weights_and_x(state: State, progress: Callable[[int], None] | None) -> Iterator[Patch]:
    for path, run, in_x in Watch(state).differences(progress):
        weights, x = state.model[path], state.vectors["x"]
        elsewhere = Run(in_x, in_x + len(run))
        wrong = _cannot_be(weights, run), _cannot_be(x, elsewhere)
        if wrong == (True, False):
            reason = f"x holds these weights, at bytes {_bytes_text(x, elsewhere)}"
            yield _patch(state.path(path), weights, run, reason, _copied(x, elsewhere))
        elif wrong == (False, True):
            reason = f"x holds the weights, and {path} has these at bytes {_bytes_text(weights, run)}"
            yield _patch(state.path("x"), x, elsewhere, reason, _copied(weights, run))


def _moments(state: State, progress: Callable[[int], None] | None) -> Iterator[Patch]:
    adam = state.adam
    if adam is None or not {"m", "v", "mh", "vh"} <= state.vectors.keys():
        return
    watch = Watch(state)
    watch.moments(progress)
    m, v, mh, vh = (state.vectors[name] for name in ("m", "v", "mh", "vh"))
    for name in ("v", "m"):
        runs = watch.runs.get((f"{name}-differs", name))
        if runs is None or is_loss_of_relation(runs.count, v.n_elements):
            return
        for run in runs.kept:
            if name == "v":
                reason = "vh, which agrees with m and mh, tells v; the last bits may differ"
                yield _patch(state.path("v"), v, run, reason, _computed(adam, run, vh))
            elif _cannot_be(m, run) or watch.covers("m-exceeds-v", "m", run):
                reason = "mh and vh, which agrees with v, tell m; the last bits may differ"
                pieces = zip(_recomputed(adam, run, vh, mh), _pieces(v, run), strict=True)
                if all(watch.allows(*piece) for piece in pieces):  # else it is mh that is lost
                    yield _patch(state.path("m"), m, run, reason, _computed(adam, run, vh, mh))


def _cannot_be(tensor: Tensor, run: Run) -> bool:
    """Return True if the values are a run of zeros, or if one is not finite or huge."""
    all_zero = True
    for values in tensor.values(run.start, run.stop):
        if not np.abs(values).max() <= HUGE_WEIGHT:
            return True
        all_zero = all_zero and not values.any()
    return all_zero and len(run) >= LEAST


def _patch(path: str, tensor: Tensor, run: Run, reason: str, content: Callable[[], Iterator[bytes]]) -> Patch:
    return Patch(path, tensor.offset + 4 * run.start, 4 * len(run), reason, content)


def _copied(tensor: Tensor, run: Run) -> Callable[[], Iterator[bytes]]:
    return lambda: (bytes(chunk) for chunk in tensor.chunks(4 * run.start, 4 * run.stop))


def _computed(adam: AdamParams, run: Run, vh: Tensor, mh: Tensor | None = None) -> Callable[[], Iterator[bytes]]:
    return lambda: (values.astype("<f4").tobytes() for values in _recomputed(adam, run, vh, mh))


def _recomputed(adam: AdamParams, run: Run, vh: Tensor, mh: Tensor | None) -> Iterator[Floats]:
    """Yield the values of v, or of m, in pieces."""
    if mh is None:
        return map(adam.v_from, _pieces(vh, run))
    return map(adam.m_from, _pieces(mh, run), _pieces(vh, run))


def _pieces(tensor: Tensor, run: Run) -> Iterator[Floats]:
    return tensor.values(run.start, run.stop)


def _bytes_text(tensor: Tensor, run: Run) -> str:
    return f"{tensor.offset + 4 * run.start:,} to {tensor.offset + 4 * run.stop - 1:,}"
