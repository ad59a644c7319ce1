"""Adam as the trainers did it: what its vectors have to do with each other.

In each iteration, with the gradient g, the count t of iterations, and a = alpha * sched:

    m = beta1 * m + (1 - beta1) * g             vh = sqrt(v / (1 - beta2**t)) + eps
    v = beta2 * v + (1 - beta2) * g * g         mh = m * (a / (1 - beta1**t)) / vh

In the genuine files of layout v0 that store all four, mh follows from m and vh in every bit, and vh from v to within
3e-7. Backwards m is right to 3 units in the last place and v to 7, but where values are so small that float32 has
fewer digits for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

ANY_BETAS = 1e3  # the largest m / sqrt(v) for the most unusual betas: beta1 = 0, beta2 = 0.999999
ULP = 2.0**-23
CLOSE = 2e-6  # relative: seven times the largest difference that genuine files have
TINY = np.float32(1e-37)  # below it float32 has fewer digits


class AdamParams(NamedTuple):
    """Adam's parameters, as a file stores them, and the count of iterations."""

    iterations: int
    alpha: float
    sched: float
    beta1: float
    beta2: float
    eps: float

    @classmethod
    def of(cls, params: Mapping[str, Any], iterations: int) -> AdamParams:
        """Return the parameters among those of the C struct."""
        return cls(iterations, *(float(params[name]) for name in ("alpha", "sched", "beta1", "beta2", "eps")))

    @property
    def is_usual(self) -> bool:
        """True if the corrections can be computed."""
        betas = 0 < self.beta1 < 1 and 0 < self.beta2 < 1
        return betas and 0 < self.iterations < 1 << 24 and 0 < self.alpha * self.sched < 1 and 0 <= self.eps < 1

    @property
    def step(self) -> float:
        """The factor of m in mh: the size of the step, corrected for the first iterations."""
        return float(np.float32(self.alpha) * np.float32(self.sched) / self._part(self.beta1))

    @property
    def correction(self) -> float:
        """The factor of v in vh."""
        return float(1 / self._part(self.beta2))

    def _part(self, beta: float) -> np.float32:
        """Return 1 - beta**t, which cancels most digits of float32 in the first iterations, as in the program."""
        part: np.float32 = np.float32(1) - np.power(np.float32(beta), np.float32(self.iterations))
        return part

    def differs_from_vh(self, v: Floats, vh: Floats) -> Mask:
        """Return where v does not give vh, by parameters that are usual."""
        computed = np.sqrt(v * np.float32(self.correction)) + np.float32(self.eps)
        return self._differ(computed, vh, self.beta2)

    def differs_from_mh(self, m: Floats, vh: Floats, mh: Floats) -> Mask:
        """Return where m and vh do not give mh, by parameters that are usual."""
        with np.errstate(divide="ignore"):
            return self._differ(m * np.float32(self.step) / vh, mh, self.beta1)

    def _differ(self, computed: Floats, stored: Floats, beta: float) -> Mask:
        close = CLOSE + ULP / float(self._part(beta))  # powf may differ by a unit in the last place
        same: Mask = np.abs(computed - stored) <= np.float32(close) * np.abs(stored) + TINY
        return ~same

    def m_from(self, mh: Floats, vh: Floats) -> Floats:
        """Return m as mh and vh tell it; the last bits may differ."""
        with np.errstate(over="ignore", invalid="ignore"):  # where they are lost
            return (mh.astype(np.float64) * vh / self.step).astype(np.float32)

    def v_from(self, vh: Floats) -> Floats:
        """Return v as vh tells it; the last bits may differ."""
        root = vh.astype(np.float64) - float(np.float32(self.eps))
        return (root * root / self.correction).astype(np.float32)


def largest_root(adam: AdamParams | None) -> float:
    """Return the most that |m| can be, as a multiple of the root of v, whatever the gradients were.

    It is the root of `largest_ratio`, 7.27 for 0.9 and 0.999. Clipping changes the gradients of both, and a file that
    was scaled has m times s and v times s². Files of layout v1 and GGUF files do not store the betas, which their
    programs took as options: for them the bound is that of any betas.
    """
    ratio = math.inf if adam is None else largest_ratio(adam.beta1, adam.beta2)
    return math.sqrt(ratio) if ratio < math.inf else ANY_BETAS


def largest_ratio(beta1: float, beta2: float) -> float:
    """Return the most that m² can be, as a multiple of v, whatever the gradients were; infinite if there is no bound.

    Both are weighted sums, of past gradients and of their squares, so that by the inequality of Cauchy and Schwarz
    m² <= v * sum((1 - beta1)² * beta1**2i / ((1 - beta2) * beta2**i)).
    """
    if not 0 <= beta1 <= 1 or not beta1 * beta1 < beta2 < 1:
        return math.inf
    return (1 - beta1) ** 2 / ((1 - beta2) * (1 - beta1 * beta1 / beta2))
