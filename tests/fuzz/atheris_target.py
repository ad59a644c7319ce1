"""The same checks guided by coverage: `python -m tests.fuzz.atheris_target DIR [options of libFuzzer]`.

This needs the package `atheris`. DIR keeps the inputs that reached new code; the corpus and the seeds are put into it.
The mutations are those of `mutate.py` and libFuzzer's own, in turn. Each finding is printed once, and its input kept as
`finding-N` beside DIR; the search goes on.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.layout import WalkError, walk
from tests.fuzz.mutate import Recipe, apply, draw_mutations, load
from tests.fuzz.oracle import Oracle
from tests.fuzz.seeds import SMALL, seed

COMMANDS = 3  # of each input: the guidance needs many inputs
SECONDS, MEGABYTES = 10.0, 300  # that an input may take; the guidance itself takes most of them


def fill(folder: Path) -> None:
    """Write the seeds and the files of the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SMALL):
        (folder / f"seed-{number}").write_bytes(seed(name))
    for path in sorted((Path(__file__).parent / "corpus").glob("*.json")):
        (folder / f"corpus-{path.stem}").write_bytes(load(path).make())


def mutated(data: bytes, number: int) -> bytes:
    """The bytes after one or two changes of `mutate.py`; as they are if the file cannot be walked."""
    rng = random.Random(number)
    try:
        walker = walk(data)
        return apply(data, draw_mutations(rng, walker, rng.choice((1, 1, 2))), walker)
    except (WalkError, LookupError):
        return data


def main() -> None:
    """Run libFuzzer."""
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        sys.exit("This needs atheris: pip install atheris. Without it, use `python -m tests.fuzz`.")
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("Usage: python -m tests.fuzz.atheris_target DIR [options of libFuzzer]")
    fill(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle(Path(folder), seconds=SECONDS, megabytes=MEGABYTES)
        found: set[tuple[str, str, str]] = set()

        def test_one_input(data: bytes) -> None:
            recipe = Recipe("tiny-v1-adam", [["cut", 0], ["append", data.hex()]])
            for finding in oracle.examine(recipe, commands=COMMANDS):
                if finding.signature not in found:
                    found.add(finding.signature)
                    kept = Path(sys.argv[1]).parent / f"finding-{len(found)}"
                    kept.write_bytes(data)
                    print(f"{finding.kind}: {finding.command}\n    {finding.detail}\n    {kept}", flush=True)

        def mutate(data: bytes, max_size: int, number: int) -> bytes:
            changed = mutated(data, number) if number % 2 else data
            return changed[:max_size] if changed != data else bytes(atheris.Mutate(data, max_size))

        atheris.instrument_all()
        atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
