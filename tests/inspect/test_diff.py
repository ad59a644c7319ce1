"""Comparing files of all layouts and formats: mapped onto each other, against numpy, with known changes."""

from __future__ import annotations

import math
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema import FileError, convert, export_model, open_file
from ggcp_schema.checkpoint.order import permuted_extents
from ggcp_schema.inspect.diff import EQUAL, compare
from ggcp_schema.inspect.tensors import select
from ggcp_schema.mapping.training import training_of
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED
from tests.samples import GGML_KINDS, sample
from tests.strategies import checkpoints

ADAM, LBFGS = FIXTURES / "v1-adam.ggcp", FIXTURES / "v1-lbfgs.ggcp"
TWINS = ["twin-adam", "twin-ff48", "twin-lbfgs"]
JUNE = FIXTURES / "orders" / "jun-A-3.ggcp"  # order A, gradients summed


def compared(a, b, **options):
    with open_file(a, partial=True) as left, open_file(b, partial=True) as right:
        return compare(left, right, **options)


def differing(found):
    return {row.name: row.verdict for row in [*found.fields, *found.tensors] if row.verdict != EQUAL}


def row_of(found, name):
    return next(row for row in [*found.fields, *found.tensors] if row.name == name)


def converted(path, tmp_path, **options):
    out = tmp_path / f"{path.name}.gguf"
    convert(path, out, **options)
    return out


def exported(path, tmp_path):
    out = tmp_path / f"{path.name}.model.gguf"
    export_model(path, out, vocab=FIXTURES / "vocab.gguf", context_length=32)
    return out


@pytest.fixture
def changed(tmp_path):
    """v1-adam with another iteration count, one weight of the embeddings NaN and one of the output 1 larger."""
    data = bytearray(ADAM.read_bytes())
    with open_file(ADAM) as file:
        nan, weight = file.tensors["tok_embeddings"].offset + 400, file.tensors["output"].offset + 4
    struct.pack_into("<I", data, 8, 13)
    struct.pack_into("<f", data, nan, math.nan)
    struct.pack_into("<f", data, weight, struct.unpack_from("<f", data, weight)[0] + 1)
    path = tmp_path / "changed.ggcp"
    path.write_bytes(data)
    return path


# Files of other layouts and formats ------------------------------------------------------------------------


@pytest.mark.parametrize("verbatim", [False, True])
@pytest.mark.parametrize("path", [*GENUINE, JUNE], ids=lambda path: path.name)
def test_a_checkpoint_and_its_gguf_are_equal_both_ways(path, verbatim, tmp_path):
    out = converted(path, tmp_path, verbatim=verbatim)
    for pair in ((path, out), (out, path)):
        found = compared(*pair)
        assert found.equal
        assert not differing(found)
        ignored = {row.name for row in found.omitted if not row.name.startswith("optimizer.state.")}
        assert "llama.attention.layer_norm_rms_epsilon" in ignored
    assert compared(out, out).equal
    assert not compared(out, out).omitted


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
        edited[tensor.offset + tensor.nbytes - 1] ^= 1
        other.write_bytes(edited)
        found = compared(path, other)
        assert differing(found) == {tensor.path: "different"}
        assert row_of(found, tensor.path).differing == (None if tensor.type.startswith("Q") else 1)


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


@settings(max_examples=25)
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
        training = training_of(file)
        for vector in training.vectors.values():
            extents = permuted_extents(vector, "C", stated, training.model)
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


