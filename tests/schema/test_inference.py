"""Values that the files do not store, against numbers worked out by hand, on the genuine files, and at the edges."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import CHECKPOINT, open_checkpoint
from ggcp_schema.schema.inference import (
    ADAM,
    LBFGS,
    adam_bound,
    infer_type,
    lbfgs_bound,
    n_ff_by_formula,
    record_bound,
)
from tests.builder import build_checkpoint
from tests.helpers import GENUINE, ORDERS

ALL = [*GENUINE, *ORDERS]
STORED = [
    path for path in ALL if "v0" in path.name or "raw-params" in path.name or path.name.startswith(("jun", "eb5"))
]
INFERRED = [path for path in ALL if path not in STORED]


@pytest.mark.parametrize(
    ("n_embd", "n_mult", "n_ff"),
    [
        (256, 256, 768),  # the trainer's defaults: 2 * 1024 // 3 = 682, up to the next 256
        (288, 32, 768),  # 2 * 1152 // 3 = 768, which is a multiple already
        (4096, 256, 11008),  # LLaMA 7B
        (5120, 256, 13824),  # LLaMA 13B
        (8192, 256, 22016),  # LLaMA 65B
        (16, 32, 64),  # 42
        (1, 1, 2),  # 2.67, cut before it is rounded up
        (0, 8, 0),
        (7, 0, None),
    ],
)
def test_n_ff(n_embd: int, n_mult: int, n_ff: int | None) -> None:
    assert n_ff_by_formula(n_embd, n_mult) == n_ff


def test_the_bound_of_a_record() -> None:
    assert record_bound(0) == 12 + 8 + 48 + 31
    assert record_bound(10) == 99 + 40
    assert record_bound(10, 3) == 12 + 16 + 48 + 31 + 120


def test_the_bounds_of_the_states() -> None:
    # Adam: 12 + 2 * (99 + 40); with past 5: + 99 + 20
    assert (adam_bound(10, 0), adam_bound(10, 5)) == (290, 409)
    # L-BFGS: 24 + 5 * 139 + 2 * (99 + 4 * 3) + 2 * (107 + 120) + pf 99; with past 5: 2 * (99 + 20)
    assert (lbfgs_bound(10, 0, 3), lbfgs_bound(10, 5, 3)) == (1494, 1633)
    assert lbfgs_bound(10, 0, 0) == 24 + 695 + 198 + 214 + 99


def test_halfway_is_lbfgs() -> None:
    """The format's author asks whether Adam is strictly nearer."""
    low, high = adam_bound(10, 0), lbfgs_bound(10, 0, 3)
    assert (high - low) % 2 == 0
    middle = (low + high) // 2
    assert [infer_type(middle + d, 10, 0, 3, None).by_size for d in (-1, 0, 1)] == [ADAM, LBFGS, LBFGS]


@pytest.mark.parametrize(
    ("past", "third", "by_records"),
    [
        (0, [], ADAM),
        (0, [10], LBFGS),
        (0, [0], None),
        (5, [5], ADAM),
        (5, [], None),
        (5, [10], LBFGS),
        (10, [10], None),  # fits both
        (5, [10, 3], None),
        (5, None, None),
    ],
)
def test_what_the_third_record_says(past: int, third: list[int] | None, by_records: str | None) -> None:
    assert infer_type(400, 10, past, 3, third).by_records == by_records


def test_the_records_outweigh_the_size() -> None:
    found = infer_type(adam_bound(10, 5), 10, 5, 3, [10])
    assert (found.by_size, found.by_records, found.type, found.confirmed) == (ADAM, LBFGS, LBFGS, False)


def test_size_decides_where_the_records_cannot() -> None:
    found = infer_type(lbfgs_bound(10, 10, 3), 10, 10, 3, [10])
    assert (found.by_size, found.by_records, found.type, found.confirmed) == (LBFGS, None, LBFGS, False)


