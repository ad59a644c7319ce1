"""`tensors` on every genuine file, on GGUF files, on a damaged one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_resume, run_cli, run_pty

KEYS = ["path", "gguf_name", "shape", "offset", "nbytes", "type", "role"]
HOSTILE = "\x1b[31mred[/bold]\r\n[link=x]\u202e"


def listed(path):
    return json.loads(run_cli("tensors", path, "--json", check=True).stdout)


def hostile_gguf(path):
    """A GGUF file with a tensor whose name is meant for the terminal."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(HOSTILE, np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("path", [*GENUINE, TRUNCATED], ids=lambda path: path.name)
def test_table(path):
    result = run_cli("tensors", path.name, cwd=FIXTURES)
    assert_golden(f"tensors/{path.name}.txt", result.stdout)
    assert result.returncode == (4 if path == TRUNCATED else 0)


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_json_places_the_data_where_the_trainer_put_it(path):
    data, rows = path.read_bytes(), listed(path)
    assert all(list(row) == KEYS for row in rows)
    found = [
        {
            "name": row["gguf_name"],
            "shape": row["shape"],
            "dtype": row["type"],
            "sha256": hashlib.sha256(data[row["offset"] : row["offset"] + row["nbytes"]]).hexdigest(),
        }
        for row in rows
        if row["gguf_name"]
    ]
    assert found == expected_resume(path)["tensors"]
    for row in rows:
        if not row["gguf_name"]:
            assert row["shape"] is None or row["role"].endswith("not converted")


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_a_gguf_has_the_paths_names_and_roles_of_its_checkpoint(path, tmp_path):
    run_cli("convert", path, tmp_path / "resume.gguf", check=True)
    same = ("path", "gguf_name", "shape", "nbytes", "type", "role")
    old, new = ([{key: row[key] for key in same} for row in listed(file)] for file in (path, tmp_path / "resume.gguf"))
    assert new == [row for row in old if row["gguf_name"]]


def test_roles_in_words():
    roles = {row["path"]: row["role"] for row in listed(FIXTURES / "twin-adam.v0.ggcp")}
    assert roles["layers[0].wq"] == "model"
    assert roles["optimizer.state.v"] == "adam second moments (v)"
    assert roles["optimizer.state.x"] == "adam parameters (x), not converted"


def test_damage_is_named_after_what_can_be_read():
    result = run_cli("tensors", TRUNCATED, "--json")
    assert [row["path"] for row in json.loads(result.stdout)][-1] == "layers[0].w2"
    assert result.returncode == 4
    assert "layers[0].w3.padding at offset 52147" in result.stderr
    assert_no_traceback(result)


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_narrow_terminal_loses_nothing(columns):
    path = FIXTURES / "v0-adam.ggcp"
    wide = run_cli("tensors", path, check=True).stdout.splitlines()[1:]
    code, narrow = run_pty("tensors", path, columns=columns, env={"NO_COLOR": "1"})
    assert code == 0
    words = narrow.split()
    assert [word for line in wide for word in line.split() if word not in words] == []
    assert len(narrow.splitlines()) > len(wide)


def test_a_wide_terminal_gets_the_table():
    path = FIXTURES / "v0-adam.ggcp"
    assert run_pty("tensors", path, columns=200, env={"NO_COLOR": "1"})[1] == run_cli("tensors", path).stdout


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path):
    path = hostile_gguf(tmp_path / "hostile.gguf")
    for code, text in (
        run_pty("tensors", path, columns=200, env={"NO_COLOR": "1"}),
        (0, run_cli("tensors", path).stdout),
    ):
        assert code == 0
        assert r"\x1b[31mred[/bold]\r\n[link=x]\u202e" in text
        assert not {"\x1b", "\r", "\u202e"} & set(text)
    assert listed(path)[0]["gguf_name"] == HOSTILE
    assert listed(path)[0]["path"] is None


def test_head_ends_quietly(tmp_path):
    command = f"'{sys.executable}' -m ggcp_schema tensors '{FIXTURES / 'v1-adam.ggcp'}' | head -1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("tensor ")
    assert not result.stderr
