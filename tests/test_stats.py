"""`stats` against numpy's float64 on whole arrays, on every genuine file, on odd data and on a damaged file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ggcp_schema.inspect.stats import Stats, largest_ratio, measure
from ggcp_schema.source import Source, Tensor
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty

RNG = np.random.default_rng(5)
BIG = (1 << 19) + (1 << 10) + 3  # more than a piece, with a ragged end
NUMBERS = ("count", "nan", "inf", "zeros", "min", "max", "mean", "std", "rms", "histogram", "sampled")


def stats_of(values, tmp_path) -> Stats:
    """The statistics of an array that lies in a file at an odd place."""
    path = tmp_path / "data"
    path.write_bytes(b"\0" * 32 + np.asarray(values, "<f4").tobytes())
    source = Source(path)
    try:
        return next(measure([Tensor("x", "x", np.shape(values), 32, 4 * len(values), source)]))
    finally:
        source.close()


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


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_genuine_files(path):
    data = path.read_bytes()
    rows = json.loads(run_cli("stats", path, "--json", check=True).stdout)
    for row in rows:
        assert set(NUMBERS) < set(row)
        values = np.frombuffer(data, "<f4", row["nbytes"] // 4, row["offset"])
        assert_right(Stats(**{key: row[key] for key in NUMBERS}), values)
        assert row["flags"] == []
        if row["histogram"] and row["sampled"] == row["count"]:
            assert row["histogram"] == np.histogram(values.astype(float), 16)[0].tolist()


@pytest.mark.parametrize(
    "path", [FIXTURES / "v1-lbfgs.ggcp", FIXTURES / "twin-adam.v0.ggcp", TRUNCATED], ids=lambda path: path.name
)
def test_table(path):
    result = run_cli("stats", path.name, cwd=FIXTURES)
    assert_golden(f"stats/{path.name}.txt", result.stdout)
    assert result.returncode == (4 if path == TRUNCATED else 0)
    assert ("offset 52147" in result.stderr) == (path == TRUNCATED)


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
def test_arrays_larger_than_a_piece(values, tmp_path):
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
    assert_right(stats_of(values, tmp_path), values)


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_any_small_array(tmp_path_factory, values):
    assert_right(stats_of(values, tmp_path_factory.getbasetemp()), values)


def test_a_large_tensor_has_a_histogram_of_a_sample_spread_over_all_of_it(tmp_path):
    values = np.linspace(-1, 1, BIG)
    found = stats_of(values, tmp_path)
    assert 1 << 13 < found.sampled <= 1 << 14
    assert np.ptp(found.histogram) <= 2


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


WQ, M, V, PF = 4, 12, 13, 14  # draws of the builder, in file order
NX = 260  # its parameters


def flags_of(path, *pattern):
    rows = json.loads(run_cli("stats", path, *pattern, "--json", check=True).stdout)
    return {row["path"]: row["flags"] for row in rows if row["flags"]}


def at(number, change):
    return lambda draw, values: change(values) if draw == number else (np.abs(values) if draw == PF else values)


@pytest.mark.parametrize(
    ("number", "change", "path", "flags"),
    [
        (WQ, lambda x: x * 0, "layers[0].wq", ["all zero"]),
        (WQ, lambda x: x * 0 + 1, "layers[0].wq", ["constant"]),
        (WQ, lambda x: x * 1e7, "layers[0].wq", ["huge"]),
        (WQ, lambda x: np.where(x > 0, np.nan, -np.inf), "layers[0].wq", ["NaN", "Inf"]),
        (M, lambda x: x * 0, "optimizer.state.m", ["all zero"]),
        (V, lambda x: -x, "optimizer.state.v", ["v < 0"]),
        (V, lambda x: x * 0, "optimizer.state.v", ["all zero", "m without v"]),
        (PF, lambda x: -abs(x), "optimizer.state.pf", ["loss < 0"]),
    ],
)
def test_flags(number, change, path, flags, tmp_path):
    assert flags_of(checkpoint(tmp_path, at(number, change))) == {path: flags}


def test_nothing_is_flagged_in_what_training_gives(tmp_path):
    assert flags_of(checkpoint(tmp_path, at(PF, abs))) == {}


def test_an_optimizer_that_has_not_begun_may_be_zero(tmp_path):
    def zero(draw, values):
        return values if draw < M else values * 0

    assert set(flags_of(checkpoint(tmp_path, zero))) == {"optimizer.state.m", "optimizer.state.v"}
    assert flags_of(checkpoint(tmp_path, zero, iteration=0)) == {}


def test_v_too_small_for_m_where_the_betas_are_stated(tmp_path):
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
    assert flags_of(checkpoint(tmp_path, edit(1e-3), **options)) == {"optimizer.state.v": ["v too small for m"]}
    assert flags_of(checkpoint(tmp_path, edit(1e-3))) == {}  # v1 does not state the betas


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)])
def test_the_largest_ratio_is_reached_and_not_passed(betas):
    beta1, beta2 = betas
    m = v = 0.0
    for age in reversed(range(3000)):  # the gradients for which Cauchy and Schwarz have equality
        gradient = (beta1 / beta2) ** age
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    assert m * m / v == pytest.approx(largest_ratio(*betas), rel=1e-6)


def test_the_summary_names_the_flagged(tmp_path):
    result = run_cli("stats", checkpoint(tmp_path, at(WQ, lambda x: x * np.nan)), check=True)
    assert result.stdout.splitlines()[-1].startswith("flag layers[0].wq: NaN")
    assert "no flags" not in result.stdout


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("layers[0].wq", ["layers[0].wq"]),
        ("blk.1.attn_q.weight", ["layers[1].wq"]),
        ("layers[*].w1", ["layers[0].w1", "layers[1].w1"]),
        ("blk.?.attn_norm.weight", ["layers[0].attention_norm", "layers[1].attention_norm"]),
        ("optimizer", ["optimizer.state.m", "optimizer.state.v", "optimizer.state.pf"]),
        ("layers[1].w?", [f"layers[1].w{which}" for which in "qkvo123"]),
        ("norm", ["norm"]),
    ],
)
def test_patterns(pattern, paths):
    rows = json.loads(run_cli("stats", FIXTURES / "v1-adam.ggcp", pattern, "--json", check=True).stdout)
    assert [row["path"] for row in rows] == paths


def test_brackets_are_no_character_class():
    result = run_cli("stats", FIXTURES / "v1-adam.ggcp", "layers[01].wq")
    assert result.returncode == 2
    assert "layers[0].wq" in result.stderr


def test_a_gguf_has_the_statistics_of_its_checkpoint(tmp_path):
    path, out = FIXTURES / "v1-lbfgs.ggcp", tmp_path / "x.gguf"
    run_cli("convert", path, out, check=True)
    old, new = (json.loads(run_cli("stats", file, "--json", check=True).stdout) for file in (path, out))
    same = ("path", "role", "flags", *NUMBERS)
    assert [[row[key] for key in same] for row in new] == [
        [row[key] for key in same] for row in old if row["gguf_name"]
    ]


def test_what_damage_hides_is_not_unknown():
    result = run_cli("stats", TRUNCATED, "optimizer.state.m")
    assert result.returncode == 4
    assert "offset 52147" in result.stderr
    assert_no_traceback(result)


def test_narrow_and_wide_terminals():
    args = ("stats", FIXTURES / "v1-adam.ggcp", "layers[0].w?")
    wide = run_cli(*args, check=True).stdout
    assert run_pty(*args, columns=160, env={"NO_COLOR": "1"}) == (0, wide)
    code, narrow = run_pty(*args, columns=40, env={"NO_COLOR": "1"})
    assert code == 0
    assert max(map(len, narrow.splitlines())) <= 40
    assert [word for line in wide.splitlines()[1:] for word in line.split() if word not in narrow.split()] == []


def test_bars_in_an_encoding_without_blocks():
    args = ("stats", FIXTURES / "v1-adam.ggcp", "norm")
    plain = run_cli(*args, check=True, env={"PYTHONIOENCODING": "ascii"}).stdout
    assert plain.isascii()
    heights = str.maketrans("▁▂▃▄▅▆▇█", ".:-=+*#@")
    assert plain == run_cli(*args, check=True, env={"PYTHONIOENCODING": "utf-8"}).stdout.translate(heights)