@pytest.mark.parametrize("path", INFERRED, ids=lambda path: path.name)
def test_size_and_records_agree_on_every_genuine_file(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        found = ckpt.optimizer.inference
        assert found is not None
        assert found.by_size == found.by_records == ckpt.optimizer.type == ("lbfgs" if "lbfgs" in path.name else "adam")
        assert found.confirmed
        # the state is the last thing in the file, and begins with the header of its first tensor
        bound = found.adam_bound if found.type == ADAM else found.lbfgs_bound
        assert 0 < bound - found.remaining < 1000


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_a_stored_type_is_not_inferred(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        assert ckpt.optimizer.inference is None
        assert ckpt.optimizer.type == ("lbfgs" if "lbfgs" in path.name else "adam")


def test_the_remaining_bytes_are_counted_from_the_first_record() -> None:
    data = build_checkpoint(n_vocab=5, n_embd=4, n_layer=0, past=3)
    assert CHECKPOINT.parse(data).optimizer.inference.remaining == 824 - 396  # by hand, in test_checkpoint.py


@given(
    optimizer=st.sampled_from(["adam", "lbfgs"]),
    n_vocab=st.integers(0, 3),
    n_embd=st.integers(0, 3),
    n_layer=st.integers(0, 1),
    past=st.sampled_from([0, 1, 2, 5, 100, 1000, 100_000]),
    lbfgs_m=st.sampled_from([0, 1, 5, 100, 1000]),
    nx=st.none() | st.integers(0, 3),
)
def test_the_type_is_found_at_the_edges(optimizer: str, past: int, nx: int | None, **shape: int) -> None:
    """Tiny models, where headers outweigh data; a past and an lbfgs_m that outweigh the model."""
    parsed = CHECKPOINT.parse(build_checkpoint(optimizer=optimizer, past=past, nx=nx, **shape))
    assert parsed.optimizer.type == optimizer


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("lbfgs_m", [0, 1, 3, 50])
@pytest.mark.parametrize("size", [1, 2, 5, 20, 50, 100])
def test_the_type_is_found_where_past_is_nx(optimizer: str, lbfgs_m: int, size: int) -> None:
    """The third record has the same shape for both types."""
    data = build_checkpoint(optimizer=optimizer, past=size, nx=size, lbfgs_m=lbfgs_m)
    assert CHECKPOINT.parse(data).optimizer.type == optimizer


def test_size_alone_is_wrong_where_past_outweighs_the_model(tmp_path: Path) -> None:
    """The bound counts pf twice for L-BFGS; so by size a large past makes an L-BFGS state Adam's."""
    path = tmp_path / "large-past.ggcp"
    path.write_bytes(build_checkpoint(optimizer="lbfgs", past=100_000, lbfgs_m=1))
    with open_checkpoint(path) as ckpt:
        found = ckpt.optimizer.inference
        assert found is not None
        assert (found.by_size, found.by_records, found.type) == (ADAM, LBFGS, LBFGS)
        assert ckpt.optimizer.type == LBFGS
        assert [finding.path for finding in ckpt.findings] == ["optimizer.type"]
        assert ckpt.findings[0].message == (
            "its size suggests adam, but the shape of its third tensor shows it is lbfgs"
        )


def test_a_truncated_lbfgs_state_that_looks_like_adam_by_size_is_still_lbfgs(tmp_path: Path) -> None:
    """It ends inside the fifth tensor: nearer to the size of Adam's state, but its third tensor is a gradient."""
    whole = build_checkpoint(optimizer="lbfgs", n_vocab=50, n_embd=8, n_layer=0)
    start = CHECKPOINT.parse(whole).optimizer.state.d.data.offset
    path = tmp_path / "cut.ggcp"
    path.write_bytes(whole[: start + 4])
    nx = 2 * 50 * 8 + 8
    with open_checkpoint(path, partial=True) as ckpt:
        remaining = start + 4 - (ckpt.tensors["optimizer.state.x"].offset - 32)
        assert infer_type(remaining, nx, 0, 3, None).by_size == ADAM
        assert list(ckpt.state_tensors) == ["x", "xp", "g", "gp"]
        assert ckpt.damage is not None
        assert ckpt.damage.path == "optimizer.state.d.data"