# What differs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_gguf", [(), ("a",), ("b",), ("a", "b")])
def test_a_changed_file_differs_on_either_side(to_gguf, changed, tmp_path):
    a = converted(ADAM, tmp_path) if "a" in to_gguf else ADAM
    b = converted(changed, tmp_path) if "b" in to_gguf else changed
    names = ("training.iteration_count", "token_embd.weight", "output.weight")
    if not to_gguf:
        names = ("train_its", "tok_embeddings", "output")
    found = compared(a, b)
    assert differing(found) == dict.fromkeys(names, "different")
    counts, nan, one = (row_of(found, name) for name in names)
    assert (counts.a.value, counts.b.value) == (12, 13)
    assert (nan.differing, nan.largest, nan.rms, nan.relative) == (1, math.inf, math.inf, math.inf)
    assert one.differing == 1
    assert one.largest == pytest.approx(1, rel=1e-6)
    assert one.rms == pytest.approx(math.sqrt(1 / (16 * 320)), rel=1e-6)


def test_names_in_the_records_are_compared_but_padding_is_not(tmp_path):
    a, b, c = (tmp_path / f"{name}.ggcp" for name in "abc")
    a.write_bytes(build_checkpoint())
    b.write_bytes(build_checkpoint(padding=lambda count: b"x" * count))
    c.write_bytes(build_checkpoint(name=lambda name: name.replace("norm", "Norm!").encode()))
    assert compared(a, b).equal
    assert set(differing(compared(a, c))) == {"norm.name", "layers[0].attention_norm.name", "layers[0].ffn_norm.name"}


def test_tensors_missing_on_one_side_or_reshaped():
    found = compared(ADAM, LBFGS)
    verdicts = differing(found)
    assert verdicts["layers[1].wq"] == "only in A"
    assert verdicts["optimizer.state.d"] == "only in B"
    norm = row_of(found, "norm")
    assert (norm.verdict, norm.a.shape, norm.b.shape, norm.differing, norm.largest) == (
        "different",
        (16,),
        (8,),
        None,
        None,
    )


def arrays_of(path, values):
    """A checkpoint whose embeddings are these values."""
    draws = iter([np.asarray(values, np.float32)])
    path.write_bytes(
        build_checkpoint(n_vocab=1, n_embd=len(values), n_layer=0, data=lambda count: next(draws, np.zeros(count)))
    )
    return path


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, 1.0000001])
PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(*[arrays.arrays(np.float32, n, elements=FLOATS)] * 2))


@given(PAIRS, st.sampled_from([0.0, 1e-6, 0.1, 2.0]), st.sampled_from([0.0, 1e-3, 10.0]))
def test_tolerances_are_those_of_numpy(tmp_path_factory, pair, rtol, atol):
    folder = tmp_path_factory.getbasetemp()
    a, b = (arrays_of(folder / f"{name}.ggcp", values) for name, values in zip("ab", pair, strict=True))
    row = row_of(compared(a, b, rtol=rtol, atol=atol), "tok_embeddings")
    x, y = (values.astype(np.float64) for values in pair)
    same = pair[0].view(np.uint32) == pair[1].view(np.uint32)
    with np.errstate(invalid="ignore"):
        close = same | np.isclose(x, y, rtol=rtol, atol=atol)
        apart = np.where(same, 0, np.nan_to_num(abs(x - y), nan=math.inf, posinf=math.inf))
    assert row.differing == (~close).sum()
    assert row.largest == apart.max()
    assert row.rms == pytest.approx(math.sqrt(np.mean(np.square(apart))))
    assert (row.verdict == EQUAL) == close.all()


def test_nans_of_other_bits_differ_without_a_warning(tmp_path):
    a, b = (tmp_path / f"{name}.ggcp" for name in "ab")
    one, other = (np.full(4, bits, np.uint32).view(np.float32) for bits in (0x7FA00001, 0x7FC00000))
    draws = {a: one, b: other}
    for path, values in draws.items():
        arrays_of(path, values)
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, len(data) - 12, int(values.view(np.uint32)[0]))  # fx_best
        path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert differing(compared(a, b)) == {"tok_embeddings": "different", "optimizer.state.fx_best": "different"}
        assert compared(a, a).equal


