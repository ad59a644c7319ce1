"""The tree of fields: what is unfolded, and where the cursor is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from gguf import GGUFWriter

from ggcp_schema.browse.tree import GROUP, MANY, Group, TreeView
from tests.browse.driver import Browser, browse, in_turn
from tests.helpers import FIXTURES

ALICE = FIXTURES / "alice.ggcp"


def expanded(tree: TreeView) -> set[str]:
    """Return the paths of the expanded fields."""
    nodes, found = list(tree.root.children), set()
    while nodes:
        node = nodes.pop()
        if node.is_expanded:
            found.add(node.data.path if not isinstance(node.data, Group) else str(node.data.start))
            nodes += node.children
    return found


def test_every_field_is_revealed_and_what_was_left_is_collapsed_again_unless_the_user_expanded_it() -> None:
    async def revealed(browser: Browser) -> None:
        tree, file = browser.tree, browser.app.files[0]
        for path in ("layers[2].w1.ne[1]", "hparams.n_rot", "optimizer.state.m.data", "norm", "layers[0].wq.name"):
            tree.reveal(file.find(path))
            assert tree.cursor_node is not None
            assert tree.cursor_node.data.path == path  # type: ignore[union-attr]
        assert expanded(tree) == {"layers", "layers[0]", "layers[0].wq"}

    async def expanded_by_the_user(browser: Browser) -> None:
        await browser.go_to("layers[1].wq")
        await browser.press("right", "right")
        assert browser.path == "layers[1].wq.n_dims"
        await browser.go_to("hparams.n_embd")
        assert expanded(browser.tree) == {"layers", "layers[1]", "layers[1].wq", "hparams"}
        await browser.go_to("norm")
        assert expanded(browser.tree) == {"layers", "layers[1]", "layers[1].wq"}
        await browser.press("left", "left")
        assert browser.path == "norm"

    browse(ALICE, script=in_turn(revealed, expanded_by_the_user))


def test_at_first_what_there_is_room_for_is_expanded() -> None:
    for height, paths in ((20, set()), (90, {"hparams", "optimizer", "layers", "layers[0]"})):

        async def script(browser: Browser, height: int = height, paths: set[str] = paths) -> None:
            assert expanded(browser.tree) >= paths
            assert browser.rows <= height
            assert (browser.path, browser.tree.scroll_y) == ("magic", 0)

        browse(ALICE, size=(120, height), script=script)


def test_a_long_list_unfolds_in_groups(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_token_list([f"token {number}" for number in range(MANY + GROUP + 5)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    async def script(browser: Browser) -> None:
        await browser.press("slash")
        await browser.type(f"token {MANY + GROUP + 1}")
        await browser.press("enter")
        await browser.until(lambda: f"[{MANY + GROUP + 1}]" in (browser.path or ""))
        await browser.painted()
        node = browser.tree.cursor_node
        assert [each.data.path for each in node.parent.children] == [
            (browser.path or "").replace(str(MANY + GROUP + 1), str(number))
            for number in range(MANY + GROUP, MANY + GROUP + 5)
        ]
        groups = [each.data[1:] for each in node.parent.parent.children]
        assert groups == [*pairwise(range(0, MANY + GROUP + 1, GROUP)), (MANY + GROUP, MANY + GROUP + 5)]
        assert browser.rows < 50
        assert "[1,100 … 1,104]" in browser.text("TreeView")

    browse(path, script=script)


def test_on_a_narrow_terminal_names_of_tensors_are_whole_and_keys_have_their_values() -> None:
    async def script(browser: Browser) -> None:
        await browser.go_to("metadata_kv[12]")
        keys = browser.text(browser.tree)
        for value in ("ension_count  8", "_epsilon  1e-05", "'base'"):
            assert value in keys
        await browser.go_to("blk.0.ffn_up.weight")
        tensors = browser.text(browser.tree)
        for name in ("attn_norm", "attn_output", "ffn_norm", "ffn_gate"):
            assert f" blk.1.{name}.weight " in tensors

    browse(FIXTURES / "lora" / "base.gguf", script=script, size=(80, 24))


def test_a_field_with_a_finding_has_a_sign_and_so_has_what_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "n_mult.ggcp"
    path.write_bytes((FIXTURES / "twin-ff48.v1.ggcp").read_bytes())

    async def script(browser: Browser) -> None:
        lines = browser.text(browser.tree).splitlines()
        marked = [line.split("!")[1].split()[0] for line in lines if "! " in line]
        assert marked == ["hparams", "n_mult"]

    browse(path, script=script)
