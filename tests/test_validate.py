"""`validate`: all that is wrong with a file, and all that is odd."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggcp_schema import open_checkpoint
from ggcp_schema.constructs import Span
from ggcp_schema.inspect.validate import Report, odd_values, validate
from ggcp_schema.source import Source
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty
from tests.strategies import Built, checkpoints

RECORDS = {"v0-adam": 20, "v1-adam": 24, "v1-adam-past5": 15, "v1-lbfgs": 22, "v1-adam-raw-params": 15}
RECORDS |= {"twin-adam.v0": 20, "twin-adam.v1": 15, "twin-lbfgs.v0": 22, "twin-lbfgs.v1": 22}
RECORDS |= {"twin-ff48.v0": 29, "twin-ff48.v1": 24}
ANY_DATA = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path) -> tuple[Report, list[Any]]:
    """The report and all warnings, those of the data included."""
    with closing(Source(path)) as source:
        report = validate(source)
        return report, [*report.warnings, *odd_values(report)]


def report_of(path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = run_cli("validate", path, "--json", *options)
    assert_no_traceback(result)
    return result.returncode, json.loads(result.stdout)


class Damaged:
    """A well-formed checkpoint in a file, whose fields are overwritten by their paths."""

    def __init__(self, path: Path, **options: Any) -> None:
        shape = {"n_layer": 4, "n_embd": 8, "n_vocab": 7, "past": 2} | options
        self.path, self.data = path, bytearray(build_checkpoint(**shape))
        path.write_bytes(self.data)
        with open_checkpoint(path) as ckpt:
            self.spans: dict[str, Span] = dict(ckpt.spans)

    def poke(self, field: str, value: Any, code: str = "<I", at: int = 0) -> Damaged:
        struct.pack_into(code, self.data, self.spans[field].offset + at, value)
        self.path.write_bytes(self.data)
        return self


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tmp_path / "x.ggcp")


def found(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(error["path"], error["expected"], error["found"]) for error in report["errors"]]


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
def test_a_genuine_file_is_valid(path: Path) -> None:
    code, report = report_of(path, "--data")
    number = RECORDS[path.stem]
    assert (code, report["valid"], report["errors"], report["damage"]) == (0, True, [], None)
    assert report["records"] == {"checked": number, "expected": number}
    lying = ["hparams.n_mult"] if path.stem.startswith("twin-ff48") else []
    assert [warning["path"] for warning in report["warnings"]] == lying


def test_the_file_that_a_crash_cut_short_is_damaged() -> None:
    code, report = report_of(TRUNCATED)
    assert (code, report["valid"], report["errors"]) == (4, False, [])
    assert report["records"] == {"checked": 11, "expected": None}
    damage = report["damage"]
    assert (damage["path"], damage["offset"], damage["missing"]) == ("layers[0].w3.padding", 52147, 13)


def test_what_a_person_sees() -> None:
    lying = run_cli("validate", FIXTURES / "twin-ff48.v1.ggcp", cwd=FIXTURES)
    assert lying.returncode == 0
    warning, verdict = lying.stdout.splitlines()
    assert warning.startswith("warning: hparams.n_mult at offset 28 (0x1c): n_ff is 48 by the shape of w1")
    assert verdict.startswith("valid: ")
    assert verdict.endswith("no errors, 1 warning; checked 24 of 24 records, 199 fields")
    cut = run_cli("validate", TRUNCATED.name, cwd=FIXTURES)
    assert cut.returncode == 4
    assert cut.stderr == ""
    where = "layers[0].w3.padding at offset 52147 (0xcbb3)"
    records = "11 records (the damage hides how many there are), 102 fields"
    assert cut.stdout.splitlines() == [
        f"error: {where}: expected 13 bytes, found 0 before the end: the file is 13 bytes too short",
        f"damaged: truncated-v0-lbfgs.ggcp: 1 error, no warnings; checked {records}",
    ]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("version", 3, "0"),
        ("norm.type", 8, "0 (F32)"),
        ("layers[1].wq.ne[0]", 9, "8 (n_embd)"),
        ("layers[1].wq.ne[1]", 1 << 31, "8 (n_embd)"),
        ("layers[1].wq.n_dims", 1, "2"),
        ("layers[1].wq.n_dims", 0, "2"),
        ("layers[1].wq.n_dims", 1 << 30, "2"),
        ("layers[0].w1.ne[1]", 25, "24 (n_ff)"),
        ("layers[3].w2.ne[0]", 25, "24 (n_ff)"),
        ("output.ne[1]", 6, "7 (n_vocab)"),
        ("optimizer.just_initialized", 7, "0 or 1"),
        ("optimizer.state.v.ne[0]", 3, "3512 (nx)"),
        ("optimizer.state.pf.n_dims", 0, "1"),
        ("optimizer.state.pf.ne[0]", 3, "2 (past)"),
    ],
)
def test_one_wrong_number_is_one_error_and_all_else_is_checked(
    damaged: Damaged, field: str, value: int, expected: str
) -> None:
    code, report = report_of(damaged.poke(field, value).path)
    assert code == 1
    assert found(report) == [(field, expected, str(value))]
    assert report["errors"][0]["offset"] == damaged.spans[field].offset
    assert report["records"] == {"checked": 42, "expected": 42}
    assert report["damage"] is None


def test_all_errors_and_warnings_are_listed(damaged: Damaged) -> None:
    damaged.poke("norm.type", 8).poke("layers[1].wq.ne[0]", 9).poke("layers[3].w2.n_dims", 1)
    damaged.poke("optimizer.just_initialized", 2).poke("optimizer.state.fx_best", float("nan"), "<f")
    damaged.poke("layers[2].wk.padding", 5, "<B").poke("hparams.n_rot", 3).poke("hparams.n_mult", 5)
    damaged.data += b"behind"
    damaged.path.write_bytes(damaged.data)
    code, report = report_of(damaged.path)
    assert code == 1
    assert found(report) == [
        ("norm.type", "0 (F32)", "8"),
        ("layers[1].wq.ne[0]", "8 (n_embd)", "9"),
        ("layers[3].w2.n_dims", "2", "1"),
        ("optimizer.just_initialized", "0 or 1", "2"),
        ("file", "the end of the file", "6 more bytes"),
    ]
    odd = ["hparams.n_mult", "hparams.n_rot", "layers[2].wk.padding", "optimizer.state.fx_best"]
    assert [warning["path"] for warning in report["warnings"]] == odd
    assert [warning["offset"] for warning in report["warnings"]] == [damaged.spans[path].offset for path in odd]


def test_a_wrong_hyper_parameter_contradicts_every_shape(damaged: Damaged) -> None:
    code, report = report_of(damaged.poke("hparams.n_vocab", 6).path)
    assert code == 1
    assert found(report) == [("tok_embeddings.ne[1]", "6 (n_vocab)", "7"), ("output.ne[1]", "6 (n_vocab)", "7")]


def test_a_shape_that_is_really_another_is_believed(tmp_path: Path) -> None:
    """A smaller wk, as a trainer with grouped heads would have written."""
    damaged = Damaged(tmp_path / "x.ggcp", n_layer=2, past=0)
    for layer in (1, 0):  # from the end, so that the offsets before it hold
        damaged.poke(f"layers[{layer}].wk.ne[1]", 4)
        extent = damaged.spans[f"layers[{layer}].wk.data"]
        del damaged.data[extent.offset + extent.size // 2 : extent.offset + extent.size]
        damaged.path.write_bytes(damaged.data)
    code, report = report_of(damaged.path)
    assert code == 1
    assert found(report) == [
        ("layers[0].wk.ne[1]", "8 (n_embd)", "4"),
        ("layers[1].wk.ne[1]", "8 (n_embd)", "4"),
    ]
    assert report["records"] == {"checked": 24, "expected": 24}


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("optimizer.version", 2, "optimizer.version"),
        ("hparams.n_layer", 1 << 31, "layers"),
        ("hparams.n_layer", 5, "layers[4].wq.n_dims"),
    ],
)
def test_what_leads_nowhere_is_damage(damaged: Damaged, field: str, value: int, path: str) -> None:
    code, report = report_of(damaged.poke(field, value).path)
    assert code == 4
    assert report["damage"]["path"] == path
    assert report["records"]["expected"] is None


@pytest.mark.parametrize("layout", ["v0", "v1", "v1-raw-params"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_file_cut_in_the_state_tells_how_many_records_are_missing(
    tmp_path: Path, layout: str, optimizer: str
) -> None:
    total = 12 + (10 if optimizer == "lbfgs" else 8 if layout == "v0" else 3)
    path = tmp_path / "x.ggcp"
    data = build_checkpoint(layout=layout, optimizer=optimizer, past=2)
    path.write_bytes(data[:-3])
    report, _ = check(path)
    assert report.damage is not None
    assert report.damage.path == "optimizer.state.n_no_improvement"
    assert (report.expected, report.checked) == (total, total)
    path.write_bytes(data[:-32])
    report, _ = check(path)
    unknown = (layout, optimizer) == ("v1", "adam")  # cut in the third record, which tells the type
    assert (report.expected, report.checked) == (None if unknown else total, total - 1)


@given(checkpoints())
@ANY_DATA
def test_whatever_the_format_allows_is_valid(tmp_path: Path, built: Built) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(built.data)
    report, _ = check(path)
    assert report.valid
    assert report.checked == report.expected


@given(st.integers(0, 1 << 30), st.sampled_from(["v0", "v1"]))
@ANY_DATA
def test_dirty_padding_is_counted_exactly(tmp_path: Path, seed: int, layout: str) -> None:
    dirt, counts = random.Random(seed), []

    def padding(length: int) -> bytes:
        data = bytes(dirt.choice([0, 0, 0, dirt.randrange(256)]) for _ in range(length))
        counts.append(sum(map(bool, data)))
        return data

    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(layout=layout, padding=padding))
    report, _ = check(path)
    stated = [int(odd.message.split()[0]) for odd in report.warnings if odd.path.endswith(".padding")]
    assert stated == [count for count in counts if count]
    assert report.valid
    assert len(report.warnings) == len(stated)


@given(st.data())
@ANY_DATA
def test_no_damage_makes_it_fail(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes changed in the headers, any cut: a report, and what is read lies within the file."""
    whole = bytearray(build_checkpoint(layout=data.draw(st.sampled_from(["v0", "v1", "v1-raw-params"])), past=1))
    for at in data.draw(st.lists(st.integers(4, len(whole) - 1), max_size=5)):
        whole[at] = data.draw(st.sampled_from([0, 1, 2, 7, 255]))
    path = tmp_path / "x.ggcp"
    path.write_bytes(whole[: data.draw(st.integers(5, len(whole)))])
    report, warnings = check(path)
    size = path.stat().st_size
    assert all(tensor.offset + tensor.nbytes <= size for tensor in report.tensors)
    assert all(0 <= finding.offset <= size for finding in (*report.errors, *warnings))
    assert report.expected is None or report.damage or report.checked == report.expected


