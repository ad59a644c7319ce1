"""Fuzz for as long as you like: `python -m tests.fuzz [--seconds 3600] [--seed 7] [--jobs 2]`.

Prints each finding once, with the recipe that repeats it, and exits with 1 if there was one.
`python -m tests.fuzz --recipe '{"seed": …}'` repeats a recipe with all commands.
`python -m tests.fuzz --pages 1000 [FILE…]` loses so many pages and flips so many bits in each genuine checkpoint, and
prints how many of them are found.
`python -m tests.fuzz --holes 512 [FILE…]` makes holes, inserts and removes a byte at every position that begins or ends
at a header, and at each so manieth inside of data, and compares what is read with the whole file.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.fuzz.campaign import fuzz, repeat
from tests.fuzz.holes import campaign
from tests.fuzz.pages import table
from tests.helpers import GENUINE, ORDERS

COMMANDS = 6  # of each input


def main() -> None:
    """Run the jobs, and print what they find."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the first job")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--commands", type=int, default=COMMANDS, help=f"commands per input (default: {COMMANDS})")
    parser.add_argument("--recipe", help="a recipe as JSON: repeat it with all commands")
    parser.add_argument("--pages", type=int, metavar="COUNT", help="lose pages and flip bits in genuine checkpoints")
    parser.add_argument("--holes", type=int, metavar="STEP", help="make holes in headers, insert and remove bytes")
    parser.add_argument("files", nargs="*", type=Path, help="for --pages and --holes (default: the fixtures)")
    options = parser.parse_args()
    if options.pages:
        table(options.files or [*GENUINE, *ORDERS], options.pages, options.seed)
        return
    if options.holes:
        counts = campaign(options.files or [*GENUINE, *ORDERS], options.holes)
        sys.exit(bool(counts["WRONG"]))
    if options.recipe:
        sys.exit(repeat(options.recipe))
    sys.exit(bool(fuzz(options.seconds, options.seed, options.jobs, options.commands)))


if __name__ == "__main__":
    main()
