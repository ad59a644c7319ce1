"""Files and situations that once hung, crashed or misled the browser."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from rich.cells import cell_len
from textual.app import App, ComposeResult

from ggcp_schema.browse import dialogs, jobs, pair
from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import fit
from ggcp_schema.browse.overview import Overview
from ggcp_schema.browse.plots import PictureView
from ggcp_schema.browse.tables import HealthView, Layers, measure_all
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.cli.browse import open_for_long
from ggcp_schema.errors import FileError
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.inspect import MARK, health, text
from ggcp_schema.inspect.diff import FieldRow
from ggcp_schema.inspect.search import Index, search
from tests.browse.driver import Browser, browse
from tests.helpers import FIXTURES, ORDERS, TRUNCATED

ALICE = FIXTURES / "alice.ggcp"


def gguf(path: Path, tensors: dict[str, np.ndarray], **texts: str) -> Path:
    """Write a GGUF file; arrays of bytes are taken for Q1_0, whose values are not read."""
    writer = GGUFWriter(path, "llama")
    for key, value in texts.items():
        writer.add_string(key, value)
    for name, values in tensors.items():
        quantized = values.dtype == np.uint8
        writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType.Q1_0 if quantized else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(path: Path) -> Path:
    """Write an F32, a Q1_0 and another F32 tensor."""
    floats = np.ones((2, 32), np.float32)
    blocks = np.zeros((2, 18), np.uint8)
    return gguf(path, {"blk.0.a.weight": floats, "blk.0.b.weight": blocks, "blk.1.a.weight": floats})


# Many results ----------------------------------------------------------------------------------------------


def test_reports_that_were_not_seen_do_not_queue() -> None:
    done, handled = threading.Event(), []

    class Counter(jobs.Working):
        def reported(self, result: Any, *, done: bool) -> None:
            handled.append((result, done))

    class Host(App[None]):
        def compose(self) -> ComposeResult:
            yield Counter()

        def on_mount(self) -> None:
            def flood(report: Callable[[Any], None]) -> str:
                for number in range(2000):
                    report(number)
                done.set()
                return "end"

            self.query_one(Counter).start(flood)
            assert done.wait(60)  # the screen handles nothing meanwhile

    async def run() -> None:
        app = Host()
        async with app.run_test() as pilot:
            while ("end", True) not in handled:
                await pilot.pause(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "EVERY", 0.0)
        import asyncio

        asyncio.run(run())
    assert handled == [(0, False), ("end", True)]


def test_two_files_are_compared_and_marked_outside_of_the_screens_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"blk.{number}.a.weight" for number in range(300)]
    a, b = (
        gguf(tmp_path / f"{letter}.gguf", {name: np.full(4, value, np.float32) for name in names})
        for letter, value in (("a", 1), ("b", 2))
    )
    threads = set()
    find = pair.place_of

    def noted(*arguments: Any) -> Any:
        threads.add(threading.current_thread())
        return find(*arguments)

    monkeypatch.setattr(pair, "place_of", noted)

    async def script(browser: Browser) -> None:
        await browser.settle()
        assert "300 changed tensors" in browser.text("ChangeList")
        marks = browser.app.screen_stack[1].query_one("#tree-b", TreeView).marks
        assert [marks[f"tensor_data[{number}].data"] for number in (0, 299)] == ["changed"] * 2

    browse(a, b, script=script)
    assert threads
    assert threading.main_thread() not in threads


def test_what_is_measured_is_added_to_one_result() -> None:
    seen: list[int] = []
    with open_file(ALICE) as file:
        found = measure_all(
            {"*": list(file.tensors.values())}, lambda result: seen.append(id(result)) if result else None
        )
        assert set(seen) == {id(found)}
        assert len(seen) == len(found.values)
        seen.clear()
        examined = health.examine(file, lambda result: seen.append(id(result)) if result else None)
        assert set(seen) == {id(examined)}


# Strange files ---------------------------------------------------------------------------------------------


def test_letters_whose_small_form_is_another_or_longer_are_searched(tmp_path: Path) -> None:
    path = gguf(tmp_path / "names.gguf", {name: np.ones(4, np.float32) for name in ("ſ", "İs", "ẞtra")})
    with open_file(path) as file:
        index = Index(file)
        for word, expected in (("s", "İs"), ("ſ", "ſ"), ("tra", "ẞtra")):
            hits = search(index, word, lambda result: None).hits
            assert expected in [hit.text for hit in hits]
            assert all(place < len(hit.text) for hit in hits for place in hit.at)


def test_a_long_text_is_not_escaped_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "long.gguf", {}, long="\x07é" * 500_000)
    longest = 0
    escape = text.escape

    def noted(words: str, **options: Any) -> str:
        nonlocal longest
        longest = max(longest, len(words))
        return escape(words, **options)

    monkeypatch.setattr(text, "escape", noted)

    async def script(browser: Browser) -> None:
        await browser.go_to("long")
        await browser.press("down", "up", "7")
        await browser.settle()
        assert "\\x07é\\x07é" in browser.text("TreeView")

    browse(path, script=script)
    assert 0 < longest < 10_000


def test_health_and_the_other_tabs_pass_over_tensors_that_cannot_be_read(tmp_path: Path) -> None:
    async def script(browser: Browser) -> None:
        await browser.press("5")
        await browser.settle()
        found = browser.screen.query_one(HealthView).found
        assert found is not None
        assert [row.rms for row in found.rows] == [1.0, None, 1.0]
        assert "1 not measured" in browser.text("HealthView")
        await browser.go_to("blk.0.b.weight")
        for key, view in (("2", "Values"), ("3", "Histogram"), ("4", "PictureView")):
            await browser.press(key)
            await browser.settle()
            assert browser.text(view).count("blk.0.b.weight is Q1_0: its values cannot be read") == 1
        await browser.press("home")
        await browser.go_to("version")
        assert "Press n for the first tensor" in browser.text("PictureView")
        assert "Q1_0" not in browser.screen.query_one(PictureView).error

    browse(quantized(tmp_path / "q.gguf"), script=script)


def test_an_error_does_not_start_the_work_again_at_each_move(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def fail(tensors: object, report: object) -> None:
        started.append(tensors)
        raise FileError("the disk is broken")

    monkeypatch.setattr("ggcp_schema.browse.tables.measure_all", fail)

    async def script(browser: Browser) -> None:
        await browser.press("6")
        await browser.settle()
        await browser.press("n", "n", "n")
        await browser.settle()
        assert "the disk is broken" in browser.text("Layers")
        assert browser.screen.query_one(Layers).error

    browse(FIXTURES / "v1-adam.ggcp", script=script)
    assert len(started) == 1


def test_wide_letters_take_two_cells() -> None:
    for width in range(9):
        for left in (False, True):
            assert cell_len(fit("汉字テスト", width, left=left)) == width


# Going to the right place ----------------------------------------------------------------------------------


def test_a_dead_token_leads_to_its_row_wherever_the_embeddings_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = health.parameters
    monkeypatch.setattr(health, "parameters", lambda file: parameters(file)[::-1])

    async def script(browser: Browser) -> None:
        await browser.press("5")
        await browser.settle()
        await browser.press("end")
        found = browser.screen.query_one(HealthView).found
        assert found is not None
        assert f"token {found.dead[-1]}!" in browser.text("HealthView")
        await browser.press("enter")
        tensor = browser.app.files[0].tensors["tok_embeddings"]
        assert browser.hex.cursor == tensor.offset + 4 * 64 * found.dead[-1]

    browse(ALICE, script=script, tokens=lambda token: f"token {token}!")


def test_a_change_that_is_a_field_of_neither_file_moves_nothing() -> None:
    a, b = (path for path in ORDERS if path.name in ("aug-B-3.ggcp", "aug-C-3.ggcp"))

    async def script(browser: Browser) -> None:
        screen = browser.app.screen_stack[1]
        assert isinstance(screen, pair.PairScreen)
        before = (screen.side, screen.field)
        nowhere = pair.Change(FieldRow("n_rot", "different", None, None), "n_rot", ((None, None), (None, None)))
        screen.changes.changes.rows.insert(0, nowhere)
        screen.changes.moved()
        await browser.painted()
        assert (screen.side, screen.field) == before

    browse(a, b, script=script)


def test_moments_that_are_lost_are_not_called_absent() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        assert health.find_moments(file).evidence.startswith(
            "No m and v could be read: the file is damaged at layers[0].w3"
        )
    with open_file(FIXTURES / "vocab.ggjt") as file:
        assert health.find_moments(file).evidence == "The file has no tensors."


# The file on the disk --------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "file.ggcp", tmp_path / "other.ggcp"
    for each in (path, other):
        each.write_bytes(ALICE.read_bytes())

    async def script(browser: Browser) -> None:
        browser.screen.look_for_changes()
        assert "✓ whole" in browser.text("TopBar")
        other.rename(path)
        browser.screen.look_for_changes()
        await browser.painted()
        assert "changed on disk" in browser.text("TopBar")
        assert "replaced by another file" in browser.text()

    browse(path, script=script)


def test_opening_again_keeps_the_place_and_the_tab(tmp_path: Path) -> None:
    path = tmp_path / "file.ggcp"
    path.write_bytes(ALICE.read_bytes())

    async def script(browser: Browser) -> None:
        await browser.go_to("layers[1].wq.data[17]")
        await browser.press("2", "r")
        await browser.settle()
        assert browser.path == "layers[1].wq.data"
        assert browser.hex.cursor == browser.app.files[0].tensors["layers[1].wq"].offset + 4 * 17
        assert "layers[1].wq[0, 17] = " in browser.text("Values")

    browse(path, script=script)


def test_an_error_of_the_disk_is_not_called_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(browser: Browser) -> None:
        def broken(self: Source, buffer: memoryview, offset: int) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Source, "_read_some", broken)
        await browser.press("tab", "tab", "ctrl+end")
        await browser.painted()
        assert "cannot be read" in browser.text("TopBar")
        assert "changed on disk" not in browser.text()

    browse(ALICE, script=script)


def test_opening_a_file_again_lets_the_last_one_go() -> None:
    was_enabled = gc.isenabled()
    try:
        file = open_for_long(str(ALICE))
        assert gc.isenabled()
        gone = weakref.ref(file)
        cycle: list[Any] = [file]
        cycle.append(cycle)  # as widgets and screens are
        file.close()
        del file, cycle
        with open_for_long(str(ALICE)):
            assert gone() is None
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()


def test_quitting_ends_the_command_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogs, "arguments", lambda words: [sys.executable, "-c", "import time; time.sleep(600)"])
    processes = []

    async def script(browser: Browser) -> None:
        await browser.press("c", "enter")
        output = browser.app.screen.query_one(dialogs.Output)
        assert output.process is not None
        processes.append(output.process)
        assert output.process.poll() is None
        browser.app.exit()

    browse(ALICE, script=script)
    assert processes[0].wait(60) != 0


def test_escape_stops_the_command_and_says_so_and_until_then_it_shows_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = f"import time; time.sleep(0.2); print('{MARK}30 120', flush=True); time.sleep(600)"
    monkeypatch.setattr(dialogs, "arguments", lambda words: [sys.executable, "-c", code])

    async def script(browser: Browser) -> None:
        await browser.press("c", "enter")
        await browser.until(lambda: "25%" in browser.text())
        await browser.press("escape")
        assert "25%" not in browser.text()
        assert "stopped; nothing was written" in browser.text()
        assert browser.app.screen.query_one(dialogs.Output).process.poll() is not None  # type: ignore[union-attr]
        await browser.press("escape")
        assert browser.app.screen is browser.screen

    browse(ALICE, script=script)


def test_the_file_is_looked_at_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggcp_schema.browse.screen.WATCH", 0.01)
    looked: list[float] = []
    monkeypatch.setattr("ggcp_schema.browse.screen.check_same_file", lambda source: looked.append(time.monotonic()))

    async def script(browser: Browser) -> None:
        await browser.until(lambda: len(looked) > 2)

    browse(ALICE, script=script)


def test_what_is_found_while_the_overview_is_made_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = Overview.compose

    def composed(self: Overview) -> ComposeResult:
        self.document.study(lambda result: None)
        self.screen.studied(self.document, None, done=True)  # type: ignore[attr-defined]
        return compose(self)

    monkeypatch.setattr(Overview, "compose", composed)

    async def script(browser: Browser) -> None:
        assert "untrained" in browser.text("Overview")

    browse(ALICE, script=script)


def test_why_a_file_cannot_be_summarized_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Document, report: object) -> None:
        raise FileError("nothing can be said")

    monkeypatch.setattr(Document, "study", fail)

    async def script(browser: Browser) -> None:
        assert "nothing can be said" in browser.text("Overview")

    browse(ALICE, script=script)
