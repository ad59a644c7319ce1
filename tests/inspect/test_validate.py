"""`validate` as data: all errors of a file, and all that is unusual."""

from __future__ import annotations

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

from ggcp_schema import CHECKPOINT, NotACheckpointError, open_checkpoint, open_file
from ggcp_schema.constructs import Field, root_field
from ggcp_schema.files import source as source_module
from ggcp_schema.files.source import Source
from ggcp_schema.formats import format_of
from ggcp_schema.formats.parsing import parse_past_errors
from ggcp_schema.inspect.soundness import bytes_read
from ggcp_schema.inspect.validate import Oddity, Report, examine_data, validate
from tests.builder import ARRAY, STRING, build_checkpoint, build_ggml, build_gguf
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, TRUNCATED, thinned
from tests.strategies import KINDS, Built, BuiltGguf, checkpoints, ggufs

RECORDS = {"v0-adam": 20, "v1-adam": 24, "v1-adam-past5": 15, "v1-lbfgs": 22, "v1-adam-raw-params": 15}
RECORDS |= {"twin-adam.v0": 20, "twin-adam.v1": 15, "twin-lbfgs.v0": 22, "twin-lbfgs.v1": 22}
RECORDS |= {"twin-ff48.v0": 29, "twin-ff48.v1": 24, "alice": 33, "rotmax8-v0": 29, "rotmax8-v1": 24}
RECORDS |= {"17a-B-3": 33, "aug-B-3": 33, "aug-C-3": 33, "jul-A-3": 33}  # 3 + 3 * 9 + 3
RECORDS |= {"aug-lbfgs-B-1": 22, "eb5-A-2": 29, "jun-A-3": 38, "jun-B-3": 38}
ADAM_FLOATS = ("sched", "decay", "alpha", "beta1", "beta2", "eps", "eps_f", "eps_g")
ANY_DATA = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path, *, data: bool = False) -> tuple[Report, list[Oddity]]:
    """Return the report and its warnings; if `data`, with those about the data."""
    with closing(Source(path)) as source:
        report = validate(source)
        assert all(tensor.offset + tensor.nbytes <= source.size for tensor in report.file.tensors.values())
        assert all(0 <= finding.offset <= source.size for finding in (*report.errors, *report.warnings))
        report = examine_data(report) if data else report
        return report, [*report.warnings]


def found(report: Report) -> list[tuple[str, str, str]]:
    return [(error.path, error.expected, error.found) for error in report.errors]


class Damaged:
    """A well-formed checkpoint in a file, whose fields are overwritten by their paths."""

    def __init__(self, path: Path, **options: Any) -> None:
        shape = {"n_layer": 4, "n_embd": 8, "n_vocab": 7, "past": 2} | options
        self.path, self.data = path, bytearray(build_checkpoint(**shape))
        root = root_field(CHECKPOINT, CHECKPOINT.parse(bytes(self.data)))
        self.fields: dict[str, Field] = {leaf.path: leaf for leaf in root.leaves()}
        self.write()

    def write(self) -> None:
        self.path.write_bytes(self.data)

    def poke(self, field: str, value: Any, code: str = "<I", at: int = 0) -> Damaged:
        struct.pack_into(code, self.data, self.fields[field].offset + at, value)
        self.write()
        return self


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tmp_path / "x.ggcp")


# Genuine files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.stem)
def test_a_genuine_file_is_valid(path: Path) -> None:
    report, warnings = check(path, data=True)
    assert (report.valid, report.errors, report.damage) == (True, (), None)
    assert report.records == (RECORDS[path.stem], RECORDS[path.stem])
    with open_checkpoint(path) as ckpt:
        assert report.fields == sum(leaf.size > 0 for leaf in ckpt.root.leaves())
    assert [warning.path for warning in warnings] == (["hparams.n_mult"] if "ff48" in path.stem else [])