def odd_checkpoints() -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    params = {"layout": "v0", "params": {"print": b"\x02\x01"}}
    yield "bool", params, ["optimizer.params.print_forward_graph"]
    yield "alpha", {"layout": "v0", "params": {"delta": struct.pack("<f", np.inf)}}, ["optimizer.params.delta"]
    yield "garbage in what is unused", {"layout": "v0", "params": {"lbfgs": b"\xff" * 36, "padding": b"\xff\xff"}}, []
    yield "the same in raw v1", {"layout": "v1-raw-params", "params": {"lbfgs": b"\xff" * 36}}, []
    yield "iter", {"state": {"iter": -1}}, ["optimizer.iter"]
    yield "count", {"state": {"n_no_improvement": -1}}, ["optimizer.state.n_no_improvement"]
    yield "loss", {"state": {"fx_prev": float("inf")}}, ["optimizer.state.fx_prev"]
    yield "heads", {"n_head": 3}, ["hparams.n_head"]
    yield "no heads", {"n_head": 0}, ["hparams.n_head"]
    yield "rotation", {"n_rot": 4}, ["hparams.n_rot"]
    yield "nx", {"nx": 11}, ["optimizer.nx"]
    yield "name", {"optimizer_name": lambda: b"m"}, [f"optimizer.state.{name}.name" for name in ("m", "v", "pf")]
    yield "n_ff", {"n_ff": 5}, ["hparams.n_mult"]


