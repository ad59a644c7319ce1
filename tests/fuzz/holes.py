"""Destroy headers, insert and remove bytes, and compare what is read with the whole file."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ggcp_schema import Checkpoint, GgcpError, open_checkpoint
from ggcp_schema.errors import NotACheckpointError
from ggcp_schema.llama.names import STATE

FILLS = ("zeros", "ones", "noise")
SIZES = (512, 4096)


class Damage(NamedTuple):
    """What is done to a file: a hole of `size` bytes, or so many bytes inserted or removed."""

    kind: str
    size: int
    offset: int

    def apply(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        before, after = data[: self.offset], data[self.offset + self.size :]
        noise = random.Random(self.offset * 31 + self.size).randbytes(self.size)
        if self.kind == "removed":
            return before + after
        if self.kind == "inserted":
            return before + noise + data[self.offset :]
        fill = {"zeros": bytes(self.size), "ones": b"\xff" * self.size, "noise": noise}[self.kind]
        return before + fill[: len(data) - self.offset] + after

    def touches(self, start: int, stop: int) -> bool:
        """Return True if some byte of these is lost, or parted from the others."""
        if self.kind == "inserted":
            return start < self.offset < stop
        return self.offset < stop and start < self.offset + self.size


class Whole:
    """What a whole file holds: its bytes, and where its tensors are."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        with open_checkpoint(path) as ckpt:
            self.tensors = {name: (t.offset, t.offset + t.nbytes, t.shape) for name, t in ckpt.tensors.items()}
            self.hparams = sizes_of(ckpt)
            self.optimizer = ckpt.container.optimizer["_offset"]
            headers = [t.offset - t.padding - len(t.name) - 4 * len(t.shape) - 12 for t in ckpt.tensors.values()]
        self.edges = sorted({0, 44, self.optimizer, *headers, *(stop for _, stop, _ in self.tensors.values())})

    def positions(self, size: int, step: int) -> Iterator[int]:
        """Yield offsets at which a hole of so many bytes touches a header."""
        last = -1
        for edge in self.edges:
            for offset in range(max(last + 1, edge - size), min(len(self.data), edge + 128)):
                if offset % step == 0:
                    yield offset
                last = offset


def sizes_of(ckpt: Checkpoint) -> tuple[int, ...]:
    """Return the sizes of the model. Raises `GgcpError` if they are not certain."""
    model = ckpt.model()
    return model.n_vocab, model.n_embd, model.n_head, model.n_layer, model.n_ff, model.n_rot


def check(whole: Whole, damage: Damage, place: Path) -> Iterator[str]:
    """Yield what was found for each tensor: `right`, `lost`, or in how far it is wrong."""
    data = damage.apply(whole.data)
    place.write_bytes(data)
    if damage.kind in FILLS and data == whole.data:
        return
    try:
        ckpt = open_checkpoint(place, partial=True)
    except NotACheckpointError:
        yield "not identified"
        return
    except GgcpError as error:
        yield f"WRONG: {error}"
        return
    with ckpt:
        if ckpt.damage is None and ckpt.container["trailing"] is None:
            yield "invisible"  # no header is touched
            return
        for name, (start, stop, shape) in whole.tensors.items():
            if start == stop:
                continue
            found = ckpt.tensors.get(name)
            touched = damage.touches(start, stop) and not (
                damage.kind in FILLS and data[start:stop] == whole.data[start:stop]
            )
            if found is None:
                yield "touched" if touched else f"lost {name}"
            elif found.shape != shape or ckpt.source.read(found.offset, found.nbytes) != whole.data[start:stop]:
                yield f"WRONG: {name}"
            elif not touched:
                yield "recovered"
        if all(name in ckpt.tensors for name in whole.tensors if not name.startswith(STATE)):
            try:
                same = sizes_of(ckpt) == whole.hparams
            except GgcpError:
                yield "model lost"
            else:
                yield "models" if same else "WRONG: hparams"
        yield from (f"WRONG: {name} is no tensor" for name in ckpt.tensors if name not in whole.tensors)


def campaign(paths: Iterable[Path], step: int, folder: Path, kinds: Iterable[str] = ()) -> Counter[str]:
    """Damage files at each `step`th position at a header, print what was found, and return the counts."""
    total: Counter[str] = Counter()
    place = folder / f"holes-{os.getpid()}.ggcp"
    for path in paths:
        whole = Whole(path)
        for kind in kinds or (*FILLS, "inserted", "removed"):
            for size in SIZES if kind in FILLS else (1,):
                counts: Counter[str] = Counter()
                for offset in whole.positions(size, step):
                    damage = Damage(kind, size, offset)
                    counts["positions"] += 1
                    for found in check(whole, damage, place):
                        counts[found.split(" ")[0].strip(":")] += 1
                        if found.startswith("WRONG"):
                            print(f"{path} {damage}: {found}", flush=True)
                print(path.name, kind, size, dict(counts), flush=True)
                total += counts
    place.unlink(missing_ok=True)
    return total
