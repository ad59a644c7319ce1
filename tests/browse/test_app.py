"""The browser as a person uses it."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer, Input, OptionList, ProgressBar, Tabs

from ggcp_schema.browse import jobs, plots
from ggcp_schema.browse.app import BrowseApp, BrowseScreen, KeyWindow, Palette
from ggcp_schema.browse.commands import CommandWindow
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.panes import FileMap, Overview, Schema, TopBar
from ggcp_schema.browse.plots import Histogram, PictureView
from ggcp_schema.browse.tables import HealthView, Layers
from ggcp_schema.browse.values import Cells, Values
from ggcp_schema.errors import FileError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.histogram import Distribution
from ggcp_schema.inspect.text import short_number
from tests.browse.driver import Browser, browse, in_turn
from tests.helpers import FIXTURES, TRUNCATED, thinned

ALICE, SMALL = FIXTURES / "alice.ggcp", FIXTURES / "v1-adam.ggcp"


# Movement --------------------------------------------------------------------------------------------------


async def the_tree_moves_the_bytes(browser: Browser) -> None:
    await browser.press("down", "down")
    assert browser.path == "train_its"
    assert browser.hex.cursor == 8
    assert list(browser.hex.selection) == [8, 9, 10, 11]
    await browser.press("end", "right", "down")
    assert browser.path == "optimizer.version"
    assert browser.hex.cursor == browser.screen.field.offset


async def the_bytes_move_the_tree(browser: Browser) -> None:
    await browser.press("tab", "tab")
    assert isinstance(browser.app.focused, HexView)
    await browser.press(*["right"] * 9)
    assert browser.path == "train_its"
    assert browser.tree.cursor_node.data.path == "train_its"
    await browser.press("ctrl+end")
    assert browser.path == "optimizer.state.n_no_improvement"
    assert browser.tree.cursor_node.data.path == "optimizer.state.n_no_improvement"
    await browser.press("ctrl+home", "right_square_bracket", "right_square_bracket", "left_square_bracket")
    assert browser.path == "version"
    await browser.press("right", "right", "left_square_bracket")  # from within a field to its beginning
    assert browser.path == "version"


async def vi_keys_move_too(browser: Browser) -> None:
    await browser.press("j", "j", "j", "k")
    assert browser.path == "train_its"
    await browser.press(*["j"] * 3, "l", "j")
    assert browser.path == "hparams.n_vocab"
    await browser.press("h")
    assert browser.path == "hparams"
    await browser.press("h")
    assert browser.tree.cursor_node.is_collapsed


async def walking_through_the_bytes_does_not_fill_the_tree(browser: Browser) -> None:
    rows = browser.rows
    await browser.press("tab", "tab")
    await browser.press(*["right_square_bracket"] * 25)
    assert browser.rows < rows + 15
    assert browser.tree.cursor_node.data.path == browser.path


async def next_and_previous_tensor(browser: Browser) -> None:
    found = []
    for key in ("n", "n", "n", "n", "N", "N"):
        await browser.press(key)
        found.append(browser.path)
    assert found == [
        "tok_embeddings",
        "norm",
        "output",
        "layers[0].attention_norm",
        "output",
        "norm",
    ]


async def search(browser: Browser) -> None:
    await browser.press("slash")
    await browser.type("w3 2")
    await browser.until(lambda: "layers[2].w3" in browser.text())
    await browser.press("down", "up", "enter")
    assert browser.path == "layers[2].w3"
    await browser.press("slash")
    palette = browser.app.screen
    assert isinstance(palette, Palette)
    for _ in range(2):  # as by Enter twice
        palette.dismiss()
    await browser.painted()
    assert browser.app.screen is browser.screen
    await browser.press("slash", "escape")
    assert not isinstance(browser.app.screen, Palette)


async def go_to(browser: Browser) -> None:
    """Enter does not wait for the search, and takes no hit of the words before."""
    await browser.press("g")
    for place, path in (("layers[1].wq", "layers[1].wq"), ("0x10", "train_tokens")):
        await browser.type("w3")
        await browser.until(lambda: "layers[2].w3" in browser.text())
        browser.app.screen.query_one(Input).value = place
        await browser.press("enter")
        assert browser.path == path
        await browser.press("g")
    browser.app.screen.query_one(Input).value = "layers[7].wq"
    await browser.until(lambda: "layers[7]" in browser.text().replace("layers[7].wq", "", 1))
    await browser.press("escape")
    assert (browser.path, browser.hex.cursor) == ("train_tokens", 16)


# Panes and sizes -------------------------------------------------------------------------------------------


async def a_small_terminal_shows_one_pane_at_a_time(browser: Browser) -> None:
    await browser.resize(60, 15)
    shown = []
    for _ in range(3):
        shown += [[index for index, frame in enumerate(browser.screen.frames) if frame.region.area]]
        await browser.press("tab")
    assert shown == [[0], [1], [2]]
    await browser.press("shift+tab")
    assert browser.screen.frames[2].region.area


async def resizing_changes_the_arrangement_and_keeps_the_selection(browser: Browser) -> None:
    await browser.go_to("layers[2].w2")
    sizes = ((60, 15, 1), (200, 50, 3), (79, 40, 1), (80, 24, 3), (30, 8, 1), (120, 40, 3))
    for width, height, panes in thinned(sizes, sizes[2:]):
        await browser.resize(width, height)
        frames = [frame.region for frame in browser.screen.frames]
        assert sum(1 for frame in frames if frame.area) == panes
        assert all(frame.right <= width and frame.bottom <= height for frame in frames)
        assert browser.path == "layers[2].w2"
        assert browser.text().count("\n") == height - 1
        if width > 30:
            await the_edges_fit(browser)
    row = browser.tree.cursor_line - round(browser.tree.scroll_y)
    assert 0 <= row < browser.tree.size.height


async def zoom_lets_one_pane_fill_the_screen(browser: Browser) -> None:
    await browser.press("z")
    assert browser.screen.frames[0].region.width == 120
    assert not browser.screen.frames[2].region.area
    await browser.press("z")
    assert browser.screen.frames[2].region.area


# Tabs ------------------------------------------------------------------------------------------------------

TABS = (Overview, Values, Histogram, PictureView, HealthView, Layers, Schema)
SHOWN = (
    "6,000 iterations",
    "ne[0] = 64 (numpy axis 1)",
    "mean",
    "rows 0–63 of 64",
    "order C",
    "layers[*].wq",
    "layers.0.attention.wq.weight",
)


async def every_tab(browser: Browser) -> None:
    await browser.go_to("layers[0].wq")
    tabs = list(enumerate(zip(TABS, SHOWN), 1))
    for number, (kind, words) in tabs if browser.app.size.width > 80 else thinned(tabs, tabs[::2]):
        await browser.press(str(number))
        await browser.settle()
        pane = browser.screen.query_one(kind)
        assert pane.display
        assert pane.target.has_focus
        if number == 1:
            pane.scroll_end(animate=False)
            await browser.settle()
            assert "ggcp-schema browse" in browser.text()
        elif browser.app.size.width > 80:
            assert words in browser.text()
        assert [tab for tab in browser.screen.panes if tab.region.area] == [pane]


async def moving_in_the_values_moves_the_bytes(browser: Browser) -> None:
    await browser.go_to("layers[0].wk")
    await browser.press("2")
    await browser.press("down", "down", "right", "right", "right")
    tensor = browser.app.files[0].tensors["layers[0].wk"]
    element = 2 * 64 + 3
    assert browser.hex.cursor == tensor.offset + 4 * element
    assert list(browser.hex.selection) == list(range(browser.hex.cursor, browser.hex.cursor + 4))
    assert f"layers[0].wk[2, 3] = {tensor.array()[2, 3]!s}" in browser.text()
    await browser.press("ctrl+end", "end")
    assert browser.hex.cursor == tensor.offset + tensor.nbytes - 4


async def rows_of_tokens_have_their_texts(browser: Browser) -> None:
    await browser.go_to("tok_embeddings")
    await browser.press("2", "down")
    assert re.search(r"\b1 'token 1!' +\[?[-0-9]", browser.text("Values"))
    await browser.go_to("norm")
    assert "token" not in browser.text("Values")


async def moving_in_the_bytes_moves_the_values(browser: Browser) -> None:
    await browser.go_to("layers[0].wk.data[130]")
    await browser.press("2")
    await browser.settle()
    values = browser.screen.query_one(Cells)
    assert values.cursor == 130
    await browser.go_to("layers[0].wk.data[190]")
    await browser.settle()
    assert values.cursor == 190
    line = "".join(segment.text for segment in values.draw(2, values.size.width))
    assert values.head().index(" 62") + 3 == line.index("]"), "the column's number is above its values"
    gutter = values.head().index("59") - 8
    await browser.pilot.click("Cells", offset=(gutter + 5, 1))
    assert values.cursor == 64 + 59
    await browser.go_to("layers[0].wk.data[190]")
    row, left = browser.app.files[0].tensors["layers[0].wk"].array()[2], values.left
    assert re.search(rf"\[{short_number(float(row[62]))} *\]", browser.text("Values")), "the column is not seen"
    await browser.press("left")
    assert f"[{short_number(float(row[61]))}]" in browser.text("Values")
    assert values.left == left


async def the_histogram_has_a_logarithmic_scale(browser: Browser) -> None:
    await browser.go_to("output")
    await browser.press("3")
    await browser.settle()
    linear = browser.text()
    await browser.press("o")
    assert "logarithmic (o: linear)" in browser.text()
    assert browser.text() != linear


async def the_picture_is_pooled_and_zoomed(browser: Browser) -> None:
    await browser.go_to("tok_embeddings")
    await browser.press("4")
    await browser.settle()
    view = browser.screen.query_one(PictureView)
    mean = view.found
    await browser.press("p", "p")
    await browser.settle()
    assert view.method == "max"
    assert view.found != mean
    await browser.press("plus", "plus", "right", "down")
    await browser.settle()
    width = view.size.width
    assert view.window == (288 + 48, 64 - width, 192, width), "as many columns as there is room for"
    await the_window_moves_within_the_matrix(browser, view)
    await browser.press("0")
    await browser.settle()
    assert view.window == (0, 0, 768, 64)


async def the_window_moves_within_the_matrix(browser: Browser, view: PictureView) -> None:
    pixels = browser.screen.query_one("#pixels")
    for _ in range(4):
        await browser.press("plus")
        await browser.settle()
        assert 2 * sum(bool(line.strip()) for line in browser.text(pixels).splitlines()) > pixels.size.height
    row, column, rows, columns = view.window
    assert columns < 64
    for key, moved in (
        ("right", (row, column + columns // 4)),
        ("left", (row, column)),
        ("up", (row - rows // 4, column)),
        ("down", (row, column)),
    ):
        await browser.press(key)
        assert view.window == (*moved, rows, columns)
    await browser.press(*["left"] * (column // (columns // 4) + 2), *["down"] * ((768 - row) // (rows // 4) + 2))
    assert view.window == (768 - rows, 0, rows, columns)
    await browser.press("minus")
    assert view.window == (768 - 2 * rows, 0, 2 * rows, 2 * columns)
    await browser.press(*["plus"] * 9)
    assert view.window[2:] == (4, 4)


async def the_layers_have_other_statistics(browser: Browser) -> None:
    await browser.press("6")
    await browser.settle()
    assert "[RMS]" in browser.text()
    await browser.press("s", "s")
    assert "[m]" in browser.text()
    await browser.press("down", "down", "down")
    assert browser.path == "layers[2].attention_norm"


# Keys ------------------------------------------------------------------------------------------------------


async def copying_the_path_and_the_command(browser: Browser) -> None:
    await browser.go_to("hparams.n_embd")
    await browser.press("y")
    assert browser.app.clipboard == "hparams.n_embd"
    await browser.press("Y")
    assert browser.app.clipboard == f"ggcp-schema get {ALICE} hparams.n_embd"


def test_a_command_is_shown_copied_filled_in_and_runs_on_enter(tmp_path: Path) -> None:
    async def script(browser: Browser) -> None:
        await browser.go_to("norm")
        await browser.press("x")
        window = browser.app.screen
        assert isinstance(window, CommandWindow)
        await browser.press("ctrl+y")
        assert browser.app.clipboard == f"ggcp-schema extract {ALICE} norm norm.npy"
        window.query_one(Input).value = ""
        await browser.press("enter")
        assert "Output is missing" in browser.text()
        window.query_one(Input).value = str(tmp_path / "out.npy")
        await browser.press("enter")
        await browser.settle()
        assert "done" in browser.text()
        assert (tmp_path / "out.npy").exists()
        bar = window.query_one(ProgressBar)
        assert (bar.progress, bar.total) == (256, 256)
        await browser.press("escape")
        assert not isinstance(browser.app.screen, CommandWindow)

    browse(ALICE, script=script)


async def export_and_convert_offer_the_commands_of_info(browser: Browser) -> None:
    for key, word in (("e", "export"), ("c", "convert")):
        await browser.press(key)
        assert isinstance(browser.app.screen, CommandWindow)
        assert browser.app.screen.words[:2] == [word, str(ALICE)]
        await browser.press("escape")


async def the_vocabulary_is_asked_for_and_its_path_completed(browser: Browser) -> None:
    await browser.press("e")
    window = browser.app.screen
    assert isinstance(window, CommandWindow)
    assert window.words[-2:] == ["--vocab", "VOCABULARY"]
    vocabulary = window.inputs["VOCABULARY"]
    assert vocabulary.has_focus
    await browser.press("enter")
    assert "Vocabulary is missing" in browser.text()
    vocabulary.value = str(FIXTURES / "alice-vocab.ggu")
    await browser.settle()
    await browser.press("tab")
    assert vocabulary.value == str(FIXTURES / "alice-vocab.gguf")
    assert window.words[-2:] == ["--vocab", vocabulary.value]
    await browser.press("tab", *"256")
    assert window.words[-2:] == ["--context-length", "256"]
    await browser.press("escape")


async def the_footer_changes_only_when_the_keys_do(browser: Browser) -> None:
    before = list(browser.screen.query_one(Footer).children)
    await browser.press("tab", "tab", "shift+tab")
    assert list(browser.screen.query_one(Footer).children) == before
    await browser.press("3")
    assert browser.text("Footer").startswith(" o Logarithmic")
    await browser.press("tab")
    assert "Logarithmic" not in browser.text("Footer")
    assert "? Help" in browser.text("Footer")


async def the_footer_ends_at_a_whole_key(browser: Browser) -> None:
    await browser.resize(200, 24)
    whole = browser.text("Footer")
    ends = [match.end() for match in re.finditer(r"(?<=\w) (?= |$)", whole)]
    widths = (40, 47, 55, 60, 72, 80, 120)
    for width in thinned(widths, widths[1::3]):
        await browser.resize(width, 24)
        assert browser.text("Footer").rstrip() == whole[: max(end for end in ends if end <= width)].rstrip()


async def help_lists_the_keys_and_closes(browser: Browser) -> None:
    await browser.press("question_mark")
    assert isinstance(browser.app.screen, KeyWindow)
    await browser.until(lambda: "Expand, or to the first child" in browser.text())
    for _ in range(10):  # a page down begins where the one before has ended only after that is shown
        await browser.press("pagedown")
    assert "Open the command palette" in " ".join(browser.text().split())
    await browser.press("ctrl+p", "escape", "escape")
    assert browser.app.screen is browser.screen


async def the_command_palette_lists_everything(browser: Browser) -> None:
    commands = list(browser.app.get_system_commands(browser.screen))
    titles = {command.title for command in commands}
    assert {
        "Search",
        "Next tensor",
        "Finding",
        "Copy path",
        "Extract",
        "Help",
        "Quit",
    } <= titles
    assert {f"Open {kind.TITLE}" for kind in TABS} <= titles
    await browser.press("3")
    next(command for command in commands if command.title == "Open Schema").callback()
    await browser.settle()
    assert browser.screen.query_one(Schema).display
    assert "Logarithmic" not in titles


# The mouse -------------------------------------------------------------------------------------------------


async def the_mouse_selects_rows_bytes_tabs_and_places_of_the_map(browser: Browser) -> None:
    await browser.pilot.click("TreeView", offset=(10, 3))
    assert browser.path == "train_samples"
    view = browser.hex
    await browser.pilot.click("HexView", offset=(view.grid.byte_column(1), 1))
    assert browser.hex.cursor == view.grid.per_line + 1
    await browser.pilot.click("Tabs", offset=(browser.screen.query_one(Tabs).size.width // 2, 0))
    await browser.settle()
    assert browser.screen.tab > 0
    await browser.press("1")
    file_map = browser.screen.query_one(FileMap)
    await browser.pilot.click("FileMap", offset=(file_map.size.width - 1, file_map.size.height - 1))
    assert browser.path == "optimizer.state.v.data"
    await browser.pilot.click("Footer", offset=(browser.text("Footer").index("/ Search") + 1, 0))
    assert isinstance(browser.app.screen, Palette)


async def a_click_on_the_arrow_expands(browser: Browser) -> None:
    rows = browser.rows
    for more in (6, 0):
        await browser.pilot.click("TreeView", offset=(0, 5))
        await browser.painted()
        assert (browser.path, browser.rows) == ("hparams", rows + more)


# Damage and change -----------------------------------------------------------------------------------------


def test_a_damaged_file_shows_the_place_and_what_can_be_saved() -> None:
    async def script(browser: Browser) -> None:
        await browser.until(lambda: browser.hex.cursor == TRUNCATED.stat().st_size - 1)
        assert browser.path == "layers[0].w3.name"
        assert "✗ damaged" in browser.text("TopBar")
        assert any("✗" in line and "w3" in line for line in browser.text("TreeView").splitlines())
        assert "11 of 12 tensors whole" in browser.text("#facts")
        assert "ggcp-schema extract" in browser.text("#facts")
        await browser.press("tab", "tab")
        assert "!" in browser.text("HexView")

    browse(TRUNCATED, script=script)


def with_a_lost_page(path: Path) -> int:
    """Write a checkpoint with a page of zeros in its weights; return where it begins."""
    content = bytearray(ALICE.read_bytes())
    with open_file(ALICE) as file:
        start = file.tensors["output"].offset + 8192
    content[start : start + 4096] = bytes(4096)
    path.write_bytes(content)
    return start


def test_the_top_bar_says_that_a_file_is_unsound_when_that_is_known(tmp_path: Path) -> None:
    with_a_lost_page(tmp_path / "hole.ggcp")

    async def script(browser: Browser) -> None:
        assert "✓ whole" in browser.text("TopBar")
        await browser.press("f")
        await browser.settle()
        assert "✗ unsound at output" in browser.text("TopBar")

    browse(tmp_path / "hole.ggcp", script=script)


def test_health_says_where_a_checkpoint_is_unsound(tmp_path: Path) -> None:
    path = tmp_path / "hole.ggcp"
    start = with_a_lost_page(path)

    async def script(browser: Browser) -> None:
        await browser.press("5")
        await browser.settle()
        assert "✗ unsound at output" in browser.text("TopBar")
        shown = browser.text("HealthView")
        assert "✗ unsound: no NaN, no infinities, 1 unsound place," in " ".join(shown.split())
        assert f"the first at offset {start:,}" in " ".join(shown.split())
        view = browser.screen.query_one(HealthView)
        view.target.put(len(view.found.rows) + 2)  # type: ignore[union-attr]
        await browser.press("enter")
        assert (browser.path, browser.hex.cursor) == ("output.data", start)
        assert "zeros in the weights" in browser.text("HealthView")
        browser.screen.select(browser.app.files[0].find("magic"))
        await browser.press("f")
        await browser.settle()
        assert (browser.path, browser.hex.cursor) == ("output.data", start)

    browse(path, script=script, size=(200, 50))


def test_a_file_that_changes_shrinks_or_is_replaced_gives_a_message_and_can_be_opened_again(tmp_path: Path) -> None:
    path, other = tmp_path / "shrinks.ggcp", tmp_path / "other.ggcp"
    path.write_bytes(ALICE.read_bytes())

    async def script(browser: Browser) -> None:
        await browser.go_to("layers[1].wq.data[17]")
        await browser.press("2")
        browser.screen.look_for_changes()
        assert "✓ whole" in browser.text("TopBar")
        os.utime(path, (1, 1))
        browser.screen.look_for_changes()
        assert "changed on disk" in browser.text("TopBar")
        await browser.press("r")
        await browser.settle()
        assert "✓ whole" in browser.text("TopBar")
        the_place_and_the_tab_are_kept(browser)
        os.truncate(path, 5000)
        await browser.press("tab", "tab", "ctrl+end", "ctrl+home", "pagedown")
        for key in "256":  # those that read tensors: values, health, layers
            await browser.press(key, "n")
            await browser.settle()
        assert "changed on disk" in browser.text("TopBar")
        path.write_bytes(ALICE.read_bytes())
        await browser.press("r")
        await browser.settle()
        assert "✓ whole" in browser.text("TopBar")
        other.write_bytes(ALICE.read_bytes())
        other.rename(path)
        browser.screen.look_for_changes()
        await browser.painted()
        assert "changed on disk" in browser.text("TopBar")
        await browser.until(lambda: "replaced by another file" in browser.messages())

    def the_place_and_the_tab_are_kept(browser: Browser) -> None:
        assert browser.path == "layers[1].wq.data"
        assert browser.hex.cursor == browser.app.files[0].tensors["layers[1].wq"].offset + 4 * 17
        assert "layers[1].wq[0, 17] = " in browser.text("Values")

    browse(path, script=script)


# Formats ---------------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_that_the_file_cannot_give() -> None:
    async def script(browser: Browser) -> None:
        await browser.press("c")
        assert "contains no training to convert" in browser.messages()
        browser.app.clear_notifications()
        await browser.press("e")
        assert "contains no model or adapter to export" in browser.messages()

    browse(FIXTURES / "strange/nested.gguf", script=script)


def test_what_was_not_measured_is_not_ticked() -> None:
    async def script(browser: Browser) -> None:
        await browser.press("5")
        await browser.settle()
        assert "nothing was measured" in browser.text("HealthView")
        assert "✓" not in browser.text("HealthView")

    browse(FIXTURES / "vocab.gguf", script=script)


VOCABULARIES = ["alice-vocab.gguf", "vocab.ggjt"]


@pytest.mark.parametrize("name", thinned([*VOCABULARIES, "v1-lbfgs.ggcp"]))
def test_every_format_opens_and_every_tab_shows_something(name: str) -> None:
    async def script(browser: Browser) -> None:
        if name.endswith(".gguf"):
            await it_opens_with_the_first_field_and_the_keys_of_a_gguf_file(browser)
            await browser.go_to("general.name")
            assert "general.name  'alice-vocab'" in browser.text()
            await browser.press("tab", "tab")
            assert "general.name" in browser.text("HexView")
            await neighbours_differ_in_shade_and_keep_theirs_when_the_view_scrolls(browser)
            await browser.press("tab")
        await browser.press("n")
        for key, kind in enumerate(TABS, 1):
            await browser.press(str(key))
            await browser.settle()
            shown = browser.text(kind.__name__)
            assert shown.strip()
            if kind in (Values, Histogram, PictureView):
                assert ("The file has no tensors." in shown) == (name in VOCABULARIES)
        await browser.press("slash")
        await browser.type("o")
        await browser.press("enter")
        await browser.until(lambda: isinstance(browser.app.screen, BrowseScreen))
        await browser.painted()
        assert browser.path

    browse(FIXTURES / name, script=script, size=(200, 50) if name.endswith(".gguf") else (80, 24))


async def it_opens_with_the_first_field_and_the_keys_of_a_gguf_file(browser: Browser) -> None:
    assert browser.path == "magic"
    assert list(browser.hex.selection) == [0, 1, 2, 3]
    assert "general.architecture  'llama'" in browser.text("TreeView")
    assert "tokenizer.ggml.tokens  ['<unk>'" in browser.text("TreeView")


async def neighbours_differ_in_shade_and_keep_theirs_when_the_view_scrolls(browser: Browser) -> None:
    before: dict[int, bool] = {}
    for _ in range(5):
        await browser.press("pagedown")
        shades = browser.hex._shades
        assert all(one != other for one, other in pairwise(shades.values()))
        assert all(before[start] == shades[start] for start in shades.keys() & before.keys())
        before = shades


# Opening ---------------------------------------------------------------------------------------------------


def opening(
    open_slowly: Callable[[str], File], script: Callable[[BrowseApp, Pilot[None]], Awaitable[None]]
) -> BrowseApp:
    """Run the browser with another function to open the file."""
    app = BrowseApp([str(SMALL)], open_slowly)

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(run())
    app.close_files()
    return app


def test_quitting_while_the_file_is_opened_closes_it() -> None:
    go_on, files = threading.Event(), []

    def slowly(path: str) -> File:
        assert go_on.wait(60)
        files.append(open_file(path))
        return files[0]

    async def quit_at_once(app: BrowseApp, pilot: Pilot[None]) -> None:
        assert "opening" in app.export_screenshot()
        await pilot.press("q")

    app = opening(slowly, quit_at_once)
    assert (app.return_code, app.error, app.files) == (0, None, [])
    go_on.set()
    while not (files and files[0].source.file.closed):
        time.sleep(0.01)


def test_what_comes_up_while_the_file_is_opened_is_shown_and_then_raised() -> None:
    error = FileError("small.ggcp: Input/output error at offset 5", "Copy the file again.")
    keys_are_shown = threading.Event()

    def fail(path: str) -> File:
        assert keys_are_shown.wait(60)
        raise error

    async def look(app: BrowseApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, KeyWindow)
        keys_are_shown.set()
        while app.error is None:
            await pilot.pause()
        await pilot.press("escape")
        shown = app.export_screenshot().replace("&#160;", " ")
        assert "cannot be opened" in shown
        assert "Input/output error at offset 5" in shown
        assert "Copy the file again." in shown
        await pilot.press("q")

    assert opening(fail, look).error is error


def test_an_unforeseen_error_while_the_file_is_opened_is_not_swallowed() -> None:
    def fail(path: str) -> File:
        raise ZeroDivisionError

    async def wait(app: BrowseApp, pilot: Pilot[None]) -> None:
        while app._exception is None:
            await asyncio.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        opening(fail, wait)


# Background work -------------------------------------------------------------------------------------------


def test_work_stops_when_the_selection_moves_and_quitting_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    stopped, blocked = [], threading.Event()

    def slow(tensor: Tensor, report: jobs.Report) -> None:
        started.append(tensor.path)
        try:
            while True:
                time.sleep(0.005)
                report(None)
        except jobs.Cancelled:
            stopped.append(tensor.path)
            raise

    def note(tensor: Tensor, report: jobs.Report) -> Distribution:
        started.append(tensor.path)
        return Distribution(tensor, 1.0)

    def block(tensor: Tensor, report: jobs.Report) -> None:
        started.append(tensor.path)
        blocked.wait()

    async def script(browser: Browser) -> None:
        monkeypatch.setattr(plots, "measured", slow)
        await browser.go_to("norm")
        await browser.press("3")
        await browser.until(lambda: started)
        assert (started, stopped) == (["norm"], [])
        await browser.press("n")
        await browser.until(lambda: len(started) == 2 and stopped)
        assert (started, stopped) == (["norm", "output"], ["norm"])
        await browser.press("1")
        await browser.until(lambda: len(stopped) == 2)
        assert stopped == ["norm", "output"]
        await holding_a_key_starts_no_work_on_the_way(browser)
        monkeypatch.setattr(plots, "measured", block)
        await browser.press("n")
        await browser.until(lambda: len(started) == 4)

    async def holding_a_key_starts_no_work_on_the_way(browser: Browser) -> None:
        monkeypatch.setattr(plots, "measured", note)
        monkeypatch.setattr(plots, "DELAY", 0.5)
        await browser.press("3", "n", "n", "n")
        await browser.settle()
        assert started[2:] == ["layers[0].wk"]

    browse(SMALL, script=script, size=(80, 24))
    assert not blocked.is_set()
    blocked.set()


def test_an_error_in_the_background_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: object, report: jobs.Report) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(plots, "measured", fail)

    async def script(browser: Browser) -> None:
        await browser.go_to("norm")
        await browser.press("3")
        await browser.settle()

    with pytest.raises(ZeroDivisionError):
        browse(SMALL, script=script, size=(80, 24))


# Colours ---------------------------------------------------------------------------------------------------


def test_the_screen_can_be_read_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(browser: Browser) -> None:
        await browser.go_to("train_its")
        assert browser.app.no_color
        assert "[70 17 00 00]" in browser.text("HexView")
        assert "◆" in browser.text("FileMap")
        legend = browser.text(browser.screen.query_one(Overview).words)
        assert all(f"{sign} {use}" in legend for sign, use in (("█", "model"), ("▓", "m"), ("▒", "v")))
        styles = {
            segment.style.color.triplet
            for strip in browser.app.screen._compositor.render_strips()
            for segment in strip.apply_filter(browser.app._filters[-1], browser.app.screen.background_colors[1])
            if segment.style and segment.style.color and segment.style.color.triplet
        }
        assert all(len(set(triplet)) == 1 for triplet in styles)

    browse(ALICE, script=script)


async def light_and_dark(browser: Browser) -> None:
    assert browser.app.current_theme.dark
    before = browser.screen.styles.background
    colours = {segment.style.bgcolor for strip in browser.strips() for segment in strip if segment.style}
    await browser.press("t")
    await browser.settle()
    assert not browser.app.current_theme.dark
    assert browser.screen.styles.background.brightness > before.brightness
    assert colours.isdisjoint(segment.style.bgcolor for strip in browser.strips() for segment in strip if segment.style)
    await browser.press("t")
    assert browser.app.current_theme.dark


async def the_edges_fit(browser: Browser) -> None:
    for widget in (browser.screen.query_one(TopBar), browser.screen.query_one(Footer)):
        assert widget.region.width == browser.app.size.width
    await browser.until(lambda: re.search(r"\? Help +q Quit ", browser.text("Footer")))
    assert "alice.ggcp" in browser.text("TopBar")
    assert "✓ whole" in browser.text("TopBar")


# Running them ----------------------------------------------------------------------------------------------

MOVES = (the_tree_moves_the_bytes, the_bytes_move_the_tree, next_and_previous_tensor, search, go_to)


def test_at_the_smallest_and_the_largest_size() -> None:
    async def larger(browser: Browser) -> None:
        await browser.resize(200, 50)

    browse(ALICE, script=in_turn(the_edges_fit, *MOVES, every_tab, larger, the_edges_fit, every_tab), size=(60, 15))


def test_moving_and_arranging() -> None:
    browse(
        ALICE,
        script=in_turn(
            vi_keys_move_too,
            walking_through_the_bytes_does_not_fill_the_tree,
            the_mouse_selects_rows_bytes_tabs_and_places_of_the_map,
            a_click_on_the_arrow_expands,
            zoom_lets_one_pane_fill_the_screen,
            light_and_dark,
            a_small_terminal_shows_one_pane_at_a_time,
            resizing_changes_the_arrangement_and_keeps_the_selection,
        ),
    )


def test_the_tabs_and_that_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file.ggcp"
    path.write_bytes(ALICE.read_bytes())
    path.chmod(0o444)
    browse(
        path,
        script=in_turn(
            moving_in_the_values_moves_the_bytes,
            moving_in_the_bytes_moves_the_values,
            rows_of_tokens_have_their_texts,
            the_histogram_has_a_logarithmic_scale,
            the_picture_is_pooled_and_zoomed,
            the_layers_have_other_statistics,
        ),
        tokens=lambda token: f"token {token}!",
    )
    assert path.read_bytes() == ALICE.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_the_keys() -> None:
    async def quits(browser: Browser) -> None:
        await browser.press("q")

    app = browse(
        ALICE,
        script=in_turn(
            copying_the_path_and_the_command,
            export_and_convert_offer_the_commands_of_info,
            the_vocabulary_is_asked_for_and_its_path_completed,
            the_footer_changes_only_when_the_keys_do,
            the_footer_ends_at_a_whole_key,
            help_lists_the_keys_and_closes,
            the_command_palette_lists_everything,
            quits,
        ),
    )
    assert app.return_code == 0


@pytest.mark.parametrize(
    ("size", "words"),
    [((80, 24), "state    ✓ whole; values not"), ((120, 40), "PyTorch  ggcp-schema export --to hf fixtures/alice")],
)
def test_the_overview_tells_the_state_and_the_commands_without_scrolling(
    size: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FIXTURES.parent)

    async def script(browser: Browser) -> None:
        assert words in browser.text(Overview.__name__)

    browse(Path("fixtures/alice.ggcp"), script=script, size=size)


def test_it_starts_with_light_colours() -> None:
    assert not BrowseApp([], open_file, light=True).current_theme.dark


def test_of_equal_hits_the_first_tensor_of_the_file_is_offered_first() -> None:
    async def script(browser: Browser) -> None:
        await browser.press("slash")
        await browser.type("attn_q")
        await browser.settle()
        await browser.press("enter")
        await browser.until(lambda: isinstance(browser.app.screen, BrowseScreen))
        await browser.painted()
        tensor = browser.screen.document.file.tensors["blk.0.attn_q.weight"]
        assert browser.screen.document.tensor_of(browser.screen.field) is tensor
        assert browser.screen.byte == tensor.offset
        await browser.press("2")
        await browser.until(lambda: "blk.0.attn_q.weight[0, 0]" in browser.text("Values"))

    browse(FIXTURES / "lora" / "base.gguf", script=script, size=(120, 40))


def test_a_page_of_hits_that_are_not_drawn_yet() -> None:
    async def script(browser: Browser) -> None:
        await browser.press("slash")
        hits = browser.app.screen.query_one(OptionList)
        hits.clear_options().add_option("a hit")
        hits.highlighted = 0
        await browser.app.screen.run_action("command_list('page_down')")
        await browser.press("escape")
        assert len(browser.app.screen_stack) == 2

    browse(SMALL, script=script)