@pytest.mark.parametrize(("options", "paths"), [pytest.param(*rest, id=name) for name, *rest in odd_checkpoints()])
def test_what_is_odd_is_a_warning_not_an_error(tmp_path: Path, options: dict[str, Any], paths: list[str]) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(**options))
    code, report = report_of(path)
    assert (code, report["valid"]) == (0, True)
    assert [warning["path"] for warning in report["warnings"]] == paths


@pytest.mark.parametrize("layout", ["v0", "v1"])
def test_values_that_no_training_gives(tmp_path: Path, layout: str) -> None:
    file = Damaged(tmp_path / "x.ggcp", layout=layout, data=lambda count: np.full(count, 0.5, "<f4"))
    assert check(file.path)[1] == []
    for at, value in ((8, np.nan), (12, np.inf), (16, -np.inf), (40, np.nan), (44, -1.0)):
        file.poke("layers[1].w2.data", value, "<f", at)
    file.poke("optimizer.state.v.data", -1.0, "<f", 100).poke("optimizer.state.v.data", -0.0, "<f", 4)
    file.poke("optimizer.state.m.data", -1.0, "<f", 4)
    _, report = report_of(file.path, "--data")
    assert [
        (odd["path"], odd["offset"] - file.spans[odd["path"]].offset, odd["message"]) for odd in report["warnings"]
    ] == [
        ("layers[1].w2.data", 8, "2 NaN, 2 infinite of 192 values; the first is here"),
        ("optimizer.state.v.data", 100, "1 negative of 3512 values; the first is here"),
    ]
    assert report["valid"]
    assert report_of(file.path)[1]["warnings"] == []


