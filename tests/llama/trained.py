"""Checkpoints as trainers leave them: Adam's vectors of gradients that hypothesis draws, written with `struct` alone.

Some tokens never occur, so that their rows have no gradient; others have not occurred for a long time, so that their m
has faded to zero in programs that flush what is too small. Gradients may be clipped, summed or tiny.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.builder import build_checkpoint

NORMAL = np.float32(1.1754944e-38)
F = np.float32


class Adam(NamedTuple):
    """The state after the last iteration."""

    m: np.ndarray
    v: np.ndarray
    mh: np.ndarray
    vh: np.ndarray
    g: np.ndarray


def adam(gradients: Iterator[np.ndarray], beta1: float, beta2: float, *, t: int, flush: bool) -> Adam:
    """Return the state after these gradients, at iteration t, in float32; `flush` makes subnormal numbers zero."""
    m = v = np.zeros(1, F)
    g = m
    for g in gradients:
        m = m * F(beta1) + g * F(1 - beta1)
        v = v * F(beta2) + g * g * F(1 - beta2)
        if flush:
            m, v = (np.where(np.abs(a) < NORMAL, F(0), a) for a in (m, v))
    vh = np.sqrt(v * (F(1) / (F(1) - np.power(F(beta2), F(t))))) + F(1e-8)
    return Adam(m, v, m * (F(1e-3) / (F(1) - np.power(F(beta1), F(t)))) / vh, vh, g)


@st.composite
def trained(draw: st.DrawFn) -> bytes:
    """Draw a checkpoint of a short training. Its vectors are in order A."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    n_vocab, n_embd = draw(st.integers(1, 40)), draw(st.sampled_from([2, 8, 16, 32, 48]))
    n_layer, n_ff = draw(st.integers(0, 2)), draw(st.sampled_from([4, 32]))
    layout = draw(st.sampled_from(["v0", "v1", "v1-raw-params"]))
    is_lbfgs = draw(st.integers(0, 5)) == 0
    never = rng.random(n_vocab) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    seldom = rng.random(n_vocab) < draw(st.sampled_from([0, 0.1, 0.5, 1]))
    beta1, beta2 = (0.9, 0.999) if layout != "v1" else draw(st.sampled_from([(0.9, 0.999), (0.5, 0.99), (0.0, 0.999)]))
    scale = draw(st.sampled_from([1e-20, 1e-9, 1e-4, 1.0, 1e4]))
    layer = 4 * n_embd * n_embd + 2 * n_embd + 3 * n_embd * n_ff
    n_params = 2 * n_vocab * n_embd + n_embd + n_layer * layer
    steps = draw(st.sampled_from([1, 2, 7, 30]))

    def gradients() -> Iterator[np.ndarray]:
        for step in range(steps):
            g = rng.standard_normal(n_params).astype(F) * F(scale)
            rows = g[: n_vocab * n_embd].reshape(n_vocab, n_embd)
            rows[never] = 0
            rows[seldom] *= step == 0
            yield g

    is_long_ago = draw(st.booleans())
    t = steps + 1000 * is_long_ago
    state = adam(gradients(), beta1, beta2, t=t, flush=draw(st.booleans()))
    if is_long_ago:
        faded = np.zeros(n_params, bool)
        faded[: n_vocab * n_embd].reshape(n_vocab, n_embd)[seldom] = True
        state.m[faded], state.mh[faded] = 0, 0
    factor = F(2.0 ** draw(st.integers(-9, 9)))  # as a conversion scales them
    if layout == "v1":
        state.m[:], state.v[:] = state.m * factor, state.v * factor * factor
    weights = rng.standard_normal(n_params).astype(F)
    x = np.zeros(n_params, F) if draw(st.booleans()) else _in_order_a(weights, n_vocab, n_embd, n_layer, n_ff)
    vectors: dict[str, list[Any]] = {
        "v0": [x, state.g, state.g * state.g, state.m, state.v, state.mh, state.vh],
        "v1": [state.m, state.v],
        "v1-raw-params": [state.m, state.v],
    }
    lms, lmy = rng.standard_normal((2, 3, n_params)).astype(F)
    lmys = np.array([s @ y for s, y in zip(lms, lmy, strict=True)], F)
    ones = np.ones(n_params, F)
    lbfgs = [x, ones, ones, ones, ones, np.ones(3, F), lmys, lms.ravel(), lmy.ravel()]
    drawn = iter([*_pieces(weights, n_vocab, n_embd, n_layer, n_ff), *(lbfgs if is_lbfgs else vectors[layout])])
    return build_checkpoint(
        layout=layout,
        optimizer="lbfgs" if is_lbfgs else "adam",
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_layer=n_layer,
        n_ff=n_ff,
        data=lambda count: next(drawn, np.ones(count, F)),
        state={"iter": 0 if is_lbfgs else t, "fx_best": 5.5, "fx_prev": 5.25},
    )


def _pieces(weights: np.ndarray, n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> list[np.ndarray]:
    """Return the tensors of the file, in its order."""
    square, wide = n_embd * n_embd, n_embd * n_ff
    sizes = [n_vocab * n_embd, n_embd, n_vocab * n_embd]
    sizes += [n_embd, square, square, square, square, n_embd, wide, wide, wide] * n_layer
    return np.split(weights, np.cumsum(sizes)[:-1])


def _in_order_a(weights: np.ndarray, n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> np.ndarray:
    embeddings, norm, output, *layers = _pieces(weights, n_vocab, n_embd, n_layer, n_ff)
    parts = [embeddings]
    for start in range(0, len(layers), 9):
        *first, w1, w2, w3 = layers[start : start + 9]
        parts += [*first, w3, w1, w2]
    return np.concatenate([*parts, norm, output])
