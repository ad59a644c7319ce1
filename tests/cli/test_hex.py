"""`hex`: the bytes of the file, each with its field."""

from __future__ import annotations

import json
from itertools import product

import pytest

from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty, thinned
from tests.samples import KINDS, sample

ADAM = FIXTURES / "v1-adam.ggcp"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("norm", ["v1-adam-past5.ggcp", "norm"]),
        ("offset", ["v1-adam-past5.ggcp", "0x28:40"]),
        ("path-length", ["v1-adam-past5.ggcp", "norm.data:70"]),
        ("params", ["v0-adam.ggcp", "optimizer.params"]),
        ("params-80", ["v0-adam.ggcp", "optimizer.params", "--width", "80"]),
        ("norm-60", ["v1-adam-past5.ggcp", "norm", "--width", "60"]),
        ("end", ["v1-adam.ggcp", "205190"]),
    ],
)
def test_golden(name, args):
    assert_golden(f"hex/{name}.txt", run_cli("hex", *args, cwd=FIXTURES, check=True).stdout)


def rows(text, width):
    """The offset and the bytes of each row."""
    for line in text.splitlines():
        offset, _, rest = line.partition("  ")
        yield int(offset, 16), bytes.fromhex(rest[:width])


@pytest.mark.parametrize("path", thinned([TRUNCATED, FIXTURES / "vocab.gguf", *GENUINE]), ids=lambda path: path.name)
def test_rows_are_the_bytes_of_the_file(path):
    start, size = 20, 7000
    at, data = start, path.read_bytes()
    for offset, row in rows(run_cli("hex", path, f"{start}:{size}").stdout, 49):
        assert offset == at
        at += len(row)
        assert row == data[offset:at]
    assert at == start + size


WIDTHS = [40, 60, 80, 120]


@pytest.mark.parametrize(("kind", "width"), thinned([*product(KINDS, WIDTHS)], [*zip(KINDS, WIDTHS * 2)]))
def test_lines_fit_and_keep_the_end_of_each_name(kind, width, tmp_path):
    path = sample(kind, tmp_path)
    wide = run_cli("hex", path, "0:600", check=True).stdout
    narrow = run_cli("hex", path, "0:600", "--width", str(width), check=True).stdout
    assert max(map(len, narrow.splitlines())) <= width
    names = [line[79:].strip() for line in wide.splitlines() if line[79:].strip()]
    assert (
        b"".join(row for _, row in rows(narrow, 23 if width >= 70 else 11)) == path.read_bytes()[:600] or width >= 104
    )
    shown = [line.rpartition("  ")[2] for line in narrow.splitlines() if line.rstrip()[-1] != "|"]
    assert len(shown) == len(names)
    for name, short in zip(names, shown, strict=True):
        assert short == name or (short.startswith("…") and name.endswith(short[1:]))


def test_long_fields_are_cut_unless_asked_for():
    cut = run_cli("hex", ADAM, "tok_embeddings.data", check=True).stdout
    assert cut.count("\n") == 5
    assert "more bytes of tok_embeddings.data; --full shows them" in cut
    assert run_cli("hex", ADAM, "tok_embeddings.data:160", check=True).stdout.count("\n") == 10
    assert run_cli("hex", ADAM, "tok_embeddings.data[0:40]", check=True).stdout.count("\n") == 10
    assert run_cli("hex", ADAM, "tok_embeddings.data", "--full", check=True).stdout.count("\n") == 20_480 // 16


def test_the_data_that_a_tensor_shares_with_another():
    shared = FIXTURES / "strange" / "shared-data.gguf"
    one, *others = (run_cli("hex", shared, path, check=True).stdout for path in ("a", "a_tied", "a_tied.data"))
    assert others == [one, one]
    assert one.startswith("000000a0  00 00 48 bf ")


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "vocab.gguf", "alice-vocab.ggjt"])
def test_json_is_the_whole_file(name):
    path = FIXTURES / name
    found = json.loads(run_cli("hex", path, f"0:{path.stat().st_size}", "--json", check=True).stdout)
    assert b"".join(bytes.fromhex(piece["hex"]) for piece in found) == path.read_bytes()
    leaves = json.loads(run_cli("dump", path, "--json", check=True).stdout)
    expected = [(leaf["path"], leaf["offset"], leaf["size"]) for leaf in leaves if leaf["size"]]
    assert [(piece["path"], piece["offset"], piece["size"]) for piece in found] == expected


def test_bytes_after_the_damage_have_no_label(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:46])
    result = run_cli("hex", path, "40:6", "--json")
    assert result.returncode == 4
    assert [(row["path"], row["offset"], row["hex"]) for row in json.loads(result.stdout)] == [
        ("hparams.n_rot", 40, "08000000"),
        (None, 44, "0200"),
    ]
    assert run_cli("hex", path, "44").stdout.splitlines()[0].endswith("|")


@pytest.mark.parametrize(
    "where", ["205196", "-1", "0x", "norm:", ":", "999999999999:1", "0:-4", "optimizer.type", "norm.data[-]"]
)
def test_what_is_not_there_is_refused(where):
    result = run_cli("hex", "--", ADAM, where)
    assert result.returncode == 2, where
    assert not result.stdout
    assert_no_traceback(result)


def test_each_field_has_its_colour():
    _, screen = run_pty("hex", ADAM, "0:12")
    assert len({line.split("\x1b[")[1].split("m")[0] for line in screen.splitlines()}) == 3


@pytest.mark.parametrize(("width", "count"), [(104, 16), (103, 8), (70, 8), (69, 4), (1, 4)])
def test_as_many_bytes_in_a_row_as_fit(width, count):
    first, second = run_cli("hex", ADAM, "0x60:32", "--width", str(width), check=True).stdout.splitlines()[:2]
    assert int(second.split()[0], 16) - int(first.split()[0], 16) == count


def test_keys_and_tensors_have_their_own_names_which_other_commands_take():
    path = FIXTURES / "lora" / "base.gguf"
    text = run_cli("hex", path, "0x18:700", check=True).stdout
    assert "metadata_kv" not in text
    names = [line[79:].strip() for line in text.splitlines()]
    for name in ("general.name.key", "general.name.value_type", "general.name"):
        assert name in names
        printed = run_cli("dump", path, name, check=True).stdout.splitlines()[-1]
        assert printed.split()[3] == name
        assert run_cli("hex", path, name, check=True).stdout.splitlines()[0][79:].strip() == name
