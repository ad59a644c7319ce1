"""Paths, slices and byte ranges, checked against numpy, GGUFReader and the bytes of the files."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import MalformedError, PathError, UsageError, convert, open_file
from ggcp_schema.inspect.paths import pieces, place
from ggcp_schema.llama.keys import paths_by_key
from tests.builder import build_checkpoint
from tests.helpers import FEW, FIXTURES, GENUINE, TRUNCATED, thinned
from tests.samples import DOUBLES, FAST, KINDS, TOKENS, sample
from tests.strategies import checkpoints

ADAM = FIXTURES / "v1-adam.ggcp"
INDICES = st.none() | st.integers(-30, 30)
NUMBERS = {
    "bool": "?",
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "u64": "Q",
    "i64": "q",
    "f32": "f",
    "f64": "d",
}


# The tree --------------------------------------------------------------------------------------------------


def assert_tiles(file, data, order="<"):
    """The leaves cover the bytes without gap or overlap, and the value of each is what its bytes say."""
    end = 0
    for leaf in file.root.leaves():
        assert leaf.offset == end, leaf
        end += leaf.size
        raw = data[leaf.offset : end]
        if leaf.type in NUMBERS:
            (expected,) = struct.unpack(order + NUMBERS[leaf.type], raw)
            assert leaf.value == expected or (math.isnan(expected) and math.isnan(leaf.value)), leaf
        elif leaf.type in {"padding", "char", "bytes"}:
            assert leaf.value == raw
        elif leaf.type == "string":
            assert raw[8:] == leaf.value.encode("utf-8", "surrogateescape")
        elif leaf.type == "data":
            assert (leaf.value.offset, leaf.value.nbytes) == (leaf.offset, leaf.size)
        else:
            assert leaf.type == "derived"
            assert not raw
    assert end == len(data)


OTHERS = [FIXTURES / "vocab.gguf", FIXTURES / "alice-vocab.ggjt"]
FILES = thinned([*GENUINE, *OTHERS], [*FEW, *OTHERS])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_leaves_tile_a_genuine_file(path):
    with open_file(path) as file:
        assert_tiles(file, path.read_bytes())
        paths = [leaf.path for leaf in file.root.leaves()]
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("kind", KINDS)
def test_the_leaves_tile_a_file_of_any_format(kind, tmp_path):
    path = sample(kind, tmp_path)
    with open_file(path) as file:
        assert_tiles(file, path.read_bytes(), ">" if kind == "gguf-big" else "<")


@given(checkpoints())
def test_the_leaves_tile_any_checkpoint(tmp_path_factory, built):
    path = tmp_path_factory.getbasetemp() / "any.ggcp"
    path.write_bytes(built.data)
    with open_file(path) as file:
        assert_tiles(file, built.data)


def test_elements_in_sequence_are_those_by_index():
    with open_file(FIXTURES / "vocab.gguf") as file:
        tokens = file.find("tokenizer.ggml.tokens")
        children = tokens.children()
        found = list(tokens.elements(60, 140))
        assert [(f.path, f.offset, f.size, f.value) for f in found] == [
            (f.path, f.offset, f.size, f.value) for f in (children[index] for index in range(60, 140))
        ]


# Values ----------------------------------------------------------------------------------------------------


@given(start=INDICES, stop=INDICES)
def test_slices_are_those_of_python(start, stop):
    with open_file(ADAM) as file:
        expected = np.frombuffer(ADAM.read_bytes(), "<f4", 16, file.find("norm.data").offset)
        text = f"{'' if start is None else start}:{'' if stop is None else stop}"
        found = file.values(f"norm.data[{text}]")
        assert found.value() == expected[start:stop].tolist()
        assert found.size == 4 * len(expected[start:stop])


@given(st.integers(-16, 15))
def test_an_element_lies_where_it_says(index):
    data = ADAM.read_bytes()
    with open_file(ADAM) as file:
        found = file.values(f"norm[{index}]")
        assert struct.unpack_from("<f", data, found.offset) == (found.value(),)
        assert found.offset == file.find("norm.data").offset + 4 * (index % 16)


@pytest.mark.parametrize("kind", ["gguf", "gguf-big"])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "half", "brain"])
def test_every_element_type_and_byte_order_is_decoded(kind, name, tmp_path):
    with open_file(sample(kind, tmp_path)) as file:
        assert file.values(name).value() == FAST.reshape(-1).tolist()
        assert file.values(f"{name}[7:9]").value() == FAST.reshape(-1)[7:9].tolist()


def test_tensors_have_their_names_in_every_format(tmp_path):
    expected = FAST.reshape(-1)[:2].tolist()
    with open_file(sample("gguf", tmp_path)) as file:
        for name in ("blk.0.attn_q.weight", "blk.0.attn_q.weight.data", "layers[0].wq", "layers[0].wq.data"):
            assert file.values(f"{name}[0:2]").value() == expected, name
            assert np.array_equal(file[name], FAST), name
    with open_file(sample("ggjt3", tmp_path)) as file:
        for name in ("layers.0.attention.wq.weight", "blk.0.attn_q.weight", "layers[0].wq", "layers[0].wq.data"):
            assert file.values(f"{name}[0:2]").value() == expected, name
            assert np.array_equal(file[name], FAST), name
    with open_file(ADAM) as file:
        for name in ("blk.1.attn_q.weight", "blk.1.attn_q.weight.data", "layers[1].wq", "layers[1].wq.data"):
            assert file.values(f"{name}[-1]").value() == file.tensors["layers[1].wq"].array()[-1, -1], name


def test_quantized_elements_are_refused(tmp_path):
    for kind, name in (("gguf-big", "quantized"), ("ggjt1", "layers.0.feed_forward.w1.weight")):
        with (
            open_file(sample(kind, tmp_path)) as file,
            pytest.raises(UsageError, match=r"its type is Q[48]_0"),
        ):
            file.values(f"{name}[0]")


@pytest.mark.parametrize("kind", ["gguf", "gguf-big"])
def test_keys_are_those_of_another_reader(kind, tmp_path):
    path = sample(kind, tmp_path)
    fields = {name: field.contents() for name, field in GGUFReader(path).fields.items() if not name.startswith("GGUF.")}
    with open_file(path) as file:
        for name, value in fields.items():
            found = file.values(name).value()
            assert found == value, name
            if isinstance(value, list):
                assert file.values(f"{name}[1:-1]").value() == value[1:-1]
                assert file.values(f"{name}[-1]").value() == value[-1]
    assert fields["tokenizer.ggml.tokens"] == TOKENS


def test_float64_values_are_not_rounded(tmp_path):
    from gguf import GGUFWriter

    path = tmp_path / "doubles.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_float64("x.one", DOUBLES[0])
    writer.add_key_value("x.many", DOUBLES, vtype=9, sub_type=12)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with open_file(path) as file:
        assert file.values("x.one").value() == DOUBLES[0]
        assert file.values("x.many").value() == DOUBLES
        assert file.values("x.many").type == "f64"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("norm.data[16]", "no element [16]\nIt has 16 elements."),
        ("norm.data[-17]", "no element [-17]"),
        ("norm.data[-]", "no element [-]"),
        ("norm.data[]", "no element []"),
        ("norm.data[0:4:2]", "no element [0:4:2]"),
        (f"norm.data[{'9' * 5000}]", "no element [99999"),
        (f"norm.data[:{'9' * 5000}]", "no element [:9999"),
        ("optimizer.state.pf.data[0]", "no element [0]\nIt is empty."),
        ("layers[2]", "no element [2]\nIt has 2 elements."),
        ("layers", "is a list of 2 records, not a value\nIts elements are layers[0] to layers[1]."),
        ("hparams", "is a record, not a value\nIts fields are: n_vocab, n_embd, n_mult, n_head, n_layer, n_rot."),
        ("layers[1].wq", "is a tensor, not a value\nIts values are layers[1].wq.data"),
        ("train_its[0]", "is a single value, not a list"),
        ("hparams[0]", "is a record, not a value"),
    ],
)
def test_what_is_not_a_value_is_said(path, expected):
    with open_file(ADAM) as file, pytest.raises(UsageError) as caught:
        file.values(path).value()
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_unknown_path_is_compared_with_those_that_exist():
    with open_file(ADAM) as file:
        for path in ("layers[0].qw", "layers[0].qw[0:4]", "layers[0].qw.data"):
            with pytest.raises(PathError, match=r"Did you mean .*layers\[0\].wq"):
                file.values(path)


def test_after_the_damage_the_damage_is_the_error():
    with open_file(TRUNCATED, partial=True) as file:
        for path in ("optimizer.nx", "layers[0].w3.data", "layers[0].w3.data[0]", "layers[1].wq[0:4]", "layers[7]"):
            with pytest.raises(MalformedError) as caught:
                file.values(path)
            assert caught.value.path == "layers[0].w3.padding", path
        with pytest.raises(UsageError):
            file.values("norm.data[99]")  # this list is whole


# Moments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "orders/aug-lbfgs-B-1.ggcp", "rotmax8-v0.ggcp", "twin-lbfgs.v1.ggcp"])
def test_the_part_of_x_that_belongs_to_a_parameter_is_that_parameter(name):
    """In these files x, the optimizer's copy of the parameters, equals the model's weights: in order A, B, C and C."""
    with open_file(FIXTURES / name) as file:
        for parameter in ("tok_embeddings", "norm", "layers[0].wq", "layers[0].w2"):
            weights = file.tensors[parameter].array().reshape(-1)
            assert file.values(f"optimizer.state.x[{parameter}]").value() == weights.tolist()
            assert np.array_equal(file[f"optimizer.state.x[{parameter}]"], file[parameter])
            assert file.values(f"optimizer.state.x[{parameter}][-3:]").value() == weights[-3:].tolist()


def test_moments_by_gguf_names_are_the_same():
    with open_file(FIXTURES / "orders" / "aug-B-3.ggcp") as file:
        found = file.values("optimizer.state.m[layers[0].wq][0:4]")
        assert found.value() == file.values("optimizer.adam.first_moments[blk.0.attn_q.weight][0:4]").value()
        m = file.tensors["optimizer.state.m"]
        assert m.offset <= found.offset < m.offset + m.nbytes


def test_columns_of_lbfgs_memory():
    with open_file(FIXTURES / "twin-lbfgs.v1.ggcp") as file:
        lms, norm = file.tensors["optimizer.state.lms"], file.tensors["norm"]
        x = file.tensors["optimizer.state.x"].array()
        start = next(i for i in range(len(x)) if np.array_equal(x[i : i + norm.n_elements], norm.array()))
        expected = lms.array()[:, start : start + norm.n_elements].reshape(-1)
        assert file.values("optimizer.state.lms[norm]").value() == expected.tolist()


def test_moments_whose_order_is_not_known():
    not_known = r"which values of optimizer.state.m belong to norm is not known: v has rows"
    with open_file(FIXTURES / "orders" / "17a-B-3.ggcp") as file:
        with pytest.raises(UsageError, match=not_known) as caught:
            file.values("optimizer.state.m[norm]")
        assert "moments(order=" in caught.value.hint
        assert file.moments("norm", order="B")["m"].shape == file["norm"].array().shape


def test_moments_of_no_parameter():
    with open_file(ADAM) as file:
        with pytest.raises(PathError, match=r"no parameter 'layers\[9\].wq'"):
            file.values("optimizer.state.m[layers[9].wq]")
        with pytest.raises(UsageError, match=r"has no field 'optimizer.state.x'"):
            file.values("optimizer.state.x[norm]")


# Bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ADAM, TRUNCATED, FIXTURES / "vocab.gguf"], ids=lambda path: path.name)
@given(data=st.data())
def test_pieces_tile_the_range_and_lie_in_their_fields(path, data):
    with open_file(path, partial=True) as file:
        offset = data.draw(st.integers(0, file.size - 1))
        size = data.draw(st.integers(1, 2000))
        at = offset
        for piece in pieces(file, offset, size):
            assert piece.offset == at
            assert piece.size > 0
            at += piece.size
            holder = file.at(piece.offset)
            assert piece.path == ("" if holder is None else holder.path)
            if holder is not None:
                assert at <= holder.end
        assert at == min(offset + size, file.size)


def test_bytes_after_damage_belong_to_no_field(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:54])
    with open_file(path, partial=True) as file:
        found = [(piece.path, piece.offset, piece.size) for piece in pieces(file, 48, 6)]
    assert found == [("tok_embeddings.name_len", 48, 4), ("", 52, 2)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("magic", (0, 4)),
        ("0x28", (40, None)),
        ("40:8", (40, 8)),
        ("0X28:0x10", (40, 16)),
        ("hparams", (20, 24)),
        ("hparams.n_embd:2", (24, 2)),
        ("norm.data[1:3]", (20612, 8)),
        ("norm.data[1:3]:2", (20612, 2)),
        ("blk.0.attn_q.weight[0]", (41408, 4)),
        ("norm.data", (20608, 64)),
    ],
)
def test_places(where, expected):
    with open_file(ADAM) as file:
        assert place(file, where) == expected


NO_PLACES = [
    "205196",
    "-1",
    "0x",
    "norm:",
    "norm:x",
    ":",
    "999999999999:1",
    "0:-4",
    "0:0",
    "0:1_0",
    f"0:{'9' * 5000}",
    "9" * 5000,
    "optimizer.type",
    "optimizer.state.pf.data",
    "norm.data[3:3]",
    "norm.data[99]",
    "nonsense",
]


@pytest.mark.parametrize("where", NO_PLACES, ids=lambda where: where[:20])
def test_places_that_do_not_exist(where):
    with open_file(ADAM) as file, pytest.raises(UsageError) as caught:
        place(file, where)
    assert str(caught.value)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path):
    from ggcp_schema import FileError
    from ggcp_schema.inspect.paths import reading

    path = tmp_path / "x.gguf"
    path.write_bytes((FIXTURES / "vocab.gguf").read_bytes())
    with open_file(path) as file:
        with path.open("r+b") as other:
            other.truncate(2000)
        with pytest.raises(FileError, match="changed by another program"), reading(file):
            list(file.root.leaves())


def test_many_layers_are_listed_lazily(tmp_path):
    """A leaf of the first layer comes before the second layer's fields are made."""
    path = tmp_path / "deep.ggcp"
    path.write_bytes(build_checkpoint(n_layer=50))
    with open_file(path) as file:
        layers = file.find("layers").children()
        made = []
        original = type(layers).__getitem__
        try:
            type(layers).__getitem__ = lambda self, index: made.append(index) or original(self, index)
            for leaf in file.find("layers").leaves():
                if leaf.path == "layers[0].w3.data":
                    break
        finally:
            type(layers).__getitem__ = original
    assert 49 not in made


@pytest.mark.parametrize(
    "name", ["alice.ggcp", "v1-adam-past5.ggcp", "v1-lbfgs.ggcp", "lora/adam.ggcl", "lora/lbfgs.ggcl"]
)
def test_a_key_and_its_field_have_both_names_in_both_formats(name, tmp_path):
    path = FIXTURES / name
    convert(path, tmp_path / "out.gguf", sync=False)
    theirs = GGUFReader(tmp_path / "out.gguf").fields
    with open_file(path) as file, open_file(tmp_path / "out.gguf") as gguf:
        both = {
            key: field for key, field in paths_by_key(file["optimizer.type"]).items() if key in theirs and field in file
        }
        assert len(both) >= 14
        for key, field in both.items():
            assert file[key] == file[field] == theirs[key].contents()
            assert gguf[key] == gguf[field] == theirs[key].contents()


def test_the_data_of_a_part_of_a_vector_is_the_part() -> None:
    with open_file(FIXTURES / "v1-adam.ggcp") as file:
        part = "optimizer.state.m[layers[0].wq]"
        assert file.get(f"{part}.data") == file.get(part)
        assert file.get(f"{part}.data[1:3]") == file.get(part)[1:3]
