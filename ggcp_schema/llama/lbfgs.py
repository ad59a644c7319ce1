"""What L-BFGS remembers of its last steps: the change of x (lms), that of the gradient (lmy), and their product (lmys).

This module imports numpy; only commands that read tensor data import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ggcp_schema.llama.state import RULES, State, Unsound

LANES = 16  # sums that ggml keeps at least, with any SIMD instructions; without, it keeps one of type double
ROUNDING = 2.0**-24
LEAST_NORMAL = 2.0**-126  # smaller products may become 0


def changed_steps(state: State, progress: Callable[[int], None] | None = None) -> Iterator[Unsound]:
    """Yield the steps whose product is not that of their vectors, by more than rounding in any order of adding.

    All three are written at once, so one of them was changed since. A step of zeros proves nothing: it was not made
    yet. `progress` is called with the number of bytes just read. Raises `FileError` if the file becomes too short.
    """
    if not {"lms", "lmy", "lmys"} <= state.vectors.keys():
        return
    lms, lmy, lmys = (state.vectors[name] for name in ("lms", "lmy", "lmys"))
    if lms.shape != lmy.shape or lms.shape[1:] != lmys.shape:
        return
    count = lmy.shape[0]
    for step, stored in enumerate(lmys.numbers(0, lmys.n_elements)):
        start, stop = step * count, (step + 1) * count
        product = size = 0.0
        for s, y in zip(lms.values(start, stop), lmy.values(start, stop), strict=True):
            with np.errstate(invalid="ignore"):
                products = s.astype(np.float64) * y
                product, size = product + float(products.sum()), size + float(np.abs(products).sum())
            if progress:
                progress(s.nbytes + y.nbytes)
        most = (count / LANES + LANES) * ROUNDING * size + count * LEAST_NORMAL
        if size and math.isfinite(stored) and not abs(product - stored) <= most:
            text = f"{RULES['step-differs']}: {product:.6g} instead of {stored:.6g} at step {step}"
            yield Unsound(state.path("lmy"), lmy.offset + 4 * start, lmy.offset + 4 * stop, "step-differs", text)
