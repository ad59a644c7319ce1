"""The memory that commands take on large files."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measure import MB, Bench, Result, make, make_sparse, peak, run

LIMIT = 100
OUTPUT = 50 * MB  # of the commands that print more; the whole would take hours


def memory(bench: Bench) -> Iterator[Result]:
    """Measure commands on 1 GB of values."""
    file, other = make("v1", bench.folder / "1000.ggcp", 1000), make("other", bench.folder / "other.ggcp", 1000)
    vocabulary, output = make("vocabulary", bench.folder / "vocabulary.gguf"), bench.folder / "output"
    converted = bench.folder / "resume.gguf"
    run(bench.command("convert", file, converted, "-q", "--no-sync"))
    to_file = ("export", "--vocab", vocabulary, "--ctx", "128", "-q", "--no-sync")
    commands = {
        "info": ("info", file),
        "validate": ("validate", file),
        "stats": ("stats", file),
        "diff": ("diff", file, other),
        "diff with a GGUF file": ("diff", file, converted),
        "verify": ("verify", file, converted),
        "export": (*to_file, file, output),
        "export --verify": (*to_file, "--verify", file, output),
        "extract": ("extract", file, "optimizer.state.m", bench.folder / "output.npy"),
    }
    for name, words in commands.items():
        yield peak(f"{name}, 1 GB", LIMIT, [run(bench.command(*words), output, exits=(0, 1))])
    for path in (file, other, vocabulary, converted, *bench.folder.glob("output*")):
        path.unlink()


def printing(bench: Bench) -> Iterator[Result]:
    """Measure commands that print all values of 10 GB, until they have printed 50 MB."""
    file = make_sparse(bench.folder / "10.ggcp", 10)
    commands = {
        "dump --full": ("dump", "--full", file),
        "dump --full --json": ("dump", "--full", "--json", file),
        "get": ("get", file, "optimizer.state.m.data"),
        "get --json": ("get", "--json", file, "optimizer.state.m.data"),
        "hex": ("hex", file, "optimizer.state.m.data"),
        "hex --json": ("hex", "--json", file, "optimizer.state.m.data"),
    }
    for name, words in commands.items():
        yield peak(f"{name}, 10 GB", LIMIT, [run(bench.command(*words), read=OUTPUT)])
    file.unlink()
