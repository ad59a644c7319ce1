"""Measure against the targets and print a table: `python -m tests.benchmarks [--only NAME] [--folder F] [--rounds N]`.

What is compared is measured in turns in one run, so that other load on the machine falls on both sides. The least of
several rounds counts. Files of up to 10 GB are made in the folder, most of them sparse, and removed afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.browsing import browsing
from tests.benchmarks.copying import converting, dropping, stats
from tests.benchmarks.folders import folders
from tests.benchmarks.many import parsing, tensors
from tests.benchmarks.measure import Bench, Result, make_environment
from tests.benchmarks.memory import memory, printing
from tests.benchmarks.starting import looking, start_up
from tests.benchmarks.vocabulary import vocabulary

GROUPS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    group.__name__.replace("_", "-"): group
    for group in (
        start_up,
        looking,
        parsing,
        tensors,
        vocabulary,
        converting,
        dropping,
        folders,
        stats,
        memory,
        printing,
        browsing,
    )
}


def line(result: Result) -> str:
    """Return a result as a line of the table."""
    return f"{result.what:<62} {result.target:>19} {result.found:>30}  {'met' if result.met else 'MISSED'}"


def main() -> int:
    """Measure, and return 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this group (may be repeated)")
    parser.add_argument("--folder", type=Path, help="where 5 GB may be written (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each command runs (default: 7)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ggcp-benchmark-", dir=options.folder)).resolve()
    missed = 0
    try:
        bench = Bench(folder, options.rounds, make_environment(folder / "environment"))
        print(line(Result("what", "target", "measured", met=True)).rpartition("  ")[0])
        for name in options.only or GROUPS:
            for result in GROUPS[name](bench):
                print(line(result), flush=True)
                missed += not result.met
    finally:
        shutil.rmtree(folder)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
