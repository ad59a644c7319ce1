"""Two files side by side."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from ggcp_schema.formats import open_file
from ggcp_schema.inspect.diff import FieldRow
from ggcp_schema.inspect.diff_places import Difference, Place, differences
from ggcp_schema.inspect.fields import Fields, counterpart
from tests.browse.driver import Browser, browse
from tests.helpers import FIXTURES, ORDERS, run_cli

ALICE = FIXTURES / "alice.ggcp"
A, B = (path for path in ORDERS if path.name in ("aug-B-3.ggcp", "aug-C-3.ggcp"))


def changed(tmp_path: Path) -> Path:
    """Alice after more training: more iterations, another loss, wk of layer 1 twice as large, a NaN in norm."""
    content = bytearray(ALICE.read_bytes())
    with open_file(ALICE) as file:
        wk, norm, loss = file.tensors["layers[1].wk"], file.tensors["norm"], file.find("optimizer.state.fx_prev")
        content[8:12] = struct.pack("<I", 6400)
        content[loss.offset : loss.end] = struct.pack("<f", 0.125)
        content[wk.offset : wk.offset + wk.nbytes] = (wk.array() * 2).tobytes()
        content[norm.offset : norm.offset + 4] = struct.pack("<f", float("nan"))
    path = tmp_path / "later.ggcp"
    path.write_bytes(content)
    return path


def test_the_changes_are_those_that_were_made(tmp_path: Path) -> None:
    with open_file(ALICE) as a, open_file(changed(tmp_path)) as b:
        found = differences(Fields(a), Fields(b), lambda result: None)
    rows = {change.name: change for change in found.rows}
    assert list(rows) == ["train_its", "optimizer.state.fx_prev", "norm", "layers[1].wk"]
    assert rows["train_its"].words == ["6000", "6400"]
    assert rows["layers[1].wk"].row.relative == pytest.approx(1)
    assert rows["layers[1].wk"].row.largest == pytest.approx(np.abs(rows_of("layers[1].wk")).max())
    assert rows["norm"].row.relative == float("inf")
    assert found.done == found.total


def rows_of(path: str) -> np.ndarray:
    with open_file(ALICE) as file:
        return np.array(file.tensors[path].array())


@pytest.mark.parametrize("names", [("aug-B-3", "aug-C-3"), ("jun-A-3", "jun-B-3")])
def test_names_and_counts_are_those_of_diff(names: tuple[str, str]) -> None:
    paths = [FIXTURES / "orders" / f"{name}.ggcp" for name in names]
    with open_file(paths[0]) as a, open_file(paths[1]) as b:
        found = differences(Fields(a), Fields(b), lambda result: None)
    result = json.loads(run_cli("diff", *paths, "--json").stdout)
    assert (found.fields, found.parts) == (result["counts"]["different_fields"], result["counts"]["different_parts"])
    different = [row["name"] for kind in ("fields", "tensors") for row in result[kind] if row["verdict"] != "equal"]
    assert sorted(change.row.name for change in found.rows) == sorted(different)


def test_equal_files_have_no_changes() -> None:
    with open_file(ALICE) as a, open_file(ALICE) as b:
        assert differences(Fields(a), Fields(b), lambda result: None).rows == []


def test_tensors_that_cannot_be_read_are_compared_by_their_bytes(tmp_path: Path) -> None:
    """A block of Q1_0 has 18 bytes: no whole number of float32."""
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path, last in zip(paths, (17, 99), strict=True):
        writer = GGUFWriter(path, "llama")
        data = np.array([*range(17), last], np.uint8)
        writer.add_tensor("quantized", data.reshape(1, 18), raw_dtype=GGMLQuantizationType.Q1_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with open_file(paths[0]) as a, open_file(paths[1]) as b:
        (change,) = differences(Fields(a), Fields(b), lambda result: None).rows
        assert not differences(Fields(a), Fields(a), lambda result: None).rows
    assert (change.name, change.words[0], change.row.relative) == ("quantized", "Q1_0 [128, 1]", None)

    async def script(browser: Browser) -> None:
        await browser.settle()
        assert "Q1_0 [128, 1], of which the bytes differ" in browser.text("Changes")

    browse(*paths, script=script)


def test_a_field_has_a_counterpart_in_another_format(tmp_path: Path) -> None:
    resume = tmp_path / "resume.gguf"
    run_cli("convert", ALICE, resume, check=True)
    with open_file(ALICE) as a, open_file(resume) as b:
        one, other = Fields(a), Fields(b)
        there = counterpart(a.find("layers[1].wq"), one, other)
        assert there is not None
        assert other.tensor_of(there) == b.tensors["blk.1.attn_q.weight"]
        assert there.parent is not None
        assert other.tensor_at_node(there.parent) == b.tensors["blk.1.attn_q.weight"]
        back = counterpart(there, other, one)
        assert back is not None
        assert back.path == "layers[1].wq"
        assert counterpart(a.find("hparams.n_mult"), one, other) is None


def test_the_screen_shows_what_changed_and_marks_the_bytes_that_differ(tmp_path: Path) -> None:
    later = changed(tmp_path)

    async def script(browser: Browser) -> None:
        await selecting_in_one_selects_in_the_other(browser)
        await browser.resize(200, 50)
        await browser.go_to("magic")
        await browser.settle()
        shown = browser.text("Changes")
        assert "loss 0.1435 to 0.1250 (-0.0185)" in shown
        assert "2 changed fields, 2 changed tensors" in shown
        assert "6000 → 6400" in shown
        assert "100 %" in shown
        tree = browser.text(browser.pair.trees[1])
        assert any("≠ train_its" in line for line in tree.splitlines())
        assert any("≠ layers" in line for line in tree.splitlines())
        assert not any("≠ output" in line for line in tree.splitlines())
        await bytes_that_differ_are_marked(browser)
        await commands_are_about_the_file_with_the_focus(browser)
        await a_finding_is_shown_in_the_file_that_was_searched(browser)

    async def selecting_in_one_selects_in_the_other(browser: Browser) -> None:
        trees, views = browser.pair.trees, browser.pair.views
        await browser.press("down", "down", "down")
        assert [tree.cursor_node.data.path for tree in trees] == ["train_samples"] * 2
        assert [view.cursor for view in views] == [12, 12]
        await browser.press("2", "down")
        assert [tree.cursor_node.data.path for tree in trees] == ["train_tokens"] * 2
        await browser.press("3", "end")
        assert [tree.cursor_node.data.path for tree in trees] == ["layers[1].wk"] * 2
        await browser.press("n")
        assert [tree.cursor_node.data.path for tree in trees] == ["layers[1].wv"] * 2

    async def bytes_that_differ_are_marked(browser: Browser) -> None:
        views = browser.pair.views
        await browser.go_to("train_its")
        assert [view.different for view in views] == [{8, 9}] * 2  # 70 17 00 00 and 00 19 00 00
        colours = {
            (segment.text, segment.style.bgcolor.triplet)
            for segment in views[1].render_line(0)
            if segment.style and segment.style.bgcolor
        }
        assert len({colour for text, colour in colours if text.strip() in ("19", "00")}) > 1
        await browser.go_to("version")
        assert [view.different for view in views] == [set()] * 2

    async def commands_are_about_the_file_with_the_focus(browser: Browser) -> None:
        for pane, path in (("1", ALICE), ("2", later)):
            await browser.press(pane, "n")
            for key, word in (("x", "extract"), ("e", "export"), ("c", "convert")):
                await browser.press(key)
                assert browser.app.screen.words[:2] == [word, str(path)]
                await browser.press("escape")

    async def a_finding_is_shown_in_the_file_that_was_searched(browser: Browser) -> None:
        screen = browser.pair
        await browser.press("2")
        await browser.go_to("magic")
        screen.action_finding()
        screen.side = 0  # as by a key, before anything is found
        await browser.settle()
        assert screen.document is screen.documents[1]
        assert screen.field is not None
        assert screen.field.path == "norm.data"

    browse(ALICE, later, script=script, size=(60, 15))


def test_checkpoints_of_two_layouts_have_the_names_and_marks_of_their_trees() -> None:
    async def script(browser: Browser) -> None:
        await browser.settle()
        assert re.search(r"≠ train_its +5 → 20", browser.text("Changes"))
        assert "≠ tok_embeddings" in browser.text("Changes")
        assert " 5 not compared" in browser.text("Changes")  # x, g1, g2, mh and vh, which the later program has not
        assert all("≠ train_its" in browser.text(tree) for tree in browser.pair.trees)

    browse(*(path for name in ("jun", "jul") for path in ORDERS if path.name == f"{name}-A-3.ggcp"), script=script)


def test_tab_goes_through_all_panes() -> None:
    async def script(browser: Browser) -> None:
        screen = browser.pair
        seen = []
        for _ in range(6):
            seen.append(browser.app.focused)
            await browser.press("tab")
        assert seen == [*screen.trees, screen.panes[0].target, *screen.views, screen.trees[0]]
        assert screen.document is screen.documents[1]
        await browser.press("5", *["right"] * 17)
        assert screen.views[0].cursor == 17
        assert screen.trees[0].cursor_node.data.path == "train_tokens"
        await a_change_that_is_a_field_of_neither_file_moves_nothing(browser)

    async def a_change_that_is_a_field_of_neither_file_moves_nothing(browser: Browser) -> None:
        screen = browser.pair
        before = (screen.side, screen.field)
        nowhere = Difference(FieldRow("n_rot", "different", None, None), "n_rot", (Place(), Place()))
        screen.panes[0].moved(nowhere)
        await browser.painted()
        assert (screen.side, screen.field) == before

    browse(A, B, script=script)


def test_a_damaged_file_can_be_compared() -> None:
    async def script(browser: Browser) -> None:
        await browser.settle()
        assert "changed field" in browser.text("Changes")

    browse(FIXTURES / "v0-adam.ggcp", FIXTURES / "truncated-v0-lbfgs.ggcp", script=script)
