"""The forward pass of the trainers of 2023 in float64, from a checkpoint's own weights: what a model must compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggcp_schema import Checkpoint

Array = npt.NDArray[np.float64]
EOS = 2


def log_probabilities(ckpt: Checkpoint, tokens: Sequence[int], *, rms_eps: float, neox: bool = False) -> Array:
    """Of each token of the vocabulary after each prefix of `tokens`: [prefix, token]. `neox` is the other order of
    RoPE, a control: it pairs the halves of a head where the trainer paired neighbours."""
    weights = {path: tensor.array().astype(np.float64) for path, tensor in ckpt.model_tensors.items()}
    n_head, n_rot, count = ckpt.hparams.n_head, ckpt.hparams.n_rot, len(tokens)
    future = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: Array, weight: Array) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + rms_eps) * weight

    def heads(x: Array) -> Array:
        return x.reshape(count, n_head, -1).swapaxes(0, 1)

    def rope(x: Array) -> Array:
        angle = np.arange(count)[:, None] * 10000.0 ** (-np.arange(0, n_rot, 2) / n_rot)
        first, second = (
            (slice(0, n_rot // 2), slice(n_rot // 2, n_rot)) if neox else (slice(0, n_rot, 2), slice(1, n_rot, 2))
        )
        result, a, b = x.copy(), x[..., first], x[..., second]
        result[..., first] = a * np.cos(angle) - b * np.sin(angle)
        result[..., second] = a * np.sin(angle) + b * np.cos(angle)
        return result

    x = weights["tok_embeddings"][list(tokens)]
    for i in range(ckpt.hparams.n_layer):
        layer = {path.partition("].")[2]: array for path, array in weights.items() if path.startswith(f"layers[{i}].")}
        h = norm(x, layer["attention_norm"])
        q, k, v = (heads(h @ layer[name].T) for name in ("wq", "wk", "wv"))
        scores = rope(q) @ rope(k).swapaxes(1, 2) / np.sqrt(q.shape[-1]) + future
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        x = x + (attention @ v).swapaxes(0, 1).reshape(count, -1) @ layer["wo"].T
        h = norm(x, layer["ffn_norm"])
        gate = h @ layer["w1"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer["w3"].T)) @ layer["w2"].T
    logits = norm(x, weights["norm"]) @ weights["output"].T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def greedy(ckpt: Checkpoint, prompt: Sequence[int], count: int, *, rms_eps: float) -> list[int]:
    """The most likely tokens after the prompt, one after another, never the end of the text."""
    tokens = list(prompt)
    for _ in range(count):
        last = log_probabilities(ckpt, tokens, rms_eps=rms_eps)[-1]
        last[EOS] = -np.inf
        tokens.append(int(last.argmax()))
    return tokens[len(prompt) :]
