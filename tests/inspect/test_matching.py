"""Files of all layouts and formats are mapped onto each other."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given

from ggcp_schema import convert, open_file
from ggcp_schema.inspect.tensors import select
from ggcp_schema.llama.parameters import permuted_extents
from tests.helpers import FIXTURES, ONE_OF_EACH, TRUNCATED
from tests.inspect.comparing import ADAM, compared, converted, differing, exported, row_of
from tests.samples import GGML_KINDS, sample
from tests.strategies import checkpoints

TWINS = ["twin-adam", "twin-ff48", "twin-lbfgs"]
JUNE = FIXTURES / "orders" / "jun-A-3.ggcp"  # order A, gradients summed


# Files of other layouts and formats ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "verbatim"),
    [*((path, False) for path in ONE_OF_EACH), (JUNE, True), (FIXTURES / "v0-adam.ggcp", True)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_checkpoint_and_its_gguf_are_equal_both_ways(path, verbatim, tmp_path):
    out = converted(path, tmp_path, verbatim=verbatim)
    for pair in ((path, out), (out, path)):
        found = compared(*pair)
        assert found.equal
        assert not differing(found)
        ignored = {row.name for row in found.omitted if not row.name.startswith("optimizer.state.")}
        assert "llama.attention.layer_norm_rms_epsilon" in ignored
    same = compared(out, out)
    assert same.equal
    assert not same.omitted


@pytest.mark.parametrize("twin", TWINS)
def test_one_training_in_two_layouts_is_equal(twin):
    found = compared(FIXTURES / f"{twin}.v0.ggcp", FIXTURES / f"{twin}.v1.ggcp")
    assert found.equal
    dropped = [] if twin == "twin-lbfgs" else [f"optimizer.state.{name}" for name in ("x", "g1", "g2", "mh", "vh")]
    assert [row.name for row in found.omitted] == dropped
    assert all(row.side == "A" for row in found.omitted)
    assert {row.name for row in found.tensors} >= {"token_embd.weight", "blk.0.ffn_up.weight"}


@pytest.mark.parametrize("fixture", ["twin-ff48.v0.ggcp", "rotmax8-v1.ggcp"])
def test_a_model_has_the_weights_of_its_checkpoint(fixture, tmp_path):
    path = FIXTURES / fixture
    model = exported(path, tmp_path)
    for pair in ((path, model), (model, path), (converted(path, tmp_path), model)):
        found = compared(*pair)
        assert found.equal
        assert {row.name for row in found.fields} >= {"llama.embedding_length", "llama.block_count"}
        with open_file(model) as file:
            assert {row.name for row in found.tensors} == set(file.tensors)
        assert any(row.name.startswith("optimizer.") for row in found.omitted)
        assert any(row.name == "tokenizer.ggml.tokens" for row in found.omitted)


def test_a_rotation_that_is_stated_in_another_way_is_the_same(tmp_path):
    path = FIXTURES / "rotmax8-v0.ggcp"
    ours, theirs = converted(path, tmp_path), tmp_path / "theirs.gguf"
    convert(path, theirs, verbatim=True)  # rope.dimension_count is n_rot, and there is no freq_base
    found = compared(ours, theirs)
    assert row_of(found, "n_rot").a.value == 8
    assert "llama.rope.dimension_count" not in differing(found)
    other = tmp_path / "other.ggcp"
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 40, 6)
    other.write_bytes(data)
    assert differing(compared(other, ours)) == {"n_rot": "different"}


@pytest.mark.parametrize("kind", ["gguf", "gguf-big", *GGML_KINDS])
def test_every_element_type(kind, tmp_path):
    path, other = sample(kind, tmp_path), tmp_path / "other"
    data = path.read_bytes()
    assert compared(path, path).equal
    with open_file(path) as file:
        tensors = list(file.tensors.values())
    assert {"F32", "F16"} < {tensor.type for tensor in tensors}
    for tensor in tensors:
        edited = bytearray(data)
        edited[tensor.offset + tensor.nbytes - 1] ^= 8
        other.write_bytes(edited)
        found = compared(path, other)
        assert differing(found) == {tensor.path: "different"}
        assert row_of(found, tensor.path).differing == (1 if tensor.is_readable else None)


def test_models_of_2023_with_a_checkpoint(tmp_path):
    """A ggjt file of the weights of a checkpoint, as the trainer wrote its models."""
    path = FIXTURES / "v0-adam.ggcp"
    with open_file(path) as file:
        tensors = {name: tensor for name, tensor in file.tensors.items() if not name.startswith("optimizer")}
        hparams = [
            file.get(f"hparams.{name}") for name in ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot")
        ]
    out = bytearray(struct.pack("<9I", 0x67676A74, 3, *hparams, 0))
    for index in range(hparams[0]):
        out += struct.pack("<I", 4) + b"%04d" % index + struct.pack("<f", 0.0)
    data = path.read_bytes()
    for tensor in tensors.values():
        name = tensor.name.encode()
        out += struct.pack(f"<3I{len(tensor.shape)}I", len(tensor.shape), len(name), 0, *tensor.shape) + name
        out += bytes(-len(out) % 32) + data[tensor.offset : tensor.offset + tensor.nbytes]
    model = tmp_path / "model.ggjt"
    model.write_bytes(out)
    for found in (compared(path, model), compared(model, path)):
        assert found.equal
        assert len(found.tensors) == 12
        assert {row.name for row in found.fields} >= {"llama.embedding_length", "llama.rope.dimension_count"}
    struct.pack_into("<f", out, len(out) - 4, 9.0)
    model.write_bytes(out)
    assert differing(compared(path, model)) == {"blk.0.ffn_up.weight": "different"}
    struct.pack_into("<f", out, 36 + 8, 3.0)
    (tmp_path / "other.ggjt").write_bytes(out)
    assert differing(compared(model, tmp_path / "other.ggjt")) == {"tokens[0].score": "different"}


@given(checkpoints())
def test_any_checkpoint_equals_itself(tmp_path_factory, checkpoint):
    path = tmp_path_factory.getbasetemp() / "any.ggcp"
    path.write_bytes(checkpoint.data)
    found = compared(path, path)
    assert found.equal
    assert not found.omitted


# Moments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", ["A", "B"])
def test_one_training_in_two_orders_is_equal_by_parameter(stated, tmp_path):
    """A trainer's GGUF file in order B, or A, and the same in order C."""
    one, other = converted(JUNE, tmp_path), tmp_path / "other.gguf"
    data = bytearray(one.read_bytes())
    with open_file(one) as file:
        training = file.training()
        for vector in training.vectors.values():
            extents = permuted_extents(vector, "C", stated, training.model.tensors)
            moved = b"".join(bytes(file.source.read(offset, size)) for offset, size in extents)
            data[vector.offset : vector.offset + vector.nbytes] = moved
    other.write_bytes(data)
    found = compared(one, other)
    assert found.equal
    assert found.notes == [
        "A: the optimizer's vectors are in order C",
        f"B: the optimizer's vectors are in order {stated}",
        "the optimizer's vectors were compared by parameter",
    ]


