"""`diff`: output, exit codes, JSON, terminals. What is compared is tested in tests/inspect."""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter

import pytest

from ggcp_schema.inspect import diff
from ggcp_schema.inspect.text import cells
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, assert_no_traceback, run_cli, run_pty

ADAM = FIXTURES / "v1-adam.ggcp"


@pytest.fixture
def changed(tmp_path):
    """v1-adam with another iteration count, one weight of the embeddings NaN and one of the output 1 larger."""
    data = bytearray(ADAM.read_bytes())
    places = {row["path"]: row["offset"] for row in json.loads(run_cli("tensors", ADAM, "--json").stdout)}
    struct.pack_into("<I", data, 8, 13)
    struct.pack_into("<f", data, places["tok_embeddings"] + 400, math.nan)
    weight = places["output"] + 4
    struct.pack_into("<f", data, weight, struct.unpack_from("<f", data, weight)[0] + 1)
    path = tmp_path / "changed.ggcp"
    path.write_bytes(data)
    return path


def test_output(changed):
    result = run_cli("diff", ADAM.name, changed, cwd=FIXTURES)
    assert_golden("diff/changed.txt", result.stdout.replace(str(changed), "changed.ggcp"))
    assert result.returncode == 1
    assert not result.stderr


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ("twin-adam.v0.ggcp", "twin-adam.v1.ggcp", 0),
        ("v1-adam.ggcp", "v1-lbfgs.ggcp", 1),
        ("v0-adam.ggcp", "v1-adam.ggcp", 1),
        ("orders/jun-A-3.ggcp", "orders/jun-B-3.ggcp", 1),
        ("vocab.gguf", "alice-vocab.gguf", 1),
        ("truncated-v0-lbfgs.ggcp", "twin-lbfgs.v0.ggcp", 4),
    ],
)
def test_output_of_genuine_files(a, b, code):
    result = run_cli("diff", a, b, cwd=FIXTURES)
    assert_golden(f"diff/{a}-{b}.txt".replace("orders/", ""), result.stdout)
    assert result.returncode == code
    assert ("offset 52147" in result.stderr) == (code == 4)


def test_output_for_a_model(tmp_path):
    model = tmp_path / "model.gguf"
    path = FIXTURES / "twin-adam.v1.ggcp"
    run_cli("export", path, model, "--vocab", FIXTURES / "vocab.gguf", "--context-length", "32", check=True)
    assert_golden("diff/model.txt", run_cli("diff", path, model, check=True).stdout)


def test_a_key_of_one_of_two_models(tmp_path):
    model = FIXTURES / "lora" / "base.gguf"
    run_cli("edit", model, tmp_path / "more.gguf", "x.y:u32=1", check=True)
    result = run_cli("diff", model, tmp_path / "more.gguf")
    assert result.returncode == 1
    assert "1 of 24 fields and 0 of 21 tensors differ" in result.stdout
    assert "only in B" in result.stdout


def test_json(changed):
    result = run_cli("diff", ADAM, changed, "--json")
    assert result.returncode == 1
    found = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert list(found) == ["a", "b", "equal", "change", "counts", "fields", "tensors", "not_compared", "notes"]
    counts = {"fields": 47, "different_fields": 1, "tensors": 64, "different_tensors": 2, "not_compared": 0}
    counts |= {"parts": 42, "different_parts": 0}
    assert found["counts"] == counts
    differing = {row["name"]: row for row in found["fields"] + found["tensors"] if row["verdict"] != "equal"}
    assert set(differing) == {"train_its", "tok_embeddings", "output"}
    assert (differing["train_its"]["a"], differing["train_its"]["b"]) == (12, 13)
    assert differing["tok_embeddings"]["largest"] == "NaN"
    assert found["change"]["iterations"] == 1
    assert json.loads(run_cli("diff", FIXTURES / "vocab.gguf", FIXTURES / "vocab.gguf", "--json").stdout)["equal"]
    assert run_cli("diff", FIXTURES / "vocab.gguf", FIXTURES / "vocab.gguf").stdout == "equal: 16 fields\n"


def test_the_beginning_tells_what_a_trainer_wants(changed):
    lines = run_cli("diff", ADAM, changed).stdout.splitlines()
    assert lines[2] == "1 of 47 fields, 2 of 22 tensors and 0 of 42 parts of the optimizer's vectors differ"
    assert lines[3] == "B is ahead; from A to B +1 iteration"
    assert re.match(r"relative change of the weights: output [0-9.]+ %, tok_embeddings not measurable \(", lines[4])


@pytest.mark.parametrize("name", ["alice.ggcp", "v0-adam.ggcp", "v1-lbfgs.ggcp", "rotmax8-v1.ggcp"])
def test_tensors_are_counted_as_in_validate(name):
    """What the optimizer's vectors hold of each parameter counts as parts, and not as tensors."""
    found = json.loads(run_cli("diff", FIXTURES / name, FIXTURES / name, "--json", check=True).stdout)
    names = [re.sub(r"^(optimizer[^[]*)\[.*", r"\1", row["name"]) for row in found["tensors"]]
    checked = json.loads(run_cli("validate", FIXTURES / name, "--json", check=True).stdout)["records"]["checked"]
    assert len({*names}) == checked
    assert found["counts"]["parts"] == sum(count for count in Counter(names).values() if count > 1) > 0


def test_the_largest_changes_come_first():
    result = run_cli("diff", FIXTURES / "v0-adam.ggcp", ADAM, "--json")
    changes = [row["largest"] for row in json.loads(result.stdout)["tensors"] if row["largest"]]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) > 10


