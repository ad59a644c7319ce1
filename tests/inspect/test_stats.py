"""Statistics against numpy's float64 on whole arrays, for every readable element type, and flags on odd data."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema import convert, open_file
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.stats import Stats, flags, measure
from ggcp_schema.inspect.tensors import listing, select
from ggcp_schema.llama.adam import largest_ratio
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, run_cli, thinned
from tests.samples import DECODED, FAST, GGML_KINDS, sample

RNG = np.random.default_rng(5)
BIG = (1 << 19) + (1 << 10) + 3  # more than a chunk, with a ragged end
NUMBERS = ("count", "nan", "inf", "zeros", "min", "max", "mean", "std", "rms", "histogram", "sampled")


def stats_of(values, tmp_path, *, type="F32", byte_order="little") -> Stats:
    """The statistics of an array that lies in a file at an odd place."""
    path = tmp_path / "data"
    values = np.asarray(values)
    path.write_bytes(b"\0" * 33 + values.tobytes())
    source = Source(path)
    try:
        tensor = Tensor("x", "x", values.shape, 33, values.nbytes, source, type, byte_order)
        ((found,), _) = measure([tensor])
    finally:
        source.close()
    assert found is not None
    return found


def assert_right(found: Stats, values):
    values = np.asarray(values, np.float32)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (found.count, found.nan) == (len(values), np.isnan(values).sum())
    assert (found.inf, found.zeros) == (np.isinf(values).sum(), (values == 0).sum())
    if not len(finite):
        assert (found.min, found.max, found.mean, found.std, found.rms) == (None,) * 5
        return
    assert (found.min, found.max) == (finite.min(), finite.max())
    rms = math.sqrt(np.mean(np.square(finite)))
    assert found.rms == pytest.approx(rms, rel=1e-7, abs=0)
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-8 * rms)
    assert found.std == pytest.approx(finite.std(), rel=1e-6, abs=1e-12 * rms)
    assert sum(found.histogram) == (found.sampled if found.min < found.max else 0)


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_genuine_files(path):
    data = path.read_bytes()
    with open_file(path) as file:
        items = listing(file)
        measured = list(zip(items, measure([item.tensor for item in items])[0], strict=True))
        for item, stats in measured:
            values = np.frombuffer(data, "<f4", item.tensor.nbytes // 4, item.tensor.offset)
            assert_right(stats, values)
            if stats.histogram and stats.sampled == stats.count:
                assert stats.histogram == tuple(np.histogram(values.astype(float), 16)[0].tolist())
        assert not any(flags(measured, file))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RNG.standard_normal(BIG), id="normal"),
        pytest.param(1 + 1e-3 * RNG.standard_normal(BIG), id="far from zero"),
        pytest.param(1e4 + RNG.standard_normal(BIG), id="farther from zero"),
        pytest.param(np.full(BIG, 0.1), id="constant"),
        pytest.param(np.zeros(BIG), id="zeros"),
        pytest.param(np.where(np.arange(BIG) % 3, -0.0, 0.0), id="zeros of both signs"),
        pytest.param(1e-41 * RNG.standard_normal(BIG), id="denormal"),
        pytest.param(1e-19 * RNG.standard_normal(BIG), id="denormal squares"),
        pytest.param(1e30 * RNG.standard_normal(BIG), id="squares beyond float32"),
        pytest.param(np.full(BIG, np.finfo(np.float32).max), id="largest"),
        pytest.param(np.where(np.arange(BIG) == BIG - 2, np.nan, RNG.standard_normal(BIG)), id="one NaN"),
        pytest.param(np.where(np.arange(BIG) % 2, -np.inf, RNG.standard_normal(BIG)), id="half infinite"),
        pytest.param(np.full(BIG, np.nan), id="NaN only"),
        pytest.param(np.where(np.arange(BIG) < BIG // 2, 1e-12, 1e3), id="a step"),
    ],
)
def test_arrays_larger_than_a_chunk(values, tmp_path):
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
    assert_right(stats_of(values, tmp_path), values)


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_any_small_array(tmp_path_factory, values):
    assert_right(stats_of(values, tmp_path_factory.getbasetemp()), values)


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("count", [7, BIG])
def test_every_readable_type_in_either_byte_order(type, byte_order, count, tmp_path):
    values = RNG.standard_normal(count).astype(np.float32)
    stored = values.astype(np.float16) if type == "F16" else values
    if type == "BF16":
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    expected = stored.astype(np.float32) if type == "F16" else values
    assert_right(
        stats_of(stored.astype(stored.dtype.newbyteorder(byte_order)), tmp_path, type=type, byte_order=byte_order),
        expected,
    )


def test_signalling_nans_are_counted_without_a_warning(tmp_path):
    bits = np.full(BIG, 0x7FA00001, np.uint32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stats_of(bits.view(np.float32), tmp_path).nan == BIG


@pytest.mark.parametrize("kind", ["gguf", "gguf-big", *GGML_KINDS])
def test_quantized_tensors_are_passed_over(kind, tmp_path):
    with open_file(sample(kind, tmp_path)) as file:
        items = listing(file)
        found = {
            item.tensor.type: stats
            for item, stats in zip(items, measure([item.tensor for item in items])[0], strict=True)
        }
        quantized = "Q8_0" if "gguf" in kind else "Q4_0"
        assert (found[quantized] is not None) == (kind in DECODED)
        assert_right(found["F16"], FAST.ravel())
        assert flags([(items[-1], None)], file) == [()]


def test_a_large_tensor_has_a_histogram_of_a_sample_spread_over_all_of_it(tmp_path):
    found = stats_of(np.linspace(-1, 1, BIG, dtype=np.float32), tmp_path)
    assert 1 << 13 < found.sampled <= 1 << 14
    assert np.ptp(found.histogram) <= 2


def test_progress_adds_up_to_the_bytes(tmp_path):
    done = []
    with open_file(sample("gguf", tmp_path)) as file:
        tensors = [tensor for tensor in file.tensors.values() if tensor.type != "Q8_0"]
        measure(tensors, done.append)
        assert sum(done) == sum(tensor.nbytes for tensor in tensors)


# Flags -----------------------------------------------------------------------------------------------------


WQ, M, V, PF = 4, 12, 13, 14  # draws of the builder, in file order
NX = 260  # its parameters


def checkpoint(tmp_path, edit=None, iteration=100, **options):
    """A checkpoint of random weights and moments; `edit` gets all draws by number."""
    draws = iter(range(1000))

    def data(count):
        number = next(draws)
        values = np.random.default_rng(number).standard_normal(count).astype(np.float32)
        if number == V:
            values = np.square(values)
        return values if edit is None else edit(number, values)

    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(data=data, state={"iter": iteration}, past=2, **options))
    return path


def flags_of(path):
    with open_file(path) as file:
        items = listing(file)
        measured = list(zip(items, measure([item.tensor for item in items])[0], strict=True))
        found = flags(measured, file)
        return {item.path: list(words) for item, words in zip(items, found, strict=True) if words}


def at(number, change):
    return lambda draw, values: change(values) if draw == number else (np.abs(values) if draw == PF else values)


@pytest.mark.parametrize(
    ("number", "change", "path", "words"),
    [
        (WQ, lambda x: x * 0, "layers[0].wq", ["all-zero"]),
        (WQ, lambda x: x * 0 + 1, "layers[0].wq", ["constant"]),
        (WQ, lambda x: abs(x) * 1e7, "layers[0].wq", ["huge"]),
        (WQ, lambda x: abs(x) * -1e7, "layers[0].wq", ["huge"]),
        (WQ, lambda x: np.where(x > 0, np.nan, -np.inf), "layers[0].wq", ["nan", "inf"]),
        (M, lambda x: x * 0, "optimizer.state.m", ["all-zero"]),
        (V, lambda x: -x, "optimizer.state.v", ["negative-v"]),
        (V, lambda x: x * 0, "optimizer.state.v", ["all-zero", "m-without-v"]),
        (PF, lambda x: -abs(x), "optimizer.state.pf", ["negative-loss"]),
    ],
)
def test_flags(number, change, path, words, tmp_path):
    assert flags_of(checkpoint(tmp_path, at(number, change))) == {path: words}


def test_nothing_is_flagged_in_what_training_gives(tmp_path):
    assert flags_of(checkpoint(tmp_path, at(PF, abs))) == {}


def test_an_optimizer_that_has_not_started_may_be_zero(tmp_path):
    def zero(draw, values):
        return values if draw < M else values * 0

    assert set(flags_of(checkpoint(tmp_path, zero))) == {"optimizer.state.m", "optimizer.state.v"}
    assert flags_of(checkpoint(tmp_path, zero, iteration=0)) == {}
    convert(tmp_path / "x.ggcp", tmp_path / "x.gguf")
    assert flags_of(tmp_path / "x.gguf") == {}
    run_cli("edit", tmp_path / "x.gguf", tmp_path / "y.gguf", "--remove", "optimizer.iteration_count", check=True)
    assert set(flags_of(tmp_path / "y.gguf")) == {"optimizer.state.m", "optimizer.state.v"}  # it may have started


def test_v_too_small_for_m_if_the_betas_are_stored(tmp_path):
    bound = largest_ratio(0.9, 0.999)  # the builder's
    gradients = np.random.default_rng(1).standard_normal((400, NX))
    m, v = np.zeros(NX), np.zeros(NX)
    for gradient in gradients:
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * np.square(gradient)
    assert (np.square(m) <= bound * v).all()

    def edit(scale):
        return lambda draw, values: {M: m, V: v * scale, PF: values * 0 + 1}.get(draw, values)

    options = {"layout": "v1-raw-params"}
    assert flags_of(checkpoint(tmp_path, edit(1), **options)) == {}
    assert flags_of(checkpoint(tmp_path, edit(1e-3), **options)) == {"optimizer.state.v": ["v-too-small"]}
    assert flags_of(checkpoint(tmp_path, edit(1e-3))) == {}  # v1 does not store the betas


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)])
def test_the_largest_ratio_is_reached_and_not_passed(betas):
    beta1, beta2 = betas
    m = v = 0.0
    for age in reversed(range(3000)):  # the gradients for which Cauchy and Schwarz have equality
        gradient = (beta1 / beta2) ** age
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    assert m * m / v == pytest.approx(largest_ratio(*betas), rel=1e-6)


def test_moments_are_flagged_by_parameter(tmp_path):
    path = tmp_path / "x.ggcp"
    data = bytearray((FIXTURES / "v0-adam.ggcp").read_bytes())
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        (v,) = select(file, "optimizer.state.v[layers[0].wk]")
        data[v.tensor.offset : v.tensor.offset + v.tensor.nbytes] = bytes(v.tensor.nbytes)
    path.write_bytes(data)
    with open_file(path) as file:
        items = select(file, "optimizer.state.?[layers[0]]")
        measured = list(zip(items, measure([item.tensor for item in items])[0], strict=True))
        found = dict(zip((item.path for item in items), flags(measured, file), strict=True))
    assert {path: words for path, words in found.items() if words} == {
        "optimizer.state.v[layers[0].wk]": ("all-zero", "m-without-v")
    }


@pytest.mark.parametrize("fixture", ["v0-adam.ggcp", "v1-adam-raw-params.ggcp", "twin-lbfgs.v0.ggcp"])
def test_a_file_cut_at_any_field_before_the_state(fixture, tmp_path):
    data, path = (FIXTURES / fixture).read_bytes(), tmp_path / "cut.ggcp"
    with open_file(FIXTURES / fixture) as file:
        start, end = file.find("optimizer").offset, file.find("optimizer.just_initialized").end
    for size in thinned(range(start, end + 1, 11)):
        path.write_bytes(data[:size])
        with open_file(path, partial=True) as file:
            assert file.damage is not None
            items = listing(file)
            measured = list(zip(items, measure([item.tensor for item in items])[0], strict=True))
            assert not any(flags(measured, file))
