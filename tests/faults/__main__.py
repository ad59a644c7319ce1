"""Every fault at every call, and kills at random moments: `python -m tests.faults [--kills N] [--seed S]`.

Prints a table of what came of it, and exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

from tests.builder import build_checkpoint
from tests.faults.harness import CHANGES, COMMANDS, ERRORS, SIGNALS, Case, server

FAULTS = {
    "a call fails": ERRORS,
    "a call transfers one byte": ("SHORT",),
    "SIGKILL before a call": ("SIGKILL",),
    "SIGHUP, SIGINT or SIGTERM before a call": SIGNALS,
    "another run at a call": ("RUN",),
    "the input changes at a call": CHANGES,
}


def main() -> None:
    """Run all faults and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="kills at random moments (default: 1000)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the moments")
    options = parser.parse_args()
    codes: dict[str, Counter[int]] = {}
    problems = []
    with server() as commands, tempfile.TemporaryDirectory() as folder:
        for command, existing, named in product(COMMANDS, (True, False), (False, True)):
            case = Case(commands, Path(folder), command, existing=existing, named=named)
            for kind, faults in FAULTS.items():
                if case.is_folder and named and "SIGKILL" in faults:
                    continue  # in one moment there is neither the old folder nor the new one, until the next run
                case.codes = codes.setdefault(kind, Counter())
                problems += [
                    problem
                    for at in case.moments(all_calls=True)
                    for fault in faults
                    for problem in case.strike(at, fault)
                ]
        moments = random.Random(options.seed)
        large = build_checkpoint(n_vocab=2000, n_embd=128, n_mult=256, n_head=4, n_layer=2)
        cases = [
            Case(commands, Path(folder), existing=existing, named=named, content=large)
            for existing, named in product((True, False), (False, True))
        ]
        for case in cases:
            case.codes = codes.setdefault("SIGKILL at a random moment", Counter())
        for turn in range(options.kills):
            problems += cases[turn % len(cases)].kill(moments.random())
    for problem in problems:
        print(problem, file=sys.stderr)
    print("| fault | runs | exit codes |\n|---|---|---|")
    for kind, counter in codes.items():
        ends = ", ".join(f"{code}: {counter[code]}" for code in sorted(counter))
        print(f"| {kind} | {counter.total()} | {ends} |")
    print(f"{len(problems)} problems; the seed was {options.seed}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