def test_many_rows_and_long_values_are_capped_and_counted(tmp_path, monkeypatch):
    """A row of a list of 100,000 numbers, of a text, and of each of many keys: no more than MAX_ROWS are printed."""
    assert diff.MAX_ROWS == 10_000
    monkeypatch.setattr(diff, "MAX_ROWS", 1_000)

    def string(data):
        return struct.pack("<Q", len(data)) + data

    def key(name, value):
        return string(name) + struct.pack("<I", 8) + string(value)

    for side in (b"a", b"b"):
        texts = key(b"text", b"x" * 70_000 + side), key(b"longer", b"y" * 70_000 + b"z" * (side == b"b"))
        keys = [*texts, *(key(b"%d" % index, side) for index in range(1_200))]
        numbers = string(b"list") + struct.pack("<IIQ", 9, 0, 100_000) + bytes(99_999) + side
        header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys) + 1)
        (tmp_path / side.decode()).write_bytes(header + numbers + b"".join(keys))
    text = run_cli("diff", tmp_path / "a", tmp_path / "b").stdout
    assert "1,203 of 1,203 fields differ" in text.splitlines()
    assert len(re.findall(" a +b$", text, re.MULTILINE)) == 1_000 - 3
    assert "and 203 more" in text.splitlines()
    rows = [re.split(" {2,}", line) for line in text.splitlines()]
    assert ["text", "[70,001] with [70000] = a", "[70,001] with [70000] = b"] in rows
    assert ["longer", "[70,000]", "[70,001] with [70000] = z"] in rows
    found = json.loads(run_cli("diff", tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert found["counts"]["different_fields"] == 1_203
    rows = {row["name"]: row for row in found["fields"]}
    assert len(rows) == 1_000
    assert rows["text"]["b"] == {"length": 70_001, "index": 70_000, "value": "b"}
    assert rows["longer"]["a"] == {"length": 70_000, "index": None, "value": None}  # B has all of it
    assert rows["longer"]["b"] == {"length": 70_001, "index": 70_000, "value": "z"}
    assert rows["list"]["a"] == {"length": 100_000, "index": 99_999, "value": ord("a")}


def test_lines_are_as_wide_as_a_terminal_shows_them(tmp_path):
    """A sign that takes two cells counts as two."""
    names = [f"{'鍵' * 5}.{number}".encode() for number in range(9)]
    keys = b"".join(struct.pack("<Q", len(name)) + name + struct.pack("<IB", 0, 1) for name in names)
    (tmp_path / "a").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(names)) + keys)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:60])
    lines = run_cli("diff", "a", "b", "--width", "40", cwd=tmp_path).stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("ignored in A"))
    assert len(lines[start:]) > 2
    assert max(map(cells, lines[start:])) <= 40


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (80, [f"  A {'a long text ' * 5}1", f"  B {'a long text ' * 5}2"]),
        (60, ["  A [61] with [60] = 1  B [61] with [60] = 2"]),
    ],
)
def test_what_differs_is_shown_beside_a_long_name(tmp_path, width, lines):
    for side in (b"1", b"2"):
        text, name = b"a long text " * 5 + side, b"a.very.long.name" * 6
        key = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", 8, len(text)) + text
        (tmp_path / side.decode()).write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key)
    result = run_cli("diff", "1", "2", "--width", str(width), cwd=tmp_path)
    name = "a.very.long.name" * 6
    assert result.stdout.splitlines()[4:] == [name[:width], name[width:], *lines]


def test_equal_within_a_tolerance_says_how_near(tmp_path):
    a, b = tmp_path / "a.ggcp", tmp_path / "b.ggcp"
    a.write_bytes(build_checkpoint(state={"fx_best": 5.0}))
    data = bytearray(a.read_bytes())
    offset = json.loads(run_cli("tensors", a, "--json").stdout)[0]["offset"]
    struct.pack_into("<f", data, offset, struct.unpack_from("<f", data, offset)[0] + 0.25)
    b.write_bytes(data)
    assert "largest difference is 0.25" in run_cli("diff", a, b, "--atol", "0.2501", check=True).stdout
    assert run_cli("diff", a, b, "--atol", "0.24").returncode == 1


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_negative_or_nan_tolerance_is_refused(value):
    result = run_cli("diff", ADAM, ADAM, f"--rtol={value}")
    assert result.returncode == 2
    assert "tolerance" in result.stderr


def test_files_that_cannot_be_read(tmp_path):
    result = run_cli("diff", ADAM, tmp_path / "missing.ggcp")
    assert result.returncode == 2
    assert_no_traceback(result)
    (tmp_path / "text").write_text("not a checkpoint")
    assert run_cli("diff", ADAM, tmp_path / "text").returncode == 2


def test_narrow_and_wide_terminals(changed):
    wide = run_cli("diff", ADAM, changed).stdout
    assert run_pty("diff", ADAM, changed, columns=400, env={"NO_COLOR": "1"}) == (1, wide)
    narrow = run_cli("diff", ADAM, changed, "--width", "44").stdout
    assert max(len(line) for line in narrow.splitlines()[2:]) <= 44
    assert {"train_its", "12", "13", "tok_embeddings", "output"} <= set(narrow.split())


@pytest.mark.parametrize("width", [60, 80])
def test_on_a_narrow_terminal_values_are_cut_and_rows_stay_rows(width):
    lines = run_cli(
        "diff", FIXTURES / "v1-adam.ggcp", FIXTURES / "v1-lbfgs.ggcp", "--width", str(width)
    ).stdout.splitlines()
    head = next(line for line in lines if line.startswith("field "))
    (row,) = [line for line in lines if line.startswith("layers[1].attention_norm.name ")]
    (other,) = [line for line in lines if line.startswith("optimizer.state.step ")]
    assert row[head.index(" A") + 1 :].startswith("layers.1.attent")
    assert other[head.index(" B") + 1 :] == "0.5"
    assert all(len(line) <= width for line in lines[2:])
