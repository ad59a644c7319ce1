"""The names of fields, and the tensors that they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFValueType, GGUFWriter

from ggcp_schema.formats import open_file
from ggcp_schema.inspect.fields import Fields, holders
from ggcp_schema.inspect.paths import pieces, place
from ggcp_schema.inspect.text import float_text
from ggcp_schema.llama.names import TOKENS
from tests.helpers import FEW, FIXTURES, GENUINE, TRUNCATED, thinned

OTHERS = [TRUNCATED, FIXTURES / "alice-vocab.gguf", FIXTURES / "vocab.ggjt"]
FILES = thinned([*GENUINE, *OTHERS], [*FEW, *OTHERS])
LORA = FIXTURES / "lora"
NAMED = [LORA / "base.gguf", LORA / "base.ggjt", LORA / "adam.ggla"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_tensor_is_found_from_its_bytes_and_its_fields(path: Path) -> None:
    with open_file(path, partial=True) as file:
        fields = Fields(file)
        for tensor in file.tensors.values():
            if not tensor.nbytes:
                continue
            assert file.tensors.at(tensor.offset + tensor.nbytes - 1) == tensor
            leaf = file.at(tensor.offset)
            assert fields.tensor_of(leaf) == tensor
            assert fields.tensor_of(fields.field_of(tensor)) == tensor
            assert fields.element_at(tensor.offset + tensor.nbytes - 1, leaf) == tensor.n_elements - 1
            assert fields.element_at(tensor.offset + tensor.nbytes, leaf) is None
            assert fields.element_at(tensor.offset - 1, leaf) is None


def test_next_and_previous_walk_through_all_tensors() -> None:
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        every = [tensor for tensor in file.tensors.values() if tensor.nbytes]
        for step, expected in ((1, every), (-1, every[::-1])):
            at, found = (0 if step > 0 else file.size), []
            while (tensor := file.tensors.next_to(at, step)) is not None:
                found.append(tensor)
                at = tensor.offset
            assert found == expected


def test_a_leaf_that_is_no_tensor_has_none() -> None:
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        fields = Fields(file)
        assert fields.tensor_of(file.find("hparams.n_vocab")) is None
        assert fields.tensor_of(file.find("layers[0]")) is None
        assert fields.tensor_of(file.find("layers[0].wq.ne[1]")) == file.tensors["layers[0].wq"]


def test_what_a_header_says_of_a_tensor_leads_to_it() -> None:
    """So that its values are shown where a search found its name."""
    with open_file(FIXTURES / "lora" / "base.gguf") as file:
        fields = Fields(file)
        infos = file.find("tensor_infos").children()
        assert [fields.tensor_of(info) for info in infos] == [*file.tensors.values()]
        assert fields.tensor_of(file.find("tensor_infos[3].name")) is file.tensors["blk.0.attn_norm.weight"]
        assert fields.element_at(infos[3].offset, infos[3]) is None
        assert {fields.tensor_of(key) for key in file.find("metadata_kv").children()} == {None}
        assert fields.tensor_of(file.find("tensor_count")) is None


@pytest.mark.parametrize("path", [*FILES, *NAMED], ids=lambda path: path.name)
def test_every_label_leads_back_to_its_field(path: Path) -> None:
    with open_file(path, partial=True) as file:
        fields = Fields(file)
        every = [piece.field for piece in pieces(file, 0, file.size) if piece.field is not None]
        elements = [field for field in every if field.is_element]
        for field in (*(field for field in every if not field.is_element), *thinned(elements)):
            label = fields.label(field)
            assert file.find(label).path == field.path
            assert place(file, label) == (field.offset, field.size) or not field.size


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("metadata_kv[13].key", "general.name.key"),
        ("metadata_kv[13].value_type", "general.name.value_type"),
        ("metadata_kv[13].value", "general.name"),
        ("metadata_kv[13]", "metadata_kv[13]"),  # general.name is the value
        ("metadata_kv[17].value.array[3]", "tokenizer.ggml.tokens[3]"),
        ("metadata_kv[17].value.len", "tokenizer.ggml.tokens.value.len"),
        ("tensor_infos[4].dimensions[1]", "blk.0.attn_q.weight.dimensions[1]"),
        ("tensor_data[4].padding", "blk.0.attn_q.weight.padding"),
        ("tensor_data[4].data", "blk.0.attn_q.weight"),
        ("tensor_count", "tensor_count"),
    ],
)
def test_keys_and_tensors_have_their_own_names(path: str, label: str) -> None:
    with open_file(LORA / "base.gguf") as file:
        assert Fields(file).label(file.find(path)) == label


@pytest.mark.parametrize(
    ("name", "path", "meant"),
    [
        ("alice.ggcp", "blk.1.attn_q.weight.ne[0]", "layers[1].wq.ne[0]"),
        ("lora/base.gguf", "layers[1].wq", "tensor_data[13].data"),
        ("lora/base.gguf", "tokenizer.ggml.tokens[3]", "metadata_kv[17].value.array[3]"),
        ("lora/base.gguf", "general.name.nothing", None),
        ("lora/base.gguf", "general.name.", None),
        ("lora/adam.ggla", "norm.weight.loraA.ne[1]", "tensors[2].ne[1]"),
    ],
)
def test_a_path_goes_on_after_any_name(name: str, path: str, meant: str | None) -> None:
    with open_file(FIXTURES / name) as file:
        field = file.field(path)
        assert (field and field.path) == meant


def test_names_that_mean_something_else_are_no_labels(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "names.gguf", "llama")
    for key in ("version", "24", "new\nline", "twice", "twice.value_type"):
        writer.add_uint32(key, 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with open_file(tmp_path / "names.gguf") as file:
        records = file.find("metadata_kv").children()[1:]
        labels = [Fields(file).label(record.children()[1]) for record in records]
    assert labels == [
        "version.value_type",
        "24.value_type",
        "metadata_kv[3].value_type",
        "metadata_kv[4].value_type",
        "twice.value_type.value_type",
    ]


@pytest.mark.parametrize("path", [FIXTURES / "v0-adam.ggcp", LORA / "base.gguf"], ids=lambda path: path.name)
def test_the_starts_of_all_fields_are_found_one_after_the_other(path: Path) -> None:
    with open_file(path) as file:
        fields = Fields(file)
        starts = [leaf.offset for leaf in file.root.leaves() if leaf.size]
        assert [fields.next_start(start, 1) for start in starts] == [*starts[1:], starts[-1]]
        assert [fields.next_start(start, -1) for start in starts] == [0, *starts[:-1]]
        long = file.tensors.at(file.size - 64)
        assert long is not None
        assert fields.next_start(long.offset + 5, -1) == long.offset


def test_the_first_place_is_that_of_the_damage() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        field, offset = Fields(file).first_place()
        assert field is not None
        assert (field.path, offset) == ("layers[0].w3.name", file.size - 1)
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        field, offset = Fields(file).first_place()
        assert field is not None
        assert (field.path, offset) == ("magic", 0)


def test_bytes_after_damage_have_the_last_whole_field_before_them(tmp_path: Path) -> None:
    content = (FIXTURES / "alice-vocab.gguf").read_bytes()
    (tmp_path / "hole.gguf").write_bytes(content[:24] + b"\xff" * 2000)  # in place of the first key and all others
    with open_file(tmp_path / "hole.gguf", partial=True) as file:
        assert file.at(1000) is None
        assert Fields(file).next_start(1000, -1) == file.root.end - 1


def test_a_place_is_told_with_its_element_or_its_value() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        fields, wk = Fields(file), file.tensors["layers[0].wk"]
        value = float_text(float(wk.array()[2, 2]))
        offset = wk.offset + 4 * 130 + 3
        assert fields.place_text(file.at(offset), offset) == f"0x{offset:x}  layers[0].wk.data  element 130  {value}"
        assert fields.place_text(file.find("train_its"), 9) == "0x9  train_its  u32  6000"
        assert fields.place_text(file.find("train_its"), 12) == "0xc  not parsed: after the damage"


@pytest.mark.parametrize(("name", "value"), [("t27", "1009215778753167411"), ("t28", "2.2677372118036226e-236")])
def test_the_element_of_a_place_has_all_digits_of_its_type(name: str, value: str) -> None:
    with open_file(FIXTURES / "strange" / "all-types.gguf") as file:
        last = file.tensors[name].offset + file.tensors[name].nbytes - 1
        assert Fields(file).place_text(file.at(last), last) == f"0x{last:x}  {name}  element 511  {value}"


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
        assert Fields(file).token_texts is None


def test_groups_are_of_tensors_that_all_layers_have() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        groups = Fields(file).groups
    assert [tensor.path for tensor in groups["layers[*].wk"]] == [f"layers[{layer}].wk" for layer in range(3)]
    assert all(len(tensors) == 3 for tensors in groups.values())
    assert len(groups) == 9
