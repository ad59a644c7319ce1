"""What differs between two files: known changes, and against numpy."""

from __future__ import annotations

import math
import struct
import warnings

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema import FileError, open_file
from ggcp_schema.files.source import Ahead
from ggcp_schema.inspect.diff import aligned, tensor_rows
from ggcp_schema.inspect.matching import sides
from tests.builder import build_checkpoint, build_gguf
from tests.inspect.comparing import ADAM, LBFGS, compared, converted, differing, row_of


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
    assert (nan.differing, str(nan.largest), str(nan.rms), nan.relative) == (1, "nan", "nan", math.inf)
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
    assert verdicts["layers[1].wq"] == "only-a"
    assert verdicts["optimizer.state.d"] == "only-b"
    norm = row_of(found, "norm")
    assert (norm.verdict, norm.a.tensor.shape, norm.b.tensor.shape, norm.differing, norm.largest) == (
        "different",
        (16,),
        (8,),
        None,
        None,
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_element_types_are_compared_by_value(swapped, tmp_path):
    values = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    halves = values.astype(np.float16)
    for name, code, data in (("f32", 0, values), ("f16", 1, halves)):
        content = build_gguf([("general.architecture", 8, "x")], [("t", (len(values),), code, data.tobytes())])
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / "f32", tmp_path / "f16"][:: -1 if swapped else 1]
    x, y = (values, halves.astype(np.float32))[:: -1 if swapped else 1]
    for rtol, atol in ((0.0, 1e-4), (2.0**-12, 0.0), (2.0**-11, 1e-7), (0.0, 0.0)):
        row = row_of(compared(*files, rtol=rtol, atol=atol), "t")
        differing = np.count_nonzero(~np.isclose(x.astype(np.float64), y.astype(np.float64), rtol=rtol, atol=atol))
        assert (row.differing, row.verdict) == (differing, "different" if differing else "equal")
        assert row.largest == abs(x.astype(np.float64) - y).max()


def test_equal_values_of_two_types_differ_unless_a_tolerance_is_given(tmp_path):
    for name, code, data in (("f32", 0, np.ones(8, np.float32)), ("f16", 1, np.ones(8, np.float16))):
        content = build_gguf([("general.architecture", 8, "x")], [("t", (8,), code, data.tobytes())])
        (tmp_path / name).write_bytes(content)
    row = row_of(compared(tmp_path / "f32", tmp_path / "f16"), "t")
    assert (row.verdict, row.differing) == ("different", 0)
    assert compared(tmp_path / "f32", tmp_path / "f16", atol=1e-9).equal


def arrays_of(path, values):
    """A checkpoint whose embeddings are these values."""
    draws = iter([np.asarray(values, np.float32)])
    path.write_bytes(
        build_checkpoint(n_vocab=1, n_embd=len(values), n_layer=0, data=lambda count: next(draws, np.zeros(count)))
    )
    return path


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, 1.0000001])
PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(*[arrays.arrays(np.float32, n, elements=FLOATS)] * 2))


@given(PAIRS, st.sampled_from([0.0, 1e-6, 0.1, 2.0]), st.sampled_from([0.0, 1e-3, 10.0]), st.sampled_from([0, 4096]))
def test_tolerances_are_those_of_numpy(tmp_path_factory, pair, rtol, atol, together):
    folder = tmp_path_factory.getbasetemp()
    a, b = (arrays_of(folder / f"{name}.ggcp", values) for name, values in zip("ab", pair, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "LARGEST", together)
        row = row_of(compared(a, b, rtol=rtol, atol=atol), "tok_embeddings")
    x, y = (values.astype(np.float64) for values in pair)
    same = pair[0].view(np.uint32) == pair[1].view(np.uint32)
    with np.errstate(invalid="ignore"):
        close = same | np.isclose(x, y, rtol=rtol, atol=atol)
        apart = np.where(same, 0, abs(x - y))
    assert row.differing == (~close).sum()
    np.testing.assert_equal(row.largest, apart.max())
    assert row.rms == pytest.approx(math.sqrt(np.mean(np.square(apart))), nan_ok=True)
    assert (row.verdict == "equal") == close.all()


@pytest.mark.parametrize("size", [1e-42, 1e-25, 1.0, 1e20, 1e30])
def test_the_relative_change_of_numbers_whose_squares_no_float32_holds(size, tmp_path):
    values = np.linspace(1, 2, 2_000, dtype=np.float32) * np.float32(size)
    a, b = arrays_of(tmp_path / "a", values), arrays_of(tmp_path / "b", -values)
    assert row_of(compared(a, b), "tok_embeddings").relative == pytest.approx(2)


def test_each_of_very_many_small_tensors_is_compared(tmp_path):
    a, b = tmp_path / "a.ggcp", tmp_path / "b.ggcp"
    a.write_bytes(build_checkpoint(n_layer=200))
    with open_file(a) as file:
        last = {f"layers[{layer}].w1": file.tensors[f"layers[{layer}].w1"] for layer in (0, 56, 57, 113, 199)}
    data = bytearray(a.read_bytes())
    for tensor in last.values():
        data[tensor.offset + tensor.nbytes - 1] ^= 0x80  # the sign of the last number
    b.write_bytes(data)
    found = compared(a, b)
    assert found.tensors.total == 9 * 200 + 3 + 3  # those of the model, m, v and pf
    assert differing(found) == dict.fromkeys(last, "different")
    with open_file(a) as file:
        for name in last:
            row, number = row_of(found, name), abs(2 * float(file[name].array().flat[-1]))
            assert (row.differing, row.largest) == (1, number)


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


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)))
def test_tensors_in_chunks_of_other_sizes_are_aligned(cuts, others):
    values = np.arange(40)
    pieces = list(aligned(iter(np.split(values, sorted(cuts))), iter(np.split(values, sorted(others)))))
    assert all((one == other).all() for one, other in pieces)
    assert np.concatenate([one for one, _ in pieces]).tolist() == values.tolist()


def test_tensors_of_several_chunks(tmp_path):
    values = np.random.default_rng(0).standard_normal((1 << 19) + 5).astype(np.float32)
    other = values.copy()
    other[[0, 1 << 19, -1]] += 1
    found = compared(arrays_of(tmp_path / "a.ggcp", values), arrays_of(tmp_path / "b.ggcp", other))
    assert row_of(found, "tok_embeddings").differing == 3


def test_what_numpy_warns_of_is_the_same_while_rows_are_found():
    with open_file(ADAM) as file:
        left, right, _ = sides(file, file)
        assert all(np.geterr() == before for before in [np.geterr()] for _ in tensor_rows(left, right))


def test_a_file_that_is_changed_meanwhile(tmp_path):
    path = tmp_path / "x.ggcp"
    path.write_bytes(ADAM.read_bytes())

    def change(nbytes):
        path.write_bytes(ADAM.read_bytes()[:-1])

    with pytest.raises(FileError, match="changed by another program"):
        compared(ADAM, path, progress=change)


@pytest.mark.parametrize("key", ["llama.attention.head_count", "training.iteration_count"])
def test_a_key_without_which_no_trainer_resumes_is_missed(key, tmp_path):
    whole, less = converted(ADAM, tmp_path), tmp_path / "less.gguf"
    reader = GGUFReader(whole)
    less.write_bytes(whole.read_bytes().replace(key.encode(), key.encode()[:-1] + b"_"))
    assert key in reader.fields
    assert differing(compared(ADAM, less))[key] == "only-a"
