from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFValueType, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.browse.document import Document, holders
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.text import float_text
from ggcp_schema.inspect.usage import FIELDS, MODEL, PADDING, UNKNOWN, M, Region, Usage, V
from ggcp_schema.llama.names import TOKENS
from tests.helpers import FIXTURES, GENUINE, TRUNCATED

FILES = [*GENUINE, TRUNCATED, FIXTURES / "alice-vocab.gguf", FIXTURES / "vocab.ggjt"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_uses_are_the_file(path: Path) -> None:
    with open_file(path, partial=True) as file:
        document = Document(file)
        document.study(lambda result: None)
        assert document.usage is not None
        sizes = document.usage.sizes
        assert sum(sizes.values()) == file.size
        assert sum(sum(cell.values()) for cell in document.usage.cells) == file.size
        assert sizes[MODEL] == sum(t.nbytes for t in file.tensors.values() if not t.path.startswith("optimizer."))
        assert sizes[PADDING] == sum(tensor.padding for tensor in file.tensors.values())
        assert (sizes[UNKNOWN] > 0) <= (file.damage is not None)


def test_the_map_shows_m_and_v_where_the_moments_are() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        document = Document(file)
        document.study(lambda result: None)
        assert document.usage is not None
        cells = document.usage.pooled(200)
        for use, path in ((M, "optimizer.state.m"), (V, "optimizer.state.v")):
            tensor = file.tensors[path]
            middle = tensor.offset + tensor.nbytes // 2
            assert cells[200 * middle // file.size] == use


@given(st.lists(st.tuples(st.sampled_from([MODEL, V, FIELDS]), st.integers(0, 50)), min_size=1), st.integers(1, 40))
def test_a_cell_of_the_map_shows_what_most_of_its_bytes_are(parts: list[tuple[str, int]], cells: int) -> None:
    content = "".join(use[0] * size for use, size in parts)
    usage, at = Usage(len(content)), 0
    for use, size in parts:
        usage.add(Region(use, at, size))
        at += size
    for cell, use in enumerate(usage.pooled(cells) if content else []):
        start = len(content) * cell // cells
        part = content[start : max(len(content) * (cell + 1) // cells, start + 1)]
        assert part.count(use[0]) == max(part.count(letter) for letter in set(part))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_tensor_is_found_from_its_bytes_and_its_fields(path: Path) -> None:
    with open_file(path, partial=True) as file:
        document = Document(file)
        for tensor in file.tensors.values():
            if not tensor.nbytes:
                continue
            assert document.file.tensors.at(tensor.offset + tensor.nbytes - 1) == tensor
            leaf = file.at(tensor.offset)
            assert document.tensor_of(leaf) == tensor
            assert document.tensor_of(document.field_of(tensor)) == tensor
            assert document.element_at(tensor.offset + tensor.nbytes - 1, leaf) == tensor.n_elements - 1
            assert document.element_at(tensor.offset + tensor.nbytes, leaf) is None
            assert document.element_at(tensor.offset - 1, leaf) is None


def test_next_and_previous_walk_through_all_tensors() -> None:
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        document = Document(file)
        every = [tensor for tensor in file.tensors.values() if tensor.nbytes]
        for step, expected in ((1, every), (-1, every[::-1])):
            at, found = (0 if step > 0 else file.size), []
            while (tensor := document.file.tensors.next_to(at, step)) is not None:
                found.append(tensor)
                at = tensor.offset
            assert found == expected


def test_a_leaf_that_is_no_tensor_has_none() -> None:
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        document = Document(file)
        assert document.tensor_of(file.find("hparams.n_vocab")) is None
        assert document.tensor_of(file.find("layers[0]")) is None
        assert document.tensor_of(file.find("layers[0].wq.ne[1]")) == file.tensors["layers[0].wq"]


def test_what_a_header_says_of_a_tensor_leads_to_it() -> None:
    """So that its values are shown where a search found its name."""
    with open_file(FIXTURES / "lora" / "base.gguf") as file:
        document = Document(file)
        infos = file.find("tensor_infos").children()
        assert [document.tensor_of(info) for info in infos] == [*file.tensors.values()]
        assert document.tensor_of(file.find("tensor_infos[3].name")) is file.tensors["blk.0.attn_norm.weight"]
        assert document.element_at(infos[3].offset, infos[3]) is None
        assert {document.tensor_of(key) for key in file.find("metadata_kv").children()} == {None}
        assert document.tensor_of(file.find("tensor_count")) is None


def test_damage_is_marked_with_all_that_hold_it() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        marks = Document(file).marks
    assert marks == dict.fromkeys(("layers[0].w3.padding", "layers[0].w3", "layers[0]", "layers"), "damage")


def test_a_place_is_told_with_its_element_or_its_value() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        document, wk = Document(file), file.tensors["layers[0].wk"]
        value = float_text(float(wk.array()[2, 2]))
        offset = wk.offset + 4 * 130 + 3
        assert document.place_text(file.at(offset), offset) == f"0x{offset:x}  layers[0].wk.data  element 130  {value}"
        assert document.place_text(file.find("train_its"), 9) == "0x9  train_its  u32  6000"
        assert document.place_text(file.find("train_its"), 12) == "0xc  no field: after the damage"


def test_holders() -> None:
    assert list(holders("layers[3].wq.ne[1]")) == ["layers[3].wq.ne", "layers[3].wq", "layers[3]", "layers"]
    assert list(holders("magic")) == []


@pytest.mark.parametrize("tokens", [[60, 117], "text"])
def test_tokens_that_are_no_texts_are_not_shown(tmp_path: Path, tokens: list[int] | str) -> None:
    writer = GGUFWriter(tmp_path / "tokens.gguf", "llama")
    writer.add_key_value(TOKENS, tokens, GGUFValueType.get_type(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with open_file(tmp_path / "tokens.gguf") as file:
        assert Document(file).token_texts is None


def test_groups_are_of_tensors_that_all_layers_have() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        groups = Document(file).groups
    assert [tensor.path for tensor in groups["layers[*].wk"]] == [f"layers[{layer}].wk" for layer in range(3)]
    assert all(len(tensors) == 3 for tensors in groups.values())
    assert len(groups) == 9
