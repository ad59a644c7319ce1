"""Model folders for transformers: their export against that to GGUF, and the memory that it and `verify` take."""

from __future__ import annotations

from collections.abc import Iterator
from shutil import rmtree

from tests.benchmarks.measure import Bench, Result, make, peak, ratio, run


def folders(bench: Bench) -> Iterator[Result]:
    """Measure a checkpoint of 1 GB. Its folder has the moments too, and so three times the bytes of the GGUF file."""
    file, vocabulary = make("trained", bench.folder / "trained.ggcp", 1000), bench.folder / "vocabulary.gguf"
    make("vocabulary", vocabulary)
    output = bench.folder / "output"
    common = ("export", file, output, "--vocab", vocabulary, "--ctx", "128", "-q", "--no-sync")
    commands = {"gguf": bench.command(*common), "hf": bench.command(*common, "--to", "hf")}
    runs = bench.in_turns(commands, output)
    if not (output / "optimizer.safetensors").exists():
        raise SystemExit("the folder has no moments")
    yield ratio("export --to hf, 1 GB, against --to gguf", 2, runs["hf"], runs["gguf"])
    yield peak("export --to hf, 1 GB", 64, runs["hf"])
    yield peak("verify of a folder, 1 GB", 64, [run(bench.command("verify", file, output, "--vocab", vocabulary))])
    file.unlink()
    vocabulary.unlink()
    rmtree(output)