@pytest.mark.parametrize("name", ["vocab.gguf", "alice-vocab.gguf", "vocab.ggjt", "alice-vocab.ggjt"])
def test_a_genuine_vocabulary_is_valid(name: str) -> None:
    report, warnings = check(FIXTURES / name)
    assert (report.valid, warnings, *report.records) == (True, [], 0, 0)
    assert report.fields == sum(leaf.size > 0 for leaf in report.file.root.leaves())


def test_the_file_that_a_crash_cut_short_is_damaged() -> None:
    report, _ = check(TRUNCATED)
    assert (report.valid, report.errors, *report.records) == (False, (), 11, None)
    assert report.damage is not None
    assert (report.damage.path, report.damage.offset, report.damage.missing) == ("layers[0].w3.padding", 52147, 13)
    assert report.damage.file_missing is None


# Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("version", 1 << 30, "0"),
        ("norm.type", 8, "0 (F32)"),
        ("layers[1].wq.ne[0]", 9, "8 (n_embd)"),
        ("layers[1].wq.ne[1]", 1 << 31, "8 (n_embd)"),
        ("layers[1].wq.n_dims", 1, "2"),
        ("layers[1].wq.n_dims", 0, "2"),
        ("layers[1].wq.n_dims", 1 << 30, "2"),
        ("layers[0].w1.ne[1]", 25, "24"),
        ("layers[3].w2.ne[0]", 25, "24 (n_ff)"),
        ("output.ne[1]", 6, "7 (n_vocab)"),
        ("optimizer.just_initialized", 7, "0 or 1"),
        ("optimizer.state.v.ne[0]", 3, "3512 (nx)"),
        ("optimizer.state.pf.n_dims", 0, "1 (past != 0)"),
        ("optimizer.state.pf.ne[0]", 3, "2 (past)"),
    ],
)
def test_one_wrong_number_is_one_error_and_all_else_is_checked(
    damaged: Damaged, field: str, value: int, expected: str
) -> None:
    report, _ = check(damaged.poke(field, value).path)
    assert found(report) == [(field, expected, str(value))]
    assert report.errors[0].offset == damaged.fields[field].offset
    assert (*report.records, report.damage) == (42, 42, None)


def test_all_errors_and_warnings_are_listed(damaged: Damaged) -> None:
    damaged.poke("norm.type", 8).poke("layers[1].wq.ne[0]", 9).poke("layers[3].w2.n_dims", 1)
    damaged.poke("optimizer.just_initialized", 2).poke("optimizer.state.fx_best", float("nan"), "<f")
    damaged.poke("layers[2].wk.padding", 5, "<B").poke("hparams.n_rot", 3).poke("hparams.n_mult", 5)
    damaged.data += b"behind"
    damaged.write()
    report, warnings = check(damaged.path)
    assert found(report) == [
        ("norm.type", "0 (F32)", "8"),
        ("layers[1].wq.ne[0]", "8", "9"),
        ("layers[3].w2.n_dims", "2", "1"),
        ("optimizer.just_initialized", "0 or 1", "2"),
    ]
    odd = ["hparams.n_mult", "hparams.n_rot", "layers[2].wk.padding", "optimizer.state.fx_best"]
    assert [(warning.path, warning.offset) for warning in warnings] == [
        *((path, damaged.fields[path].offset) for path in odd),
        ("trailing", len(damaged.data) - len(b"behind")),
    ]


@pytest.mark.parametrize(("field", "value", "expected"), [("hparams.n_vocab", 6, "7"), ("hparams.n_embd", 5, "8")])
def test_a_hyper_parameter_that_every_shape_contradicts(
    damaged: Damaged, field: str, value: int, expected: str
) -> None:
    report, _ = check(damaged.poke(field, value).path)
    assert found(report) == [(field, expected, str(value))]
    assert (*report.records, report.damage) == (42, 42, None)


