"""GGUF vocabularies of 32,000 and 150,000 tokens."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measure import Bench, Result, at_most, least, make, peak, ratio

LARGE = 150_000
READ = """
import sys, time
from ggcp_schema.mapping.vocabulary import read_vocabulary
start = time.perf_counter()
read_vocabulary(sys.argv[1])
print(time.perf_counter() - start)
"""


def vocabulary(bench: Bench) -> Iterator[Result]:
    """Read the vocabulary, export a model with it, and show a larger one."""
    vocab, model = make("vocabulary", bench.folder / "vocabulary.gguf"), make("tokens", bench.folder / "model.ggcp")
    (seconds,) = bench.numbers(READ, vocab)
    yield at_most("GGUF vocabulary of 32,000 tokens, read", 0.25, seconds, "s")
    output = bench.folder / "output"
    command = bench.command("export", model, output, "--vocab", vocab, "--ctx", "128")
    runs = bench.in_turns({"export": command}, output)["export"]
    yield at_most("export with it", 1.2, least(runs), "s")
    yield peak("export with it", 80, runs)
    large = make("vocabulary", bench.folder / "large.gguf", LARGE)
    runs = bench.in_turns({"bare": bench.bare, "info": bench.command("info", large)})
    yield ratio(f"info of {LARGE:,} tokens, against a bare interpreter", 10, runs["info"], runs["bare"])
    yield peak(f"info of {LARGE:,} tokens", 40, runs["info"])
    for path in (vocab, model, output, large):
        path.unlink()
