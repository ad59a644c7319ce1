"""Make a hole, insert or remove a byte at every position of a file, and compare what is read with the whole file.

A position where the reader does not look at the bytes that set it apart from the one before behaves as that one, and
is not read again. Each position at which the damage begins or ends in a header, a name, a key or padding, or beside
one, is read; of those at which it begins and ends inside of the data of tensors, only each so manieth.
"""

from __future__ import annotations

import io
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from ggcp_schema import GgcpError, open_file
from ggcp_schema.errors import NotACheckpointError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import format_of
from ggcp_schema.formats.file import File
from ggcp_schema.formats.parsing import open_source
from ggcp_schema.formats.records.joints import EVIDENCE
from ggcp_schema.formats.records.search import Searched
from ggcp_schema.llama.names import STATE

FILLS = ("zeros", "ones", "noise")
SIZES = (512, 4096)
NOISE = random.Random(1).randbytes(1 << 16)
HEADS = {"ggcp": 44, "ggcl": 92, "ggla": 16}  # bytes before the first tensor
KINDS = [(fill, size) for fill in FILLS for size in SIZES] + [("inserted", 1), ("removed", 1)]


def noise(offset: int, size: int) -> bytes:
    """Return the noise of a hole there; overlapping holes have the same."""
    start = offset % len(NOISE)
    return (NOISE[start : start + size] + NOISE)[:size]


