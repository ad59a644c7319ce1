"""The time that commands take on a small file, and on one of 2 GB of which they read little."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.measure import ROOT, Bench, Result, make_sparse, peak, ratio

SMALL = ROOT / "fixtures" / "v1-adam.ggcp"
MORE_ROUNDS = 3  # times as many, because these runs are short


def start_up(bench: Bench) -> Iterator[Result]:
    """Compare commands on a small file with an interpreter that does nothing."""
    output = bench.folder / "small.gguf"
    targets = {"--help": 7, "info": 9, "get": 9, "convert": 16}
    commands = {
        "--help": bench.command("--help"),
        "info": bench.command("info", SMALL),
        "get": bench.command("get", SMALL, "optimizer.nx"),
        "convert": bench.command("convert", SMALL, output, "--no-sync"),
    }
    runs = bench._replace(rounds=MORE_ROUNDS * bench.rounds).in_turns({"bare": bench.bare, **commands}, output)
    for name, target in targets.items():
        what = name if name == "--help" else f"{name} of a small file"
        yield ratio(f"{what}, against a bare interpreter", target, runs[name], runs["bare"])


def looking(bench: Bench) -> Iterator[Result]:
    """Look at a large file."""
    file = make_sparse(bench.folder / "2.ggcp", 2)
    commands = {
        "info": bench.command("info", file),
        "dump PATH": bench.command("dump", file, "layers[0].wq"),
        "get": bench.command("get", file, "optimizer.nx"),
        "hex": bench.command("hex", file, "layers[0].wq.ne"),
    }
    runs = bench.in_turns({"bare": bench.bare, **commands})
    for name in commands:
        yield ratio(f"{name} of 2 GB, against a bare interpreter", 20, runs[name], runs["bare"])
        yield peak(f"{name} of 2 GB", 100, runs[name])
    file.unlink()
