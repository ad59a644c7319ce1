"""Exceptions can be copied and sent to another process, and a damage is raised as often as it is met."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from traceback import walk_tb

import pytest

from ggcp_schema import GgcpError, TruncatedError, convert, export_model, open_checkpoint
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.mapping.export import MissingError, plan_model
from tests.helpers import FIXTURES, TRUNCATED


def read(path: Path, field: str) -> object:
    with open_checkpoint(path) as ckpt:
        return ckpt[field]


def errors(tmp_path: Path) -> Iterator[GgcpError]:
    """Yield errors of many classes, as the package raises them."""
    zip_file = tmp_path / "zip"
    zip_file.write_bytes(b"PK\x03\x04")
    calls: list[Callable[[], object]] = [
        lambda: open_checkpoint(TRUNCATED),
        lambda: open_checkpoint(zip_file),
        lambda: open_checkpoint(tmp_path / "missing"),
        lambda: read(FIXTURES / "v1-adam.ggcp", "nowhere"),
        lambda: export_model(FIXTURES / "v1-adam.ggcp", tmp_path / "out"),
        lambda: convert(FIXTURES / "v1-adam.ggcp", zip_file),
    ]
    for call in calls:
        with pytest.raises(GgcpError) as caught:
            call()
        yield caught.value


def pickled(error: GgcpError) -> GgcpError:
    copied: GgcpError = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    return copied


def test_an_error_can_be_copied_and_pickled(tmp_path: Path) -> None:
    found = list(errors(tmp_path))
    assert {TruncatedError, MissingError, ExistsError} <= {type(error) for error in found}
    for error in found:
        for other in (copy.copy(error), copy.deepcopy(error), pickled(error), error.again()):
            assert type(other) is type(error)
            assert (str(other), vars(other), other.args) == (str(error), vars(error), error.args)


def test_a_process_pool_outlives_a_damaged_file() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(TruncatedError, match="at least"):
            pool.submit(open_checkpoint, TRUNCATED).result()
        assert pool.submit(len, "abc").result() == 3


def test_the_traceback_of_a_damage_does_not_grow() -> None:
    with open_checkpoint(TRUNCATED, partial=True) as ckpt:
        lengths = set()
        for _ in range(3):
            with pytest.raises(TruncatedError) as caught:
                _ = ckpt.optimizer
            lengths.add(len(list(walk_tb(caught.value.__traceback__))))
        assert len(lengths) == 1


@pytest.mark.parametrize(
    ("lost", "hint", "option"), [(100, "All tensors of the model are", "partial"), (180_000, "The model is not", "")]
)
def test_what_fails_leaves_the_damage_of_the_file_as_it_is(tmp_path: Path, lost: int, hint: str, option: str) -> None:
    path = tmp_path / "cut.ggcp"
    path.write_bytes((FIXTURES / "v1-adam.ggcp").read_bytes()[:-lost])
    with open_checkpoint(path, partial=True) as ckpt:
        assert ckpt.damage is not None
        before = dict(vars(ckpt.damage))
        with pytest.raises(TruncatedError, match=hint) as caught:
            plan_model(ckpt)
        assert caught.value.option == option
        assert vars(ckpt.damage) == before