class Damage(NamedTuple):
    """What is done to a file: a hole of `size` bytes, or so many bytes inserted or removed."""

    kind: str
    size: int
    offset: int

    @property
    def stop(self) -> int:
        return self.offset + (0 if self.kind == "inserted" else self.size)

    def apply(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        new = {"zeros": bytes(self.size), "ones": b"\xff" * self.size, "removed": b""}.get(self.kind)
        new = noise(self.offset, self.size) if new is None else new
        if self.kind in FILLS:
            new = new[: len(data) - self.offset]
        return b"".join((data[: self.offset], new, data[self.stop :]))

    def largest(self, data: bytes) -> Damage:
        """Return the most that may have been done where this file is found: bytes beside a hole may be of it too."""
        start, stop = self.offset, self.stop
        if self.kind == "noise":
            return self._replace(offset=start - EVIDENCE, size=self.size + 2 * EVIDENCE)
        fill = {"zeros": 0, "ones": 0xFF, "inserted": noise(start, 1)[0], "removed": data[start]}[self.kind]
        while start and data[start - 1] == fill:
            start -= 1
        while stop < len(data) and data[stop] == fill:
            stop += 1
        beside = self.kind not in FILLS  # the byte may have been inserted into the data beside it, or taken from there
        return Damage("removed", stop - start + 2 * beside, start - beside)

    def touches(self, start: int, stop: int) -> bool:
        """Return True if some byte of these is lost, or parted from the others."""
        if self.kind == "inserted":
            return start < self.offset < stop
        return self.offset < stop and start < self.stop


class Whole:
    """What a whole file holds: its bytes, and where its tensors are."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        with open_file(path) as file:
            self.tensors = {name: (t.offset, t.offset + t.nbytes, t.shape) for name, t in file.tensors.items()}
            try:
                self.hparams = sizes_of(file)
            except UsageError:  # its types are not those of GGUF
                self.hparams = None
            self.optimizer = file.get("optimizer", {}).get("_offset", len(self.data))
            self.head = HEADS.get(file.format.name, min(start for start, _, _ in self.tensors.values()))
            self.has_headers = file.format.name != "gguf"  # between the data of its tensors
        self.edges = [0, self.head]  # where data ends and a header begins, or the other way round
        for start, stop, _ in sorted(self.tensors.values()):
            self.edges += start, stop
        self.edges.append(len(self.data))
        self.places: dict[bytes, list[int]] = {}

    @property
    def headers(self) -> Iterator[tuple[int, int]]:
        """Yield the bytes between the data of the tensors."""
        return ((0, self.head), *zip(self.edges[1::2], self.edges[2::2], strict=True))  # type: ignore[return-value]

    def at_headers(self, size: int) -> list[int]:
        """Return the offsets at which a hole of so many bytes touches a header."""
        return sorted(
            {p for start, stop in self.headers for p in range(max(0, start - size + 1), max(stop, start + 1))}
        )

    def at_edges(self, size: int) -> list[int]:
        """Return the offsets at which a hole of so many bytes begins or ends in a header, or beside one."""
        near = [range(max(0, start - EVIDENCE), stop + EVIDENCE + 1) for start, stop in self.headers]
        found = {p - moved for edges in near for p in edges for moved in (0, size)}
        return sorted(p for p in found if 0 <= p < len(self.data))

    def all(self, pattern: bytes) -> list[int]:
        """Return all places of a pattern."""
        if pattern not in self.places:
            found, at = [], self.data.find(pattern)
            while at >= 0:
                found.append(at)
                at = self.data.find(pattern, at + 1)
            self.places[pattern] = found
        return self.places[pattern]


class Damaged(Source):
    """A damaged file in memory. `seen` has a 1 for each byte that was looked at."""

    def __init__(self, whole: Whole, damage: Damage) -> None:
        self.path, self.whole, self.damage = "damaged", whole, damage
        self.data = damage.apply(whole.data)
        self.size, self.modified = len(self.data), 0.0
        self.seen = bytearray(self.size + max(SIZES) + 2)
        self.file = Seen(self)

    def read(self, offset: int, size: int) -> bytes:
        self.see(offset, size)
        return self.data[offset : offset + size]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self.read(offset, len(buffer))

    def see(self, offset: int, size: int) -> None:
        self.seen[offset : offset + size] = b"\1" * len(self.seen[offset : offset + size])

    def find(self, pattern: bytes, start: int) -> int:
        """Return where a pattern is first. This is as fast for a large file as for a small one."""
        damage, length, moved = self.damage, len(pattern), self.size - len(self.whole.data)
        edge = damage.stop + moved  # where the bytes after the damage are now
        places = self.whole.all(pattern)
        before = (at for at in places if start <= at <= damage.offset - length)
        within = self.data.find(pattern, max(start, damage.offset - length + 1, 0), edge + length - 1)
        after = (at + moved for at in places if at + moved >= max(start, edge))
        return next(before, within if within >= 0 else next(after, -1))


class Seen(io.BytesIO):
    """The stream that a file is parsed from."""

    def __init__(self, source: Damaged) -> None:
        super().__init__(source.data)
        self.source = source

    def read(self, size: int | None = -1, /) -> bytes:
        offset = self.tell()
        data = super().read(size)
        self.source.see(offset, len(data))
        return data


def opened(source: Damaged) -> File:
    """Open a damaged file, in which the search for headers, and for the cause of the damage, does not count as seen."""
    with (
        mock.patch.object(Searched, "find", lambda file, pattern, start=0: file.source.find(pattern, start)),
        mock.patch("ggcp_schema.formats.parsing.how_altered", return_value=None),
    ):
        return open_source(source, format_of(source), partial=True)


def sizes_of(file: File) -> tuple[int, ...] | None:
    """Return the sizes of the model; None for a file that has none. Raises `GgcpError` if they are not certain."""
    if file.format.name in {"ggla", "ggcl"} or file.get("training.type") == "finetune_lora":
        return None
    model = file.model()
    return model.n_vocab, model.n_embd, model.n_head, model.n_layer, model.n_ff, model.n_rot


def check(source: Damaged) -> Iterator[str]:
    """Yield what was found for each tensor: `recovered`, `touched`, `lost`, `unprovable`, or in how far it is wrong."""
    whole = source.whole
    if source.data == whole.data:
        yield "unchanged"
        return
    try:
        file = opened(source)
    except NotACheckpointError:
        yield "unidentified"
        return
    except GgcpError as error:
        yield f"WRONG: {error}"
        return
    tensors = dict(file.tensors)
    if file.damage is None and file.container.get("trailing") is None:
        found = {(name, (t.offset, t.offset + t.nbytes, t.shape)) for name, t in tensors.items()}
        is_cut = source.damage.kind == "removed" and source.damage.stop == len(whole.data)  # between two records
        same = found <= {*whole.tensors.items()} if is_cut else found == {*whole.tensors.items()}
        yield "invisible" if same else "WRONG: no damage"  # no header is touched
        return
    yield from _tensors(source, tensors)
    if whole.hparams and all(name in tensors for name in whole.tensors if not name.startswith(STATE)):
        try:
            same = sizes_of(file) == whole.hparams
        except GgcpError:
            yield "unsized"
        else:
            yield "models" if same else "WRONG: hparams"
    yield from (f"WRONG: {name} is no tensor" for name in tensors if name not in whole.tensors)


def _tensors(source: Damaged, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    whole, damage, data = source.whole, source.damage, source.data
    may = damage.largest(whole.data)
    moved = len(data) - len(whole.data)
    for name, (start, stop, shape) in whole.tensors.items():
        if start == stop:
            continue
        found, touched = tensors.get(name), damage.touches(start, stop)
        right = start + moved * (start >= damage.stop)
        if found is None:
            doubtful = may.touches(start, stop)
            yield "touched" if touched else "unprovable" if doubtful else f"lost {name}"
        elif found.shape != shape:
            yield f"WRONG: {name}"
        elif touched or found.offset != right:  # the bytes may be the same
            same = data[found.offset : found.offset + found.nbytes] == whole.data[start:stop]
            yield "same" if same else f"WRONG: {name}"
        else:
            yield "recovered"


def alike(source: Damaged) -> int:
    """Return the next offset at which the reader may behave in another way."""
    damage = source.damage
    at = source.seen.find(1, damage.offset)
    if damage.kind in FILLS:
        other = source.seen.find(1, damage.stop)
        at = min(at, other - damage.size) if other >= 0 else at
    elif damage.kind == "inserted":
        at = max(damage.offset, at - 1)
    return len(source.whole.data) if at < 0 else at + 1


def every(whole: Whole, kind: str, size: int, step: int = 1) -> Iterator[tuple[Damage, list[str], int, int]]:
    """Yield the damage at every position that differs, what was found, how many behave so, and how many are at edges.

    With a step, only so many of the positions that are not at an edge are read.
    """
    offset, end, edges = 0, len(whole.data), whole.at_edges(0 if kind == "inserted" else size)
    while offset < end:
        source = Damaged(whole, Damage(kind, size, offset))
        found = list(check(source))
        for start, stop in whole.headers:
            first = max(0, start - 1)
            source.see(first, stop + 2 - first)
        following = offset + 1 if "same" in found or "unchanged" in found else min(end, alike(source))
        index = bisect_left(edges, offset)
        if edges[index : index + 1] != [offset]:
            stop = edges[index] if index < len(edges) else end
            following = min(stop, max(following, offset + step))
        yield source.damage, found, following - offset, bisect_left(edges, following) - index
        offset = following


def campaign(paths: Iterable[Path], step: int) -> Counter[str]:
    """Damage files, print a table of what was found, and return the counts.

    Each position at an edge is read, and each `step`th of the others.
    """
    total: Counter[str] = Counter()
    columns = "positions", "edges", "read", "untouched", "recovered", "unprovable", "lost", "unidentified", "WRONG"
    print("file", "damage", "size", *columns, "seconds")
    for path in paths:
        whole, sums = Whole(path), Counter[str]()
        for kind, size in KINDS[: None if whole.has_headers else len(FILLS) * len(SIZES)]:
            counts, began = Counter[str](), time.process_time()
            for damage, results, times, at_edges in every(whole, kind, size, step):
                counts["positions"] += times
                counts["edges"] += at_edges
                counts["read"] += 1
                for found in results:
                    counts[found.split(" ")[0].strip(":")] += times
                    if found.startswith(("WRONG", "lost")):
                        print(f"{path} {damage}: {found}", flush=True)
            counts["untouched"] = sum(counts[name] for name in ("recovered", "unprovable", "lost"))
            counts["seconds"] = round(time.process_time() - began)
            print(path.name, kind, size, *(counts[name] for name in (*columns, "seconds")), flush=True)
            sums += counts
        print(path.name, "all", "-", *(sums[name] for name in (*columns, "seconds")), flush=True)
        total += sums
    print("all", "all", "-", *(total[name] for name in (*columns, "seconds")))
    others = total["positions"] - total["edges"]
    print(f"At each of the {total['edges']:,} positions that begin or end at a header, and of the {others:,} inside of")
    print(f"data at one in {step} at least; {total['read']:,} files in {total['seconds']:,} s of processor time.")
    print("The rest differs from these in no byte that is looked at.")
    return total
