"""Lost pages and flipped bits: how many of them are found in the values of genuine checkpoints, and by which rule."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.formats.state import state_of
from ggcp_schema.llama.soundness import examine
from ggcp_schema.llama.state import State

KINDS = {"4 KiB": 4096, "512 B": 512, "bit": 0}


class Hit(NamedTuple):
    """Damage that was done: to what, of which kind, its bytes, and the rules that found it."""

    target: str
    kind: str
    start: int
    stop: int
    rules: frozenset[str]


def damage(path: Path, count: int, seed: int) -> Iterator[Hit]:
    """Damage a copy of a checkpoint about that many times, each target in each way as often; undo it each time."""
    rng = random.Random(seed)
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, Path(folder, "copy")))
        copy.chmod(0o600)
        with open_file(copy) as file, copy.open("r+b", buffering=0) as stream:
            state = state_of(file)
            assert state is not None
            vectors = {name: [state.vectors[name]] for name in ("x", "m", "v") if name in state.vectors}
            targets = {"weights": list(state.model.values())} | vectors
            for target, tensors in targets.items():
                for kind in KINDS:
                    for _ in range(-(-count // (len(targets) * len(KINDS)))):
                        yield from _damaged(state, stream, rng, target, kind, tensors)


def _damaged(
    state: State, stream: IO[bytes], rng: random.Random, target: str, kind: str, tensors: list[Tensor]
) -> Iterator[Hit]:
    tensor = rng.choices(tensors, [tensor.nbytes for tensor in tensors])[0]
    at = rng.randrange(tensor.offset, tensor.offset + tensor.nbytes)
    if kind == "bit":
        start, stop = at, at + 1
    else:
        first = at - at % KINDS[kind]
        start, stop = max(first, tensor.offset), min(first + KINDS[kind], tensor.offset + tensor.nbytes)
    stream.seek(start)
    old = stream.read(stop - start)
    new = bytes([old[0] ^ 1 << rng.randrange(8)]) if kind == "bit" else bytes(len(old))
    if new == old:
        return
    try:
        stream.seek(start)
        stream.write(new)
        found = examine(state)
    finally:
        stream.seek(start)
        stream.write(old)
    yield Hit(target, kind, start, stop, frozenset(finding.rule for finding in found))


def table(paths: list[Path], count: int, seed: int) -> None:
    """Print for each file, target and kind how many were found, and by which rules."""
    total: Counter[tuple[str, str]] = Counter()
    print("file, damaged, kind: found of made (rules)")
    for path in paths:
        made: Counter[tuple[str, str]] = Counter()
        found: Counter[tuple[str, str]] = Counter()
        rules: dict[tuple[str, str], Counter[str]] = {}
        for hit in damage(path, count, seed):
            key = hit.target, hit.kind
            made[key] += 1
            found[key] += bool(hit.rules)
            rules.setdefault(key, Counter()).update(hit.rules)
        for key, n in made.items():
            by_rule = ", ".join(f"{rule} {times}" for rule, times in rules[key].most_common())
            print(f"{path.name}, {key[0]}, {key[1]}: {found[key]} of {n} ({by_rule})", flush=True)
            total["found", f"{key[0]} {key[1]}"] += found[key]
            total["made", f"{key[0]} {key[1]}"] += n
    for (what, key), n in total.items():
        if what == "made":
            print(f"all files, {key}: {total['found', key]} of {n} ({100 * total['found', key] / n:.1f} %)")
