"""The checks guided by coverage: `python -m tests.fuzz.atheris_target TARGET DIR [options of libFuzzer]`.

This needs the package `atheris`. TARGET is one of `targets.py`, or `commands`, which runs commands as `oracle.py` does.
DIR keeps the inputs that reached new code; what is good, and the corpus, are put into it. Files are mutated by
`mutate.py` and libFuzzer in turn. Each finding is printed once, and its input kept as `TARGET-finding-…` beside DIR;
the search goes on. It is faster with TMPDIR in memory.

`… TARGET NEW DIR -merge=1 -max_len=3000` puts the fewest inputs of DIR that reach all code into NEW, and
`zip -j9X tests/fuzz/corpus/TARGET.zip NEW/*` into the corpus, which `test_fuzz.py` examines.
"""

from __future__ import annotations

import difflib
import pkgutil
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from zlib import crc32

COMMANDS = 3  # of each input: the guidance needs many inputs
SECONDS, MEGABYTES = 10.0, 300  # that the commands of an input may take; the guidance itself takes most of them
OF_COMMANDS = ("ggcp_schema.browse", "ggcp_schema.cli")  # no other target runs them

Finding = tuple[str, str]  # what findings of one cause have in common, and its description


def main() -> None:
    """Run libFuzzer."""
    try:
        import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        sys.exit("This needs atheris: pip install atheris. Without it, use `python -m tests.fuzz`.")
    if len(sys.argv) < 3 or sys.argv[2].startswith("-"):
        sys.exit("Usage: python -m tests.fuzz.atheris_target TARGET DIR [options of libFuzzer]")
    _, name, folder, *options = sys.argv
    with atheris.instrument_imports(include=["ggcp_schema"]):
        import ggcp_schema

        for module in pkgutil.walk_packages(ggcp_schema.__path__, "ggcp_schema."):
            if module.name != "ggcp_schema.__main__" and (
                name == "commands" or not module.name.startswith(OF_COMMANDS)
            ):
                import_module(module.name)
    from tests.fuzz import targets

    # Names like a misspelt one take most of the time to find, and the search is Python's.
    difflib.get_close_matches = lambda word, names, n=3, cutoff=0.6: [*islice(names, n)]  # type: ignore[assignment]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not any(option.startswith("-merge") for option in options):
        seeds = _commands_seeds() if name == "commands" else chain(targets.good(name), targets.kept(name))
        for number, data in enumerate(seeds):
            Path(folder, f"seed-{number}").write_bytes(data)
    look = _commands() if name == "commands" else _target(targets.TARGETS[name])
    found: set[str] = set()

    def test_one_input(data: bytes) -> None:
        for cause, description in look(data):
            if cause not in found:
                found.add(cause)
                kept = Path(folder).parent / f"{name}-finding-{crc32(cause.encode()):08x}"
                kept.write_bytes(data)
                print(f"{description}\n    {kept}", flush=True)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        changed = mutated(data, number) if number % 2 else data
        return changed[:max_size] if changed != data else bytes(atheris.Mutate(data, max_size))

    custom = {"custom_mutator": mutate} if name in ("commands", "files") else {}
    command = f"{sys.executable} -m {__spec__.name} {name}"  # by which -merge=1 runs it again
    atheris.Setup([command, folder, *options], test_one_input, **custom)
    atheris.Fuzz()


def mutated(data: bytes, number: int) -> bytes:
    """The bytes after one or two changes of `mutate.py`; as they are if the file cannot be walked."""
    from tests.fuzz.layout import WalkError, walk
    from tests.fuzz.mutate import apply, draw_mutations

    rng = random.Random(number)
    try:
        walker = walk(data)
        return apply(data, draw_mutations(rng, walker, rng.choice((1, 1, 2))), walker)
    except (WalkError, LookupError):
        return data


def _target(target: Callable[[bytes], None]) -> Callable[[bytes], Iterable[Finding]]:
    def look(data: bytes) -> Iterator[Finding]:
        try:
            target(data)
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "tests/fuzz" in frame.filename]
            inner = [frame for frame in traceback.extract_tb(error.__traceback__) if "ggcp_schema" in frame.filename]
            places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*frames[1:], *inner[-3:])]
            yield f"{type(error).__name__} {places[-1:]}", f"{type(error).__name__}: {error!s:.300} at {places}"

    return look


def _commands() -> Callable[[bytes], Iterable[Finding]]:
    from tests.fuzz.mutate import Recipe
    from tests.fuzz.oracle import Oracle

    oracle = Oracle(Path(tempfile.mkdtemp(prefix="ggcp-fuzz-")), seconds=SECONDS, megabytes=MEGABYTES)

    def look(data: bytes) -> Iterator[Finding]:
        recipe = Recipe("tiny-v1-adam", [["cut", 0], ["append", data.hex()]])
        for found in oracle.examine(recipe, commands=COMMANDS):
            yield str(found.signature), f"{found.kind}: {found.command}\n    {found.detail}"

    return look


def _commands_seeds() -> Iterator[bytes]:
    """Yield the seeds and the files of the corpus."""
    from tests.fuzz.mutate import load
    from tests.fuzz.seeds import SMALL, seed

    yield from map(seed, SMALL)
    yield from (load(path).make() for path in sorted((Path(__file__).parent / "corpus").glob("*.json")))


if __name__ == "__main__":
    main()
