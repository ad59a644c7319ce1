"""The panes' numbers, against numpy on the whole tensor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ggcp_schema.browse.jobs import Cancelled
from ggcp_schema.browse.lines import bar, fit
from ggcp_schema.browse.plots import colour
from ggcp_schema.constructs import short_size
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.health import Moments, block, dead_rows, examine, examine_tensors, find_moments
from ggcp_schema.inspect.histogram import BINS, distribution, rebin
from ggcp_schema.inspect.matrix import METHODS, Matrix, Table, Window, pool
from ggcp_schema.inspect.text import escape, short_number
from tests.helpers import FIXTURES, ORDERS, TRUNCATED


def silent(result: Any) -> None:
    """A report that lets the job go on."""


def cancelling(after: int) -> Callable[[Any], None]:
    count = 0

    def report(result: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Cancelled

    return report


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Callable[..., Tensor]]:
    """Writes values to a file, and gives them as a tensor of that shape."""
    sources = []

    def store(values: Any, *shape: int) -> Tensor:
        data = np.asarray(values, "<f4")
        path = tmp_path / "values"
        path.write_bytes(b"\xff" * 32 + data.tobytes())
        sources.append(Source(path))
        return Tensor("values", "values", shape, 32, data.nbytes, sources[-1])

    yield store
    for source in sources:
        source.close()


# Histogram -------------------------------------------------------------------------------------------------


def test_the_histogram_is_numpys(stored: Callable[..., Tensor]) -> None:
    values = np.random.default_rng(1).standard_normal(600_000).astype(np.float32)
    found = distribution(stored(values, 1000, 600), silent)
    expected, _ = np.histogram(values.astype(np.float64), bins=BINS)
    assert found.done == 1
    assert sum(found.counts) == pytest.approx(len(values))
    edges = np.cumsum(found.counts) - np.cumsum(expected)
    assert np.abs(edges).max() < len(values) / 500  # a value is known to a thousandth
    assert found.stats is not None
    assert found.stats.std == pytest.approx(values.std(dtype=np.float64))


def test_the_histogram_leaves_out_what_is_not_finite(stored: Callable[..., Tensor]) -> None:
    found = distribution(stored([1, np.nan, 2, np.inf, 3, -np.inf, 2], 7), silent)
    assert found.stats is not None
    assert (found.stats.nan, found.stats.inf, round(sum(found.counts))) == (1, 2, 4)
    assert (found.counts[0], found.counts[-1]) == pytest.approx((1, 1))


@pytest.mark.parametrize("values", [[5.0] * 9, [np.nan] * 3, [0.0]])
def test_a_tensor_of_one_value_has_statistics_but_no_bars(stored: Callable[..., Tensor], values: list[float]) -> None:
    found = distribution(stored(values, len(values)), silent)
    assert found.stats is not None
    assert found.counts == ()


def test_a_cancelled_job_stops_reading(stored: Callable[..., Tensor]) -> None:
    tensor = stored(np.zeros(1 << 22), 1 << 22)
    with pytest.raises(Cancelled):
        distribution(tensor, cancelling(1))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.integers(1, 200))
def test_rebinning_keeps_the_count(counts: list[int], columns: int) -> None:
    found = rebin(tuple(counts), columns)
    assert len(found) == columns
    assert sum(found) == pytest.approx(sum(counts))
    if columns == len(counts):
        assert found == pytest.approx(counts)


# Picture ---------------------------------------------------------------------------------------------------


@given(st.data())
def test_pixels_are_the_mean_min_or_max_of_what_they_cover(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    rows, columns = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    values = np.random.default_rng(rows * 31 + columns).standard_normal((rows, columns)).astype("<f4")
    path = tmp_path_factory.mktemp("picture") / "values"
    path.write_bytes(values.tobytes())
    tensor = Tensor("values", "", (columns, rows), 0, values.nbytes, Source(path))
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    top, left = data.draw(st.integers(0, rows - height)), data.draw(st.integers(0, columns - width))
    across, down = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    method = data.draw(st.sampled_from(METHODS))
    found = pool(Matrix(tensor), Window(top, left, height, width), across, down, method, silent)
    across, down = min(across, width), min(down, height)
    expected = [
        [
            getattr(
                values[
                    top + height * line // down : top + height * (line + 1) // down,
                    left + width * cell // across : left + width * (cell + 1) // across,
                ].astype(np.float64),
                method,
            )()
            for cell in range(across)
        ]
        for line in range(down)
    ]
    assert np.allclose(np.array(found.pixels, float), expected)
    tensor.source.close()


def test_a_picture_of_many_pieces_is_that_of_one(
    stored: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).standard_normal((70, 900))
    matrix = Matrix(stored(values, 900, 70))
    window = Window(0, 0, 70, 900)
    whole = pool(matrix, window, 33, 11, "mean", silent)
    monkeypatch.setattr("ggcp_schema.inspect.matrix.PIECE", 128)
    assert np.allclose(
        np.array(whole.pixels, float), np.array(pool(matrix, window, 33, 11, "mean", silent).pixels, float)
    )


def test_one_dimension_is_wrapped(stored: Callable[..., Tensor]) -> None:
    matrix = Matrix(stored(np.arange(11), 11))
    assert (matrix.rows, matrix.columns) == (3, 4)
    found = pool(matrix, Window(0, 0, 3, 4), 4, 3, "mean", silent)
    assert [value for line in found.pixels if line for value in line][:11] == list(range(11))


def test_colours_grow_brighter_and_nan_stands_out() -> None:
    shades = [
        sum(weight * part for weight, part in zip((0.3, 0.6, 0.1), colour(x / 50, 1.0).triplet)) for x in range(-50, 51)
    ]
    assert shades == sorted(shades)
    assert shades[-1] - shades[0] > 150
    assert colour(math.nan, 1.0) not in {colour(x / 50, 1.0) for x in range(-50, 51)}
    assert colour(0.0, 0.0) == colour(0.0, 1.0)


# Values ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_a_table_labels_elements_as_numpy_does(shape: list[int]) -> None:
    count = math.prod(shape)
    table = Table(Tensor("t", "", tuple(shape), 0, 4 * count, None))  # type: ignore[arg-type]
    for element in range(count):
        indices = np.unravel_index(element, tuple(reversed(shape)))
        row, place = divmod(element, table.columns)
        assert str(table.indices(element)) == str([int(index) for index in indices])
        assert f"{table.label(row)},{place}" == ",".join(str(index) for index in indices)
    assert table.rows * table.columns == count


# Health ----------------------------------------------------------------------------------------------------


def test_health_is_what_numpy_finds_in_the_whole_file() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        moments = find_moments(file)
        assert set(moments.parts) == set(file.model_tensors)  # type: ignore[attr-defined]
        found = examine(file, silent)
        for row in found.rows:
            weights = row.tensor.array().astype(np.float64)
            m, v = (part.array().astype(np.float64) for part in moments.parts[row.tensor.path])
            assert row.rms == pytest.approx(np.sqrt((weights**2).mean()))
            assert row.m == pytest.approx(np.sqrt((m**2).mean()))
            assert row.v == pytest.approx(v.mean())
            assert row.unused == pytest.approx((v == 0).mean())
            used = v > 0
            assert row.ratio == pytest.approx(np.sqrt((m[used] ** 2 / v[used]).mean()), rel=1e-5)
            assert (row.nan, row.inf) == (0, 0)
        v = moments.parts["tok_embeddings"][1].array()
        assert found.dead == list(np.flatnonzero(~v.any(axis=1)))
        assert found.n_tokens == 768
        assert 0 in found.dead  # <unk> occurs in no text
        assert 1 not in found.dead  # <s> begins every sample


def test_a_damaged_file_is_not_called_healthy() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        found = examine(file, silent)
        assert found.is_sound
        assert found.text.startswith("the file is damaged at layers[0].w3.padding; what is whole: healthy")
        assert "m and v" in found.moments.evidence


@pytest.mark.parametrize("path", ORDERS, ids=lambda path: path.name)
def test_moments_are_found_or_it_is_said_why_not(path: Path) -> None:
    with open_file(path) as file:
        found = find_moments(file)
        if not found.parts:
            assert "undecidable" in found.evidence or "no moments" in found.evidence
        else:
            assert sum(v.n_elements for _, v in found.parts.values()) == file.tensors["optimizer.state.v"].n_elements


def test_nan_and_infinity_are_counted(stored: Callable[..., Tensor]) -> None:
    tensor = stored([1, np.nan, np.inf, -np.inf, 2, np.nan], 6)
    row = examine_tensors([tensor], Moments({}, "order unknown"), silent).rows[0]
    assert (row.nan, row.inf, row.m) == (2, 2, None)
    assert row.rms == pytest.approx(math.sqrt(2.5))
    assert len(block(tensor, 2, 5)) == 3


def test_squares_too_large_for_a_number_give_no_rms_and_no_warning(stored: Callable[..., Tensor]) -> None:
    data = np.array([1e200, 1.0], "<f8")
    tensor = replace(stored(data.view("<f4"), 2), type="F64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = examine_tensors([tensor], Moments({}, "order unknown"), silent).rows[0]
    assert (row.rms, row.nan, row.inf) == (None, 0, 0)


def test_dead_rows_can_be_cancelled() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        _, v = find_moments(file).parts["tok_embeddings"]
        with pytest.raises(Cancelled):
            list(dead_rows(v, cancelling(0)))


# Words -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 50))
def test_a_short_size_is_short_and_right(size: int) -> None:
    text = short_size(size)
    assert len(text) <= 8
    words = text.split()
    scale = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[words[1]]
    assert float(words[0]) * scale == pytest.approx(size, rel=0.06, abs=0.5)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_in_a_cell_is_short_and_right(value: float) -> None:
    text = short_number(value)
    assert len(text) <= 9
    assert float(text) == pytest.approx(value, rel=6e-3)


@given(st.text(max_size=20), st.integers(0, 15), st.booleans())
def test_fitted_text_has_the_width(text: str, width: int, middle: bool) -> None:
    text = escape(text)
    found = fit(text, width, middle=middle)
    assert cell_len(found) == width
    assert all(part.strip(" ") in text for part in found.split("…"))


@given(st.floats(0, 1), st.integers(1, 40))
def test_bars_grow_with_their_share(share: float, size: int) -> None:
    assert len(bar(share, size)) == size
    assert (bar(share, size).strip() != "") == (share > 0)
    assert bar(1.0, size) == "█" * size