def test_a_tolerance_holds_for_fields_too(tmp_path):
    a, b = tmp_path / "a.ggcp", tmp_path / "b.ggcp"
    a.write_bytes(build_checkpoint(state={"fx_best": 5.0}))
    b.write_bytes(build_checkpoint(state={"fx_best": 5.5}))
    assert differing(compared(a, b)) == {"optimizer.state.fx_best": "different"}
    assert compared(a, b, atol=0.5).equal
    assert compared(a, b, rtol=0.1).equal
    assert not compared(a, b, rtol=0.05).equal


def test_tensors_of_several_chunks(tmp_path):
    values = np.random.default_rng(0).standard_normal((1 << 19) + 5).astype(np.float32)
    other = values.copy()
    other[[0, 1 << 19, -1]] += 1
    found = compared(arrays_of(tmp_path / "a.ggcp", values), arrays_of(tmp_path / "b.ggcp", other))
    assert row_of(found, "tok_embeddings").differing == 3


def test_a_file_that_is_changed_meanwhile(tmp_path):
    path = tmp_path / "x.ggcp"
    path.write_bytes(ADAM.read_bytes())

    def change(nbytes):
        path.write_bytes(ADAM.read_bytes()[:-1])

    with pytest.raises(FileError, match="changed by another program"):
        compared(ADAM, path, progress=change)


# Damage ----------------------------------------------------------------------------------------------------


def test_what_damage_hides_is_ignored():
    assert compared(TRUNCATED, TRUNCATED).equal
    found = compared(FIXTURES / "twin-lbfgs.v0.ggcp", TRUNCATED)
    assert "only in A" not in differing(found).values()
    assert all(row.reason == "hidden by B's damage" for row in found.omitted)


def test_a_damaged_checkpoint_and_a_gguf(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:100_000])
    found = compared(path, converted(ADAM, tmp_path))
    assert found.equal
    assert [row.name for row in found.tensors][:3] == ["token_embd.weight", "output_norm.weight", "output.weight"]


# What happened in between ----------------------------------------------------------------------------------


def test_what_happened_between_two_checkpoints(tmp_path):
    weights = np.random.default_rng(3).standard_normal(5 * 4).astype(np.float32)

    def checkpoint(name, scale, **options):
        draws = iter([weights * scale])
        path = tmp_path / name
        path.write_bytes(build_checkpoint(data=lambda count: next(draws, np.ones(count, np.float32)), **options))
        return path

    a = checkpoint("a.ggcp", 1.0, train=(100, 400, 6400), state={"fx_prev": 5.5})
    b = checkpoint("b.ggcp", 1.25, train=(200, 800, 12800), state={"fx_prev": 5.25})
    change = compared(a, b).change
    assert (change.iterations, change.samples, change.tokens, change.ahead) == (100, 400, 6400, "B")
    assert (change.loss_a, change.loss_b) == (5.5, 5.25)
    assert change.weights["tok_embeddings"] == pytest.approx(0.25, rel=1e-5)
    assert change.weights["layer 0"] == change.weights["norm"] == 0
    back = compared(b, a).change
    assert (back.iterations, back.ahead) == (-100, "A")
    assert back.weights["tok_embeddings"] == pytest.approx(0.2, rel=1e-5)
    same = compared(a, a).change
    assert (same.ahead, same.iterations, same.weights) == (None, 0, {})


def test_a_sum_over_threads_is_not_compared_with_a_mean(tmp_path):
    change = compared(FIXTURES / "v0-adam.ggcp", ADAM).change
    assert change.loss_a == pytest.approx(11.498518 / 2, rel=1e-6)  # two threads
    assert change.loss_b == pytest.approx(5.7659283, rel=1e-6)
    change = compared(ADAM, converted(FIXTURES / "v0-adam.ggcp", tmp_path)).change
    assert (change.loss_a, change.loss_b) == (None, None)


def test_a_model_has_no_training_to_compare(tmp_path):
    assert compared(ADAM, exported(ADAM, tmp_path)).change is None
