"""Present-day llama.cpp, prebuilt in xllamacpp. It runs in a process of its own, for it aborts on some bad models."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import numpy.typing as npt

# Where there is a wheel these tests run; that it is not installed must not hide them.
HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
N_GREEDY = 8
PRINTABLE = 260  # the token of an "a"


class RefusedError(Exception):
    """llama.cpp does not load the model; the text is what it says."""


@dataclass(frozen=True)
class Run:
    """Log probabilities after each prefix of the prompt [prefix, token], the greedy tokens after it, and the bytes
    that each token of the vocabulary stands for."""

    log_probabilities: npt.NDArray[np.float64]
    greedy: list[int]
    pieces: list[bytes]


def run(model: Path, prompt: Sequence[int]) -> Run:
    """Runs the model with an F32 cache and without flash attention. Raises `RefusedError`."""
    result = subprocess.run(
        [sys.executable, __file__, os.fspath(model), json.dumps(list(prompt))],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )
    if result.returncode:
        raise RefusedError(f"exit {result.returncode}: {result.stderr}")
    told = json.loads(result.stdout.splitlines()[-1])
    pieces = [bytes(piece) for piece in told["pieces"]]
    return Run(np.array(told["log_probabilities"]), told["greedy"], pieces)


def _main(model: str, prompt: list[int]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 1
    params.warmup = params.fit_params = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    opener = build_opener(ProxyHandler({}))

    def complete(tokens: list[int], **options: Any) -> dict[str, Any]:
        body = {"prompt": tokens, "temperature": -1, "cache_prompt": False, **options}
        address = f"{server.listening_address}/completion"
        request = Request(address, json.dumps(body).encode())  # noqa: S310 - its own server's
        with opener.open(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    rows: list[list[float]] = []
    for length in range(1, len(prompt) + 1):
        # The token sampled is none of a byte, after which llama.cpp would wait for the rest of a character; the
        # probabilities are those before sampling.
        bias = [[PRINTABLE, 1000]]
        answer = complete(prompt[:length], n_predict=1, n_probs=1 << 20, post_sampling_probs=False, logit_bias=bias)
        top = sorted(answer["completion_probabilities"][0]["top_logprobs"], key=lambda token: token["id"])
        rows.append([token["logprob"] for token in top])
    greedy = complete(prompt, n_predict=N_GREEDY, ignore_eos=True, return_tokens=True)["tokens"]
    told = {"log_probabilities": rows, "greedy": greedy, "pieces": [token["bytes"] for token in top]}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
