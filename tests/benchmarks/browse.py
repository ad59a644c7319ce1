"""Measures the browser: `python -m tests.benchmarks.browse [FOLDER]`.

Each measurement runs in a process of its own, on a checkpoint of 50 GB (sparse, so that it takes no room on the disk)
and on two of 20,000 and 200,000 tensors. Times are processor times, so that other programs do not matter much: of all
threads from the end of the imports to the first picture on the screen, and of the thread that draws for a jump.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MAGIC, ALIGNMENT = 0x67676370, 32
FIRST_PAINT, GROWTH = 0.3, 1.0  # seconds, MB
SIZE = (120, 40)
TINY = {"n_vocab": 3, "n_embd": 2, "n_ff": 2}
FILES: tuple[tuple[str, float, float, dict[str, int]], ...] = (  # with the limits of a jump and of the memory in MB
    ("50 GB", 0.1, 100, {"n_vocab": 8000, "n_embd": 8192, "n_layer": 5, "n_ff": 22016}),
    ("20,000 tensors", 0.1, 100, {**TINY, "n_layer": 2222}),
    ("200,000 tensors", 0.5, 500, {**TINY, "n_layer": 22222}),
)


def write_checkpoint(path: Path, *, n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> int:
    """Write a v1 Adam checkpoint of zeros that take no room on the disk. Return the number of tensors."""
    shapes = list(model_shapes(n_vocab, n_embd, n_layer, n_ff))
    n_params = sum(elements(shape) for _, shape in shapes)
    with path.open("wb") as file:
        file.write(struct.pack("<11I", MAGIC, 0, 100, 1600, 25600, n_vocab, n_embd, n_ff, 1, n_layer, n_embd))
        for name, shape in shapes:
            write_tensor(file, name, shape)
        file.write(struct.pack("<IIIqiI", 1, 0, 0, n_params, 100, 0))
        for _ in "mv":
            write_tensor(file, "", (n_params,))
        write_tensor(file, "", ())
        file.write(struct.pack("<ffi", 5.0, 5.0, 0))
    return len(shapes) + 3


def model_shapes(n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the model's tensors."""
    yield "tok_embeddings.weight", (n_embd, n_vocab)
    yield "norm.weight", (n_embd,)
    yield "output.weight", (n_embd, n_vocab)
    for layer in range(n_layer):
        yield f"layers.{layer}.attention_norm.weight", (n_embd,)
        for letter in "qkvo":
            yield f"layers.{layer}.attention.w{letter}.weight", (n_embd, n_embd)
        yield f"layers.{layer}.ffn_norm.weight", (n_embd,)
        yield f"layers.{layer}.feed_forward.w1.weight", (n_embd, n_ff)
        yield f"layers.{layer}.feed_forward.w2.weight", (n_ff, n_embd)
        yield f"layers.{layer}.feed_forward.w3.weight", (n_embd, n_ff)


def elements(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    count = 1
    for length in shape:
        count *= length
    return count if shape else 0


def write_tensor(file: IO[bytes], name: str, shape: tuple[int, ...]) -> None:
    """Write a tensor record, seeking over its data."""
    file.write(struct.pack(f"<3I{len(shape)}I", len(shape), len(name), 0, *shape))
    file.write(name.encode())
    file.write(bytes(-file.tell() % ALIGNMENT))
    if shape:
        file.seek(4 * elements(shape) - 1, 1)
        file.write(b"\0")


MEASURE = """
import asyncio, gc, json, os, resource, sys, time
from ggcp_schema.browse.app import BrowseApp, BrowseScreen
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.cli.browse import open_for_long
import textual.drivers.headless_driver

path, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = {}
sys.setswitchinterval(0.0005)  # as the command does

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

async def run():
    start, began = time.process_time(), time.perf_counter()
    app = BrowseApp([path], open_for_long)
    async def painted():
        done = asyncio.Event()
        app.screen.call_after_refresh(done.set)
        await done.wait()

    async with app.run_test(size=(width, height)):
        await painted()
        found["first paint"] = time.process_time() - start
        while not isinstance(app.screen, BrowseScreen):
            await asyncio.sleep(0.001)
        await painted()
        found["open"] = time.process_time() - start
        file = app.files[0]
        found["memory"] = resident()
        screen = app.screen
        tree, view = screen.query_one(TreeView), screen.query_one(HexView)

        async def timed(what, action):
            before = time.thread_time()
            action()
            await painted()
            app.screen._compositor.render_strips()
            found[what] = max(found.get(what, 0), time.thread_time() - before)

        last = f"layers[{len(file.layers) - 1}].w3.data"
        for place in ("layers[0].wq", "output", "optimizer.state.v", last, "magic"):
            field = file.find(place)
            await timed("jump", lambda: screen.select(field))
        for share in (0.9, 0.1, 0.5, 0.999999):
            await timed("jump", lambda: view.jump(int(file.size * share)))
        await timed("expand", lambda: (screen.select(file.find("layers")), tree.action_toggle_node()))
        await timed("jump", lambda: tree.action_scroll_end())

        async def walk(steps):
            for _ in range(steps):
                screen.action_tensor(1)
                await painted()
        screen.select(file.find("magic"))
        while app.screen.students[0].working and time.perf_counter() - began < 60:
            await asyncio.sleep(0.05)
        found["memory"] = max(found["memory"], resident())
        steps = min(1000, len(file.tensors) - 4)
        await walk(min(steps, 300))
        gc.collect()
        before = resident()
        screen.select(file.find("magic"))
        for _ in range(max(1, steps // 300)):
            await walk(min(steps, 300))
        gc.collect()
        found["growth"] = resident() - before
    file.close()

asyncio.run(run())
print(json.dumps(found))
"""


def measure(path: Path) -> dict[str, float]:
    """Return seconds and megabytes."""
    command = [sys.executable, "-c", MEASURE, str(path), *map(str, SIZE)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def report(what: str, limit: float, found: float, unit: str) -> None:
    """Print a line of the table."""
    print(
        f"{what:<46} <= {limit:>6g} {unit:<3} {found:>9.3f} {unit:<3} {'ok' if found <= limit else 'MISSED'}",
        flush=True,
    )


def main(folder: Path) -> None:
    """Measure the files."""
    for name, jump, memory, numbers in FILES:
        path = folder / f"{name.split()[0]}.ggcp"
        write_checkpoint(path, **numbers)
        found = measure(path)
        path.unlink()
        print(f"{name}: opened in {found['open']:.3f} s, layers expanded in {found['expand']:.3f} s")
        report(f"{name}: first paint", FIRST_PAINT, found["first paint"], "s")
        report(f"{name}: memory", memory, found["memory"], "MB")
        report(f"{name}: the slowest jump", jump, found["jump"], "s")
        report(f"{name}: growth over 1,000 nodes", GROWTH, found["growth"], "MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
    else:
        main(options.folder)
