"""Present-day llama.cpp, prebuilt in xllamacpp; in a process of its own, because it aborts on some bad models."""

from __future__ import annotations

import atexit
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.request import ProxyHandler, Request, build_opener

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# There is a wheel for these systems: there the tests run, and fail if it is not installed.
HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
N_GREEDY = 8
ANSWER = "answer: "  # before the line that the other process prints
PRINTABLE = 260  # a token that is whole characters, in both vocabularies of the fixtures


class RefusedError(Exception):
    """llama.cpp does not load the model; the text is its message."""


@dataclass(frozen=True)
class Run:
    """What llama.cpp computed.

    Attributes:
        prompt: the tokens of the prompt.
        log_probabilities: after each of the prefixes, of each token: [prefix, token].
        greedy: the most likely tokens after the whole prompt, one after another, never the end of the text.
        text: the text of these tokens.
        pieces: the bytes of each token of the vocabulary.
    """

    prompt: list[int]
    log_probabilities: npt.NDArray[np.float64]
    greedy: list[int]
    text: str
    pieces: list[bytes]


def run(
    model: Path,
    prompt: Sequence[int] | str,
    prefixes: Sequence[int] | None = None,
    n_greedy: int = N_GREEDY,
    adapter: Path | None = None,
) -> Run:
    """Run the model with an F32 cache and without flash attention. Raises `RefusedError`.

    A prompt that is text is split into tokens by llama.cpp. `prefixes` are the numbers of tokens of the prompt after
    which the probabilities are computed; None for all. `adapter` is a LoRA adapter, which has the scale 1.
    """
    import numpy as np  # not at the top, because the other process does without it

    process, log = _process()
    before = os.fstat(log.fileno()).st_size
    job = [
        os.fspath(model),
        prompt if isinstance(prompt, str) else list(prompt),
        prefixes and list(prefixes),
        n_greedy,
        adapter and os.fspath(adapter),
    ]
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    overdue = Timer(120, process.kill)
    overdue.start()
    answer = next((line for line in process.stdout if line.startswith(ANSWER)), None)
    overdue.cancel()
    if answer is None:  # it has ended
        process.wait(10)
        message = os.pread(log.fileno(), 1 << 20, before).decode("utf-8", "replace")
        _end()
        raise RefusedError(f"exit {process.returncode}: {message}")
    told = json.loads(answer.removeprefix(ANSWER))
    pieces = [bytes(piece) for piece in told["pieces"]]
    return Run(told["prompt"], np.array(told["log_probabilities"]), told["greedy"], told["text"], pieces)


@functools.cache
def _process() -> tuple[subprocess.Popen[str], BinaryIO]:
    """Start the process, which runs models until it refuses one; return it, and the file of its error output.

    To start it takes longer than to run a model of the tests.
    """
    log = TemporaryFile("a+b")  # noqa: SIM115 - _end() closes it
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # it would start a debugger, which takes seconds
    )
    return process, log


@atexit.register
def _end() -> None:
    """End the process, if one runs."""
    if _process.cache_info().currsize:
        process, log = _process()
        _process.cache_clear()
        with log, process:  # closes its input, after which it ends, and waits for that
            pass


def _main(model: str, prompt: list[int] | str, prefixes: list[int] | None, n_greedy: int, adapter: str | None) -> None:
    import xllamacpp  # type: ignore[import-untyped,unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = model
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 1
    params.n_parallel = 1
    params.n_ctx = 0  # the context length of the model
    params.warmup = params.fit_params = False
    params.verbosity = 1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        end = time.monotonic() + 5  # a thread of llama.cpp writes meanwhile why it refuses the file
        while b"exiting due to model loading error" not in os.pread(2, 1 << 20, 0) and time.monotonic() < end:
            time.sleep(0.01)
        raise
    opener = build_opener(ProxyHandler({}))

    def ask(path: str, **body: Any) -> dict[str, Any]:
        request = Request(f"{server.listening_address}{path}", json.dumps(body).encode())  # noqa: S310 - its own server's
        with opener.open(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def complete(tokens: list[int], **options: Any) -> dict[str, Any]:
        return ask("/completion", prompt=tokens, temperature=-1, cache_prompt=False, **options)

    tokens = ask("/tokenize", content=prompt, add_special=True)["tokens"] if isinstance(prompt, str) else prompt
    rows: list[list[float]] = []
    for length in prefixes or range(1, len(tokens) + 1):
        # The token sampled is not one of a byte, after which llama.cpp would wait for the rest of a character; the
        # probabilities are those before sampling.
        bias = [[PRINTABLE, 1000]]
        answer = complete(tokens[:length], n_predict=1, n_probs=1 << 20, post_sampling_probs=False, logit_bias=bias)
        top = sorted(answer["completion_probabilities"][0]["top_logprobs"], key=lambda token: token["id"])
        rows.append([token["logprob"] for token in top])
    answer = complete(tokens, n_predict=n_greedy, ignore_eos=True, return_tokens=True)
    told = {
        "prompt": tokens,
        "log_probabilities": rows,
        "greedy": answer["tokens"],
        "text": answer["content"],
        "pieces": [token["bytes"] for token in top],
    }
    print(ANSWER, json.dumps(told), sep="", flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        _main(*json.loads(line))
