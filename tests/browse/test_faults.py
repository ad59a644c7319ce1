"""Files and situations that once hung, crashed or misled the browser."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
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

from ggcp_schema.browse import commands, jobs
from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import fit, ink
from ggcp_schema.browse.panes import Overview
from ggcp_schema.browse.plots import PictureView
from ggcp_schema.browse.tables import HealthView, Layers
from ggcp_schema.browse.values import Cells
from ggcp_schema.cli.browse import open_for_long
from ggcp_schema.errors import FileError
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.inspect import MARK, diff_places, health, text
from ggcp_schema.inspect.search import Index, search
from tests.browse.driver import Browser, browse
from tests.helpers import FIXTURES, TRUNCATED

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


def test_a_move_in_the_values_of_a_quantized_tensor_leads_to_the_bytes_of_the_element() -> None:
    async def script(browser: Browser) -> None:
        for name, size in (("t2", 18), ("t8", 34)):  # Q4_0 and Q8_0: bytes for 32 elements
            await browser.go_to(name)
            await browser.press("2", "down", "right")
            assert f"{name}[1, 1] =" in browser.text("Values")
            assert browser.hex.cursor == browser.app.files[0].tensors[name].offset + 257 * size // 32

    browse(FIXTURES / "strange" / "all-types.gguf", script=script)


def test_nan_and_infinity_stand_out_from_other_values(tmp_path: Path) -> None:
    path = gguf(tmp_path / "nan.gguf", {"a.weight": np.array([[9, 1, np.nan, -np.inf, 0]], np.float32)})

    async def script(browser: Browser) -> None:
        await browser.press("n", "2")
        cells = browser.screen.query_one(Cells)
        colours = {each.text.strip(" []"): each.style.color for each in cells.draw(0, 80) if each.style}
        assert colours["NaN"] == colours["-Inf"] == ink(cells, "error").color
        assert colours["NaN"] not in (colours["1.000"], colours["0"])

    browse(path, script=script)


# Many results ----------------------------------------------------------------------------------------------


def test_reports_come_no_faster_than_the_screen_can_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is seen at once here, so that none waits; what was found between two of them is not lost."""
    now, handled = [0.0], []
    monkeypatch.setattr(jobs, "monotonic", lambda: now[0])
    monkeypatch.setattr(jobs, "EVERY", 4 / 64)

    class Owner:
        is_running = True

        def call_later(self, show: Callable[..., None], *args: Any, **options: Any) -> None:
            show(*args, **options)

    def work(report: Callable[[Any], None]) -> str:
        for number in range(100):
            now[0] = number / 64
            report(number)
        return "end"

    owner: Any = Owner()
    job = jobs.Job(owner, lambda result, done: handled.append(result))
    job._run(work, job._turn)
    assert handled == [*range(4, 100, 4), "end"]


def test_reports_that_were_not_seen_do_not_queue() -> None:
    done, handled = threading.Event(), []

    class Host(App[None]):
        def on_mount(self) -> None:
            def flood(report: Callable[[Any], None]) -> str:
                for number in range(2000):
                    report(number)
                done.set()
                return "end"

            jobs.Job(self, lambda result, done: handled.append((result, done))).start(flood)
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
    seen: set[tuple[str, bool]] = set()

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen.add((function.__name__, threading.current_thread() is threading.main_thread()))
            return function(*arguments)

        return call

    monkeypatch.setattr(diff_places, "place_of", noted(diff_places.place_of))
    monkeypatch.setattr(Document, "mark", noted(Document.mark))

    async def script(browser: Browser) -> None:
        await browser.settle()
        assert "300 changed tensors" in browser.text("Changes")
        marks = browser.pair.documents[1].marks
        assert [marks[f"tensor_data[{number}].data"] for number in (0, 299)] == ["changed"] * 2

    browse(a, b, script=script)
    assert seen == {("place_of", False), ("mark", False)}


