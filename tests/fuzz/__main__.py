"""Fuzz for as long as you like: `python -m tests.fuzz [--seconds 3600] [--seed 7] [--jobs 2]`.

Prints each finding once, with the recipe that repeats it, and exits with 1 if there was one.
`python -m tests.fuzz --recipe '{"seed": …}'` repeats a recipe with all commands.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz.campaign import fuzz, repeat

COMMANDS = 6  # of each input


def main() -> None:
    """Run the jobs, and print what they find."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the first job")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--commands", type=int, default=COMMANDS, help=f"commands per input (default: {COMMANDS})")
    parser.add_argument("--recipe", help="a recipe as JSON: repeat it with all commands")
    options = parser.parse_args()
    if options.recipe:
        sys.exit(repeat(options.recipe))
    sys.exit(bool(fuzz(options.seconds, options.seed, options.jobs, options.commands)))


if __name__ == "__main__":
    main()
