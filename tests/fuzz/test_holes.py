"""Damaged headers, and bytes inserted or lost: nothing is lost that can be read, or called whole that is not."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from ggcp_schema import MalformedError, convert, export_model, open_checkpoint, open_file
from ggcp_schema.files.source import Source
from ggcp_schema.inspect.damage import condition_of
from ggcp_schema.inspect.validate import validate
from tests.fuzz.holes import FILLS, Damage, Damaged, Whole, check, opened
from tests.helpers import FIXTURES

NAMES = (
    *("v0-adam.ggcp", "v1-adam-past5.ggcp", "v1-lbfgs.ggcp", "v1-adam-raw-params.ggcp"),
    *("lora/twin-adam.ggcl", "lora/lbfgs.ggcl", "lora/adam.ggla", "lora/feb2024-adam.ggla"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_damage(name: str) -> None:
    """All positions: `python -m tests.fuzz --holes 1`."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    found: list[str] = []
    for kind, size in [*((fill, 512) for fill in FILLS), ("inserted", 1), ("removed", 1)]:
        for offset in chance.sample(whole.at_headers(size), 12):
            found += check(Damaged(whole, Damage(kind, size, offset)))
    assert not [result for result in found if result.startswith("WRONG")]
    assert found.count("recovered") > 100
    assert sum(result.startswith("lost") for result in found) < 2  # by a byte inserted after the last tensor


@pytest.mark.parametrize("name", ["truth/jan24-D.gguf", "lora/base.gguf"])
def test_a_sample_of_damage_in_gguf(name: str) -> None:
    """Only the tensors whose own headers are damaged are lost, unless the last is, and none is in a wrong place."""
    whole, chance = Whole(FIXTURES / name), random.Random(name)
    offsets = [8, *chance.sample(range(24, whole.head - 512), 12), *range(whole.head - 60, whole.head, 9)]
    found = [result for fill in FILLS for at in offsets for result in check(Damaged(whole, Damage(fill, 512, at)))]
    assert not [result for result in found if result.startswith("WRONG")]
    assert found.count("recovered") > 300


@pytest.mark.parametrize("fill", FILLS)
def test_a_tensor_before_a_damaged_header_is_whole_only_if_it_is_proven(fill: str) -> None:
    whole = Whole(FIXTURES / "lora/base.ggjt")
    found = [
        result
        for start, _ in list(whole.headers)[2:9]
        for at in (start - 300, start)
        for result in check(Damaged(whole, Damage(fill, 512, at)))
    ]
    assert not [result for result in found if result.startswith("WRONG")]
    assert found.count("recovered") > 30


def test_each_header_may_be_lost_alone() -> None:
    """A hole from the second number of a header to its padding costs no tensor."""
    whole = Whole(FIXTURES / "v1-lbfgs.ggcp")
    for name, (start, stop, _) in whole.tensors.items():
        if start < stop:
            edge = max(edge for edge in whole.edges if edge < start)
            damaged = Damaged(whole, Damage("noise", start - edge - 12, edge + 8))
            assert "touched" not in check(damaged), name
            assert {*opened(damaged).tensors} == {*whole.tensors}, name


@pytest.mark.parametrize("kind", ["inserted", "removed"])
def test_each_byte_of_a_header_may_be_inserted_or_removed(kind: str) -> None:
    """That costs the tensors beside it only if it is not told from one in their data."""
    whole = Whole(FIXTURES / "twin-ff48.v0.ggcp")
    for start, stop in list(whole.headers)[::9]:
        for offset in range(start, stop, 5):
            found = list(check(Damaged(whole, Damage(kind, 1, offset))))
            assert not [result for result in found if result.startswith(("WRONG", "lost"))], offset


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("v1-lbfgs.ggcp", size) for size in (4, 44, 64, 4096)),
        *(("lora/lbfgs.ggcl", size) for size in (4, 92, 512)),  # of more, a rank that only these bytes tell is lost
        *(("lora/adam.ggla", size) for size in (4, 64, 4096)),
    ],
)
def test_the_first_bytes_may_be_lost(name: str, size: int, tmp_path: Path) -> None:
    whole = Whole(FIXTURES / name)
    damage = Damage("zeros", size, 0)
    found = list(check(Damaged(whole, damage)))
    assert found.count("recovered") == sum(start < stop and start >= size for start, stop, _ in whole.tensors.values())
    path = tmp_path / "damaged.ggcp"
    path.write_bytes(damage.apply(whole.data))
    with closing(Source(path)) as source:
        result = validate(source)
    assert next(error.path for error in result.errors) == "magic"
    assert result.damage is None
    with open_file(path, partial=True) as file:
        condition = condition_of(file)
    assert condition is not None
    assert condition.verdict.startswith("its first bytes are lost; ")


def test_a_damaged_optimizer_is_replaced_by_a_fresh_one(tmp_path: Path) -> None:
    whole = Whole(FIXTURES / "v1-adam.ggcp")
    path, output = tmp_path / "damaged.ggcp", tmp_path / "fresh.gguf"
    path.write_bytes(Damage("noise", 200, whole.optimizer + 4).apply(whole.data))
    with pytest.raises(MalformedError, match=r"All tensors of the model are whole\. Use partial=True to convert it"):
        convert(path, output)
    convert(path, output, partial=True, verify=True)
    convert(FIXTURES / "v1-adam.ggcp", tmp_path / "genuine.gguf", fresh_optimizer=True)
    options = {"vocab": FIXTURES / "vocab.gguf", "context_length": 16, "rms_eps": 1e-6, "name": "same"}
    for source in (output, tmp_path / "genuine.gguf"):
        export_model(source, source.with_suffix(".model"), **options)
    export_model(path, tmp_path / "partial.model", **options, partial=True)
    models = [(tmp_path / name).read_bytes() for name in ("fresh.model", "genuine.model", "partial.model")]
    assert models[0] == models[1] == models[2]


@pytest.mark.parametrize("tail", [b"\n", b"\0", b"text " * 300])
@pytest.mark.parametrize("name", ["v1-lbfgs.ggcp", "lora/adam.ggcl"])
def test_bytes_after_the_end_are_a_finding(name: str, tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tail"
    path.write_bytes((FIXTURES / name).read_bytes() + tail)
    with open_file(path) as file:
        assert [finding.path for finding in file.findings] == ["trailing"]
    assert convert(path, tmp_path / "out.gguf").size == convert(FIXTURES / name, tmp_path / "2.gguf").size


def test_a_byte_inserted_into_the_last_tensor_is_no_trailing_byte(tmp_path: Path) -> None:
    whole = Whole(FIXTURES / "v1-lbfgs.ggcp")
    start, stop, _ = whole.tensors["optimizer.state.lmy"]
    path = tmp_path / "inserted.ggcp"
    path.write_bytes(Damage("inserted", 1, (start + stop) // 2).apply(whole.data))
    with pytest.raises(MalformedError):
        open_checkpoint(path)
    with open_checkpoint(path, partial=True) as ckpt:
        assert {*whole.tensors} - {*ckpt.tensors} == {"optimizer.state.lmy"}
