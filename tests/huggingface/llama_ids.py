"""The ids that present-day llama.cpp gives to texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ANSWER = "answer: "


def token_ids(model: Path, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids of each text, with the token bos; then again with the texts of special tokens as these.

    All special tokens have a < in their text.
    """
    job = json.dumps([str(model), list(texts)])
    result = subprocess.run(
        [sys.executable, __file__], input=job, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    answer = next((line for line in result.stdout.splitlines() if line.startswith(ANSWER)), None)
    assert answer, result.stderr
    as_texts, as_tokens = json.loads(answer.removeprefix(ANSWER))
    return as_texts, as_tokens


def _main(model: str, texts: list[str]) -> None:
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    import xllamacpp  # type: ignore[import-untyped,unused-ignore]

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.warmup = params.fit_params = False
    params.n_parallel = params.cpuparams.n_threads = 1
    params.verbosity = 1
    server = xllamacpp.Server(params)
    connection = HTTPConnection(urlsplit(server.listening_address).netloc, timeout=60)

    def ids(text: str, parse_special: bool) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": parse_special})
        connection.request("POST", "/tokenize", body)
        found: list[int] = json.load(connection.getresponse())["tokens"]
        return found

    as_texts = [ids(text, False) for text in texts]
    as_tokens = [ids(text, True) if "<" in text else found for text, found in zip(texts, as_texts, strict=True)]
    print(ANSWER, json.dumps([as_texts, as_tokens]), sep="", flush=True)
    os._exit(0)  # the server's threads do not always end


if __name__ == "__main__":
    _main(*json.load(sys.stdin))