def test_what_is_measured_is_added_to_one_result() -> None:
    seen: list[int] = []
    with open_file(ALICE) as file:
        examined = health.examine(file, lambda result: seen.append(id(result)) if result else None)
        assert set(seen) == {id(examined)}


# Strange files ---------------------------------------------------------------------------------------------


def test_letters_whose_small_form_is_another_or_longer_are_searched(tmp_path: Path) -> None:
    path = gguf(tmp_path / "names.gguf", {name: np.ones(4, np.float32) for name in ("ſ", "İs", "ẞtra")})
    with open_file(path) as file:
        index = Index(file)
        for word, expected in (("s", "İs"), ("ſ", "ſ"), ("tra", "ẞtra")):
            hits = search(index, word, lambda result: None)
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


def test_an_error_is_shown_and_does_not_start_the_work_again_at_each_move(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def fail(what: object, report: object) -> None:
        started.append(what)
        raise FileError("the disk is broken")

    monkeypatch.setattr(Document, "examine", fail)
    monkeypatch.setattr(Document, "study", fail)

    async def script(browser: Browser) -> None:
        assert "the disk is broken" in browser.text("Overview")
        await browser.press("6")
        await browser.settle()
        await browser.press("n", "n", "n")
        await browser.settle()
        assert "the disk is broken" in browser.text("Layers")
        assert browser.screen.query_one(Layers).error

    browse(FIXTURES / "v1-adam.ggcp", script=script)
    assert len(started) == 2


def test_wide_letters_take_two_cells() -> None:
    for width in range(9):
        for middle in (False, True):
            assert cell_len(fit("汉字テスト", width, middle=middle)) == width


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


def test_moments_that_are_lost_are_not_called_absent() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        assert health.find_moments(file).evidence.startswith(
            "No m and v could be read: the file is damaged at layers[0].w3"
        )
    with open_file(FIXTURES / "vocab.ggjt") as file:
        assert health.find_moments(file).evidence == "The file has no tensors."


# The file on the disk --------------------------------------------------------------------------------------


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
        gc.disable()  # as `main` does
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


def test_a_command_shows_how_far_it_is_and_ends_on_escape_and_with_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import time; time.sleep(0.2); print('{MARK}30 120', flush=True); time.sleep(600)"
    monkeypatch.setattr(commands, "arguments", lambda words: [sys.executable, "-c", code])
    processes: list[subprocess.Popen[bytes]] = []

    async def script(browser: Browser) -> None:
        await browser.press("c", "enter")
        window = browser.app.screen
        assert isinstance(window, commands.CommandWindow)
        await browser.until(lambda: "25%" in browser.text())
        await browser.press("escape")
        assert "25%" not in browser.text()
        assert "stopped; nothing was written" in browser.text()
        assert window.process is not None
        assert window.process.poll() is not None
        await browser.press("escape")
        assert browser.app.screen is browser.screen
        await browser.press("c", "enter")
        processes.append(browser.app.screen.process)  # type: ignore[attr-defined]
        assert processes[0].poll() is None
        browser.app.exit()

    browse(ALICE, script=script)
    assert processes[0].wait(60) != 0


def test_the_file_is_looked_at_from_time_to_time_and_what_is_found_before_the_overview_is_there_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []
    compose = Overview.compose

    def composed(self: Overview) -> ComposeResult:
        self.document.study(lambda result: None)
        self.screen.studied(self.document, None, done=True)  # type: ignore[attr-defined]
        return compose(self)

    monkeypatch.setattr(Overview, "compose", composed)
    monkeypatch.setattr("ggcp_schema.browse.screen.WATCH", 0.01)
    monkeypatch.setattr(Source, "check_same", lambda source: looked.append(time.monotonic()))

    async def script(browser: Browser) -> None:
        assert "untrained" in browser.text("Overview")
        await browser.until(lambda: len(looked) > 2)

    browse(ALICE, script=script)