def test_a_shape_that_is_really_another_is_believed(tmp_path: Path) -> None:
    """A smaller wk, as a trainer with grouped heads would have written."""
    damaged = Damaged(tmp_path / "x.ggcp", n_layer=2, past=0)
    for layer in (1, 0):  # from the end, so that the offsets before it hold
        damaged.poke(f"layers[{layer}].wk.ne[1]", 4)
        data = damaged.fields[f"layers[{layer}].wk.data"]
        del damaged.data[data.offset + data.size // 2 : data.end]
        damaged.write()
    report, _ = check(damaged.path)
    assert found(report) == [
        ("layers[0].wk.ne[1]", "8 (n_embd)", "4"),
        ("layers[1].wk.ne[1]", "8 (n_embd)", "4"),
    ]
    assert report.records == (24, 24)


@pytest.mark.parametrize(
    ("field", "value"),
    [("optimizer.version", 2), ("hparams.n_layer", 1 << 31), ("hparams.n_layer", 5), ("hparams.n_layer", 1)],
)
def test_a_wrong_value_that_follows_from_the_records(damaged: Damaged, field: str, value: int) -> None:
    report, whole = check(damaged.poke(field, value).path), check(damaged.path)
    assert [(error.path, error.found) for error in report[0].errors] == [(field, str(value))]
    assert report[0].damage is None
    assert report[0].records.checked == whole[0].records.checked


@pytest.mark.parametrize(("layout", "optimizer"), KINDS, ids=str)
def test_a_file_cut_in_the_state_tells_how_much_is_missing(tmp_path: Path, layout: str, optimizer: str) -> None:
    total = 12 + (10 if optimizer == "lbfgs" else 8 if layout == "v0" else 3)
    path = tmp_path / "x.ggcp"
    data = build_checkpoint(layout=layout, optimizer=optimizer, past=2)
    for cut, checked in ((3, total), (32, total - 1)):
        path.write_bytes(data[:-cut])
        report, _ = check(path)
        assert report.damage is not None
        assert (report.damage.file_missing, report.records.expected, report.records.checked) == (cut, total, checked)
        assert report.damage.message.endswith(f": the file is {cut} bytes too short")


def test_a_cut_v1_file_that_does_not_tell_its_optimizer_hides_the_number_of_records(tmp_path: Path) -> None:
    data = build_checkpoint(optimizer="lbfgs")
    path = tmp_path / "x.ggcp"
    path.write_bytes(data[: CHECKPOINT.parse(data).optimizer.state["_offset"] + 100])
    report, _ = check(path)
    assert report.records.expected is None
    assert report.damage is not None
    assert report.damage.file_missing is None
    assert ": the file is at least " in report.damage.message


@given(checkpoints())
@ANY_DATA
def test_whatever_the_format_allows_is_valid(tmp_path: Path, built: Built) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(built.data)
    report, _ = check(path)
    assert report.verdict == ("unsound" if report.unsound else "valid")
    assert {bad.rule for bad in report.unsound} <= {
        "loss-zero",
        "loss-negative",
    }  # which the format allows, and no training leaves
    assert report.records.checked == report.records.expected
    assert report.fields == sum(leaf.size > 0 for leaf in report.file.root.leaves())


def test_the_file_of_a_tolerant_parse_knows_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (build_checkpoint(), build_ggml(b"tjgg", 3, tensors=[("t", (2,), 0, bytes(8))])):
        for size in (10, 40, len(content) - 1):
            path.write_bytes(content[:size])
            with closing(Source(path)) as source:
                parse = parse_past_errors(source, format_of(source))
                assert parse.damage is not None
                assert "damaged" in repr(parse.file)


@given(st.data())
@ANY_DATA
def test_no_damage_makes_it_fail(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes changed in the headers, any cut: there is a report, and what it lists lies within the file."""
    whole = bytearray(build_checkpoint(layout=data.draw(st.sampled_from(["v0", "v1", "v1-raw-params"])), past=1))
    for at in data.draw(st.lists(st.integers(4, len(whole) - 1), max_size=5)):
        whole[at] = data.draw(st.sampled_from([0, 1, 2, 7, 255]))
    path = tmp_path / "x.ggcp"
    path.write_bytes(whole[: data.draw(st.integers(5, len(whole)))])
    report, _ = check(path)
    assert report.records.expected is None or report.damage or report.records.checked == report.records.expected


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"PK\3\4")
    with closing(Source(path)) as source, pytest.raises(NotACheckpointError, match="This is a zip archive"):
        validate(source)


# Warnings --------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 30), st.sampled_from(["v0", "v1"]))
@ANY_DATA
def test_dirty_padding_is_counted_exactly(tmp_path: Path, seed: int, layout: str) -> None:
    dirt, counts = random.Random(seed), []

    def padding(length: int) -> bytes:
        data = bytes(dirt.choice([0, 0, 0, dirt.randrange(256)]) for _ in range(length))
        counts.append((sum(map(bool, data)), length))
        return data

    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(layout=layout, padding=padding))
    report, _ = check(path)
    expected = [
        f"{dirty} of {length} byte{'s' if length > 1 else ''} of padding {'are' if dirty > 1 else 'is'} not zero"
        for dirty, length in counts
        if dirty
    ]
    assert [warning.message for warning in report.warnings] == expected
    assert all(report.file.find(warning.path).offset == warning.offset for warning in report.warnings)
    assert report.valid


def odd_checkpoints() -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    params = {"layout": "v0", "params": {"print": b"\x02\x01"}}
    yield "bool", params, ["optimizer.params.print_forward_graph"]
    yield "delta", {"layout": "v0", "params": {"delta": struct.pack("<f", np.inf)}}, ["optimizer.params.delta"]
    yield "garbage in what is unused", {"layout": "v0", "params": {"lbfgs": b"\xff" * 36, "padding": b"\xff\xff"}}, []
    yield "the same in raw v1", {"layout": "v1-raw-params", "params": {"lbfgs": b"\xff" * 36}}, []
    yield (
        "the same in what is used",
        {"layout": "v0", "params": {"adam": struct.pack("<i8f", 100, *[np.nan] * 8)}},
        [f"optimizer.params.adam.{name}" for name in ADAM_FLOATS],
    )
    yield "iter", {"state": {"iter": -1}}, ["optimizer.iter"]
    yield "count", {"state": {"n_no_improvement": -1}}, ["optimizer.state.n_no_improvement"]
    yield "loss", {"state": {"fx_prev": float("inf")}}, ["optimizer.state.fx_prev"]
    yield "heads", {"n_head": 3}, ["hparams.n_head"]
    yield "no heads", {"n_head": 0}, ["hparams.n_head"]
    yield "rotation", {"n_rot": 4}, ["hparams.n_rot"]
    yield "nx", {"nx": 11}, ["optimizer.nx"]
    yield "name", {"optimizer_name": lambda: b"m"}, [f"optimizer.state.{name}.name" for name in ("m", "v", "pf")]
    yield "n_ff", {"n_ff": 5}, ["hparams.n_mult"]
    yield "swapped", {"name": lambda name: name.replace("wv", "wo").encode()}, ["layers[0].wv.name"]


@pytest.mark.parametrize(("options", "paths"), [pytest.param(*rest, id=name) for name, *rest in odd_checkpoints()])
def test_what_is_odd_is_a_warning_not_an_error(tmp_path: Path, options: dict[str, Any], paths: list[str]) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(**options))
    report, warnings = check(path)
    assert report.valid
    assert [warning.path for warning in warnings] == paths
    assert all(report.file.find(warning.path).offset == warning.offset for warning in warnings)


def test_what_the_trainers_did_not_write_is_said_with_what_they_did(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(
        build_checkpoint(name=lambda name: b"wq" if "wq" in name else name.encode(), optimizer_name=lambda: b"v")
    )
    report, _ = check(path)
    assert [warning.message for warning in report.warnings] == [
        "is 'wq'; the trainers wrote 'layers.0.attention.wq.weight' or 'blk.0.attn_q.weight'",
        *["is 'v'; the trainers wrote no name"] * 3,
    ]


def test_a_long_name_is_shortened(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"n" * 5000))
    report, _ = check(path)
    assert report.warnings[0].message.startswith(f"is '{'n' * 80}…'; the trainers wrote ")


def test_the_inferred_type_is_not_doubted_where_its_evidence_is_damaged(tmp_path: Path) -> None:
    """By size and by records the types differ; but the state has an error, so neither says anything."""
    data = bytearray(build_checkpoint(optimizer="lbfgs", past=100_000, lbfgs_m=1))
    path = tmp_path / "x.ggcp"
    path.write_bytes(data)
    report, _ = check(path)
    assert [warning.path for warning in report.warnings] == ["optimizer.type"]
    at = CHECKPOINT.parse(bytes(data)).optimizer.state.d["_offset"] + 8  # its element type
    data[at] = 1
    path.write_bytes(data)
    report, _ = check(path)
    assert [error.path for error in report.errors] == ["optimizer.state.d.type"]
    assert report.warnings == ()


# Data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["v0", "v1"])
@pytest.mark.parametrize("chunk", [1 << 18, 48])
def test_values_that_no_training_gives(
    tmp_path: Path, layout: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "CHUNK", chunk)
    file = Damaged(tmp_path / "x.ggcp", layout=layout, n_layer=2, data=lambda count: np.full(count, 0.5, "<f4"))
    assert check(file.path, data=True)[1] == []
    for at, value in ((8, np.nan), (12, np.inf), (16, -np.inf), (40, np.nan), (44, -1.0)):
        file.poke("layers[1].w2.data", value, "<f", at)
    file.poke("norm.data", 0x7FA00001, "<I", 28)  # a signalling NaN
    file.poke("optimizer.state.v.data", -1.0, "<f", 100).poke("optimizer.state.v.data", -0.0, "<f", 4)
    file.poke("optimizer.state.m.data", -1.0, "<f", 4)
    report, warnings = check(file.path, data=True)
    assert warnings == []  # they are unsound
    with closing(Source(file.path)) as source:
        unsound = examine_data(validate(source)).unsound
    assert {(bad.path, bad.start - file.fields[f"{bad.path}.data"].offset, bad.rule) for bad in unsound} >= {
        ("norm", 28, "not-finite"),
        ("layers[1].w2", 8, "not-finite"),
        ("layers[1].w2", 40, "not-finite"),
        ("optimizer.state.v", 100, "negative-v"),
    }
    assert (report.verdict, report.errors) == ("unsound", ())
    assert check(file.path)[1] == []


def test_no_value_is_read_twice_but_those_of_x_and_the_weights_in_it() -> None:
    for name, twice in (
        ("v0-adam.ggcp", True),
        ("v1-adam.ggcp", False),
        ("v1-lbfgs.ggcp", True),
        ("vocab.gguf", False),
    ):
        with closing(Source(FIXTURES / name)) as source:
            report = validate(source)
            read: list[int] = []
            examine_data(report, read.append)
            whole = sum(tensor.nbytes for tensor in report.readable)
            assert sum(read) == bytes_read(report.file, report.readable)
            assert (sum(read) > whole) is twice


def test_data_larger_than_a_piece(tmp_path: Path) -> None:
    file = Damaged(tmp_path / "x.ggcp", n_vocab=100_000, n_layer=1)
    data = file.fields["output.data"]
    file.poke("output.data", np.nan, "<f", data.size - 4)
    with closing(Source(file.path)) as source:
        unsound = examine_data(validate(source)).unsound
    assert [bad.start for bad in unsound if bad.path == "output" and bad.rule == "not-finite"] == [data.end - 4]


@pytest.mark.parametrize("order", ["<", ">"])
def test_data_of_gguf_files_is_read_in_its_type_and_byte_order(tmp_path: Path, order: str) -> None:
    values = np.array([1, np.nan, -1, -1], np.float32)
    tensors = [
        ("f32", (4,), 0, values.astype(order + "f4").tobytes()),
        ("f16", (4,), 1, values.astype(order + "f2").tobytes()),
        ("q8_0", (32,), 8, bytes(34)),
        ("optimizer.adam.second_moments", (4,), 0, values.astype(order + "f4").tobytes()),
    ]
    path = tmp_path / "x.gguf"
    path.write_bytes(build_gguf([("general.architecture", STRING, "llama")], tensors, order=order))
    report, warnings = check(path, data=True)
    assert report.valid
    starts = {tensor.path: tensor.offset for tensor in report.file.tensors.values()}
    warnings = [odd for odd in warnings if odd.path != "byte_order"]
    assert [(odd.path, odd.offset - starts[odd.path.removesuffix(".data")], odd.message) for odd in warnings] == [
        ("f32.data", 4, "1 NaN of 4 values, the first at this offset"),
        ("f16.data", 2, "1 NaN of 4 values, the first at this offset"),
        ("optimizer.adam.second_moments.data", 4, "1 NaN, 2 negative of 4 values, the first at this offset"),
    ]
    quantized = ["q8_0"] * (order == "<")
    assert [tensor.path for tensor in report.readable] == ["f32", "f16", *quantized, "optimizer.adam.second_moments"]


# Other formats ---------------------------------------------------------------------------------------------

ARCHITECTURE = ("general.architecture", STRING, "llama")


@given(ggufs())
@ANY_DATA
def test_a_gguf_file_is_valid(tmp_path: Path, built: BuiltGguf) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(built.data)
    report, warnings = check(path)
    check(path, data=True)
    alignment = built.keys.get("general.alignment", (4, 32))[1]
    assert report.valid == (alignment.bit_count() == 1)
    assert report.records.checked == report.records.expected == len(built.tensors)
    expected = [] if "general.architecture" in built.keys else ["metadata_kv"]
    expected += ["byte_order"] * (built.order == ">")
    assert [odd.path for odd in warnings if not odd.message.startswith("is an array of arrays")] == expected


@pytest.mark.parametrize(
    ("data", "errors", "warnings"),
    [
        (
            build_gguf([ARCHITECTURE, ("k", 4, 1), ("k", 4, 2)]),
            [("metadata_kv[2].key", "a name that is not used before", "'k'")],
            [],
        ),
        (
            build_gguf([ARCHITECTURE], [("t", (1,), 0, bytes(4)), ("t", (1,), 0, bytes(4))]),
            [("tensor_infos[1].name", "a name that is not used before", "'t'")],
            [],
        ),
        (
            build_gguf([ARCHITECTURE, ("general.alignment", 4, 24)], alignment=24),
            [("metadata_kv[1].value", "a power of two", "24")],
            [],
        ),
        (
            build_gguf([ARCHITECTURE, ("general.alignment", STRING, "32")]),
            [("metadata_kv[1].value_type", "4 (UINT32)", "8")],
            [],
        ),
        (
            build_gguf([ARCHITECTURE], [("q", (40,), 8, bytes(68))]),
            [("tensor_infos[0].dimensions[0]", "a multiple of 32 (the block size of Q8_0)", "40")],
            [],
        ),
        (
            build_gguf([ARCHITECTURE], [("a", (8,), 0, bytes(32)), ("b", (8,), 0, bytes(32))], offsets={1: 40})
            + bytes(8),
            [("tensor_infos[1].offset", "a multiple of 32 (alignment)", "40")],
            [("tensor_data[1].padding", "8 bytes of padding, where 0 would do; llama.cpp refuses a gap")],
        ),
        (
            build_gguf([("n", ARRAY, (4, [1, 2]))]),
            [],
            [("metadata_kv", "the key general.architecture is missing")],
        ),
        (build_gguf([("general.type", STRING, "imatrix")], [("a.in_sum2", (8,), 0, bytes(32))]), [], []),
        (
            build_gguf([ARCHITECTURE], [("a", (8,), 0, bytes(32))])[:-33] + b"\1" + bytes(32),
            [],
            [("padding", "1 of 26 bytes of padding is not zero")],
        ),
    ],
    ids=["key", "name", "alignment", "alignment type", "row", "offset", "architecture", "imatrix", "padding"],
)
def test_rules_of_gguf_that_no_single_field_states(
    tmp_path: Path, data: bytes, errors: list[Any], warnings: list[Any]
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    report, odd = check(path)
    assert found(report) == errors
    assert [(warning.path, warning.message) for warning in odd] == warnings
    for finding in (*report.errors, *odd):
        assert finding.path == "metadata_kv" or finding.offset in {
            report.file.find(finding.path).offset,
            report.file.find(finding.path.rpartition(".")[0] or finding.path).offset,
        }


@pytest.mark.parametrize(
    ("name", "start", "stop", "instead", "records"),
    [
        ("lora/base.gguf", 100_000, 100_000, b"x", (20, 21)),
        ("lora/base.gguf", 56, 60, b"\xff" * 4, (21, 21)),  # in the key general.architecture
        ("alice-vocab.gguf", 60, 16_640, bytes(16_580), (0, 0)),
        ("v1-adam.ggcp", 40_960, 41_984, bytes(1024), (21, 24)),
    ],
)
def test_damage_is_no_cause_of_other_findings(
    name: str, start: int, stop: int, instead: bytes, records: tuple[int, int], tmp_path: Path
) -> None:
    """No error is listed twice; what is lost is neither missing nor padding, and does not make the model smaller."""
    data, path = (FIXTURES / name).read_bytes(), tmp_path / "x"
    path.write_bytes(data[:start] + instead + data[stop:])
    report, warnings = check(path)
    errors = [*found(report), *([report.damage.path] if report.damage else [])]
    assert report.records == records
    assert (len(errors), warnings) == (2 if name.endswith("ggcp") else 1, [])


def test_a_file_whose_version_is_lost_is_not_called_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "x.ggjt"
    data = (FIXTURES / "lora" / "base.ggjt").read_bytes()
    path.write_bytes(data[:4] + bytes(4) + data[8:])
    with open_file(path, partial=True) as file:
        assert "vocabulary" not in file.what + file.short


@pytest.mark.parametrize(("name", "whole"), [("base.ggjt", 21), ("adam.ggcl", 45)])
def test_tensors_that_damage_hides_are_expected(name: str, whole: int, tmp_path: Path) -> None:
    data, path = (FIXTURES / "lora" / name).read_bytes(), tmp_path / name
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    checked, expected = check(path)[0].records
    assert (checked < whole, expected) == (True, whole)


@pytest.mark.parametrize(("magic", "version"), [(b"lmgg", None), (b"fmgg", 1), (b"tjgg", 3)], ids=str)
def test_rules_of_ggml_files(tmp_path: Path, magic: bytes, version: int | None) -> None:
    tensors = [("a", (32,), 2, bytes(18 if version == 3 else 20)), ("a", (2,), 0, bytes(8))]
    path = tmp_path / "x.bin"
    path.write_bytes(build_ggml(magic, version, tensors=tensors))
    report, warnings = check(path)
    assert found(report) == [("tensors[1].name", "a name that is not used before", "'a'")]
    assert (*report.records, warnings) == (2, 2, [])
    path.write_bytes(build_ggml(magic, version, tensors=tensors)[:-1])
    report, _ = check(path)
    assert report.records == (1, None)
    assert report.damage is not None
    assert report.damage.path == "tensors[1].data"
