"""Recipes: a seed and the changes made to it. They are lists that JSON can hold, so a finding can be repeated.

Changes of pieces, by the names that `layout.walk` gives them:
    ["set", PIECE, VALUE]       write a number, which wraps; floats also as "nan", "inf" or "-inf"
    ["text", PIECE, HEX]        replace the bytes of a piece by any number of others
    ["fill", PIECE, HEX]        repeat these bytes over the whole piece
    ["copy", PIECE, OTHER]      give OTHER the bytes of PIECE
    ["swap", A, B]              exchange two records, or the bytes of two pieces; padding follows
    ["double", RECORD], ["remove", RECORD]
Then changes of the bytes, in the order of the recipe:
    ["flip", OFFSET, BIT]       flip a bit; OFFSET may be PIECE, or [PIECE, DISTANCE], as it is in the seed
    ["write", OFFSET, HEX]      overwrite bytes
    ["cut", OFFSET]             drop the bytes from there
    ["insert", OFFSET, HEX], ["append", HEX]
    ["grow", SIZE]              make the file this long, with a hole at its end
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.layout import ALIGNMENT, PADDING, Piece, Walker, walk
from tests.fuzz.seeds import SMALL, seed

Mutation = list[Any]
BYTE_CHANGES = {"flip", "write", "cut", "insert", "append", "grow"}
EDGES = (0, 1, 2, 3, 7, 31, 32, 255, 0xFFFF, 1 << 16, 1 << 20, 1 << 24, 1 << 28, 1 << 30)
FLOATS: tuple[float | str, ...] = ("nan", "inf", "-inf", 0.0, -0.0, -1.0, 1e-45, 3.4e38, 1.0, 0.5)
DATA_WORDS = ("0000c07f", "0000807f", "000080ff", "00000000", "0000007f", "000080bf")  # NaN, ±Inf, 0, huge, -1
TEXTS = ("", "00", "0a", "1b5b33316d", "ff", "c328", "e280ae", "c29b", "61" * 40, "2e2e2f", "5b305d", "2a" * 40)
TRAILING = ("00", "00" * 4, "00" * 32, "ff" * 7, "70636767", "47475546")
INDEX = re.compile(r"\[\d+\]|\d+")


@dataclass(frozen=True)
class Recipe:
    """A seed and the changes made to it.

    `name` and `checks` are those of the corpus. A check is a command, and what it must do: its exit `code`, and regular
    expressions for what it `says` and for what it must `never` say.
    """

    seed: str
    mutations: Sequence[Mutation]
    name: str = ""
    checks: Sequence[dict[str, Any]] = ()

    def __str__(self) -> str:
        return json.dumps({"seed": self.seed, "mutations": list(self.mutations)})

    def make(self) -> bytes:
        """The bytes of the file, but for a hole at its end."""
        return apply(seed(self.seed), self.mutations, _walk_seed(self.seed))

    def write(self, path: Path) -> None:
        """Write the file. The hole of "grow" takes no space on the disk."""
        sizes = [mutation[1] for mutation in self.mutations if mutation[0] == "grow"]
        with path.open("wb") as file:
            file.write(self.make())
            if sizes:
                file.truncate(max(sizes))

    @property
    def is_sparse(self) -> bool:
        return any(mutation[0] == "grow" for mutation in self.mutations)


@cache
def _walk_seed(name: str) -> Walker:
    return walk(seed(name))


def load(path: Path) -> Recipe:
    """A recipe of the corpus."""
    content = json.loads(path.read_text("utf-8"))
    return Recipe(content["seed"], content["mutations"], path.stem, content.get("checks", ()))


# Applying ---------------------------------------------------------------------------------------------------


def apply(data: bytes, mutations: Sequence[Mutation], walker: Walker | None = None) -> bytes:
    """Return the bytes after the changes. Raises `LookupError` if a piece is not there."""
    walker = walker or walk(data)
    places, at = {}, 0
    for piece in walker.pieces:
        places[piece.name] = at
        at += len(piece.content)
    pieces = list(walker.pieces)
    for mutation in mutations:
        if mutation[0] not in BYTE_CHANGES:
            pieces = _change_pieces(pieces, mutation)
    out = bytearray(_join(pieces) if pieces != walker.pieces else data)
    for mutation in mutations:
        if mutation[0] in BYTE_CHANGES:
            _change_bytes(out, mutation, places)
    return bytes(out)


def _join(pieces: list[Piece]) -> bytes:
    out = bytearray()
    for piece in pieces:
        fits = (len(out) + len(piece.content)) % ALIGNMENT == 0
        out += piece.content if piece.kind != PADDING or fits else bytes(-len(out) % ALIGNMENT)
    return bytes(out)


def _change_pieces(pieces: list[Piece], mutation: Mutation) -> list[Piece]:
    change, name, *rest = mutation
    start, end = _block(pieces, name)
    piece = pieces[start]
    if change == "set":
        content = _encode(piece.kind, rest[0])
    elif change == "text":
        content = bytes.fromhex(rest[0])
    elif change == "fill":
        word = bytes.fromhex(rest[0])
        content = (word * (len(piece.content) // len(word) + 1))[: len(piece.content)]
    elif change == "copy":
        content = piece.content
        start, end = _block(pieces, rest[0])
        piece = pieces[start]
    elif change == "swap":
        return _swap(pieces, (start, end), _block(pieces, rest[0]))
    elif change == "double":
        return [*pieces[:end], *pieces[start:end], *pieces[end:]]
    elif change == "remove":
        return [*pieces[:start], *pieces[end:]]
    else:
        raise LookupError(f"no such change: {change}")
    return [*pieces[:start], Piece(piece.name, content, piece.kind), *pieces[start + 1 :]]


def _block(pieces: list[Piece], name: str) -> tuple[int, int]:
    """Where the piece, or all pieces of the record, of that name are."""
    within = [
        index
        for index, piece in enumerate(pieces)
        if piece.name == name or (piece.name.startswith(name) and piece.name[len(name)] in ".[")
    ]
    if not within:
        raise LookupError(f"no piece or record {name}")
    return within[0], within[-1] + 1


def _swap(pieces: list[Piece], one: tuple[int, int], two: tuple[int, int]) -> list[Piece]:
    (a, b), (c, d) = sorted((one, two))
    if b > c:  # the same record, or one within the other
        return pieces
    if b - a == d - c == 1:
        first, second = pieces[a], pieces[c]
        changed = [Piece(first.name, second.content, first.kind), Piece(second.name, first.content, second.kind)]
        return [*pieces[:a], changed[0], *pieces[b:c], changed[1], *pieces[d:]]
    return [*pieces[:a], *pieces[c:d], *pieces[b:c], *pieces[a:b], *pieces[d:]]


def _encode(kind: str, value: float | str) -> bytes:
    if kind[1:] in {"f", "d"}:
        return struct.pack(kind, float(value))
    size = struct.calcsize(kind)
    return (int(value) % (1 << 8 * size)).to_bytes(size, "big" if kind[0] == ">" else "little")


def _change_bytes(out: bytearray, mutation: Mutation, places: dict[str, int]) -> None:
    change, *arguments = mutation
    if change == "append":
        out += bytes.fromhex(arguments[0])
        return
    if change == "grow":
        return  # see Recipe.write
    at = _offset(arguments[0], places)
    if change == "cut":
        del out[at:]
    elif change == "insert":
        out[at:at] = bytes.fromhex(arguments[1])
    elif at < len(out):
        if change == "flip":
            out[at] ^= 1 << arguments[1]
        else:
            new = bytes.fromhex(arguments[1])
            out[at : at + len(new)] = new


def _offset(place: int | str | list[Any], places: dict[str, int]) -> int:
    if isinstance(place, int):
        return place
    name, distance = (place, 0) if isinstance(place, str) else place
    return places[name] + int(distance)


# Drawing ----------------------------------------------------------------------------------------------------


def draw(rng: random.Random, seeds: Sequence[str] = SMALL) -> Recipe:
    """A random recipe: one change, or often two, seldom three."""
    formats = defaultdict(list)
    for known in seeds:
        formats[seed(known)[:4]].append(known)
    magics = sorted(formats)
    weights = [5 if magic == b"pcgg" else 2 if magic == b"GGUF" else 1 for magic in magics]
    kind = rng.choices(magics, weights)
    name = rng.choice(formats[kind[0]])
    count = rng.choices((1, 2, 3), (5, 4, 1))[0]
    return Recipe(name, draw_mutations(rng, _walk_seed(name), count))


def draw_mutations(rng: random.Random, walker: Walker, count: int) -> list[Mutation]:
    """Random changes of a file. Records are removed only once, so that later changes find their pieces."""
    mutations: list[Mutation] = []
    for _ in range(count):
        kinds = [draw_ for draw_, weight in DRAWS for _ in range(weight)]
        mutation = rng.choice(kinds)(rng, walker)
        removed = any(change[0] == "remove" for change in mutations)
        if mutation and not (removed and mutation[0] not in BYTE_CHANGES):
            mutations.append(mutation)
    # A piece of a removed record could not be found, so what removes comes last of the changes of pieces.
    return sorted(mutations, key=lambda change: (change[0] in BYTE_CHANGES, change[0] == "remove"))


def _some_piece(rng: random.Random, walker: Walker, wanted: Callable[[Piece], bool]) -> Piece | None:
    """A random piece; first one of the kinds of pieces, so that 320 tokens do not crowd out the header."""
    groups = defaultdict(list)
    for piece in walker.pieces:
        if wanted(piece):
            groups[INDEX.sub("#", piece.name)].append(piece)
    return rng.choice(groups[rng.choice(sorted(groups))]) if groups else None


def _draw_set(rng: random.Random, walker: Walker) -> Mutation | None:
    piece = _some_piece(rng, walker, lambda piece: piece.is_number)
    if piece is None:
        return None
    if piece.kind[1:] in {"f", "d"}:
        return ["set", piece.name, rng.choice(FLOATS)]
    bits = 8 * struct.calcsize(piece.kind)
    near = int(piece.value)
    values = {near - 1, near + 1, 2 * near, near // 2, -1, -2, 1 << bits - 1, (1 << bits - 1) - 1, 1 << bits - 2}
    values |= {edge for edge in EDGES if edge < 1 << bits}
    return ["set", piece.name, rng.choice(sorted(value % (1 << bits) for value in values))]


def _draw_text(rng: random.Random, walker: Walker) -> Mutation | None:
    piece = _some_piece(rng, walker, lambda piece: piece.kind == "bytes" and len(piece.content) < 1000)
    return None if piece is None else ["text", piece.name, rng.choice(TEXTS)]


def _draw_same_text(rng: random.Random, walker: Walker) -> Mutation | None:
    """Other bytes of the same number, so that the rest of the file stays in place."""
    piece = _some_piece(rng, walker, lambda piece: piece.kind in {"bytes", PADDING} and len(piece.content) > 0)
    return None if piece is None else ["fill", piece.name, rng.choice([text for text in TEXTS if text])]


def _draw_fill(rng: random.Random, walker: Walker) -> Mutation | None:
    piece = _some_piece(rng, walker, lambda piece: piece.kind == "data" and len(piece.content) > 0)
    return None if piece is None else ["fill", piece.name, rng.choice(DATA_WORDS)]


def _draw_copy(rng: random.Random, walker: Walker) -> Mutation | None:
    """The bytes of another piece of the same kind: a name twice, a token twice."""
    piece = _some_piece(rng, walker, lambda piece: piece.kind != PADDING)
    others = [other for other in walker.pieces if piece and other.kind == piece.kind and other.name != piece.name]
    if piece is None or not others:
        return None
    alike = [other for other in others if other.name.rpartition(".")[2] == piece.name.rpartition(".")[2]]
    return ["copy", rng.choice(alike or others).name, piece.name]


def _draw_records(rng: random.Random, walker: Walker) -> Mutation | None:
    if len(walker.records) < 2:
        return None
    one, two = rng.sample(walker.records, 2)
    change = rng.choice(("swap", "double", "remove", "swap names"))
    if change == "swap names":
        names = {piece.name for piece in walker.pieces}
        for field in ("name", "text", "key.text", "info.name.text", "data"):
            if f"{one}.{field}" in names and f"{two}.{field}" in names:
                return ["swap", f"{one}.{field}", f"{two}.{field}"]
        change = "swap"
    return [change, one, two] if change == "swap" else [change, one]


def _draw_flip(rng: random.Random, walker: Walker) -> Mutation | None:
    piece = _some_piece(rng, walker, lambda piece: len(piece.content) > 0)
    if piece is None:
        return None
    return ["flip", [piece.name, rng.randrange(len(piece.content))], rng.randrange(8)]


def _draw_cut(rng: random.Random, walker: Walker) -> Mutation | None:
    if rng.random() < 0.2:
        return ["cut", rng.randrange(min(64, len(walker.data)))]
    if rng.random() < 0.3:
        return ["cut", rng.randrange(len(walker.data))]
    piece = _some_piece(rng, walker, lambda piece: True)
    return None if piece is None else ["cut", [piece.name, rng.choice((-1, 0, 0, 1))]]


def _draw_insert(rng: random.Random, walker: Walker) -> Mutation | None:
    piece = _some_piece(rng, walker, lambda piece: True)
    return None if piece is None else ["insert", piece.name, rng.choice(TRAILING)]


def _draw_append(rng: random.Random, walker: Walker) -> Mutation | None:
    return ["append", rng.choice(TRAILING)]


def _draw_grow(rng: random.Random, walker: Walker) -> Mutation | None:
    return ["grow", len(walker.data) + rng.choice((1, 32, 1 << 20, 1 << 27, 1 << 34))]


DRAWS: tuple[tuple[Callable[[random.Random, Walker], Mutation | None], int], ...] = (
    (_draw_set, 10),
    (_draw_flip, 5),
    (_draw_cut, 4),
    (_draw_records, 4),
    (_draw_fill, 3),
    (_draw_text, 2),
    (_draw_same_text, 2),
    (_draw_copy, 2),
    (_draw_append, 1),
    (_draw_insert, 1),
    (_draw_grow, 1),
)