def test_data_larger_than_a_piece(tmp_path: Path) -> None:
    file = Damaged(tmp_path / "x.ggcp", n_vocab=100_000, n_layer=1)
    extent = file.spans["output.data"]
    file.poke("output.data", np.nan, "<f", extent.size - 4)
    _, warnings = check(file.path)
    place = [(odd.path, odd.offset) for odd in warnings if odd.path == "output.data"]
    assert place == [("output.data", extent.offset + extent.size - 4)]


def test_a_name_cannot_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"\x1b]0;evil\x07[red]\xff" + b"n" * 200))
    code, output = run_pty("validate", path, columns=40)
    assert code == 0
    assert "\x1b]" not in output
    assert "\x07" not in output
    assert r"\x1b]0;evil\x07[red]" in output
    _, report = report_of(path)
    assert "\x1b]0;evil\x07[red]" in report["warnings"][0]["message"]
    assert len(report["warnings"][0]["message"]) < 250


def test_no_colour_in_a_pipe_nor_where_it_is_not_wanted(damaged: Damaged) -> None:
    damaged.poke("norm.type", 1)
    assert "\x1b" not in run_cli("validate", damaged.path).stdout
    assert "\x1b" not in run_pty("validate", damaged.path, env={"NO_COLOR": "1"})[1]
    assert "\x1b[31m" in run_pty("validate", damaged.path)[1]


@pytest.mark.parametrize(("name", "code"), [("vocab.gguf", 4), ("vocab.ggjt", 4), ("nothing.ggcp", 2), (".", 2)])
def test_what_is_no_checkpoint(name: str, code: int) -> None:
    result = run_cli("validate", FIXTURES / name, "--json")
    assert (result.returncode, result.stdout) == (code, "")
    assert_no_traceback(result)
    assert result.stderr.startswith("ggcp-schema: ")