def test_a_changed_moment_is_found_by_its_parameter(tmp_path):
    out = converted(JUNE, tmp_path)
    data = bytearray(JUNE.read_bytes())
    with open_file(JUNE) as file:
        (part,) = select(file, "optimizer.state.m[layers[1].wv]")
    struct.pack_into("<f", data, part.tensor.offset + 8, 1e3)
    path = tmp_path / "changed.ggcp"
    path.write_bytes(data)
    assert differing(compared(path, JUNE)) == {"optimizer.state.m[layers[1].wv]": "different"}
    assert differing(compared(path, out)) == {"optimizer.adam.first_moments[blk.1.attn_v.weight]": "different"}


def test_columns_of_the_memory_of_lbfgs_in_two_orders(tmp_path):
    path = FIXTURES / "orders" / "aug-lbfgs-B-1.ggcp"
    out = converted(path, tmp_path)
    found = compared(path, out)
    assert found.equal
    assert "optimizer.lbfgs.memory_s" in {row.name for row in found.tensors}
    with open_file(path) as file:
        lms = file.tensors["optimizer.state.lms"]
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, lms.offset + lms.nbytes - 4, 7.0)
    (tmp_path / "x.ggcp").write_bytes(data)
    assert differing(compared(tmp_path / "x.ggcp", out)) == {"optimizer.lbfgs.memory_s": "different"}


def test_undecidable_orders_are_compared_as_they_are():
    path = FIXTURES / "orders" / "17a-B-3.ggcp"
    found = compared(path, path)
    assert found.equal
    assert "optimizer.state.m" in {row.name for row in found.tensors}


# Damage ----------------------------------------------------------------------------------------------------


def test_what_damage_hides_is_ignored():
    assert compared(TRUNCATED, TRUNCATED).equal
    found = compared(FIXTURES / "twin-lbfgs.v0.ggcp", TRUNCATED)
    assert "only-a" not in differing(found).values()
    assert all(row.reason == "hidden by B's damage" for row in found.omitted)


def test_a_damaged_checkpoint_and_a_gguf(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:100_000])
    found = compared(path, converted(ADAM, tmp_path))
    assert found.equal
    assert [row.name for row in found.tensors][:3] == ["token_embd.weight", "output_norm.weight", "output.weight"]
