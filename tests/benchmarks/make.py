"""Make a large file: `python -m tests.benchmarks.make KIND PATH [SIZE]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import count
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from gguf import GGUFWriter

from tests.builder import build_checkpoint
from tests.vocabularies import write_gguf

N_EMBD, N_MULT, N_FF = 512, 256, 1536
LAYER = 4 * N_EMBD**2 + 3 * N_EMBD * N_FF + 2 * N_EMBD  # parameters
N_VOCAB = 32_000
BLOCK = 1 << 20  # values that are repeated
BYTE, NORMAL = 6, 1  # types of a token


def of_size(megabytes: int, layout: str, seed: int = 1) -> bytes:
    """Return an Adam checkpoint of about that many megabytes.

    All values are positive, so that the second moments are those of summed gradients.
    """
    copies = 8 if layout == "v0" else 3  # of the parameters in the file: the model's, and the state's of Adam
    parameters = megabytes * 1_000_000 // 4 // copies
    n_vocab = min(N_VOCAB, parameters // 2 // (2 * N_EMBD))
    tile = np.abs(np.random.default_rng(seed).standard_normal(BLOCK, np.float32))
    return build_checkpoint(
        layout=layout,
        n_vocab=n_vocab,
        n_embd=N_EMBD,
        n_mult=N_MULT,
        n_head=8,
        n_rot=64,
        n_layer=max(1, (parameters - 2 * n_vocab * N_EMBD) // LAYER),
        data=lambda count: np.resize(tile, count),
    )


def trained(megabytes: int) -> bytes:
    """Return a checkpoint of about that many megabytes with Adam's moments of sums of gradients.

    The moments are in order A, as the rows of zeros of tokens tell that never occurred.
    """
    n_layer = (megabytes * 1_000_000 // 12 - 2 * N_VOCAB * N_EMBD) // LAYER
    n_tensors = 3 + 9 * n_layer
    tile = np.abs(np.random.default_rng(1).standard_normal(BLOCK, np.float32))
    pieces = count()

    def data(size: int) -> np.ndarray:
        piece = next(pieces)
        if piece < n_tensors:
            return np.resize(tile, size)
        values = np.resize(tile * np.float32(0.05) if piece == n_tensors else tile**2 * np.float32(0.001), size)
        values[: N_VOCAB * N_EMBD].reshape(N_VOCAB, N_EMBD)[::3] = 0
        return values

    return build_checkpoint(
        n_vocab=N_VOCAB,
        n_embd=N_EMBD,
        n_mult=N_MULT,
        n_head=8,
        n_rot=64,
        n_layer=n_layer,
        train=(1, 4, 64),
        data=data,
        state={"iter": 1},
    )


def with_vocabulary() -> bytes:
    """Return a small checkpoint with `N_VOCAB` tokens."""
    return build_checkpoint(n_vocab=N_VOCAB, n_embd=32, n_mult=32, n_rot=16, n_layer=2)


def of_tensors(count: int) -> bytes:
    """Return a checkpoint of at least that many tensors."""
    return build_checkpoint(n_vocab=3, n_embd=2, n_mult=2, n_head=1, n_layer=-(-count // 9))


def write_gguf_tensors(path: Path, count: int) -> None:
    """Write a GGUF file of that many tensors."""
    writer = GGUFWriter(path, "llama")
    for index in range(count):
        writer.add_tensor(f"blk.{index}.attn_q.weight", np.full((2, 2), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_vocabulary(path: Path, n_vocab: int) -> None:
    """Write a GGUF vocabulary of that many tokens, each of two that precede it, as in one of sentencepiece."""
    rng, words = np.random.default_rng(1), dict.fromkeys(["▁", *ascii_lowercase])
    while len(words) < n_vocab - 259:
        known = list(words)
        for left, right in rng.integers(len(known), size=(len(known), 2)):
            word = known[left] + known[right]
            if len(word) <= 12 and len(words) < n_vocab - 259:
                words[word] = None
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scores = [0.0] * 259 + [-float(index) for index in range(len(words))]
    types = [2, 3, 3, *[BYTE] * 256, *[NORMAL] * len(words)]
    keys = [
        ("tokenizer.ggml.model", "llama", "STRING"),
        ("tokenizer.ggml.tokens", tokens, "ARRAY/STRING"),
        ("tokenizer.ggml.scores", scores, "ARRAY/FLOAT32"),
        ("tokenizer.ggml.token_type", types, "ARRAY/INT32"),
        ("tokenizer.ggml.bos_token_id", 1, "UINT32"),
        ("tokenizer.ggml.eos_token_id", 2, "UINT32"),
        ("tokenizer.ggml.unknown_token_id", 0, "UINT32"),
    ]
    write_gguf(path, keys)


KINDS: dict[str, Callable[[int], bytes]] = {
    "v1": lambda size: of_size(size, "v1"),
    "other": lambda size: of_size(size, "v1", seed=2),
    "v0": lambda size: of_size(size, "v0"),
    "trained": trained,
    "tensors": of_tensors,
    "tokens": lambda size: with_vocabulary(),
}
WRITERS: dict[str, Callable[[Path, int], None]] = {
    "tensors in GGUF": write_gguf_tensors,
    "vocabulary": lambda path, size: write_vocabulary(path, size or N_VOCAB),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, *WRITERS])
    parser.add_argument("path", type=Path)
    parser.add_argument("size", type=int, nargs="?", default=0, help="in megabytes, or the number of tensors or tokens")
    options = parser.parse_args()
    if options.kind in WRITERS:
        WRITERS[options.kind](options.path, options.size)
    else:
        options.path.write_bytes(KINDS[options.kind](options.size))
